"""The messages of a thread as text: Markdown to read, or JSON Lines (one message a line) to process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any, TypeAlias

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from langgraph_checkpoint_dual.conversation import Conversation, StoredMessage
from langgraph_checkpoint_dual.core.address import address_of
from langgraph_checkpoint_dual.core.conversations.transcripts import writer
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.tx import Database, Tx, finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.saver import Saver

__all__ = ["aexport_transcript", "atranscript", "export_transcript", "transcript"]

Write: TypeAlias = Callable[[StoredMessage], str]
_PAGE = 200


def transcript(
    saver: BaseCheckpointSaver[Any], thread: Any, *, format: str = "markdown", channel: str = "messages"
) -> Iterator[str]:
    """The messages of a thread, each as text that ends with a line, with roles, calls of tools and times.

    The messages are those of one checkpoint, read in pages, so memory stays constant. Savers of others are read whole,
    and do not tell the times.

    Args:
        saver: any saver.
        thread: a thread's id, or a config of it, which may name a namespace and a checkpoint.
        format: "markdown" or "jsonl".
        channel: the channel that holds the messages.

    Raises:
        ConfigError: if an argument cannot be used, or the channel holds something else than messages.
    """
    return _transcript(saver, thread, writer(format), channel)


def _transcript(saver: BaseCheckpointSaver[Any], thread: Any, write: Write, channel: str) -> Iterator[str]:
    if not isinstance(saver, Saver):
        found = saver.get_tuple(_config(thread))
        yield from map(write, _stored(found, channel))
        return
    view = _view(saver, finish(_pinned(saver._whole_blocking, thread)), channel)
    after = None
    while page := view.page(_PAGE, after_idx=after):
        after = page[-1].idx
        yield from map(write, page)


def atranscript(
    saver: BaseCheckpointSaver[Any], thread: Any, *, format: str = "markdown", channel: str = "messages"
) -> AsyncIterator[str]:
    """As `transcript`."""
    return _atranscript(saver, thread, writer(format), channel)


async def _atranscript(saver: BaseCheckpointSaver[Any], thread: Any, write: Write, channel: str) -> AsyncIterator[str]:
    if not isinstance(saver, Saver):
        for one in _stored(await saver.aget_tuple(_config(thread)), channel):
            yield write(one)
        return
    view = _view(saver, await _pinned(saver._whole_looping, thread), channel)
    after = None
    while page := await view.apage(_PAGE, after_idx=after):
        after = page[-1].idx
        for one in page:
            yield write(one)


def export_transcript(
    saver: BaseCheckpointSaver[Any],
    thread: Any,
    path: str | PathLike[str],
    *,
    format: str | None = None,
    channel: str = "messages",
) -> None:
    """Write a `transcript` to a file, which must not exist. Unless given, the format is that of the file's name."""
    lines = transcript(saver, thread, format=format or _format_of(path), channel=channel)
    with _new_file(path) as file:
        file.writelines(lines)


async def aexport_transcript(
    saver: BaseCheckpointSaver[Any],
    thread: Any,
    path: str | PathLike[str],
    *,
    format: str | None = None,
    channel: str = "messages",
) -> None:
    """As `export_transcript`."""
    lines = atranscript(saver, thread, format=format or _format_of(path), channel=channel)
    with _new_file(path) as file:
        async for line in lines:
            file.write(line)


@contextmanager
def _new_file(path: str | PathLike[str]) -> Iterator[IO[str]]:
    """A new file, which goes again if the block fails."""
    with Path(path).open("x", encoding="utf-8", newline="\n") as file:
        try:
            yield file
        except BaseException:
            Path(path).unlink()
            raise


def _format_of(path: str | PathLike[str]) -> str:
    return "jsonl" if Path(path).suffix in (".jsonl", ".ndjson") else "markdown"


def _config(thread: Any) -> Any:
    return thread if isinstance(thread, dict) else {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


async def _pinned(db: Database, thread: Any) -> Any:
    """The config of the checkpoint that is the latest one now, so that all pages are of the same."""
    config = _config(thread)
    address = address_of(config)
    if address.checkpoint_id is not None:
        return config

    async def look(tx: Tx) -> list[Any]:
        return await tx.fetch("head", thread_id=address.thread_id, checkpoint_ns=address.checkpoint_ns)

    head = await db.read(look)
    if not head:
        return config
    return {"configurable": {**config["configurable"], "checkpoint_id": unescape(head[0][0])}}


def _view(saver: Saver, config: Any, channel: str) -> Conversation:
    return saver.messages(config, channel=channel)


def _stored(found: CheckpointTuple | None, channel: str) -> list[StoredMessage]:
    messages = [] if found is None else found.checkpoint["channel_values"].get(channel, [])
    if not isinstance(messages, list) or not all(isinstance(one, BaseMessage) for one in messages):
        raise ConfigError(f"channel {channel!r} holds no messages")
    return [StoredMessage(idx, one, None) for idx, one in enumerate(messages)]
