"""Postgres: the two `Database`s that the core runs on.

Every operation takes a connection of the pool for as long as its statements run, with no lock of ours around it. Reads
are single statements. Additions of concurrent callers share one statement; each fails alone.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

from psycopg import AsyncConnection, AsyncPipeline, Connection, Error, Pipeline, errors

from langgraph_checkpoint_dual.combining import Combiner, Job
from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites, size_of
from langgraph_checkpoint_dual.core.space import Vacuumed
from langgraph_checkpoint_dual.core.turns import alongside
from langgraph_checkpoint_dual.core.tx import Tx, finish
from langgraph_checkpoint_dual.errors import CheckpointerError, ClosedError, SchemaError
from langgraph_checkpoint_dual.hopping import INLINE_WEIGHT, HoppingFace
from langgraph_checkpoint_dual.observing import Callers, callers, on_behalf_of
from langgraph_checkpoint_dual.postgres.faults import Fate
from langgraph_checkpoint_dual.postgres.line import Line
from langgraph_checkpoint_dual.postgres.pools import Beside, leave_to_parent
from langgraph_checkpoint_dual.postgres.schema import REFUSED, Schema
from langgraph_checkpoint_dual.postgres.sessions import AsyncConn, BlockingSessions, Limits, LoopSessions, SyncConn
from langgraph_checkpoint_dual.postgres.space import vacuumed
from langgraph_checkpoint_dual.postgres.statements import Addition, Dialect
from langgraph_checkpoint_dual.postgres.transactions import (
    BlockingTx,
    LoopTx,
    ScriptTx,
    in_transaction,
    sees_the_latest,
    settled,
    store_all,
)
from langgraph_checkpoint_dual.retrying import Attempts, block, repeated

T = TypeVar("T")
CLOSED = "this saver was closed; open a new one"
_LANES = 2
"""On how many connections of a pool the additions of blocking callers are under way at once: checkpoints, and writes.

