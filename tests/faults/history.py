"""Threads whose every checkpoint can be told from its number: what crashed and interrupted writers write."""

from __future__ import annotations

from typing import Any

from tests.support.checkpoints import checkpoint, config, metadata


def values(thread_id: str, number: int) -> dict[str, Any]:
    """The channel values of a thread's checkpoint: one that grows, and one that is replaced."""
    return {"log": [{"text": f"{thread_id} {at} " + "x" * 40} for at in range(number + 1)], "number": number}


def writes(number: int) -> list[tuple[str, Any]]:
    """The pending writes of a checkpoint, which are there all or not at all."""
    return [("log", f"{number} {at}") for at in range(10)]


def made(thread_id: str, number: int) -> Any:
    """A checkpoint with its number."""
    return checkpoint(values(thread_id, number))


def step(saver: Any, thread_id: str, number: int, parent: Any) -> Any:
    """Put a checkpoint and its writes, blocking; the config."""
    new = made(thread_id, number)
    stored = saver.put(parent or config(thread_id), new, metadata(step=number), new["channel_versions"])
    saver.put_writes(stored, writes(number), "task")
    return stored


async def astep(saver: Any, thread_id: str, number: int, parent: Any) -> Any:
    """As `step`."""
    new = made(thread_id, number)
    stored = await saver.aput(parent or config(thread_id), new, metadata(step=number), new["channel_versions"])
    await saver.aput_writes(stored, writes(number), "task")
    return stored


def is_whole(found: Any) -> bool:
    """Whether a checkpoint has just the values of its number, and all or none of its writes."""
    thread_id = found.config["configurable"]["thread_id"]
    number = found.checkpoint["channel_values"].get("number")
    pending = [(channel, value) for _, channel, value in found.pending_writes]
    return (
        isinstance(number, int)
        and found.checkpoint["channel_values"] == values(thread_id, number)
        and found.metadata["step"] == number
        and pending in ([], writes(number))
    )


def has_writes(found: Any) -> bool:
    return bool(found.pending_writes)
