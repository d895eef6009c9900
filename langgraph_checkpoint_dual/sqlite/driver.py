"""SQLite: the `Database`s that the core runs on. All that write share commits, through `combining.Combiner`."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias, TypeVar

from langgraph_checkpoint_dual.combining import Combiner, Job
from langgraph_checkpoint_dual.core import migrations
from langgraph_checkpoint_dual.core.queries import Queries
from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.space import Vacuumed
from langgraph_checkpoint_dual.core.tx import Tx, finish
from langgraph_checkpoint_dual.errors import BusyError, ClosedError, SchemaError
from langgraph_checkpoint_dual.hopping import HoppingFace
from langgraph_checkpoint_dual.sqlite.connections import (
    CLOSED,
    Connections,
    FileConnections,
    Place,
    commit_on,
    roll_back_on,
)
from langgraph_checkpoint_dual.sqlite.patience import Patience
from langgraph_checkpoint_dual.sqlite.space import vacuumed
from langgraph_checkpoint_dual.sqlite.transactions import SqliteTx, Work, quoted_names

T = TypeVar("T")

PACKAGE = "langgraph_checkpoint_dual.sqlite"
DEFAULT_TIMEOUT = 30.0
_THREADS = 8

Ended: TypeAlias = tuple[Job[Work], Any, "BaseException | None"]
"""A job, and its result or error."""


class SqliteEngine:
    """Runs transactions on connections: the blocking `Database`, and group commit for all that write.

    Args:
        connections: where to get them.
        prefix: what the names of the tables begin with.
        timeout: how long to wait for other processes' locks, in seconds.
    """

    def __init__(self, connections: Connections, *, prefix: str = "dual_", timeout: float = DEFAULT_TIMEOUT) -> None:
        self.connections, self.timeout = connections, timeout
        self._names = quoted_names(prefix)
        self._queries = Queries(PACKAGE, self._names)
        self._migrations = migrations.migrations_of(PACKAGE)
        self.patience = Patience()
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
                return await look(self._tx(place))
            finally:
                place.rest()

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        self.setup()
        result: T = self.combiner.run(edit)
        return result

    async def append(self, addition: Put | PutWrites) -> Outcome:
        self.setup()
        outcome: Outcome
        if isinstance(addition, Put):
            self.patience.note_put(addition.thread_id)
            outcome = self.combiner.run(addition)
        else:
            with self.patience.noting_writes(addition.thread_id) as seconds:
                outcome = self.combiner.run(addition, seconds)
        return outcome

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work()

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`; it is always full."""
        self.setup()
        place = self.connections.writer()
        with place.lock:
            try:
                return vacuumed(place.take(), self.timeout)
            finally:
                place.rest()

    # --- life ---

    def check_open(self) -> None:
        if self._closed:
            raise ClosedError(CLOSED)

    @property
    def is_ready(self) -> bool:
        """Whether `setup` has been done."""
        return self._ready

    def setup(self) -> None:
        """Make the schema, or bring it up to date, once.

        Raises:
            SchemaError: if the database is newer than this package, or cannot be written and lacks the schema.
            ClosedError: if the saver was closed.
        """
        if self._ready:
            return
        self.check_open()
        if self._pending():
            try:
                self.combiner.run(partial(migrations.migrate, migrations=self._migrations))
            except sqlite3.OperationalError as exc:
                raise SchemaError(f"the checkpoint tables are missing and cannot be made: {exc}") from exc
        self._ready = True

    def verify(self) -> None:
        """As `setup`, but change nothing: a `SchemaError` says what is missing."""
        self.check_open()
        if missing := self._pending():
            names = "; ".join(f"migration {one.number} ({one.name})" for one in missing)
            raise SchemaError(
                f"missing: {names}. setup() makes the tables or brings them up to date. Nothing was changed."
            )
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
                    roll_back_on(conn)
                    raise
                if commit:
                    commit_on(conn)
                else:
                    roll_back_on(conn)
            finally:
                place.rest()

    def close(self) -> None:
        """Finish what is under way, then close what was opened here. Later operations raise `ClosedError`."""
        if not self._closed:
            self._closed, self._ready = True, False
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

    def _tx(self, place: Place) -> SqliteTx:
        return SqliteTx(place.cursor(), self._queries, self._names)

    def _pending(self) -> list[migrations.Migration]:
        place = self.connections.reader()
        with place.lock:
            try:
                place.take()
                applied = [row[0] for row in finish(self._tx(place).fetch("applied_migrations"))]
            except sqlite3.OperationalError as exc:
                if "no such table" not in str(exc):
                    raise
                applied = []
            finally:
                place.rest()
        return migrations.pending(self._migrations, applied)

    def _run_batch(self, jobs: Sequence[Job[Work]]) -> None:
        place = self.connections.writer()
        with place.lock:
            try:
                place.take()
                self._run_together(place, jobs, self.combiner.arrived)
            finally:
                place.rest()

    def _run_together(
        self, place: Place, jobs: Sequence[Job[Work]], arrived: Callable[[], Sequence[Job[Work]]] = tuple
    ) -> None:
        """Run all jobs, and those that have arrived when it begins, in one transaction; settle all after the commit."""
        conn = place.conn
        assert conn is not None
        ended: Sequence[Ended] = ()
        committing = False
        try:
            is_ours = not conn.in_transaction
            if is_ours:
                self._begin_immediate(place)
                jobs = [*jobs, *arrived()]
            tx = self._tx(place)
            ended = self._run_bare(conn, tx, jobs) if is_ours else ()
            if not ended:
                if not conn.in_transaction:
                    self._begin_immediate(place)
                ended = [self._run_saved(conn, tx, job) for job in jobs]
            committing = True
            if conn.in_transaction:
                commit_on(conn)
            _settle(ended)
        except Exception as exc:
            roll_back_on(conn)
            if len(jobs) > 1 and not isinstance(exc, BusyError):  # such as a full disk: what fits alone is stored
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

    def _run_bare(self, conn: sqlite3.Connection, tx: SqliteTx, jobs: Sequence[Job[Work]]) -> Sequence[Ended]:
        """Run all jobs without savepoints; nothing, maybe after a rollback, if that cannot be."""
        if len(jobs) == 1:
            [job] = jobs
            result, is_kept = _run(job.work, tx)
            if not is_kept:
                roll_back_on(conn)
            return [(job, result, None)]
        additions = [job.work for job in jobs if isinstance(job.work, (Put, PutWrites))]
        if len(additions) < len(jobs):
            return ()
        outcomes = tx.insert_all(additions)
        if outcomes is None:
            roll_back_on(conn)
            return ()
        return [(job, outcome, None) for job, outcome in zip(jobs, outcomes, strict=True)]

    def _run_saved(self, conn: sqlite3.Connection, tx: SqliteTx, job: Job[Work]) -> Ended:
        """Run a job in a savepoint."""
        result, is_kept, error = None, False, None
        conn.execute("SAVEPOINT job")
        try:
            result, is_kept = _run(job.work, tx)
        except Exception as exc:
            if not conn.in_transaction or _is_full(exc):  # it may have ended the whole transaction
                raise
            error = exc
        if not is_kept:
            conn.execute("ROLLBACK TO job")
        conn.execute("RELEASE job")
        return job, result, error


