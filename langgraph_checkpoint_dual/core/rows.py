"""The rows that additions consist of, as plain data, ready for any driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


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
    """One immutable piece of channel values: an element of a list, an entry of a dict, or a whole value."""

    thread_id: str
    checkpoint_ns: str
    channel: str
    seq: int
    checksum: int
    data: bytes


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


@dataclass(frozen=True, slots=True)
class Put:
    """A checkpoint with the items that it is the first to use.

    `base` is the checkpoint of the same thread and namespace whose items this one uses again: it must still be stored,
    with just the slots `base_slots`, when this one is, which is what makes the items safe from being collected in
    between.
    """

    row: CheckpointRow
    items: list[ItemRow] = field(default_factory=list)
    base: str | None = None
    base_slots: bytes | None = None


@dataclass(frozen=True, slots=True)
class PutWrites:
    """Pending writes of one task. Existing rows are kept, or replaced if `replace` (the special channels)."""

    rows: list[WriteRow]
    replace: bool


class Outcome(Enum):
    """How an addition ended; only `STORED` changed the database."""

    STORED = "stored"
    SEQ_TAKEN = "another checkpoint has taken one of the items' numbers"
    BASE_GONE = "the checkpoint whose items were to be used again is gone"
