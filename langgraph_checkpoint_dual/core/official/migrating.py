"""Moving all official threads into our tables, in batches, while runs go on; see `core/official/moving.py`.

The contract:

1. Whoever is killed begins again, and soon is where he was. Several may work at once, and a second move brings over
   what is new.
2. In memory are one batch, the keys of one thread that has not been moved yet, and the short threads of the batch.
3. The official tables are dropped in the transaction that finds, alone with them, that nothing of them is left.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core.official.moving import (
    FIRST_BATCH,
    Again,
    Found,
    Left,
    Mover,
    Plan,
    fetch,
    next_size,
    store,
)
from langgraph_checkpoint_dual.core.official.verifying import compare
from langgraph_checkpoint_dual.core.rows import Put, PutWrites, size_of
from langgraph_checkpoint_dual.core.store import ATTEMPTS, Store
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.tx import Database, Row, TableGone, Tx
from langgraph_checkpoint_dual.errors import CheckpointerError

_THREADS = 256
_TOGETHER = 64
"""How many threads are locked at once: Postgres' table of locks is small, and shared by all."""
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
        self._size = FIRST_BATCH
        self._begun = time.monotonic()
        self._told = 0.0

    async def run(self) -> Report:
        if not await self._fetch("official_tables"):
            return self.report
        [totals] = await self._fetch("official_counts")
        self._totals = (int(totals[0]), int(totals[1]))
        await self._move()
        self.report.there = max(0, self._totals[1] - self.report.checkpoints - len(self.report.damaged))
        if self._options.verify or self._options.drop:
            await self._verify()
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

    # --- moving ---

    async def _move(self) -> None:
        """Move what is left of all threads: short threads together, long ones in parts."""
        batch: dict[str, tuple[Mover, list[Left]]] = {}
        room = self._size
        async for thread_id in self._threads():
            mover = Mover(self._store, thread_id, thread_id)
            places = await self._db.read(mover.left)
            while places:
                batch[thread_id] = mover, places[:room]
                places = places[room:]
                room -= len(batch[thread_id][1])
                if not room or len(batch) == _TOGETHER:
                    await self._bring(batch)
                    batch, room = {}, self._size
            self.report.threads += 1
            self.tell()
        await self._bring(batch)

    async def _bring(self, batch: dict[str, tuple[Mover, list[Left]]]) -> None:
        """Store a batch: what is left of some threads."""
        if not batch:
            return
        wanted = {thread_id: places for thread_id, (_, places) in batch.items()}
        found = await self._db.read(partial(fetch, wanted))
        movers = [mover for mover, _ in batch.values()]
        damaged = [len(mover.damaged) for mover in movers]
        for _ in range(ATTEMPTS):
            for mover, before in zip(movers, damaged, strict=True):
                del mover.damaged[before:]
            plans = await self._planned(movers, found)
            try:
                done = await self._stored(plans)
            except Again:
                for mover in movers:
                    mover.forget()
                continue
            for mover, before in zip(movers, damaged, strict=True):
                self._count(mover, found[mover.thread_id], done[mover.thread_id])
                self.report.damaged += mover.damaged[before:]
            weight = sum(one.weight for one in found.values())
            self._size = next_size(sum(map(len, wanted.values())), weight)
            self.tell()
            return
        raise CheckpointerError(f"a batch could not be stored in {ATTEMPTS} attempts: others kept changing its threads")

    async def _planned(self, movers: Sequence[Mover], found: dict[str, Found]) -> list[Plan]:
        for mover in movers:
            await mover.look_up(self._db, found[mover.thread_id])
        return await self._db.compute(
            lambda: sum(one.weight for one in found.values()),
            lambda: [mover.plan(found[mover.thread_id]) for mover in movers],
        )

    async def _stored(self, plans: Sequence[Plan]) -> dict[str, Sequence[Put | PutWrites]]:
        if self._options.dry_run:
            return {plan.mover.thread_id: plan.additions for plan in plans}
        return await self._db.change(partial(store, plans))

    def _count(self, mover: Mover, found: Found, done: Sequence[Put | PutWrites]) -> None:
        self.report.checkpoints += sum(isinstance(one, Put) for one in done)
        self.report.writes += sum(len(one.rows) for one in done if isinstance(one, PutWrites))
        self.report.bytes_before += sum(map(mover.size_of, found.checkpoints)) + sum(
            len(row[8]) for row in found.writes
        )
        self.report.bytes_after += sum(map(size_of, done))

    # --- verifying ---

    async def _verify(self) -> None:
        """Compare every checkpoint through both readers."""
        batch: dict[str, list[Left]] = {}
        room = self._size = FIRST_BATCH
        async for thread_id in self._threads():
            rows = await self._fetch("official_places", thread_id=unescape(thread_id))
            places: list[Left] = [((escape(ns), escape(one)), True) for ns, one in rows]
            while places:
                batch[thread_id] = places[:room]
                places = places[room:]
                room -= len(batch[thread_id])
                if not room:
                    await self._compare(batch)
                    batch, room = {}, self._size
        await self._compare(batch)

    async def _compare(self, batch: dict[str, list[Left]]) -> None:
        if not batch:
            return
        verdict = await compare(self._store, self._db, batch)
        self.report.verified += verdict.equal
        self.report.differences += verdict.differences
        known = set(self.report.damaged)
        self.report.damaged += [one for one in verdict.damaged if one not in known]
        self._size = next_size(sum(map(len, batch.values())), verdict.weight)
        self.tell(seldom=True)

    # --- the end ---

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
            await self._move()  # others have added something
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


def _told(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"{len(names)} {what}: {', '.join(names[:_TOLD])}{more}"
