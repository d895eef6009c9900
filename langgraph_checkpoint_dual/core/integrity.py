"""Rows that nobody can change without a key: what a saver with `integrity_key=` stores has MACs.

The contract:

1. `Sealing` is a `Database` over the database itself. On its way in each row gets its MAC, on its way out the MAC is
   checked and taken off, so the core sees rows as it made them, and no operation of it knows of MACs. Without a key
   there is no such database, and nothing of this costs anything.
2. A MAC is BLAKE2b under the key, 128 bits, and stands with a mark (`values.MARK`) behind the bytes of the row. It
   covers these bytes and where they stand:
   - of a checkpoint the thread, namespace, id, parent and run, its slots, and its metadata: as JSON, or if that does
     not say it exactly, the exact metadata, and not the JSON;
   - of slots, which are read alone and compared inside the database, the thread, namespace and id;
   - of an item the thread, namespace, channel, number and time, not the tag;
   - of a pending write the thread, namespace, checkpoint, task, number, path and channel.
3. What has not the right MAC comes out as what no checksum fits (`values.REFUSED`), so that it is refused by whoever
   uses it, and by nobody else: damaged rows can be listed, reported, and deleted.
4. What a query brings is opened by its name (`_OPENERS`). Bytes from one that is missing there have a checksum that
   does not fit, and a row that was stored past this has no MAC: a mistake here refuses good rows, and is noticed.
5. Of several keys the first makes MACs, and each is taken for right. `core/resealing.py` makes MACs anew.
6. Which rows there are is not covered: whoever can write to the database can delete rows, and put back older ones.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, TypeAlias, TypeVar, cast

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.metadata import canonical
from langgraph_checkpoint_dual.core.resealing import copied, doctor_row
from langgraph_checkpoint_dual.core.rows import (
    CheckpointRow,
    Guard,
    ItemRow,
    Named,
    Outcome,
    Put,
    PutWrites,
    WriteRow,
    size_of,
)
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError

T = TypeVar("T")
Given: TypeAlias = "bytes | Sequence[bytes] | None"
"""A saver's `integrity_key=`."""
_SIZE = 16
_SHORTEST, _LONGEST = 16, 64  # BLAKE2b takes no longer ones
_CUT = _SIZE + len(values.MARK)
_SMALL = 1024  # bytes that are sooner copied than given by a call of their own


def keys_of(given: Given) -> Keys | None:
    """The keys that a saver is given.

    Raises:
        ConfigError: if they cannot be used; it does not show them.
    """
    if given is None:
        return None
    keys = [given] if isinstance(given, bytes) else given
    if not isinstance(keys, Sequence) or isinstance(keys, str) or not keys or not all(map(_is_usable, keys)):
        raise ConfigError(
            "integrity_key must be 16 to 64 random bytes, or a list of such keys, of which the first makes MACs"
        )
    return Keys(keys)


def _is_usable(key: Any) -> bool:
    return isinstance(key, bytes) and _SHORTEST <= len(key) <= _LONGEST


