"""What takes the bytes: tables, threads, channels. Nothing but lengths is read."""

from __future__ import annotations

from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core.address import thread_key
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx


class TableSize(NamedTuple):
    """A table of the database, with the bytes of its rows and of its indexes."""

    name: str
    data: int
    indexes: int


class ThreadSize(NamedTuple):
    """A thread, with the bytes of its checkpoints' rows, of their values (as items) and of its pending writes."""

    thread_id: str
    checkpoints: int
    items: int
    writes: int
    rows: int

    @property
    def total(self) -> int:
        """All bytes of the thread."""
        return self.checkpoints + self.items + self.writes


class ChannelSize(NamedTuple):
    """What is stored for one channel: its values or its pending writes; or the rows of all checkpoints, of no channel.

    `kind` is "value", "write" or "checkpoint", `largest` the bytes of the largest row.
    """

    kind: str
    channel: str
    size: int
    rows: int
    largest: int


class Sizes(NamedTuple):
    """What takes the bytes, the largest first."""

    database: int
    free: int | None
    """Bytes of the file that are not used; `None` if the database does not tell."""
    tables: list[TableSize]
    """Empty if the database cannot tell."""
    threads: list[ThreadSize]
    channels: list[ChannelSize]


async def sizes(db: Database, *, thread_id: str | None = None, limit: int = 10) -> Sizes:
    """What takes the bytes.

    Args:
        thread_id: of which thread to look at the channels; all unless given.
        limit: how many threads and channels, the largest ones.
    """
    key = None if thread_id is None else thread_key(thread_id)

    async def look(tx: Tx) -> Sizes:
        [(database, free)] = await tx.fetch("size_database")
        tables = await tx.fetch("size_tables") if await tx.fetch("size_is_known") else []
        threads, channels = await _largest(tx, "size", key, limit)
        if await tx.fetch("official_tables"):
            more = await _largest(tx, "official_size", key and unescape(key), limit)
            threads, channels = _together(threads + more[0], 1)[:limit], _together(channels + more[1], 2)[:limit]
        return Sizes(
            int(database),
            None if free is None else int(free),
            [TableSize(name, int(data), int(indexes)) for name, data, indexes in tables],
            [ThreadSize(unescape(name), *map(int, numbers)) for name, *numbers in threads],
            [ChannelSize(kind, unescape(channel), *map(int, numbers)) for kind, channel, *numbers in channels],
        )

    return await db.read(look)


async def _largest(tx: Tx, query: str, key: str | None, limit: int) -> tuple[list[Row], list[Row]]:
    """The largest threads, unless one is given, and channels."""
    threads = await tx.fetch(f"{query}_threads", limit=limit) if key is None else []
    if key is None:
        return threads, await tx.fetch(f"{query}_channels", limit=limit)
    return threads, await tx.fetch(f"{query}_channels where thread_id", limit=limit, thread_id=key)


def _together(rows: list[Row], width: int) -> list[Row]:
    """The rows of our tables and of the official ones added up by their key, of `width` columns; the largest first."""
    found: dict[Row, list[Any]] = {}
    for row in rows:
        key, numbers = row[:width], row[width:]
        known = found.setdefault(key, [0] * len(numbers))
        for at, number in enumerate(numbers):
            known[at] = max(known[at], number) if width == 2 and at == 2 else known[at] + number
    weight = 3 if width == 1 else 1
    return sorted(
        ((*key, *numbers) for key, numbers in found.items()), key=lambda row: -sum(row[width : width + weight])
    )
