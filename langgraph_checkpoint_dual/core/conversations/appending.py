"""Adding messages to a thread without its graph: a checkpoint as `update_state` writes it, at the price of what is new.

The contract:

1. What is added means what LangGraph's `add_messages` means, which is asked about just those stored messages that the
   new ones name. An index of their tags (`core/tags.py`) tells which these may be.
2. The new checkpoint takes over the slots of the one that it goes on from, unread; only the channel's differs. The
   channel gets a new version, all else of the checkpoint stays, so the same nodes are due after it as before.
3. All of it happens in one transaction, in which nobody else can put to the thread: of several that append at once each
   is kept.
4. For a delta channel the messages are also stored as a pending write of the checkpoint gone on from, in the same
   transaction: that is where the channel is rebuilt from. Where that checkpoint has pending writes of the channel
   already, or other children, a rebuild would mix them up, so the whole list is stored with the new one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from uuid import UUID, uuid4

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointMetadata
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import TASKS

from langgraph_checkpoint_dual import observing
from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address, config_of
from langgraph_checkpoint_dual.core.checkpoints import Loaded, checkpoint_row, write_row
from langgraph_checkpoint_dual.core.conversations.deltas import is_snapshot, rebuilt, snapshot
from langgraph_checkpoint_dual.core.conversations.reading import (
    LARGEST_READ,
    NO_MESSAGE,
    ListedItems,
    Spot,
    View,
    not_a_list,
    value_at,
)
from langgraph_checkpoint_dual.core.history import only
from langgraph_checkpoint_dual.core.items import LIST, Inline, Manifest, NewItem, Planned, Planner, Range, Slot, cut
from langgraph_checkpoint_dual.core.looks import Look
from langgraph_checkpoint_dual.core.metadata import merged_metadata
from langgraph_checkpoint_dual.core.putting import item_rows, planner_of
from langgraph_checkpoint_dual.core.queries import fetch_where
from langgraph_checkpoint_dual.core.registry import thread_row
from langgraph_checkpoint_dual.core.rows import Guard, Outcome, Put, PutWrites, size_of
from langgraph_checkpoint_dual.core.store import ATTEMPTS, Store
from langgraph_checkpoint_dual.core.tags import hash_of_id, place_of
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.times import micros_of
from langgraph_checkpoint_dual.core.trimming import Succession, succession, trim
from langgraph_checkpoint_dual.core.tx import Database, Reads, Tx, stored
from langgraph_checkpoint_dual.core.versions import highest_version
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError, EncodeError

T = TypeVar("T")
NextVersion: TypeAlias = Callable[[Any, None], Any]
_COUNTERS = "counters_since_delta_snapshot"
_FORMAT = 4
"""LangGraph's version of the format of checkpoints."""
_REMOVE_ALL = "__remove_all__"
_WEIGHT = 200
"""About how many bytes a message has."""


class _New(NamedTuple):
    """Messages to add. `named` are the ids that they came with; the others have got one just now."""

    messages: list[BaseMessage]
    named: frozenset[str]


class _Base(NamedTuple):
    """The checkpoint to go on from; `None` if the thread has none. `is_latest` tells whether it has no later one."""

    checkpoint: Loaded | None
    is_latest: bool
    foreign: Mapping[str, Any] | None = None
    """The values of a checkpoint that another saver stored: nothing of it can be used again."""


class _Edit(NamedTuple):
    """How the channel will be stored: its slot and new items, or for a delta channel no slot but a pending write."""

    slot: Slot | None
    items: Sequence[NewItem] = ()
    counts: bool = False
    """Whether delta channels count this update: the list is to be rebuilt from writes."""
    is_snapshot: bool = False
    """Whether a delta channel is stored whole."""


async def append_messages(
    store: Store, db: Database, view: View, config: RunnableConfig, given: Any, next_version: NextVersion
) -> RunnableConfig:
    """Add messages after the view's checkpoint. Returns the config of the new one.

    Raises:
        ConfigError: if there are no messages in what is given, or they cannot be added there.
        EncodeError: if one cannot be stored.
    """
    new = _coerced(given)
    _merged([], _New([], frozenset()))  # what it imports is not to be waited for in the transaction
    fresh = False
    for _ in range(ATTEMPTS):
        planner = planner_of(store.serde, fresh=fresh)
        made: list[Put] = []
        insert = partial(_insert, store, view, config, planner, new, next_version, made)
        outcome = await stored(db.change, insert)
        if outcome is Outcome.STORED:
            observing.stored(size_of(made[-1]))
            if store.after_put is not None:
                await store.after_put(store, db, view.address.thread_id)
            configurable = config["configurable"]
            ns, checkpoint_id = configurable.get("checkpoint_ns") or "", unescape(made[-1].row.checkpoint_id)
            return config_of(configurable["thread_id"], ns, checkpoint_id)
        fresh = outcome is Outcome.SEQ_TAKEN
    raise CheckpointerError(f"the messages could not be stored in {ATTEMPTS} attempts: others kept changing the thread")


