"""Connections with another isolation level than Postgres' own: whoever waits for a thread sees it as it is then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from langgraph_checkpoint_dual import Retention
from langgraph_checkpoint_dual.errors import ConfigError, SchemaError, UnavailableError
from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.faults.postgres_servers import execute, fail_first_attempts, until_one_waits
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import BlockingFace
from tests.support.tables import contents

GIVEN = ["connection", "connection in autocommit", "pool", "role", "role in autocommit", "string"]
LEVELS = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
LOG = [f"message {number} of some length" * 10 for number in range(5)]


@pytest.fixture(params=LEVELS, ids=lambda level: level.name)
def level(request: pytest.FixtureRequest) -> IsolationLevel:
    found: IsolationLevel = request.param
    return found


def of_role(level: IsolationLevel) -> str:
    """What ALTER ROLE ... SET does."""
    return "-c default_transaction_isolation=" + level.name.replace("_", "\\ ").lower()


@asynccontextmanager
async def strict_saver(face: str, given: str, uri: str, level: IsolationLevel) -> AsyncIterator[Any]:
    """A saver on connections that take one snapshot for a whole transaction."""

    def strict(conn: Any) -> None:
        conn.isolation_level = level

    async def astrict(conn: Any) -> None:
        await conn.set_isolation_level(level)

    options: dict[str, Any] = {"autocommit": "autocommit" in given}
    if given in ("role", "role in autocommit", "string"):
        options["options"] = of_role(level)
    saver_class: Any = AsyncPostgresSaver if face == "async" else PostgresSaver
    if given == "string":
        async with saver_class(uri, options=options["options"]) as saver:
            yield saver if face == "async" else BlockingFace(saver)
    elif face == "async":
        if given == "pool":
            async with AsyncConnectionPool(uri, kwargs=options, configure=astrict, open=False) as apool:
                yield saver_class(apool)
        else:
            async with await psycopg.AsyncConnection.connect(uri, **options) as aconn:
                if "role" not in given:
                    await astrict(aconn)
                yield saver_class(aconn)
    elif given == "pool":
        with ConnectionPool(uri, kwargs=options, configure=strict, open=True) as pool:
            yield BlockingFace(saver_class(pool))
    else:
        with psycopg.connect(uri, **options) as conn:
            if "role" not in given:
                strict(conn)
            yield BlockingFace(saver_class(conn))


@pytest.mark.parametrize("given", GIVEN)
async def test_what_waits_for_a_put_sees_it(face: str, given: str, postgres_uri: str) -> None:
    """A prune that waits while a put is committed must keep what was put, and the items that it uses."""
    async with strict_saver(face, given, postgres_uri, IsolationLevel.REPEATABLE_READ) as strict:
        first = await put(strict, values={"log": LOG})
        async with await psycopg.AsyncConnection.connect(postgres_uri) as conn:
            holding = AsyncPostgresSaver(conn)
            await holding.aget_tuple(first)
            await conn.commit()
            async with conn.transaction():  # the put is not committed before the end
                second = await put(holding, first, {"log": [*LOG, "one more" * 100]})
                task = asyncio.create_task(_elsewhere(strict))
                await until_one_waits(postgres_uri)
            await asyncio.wait_for(task, 30)
        found = await listed(strict, config())
    assert [one.config for one in found] == [second]
    assert found[0].checkpoint["channel_values"]["log"] == [*LOG, "one more" * 100]


async def _elsewhere(saver: Any) -> None:
    if isinstance(saver, BlockingFace):
        await asyncio.to_thread(asyncio.run, saver.aprune(["thread"]))
    else:
        await saver.aprune(["thread"])


@pytest.mark.parametrize("given", GIVEN)
async def test_every_operation(face: str, given: str, postgres_uri: str) -> None:
    """Beginning with the tables, which are not there yet."""
    async with strict_saver(face, given, postgres_uri, IsolationLevel.SERIALIZABLE) as strict:
        first = await put(strict, values={"log": LOG}, run_id="run-1")
        await strict.aput_writes(first, [("log", "w")], "task")
        await strict.aput_writes(first, [("__error__", "no")], "task")
        last = await put(strict, first, {"log": [*LOG, "b"]}, run_id="run-2")
        assert (await strict.aget_tuple(first)).pending_writes == [("task", "__error__", "no"), ("task", "log", "w")]
        history = await strict.aget_delta_channel_history(config=last, channels=["log"])
        assert set(history) == {"log"}
        await strict.acopy_thread("thread", "copy")
        await strict.adelete_for_runs(["run-1"])
        for thread in ("thread", "copy"):
            [found] = await listed(strict, config(thread))
            assert found.checkpoint["channel_values"] == {"log": [*LOG, "b"]}
        saver = strict.inner if isinstance(strict, BlockingFace) else strict
        assert (await saver.threads.aregister("copy", title="a copy")).title == "a copy"
        assert (await saver.aretain(Retention(keep_last=1))).threads == 0
        await strict.adelete_thread("thread")
        assert await strict.aget_tuple(config()) is None


@pytest.mark.parametrize("given", GIVEN)
async def test_runs_at_once(face: str, given: str, postgres_uri: str) -> None:
    """What the server rolls back because others were at it too is repeated."""
    async with strict_saver(face, given, postgres_uri, IsolationLevel.SERIALIZABLE) as strict:
        place = await put(strict, values={"log": LOG})

        async def run(name: str) -> None:
            at = place
            for number in range(5):
                at = await put(strict, at, {"log": [*LOG, f"{name} {number}" * 30]})
                await strict.aput_writes(at, [("log", number)], name)
                await strict.acopy_thread("thread", f"{name}-{number}")
                await strict.adelete_thread(f"{name}-{number}")

        names = [f"run-{number}" for number in range(4)]
        if isinstance(strict, BlockingFace):
            await asyncio.gather(*(asyncio.to_thread(asyncio.run, run(name)) for name in names))
        else:
            await asyncio.gather(*map(run, names))
        assert len(await listed(strict, config())) == 21


CHANGES: dict[str, Any] = {
    "prune": lambda saver: saver.aprune(["thread"]),
    "delete_thread": lambda saver: saver.adelete_thread("thread"),
    "copy_thread": lambda saver: saver.acopy_thread("thread", "other"),
    "delete_for_runs": lambda saver: saver.adelete_for_runs(["run-1"]),
}


@asynccontextmanager
async def in_a_transaction(face: str, uri: str, level: IsolationLevel) -> AsyncIterator[Any]:
    """A saver in a transaction of its caller's, which has seen the database already."""
    if face == "async":
        async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as aconn:
            await aconn.set_isolation_level(level)
            async with aconn.transaction():
                await aconn.execute("SELECT count(*) FROM dual_checkpoints")
                yield AsyncPostgresSaver(aconn)
        return
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.isolation_level = level
        with conn.transaction():
            conn.execute("SELECT count(*) FROM dual_checkpoints")
            yield BlockingFace(PostgresSaver(conn))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_in_the_callers_old_snapshot_is_refused(
    face: str, level: IsolationLevel, change: Any, postgres_uri: str
) -> None:
    """It would not see what others have put since, and take away what that uses."""
    with PostgresSaver(postgres_uri) as saver:
        beside = BlockingFace(saver)
        first = await put(beside, values={"log": LOG}, run_id="run-1")
        async with in_a_transaction(face, postgres_uri, level) as strict:
            last = await put(beside, first, {"log": [*LOG, "one more" * 100]}, run_id="run-2")
            before = contents(postgres_uri)
            with pytest.raises(ConfigError, match="READ COMMITTED"):
                await change(strict)
            assert [one.config for one in await listed(strict, config())] == [first]  # the snapshot of its caller
        assert contents(postgres_uri) == before
        found = await beside.aget_tuple(config())
        assert (found.config, found.checkpoint["channel_values"]) == (last, {"log": [*LOG, "one more" * 100]})


