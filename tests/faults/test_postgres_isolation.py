"""Connections with another isolation level than Postgres' own: whoever waits for a thread sees it as it is then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.faults.postgres_servers import until_one_waits
from tests.support.checkpoints import config, listed, put
from tests.support.savers import BlockingFace

GIVEN = ["connection", "connection in autocommit", "pool", "role"]
STRICT = IsolationLevel.REPEATABLE_READ


def options(given: str) -> dict[str, Any]:
    if given == "role":  # what ALTER ROLE ... SET does
        return {"options": "-c default_transaction_isolation=serializable", "autocommit": True}
    return {"autocommit": given != "connection"}


@asynccontextmanager
async def strict_saver(face: str, given: str, uri: str) -> AsyncIterator[Any]:
    """A saver on connections that take one snapshot for a whole transaction."""
    if face == "async":
        if given == "pool":
            async with AsyncConnectionPool(uri, kwargs=options(given), configure=_astrict, open=False) as apool:
                yield AsyncPostgresSaver(apool)
        else:
            async with await psycopg.AsyncConnection.connect(uri, **options(given)) as aconn:
                await _astrict(aconn)
                yield AsyncPostgresSaver(aconn)
    elif given == "pool":
        with ConnectionPool(uri, kwargs=options(given), configure=_strict, open=True) as pool:
            yield BlockingFace(PostgresSaver(pool))
    else:
        with psycopg.connect(uri, **options(given)) as conn:
            _strict(conn)
            yield BlockingFace(PostgresSaver(conn))


def _strict(conn: Any) -> None:
    conn.isolation_level = STRICT


async def _astrict(conn: Any) -> None:
    await conn.set_isolation_level(STRICT)


@pytest.mark.parametrize("given", GIVEN)
async def test_what_waits_for_a_put_sees_it(face: str, given: str, postgres_uri: str) -> None:
    """A prune that waits while a put is committed must keep what was put, and the items that it uses."""
    log = [f"message {number} of some length" * 10 for number in range(5)]
    async with strict_saver(face, given, postgres_uri) as strict:
        first = await put(strict, values={"log": log})
        async with await psycopg.AsyncConnection.connect(postgres_uri) as conn:
            holding = AsyncPostgresSaver(conn)
            await holding.aget_tuple(first)
            await conn.commit()
            async with conn.transaction():  # the put is not committed before the end
                second = await put(holding, first, {"log": [*log, "one more" * 100]})
                task = asyncio.create_task(_elsewhere(strict))
                await until_one_waits(postgres_uri)
            await asyncio.wait_for(task, 30)
        found = await listed(strict, config())
    assert [one.config for one in found] == [second]
    assert found[0].checkpoint["channel_values"]["log"] == [*log, "one more" * 100]


async def _elsewhere(saver: Any) -> None:
    if isinstance(saver, BlockingFace):
        await asyncio.to_thread(asyncio.run, saver.aprune(["thread"]))
    else:
        await saver.aprune(["thread"])
