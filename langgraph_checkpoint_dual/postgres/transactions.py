"""The core's transactions on psycopg connections, blocking or not, and how additions are stored in them.

A transaction here is what the core runs its queries on: a real one in `whole`, else single statements, each of which is
a transaction of its own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

from psycopg import AsyncConnection, ClientCursor, Connection, errors
from psycopg.abc import PQGen
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row

from langgraph_checkpoint_dual.core.rows import Named, Outcome, Put, PutWrites, size_of, too_large
from langgraph_checkpoint_dual.core.turns import alongside
from langgraph_checkpoint_dual.core.tx import Row, TableGone, Tx, stored
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError
from langgraph_checkpoint_dual.hopping import INLINE_WEIGHT
from langgraph_checkpoint_dual.postgres.arrays import register
from langgraph_checkpoint_dual.postgres.direct import is_free, rows_of, run
from langgraph_checkpoint_dual.postgres.faults import interrupts, refuses_transactions
from langgraph_checkpoint_dual.postgres.pieces import (
    SLICE,
    are_pieces,
    command_of,
    copied,
    in_slices,
    is_large,
    joined,
)
from langgraph_checkpoint_dual.postgres.sessions import STATEMENT_MODE, loop_transaction, nested, transaction
from langgraph_checkpoint_dual.postgres.statements import (
    Addition,
    Dialect,
    Statement,
    of_rows,
    outcome_of,
    statements,
    without_data,
)

T = TypeVar("T")
C = TypeVar("C", bound="Connection[Any] | AsyncConnection[Any]")
_LATEST = ("read committed", "read uncommitted")
_MOST_BYTES = 1_000_000_000
"""A message to the server, a field and an array must be smaller than 2**30 bytes, with what they have besides data."""


class _Tx(ABC, Generic[C]):
    """What is the same on both kinds of connection.

    Args:
        one_by_one: whether a pooler lets single statements through only.
    """

    def __init__(self, conn: C, dialect: Dialect, prepare: bool | None = None, *, one_by_one: bool = False) -> None:
        self.conn, self._dialect, self._prepare, self.one_by_one = conn, dialect, prepare, one_by_one
        register(conn)

    @abstractmethod
    async def fetch(self, query: str, /, **args: Any) -> list[Row]: ...

    @abstractmethod
    async def execute(self, query: str, /, **args: Any) -> None: ...

    @abstractmethod
    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T: ...

    @abstractmethod
    async def whole(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work in a transaction."""

    @abstractmethod
    async def copy(self, command: str, pieces: Iterable[bytes]) -> None:
        """Run a COPY FROM STDIN and send it these bytes."""

    @abstractmethod
    async def store(self, statement: Statement) -> list[Row]:
        """Run a statement as a part of whatever transaction there is."""

    @abstractmethod
    async def _answer(self, asking: PQGen[PGresult]) -> PGresult: ...

    @abstractmethod
    async def _nested(self, work: Callable[[], Awaitable[T]]) -> T: ...

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        if rows:
            await self.execute(query, **self._dialect.typed(query, of_rows(rows)))

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        return settled((await store_all(self, [addition]))[0])

    async def alone(self, statement: Statement, weigh: Callable[[], int]) -> list[Row]:
        """Run a statement (`weigh` as for `compute`) as a transaction of its own, or as a savepoint of the caller's."""
        if is_free(self.conn):
            direct, encoding = self._dialect.direct(statement.query), self.conn.info.encoding
            values = await self.compute(weigh, partial(direct.packed, statement.args, encoding))
            prepare_after = None if self._prepare is False else self.conn.prepare_threshold
            return rows_of(await self._answer(run(self.conn, direct, values, prepare_after)), encoding)
        if not in_transaction(self.conn):
            return await self.store(statement)
        return await self._nested(partial(self.store, statement))