More of them make smaller batches: a statement for 16 additions takes the server a fifth of what 16 statements take.
"""
_GROUPS = 4
"""The same for those of an event loop, where whatever is ready at once is in one batch anyway."""
_SLOW = 0.25
"""After how many seconds additions that wait for a lock, or for a peer that is gone, hold nobody else up."""
_SHARED_BYTES = 256 * 1024
"""An addition larger than this goes alone, so that small ones need not wait for it."""


class Errand(NamedTuple):
    """An addition in line, and whose it is."""

    addition: Addition
    callers: Callers


class _Engine:
    """What the two engines do alike on a session, blocking or not."""

    _sessions: BlockingSessions | LoopSessions
    _dialect: Dialect
    _schema: Schema
    _closed: bool

    def check_open(self) -> None:
        if self._closed:
            raise ClosedError(CLOSED)

    async def _changed(self, tx: BlockingTx | LoopTx, edit: Callable[[Tx], Awaitable[T]], fate: Fate[T]) -> T:
        """Make a change, unless an earlier attempt has made it."""
        if self._sessions.single_statements:
            script = ScriptTx(tx.conn, self._dialect)
            result = await edit(script)
            await tx.send(script.text)
            return result
        if await fate.is_committed(tx):
            return fate.result
        if in_transaction(tx.conn):
            await sees_the_latest(tx)
        return await tx.whole(lambda: fate.run(tx))

    async def _vacuumed(self, full: bool, tx: BlockingTx | LoopTx) -> Vacuumed:
        return await vacuumed(tx, tx.conn, self._schema.table_names, full=full)

    async def _set_up(self, tx: BlockingTx | LoopTx) -> None:
        careful = in_transaction(tx.conn) or not self._sessions.replaceable
        if await self._schema.is_current(tx, careful=careful):
            return
        try:
            if self._sessions.single_statements:
                await tx.send(";".join(self._schema.script()).encode())
            else:
                await tx.whole(lambda: self._schema.migrate(tx))
        except REFUSED:
            await self._schema.verify(tx)
        except errors.ProgrammingError as exc:
            # Somebody else may have been quicker.
            if not await self._schema.is_current(tx, careful=careful):
                raise SchemaError(f"the tables cannot be made or brought up to date: {exc}") from exc
        self._schema.ready = True


class BlockingEngine(_Engine):
    """The blocking `Database` on a connection or a pool.

    Args:
        conn: a connection, used by one operation at a time, or a pool, or what opens it when it is first needed.
        schema: the tables, which `setup` makes.
        limits: how long to repeat an operation whose session failed, and to wait for an answer.
        pipe: the pipeline that the connection is in; synchronised after each operation.
        owned: whether to close `conn` in the end.
        reopen: opens the like of `conn` in a child process; without it a saver cannot be used there.
    """

    def __init__(
        self,
        conn: SyncConn | Callable[[], SyncConn],
        schema: Schema,
        limits: Limits,
        *,
        pipe: Pipeline | None = None,
        owned: bool = False,
        reopen: Callable[[], SyncConn] | None = None,
    ) -> None:
        self._sessions: BlockingSessions = BlockingSessions(conn, pipe, limits, reopen)
        self._dialect, self._schema, self._owned = schema.dialect, schema, owned
        self._several = not isinstance(conn, Connection)
        self._line_up()
        self._closed = False
        _ENGINES.add(self)

    def leave_to_parent(self) -> None:
        """After a fork, in the child: what waits in line is the parent's, and so are its connections."""
        self._line_up()
        self._sessions.leave_to_parent()

    def _line_up(self) -> None:
        lanes, slow = (_LANES, _SLOW) if self._several else (1, None)
        self._combiners: list[Combiner[Errand]] = [Combiner(self._run_batch, slow=slow) for _ in range(lanes)]

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        return await self._repeated(look)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        fate = Fate(edit)

        self.setup()
        return await self._repeated(lambda tx: self._changed(tx, edit, fate))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        self.setup()
        errand = Errand(addition, callers())
        if size_of(addition) <= _SHARED_BYTES:
            outcome: Outcome = self._combiner(addition).run(errand)
            return outcome
        return settled(self._store([errand])[0])

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work()

    def _combiner(self, addition: Put | PutWrites) -> Combiner[Errand]:
        """The lane of an addition: checkpoints never wait for writes."""
        return self._combiners[isinstance(addition, Put) % len(self._combiners)]

    def setup(self) -> None:
        """Make the schema, or bring it up to date, once.

        Raises:
            SchemaError: if the database is newer than this package, or the tables are missing and cannot be made.
            ClosedError: if the saver was closed.
        """
        self.check_open()
        if not self._schema.ready:
            finish(self._repeated(self._set_up))

    def verify(self) -> None:
        """As `setup`, but change nothing: a `SchemaError` says what is missing."""
        self.check_open()
        finish(self._repeated(self._schema.verify))

    def close(self) -> None:
        """Finish what is under way and close what was opened here."""
        self._closed = True
        self._sessions.close(owned=self._owned)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owned and self._sessions.conn is not None:
            warnings.warn("a Postgres saver was never closed; use `with` or close()", ResourceWarning, 1, self)
            self._sessions.conn.close()

    def _run_batch(self, jobs: Sequence[Job[Errand]]) -> None:
        try:
            results = self._store([job.work for job in jobs])
        except (Error, CheckpointerError) as exc:  # all others are from outside, and the leader's only
            results = [exc] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.settle(error=result)
            else:
                job.settle(result)

    def _store(self, errands: Sequence[Errand]) -> list[Any]:
        with on_behalf_of(errand.callers for errand in errands):
            return finish(self._repeated(lambda tx: store_all(tx, [errand.addition for errand in errands])))

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`."""
        self.setup()
        return await self._repeated(partial(self._vacuumed, full), patient=True)

    async def _repeated(self, work: Callable[[BlockingTx], Awaitable[T]], *, patient: bool = False) -> T:
        """Do the work on a session of its own, and on another one if that fails."""
        sessions = self._sessions

        async def once(attempts: Attempts) -> T:
            def begun(conn: Connection[Any]) -> Awaitable[T]:
                return work(BlockingTx(conn, self._dialect, sessions.prepare, one_by_one=sessions.single_statements))

            return await sessions.use(attempts, begun, patient=patient)

        return await repeated(once, self._sessions.limits.retry_for, block)


_ENGINES: WeakSet[BlockingEngine] = WeakSet()


def _after_fork_in_child() -> None:
    leave_to_parent()
    for engine in list(_ENGINES):
        engine.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class LoopEngine(_Engine):
    """The asynchronous `Database` on a connection or a pool of the running event loop.

    Args:
        conn, schema, limits, pipe, owned: as for `BlockingEngine`.
    """

    def __init__(
        self,
        conn: AsyncConn,
        schema: Schema,
        limits: Limits,
        *,
        pipe: AsyncPipeline | None = None,
        owned: bool = False,
    ) -> None:
        self._sessions: LoopSessions = LoopSessions(conn, pipe, limits, opened=not owned)
        self._dialect, self._schema, self._owned = schema.dialect, schema, owned
        groups, slow = (1, None) if isinstance(conn, AsyncConnection) else (_GROUPS, _SLOW)
        self._line: Line[Errand] = Line(self._store, groups=groups, slow=slow)
        self._closed = False

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        await self.setup()
        return await self._repeated(look)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        fate = Fate(edit)

        await self.setup()
        return await self._repeated(lambda tx: self._changed(tx, edit, fate))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        await self.setup()
        errand = Errand(addition, callers())
        if size_of(addition) <= _SHARED_BYTES:
            outcome: Outcome = await self._line.submit(errand)
            return outcome
        return settled((await self._store([errand]))[0])

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work() if weigh() < INLINE_WEIGHT else await asyncio.to_thread(alongside, work)

    async def setup(self) -> None:
        """As `BlockingEngine.setup`."""
        self.check_open()
        if not self._schema.ready:
            await self._repeated(self._set_up)

    async def verify(self) -> None:
        """As `BlockingEngine.verify`."""
        self.check_open()
        await self._repeated(self._schema.verify)

    def refuse(self) -> None:
        """Refuse further operations."""
        self._closed = True

    async def aclose(self) -> None:
        """Finish what is under way and close what was opened here."""
        self._closed = True
        await self._line.drain()
        if self._owned and self._sessions.opened and not self._sessions.conn.closed:
            await self._sessions.conn.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owned and self._sessions.opened:
            warnings.warn(
                "an async Postgres saver was never closed; use `async with` or aclose()", ResourceWarning, 1, self
            )

    async def _store(self, errands: Sequence[Errand]) -> list[Any]:
        with on_behalf_of(errand.callers for errand in errands):
            return await self._repeated(lambda tx: store_all(tx, [errand.addition for errand in errands]))

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`."""
        await self.setup()
        return await self._repeated(partial(self._vacuumed, full), patient=True)

    async def _repeated(self, work: Callable[[LoopTx], Awaitable[T]], *, patient: bool = False) -> T:
        """Do the work on a session of its own, and on another one if that fails."""
        sessions = self._sessions

        async def once(attempts: Attempts) -> T:
            async with sessions.session(attempts, patient=patient) as conn:
                return await work(LoopTx(conn, self._dialect, sessions.prepare, one_by_one=sessions.single_statements))

        return await repeated(once, self._sessions.limits.retry_for, asyncio.sleep)


class OneLoop:
    """The asynchronous `Database` of a saver: its connections on its own loop, hops to blocking ones on any other.

    Where its own loop cannot wait for sockets, as psycopg needs it (the default loop on Windows cannot), all is hops.

    Args:
        engine: the database on the asynchronous connections.
        beside: that on the blocking ones, which `opens` opens.
    """

    def __init__(self, engine: LoopEngine, beside: BlockingEngine, opens: Beside) -> None:
        self._beside, self._elsewhere = beside, HoppingFace(beside)
        self._opens = opens
        self._own: LoopEngine | HoppingFace = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # outside of a loop
            self._settle(asyncio.get_running_loop())

    def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if not _waits_for_sockets(loop):
            self._own, self._opens.in_place = self._elsewhere, True

    @property
    def _here(self) -> LoopEngine | HoppingFace:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._settle(loop)
        return self._own if self._loop is loop else self._elsewhere

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._here.read(look)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._here.change(edit)

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return await self._here.append(addition)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._here.compute(weigh, work)

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`."""
        return await self._here.vacuum(full=full)

    async def setup(self, create: bool = True) -> None:
        """As `BlockingEngine.setup`, or `verify`."""
        here = self._here
        if create:
            await here.setup()
        elif isinstance(here, LoopEngine):
            await here.verify()
        else:
            await asyncio.to_thread(self._beside.verify)


def _waits_for_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader
