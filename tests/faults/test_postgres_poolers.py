"""Behind PgBouncer, which gives each transaction, or each statement, whatever server connection is free."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from langgraph_checkpoint_dual.errors import CheckpointerError
from langgraph_checkpoint_dual.postgres import PostgresSaver
from tests.faults.postgres_load import WAYS, Load, Way
from tests.faults.postgres_servers import execute, pgbouncer, terminate
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.tables import tables


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """Both classes, on a connection string and on a pool of the caller's that would prepare everything at once."""
    found: Way = request.param
    return found


@pytest.fixture(params=["transaction", "statement"])
def mode(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def pooled_uri(mode: str, postgres_uri: str) -> Iterator[str]:
    """Leads to the test's database through PgBouncer, with a single server connection."""
    with pgbouncer(postgres_uri, mode) as uri:
        yield uri


async def test_every_operation(way: Way, mode: str, pooled_uri: str, postgres_uri: str) -> None:
    async with way.opened(pooled_uri) as saver:
        first = await put(saver, values={"total": 1, "log": ["a" * 9000]}, run_id="run-1", user="ann")
        await saver.aput_writes(first, [("total", 2)], "task")
        await saver.aput_writes(first, [("__error__", "no")], "task")
        last = await put(saver, first, {"total": 2, "log": ["a" * 9000, "b"]}, run_id="run-2")
        assert (await saver.aget_tuple(config())).checkpoint["channel_values"]["log"][1] == "b"
        assert (await saver.aget_tuple(first)).pending_writes == [("task", "__error__", "no"), ("task", "total", 2)]
        assert [one.config for one in await listed(saver, None, filter={"user": "ann"})] == [first]
        history = await saver.aget_delta_channel_history(config=last, channels=["total"])
        assert set(history) == {"total"}
        for change in changes(saver):
            if mode == "transaction":
                await change
            else:
                with pytest.raises(CheckpointerError, match="statement mode"):
                    await change
        await saver.adelete_thread("thread")
        assert await listed(saver, config()) == []
        await put(saver, values={"total": 1})
    assert len(execute(postgres_uri, "SELECT version FROM dual_migrations")) >= 1


def changes(saver: Any) -> list[Any]:
    """What needs several statements in one transaction."""
    return [saver.acopy_thread("thread", "copy"), saver.aprune(["copy", "thread"]), saver.adelete_for_runs(["run-1"])]


async def test_nothing_is_prepared(way: Way, pooled_uri: str) -> None:
    query = "SELECT statement FROM pg_prepared_statements"
    async with way.opened(pooled_uri) as saver:
        async with Load(saver) as load:
            await load.progress(20)
        assert execute(pooled_uri, query) == []


async def test_direct_connections_do_prepare(postgres_uri: str) -> None:
    """The control of the test above."""
    with PostgresSaver(postgres_uri, max_size=1) as saver:
        for _ in range(5):
            saver.get_tuple(config())
        with saver.conn.connection() as conn:  # type: ignore[union-attr]
            assert conn.execute("SELECT statement FROM pg_prepared_statements").fetchall() != []


async def test_many_clients_share_few_connections(mode: str, pooled_uri: str, postgres_uri: str) -> None:
    """Runs of four savers at once; then the server's connections go, and PgBouncer brings others."""

    async def use(way: Way) -> None:
        async with way.opened(pooled_uri) as saver:
            made = [checkpoint({"way": str(way), "number": number}) for number in range(10)]
            for one in made:
                await saver.aput(config(str(way)), one, metadata(), one["channel_versions"])
            if way == WAYS[0]:
                terminate(postgres_uri)
            found = await listed(saver, config(str(way)))
            assert [one.checkpoint["channel_values"] for one in found] == [one["channel_values"] for one in made[::-1]]

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, use(way)) for way in WAYS))
    assert {name for name in tables(postgres_uri) if name.startswith("dual_")} >= {"dual_items", "dual_checkpoints"}
