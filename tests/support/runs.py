"""Runs graphs through either face and writes down what a user sees, without the ids that differ from run to run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from langgraph.types import StateSnapshot

from tests.support.compare import fingerprint, unordered

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")


class Session:
    """One graph on one saver, driven through one face, with a record of all that it answered."""

    def __init__(self, saver: Any, face: str, build: Callable[[Any], Any], durability: str) -> None:
        self.saver, self.face, self.durability = saver, face, durability
        self.graph = build(saver)
        self.record: list[Any] = []

    async def run(self, given: Any, config: Any = None, **options: Any) -> Any:
        """Stream a run to its end; what it streamed, or its error, goes on the record."""
        config = config or thread()
        options = {"durability": self.durability, "stream_mode": ["values", "updates"], **options}
        chunks: list[Any] = []
        try:
            if self.face == "async":
                async for chunk in self.graph.astream(given, config, **options):
                    chunks.append(chunk)
            else:
                await asyncio.to_thread(lambda: chunks.extend(self.graph.stream(given, config, **options)))
        except Exception as exc:
            chunks.append(("error", f"{type(exc).__name__}: {exc}"))
        self.record.append(("stream", _ordered(chunks)))
        return chunks

    async def state(self, config: Any = None, **options: Any) -> StateSnapshot:
        found: StateSnapshot = await self._call("get_state", config or thread(), **options)
        self.record.append(("state", snapshot(found)))
        return found

    async def history(self, config: Any = None, *, brief: bool = False, **options: Any) -> list[StateSnapshot]:
        """The history; `brief` leaves out what tasks of it are left to do.

        That depends on timing where tasks were stopped, and where checkpoints are saved in the background: LangGraph
        goes on to change what is being saved.
        """
        config = config or thread()
        found: list[StateSnapshot]
        if self.face == "async":
            found = [one async for one in self.graph.aget_state_history(config, **options)]
        else:
            found = await asyncio.to_thread(lambda: list(self.graph.get_state_history(config, **options)))
        places = {place(one.config): at for at, one in enumerate(found)}
        parents = [places.get(place(one.parent_config)) if one.parent_config else "root" for one in found]
        brief = brief or self.durability == "async"
        self.record.append(("history", [facts(one) if brief else snapshot(one) for one in found], parents))
        return found

    async def update(self, config: Any, values: Any, **options: Any) -> Any:
        stored = await self._call("update_state", config, values, **options)
        self.record.append(("update", anonymous(stored)))
        return stored

    async def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self.face == "async":
            return await getattr(self.graph, f"a{name}")(*arguments, **options)
        return await asyncio.to_thread(getattr(self.graph, name), *arguments, **options)


def thread(name: str = "thread") -> Any:
    return {"configurable": {"thread_id": name}}


def place(config: Any) -> Any:
    return config["configurable"]["checkpoint_id"]


def anonymous(value: Any) -> Any:
    """The value with every generated id replaced."""
    if isinstance(value, str):
        return _ID.sub("<id>", value)
    if isinstance(value, dict):
        return {anonymous(key): anonymous(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(anonymous(item) for item in value)
    return value


def facts(found: StateSnapshot) -> dict[str, Any]:
    """The state of a snapshot and where it comes from, without ids and times."""
    return {"values": visible(found.values), "metadata": anonymous(unordered(found.metadata or {}))}


def snapshot(found: StateSnapshot) -> dict[str, Any]:
    """What a state snapshot says, without ids and times."""
    return {
        **facts(found),
        "next": found.next,
        "interrupts": [visible(one.value) for one in found.interrupts],
        "tasks": [
            {
                "name": task.name,
                "error": task.error,
                "interrupts": [visible(one.value) for one in task.interrupts],
                "result": visible(task.result),
                "state": snapshot(task.state) if isinstance(task.state, StateSnapshot) else task.state is not None,
            }
            for task in found.tasks
        ],
    }


def visible(value: Any) -> Any:
    """A value in comparable form, types and all, without ids."""
    return anonymous(_plain(fingerprint(value)))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _ordered(chunks: Iterable[Any]) -> list[Any]:
    """The chunks; those that parallel tasks give in any order are sorted."""
    ordered = []
    for mode, group in groupby(chunks, key=lambda chunk: chunk[-2]):
        ordered.append((mode, sorted(repr(visible(chunk)) for chunk in group)))
    return ordered
