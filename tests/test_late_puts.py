"""Deleted stays deleted: what a run puts after its thread was deleted does not bring the thread back."""

from __future__ import annotations

import asyncio
import logging
import operator
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_checkpoint_dual.errors import ConfigError, DeletedError
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import Kind, faced, opened
from tests.support.tables import all_rows, counts, rows

ALL = {"configurable": {"thread_id": "thread"}}


def left(database: str) -> dict[str, int]:
    """Rows of every table that holds anything of a thread."""
    return {name: count for name, count in counts(database).items() if count and "tombstones" not in name}


async def run_of(saver: Any, steps: int = 2, values: Any = None) -> Any:
    """A run under way; the config of its latest checkpoint."""
    at = config()
    for step in range(steps):
        at = await put(
            saver, at, values or {"messages": [f"message {n} " * 20 for n in range(step + 1)], "count": step}
        )
    return at


class TestLate:
    @pytest.mark.parametrize("values", [None, {"count": 1}], ids=["items", "inline"])
    async def test_a_put_and_all_that_hangs_on_it(
        self, subject: Any, database: str, caplog: pytest.LogCaptureFixture, values: Any
    ) -> None:
        at = await run_of(subject, values=values)
        await subject.adelete_thread("thread")
        with caplog.at_level(logging.WARNING, "langgraph_checkpoint_dual"):
            for step in range(3):  # the run knows nothing of it and goes on
                await subject.aput_writes(at, [("messages", "late")], f"task {step}")
                at = await put(subject, at, values or {"messages": ["late " * 50], "count": step})
        assert left(database) == {}
        assert await listed(subject, ALL) == []
        assert await subject.aget_tuple(config()) is None
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        warnings = [line for line in warnings if not line.startswith("slow: ")]  # on a machine with much to do
        assert len(warnings) == 6
        assert all("thread was deleted" in message for message in warnings)

    async def test_raised_if_so_configured(self, kind: Kind, database: str, face: str) -> None:
        async with opened(kind.ours, database, late="raise") as saver:
            subject = faced(saver, face)
            at = await run_of(subject)
            await subject.adelete_thread("thread")
            with pytest.raises(DeletedError, match="'thread' was deleted"):
                await subject.aput_writes(at, [("messages", "late")], "task")
            for _ in range(2):
                with pytest.raises(DeletedError) as raised:
                    await put(subject, at, {"count": 1})
            assert raised.value.thread_id == "thread"
            assert left(database) == {}

    async def test_a_subgraph_that_begins_late(self, subject: Any, database: str) -> None:
        root = (await run_of(subject))["configurable"]["checkpoint_id"]
        await subject.adelete_thread("thread")
        child = await put(subject, config(checkpoint_ns="child:1"), {"x": [1] * 100}, parents={"": root})
        await subject.aput_writes(child, [("x", 1)], "task")
        await put(subject, child, {"x": [1] * 100}, parents={"": root})
        assert left(database) == {}

    async def test_from_another_process(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database) as running, opened(kind.ours, database) as other:
            at = await run_of(running)
            await other.adelete_thread("thread")
            for _ in range(2):
                await running.aput_writes(at, [("messages", "late")], "task")
                at = await put(running, at, {"messages": ["late " * 50] * 3})
        assert left(database) == {}

    async def test_a_new_conversation_under_the_same_id(self, subject: Any, database: str) -> None:
        late = await run_of(subject)
        await subject.adelete_thread("thread")
        fresh = await run_of(subject, 3)
        late = await put(subject, late, {"messages": ["late " * 50]})
        await put(subject, late, {"messages": ["late " * 50]})
        await subject.aput_writes(fresh, [("messages", "new")], "task")
        head = await subject.aget_tuple(config())
        assert head.config == fresh
        assert head.checkpoint["channel_values"]["count"] == 2
        assert head.pending_writes == [("task", "messages", "new")]
        assert len(await listed(subject, ALL)) == 3

    async def test_writes_before_their_checkpoint_in_a_new_conversation(self, subject: Any) -> None:
        await run_of(subject)
        await subject.adelete_thread("thread")
        made = checkpoint({"count": 1})
        at = config(checkpoint_id=made["id"])
        await subject.aput_writes(at, [("count", 2)], "task")
        await subject.aput(config(), made, metadata(), made["channel_versions"])
        assert (await subject.aget_tuple(config())).pending_writes == [("task", "count", 2)]

    async def test_prune_and_runs_deleted_are_no_deletion_of_the_thread(self, subject: Any) -> None:
        first = await put(subject, config(), {"count": 1}, run_id="r1")
        second = await put(subject, first, {"count": 2}, run_id="r2")
        await subject.aprune(["thread"])
        forked = await put(subject, first, {"count": 3}, run_id="r3")
        assert (await subject.aget_tuple(forked)).checkpoint["channel_values"] == {"count": 3}
        await subject.adelete_for_runs(["r2", "r3"])
        await put(subject, second, {"count": 4})
        assert (await subject.aget_tuple(config())).checkpoint["channel_values"] == {"count": 4}

    async def test_prune_with_delete_is(self, subject: Any, database: str) -> None:
        at = await run_of(subject)
        await subject.aprune(["thread"], strategy="delete")
        await put(subject, at, {"count": 1})
        assert left(database) == {}

    async def test_what_remembers_deleted_threads_is_removed_in_time(self, subject: Any, database: str) -> None:
        await run_of(subject)
        await subject.adelete_thread("thread")
        [(thread_id, _, deleted_at)] = all_rows(database, "dual_tombstones")
        assert thread_id == "thread"
        week = 7 * 24 * 3600 * 10**6
        rows(database, f"UPDATE dual_tombstones SET deleted_at = {deleted_at - week - 60 * 10**6}")
        await put(subject, config("other"), {"count": 1})
        await subject.adelete_thread("other")
        assert [row[0] for row in all_rows(database, "dual_tombstones")] == ["other"]

    def test_unknown_setting(self, kind: Kind, database: str) -> None:
        with pytest.raises(ConfigError, match="drop, raise"):
            kind.ours(database, late="ignore")


