"""Clients of the concurrency workloads: each has a thread of its own and does one step after the other."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Protocol
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.base.id import uuid6

from benchmarks.data import question, text
from benchmarks.graphs import Graph, chat
from benchmarks.savers import Saver
from benchmarks.workload import thread

WRITES_A_STEP = 2
TURNS_A_THREAD = 8


class Client(Protocol):
    """Something that can be done again and again, by a blocking and by an async saver."""

    thread_id: str

    def step(self) -> None: ...

    async def astep(self) -> None: ...


MakeClient = Callable[[str], Client]


class PutClient:
    """A step is one `put` of a checkpoint of which two channels changed, and one `put_writes` of two writes to it."""

    def __init__(self, saver: Saver, thread_id: str, texts: list[str]) -> None:
        self.thread_id = thread_id
        self._saver = saver
        self._texts = texts
        self._config: RunnableConfig = thread(thread_id)
        self._version: Any = None
        self._number = 0

    def step(self) -> None:
        self._config = self._saver.put(self._config, *self._next())
        self._saver.put_writes(self._config, self._writes(), self._task())

    async def astep(self) -> None:
        self._config = await self._saver.aput(self._config, *self._next())
        await self._saver.aput_writes(self._config, self._writes(), self._task())

    def _next(self) -> tuple[Checkpoint, Any, dict[str, Any]]:
        self._number += 1
        self._version = self._saver.get_next_version(self._version, None)
        versions = {"note": self._version, "count": self._version}
        checkpoint: Checkpoint = {
            "v": 4,
            "id": str(uuid6(clock_seq=self._number)),
            "ts": datetime.now(timezone.utc).isoformat(),
            "channel_values": {"note": self._text(), "count": self._number},
            "channel_versions": dict(versions),
            "versions_seen": {"__input__": {}, "step": dict(versions)},
            "updated_channels": ["count", "note"],
        }
        return checkpoint, {"source": "loop", "step": self._number, "parents": {}}, versions

    def _writes(self) -> list[tuple[str, Any]]:
        return [("note", self._text()), ("count", self._number + 1)]

    def _text(self) -> str:
        return self._texts[self._number % len(self._texts)]

    def _task(self) -> str:
        return str(UUID(int=self._number))


class TurnClient:
    """A step is one turn of a chat; after some turns it begins another thread, so that the state stays small."""

    def __init__(self, graph: Graph, thread_id: str, rng: random.Random) -> None:
        self.thread_id = thread_id
        self._graph = graph
        self._rng = rng
        self._turns = 0

    def step(self) -> None:
        self._graph.invoke(self._input(), self._next_config(), durability="sync")

    async def astep(self) -> None:
        await self._graph.ainvoke(self._input(), self._next_config(), durability="sync")

    def _next_config(self) -> RunnableConfig:
        self._turns += 1
        return thread(chat_thread(self.thread_id, self._turns - 1))

    def _input(self) -> dict[str, Any]:
        return {"messages": [question(self._rng, 40)]}


def chat_thread(client: str, turn: int) -> str:
    """The thread on which a client does its turn of that number, from 0."""
    return f"{client}/{turn // TURNS_A_THREAD}"


def put_clients(saver: Saver) -> MakeClient:
    """Makes clients of single operations, by thread id."""
    rng = random.Random(1)
    texts = [text(rng) for _ in range(64)]
    return lambda thread_id: PutClient(saver, thread_id, texts)


def turn_clients(saver: Saver) -> MakeClient:
    """Makes clients of whole graph turns, by thread id."""
    rng = random.Random(1)
    graph = chat(saver, rng, words=40)
    return lambda thread_id: TurnClient(graph, thread_id, rng)


CLIENTS: dict[str, Callable[[Saver], MakeClient]] = {"puts": put_clients, "turns": turn_clients}
