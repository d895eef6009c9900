"""Postgres: transactions on psycopg connections, and the two `Database`s that the core runs on.

Every operation takes a connection of the pool for as long as its statements run, with no lock of ours around it. Reads
are single statements. Additions of concurrent callers share one statement; each fails alone.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection, AsyncPipeline, Connection, Pipeline, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from langgraph_checkpoint_dual.combining import Combiner, Job
from langgraph_checkpoint_dual.core import migrations
from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.tx import Row, Tx, finish
from langgraph_checkpoint_dual.errors import BusyError, ClosedError, SchemaError
from langgraph_checkpoint_dual.hopping import INLINE_WEIGHT, HoppingFace
from langgraph_checkpoint_dual.postgres.line import Line
from langgraph_checkpoint_dual.postgres.statements import (
    PACKAGE,
    Addition,
    Dialect,
    Statement,
    outcome_of,
    statements,
    weight,
)

T = TypeVar("T")
SyncConn: TypeAlias = "Connection[Any] | ConnectionPool[Any]"
AsyncConn: TypeAlias = "AsyncConnection[Any] | AsyncConnectionPool[Any]"
CLOSED = "this saver was closed; open a new one"
_SHARED_BYTES = 256 * 1024
"""An addition larger than this goes alone, so that small ones need not wait for it."""


class BlockingTx:
    """The core's transaction on a blocking connection. Its methods never suspend."""

    def __init__(self, conn: Connection[Any], dialect: Dialect) -> None:
        self._conn, self._dialect = conn, dialect

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        with self._conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            cursor.execute(self._dialect[query], args)
            return cursor.fetchall()

    async def execute(self, query: str, /, **args: Any) -> None:
        with self._conn.cursor() as cursor:
            cursor.execute(self._dialect[query], args or None)

    async def alone(self, statement: Statement) -> list[Row]:
        """Run a statement as a transaction of its own, or as a savepoint of the caller's."""
        if self._conn.info.transaction_status == TransactionStatus.IDLE and self._conn.autocommit:
            return await self._store(statement)
        with self._conn.transaction():
            return await self._store(statement)

    async def _store(self, statement: Statement) -> list[Row]:
        with self._conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            cursor.execute(self._dialect[statement.query], statement.args)
            return cursor.fetchall() if cursor.description else []


class LoopTx:
    """The core's transaction on an asynchronous connection."""

    def __init__(self, conn: AsyncConnection[Any], dialect: Dialect) -> None:
        self._conn, self._dialect = conn, dialect

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        async with self._conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            await cursor.execute(self._dialect[query], args)
            return await cursor.fetchall()

    async def execute(self, query: str, /, **args: Any) -> None:
        async with self._conn.cursor() as cursor:
            await cursor.execute(self._dialect[query], args or None)

    async def alone(self, statement: Statement) -> list[Row]:
        """Run a statement as a transaction of its own, or as a savepoint of the caller's."""
        if self._conn.info.transaction_status == TransactionStatus.IDLE and self._conn.autocommit:
            return await self._store(statement)
        async with self._conn.transaction():
            return await self._store(statement)

    async def _store(self, statement: Statement) -> list[Row]:
        async with self._conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            await cursor.execute(self._dialect[statement.query], statement.args)
            return await cursor.fetchall() if cursor.description else []


async def _store_all(tx: BlockingTx | LoopTx, additions: Sequence[Addition]) -> list[Any]:
    """Store additions in as few statements as possible: an outcome or an exception for each."""
    results: list[Any] = [None] * len(additions)
    for statement in statements(additions):
        try:
            outcomes: Sequence[Any] = statement.outcomes(await tx.alone(statement))
        except errors.Error as exc:
            if len(statement.places) == 1:
                outcomes = [outcome_of(additions[statement.places[0]], exc)]
            else:  # one of them is to blame: each alone
                outcomes = [(await _store_all(tx, [additions[at]]))[0] for at in statement.places]
        for at, outcome in zip(statement.places, outcomes, strict=True):
            results[at] = outcome
    return results


