"""A policy that is attached to a saver: `retention=Retention(...)`."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from langgraph.types import Command

from langgraph_checkpoint_dual import CheckpointerConfig, PostgresSaver, Retention, SqliteSaver, aopen_saver, open_saver
from langgraph_checkpoint_dual.core import keeping
from langgraph_checkpoint_dual.errors import ConfigError
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.graphs import asking, chat, deltas, nested, said
from tests.support.runs import Session, thread
from tests.support.savers import Kind, faced, opened
from tests.support.tables import rows
from tests.test_retention import ails, fill, stored, words

INTERVAL = 16
"""After so many puts of a process at the latest a thread is looked at, if it keeps few checkpoints."""


def old_id(days: int) -> str:
    """An id as LangGraph makes them, of some days ago."""
    ticks = 0x01B21DD213814000 + int((time.time() - 86_400 * days) * 10**7)
    return str(UUID(int=(ticks >> 12) << 80 | 6 << 76 | (ticks & 0xFFF) << 64 | 1 << 63 | secrets.randbits(62)))


async def test_about_so_many_stay(kind: Kind, face: str, database: str) -> None:
    async with opened(kind.ours, database) as other:
        await fill(other, "other", steps=30)
    async with opened(kind.ours, database, retention=Retention(keep_last=5)) as saver:
        driven = faced(saver, face)
        places = [config(), config(checkpoint_ns="child")]
        most = 0
        for step in range(50):
            places = [await put(driven, where, {"log": words(str(step)), "step": step}) for where in places]
            most = max(most, *(len(ids) for name, ids in stored(database).items() if name.startswith("thread/")))
        kept = stored(database)
        assert most <= 5 + INTERVAL
        for name, where in zip(("thread/", "thread/child"), places, strict=True):
            assert kept[name][-1] == where["configurable"]["checkpoint_id"]
            assert 5 <= len(kept[name]) <= 5 + INTERVAL
            found = await driven.aget_tuple(where)
            assert found.checkpoint["channel_values"] == {"log": words("49"), "step": 49}
        assert len(kept["other/"]) == 30, "nobody put to it"
        assert await ails(saver) == set()


async def test_pinned_threads_stay(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, retention=Retention(keep_last=1)) as saver:
        await saver.threads.aregister("pinned", metadata={"pinned": True})
        await fill(saver, "pinned", "thread", steps=40)
        assert {name: len(ids) > INTERVAL + 1 for name, ids in stored(database).items()} == {
            "pinned/": True,
            "thread/": False,
        }


async def test_old_checkpoints_go(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, retention=Retention(max_age=timedelta(days=7))) as saver:
        where = config()
        for days in (30, 20, 10, 5):
            made = checkpoint({"days": days}, id=old_id(days))
            where = await saver.aput(where, made, metadata(), made["channel_versions"])
        for step in range(INTERVAL):
            where = await put(saver, where, {"step": step})
        kept = [found.checkpoint["channel_values"] for found in await listed(saver, config())]
        assert kept[-1] == {"days": 5}
        assert len(kept) == INTERVAL + 1


async def test_appended_messages_count(kind: Kind, face: str, database: str) -> None:
    async with opened(kind.ours, database, retention=Retention(keep_last=2)) as saver:
        chat_ = saver.messages("thread")
        for number in range(40):
            if face == "async":
                await chat_.aappend(f"message {number}")
            else:
                chat_.append(f"message {number}")
        assert len(stored(database)["thread/"]) <= 2 + INTERVAL
        assert [message.text for message in chat_.last(2)] == ["message 38", "message 39"]
        assert chat_.count() == 40


@pytest.mark.parametrize("build", [deltas, nested, asking])
async def test_runs_resume_and_travel_as_without(kind: Kind, database: str, build: Any) -> None:
    """Interrupts, answers, and a fork from an earlier checkpoint among those that are kept."""
    given: dict[str, Any] = {"log": ["x"], "asked": ["x"]}
    records, numbers = [], []
    for prefix, options in (("whole_", {}), ("kept_", {"retention": Retention(keep_last=4)})):
        async with opened(kind.ours, database, prefix=prefix, **options) as saver:
            session = Session(saver, "async", build, "async")
            for _ in range(5 if build is nested else 12):  # the log of nested graphs doubles each time
                await session.run(given)
                await session.run(Command(resume="yes"))
                earlier = await saver.aget_tuple((await session.state(subgraphs=True)).config)
                await session.state(earlier.parent_config)
            await session.run(None, earlier.parent_config)
            await session.state(subgraphs=True)
            await session.run(Command(resume="again"))
            await session.state(subgraphs=True)
            records.append(session.record)
            numbers.append(len(await listed(saver, thread())))
            assert await ails(saver) == set()
    assert records[0] == records[1]
    assert numbers[1] < numbers[0]


async def test_many_at_once(kind: Kind, database: str) -> None:
    """Runs of two savers on the same threads, each with a policy that keeps more than a run's steps."""
    policy = Retention(keep_last=10)
    async with (
        opened(kind.ours, database, retention=policy) as one,
        opened(kind.ours, database, retention=policy) as two,
    ):
        sessions = [Session(saver, "async", chat, "async") for saver in (one, two)]
        for _ in range(6):
            await asyncio.gather(
                *(session.run(said("hello"), thread(name)) for session in sessions for name in ("a", "b"))
            )
        assert "error" not in repr([session.record for session in sessions])
        assert max(len(ids) for ids in stored(database).values()) <= 10 + 2 * INTERVAL
        assert await ails(one) == set()


