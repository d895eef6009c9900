"""Ctrl-C at each point of a blocking operation: nothing is stuck, no connection lost, writes are whole or absent."""

from __future__ import annotations

import gc
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

import langgraph_checkpoint_dual as dual
from tests.faults.history import step
from tests.faults.interrupt_points import PATIENCE, Point, sweep
from tests.faults.interrupts import Interruption
from tests.support import tables
from tests.support.checkpoints import config


def put(saver: Any, thread: str) -> None:
    step(saver, thread, 0, None)


def read(saver: Any, thread: str) -> None:
    saver.get_tuple(config("there"))


def delete(saver: Any, thread: str) -> None:
    saver.delete_thread(thread)


OPERATIONS = [pytest.param(one, id=one.__name__) for one in (put, read, delete)]


def prepared(operation: Any) -> Callable[[Any, str], object] | None:
    """What the thread of an operation has before it."""
    return put if operation is delete else None


def leaves_nothing_of_deleted_threads(saver: Any, database: str) -> None:
    """Every row is of a thread that is there; what is remembered of deleted ones is of those that are not."""
    there = {one.config["configurable"]["thread_id"] for one in saver.list(None)}
    for name in ("checkpoints", "items", "writes", "threads"):
        assert {row["thread_id"] for row in tables.named_rows(database, f"dual_{name}")} <= there, name
    gone = {row["thread_id"] for row in tables.named_rows(database, "dual_tombstones")}
    assert not gone & there


