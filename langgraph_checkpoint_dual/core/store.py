"""The operations that every run uses: get a checkpoint, list them, put one, put pending writes.

A get is one look (two queries at most) and then pure decoding. A put is pure encoding and then one addition, which is
repeated with other item numbers, or without its base, when the database says that these are taken or gone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import TASKS

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address, address_of, before_id, config_of, selection_of, text_key
from langgraph_checkpoint_dual.core.checkpoints import Loaded, checkpoint_row, loaded, pending_writes, write_row
from langgraph_checkpoint_dual.core.items import Planner, Stored
from langgraph_checkpoint_dual.core.looks import ItemLost, Known, Look, known_of
from langgraph_checkpoint_dual.core.metadata import filter_args
from langgraph_checkpoint_dual.core.rows import ItemRow, Outcome, Put, PutWrites, WriteRow
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.core.versions import highest_version
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError, DecodeError, EncodeError
from langgraph_checkpoint_dual.serde import Serializer

_ATTEMPTS = 8
_COMPARE_BYTES = 4096
"""A put that would store more than this anew first reads what its parent has stored."""
_FIRST_PAGE, _LARGEST_PAGE, _PAGE_BYTES = 8, 128, 4 * 1024 * 1024


class Memory(Protocol):
    """Where knowledge of checkpoints is kept between operations; losing it costs only time."""

    def get(self, thread_id: str, checkpoint_ns: str) -> Known | None: ...

    def keep(self, thread_id: str, checkpoint_ns: str, known: Known) -> None: ...

    def forget(self, thread_id: str) -> None: ...


class Store:
    """The operations, over any `Database`, for one serializer and the knowledge that a process keeps."""

    def __init__(self, serde: SerializerProtocol, memory: Memory) -> None:
        self.serde, self.memory = serde, memory

    async def get_tuple(self, db: Database, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config means, or the latest of its thread and namespace."""
        return await self.tuple_at(db, address_of(config))

    async def tuple_at(self, db: Database, address: Address) -> CheckpointTuple | None:
        """As `get_tuple`, for an address."""
        for attempt in range(_ATTEMPTS):
            found = await db.read(partial(self._look_at, address))
            if found is None:
                return None
            checkpoint, look = found
            try:
                got, known = await db.compute(look.weight, partial(look.read, checkpoint, self.serde))
            except ItemLost:
                if attempt + 1 == _ATTEMPTS:
                    raise
                continue
            self.memory.keep(address.thread_id, address.checkpoint_ns or "", known)
            return _tuple(checkpoint, got)
        raise AssertionError("unreachable")

    async def _look_at(self, address: Address, tx: Tx) -> tuple[Loaded, Look] | None:
        rows = await tx.fetch(f"page where {_predicates(address)}", limit=1, **_args(address))
        found = await self.load_rows(tx, rows)
        if not found:
            return None
        known = await self._still_known(tx, found[0])
        look = Look({} if known is None else {(address.thread_id, address.checkpoint_ns or ""): known})
        await look.fetch(tx, found)
        return found[0], look

    async def _still_known(self, tx: Tx, found: Loaded) -> Known | None:
        """What is known of the namespace, if it is still true."""
        known = self.memory.get(found.address.thread_id, found.address.checkpoint_ns or "")
        if known is None:
            return None
        if known.checkpoint_id == found.address.checkpoint_id:
            return known if known.slots == found.sealed_slots else None
        rows = await tx.fetch("slots", **_args(found.address._replace(checkpoint_id=known.checkpoint_id)))
        return known if [(known.slots,)] == rows else None

    async def load_rows(self, tx: Tx, rows: Sequence[Row]) -> list[Loaded]:
        """The checkpoints of the rows of a `page` query, latest first.

        Raises:
            DecodeError: if one of them is damaged.
        """
        return [_undamaged(one) for one in await self.load_page(tx, rows)]

    async def load_page(self, tx: Tx, rows: Sequence[Row]) -> list[Loaded | DecodeError]:
        """As `load_rows`, with an error in place of each damaged checkpoint."""
        writes: dict[Row, list[Row]] = {}
        for row in rows:
            if row[0]:
                writes.setdefault(row[1:4], []).append(row)
        found: list[Loaded | DecodeError] = []
        for row in sorted((row for row in rows if not row[0]), key=_newness, reverse=True):
            try:
                found.append(loaded(self.serde, row, writes.get(row[1:4], [])))
            except DecodeError as exc:
                found.append(exc)
        await self._add_sends(tx, [one for one in found if isinstance(one, Loaded)])
        return found

    async def _add_sends(self, tx: Tx, found: Sequence[Loaded]) -> None:
        """Checkpoints of before format 4 take the sends that are pending from their parent's writes."""
        old = [one for one in found if one.checkpoint.get("v", 4) < 4 and one.parent_id]
        if not old:
            return
        parents = json.dumps([[*one.address[:2], one.parent_id] for one in old])
        sends: dict[Row, list[Row]] = {}
        for row in await tx.fetch("writes", checkpoints=parents, channels=json.dumps([TASKS])):
            sends.setdefault(row[1:4], []).append(row)
        for one in old:
            rows = sends.get((*one.address[:2], one.parent_id))
            if rows:
                one.checkpoint["channel_values"][TASKS] = [value for *_, value in pending_writes(self.serde, rows)]
                one.checkpoint["channel_versions"][TASKS] = highest_version(one.checkpoint["channel_versions"])

    def listing(
        self,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
        on_damaged: Callable[[DecodeError], object] | None = None,
    ) -> Listing:
        """A listing, to be read page by page.

        Raises:
            ConfigError: if the limit is negative or no `int`, or the filter or a config cannot be used.
        """
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise ConfigError(f"limit must be a non-negative int or None, not {limit!r}")
        where: dict[str, dict[str, Any]] = {}
        if config is not None:
            where = {key: {key: value} for key, value in selection_of(config)._asdict().items() if value is not None}
        if (bound := before_id(before)) is not None:
            where["before"] = {"before": bound}
        if (wanted := filter_args(filter)) is not None:
            where["filter"] = dict(wanted)
        return Listing(self, where, limit, on_damaged)

    async def put(
        self,
        db: Database,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; the config's checkpoint is its parent. Returns the config that means it.

        Values are stored whether or not `new_versions` names them: what the parent stores already, it stores under
        the same version.
        """
        parent = address_of(config)
        checkpoint_id = text_key("checkpoint['id']", checkpoint.get("id"))
        if not checkpoint_id:
            raise ConfigError("checkpoint['id'] must not be empty")
        channel_values = dict(checkpoint.get("channel_values") or {})
        weight = weigh(channel_values)
        base = self._base(parent)
        compared = base is not None or parent.checkpoint_id is None
        fresh = False
        for _ in range(_ATTEMPTS):
            work = partial(
                self._planned, parent, checkpoint_id, checkpoint, channel_values, config, metadata, base, fresh
            )
            addition, known = await db.compute(weight, work)
            if not compared and sum(len(item.data) for item in addition.items) > _COMPARE_BYTES:
                compared = True
                await self.tuple_at(db, parent)
                base = self._base(parent)
                if base is not None:
                    continue
            outcome = await db.append(addition)
            if outcome is Outcome.BASE_GONE:
                base, compared = None, True
                continue
            if outcome is Outcome.SEQ_TAKEN and not await self._repeated(db, addition):
                fresh = True
                continue
            self.memory.keep(parent.thread_id, parent.checkpoint_ns or "", known)
            return config_of(
                config["configurable"]["thread_id"], config["configurable"].get("checkpoint_ns") or "", checkpoint["id"]
            )
        raise CheckpointerError(f"the checkpoint could not be stored in {_ATTEMPTS} attempts: others kept changing it")

    def _base(self, parent: Address) -> Known | None:
        known = self.memory.get(parent.thread_id, parent.checkpoint_ns or "")
        return known if known is not None and known.checkpoint_id == parent.checkpoint_id else None

    def _planned(
        self,
        parent: Address,
        checkpoint_id: str,
        checkpoint: Checkpoint,
        channel_values: Mapping[str, Any],
        config: RunnableConfig,
        metadata: CheckpointMetadata,
        base: Known | None,
        fresh: bool,
    ) -> tuple[Put, Known]:
        """What to store for a checkpoint, and what will be known of it then. Pure, so that it can run on any thread."""
        direct = type(self.serde) is Serializer
        encode = partial(values.encode, self.serde)
        planner = Planner(encode, trusted=_trusted(self.serde), direct=direct, fresh=fresh)
        versions = checkpoint.get("channel_versions") or {}
        channels: dict[str, Stored] = {}
        items: list[ItemRow] = []
        reuses = False
        for channel, value in channel_values.items():
            before = base.channels.get(channel) if base is not None else None
            try:
                plan = planner.plan(value, versions.get(channel), before)
            except EncodeError as exc:
                raise exc.in_channel(channel) from exc
            channels[channel] = plan.stored
            reuses = reuses or plan.reuses
            items += _item_rows(parent, escape(channel), plan.items)
        slots = {channel: stored.slot for channel, stored in channels.items()}
        row = checkpoint_row(self.serde, parent, checkpoint_id, checkpoint, slots, config, metadata)
        addition = Put(row, items)
        if base is not None and reuses:
            addition = Put(row, items, base.checkpoint_id, base.slots)
        return addition, known_of(checkpoint_id, row.slots, channels)

    async def _repeated(self, db: Database, addition: Put) -> bool:
        """Whether exactly this checkpoint is stored already: the put is the repetition of one that succeeded."""
        row = addition.row
        address = Address(row.thread_id, row.checkpoint_ns, row.checkpoint_id)

        async def slots(tx: Tx) -> list[Row]:
            return await tx.fetch("slots", **_args(address))

        return [(row.slots,)] == await db.read(slots)

    async def put_writes(
        self,
        db: Database,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> None:
        """Store a task's pending writes; see `BaseCheckpointSaver.put_writes`."""
        address = address_of(config)
        if address.checkpoint_id is None:
            raise ConfigError("put_writes needs the checkpoint_id of the checkpoint that the writes belong to")
        task, path = text_key("task_id", task_id), text_key("task_path", task_path)
        replace = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        work = partial(self._write_rows, address, list(writes), task, path, replace)
        rows = await db.compute(weigh([value for _, value in writes]), work)
        if rows:
            await db.append(PutWrites(rows, replace))

    def _write_rows(
        self, address: Address, writes: Sequence[tuple[str, Any]], task: str, path: str, replace: bool
    ) -> list[WriteRow]:
        rows: dict[int, WriteRow] = {}
        for at, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, at)
            if replace or idx not in rows:
                text_key("channel", channel)
                try:
                    rows[idx] = write_row(self.serde, address, task, path, idx, channel, value)
                except EncodeError as exc:
                    raise exc.in_channel(channel) from exc
        return [rows[idx] for idx in sorted(rows)]


