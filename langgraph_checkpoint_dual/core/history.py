"""The history of delta channels: their writes along the parent chain, back to the nearest stored value.

A `DeltaChannel` stores a value only now and then; in between, its value is what its writes make of the last stored
one. The chain is walked over narrow rows, which are read in the order of their ids as long as most of them are of the
chain, and one by one where they are not. The writes of the whole chain come in one query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory

from langgraph_checkpoint_dual.core.address import Address, address_of
from langgraph_checkpoint_dual.core.checkpoints import Loaded, in_order, may_have, slots_of, writes_of
from langgraph_checkpoint_dual.core.garbage import unhurried
from langgraph_checkpoint_dual.core.items import Slot
from langgraph_checkpoint_dual.core.looks import ItemLost, Look
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

_FIRST_PAGE, _LARGEST_PAGE = 32, 512
Visit: TypeAlias = Callable[[Sequence[Row]], bool]


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
    work = partial(_histories, store, walks, writes, look)
    return await db.compute(lambda: look.weight + sum(len(row[8]) for row in writes), partial(unhurried, work))


async def _look_back(address: Address, channels: Sequence[str], tx: Tx) -> tuple[dict[str, _Walk], list[Row], Look]:
    walks = {channel: _Walk() for channel in channels}
    await _walk(address, walks, tx)
    passed = max((walk.passed for walk in walks.values()), key=len)
    rows: list[Row] = []
    if passed:
        rows = await writes_on(address, passed, channels, tx)
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
    await ascend(address, tx, lambda found: _pass(address, found, open_walks), list(walks))


async def writes_on(at: Address, passed: Sequence[str], channels: Sequence[str], tx: Tx) -> list[Row]:
    """The rows of the writes to some channels on some checkpoints of a namespace.

    Raises:
        ItemLost: if one of the checkpoints is not there any more.
    """
    names, ids = json.dumps([escape(one) for one in channels]), json.dumps(passed)
    place = {"thread_id": at.thread_id, "checkpoint_ns": at.checkpoint_ns}
    rows = await tx.fetch("writes_of_chain", **place, checkpoint_ids=ids, channels=names)
    if [row[7] for row in rows if row[0] == 2] != [len(passed)]:
        raise ItemLost("a checkpoint was removed while its descendants' history was read")
    return [row for row in rows if row[0] == 1]


async def ascend(at: Address, tx: Tx, visit: Visit, channels: Sequence[str]) -> None:
    """Visit the ancestors of a checkpoint, some at a time, for as long as `visit` says so.

    Args:
        visit: takes ids and sealed slots, nearest first.
        channels: those whose slots `visit` looks at.
    """
    page, passed, read = _FIRST_PAGE, 1, 1
    while 2 * passed > read:  # most of what was read was of the chain
        rows = await tx.fetch("older", **at._asdict(), limit=page)
        found, parent = _chain(rows, at.checkpoint_id)
        if len(found) > 1 and not visit(found[1:]):
            return
        if found and parent is None:
            return
        if len(found) < 2:  # the parent has a higher id, or is elsewhere
            break
        at = at._replace(checkpoint_id=found[-1][0])
        passed, read, page = len(found), len(rows), min(4 * page, _LARGEST_PAGE)
    await _ascend_by_steps(at, tx, visit, channels)


def _chain(rows: Iterable[Row], start: str | None) -> tuple[list[Row], str | None]:
    """Those rows of the `older` query that follow from one to its parent, and the parent of the last."""
    found: list[Row] = []
    wanted = start
    for checkpoint_id, parent, sealed in rows:
        if checkpoint_id == wanted:
            found.append((checkpoint_id, sealed))
            wanted = parent
    return found, wanted


async def _ascend_by_steps(at: Address, tx: Tx, visit: Visit, channels: Sequence[str]) -> None:
    wanted = json.dumps([escape(one) for one in channels])
    more, page = True, _FIRST_PAGE
    while more:
        rows = _nearest_first(await tx.fetch("ancestors", **at._asdict(), channels=wanted, limit=page))
        if not rows or not visit(rows):
            return
        at = at._replace(checkpoint_id=rows[-1][0])
        more, page = len(rows) == page, min(4 * page, _LARGEST_PAGE)


def _nearest_first(rows: list[Row]) -> list[Row]:
    """The rows of the `ancestors` query in order, without their depth."""
    return [row[1:] for row in sorted(rows, key=itemgetter(0))]


def _pass(at: Address, found: Sequence[Row], open_walks: dict[str, _Walk]) -> bool:
    """Note the next ancestors, and the values that they store; whether any channel has met none yet."""
    try:
        may = may_have(found, open_walks)
    except (DecodeError, ValueError, TypeError):
        may = [True] * len(found)  # which one is damaged is told by a closer look, if they are still wanted then
    for (checkpoint_id, sealed), maybe in zip(found, may, strict=True):
        for walk in open_walks.values():
            walk.passed.append(checkpoint_id)
        if maybe:
            _look_for_seeds(at._replace(checkpoint_id=checkpoint_id), sealed, open_walks)
            if not open_walks:
                return False
    return True


def _look_for_seeds(at: Address, sealed: bytes, open_walks: dict[str, _Walk]) -> None:
    slots = slots_at(at, sealed, open_walks)
    for channel, walk in list(open_walks.items()):
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
