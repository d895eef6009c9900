"""Setup by whoever may make tables: in the caller's transaction, by a DBA, under any names, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from langgraph_checkpoint_dual.errors import SchemaError
from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.faults.postgres_load import WAYS, Way
from tests.faults.postgres_servers import execute
from tests.support.checkpoints import config, listed, put
from tests.support.tables import contents, tables

ROLE = "dual_test_clerk"
STRINGS = [way for way in WAYS if way.given == "string"]
HOSTILE = ['a"; DROP TABLE x; --', "50%_%s_%(thread_id)s", "é{items}", ":thread_id'", "Ümläut Spaß\\", "?$1"]


@pytest.fixture(params=STRINGS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture
def clerk_uri(postgres_uri: str) -> Iterator[str]:
    """The database as a role that may not create anything sees it."""
    execute(postgres_uri, f"CREATE ROLE {ROLE}_{name_of(postgres_uri)} LOGIN")
    execute(postgres_uri, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield make_conninfo(postgres_uri, user=f"{ROLE}_{name_of(postgres_uri)}")
    execute(postgres_uri, f"DROP OWNED BY {ROLE}_{name_of(postgres_uri)}")
    execute(postgres_uri, f"DROP ROLE {ROLE}_{name_of(postgres_uri)}")


def name_of(uri: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(uri)["dbname"])


async def set_up(saver: Any, **options: Any) -> None:
    """`setup` of either class."""
    inner = getattr(saver, "inner", saver)
    if isinstance(inner, PostgresSaver):
        inner.setup(**options)
    else:
        await inner.setup(**options)


async def test_in_the_callers_transaction(postgres_uri: str) -> None:
    for commits in (False, True):
        with psycopg.connect(postgres_uri) as conn:
            saver = PostgresSaver(conn)
            with conn.transaction(force_rollback=not commits):
                saver.setup()
                stored = await put(saver_face(saver), values={"total": 1})
                assert saver.get_tuple(stored) is not None
        assert bool(tables(postgres_uri)) is commits


def saver_face(saver: Any) -> Any:
    from tests.support.savers import BlockingFace

    return BlockingFace(saver)


async def test_in_the_callers_transaction_on_a_loop(postgres_uri: str) -> None:
    for commits in (False, True):
        async with await psycopg.AsyncConnection.connect(postgres_uri) as conn:
            saver = AsyncPostgresSaver(conn)
            async with conn.transaction(force_rollback=not commits):
                await saver.setup()
                stored = await put(saver, values={"total": 1})
                assert await saver.aget_tuple(stored) is not None
        assert bool(tables(postgres_uri)) is commits


async def test_a_role_without_create_hears_what_is_missing(way: Way, clerk_uri: str, postgres_uri: str) -> None:
    role = ROLE + "_" + name_of(postgres_uri)
    async with way.opened(clerk_uri) as saver:
        for options in ({}, {"create": False}):
            with pytest.raises(SchemaError, match=r'table "dual_migrations"; .*"dual_writes".*ddl\(\)'):
                await set_up(saver, **options)
        with pytest.raises(SchemaError, match="dual_items"):
            await put(saver, values={"total": 1})
        assert tables(postgres_uri) == set()

        execute(postgres_uri, PostgresSaver.ddl())
        with pytest.raises(SchemaError, match='SELECT on "dual_migrations"'):
            await set_up(saver, create=False)
        execute(postgres_uri, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        with pytest.raises(SchemaError, match=r'INSERT on "dual_checkpoints"; UPDATE on .*DELETE on "dual_writes"'):
            await set_up(saver, create=False)
        assert await saver.aget_tuple(config()) is None  # reading needs no more
        execute(postgres_uri, f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        await set_up(saver, create=False)
        await put(saver, values={"total": 1})
        assert len(await listed(saver, config())) == 1


async def test_checking_changes_nothing(way: Way, postgres_uri: str) -> None:
    async with way.opened(postgres_uri) as saver:
        with pytest.raises(SchemaError, match="missing"):
            await set_up(saver, create=False)
        assert tables(postgres_uri) == set()
        await set_up(saver)
        before = contents(postgres_uri)
        await set_up(saver, create=False)
        execute(postgres_uri, "DROP TABLE dual_items")
        with pytest.raises(SchemaError, match='missing: table "dual_items"'):
            await set_up(saver, create=False)
        assert contents(postgres_uri) == {name: rows for name, rows in before.items() if name != "dual_items"}


async def test_checking_on_another_loop(postgres_uri: str) -> None:
    async with AsyncPostgresSaver(postgres_uri) as saver:
        await saver.setup()
        execute(postgres_uri, "DROP TABLE dual_items")
        with pytest.raises(SchemaError, match="dual_items"):
            await asyncio.to_thread(asyncio.run, saver.setup(create=False))


async def test_ddl_makes_what_setup_makes(postgres_uri: str) -> None:
    names = {"by_setup": "same_", "by_dba": "same_"}
    async with AsyncPostgresSaver(postgres_uri, schema="by_setup", prefix="same_") as saver:
        await saver.setup()
    execute(postgres_uri, AsyncPostgresSaver.ddl(schema="by_dba", prefix="same_"))
    made = {schema: structure(postgres_uri, schema) for schema in names}
    assert made["by_setup"] == made["by_dba"] != []


def structure(uri: str, schema: str) -> list[Any]:
    columns = (
        "SELECT table_name, column_name, ordinal_position, data_type, collation_name, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = %s ORDER BY 1, 3"
    )
    indexes = "SELECT tablename, replace(indexdef, schemaname, '') FROM pg_indexes WHERE schemaname = %s ORDER BY 1, 2"
    migrations = sql.SQL("SELECT version, name FROM {} ORDER BY 1").format(sql.Identifier(schema, "same_migrations"))
    found = execute(uri, columns, schema) + execute(uri, indexes, schema)
    return found + execute(uri, migrations.as_string(None)) if found else []


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_names(name: str, way: Way, postgres_uri: str) -> None:
    async with way.opened(postgres_uri, schema=name, prefix=name) as saver:
        stored = await put(saver, values={"total": 1, "log": ["a" * 5000]}, run_id="run")
        await saver.aput_writes(stored, [("total", 2)], "task")
        last = await put(saver, stored, {"total": 2, "log": ["a" * 5000, "b"]}, run_id="other")
        assert len(await listed(saver, config(), filter={"run_id": "run"}, limit=5)) == 1
        await saver.acopy_thread("thread", "copy")
        await saver.adelete_for_runs(["run"])
        await saver.aprune(["copy"])
        assert (await saver.aget_tuple(last)).checkpoint["channel_values"]["total"] == 2
        await set_up(saver, create=False)
        await saver.adelete_thread("thread")
    other = make_conninfo(postgres_uri)
    execute(other, f"DROP SCHEMA {sql.Identifier(name).as_string(None)} CASCADE")
    execute(other, PostgresSaver.ddl(schema=name, prefix=name))
    async with way.opened(postgres_uri, schema=name, prefix=name) as saver:
        await set_up(saver, create=False)


async def test_prefixes_and_schemas_are_independent(way: Way, postgres_uri: str) -> None:
    execute(postgres_uri, "CREATE SCHEMA third")
    places: list[dict[str, Any]] = [{"prefix": "one_"}, {"prefix": "two_"}, {"schema": "third", "prefix": "one_"}]
    for number, place in enumerate(places):
        async with way.opened(postgres_uri, **place) as saver:
            await put(saver, values={"total": number})
    for number, place in enumerate(places):
        async with way.opened(postgres_uri, **place) as saver:
            [found] = await listed(saver, None)
            assert found.checkpoint["channel_values"] == {"total": number}
            await saver.adelete_thread("thread")
            assert await listed(saver, None) == []