def _run(work: Work, tx: SqliteTx) -> tuple[Any, bool]:
    """The result of a work, and whether what it has done is to be kept."""
    if isinstance(work, (Put, PutWrites)):
        outcome = tx.insert_one(work)
        return outcome, outcome is Outcome.STORED
    return finish(_coroutine(work(tx))), True


def _settle(ended: Iterable[Ended]) -> None:
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
        result: T = await self._submit(edit)
        return result

    async def append(self, addition: Put | PutWrites) -> Outcome:
        outcome: Outcome = await self._submit(addition)
        return outcome

    async def _submit(self, work: Work) -> Any:
        if not self._sqlite.is_ready:
            await self.setup()
        return await self._sqlite.combiner.submit(work)

    async def verify(self) -> None:
        """As `SqliteEngine.verify`."""
        await self._hop(self._sqlite.verify)

    async def _hop(self, work: Callable[[], T]) -> T:
        self._sqlite.check_open()
        loop = asyncio.get_running_loop()
        try:
            hop = loop.run_in_executor(self._sqlite.executor, copy_context().run, work)
        except RuntimeError:  # it was closed just now
            self._sqlite.check_open()
            raise
        return await hop


async def _coroutine(work: Awaitable[T]) -> T:
    return await work


def _is_full(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.OperationalError) and ("full" in str(exc) or "I/O" in str(exc))


def _is_busy(exc: sqlite3.OperationalError) -> bool:
    return "locked" in str(exc) or "busy" in str(exc)
