"""Checkpoints as data to look at, also where they are damaged: nothing is revived, and what cannot be read says so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from langgraph.checkpoint.base import writes_sort_key

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import Foreign, restored, slots_of
from langgraph_checkpoint_dual.core.inspection.describing import Describer, describe
from langgraph_checkpoint_dual.core.items import DICT, LIST, Inline, Manifest, Slot, merged
from langgraph_checkpoint_dual.core.looks import ItemLost
from langgraph_checkpoint_dual.core.queries import fetch_where
from langgraph_checkpoint_dual.core.store import unless_lost
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError


class Damage(NamedTuple):
    """What stands where something cannot be read."""

    reason: str


class Write(NamedTuple):
    """A pending write, described."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: Any


@dataclass(frozen=True)
class Items:
    """The items of one channel that were fetched, by number: their typed bytes, or the damage."""

    channel: str
    found: dict[int, bytes | Damage]

    def part(self, seq: int) -> Any:
        """The part that an item holds, described; it is damage if it cannot be read."""
        typed = self.found.get(seq, Damage(f"item {seq} is missing"))
        return described(typed)

    def value(self, slot: Slot) -> Any:
        """The value in a slot, described."""
        if isinstance(slot, Inline):
            return described(slot.data)
        parts = [self.part(seq) for seq in slot.seqs]
        if slot.kind == LIST:
            return parts
        if slot.kind == DICT:
            return {part[0] if is_entry(part) else repr(part): part[1] if is_entry(part) else part for part in parts}
        return parts[0] if len(parts) == 1 else parts


@dataclass(frozen=True)
class Inspected:
    """A checkpoint, described, with its channel values as slots and their items, or (from others' tables) at once."""

    address: Address
    parent_id: str | None
    body: Mapping[str, Any] | Damage
    metadata: Any
    slots: Mapping[str, Slot]
    sealed_slots: bytes
    items: Mapping[str, Items]
    direct: Mapping[str, Any]
    damage: Damage | None
    writes: Sequence[Write]

    @property
    def values(self) -> dict[str, Any]:
        """The channel values, described."""
        return {**self.direct, **{channel: self.items[channel].value(slot) for channel, slot in self.slots.items()}}

    def value(self, channel: str) -> Any:
        """The value of a channel, described."""
        slot = self.slots.get(channel)
        return self.direct[channel] if slot is None else self.items[channel].value(slot)


def is_entry(part: Any) -> bool:
    """Whether the part of a large dict is an entry of it, and not damage."""
    return isinstance(part, list) and len(part) == 2


def described(typed: bytes | Damage) -> Any:
    """Typed bytes, described; it is damage if they cannot be read."""
    if isinstance(typed, Damage):
        return typed
    try:
        return describe(typed)
    except DecodeError as exc:
        return Damage(exc.reason)


async def inspect(db: Database, address: Address, *, channels: Iterable[str] | None = None) -> Inspected | None:
    """The checkpoint at an address, or the latest of its namespace; `None` if there is none.

    Args:
        channels: whose items to fetch; all unless given.
    """
    found = await inspect_together(db, [address], None if channels is None else list(channels))
    return found[0]


async def inspect_together(
    db: Database, addresses: Sequence[Address], channels: Sequence[str] | None = None, *, differing: bool = False
) -> list[Inspected | None]:
    """As `inspect`, for several in one look.

    Args:
        differing: leave out the items that all of them, being of one namespace, have in common.
    """
    return await unless_lost(lambda: db.read(partial(_look, addresses, channels, differing)))


async def _look(
    addresses: Sequence[Address], channels: Sequence[str] | None, differing: bool, tx: Tx
) -> list[Inspected | None]:
    found = [await _bare(address, tx) for address in addresses]
    there = [one for one in found if one is not None]
    shared = _shared(there) if differing else {}
    for one in there:
        wanted = {
            channel: slot
            for channel, slot in one.slots.items()
            if isinstance(slot, Manifest) and (channels is None or channel in channels)
        }
        await _fetch(one, wanted, shared, tx)
    return found


async def _bare(address: Address, tx: Tx) -> Inspected | None:
    rows = await fetch_where(tx, "page", address.conditions, limit=1)
    heads = [row for row in rows if not row[0]]
    return inspected(heads[0], [row for row in rows if row[0]]) if heads else None


