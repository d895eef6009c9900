"""SQLite: connections, transactions, and the `Database` that the core runs on.

A file has one connection that writes, through the group commit of `Combiner`, and several that read: in WAL mode
neither waits for the other. A connection that was given by the user, and a database in memory, is one connection for
everything, used by one operation at a time.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from langgraph_checkpoint_dual.combining import Combiner, Job
from langgraph_checkpoint_dual.core import migrations
from langgraph_checkpoint_dual.core.metadata import matches
from langgraph_checkpoint_dual.core.queries import Queries, fill
from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.tx import Row, Tx, finish
from langgraph_checkpoint_dual.errors import BusyError, ClosedError, SchemaError
from langgraph_checkpoint_dual.hopping import HoppingFace

T = TypeVar("T")
Work = Callable[[Tx], Awaitable[Any]]

PACKAGE = "langgraph_checkpoint_dual.sqlite"
DEFAULT_TIMEOUT = 30.0
_READERS = 8
_THREADS = 8
_PATIENCE_MS = 5
CLOSED = "this saver was closed; open a new one"


class SqliteTx:
    """The core's transaction on a `sqlite3` connection. Its methods never suspend."""

    def __init__(self, conn: sqlite3.Connection, queries: Queries, names: dict[str, str]) -> None:
        self._conn, self._queries, self._names = conn, queries, names

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        return self._cursor().execute(self._queries[query], args).fetchall()

    async def execute(self, query: str, /, **args: Any) -> None:
        if query.startswith("ddl "):
            self._cursor().execute(fill(query[4:], self._names))
            return
        for statement in self._queries[query].split(";\n"):
            self._cursor().execute(statement, args)

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        """Store an addition; after any outcome but `STORED` the caller must roll back."""
        if isinstance(addition, PutWrites):
            self._many("replace_write" if addition.replace else "insert_write", addition.rows)
            return Outcome.STORED
        row = addition.row
        if addition.base is not None:
            base = {"thread_id": row.thread_id, "checkpoint_ns": row.checkpoint_ns, "checkpoint_id": addition.base}
            if await self.fetch("slots", **base) != [(addition.base_slots,)]:
                return Outcome.BASE_GONE
        try:
            self._many("insert_item", addition.items)
        except sqlite3.IntegrityError:
            return Outcome.SEQ_TAKEN
        self._many("insert_checkpoint", [row])
        return Outcome.STORED

    def _many(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._cursor().executemany(self._queries[query], rows)

    def _cursor(self) -> sqlite3.Cursor:
        cursor = self._conn.cursor()
        cursor.row_factory = None  # whatever the user's connection makes of rows
        return cursor


class _NotStored(Exception):
    """Rolls back an addition that had another outcome than `STORED`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Connections(Protocol):
    """Where an engine gets its connections from."""

    def reading(self) -> Any:
        """A context manager for a connection to read with."""
        ...

    def writing(self) -> Any:
        """A context manager for the connection to write with; never used by two at once."""
        ...

    def close(self) -> None:
        """Close what was opened here."""
        ...


class FileConnections:
    """Connections to a file: one writes, several read.

    Args:
        path: the file; it and its folder are made if missing, the file readable by its owner only.
        timeout: how long to wait for other processes' locks, in seconds.
        synchronous: SQLite's setting; `FULL` survives power loss, `NORMAL` may then lose the last commits.
    """

    def __init__(self, path: str, *, timeout: float, synchronous: str) -> None:
        self.path, self.timeout, self.synchronous = path, timeout, synchronous
        self._idle: list[sqlite3.Connection] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._slots = threading.BoundedSemaphore(_READERS)
        self._writer: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._closed = False
        _make_private(path)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._slots:
            conn = self._take() or self._open("PRAGMA query_only = ON")
            try:
                yield conn
            finally:
                self._give(conn)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        self._after_fork()
        with self._writing:
            if self._writer is None:
                self._writer = self._open(
                    "PRAGMA journal_mode = WAL",
                    f"PRAGMA synchronous = {self.synchronous}",
                    f"PRAGMA busy_timeout = {_PATIENCE_MS}",
                )
            yield self._writer

    def close(self) -> None:
        """Wait for the writer and close it; connections that read now are closed when they are done."""
        with self._writing, self._lock:
            self._closed = True
            open_now = [*self._idle, *filter(None, [self._writer])]
            self._idle, self._writer = [], None
        for conn in open_now:
            conn.close()

    def _take(self) -> sqlite3.Connection | None:
        self._after_fork()
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give(self, conn: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(conn)
                return
        conn.close()

    def _open(self, *pragmas: str) -> sqlite3.Connection:
        if self._closed:
            raise ClosedError(CLOSED)
        conn = sqlite3.connect(
            self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False, uri=self.path[:5] == "file:"
        )
        for pragma in pragmas:
            conn.execute(pragma).fetchall()
        _prepare(conn)
        return conn

    def _after_fork(self) -> None:
        """Never use a connection of the parent process, nor close it: that would drop the parent's locks."""
        if self._pid != os.getpid():
            _INHERITED.extend([*self._idle, self._writer])
            self._idle, self._writer, self._pid = [], None, os.getpid()
            self._lock, self._writing = threading.Lock(), threading.Lock()
            self._slots = threading.BoundedSemaphore(_READERS)


_INHERITED: list[sqlite3.Connection | None] = []


class OneConnection:
    """A single connection for everything: the user's own, or that of a database in memory."""

    def __init__(self, conn: sqlite3.Connection, *, owned: bool) -> None:
        self.conn, self._owned = conn, owned
        self._lock = threading.Lock()
        self._prepared = self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise ClosedError(CLOSED)
            if not self._prepared:
                _prepare(self.conn)
                self._prepared = True
            factory, self.conn.text_factory = self.conn.text_factory, str
            try:
                yield self.conn
            finally:
                self.conn.text_factory = factory

    writing = reading

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._owned:
                self.conn.close()


class SqliteEngine:
    """Runs transactions on connections: the blocking `Database`, and group commit for all that write.

    Args:
        connections: where to get them.
        prefix: what the names of the tables begin with.
        timeout: how long to wait for other processes' locks, in seconds.
    """

    def __init__(self, connections: Connections, *, prefix: str = "dual_", timeout: float = DEFAULT_TIMEOUT) -> None:
        self.connections, self.timeout = connections, timeout
        self._names = _names(prefix)
        self._queries = Queries(PACKAGE, self._names)
        self._migrations = migrations.migrations_of(PACKAGE)
        self.executor: Executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="langgraph-checkpoint-dual")
        self.combiner: Combiner[Work] = Combiner(self._run_batch, self.executor)
        self._ready = False
        self._closed = False

    # --- the blocking Database ---

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        with self.connections.reading() as conn:
            tx = self._tx(conn)
            if conn.in_transaction:
                return await look(tx)
            conn.execute("BEGIN")
            try:
                return await look(tx)
            finally:
                _roll_back(conn)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        result: T = self.combiner.run(edit)
        return result

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return await stored(self.change, addition)

    async def compute(self, weight: int, work: Callable[[], T]) -> T:
        return work()

    # --- life ---

    def check_open(self) -> None:
        if self._closed:
            raise ClosedError(CLOSED)

    @property
    def is_ready(self) -> bool:
        """Whether `setup` has been done."""
        return self._ready and not self._closed

    def setup(self) -> None:
        """Make the schema, or bring it up to date, once.

        Raises:
            SchemaError: if the database is newer than this package, or cannot be written and lacks the schema.
            ClosedError: if the saver was closed.
        """
        self.check_open()
        if self._ready:
            return
        if self._pending():
            try:
                self.combiner.run(partial(migrations.migrate, migrations=self._migrations))
            except sqlite3.OperationalError as exc:
                raise SchemaError(f"the checkpoint tables are missing and cannot be made: {exc}") from exc
        self._ready = True

    @contextmanager
    def alone(self, *, commit: bool) -> Iterator[sqlite3.Connection]:
        """The connection that writes, in a transaction, while nobody else writes."""
        with self.connections.writing() as conn:
            if not conn.in_transaction:
                self._begin_immediate(conn)
            try:
                yield conn
            except BaseException:
                _roll_back(conn)
                raise
            if commit:
                _commit(conn)
            else:
                _roll_back(conn)

    def close(self) -> None:
        """Finish what is under way, then close what was opened here. Later operations raise `ClosedError`."""
        if not self._closed:
            self._closed = True
            self.executor.shutdown()
            self.connections.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and isinstance(self.connections, FileConnections):
            warnings.warn("a SQLite saver was never closed; use `with` or close()", ResourceWarning, 1, self)
            self.connections.close()

    # --- transactions ---

    def _tx(self, conn: sqlite3.Connection) -> SqliteTx:
        return SqliteTx(conn, self._queries, self._names)

    def _pending(self) -> bool:
        with self.connections.reading() as conn:
            applied = finish(migrations.applied_numbers(self._tx(conn)))
        return bool(migrations.pending(self._migrations, applied))

    def _run_batch(self, jobs: Sequence[Job[Work]]) -> None:
        """Run all jobs in one transaction, each in a savepoint, and settle them after the commit."""
        with self.connections.writing() as conn:
            begun = self._begin(conn, jobs)
            if not begun:
                return
            ended: list[tuple[Job[Work], Any, BaseException | None]] = []
            try:
                for job in jobs:
                    ended.append((job, *self._run_job(conn, job)))
                _commit(conn)
            except BaseException as exc:
                _roll_back(conn)
                if not isinstance(exc, Exception):
                    raise
                ended = [(job, None, exc) for job in jobs]
            for job, result, error in ended:
                job.settle(result, error)

    def _begin(self, conn: sqlite3.Connection, jobs: Sequence[Job[Work]]) -> bool:
        try:
            if not conn.in_transaction:
                self._begin_immediate(conn)
        except Exception as exc:
            for job in jobs:
                job.settle(error=exc)
            return False
        return True

    def _begin_immediate(self, conn: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                conn.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                if not _is_busy(exc):
                    raise
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"other connections kept the SQLite database locked for {self.timeout:g} s; "
                        "look for a long transaction elsewhere, or choose a longer timeout"
                    ) from exc
            time.sleep(random.uniform(0.0002, 0.004))

    def _run_job(self, conn: sqlite3.Connection, job: Job[Work]) -> tuple[Any, BaseException | None]:
        conn.execute("SAVEPOINT job")
        try:
            result: Any = finish(_coroutine(job.work(self._tx(conn))))
        except Exception as exc:
            if not conn.in_transaction:  # some errors, such as a full disk, end the whole transaction
                raise
            conn.execute("ROLLBACK TO job")
            conn.execute("RELEASE job")
            return None, exc
        conn.execute("RELEASE job")
        return result, None


