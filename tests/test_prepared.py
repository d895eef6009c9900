"""Statements that Postgres keeps prepared: where, for how long, and what becomes of it when they are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from langgraph_checkpoint_dual.postgres.direct import _runs
from tests.support.checkpoints import config, put

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'dual%'"


@pytest.fixture(params=["sync", "async"])
async def opened(request: pytest.FixtureRequest, postgres_uri: str) -> AsyncIterator[tuple[Any, Any]]:
    """A saver on a connection of the caller's, and that connection."""
    if request.param == "sync":
        with psycopg.connect(postgres_uri, autocommit=True, prepare_threshold=1) as conn:
            yield PostgresSaver(conn), conn
    else:
        async with await psycopg.AsyncConnection.connect(postgres_uri, autocommit=True, prepare_threshold=1) as conn:
            yield AsyncPostgresSaver(conn), conn


async def work(saver: Any, name: str, number: int = 0) -> None:
    """A put and its writes."""
    place = await put(saver, config(name), {"note": "x" * 500, "count": number})
    await saver.aput_writes(place, [("note", "y" * 500), ("count", 1)], f"task-{number}")


async def ask(conn: Any, query: str) -> Any:
    if isinstance(conn, psycopg.AsyncConnection):
        return await (await conn.execute(query, prepare=False)).fetchone()
    return conn.execute(query, prepare=False).fetchone()


async def run(conn: Any, query: str) -> None:
    executed = conn.execute(query, prepare=False)
    if isinstance(conn, psycopg.AsyncConnection):
        await executed


def stored(uri: str, name: str) -> list[tuple[Any, int]]:
    """What a saver of another connection finds: the values of each checkpoint, and how many writes it has."""
    with PostgresSaver(uri) as saver:
        found = saver.list(config(name))
        return sorted((one.checkpoint["channel_values"]["count"], len(one.pending_writes or [])) for one in found)


async def test_what_was_run_often_enough_is_prepared(opened: tuple[Any, Any]) -> None:
    saver, conn = opened
    await work(saver, "thread", 1)
    assert (await ask(conn, PREPARED)) == (0,)
    await work(saver, "thread", 2)
    assert (await ask(conn, PREPARED)) == (2,)
    await work(saver, "thread", 3)
    assert (await ask(conn, PREPARED)) == (2,)


@pytest.mark.parametrize("command", ["DEALLOCATE ALL", "DISCARD ALL"])
async def test_what_somebody_deallocates_is_prepared_again(
    opened: tuple[Any, Any], command: str, postgres_uri: str
) -> None:
    saver, conn = opened
    for number in range(3):
        await work(saver, "thread", number)
    await run(conn, command)
    assert (await ask(conn, PREPARED)) == (0,)
    await work(saver, "thread", 3)
    await work(saver, "thread", 4)
    assert (await ask(conn, PREPARED)) == (2,)
    assert stored(postgres_uri, "thread") == [(number, 2) for number in range(5)]


async def test_what_is_there_already_is_used(opened: tuple[Any, Any], postgres_uri: str) -> None:
    """As after an interruption between the server's answer and its being noted."""
    saver, conn = opened
    for number in range(3):
        await work(saver, "thread", number)
    del _runs[conn]
    for number in range(3, 6):
        await work(saver, "thread", number)
    assert (await ask(conn, PREPARED)) == (2,)
    assert stored(postgres_uri, "thread") == [(number, 2) for number in range(6)]


async def test_any_encoding_of_the_client(opened: tuple[Any, Any], postgres_uri: str) -> None:
    saver, conn = opened
    await run(conn, "SET client_encoding TO latin1")
    for number in range(3):
        await work(saver, "café", number)
    await run(conn, "SET client_encoding TO utf8")
    await work(saver, "café", 3)
    assert stored(postgres_uri, "café") == [(number, 2) for number in range(4)]


async def test_nothing_is_prepared_where_the_caller_forbids_it(postgres_uri: str) -> None:
    with psycopg.connect(postgres_uri, autocommit=True, prepare_threshold=None) as conn:
        saver = PostgresSaver(conn)
        for number in range(4):
            await work(saver, "thread", number)
        assert (await ask(conn, PREPARED)) == (0,)
    assert stored(postgres_uri, "thread") == [(number, 2) for number in range(4)]


def test_a_pool_of_ours_lends_what_came_back_last(postgres_uri: str) -> None:
    with PostgresSaver.from_conn_string(postgres_uri, min_size=3, max_size=3) as saver:
        saver.setup()
        pool: Any = saver.conn
        pool.wait()
        first, second = pool.getconn(), pool.getconn()
        pool.putconn(second)
        pool.putconn(first)
        assert [pool.getconn(), pool.getconn()] == [first, second]
        for conn in (first, second):
            pool.putconn(conn)