class Keys:
    """What makes and checks MACs. Never shows its keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._states = [blake2b(key=key, digest_size=_SIZE) for key in keys]
        self.are_several = len(self._states) > 1

    def seal_checkpoint(self, row: CheckpointRow) -> CheckpointRow:
        """A checkpoint's row with MACs."""
        about = _about(row, canonical(row.metadata) or row.metadata)
        return row._replace(checkpoint=self._seal(about, row.checkpoint), slots=self.seal_slots(row[:3], row.slots))

    def seal_slots(self, key: Row, slots: bytes) -> bytes:
        """The slots of a checkpoint with their MAC. The key is (thread, namespace, id)."""
        return self._seal(("slots", *key), slots)

    def seal_items(self, rows: Iterable[ItemRow]) -> list[ItemRow]:
        """Rows of items with MACs."""
        return [row._replace(data=self._seal(("item", *row[:5]), row.data)) for row in rows]

    def seal_writes(self, rows: Iterable[WriteRow]) -> list[WriteRow]:
        """Rows of pending writes with MACs."""
        return [row._replace(data=self._seal(("write", *row[:7]), row.data)) for row in rows]

    def open_checkpoint(self, row: CheckpointRow) -> CheckpointRow:
        """The row in one with MACs."""
        slots = self.open_slots(row[:3], row.slots)
        plain = row._replace(slots=slots)
        checkpoint = self._open(_about(plain, row.metadata), row.checkpoint)
        if checkpoint == values.MISFIT and row.metadata_exact is None:  # a database may lay out JSON anew
            checkpoint = self._open(_about(plain, canonical(row.metadata) or row.metadata), row.checkpoint)
        return plain._replace(checkpoint=checkpoint)

    def open_slots(self, key: Row, sealed: Any) -> bytes:
        """The slots in those with a MAC."""
        return self._open(("slots", *key), sealed)

    def open_item(self, key: Row, checksum: int, sealed: Any) -> tuple[int, Any]:
        """The checksum and the bytes of an item with a MAC. The key is (thread, namespace, channel, number, time)."""
        data = self._open(("item", *key), sealed)
        if data == values.MISFIT:
            return values.MISFIT_ITEM, sealed
        return (values.BARE_ITEM, sealed) if data == values.BARE else (checksum, data)

    def open_item_row(self, row: ItemRow) -> ItemRow:
        """The row in one with a MAC."""
        checksum, data = self.open_item(row[:5], row.checksum, row.data)
        return row._replace(checksum=checksum, data=data)

    def open_write(self, row: WriteRow) -> WriteRow:
        """The row in one with a MAC."""
        return row._replace(data=self.open_write_data(row[:7], row.data))

    def open_write_data(self, key: Row, sealed: Any) -> bytes:
        """The bytes of a write with a MAC. The key is all of its row before them."""
        return self._open(("write", *key), sealed)

    def _seal(self, about: Row, plain: bytes) -> bytes:
        return b"".join((plain, _mac(self._states[0], _header(about, plain), plain), values.MARK))

    def _open(self, about: Row, sealed: Any) -> bytes:
        if not isinstance(sealed, bytes) or sealed[-len(values.MARK) :] != values.MARK:
            return values.BARE
        plain, mac = sealed[:-_CUT], sealed[-_CUT : -len(values.MARK)]
        header = _header(about, plain)
        for state in self._states:
            if compare_digest(mac, _mac(state, header, plain)):
                return plain
        return values.MISFIT


def has_mac(stored: Any) -> bool:
    """Whether bytes of a row look as if they had a MAC."""
    return isinstance(stored, bytes) and stored[-len(values.MARK) :] == values.MARK


def _about(row: CheckpointRow, metadata: str) -> Row:
    """All of a checkpoint's row but its own bytes; a missing parent and run are empty, as some databases take them."""
    exact = row.metadata_exact
    said = ("text", metadata) if exact is None else ("exact", exact)
    return ("checkpoint", *row[:3], row.parent_checkpoint_id or "", row.run_id or "", *said, row.slots)


def _header(about: Row, plain: bytes) -> bytes:
    """What stands before the bytes that a MAC is of.

    No two rows say the same: the lengths of all bytes come first, and no text that we store has a NUL (`core/text.py`).
    One that somebody else has put there makes more NULs than any row of ours has.
    """
    if about[0] != "checkpoint":
        return f"{len(plain)}\0{_joined(map(str, about))}\0".encode("utf-8", "surrogatepass")
    blobs = [part for part in about if isinstance(part, bytes)]
    lengths = [str(len(part)) for part in (plain, *blobs)]
    texts = [part for part in about if not isinstance(part, bytes)]
    return b"".join((f"{_joined((*lengths, *map(str, texts)))}\0".encode("utf-8", "surrogatepass"), *blobs))


_joined = "\0".join


def _mac(state: Any, header: bytes, plain: bytes) -> bytes:
    state = state.copy()
    state.update(header + plain if len(plain) < _SMALL else header)
    if len(plain) >= _SMALL:
        state.update(plain)
    return cast(bytes, state.digest())


# --- The database ---


class Sealing:
    """See the module."""

    def __init__(self, db: Database, keys: Keys) -> None:
        self.below, self._keys = db, keys

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self.below.read(lambda tx: look(SealingTx(tx, self._keys)))

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return await self.below.change(lambda tx: edit(SealingTx(tx, self._keys)))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        has_to_look = self._keys.are_several and addition.guard is not None and addition.guard.slots is not None
        guard = await self.below.read(partial(_guard, self._keys, addition)) if has_to_look else None
        return await self.below.append(await _sealed(self.below, self._keys, addition, guard))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self.below.compute(weigh, work)


def as_stored(db: Database) -> Database:
    """The database below, which gives rows with the MACs that they have."""
    return db.below if isinstance(db, Sealing) else db


