"""Ctrl-C at each point of a blocking operation: nothing is stuck, no connection lost, writes are whole or absent."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

import langgraph_checkpoint_dual as dual
from tests.faults.history import step
from tests.faults.interrupt_points import PATIENCE, sweep
from tests.support import tables
from tests.support.checkpoints import config


def put(saver: Any, thread: str) -> None:
    step(saver, thread, 0, None)


def read(saver: Any, thread: str) -> None:
    saver.get_tuple(config("there"))


def delete(saver: Any, thread: str) -> None:
    saver.delete_thread(f"{thread} that never was")


OPERATIONS = [pytest.param(one, id=one.__name__) for one in (put, read, delete)]


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


def wait_until_whole(pool: ConnectionPool[Any], uri: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not has_all(pool, uri):
        assert time.monotonic() < deadline, pool.get_stats()
        time.sleep(0.02)  # a pool does not tell of itself


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # points within destructors
class TestPostgres:
    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("beside", [0, 3])
    def test_pool(self, postgres_uri: str, operation: Any, beside: int) -> None:
        with ConnectionPool(postgres_uri, min_size=1, max_size=2, timeout=10, kwargs={"autocommit": True}) as pool:
            saver = dual.PostgresSaver(pool)
            step(saver, "there", 0, None)
            assert sweep(saver, operation, beside, spacing=29) > 40
            wait_until_whole(pool, postgres_uri)

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("autocommit", [True, False])
    def test_given_connection(self, postgres_uri: str, operation: Any, autocommit: bool) -> None:
        with psycopg.connect(postgres_uri, autocommit=autocommit) as connection:
            saver = dual.PostgresSaver(connection)
            step(saver, "there", 0, None)
            assert sweep(saver, operation, 0, spacing=29) > 40
            assert connection.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestSqlite:
    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("beside", [0, 3])
    def test_file(self, sqlite_path: str, operation: Any, beside: int) -> None:
        with dual.SqliteSaver(sqlite_path) as saver:
            step(saver, "there", 0, None)
            assert sweep(saver, operation, beside, spacing=11) > 40
        assert tables.rows(sqlite_path, "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_given_connection(self, sqlite_path: str, operation: Any) -> None:
        with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
            saver = dual.SqliteSaver(connection)
            step(saver, "there", 0, None)
            assert sweep(saver, operation, beside=2, spacing=11) > 40
            assert not connection.in_transaction