class _Within:
    """A transaction as the database of the reads in it."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await look(self._tx)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._tx.compute(weigh, work)


async def _insert(
    store: Store,
    view: View,
    config: RunnableConfig,
    planner: Planner,
    new: _New,
    next_version: NextVersion,
    made: list[Put],
    tx: Tx,
) -> Outcome:
    """Plan and store the new checkpoint, which is the last one `made`, while nobody else puts to the thread."""
    await tx.execute("lock_thread", thread_id=view.address.thread_id)
    base = await _base(store, view, tx)
    try:
        edit = await _edited(store, _Within(tx), view, planner, base, new)
        carried = {
            channel: planner.plan(value, None)
            for channel, value in (base.foreign or {}).items()
            if channel != view.channel
        }
        writes, put, over = _additions(store, view, config, base, edit, carried, new, next_version)
    except EncodeError as exc:
        raise exc.in_channel(view.channel) from exc
    made.append(put)
    outcome = Outcome.STORED if writes is None else await tx.insert(writes)
    if outcome is Outcome.STORED:
        outcome = await tx.insert(put)
    if outcome is Outcome.STORED and over is not None:
        await trim(store.serde, put.row, over, tx)
    return outcome


def _coerced(given: Any) -> _New:
    """What is given as messages, each with an id, as `add_messages` takes and names them."""
    listed = given if isinstance(given, list) else [given]
    try:
        found = [message_chunk_to_message(cast(BaseMessageChunk, one)) for one in convert_to_messages(listed)]
    except NO_MESSAGE as exc:
        raise ConfigError(
            "append takes a message, a pair of role and text, a dict or a text, or a list of these, "
            f"not a {type(given).__name__}: {exc}"
        ) from exc
    if not found:
        raise ConfigError("there is no message to append")
    named = frozenset(message.id for message in found if message.id is not None)
    for message in found:
        if message.id is None:
            message.id = str(uuid4())
    return _New(found, named)


async def _base(store: Store, view: View, tx: Tx) -> _Base:
    """The checkpoint of the view, with its pending writes.

    Raises:
        ConfigError: if the view names one that is not there.
    """
    found = await store.load_rows(tx, await fetch_where(tx, "page", view.address.conditions, limit=1))
    checkpoint_id = view.address.checkpoint_id
    if checkpoint_id is None and not found:
        return _Base(None, True)
    if not found:
        raise ConfigError(f"there is no checkpoint {unescape(checkpoint_id or '')!r} to append to")
    foreign = None if found[0].sealed_slots else _foreign(store, found[0])
    return _Base(found[0], checkpoint_id in (None, await _head(tx, view.address)), foreign)


def _foreign(store: Store, loaded: Loaded) -> Mapping[str, Any]:
    return {**Look({}).values(loaded, store.serde), **loaded.checkpoint["channel_values"]}


async def _head(tx: Tx, at: Address) -> str | None:
    rows = await tx.fetch("head", thread_id=at.thread_id, checkpoint_ns=at.checkpoint_ns)
    return rows[0][0] if rows else None


# --- The list ---


async def _edited(store: Store, db: Reads, view: View, planner: Planner, base: _Base, new: _New) -> _Edit:
    """The channel with the new messages, for each way in which it may be stored."""
    loaded = base.checkpoint
    if loaded is None:
        return await _planned(db, planner, [], new)
    slot = loaded.slots.get(view.channel)
    if base.foreign is not None and view.channel in base.foreign:
        return await _of_value(store, db, view, planner, base, new, base.foreign[view.channel])
    if isinstance(slot, Manifest) and slot.kind == LIST:
        listed = ListedItems(store, view.channel, Spot(loaded.address, loaded.sealed_slots, slot), slot)
        return await _extended(store, db, planner, listed, new)
    if slot is None:
        was_written = view.channel in loaded.checkpoint["channel_versions"]
        return (
            await _rebuilt(store, db, view, planner, base, new) if was_written else await _planned(db, planner, [], new)
        )
    value = await value_at(store, db, view, Spot(loaded.address, loaded.sealed_slots, slot), slot)
    return await _of_value(store, db, view, planner, base, new, value)


async def _of_value(store: Store, db: Reads, view: View, planner: Planner, base: _Base, new: _New, value: Any) -> _Edit:
    """A value that was read whole."""
    if is_snapshot(value):
        return await _rebuilt(store, db, view, planner, base, new)
    if not isinstance(value, list):
        raise not_a_list(view, value)
    return await _planned(db, planner, value, new)


async def _planned(db: Reads, planner: Planner, before: list[Any], new: _New) -> _Edit:
    """The whole list anew."""
    plan = await db.compute(lambda: _WEIGHT * len(before), lambda: planner.plan(_merged(before, new), None))
    return _Edit(plan.stored.slot, plan.items)


async def _rebuilt(store: Store, db: Reads, view: View, planner: Planner, base: _Base, new: _New) -> _Edit:
    """A delta channel: it is rebuilt from writes, unless there are writes that do not lead here."""
    loaded = base.checkpoint
    assert loaded is not None
    if base.is_latest and all(channel != view.channel for _, channel, _ in loaded.writes):
        return _Edit(None, counts=True)
    slot = loaded.slots.get(view.channel)
    own = None if slot is None else only(loaded.address, view.channel, slot, loaded.sealed_slots)
    parts = await rebuilt(store, db, loaded.address, view.channel, view.reducer, own=own)

    def whole() -> Planned:
        return planner.plan(snapshot(view.reducer([part.value for part in parts], [new.messages])), None)

    plan = await db.compute(lambda: _WEIGHT * len(parts), whole)
    return _Edit(plan.stored.slot, plan.items, is_snapshot=True)


async def _extended(store: Store, db: Reads, planner: Planner, listed: ListedItems, new: _New) -> _Edit:
    """A list of items: only messages that the new ones name are read."""
    if any(isinstance(one, RemoveMessage) and one.id == _REMOVE_ALL for one in new.messages):
        return await _planned(db, planner, [], new)
    found = await _named(db, listed, new.named) if new.named else []
    merged = _merged([message for _, message in found], new)
    gone = {message.id for _, message in found} - {message.id for message in merged}
    left = [(place, message) for place, message in found if message.id not in gone]
    replaced = {
        place: now for (place, message), now in zip(left, merged[: len(left)], strict=True) if now is not message
    }
    changes = {**{place: None for place, message in found if message.id in gone}, **replaced}
    plan = _plan(planner, listed.manifest, changes, merged[len(left) :])
    slot = plan.stored.slot
    if isinstance(slot, Manifest) and not slot.ranges:
        slot = Inline(values.encode(store.serde, []))
    return _Edit(slot, plan.items)


def _plan(planner: Planner, manifest: Manifest, changes: Mapping[int, BaseMessage | None], added: list[Any]) -> Planned:
    """A list in which some places hold another message, or none (`None`), and to which some are added."""
    ranges: list[Range] = []
    parts: list[BaseMessage] = []
    done = 0
    for place in sorted(changes):
        ranges += cut(manifest.ranges, done, place)
        message = changes[place]
        if message is not None:
            parts.append(message)
            ranges.append((-len(parts), 1))
        done = place + 1
    ranges += cut(manifest.ranges, done, sum(count for _, count in manifest.ranges))
    for message in added:
        parts.append(message)
        ranges.append((-len(parts), 1))
    return planner.edit(manifest, ranges, parts)


def _merged(before: list[Any], new: _New) -> list[BaseMessage]:
    from langgraph.graph.message import add_messages  # it takes half a second to import

    try:
        return cast("list[BaseMessage]", add_messages(before, cast(Any, list(new.messages))))
    except NO_MESSAGE as exc:
        raise ConfigError(f"the messages cannot be added to what the channel holds: {exc}") from exc


async def _named(db: Reads, listed: ListedItems, ids: frozenset[str]) -> list[tuple[int, BaseMessage]]:
    """The stored messages that have one of these ids, and their places."""
    places = listed.places(await db.read(partial(_tagged, listed, ids)))
    found: list[tuple[int, BaseMessage]] = []
    for start in range(0, len(places), LARGEST_READ):
        some = places[start : start + LARGEST_READ]
        for place, part in zip(some, await listed.parts_at(db, some), strict=True):
            if getattr(part.value, "id", None) in ids:
                found.append((place, part.value))
    return found


async def _tagged(listed: ListedItems, ids: frozenset[str], tx: Tx) -> list[int]:
    """The numbers of the channel's items, of any checkpoint, that may be messages with one of these ids."""
    place = place_of(*listed.place)
    tags = sorted({place | hash_of_id(one) for one in ids})
    rows = await tx.fetch("items_tagged", tags=json.dumps(tags))
    return [seq for *where, seq in rows if tuple(where) == listed.place and isinstance(seq, int)]  # it may be damaged


