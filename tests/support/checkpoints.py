"""Checkpoints made by hand, as LangGraph makes them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from langgraph.checkpoint.base.id import uuid6

_steps = count()


def config(thread_id: Any = "thread", checkpoint_ns: str = "", checkpoint_id: str | None = None) -> Any:
    """The config of a thread's namespace, or of one of its checkpoints."""
    place = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
    return {"configurable": {**place, "checkpoint_id": checkpoint_id} if checkpoint_id else place}


def checkpoint(values: Mapping[str, Any] | None = None, **other: Any) -> Any:
    """A new checkpoint with these channel values, each with a version."""
    values = dict(values or {})
    versions = {name: f"{next(_steps) + 1:032}.{0.5:016}" for name in values}
    return {
        "v": 4,
        "id": str(uuid6()),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": versions,
        "versions_seen": {},
        "updated_channels": sorted(values) or None,
        **other,
    }


def metadata(**other: Any) -> Any:
    """The metadata of a super-step."""
    return {"source": "loop", "step": 1, "parents": {}, **other}


async def put(saver: Any, into: Any = None, values: Mapping[str, Any] | None = None, **extra: Any) -> Any:
    """Put a new checkpoint through the awaited face; its config. `extra` goes to the metadata."""
    made = checkpoint(values)
    return await saver.aput(into or config(), made, metadata(**extra), made["channel_versions"])


async def listed(saver: Any, *arguments: Any, **options: Any) -> list[Any]:
    """All that a listing yields."""
    return [found async for found in saver.alist(*arguments, **options)]
