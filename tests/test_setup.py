"""The schema: made once whoever asks first, never touched again, never mixed up with what else is in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from langgraph_checkpoint_dual import SqliteSaver
from langgraph_checkpoint_dual.core import migrations
from langgraph_checkpoint_dual.core.migrations import Migration
from langgraph_checkpoint_dual.errors import SchemaError
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, metadata, put
from tests.support.processes import Process
from tests.support.savers import KINDS, Kind, opened, settle

BY_BACKEND = {
    backend: [kind.name for kind in KINDS if kind.backend == backend] * 4 for backend in ("sqlite", "postgres")
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BY_BACKEND)
def test_eight_processes_set_up_an_empty_database_at_once(backend: str, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue("sqlite_path" if backend == "sqlite" else "postgres_uri")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Process("-m", "tests.support.setup_worker", name, database))
            for name in BY_BACKEND[backend]
        ]
        for one in workers:
            assert one.stdout.readline() == "ready\n", one.communicate()
        for one in workers:
            one.stdin.write("go\n")
            one.stdin.flush()
        outcomes = [one.communicate() for one in workers]
        assert [(output, errors) for output, errors in outcomes] == [("done\n", "")] * 8
    assert len(applied(database)) == len(set(applied(database))) >= 1


def migrations_table(database: str) -> str:
    [name] = [name for name in tables.tables(database) if "migrations" in name]
    return name


def applied(database: str) -> list[int]:
    return sorted(row[0] for row in tables.rows(database, f'SELECT version FROM "{migrations_table(database)}"'))


def refuses_writing(kind: Kind, database: str) -> str:
    """A connection string for the same database through which every write fails."""
    if kind.backend == "postgres":
        return f"{database} options='-c default_transaction_read_only=on'"
    return database


async def test_second_setup_writes_nothing(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        await settle(saver.setup())
    before = tables.contents(database)
    with Observer(kind, database) as observer:
        async with opened(kind.ours, refuses_writing(kind, database)) as saver:
            await settle(saver.setup())
            assert await saver.aget_tuple(config()) is None
        assert not observer.saw_a_write()
    assert tables.contents(database) == before


class Observer:
    """Notices every commit to a SQLite file; on Postgres the connection itself refuses to write."""

    def __init__(self, kind: Kind, database: str) -> None:
        self._connection = tables.sqlite3.connect(database) if kind.backend == "sqlite" else None
        self._before = self._version()

    def _version(self) -> Any:
        return self._connection and self._connection.execute("PRAGMA data_version").fetchone()

    def saw_a_write(self) -> bool:
        return bool(self._version() != self._before)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection:
            self._connection.close()


async def test_a_newer_database_is_refused_and_left_alone(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        stored = await put(saver, values={"total": 1})
    name = migrations_table(database)
    tables.rows(database, f'UPDATE "{name}" SET version = 9999 WHERE version = (SELECT max(version) FROM "{name}")')
    before = tables.contents(database)

    with pytest.raises(SchemaError, match="newer"):
        async with opened(kind.ours, database):
            pass
    for use in ("aget_tuple", "aput"):
        with pytest.raises(SchemaError, match="newer"):
            await use_without_setup(kind, database, use, stored)
    assert tables.contents(database) == before


async def use_without_setup(kind: Kind, database: str, use: str, stored: Any) -> None:
    """The first use of a saver whose `setup()` nobody called."""
    async with kind.ours(database) as saver:
        if use == "aput":
            await put(saver, stored)
        else:
            await saver.aget_tuple(stored)


async def test_first_use_sets_up_by_itself(kind: Kind, database: str) -> None:
    async with kind.ours(database) as saver:
        stored = await put(saver, values={"total": 1})
        assert (await saver.aget_tuple(stored)).checkpoint["channel_values"] == {"total": 1}


async def test_official_tables_in_the_same_database_are_left_alone_if_told_so(kind: Kind, database: str) -> None:
    async with opened(kind.official, database) as official:
        put_official = official.aput if kind.face == "async" else official.put
        await settle(put_official(config(), *a_checkpoint()))
    before = tables.contents(database)
    async with opened(kind.ours, database, adopt=False) as saver:
        assert await saver.aget_tuple(config()) is None
        await put(saver, values={"total": 1})
        await saver.adelete_thread("thread")
    after = tables.contents(database)
    assert {name: after[name] for name in before} == before
    assert after.keys() > before.keys()


def a_checkpoint() -> tuple[Any, Any, Any]:
    made = checkpoint({"total": 2})
    return made, metadata(), made["channel_versions"]


class TestMigrations:
    """The package as it was, or will be, with fewer or more migrations."""

    @pytest.fixture
    def known(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Sets the migrations that the package knows, made from those that it has."""
        real = migrations.migrations_of

        def change(changed: Callable[[list[Migration]], list[Migration]]) -> None:
            monkeypatch.setattr(migrations, "migrations_of", lambda package: changed(real(package)))

        return change

    async def test_a_migrated_schema_is_a_fresh_one(self, kind: Kind, database: str, known: Any) -> None:
        async with opened(kind.ours, database):
            fresh = schema(database)
        for oldest in range(1, len(applied(database))):
            drop_tables(database)
            known(lambda real, oldest=oldest: real[:oldest])
            async with opened(kind.ours, database):
                assert schema(database) != fresh
            known(lambda real: real)
            async with opened(kind.ours, database):
                assert schema(database) == fresh
        assert {name for name, *_ in fresh} >= tables.tables(database)

    async def test_an_older_database_is_brought_up_to_date(self, kind: Kind, database: str, known: Any) -> None:
        async with opened(kind.ours, database) as saver:
            stored = await put(saver, values={"total": 1})
        before = applied(database)
        known(
            lambda real: [
                *real,
                Migration(9001, "more", "-- why\nCREATE TABLE more (\n  a INTEGER\n);\nDROP TABLE more;"),
            ]
        )
        async with opened(kind.ours, database) as saver:
            assert applied(database) == [*before, 9001]
            assert (await saver.aget_tuple(stored)).checkpoint["channel_values"] == {"total": 1}
        known(lambda real: real)
        with pytest.raises(SchemaError, match="newer"):
            async with opened(kind.ours, database):
                pass

    async def test_a_migration_that_fails_leaves_nothing(self, kind: Kind, database: str, known: Any) -> None:
        async with opened(kind.ours, database) as saver:
            stored = await put(saver, values={"total": 1})
        before = tables.contents(database)
        known(lambda real: [*real, Migration(9001, "bad", "CREATE TABLE more (a INTEGER);\nDROP TABLE not_there;")])
        with pytest.raises(Exception, match="not_there"):
            async with opened(kind.ours, database):
                pass
        assert tables.contents(database) == before
        known(lambda real: real)
        async with opened(kind.ours, database) as saver:
            assert (await saver.aget_tuple(stored)).checkpoint["channel_values"] == {"total": 1}