# --- The checkpoint ---


def _additions(
    store: Store,
    view: View,
    config: RunnableConfig,
    base: _Base,
    edit: _Edit,
    carried: Mapping[str, Planned],
    new: _New,
    next_version: NextVersion,
) -> tuple[PutWrites | None, Put, Succession | None]:
    """What to store: the new checkpoint, for a delta channel a pending write before it, and what goes for it."""
    loaded = base.checkpoint
    parent = view.address._replace(checkpoint_id=loaded.address.checkpoint_id if loaded else None)
    metadata = _metadata(loaded, view.channel, edit)
    checkpoint_id = _id_after(loaded, metadata["step"])
    body = _body(loaded, view.channel, next_version)
    slots = {**(loaded.slots if loaded else {}), **{channel: plan.stored.slot for channel, plan in carried.items()}}
    slots.pop(view.channel, None)
    if edit.slot is not None:
        slots[view.channel] = edit.slot
    merged = merged_metadata(config, cast(CheckpointMetadata, metadata), store.rules.redact)
    over = _succession(store, parent, checkpoint_id, body, slots, merged, view.channel if edit.is_snapshot else None)
    own_parent = parent if over is None or over.is_rebuilt else parent._replace(checkpoint_id=None)
    row = checkpoint_row(store.serde, own_parent, checkpoint_id, body, slots, merged)
    items = item_rows(parent, escape(view.channel), edit.items, micros_of(body["ts"]))
    for channel, plan in carried.items():
        items += item_rows(parent, escape(channel), plan.items, micros_of(body["ts"]))
    guard = Guard(row.checkpoint_ns, parent.checkpoint_id or "", loaded.sealed_slots or None) if loaded else None
    put = Put(row, items, guard, None if row.checkpoint_ns else thread_row(row.thread_id, merged))
    if edit.slot is not None:
        return None, put, over
    write = write_row(store.serde, parent, str(uuid4()), "", 0, view.channel, new.messages)
    return PutWrites([write], replace=False), put, over


