"""Moving threads from the official tables into ours: what is read, planned and stored at once.

The contract:

1. The official tables are only read. What has been moved is in both, and ours counts; so nothing is lost by a crash at
   any moment, and nobody who reads or runs meanwhile notices.
2. Progress is noted nowhere. What is left of a thread is what ours lack, found by comparing keys.
3. A *batch* is one transaction: some checkpoints of one thread, or of several short ones, and their pending writes; of
   each thread the oldest first, so that each finds what it shares with its parent stored already. Who removes
   checkpoints meanwhile comes before it or after it, and what is gone then is not brought back.
4. A batch is read and planned outside of that transaction. If its items' numbers are taken, or the checkpoint that it
   builds on has gone, nothing of it is stored, and it is planned again.
5. What cannot be read is left where it is, and noted.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import Loaded, loaded
from langgraph_checkpoint_dual.core.items import Inline
from langgraph_checkpoint_dual.core.looks import Known
from langgraph_checkpoint_dual.core.official.tables import Theirs, opened, own_writes, raw_places_of
from langgraph_checkpoint_dual.core.putting import Putting
from langgraph_checkpoint_dual.core.rows import Put, PutWrites, ThreadRow, WriteRow
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.times import micros_of
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

Place: TypeAlias = tuple[str, str]
"""Namespace and checkpoint, as stored by us."""
Left: TypeAlias = tuple[Place, bool]
"""What is to be moved: a checkpoint with its writes, or (`False`) only writes of it."""
_BATCH_BYTES, FIRST_BATCH, _LARGEST_BATCH = 4 * 1024 * 1024, 4, 512
_KNOWN = 64


class Again(Exception):
    """A batch cannot be stored as it was planned: others have changed a thread. Planned again, it can."""


class Found(NamedTuple):
    """What the official tables have of some checkpoints of a thread: rows as `page` gives them, the writes as ours."""

    checkpoints: list[Row]
    writes: list[Row]
    weight: int


class Plan(NamedTuple):
    """What is to be stored of one thread."""

    mover: Mover
    additions: list[Put | PutWrites]

    @property
    def puts(self) -> list[Put]:
        """The checkpoints of it."""
        return [one for one in self.additions if isinstance(one, Put)]


class Mover:
    """Moves one thread, under its own id or another one.

    Args:
        store: encodes what is moved; its memory is of no use to others, nor theirs to it.
        thread_id: the thread, escaped.
        target: the id in our tables, escaped.
        created_at: when the registry is to have it created, in microseconds since 1970; with its first checkpoint
            unless given.
    """

    def __init__(self, store: Store, thread_id: str, target: str, created_at: int | None = None) -> None:
        self._store, self.thread_id, self.target, self.created_at = store, thread_id, target, created_at
        self._known: OrderedDict[Place, Known] = OrderedDict()
        self._parents: set[Place] = set()
        self._fresh: set[Place] = set()
        self._skipped: set[Place] = set()
        self._sizes: dict[tuple[str, str], int] = {}
        self.damaged: list[str] = []

    async def left(self, tx: Tx) -> list[Left]:
        """What is left, oldest first."""
        return await self.lacking(self.target, tx)

    async def lacking(self, own_id: str, tx: Tx) -> list[Left]:
        """As `left`, of what this thread of ours lacks."""
        rows = await tx.fetch("official_unmoved", thread_id=unescape(self.thread_id), own_id=own_id)
        found: dict[Place, bool] = {}
        for ns, checkpoint_id, whole in rows:  # of a checkpoint, itself before its writes
            found.setdefault((escape(ns), escape(checkpoint_id)), bool(whole))
        return list(found.items())

    def plan(self, found: Found) -> Plan:
        """What to store; pure but for what the mover knows."""
        additions: list[Put | PutWrites] = []
        for row in found.checkpoints:
            if row[2:4] in self._skipped:
                continue
            try:
                additions.append(self._put(row))
            except DecodeError as exc:
                self.damaged.append(str(exc.at(**Address(*row[1:4]).where)))
        tasks: dict[Place, list[WriteRow]] = {}
        for row in found.writes:
            _, _, ns, checkpoint_id, task_id, path, channel, idx, data, *_ = row
            tasks.setdefault((ns, checkpoint_id), []).append(
                WriteRow(self.target, ns, checkpoint_id, task_id, idx, path, channel, data)
            )
        return Plan(self, [*additions, *(PutWrites(sorted(rows), replace=False) for rows in tasks.values())])

    def _put(self, row: Row) -> Put:
        read = loaded(self._store.serde, row, [])
        ns, checkpoint_id = row[2:4]
        body: dict[str, Any] = dict(read.checkpoint)
        channels = {**body.pop("channel_values"), **values_apart(self._store.serde, read)}
        place, parent = (ns, checkpoint_id), (ns, read.parent_id or "")
        base = self._known.get(parent)
        # A second child of one parent would take the numbers that the first one has.
        fresh = place in self._fresh or (base is not None and parent in self._parents)
        at = Address(self.target, ns, read.parent_id)
        putting = Putting(self._store.serde, at, checkpoint_id, body, channels, read.metadata)
        putting.base, putting.fresh = base, fresh
        put, known = putting.plan()
        self._know(place, known)
        self._parents.add(parent)
        return replace(put, thread=_at(put.thread, body))

    def _know(self, place: Place, known: Known) -> None:
        self._known[place] = known
        self._known.move_to_end(place)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    async def look_up(self, db: Database, found: Found) -> None:
        """Find out what is known of the checkpoints of ours that these build on."""
        planned = {row[2:4] for row in found.checkpoints} - self._skipped
        parents = {(row[2], row[4] or "") for row in found.checkpoints}
        for ns, checkpoint_id in sorted(parents - planned - self._known.keys()):
            if not checkpoint_id:
                continue
            try:
                await self._store.tuple_at(db, Address(self.target, ns, checkpoint_id))
            except DecodeError:
                continue
            known = self._store.memory.get(self.target, ns)
            if known is not None and known.checkpoint_id == checkpoint_id:
                self._know((ns, checkpoint_id), known)

    def skip(self, places: Iterable[Place]) -> None:
        """These are not to be moved any more."""
        self._skipped.update(places)

    def renumber(self, places: Iterable[Place]) -> None:
        """The numbers of these checkpoints' items are taken."""
        self._fresh.update(places)

    def size_of(self, row: Row) -> int:
        """The bytes of an official checkpoint, without those that it shares with the one counted before it."""
        theirs: Theirs = row[8]
        size = theirs.size
        for channel, _, data in theirs.values:
            mark = hash(data)
            if self._sizes.get((row[2], channel)) != mark:
                self._sizes[row[2], channel] = mark
                size += len(data or b"")
        return size

    def forget(self) -> None:
        """After `Again`: what was planned was not stored."""
        self._known.clear()
        self._parents.clear()


