"""Opening and closing: whose connection it is, what happens after, and what happens when nobody closes."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
import pytest
from psycopg.rows import dict_row, namedtuple_row, tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import langgraph_checkpoint_dual as dual
from langgraph_checkpoint_dual.errors import ClosedError
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import Kind, faced, opened, settle


async def use(subject: Any) -> None:
    """A bit of everything."""
    first = await put(subject, values={"log": ["x"] * 40}, step=1)
    await subject.aput_writes(first, [("log", 1)], "task")
    second = await put(subject, first, {"log": ["x"] * 41}, step=2)
    assert [found.config for found in await listed(subject, config(), filter={"step": 2})] == [second]
    await subject.acopy_thread("thread", "copy")
    await subject.aprune(["copy"])
    await subject.adelete_for_runs(["run"])
    assert len(await listed(subject, None)) == 3


class TestOwnConnection:
    async def test_context_managers(self, kind: Kind, database: str, face: str) -> None:
        if kind.face == "blocking" and face == "blocking":
            with kind.ours(database) as saver:
                await use(faced(saver, face))
        else:
            async with kind.ours(database) as saver:
                await use(faced(saver, face))
        async with opened(kind.ours, database) as other:
            assert len(await listed(other, None)) == 3

    async def test_path_objects_and_folders_that_are_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "some" / "folder" / "chats.db"
        with dual.SqliteSaver(path) as saver:
            await use(faced(saver, "blocking"))
        async with dual.AsyncSqliteSaver(path) as async_saver:
            assert len(await listed(async_saver, None)) == 3

    async def test_memory(self) -> None:
        for saver_class in (dual.SqliteSaver, dual.AsyncSqliteSaver):
            async with opened(saver_class, ":memory:") as saver:
                await use(faced(saver, "async"))
                assert len(list(saver.list(None))) == 3
            async with opened(saver_class, ":memory:") as saver:
                assert await listed(saver, None) == []

    async def test_use_after_close(self, kind: Kind, database: str, face: str) -> None:
        async with opened(kind.ours, database) as saver:
            stored = await put(saver)
            unfinished = saver.list(None)
        subject = faced(saver, face)
        for call in (
            subject.aget_tuple(stored),
            put(subject),
            subject.aput_writes(stored, [("a", 1)], "task"),
            listed(subject, None),
            subject.adelete_thread("thread"),
            subject.aprune(["thread"]),
        ):
            with pytest.raises(ClosedError):
                await call
        with pytest.raises(ClosedError):
            next(unfinished)

    async def test_closing_twice(self, kind: Kind, database: str) -> None:
        saver = kind.ours(database)
        await put(saver)
        await saver.aclose()
        await saver.aclose()
        saver.close()
        other = kind.ours(database)
        await put(other)
        other.close()
        other.close()

    async def test_forgetting_to_close_warns(self, kind: Kind, database: str) -> None:
        saver = kind.ours(database)
        saver.put(config(), checkpoint(), metadata(), {})  # blocking: no other thread holds on to a finished call
        holder = [saver]
        del saver
        with pytest.warns(ResourceWarning, match="never closed"):
            drop(holder)

    @pytest.mark.slow
    def test_forgetting_to_close_never_hangs_the_exit(self, kind: Kind, database: str, face: str) -> None:
        command = [sys.executable, "-m", "tests.support.exit_worker", kind.name, database, face]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
        assert "Traceback" not in ended.stderr
        assert "Exception ignored" not in ended.stderr
        if not tables.is_postgres(database):
            assert tables.rows(database, "PRAGMA integrity_check") == [("ok",)]


def drop(holder: list[Any]) -> None:
    holder.clear()
    gc.collect()


ROW_FACTORIES: dict[str, Any] = {"none": None, "Row": sqlite3.Row, "dict": lambda cursor, row: {"row": row}}


class TestGivenSqliteConnection:
    @pytest.mark.parametrize("row_factory", ROW_FACTORIES.values(), ids=ROW_FACTORIES)
    @pytest.mark.parametrize("isolation_level", [None, "", "IMMEDIATE"], ids=repr)
    async def test_is_left_as_it_came(
        self, sqlite_path: str, face: str, row_factory: Any, isolation_level: Any
    ) -> None:
        with closing(
            sqlite3.connect(sqlite_path, isolation_level=isolation_level, check_same_thread=False)
        ) as connection:
            connection.row_factory = row_factory
            saver = dual.SqliteSaver(connection)
            assert saver.conn is connection
            await use(faced(saver, face))
            assert not connection.in_transaction
            await saver.aclose()
            assert connection.row_factory is row_factory
            assert connection.isolation_level == isolation_level
            connection.row_factory = None
            assert connection.execute("SELECT 1").fetchone() == (1,)
        async with opened(dual.SqliteSaver, sqlite_path) as other:
            assert len(await listed(other, None)) == 3

    @pytest.mark.parametrize("isolation_level", [None, ""], ids=repr)
    async def test_aiosqlite(self, sqlite_path: str, face: str, isolation_level: Any) -> None:
        async with aiosqlite.connect(sqlite_path, isolation_level=isolation_level) as connection:
            connection.row_factory = sqlite3.Row
            saver = dual.AsyncSqliteSaver(connection)
            assert saver.conn is connection
            await use(faced(saver, face))
            assert not connection.in_transaction
            await saver.aclose()
            assert connection.row_factory is sqlite3.Row
            assert connection.isolation_level == isolation_level
            async with connection.execute("SELECT 1") as cursor:
                assert tuple(await cursor.fetchone()) == (1,)  # type: ignore[arg-type]
        async with opened(dual.SqliteSaver, sqlite_path) as other:
            assert len(await listed(other, None)) == 3

    async def test_aiosqlite_not_yet_started(self, sqlite_path: str) -> None:
        """The official saver starts it; so it may come unstarted."""
        connection = aiosqlite.connect(sqlite_path)
        await use(dual.AsyncSqliteSaver(connection))
        await connection.close()

    async def test_memory(self, face: str) -> None:
        with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
            await use(faced(dual.SqliteSaver(connection), face))
        async with aiosqlite.connect(":memory:") as async_connection:
            await use(faced(dual.AsyncSqliteSaver(async_connection), face))

    async def test_read_only_file(self, sqlite_path: str, face: str) -> None:
        async with opened(dual.SqliteSaver, sqlite_path) as saver:
            await use(saver)
        uri = f"file:{sqlite_path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as connection:
            await read_everything(faced(dual.SqliteSaver(connection), face))
        async with aiosqlite.connect(uri, uri=True) as async_connection:
            await read_everything(faced(dual.AsyncSqliteSaver(async_connection), face))


async def read_everything(subject: Any) -> None:
    head = await subject.aget_tuple(config())
    assert head.checkpoint["channel_values"]["log"] == ["x"] * 41
    assert len(await listed(subject, None)) == 3
    history = await subject.aget_delta_channel_history(config=head.config, channels=["log"])
    assert history["log"]["seed"] == ["x"] * 40


CONNECTION_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "autocommit": {"autocommit": True},
    "official": {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
    "odd": {"row_factory": namedtuple_row},
}


@asynccontextmanager
async def given_postgres(kind: str, uri: str, options: dict[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    """A saver on a connection or pool of the user's own, and that connection or pool."""
    async with AsyncExitStack() as stack:
        given: Any
        if kind == "connection":
            given = stack.enter_context(psycopg.connect(uri, **options))
            saver: Any = dual.PostgresSaver(given)
        elif kind == "async connection":
            given = await stack.enter_async_context(await psycopg.AsyncConnection.connect(uri, **options))
            saver = dual.AsyncPostgresSaver(given)
        elif kind == "pool":
            given = stack.enter_context(ConnectionPool(uri, min_size=1, max_size=2, kwargs=options, open=True))
            saver = dual.PostgresSaver(given)
        else:
            pool = AsyncConnectionPool(uri, min_size=1, max_size=2, kwargs=options, open=False)
            given = await stack.enter_async_context(pool)
            saver = dual.AsyncPostgresSaver(given)
        yield saver, given