async def test_puts_in_the_callers_transaction(face: str, level: IsolationLevel, postgres_uri: str) -> None:
    with PostgresSaver(postgres_uri) as saver:
        beside = BlockingFace(saver)
        first = await put(beside, values={"log": LOG})
        async with in_a_transaction(face, postgres_uri, level) as strict:
            await put(beside, config("other"), {"log": LOG})
            mine = await put(strict, first, {"log": [*LOG, "mine" * 100]})
            await strict.aput_writes(mine, [("log", 1)], "task")
            assert await beside.aget_tuple(mine) is None
        found = await beside.aget_tuple(mine)
        assert found.checkpoint["channel_values"]["log"] == [*LOG, "mine" * 100]
        assert found.pending_writes == [("task", "log", 1)]


async def put_to_it(saver: Any, first: Any) -> None:
    await put(saver, first, {"log": [*LOG, "other" * 100]})


async def delete_it(saver: Any, first: Any) -> None:
    await saver.adelete_thread("thread")


@pytest.mark.parametrize("meanwhile", [put_to_it, delete_it])
async def test_a_put_in_the_callers_old_snapshot(
    face: str, level: IsolationLevel, meanwhile: Any, postgres_uri: str
) -> None:
    """To a thread that others have changed since: the server refuses it, and the caller is told what to do."""
    with PostgresSaver(postgres_uri) as saver:
        beside = BlockingFace(saver)
        first = await put(beside, values={"log": LOG})
        async with in_a_transaction(face, postgres_uri, level) as strict:
            await strict.aget_tuple(first)
            await meanwhile(beside, first)
            before = contents(postgres_uri)
            with pytest.raises(UnavailableError, match="roll that back and run it again"):
                await put(strict, first, {"log": [*LOG, "mine" * 100]})
        assert contents(postgres_uri) == before


