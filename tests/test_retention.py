"""What goes and what stays: `history="latest"`, retention policies, and the space that is given back."""

from __future__ import annotations

import asyncio
import itertools
import json
import operator
import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import aiosqlite
import psycopg
import pytest
from langchain_core.messages import HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langgraph_checkpoint_dual import AsyncPostgresSaver, AsyncSqliteSaver, PostgresSaver, Retention, SqliteSaver
from langgraph_checkpoint_dual.core import retention
from langgraph_checkpoint_dual.core.inspection import doctor
from langgraph_checkpoint_dual.core.retention import Progress
from langgraph_checkpoint_dual.errors import BusyError, CheckpointerError, ConfigError, DecodeError, StaleHeadError
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.graphs import (
    appended,
    asking,
    chat,
    deltas,
    fan_out,
    functional,
    jumping,
    nested,
    parallel_deltas,
    rare_deltas,
    said,
)
from tests.support.runs import Session, place, thread
from tests.support.savers import KINDS, Kind, opened
from tests.support.tables import counts, is_postgres, named_rows, rows


async def talk(session: Session) -> None:
    for turn in range(4):
        await session.run(said(f"turn {turn}"))
    await session.state()
    await session.update(thread(), {"turns": 10})
    await session.run(said("and on"))
    await session.state()


async def answer_questions(session: Session) -> None:
    for _ in range(2):
        await session.run({"asked": ["start"]})
        await session.state()
        await session.run(Command(resume="ann"))
        await session.state()
        await session.run(Command(resume=41))
        await session.state()
        await session.run(None)
        await session.state()


async def answer_inside_of_subgraphs(session: Session) -> None:
    for turn in ("one", "two", "three"):
        await session.run({"log": [turn]}, subgraphs=True)
        found = await session.state(subgraphs=True)
        if turn != "two":
            inside = found.tasks[0].state.config  # type: ignore[union-attr]
            await session.update(inside, {"log": ["by hand"]})
        await session.run(Command(resume=turn), subgraphs=True)
        await session.state(subgraphs=True)
    await session.run({"log": ["left waiting"]})
    await session.run({"log": ["asked anew"]})
    await session.run(Command(resume="anew"))
    await session.state(subgraphs=True)


async def fail_and_go_on(session: Session) -> None:
    await session.run({"items": list(range(8))}, stream_mode=["values"])
    await session.run(None, stream_mode=["values"])
    await session.state()
    await session.run({"items": [1, 2]}, stream_mode=["values"])
    await session.state()


async def write_deltas(session: Session) -> None:
    for turn in range(9):
        await session.run({"log": [f"turn {turn}"]}, stream_mode=["values"])
        await session.state()
    await session.update(thread(), {"log": ["by hand"]}, as_node="join")
    await session.state()
    await session.run({"log": ["after"]}, stream_mode=["values"])
    await session.state()


async def jump(session: Session) -> None:
    for _ in range(2):
        await session.run({"path": []}, stream_mode=["values"])
        await session.state()


async def work_with_functions(session: Session) -> None:
    for number in (1, 2):
        await session.run(number, stream_mode=["updates"])
        await session.run(Command(resume=100), stream_mode=["updates"])
        await session.state()


class Waiting(TypedDict, total=False):
    item: str
    heard: Annotated[list[str], operator.add]
    notes: Annotated[list[str], DeltaChannel(appended)]


class ManyWaiting(Waiting, total=False):
    items: list[str]


class Answers(TypedDict, total=False):
    heard: Annotated[list[str], operator.add]
    notes: Annotated[list[str], DeltaChannel(appended)]