class TestGivenPostgresConnection:
    @pytest.mark.parametrize("options", CONNECTION_OPTIONS.values(), ids=CONNECTION_OPTIONS)
    @pytest.mark.parametrize("given_kind", ["connection", "async connection"])
    async def test_is_left_as_it_came(self, postgres_uri: str, face: str, given_kind: str, options: Any) -> None:
        async with given_postgres(given_kind, postgres_uri, options) as (saver, connection):
            assert saver.conn is connection
            await use(faced(saver, face))
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            await saver.aclose()
            assert not connection.closed
            assert connection.autocommit == options.get("autocommit", False)
            assert connection.row_factory == options.get("row_factory", tuple_row)
            await settle(connection.execute("SELECT 1"))
            await settle(connection.rollback())
        async with opened(dual.PostgresSaver, postgres_uri) as other:
            assert len(await listed(other, None)) == 3

    @pytest.mark.parametrize("options", CONNECTION_OPTIONS.values(), ids=CONNECTION_OPTIONS)
    @pytest.mark.parametrize("given_kind", ["pool", "async pool"])
    async def test_pool_stays_open_and_its_connections_as_they_were(
        self, postgres_uri: str, face: str, given_kind: str, options: Any
    ) -> None:
        async with given_postgres(given_kind, postgres_uri, options) as (saver, pool):
            assert saver.conn is pool
            await use(faced(saver, face))
            await saver.aclose()
            assert not pool.closed
            connection = await settle(pool.getconn())
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert connection.autocommit == options.get("autocommit", False)
            assert connection.row_factory == options.get("row_factory", tuple_row)
            await settle(pool.putconn(connection))

    async def test_pipelines(self, postgres_uri: str, face: str) -> None:
        with dual.PostgresSaver.from_conn_string(postgres_uri, pipeline=True) as saver:
            await use(faced(saver, face))
        async with dual.AsyncPostgresSaver.from_conn_string(postgres_uri, pipeline=True) as async_saver:
            await async_saver.adelete_thread("thread")
            await async_saver.adelete_thread("copy")
            await use(faced(async_saver, face))
        with psycopg.connect(postgres_uri, autocommit=True) as connection, connection.pipeline() as pipe:
            assert len(await listed(faced(dual.PostgresSaver(connection, pipe), face), None)) == 3

    async def test_a_pool_and_a_pipeline_are_refused(self, postgres_uri: str) -> None:
        with (
            psycopg.connect(postgres_uri, autocommit=True) as connection,
            connection.pipeline() as pipe,
            ConnectionPool(postgres_uri, min_size=0, max_size=1, open=True) as pool,
            pytest.raises(ValueError, match=r"(?i)pipeline"),
        ):
            dual.PostgresSaver(pool, pipe)

    async def test_an_abandoned_listing_does_not_keep_the_only_connection(self, postgres_uri: str) -> None:
        async with AsyncConnectionPool(postgres_uri, min_size=1, max_size=1, open=False, timeout=10) as pool:
            saver = dual.AsyncPostgresSaver(pool)
            for _ in range(20):
                await put(saver)
            iterator = saver.alist(config())
            await anext(iterator)
            await put(saver)
            async with pool.connection():
                pass

    async def test_read_only_sessions_read(self, postgres_uri: str, face: str) -> None:
        async with opened(dual.PostgresSaver, postgres_uri) as saver:
            await use(saver)
        read_only = f"{postgres_uri} options='-c default_transaction_read_only=on'"
        async with dual.AsyncPostgresSaver(read_only) as reader:
            await read_everything(faced(reader, face))
        with psycopg.connect(postgres_uri) as connection:
            connection.read_only = True
            await read_everything(faced(dual.PostgresSaver(connection), face))


@pytest.mark.parametrize("uri", ["postgresql://user:hunter2@localhost/db", "host=localhost password=hunter2"])
async def test_no_secret_in_a_repr(uri: str) -> None:
    for saver_class in (dual.PostgresSaver, dual.AsyncPostgresSaver):
        saver = saver_class(uri)
        assert "hunter2" not in repr(saver)
        await saver.aclose()