def schema(database: str) -> list[tuple[Any, ...]]:
    """Every table with its columns and keys, and every index."""
    if not tables.is_postgres(database):
        return sorted(tables.rows(database, "SELECT name, sql FROM sqlite_master"), key=repr)
    columns = """
        SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
        FROM information_schema.columns WHERE table_schema = 'public'
    """
    indexes = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    constraints = "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid > 0"
    return sorted((row for query in (columns, indexes, constraints) for row in tables.rows(database, query)), key=repr)


def drop_tables(database: str) -> None:
    for name in tables.tables(database):
        tables.rows(database, f'DROP TABLE "{name}"')


@pytest.mark.parametrize("prefix", ["dual_", 'a"b:version'])
async def test_the_printed_schema_is_the_one_that_setup_makes(sqlite_path: str, prefix: str) -> None:
    def schema(path: str) -> list[Any]:
        return tables.rows(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")

    with closing(sqlite3.connect(sqlite_path)) as connection:
        connection.executescript(SqliteSaver.ddl(prefix=prefix))
    printed = schema(sqlite_path)
    with SqliteSaver(f"{sqlite_path}-made", prefix=prefix) as saver:
        saver.setup()
    assert printed == schema(f"{sqlite_path}-made")
    with SqliteSaver(sqlite_path, prefix=prefix) as saver:
        saver.setup()  # finds nothing to do
        stored = saver.put(config(), checkpoint({"total": 1}), metadata(), {})
        assert saver.get_tuple(stored) is not None
    assert schema(sqlite_path) == printed


@pytest.mark.parametrize("lost", ["DELETE FROM dual_migrations", "DROP TABLE dual_migrations"])
async def test_tables_without_their_record_are_left_alone(kind: Kind, database: str, lost: str) -> None:
    """What a restored backup of some tables looks like: nothing is guessed."""
    async with opened(kind.ours, database) as saver:
        await put(saver, values={"total": 1})
    tables.rows(database, lost)
    before = tables.contents(database)
    other = kind.ours(database)
    with pytest.raises(SchemaError, match="already exists"):
        await settle(other.setup())
    await other.aclose()
    assert tables.contents(database) == before