class BlockingTx(_Tx[Connection[Any]]):
    """The core's transaction on a blocking connection. Its methods never suspend."""

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        with _noticing_gone(query), self.conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            cursor.execute(self._dialect[query], _given(query, args), prepare=self._prepare)
            rows = cursor.fetchall()
        return joined(rows) if are_pieces(query, rows) else rows

    async def execute(self, query: str, /, **args: Any) -> None:
        with _noticing_gone(query), self.conn.cursor() as cursor:
            cursor.execute(self._dialect[query], _given(query, args), prepare=self._prepare)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work()

    async def _answer(self, asking: PQGen[PGresult]) -> PGresult:
        with self.conn.lock:
            return self.conn.wait(asking)

    async def _nested(self, work: Callable[[], Awaitable[T]]) -> T:
        with nested(self.conn):
            return await work()

    async def whole(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work in a transaction."""
        with transaction(self.conn):
            return await work()

    async def copy(self, command: str, pieces: Iterable[bytes]) -> None:
        """Run a COPY FROM STDIN and send it these bytes."""
        with self.conn.cursor() as cursor, cursor.copy(self._dialect[command]) as copy:
            for piece in pieces:
                copy.write(piece)

    async def send(self, script: bytes) -> None:
        """Send several statements as one message, which the server runs as one transaction."""
        self.conn.execute(script, prepare=False)

    async def store(self, statement: Statement) -> list[Row]:
        """Run a statement as a part of whatever transaction there is."""
        with self.conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            args = self._dialect.typed(statement.query, statement.args)
            cursor.execute(self._dialect[statement.query], args, prepare=self._prepare)
            return cursor.fetchall()


class LoopTx(_Tx[AsyncConnection[Any]]):
    """The core's transaction on an asynchronous connection."""

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        with _noticing_gone(query):
            async with self.conn.cursor(binary=True, row_factory=tuple_row) as cursor:
                await cursor.execute(self._dialect[query], _given(query, args), prepare=self._prepare)
                rows = await cursor.fetchmany(SLICE)
                in_pieces = are_pieces(query, rows)
                while len(rows) < cursor.rowcount:
                    await asyncio.sleep(0)
                    more = await cursor.fetchmany(SLICE)
                    in_pieces = in_pieces or are_pieces(query, more)
                    rows += more
        return await asyncio.to_thread(alongside, partial(joined, rows)) if in_pieces else rows

    async def execute(self, query: str, /, **args: Any) -> None:
        with _noticing_gone(query):
            async with self.conn.cursor() as cursor:
                await cursor.execute(self._dialect[query], _given(query, args), prepare=self._prepare)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work() if weigh() < INLINE_WEIGHT else await asyncio.to_thread(alongside, work)

    async def _answer(self, asking: PQGen[PGresult]) -> PGresult:
        async with self.conn.lock:
            return await self.conn.wait(asking)

    async def _nested(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self.conn.transaction():
            return await work()

    async def whole(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work in a transaction."""
        async with loop_transaction(self.conn):
            return await work()

    async def copy(self, command: str, pieces: Iterable[bytes]) -> None:
        """Run a COPY FROM STDIN and send it these bytes."""
        async with self.conn.cursor() as cursor, cursor.copy(self._dialect[command]) as copy:
            for piece in pieces:
                await copy.write(piece)
                await asyncio.sleep(0)  # psycopg does not wait before its buffer is full

    async def send(self, script: bytes) -> None:
        """Send several statements as one message, which the server runs as one transaction."""
        await self.conn.execute(script, prepare=False)

    async def store(self, statement: Statement) -> list[Row]:
        """Run a statement as a part of whatever transaction there is."""
        async with self.conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            args = self._dialect.typed(statement.query, statement.args)
            await cursor.execute(self._dialect[statement.query], args, prepare=self._prepare)
            return await cursor.fetchall()


@contextmanager
def _noticing_gone(query: str) -> Iterator[None]:
    try:
        yield
    except errors.UndefinedTable as exc:
        if query.startswith("official"):
            raise TableGone(query) from exc
        raise


def in_transaction(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    return not conn.autocommit or conn.info.transaction_status != TransactionStatus.IDLE


async def sees_the_latest(tx: Tx) -> None:
    """Make sure that the transaction sees what others have committed before each of its statements.

    With a snapshot of before, a change would take away what the puts since then use.
    """
    [(level,)] = await tx.fetch("ddl SHOW transaction_isolation")
    if level not in _LATEST:
        raise ConfigError(
            f"this operation cannot run in a transaction of isolation level {level.upper()}, which does not see what "
            "others store meanwhile: begin it as READ COMMITTED, or give the saver a connection of its own"
        )


def _given(query: str, args: dict[str, Any]) -> dict[str, Any] | None:
    # Without parameters psycopg takes a text as it is, where otherwise "%%" means "%".
    return None if query.startswith("ddl ") and not args else args


async def store_all(tx: _Tx[Any], additions: Sequence[Addition]) -> list[Any]:
    """Store additions in as few statements as possible: an outcome or an exception for each."""
    if len(additions) == 1 and size_of(additions[0]) > _MOST_BYTES:
        return [too_large(additions[0], f"Postgres takes in one statement (about {_MOST_BYTES})")]
    if len(additions) == 1 and is_large(additions[0]) and _takes_pieces(tx):
        result = await _store_in_pieces(tx, additions[0])
        if result is not None:
            return [result]
    results: list[Any] = [None] * len(additions)
    for statement in statements(additions):
        weigh = partial(_weight, [additions[at] for at in statement.places])
        try:
            outcomes: Sequence[Any] = statement.outcomes(await tx.alone(statement, weigh))
        except errors.Error as exc:
            if interrupts(exc, tx.conn):
                raise
            if len(statement.places) == 1:
                outcomes = [outcome_of(additions[statement.places[0]], exc)]
            else:  # one of them is to blame: each alone
                outcomes = [(await store_all(tx, [additions[at]]))[0] for at in statement.places]
        for at, outcome in zip(statement.places, outcomes, strict=True):
            results[at] = outcome
    return results


def _weight(additions: Sequence[Addition]) -> int:
    return sum(map(size_of, additions))


def _takes_pieces(tx: _Tx[Any]) -> bool:
    return not tx.one_by_one and tx.conn.pgconn.pipeline_status == PipelineStatus.OFF


async def _store_in_pieces(tx: _Tx[Any], addition: Addition) -> Outcome | Exception | None:
    """Store a large addition: in one transaction its items or writes, and after them the statement that lets it in.

    It takes locks in the order in which single statements do: the thread's, items' numbers, the thread's row. `None` if
    it has to go as one.
    """
    statement = without_data(addition)

    async def insert(_: Tx) -> Outcome:
        await tx.execute("share_thread", thread_id=addition.thread_id)
        await tx.copy(command_of(addition), copied(addition, tx.conn.info.encoding))
        for words in in_slices(addition.words if isinstance(addition, Put) else ()):
            await tx.load("load_search", words)
        return statement.outcomes(await tx.store(statement))[0]

    try:
        return await stored(lambda edit: tx.whole(partial(edit, tx)), insert)
    except errors.FeatureNotSupported:  # COPY, where the table has row-level security
        return None
    except errors.Error as exc:
        if isinstance(exc, errors.UniqueViolation) and isinstance(addition, PutWrites):  # those that are there stay
            return None
        if interrupts(exc, tx.conn) or refuses_transactions(exc):
            raise
        return outcome_of(addition, exc)


class ScriptTx:
    """The core's transaction where a pooler lets single statements through only: all at once, or not at all."""

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any], dialect: Dialect) -> None:
        self._quoting, self._dialect = ClientCursor(conn), dialect  # type: ignore[arg-type]
        self._parts: list[str] = []

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        raise CheckpointerError(STATEMENT_MODE)

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        if rows:
            await self.execute(query, **self._dialect.typed(query, of_rows(rows)))

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        raise CheckpointerError(STATEMENT_MODE)

    async def execute(self, query: str, /, **args: Any) -> None:
        self._parts.append(self._quoting.mogrify(self._dialect[query], _given(query, args)))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work()

    @property
    def text(self) -> bytes:
        """What to send: one message, which the server runs as one transaction."""
        return ";\n".join(self._parts).encode()


def settled(result: Any) -> Outcome:
    if isinstance(result, Exception):
        raise result
    outcome: Outcome = result
    return outcome
