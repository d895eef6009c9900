"""Tables read in the order of their keys, one namespace after the other, and their data in batches of bounded size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.inspection.surveying import ROWS, numbered, page, pages
from langgraph_checkpoint_dual.core.tx import Database, Row
from langgraph_checkpoint_dual.errors import DecodeError

NARROW_ROWS = 4096
"""How many rows without their data are read at once."""
_PAGE_BYTES = 8 * 1024 * 1024


class Checkpoints:
    """A table, read in the order of its key, one namespace after the other."""

    query, width, limit = "doctor_checkpoints", 3, ROWS

    def __init__(self, db: Database, where: Mapping[str, Mapping[str, Any]]) -> None:
        self.db = db
        self._rows = pages(db, self.query, self.width, where, self.limit)
        self._next: Row | None = None

    async def place(self) -> tuple[str, str] | None:
        """The thread and namespace of the next row."""
        if self._next is None:
            self._next = await anext(self._rows, None)
        return None if self._next is None else (self._next[0], self._next[1])

    async def of(self, place: tuple[str, str]) -> AsyncIterator[Any]:
        """The rows of a namespace, if it is the next one."""
        while await self.place() == place:
            row, self._next = self._next, None
            yield row


class Checked(Checkpoints):
    """A table whose data is read in batches of bounded size, along its keys."""

    limit = NARROW_ROWS

    def sound(self, row: Row) -> bool:
        """Whether a row has the checksum of its place and data."""
        raise NotImplementedError

    async def of(self, place: tuple[str, str]) -> AsyncIterator[tuple[Row, bool]]:
        """The keys of a namespace's rows, and whether they are sound."""
        batch: list[Row] = []
        size = 0
        async for row in super().of(place):
            if batch and (size + row[-1] > _PAGE_BYTES or len(batch) >= ROWS):
                async for checked in self._checked(batch):
                    yield checked
                batch, size = [], 0
            batch.append(row)
            size += row[-1]
        async for checked in self._checked(batch):
            yield checked

    async def _checked(self, batch: Sequence[Row]) -> AsyncIterator[tuple[Row, bool]]:
        if not batch:
            return
        first, last = batch[0][: self.width], batch[-1][: self.width]
        between = {**numbered("first", first), **numbered("last", last)}
        rows = await page(self.db, f"{self.query} data", {"between": between})
        found = {row[: self.width]: self.sound(row) for row in rows}
        for row in batch:
            if (sound := found.get(row[: self.width])) is not None:  # it may have been removed meanwhile
                yield row, sound


class Items(Checked):
    query, width = "doctor_items", 4

    def sound(self, row: Row) -> bool:
        _, _, channel, seq, added_at, checksum, data = row
        found: int = checksum
        return values.item_checksum(data, values.place("item", channel), seq, added_at) == found


class Writes(Checked):
    query, width = "doctor_writes", 5

    def sound(self, row: Row) -> bool:
        _, _, checkpoint_id, task_id, idx, task_path, channel, data = row
        return unsealed(data, "write", checkpoint_id, task_id, task_path, str(idx), channel) is not None


async def next_places(*tables: Checkpoints) -> list[tuple[str, str]]:
    return [place for table in tables if (place := await table.place()) is not None]


def unsealed(sealed: bytes, *place: str) -> bytes | None:
    try:
        return values.unseal(bytes(sealed), values.place(*place))
    except DecodeError:
        return None
