"""MACs that are made anew: in copies of threads, under another key, and for rows that have none yet.

The contract:

1. A row gets a new MAC only if the one that it has is right. One without a MAC gets one only if that was asked for,
   and its checksum fits. What is refused stays as it is, and is counted.
2. `reseal` works thread by thread, alone with each, in transactions of bounded size. It may be interrupted and
   repeated, and runs may go on meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.queries import Conditions, fetch_where
from langgraph_checkpoint_dual.core.rows import CheckpointRow, ItemRow, WriteRow
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

if TYPE_CHECKING:
    from langgraph_checkpoint_dual.core.integrity import Keys

_THREADS, _ROWS, _NARROW_ROWS = 100, 256, 4096
_BATCH, _TRANSACTION = 2 * 1024 * 1024, 8 * 1024 * 1024


class Resealed(NamedTuple):
    """What `reseal` did.

    Attributes:
        threads: how many threads were gone through.
        rows: how many rows of theirs were looked at.
        changed: to how many a MAC was given.
        refused: how many were left as they are, because they have no right MAC (or with `unsealed="accept"` no right
            checksum). `doctor` names them.
    """

    threads: int = 0
    rows: int = 0
    changed: int = 0
    refused: int = 0

    def __add__(self, other: Any) -> Resealed:
        return Resealed(*(one + two for one, two in zip(self, other, strict=True)))


async def reseal(
    db: Database, keys: Keys, *, accept: bool = False, on_progress: Callable[[Resealed], object] | None = None
) -> Resealed:
    """Give every row a MAC under the first key.

    Args:
        db: the database as it is stored.
        accept: give one to rows that have none, too.
        on_progress: called with what was done so far.
    """
    done, after = Resealed(), ""
    while ids := await _threads(db, after):
        for thread_id in ids:
            place: _Place | None = _Place()
            while place is not None:
                place, part = await db.change(partial(_some, keys, accept, thread_id, place))
                done += part
            done += Resealed(threads=1)
            if on_progress is not None:
                on_progress(done)
        after = ids[-1]
    return done


async def copied(tx: Tx, keys: Keys, source: str, target: str) -> None:
    """Give the rows of a thread's copy the MACs of where they are now."""
    for table in _TABLES:
        async for _, rows in _batches(tx, table, target, None):
            await _renew(tx, keys, table, rows, partial(_moved, table, keys, source))


async def _threads(db: Database, after: str) -> list[str]:
    return [row[0] for row in await db.read(lambda tx: tx.fetch("thread_ids", after=after, limit=_THREADS))]


class _Place(NamedTuple):
    """How far a thread was gone through: the table, and the last key in it."""

    table: int = 0
    after: Row | None = None


async def _some(keys: Keys, accept: bool, thread_id: str, place: _Place, tx: Tx) -> tuple[_Place | None, Resealed]:
    """Work on a part of a thread. Returns how far it came; `None` at the end."""
    await tx.execute("lock_thread", thread_id=thread_id)
    done, size = Resealed(), 0
    for number in range(place.table, len(_TABLES)):
        table = _TABLES[number]
        after = place.after if number == place.table else None
        async with aclosing(_batches(tx, table, thread_id, after)) as batches:
            async for last, rows in batches:
                done += await _renew(tx, keys, table, rows, partial(_sound, table, keys, accept))
                size += sum(map(_weight, rows))
                if size >= _TRANSACTION:
                    return _Place(number, last), done
    return None, done


async def _renew(tx: Tx, keys: Keys, table: _Table, rows: Sequence[Row], opened: Callable[[Any], Any]) -> Resealed:
    """Give rows new MACs, as far as they can be opened."""

    def work() -> tuple[list[Any], int]:
        plain = [(row, opened(row)) for row in rows]
        found = [(row, table.seal(keys, one)) for row, one in plain if one is not None]
        return [sealed for row, sealed in found if sealed != row], len(rows) - len(found)

    changed, refused = await tx.compute(lambda: sum(map(_weight, rows)), work)
    if changed:
        await tx.load(table.load, changed)
    return Resealed(0, len(rows), len(changed), refused)


def _sound(table: _Table, keys: Keys, accept: bool, row: Any) -> Any:
    found = table.open(keys, row)
    if table.is_refused(found):
        return row if accept and _fits(table, row) else None
    return found


def _moved(table: _Table, keys: Keys, source: str, row: Any) -> Any:
    """A row as it was in the thread that it was copied from."""
    found = table.open(keys, row._replace(thread_id=source))
    return None if table.is_refused(found) else found._replace(thread_id=row.thread_id)


def _weight(row: Row) -> int:
    return sum(len(cell) for cell in row if isinstance(cell, (bytes, str)))  # on SQLite there may be anything in a cell


def _fits(table: _Table, row: Any) -> bool:
    try:
        return table.fits(row)
    except (DecodeError, TypeError, ValueError):
        return False


# --- Tables ---


