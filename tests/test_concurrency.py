"""Many at once: who waits for whom, what shares a commit, and how often the database is asked.

No test looks at a clock. Whoever would wait for what they need not, would wait for ever, or be refused.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from langgraph_checkpoint_dual.errors import BusyError
from tests.faults.postgres_servers import execute
from tests.support import tables
from tests.support.checkpoints import config, listed, put
from tests.support.savers import KINDS, Kind, faced, opened, settle

PATIENCE = 15.0
MANY = 16
TURNS = 100
SQLITE = [kind for kind in KINDS if kind.backend == "sqlite"]
POSTGRES = [kind for kind in KINDS if kind.backend == "postgres"]
_SALT, _FRAME = 32, 24
"""Bytes of the header of a write-ahead log, and of that of each of its frames."""


async def reached(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nobody tells of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def at_once(saver: Any, face: str, uses: list[Callable[[Any], Any]]) -> list[asyncio.Future[Any]]:
    """Begin some uses of a saver's awaited methods, in this order; each blocking one in a thread of its own."""
    if face == "async":
        return [asyncio.ensure_future(use(saver)) for use in uses]
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(len(uses))
    begun = [loop.run_in_executor(threads, asyncio.run, use(faced(saver, face))) for use in uses]
    threads.shutdown(wait=False)
    return begun


async def stored(saver: Any, thread_id: str, value: Any = 1) -> Any:
    """A use: put the first checkpoint of a thread."""
    return await put(saver, config(thread_id), {"value": value})


def putting(*thread_ids: str) -> list[Callable[[Any], Any]]:
    return [lambda saver, thread_id=thread_id: stored(saver, thread_id) for thread_id in thread_ids]


def have_arrived(saver: Any, count: int) -> bool:
    """Whether so many writes are in line or under way. On an event loop of Postgres they get there together."""
    lanes = [saver._backend.combiner] if hasattr(saver, "_backend") else getattr(saver._engine, "_combiners", None)
    if lanes is None:
        return True
    return count == sum(len(lane._line) + len([*lane._leader.batch] if lane._leader else []) for lane in lanes)


@contextmanager
def writing(path: str) -> Iterator[sqlite3.Connection]:
    """Somebody else is in a transaction that writes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def commits(path: str) -> int:
    """How many transactions are in the write-ahead log: the last frame of each has the file's size in its header."""
    log = Path(f"{path}-wal").read_bytes()
    [page] = struct.unpack_from(">I", log, 8)
    heads = range(_SALT, len(log) - _FRAME, _FRAME + page)
    return sum(struct.unpack_from(">I", log, at + 4)[0] > 0 and log[at + 8 : at + 16] == log[16:24] for at in heads)


@pytest.fixture(params=SQLITE, ids=str)
def of_sqlite(request: pytest.FixtureRequest) -> Any:
    found: Kind = request.param
    return found.ours


