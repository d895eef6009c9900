"""Whether two savers say the same of a thread: every checkpoint is read from both, and compared with all its types."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual.core.equality import same
from langgraph_checkpoint_dual.core.transfer.exchanging import Place, Side, place_of
from langgraph_checkpoint_dual.core.transfer.transfers import Meter
from langgraph_checkpoint_dual.errors import DecodeError


async def verify(source: Side, target: Side, meter: Meter, thread_id: str) -> None:
    """Compare every checkpoint of a thread; with `latest_only` those that the target has."""
    places = await source.places(thread_id)
    stored = await target.places(thread_id)
    wanted = {place for place in places if place in stored}
    if not meter.options.latest_only:
        meter.report.differences += [_name(thread_id, place, "missing") for place in places.keys() - stored.keys()]
    ours, theirs = source.walk(thread_id, wanted), target.walk(thread_id, wanted)
    left: dict[Place, CheckpointTuple] = {}
    right: dict[Place, CheckpointTuple] = {}
    for _ in range(len(wanted)):
        await _step(ours, left, meter, "damaged in the source")
        await _step(theirs, right, meter, "damaged in the target")
        for place in left.keys() & right.keys():
            _judge(thread_id, place, left.pop(place), right.pop(place), meter)
    meter.tell()


async def _step(walk: Any, found: dict[Place, CheckpointTuple], meter: Meter, what: str) -> None:
    one = await walk.next()
    if isinstance(one, DecodeError):
        meter.report.differences.append(f"{what}: {one}")
    elif one is not None:
        found[place_of(one)] = one


def _judge(thread_id: str, place: Place, first: CheckpointTuple, second: CheckpointTuple, meter: Meter) -> None:
    what = _difference(first, second, parents=not meter.options.latest_only)
    if what is None:
        meter.report.verified += 1
    else:
        meter.report.differences.append(_name(thread_id, place, what))


def _difference(first: CheckpointTuple, second: CheckpointTuple, *, parents: bool) -> str | None:
    """What is not the same; `None` if everything is."""
    one, two = _body(first), _body(second)
    values, others = one.pop("channel_values"), two.pop("channel_values")
    lacking = [channel for channel in values.keys() ^ others.keys() if not _is_snapshot({**values, **others}[channel])]
    if lacking:
        return f"channels {sorted(lacking)}"
    for channel in values.keys() & others.keys():
        if not same(values[channel], others[channel]):
            return f"channel {channel!r}"
    if not same(one, two):
        return "the checkpoint"
    if not same(dict(first.metadata), dict(second.metadata)):
        return "metadata"
    if not same(list(first.pending_writes or []), list(second.pending_writes or [])):
        return "pending writes"
    if parents and first.parent_config != second.parent_config:
        return "the parent"
    return None


def _is_snapshot(value: Any) -> bool:
    """Whether this is the stored value of a delta channel.

    Savers that store values by version give it with the checkpoints that follow, too, until the version is another one.
    """
    return isinstance(value, _DeltaSnapshot)


def _body(found: CheckpointTuple) -> dict[str, Any]:
    return {name: value for name, value in found.checkpoint.items() if (name, value) != ("pending_sends", [])}


def _name(thread_id: str, place: Place, what: str) -> str:
    return f"thread {thread_id!r}, namespace {place[0]!r}, checkpoint {place[1]!r}: {what}"
