"""Connections that are lost, dropped, silent or not there: operations go on by themselves, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from langgraph_checkpoint_dual.errors import BusyError, UnavailableError
from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.faults.postgres_load import WAYS, Load, Way
from tests.faults.postgres_servers import (
    Cluster,
    Proxy,
    execute,
    fail_first_attempts,
    free_port,
    terminate,
    until,
    until_one_waits,
)
from tests.support.checkpoints import config, listed, put
from tests.support.savers import BlockingFace

AT = config(checkpoint_id="1ef0a1b2-c3d4-6e5f-8000-0123456789ab")
ROUNDS = int(os.environ.get("DUAL_FAULT_ROUNDS", "1"))


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """Both classes, on a connection string and on a pool of the caller's."""
    found: Way = request.param
    return found


@pytest.fixture
def proxy(postgres_uri: str) -> Iterator[Proxy]:
    with Proxy(postgres_uri) as found:
        yield found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that tests may kill."""
    with Cluster.new() as found:
        yield found


async def test_backends_terminated_under_load(way: Way, postgres_uri: str) -> None:
    async with way.opened(postgres_uri) as saver:
        async with Load(saver) as load:
            await load.progress()
            for _ in range(5 * ROUNDS):
                assert terminate(postgres_uri)
                await load.progress(3)
        await load.check_all(postgres_uri)


async def test_connections_that_were_dropped_while_idle(way: Way, postgres_uri: str) -> None:
    async with way.opened(postgres_uri) as saver:
        stored = await put(saver, values={"total": 1})
        for number in range(2):
            assert terminate(postgres_uri)
            stored = await put(saver, stored, {"total": number})
            assert terminate(postgres_uri)
            assert (await saver.aget_tuple(stored)).checkpoint["channel_values"] == {"total": number}
            assert terminate(postgres_uri)
            assert len(await listed(saver, config())) == number + 2


@pytest.mark.parametrize("use", ["aput", "aput_writes", "aget_tuple", "adelete_thread", "acopy_thread", "aprune"])
async def test_backend_terminated_while_it_waits(way: Way, use: str, postgres_uri: str) -> None:
    """The operation is held up by a lock, so that it is certainly under way when its backend goes."""
    async with way.opened(postgres_uri) as saver:
        first = await put(saver, values={"total": 1})
        last = await put(saver, first, {"total": 2})
        async with await psycopg.AsyncConnection.connect(postgres_uri) as holder:
            await holder.execute("LOCK TABLE dual_checkpoints, dual_items, dual_writes IN ACCESS EXCLUSIVE MODE")
            task = asyncio.create_task(in_background(saver, use, last))
            await until_one_waits(postgres_uri)
            assert terminate(postgres_uri, "wait_event_type = 'Lock'") == 1
            await holder.rollback()
        await asyncio.wait_for(task, 30)
        threads = {one.config["configurable"]["thread_id"] for one in await listed(saver, None)}
        totals = [one.checkpoint["channel_values"]["total"] for one in await listed(saver, config())]
    assert threads == {"acopy_thread": {"thread", "other"}, "adelete_thread": set()}.get(use, {"thread"})
    assert totals == {"aput": [3, 2, 1], "aprune": [2], "adelete_thread": []}.get(use, [2, 1])


async def in_background(saver: Any, use: str, last: Any) -> None:
    """Use the saver where it does not hold up this event loop."""
    if isinstance(saver, BlockingFace):
        await asyncio.to_thread(asyncio.run, one_use(saver, use, last))
    else:
        await one_use(saver, use, last)


async def one_use(saver: Any, use: str, last: Any) -> None:
    if use == "aput":
        await put(saver, last, {"total": 3})
    elif use == "aput_writes":
        await saver.aput_writes(last, [("total", 1)], "task")
    elif use == "aget_tuple":
        assert (await saver.aget_tuple(last)).checkpoint["channel_values"] == {"total": 2}
    elif use == "acopy_thread":
        await saver.acopy_thread("thread", "other")
    elif use == "adelete_thread":
        await saver.adelete_thread("thread")
    else:
        await saver.aprune(["thread"])


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_what_the_server_rolled_back_is_repeated(way: Way, code: str, postgres_uri: str) -> None:
    async with way.opened(postgres_uri) as saver:
        first = await put(saver, values={"total": 1})
        fail_first_attempts(postgres_uri, code)
        last = await put(saver, first, {"total": 2})
        await saver.acopy_thread("thread", "copy")
        await saver.adelete_thread("copy")
        assert [one.config for one in await listed(saver, None)] == [last, first]
    assert execute(postgres_uri, "SELECT last_value FROM attempts") == [(9,)]


class Losable(NamedTuple):
    """A change whose answer is lost: what is sent then, what is to be there once, and what the saver is opened with."""

    name: str
    make: Callable[[Any, Any], Awaitable[object]]
    check: Callable[[Any, Any], Awaitable[object]]
    message: bytes = b"COMMIT\0"
    options: dict[str, Any] = {}  # noqa: RUF012 (nobody changes it)


async def totals(saver: Any) -> list[int]:
    return [one.checkpoint["channel_values"]["total"] for one in await listed(saver, config())]


async def has_three(saver: Any, last: Any) -> None:
    """Once; and who goes on from it is not refused."""
    found = await listed(saver, config())
    assert [one.checkpoint["channel_values"]["total"] for one in found] == [3, 2, 1]
    await put(saver, found[0].config, {"total": 4})


async def has_only_three(saver: Any, last: Any) -> None:
    [found] = await listed(saver, config())
    assert found.checkpoint["channel_values"] == {"total": 3}


async def has_writes(saver: Any, last: Any) -> None:
    found = await saver.aget_tuple(last)
    assert found.pending_writes == [("task", "total", "lost-answer"), ("task", "total", 2)]


async def has_the_last(saver: Any, last: Any) -> None:
    assert await totals(saver) == [2]


async def append(saver: Any, last: Any) -> None:
    await inner(saver).messages("chat").aappend(("human", "lost-answer"))


async def has_one_message(saver: Any, last: Any) -> None:
    assert await inner(saver).messages("chat").acount() == 1


async def has_a_title(saver: Any, last: Any) -> None:
    assert (await inner(saver).threads.aget("thread")).title == "a title"


def inner(saver: Any) -> Any:
    return getattr(saver, "inner", saver)


LOSABLE = [
    Losable(
        "put_writes",
        lambda saver, last: saver.aput_writes(last, [("total", "lost-answer"), ("total", 2)], "task"),
        has_writes,
        b"lost-answer",
    ),
    Losable("fenced put", lambda saver, last: put(saver, last, {"total": 3}), has_three, options={"fence": True}),
    Losable(
        "put that keeps the latest",
        lambda saver, last: put(saver, last, {"total": 3}),
        has_only_three,
        options={"history": "latest"},
    ),
    Losable("prune", lambda saver, last: saver.aprune(["thread"]), has_the_last),
    Losable("delete_for_runs", lambda saver, last: saver.adelete_for_runs(["run-1"]), has_the_last),
    Losable("append", append, has_one_message, b"lost-answer"),
    Losable("update", lambda saver, last: inner(saver).threads.aupdate("thread", title="a title"), has_a_title),
]


class TestLostAnswers:
    """The server has committed, but its answer never comes."""

    async def test_a_put_is_stored_once(self, way: Way, proxy: Proxy, postgres_uri: str) -> None:
        async with way.opened(proxy.uri) as saver:
            first = await put(saver, values={"total": 1, "log": ["a" * 5000]})
            proxy.lose_answer(b"lost-answer")
            stored = await put(saver, first, {"total": 2, "log": ["a" * 5000, "lost-answer"]})
            assert proxy.lost == 1
        async with AsyncPostgresSaver(postgres_uri) as fresh:
            found = await listed(fresh, config())
        assert [one.checkpoint["channel_values"]["total"] for one in found] == [2, 1]
        assert found[0].config["configurable"] == {**stored["configurable"]}
        rows = execute(postgres_uri, "SELECT data FROM dual_items")
        assert len(rows) == len(set(rows))

    async def test_a_copy_is_not_refused_by_itself(self, way: Way, proxy: Proxy) -> None:
        async with way.opened(proxy.uri) as saver:
            await put(saver, values={"total": 1})
            proxy.lose_answer(b"COMMIT\0")
            await saver.acopy_thread("thread", "other")
            assert proxy.lost == 1
            assert len(await listed(saver, config("other"))) == 1

    async def test_a_deletion_spares_what_came_after_it(self, way: Way, proxy: Proxy, postgres_uri: str) -> None:
        async with way.opened(proxy.uri) as saver:
            await put(saver, values={"total": 1})
            proxy.lose_answer(b"COMMIT\0", then=lambda: new_conversation(postgres_uri))
            await saver.adelete_thread("thread")
            assert proxy.lost == 1
            [left] = await listed(saver, config())
        assert left.checkpoint["channel_values"] == {"total": "new"}

    @pytest.mark.parametrize("change", LOSABLE, ids=lambda change: change.name)
    @pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids=str)
    async def test_any_other_change_is_made_once(self, way: Way, change: Losable, proxy: Proxy) -> None:
        async with way.opened(proxy.uri, **change.options) as saver:
            first = await put(saver, values={"total": 1}, run_id="run-1")
            last = await put(saver, first, {"total": 2}, run_id="run-2")
            proxy.lose_answer(change.message)
            await change.make(saver, last)
            assert proxy.lost == 1
            await change.check(saver, last)


def new_conversation(uri: str) -> None:
    async def begin() -> None:
        async with AsyncPostgresSaver(uri) as other:
            await put(other, values={"total": "new"})

    asyncio.run(begin())


async def test_a_silent_peer_is_given_up(way: Way, proxy: Proxy) -> None:
    async with way.opened(proxy.uri, response_timeout=0.5) as saver:
        stored = await put(saver, values={"total": 1})
        for number in range(ROUNDS):
            assert proxy.silence()
            stored = await put(saver, stored, {"total": number})
            assert proxy.silence()
            assert (await saver.aget_tuple(stored)).checkpoint["channel_values"] == {"total": number}


async def test_a_server_that_stays_silent_is_reported(way: Way, proxy: Proxy) -> None:
    async with way.opened(proxy.uri, response_timeout=0.5, retry_for=0.0) as saver:
        stored = await put(saver, values={"total": 1})
        proxy.silence()
        with pytest.raises(UnavailableError, match=r"1 attempt in [^:]*: no answer from the server within 0.5 s"):
            await saver.aget_tuple(stored)
        assert (await saver.aget_tuple(stored)).checkpoint["channel_values"] == {"total": 1}


async def test_no_server_at_all(way: Way) -> None:
    nowhere = f"host=127.0.0.1 port={free_port()} dbname=postgres password=hunter2"
    async with way.opened(nowhere, retry_for=0.5) as saver:
        with pytest.raises(UnavailableError, match="refused") as caught:
            await saver.aget_tuple(config())
    assert caught.value.attempts >= 1
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
async def test_server_killed_and_started_again_under_load(way: Way, cluster: Cluster) -> None:
    name = f"killed_{way}".replace("-", "_")
    cluster.execute(f"CREATE DATABASE {name}")
    uri = f"{cluster.uri} dbname={name}"
    async with way.opened(uri) as saver:
        async with Load(saver) as load:
            for _ in range(ROUNDS):
                await load.progress()
                await asyncio.to_thread(cluster.kill)
                await asyncio.to_thread(cluster.start)
            await load.progress()
        await load.check_all(uri)


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way.given == "string"], ids=str)
async def test_failover_under_load(way: Way) -> None:
    with Cluster.new() as primary, primary.standby() as standby:
        hosts = f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres dbname=postgres"
        uri = f"{hosts} target_session_attrs=read-write"
        async with way.opened(uri) as saver:
            async with Load(saver) as load:
                await load.progress()
                await asyncio.to_thread(primary.kill)
                await asyncio.to_thread(standby.promote)
                await load.progress()
            await load.check_all(standby.uri)


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way.given == "pool"], ids=str)
async def test_sessions_on_a_standby_are_left_for_the_primary(way: Way) -> None:
    """What a client sees whose name for the primary still leads to a server that is a standby."""
    with Cluster.new() as primary:
        async with way.opened(primary.uri) as saver:
            await put(saver, values={"total": 1})
        with primary.standby() as standby:
            async with way.opened(standby.uri) as saver:
                [before] = await listed(saver, config())
                assert (await saver.aget_tuple(before.config)).checkpoint["channel_values"] == {"total": 1}
                task = asyncio.create_task(in_background(saver, "aput", before.config))
                await asyncio.to_thread(standby.promote)
                await asyncio.wait_for(task, 60)
                assert len(await listed(saver, config())) == 2


async def test_a_pool_of_which_all_are_in_use(postgres_uri: str) -> None:
    with PostgresSaver(postgres_uri, max_size=1, timeout=0.3) as saver:
        saver.setup()
        with saver.conn.connection(), pytest.raises(BusyError, match="max_size"):  # type: ignore[union-attr]
            saver.get_tuple(config())
        assert saver.get_tuple(config()) is None
    async with AsyncPostgresSaver(postgres_uri, max_size=1, timeout=0.3) as other:
        await other.setup()
        async with other.conn.connection():  # type: ignore[union-attr]
            with pytest.raises(BusyError, match="max_size"):
                await other.aget_tuple(config())
        assert await other.aget_tuple(config()) is None


async def until_one_is_in_line(pool: Any) -> None:
    """Until a caller waits for a connection of the pool, which does not tell of itself."""
    for _ in range(6000):
        if pool.get_stats()["requests_waiting"] == 1:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nobody waits")


async def test_a_pool_that_lets_few_wait(postgres_uri: str) -> None:
    """Its owner has said so: who comes then is told at once, and who waits is served."""
    connections: Any = {"autocommit": True}
    with ConnectionPool(postgres_uri, kwargs=connections, min_size=1, max_size=1, max_waiting=1, timeout=30) as pool:
        saver = PostgresSaver(pool)
        saver.setup()
        with ThreadPoolExecutor(1) as executor:
            with pool.connection():
                waiting = executor.submit(saver.get_tuple, config())
                await until_one_is_in_line(pool)
                for refused in (lambda: saver.get_tuple(config()), lambda: saver.put_writes(AT, [("a", 1)], "task")):
                    with pytest.raises(BusyError, match="max_waiting"):
                        refused()
            assert waiting.result() is None
        assert saver.get_tuple(config()) is None
    async with AsyncConnectionPool(
        postgres_uri, kwargs=connections, min_size=1, max_size=1, max_waiting=1, timeout=30
    ) as loop_pool:
        other = AsyncPostgresSaver(loop_pool)
        async with loop_pool.connection():
            task = asyncio.create_task(other.aget_tuple(config()))
            await until_one_is_in_line(loop_pool)
            for operation in (other.aget_tuple(config()), other.aput_writes(AT, [("a", 1)], "task")):
                with pytest.raises(BusyError, match="max_waiting"):
                    await operation
        assert await task is None
        assert await other.aget_tuple(config()) is None
        await other.aclose()


async def test_a_single_connection_says_that_it_is_lost(postgres_uri: str) -> None:
    with psycopg.connect(postgres_uri, autocommit=True) as conn:
        saver = PostgresSaver(conn)
        saver.setup()
        terminate(postgres_uri)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="give it a pool or a connection string"):
                saver.get_tuple(config())
    async with await psycopg.AsyncConnection.connect(postgres_uri, autocommit=True) as aconn:
        asaver = AsyncPostgresSaver(aconn)
        await asaver.setup()
        terminate(postgres_uri)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="give it a pool or a connection string"):
                await asaver.aget_tuple(config())


async def test_no_connection_stays_behind(way: Way, postgres_uri: str) -> None:
    async with way.opened(postgres_uri) as saver:
        async with Load(saver) as load:
            for _ in range(3):
                await load.progress()
                terminate(postgres_uri)
            await load.progress()
        await until(postgres_uri, "state LIKE 'idle in%'", lambda found: found == 0)
    await until(postgres_uri, "true", lambda found: found == 0)
