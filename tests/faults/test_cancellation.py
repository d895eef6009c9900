"""Cancelled coroutines: whole or absent, no open transaction, no held lock, no broken pool; what follows just works."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import aiosqlite
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

import langgraph_checkpoint_dual as dual
from tests.faults.cancelling import Operation, cancel_at_random, cancel_everywhere, yielding
from tests.faults.common import rounds
from tests.faults.history import is_whole, made, writes
from tests.support import tables
from tests.support.checkpoints import config, listed, metadata

SETUPS = ["path", "blocking class", "aiosqlite", "own pool", "given pool", "connection"]


@asynccontextmanager
async def saver_on(setup: str, sqlite_path: str, postgres_uri: str) -> AsyncIterator[Any]:
    """A saver that is driven through its event-loop face, on each kind of connection."""
    if setup == "path":
        async with dual.AsyncSqliteSaver(sqlite_path) as saver:
            yield saver
    elif setup == "blocking class":
        with dual.SqliteSaver(sqlite_path) as blocking:
            yield blocking
    elif setup == "aiosqlite":
        async with aiosqlite.connect(sqlite_path) as given:
            yield dual.AsyncSqliteSaver(given)
    elif setup == "own pool":
        async with dual.AsyncPostgresSaver(postgres_uri, max_size=2) as saver:
            yield saver
    elif setup == "given pool":
        async with AsyncConnectionPool(postgres_uri, min_size=1, max_size=2, open=False) as pool:
            yield dual.AsyncPostgresSaver(pool)
    else:
        async with await psycopg.AsyncConnection.connect(postgres_uri, autocommit=True) as connection:
            yield dual.AsyncPostgresSaver(connection)


class Subject:
    """Operations on one thread, and what must hold of it after any of them was cancelled."""

    def __init__(self, saver: Any) -> None:
        self.saver, self._number = saver, 0

    async def put(self) -> Any:
        self._number += 1
        new = made("thread", self._number % 30)
        return await self.saver.aput(config("thread"), new, metadata(step=self._number % 30), new["channel_versions"])

    async def put_writes(self) -> None:
        head = await self.saver.aget_tuple(config("thread"))
        await self.saver.aput_writes(head.config, writes(head.checkpoint["channel_values"]["number"]), "task")

    async def get(self) -> None:
        assert await self.saver.aget_tuple(config("thread")) is not None

    async def list(self) -> None:
        assert await listed(self.saver, config("thread"), limit=5)

    async def history(self) -> None:
        await self.saver.aget_delta_channel_history(config=config("thread"), channels=["log"])

    async def copy(self) -> None:
        await self.saver.adelete_thread("copy")
        await self.saver.acopy_thread("thread", "copy")

    async def prune(self) -> None:
        await self.saver.aprune(["copy"])

    async def runs(self) -> None:
        await self.saver.adelete_for_runs(["run"])

    async def register(self) -> None:
        assert (await self.saver.threads.aregister("thread", title="a title")).title == "a title"

    async def append(self) -> None:
        await self.saver.messages("chat").aappend(("human", "said"))

    def all(self) -> dict[str, Operation]:
        names = ("put", "put_writes", "get", "list", "history", "copy", "prune", "runs", "register", "append")
        return {name: getattr(self, name) for name in names}

    async def check(self) -> None:
        """Everything is whole, and one more of each works, more of them at once than there are connections."""
        for found in await listed(self.saver, None):
            if found.config["configurable"]["thread_id"] == "chat":
                continue
            place = found.config["configurable"]
            found.config["configurable"] = {**place, "thread_id": "thread"}
            assert is_whole(found), found
        await self.saver.aprune(["thread"])
        await asyncio.gather(self.put(), self.get(), self.put(), self.get())


def open_transactions(uri: str) -> int:
    return len(
        tables.rows(uri, "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state ~ '^idle in'")
    )


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS)
class TestCancelled:
    async def test_at_every_suspension(self, setup: str, sqlite_path: str, postgres_uri: str) -> None:
        async with saver_on(setup, sqlite_path, postgres_uri) as saver:
            subject = Subject(saver)
            await subject.put()
            with yielding():
                for operation in subject.all().values():
                    assert await cancel_everywhere(operation, subject.check) >= 2
            await self.leaves_nothing_open(setup, saver, sqlite_path, postgres_uri)

    async def test_while_it_sets_up(self, setup: str, sqlite_path: str, postgres_uri: str) -> None:
        for suspension in range(1, 6):
            path = f"{sqlite_path}-{suspension}"
            tables.rows(postgres_uri, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            async with saver_on(setup, path, postgres_uri) as saver:
                if setup == "aiosqlite":
                    await saver.conn.execute("SELECT 1")
                subject = Subject(saver)
                with yielding():
                    await cancel_at_random([subject.put] * 3, subject.put, 1)
                await subject.check()

    async def test_at_random_moments(self, setup: str, sqlite_path: str, postgres_uri: str) -> None:
        async with saver_on(setup, sqlite_path, postgres_uri) as saver:
            subject = Subject(saver)
            await subject.put()
            operations: list[Any] = [subject.put] * 6 + [subject.put_writes, subject.get, subject.list]

            async def check() -> None:
                await asyncio.gather(*(subject.put() for _ in range(4)))

            for _ in range(rounds(2)):
                await cancel_at_random(operations, check, 20)
                await saver.aprune(["thread"])
            await subject.check()
            await self.leaves_nothing_open(setup, saver, sqlite_path, postgres_uri)

    @staticmethod
    async def leaves_nothing_open(setup: str, saver: Any, sqlite_path: str, postgres_uri: str) -> None:
        if setup in SETUPS[:3]:
            with closing(sqlite3.connect(sqlite_path, isolation_level=None, timeout=10)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
                assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return
        if setup != "connection":
            assert saver.conn.get_stats()["pool_size"] <= 2
        assert open_transactions(postgres_uri) == 0


@pytest.mark.parametrize("setup", ["aiosqlite", "connection"])
async def test_all_tasks_of_the_loop_at_once(setup: str, sqlite_path: str, postgres_uri: str) -> None:
    """As a service does that is told to stop; what is saved after that is saved."""
    async with saver_on(setup, sqlite_path, postgres_uri) as saver:
        subject = Subject(saver)
        await subject.put()
        for step in range(20):
            here = asyncio.all_tasks()
            tasks = [asyncio.create_task(subject.put()) for _ in range(3)]
            for _ in range(step):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - here:  # those that work for the saver, too
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.wait_for(subject.put(), 30)


@pytest.mark.parametrize("setup", ["own pool", "given pool"])
async def test_while_it_waits_for_a_connection(setup: str, sqlite_path: str, postgres_uri: str) -> None:
    async with saver_on(setup, sqlite_path, postgres_uri) as saver:
        subject, pool = Subject(saver), saver.conn
        await subject.put()
        with yielding():
            for steps in range(15):
                held = [await pool.getconn(20) for _ in range(pool.max_size)]  # none was lost
                waiting = asyncio.create_task(subject.get())
                for _ in range(steps):
                    await asyncio.sleep(0)
                waiting.cancel()
                for connection in held:
                    await pool.putconn(connection)
                await asyncio.wait([waiting])
            await asyncio.wait_for(subject.get(), 20)