class Listing:
    """A listing under way, newest checkpoint first: nothing is held in the database between its pages."""

    def __init__(
        self,
        store: Store,
        where: dict[str, dict[str, Any]],
        limit: int | None,
        on_damaged: Callable[[DecodeError], object] | None,
    ) -> None:
        self._store, self._where, self._left, self._on_damaged = store, where, limit, on_damaged
        self._size, self._look = _FIRST_PAGE, Look({})

    async def page(self, db: Database) -> list[Loaded | DecodeError]:
        """The next checkpoints, an error for each damaged one; none at the end."""
        size = self._size if self._left is None else min(self._size, self._left)
        if size == 0:
            return []
        found, self._look, last = await db.read(partial(self._fetch, size))
        if found:
            self._where["after"] = dict(zip(("after_id", "after_thread", "after_ns"), last, strict=True))
        if self._left is not None:
            self._left = self._left - len(found) if len(found) == size else 0
        average = max(1, self._look.weight // max(1, len(found)))
        self._size = max(1, min(self._size * 2, _LARGEST_PAGE, _PAGE_BYTES // average))
        return found

    async def _fetch(self, size: int, tx: Tx) -> tuple[list[Loaded | DecodeError], Look, Row]:
        args = {key: value for part in self._where.values() for key, value in part.items()}
        where = f"page where {' and '.join(self._where)}" if self._where else "page"
        rows = await tx.fetch(where, limit=size, **args)
        found = await self._store.load_page(tx, rows)
        look = Look({})
        await look.fetch(tx, [one for one in found if isinstance(one, Loaded)])
        return found, look, min(map(_newness, rows), default=())

    async def tuple(self, db: Database, checkpoint: Loaded | DecodeError) -> CheckpointTuple | None:
        """A checkpoint of the page with its values; `None` if it was deleted since, or is damaged and so reported.

        Raises:
            DecodeError: if it is damaged and nobody is to be told.
        """
        try:
            return await self._tuple(db, _undamaged(checkpoint))
        except DecodeError as exc:
            if self._on_damaged is None:
                raise
            self._on_damaged(exc)
            return None

    async def _tuple(self, db: Database, checkpoint: Loaded) -> CheckpointTuple | None:
        try:
            work: Callable[[], dict[str, Any]] = partial(self._look.values, checkpoint, self._store.serde)
            return _tuple(checkpoint, await db.compute(self._look.weight, work))
        except ItemLost:
            return await self._store.tuple_at(db, checkpoint.address)


def weigh(value: Any, budget: int = 32_768) -> int:
    """About the bytes of a value, found out cheaply: counting stops at the budget."""
    total, rest = 0, [value]
    while rest and total < budget:
        one = rest.pop()
        total += 50
        if isinstance(one, (str, bytes, bytearray)):
            total += len(one)
        elif isinstance(one, (Mapping, list, tuple, set, frozenset, deque)):
            if len(one) * 50 > budget:
                return budget
            rest.extend(one.values() if isinstance(one, Mapping) else one)
        elif hasattr(one, "__dict__"):
            rest.extend(vars(one).values())
        elif hasattr(one, "nbytes"):
            total += one.nbytes
    return total


def _newness(row: Row) -> Row:
    """What listings are sorted by: the checkpoint's id, thread and namespace."""
    return row[3], row[1], row[2]


def _undamaged(found: Loaded | DecodeError) -> Loaded:
    if isinstance(found, DecodeError):
        raise found
    return found


def _tuple(checkpoint: Loaded, channel_values: dict[str, Any]) -> CheckpointTuple:
    checkpoint.checkpoint["channel_values"] = {**channel_values, **checkpoint.checkpoint["channel_values"]}
    return CheckpointTuple(
        checkpoint.config, checkpoint.checkpoint, checkpoint.metadata, checkpoint.parent_config, checkpoint.writes
    )


def _item_rows(parent: Address, channel: str, items: Sequence[tuple[int, bytes]]) -> list[ItemRow]:
    start = values.place("item", channel)
    ns = parent.checkpoint_ns or ""
    return [
        ItemRow(parent.thread_id, ns, channel, seq, values.item_checksum(typed, start, seq), typed)
        for seq, typed in items
    ]


def _predicates(address: Address) -> str:
    return " and ".join(_args(address))


def _args(address: Address) -> dict[str, str]:
    return {key: value for key, value in address._asdict().items() if value is not None}


def _trusted(serde: SerializerProtocol) -> bool:
    """Whether what this serializer gives back is known exactly."""
    inner = serde.serde if isinstance(serde, EncryptedSerializer) else serde
    return isinstance(inner, Serializer)