class _Table(ABC):
    """How the rows of a table are read, opened, sealed and stored."""

    query: str
    width: int
    """How many columns the key has."""
    load: str

    @abstractmethod
    def row(self, found: Row) -> Any:
        """A row that the query brings, as one of the table."""

    @abstractmethod
    def open(self, keys: Keys, row: Any) -> Any:
        """The row in one with a MAC, or a refused one."""

    @abstractmethod
    def is_refused(self, opened: Any) -> bool:
        """Whether the MAC did not fit."""

    @abstractmethod
    def seal(self, keys: Keys, row: Any) -> Any:
        """The row with a MAC."""

    @abstractmethod
    def fits(self, row: Any) -> bool:
        """Whether a row without a MAC has the right checksum, unless that raises."""


class _Checkpoints(_Table):
    query, width, load = "doctor_checkpoints", 3, "insert_checkpoint"

    def row(self, found: Row) -> CheckpointRow:
        return doctor_row(found)

    def open(self, keys: Keys, row: CheckpointRow) -> CheckpointRow:
        return keys.open_checkpoint(row)

    def is_refused(self, opened: CheckpointRow) -> bool:
        return opened.checkpoint in values.REFUSED or opened.slots in values.REFUSED

    def seal(self, keys: Keys, row: CheckpointRow) -> CheckpointRow:
        return keys.seal_checkpoint(row)

    def fits(self, row: CheckpointRow) -> bool:
        one = row.checkpoint_id
        values.unseal(row.checkpoint, values.place("checkpoint", one, row.parent_checkpoint_id or ""))
        values.unseal(row.slots, values.place("slots", one))
        if row.metadata_exact is not None:
            values.unseal(row.metadata_exact, values.place("metadata", one))
        return True


class _Items(_Table):
    query, width, load = "doctor_items", 4, "reseal_items"

    def row(self, found: Row) -> ItemRow:
        return ItemRow(*found)

    def open(self, keys: Keys, row: ItemRow) -> ItemRow:
        return keys.open_item_row(row)

    def is_refused(self, opened: ItemRow) -> bool:
        return opened.checksum in values.REFUSED

    def seal(self, keys: Keys, row: ItemRow) -> ItemRow:
        return keys.seal_items([row])[0]

    def fits(self, row: ItemRow) -> bool:
        return values.is_item(row.checksum, row.data, values.place("item", row.channel), row.seq, row.added_at)


class _Writes(_Table):
    query, width, load = "doctor_writes", 5, "replace_write"

    def row(self, found: Row) -> WriteRow:
        return WriteRow(*found)

    def open(self, keys: Keys, row: WriteRow) -> WriteRow:
        return keys.open_write(row)

    def is_refused(self, opened: WriteRow) -> bool:
        return opened.data in values.REFUSED

    def seal(self, keys: Keys, row: WriteRow) -> WriteRow:
        return keys.seal_writes([row])[0]

    def fits(self, row: WriteRow) -> bool:
        at = ("write", row.checkpoint_id, row.task_id, row.task_path, str(row.idx), row.channel)
        return bool(values.unseal(row.data, values.place(*at)))


_TABLES: tuple[_Table, ...] = (_Checkpoints(), _Items(), _Writes())


def doctor_row(found: Row) -> CheckpointRow:
    """A row of the `doctor_checkpoints` query as one of the table."""
    thread_id, ns, checkpoint_id, parent, checkpoint, slots, metadata, exact, run_id = found
    return CheckpointRow(thread_id, ns, checkpoint_id, parent, run_id, checkpoint, slots, metadata, exact)


async def _batches(
    tx: Tx, table: _Table, thread_id: str, after: Row | None
) -> AsyncGenerator[tuple[Row, list[Any]], None]:
    """The rows of a thread in a table, along its key, in batches of bounded size; before each its last key."""
    is_whole = isinstance(table, _Checkpoints)  # narrow enough to be read at once
    limit = _ROWS if is_whole else _NARROW_ROWS
    while True:
        where = {"thread_id": {"thread_id": thread_id}, **_numbered("after", after)}
        rows = await fetch_where(tx, table.query, where, limit=limit)
        if is_whole and rows:
            yield rows[-1][: table.width], [table.row(row) for row in rows]
        else:
            for first, last in _spans(rows, table.width):
                between = {**_numbered("first", first)["first"], **_numbered("last", last)["last"]}
                found = await fetch_where(tx, f"{table.query} data", {"between": between})
                yield last, [table.row(row) for row in found]
        if len(rows) < limit:
            return
        after = rows[-1][: table.width]


def _spans(rows: Sequence[Row], width: int) -> list[tuple[Row, Row]]:
    """The first and the last keys of batches; rows end with their size."""
    found: list[tuple[Row, Row]] = []
    first, size = None, 0
    for row in rows:
        if first is not None and size + row[-1] > _BATCH:
            first, size = None, 0
        if first is None:
            first = row[:width]
            found.append((first, first))
        found[-1] = (first, row[:width])
        size += row[-1]
    return found


def _numbered(name: str, key: Row | None) -> Conditions:
    return {} if key is None else {name: {f"{name}_{at}": part for at, part in enumerate(key)}}