def _succession(
    store: Store,
    parent: Address,
    checkpoint_id: str,
    body: Mapping[str, Any],
    slots: Mapping[str, Slot],
    metadata: Mapping[str, Any],
    snapshotted: str | None,
) -> Succession | None:
    """How the new checkpoint takes its parent's place, for a saver that keeps no history."""
    if store.rules.history != "latest":
        return None
    found = {name: snapshot(None) if name == snapshotted else None for name in slots}
    return succession(parent, checkpoint_id, {**body, "channel_values": found}, metadata)


def _body(loaded: Loaded | None, channel: str, next_version: NextVersion) -> dict[str, Any]:
    """The checkpoint without its id and values, as `update_state` makes it, but that no node is said to have run.

    Raises:
        ConfigError: if the one before holds sends in an old way, which only its graph can move on.
    """
    before: Mapping[str, Any] = loaded.checkpoint if loaded else {"v": _FORMAT, "versions_seen": {}}
    sends = (before.get("channel_values") or {}).get(TASKS) or before.get("pending_sends")
    if sends and before.get("v", _FORMAT) < _FORMAT:
        raise ConfigError(
            "the thread waits in the middle of a step of an old langgraph; run its graph to the end first"
        )
    versions = dict(before.get("channel_versions") or {})
    versions[channel] = next_version(highest_version(versions) if versions else None, None)
    ts = datetime.now(timezone.utc).isoformat()
    return {**before, "ts": ts, "channel_versions": versions, "updated_channels": None}


def _metadata(loaded: Loaded | None, channel: str, edit: _Edit) -> dict[str, Any]:
    """The metadata that `update_state` gives, with what the delta channels count.

    Raises:
        ConfigError: if pending writes to another delta channel would be taken for part of the new checkpoint.
    """
    before: Mapping[str, Any] = loaded.metadata if loaded else {}
    step = before.get("step", -1)
    found = {
        "source": "update",
        "step": step + 1 if isinstance(step, int) else 0,
        "parents": before.get("parents", {}),
    }
    counters = before.get(_COUNTERS)
    counters = dict(counters) if isinstance(counters, Mapping) else {}
    if loaded is not None:
        unclear = {name for _, name, _ in loaded.writes if name in counters and name not in (*loaded.slots, channel)}
        if unclear:
            raise ConfigError(
                f"the thread waits in the middle of a step that changed {', '.join(sorted(unclear))}; "
                "run its graph to the end first, or use the graph's update_state"
            )
    counted = counters.pop(channel, (0, 0))
    found_counters = {name: (updates, steps + 1) for name, (updates, steps) in counters.items()}
    if edit.counts:
        found_counters[channel] = (counted[0] + 1, counted[1] + 1)
    return {**found, _COUNTERS: found_counters} if found_counters else found


def _id_after(loaded: Loaded | None, step: int) -> str:
    """A new id, which is higher than that before even if another machine's clock is ahead."""
    made = str(uuid6(clock_seq=step))
    before = loaded.address.checkpoint_id if loaded else None
    if before is None or made > before:
        return made
    try:
        number = UUID(before).int
    except ValueError:
        return made
    low = (number >> 64 & 0x0FFF) + 1  # the version stands between the low bits of the time and the others
    number += 1 << 64 if low <= 0x0FFF else (1 << 80) - (0x0FFF << 64)
    return str(UUID(int=number))
