"""One put: from what LangGraph gives to the rows that are stored, and what is learned while it is tried.

The contract:

1. A `Putting` is made once a put and planned once an attempt. Planning is pure, so it can run on any thread.
2. Every value is compared with what the *base*, the parent, is known to store; what is equal is not stored again. The
   plan then hangs on the base: its guard makes the database refuse the addition if the base is not stored just so.
3. An attempt that was refused says why, and `learn` draws the conclusion for the next one: without the base if that is
   gone (all values are stored anew), with other item numbers if these are taken, in the place of the checkpoint that
   has this id already.
4. A checkpoint that takes the place of another one (`make_room`) takes with it the items that only that one refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import checkpoint_row, slots_of
from langgraph_checkpoint_dual.core.items import NewItem, Planner, Stored
from langgraph_checkpoint_dual.core.looks import Known, known_of
from langgraph_checkpoint_dual.core.registry import thread_row
from langgraph_checkpoint_dual.core.rows import CheckpointRow, Guard, ItemRow, Outcome, Put
from langgraph_checkpoint_dual.core.tags import place_of, tag_in
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.times import micros_of
from langgraph_checkpoint_dual.core.tree import Node, released, remove_items
from langgraph_checkpoint_dual.core.turns import give_way
from langgraph_checkpoint_dual.core.tx import Tx
from langgraph_checkpoint_dual.core.weighing import weigh
from langgraph_checkpoint_dual.errors import DecodeError, EncodeError

_COMPARE_BYTES = 4096
"""A put that would store more than this anew, or that is repeated, first reads what its parent has stored."""


class Putting:
    """A put on its way; see the module.

    Args:
        serde: makes bytes of its values.
        parent: where it is put, and below which checkpoint.
        checkpoint_id: its id, as stored.
        checkpoint: the checkpoint, of which `channel_values` are the values.
        metadata: the metadata to store, that of `merged_metadata`.

    Attributes:
        own_parent: the parent that is stored of it; it has none if it takes its parent's place for good.
        guard: the checkpoint that it hangs on; a plan that uses its base's items hangs on that instead.
        base: what is known of the parent.
        fresh: whether its items get numbers that nobody can have taken.
        replaces: whether it goes in the place of a checkpoint that has its id.
    """

    def __init__(
        self,
        serde: SerializerProtocol,
        parent: Address,
        checkpoint_id: str,
        checkpoint: Mapping[str, Any],
        channel_values: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        self.parent = self.own_parent = parent
        self.checkpoint_id, self.checkpoint, self.metadata = checkpoint_id, checkpoint, metadata
        self.guard: Guard | None = None
        self.base: Known | None = None
        self.fresh = self.replaces = False
        self._serde, self._values = serde, channel_values
        self._compared = parent.checkpoint_id is None

    def weigh(self) -> int:
        """About the bytes that are planned."""
        return weigh(self._values.values())

    def plan(self) -> tuple[Put, Known]:
        """What to store, and what will be known of the checkpoint then.

        Raises:
            EncodeError: if a value cannot be stored.
        """
        serde, base = self._serde, self.base
        planner = planner_of(serde, fresh=self.fresh)
        known: Mapping[str, Stored] = {} if base is None else base.channels
        channels: dict[str, Stored] = {}
        items: list[ItemRow] = []
        reuses = False
        for channel, value in self._values.items():
            before = known.get(channel)
            if before is not None and (before.scalar is value or before.holds(value)):
                channels[channel] = before
                continue
            try:
                channels[channel], new, uses_base = planner.plan(value, before)
            except EncodeError as exc:
                raise exc.in_channel(channel) from exc
            reuses = reuses or uses_base
            if new:
                items += item_rows(self.parent, escape(channel), new, micros_of(self.checkpoint.get("ts")))
        slots = {channel: stored.slot for channel, stored in channels.items()}
        row = checkpoint_row(serde, self.own_parent, self.checkpoint_id, self.checkpoint, slots, self.metadata)
        guard = self.guard
        if base is not None and reuses:
            guard = Guard(row.checkpoint_ns, base.checkpoint_id, base.slots)
        thread = None if row.checkpoint_ns else thread_row(row.thread_id, self.metadata)
        return Put(row, items, guard, thread), known_of(self.checkpoint_id, row.slots, channels)

    def start_from(self, base: Known | None) -> None:
        """Note what is known of the parent."""
        self.base = base
        self._compared = self._compared or base is not None

    def should_compare(self, addition: Put) -> bool:
        """Whether to read the parent first, because much of this may be stored already. Says so once at most."""
        if self._compared or not (self.replaces or addition.size_of_items > _COMPARE_BYTES):
            return False
        self._compared = True
        return True

    def learn(self, outcome: Outcome, *, is_there: bool) -> None:
        """Draw the conclusion from a refusal; `is_there` says whether a checkpoint of this id is stored."""
        if outcome is Outcome.GUARD_GONE:
            self.base, self._compared = None, True
        elif is_there and not self.replaces:
            self.replaces = True
        else:  # another checkpoint has the numbers
            self.fresh = True


def planner_of(serde: SerializerProtocol, *, fresh: bool) -> Planner:
    """What decides which items the values of a checkpoint need; with `fresh` under numbers that nobody can have."""
    trusted, direct = values.is_trusted(serde), values.is_direct(serde)
    return Planner(partial(values.encode, serde), trusted=trusted, direct=direct, fresh=fresh)


def item_rows(parent: Address, channel: str, items: Iterable[NewItem], added_at: int) -> list[ItemRow]:
    """The rows of new items of a channel, which is named as stored."""
    start = values.place("item", channel)
    thread_id, ns = parent.thread_id, parent.checkpoint_ns or ""
    place = place_of(thread_id, ns, channel)
    rows: list[ItemRow] = []
    for seq, id_hash, typed in items:
        checksum = values.item_checksum(typed, start, seq, added_at)
        rows.append(ItemRow(thread_id, ns, channel, seq, added_at, checksum, tag_in(place, id_hash), typed))
        give_way()
    return rows


def guard_of(parent: Address, metadata: Mapping[str, Any]) -> Guard | None:
    """The checkpoint that a put hangs on: its parent, or for the first one of a subgraph the root graph's."""
    if parent.checkpoint_id is not None:
        return Guard(parent.checkpoint_ns or "", parent.checkpoint_id)
    parents = metadata.get("parents")
    root = parents.get("") if parent.checkpoint_ns and isinstance(parents, Mapping) else None
    return Guard("", escape(root)) if isinstance(root, str) and root else None


