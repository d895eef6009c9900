"""`fence=True`: one writer a thread. Of two that go on from one checkpoint, one wins and the other is told."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_checkpoint_dual.errors import StaleHeadError
from tests.support.checkpoints import config, listed, put
from tests.support.processes import Process
from tests.support.savers import Kind, faced, opened

ALL: Any = {"configurable": {"thread_id": "thread"}}


@pytest.fixture
async def fenced(kind: Kind, database: str, face: str) -> AsyncIterator[Any]:
    async with opened(kind.ours, database, fence=True) as saver:
        yield faced(saver, face)


def id_of(found: Any) -> str:
    return str(found["configurable"]["checkpoint_id"])


class TestFence:
    async def test_the_second_of_two_is_refused(self, fenced: Any) -> None:
        first = await put(fenced, config(), {"x": [1]})
        second = await put(fenced, first, {"x": [1, 2]})
        with pytest.raises(StaleHeadError) as raised:
            await put(fenced, first, {"x": [1, 3]})
        assert (raised.value.parent_id, raised.value.head_id) == (id_of(first), id_of(second))
        assert id_of(first) in str(raised.value)
        assert id_of(second) in str(raised.value)
        with pytest.raises(StaleHeadError, match="began anew"):
            await put(fenced, config(), {"x": [1, 3]})
        assert [one.config for one in await listed(fenced, ALL)] == [second, first]

    async def test_forks_and_updates_are_deliberate(self, fenced: Any) -> None:
        first = await put(fenced, config(), {"x": [1]})
        await put(fenced, first, {"x": [1, 2]})
        for source in ("fork", "update"):
            forked = await put(fenced, first, {"x": [1, 3]}, source=source)
        await put(fenced, forked, {"x": [1, 3, 4]})
        assert len(await listed(fenced, ALL)) == 5

    async def test_each_namespace_has_its_own_head(self, fenced: Any) -> None:
        root = await put(fenced, config(), {"x": [1]})
        child = await put(fenced, config(checkpoint_ns="child:1"), {"x": [1]}, parents={"": id_of(root)})
        await put(fenced, child, {"x": [2]}, parents={"": id_of(root)})
        await put(fenced, root, {"x": [2]})
        with pytest.raises(StaleHeadError, match="child:1"):
            await put(fenced, child, {"x": [2]}, parents={"": id_of(root)})

    async def test_the_same_put_again_is_no_other_writer(self, fenced: Any) -> None:
        first = await put(fenced, config(), {"x": [1] * 100})
        found = await fenced.aget_tuple(first)
        assert await fenced.aput(config(), found.checkpoint, found.metadata, {}) == first

    async def test_off_by_default(self, subject: Any) -> None:
        first = await put(subject, config(), {"x": [1]})
        await put(subject, first, {"x": [1, 2]})
        await put(subject, first, {"x": [1, 3]})
        assert len(await listed(subject, ALL)) == 3

    async def test_several_tasks_race(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database, fence=True) as one, opened(kind.ours, database, fence=True) as other:
            at = await put(one, config(), {"x": [1]})
            for step in range(5):
                racing = (put(saver, at, {"x": [step, n]}) for n in range(4) for saver in (one, other))
                ended = await asyncio.gather(*racing, return_exceptions=True)
                [at] = [one for one in ended if isinstance(one, dict)]
                assert all(isinstance(one, (dict, StaleHeadError)) for one in ended)
            assert len(await listed(one, ALL)) == 6


async def test_two_processes_race(kind: Kind, database: str) -> None:
    """Each goes on from the head as long as it wins; then it loads the head. Every step has one winner."""
    command = ("-m", "tests.support.fence_worker", kind.name, database, "40")
    with Process(*command) as first, Process(*command) as second:
        won = [int(one.communicate()[0]) for one in (first, second)]
        assert [one.wait() for one in (first, second)] == [0, 0]
    async with opened(kind.ours, database) as saver:
        history = await listed(saver, ALL)
        parents = [id_of(one.parent_config) for one in history if one.parent_config]
        assert len(parents) == len(set(parents)) == len(history) - 1, "a checkpoint has two children"
        assert len(history) == sum(won)
        head = await saver.aget_tuple(ALL)
        assert len(head.checkpoint["channel_values"]["steps"]) == len(history)


class State(TypedDict):
    steps: Annotated[list[str], operator.add]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_graphs_run_and_travel_in_time(kind: Kind, database: str, durability: Any) -> None:
    async def work(state: State) -> State:
        return {"steps": [f"step {len(state['steps'])}"]}

    graph = StateGraph(State).add_node("a", work).add_node("b", work)
    graph.add_edge(START, "a").add_edge("a", "b").add_edge("b", END)
    async with opened(kind.ours, database, fence=True) as saver:
        app = graph.compile(checkpointer=saver)
        for _ in range(2):
            await app.ainvoke({"steps": ["in"]}, ALL, durability=durability)
        history = [one async for one in app.aget_state_history(ALL)]
        await app.ainvoke(None, history[-1].config, durability=durability)  # from the past
        forked = await app.aupdate_state(history[-1].config, {"steps": ["edited"]}, as_node="a")
        await app.ainvoke(None, forked, durability=durability)
        await app.aupdate_state(ALL, {"steps": ["more"]})
        assert (await app.aget_state(ALL)).values["steps"][-1] == "more"
        stale = await saver.aget_tuple(history[0].config)
        with pytest.raises(StaleHeadError):
            await put(saver, stale.config, {"steps": []})