async def fetch(wanted: Mapping[str, Sequence[Left]], tx: Tx) -> dict[str, Found]:
    """Read some checkpoints, and the writes to them, by (escaped) thread."""
    whole = {(thread_id, *place) for thread_id, places in wanted.items() for place, is_whole in places if is_whole}
    rows = await tx.fetch("official_moved", checkpoints=_keys(wanted))
    found = {thread_id: Found([], [], 0) for thread_id in wanted}
    for row in opened(rows):
        if row[1:4] in whole:
            found[row[1]].checkpoints.append(row)
    for row in own_writes(rows):
        found[row[1]].writes.append(row)
    weights = dict.fromkeys(wanted, 0)
    for row in rows:
        weights[escape(row[1])] += len(row[8] or b"") + len(row[5] or "")
    for one in found.values():
        one.checkpoints.sort(key=lambda row: (row[3], row[2]))
    return {thread_id: one._replace(weight=weights[thread_id]) for thread_id, one in found.items()}


async def store(plans: Sequence[Plan], tx: Tx) -> dict[str, Sequence[Put | PutWrites]]:
    """Store what was planned, in the caller's transaction; returns what was stored, by (escaped) thread.

    Raises:
        Again: if something must be planned again; the transaction must be rolled back.
    """
    await tx.execute("official_lock_threads", threads=json.dumps(sorted(plan.mover.target for plan in plans)))
    alive = await _check(plans, tx)
    puts = [put for plan in plans for put in plan.puts]
    await _check_bases(puts, tx)
    await _check_numbers(plans, tx)
    done: dict[str, Sequence[Put | PutWrites]] = {}
    writes: list[WriteRow] = []
    for plan in plans:
        mine = alive[plan.mover.thread_id]
        kept = [one for one in plan.additions if isinstance(one, PutWrites) and _place(one) in mine]
        writes += [row for one in kept for row in one.rows]
        done[plan.mover.thread_id] = [*plan.puts, *kept]
    await tx.load("load_items", [item for put in puts for item in put.items])
    await tx.load("insert_checkpoint", [put.row for put in puts])
    await tx.load("move_write", writes)
    for plan in plans:
        await _register(plan, tx)
    return done


async def _check(plans: Sequence[Plan], tx: Tx) -> dict[str, set[Place]]:
    """Find out whether everything may be stored as it is planned; returns what of it is still to be moved."""
    places = {plan.mover.thread_id: [_place(one) for one in plan.additions] for plan in plans}
    alive: dict[str, set[Place]] = {thread_id: set() for thread_id in places}
    keys = _keys({thread_id: [(place, True) for place in some] for thread_id, some in places.items()})
    for thread_id, ns, checkpoint_id in await tx.fetch("official_present", checkpoints=keys):
        alive[escape(thread_id)].add((escape(ns), escape(checkpoint_id)))
    own = json.dumps([[plan.mover.target, *place] for plan in plans for place in places[plan.mover.thread_id]])
    ours = {row[1:4] for row in await tx.fetch("places", checkpoints=own)}
    again = False
    for plan in plans:
        put = {_place(one) for one in plan.puts}
        gone = {place for place in put if (plan.mover.target, *place) in ours} | (put - alive[plan.mover.thread_id])
        plan.mover.skip(gone)
        again = again or bool(gone)
    if again:
        raise Again
    return alive


