"""Moving official databases into our tables: everything as it was, at every moment, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from typing import Any

import pytest

from langgraph_checkpoint_dual.migrate import MoveError, Progress, Report, amigrate, migrate
from tests.golden import graphs
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.golden import LATEST, RELEASES, answers, continued, load, serde
from tests.support.processes import Process
from tests.support.savers import KINDS, Kind, faced, opened, settle

BLOCKING = [kind for kind in KINDS if kind.face == "blocking"]
KILLS = int(os.environ.get("DUAL_TEST_KILLS", "3"))
OFFICIAL = {"sqlite": ("checkpoints", "writes"), "postgres": ("checkpoints", "checkpoint_blobs", "checkpoint_writes")}


async def moved(kind: Kind, saver: Any, **options: Any) -> Report:
    return await amigrate(saver, **options) if kind.face == "async" else migrate(saver, **options)


def official_rows(kind: Kind, database: str) -> Any:
    return [sorted(tables.all_rows(database, name), key=repr) for name in OFFICIAL[kind.backend]]


def multiply(kind: Kind, database: str, times: int) -> int:
    """Repeat every official thread under other ids; how many checkpoints there are then."""
    for name in OFFICIAL[kind.backend]:
        columns = [column for column in tables.named_rows(database, name)[0] if column != "thread_id"]
        names = ", ".join(columns)
        for number in range(times):
            tables.rows(
                database,
                f"INSERT INTO {name} (thread_id, {names}) SELECT '{number} of ' || thread_id, {names} FROM {name} "
                "WHERE thread_id NOT LIKE '% of %'",
            )
    return len(tables.all_rows(database, "checkpoints"))


def counted(kind: Kind, database: str) -> tuple[int, int]:
    """How many checkpoints and writes are in our tables."""
    return len(tables.all_rows(database, "dual_checkpoints")), len(tables.all_rows(database, "dual_writes"))


async def reference(kind: Kind, database: str) -> Any:
    """The answers of the official saver."""
    async with opened(kind.official, database) as saver:
        saver.serde = serde()
        return await answers(faced(saver, kind.face))


class Stopped(Exception):
    pass


@pytest.fixture
def golden(kind: Kind, database: str) -> str:
    """What the latest of the golden releases has written."""
    return load(LATEST, database)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", BLOCKING, ids=str)
async def test_every_answer_is_the_same_before_during_and_after(kind: Kind, database: str, release: str) -> None:
    load(release, database)
    expected = await reference(kind, database)
    before = official_rows(kind, database)
    async with opened(kind.ours, database, serde=serde()) as saver:
        subject = faced(saver, kind.face)
        assert await answers(subject) == expected
        with pytest.raises(Stopped):
            migrate(saver, on_progress=_stop_after(random.randint(1, 6)))
        assert await answers(subject) == expected
        report = migrate(saver, verify=True)
        assert (report.verified, report.differences) == (len(before[0]), [])
        assert await answers(subject) == expected
        assert official_rows(kind, database) == before
        assert counted(kind, database) == (len(before[0]), len(before[-1]))
        assert migrate(saver, drop=True).dropped
        assert await answers(subject) == expected
    assert not {name for name in tables.tables(database) if not name.startswith("dual_")}
    async with opened(kind.ours, database, serde=serde()) as saver:
        assert await answers(faced(saver, kind.face)) == expected
        states = {thread_id: continued(saver, thread_id) for thread_id in graphs.CONTINUATIONS}
    fresh = load(release, database + "-2" if kind.backend == "sqlite" else _emptied(database))
    async with opened(kind.official, fresh) as saver:
        saver.serde = serde()
        for thread_id, state in states.items():
            if (release, kind.backend, thread_id) != (RELEASES[0], "postgres", "sends"):  # see tests/test_official.py
                assert state == continued(saver, thread_id)


def _stop_after(calls: int) -> Any:
    left = iter(range(calls))

    def stop(progress: Progress) -> None:
        if next(left, None) is None:
            raise Stopped

    return stop


def _emptied(database: str) -> str:
    for name in tables.tables(database):
        tables.rows(database, f"DROP TABLE {name}")
    return database


async def test_on_all_classes(kind: Kind, golden: str) -> None:
    expected = await reference(kind, golden)
    told: list[Progress] = []
    writes = len(tables.all_rows(golden, OFFICIAL[kind.backend][-1]))
    async with opened(kind.ours, golden, serde=serde()) as saver:
        dry = await moved(kind, saver, dry_run=True)
        assert counted(kind, golden) == (0, 0)
        report = await moved(kind, saver, verify=True, on_progress=told.append)
        assert (report.checkpoints, report.writes, report.there) == (50, writes, 0)
        assert (dry.checkpoints, dry.writes, dry.bytes_before) == (50, writes, report.bytes_before)
        assert report.bytes_after < report.bytes_before
        assert report.verified == 50
        assert (await moved(kind, saver)).there == 50
        assert (await moved(kind, saver, drop=True)).dropped
        assert (await moved(kind, saver)) == Report()
        assert await answers(faced(saver, kind.face)) == expected
    assert (told[-1].threads, told[-1].threads_total, told[-1].checkpoints) == (9, 9, 50)
    assert told[-1].seconds_left == 0


async def test_moved_threads_are_in_the_registry(kind: Kind, golden: str) -> None:
    async with opened(kind.ours, golden, serde=serde()) as saver:
        subject = faced(saver, kind.face)
        history = await listed(subject, {"configurable": {"thread_id": "chat", "checkpoint_ns": ""}})
        await put(subject, history[0].config, {"topic": "ours"}, user_id="bob")
        await moved(kind, saver)
        found = saver.threads.get("chat")
        assert found.created_at.isoformat() == history[-1].checkpoint["ts"]
        assert found.updated_at.isoformat() > history[0].checkpoint["ts"]
        assert (found.user_id, found.checkpoints) == ("bob", len(history) + 1)
        assert {thread.thread_id for thread in saver.threads.list().threads} == graphs.CONTINUATIONS.keys()
        assert saver.threads.get("approval").metadata["user"] == "ann"


async def test_writes_and_checkpoints_that_come_later_are_brought_over_too(kind: Kind, golden: str) -> None:
    async with (
        opened(kind.official, golden) as other,
        opened(kind.ours, golden, serde=serde()) as saver,
    ):
        other.serde = serde()
        theirs, subject = faced(other, kind.face), faced(saver, kind.face)
        await moved(kind, saver)
        at = (await subject.aget_tuple(config("approval"))).config
        await theirs.aput_writes(at, [("log", ["later"])], "task", "path")
        made = checkpoint({"log": ["later"]})
        latest = await theirs.aput(at, made, metadata(), made["channel_versions"])
        await theirs.aput_writes({"configurable": {**at["configurable"], "thread_id": "none yet"}}, [("a", 1)], "task")
        expected = await answers(subject)
        report = await moved(kind, saver, drop=True)
        assert (report.checkpoints, report.writes, report.dropped) == (1, 2, True)
        assert await answers(subject) == expected
        assert (await subject.aget_tuple(config("approval"))).config == latest
        assert (await subject.aget_tuple(at)).pending_writes == [("task", "log", ["later"])]


async def test_what_is_removed_stays_removed(kind: Kind, golden: str) -> None:
    async with opened(kind.ours, golden, serde=serde()) as saver:
        subject = faced(saver, kind.face)
        await moved(kind, saver)
        await subject.adelete_thread("chat")
        await subject.aprune(["fork"])
        report = await moved(kind, saver, verify=True)
        assert report.checkpoints == 0
        assert await listed(subject, config("chat")) == []
        assert len(await listed(subject, config("fork"))) == 1


async def test_what_cannot_be_read_is_reported_and_keeps_the_tables(kind: Kind, golden: str) -> None:
    value = "'\"broken\"'" if kind.backend == "postgres" else "x'c1'"
    ids = "SELECT min(checkpoint_id) FROM checkpoints WHERE thread_id = 'chat'"
    tables.rows(golden, f"UPDATE checkpoints SET checkpoint = {value} WHERE checkpoint_id = ({ids})")
    async with opened(kind.ours, golden, serde=serde()) as saver:
        with pytest.raises(MoveError, match="'chat'") as caught:
            await moved(kind, saver, drop=True)
        assert caught.value.report.checkpoints == 49
        assert len(caught.value.report.damaged) >= 1
        assert not caught.value.report.dropped
    assert set(OFFICIAL[kind.backend]) <= tables.tables(golden)


async def test_a_wrong_copy_is_found(kind: Kind, golden: str) -> None:
    async with opened(kind.ours, golden, serde=serde()) as saver:
        await moved(kind, saver)
        tables.rows(golden, "UPDATE dual_checkpoints SET metadata = '{}' WHERE thread_id = 'sends'")
        tables.rows(golden, "DELETE FROM dual_writes WHERE thread_id = 'failed'")
        copied = "SELECT max(checkpoint_id) FROM dual_checkpoints WHERE thread_id = 'nested'"
        column = "CAST(slots AS BLOB)" if kind.backend == "sqlite" else "slots"
        tables.rows(
            golden,
            f"UPDATE dual_checkpoints SET slots = (SELECT {column} FROM dual_checkpoints WHERE thread_id = 'approval' "
            f"LIMIT 1) WHERE checkpoint_id = ({copied})",
        )
        with pytest.raises(MoveError) as caught:
            await moved(kind, saver, drop=True)
        found = " ".join(caught.value.report.differences)
        assert "'sends'" in found
        assert "'nested'" in found
        assert "'failed'" not in found  # its writes were missing, and so were moved again
        assert set(OFFICIAL[kind.backend]) <= tables.tables(golden)


async def test_runs_go_on_meanwhile(kind: Kind, golden: str) -> None:
    total = multiply(kind, golden, 4)
    expected = {}
    async with opened(kind.ours, golden, serde=serde()) as saver, opened(kind.ours, golden, serde=serde()) as mover:
        work = asyncio.create_task(amigrate(mover) if kind.face == "async" else asyncio.to_thread(migrate, mover))
        for thread_id in graphs.CONTINUATIONS:
            expected[thread_id] = await asyncio.to_thread(continued, saver, thread_id)
        await work
        report = await moved(kind, mover, verify=True)
        assert report.differences == []
        for thread_id, state in expected.items():
            build, _ = graphs.CONTINUATIONS[thread_id]
            assert repr(build(saver).get_state(config(thread_id)).values) == state[0]
            same = await asyncio.to_thread(continued, saver, f"3 of {thread_id}", thread_id)
            assert same == state
    assert len(tables.all_rows(golden, "checkpoints")) == total


@pytest.mark.parametrize("kind", BLOCKING, ids=str)
async def test_what_the_official_saver_acknowledges_meanwhile_is_brought_over(kind: Kind, golden: str) -> None:
    multiply(kind, golden, 3)
    acknowledged = []
    async with opened(kind.official, golden) as other, opened(kind.ours, golden, serde=serde()) as saver:
        moving = asyncio.create_task(asyncio.to_thread(_move_again_and_again, saver, 4))
        while not moving.done() or len(acknowledged) < 20:
            thread_id = random.choice(["chat", "2 of chat", "new"])
            at = await asyncio.to_thread(other.get_tuple, config(thread_id))
            made = checkpoint({"topic": f"theirs {len(acknowledged)}"})
            stored = await asyncio.to_thread(
                other.put, at.config if at else config(thread_id), made, metadata(), made["channel_versions"]
            )
            await asyncio.to_thread(other.put_writes, stored, [("topic", len(acknowledged))], "task", "path")
            acknowledged.append((stored, len(acknowledged)))
        await moving
        assert migrate(saver, drop=True).dropped
        for stored, number in acknowledged:
            found = saver.get_tuple(stored)
            assert found.checkpoint["channel_values"] == {"topic": f"theirs {number}"}
            assert found.pending_writes == [("task", "topic", number)]


def _move_again_and_again(saver: Any, times: int) -> None:
    for _ in range(times):
        migrate(saver)


@pytest.mark.parametrize("kind", BLOCKING, ids=str)
async def test_several_at_once_share_the_work(kind: Kind, golden: str) -> None:
    total = multiply(kind, golden, 6)
    savers = [kind.ours(golden, serde=serde()) for _ in range(3)]
    try:
        reports = await asyncio.gather(*(asyncio.to_thread(migrate, saver) for saver in savers))
        assert sum(report.checkpoints for report in reports) == total
        assert counted(kind, golden) == (total, len(tables.all_rows(golden, OFFICIAL[kind.backend][-1])))
        assert migrate(savers[0], verify=True).verified == total
    finally:
        for saver in savers:
            saver.close()


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("kind", BLOCKING, ids=str)
async def test_killed_at_any_moment_it_goes_on(kind: Kind, golden: str) -> None:
    total = multiply(kind, golden, 2 * KILLS + 2)
    before = official_rows(kind, golden)
    expected = await reference(kind, golden)
    for _ in range(KILLS):
        await asyncio.to_thread(_killed, kind, golden, random.randint(1, 40))
        there, _ = counted(kind, golden)
        assert there <= total
    async with opened(kind.ours, golden, serde=serde()) as saver:
        assert await answers(faced(saver, kind.face)) == expected
        assert migrate(saver).there == there
    assert counted(kind, golden) == (total, len(before[-1]))
    assert official_rows(kind, golden) == before
    async with opened(kind.ours, golden, serde=serde()) as saver:
        assert migrate(saver, drop=True).verified == total
        assert await answers(faced(saver, kind.face)) == expected


def _killed(kind: Kind, database: str, lines: int) -> None:
    """Start a move and kill it after it has said so many lines."""
    with Process("-m", "tests.support.migrate_worker", kind.name, database, warnings="ignore") as worker:
        for _ in range(lines):
            assert worker.stdout.readline() != "done\n"
        worker.kill()


async def test_copies_of_official_threads(kind: Kind, golden: str) -> None:
    async with opened(kind.ours, golden, serde=serde()) as saver:
        subject = faced(saver, kind.face)
        for thread_id in ("chat", "fork", "nested", "deltas", "failed"):
            at = (await subject.aget_tuple(config(thread_id))).config
            if thread_id == "chat":  # now it is in both
                await put(subject, at, {**(await subject.aget_tuple(at)).checkpoint["channel_values"]})
            before = official_rows(kind, golden)
            await subject.acopy_thread(thread_id, f"copy of {thread_id}")
            assert official_rows(kind, golden) == before
            original = await listed(subject, config(thread_id))
            copied = await listed(subject, config(f"copy of {thread_id}"))
            assert [_anonymous(found) for found in copied] == [_anonymous(found) for found in original]
            with suppress(KeyError):
                if kind.face == "blocking":
                    assert continued(saver, f"copy of {thread_id}", thread_id) == continued(saver, thread_id)
        await settle(subject.adelete_thread("chat"))
        assert await listed(subject, config("copy of chat"))


def _anonymous(found: Any) -> Any:
    places = [found.config["configurable"], (found.parent_config or {"configurable": {}})["configurable"]]
    return [{**place, "thread_id": None} for place in places], found.checkpoint, found.metadata, found.pending_writes
