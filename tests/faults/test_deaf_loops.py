"""`AsyncPostgresSaver` on event loops that cannot wait for sockets, which psycopg's async connections need."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg_pool import AsyncConnectionPool

from langgraph_checkpoint_dual import Retention
from langgraph_checkpoint_dual.errors import ClosedError, SchemaError
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.faults.postgres_servers import until
from tests.support import tables
from tests.support.checkpoints import config, listed, put
from tests.support.deaf_loop import run_deaf


def test_psycopg_cannot_use_such_a_loop(postgres_uri: str) -> None:
    """What the tests below are worth."""

    async def connect() -> None:
        with pytest.raises(NotImplementedError):
            await psycopg.AsyncConnection.connect(postgres_uri)

    run_deaf(connect())


async def use(saver: Any) -> None:
    """Every operation, many at once."""
    with pytest.raises(SchemaError):
        await saver.setup(create=False)
    await saver.setup()
    await saver.setup(create=False)
    heads = await asyncio.gather(*(put(saver, config(str(at)), {"name": at}) for at in range(40)))
    await asyncio.gather(*(saver.aput_writes(where, [("name", 1), ("other", "x")], "task") for where in heads))
    found = await asyncio.gather(*map(saver.aget_tuple, heads))
    assert [one.checkpoint["channel_values"]["name"] for one in found] == list(range(40))
    assert all(one.pending_writes == [("task", "name", 1), ("task", "other", "x")] for one in found)
    assert len(await listed(saver, None)) == 40
    await saver.adelete_thread("0")
    assert await saver.aget_tuple(heads[0]) is None
    await saver.acopy_thread("1", "copy")
    await saver.aprune(["1"], strategy="delete")
    await saver.aretain(Retention(keep_last=1))
    assert await saver.threads.acount() == 39
    assert saver.get_tuple(config("copy")) is not None  # a blocking method, on the loop's own thread
    large = "x" * 1_000_000
    where = await put(saver, config("large"), {"text": large})
    assert (await saver.aget_tuple(where)).checkpoint["channel_values"] == {"text": large}


def test_all_operations(postgres_uri: str) -> None:
    async def run() -> None:
        async with AsyncPostgresSaver.from_conn_string(postgres_uri) as saver:
            await use(saver)
        with pytest.raises(ClosedError):
            await put(saver)

    run_deaf(run())
    asyncio.run(until(postgres_uri, "true", lambda found: found == 0))  # a backend ends soon after its client


def test_a_graph(postgres_uri: str) -> None:
    async def run() -> None:
        async with AsyncPostgresSaver.from_conn_string(postgres_uri) as saver:
            graph = StateGraph(MessagesState)
            graph.add_node("answer", lambda state: {"messages": [("ai", "hello")]})
            graph.add_edge(START, "answer")
            graph.add_edge("answer", END)
            compiled: Any = graph.compile(checkpointer=saver)
            for turn in range(1, 4):
                state = await compiled.ainvoke({"messages": [("human", "hi")]}, config())
                assert len(state["messages"]) == 2 * turn

    run_deaf(run())


def test_a_pool_that_cannot_be_opened_there(postgres_uri: str) -> None:
    """The pool of a caller says where to connect, and how often."""

    async def run() -> None:
        pool: Any = AsyncConnectionPool(postgres_uri, min_size=1, max_size=2, open=False)
        saver = AsyncPostgresSaver(pool)
        await use(saver)
        assert 1 <= backends(postgres_uri) <= 2
        await saver.aclose()

    run_deaf(run())
    asyncio.run(until(postgres_uri, "true", lambda found: found == 0))  # a backend ends soon after its client


def test_the_size_of_the_pool_holds(postgres_uri: str) -> None:
    async def run() -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(8))
        async with AsyncPostgresSaver(postgres_uri, max_size=6) as saver:
            await saver.setup()
            await locked(saver)
            return backends(postgres_uri)

    async def locked(saver: Any) -> None:
        """Six reads that all wait for a lock, so that each takes a connection of its own."""
        with psycopg.connect(postgres_uri) as conn:
            conn.execute("LOCK TABLE dual_checkpoints IN ACCESS EXCLUSIVE MODE")
            reads = [asyncio.create_task(saver.aget_tuple(config(str(at)))) for at in range(6)]
            while backends(postgres_uri, waiting=True) < 6:  # noqa: ASYNC110 (another session's lock has no event)
                await asyncio.sleep(0.01)
            conn.rollback()
        await asyncio.gather(*reads)

    assert run_deaf(run()) == 6


def test_loops_of_both_kinds(postgres_uri: str) -> None:
    """Opened on one kind, used on the other, and the other way round; a second one beside."""
    for first, second in ((run_deaf, asyncio.run), (asyncio.run, run_deaf)):
        saver = AsyncPostgresSaver(postgres_uri)

        async def both(saver: Any = saver, second: Any = second) -> None:
            await put(saver, config("first"))
            await asyncio.gather(
                asyncio.to_thread(second, put(saver, config("second"))),
                *(put(saver, config("first")) for _ in range(5)),
            )
            assert len(await listed(saver, config("first"))) == 6
            await saver.aclose()

        first(both())
        saver = AsyncPostgresSaver(postgres_uri)
        saver.delete_thread("first")
        saver.close()


def test_it_ends_without_a_word(postgres_uri: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.support.deaf_loop", postgres_uri]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done", "")


def backends(database: str, *, waiting: bool = False) -> int:
    """How many connections there are to the database besides this one, or how many of them wait for a lock."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    [(found,)] = tables.rows(database, count + (" AND wait_event_type = 'Lock'" if waiting else ""))
    return int(found)
