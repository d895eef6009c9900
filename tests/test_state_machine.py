"""Random histories of operations: every answer is compared with that of LangGraph's `InMemorySaver`.

Two savers on one database take turns, as two processes would, and every operation goes through a face that is drawn
for it: awaited, blocking inside the running loop, or blocking with no loop running.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import get_checkpoint_id
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT

from langgraph_checkpoint_dual.core.conversations.words import words_of
from langgraph_checkpoint_dual.core.inspection.doctor import examine
from langgraph_checkpoint_dual.core.tx import finish
from tests.support.compare import answer, fingerprint, key_of, parent_of
from tests.support.model import Model, matches
from tests.support.savers import BlockingFace, Kind, opened
from tests.support.strategies import CHANNELS, edited, first_value, metadata_extra, task_writes
from tests.support.tables import counts

THREADS = ["a", "b", "c", 'it\'s 100% "odd"; --']
NAMESPACES = ["", "child:1", "child:1|grand child:2"]
# Most steps go to few places, so that their histories grow long and their lists many.
PLACES = [("a", "")] * 6 + [("a", "child:1")] * 3 + [(thread, ns) for thread in THREADS for ns in NAMESPACES]
RUNS = ["run-1", "run-2", "run-3"]
CHANGED = st.lists(st.sampled_from(CHANNELS), unique=True).map(lambda more: sorted({CHANNELS[0], *more})) | st.lists(
    st.sampled_from(CHANNELS), unique=True
)  # most steps touch the messages
PATHS = {"t1": "~__pregel_pull, b", "t2": "", "t3": "~__pregel_pull, a"}
TASKS = list(PATHS)
# How many histories: a few for every change, more on request.
EXAMPLES = int(os.environ.get("DUAL_TEST_EXAMPLES", "35"))
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if "DUAL_TEST_SHRINK" in os.environ else [])]
FACES = ["async", "blocking in the loop", "blocking"]


@dataclass
class World:
    """Two savers on one database, and the loop that they live in."""

    loop: asyncio.AbstractEventLoop
    savers: list[Any]
    database: str

    def call(self, which: int, face: str, name: str, *arguments: Any, **options: Any) -> Any:
        saver = self.savers[which]
        if face == "blocking":
            result = getattr(saver, name)(*arguments, **options)
            return list(result) if name == "list" else result
        driven = saver if face == "async" else BlockingFace(saver)
        called = getattr(driven, f"a{name}")(*arguments, **options)
        return self.loop.run_until_complete(_collect(called) if name == "list" else called)


async def _collect(found: Any) -> list[Any]:
    return [item async for item in found]


class SaverMachine(RuleBasedStateMachine):
    """Drives the model and the savers with the same operations."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.model = Model()
        self.live: dict[tuple[str, str], dict[str, Any]] = {}
        self.registered: dict[str, str | None] = {}
        self.steps = 0

    def teardown(self) -> None:
        saver = self.world.savers[0]
        found = finish(examine(saver._blocking, serde=saver.serde)).findings
        assert [one for one in found if one.kind == "stale tags"] == []
        for thread in {*self.model.threads(), *self.registered}:
            self.world.call(0, "async", "delete_thread", thread)
        left = {name for name, count in counts(self.world.database).items() if count}
        left = {name for name in left if not name.startswith("dual_search_index")}  # FTS5's own
        assert left <= {"dual_tombstones"}, "deleting every thread left rows behind"

    def ask(self, data: st.DataObject, name: str, *arguments: Any, **options: Any) -> Any:
        which, face = data.draw(st.integers(0, 1), "saver"), data.draw(st.sampled_from(FACES), "face")
        return self.world.call(which, face, name, *arguments, **options)

    def draw_place(self, data: st.DataObject) -> tuple[str, str]:
        return data.draw(st.sampled_from(PLACES), "place")

    def draw_checkpoint(self, data: st.DataObject, *place: str) -> str | None:
        """The id of a stored checkpoint, or None for the latest."""
        return data.draw(st.sampled_from([None, None, None, *self.model.ids(*place)]), "checkpoint")

    # -- writing ------------------------------------------------------------------------------------------------

    @initialize(data=st.data())
    def first_run(self, data: st.DataObject) -> None:
        self.run(data, PLACES[0], None)

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """A run that starts from the head."""
        self.run(data, self.draw_place(data), None)

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """A run that starts from any checkpoint."""
        place = self.draw_place(data)
        self.run(data, place, self.draw_checkpoint(data, *place))

    def run(self, data: st.DataObject, place: tuple[str, str], start: str | None) -> None:
        for _ in range(data.draw(st.integers(1, 4), "super-steps")):
            start = self.put(data, place, start)

    def put(self, data: st.DataObject, place: tuple[str, str], start: str | None) -> str:
        """A super-step: some channels get new versions; the id of its checkpoint."""
        base = self.model.get_tuple(config(*place, start))
        values = self._values_before(data, place, base)
        versions = dict(base.checkpoint["channel_versions"]) if base else {}
        fresh = self._step(data, values, versions)
        checkpoint = {
            "v": 4,
            "id": str(uuid6(clock_seq=self.steps)),
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {"node": dict(versions)} if data.draw(st.booleans(), "seen") else {},
            "updated_channels": sorted(fresh) or None,
        }
        metadata = {
            "source": data.draw(st.sampled_from(["input", "loop", "update", "fork"]), "source"),
            "step": self.steps,
            "parents": {},
            "run_id": data.draw(st.sampled_from(RUNS), "run"),
            **data.draw(metadata_extra, "metadata"),
        }
        self.steps += 1
        into = config(*place, key_of(base)[2] if base else None)
        self._put(data, into, checkpoint, metadata, fresh)
        self.live[place] = values
        if data.draw(st.integers(0, 5), "repeat") == 5:  # a retry after a lost answer
            self._put(data, into, checkpoint, metadata, fresh)
        self.check(self.ask(data, "get_tuple", config(*place)), self.model.get_tuple(config(*place)))
        return str(checkpoint["id"])

    def _values_before(self, data: st.DataObject, place: tuple[str, str], base: Any) -> dict[str, Any]:
        """Live objects of the last step, as in a running graph, or loaded ones, as at the start of a run."""
        if base is None:
            return {}
        is_head = key_of(base)[2] == max(self.model.ids(*place))
        if place in self.live and is_head and data.draw(st.integers(0, 3), "loaded") != 3:
            return dict(self.live[place])
        loaded = self.ask(data, "get_tuple", config(*key_of(base)))
        return dict(loaded.checkpoint["channel_values"])

    def _step(self, data: st.DataObject, values: dict[str, Any], versions: dict[str, Any]) -> dict[str, Any]:
        """Edit some channels; the new versions."""
        fresh = {}
        saver = self.world.savers[0]
        following = saver.get_next_version(max(versions.values()) if versions else None, None)
        for channel in data.draw(CHANGED, "channels"):
            fresh[channel] = versions[channel] = following
            if data.draw(st.integers(0, 5), "consume") == 5:
                values.pop(channel, None)
            elif channel in values:
                values[channel] = edited(data, values[channel])
            else:
                values[channel] = data.draw(first_value(channel), channel)
        return fresh

    def _put(self, data: st.DataObject, into: Any, checkpoint: Any, metadata: Any, fresh: Any) -> None:
        expected = self.model.put(into, checkpoint, metadata, fresh)
        assert self.ask(data, "put", into, checkpoint, metadata, fresh) == expected
        if not into["configurable"]["checkpoint_ns"]:
            thread = into["configurable"]["thread_id"]
            self.registered[thread] = metadata.get("user_id", self.registered.get(thread))

    @rule(data=st.data())
    def put_writes(self, data: st.DataObject) -> None:
        """The writes of a task, once or again, also for a checkpoint that is not there (yet)."""
        place = self.draw_place(data)
        known = self.model.ids(*place)
        head = known[-1:] * 4
        at = config(*place, data.draw(st.sampled_from([*known, *head, "1f0-not-there"]), "checkpoint"))
        for task in data.draw(st.lists(st.sampled_from(TASKS), min_size=1, max_size=3), "tasks"):
            arguments = (at, data.draw(task_writes, "writes"), task, PATHS[task])
            self.model.put_writes(*arguments)
            self.ask(data, "put_writes", *arguments)
        self.check(self.ask(data, "get_tuple", at), self.model.get_tuple(at))

    @precondition(lambda self: self.steps > 5)
    @rule(data=st.data(), thread=st.sampled_from(THREADS))
    def delete_thread(self, data: st.DataObject, thread: str) -> None:
        self.model.delete_thread(thread)
        self._forget(thread)
        self.registered.pop(thread, None)
        self.ask(data, "delete_thread", thread)

    @rule(data=st.data(), source=st.sampled_from(THREADS), copy=st.sampled_from(THREADS))
    def copy_thread(self, data: st.DataObject, source: str, copy: str) -> None:
        if source != copy and not self.model.knows(copy) and self.model.knows(source):
            self.model.copy_thread(source, copy)
            self.ask(data, "copy_thread", source, copy)
            if source in self.registered:
                self.registered.setdefault(copy, self.registered[source])

    @precondition(lambda self: self.steps > 5)
    @rule(data=st.data(), runs=st.lists(st.sampled_from(RUNS), max_size=1))
    def delete_for_runs(self, data: st.DataObject, runs: list[str]) -> None:
        self.model.delete_for_runs(runs)
        self.live.clear()
        self.ask(data, "delete_for_runs", runs)

    @precondition(lambda self: self.steps > 5)
    @rule(
        data=st.data(),
        threads=st.lists(st.sampled_from(THREADS), max_size=2),
        strategy=st.sampled_from(["keep_latest", "keep_latest", "delete"]),
    )
    def prune(self, data: st.DataObject, threads: list[str], strategy: str) -> None:
        self.model.prune(threads, strategy=strategy)
        for thread in threads:
            self._forget(thread)
            if strategy == "delete":
                self.registered.pop(thread, None)
        self.ask(data, "prune", threads, strategy=strategy)

    def _forget(self, thread: str) -> None:
        self.live = {place: values for place, values in self.live.items() if place[0] != thread}

    # -- reading ------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def get_tuple(self, data: st.DataObject) -> None:
        place = self.draw_place(data)
        which = config(*place, self.draw_checkpoint(data, *place))
        self.check(self.ask(data, "get_tuple", which), self.model.get_tuple(which))

    @rule(data=st.data())
    def list_checkpoints(self, data: st.DataObject) -> None:
        where = data.draw(st.sampled_from(["everything", "thread", "namespace", "checkpoint"]), "where")
        place = self.draw_place(data)
        which = {
            "everything": None,
            "thread": {"configurable": {"thread_id": place[0]}},
            "namespace": config(*place),
            "checkpoint": config(*place, self.draw_checkpoint(data, *place)),
        }[where]
        wanted = data.draw(st.one_of(st.none(), self.filters()), "filter")
        before = data.draw(st.sampled_from([None, None, None, *self.model.all_ids()]), "before")
        limit = data.draw(st.sampled_from([None, None, 0, 1, 4]), "limit")

        found = self.ask(
            data, "list", which, filter=wanted, before=config(*place, before) if before else None, limit=limit
        )

        expected = {
            key_of(one): one
            for one in self.model.list(which, before=config(*place, before) if before else None)
            if matches(wanted or {}, one.metadata)
        }
        ids = sorted((key[2] for key in expected), reverse=True)
        assert [key_of(one)[2] for one in found] == (ids if limit is None else ids[:limit])
        assert len({key_of(one) for one in found}) == len(found)
        for one in found:
            self.check(one, expected[key_of(one)])

    def filters(self) -> st.SearchStrategy[dict[str, Any]]:
        """A filter that some checkpoint may match."""
        wanted = metadata_extra.map(lambda extra: {**extra, "run_id": RUNS[0], "missing": None})
        names = st.sampled_from([{"flag"}, {"tag"}, {"depth"}, {"run_id"}, {"missing"}, {"flag", "run_id"}])
        return st.builds(lambda extra, keep: {name: extra[name] for name in keep & extra.keys()}, wanted, names)

    @rule(data=st.data(), channels=st.lists(st.sampled_from(CHANNELS), unique=True, max_size=3))
    def delta_history(self, data: st.DataObject, channels: list[str]) -> None:
        place = self.draw_place(data)
        which = config(*place, self.draw_checkpoint(data, *place))
        found = self.ask(data, "get_delta_channel_history", config=which, channels=channels)
        expected = self.model.get_delta_channel_history(config=which, channels=channels)
        assert {name: fingerprint(entry) for name, entry in found.items()} == {
            name: fingerprint(entry) for name, entry in expected.items()
        }

    @invariant()
    def the_registry_agrees(self) -> None:
        found = {one.thread_id: one for one in self.world.savers[self.steps % 2].threads.list(limit=100).threads}
        assert {name: one.user_id for name, one in found.items()} == self.registered
        for name, one in found.items():
            heads = self.model.ids(name, "")
            assert one.checkpoints == sum(len(self.model.ids(name, ns)) for ns in NAMESPACES)
            assert one.checkpoint_id == (heads[-1] if heads else None)
            assert one.status == (self._status(name, heads[-1]) if heads else "idle")

    @invariant()
    def messages_and_search_agree(self) -> None:
        saver, thread = self.world.savers[self.steps % 2], THREADS[self.steps % 3]
        stored = self.model.get_tuple(config(thread, ""))
        wanted = stored.checkpoint["channel_values"].get("messages") if stored else []
        if not isinstance(wanted, list) or not all(isinstance(one, BaseMessage) for one in wanted):
            return  # without a value it would be taken for a delta channel
        found = saver.messages(thread).page(10_000)
        assert [fingerprint(one.message) for one in found] == [fingerprint(one) for one in wanted]
        words = {idx: {word.text for word in words_of(one.text)} for idx, one in enumerate(wanted)}
        for word in sorted({word for some in words.values() for word in some})[:2]:
            hits = saver.search(word, thread_id=thread, limit=10_000).hits
            # An item that a list holds twice is found where it is first.
            assert {hit.idx for hit in hits} <= {idx for idx in words if word in words[idx]}
            texts = {one.text for idx, one in enumerate(wanted) if word in words[idx]}
            assert {hit.message.text for hit in hits} == texts

    def _status(self, thread: str, checkpoint_id: str) -> str:
        at = self.model.get_tuple(config(thread, "", checkpoint_id))
        channels = {channel for _, channel, _ in at.pending_writes}
        return "error" if ERROR in channels else "interrupted" if INTERRUPT in channels else "idle"

    def check(self, found: Any, expected: Any) -> None:
        assert answer(found) == answer(expected)
        if found is not None:
            assert parent_of(found) == parent_of(expected)
            assert get_checkpoint_id(found.config) == found.checkpoint["id"]


def config(thread: str, namespace: str, checkpoint_id: str | None = None) -> Any:
    place = {"thread_id": thread, "checkpoint_ns": namespace}
    return {"configurable": {**place, "checkpoint_id": checkpoint_id} if checkpoint_id else place}


@pytest.fixture
def world(kind: Kind, database: str) -> Iterator[World]:
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()

    async def start() -> list[Any]:
        return [await stack.enter_async_context(opened(kind.ours, database, search=True)) for _ in range(2)]

    try:
        yield World(loop, loop.run_until_complete(start()), database)
        loop.run_until_complete(stack.aclose())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # threads of the connection pool do
def test_every_answer_is_that_of_the_model(world: World) -> None:
    run_state_machine_as_test(
        lambda: SaverMachine(world),
        settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None, phases=PHASES),
    )