def has_all(pool: ConnectionPool[Any], uri: str) -> bool:
    """Whether a pool has its connections, at most as many as it may have, and there are no others nor transactions."""
    stats = pool.get_stats()
    backends = tables.rows(
        uri,
        "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
    return (
        stats["pool_size"] == stats["pool_available"] == len(backends) <= stats["pool_max"]
        and stats.get("requests_waiting", 0) == 0
        and all(state == "idle" for (state,) in backends)
    )


LOCK = "LOCK TABLE dual_writes IN ACCESS EXCLUSIVE MODE"


def waiting(uri: str) -> int:
    """How many sessions wait for a lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return len(tables.rows(uri, query))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # what is waited for does not tell of itself


@contextmanager
def interrupted_once(until: Callable[[], object], error: type[BaseException] = Interruption) -> Iterator[None]:
    """Raise an error in the block, by a signal to the main thread that is sent when `until` has returned."""

    def handle(*_: Any) -> None:
        raise error

    def send() -> None:
        try:
            until()
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(error):
            yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def wait_until_whole(pool: ConnectionPool[Any], uri: str) -> None:
    wait_until(lambda: has_all(pool, uri))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # points within destructors
class TestPostgres:
    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("beside", [0, 3])
    def test_pool(self, postgres_uri: str, operation: Any, beside: int) -> None:
        with ConnectionPool(postgres_uri, min_size=1, max_size=2, timeout=10, kwargs={"autocommit": True}) as pool:
            saver = dual.PostgresSaver(pool)
            step(saver, "there", 0, None)
            assert sweep(saver, operation, beside, spacing=29, prepare=prepared(operation)) > 40
            leaves_nothing_of_deleted_threads(saver, postgres_uri)
            wait_until_whole(pool, postgres_uri)

    @pytest.mark.parametrize("max_size", [1, 2])
    def test_while_it_waits_for_a_connection(self, postgres_uri: str, max_size: int) -> None:
        """Who is interrupted while all connections are lent is not given the next one that comes back."""
        with ConnectionPool(postgres_uri, min_size=1, max_size=max_size, timeout=30) as pool:
            saver = dual.PostgresSaver(pool)
            step(saver, "there", 0, None)
            for _ in range(5):
                lent = [pool.getconn() for _ in range(max_size)]
                with interrupted_once(partial(wait_until, lambda: pool.get_stats().get("requests_waiting", 0) > 0)):
                    step(saver, "waits", 0, None)
                for connection in lent:
                    pool.putconn(connection)
                step(saver, "after", 0, None)
            wait_until_whole(pool, postgres_uri)

    def test_an_error_that_a_handler_raises_is_not_that_of_others(self, postgres_uri: str) -> None:
        """Such as a time limit: it ends the work of the main thread alone, also where that leads for others."""
        with (
            dual.PostgresSaver(postgres_uri) as saver,
            psycopg.connect(postgres_uri) as first,
            psycopg.connect(postgres_uri) as second,
            ThreadPoolExecutor() as threads,
        ):
            place = step(saver, "there", 0, None)
            saver.put_writes(place, [("log", 1)], "prepares")  # which would wait for the lock once more
            writes = [partial(saver.put_writes, place, [("log", 1)], f"task-{number}") for number in range(5)]
            lanes = saver._engine._combiners

            def line() -> list[Any]:
                return [job for lane in lanes for job in lane._line]

            first.execute(LOCK)
            others = [threads.submit(writes[0])]
            wait_until(lambda: waiting(postgres_uri) == 1)
            taken = threads.submit(second.execute, LOCK)
            wait_until(lambda: waiting(postgres_uri) == 2)

            def main_leads() -> None:
                """Until the main thread's batch, with three others in it, waits for the second lock."""
                wait_until(lambda: len(line()) == 1)
                others.extend(map(threads.submit, writes[2:]))
                wait_until(lambda: len(line()) == 4)
                first.rollback()
                taken.result(PATIENCE)
                wait_until(lambda: not line() and waiting(postgres_uri) == 1)

            with interrupted_once(main_leads, TimeoutError):
                writes[1]()
            second.rollback()
            assert [one.result(PATIENCE) for one in others] == [None] * 4
            stored = {task for task, _, _ in saver.get_tuple(place).pending_writes}
            assert stored >= {"task-0", "task-2", "task-3", "task-4"}

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("autocommit", [True, False])
    def test_given_connection(self, postgres_uri: str, operation: Any, autocommit: bool) -> None:
        with psycopg.connect(postgres_uri, autocommit=autocommit) as connection:
            saver = dual.PostgresSaver(connection)
            step(saver, "there", 0, None)
            assert sweep(saver, operation, 0, spacing=29, prepare=prepared(operation)) > 40
            leaves_nothing_of_deleted_threads(saver, postgres_uri)
            assert connection.info.transaction_status == TransactionStatus.IDLE


def is_free(connection: sqlite3.Connection) -> bool:
    """Whether nobody writes, so that it may begin to."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestSqlite:
    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("beside", [0, 3])
    def test_file(self, sqlite_path: str, operation: Any, beside: int) -> None:
        with dual.SqliteSaver(sqlite_path) as saver:
            step(saver, "there", 0, None)
            assert sweep(saver, operation, beside, spacing=11, prepare=prepared(operation)) > 40
            leaves_nothing_of_deleted_threads(saver, sqlite_path)
        assert tables.rows(sqlite_path, "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_given_connection(self, sqlite_path: str, operation: Any) -> None:
        with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
            saver = dual.SqliteSaver(connection)
            step(saver, "there", 0, None)
            assert sweep(saver, operation, 2, spacing=11, prepare=prepared(operation)) > 40
            leaves_nothing_of_deleted_threads(saver, sqlite_path)
            assert not connection.in_transaction

    def test_reading_after_it(self, sqlite_path: str) -> None:
        """Who keeps the error keeps a query that was under way, but nobody is held to what that would have seen."""
        with dual.SqliteSaver(sqlite_path) as saver:
            there = step(saver, "there", 0, None)
            for number in count(1):
                point = Point(number, ("langgraph_checkpoint_dual.sqlite",))
                try:
                    sys.setprofile(point)
                    saver.get_tuple(there)
                    sys.setprofile(None)
                except Interruption:
                    assert saver.get_tuple(step(saver, f"after-{number}", 0, None)) is not None, point.where
                finally:
                    sys.setprofile(None)
                if not point.was_reached:
                    break
            assert number > 10

    @pytest.mark.parametrize("is_given", [False, True])
    def test_closing_after_it(self, sqlite_path: str, is_given: bool) -> None:
        """Who keeps the error keeps statements that were under way, but no lock, and no file that was being opened."""
        kept: list[BaseException] = []
        for number in count(1, 3):
            point = Point(number, ("langgraph_checkpoint_dual.sqlite",))
            given = sqlite3.connect(sqlite_path, check_same_thread=False) if is_given else None
            saver = dual.SqliteSaver(given or sqlite_path)
            try:
                sys.setprofile(point)
                step(saver, "thread", 0, None)
                sys.setprofile(None)
            except Interruption as exc:
                kept.append(exc)
            finally:
                sys.setprofile(None)
            saver.close()
            with closing(sqlite3.connect(sqlite_path, timeout=0, isolation_level=None)) as other:
                assert is_free(other), point.where
            if given is not None:
                given.close()
            elif " _open, " in point.where:
                gc.collect()  # sqlite3 ends a connection so that nobody has got yet
                assert sqlite_path not in [one.path for one in psutil.Process().open_files()], point.where
            if not point.was_reached:
                break
        assert len(kept) > 10