class _Schema:
    """Whether the schema is there, looked up once."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.ready = False
        self.migrations = migrations.migrations_of(PACKAGE)

    async def is_current(self, tx: Tx) -> bool:
        """Whether nothing is pending; costs one query where the tables are there."""
        self.ready = not migrations.pending(self.migrations, await migrations.applied_numbers(tx))
        return self.ready

    async def migrate(self, tx: Tx) -> None:
        """Apply what is pending."""
        await migrations.migrate(tx, self.migrations)

    def refusal(self, exc: Exception) -> SchemaError:
        """The error for a role that may not make the tables."""
        return SchemaError(f"the checkpoint tables are missing or old, and this role may not make them: {exc}")


class BlockingEngine:
    """The blocking `Database` on a connection or a pool.

    Args:
        conn: a connection, used by one operation at a time, or a pool, or what opens it when it is first needed.
        pipe: the pipeline that the connection is in; synchronised after each operation.
        owned: whether to close `conn` in the end.
    """

    def __init__(
        self,
        conn: SyncConn | Callable[[], SyncConn],
        dialect: Dialect,
        *,
        pipe: Pipeline | None = None,
        owned: bool = False,
    ) -> None:
        self._source, self._pipe, self._owned = conn, pipe, owned
        self._conn: SyncConn | None = conn if isinstance(conn, (Connection, ConnectionPool)) else None
        self._dialect, self._schema = dialect, _Schema(dialect)
        self._lock = threading.RLock()
        self._combiner: Combiner[Addition] = Combiner(self._run_batch)
        self._closed = False

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        with self._session() as conn:
            return await look(BlockingTx(conn, self._dialect))

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        with self._session() as conn, conn.transaction():
            return await edit(BlockingTx(conn, self._dialect))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        self.setup()
        if weight(addition) <= _SHARED_BYTES:
            outcome: Outcome = self._combiner.run(addition)
            return outcome
        return _settled(self._store([addition])[0])

    async def compute(self, weight: int, work: Callable[[], T]) -> T:
        return work()

    def setup(self) -> None:
        """Make the schema, or bring it up to date, once.

        Raises:
            SchemaError: if the database is newer than this package, or the tables are missing and cannot be made.
            ClosedError: if the saver was closed.
        """
        self.check_open()
        if self._schema.ready:
            return
        with self._session() as conn:
            tx = BlockingTx(conn, self._dialect)
            if not finish(self._schema.is_current(tx)):
                try:
                    with conn.transaction():
                        finish(self._schema.migrate(tx))
                except errors.InsufficientPrivilege as exc:
                    raise self._schema.refusal(exc) from exc
                self._schema.ready = True

    def check_open(self) -> None:
        if self._closed:
            raise ClosedError(CLOSED)

    def close(self) -> None:
        """Finish what is under way and close what was opened here."""
        if not self._closed:
            self._closed = True
            with self._lock:
                if self._owned and self._conn is not None:
                    self._conn.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owned and self._conn is not None:
            warnings.warn("a Postgres saver was never closed; use `with` or close()", ResourceWarning, 1, self)
            self._conn.close()

    def _run_batch(self, jobs: Sequence[Job[Addition]]) -> None:
        try:
            results = self._store([job.work for job in jobs])
        except Exception as exc:
            results = [exc] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.settle(error=result)
            else:
                job.settle(result)

    def _store(self, additions: Sequence[Addition]) -> list[Any]:
        with self._session() as conn:
            return finish(_store_all(BlockingTx(conn, self._dialect), additions))

    @contextmanager
    def _session(self) -> Iterator[Connection[Any]]:
        """A connection for one operation; where it is not in autocommit mode, in a transaction that ends with it."""
        source = self._open()
        if isinstance(source, Connection):
            with self._lock, _transaction_of(source):
                yield source
                if self._pipe is not None:
                    self._pipe.sync()
            return
        try:
            pooled = source.getconn()
        except PoolTimeout as exc:
            raise BusyError(_POOL_BUSY.format(exc)) from exc
        try:
            with _transaction_of(pooled):
                yield pooled
        finally:
            source.putconn(pooled)

    def _open(self) -> SyncConn:
        if self._conn is None:
            with self._lock:
                if self._conn is None and callable(self._source):
                    self._conn = self._source()
        assert self._conn is not None
        return self._conn


class LoopEngine:
    """The asynchronous `Database` on a connection or a pool of the running event loop.

    Args:
        conn, pipe, owned: as for `BlockingEngine`.
    """

    def __init__(
        self, conn: AsyncConn, dialect: Dialect, *, pipe: AsyncPipeline | None = None, owned: bool = False
    ) -> None:
        self._conn, self._pipe, self._owned = conn, pipe, owned
        self._dialect, self._schema = dialect, _Schema(dialect)
        self._lock = asyncio.Lock()
        self._line: Line[Addition] = Line(self._store, groups=1 if isinstance(conn, AsyncConnection) else 4)
        self._opened = not owned
        self._closed = False

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        await self.setup()
        async with self._session() as conn:
            return await look(LoopTx(conn, self._dialect))

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        await self.setup()
        async with self._session() as conn, conn.transaction():
            return await edit(LoopTx(conn, self._dialect))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        await self.setup()
        if weight(addition) <= _SHARED_BYTES:
            outcome: Outcome = await self._line.submit(addition)
            return outcome
        return _settled((await self._store([addition]))[0])

    async def compute(self, weight: int, work: Callable[[], T]) -> T:
        return work() if weight < INLINE_WEIGHT else await asyncio.to_thread(work)

    async def setup(self) -> None:
        """As `BlockingEngine.setup`."""
        if self._closed:
            raise ClosedError(CLOSED)
        if self._schema.ready:
            return
        async with self._session() as conn:
            tx = LoopTx(conn, self._dialect)
            if not await self._schema.is_current(tx):
                try:
                    async with conn.transaction():
                        await self._schema.migrate(tx)
                except errors.InsufficientPrivilege as exc:
                    raise self._schema.refusal(exc) from exc
                self._schema.ready = True

    def refuse(self) -> None:
        """Refuse further operations."""
        self._closed = True

    async def aclose(self) -> None:
        """Finish what is under way and close what was opened here."""
        self._closed = True
        await self._line.drain()
        if self._owned and self._opened and not self._conn.closed:
            await self._conn.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owned and self._opened:
            warnings.warn(
                "an async Postgres saver was never closed; use `async with` or aclose()", ResourceWarning, 1, self
            )

    async def _store(self, additions: Sequence[Addition]) -> list[Any]:
        async with self._session() as conn:
            return await _store_all(LoopTx(conn, self._dialect), additions)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection for one operation; where it is not in autocommit mode, in a transaction that ends with it."""
        if isinstance(self._conn, AsyncConnection):
            async with self._lock, _loop_transaction_of(self._conn):
                yield self._conn
                if self._pipe is not None:
                    await self._pipe.sync()
            return
        if not self._opened:
            self._opened = True
            await self._conn.open()
        try:
            pooled = await self._conn.getconn()
        except PoolTimeout as exc:
            raise BusyError(_POOL_BUSY.format(exc)) from exc
        try:
            async with _loop_transaction_of(pooled):
                yield pooled
        finally:
            await self._conn.putconn(pooled)