def waiting(saver: Any) -> Any:
    """Many subgraphs at once, each of which waits for an answer in a subgraph of its own; with a delta channel."""

    def ask(state: Any) -> Any:
        return {"heard": [f"{state['item']}: {interrupt(state['item'])}"], "notes": [state["item"]]}

    inner = StateGraph(Waiting, output_schema=Answers)
    inner.add_node("ask", ask)
    inner.add_node("again", lambda state: {"notes": [f"heard {len(state['heard'])}"]})
    inner.add_edge(START, "ask")
    inner.add_edge("ask", "again")
    middle = StateGraph(Waiting, output_schema=Answers)
    middle.add_node("inner", inner.compile())
    middle.add_edge(START, "inner")
    outer = StateGraph(ManyWaiting)
    outer.add_node("start", lambda state: {"notes": ["start"]})
    outer.add_node("each", middle.compile())
    outer.add_node("end", lambda state: {"notes": ["end"]})
    outer.add_edge(START, "start")
    outer.add_conditional_edges("start", lambda state: [Send("each", {"item": one}) for one in state["items"]])
    outer.add_edge("each", "end")
    return outer.compile(checkpointer=saver)


async def answer_many(session: Session) -> None:
    for turn in ("one", "two"):
        await session.run({"items": ["a", "b", "c"], "notes": [turn]}, stream_mode=["values"])
        for _ in range(3):
            found = await session.state(subgraphs=True)
            [first, *_] = sorted(found.interrupts, key=lambda one: str(one.value))
            await session.run(Command(resume={first.id: "yes"}), stream_mode=["values"])
        await session.state()


PLAYS: dict[str, tuple[Callable[[Any], Any], Callable[[Session], Awaitable[None]]]] = {
    "chat": (chat, talk),
    "interrupts": (asking, answer_questions),
    "subgraphs": (nested, answer_inside_of_subgraphs),
    "many subgraphs": (waiting, answer_many),
    "sends": (fan_out, fail_and_go_on),
    "deltas": (deltas, write_deltas),
    "rare deltas": (rare_deltas, write_deltas),
    "parallel deltas": (parallel_deltas, write_deltas),
    "commands": (jumping, jump),
    "functions": (functional, work_with_functions),
}


WAYS = [("sqlite", "blocking", "exit"), ("sqlite-aio", "async", "async"), ("postgres-aio", "async", "sync")]


