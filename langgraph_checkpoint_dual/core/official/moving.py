"""Moving threads from the official tables into ours: in batches, while runs go on.

The contract:

1. The official tables are only read. What has been moved is in both, and ours counts; so nothing is lost by a crash at
   any moment, and nobody who reads or runs meanwhile notices.
2. Progress is noted nowhere. What is left of a thread is what ours lack, found by comparing keys. Whoever is killed
   begins again and soon is where he was, several may work at once, and a second move brings over what is new.
3. A *batch* is one transaction: some checkpoints of one thread, oldest first, so that each finds what it shares with
   its parent stored already, and their pending writes. Who removes checkpoints meanwhile comes before it or after it,
   and what is gone then is not brought back.
4. A batch is read and planned outside of that transaction. If its items' numbers are taken, or the checkpoint that it
   builds on has gone, nothing of it is stored, and it is planned again.
5. What cannot be read is left where it is, and reported.
6. The official tables are dropped in the transaction that finds, alone with them, that nothing of them is left.
"""

from __future__ import annotations

import json
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import Loaded, loaded, pending_writes
from langgraph_checkpoint_dual.core.equality import same
from langgraph_checkpoint_dual.core.items import Inline
from langgraph_checkpoint_dual.core.looks import Known, Look
from langgraph_checkpoint_dual.core.official.tables import Theirs, opened, own_writes, raw_places_of
from langgraph_checkpoint_dual.core.rows import Put, PutWrites, ThreadRow, WriteRow, size_of
from langgraph_checkpoint_dual.core.store import ATTEMPTS, Store, unless_lost
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.times import micros_of
from langgraph_checkpoint_dual.core.tx import Database, Row, TableGone, Tx
from langgraph_checkpoint_dual.errors import CheckpointerError, DecodeError

T = TypeVar("T")
Place = tuple[str, str]
"""Namespace and checkpoint, as stored by us."""
_BATCH_BYTES, _FIRST_BATCH, _LARGEST_BATCH = 4 * 1024 * 1024, 4, 128
_KNOWN = 64
_THREADS = 256
_TOLD = 10


class Progress(NamedTuple):
    """How far a move is. Totals are those of its begin."""

    threads: int
    threads_total: int
    checkpoints: int
    checkpoints_total: int
    bytes_before: int
    """Bytes of what was moved, as the official tables hold it."""
    bytes_after: int
    """The bytes of the same in ours."""
    seconds: float
    seconds_left: float | None


@dataclass
class Report:
    """What a move did, or with `dry_run` would do."""

    threads: int = 0
    """Threads that were looked at."""
    checkpoints: int = 0
    """Checkpoints that were moved."""
    there: int = 0
    """Checkpoints that had been moved before."""
    writes: int = 0
    """Pending writes that were moved."""
    bytes_before: int = 0
    """Bytes of what was moved, as the official tables hold it."""
    bytes_after: int = 0
    """The bytes of the same in ours."""
    verified: int = 0
    """Checkpoints that were read from both and found equal."""
    damaged: list[str] = field(default_factory=list)
    """Checkpoints that cannot be read, and so were not moved."""
    differences: list[str] = field(default_factory=list)
    """Checkpoints that `verify` did not find equal."""
    dropped: bool = False
    """Whether the official tables were dropped."""
    seconds: float = 0.0
    """How long it took."""