def inspected(row: Row, writes: Iterable[Row]) -> Inspected:
    """A row of the `page` query and those of its writes, described; its items are not fetched."""
    _, thread_id, ns, checkpoint_id, parent_id, metadata, _, _, checkpoint, packed, exact = row
    address = Address(thread_id, ns, checkpoint_id)
    if isinstance(checkpoint, Foreign):
        return _foreign(address, parent_id, checkpoint, _writes(writes))
    slots: dict[str, Slot] = {}
    damage = None
    try:
        slots = slots_of(checkpoint_id, packed)
    except DecodeError as exc:
        damage = Damage(f"the list of channel values cannot be read: {exc}")
    body = _body(checkpoint, values.place("checkpoint", checkpoint_id, parent_id or ""))
    meta: Any = json.loads(metadata)
    if exact is not None:
        meta = _unsealed(exact, values.place("metadata", checkpoint_id))
    items = {channel: Items(channel, {}) for channel in slots}
    return Inspected(address, parent_id, body, meta, slots, packed, items, {}, damage, _writes(writes))


def _foreign(address: Address, parent_id: str | None, found: Foreign, writes: Sequence[Write]) -> Inspected:
    """A checkpoint of the official tables."""
    try:
        body, slots, meta = found.read(Describer())
    except (DecodeError, ValueError, TypeError, AttributeError) as exc:
        damage = Damage(f"the checkpoint cannot be read: {exc}")
        return Inspected(address, parent_id, damage, {}, {}, b"", {}, {}, None, writes)
    direct = body.pop("channel_values", {})
    items = {channel: Items(channel, {}) for channel in slots}
    return Inspected(address, parent_id, body, meta, slots, b"", items, direct, None, writes)


def damages(found: Inspected) -> Iterator[str]:
    """What of a checkpoint that somebody else stored cannot be read."""
    if isinstance(found.body, Damage):
        yield found.body.reason
    for channel in (*found.direct, *found.slots):
        value = found.value(channel)
        if isinstance(value, Damage):
            yield f"channel {channel!r}: {value.reason}"
    for write in found.writes:
        if isinstance(write.value, Damage):
            yield f"a pending write to {write.channel!r} of task {write.task_id!r}: {write.value.reason}"


def _body(sealed: bytes, start: int) -> dict[str, Any] | Damage:
    found = _unsealed(sealed, start)
    if isinstance(found, list):
        try:
            *stored, _ = found
            return restored(stored)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
            return Damage(f"the checkpoint is damaged: {exc}")
    return found if isinstance(found, Damage) else {"checkpoint": found}


def _unsealed(sealed: bytes, start: int) -> Any:
    try:
        return described(values.unseal(sealed, start))
    except DecodeError as exc:
        return Damage(exc.reason)


def _writes(rows: Iterable[Row]) -> list[Write]:
    found = []
    for _, _, _, checkpoint_id, task, path, channel, idx, data, *_ in rows:
        start = values.place("write", checkpoint_id, task, path, str(idx), channel)
        value = _unsealed(data, start)
        found.append(Write(unescape(task), unescape(path), idx, unescape(channel), value))
    with suppress(TypeError):  # a number may be none
        found.sort(key=lambda write: writes_sort_key(write.task_path, write.task_id, write.idx))
    return found


def _shared(checkpoints: Sequence[Inspected]) -> dict[str, set[int]]:
    """By channel, the items that all checkpoints use, if they are of one namespace."""
    if len({one.address[:2] for one in checkpoints}) != 1:
        return {}
    common = set.intersection(*(set(one.slots) for one in checkpoints))
    found: dict[str, set[int]] = {}
    for channel in common:
        manifests = [slot for one in checkpoints if isinstance(slot := one.slots[channel], Manifest)]
        if len(manifests) == len(checkpoints) and len({manifest.kind for manifest in manifests}) == 1:
            found[channel] = set.intersection(*(set(manifest.seqs) for manifest in manifests))
    return found


async def _fetch(one: Inspected, wanted: Mapping[str, Slot], shared: Mapping[str, set[int]], tx: Tx) -> None:
    """Fetch the items of some channels of a checkpoint.

    Raises:
        ItemLost: if the checkpoint has changed since it was read.
    """
    thread_id, ns, checkpoint_id = one.address
    ranges: list[tuple[str, int, int]] = []
    for channel, slot in wanted.items():
        skipped = shared.get(channel, set())
        parts = [(seq, 1) for seq in slot.seqs if seq not in skipped] if isinstance(slot, Manifest) else []
        ranges += [(channel, start, start + count - 1) for start, count in merged(parts)]
    if not ranges:
        return
    places = json.dumps([[thread_id, ns, checkpoint_id]])
    text = json.dumps([[thread_id, ns, escape(channel), first, last] for channel, first, last in ranges])
    unchanged = False
    for at, seq, added_at, checksum, data in await tx.fetch("items", ranges=text, checkpoints=places):
        if at < 0:
            unchanged = data == one.sealed_slots
            continue
        channel = ranges[at][0]
        whole = values.is_item(checksum, data, values.place("item", escape(channel)), seq, added_at)
        one.items[channel].found[seq] = data if whole else Damage(f"item {seq} is damaged: its checksum does not fit")
    if not unchanged:
        raise ItemLost("a checkpoint was removed while it was read")
