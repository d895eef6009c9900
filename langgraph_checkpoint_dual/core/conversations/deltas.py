"""The list in a delta channel, rebuilt without the graph that it belongs to.

Its value is what the channel's reducer makes of the last stored value and of the writes since, which are found on the
checkpoint's ancestors. The reducer is the graph's; the one of LangGraph for messages stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langgraph.checkpoint.base import PendingWrite
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import Loaded, pending_writes
from langgraph_checkpoint_dual.core.history import ascend, only, slots_at, writes_on
from langgraph_checkpoint_dual.core.items import LIST, Manifest
from langgraph_checkpoint_dual.core.looks import Look, Part
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.times import micros_of_id
from langgraph_checkpoint_dual.core.tx import Reads, Row, Tx

Reducer: TypeAlias = Callable[[Any, Sequence[Any]], Any]


def messages_reducer(state: Any, writes: Sequence[Any]) -> Any:
    """LangGraph's reducer of messages in a delta channel."""
    from langgraph.graph.message import _messages_delta_reducer  # it takes half a second to import

    return _messages_delta_reducer(state, list(writes))


def snapshot(value: Any) -> Any:
    """A value as delta channels store it where they do."""
    return _DeltaSnapshot(value)


def is_snapshot(value: Any) -> bool:
    """Whether a delta channel stored this."""
    return isinstance(value, _DeltaSnapshot)


def without_snapshot(value: Any) -> Any:
    """The value that a delta channel stored, or any other one as it is."""
    return value.value if is_snapshot(value) else value


class _Way(NamedTuple):
    """The way back from a checkpoint: its ancestors, nearest first, the writes on them, and the stored value met."""

    start: str
    passed: list[str]
    replayed: int
    """How many of the ancestors bear writes that the stored value does not hold yet."""
    seed: Loaded | None
    rows: list[Row]
    look: Look


async def rebuilt(
    store: Store,
    db: Reads,
    at: Address,
    channel: str,
    reducer: Reducer,
    *,
    own: Loaded | None = None,
    dated: bool = False,
) -> list[Part]:
    """The elements of the list that a delta channel holds in a checkpoint.

    Args:
        own: the checkpoint itself, with just this channel, if it stores the list.
        dated: find the times of all messages, as far back as there are ancestors, rather than only of those since the
            last stored value.
    """
    way = await unless_lost(lambda: db.read(partial(_look_back, at, channel, own, dated)))
    return await db.compute(
        lambda: way.look.weight + sum(len(row[8]) for row in way.rows),
        partial(_replayed, store, way, channel, reducer),
    )


async def _look_back(at: Address, channel: str, own: Loaded | None, dated: bool, tx: Tx) -> _Way:
    passed: list[str] = []
    seeds = [] if own is None else [(0, own)]

    def visit(found: Sequence[Row]) -> bool:
        for checkpoint_id, sealed in found:
            passed.append(checkpoint_id)
            here = at._replace(checkpoint_id=checkpoint_id)
            slot = None if seeds else slots_at(here, sealed, [channel]).get(channel)
            if slot is not None:
                seeds.append((len(passed), only(here, channel, slot, sealed)))
            if seeds and not dated:
                return False
        return True

    if dated or not seeds:
        await ascend(at, tx, visit, [channel])
    rows: list[Row] = []
    if passed:
        rows = await writes_on(at, passed, [channel], tx)
    replayed, seed = seeds[0] if seeds else (len(passed), None)
    look = Look({})
    await look.fetch(tx, [] if seed is None else [seed])
    return _Way(at.checkpoint_id or "", passed, replayed, seed, rows, look)


def _replayed(store: Store, way: _Way, channel: str, reducer: Reducer) -> list[Part]:
    from langgraph.channels.delta import DeltaChannel

    times: dict[str, int] = {}
    writes: list[PendingWrite] = []
    by_checkpoint: dict[str, list[Row]] = {}
    for row in way.rows:
        by_checkpoint.setdefault(row[3], []).append(row)
    for place in reversed(range(len(way.passed))):
        found = pending_writes(store.serde, by_checkpoint.get(way.passed[place], []))
        child = way.passed[place - 1] if place else way.start
        times.update((key, micros_of_id(child)) for _, _, value in found for key in _ids(value))
        if place < way.replayed:
            writes += found
    channels: Any = DeltaChannel(reducer, list)
    if way.seed is not None:
        value, stored = _stored(store, way.seed, way.look, channel)
        times = {**stored, **times}
        channels = channels.from_checkpoint(value)
    else:
        channels.value = []
    channels.replay_writes(writes)
    return [Part(one, times.get(_id(one) or "", 0), 0) for one in channels.get()]


def _stored(store: Store, seed: Loaded, look: Look, channel: str) -> tuple[Any, dict[str, int]]:
    """The stored value, and the times of its elements if they are items of their own."""
    slot = seed.slots[channel]
    if isinstance(slot, Manifest) and slot.kind == LIST:
        parts = look.parts(seed, channel, store.serde)
        return [part.value for part in parts], {_id(part.value) or "": part.added_at for part in parts}
    return look.values(seed, store.serde)[channel], {}


def _ids(written: Any) -> list[str]:
    """The ids of the messages in one write."""
    value = getattr(written, "value", written)  # of an Overwrite
    messages = value if isinstance(value, (list, tuple)) else [value]
    return [found for found in map(_id, messages) if found]


def _id(message: Any) -> str | None:
    found = message.get("id") if isinstance(message, dict) else getattr(message, "id", None)
    return found if isinstance(found, str) else None