class MoveError(CheckpointerError):
    """A move that ended with checkpoints that could not be moved as they are; all others were, and nothing was dropped.

    Attributes:
        report: what was moved, and what was not.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        parts = (
            _told("checkpoints cannot be read", report.damaged),
            _told("checkpoints differ after the move", report.differences),
        )
        super().__init__("; ".join(part for part in parts if part))


class Options(NamedTuple):
    """What is asked for."""

    dry_run: bool = False
    verify: bool = False
    drop: bool = False
    on_progress: Callable[[Progress], object] | None = None


class Again(Exception):
    """A batch cannot be stored as it was planned: others have changed the thread. Planned again, it can."""


class _Found(NamedTuple):
    """What the official tables have of some checkpoints of a thread: rows as `page` gives them, the writes as ours."""

    checkpoints: list[Row]
    writes: list[Row]
    weight: int


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
        self._store, self.thread_id, self._target, self._created_at = store, thread_id, target, created_at
        self._known: OrderedDict[Place, Known] = OrderedDict()
        self._parents: set[Place] = set()
        self._fresh: set[Place] = set()
        self._skipped: set[Place] = set()
        self._sizes: dict[tuple[str, str], int] = {}
        self.damaged: list[str] = []

    async def left(self, tx: Tx) -> list[tuple[Place, bool]]:
        """What is left, oldest first: checkpoints that we lack, and (`False`) others of which we lack a write."""
        return await self.lacking(self._target, tx)

    async def lacking(self, own_id: str, tx: Tx) -> list[tuple[Place, bool]]:
        """As `left`, of what this thread of ours lacks."""
        rows = await tx.fetch("official_unmoved", thread_id=unescape(self.thread_id), own_id=own_id)
        found: dict[Place, bool] = {}
        for ns, checkpoint_id, whole in rows:  # of a checkpoint, itself before its writes
            found.setdefault((escape(ns), escape(checkpoint_id)), bool(whole))
        return list(found.items())

    async def fetch(self, places: Sequence[tuple[Place, bool]], tx: Tx) -> _Found:
        """Read some checkpoints, and the writes to them."""
        keys = _keys(self.thread_id, [place for place, _ in places])
        whole = {(self.thread_id, *place) for place, is_whole in places if is_whole}
        rows = await tx.fetch("official_moved", checkpoints=keys)
        checkpoints = [row for row in opened(rows) if row[1:4] in whole]
        checkpoints.sort(key=lambda row: (row[3], row[2]))
        return _Found(checkpoints, own_writes(rows), sum(len(row[8] or b"") + len(row[5] or "") for row in rows))

    def plan(self, found: _Found) -> list[Put | PutWrites]:
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
                WriteRow(self._target, ns, checkpoint_id, task_id, idx, path, channel, data)
            )
        return [*additions, *(PutWrites(sorted(rows), replace=False) for rows in tasks.values())]

    def _put(self, row: Row) -> Put:
        read = loaded(self._store.serde, row, [])
        ns, checkpoint_id = row[2:4]
        body: dict[str, Any] = dict(read.checkpoint)
        channels = {**body.pop("channel_values"), **_opened(self._store.serde, read)}
        place, parent = (ns, checkpoint_id), (ns, read.parent_id or "")
        base = self._known.get(parent)
        # A second child of one parent would take the numbers that the first one has.
        fresh = place in self._fresh or (base is not None and parent in self._parents)
        put, known = self._store.planned(
            Address(self._target, ns, read.parent_id),
            checkpoint_id,
            body,  # type: ignore[arg-type]
            channels,
            read.metadata,
            None,
            base,
            fresh,
        )
        self._know(place, known)
        self._parents.add(parent)
        return replace(put, thread=_at(put.thread, body))

    def _know(self, place: Place, known: Known) -> None:
        self._known[place] = known
        self._known.move_to_end(place)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    async def look_up(self, db: Database, found: _Found) -> None:
        """Find out what is known of the checkpoints of ours that these build on."""
        planned = {row[2:4] for row in found.checkpoints} - self._skipped
        parents = {(row[2], row[4] or "") for row in found.checkpoints}
        for ns, checkpoint_id in sorted(parents - planned - self._known.keys()):
            try:
                await self._store.tuple_at(db, Address(self._target, ns, checkpoint_id))
            except DecodeError:
                continue
            known = self._store.memory.get(self._target, ns)
            if known is not None and known.checkpoint_id == checkpoint_id:
                self._know((ns, checkpoint_id), known)

    async def store(self, additions: Sequence[Put | PutWrites], tx: Tx) -> Sequence[Put | PutWrites]:
        """Store what was planned, in the caller's transaction; returns what was stored.

        Raises:
            Again: if something must be planned again; the transaction must be rolled back.
        """
        await tx.execute("lock_thread", thread_id=self._target)
        puts = [one for one in additions if isinstance(one, Put)]
        alive = await self._check(puts, [_place(one) for one in additions], tx)
        await tx.load("load_items", [item for put in puts for item in put.items])
        await tx.load("insert_checkpoint", [put.row for put in puts])
        writes = [one for one in additions if isinstance(one, PutWrites) and _place(one) in alive]
        await tx.load("move_write", [row for one in writes for row in one.rows])
        await self._register([put.thread for put in puts if put.thread is not None], tx)
        return [*puts, *writes]

    async def _check(self, puts: Sequence[Put], places: Sequence[Place], tx: Tx) -> set[Place]:
        """Find out whether everything may be stored as it is planned; returns what of it is still to be moved."""
        there = await tx.fetch("official_present", checkpoints=_keys(self.thread_id, places))
        alive = {(escape(ns), escape(checkpoint_id)) for ns, checkpoint_id in there}
        keys = json.dumps([[self._target, *place] for place in places])
        ours = {row[2:4] for row in await tx.fetch("places", checkpoints=keys)}
        if skipped := {_place(put) for put in puts if _place(put) in ours or _place(put) not in alive}:
            self._skipped |= skipped
            raise Again
        await self._check_bases(puts, tx)
        await self._check_numbers(puts, tx)
        return alive

    async def _check_bases(self, puts: Sequence[Put], tx: Tx) -> None:
        stored = {(put.row.checkpoint_ns, put.row.checkpoint_id): put.row.slots for put in puts}
        wanted = {put.guard for put in puts if put.guard is not None}
        for guard in wanted:
            at = (guard.checkpoint_ns, guard.checkpoint_id)
            if at not in stored:
                rows = await tx.fetch("slots", **Address(self._target, *at)._asdict())
                if [(guard.slots,)] != [(bytes(row[0]),) for row in rows]:
                    raise Again

    async def _check_numbers(self, puts: Sequence[Put], tx: Tx) -> None:
        """Nobody else stores items of the thread meanwhile; what was there before may have the numbers."""
        taken: set[tuple[str, str, int]] = set()
        ranges: dict[tuple[Place, str], list[int]] = {}
        for put in puts:
            for item in put.items:
                number = item.checkpoint_ns, item.channel, item.seq
                if number in taken:
                    self._fresh.add(_place(put))
                taken.add(number)
                ranges.setdefault((_place(put), item.channel), []).append(item.seq)
        asked = [
            (place, [self._target, place[0], channel, min(seqs), max(seqs)])
            for (place, channel), seqs in ranges.items()
        ]
        rows = await tx.fetch("official_taken", ranges=json.dumps([one for _, one in asked])) if asked else []
        self._fresh.update(asked[int(row[0])][0] for row in rows)
        if rows or len(taken) < sum(map(len, ranges.values())):
            raise Again

    async def _register(self, rows: Sequence[ThreadRow], tx: Tx) -> None:
        times = [row.at for row in rows if row.at]
        if rows and times:
            latest = rows[-1]
            await tx.execute(
                "official_register",
                thread_id=self._target,
                created_at=min(times) if self._created_at is None else self._created_at,
                updated_at=max(times),
                user_id=next((row.user_id for row in reversed(rows) if row.user_id is not None), None),
                title=next((row.title for row in reversed(rows) if row.title is not None), None),
                run_metadata=latest.run_metadata,
            )

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


async def copy(mover: Mover, tx: Tx) -> None:
    """Copy what only the official tables have of a thread, in the caller's transaction, which is alone with the target.

    Raises:
        Again: if the transaction must be rolled back and repeated, with the same mover.
        DecodeError: if a checkpoint cannot be read.
    """
    mover.forget()
    mover.damaged.clear()
    places = await mover.lacking(mover.thread_id, tx)
    size = _FIRST_BATCH
    while places:
        batch, places = places[:size], places[size:]
        found = await mover.fetch(batch, tx)
        additions = await tx.compute(found.weight, partial(mover.plan, found))
        if mover.damaged:
            raise DecodeError(f"the thread cannot be copied: {mover.damaged[0]}")
        try:
            await mover.store(additions, tx)
        except Again:
            mover.forget()
            raise
        size = _next_size(size, found.weight)


async def migrate(store: Store, db: Database, options: Options) -> Report:
    """Move what is left in the official tables; see the module.

    Raises:
        MoveError: at the end, if checkpoints cannot be read or are not equal after the move. All others are moved,
            nothing is dropped.
    """
    work = _Migration(store, db, options)
    try:
        return await work.run()
    except TableGone:  # somebody else has moved all and dropped them
        work.tell()
        return work.report


class _Migration:
    def __init__(self, store: Store, db: Database, options: Options) -> None:
        self._store, self._db, self._options = store, db, options
        self.report = Report()
        self._totals = (0, 0)
        self._size = _FIRST_BATCH
        self._begun = time.monotonic()
        self._told = 0.0

    async def run(self) -> Report:
        if not await self._fetch("official_tables"):
            return self.report
        [totals] = await self._fetch("official_counts")
        self._totals = (int(totals[0]), int(totals[1]))
        async for thread_id in self._threads():
            await self._move(thread_id)
            self.report.threads += 1
            self.tell()
        self.report.there = max(0, self._totals[1] - self.report.checkpoints - len(self.report.damaged))
        if self._options.verify or self._options.drop:
            async for thread_id in self._threads():
                await self._verify(thread_id)
        self.tell()
        if self.report.damaged or self.report.differences:
            raise MoveError(self.report)
        if self._options.drop and not self._options.dry_run:
            await self._drop()
        return self.report

    async def _threads(self) -> AsyncIterator[str]:
        """All threads, from a random one on: several who work at once meet late."""
        start = await self._start()
        for after, end in ((start, None), ("", start)):
            while page := [row[0] for row in await self._fetch("official_threads", after=after, limit=_THREADS)]:
                for thread_id in page:
                    if end is not None and thread_id > end:
                        break
                    yield escape(thread_id)
                after = page[-1]
                if end is not None and after > end:
                    break

    async def _start(self) -> str:
        rows = await self._fetch("official_any_thread", skip=random.randrange(max(1, self._totals[1])))
        return str(rows[0][0]) if rows else ""

    async def _move(self, thread_id: str) -> None:
        mover = Mover(self._store, thread_id, thread_id)
        places = await self._db.read(mover.left)
        while places:
            batch, places = places[: self._size], places[self._size :]
            found = await self._db.read(partial(mover.fetch, batch))
            await self._bring(mover, found)
            self._size = _next_size(len(batch), found.weight)
            self.tell(seldom=True)
        self.report.damaged += mover.damaged

    async def _bring(self, mover: Mover, found: _Found) -> None:
        """Store a batch."""
        damaged = len(mover.damaged)
        for _ in range(ATTEMPTS):
            del mover.damaged[damaged:]
            await mover.look_up(self._db, found)
            additions = await self._db.compute(found.weight, partial(mover.plan, found))
            try:
                done = additions if self._options.dry_run else await self._db.change(partial(mover.store, additions))
            except Again:
                mover.forget()
                continue
            self._count(mover, found, done)
            return
        raise CheckpointerError(f"a batch could not be stored in {ATTEMPTS} attempts: others kept changing the thread")

    def _count(self, mover: Mover, found: _Found, done: Sequence[Put | PutWrites]) -> None:
        self.report.checkpoints += sum(isinstance(one, Put) for one in done)
        self.report.writes += sum(len(one.rows) for one in done if isinstance(one, PutWrites))
        self.report.bytes_before += sum(map(mover.size_of, found.checkpoints)) + sum(
            len(row[8]) for row in found.writes
        )
        self.report.bytes_after += sum(map(size_of, done))

    async def _verify(self, thread_id: str) -> None:
        """Compare every checkpoint of a thread through both readers."""
        places: list[Row] = await self._fetch("official_places", thread_id=unescape(thread_id))
        while places:
            batch, places = places[: self._size], places[self._size :]
            keys = [((escape(ns), escape(one)), True) for ns, one in batch]
            found = await self._db.read(partial(Mover(self._store, thread_id, thread_id).fetch, keys))
            for row in found.checkpoints:
                writes = [one for one in found.writes if one[1:4] == row[1:4]]
                await self._compare(Address(*row[1:4]), row, writes)
            self._size = _next_size(len(batch), found.weight)

    async def _compare(self, at: Address, row: Row, writes: list[Row]) -> None:
        try:
            theirs = loaded(self._store.serde, row, writes)
        except DecodeError as exc:
            self.report.damaged.append(str(exc))
            return
        try:
            what = await unless_lost(partial(self._difference, at, theirs, writes))
        except DecodeError as exc:
            what = f"damaged: {exc}"
        if what is None:
            self.report.verified += 1
        elif not await self._is_gone(at):
            self.report.differences.append(f"{at.where}: {what}")

    async def _difference(self, at: Address, theirs: Loaded, writes: list[Row]) -> str | None:
        """What is not the same in ours; `None` if everything is. Writes that were put since may be there too."""
        where = f"page where {' and '.join(at._asdict())}"
        rows, look = await self._db.read(partial(self._own, where, at))
        if not rows:
            return "missing"
        ours = loaded(self._store.serde, next(row for row in rows if not row[0]), [])
        serde = self._store.serde
        values_of = {**theirs.checkpoint["channel_values"], **_opened(serde, theirs)}
        if not same(values_of, {**look.values(ours, serde)}):
            return "values"
        if not same(_body(theirs), _body(ours)):
            return "the checkpoint"
        if not same(dict(theirs.metadata), dict(ours.metadata)):
            return "metadata"
        if theirs.parent_id != ours.parent_id and ours.parent_id is not None:
            return "the parent"
        stored = {(one[4], one[7]) for one in rows if one[0]}
        pending_writes(serde, [one for one in rows if one[0]])
        return None if all((one[4], one[7]) in stored for one in writes) else "pending writes"

    async def _own(self, where: str, at: Address, tx: Tx) -> tuple[list[Row], Look]:
        rows = await tx.fetch(where, limit=1, **at._asdict())
        look = Look({})
        await look.fetch(tx, [loaded(self._store.serde, row, []) for row in rows if not row[0]])
        return rows, look

    async def _is_gone(self, at: Address) -> bool:
        """Whether a checkpoint was removed since it was read."""
        place = (at.checkpoint_ns or "", at.checkpoint_id or "")
        return not await self._fetch("official_present", checkpoints=_keys(at.thread_id, [place]))

    async def _drop(self) -> None:
        """Drop the official tables if nothing of them is left."""

        async def drop(tx: Tx) -> bool:
            await tx.execute("official_lock")
            if await tx.fetch("official_left"):
                return False
            await tx.execute("official_drop")
            await tx.execute("official_drop others")
            return True

        for _ in range(ATTEMPTS):
            if await self._db.change(drop):
                self.report.dropped = True
                return
            async for thread_id in self._threads():  # others have added something
                await self._move(thread_id)
        raise CheckpointerError(
            "the official tables were not dropped: the official saver is still in use, and adds to them"
        )

    def tell(self, *, seldom: bool = False) -> None:
        """Tell the caller how far it is."""
        now = time.monotonic()
        self.report.seconds = now - self._begun
        if self._options.on_progress is None or (seldom and now - self._told < 0.2):
            return
        self._told = now
        report, (threads, checkpoints) = self.report, self._totals
        done = report.threads
        left = report.seconds / done * max(0, threads - done) if done else None
        self._options.on_progress(
            Progress(
                done, threads, report.checkpoints, checkpoints, report.bytes_before, report.bytes_after,
                report.seconds, left,
            )
        )  # fmt: skip

    async def _fetch(self, query: str, /, **args: Any) -> list[Row]:
        async def look(tx: Tx) -> list[Row]:
            return await tx.fetch(query, **args)

        return await self._db.read(look)


def _opened(serde: SerializerProtocol, found: Loaded) -> dict[str, Any]:
    return {
        channel: values.decode(serde, slot.data) for channel, slot in found.slots.items() if isinstance(slot, Inline)
    }


def _body(found: Loaded) -> dict[str, Any]:
    skipped = ("channel_values", "id")
    return {key: value for key, value in found.checkpoint.items() if key not in skipped}


def _at(row: ThreadRow | None, body: Mapping[str, Any]) -> ThreadRow | None:
    return None if row is None else row._replace(at=micros_of(body.get("ts")))


def _place(addition: Put | PutWrites) -> Place:
    row = addition.row if isinstance(addition, Put) else addition.rows[0]
    return row.checkpoint_ns, row.checkpoint_id


def _keys(thread_id: str, places: Iterable[Place]) -> str:
    return raw_places_of((thread_id, *place) for place in places)


def _next_size(size: int, weight: int) -> int:
    """How many checkpoints the next batch has, after one of this size and weight."""
    return max(1, min(max(size, _FIRST_BATCH) * 4, _LARGEST_BATCH, _BATCH_BYTES * size // max(1, weight)))


def _told(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"{len(names)} {what}: {', '.join(names[:_TOLD])}{more}"