class SealingTx:
    """A transaction whose rows have MACs."""

    def __init__(self, tx: Tx, keys: Keys) -> None:
        self._tx, self._keys = tx, keys

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        name = query.partition(" where ")[0]
        if name in _WHOLE:
            return await self._whole(name, args)
        rows = await self._tx.fetch(query, **args)
        opener = _OPENERS.get(name)
        if opener is None or not rows:
            return rows
        return await self.compute(partial(_weight, rows), partial(opener, self._keys, args, rows))

    async def execute(self, query: str, /, **args: Any) -> None:
        if query == "hang":
            args = await self._hung(args)
        await self._tx.execute(query, **args)
        if query == "copy_thread":
            await copied(self._tx, self._keys, args["source"], args["target"])

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        await self._tx.load(query, await self.compute(partial(_weight, rows), partial(_sealed_rows, self._keys, rows)))

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        guard = await _guard(self._keys, addition, self._tx) if self._keys.are_several else None
        return await self._tx.insert(await _sealed(self._tx, self._keys, addition, guard))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._tx.compute(weigh, work)

    async def _whole(self, name: str, args: Mapping[str, Any]) -> list[Row]:
        """What a query brings of checkpoints; their MACs cover more, so all of them is read."""
        ids = [args["checkpoint_id"]] if "checkpoint_id" in args else json.loads(args["checkpoint_ids"])
        places = json.dumps([(args["thread_id"], args["checkpoint_ns"], one) for one in ids])
        rows = await self.fetch("rows_of_checkpoints", checkpoints=places)
        return [_WHOLE[name](CheckpointRow(*row)) for row in rows]

    async def _hung(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments for a checkpoint that gets another parent, with its new MAC."""
        places = json.dumps([(args["thread_id"], args["checkpoint_ns"], args["checkpoint_id"])])
        for found in await self.fetch("rows_of_checkpoints", checkpoints=places):
            row = CheckpointRow(*found)
            if row.checkpoint not in values.REFUSED:
                hung = row._replace(parent_checkpoint_id=args["parent_checkpoint_id"], checkpoint=args["checkpoint"])
                return {**args, "checkpoint": self._keys.seal_checkpoint(hung).checkpoint}
        return args


_WHOLE: dict[str, Callable[[CheckpointRow], Row]] = {
    "checkpoint": lambda row: (row.parent_checkpoint_id, row.checkpoint),
    "own_checkpoint": lambda row: (row.checkpoint, row.slots, row.metadata_exact),
    "bodies": lambda row: (row.checkpoint_id, row.checkpoint),
}


async def _guard(keys: Keys, addition: Put | PutWrites, tx: Tx) -> Guard | None:
    """The guard of an addition with its slots as they are stored, which may be under an older key."""
    guard = addition.guard
    if guard is None or guard.slots is None:
        return None
    at = Address(addition.thread_id, guard.checkpoint_ns, guard.checkpoint_id)
    for (stored,) in await tx.fetch("slots", **at._asdict()):
        if keys.open_slots(at, stored) == guard.slots:
            return guard._replace(slots=stored)
    return None


async def _sealed(where: Database | Tx, keys: Keys, addition: Put | PutWrites, guard: Guard | None) -> Put | PutWrites:
    return await where.compute(partial(size_of, addition), partial(_sealed_addition, keys, addition, guard))


def _sealed_addition(keys: Keys, addition: Put | PutWrites, guard: Guard | None) -> Put | PutWrites:
    if isinstance(addition, PutWrites):
        return PutWrites(keys.seal_writes(addition.rows), addition.replace)
    guard = guard or addition.guard
    if guard is not None and guard is addition.guard and guard.slots is not None:
        at = (addition.thread_id, guard.checkpoint_ns, guard.checkpoint_id)
        guard = guard._replace(slots=keys.seal_slots(at, guard.slots))
    return replace(addition, row=keys.seal_checkpoint(addition.row), items=keys.seal_items(addition.items), guard=guard)


def _sealed_rows(keys: Keys, rows: Sequence[Named]) -> Sequence[Named]:
    first = rows[0] if rows else None
    if isinstance(first, CheckpointRow):
        return [keys.seal_checkpoint(cast(CheckpointRow, row)) for row in rows]
    if isinstance(first, ItemRow):
        return keys.seal_items(cast(Sequence[ItemRow], rows))
    if isinstance(first, WriteRow):
        return keys.seal_writes(cast(Sequence[WriteRow], rows))
    return rows


def _weight(rows: Iterable[Row]) -> int:
    return sum(len(cell) for row in rows for cell in row if isinstance(cell, bytes))


# --- What queries bring ---


def _page(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    return [_page_row(keys, row) for row in rows]


def _page_row(keys: Keys, row: Row) -> Row:
    if row[0]:
        _, thread_id, ns, checkpoint_id, task, path, channel, idx, data, *rest = row
        key = (thread_id, ns, checkpoint_id, task, idx, path, channel)
        return (*row[:8], keys.open_write_data(key, data), *rest)
    _, thread_id, ns, checkpoint_id, parent, metadata, run_id, _, checkpoint, slots, exact = row
    whole = CheckpointRow(thread_id, ns, checkpoint_id, parent, run_id, checkpoint, slots, metadata, exact)
    found = keys.open_checkpoint(whole)
    return (*row[:8], found.checkpoint, found.slots, exact)


def _slots(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    at = (args["thread_id"], args["checkpoint_ns"], args["checkpoint_id"])
    return [(keys.open_slots(at, slots),) for (slots,) in rows]


def _last_in_namespace(keys: Keys, args: Mapping[str, Any], rows: list[Row], at: int = 0) -> list[Row]:
    """Rows that end with slots, whose checkpoint's id is in one place, and the namespace among the arguments."""
    where = args["thread_id"], args["checkpoint_ns"]
    return [(*row[:-1], keys.open_slots((*where, row[at]), row[-1])) for row in rows]


def _tree(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    return [(*row[:-1], keys.open_slots((args["thread_id"], *row[:2]), row[-1])) for row in rows]


def _heads(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    return [(*row[:2], keys.open_slots((row[0], "", row[1]), row[2])) for row in rows]


def _narrow(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    return [(*row[:5], keys.open_slots(row[:3], row[5]), *row[6:]) for row in rows]


def _items(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    ranges, checkpoints = json.loads(args["ranges"]), json.loads(args["checkpoints"])
    found: list[Row] = []
    for row in rows:
        if row[0] < 0:
            found.append((*row[:-1], keys.open_slots(tuple(checkpoints[row[1]]), row[-1])))
            continue
        _, seq, added_at, checksum, *tag, data = row
        thread_id, ns, channel = ranges[row[0]][:3]
        checksum, data = keys.open_item((thread_id, ns, channel, seq, added_at), checksum, data)
        found.append((row[0], seq, added_at, checksum, *tag, data))
    return found


def _searched_items(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    """What is refused comes as if it were indexed."""
    found: list[Row] = []
    for thread_id, seq, added_at, is_indexed, data in rows:
        if not is_indexed:
            refused, data = keys.open_item((thread_id, "", args["channel"], seq, added_at), 0, data)
            is_indexed, data = (True, None) if refused else (False, data)
        found.append((thread_id, seq, added_at, is_indexed, data))
    return found


def _doctor_checkpoints(keys: Keys, args: Mapping[str, Any], rows: list[Row]) -> list[Row]:
    found: list[Row] = []
    for row in rows:
        opened = keys.open_checkpoint(doctor_row(row))
        found.append((*row[:4], opened.checkpoint, opened.slots, *row[6:]))
    return found


_OPENERS: dict[str, Callable[[Keys, Mapping[str, Any], list[Row]], list[Row]]] = {
    "page": _page,
    "writes": _page,
    "writes_of": _page,
    "writes_of_chain": lambda keys, args, rows: [_page_row(keys, row) if row[0] == 1 else row for row in rows],
    "slots": _slots,
    "slots_of_namespace": _last_in_namespace,
    "doctor_namespace": _last_in_namespace,
    "older": _last_in_namespace,
    "ancestors": partial(_last_in_namespace, at=1),
    "tree": _tree,
    "subtree": _tree,
    "heads": _heads,
    "narrow checkpoints": _narrow,
    "items": _items,
    "rows_of_items": _items,
    "searched_items": _searched_items,
    "doctor_checkpoints": _doctor_checkpoints,
    "rows_of_checkpoints": lambda keys, args, rows: [keys.open_checkpoint(CheckpointRow(*row)) for row in rows],
    "rows_of_writes": lambda keys, args, rows: [keys.open_write(WriteRow(*row)) for row in rows],
    "doctor_items data": lambda keys, args, rows: [keys.open_item_row(ItemRow(*row)) for row in rows],
    "doctor_writes data": lambda keys, args, rows: [keys.open_write(WriteRow(*row)) for row in rows],
}
OPENED = frozenset({*_OPENERS, *_WHOLE})
"""The queries that bring what has MACs."""
