"""Tables read in the order of their keys, one namespace after the other, and their data in batches of bounded size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.inspection.surveying import ROWS, numbered, page, pages
from langgraph_checkpoint_dual.core.tags import id_hash_of, place_of, tag_in
from langgraph_checkpoint_dual.core.tx import Database, Row
from langgraph_checkpoint_dual.errors import CheckpointerError, DecodeError

NARROW_ROWS = 4096
"""How many rows without their data are read at once."""
_PAGE_BYTES = 8 * 1024 * 1024


class Verdict(Enum):
    """What there is to say about a row."""

    SOUND = "sound"
    DAMAGED = "its checksum does not fit its place and data"
    NOT_FOUND = "it is a message that is not found by its id"


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


class Checked(Checkpoints, ABC):
    """A table whose data is read in batches of bounded size, along its keys."""

    limit = NARROW_ROWS

    @abstractmethod
    def judge(self, row: Row) -> Verdict:
        """Look at a row with its data."""

    async def of(self, place: tuple[str, str]) -> AsyncIterator[tuple[Row, Verdict]]:
        """The keys of a namespace's rows, and what there is to say about each."""
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

    async def _checked(self, batch: Sequence[Row]) -> AsyncIterator[tuple[Row, Verdict]]:
        if not batch:
            return
        first, last = batch[0][: self.width], batch[-1][: self.width]
        between = {**numbered("first", first), **numbered("last", last)}
        rows = await page(self.db, f"{self.query} data", {"between": between})
        found = await self.db.compute(lambda: sum(row[-1] for row in batch), partial(self._judged, rows))
        for row in batch:
            if (verdict := found.get(row[: self.width])) is not None:  # it may have been removed meanwhile
                yield row, verdict

    def _judged(self, rows: Sequence[Row]) -> dict[Row, Verdict]:
        return {row[: self.width]: self.judge(row) for row in rows}


class Items(Checked):
    query, width = "doctor_items", 4

    def __init__(
        self, db: Database, where: Mapping[str, Mapping[str, Any]], serde: SerializerProtocol | None = None
    ) -> None:
        super().__init__(db, where)
        self._serde = serde

    def judge(self, row: Row) -> Verdict:
        _, _, channel, seq, added_at, checksum, tag, data = row
        if not all(isinstance(name, str) for name in row[:3]):
            return Verdict.DAMAGED
        if not values.is_item(checksum, data, values.place("item", channel), seq, added_at):
            return Verdict.DAMAGED
        wanted = None if self._serde is None else wanted_tag(self._serde, row)
        return Verdict.SOUND if wanted in (None, tag) else Verdict.NOT_FOUND


class Writes(Checked):
    query, width = "doctor_writes", 5

    def judge(self, row: Row) -> Verdict:
        _, _, checkpoint_id, task_id, idx, task_path, channel, data = row
        typed = unsealed(data, "write", checkpoint_id, task_id, task_path, str(idx), channel)
        return Verdict.DAMAGED if typed is None else Verdict.SOUND


def wanted_tag(serde: SerializerProtocol, row: Row) -> int | None:
    """The tag that an item must have; `None` if it is no message with an id, or cannot be read here.

    Args:
        row: one of `doctor_items data`.
    """
    thread_id, ns, channel, *_, data = row
    try:
        return tag_in(place_of(thread_id, ns, channel), id_hash_of(values.decode(serde, bytes(data))))
    except CheckpointerError:
        return None


async def next_places(*tables: Checkpoints) -> list[tuple[str, str]]:
    return [place for table in tables if (place := await table.place()) is not None]


def unsealed(sealed: bytes, *place: str) -> bytes | None:
    try:
        return values.unseal(sealed, values.place(*place))
    except DecodeError:
        return None
