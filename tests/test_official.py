"""Databases that the official saver has written: the threads are there at once, and nothing of them is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import psycopg
import pytest

from langgraph_checkpoint_dual.errors import DecodeError, DeletedError, StaleHeadError
from tests.golden import graphs
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.golden import LATEST, RELEASES, answers, continued, load, serde
from tests.support.savers import KINDS, Kind, faced, opened, settle

BLOCKING = [kind for kind in KINDS if kind.face == "blocking"]


@asynccontextmanager
async def ours(kind: Kind, database: str, **options: Any) -> AsyncIterator[Any]:
    """Our saver, through the face of its kind."""
    async with opened(kind.ours, database, serde=serde(), **options) as saver:
        yield faced(saver, kind.face)


@asynccontextmanager
async def official(kind: Kind, database: str) -> AsyncIterator[Any]:
    """The official saver, as an object whose async methods may be awaited."""
    async with opened(kind.official, database) as saver:
        saver.serde = serde()
        yield faced(saver, kind.face)


def official_rows(database: str) -> dict[str, Any]:
    return {name: rows for name, rows in tables.contents(database).items() if not name.startswith("dual_")}


@pytest.fixture
def golden(kind: Kind, database: str) -> str:
    """What the latest of the golden releases has written."""
    return load(LATEST, database)


class TestReading:
    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("kind", BLOCKING, ids=str)
    async def test_every_answer_is_the_official_one(self, kind: Kind, database: str, release: str) -> None:
        load(release, database)
        before = official_rows(database)
        async with ours(kind, database) as saver:
            said = await answers(saver)
            assert official_rows(database) == before
            async with official(kind, database) as reference:  # its setup brings old tables up to date
                assert said == await answers(reference)
            assert said == await answers(saver)

    async def test_on_all_classes(self, kind: Kind, golden: str) -> None:
        async with official(kind, golden) as reference, ours(kind, golden) as saver:
            assert await answers(saver) == await answers(reference)

    async def test_listings_without_a_thread_go_through_all(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden) as saver:
            await put(saver, config("new"), {"total": 1})
            everything = await listed(saver, None)
            ids = [found.config["configurable"]["checkpoint_id"] for found in everything]
            assert ids == sorted(ids, reverse=True)
            assert everything[0].config["configurable"]["thread_id"] == "new"
            assert len(await listed(saver, None, limit=len(ids) - 1)) == len(ids) - 1
            several = {found.config["configurable"]["thread_id"] for found in everything}
            assert {"new", "chat", "Zoë/✓"} <= several
            for limit in (1, 2, 9, 30):
                assert await listed(saver, None, limit=limit) == everything[:limit]

    async def test_filters_mean_the_same_as_for_ours(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden) as saver:
            assert await listed(saver, None, filter={"user": "ann"})
            assert await listed(saver, None, filter={"user": "ann", "tier": 2.0})
            assert await listed(saver, None, filter={"absent": None, "parents": {}})
            for nothing in ({"tier": True}, {"user": "ann\0"}, {"user": "\ud800"}, {"source": None}, {"a.b": 1}):
                assert await listed(saver, None, filter=nothing) == []
            found = await listed(saver, config("chat"), filter={"source": "loop"}, limit=3)
            assert [one.metadata["source"] for one in found] == ["loop"] * 3

    async def test_delta_history(self, kind: Kind, golden: str) -> None:
        async with official(kind, golden) as reference, ours(kind, golden) as saver:
            for found in await listed(saver, config("deltas")):
                question: Any = {"config": found.config, "channels": ["entries", "unknown"]}
                expected = await reference.aget_delta_channel_history(**question)
                assert await saver.aget_delta_channel_history(**question) == expected

    async def test_a_damaged_checkpoint_does_not_hide_the_others(self, kind: Kind, golden: str) -> None:
        value = "'\"broken\"'" if kind.backend == "postgres" else "x'c1'"
        tables.rows(golden, f"UPDATE checkpoints SET checkpoint = {value} WHERE thread_id = 'approval'")
        damaged: list[Any] = []
        async with opened(kind.ours, golden, serde=serde()) as saver:
            found = [one async for one in saver.alist(None, on_damaged=damaged.append)]
        assert damaged
        assert "approval" in str(damaged[0])
        assert any(one.config["configurable"]["thread_id"] == "chat" for one in found)

    async def test_damaged_metadata_hides_nothing_else(self, kind: Kind, golden: str) -> None:
        """Neither from listings nor from filters, and the deletion of runs goes past it."""
        for value in ["'[1]'"] if kind.backend == "postgres" else ["x'80'", "'{\"a\": '", "'[1]'"]:
            tables.rows(golden, f"UPDATE checkpoints SET metadata = {value} WHERE thread_id = 'approval'")
            async with opened(kind.ours, golden, serde=serde()) as saver:
                for wanted in (None, {"source": "loop"}):
                    damaged: list[Any] = []
                    found = [one async for one in saver.alist(None, filter=wanted, on_damaged=damaged.append)]
                    assert {one.where["thread_id"] for one in damaged} <= {"approval"}
                    assert damaged or wanted
                    assert any(one.config["configurable"]["thread_id"] == "chat" for one in found)
                with pytest.raises(DecodeError, match="approval"):
                    await saver.aget_tuple(config("approval"))
                await saver.adelete_for_runs(["no such run"])


class TestGoingOn:
    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("kind", BLOCKING, ids=str)
    async def test_every_thread_goes_on_to_the_same_state(self, kind: Kind, database: str, release: str) -> None:
        load(release, database)
        before = official_rows(database)
        async with opened(kind.ours, database, serde=serde()) as saver:
            said = {thread_id: continued(saver, thread_id) for thread_id in graphs.CONTINUATIONS}
        assert official_rows(database) == before
        async with opened(kind.official, database) as reference:
            reference.serde = serde()
            expected = {thread_id: continued(reference, thread_id) for thread_id in graphs.CONTINUATIONS}
        if release == RELEASES[0] and kind.backend == "postgres":
            # Later official releases leave the encoded sends of the first ones as they are, and so lose them.
            assert said.pop("sends")[0] == "{'log': ['start', 'plan', 'work 0', 'work 1', 'work 2']}"
            expected.pop("sends")
        assert said == expected

    @pytest.mark.parametrize("kind", BLOCKING, ids=str)
    async def test_time_travel_and_updates(self, kind: Kind, golden: str) -> None:
        async with opened(kind.ours, golden, serde=serde()) as saver:
            graph = graphs.chat(saver)
            before = list(graph.get_state_history(config("chat")))
            earlier = next(state for state in before if state.next == ("tool",))
            updated = graph.update_state(earlier.config, {"topic": "updated"})
            found = saver.get_tuple(updated)
            assert (
                found.parent_config["configurable"]["checkpoint_id"] == earlier.config["configurable"]["checkpoint_id"]
            )
            graph.invoke(None, earlier.config)
            after = list(graph.get_state_history(config("chat")))
            assert [state.config for state in after[-len(before) :]] == [state.config for state in before]
            assert graph.get_state(config("chat")).config == after[0].config != before[0].config
            assert graph.get_state(before[0].config).values == before[0].values

    @pytest.mark.parametrize("kind", BLOCKING, ids=str)
    async def test_a_delta_channel_goes_on_over_the_border(self, kind: Kind, golden: str) -> None:
        async with opened(kind.ours, golden, serde=serde()) as saver:
            graph = graphs.deltas(saver)
            for number in range(6):
                graph.invoke({"entries": [f"more {number}"]}, config("deltas"))
            entries = graph.get_state(config("deltas")).values["entries"]
            assert entries[:2] == ["given 0", "one 1"]
            assert [entry for entry in entries if entry.startswith("more")] == [f"more {number}" for number in range(6)]
            assert len(entries) == 3 * 9
            saver.prune(["deltas"])
            assert graph.get_state(config("deltas")).values["entries"] == entries

    async def test_writes_of_both_savers(self, kind: Kind, golden: str) -> None:
        async with official(kind, golden) as other, ours(kind, golden) as saver:
            at = (await saver.aget_tuple(config("approval"))).config
            await other.aput_writes(at, [("log", ["theirs"])], "task 1", "path 1")
            await saver.aput_writes(at, [("log", ["ours"])], "task 2", "path 0")
            await saver.aput_writes(at, [("log", ["never"])], "task 1", "path 1")
            await saver.aput_writes(at, [("__resume__", "first")], "task 3")
            expected = [("task 3", "__resume__", "first"), ("task 2", "log", ["ours"]), ("task 1", "log", ["never"])]
            for found in (await saver.aget_tuple(at), (await listed(saver, config("approval"), limit=1))[0]):
                assert found.pending_writes == expected
            assert (await other.aget_tuple(at)).pending_writes == [("task 1", "log", ["theirs"])]

    async def test_a_fence_sees_the_latest_official_checkpoint(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden, fence=True) as saver:
            found = await listed(saver, config("approval"))
            with pytest.raises(StaleHeadError):
                await put(saver, found[1].config, {"log": ["late"]})
            await put(saver, found[0].config, {"log": ["next"]})


class TestTwoSavers:
    """A rolling deploy: processes with the official saver and with ours, on one database."""

    async def test_nothing_that_either_acknowledged_is_lost(self, kind: Kind, golden: str) -> None:
        async with official(kind, golden) as other, ours(kind, golden) as saver:
            at = (await saver.aget_tuple(config("chat"))).config
            mine = await put(saver, at, {"topic": "ours"})
            assert (await other.aget_tuple(config("chat"))).config == at
            made = checkpoint({"topic": "theirs"})
            theirs = await other.aput(at, made, metadata(), made["channel_versions"])
            latest = await saver.aget_tuple(config("chat"))
            assert (latest.config, latest.parent_config) == (theirs, at)
            assert (await saver.aget_tuple(mine)).checkpoint["channel_values"] == {"topic": "ours"}
            newest = await put(saver, theirs, {"topic": "ours again"})
            history = [found.config for found in await listed(saver, config("chat"))]
            assert history[:4] == [newest, theirs, mine, at]

    async def test_a_thread_that_only_the_other_one_has(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden) as saver:
            assert await saver.aget_tuple(config("later")) is None
            async with official(kind, golden) as other:
                made = checkpoint({"topic": "theirs"})
                await other.aput(config("later"), made, metadata(), made["channel_versions"])
            assert (await saver.aget_tuple(config("later"))).checkpoint["channel_values"] == {"topic": "theirs"}

    async def test_tables_that_appear_later_are_seen_after_setup(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database) as saver:
            assert await saver.aget_tuple(config()) is None
            async with official(kind, database) as other:
                made = checkpoint({"topic": "theirs"})
                await other.aput(config(), made, metadata(), made["channel_versions"])
            assert await saver.aget_tuple(config()) is None
            await settle(saver.setup())
            assert (await saver.aget_tuple(config())).checkpoint["channel_values"] == {"topic": "theirs"}

    async def test_tables_that_vanish_are_no_error(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden) as saver:
            await put(saver, config("new"), {"total": 1})
            names = tables.data_tables(golden)
            assert await saver.aget_tuple(config("chat"))
            for name in names:
                if not name.startswith("dual_"):
                    tables.rows(golden, f"DROP TABLE {name}")
            assert await saver.aget_tuple(config("chat")) is None
            assert len(await listed(saver, None)) == 1
            await saver.adelete_thread("new")
            assert await listed(saver, None) == []


class TestRemoving:
    async def test_a_thread(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden, late="raise") as saver:
            at = (await saver.aget_tuple(config("chat"))).config
            others = await answers(saver, {"fork", "nested", "deltas"})
            await put(saver, at, {"topic": "ours"})
            await saver.adelete_thread("chat")
            assert await saver.aget_tuple(config("chat")) is None
            assert await listed(saver, config("chat")) == []
            with pytest.raises(DeletedError):
                await put(saver, at, {"topic": "late"})
            assert await answers(saver, {"fork", "nested", "deltas"}) == others
        async with official(kind, golden) as other:
            assert await other.aget_tuple(config("chat")) is None

    async def test_pruning(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden) as saver:
            kept = {name: await saver.aget_tuple(config(name)) for name in ("chat", "fork", "deltas")}
            others = await answers(saver, {"nested", "approval"})
            await saver.aprune(list(kept))
            for name in ("chat", "fork"):
                [found] = await listed(saver, config(name))
                assert found == kept[name]._replace(parent_config=None)
            assert await saver.aget_tuple(config("deltas")) == kept["deltas"]
            assert await answers(saver, {"nested", "approval"}) == others
        if kind.backend == "postgres":  # values that nobody has any more are gone too
            left = tables.rows(golden, "SELECT count(*) FROM checkpoint_blobs WHERE thread_id IN ('chat', 'fork')")
            used = sum(len(kept[name].checkpoint["channel_values"]) for name in ("chat", "fork"))
            assert 0 < left[0][0] <= used
        async with official(kind, golden) as other:
            assert (await other.aget_tuple(config("chat"))).checkpoint == kept["chat"].checkpoint

    async def test_pruning_a_thread_that_is_in_both(self, kind: Kind, golden: str) -> None:
        async with ours(kind, golden) as saver:
            at = (await saver.aget_tuple(config("chat"))).config
            await put(saver, at, {"topic": "ours"})
            kept = await saver.aget_tuple(config("chat"))
            await saver.aprune(["chat"])
            assert await listed(saver, config("chat")) == [kept._replace(parent_config=None)]
            await saver.aprune(["chat"], strategy="delete")
            assert await listed(saver, config("chat")) == []

    async def test_runs(self, kind: Kind, golden: str) -> None:
        async with official(kind, golden) as other, ours(kind, golden) as saver:
            at = await saver.aget_tuple(config("approval"))
            made = checkpoint({"log": ["theirs"]})
            theirs = await other.aput(at.config, made, metadata(run_id="run 1"), made["channel_versions"])
            await put(saver, theirs, {"log": ["ours"]}, run_id="run 2")
            last = await put(saver, theirs, {"log": ["other"]}, run_id="run 3")
            await saver.adelete_for_runs(["run 1", "run 2"])
            history = await listed(saver, config("approval"))
            assert [found.config for found in history[:2]] == [last, at.config]
            assert history[0].parent_config == at.config
            assert (await other.aget_tuple(config("approval"))).config == at.config


class TestAdopting:
    async def test_can_be_turned_off(self, kind: Kind, golden: str) -> None:
        before = official_rows(golden)
        async with ours(kind, golden, adopt=False) as saver:
            assert await listed(saver, None) == []
            await put(saver, config("chat"), {"total": 1})
            await saver.adelete_thread("chat")
        assert official_rows(golden) == before

    @pytest.mark.parametrize("kind", BLOCKING, ids=str)
    async def test_where_there_are_no_official_tables_nothing_more_is_asked(
        self, kind: Kind, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        async with opened(kind.ours, database) as saver:
            kind_of_tx = _tx_class(kind)
            fetch = kind_of_tx.fetch

            def noting(self: Any, query: str, /, **args: Any) -> Any:
                asked.append(query.split()[0])
                return fetch(self, query, **args)

            monkeypatch.setattr(kind_of_tx, "fetch", noting)
            await put(saver, values={"total": 1})
            for _ in range(3):
                saver.get_tuple(config())
                list(saver.list(None))
            assert [query for query in asked if "official" in query] == ["official_tables"]

    @pytest.mark.parametrize("levels", [4, 6, 7, 8, 9, 10])
    async def test_every_level_of_the_official_schema(self, postgres_uri: str, levels: int) -> None:
        from langgraph.checkpoint.postgres.base import MIGRATIONS

        scratch = load(LATEST, postgres_uri)
        if levels < 10:
            tables.rows(scratch, "ALTER TABLE checkpoint_writes DROP COLUMN task_path")
        for name in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")[max(0, levels - 6) :]:
            tables.rows(scratch, f"DROP INDEX {name}_thread_id_idx")
        if levels < 5:
            tables.rows(scratch, "DELETE FROM checkpoint_blobs WHERE blob IS NULL")
            tables.rows(scratch, "ALTER TABLE checkpoint_blobs ALTER COLUMN blob SET NOT NULL")
        tables.rows(scratch, f"DELETE FROM checkpoint_migrations WHERE v >= {levels}")
        assert len(MIGRATIONS) == 10
        async with ours(KINDS[2], scratch) as saver:
            before = await answers(saver)
            async with official(KINDS[2], scratch) as other:
                after = await answers(other)
            assert len(before) == len(after)
            if levels == 10:
                assert before == after

    async def test_tables_of_another_kind_are_no_official_ones(self, postgres_uri: str) -> None:
        with psycopg.connect(postgres_uri, autocommit=True) as connection:
            connection.execute("CREATE TABLE checkpoints (thread_id text, checkpoint_ns text, checkpoint jsonb)")
            connection.execute("CREATE TABLE checkpoint_blobs (thread_id text, channel text, type text, blob bytea)")
            connection.execute("CREATE TABLE checkpoint_writes (thread_id text, idx int)")
        async with ours(KINDS[2], postgres_uri) as saver:
            await put(saver, values={"total": 1})
            assert len(await listed(saver, None)) == 1

    async def test_tables_that_may_not_be_read_are_left_alone(self, postgres_uri: str) -> None:
        load(LATEST, postgres_uri)
        role = f"reader_{psycopg.conninfo.conninfo_to_dict(postgres_uri)['dbname']}"
        with psycopg.connect(postgres_uri, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN")
            connection.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {role}")
        try:
            async with ours(KINDS[2], psycopg.conninfo.make_conninfo(postgres_uri, user=role)) as saver:
                await put(saver, values={"total": 1})
                assert len(await listed(saver, None)) == 1
        finally:
            with psycopg.connect(postgres_uri, autocommit=True) as connection:
                connection.execute(f"DROP OWNED BY {role}")
                connection.execute(f"DROP ROLE {role}")


def _tx_class(kind: Kind) -> Any:
    if kind.backend == "sqlite":
        from langgraph_checkpoint_dual.sqlite.transactions import SqliteTx

        return SqliteTx
    from langgraph_checkpoint_dual.postgres.transactions import BlockingTx

    return BlockingTx


class TestCost:
    """The first touch of an official thread costs its latest checkpoint, however long its history is."""

    LENGTHS = (10, 1000)

    async def history(self, kind: Kind, database: str) -> None:
        """Threads of official checkpoints, and our tables beside them."""
        async with official(kind, database) as reference:
            for length in self.LENGTHS:
                place = config(f"thread {length}")
                for step in range(length):
                    place = await put(reference, place, {"total": step, "text": "much " * 20}, step=step)
        async with ours(kind, database) as saver:
            await put(saver, config("other"), {"total": 1})

    async def test_sqlite_takes_the_same_steps(self, sqlite_path: str) -> None:
        await self.history(KINDS[0], sqlite_path)
        taken: list[int] = []

        def step() -> int:
            taken[-1] += 1
            return 0

        with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
            saver = KINDS[0].ours(connection)
            assert saver.get_tuple(config("other")) is not None
            for length in self.LENGTHS:
                for touch in (saver.get_tuple, partial(self.go_on, saver)):
                    taken.append(0)
                    connection.set_progress_handler(step, 1)
                    touch(config(f"thread {length}"))
                    connection.set_progress_handler(None, 1)
        read, written, read_of_many, written_of_many = taken
        assert read > 20
        assert read_of_many <= read * 1.2, taken
        assert written_of_many <= written * 1.2, taken

    async def test_postgres_reads_as_many_rows(self, postgres_uri: str) -> None:
        await self.history(KINDS[2], postgres_uri)
        tables.rows(postgres_uri, "ANALYZE")
        read: list[int] = []
        count = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"
        for length in self.LENGTHS:
            for touch in (lambda saver, at: saver.get_tuple(at), self.go_on):
                with psycopg.connect(postgres_uri) as connection:
                    saver = KINDS[2].ours(connection)
                    assert saver.get_tuple(config("other")) is not None
                    connection.commit()
                    [(before,)] = connection.execute(count)
                    touch(saver, config(f"thread {length}"))
                    [(after,)] = connection.execute(count)
                    connection.rollback()
                    read.append(after - before)
        of_few, written, of_many, written_of_many = read
        assert of_few > 0
        assert of_many <= of_few + 5, read
        assert written_of_many <= written + 5, read

    @staticmethod
    def go_on(saver: Any, at: Any) -> None:
        found = saver.get_tuple(at)
        new = checkpoint({**found.checkpoint["channel_values"], "total": -1})
        saver.put(found.config, new, metadata(), new["channel_versions"])
        assert saver.get_tuple(at).checkpoint["channel_values"]["total"] == -1


def test_golden_databases_are_there() -> None:
    assert len(RELEASES) == 9
    assert LATEST == "2026-11"
