"""Pages of a transfer: what goes in one transaction, in the order of threads and ids, and not too much of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from langgraph_checkpoint_dual.core.items import Range, merged
from langgraph_checkpoint_dual.core.rows import CheckpointRow, ItemRow, WriteRow
from langgraph_checkpoint_dual.core.transfer.narrow import Key, Stamp

PAGE_BYTES = 4 * 1024 * 1024
"""A page is ended at about this size, unless a single checkpoint has more that is new."""
_PAGE_CHECKPOINTS = 1000


@dataclass
class Entry:
    """A checkpoint, or only its writes, on its way."""

    key: Key
    stamp: Stamp | None
    """`None` if only the writes are on their way."""
    writes: int
    """How many of its writes are on their way."""
    size: int
    ranges: list[tuple[str, Range]]
    """The items that are on their way, by channel as stored."""

    @property
    def wanted(self) -> list[tuple[str, str, str, int, int]]:
        """The items as the queries want them."""
        thread_id, checkpoint_ns, _ = self.key
        return [(thread_id, checkpoint_ns, channel, at, at + n - 1) for channel, (at, n) in self.ranges]


@dataclass
class Page:
    """What one transaction brings over."""

    entries: list[Entry] = field(default_factory=list)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return self.size >= PAGE_BYTES or len(self.entries) >= _PAGE_CHECKPOINTS


class Fetched(NamedTuple):
    """The rows of a page."""

    items: list[ItemRow]
    checkpoints: list[CheckpointRow]
    writes: list[WriteRow]


def pages_of(entries: Iterable[Entry]) -> Iterator[Page]:
    """The entries in pages, threads whole as far as possible."""
    page = Page()
    for thread in _by_thread(entries):
        if page.entries and page.size + sum(entry.size for entry in thread) > PAGE_BYTES:
            yield page
            page = Page()
        for entry in thread:
            page.entries.append(entry)
            page.size += entry.size
            if page.is_full:
                yield page
                page = Page()
    if page.entries:
        yield page


def portions(items: Sequence[ItemRow]) -> Iterator[list[ItemRow]]:
    """The items in as many statements as they need: those of a single checkpoint may be very many."""
    portion: list[ItemRow] = []
    size = 0
    for item in items:
        portion.append(item)
        size += len(item.data)
        if size >= 4 * PAGE_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _by_thread(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    for _, group in groupby(entries, key=lambda entry: entry.key[0]):
        yield list(group)


def beyond(ranges: Iterable[Range], have: Sequence[Range]) -> list[Range]:
    """The parts of some ranges that are not in others, which are merged."""
    found: list[Range] = []
    for start, count in merged(ranges):
        end = start + count
        for first, held in have:
            if first + held <= start or first >= end:
                continue
            if first > start:
                found.append((start, first - start))
            start = first + held
        if start < end:
            found.append((start, end - start))
    return found