async def _check_bases(puts: Sequence[Put], tx: Tx) -> None:
    stored = {put.row[:3] for put in puts}
    for put in puts:
        guard = put.guard
        if guard is not None and (put.thread_id, guard.checkpoint_ns, guard.checkpoint_id) not in stored:
            at = Address(put.thread_id, guard.checkpoint_ns, guard.checkpoint_id)
            rows = await tx.fetch("slots", **at._asdict())
            if [(guard.slots,)] != [(bytes(row[0]),) for row in rows]:
                raise Again


async def _check_numbers(plans: Sequence[Plan], tx: Tx) -> None:
    """Nobody else stores items of the threads meanwhile; what was there before may have the numbers."""
    asked = [(plan.mover, put, part) for plan in plans for put in plan.puts for part in _numbers(put)]
    rows = await tx.fetch("official_taken", ranges=json.dumps([part for *_, part in asked])) if asked else []
    again = [asked[int(row[0])][:2] for row in rows]
    taken: set[tuple[Any, ...]] = set()
    for plan in plans:
        for put in plan.puts:
            mine = {item[:4] for item in put.items}
            if len(mine) < len(put.items) or not taken.isdisjoint(mine):
                again.append((plan.mover, put))
            taken |= mine
    for mover, put in again:
        mover.renumber([_place(put)])
    if again:
        raise Again


def _numbers(put: Put) -> list[list[Any]]:
    """The items of a checkpoint as ranges of numbers, one for each channel."""
    seqs: dict[str, list[int]] = {}
    for item in put.items:
        seqs.setdefault(item.channel, []).append(item.seq)
    row = put.row
    return [[row.thread_id, row.checkpoint_ns, channel, min(some), max(some)] for channel, some in seqs.items()]


async def _register(plan: Plan, tx: Tx) -> None:
    rows = [put.thread for put in plan.puts if put.thread is not None]
    times = [row.at for row in rows if row.at]
    if rows and times:
        created_at = plan.mover.created_at
        await tx.execute(
            "official_register",
            thread_id=plan.mover.target,
            created_at=min(times) if created_at is None else created_at,
            updated_at=max(times),
            user_id=next((row.user_id for row in reversed(rows) if row.user_id is not None), None),
            title=next((row.title for row in reversed(rows) if row.title is not None), None),
            run_metadata=rows[-1].run_metadata,
        )


async def copy(mover: Mover, tx: Tx) -> None:
    """Copy what only the official tables have of a thread, in the caller's transaction, which is alone with the target.

    Raises:
        Again: if the transaction must be rolled back and repeated, with the same mover.
        DecodeError: if a checkpoint cannot be read.
    """
    mover.forget()
    mover.damaged.clear()
    places = await mover.lacking(mover.thread_id, tx)
    size = FIRST_BATCH
    while places:
        batch, places = places[:size], places[size:]
        found = (await fetch({mover.thread_id: batch}, tx))[mover.thread_id]
        plan = await tx.compute(partial(_weight, found), partial(mover.plan, found))
        if mover.damaged:
            raise DecodeError(f"the thread cannot be copied: {mover.damaged[0]}")
        try:
            await store([plan], tx)
        except Again:
            mover.forget()
            raise
        size = next_size(size, found.weight)


def values_apart(serde: SerializerProtocol, found: Loaded) -> dict[str, Any]:
    """The values of an official checkpoint that are stored apart from it."""
    return {
        channel: values.decode(serde, slot.data) for channel, slot in found.slots.items() if isinstance(slot, Inline)
    }


def _at(row: ThreadRow | None, body: Mapping[str, Any]) -> ThreadRow | None:
    return None if row is None else row._replace(at=micros_of(body.get("ts")))


def _place(addition: Put | PutWrites) -> Place:
    row = addition.row if isinstance(addition, Put) else addition.rows[0]
    return row.checkpoint_ns, row.checkpoint_id


def _keys(wanted: Mapping[str, Sequence[Left]]) -> str:
    return raw_places_of((thread_id, *place) for thread_id, places in wanted.items() for place, _ in places)


def _weight(found: Found) -> int:
    return found.weight


def next_size(size: int, weight: int) -> int:
    """How many checkpoints the next batch has, after one of this size and weight."""
    return max(1, min(max(size, FIRST_BATCH) * 4, _LARGEST_BATCH, _BATCH_BYTES * size // max(1, weight)))