@pytest.mark.parametrize("autocommit", [True, False])
async def test_what_the_server_rolled_back_is_repeated(face: str, autocommit: bool, postgres_uri: str) -> None:
    """Also on a connection of the caller's, if the transaction was the saver's own."""
    with PostgresSaver(postgres_uri) as saver:
        first = await put(BlockingFace(saver), values={"log": LOG})
    fail_first_attempts(postgres_uri, "40001")
    if face == "async":
        async with await psycopg.AsyncConnection.connect(postgres_uri, autocommit=autocommit) as aconn:
            await put(AsyncPostgresSaver(aconn), first, {"log": 2})
    else:
        with psycopg.connect(postgres_uri, autocommit=autocommit) as conn:
            await put(BlockingFace(PostgresSaver(conn)), first, {"log": 2})
    assert execute(postgres_uri, "SELECT last_value FROM attempts") == [(3,)]
    assert execute(postgres_uri, "SELECT count(*) FROM dual_checkpoints") == [(2,)]


READ_ONLY: dict[str, Any] = {"options": "-c default_transaction_read_only=on"}


@pytest.mark.parametrize("given", ["role", "role in autocommit", "string"])
async def test_a_role_that_only_reads(face: str, given: str, postgres_uri: str) -> None:
    async def use(saver: Any) -> None:
        subject = saver if face == "async" else BlockingFace(saver)
        assert (await subject.aget_tuple(config())).config == stored
        assert len(await listed(subject, None, filter={"source": "loop"})) == 2
        before = contents(postgres_uri)
        new = checkpoint({"log": 1})
        for write in (
            lambda: subject.aput(stored, new, metadata(), new["channel_versions"]),
            lambda: subject.aput_writes(stored, [("log", 1)], "task"),
            *(lambda change=change: change(subject) for change in CHANGES.values()),
        ):
            with pytest.raises(errors.ReadOnlySqlTransaction, match="read-only transaction"):
                await write()
        assert contents(postgres_uri) == before
        assert (await subject.aget_tuple(config())).config == stored

    async def with_a_saver(work: Any) -> None:
        if given == "string":
            async with AsyncPostgresSaver(postgres_uri, **READ_ONLY) as saver:
                await work(saver)
        else:
            async with (
                await psycopg.AsyncConnection.connect(
                    postgres_uri, autocommit="autocommit" in given, **READ_ONLY
                ) as conn,
                AsyncPostgresSaver(conn) as saver,
            ):  # closes what its blocking methods have opened
                await work(saver)

    async def find_it_empty(saver: Any) -> None:
        subject = saver if face == "async" else BlockingFace(saver)
        with pytest.raises(SchemaError, match="missing"):
            await subject.aget_tuple(config())

    await with_a_saver(find_it_empty)
    with PostgresSaver(postgres_uri) as writing:
        before = await put(BlockingFace(writing), values={"log": LOG}, run_id="run-1")
        stored = await put(BlockingFace(writing), before, {"log": [*LOG, "b"]})
    await with_a_saver(use)
