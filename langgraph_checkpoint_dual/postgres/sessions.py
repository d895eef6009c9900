"""A working connection for each operation, from whatever the saver was given.

Connections that died in the pool are replaced before they are used. What goes wrong with a session while it is used
comes out as `InterruptedSession`, which `retrying.repeated` answers with another attempt; other errors come out as they
are. A server that keeps silent for too long counts as gone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar
from weakref import WeakSet

from psycopg import AsyncConnection, AsyncPipeline, Connection, Error, OperationalError, Pipeline, Transaction
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from langgraph_checkpoint_dual import observing
from langgraph_checkpoint_dual.errors import BusyError, CheckpointerError, ClosedError
from langgraph_checkpoint_dual.postgres.faults import (
    drain,
    hidden_by,
    interruption,
    interrupts,
    is_alive,
    refuses_transactions,
    roll_back,
)
from langgraph_checkpoint_dual.postgres.lending import Loan, uninterrupted
from langgraph_checkpoint_dual.postgres.pools import BlockingPool, ais_direct, aprobe, borrowed, is_direct, probe
from langgraph_checkpoint_dual.postgres.unhindered import unhindered, unhindered_if_slow
from langgraph_checkpoint_dual.postgres.watch import NoAnswer, Watched, forget
from langgraph_checkpoint_dual.retrying import Attempts, InterruptedSession

T = TypeVar("T")
SyncConn: TypeAlias = "Connection[Any] | ConnectionPool[Any]"
AsyncConn: TypeAlias = "AsyncConnection[Any] | AsyncConnectionPool[Any]"
_log = logging.getLogger("langgraph_checkpoint_dual.sessions")
STATEMENT_MODE = (
    "a pooler in statement mode lies between, which refuses transactions of several statements; "
    "this operation needs its transaction or session mode, or a direct connection"
)
_POOL_FAILURES = (PoolTimeout, TooManyRequests, PoolClosed)
_PING_SECONDS = 1.0
_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_SEE_THE_LATEST = b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
_BUSY = (
    "no connection of the pool became free in time ({}); give the pool more connections (max_size) or a longer timeout"
)
_FULL = (
    "all connections of the pool are in use, and it lets no more callers wait ({}); give the pool more connections "
    "(max_size), or let more wait (max_waiting, of which 0 means any number)"
)


class Limits(NamedTuple):
    """How patient a saver is.

    Args:
        retry_for: for how many seconds to repeat an operation whose session failed; 0 never repeats.
        response_timeout: after how many seconds without an answer a server counts as gone; `None` waits for ever.
    """

    retry_for: float = 30.0
    response_timeout: float | None = 60.0


class _Sessions:
    """What blocking and asynchronous sessions have in common."""

    def __init__(self, limits: Limits, *, replaceable: bool) -> None:
        self.limits = limits
        self.replaceable = replaceable
        """Whether another connection may be had in place of one that is lost."""
        self.single_statements = False
        """Whether a pooler was met that refuses transactions of several statements."""
        self.prepare: bool | None = None
        """`False` once a pooler was met: prepare nothing, whatever the connection is set to."""
        self._asked = False
        self._proven: WeakSet[Any] | None = None
        """Once a server kept silent: the connections that have answered since. All others may be as dead."""

    def _suspects(self, conn: Connection[Any] | AsyncConnection[Any]) -> bool:
        return self._proven is not None and conn not in self._proven

    def _trust(self, conn: Connection[Any] | AsyncConnection[Any]) -> None:
        if self._proven is not None:
            self._proven.add(conn)

    def _asks(self, conn: Connection[Any] | AsyncConnection[Any]) -> bool:
        """Whether it has yet to be found out if a pooler lies between."""
        return not self._asked and conn.prepare_threshold is not None

    def _note(self, is_direct: bool) -> None:
        self._asked = True
        if not is_direct:
            self.prepare = False
            _log.info("a pooler lies between: prepared statements are not used")


class _Judged(Watched):
    """A use of a connection, whose errors are those of the session or others. Not a generator: see `use`."""

    __slots__ = ("_knew", "_replaceable", "_sessions")

    def __init__(
        self, sessions: _Sessions, conn: Connection[Any] | AsyncConnection[Any], *, replaceable: bool, patient: bool
    ) -> None:
        super().__init__(conn, None if patient else sessions.limits.response_timeout)
        self._sessions, self._replaceable, self._knew = sessions, replaceable, sessions.single_statements

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except NoAnswer as exc:
            self._sessions._proven = WeakSet()
            self._judge(exc)
            raise
        if isinstance(error, Error):
            self._judge(error)

    def _judge(self, error: Error) -> None:
        if (outside := hidden_by(error)) is not None:
            raise outside from None
        if refuses_transactions(error):
            if self._knew:
                raise CheckpointerError(STATEMENT_MODE) from error
            self._sessions.single_statements = True
        elif not interrupts(error, self.conn):
            return
        raise interruption(error, self.conn, replaceable=self._replaceable) from error


class BlockingSessions(_Sessions):
    """Sessions on a connection, a pool, or what `source` opens when it is first needed."""

    def __init__(
        self,
        source: SyncConn | Callable[[], SyncConn],
        pipe: Pipeline | None,
        limits: Limits,
        reopen: Callable[[], SyncConn] | None = None,
    ) -> None:
        super().__init__(limits, replaceable=not isinstance(source, Connection))
        self._source, self._pipe, self._reopen = source, pipe, reopen
        self.conn: SyncConn | None = source if isinstance(source, (Connection, ConnectionPool)) else None
        self.lock = threading.RLock()
        self._ours = False
        """Whether what is open on the single connection was begun here."""

    async def use(
        self, attempts: Attempts, work: Callable[[Connection[Any]], Awaitable[T]], *, patient: bool = False
    ) -> T:
        """Do some work on a connection; where that is not in autocommit mode, in a transaction that ends with it.

        An exception from outside (Ctrl-C) may come between any two steps. So nothing that matters is ended by a
        generator: one that is interrupted ends whenever its traceback is forgotten.
        """
        source = self.conn or uninterrupted(self._open)
        if isinstance(source, Connection):
            return await self._use_single(source, work, patient=patient)
        loan = Loan(source, partial(self._take, source, attempts))
        try:
            conn = loan.begin()
            with _Judged(self, conn, replaceable=True, patient=patient), _transaction_of(conn):
                self._look(conn)
                result = await work(conn)
            loan.intact = True
            return result
        except Exception:
            loan.intact = True
            raise
        finally:
            loan.hand_over(loan.end)

    async def _use_single(
        self, conn: Connection[Any], work: Callable[[Connection[Any]], Awaitable[T]], *, patient: bool
    ) -> T:
        with self.lock:
            self._mend(conn)
            depth = conn._num_transactions
            try:
                with _Judged(self, conn, replaceable=False, patient=patient), _transaction_of(conn):
                    self._look(conn)
                    result = await work(conn)
                    if self._pipe is not None:
                        self._pipe.sync()
                return result
            finally:
                forget(conn, None)
                conn._num_transactions = depth  # psycopg loses count of transactions if one is interrupted as it begins
                if conn.pgconn.transaction_status == TransactionStatus.IDLE:
                    self._ours = False

    def _mend(self, conn: Connection[Any]) -> None:
        """Before the use of a single connection, end what an exception from outside (Ctrl-C) has left of the last."""
        if self._pipe is None and not conn.closed:
            with conn.lock:  # nobody is at it, so what is still under way is what somebody gave up
                if conn.info.transaction_status == TransactionStatus.ACTIVE:
                    drain(conn)
                if self._ours and conn.info.transaction_status in _OPEN:
                    roll_back(conn)
        self._ours = conn.info.transaction_status == TransactionStatus.IDLE

    def close(self, *, owned: bool) -> None:
        """Wait for what is under way on a single connection; close the pool, if it was opened here."""
        with self.lock:
            conn = self.conn
        if owned and conn is not None:
            uninterrupted(conn.close)

    def leave_to_parent(self) -> None:
        """After a fork, in the child: what was opened here is opened anew; what was given belongs to the parent."""
        self.lock, self._ours = threading.RLock(), False
        if self.conn is not None:
            _INHERITED.append(self.conn)
            self.conn = None
            if not callable(self._source):
                self._source = self._reopen or _refuse

    def _look(self, conn: Connection[Any]) -> None:
        if self._asks(conn):
            self._note(is_direct(conn))

    def _open(self) -> SyncConn:
        if self.conn is None:
            with self.lock:
                if self.conn is None and callable(self._source):
                    self.conn = self._source()
        assert self.conn is not None
        return self.conn

    def _take(self, pool: ConnectionPool[Connection[Any]], attempts: Attempts) -> Connection[Any]:
        while True:
            begun = time.perf_counter()
            try:
                conn = self._wait(pool, attempts)
            except _POOL_FAILURES as exc:
                raise _explained(exc) from exc
            finally:
                observing.waited(time.perf_counter() - begun)
            good = False
            try:
                good = is_alive(conn) and (not self._suspects(conn) or self._answers(conn))
            finally:
                if not good:
                    conn.pgconn.finish()
                    pool.putconn(conn)
            if good:
                return conn

    def _answers(self, conn: Connection[Any]) -> bool:
        with suppress(Error), Watched(conn, _PING_SECONDS):
            is_direct(conn)
            self._trust(conn)
            return True
        return False

    def _wait(self, pool: ConnectionPool[Connection[Any]], attempts: Attempts) -> Connection[Any]:
        if isinstance(pool, BlockingPool) and (ready := pool.ready()) is not None:
            return ready
        patience = _patience(pool, attempts)
        try:
            return pool.getconn(patience)
        except PoolTimeout:
            if (cause := probe(pool)) is not None:
                raise InterruptedSession(cause, again=attempts.left() > 0) from cause
        return pool.getconn(max(0.0, pool.timeout - patience))


class LoopSessions(_Sessions):
    """Sessions on a connection or a pool of an event loop; a pool of the saver's own is opened when first needed."""

    def __init__(self, conn: AsyncConn, pipe: AsyncPipeline | None, limits: Limits, *, opened: bool) -> None:
        super().__init__(limits, replaceable=not isinstance(conn, AsyncConnection))
        self.conn, self._pipe, self.opened = conn, pipe, opened
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def session(self, attempts: Attempts, *, patient: bool = False) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection for one operation; where it is not in autocommit mode, in a transaction that ends with it."""
        source = self.conn
        if isinstance(source, AsyncConnection):
            async with self._lock:
                is_ours = source.info.transaction_status == TransactionStatus.IDLE
                try:
                    with _Judged(self, source, replaceable=False, patient=patient):
                        async with _loop_transaction_of(source):
                            await self._look(source)
                            yield source
                            if self._pipe is not None:
                                await self._pipe.sync()
                finally:
                    if is_ours and source.pgconn.transaction_status in _OPEN:
                        await unhindered(_end_open(source))
            return
        if not self.opened:
            await source.open()
            self.opened = True
        pooled = await self._take(source, attempts)
        try:
            with _Judged(self, pooled, replaceable=True, patient=patient):
                async with _loop_transaction_of(pooled):
                    await self._look(pooled)
                    yield pooled
        finally:
            if pooled.pgconn.transaction_status in _OPEN:
                await unhindered(_end_and_give_back(source, pooled))
            else:
                await unhindered_if_slow(source.putconn(pooled))

    async def _look(self, conn: AsyncConnection[Any]) -> None:
        if self._asks(conn):
            self._note(await ais_direct(conn))

    async def _take(self, pool: AsyncConnectionPool[AsyncConnection[Any]], attempts: Attempts) -> AsyncConnection[Any]:
        while True:
            begun = time.perf_counter()
            try:
                conn = await self._wait(pool, attempts)
            except _POOL_FAILURES as exc:
                raise _explained(exc) from exc
            finally:
                observing.waited(time.perf_counter() - begun)
            good = False
            try:
                good = is_alive(conn) and (not self._suspects(conn) or await self._answers(conn))
            finally:
                if not good:
                    conn.pgconn.finish()
                    await unhindered_if_slow(pool.putconn(conn))
            if good:
                return conn

    async def _answers(self, conn: AsyncConnection[Any]) -> bool:
        with suppress(Error), Watched(conn, _PING_SECONDS):
            await ais_direct(conn)
            self._trust(conn)
            return True
        return False

    async def _wait(self, pool: AsyncConnectionPool[AsyncConnection[Any]], attempts: Attempts) -> AsyncConnection[Any]:
        patience = _patience(pool, attempts)
        try:
            return await borrowed(pool, patience)
        except PoolTimeout:
            if (cause := await aprobe(pool)) is not None:
                raise InterruptedSession(cause, again=attempts.left() > 0) from cause
        return await borrowed(pool, max(0.0, pool.timeout - patience))


async def _end_and_give_back(pool: AsyncConnectionPool[AsyncConnection[Any]], conn: AsyncConnection[Any]) -> None:
    await _end_open(conn)
    await pool.putconn(conn)


async def _end_open(conn: AsyncConnection[Any]) -> None:
    """End a transaction that psycopg did not, because the task was cancelled when that was to be done."""
    conn._num_transactions = 0
    with suppress(Error):
        await conn.rollback()


_INHERITED: list[SyncConn] = []


def _refuse() -> SyncConn:
    raise ClosedError(
        "this saver's connection or pool belongs to the process that fork() was called in; "
        "open one and a saver in each process, or give the saver a connection string"
    )


def _patience(pool: ConnectionPool[Any] | AsyncConnectionPool[Any], attempts: Attempts) -> float:
    """How long to wait for a connection before asking whether the server is there at all."""
    return min(pool.timeout, max(0.1, attempts.left()))


def _explained(failure: OperationalError) -> CheckpointerError:
    if isinstance(failure, PoolClosed):
        return ClosedError(f"the pool that this saver uses is not open: {failure}")
    return BusyError((_FULL if isinstance(failure, TooManyRequests) else _BUSY).format(failure))


_NOTHING: nullcontext[None] = nullcontext()


def _transaction_of(conn: Connection[Any]) -> AbstractContextManager[Any]:
    return _NOTHING if conn.autocommit else transaction(conn)


def _loop_transaction_of(conn: AsyncConnection[Any]) -> AbstractAsyncContextManager[Any]:
    return _NOTHING if conn.autocommit else loop_transaction(conn)


def nested(conn: Connection[Any]) -> AbstractContextManager[Any]:
    """A transaction, or a savepoint of the one that is open; as a generator only if the connection has a pipeline."""
    return Transaction(conn) if conn.info.pipeline_status == PipelineStatus.OFF else conn.transaction()


class transaction:
    """A transaction that sees what was committed before each of its statements, or a savepoint of the one that is open.

    Who has waited for a lock must see what its holder did, however the connection or its role is set.
    """

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn, self._block = conn, nested(conn)

    def __enter__(self) -> None:
        is_outermost = self._conn.info.transaction_status == TransactionStatus.IDLE
        self._block.__enter__()
        try:
            if is_outermost:
                self._conn.execute(_SEE_THE_LATEST, prepare=False)
        except BaseException as exc:
            self._block.__exit__(type(exc), exc, exc.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._block.__exit__(kind, error, trace)


@asynccontextmanager
async def loop_transaction(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """As `transaction`."""
    is_outermost = conn.info.transaction_status == TransactionStatus.IDLE
    async with conn.transaction():
        if is_outermost:
            await conn.execute(_SEE_THE_LATEST, prepare=False)
        yield
