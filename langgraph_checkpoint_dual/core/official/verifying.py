"""Whether our tables say the same as the official ones: checkpoints are read through both readers, and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import Loaded, loaded, pending_writes
from langgraph_checkpoint_dual.core.equality import same
from langgraph_checkpoint_dual.core.looks import ItemLost, Look
from langgraph_checkpoint_dual.core.official.moving import Found, Left, fetch, values_apart
from langgraph_checkpoint_dual.core.official.tables import raw_places_of
from langgraph_checkpoint_dual.core.rows import CheckpointRow, WriteRow
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError


class Verdict(NamedTuple):
    """What came of comparing some checkpoints."""

    equal: int
    damaged: list[str]
    """Official checkpoints that cannot be read."""
    differences: list[str]
    weight: int
    """About the bytes that were compared, as the official tables hold them."""


class _Ours(NamedTuple):
    """What we have of some checkpoints, by place: rows in the shape of the `page` query."""

    checkpoints: dict[Row, Row]
    writes: dict[Row, list[Row]]
    loaded: dict[Row, Loaded]
    look: Look


async def compare(store: Store, db: Database, wanted: dict[str, list[Left]]) -> Verdict:
    """Compare some checkpoints, by (escaped) thread. Writes that were put since may be among ours, too."""
    theirs = await db.read(partial(fetch, wanted))
    weight = sum(found.weight for found in theirs.values())
    places = [row[1:4] for found in theirs.values() for row in found.checkpoints]
    try:
        faults = await _compared(store, db, theirs, places, weight)
    except ItemLost:  # one of them is damaged, or somebody removes checkpoints
        faults = {}
        for place in places:
            faults.update(await _alone(store, db, theirs[place[0]], place))
    damaged = [str(fault) for fault in faults.values() if isinstance(fault, DecodeError)]
    differing = {place: fault for place, fault in faults.items() if isinstance(fault, str)}
    gone = set(differing) - await _present(db, list(differing))
    differences = [f"{Address(*place).where}: {fault}" for place, fault in differing.items() if place not in gone]
    return Verdict(len(places) - len(faults), damaged, differences, weight)


async def _alone(store: Store, db: Database, theirs: Found, place: Row) -> dict[Row, str | DecodeError]:
    """As `_compared`, of one checkpoint; what is lost again and again is damaged."""
    mine = theirs._replace(checkpoints=[row for row in theirs.checkpoints if row[1:4] == place])
    try:
        return await unless_lost(partial(_compared, store, db, {place[0]: mine}, [place], theirs.weight))
    except ItemLost as exc:
        return {place: f"damaged: {exc}"}


async def _compared(
    store: Store, db: Database, theirs: dict[str, Found], places: Sequence[Row], weight: int
) -> dict[Row, str | DecodeError]:
    """What is wrong with these checkpoints: why theirs cannot be read, or what of ours is not the same."""
    ours = await db.read(partial(_own, store, places))
    return await db.compute(lambda: weight + ours.look.weight, partial(_faults, store, theirs, ours))


async def _own(store: Store, places: Sequence[Row], tx: Tx) -> _Ours:
    keys = json.dumps(places)
    rows = {row[:3]: _page_row(CheckpointRow(*row)) for row in await tx.fetch("rows_of_checkpoints", checkpoints=keys)}
    writes: dict[Row, list[Row]] = {}
    for row in await tx.fetch("rows_of_writes", checkpoints=keys):
        one = WriteRow(*row)
        writes.setdefault(one[:3], []).append((1, *one[:4], one.task_path, one.channel, one.idx, one.data, None, None))
    found: dict[Row, Loaded] = {}
    for place, page_row in rows.items():
        try:
            found[place] = loaded(store.serde, page_row, [])
        except DecodeError:
            continue  # it is told when it is compared
    look = Look({})
    await look.fetch(tx, list(found.values()))
    return _Ours(rows, writes, found, look)


def _page_row(row: CheckpointRow) -> Row:
    thread_id, ns, checkpoint_id, parent_id, _, checkpoint, slots, metadata, exact = row
    return (0, thread_id, ns, checkpoint_id, parent_id, metadata, None, 0, checkpoint, slots, exact)


def _faults(store: Store, theirs: dict[str, Found], ours: _Ours) -> dict[Row, str | DecodeError]:
    faults: dict[Row, str | DecodeError] = {}
    for found in theirs.values():
        written: dict[Row, list[Row]] = {}
        for row in found.writes:
            written.setdefault(row[1:4], []).append(row)
        for row in found.checkpoints:
            place = row[1:4]
            fault = _fault(store, row, written.get(place, []), ours)
            if fault is not None:
                faults[place] = fault
    return faults


def _fault(store: Store, row: Row, writes: list[Row], ours: _Ours) -> str | DecodeError | None:
    try:
        theirs = loaded(store.serde, row, writes)
        apart = values_apart(store.serde, theirs)
    except DecodeError as exc:
        return exc
    place = row[1:4]
    if place not in ours.checkpoints:
        return "missing"
    try:
        mine = ours.loaded.get(place) or loaded(store.serde, ours.checkpoints[place], [])
        stored = ours.look.values(mine, store.serde)
        pending_writes(store.serde, ours.writes.get(place, []))
    except ItemLost:
        raise
    except DecodeError as exc:
        return f"damaged: {exc}"
    if not same({**theirs.checkpoint["channel_values"], **apart}, {**stored}):
        return "values"
    return _difference(theirs, mine) or _missing(writes, ours.writes.get(place, []))


def _difference(theirs: Loaded, ours: Loaded) -> str | None:
    if not same(_body(theirs), _body(ours)):
        return "the checkpoint"
    if not same(dict(theirs.metadata), dict(ours.metadata)):
        return "metadata"
    if theirs.parent_id != ours.parent_id and ours.parent_id is not None:
        return "the parent"
    return None


def _missing(theirs: list[Row], ours: list[Row]) -> str | None:
    stored = {(one[4], one[7]) for one in ours}
    return None if all((one[4], one[7]) in stored for one in theirs) else "pending writes"


def _body(found: Loaded) -> dict[str, Any]:
    skipped = ("channel_values", "id")
    return {key: value for key, value in found.checkpoint.items() if key not in skipped}


async def _present(db: Database, places: Sequence[Row]) -> set[Row]:
    """Those of some places that were not removed since they were read."""
    if not places:
        return set()

    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch("official_present", checkpoints=raw_places_of(places))

    raw = {tuple(row) for row in await db.read(look)}
    return {place for place in places if tuple(json.loads(raw_places_of([place]))[0]) in raw}
