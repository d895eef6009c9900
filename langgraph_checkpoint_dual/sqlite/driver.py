"""SQLite: connections, transactions, and the `Database` that the core runs on.

A file has one connection that writes, through the group commit of `Combiner`, and several that read: in WAL mode
neither waits for the other. A connection that was given by the user, and a database in memory, is one connection for
everything, used by one operation at a time.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
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
_FORK_PATIENCE = 5.0
CLOSED = "this saver was closed; open a new one"


class SqliteTx:
    """The core's transaction on a `sqlite3` connection. Its methods never suspend."""

    def __init__(self, conn: sqlite3.Connection, queries: Queries, names: dict[str, str]) -> None:
        self._conn, self._queries, self._names = conn, queries, names

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        try:
            return self._cursor().execute(self._queries[query], args).fetchall()
        except sqlite3.OperationalError as exc:
            if "decode" not in str(exc):
                raise
        # Damaged text: its checksum says more than an error about UTF-8.
        factory, self._conn.text_factory = self._conn.text_factory, _damaged_text
        try:
            return self._cursor().execute(self._queries[query], args).fetchall()
        finally:
            self._conn.text_factory = factory

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


class Place:
    """A place for one connection, used by who holds its lock: `with place.lock: place.take(); ...; place.rest()`.

    An exception from outside (Ctrl-C) may come between any two steps, also while it is dealt with. The connection stays
    in its place all the same, and what was left of a transaction is ended before the next use.

    Args:
        make: opens the connection when it is first needed.
    """

    def __init__(self, make: Callable[[], sqlite3.Connection]) -> None:
        self.lock = threading.Lock()
        self.conn: sqlite3.Connection | None = None
        self._make = make
        self._ours = False

    def take(self) -> sqlite3.Connection:
        """The connection, as it was before its last use."""
        if self.conn is None:
            self.conn = self._make()
        else:
            self.rest()
        return self.conn

    def begin(self, statement: str = "BEGIN") -> None:
        """Begin a transaction that ends with the use at the latest."""
        assert self.conn is not None
        self._ours = True
        self.conn.execute(statement)

    def rest(self) -> None:
        """End the use: what is still open of a transaction is rolled back."""
        if self._ours and self.conn is not None:
            _roll_back(self.conn)
            self._ours = False

    def close(self) -> None:
        """Close the connection; it is opened again if it is needed."""
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.close()

    def leave_to_parent(self) -> None:
        """After a fork: never use the parent's connection, nor close it, which would drop the parent's locks."""
        if self.conn is not None:
            _INHERITED.append(self.conn)
        self.lock, self.conn, self._ours = threading.Lock(), None, False


_INHERITED: list[sqlite3.Connection] = []