class State(TypedDict):
    steps: Annotated[list[str], operator.add]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_of_a_real_run(saver: Any, database: str, durability: Any) -> None:
    async def work(state: State) -> State:
        if state["steps"][-1] == "delete":
            await saver.adelete_thread("thread")
        return {"steps": ["step " * 20]}

    graph = StateGraph(State).add_node("work", work).add_edge(START, "work")
    graph.add_conditional_edges("work", lambda state: END if len(state["steps"]) % 5 == 0 else "work")
    app = graph.compile(checkpointer=saver)
    await app.ainvoke({"steps": ["old"]}, ALL)
    await app.ainvoke({"steps": ["delete"]}, ALL, durability=durability)
    assert left(database) == {}, "a run that began before its thread was deleted left something"
    await app.ainvoke({"steps": ["new"]}, ALL)
    assert (await app.aget_state(ALL)).values["steps"][0] == "new"


async def test_puts_that_race_with_the_deletion(kind: Kind, database: str) -> None:
    """Whatever was first: once the deletion has returned and the puts have, nothing of the old run is there."""
    async with opened(kind.ours, database) as one, opened(kind.ours, database) as other:
        for _ in range(12):
            at = await run_of(one)

            async def go_on(at: Any = at) -> None:
                for step in range(6):
                    await one.aput_writes(at, [("messages", "racing")], f"task {step}")
                    at = await put(one, at, {"messages": ["racing " * 20] * step, "count": step})

            running = asyncio.create_task(go_on())
            await asyncio.sleep(0)
            await other.adelete_thread("thread")
            await running
            assert left(database) == {}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("writes", [False, True])
async def test_a_put_that_waited_for_the_deletion(postgres_uri: str, writes: bool, together: bool) -> None:
    """It began before the deletion was committed, so it does not see it; the rows that it would lock tell."""
    from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver

    async with AsyncPostgresSaver(postgres_uri, max_size=4) as saver:
        heads = {name: await put(saver, config(name), {"count": 1}) for name in ("thread", "other")}
        late = [heads["thread"], *([heads["other"]] if together else [])]  # by one statement
        lock = saver._engine._dialect["lock_thread"]
        async with await psycopg.AsyncConnection.connect(postgres_uri) as holder:
            await holder.execute(lock, {"thread_id": "thread"})  # the deletion has its lock
            waiting = asyncio.gather(
                *(
                    saver.aput_writes(at, [("count", 1)], "task") if writes else put(saver, at, {"count": 2})
                    for at in late
                )
            )
            while not rows(  # noqa: ASYNC110 (another session's lock has no event)
                postgres_uri, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ):
                await asyncio.sleep(0)
            delete = saver._engine._dialect["delete_thread"]
            await holder.execute(delete, {"thread_id": "thread", "at": 10**15, "expired": 0})
            await holder.commit()
            await waiting
        stored = await saver.aget_tuple(config("other"))
        await saver.adelete_thread("other")
    assert stored is not None
    assert (len(stored.pending_writes or []), stored.checkpoint["channel_values"]) == (
        (int(together), {"count": 1}) if writes else (0, {"count": 1 + together})
    )
    assert left(postgres_uri) == {}


@pytest.mark.parametrize("together", [False, True])
async def test_what_a_put_hangs_on_is_not_written_to(postgres_uri: str, together: bool) -> None:
    """Postgres keeps a lock of a row in the row. Where somebody has locked it, it is still found to be there."""
    from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver

    threads = ["thread", *(["other"] if together else [])]

    async def go_on(saver: Any, heads: list[Any]) -> list[Any]:
        await asyncio.gather(*(saver.aput_writes(at, [("count", 1)], "task") for at in heads))
        return await asyncio.gather(*(put(saver, at, {"text": ["long " * 100]}) for at in heads))

    async with AsyncPostgresSaver(postgres_uri, max_size=1) as saver:
        heads = await go_on(saver, [await put(saver, config(name), {"text": ["long " * 100]}) for name in threads])
        assert rows(postgres_uri, "SELECT DISTINCT xmax::text FROM dual_checkpoints") == [("0",)]
        with psycopg.connect(postgres_uri) as somebody:
            somebody.execute("SELECT FROM dual_checkpoints FOR UPDATE")
        await go_on(saver, heads)
    assert rows(postgres_uri, "SELECT count(*) FROM dual_checkpoints") == [(3 * len(threads),)]
    assert rows(postgres_uri, "SELECT count(*) FROM dual_writes") == [(2 * len(threads),)]
