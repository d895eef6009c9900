"""The history of delta channels: their writes along the parent chain, back to the nearest stored value.

A `DeltaChannel` stores a value only now and then; in between, its value is what its writes make of the last stored
one. The chain is walked over narrow rows, the writes of the whole chain come in one query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory

from langgraph_checkpoint_dual.core.address import Address, address_of
from langgraph_checkpoint_dual.core.checkpoints import Loaded, in_order, slots_of, writes_of
from langgraph_checkpoint_dual.core.garbage import unhurried
from langgraph_checkpoint_dual.core.items import Slot
from langgraph_checkpoint_dual.core.looks import ItemLost, Look
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

_FIRST_PAGE, _LARGEST_PAGE = 32, 512


@dataclass
class _Walk:
    """One channel's way back: the checkpoints passed, nearest first, and the stored value that it ended at."""

    passed: list[str] = field(default_factory=list)
    seed: Loaded | None = None


async def delta_history(
    store: Store, db: Database, config: RunnableConfig, channels: Sequence[str]
) -> Mapping[str, DeltaChannelHistory]:
    """See `BaseCheckpointSaver.get_delta_channel_history`."""
    if not channels:
        return {}
    address = address_of(config)
    walks, writes, look = await unless_lost(lambda: db.read(partial(_look_back, address, list(channels))))
    weight = look.weight + sum(len(row[8]) for row in writes)
    work = partial(_histories, store, walks, writes, look)
    return await db.compute(weight, partial(unhurried, work))


async def _look_back(address: Address, channels: Sequence[str], tx: Tx) -> tuple[dict[str, _Walk], list[Row], Look]:
    walks = {channel: _Walk() for channel in channels}
    await _walk(address, walks, tx)
    passed = max((walk.passed for walk in walks.values()), key=len)
    rows: list[Row] = []
    if passed:
        chain = json.dumps([[*address[:2], checkpoint_id] for checkpoint_id in passed])
        rows = await tx.fetch("writes", checkpoints=chain, channels=json.dumps([escape(one) for one in channels]))
        if await tx.fetch("present", checkpoints=chain) != [(len(passed),)]:
            raise ItemLost("a checkpoint was removed while its descendants' history was read")
    look = Look({})
    await look.fetch(tx, [walk.seed for walk in walks.values() if walk.seed is not None])
    return walks, rows, look


async def _walk(address: Address, walks: dict[str, _Walk], tx: Tx) -> None:
    """Follow the parents until every channel has met a stored value."""
    if address.checkpoint_id is None:
        head = await tx.fetch("head", thread_id=address.thread_id, checkpoint_ns=address.checkpoint_ns)
        if not head:
            return
        address = address._replace(checkpoint_id=head[0][0])
    open_walks = dict(walks)

    def visit(at: Address, sealed: bytes) -> bool:
        _pass(at, sealed, open_walks)
        return bool(open_walks)

    await ascend(address, tx, visit, list(walks))


async def ascend(at: Address, tx: Tx, visit: Callable[[Address, bytes], bool], channels: Sequence[str]) -> None:
    """Visit the ancestors of a checkpoint and their sealed slots, nearest first, for as long as `visit` says so.

    Args:
        channels: those whose slots `visit` looks at.
    """
    wanted = json.dumps([escape(one) for one in channels])
    more, page = True, _FIRST_PAGE
    while more:
        rows = await tx.fetch("ancestors", **at._asdict(), channels=wanted, limit=page)
        for checkpoint_id, sealed in _nearest_first(rows):
            at = at._replace(checkpoint_id=checkpoint_id)
            if not visit(at, sealed):
                return
        more, page = len(rows) == page, min(4 * page, _LARGEST_PAGE)


def _nearest_first(rows: list[Row]) -> list[Row]:
    """The rows of the `ancestors` query in order, without their depth."""
    return [row[1:] for row in sorted(rows, key=itemgetter(0))]


def _pass(at: Address, sealed: bytes, open_walks: dict[str, _Walk]) -> None:
    slots = slots_at(at, sealed, open_walks)
    for channel, walk in list(open_walks.items()):
        walk.passed.append(at.checkpoint_id or "")
        if channel in slots:
            walk.seed = only(at, channel, slots[channel], sealed)
            del open_walks[channel]


def only(at: Address, channel: str, slot: Slot, sealed: bytes) -> Loaded:
    """A checkpoint of which just one channel is to be read."""
    nothing: Any = {}
    return Loaded(at, None, nothing, {channel: slot}, sealed, nothing, [])


def slots_at(at: Address, sealed: bytes, among: Iterable[str] = ()) -> dict[str, Slot]:
    """As `slots_of`; what goes wrong says where."""
    try:
        return slots_of(at.checkpoint_id or "", sealed, among)
    except DecodeError as exc:
        raise exc.at(**at.where) from exc


def _histories(
    store: Store, walks: Mapping[str, _Walk], rows: Sequence[Row], look: Look
) -> dict[str, DeltaChannelHistory]:
    by_channel: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_channel.setdefault(row[6], {}).setdefault(row[3], []).append(row)
    found: dict[str, DeltaChannelHistory] = {}
    for channel, walk in walks.items():
        by_checkpoint = by_channel.get(escape(channel), {})
        ordered = [
            row
            for checkpoint_id in reversed(walk.passed)
            if checkpoint_id in by_checkpoint
            for row in in_order(by_checkpoint[checkpoint_id])
        ]
        history: DeltaChannelHistory = {"writes": writes_of(store.serde, ordered)}
        if walk.seed is not None:
            history["seed"] = look.values(walk.seed, store.serde)[channel]
        found[channel] = history
    return found