class LoopFace(HoppingFace):
    """The asynchronous `Database` over an engine: writes of all callers share commits without a thread for each."""

    def __init__(self, engine: SqliteEngine) -> None:
        super().__init__(engine, engine.executor)
        self._sqlite = engine

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        if not self._sqlite.is_ready:
            await self.setup()
        result: T = await self._sqlite.combiner.submit(edit)
        return result

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return await stored(self.change, addition)


async def stored(change: Callable[[Work], Awaitable[Any]], addition: Put | PutWrites) -> Outcome:
    """Store an addition in a change; another outcome than `STORED` rolls its part back."""

    async def insert(tx: Any) -> Outcome:
        outcome: Outcome = await tx.insert(addition)
        if outcome is not Outcome.STORED:
            raise _NotStored(outcome)
        return outcome

    try:
        result: Outcome = await change(insert)
    except _NotStored as exc:
        return exc.outcome
    return result


async def _coroutine(work: Awaitable[T]) -> T:
    return await work


def _names(prefix: str) -> dict[str, str]:
    tables = ("checkpoints", "items", "writes", "migrations", "checkpoints_latest", "checkpoints_run")
    quoted = {table: '"' + f"{prefix}{table}".replace('"', '""') + '"' for table in tables}
    return {**quoted, "migrations_name": "'" + f"{prefix}migrations".replace("'", "''") + "'"}


def _prepare(conn: sqlite3.Connection) -> None:
    conn.create_function("langgraph_matches", 3, matches, deterministic=True)


def _make_private(path: str) -> None:
    """Make a new database file with its folder, readable by its owner only; SQLite gives the same mode to its WAL."""
    if path.startswith("file:") or Path(path).exists():
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _is_busy(exc: sqlite3.OperationalError) -> bool:
    return "locked" in str(exc) or "busy" in str(exc)


def _commit(conn: sqlite3.Connection) -> None:
    # With autocommit=True (Python 3.12), commit() and rollback() do nothing.
    if getattr(conn, "autocommit", None) is True:
        conn.execute("COMMIT")
    else:
        conn.commit()


def _roll_back(conn: sqlite3.Connection) -> None:
    if not conn.in_transaction:
        return
    if getattr(conn, "autocommit", None) is True:
        conn.execute("ROLLBACK")
    else:
        conn.rollback()
