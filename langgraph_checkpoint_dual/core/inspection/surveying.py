"""What the checkpoints of a namespace reference, compared with the items that are there: as ranges of numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.items import Manifest, Range, merged
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tree import without
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

ROWS = 256
"""How many rows with their data are read at once."""
_MANY_RANGES = 10_000


def used_ranges(checkpoint_id: str, sealed: bytes) -> list[tuple[str, tuple[Range, ...]]] | None:
    """The items that a checkpoint references, by channel as stored; `None` if that is damaged."""
    try:
        slots = slots_of(checkpoint_id, sealed)
        return [(escape(name), slot.ranges) for name, slot in slots.items() if isinstance(slot, Manifest)]
    except DecodeError:
        return None


class Survey(NamedTuple):
    """What the checkpoints of a namespace reference, compared with the items that there are, both in full."""

    used: Mapping[str, list[Range]]
    missing: Mapping[str, list[Range]]
    orphaned: Mapping[str, list[Range]]
    by_checkpoint: Mapping[str, Sequence[tuple[str, tuple[Range, ...]]]]
    knows_all: bool

    def users(self, channel: str, ranges: Sequence[Range]) -> list[str]:
        """The checkpoints that reference one of these items."""
        return [
            checkpoint_id
            for checkpoint_id, used in self.by_checkpoint.items()
            if any(name == channel and intersection(merged(some), ranges) for name, some in used)
        ]


async def surveyed(db: Database, thread_id: str, ns: str) -> Survey:
    """Survey a namespace. What others store or remove meanwhile passes neither for missing nor for orphaned."""

    async def look(tx: Tx) -> Survey:
        return await survey_in(thread_id, ns, tx)

    return await db.read(look)


async def survey_in(thread_id: str, ns: str, tx: Tx) -> Survey:
    """As `surveyed`, in a transaction."""
    where = {"thread_id": thread_id, "checkpoint_ns": ns}
    before = await tx.fetch("item_numbers", **where)
    slots = await tx.fetch("slots_of_namespace", **where)
    after = await tx.fetch("item_numbers", **where)
    by_checkpoint = {checkpoint_id: used_ranges(checkpoint_id, sealed) for checkpoint_id, sealed in slots}
    known = {checkpoint_id: ranges for checkpoint_id, ranges in by_checkpoint.items() if ranges is not None}
    collected: dict[str, list[Range]] = {}
    for ranges in known.values():
        for channel, some in ranges:
            extend(collected, channel, some)
    used, first, last = settled(collected), ranges_of(before), ranges_of(after)
    missing: dict[str, list[Range]] = {}
    orphaned: dict[str, list[Range]] = {}
    for channel, wanted in used.items():
        there = merged([*first.get(channel, []), *last.get(channel, [])])
        if lost := without(wanted, there):
            missing[channel] = lost
    for channel in first:
        kept = intersection(first[channel], last.get(channel, []))
        if left := without(kept, used.get(channel, [])):
            orphaned[channel] = left
    return Survey(used, missing, orphaned, known, len(known) == len(by_checkpoint))


# --- Pages ---


async def page(db: Database, query: str, where: Mapping[str, Mapping[str, Any]], limit: int | None = None) -> list[Row]:
    """The rows of a query under conditions, which are given by name with their arguments."""
    args = {name: value for part in where.values() for name, value in part.items()}
    if limit is not None:
        args["limit"] = limit
    named = f"{query}{' and ' if ' where ' in query else ' where '}{' and '.join(where)}" if where else query

    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch(named, **args)

    return await db.read(look)


def numbered(name: str, key: Sequence[Any]) -> dict[str, Any]:
    """The parts of a key as arguments: `after_0`, `after_1`, ..."""
    return {f"{name}_{at}": part for at, part in enumerate(key)}


async def pages(
    db: Database, query: str, width: int, where: Mapping[str, Mapping[str, Any]], limit: int
) -> AsyncIterator[Row]:
    """All rows of a query whose first columns, `width` of them, are the key that it is ordered by."""
    after: dict[str, Mapping[str, Any]] = {}
    while True:
        rows = await page(db, query, {**where, **after}, limit)
        for row in rows:
            yield row
        if len(rows) < limit:
            return
        after = {"after": numbered("after", rows[-1][:width])}


async def rows_of_items(
    db: Database, query: str, thread_id: str, ns: str, channel: str, ranges: Sequence[Range]
) -> AsyncIterator[Row]:
    """The rows of items with these numbers, by one of the queries of `doctor.sql`."""
    for start, count in ranges:
        for at in range(start, start + count, ROWS):
            first = (thread_id, ns, channel, at)
            last = (thread_id, ns, channel, min(at + ROWS, start + count) - 1)
            between = {**numbered("first", first), **numbered("last", last)}
            for row in await page(db, query, {"between": between}, None if query.endswith("data") else ROWS):
                yield row


# --- Ranges of item numbers, by channel ---


def extend(ranges: dict[str, list[Range]], channel: str, more: Iterable[Range]) -> None:
    """Add ranges of a channel; they need not be in order."""
    known = ranges.setdefault(channel, [])
    for start, count in more:
        if known and known[-1][0] + known[-1][1] == start:
            known[-1] = (known[-1][0], known[-1][1] + count)
        elif not known or known[-1] != (start, count):
            known.append((start, count))
    if len(known) > _MANY_RANGES and len(known) & 0xFFF == 0:
        known[:] = merged(known)


def settled(ranges: Mapping[str, list[Range]]) -> dict[str, list[Range]]:
    """What was added with `extend`, merged."""
    return {channel: merged(some) for channel, some in sorted(ranges.items()) if some}


def ranges_of(rows: Iterable[Row]) -> dict[str, list[Range]]:
    """Channels and numbers as ranges by channel; those that are damaged are left out."""
    found: dict[str, list[Range]] = {}
    for channel, seq in rows:
        if isinstance(channel, str) and isinstance(seq, int):
            extend(found, channel, [(seq, 1)])
    return settled(found)


def intersection(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """The numbers that are in both; both are `merged`."""
    return without(ranges, without(ranges, others))


def number_of(ranges: Sequence[Range]) -> int:
    """How many numbers there are in some ranges."""
    return sum(count for _, count in ranges)