class OneLoop:
    """The asynchronous `Database` of a saver: its connections on its own loop, hops to blocking ones on any other."""

    def __init__(self, engine: LoopEngine, beside: BlockingEngine) -> None:
        self._engine, self._elsewhere = engine, HoppingFace(beside)
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    @property
    def _here(self) -> LoopEngine | HoppingFace:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        return self._engine if self._loop is loop else self._elsewhere

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._here.read(look)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._here.change(edit)

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return await self._here.append(addition)

    async def compute(self, weight: int, work: Callable[[], T]) -> T:
        return await self._here.compute(weight, work)

    async def setup(self) -> None:
        """As `BlockingEngine.setup`."""
        await self._here.setup()


_POOL_BUSY = (
    "no connection of the pool became free in time ({}); give the pool more connections (max_size) or a longer timeout"
)


def _settled(result: Any) -> Outcome:
    if isinstance(result, Exception):
        raise result
    outcome: Outcome = result
    return outcome


def _transaction_of(conn: Connection[Any]) -> AbstractContextManager[Any]:
    return nullcontext() if conn.autocommit else conn.transaction()


def _loop_transaction_of(conn: AsyncConnection[Any]) -> AbstractAsyncContextManager[Any]:
    return nullcontext() if conn.autocommit else conn.transaction()
