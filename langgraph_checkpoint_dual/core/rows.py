"""The rows that additions consist of, as plain data, ready for any driver."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.errors import EncodeError


class CheckpointRow(NamedTuple):
    """One checkpoint: narrow, because every large value of it is an item."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    parent_checkpoint_id: str | None
    run_id: str | None
    checkpoint: bytes
    slots: bytes
    metadata: str
    metadata_exact: bytes | None


class ItemRow(NamedTuple):
    """One immutable piece of channel values: an element of a list, an entry of a dict, or a whole value.

    `added_at` is the time of the checkpoint that it came with, in microseconds since 1970; 0 if that has none. `tag`
    finds it if it is a message with an id (`core/tags.py`).
    """

    thread_id: str
    checkpoint_ns: str
    channel: str
    seq: int
    added_at: int
    checksum: int
    tag: int | None
    data: bytes


_data_of = itemgetter(ItemRow._fields.index("data"))


class WriteRow(NamedTuple):
    """One pending write. `idx` is negative for the special channels, as LangGraph defines it."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    task_id: str
    idx: int
    task_path: str
    channel: str
    data: bytes


class ThreadRow(NamedTuple):
    """What a checkpoint of the root namespace tells the registry. `at` is its time in microseconds since 1970."""

    thread_id: str
    at: int
    user_id: str | None
    title: str | None
    run_metadata: str


class RegistryRow(NamedTuple):
    """A thread's row in the registry, as it is."""

    thread_id: str
    created_at: int
    updated_at: int
    user_id: str | None
    title: str | None
    metadata: str
    run_metadata: str


class SearchRow(NamedTuple):
    """The words of a message that is an item."""

    thread_id: str
    checkpoint_ns: str
    channel: str
    seq: int
    added_at: int
    words: str


class CurrentRow(NamedTuple):
    """Which thread a user is in with an agent."""

    user_id: str
    agent: str
    thread_id: str


Named: TypeAlias = "CheckpointRow | ItemRow | WriteRow | RegistryRow | CurrentRow | SearchRow"
"""A row of a table."""


class Guard(NamedTuple):
    """The checkpoint, in the same thread, that an addition hangs on.

    If it is stored, it stays until the addition is committed. If it is not, the addition is refused where the thread
    was deleted since that checkpoint was made: it comes from a run that began before. With `slots` it must be stored,
    with just these (sealed) slots: the addition uses its items again.
    """

    checkpoint_ns: str
    checkpoint_id: str
    slots: bytes | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A checkpoint with the items that it is the first to use, their words, and what it tells the registry."""

    row: CheckpointRow
    items: list[ItemRow] = field(default_factory=list)
    guard: Guard | None = None
    thread: ThreadRow | None = None
    words: list[SearchRow] = field(default_factory=list)
    size_of_items: int = field(init=False)
    """The bytes of their data, which are counted where the addition is made: that may be off the event loop."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_of_items", sum(map(len, map(_data_of, self.items))))

    @property
    def thread_id(self) -> str:
        """The thread, as stored."""
        return self.row.thread_id


@dataclass(frozen=True, slots=True)
class PutWrites:
    """Pending writes of one task. Existing rows are kept, or replaced if `replace` (the special channels)."""

    rows: list[WriteRow]
    replace: bool

    @property
    def thread_id(self) -> str:
        """The thread, as stored."""
        return self.rows[0].thread_id

    @property
    def guard(self) -> Guard:
        """The checkpoint that the writes belong to."""
        return Guard(self.rows[0].checkpoint_ns, self.rows[0].checkpoint_id)


class Outcome(Enum):
    """How an addition ended; only `STORED` changed the database."""

    STORED = "stored"
    SEQ_TAKEN = "another checkpoint has taken one of the items' numbers"
    ID_TAKEN = "a checkpoint of this id is there already"
    GUARD_GONE = "the checkpoint that it hangs on is gone, or has other slots, or its thread was deleted"


def size_of(addition: Put | PutWrites) -> int:
    """About the bytes that an addition stores."""
    if isinstance(addition, Put):
        row = addition.row
        return len(row.checkpoint) + len(row.slots) + addition.size_of_items
    return sum(len(row.data) for row in addition.rows)


def too_large(addition: Put | PutWrites, limit: str) -> EncodeError:
    """The error for an addition that the database does not take; it names the channel that most of it is of."""
    sizes: Counter[str] = Counter()
    for row in addition.items if isinstance(addition, Put) else addition.rows:
        sizes[row.channel] += len(row.data)
    channel, size = max(sizes.items(), key=lambda entry: entry[1], default=("", size_of(addition)))
    return EncodeError(
        f"{size} bytes at once are more than {limit}; keep what is so large elsewhere, and in the state where it is",
        channel=unescape(channel),
    )