async def test_what_goes_wrong_fails_no_put(
    kind: Kind, face: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind.ours, database, retention=Retention(keep_last=1)) as saver:
        driven = faced(saver, face)
        where = await put(driven, config(), {"secret": "never told"})
        rows(database, "UPDATE dual_checkpoints SET slots = checkpoint")
        for step in range(2 * INTERVAL):
            where = await put(driven, where, {"step": step})
        assert len(stored(database)["thread/"]) == 1 + 2 * INTERVAL
        assert (await driven.aget_tuple(config())).config == where
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told.count("a saver's retention was not applied after a put, which is stored: DecodeError") >= 2


def test_a_role_that_may_not_delete_can_put(postgres_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with PostgresSaver(postgres_uri) as owner:
        owner.setup()
    role = f"writer_{secrets.token_hex(4)}"
    rows(postgres_uri, f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        with psycopg.connect(postgres_uri, autocommit=True) as conn:
            conn.execute(f"SET ROLE {role}")
            with conn.transaction():  # of the user's, which goes on
                saver, where = PostgresSaver(conn, retention=Retention(keep_last=1)), config()
                for _ in range(INTERVAL + 1):
                    where = saver.put(where, checkpoint({}), metadata(), {})
        assert len(stored(postgres_uri)["thread/"]) == INTERVAL + 1
    finally:
        rows(postgres_uri, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert "retention was not applied" in caplog.text


def test_short_processes_apply_it_too(sqlite_path: str) -> None:
    """Each of these puts one checkpoint: the chance that none of 300 applies the policy is 4 in 10^9."""
    where = config()
    for _ in range(300):
        with SqliteSaver(sqlite_path, synchronous="OFF", retention=Retention(keep_last=1)) as saver:
            where = saver.put(where, checkpoint({}), metadata(), {})
    assert len(stored(sqlite_path)["thread/"]) < 300


async def test_too_many_are_left_to_retain(
    kind: Kind, database: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MOST", 40)
    async with opened(kind.ours, database) as saver:
        await fill(saver, "thread", steps=41)
    policy = Retention(keep_last=1)
    async with opened(kind.ours, database, retention=policy) as saver:
        await fill(saver, "thread", steps=INTERVAL)
        assert len(stored(database)["thread/"]) == 41 + INTERVAL
        assert "call retain()" in caplog.text
        await saver.aretain(policy)
        await fill(saver, "thread", steps=30)  # more stayed than 2 * 16, so it is looked at less often
        assert len(stored(database)["thread/"]) <= 1 + INTERVAL


async def test_counts_are_bounded(kind: Kind, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_THREADS", 4)
    async with opened(kind.ours, database, retention=Retention(keep_last=1)) as saver:
        await fill(saver, *(f"thread {number}" for number in range(10)), steps=2)
        assert len(saver._keeper._left) <= 4


async def test_by_url_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/chats.db"
    monkeypatch.setenv("CHECKPOINTER_URL", url)
    monkeypatch.setenv("CHECKPOINTER_RETENTION", json.dumps({"keep_last": 2, "max_age": "P7D", "exempt": None}))
    settings = CheckpointerConfig()
    assert settings.retention == Retention(keep_last=2, max_age=timedelta(days=7), exempt=None)
    with settings.create() as saver:
        await fill(saver, "by settings", steps=40)
    with open_saver(url, retention=Retention(keep_last=2)) as saver:
        await fill(saver, "by url", steps=40)
    async with aopen_saver(url, retention=Retention(keep_last=2)) as saver:
        await fill(saver, "awaited", steps=40)
    assert max(len(ids) for ids in stored(f"{tmp_path}/chats.db").values()) <= 2 + INTERVAL


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retention": 20}, "must be a Retention, not a int"),
        ({"retention": Retention(keep_last=1, max_idle=timedelta(days=1))}, "from a cron job"),
        ({"retention": Retention(keep_last=1), "history": "latest"}, "give one of the two"),
    ],
)
async def test_what_cannot_be_meant(kind: Kind, database: str, options: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        async with opened(kind.ours, database, **options):
            pass
