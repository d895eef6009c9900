"""Keeping the words of messages beside them, so that they can be searched: for savers with `search=True`.

The contract:

1. `Indexing` is a `Database` over another one. What its transactions store they index too, in the same transaction; no
   operation of the core knows of this.
2. Indexed are the items of one channel of the root namespace that are messages with words in them. An item is indexed
   once, where it is stored; who copies items copies their words.
3. The database itself takes the words away with their item, whoever removes it (`search.sql`).
4. The tables are made when they are first needed. What was stored before that, or by a saver without `search=True`, is
   indexed by `core/conversations/searching.py`'s `rebuild_search`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.conversations.words import indexed
from langgraph_checkpoint_dual.core.rows import ItemRow, Named, Outcome, Put, PutWrites, SearchRow, size_of
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import CheckpointerError, SchemaError

T = TypeVar("T")
STEPS = tuple(f"make_search_{step}" for step in range(1, 6))
"""The statements that make the tables."""
_log = logging.getLogger("langgraph_checkpoint_dual")


class Index:
    """What is indexed, and whether the tables are known to be there; shared by all faces of a saver.

    Args:
        channel: the channel whose messages are.
    """

    def __init__(self, channel: str) -> None:
        self.channel, self.is_ready = channel, False

    def rows(self, serde: SerializerProtocol, items: Iterable[ItemRow]) -> list[SearchRow]:
        """The words of those items that are messages."""
        channel = escape(self.channel)
        mine = [item for item in items if item.channel == channel and not item.checkpoint_ns]
        found = [SearchRow(*item[:5], words_of_item(serde, item.data)) for item in mine]
        return [row for row in found if row.words]

    def with_words(self, serde: SerializerProtocol, addition: Put) -> Put:
        """A checkpoint with the words of its new messages."""
        words = self.rows(serde, addition.items)
        return replace(addition, words=words) if words else addition

    async def make_ready(self, db: Database) -> None:
        """Make the tables, once."""
        if not self.is_ready:
            if not await db.read(_is_there):
                await db.change(_make)
            self.is_ready = True


def words_of_item(serde: SerializerProtocol, typed: bytes) -> str:
    """The words of a message that is stored as an item; none if it is something else, or cannot be read."""
    with suppress(CheckpointerError):
        return words_of_message(values.decode(serde, typed))
    return ""


def words_of_message(message: Any) -> str:
    """The words of a message as they are indexed."""
    return indexed(message.text) if isinstance(message, BaseMessage) else ""


async def _is_there(tx: Tx) -> list[Row]:
    return await tx.fetch("has_search")


async def _make(tx: Tx) -> None:
    await tx.execute("lock_migrations")
    if await _is_there(tx):
        return
    for step in STEPS:
        await tx.execute(step)
    if await tx.fetch("any_item"):
        _log.warning("messages that are stored already are not searched before rebuild_search() has been run")


async def set_up(index: Index | None, db: Database, *, create: bool) -> None:
    """Make the tables of an index, or only check that they are there.

    Raises:
        SchemaError: if they are not, and must not be made.
    """
    if index is None:
        return
    if create:
        await index.make_ready(db)
    elif not await db.read(_is_there):
        raise SchemaError(
            "the tables of search=True are missing; setup() makes them, or somebody else runs what "
            "ddl(search=True) prints. Nothing was changed."
        )


class Indexing:
    """See the module."""

    def __init__(self, db: Database, index: Index, serde: SerializerProtocol) -> None:
        self._db, self._index, self._serde = db, index, serde

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._db.read(look)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        await self._index.make_ready(self._db)
        return await self._db.change(lambda tx: edit(IndexingTx(tx, self._index, self._serde)))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        await self._index.make_ready(self._db)
        return await self._db.append(await _with_words(self._db, self._index, self._serde, addition))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._db.compute(weigh, work)


class IndexingTx:
    """A transaction that indexes what it stores."""

    def __init__(self, tx: Tx, index: Index, serde: SerializerProtocol) -> None:
        self._tx, self._index, self._serde = tx, index, serde

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        return await self._tx.fetch(query, **args)

    async def execute(self, query: str, /, **args: Any) -> None:
        await self._tx.execute(query, **args)
        if query == "copy_thread":
            await self._tx.execute("copy_search", source=args["source"], target=args["target"])

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        await self._tx.load(query, rows)
        words = self._index.rows(self._serde, [row for row in rows if isinstance(row, ItemRow)])
        if words:
            await self._tx.load("load_search", words)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._tx.compute(weigh, work)

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        return await self._tx.insert(await _with_words(self._tx, self._index, self._serde, addition))


async def _with_words(
    where: Database | Tx, index: Index, serde: SerializerProtocol, addition: Put | PutWrites
) -> Put | PutWrites:
    if not isinstance(addition, Put):
        return addition
    return await where.compute(partial(size_of, addition), partial(index.with_words, serde, addition))
