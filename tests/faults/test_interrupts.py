"""Ctrl-C at random moments in blocking methods: the rest of the process goes on, and writes are whole or absent."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import langgraph_checkpoint_dual as dual
from tests.faults.common import rounds
from tests.faults.interrupts import interrupt_rounds
from tests.support import tables
from tests.support.savers import KINDS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interruption within a destructor
class TestSqlite:
    @pytest.mark.parametrize("beside", [0, 8])
    def test_file(self, sqlite_path: str, beside: int) -> None:
        with dual.SqliteSaver(sqlite_path) as saver:
            report = interrupt_rounds(saver, rounds(150), beside)
            assert report.clean, report
        assert tables.rows(sqlite_path, "PRAGMA integrity_check") == [("ok",)]

    def test_given_connection(self, sqlite_path: str) -> None:
        with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
            report = interrupt_rounds(dual.SqliteSaver(connection), rounds(100), beside=2)
            assert report.clean, report
            assert not connection.in_transaction

    def test_blocking_methods_of_the_async_saver(self, sqlite_path: str) -> None:
        saver: Any = KINDS[1].ours(sqlite_path)
        saver.setup = lambda: None  # that one is a coroutine; the first step sets up
        report = interrupt_rounds(saver, rounds(50), beside=2)
        saver.close()
        assert report.clean, report


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interruption within a destructor
class TestPostgres:
    @pytest.mark.parametrize("beside", [0, 4])
    def test_own_pool(self, postgres_uri: str, beside: int) -> None:
        with dual.PostgresSaver(postgres_uri) as saver:
            report = interrupt_rounds(saver, rounds(60), beside)
            assert report.clean, report

    @pytest.mark.parametrize("autocommit", [True, False])
    def test_given_connection(self, postgres_uri: str, autocommit: bool) -> None:
        with psycopg.connect(postgres_uri, autocommit=autocommit) as connection:
            # Nobody beside: psycopg closes a connection that is interrupted just when a statement fails, as the put
            # does that meets another's items.
            report = interrupt_rounds(dual.PostgresSaver(connection), rounds(60))
            assert report.clean, report
            assert connection.info.transaction_status == TransactionStatus.IDLE
