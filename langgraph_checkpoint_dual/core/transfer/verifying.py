"""Whether two savers say the same of a thread: every checkpoint is read from both, and compared with all its types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual.core.equality import same
from langgraph_checkpoint_dual.core.transfer.exchanging import Place, Side, Walk, place_of
from langgraph_checkpoint_dual.core.transfer.transfers import Meter
from langgraph_checkpoint_dual.errors import DecodeError


async def verify(source: Side, target: Side, meter: Meter, thread_id: str, places: Mapping[Place, str | None]) -> None:
    """Compare every checkpoint of a thread; with `latest_only` those that the target has.

    Args:
        places: those of the source, each with its parent.
    """
    stored = await target.places(thread_id)
    wanted = {place for place in places if place in stored}
    if not meter.options.latest_only:
        meter.report.differences += [_name(thread_id, place, "missing") for place in places.keys() - stored.keys()]
    walks = (
        (source.walk(thread_id, wanted), "damaged in the source"),
        (target.walk(thread_id, wanted), "damaged in the target"),
    )
    waiting: tuple[dict[Place, CheckpointTuple], ...] = {}, {}  # what one side has given, and the other not yet
    for _ in range(len(wanted)):
        for side, (walk, what) in enumerate(walks):
            found = await _next(walk, meter, what)
            if found is None:
                continue
            place = place_of(found)
            other = waiting[1 - side].pop(place, None)
            if other is None:
                waiting[side][place] = found
            else:
                pair = (other, found) if side else (found, other)
                _judge(thread_id, place, *pair, meter)
    meter.tell()


async def _next(walk: Walk, meter: Meter, what: str) -> CheckpointTuple | None:
    """The next checkpoint of a side; one that cannot be read is reported."""
    one = await walk.next()
    if isinstance(one, DecodeError):
        meter.report.differences.append(f"{what}: {one}")
        return None
    return one


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
