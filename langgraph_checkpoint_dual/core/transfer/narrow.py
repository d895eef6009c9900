"""What the sides of a transfer have: their threads, and of these narrow rows, keys and checksums without the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.queries import Conditions, fetch_where
from langgraph_checkpoint_dual.core.text import check_texts
from langgraph_checkpoint_dual.core.transfer.transfers import Options
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

_THREADS = 256

Key: TypeAlias = tuple[str, str, str]
"""Thread, namespace and checkpoint, as stored."""
Bounds: TypeAlias = "tuple[tuple[str, str] | None, tuple[str, str] | None]"
WHOLE: Bounds = (None, None)


class ThreadPages:
    """The threads of a database of ours that are asked for, in the order of their ids."""

    def __init__(self, db: Database, options: Options) -> None:
        self._db, self._where = db, options.where
        self._ids = None if options.thread_ids is None else list(options.thread_ids)
        self._after: str | None = ""

    async def total(self) -> int:
        """About how many there are."""
        if self._ids is not None:
            return len(self._ids)
        rows = await self._db.read(partial(fetch_where, query="threads counted", where=self._where))
        return int(rows[0][0])

    async def next(self) -> list[str]:
        """The next ones, as stored; none at the end."""
        while self._after is not None:
            found = await self._db.read(self._given if self._ids is not None else self._found)
            if found:
                return found
        return []

    async def _given(self, tx: Tx) -> list[str]:
        assert self._ids is not None
        wanted, self._ids = self._ids[:_THREADS], self._ids[_THREADS:]
        self._after = self._after if wanted else None
        if not self._where or not wanted:
            return wanted
        rows = await self._registered(tx, {**self._where, "among": {"among": json.dumps(wanted)}})
        return [row[0] for row in rows]

    async def _found(self, tx: Tx) -> list[str]:
        if self._where:
            rows = await self._registered(tx, {**self._where, "beyond": {"beyond": self._after}})
        else:
            rows = await tx.fetch("thread_ids", after=self._after, limit=_THREADS)
        for row in rows:
            _check(row[:1])
        found = sorted(row[0] for row in rows)
        self._after = found[-1] if found else None
        return found

    async def _registered(self, tx: Tx, where: Conditions) -> list[Row]:
        return await fetch_where(tx, "threads paged", where, limit=_THREADS)


class Stamp(NamedTuple):
    """A checkpoint by its checksums, and what is needed to fetch it."""

    checkpoint: bytes
    metadata: bytes | None
    slots: bytes
    size: int


@dataclass
class Writes:
    """The pending writes of a checkpoint, by their checksums."""

    stamps: set[Row] = field(default_factory=set)
    size: int = 0


class Narrow(NamedTuple):
    """The narrow rows of some threads, or of a part of one."""

    checkpoints: dict[Key, Stamp]
    writes: dict[Key, Writes]


async def sizes_of(db: Database, threads: Sequence[str]) -> dict[str, int]:
    rows = await fetched(db, "thread_sizes", threads=json.dumps(threads))
    return {row[0]: int(row[1]) for row in rows}


async def fetched(db: Database, query: str, /, **args: Any) -> list[Row]:
    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch(query, **args)

    return await db.read(look)


async def narrow(db: Database, threads: Sequence[str], span: Bounds) -> Narrow:
    """The narrow rows of some threads, those of the writes read last: they are as new as their checkpoints."""
    bounds = zip(("after", "upto"), span, strict=True)
    where = {name: {f"{name}_ns": bound[0], f"{name}_id": bound[1]} for name, bound in bounds if bound is not None}
    ids = json.dumps(threads)
    found = Narrow({}, {})

    async def look(tx: Tx) -> tuple[list[Row], list[Row]]:
        checkpoints = await fetch_where(tx, "narrow checkpoints", where, threads=ids)
        return checkpoints, await fetch_where(tx, "narrow writes", where, threads=ids)

    checkpoints, writes = await db.read(look)
    for row in checkpoints:
        _check(row[:3])
        found.checkpoints[row[:3]] = Stamp(*row[3:])
    for row in writes:
        _check(row[:3], row[3], row[4])
        one = found.writes.setdefault(row[:3], Writes())
        one.stamps.add(row[3:6])
        one.size += row[6]
    return found


def _check(key: Row, task_id: object = "", idx: object = 0) -> None:
    """Check the key of a row: what has none that others find it by is not brought over.

    Raises:
        DecodeError: if one of its parts is of a wrong type.
    """
    try:
        check_texts(*key, task_id)
        if not isinstance(idx, int):
            raise DecodeError(f"the number of a pending write is damaged: {idx!r}")
    except DecodeError as exc:
        raise exc.at(**Address(*key).where) from exc


def has_more(writes: Writes, stored: Writes) -> bool:
    """Whether some writes are news; if the target has others beside them, the run went on there."""
    places, there = ({row[:2] for row in one.stamps} for one in (writes, stored))
    return there <= places and not writes.stamps <= stored.stamps