@pytest.fixture(params=POSTGRES, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


class TestSqlite:
    async def test_no_read_waits_for_a_write(self, of_sqlite: Any, face: str, sqlite_path: str) -> None:
        async with opened(of_sqlite, sqlite_path, timeout=0.01) as saver:
            subject = faced(saver, face)
            where = await put(subject, config(), {"messages": ["a", "b"]})
            with writing(sqlite_path):
                assert (await subject.aget_tuple(where)).checkpoint["channel_values"] == {"messages": ["a", "b"]}
                assert len(await listed(subject, config())) == 1
                assert [one.thread_id for one in saver.threads.list().threads] == ["thread"]
                assert saver.threads.get("thread").checkpoints == 1

    async def test_no_write_waits_for_a_read(self, of_sqlite: Any, face: str, sqlite_path: str) -> None:
        async with opened(of_sqlite, sqlite_path, timeout=0.01) as saver:
            subject = faced(saver, face)
            for _ in range(3):
                where = await put(subject)
            with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM dual_checkpoints").fetchall()
                listing = subject.alist(config())
                await anext(listing)
                await subject.aput_writes(where, [("value", 1)], "task")
                await put(subject, where)
                assert [count async for count in _counted(listing)] == [0, 1]
                assert len(await listed(subject, config())) == 4

    async def test_a_lock_that_others_keep(self, of_sqlite: Any, face: str, sqlite_path: str) -> None:
        async with opened(of_sqlite, sqlite_path, timeout=0.01) as saver:
            subject = faced(saver, face)
            with writing(sqlite_path), pytest.raises(BusyError, match=r"0\.01 s"):
                await put(subject)
            await put(subject)
            assert len(await listed(subject, config())) == 1

    async def test_what_waits_shares_a_commit(self, of_sqlite: Any, face: str, sqlite_path: str) -> None:
        async with opened(of_sqlite, sqlite_path) as saver:
            tables.rows(sqlite_path, "PRAGMA wal_checkpoint(TRUNCATE)")
            names = [str(number) for number in range(MANY)]
            with writing(sqlite_path):
                begun = await at_once(saver, face, putting(*names))
                await reached(lambda: have_arrived(saver, MANY))
                assert not any(one.done() for one in begun), "nothing is acknowledged before it is stored"
            await asyncio.gather(*begun)
            assert {row[0] for row in tables.rows(sqlite_path, "SELECT thread_id FROM dual_checkpoints")} == set(names)
            assert commits(sqlite_path) <= 2

    async def test_forks_that_take_the_same_numbers_share_a_commit(
        self, of_sqlite: Any, face: str, sqlite_path: str
    ) -> None:
        async with opened(of_sqlite, sqlite_path) as saver:
            subject = faced(saver, face)
            root = await put(subject, config(), {"messages": [f"{number:99}" for number in range(9)]})
            values = [{"messages": [*(f"{number:99}" for number in range(9)), f"fork {fork:99}"]} for fork in range(3)]
            forks = [lambda saver, value=value: put(saver, root, value) for value in values]
            with writing(sqlite_path):
                begun = await at_once(saver, face, [*forks, *putting("a", "b")])
                await reached(lambda: have_arrived(saver, 5))
            stored_at = await asyncio.gather(*begun)
            saver._cache.clear()
            for where, value in zip(stored_at, [*values, {"value": 1}, {"value": 1}], strict=True):
                assert (await subject.aget_tuple(where)).checkpoint["channel_values"] == value

    async def test_a_write_fails_alone(self, of_sqlite: Any, face: str, sqlite_path: str) -> None:
        async with opened(of_sqlite, sqlite_path) as saver:
            await put(faced(saver, face), config("before"))
            tables.rows(
                sqlite_path,
                "CREATE TRIGGER refuse BEFORE INSERT ON dual_checkpoints WHEN new.thread_id LIKE 'bad%' "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END",
            )
            with writing(sqlite_path):
                begun = await at_once(saver, face, putting("a", "bad", "b", "worse", "bad too", "c"))
                await reached(lambda: have_arrived(saver, 6))
            await only_the_bad_ones_fail(begun, sqlite_path, ["a", "b", "before", "c", "worse"])


async def _counted(listing: Any) -> Any:
    number = 0
    async for _ in listing:
        yield number
        number += 1


async def only_the_bad_ones_fail(begun: list[Any], database: str, names: list[str]) -> None:
    ended = await asyncio.gather(*begun, return_exceptions=True)
    assert [isinstance(one, Exception) and "not this one" in str(one) for one in ended] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert [row[0] for row in tables.rows(database, "SELECT thread_id FROM dual_checkpoints ORDER BY 1")] == names


@contextmanager
def holding(uri: str, statement: str) -> Iterator[None]:
    """Somebody else is in a transaction that has run a statement."""
    with psycopg.connect(uri) as other:
        other.execute(statement)  # type: ignore[call-overload]
        yield
        other.rollback()


async def connected(kind: Kind, uri: str) -> Any:
    """A connection of the user's own."""
    saver_class: Any = psycopg.AsyncConnection if kind.face == "async" else psycopg.Connection
    return await settle(saver_class.connect(uri, autocommit=True))


KEEP_THREAD = "UPDATE dual_threads SET title = 'kept' WHERE thread_id = 'busy'"
KEEP_ALL = "LOCK TABLE dual_checkpoints IN EXCLUSIVE MODE"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def waiting(uri: str) -> int:
    [(count,)] = execute(uri, WAITING)
    return int(count)


class TestPostgres:
    async def test_nobody_waits_for_a_thread_of_others(self, kind: Kind, postgres_uri: str) -> None:
        async with opened(kind.ours, postgres_uri, max_size=16) as saver:
            await put(faced(saver, kind.face), config("busy"))
            with holding(postgres_uri, KEEP_THREAD):
                stuck = []
                for number in range(8):
                    stuck += await at_once(saver, kind.face, putting("busy"))
                    await reached(lambda number=number: waiting(postgres_uri) > number)  # type: ignore[misc]
                others = await at_once(saver, kind.face, putting(*(str(one) for one in range(40))))
                await asyncio.wait_for(asyncio.gather(*others), PATIENCE)
                assert not any(one.done() for one in stuck)
            await asyncio.gather(*stuck)

    async def test_what_waits_shares_a_commit(self, kind: Kind, postgres_uri: str) -> None:
        async with opened(kind.ours, postgres_uri) as saver:
            names = [str(number) for number in range(MANY)]
            with holding(postgres_uri, KEEP_ALL):
                begun = await at_once(saver, kind.face, putting(*names))
                await reached(lambda: waiting(postgres_uri) > 0 and have_arrived(saver, MANY))
                assert not any(one.done() for one in begun), "nothing is acknowledged before it is stored"
            await asyncio.gather(*begun)
            rows = execute(postgres_uri, "SELECT xmin::text, thread_id FROM dual_checkpoints")
            assert {name for _, name in rows} == set(names)
            assert len({transaction for transaction, _ in rows}) <= MANY / 2

    async def test_a_write_fails_alone(self, kind: Kind, postgres_uri: str) -> None:
        async with opened(kind.ours, postgres_uri) as saver:
            await put(faced(saver, kind.face), config("before"))
            execute(
                postgres_uri,
                "ALTER TABLE dual_checkpoints ADD CONSTRAINT \"not this one\" CHECK (thread_id NOT LIKE 'bad%')",
            )
            with holding(postgres_uri, KEEP_ALL):
                begun = await at_once(saver, kind.face, putting("a", "bad", "b", "worse", "bad too", "c"))
                await reached(lambda: waiting(postgres_uri) > 0 and have_arrived(saver, 6))
            await only_the_bad_ones_fail(begun, postgres_uri, ["a", "b", "before", "c", "worse"])

    async def test_a_given_connection_serves_all_in_turn(self, kind: Kind, postgres_uri: str) -> None:
        async with opened(kind.ours, postgres_uri) as saver:
            await put(saver, config())
        done: list[int] = []

        async def read(client: int, saver: Any) -> None:
            for _ in range(TURNS):
                await saver.aget_tuple(config())
                done.append(client)

        conn = await connected(kind, postgres_uri)
        uses = [lambda saver, client=client: read(client, saver) for client in range(4)]  # type: ignore[misc]
        await asyncio.gather(*await at_once(kind.ours(conn), kind.face, uses))
        await settle(conn.close())
        first = done[: max(at for at, client in enumerate(done) if done[: at + 1].count(client) < TURNS)]
        assert min(first.count(client) for client in range(4)) > TURNS / 10


class TestRoundTrips:
    """libpq writes down what goes over the wire."""

    @pytest.fixture
    async def asked(self, kind: Kind, postgres_uri: str, tmp_path: Path) -> Any:
        """A saver's awaited methods, and how often the server is asked while something is awaited."""
        conn = await connected(kind, postgres_uri)
        saver = kind.ours(conn)
        await faced(saver, kind.face).aget_tuple(config())  # the first read looks for the official saver's tables

        async def count(use: Any) -> int:
            with (tmp_path / "wire").open("w+") as file:
                conn.pgconn.trace(file.fileno())
                await use
                conn.pgconn.untrace()
                file.seek(0)
                return sum(line.split("\t")[1:2] == ["F"] and ("Sync" in line or "Query" in line) for line in file)

        yield saver, faced(saver, kind.face), count
        await settle(conn.close())

    async def test_an_operation_takes_one(self, asked: Any) -> None:
        saver, subject, count = asked
        where = await put(subject, config(), {"messages": ["a" * 99] * 20})
        assert await count(subject.aput_writes(where, [("value", number) for number in range(5)], "task")) == 1
        assert await count(put(subject, where, {"messages": ["a" * 99] * 30, "other": {"b": 1}})) == 1
        assert await count(subject.aget_tuple(config())) == 1, "all is known"
        saver._cache.clear()
        assert await count(subject.aget_tuple(config())) == 2, "the checkpoint says which items to fetch"

    async def test_a_listing_takes_two_a_page(self, asked: Any) -> None:
        saver, subject, count = asked
        where = config()
        for number in range(60):
            where = await put(subject, where, {"messages": [f"{one:99}" for one in range(number)]})
            await subject.aput_writes(where, [("value", number)], "task")
        saver._cache.clear()
        assert await count(listed(subject, config())) <= 10
        assert await count(listed(subject, config(), limit=30)) <= 2