def kind_of(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


async def call(saver: Any, face: str, name: str, *arguments: Any, **options: Any) -> Any:
    """A method through either face."""
    if face == "async":
        return await getattr(saver, f"a{name}")(*arguments, **options)
    return await asyncio.to_thread(getattr(saver, name), *arguments, **options)


def stored(database: str, prefix: str = "dual_") -> dict[str, list[str]]:
    """The ids of all checkpoints, by thread and namespace."""
    found: dict[str, list[str]] = {}
    for row in named_rows(database, f"{prefix}checkpoints"):
        found.setdefault(f"{row['thread_id']}/{row['checkpoint_ns']}", []).append(row["checkpoint_id"])
    return {place: sorted(ids) for place, ids in found.items()}


def sizes(database: str) -> int:
    """The bytes of what is stored in checkpoints, items and writes."""
    columns = {
        "checkpoints": ("checkpoint", "slots", "metadata", "metadata_exact"),
        "items": ("data",),
        "writes": ("data",),
    }
    return sum(
        len(row[column] if isinstance(row[column], (str, bytes)) else json.dumps(row[column])) if row[column] else 0
        for table, names in columns.items()
        for row in named_rows(database, f"dual_{table}")
        for column in names
    )


async def ails(saver: Any) -> set[str]:
    """What the doctor finds, but for writes of the last step that came after it."""
    found = await doctor.examine(saver._looping)
    return {finding.kind for finding in found.findings} - {"orphaned writes"}


class TestLatest:
    """`history="latest"`."""

    @pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way))
    @pytest.mark.parametrize("play", PLAYS)
    async def test_runs_and_resumes_as_with_all_history(
        self, play: str, way: tuple[str, str, str], request: pytest.FixtureRequest
    ) -> None:
        name, face, durability = way
        database = request.getfixturevalue("postgres_uri" if "postgres" in name else "sqlite_path")
        build, steps = PLAYS[play]
        records = []
        for history in ("all", "latest"):
            async with opened(kind_of(name).ours, database, history=history, prefix=f"{history}_") as saver:
                session = Session(saver, face, build, durability)
                await steps(session)
                records.append(session.record)
                assert await ails(saver) == set()
        expected, found = records
        assert len(found) == len(expected)
        for at, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert mine == theirs, f"answer {at} of {len(found)}"
        kept = stored(database, "latest_")
        assert len(stored(database, "all_")["thread/"]) >= len(kept["thread/"])
        if "delta" not in play and play != "many subgraphs":
            assert all(len(ids) == 1 for ids in kept.values())
            assert durability == "exit" or not [ns for ns in kept if ":" in ns], "all calls have ended"

    async def test_a_long_chat_is_one_checkpoint(self, kind: Kind, face: str, database: str) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            session = Session(saver, face, chat, "sync")
            for turn in range(5):
                await session.run(said(f"turn {turn}"))
            assert counts(database)["dual_checkpoints"] == 1
            await session.update(thread(), {"turns": 1})  # takes away the writes of the run that came late
            state = await session.state()
            found = counts(database)
            assert (found["dual_checkpoints"], found["dual_writes"]) == (1, 0)
            channels = Counter(row["channel"] for row in named_rows(database, "dual_items"))
            assert channels["messages"] == len(state.values["messages"]) == 20
            thread_of = await call(saver, face, "get_tuple", thread())
            assert thread_of.parent_config is None
            assert saver.threads.get("thread").checkpoints == 1

    async def test_a_waiting_subgraph_stays_until_its_call_has_ended(
        self, kind: Kind, face: str, database: str
    ) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            session = Session(saver, face, nested, "async")
            await session.run({"log": ["one"]})
            waiting_in = stored(database)
            assert [len(ids) for ids in waiting_in.values()] == [1, 1, 1]
            assert sorted(place.count(":") for place in waiting_in) == [0, 1, 2]
            await session.run(Command(resume="yes"))
            assert {place.count(":") for place in stored(database)} == {0}

    async def test_delta_channels_keep_what_they_are_rebuilt_from_and_no_more(self, kind: Kind, database: str) -> None:
        class Rarely(TypedDict, total=False):
            log: Annotated[list[str], DeltaChannel(appended, snapshot_frequency=7)]
            never: Annotated[list[str], DeltaChannel(appended)]

        kept = []
        async with opened(kind.ours, database, history="latest") as saver:
            session = Session(saver, "async", lambda saver: deltas(saver, Rarely), "sync")
            for turn in range(7):
                await session.run({"log": [f"turn {turn}"]})
                kept.append(len(stored(database)["thread/"]))
            assert len((await session.state()).values["log"]) == 28
        assert 3 < max(kept) <= 7 + 1, "the log is stored after seven steps that wrote it, and the other channel never"

    async def test_what_was_there_before_goes_with_the_first_step(self, kind: Kind, face: str, database: str) -> None:
        for history, turns in (("all", ("one", "two")), ("latest", ("three",))):
            async with opened(kind.ours, database, history=history) as saver:
                session = Session(saver, face, nested, "sync")
                for turn in turns:
                    await session.run({"log": [turn]})
                    await session.run(Command(resume=turn))
        assert {place.count(":") for place in stored(database)} == {0}
        assert [len(ids) for ids in stored(database).values()] == [1, 1]

    async def test_two_branches_go_on_side_by_side(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            root = await put(saver, config(), {"log": words("root")})
            ends = dict.fromkeys("ab", root)
            for step in range(3):
                for name in ends:
                    ends[name] = await put(
                        saver, ends[name], {"log": words("root", *[f"{name}{n}" for n in range(step + 1)])}
                    )
            for name, end in ends.items():
                found = await saver.aget_tuple(end)
                assert found.checkpoint["channel_values"]["log"] == words("root", *[f"{name}{n}" for n in range(3)])
            assert len(stored(database)["thread/"]) == 2
            items = named_rows(database, "dual_items")
            assert len(items) == 4 + 4, "the second branch stored its values anew, once"
            await put(saver, ends["b"], {})
            assert len(await listed(saver, config())) == 2

    async def test_old_ends_of_branches_go_in_the_end(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            root = await put(saver, config(), {"n": 0})
            for number in range(20):
                await put(saver, root, {"n": number})
            where = await saver.aget_tuple(config())
            for number in range(2):
                where = await put(saver, where.config if number == 0 else where, {"n": 100 + number})
            assert len(stored(database)["thread/"]) == 8

    async def test_a_run_that_lost_its_delta_channels_is_refused(self, kind: Kind, database: str) -> None:
        def delta_put(where: Any, values: Any, **counters: Any) -> Any:
            made = checkpoint(values)
            made["channel_versions"]["log"] = f"{1:032}.{0.5:016}"
            extra = {"counters_since_delta_snapshot": counters} if counters else {}
            return saver.aput(where, made, metadata(**extra), {})

        async with opened(kind.ours, database, history="latest") as saver:
            first = await delta_put(config(), {"log": _DeltaSnapshot(["a"])})
            second = await delta_put(first, {}, log=(1, 1))
            quick = await delta_put(second, {"log": _DeltaSnapshot(["a", "b"])})  # ends the history
            with pytest.raises(StaleHeadError, match="load that and go on"):
                await delta_put(second, {}, log=(2, 2))
            assert stored(database) == {"thread/": [quick["configurable"]["checkpoint_id"]]}
            await delta_put(quick, {}, log=(1, 1))

    async def test_writes_that_come_late_go_with_the_next_step(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            first = await put(saver, config(), {"n": 1})
            second = await put(saver, first, {"n": 2})
            await saver.aput_writes(first, [("n", 1)], "late")
            await saver.aput_writes(second, [("n", 2)], "pending")
            third = config(checkpoint_id=str(uuid6()))
            await saver.aput_writes(third, [("n", 3)], "early")
            assert len(named_rows(database, "dual_writes")) == 3
            made = checkpoint({"n": 3}, id=third["configurable"]["checkpoint_id"])
            await saver.aput(second, made, metadata(), {})
            assert [row["task_id"] for row in named_rows(database, "dual_writes")] == ["early"]

    async def test_metadata_that_only_looks_like_langgraphs(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            for extra in ({"parents": {"": 5, "a": None}}, {"parents": 5}, {"counters_since_delta_snapshot": 5}):
                for ns in ("", "a:b", "a:b|c:d"):
                    where = config(checkpoint_ns=ns)
                    for number in range(2):
                        where = await put(saver, where, {"n": number}, **extra)
            await saver.aprune(["thread"])
        assert {place: len(ids) for place, ids in stored(database).items()} == {
            "thread/": 1, "thread/a:b": 1, "thread/a:b|c:d": 1
        }  # fmt: skip

    async def test_a_damaged_checkpoint_stays_and_hinders_nobody(
        self, sqlite_path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened(kind_of("sqlite").ours, sqlite_path, history="latest") as saver:
            first = await put(saver, config(), {"n": 1})
            rows(sqlite_path, "UPDATE dual_checkpoints SET slots = x'00'")
            second = await put(saver, first, {"n": 2})
            assert (await saver.aget_tuple(config())).config == second
        assert len(stored(sqlite_path)["thread/"]) == 2
        assert "older checkpoints stay" in caplog.text

    async def test_runs_at_once_on_one_thread(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database, history="latest") as saver:
            session = Session(saver, "async", chat, "async")
            await session.run(said("first"))
            await asyncio.gather(*(session.run(said(f"turn {turn}")) for turn in range(4)))
            errors = [chunk for kind_, chunks in session.record for chunk in chunks if "error" in repr(chunk)]
            assert not errors
            values = (await session.state()).values
            assert [message.text for message in values["messages"][:1]] == ["first"]
            await session.run(said("last"))
            assert len(stored(database)["thread/"]) <= 8

    async def test_a_thread_that_the_official_saver_left_goes_on(self, kind: Kind, database: str) -> None:
        values = []
        for saver_class, options in ((kind.official, {}), (kind.ours, {"history": "latest"})):
            async with opened(saver_class, database, **options) as saver:
                session = Session(saver, kind.face, rare_deltas, "sync")
                for turn in range(3):
                    await session.run({"log": [f"turn {turn}"]})
                values.append((await session.state()).values)
        assert values[1]["log"][: len(values[0]["log"])] == values[0]["log"]
        assert len(values[1]["log"]) == 2 * len(values[0]["log"]) == 24

    async def test_unknown_history(self, kind: Kind, database: str) -> None:
        with pytest.raises(ConfigError, match="history must be one of all, latest"):
            async with opened(kind.ours, database, history="some"):
                pass


def words(*said_: str) -> list[Any]:
    return [HumanMessage(f"{word} {'x' * 200}", id=word) for word in said_]


LATER = datetime.now(timezone.utc) + timedelta(days=10)


async def fill(saver: Any, *threads: str, steps: int = 5, **extra: Any) -> None:
    """Chats of some steps each."""
    for name in threads:
        where = config(name)
        for step in range(steps):
            where = await put(saver, where, {"log": words(*map(str, range(step + 1)))}, **extra)


class TestRetention:
    async def test_the_last_of_each_namespace_stay(self, saver: Any, face: str, database: str) -> None:
        await fill(saver, "one", "two")
        where = config("one", "child")
        for step in range(4):
            where = await put(saver, where, {"n": step})
        before = stored(database)
        dry = await call(saver, face, "retain", Retention(keep_last=3), dry_run=True)
        assert stored(database) == before
        size = sizes(database)
        removed = await call(saver, face, "retain", Retention(keep_last=3))
        assert removed == dry
        assert (removed.threads, removed.checkpoints) == (0, 2 + 2 + 1)
        assert stored(database) == {place: ids[-3:] for place, ids in before.items()}
        assert 0.9 < removed.bytes / (size - sizes(database)) < 1.1
        assert await call(saver, face, "retain", Retention(keep_last=3)) == (0, 0, 0)
        history = await listed(saver, config("one", ""))
        assert [found.parent_config for found in history[:-1]] == [found.config for found in history[1:]]
        assert history[-1].parent_config is None
        assert history[0].checkpoint["channel_values"]["log"] == words(*map(str, range(5)))

    async def test_age_spares_the_latest(self, saver: Any, face: str, database: str) -> None:
        await fill(saver, "thread")
        await put(saver, config("thread"), {"n": 1}, step=7)
        own = await saver.aput(config("own ids"), checkpoint({}, id="not a uuid"), metadata(), {})
        assert await call(saver, face, "retain", Retention(max_age=timedelta(days=11)), now=LATER) == (0, 0, 0)
        removed = await call(saver, face, "retain", Retention(max_age=timedelta(days=9)), now=LATER)
        assert removed.checkpoints == 5
        await saver.aput(own, checkpoint({}, id="or a uuid"), metadata(), {})
        assert await call(saver, face, "retain", Retention(max_age=timedelta(days=9)), now=LATER) == (0, 0, 0)
        assert {place: len(ids) for place, ids in stored(database).items()} == {"thread/": 1, "own ids/": 2}

    async def test_idle_threads_go_and_pinned_ones_stay(self, saver: Any, face: str, database: str) -> None:
        await fill(saver, "idle", "pinned", "of bob", steps=2)
        await saver.threads.aupdate("pinned", metadata={"pinned": True})
        await saver.threads.aupdate("of bob", user_id="bob")
        await saver.threads.aregister("empty")
        policy = Retention(max_idle=timedelta(days=9))
        assert await call(saver, face, "retain", policy) == (0, 0, 0)
        dry = await call(saver, face, "retain", policy, now=LATER, dry_run=True)
        assert (dry.threads, dry.checkpoints) == (3, 4)
        gone = await call(saver, face, "retain", policy, now=LATER, user_id="bob")
        assert (gone.threads, gone.checkpoints) == (1, 2)
        gone = await call(saver, face, "retain", policy, now=LATER, thread_ids=["idle", "pinned", "unknown"])
        assert (gone.threads, gone.checkpoints) == (1, 2)
        gone = await call(saver, face, "retain", policy, now=LATER)
        assert gone == (1, 0, 0)
        assert {thread.thread_id for thread in (await saver.threads.alist()).threads} == {"pinned"}
        assert await call(saver, face, "retain", Retention(keep_last=1)) == (0, 0, 0)
        gone = await call(saver, face, "retain", Retention(max_idle=timedelta(days=9), exempt=None), now=LATER)
        assert (gone.threads, gone.checkpoints) == (1, 2)
        assert not stored(database)

    async def test_other_exemptions(self, saver: Any, face: str) -> None:
        await fill(saver, "gold", "none", steps=2)
        await saver.threads.aupdate("gold", metadata={"plan": {"name": "gold", "since": 2020}})
        spared = Retention(keep_last=1, exempt={"plan": {"name": "gold"}})
        assert (await call(saver, face, "retain", spared)).checkpoints == 1
        assert (
            await call(saver, face, "retain", Retention(keep_last=1, exempt={"plan": {"name": "silver"}}))
        ).checkpoints

    async def test_progress_and_pages(
        self, saver: Any, face: str, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "_PAGE", 2)
        names = [f"thread {number}" for number in range(5)]
        await fill(saver, *names, steps=2)
        seen: list[Progress] = []
        removed = await call(saver, face, "retain", Retention(keep_last=1), on_progress=seen.append)
        assert [(one.done, one.total, one.thread_id) for one in seen] == [
            (number, 5, name) for number, name in enumerate(names, 1)
        ]
        assert seen[-1].removed == removed
        assert removed.checkpoints == 5
        assert all(len(ids) == 1 for ids in stored(database).values())

    async def test_two_at_once_do_no_harm(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database) as saver, opened(kind.ours, database) as other:
            await fill(saver, *(f"t{number}" for number in range(8)))
            removed = await asyncio.gather(*(one.aretain(Retention(keep_last=2)) for one in (saver, other)))
            assert sum(one.checkpoints for one in removed) == 8 * 3
            assert {len(ids) for ids in stored(database).values()} == {2}
            assert await ails(saver) == set()

    async def test_a_damaged_thread_stays_and_hinders_no_other(self, saver: Any, face: str, database: str) -> None:
        await fill(saver, "a", "b", "c")
        rows(database, "UPDATE dual_checkpoints SET slots = checkpoint WHERE thread_id = 'b'")
        with pytest.raises(DecodeError, match="thread_id 'b'"):
            await call(saver, face, "retain", Retention(keep_last=1))
        assert {place: len(ids) for place, ids in stored(database).items()} == {"a/": 1, "b/": 5, "c/": 1}

    async def test_a_thread_that_is_used_meanwhile_stays(self, saver: Any, database: str) -> None:
        await fill(saver, "a", "b", "c", steps=1)
        rows(database, "UPDATE dual_threads SET updated_at = 0")

        def use(progress: Progress) -> None:
            if progress.thread_id == "a":
                made = checkpoint({})
                saver.put(config("b"), made, metadata(), {})
                saver.threads.update("c", metadata={"pinned": True})

        removed = await saver.aretain(Retention(max_idle=timedelta(days=1)), on_progress=use)
        assert removed.threads == 1
        assert {place: len(ids) for place, ids in stored(database).items()} == {"b/": 2, "c/": 1}

    async def test_what_the_progress_raises_ends_the_work(self, saver: Any, face: str, database: str) -> None:
        await fill(saver, "a", "b", steps=2)

        def stop(progress: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            saver.retain(Retention(keep_last=1), on_progress=stop)
        assert {place: len(ids) for place, ids in stored(database).items()} == {"a/": 1, "b/": 2}

    @pytest.mark.parametrize("build", [deltas, nested, asking])
    async def test_runs_go_on(self, kind: Kind, database: str, build: Any) -> None:
        """What is kept can be resumed, by the same answers as if nothing had gone."""
        given: dict[str, Any] = {"log": ["x"], "asked": ["x"]}
        records = []
        async with opened(kind.ours, database) as saver:
            for name in ("whole", "pruned"):
                session = Session(saver, "async", build, "sync")
                for turn in range(5):
                    await session.run(given, thread(name))
                    if turn % 2:
                        await session.run(Command(resume="yes"), thread(name))
                    if name == "pruned":
                        await saver.aretain(Retention(keep_last=turn + 1), thread_ids=["pruned"])
                await session.state(thread(name), subgraphs=True)
                await session.run(Command(resume="yes"), thread(name))
                await session.state(thread(name), subgraphs=True)
                records.append(session.record)
            assert await ails(saver) == set()
            whole, pruned = [await listed(saver, thread(name)) for name in ("whole", "pruned")]
        assert records[0] == records[1]
        assert len(pruned) < len(whole)

    @pytest.mark.parametrize("build", [deltas, nested])
    async def test_prune_beside_a_running_graph(self, kind: Kind, database: str, build: Any) -> None:
        """Another saver prunes the thread again and again, while the graph runs: the answers stay the same."""
        given: dict[str, Any] = {"log": ["x"], "asked": ["x"]}
        records, ended = [], asyncio.Event()

        async def prune(other: Any) -> int:
            for number in itertools.count(1):
                await other.aprune(["pruned"])
                if ended.is_set():
                    return number
            raise AssertionError

        async with opened(kind.ours, database) as saver, opened(kind.ours, database) as other:
            pruning = asyncio.create_task(prune(other))
            for name in ("whole", "pruned"):
                session = Session(saver, "async", build, "sync")
                for _ in range(4):
                    await session.run(given, thread(name))
                    await session.run(Command(resume="yes"), thread(name))
                await session.state(thread(name), subgraphs=True)
                records.append(session.record)
            ended.set()
            assert await pruning > 1
            whole, pruned = [await listed(saver, thread(name)) for name in ("whole", "pruned")]
            assert await ails(saver) == set()
        assert records[0] == records[1]
        assert len(pruned) < len(whole)

    async def test_subgraphs_stay_with_the_checkpoints_that_called_them(self, saver: Any, face: str) -> None:
        session = Session(saver, "async", nested, "sync")
        for turn in ("one", "two", "three"):
            await session.run({"log": [turn]})
            await session.run(Command(resume=turn))
        interrupted = [one for one in await session.history() if one.interrupts]
        await call(saver, face, "retain", Retention(keep_last=6))
        kept = {found.config["configurable"]["checkpoint_id"] for found in await listed(saver, config())}
        calls = {
            found.metadata["parents"][""]
            for found in await listed(saver, thread())
            if ":" in found.config["configurable"]["checkpoint_ns"]
        }
        assert calls == {place(one.config) for one in interrupted} & kept
        assert 0 < len(calls) < 3

    @pytest.mark.parametrize(
        "rules",
        [
            {},
            {"keep_last": 0},
            {"keep_last": True},
            {"keep_last": 1.5},
            {"max_age": 7},
            {"max_idle": timedelta(days=-1)},
            {"keep_last": 1, "exempt": {1: 2}},
            {"keep_last": 1, "exempt": ["pinned"]},
        ],
    )
    def test_rules_that_cannot_be_meant(self, rules: Any) -> None:
        with pytest.raises(ConfigError):
            Retention(**rules)

    async def test_arguments_that_cannot_be_meant(self, saver: Any, face: str) -> None:
        policy = Retention(keep_last=1)
        for arguments, options in (
            (("keep_latest",), {}),
            ((policy,), {"thread_ids": "thread"}),
            ((policy,), {"thread_ids": [None]}),
            ((policy,), {"status": "asleep"}),
            ((policy,), {"now": "today"}),
        ):
            with pytest.raises(ConfigError):
                await call(saver, face, "retain", *arguments, **options)


def file_size(path: str) -> int:
    return sum(os.path.getsize(f"{path}{end}") for end in ("", "-wal"))


class TestVacuum:
    async def test_space_is_given_back(self, saver: Any, face: str, database: str) -> None:
        for name in ("stays", "goes"):
            await put(saver, config(name), {"blob": [secrets.token_bytes(100_000) for _ in range(20)]})
        await call(saver, face, "vacuum", full=True)
        await saver.adelete_thread("goes")
        found = await call(saver, face, "vacuum", full=True)
        assert found.freed == found.before - found.after > 1_500_000
        assert found.after > 2_000_000
        if not is_postgres(database):
            assert found.after == file_size(database)
        assert len((await saver.aget_tuple(config("stays"))).checkpoint["channel_values"]["blob"]) == 20
        again = await call(saver, face, "vacuum")
        assert again.freed < 100_000

    def test_in_memory(self) -> None:
        with SqliteSaver(":memory:") as saver:
            assert saver.vacuum().after > 0

    async def test_connections_of_the_user(self, sqlite_path: str, postgres_uri: str) -> None:
        with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
            saver = SqliteSaver(connection)
            saver.setup()
            assert saver.vacuum().after > 0
            connection.execute("INSERT INTO dual_tombstones VALUES ('t', 'c', 0)")
            with pytest.raises(ConfigError, match="commit or roll back"):
                saver.vacuum()
            assert connection.in_transaction
        async with aiosqlite.connect(sqlite_path) as theirs:
            both = AsyncSqliteSaver(theirs)
            assert (await both.avacuum()).after > 0
            assert both.vacuum().after > 0
        for autocommit in (True, False):
            with psycopg.connect(postgres_uri, autocommit=autocommit) as conn:
                postgres = PostgresSaver(conn)
                postgres.setup()
                if autocommit:
                    assert postgres.vacuum().after > 0
                else:
                    with pytest.raises(ConfigError, match="autocommit=True"):
                        postgres.vacuum()
            async with await psycopg.AsyncConnection.connect(postgres_uri, autocommit=autocommit) as aconn:
                apostgres = AsyncPostgresSaver(aconn)
                if autocommit:
                    assert (await apostgres.avacuum()).after > 0
                else:
                    with pytest.raises(ConfigError, match="autocommit=True"):
                        await apostgres.avacuum()
                apostgres.close()

    def test_a_role_without_the_right_is_told(self, postgres_uri: str) -> None:
        with PostgresSaver(postgres_uri) as owner:
            owner.setup()
        role = f"reader_{secrets.token_hex(4)}"
        grants = f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
        rows(postgres_uri, grants)
        try:
            with psycopg.connect(postgres_uri, autocommit=True) as conn:
                conn.execute(f"SET ROLE {role}")
                with pytest.raises(CheckpointerError, match="permission denied"):
                    PostgresSaver(conn).vacuum()
        finally:
            rows(postgres_uri, f"DROP OWNED BY {role}; DROP ROLE {role}")

    def test_a_file_that_others_keep_locked(self, sqlite_path: str) -> None:
        with SqliteSaver(sqlite_path, timeout=0.05) as saver, closing(sqlite3.connect(sqlite_path)) as other:
            saver.setup()
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BusyError):
                saver.vacuum()
            other.rollback()
            assert saver.vacuum().after > 0