async def is_stored(row: CheckpointRow, tx: Tx) -> bool | None:
    """Whether a checkpoint is stored just like this; `None` if there is none of its id."""
    found = await tx.fetch("own_checkpoint", **_at(row))
    return found[0] == (row.checkpoint, row.slots, row.metadata_exact) if found else None


async def make_room(row: CheckpointRow, tx: Tx) -> None:
    """Take away the checkpoint that has this one's id, with the items that no other one refers to.

    The caller holds the thread's lock. Where something is damaged, the items stay.
    """
    key, ns, checkpoint_id = row[:3]
    sealed: dict[str, bytes] = dict(await tx.fetch("slots_of_namespace", thread_id=key, checkpoint_ns=ns))
    await tx.execute("delete_checkpoint", **_at(row))
    with suppress(DecodeError, ValueError, TypeError):
        nodes = {one: Node(None, slots_of(one, slots), frozenset(), {}) for one, slots in sealed.items()}
        stay = nodes.keys() - {checkpoint_id}
        await remove_items(key, ns, released(nodes, nodes.keys() - stay, stay), tx)


def _at(row: CheckpointRow) -> dict[str, str]:
    return {"thread_id": row.thread_id, "checkpoint_ns": row.checkpoint_ns, "checkpoint_id": row.checkpoint_id}