class Connections(Protocol):
    """Where an engine gets its connections from."""

    def reader(self) -> Place:
        """The place of a connection to read with."""
        ...

    def writer(self) -> Place:
        """The place of the connection to write with."""
        ...

    def close(self) -> None:
        """Finish what is under way, and close what was opened here."""
        ...

    def before_fork(self) -> None:
        """Let nothing be under way; what was opened here is closed, if it can be opened again."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """Go on."""
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
        self._readers = [Place(self._open_reader) for _ in range(_READERS)]
        self._writer = Place(self._open_writer)
        self._held: list[Place] = []
        self._closed = False
        _make_private(path)

    def reader(self) -> Place:
        for place in self._readers:
            if not place.lock.locked():
                return place
        return random.choice(self._readers)

    def writer(self) -> Place:
        return self._writer

    def close(self) -> None:
        self._closed = True
        for place in self._places:
            with place.lock:
                place.close()

    def before_fork(self) -> None:
        # A process that inherits open connections believes that it holds their locks, and so does harm.
        deadline = time.monotonic() + _FORK_PATIENCE
        for place in self._places:
            if place.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._held.append(place)
                place.close()

    def after_fork(self, *, in_child: bool) -> None:
        held, self._held = self._held, []
        if in_child:
            for place in self._places:
                place.leave_to_parent()
        else:
            for place in held:
                place.lock.release()

    @property
    def _places(self) -> list[Place]:
        return [self._writer, *self._readers]

    def _open_reader(self) -> sqlite3.Connection:
        return self._open("PRAGMA query_only = ON")

    def _open_writer(self) -> sqlite3.Connection:
        return self._open(
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {self.synchronous}",
            f"PRAGMA busy_timeout = {_PATIENCE_MS}",
        )

    def _open(self, *pragmas: str) -> sqlite3.Connection:
        if self._closed:
            raise ClosedError(CLOSED)
        path = _never_written(self.path) or self.path
        conn = sqlite3.connect(
            path, timeout=self.timeout, isolation_level=None, check_same_thread=False, uri=path[:5] == "file:"
        )
        for pragma in pragmas:
            conn.execute(pragma).fetchall()
        _prepare(conn)
        return conn


class OneConnection(Place):
    """A single connection for everything: the user's own, or that of a database in memory."""

    def __init__(self, conn: sqlite3.Connection, *, owned: bool) -> None:
        super().__init__(self._give)
        self._given, self._owned = conn, owned
        self._text_factory: Any = None
        self._closed = self._forked = False

    def reader(self) -> Place:
        return self

    writer = reader

    def _give(self) -> sqlite3.Connection:
        _prepare(self._given)
        return self._given

    def take(self) -> sqlite3.Connection:
        if self._closed:
            raise ClosedError(CLOSED)
        if self._forked:
            raise ClosedError(
                "this saver's connection belongs to the process that fork() was called in; "
                "open a connection and a saver in each process, or give the saver the path of a file"
            )
        conn = super().take()
        self._text_factory, conn.text_factory = conn.text_factory, str
        return conn

    def rest(self) -> None:
        super().rest()
        if self._text_factory is not None:
            self._given.text_factory = self._text_factory
            self._text_factory = None

    def close(self) -> None:
        with self.lock:
            self._closed = True
            if self._owned:
                self._given.close()

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._forked = True
            _INHERITED.append(self._given)
            self.lock = threading.Lock()


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
        self._ready = False
        self._closed = False
        self._line_up()
        _ENGINES.add(self)

    def _line_up(self) -> None:
        self.executor: Executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="langgraph-checkpoint-dual")
        self.combiner: Combiner[Work] = Combiner(self._run_batch, self.executor)

    # --- the blocking Database ---

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        place = self.connections.reader()
        with place.lock:
            try:
                conn = place.take()
                if not conn.in_transaction:
                    place.begin()
                return await look(self._tx(conn))
            finally:
                place.rest()

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
        place = self.connections.writer()
        with place.lock:
            try:
                conn = place.take()
                if not conn.in_transaction:
                    self._begin_immediate(place)
                try:
                    yield conn
                except BaseException:
                    _roll_back(conn)
                    raise
                if commit:
                    _commit(conn)
                else:
                    _roll_back(conn)
            finally:
                place.rest()

    def close(self) -> None:
        """Finish what is under way, then close what was opened here. Later operations raise `ClosedError`."""
        if not self._closed:
            self._closed = True
            self.executor.shutdown()
            self.connections.close()

    def before_fork(self) -> None:
        """Let nothing be under way in the database."""
        self.connections.before_fork()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; a child has none of the threads, and what waited in line was the parent's."""
        if in_child:
            self._line_up()
        self.connections.after_fork(in_child=in_child)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and isinstance(self.connections, FileConnections):
            warnings.warn("a SQLite saver was never closed; use `with` or close()", ResourceWarning, 1, self)
            self.connections.close()

    # --- transactions ---

    def _tx(self, conn: sqlite3.Connection) -> SqliteTx:
        return SqliteTx(conn, self._queries, self._names)

    def _pending(self) -> bool:
        place = self.connections.reader()
        with place.lock:
            try:
                applied = finish(migrations.applied_numbers(self._tx(place.take())))
            finally:
                place.rest()
        return bool(migrations.pending(self._migrations, applied))

    def _run_batch(self, jobs: Sequence[Job[Work]]) -> None:
        place = self.connections.writer()
        with place.lock:
            try:
                place.take()
                self._run_together(place, jobs)
            finally:
                place.rest()

    def _run_together(self, place: Place, jobs: Sequence[Job[Work]]) -> None:
        """Run all jobs in one transaction, each in a savepoint, and settle them after the commit."""
        conn = place.conn
        assert conn is not None
        ended: list[tuple[Job[Work], Any, BaseException | None]] = []
        begun = committing = False
        try:
            if not conn.in_transaction:
                self._begin_immediate(place)
            begun = True
            for job in jobs:
                ended.append((job, *self._run_job(conn, job)))
            committing = True
            _commit(conn)
            _settle(ended)
        except Exception as exc:
            _roll_back(conn)
            if begun and len(jobs) > 1:  # such as a full disk: what fits alone is stored
                for job in jobs:
                    self._run_together(place, [job])
            else:
                _settle([(job, None, exc) for job in jobs])
        except BaseException:
            if committing and not conn.in_transaction:  # interrupted after the commit
                _settle(ended)
            raise

    def _begin_immediate(self, place: Place) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                place.begin("BEGIN IMMEDIATE")
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
            if not conn.in_transaction or _is_full(exc):  # it may have ended the whole transaction
                raise
            conn.execute("ROLLBACK TO job")
            conn.execute("RELEASE job")
            return None, exc
        conn.execute("RELEASE job")
        return result, None


def _settle(ended: Iterable[tuple[Job[Work], Any, BaseException | None]]) -> None:
    for job, result, error in ended:
        job.settle(result, error)


_ENGINES: weakref.WeakSet[SqliteEngine] = weakref.WeakSet()


def _before_fork() -> None:
    for engine in list(_ENGINES):
        engine.before_fork()


def _after_fork(*, in_child: bool) -> None:
    for engine in list(_ENGINES):
        engine.after_fork(in_child=in_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, in_child=False),
        after_in_child=partial(_after_fork, in_child=True),
    )


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

    async def _hop(self, work: Callable[[], T]) -> T:
        self._sqlite.check_open()
        loop = asyncio.get_running_loop()
        try:
            hop = loop.run_in_executor(self._sqlite.executor, work)
        except RuntimeError:  # it was closed just now
            self._sqlite.check_open()
            raise
        return await hop


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


def _damaged_text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


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


def _never_written(path: str) -> str | None:
    """How to open a file that can only be read, in a folder in which no log can be made for it; `None` for others."""
    if path.startswith("file:") or os.access(Path(path).parent, os.W_OK) or Path(f"{path}-wal").exists():
        return None
    return f"{Path(path).absolute().as_uri()}?immutable=1" if Path(path).exists() else None


def _is_full(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.OperationalError) and ("full" in str(exc) or "I/O" in str(exc))


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
