"""Searching messages: within a thread, in the threads of a user, or in all.

The index knows every message that some checkpoint holds. Found are those of the latest checkpoint of their thread, or
of that which a view means: what was removed from a conversation, or changed, is history and not found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_checkpoint_dual.core.address import Address, thread_key, user_key
from langgraph_checkpoint_dual.core.checkpoints import Loaded
from langgraph_checkpoint_dual.core.conversations.indexing import Index, words_of_item
from langgraph_checkpoint_dual.core.conversations.reading import View, check_number
from langgraph_checkpoint_dual.core.conversations.words import Term, for_fts5, for_tsquery, snippet, terms_of
from langgraph_checkpoint_dual.core.cursors import cursor_of, place_of
from langgraph_checkpoint_dual.core.history import only, slots_at
from langgraph_checkpoint_dual.core.items import LIST, Manifest
from langgraph_checkpoint_dual.core.looks import Look
from langgraph_checkpoint_dual.core.rows import SearchRow
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.times import moment
from langgraph_checkpoint_dual.core.tx import Database, Reads, Row, Tx
from langgraph_checkpoint_dual.encryption import encrypts
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

_CANDIDATES = 64
_BATCH = 500
MARKS = ("**", "**")


class SearchHit(NamedTuple):
    """A message that was found."""

    thread_id: str
    idx: int
    """Its place in the messages of its thread."""
    message: BaseMessage
    added_at: datetime | None
    """The time of the checkpoint that it came with, in UTC."""
    snippet: str
    """The piece of its text that shows the words that were asked for, on one line, with these marked."""
    score: float
    """How well it fits; only the order means something, and only on one database."""


class SearchPage(NamedTuple):
    """Some hits, the best first, and where the next page begins."""

    hits: list[SearchHit]
    cursor: str | None
    """Give it to `search` for the next page; `None` after the last one."""


class Scope(NamedTuple):
    """Where to search: what is `None` is not asked for. `view` narrows it to one thread, in one of its checkpoints."""

    user_id: str | None = None
    thread_id: str | None = None
    checkpoint_id: str | None = None


class _Head(NamedTuple):
    """The checkpoint that a thread is looked at in, and the items of its messages."""

    address: Address
    sealed: bytes
    manifest: Manifest


class _Found(NamedTuple):
    """A candidate that its thread's checkpoint holds: its row of the query, its place, and where it is read from."""

    row: Row
    idx: int
    piece: Loaded


async def search_messages(
    store: Store,
    db: Database,
    index: Index,
    query: str,
    scope: Scope,
    *,
    limit: int = 20,
    cursor: str | None = None,
    marks: tuple[str, str] = MARKS,
) -> SearchPage:
    """A page of the messages that a query asks for (see `core/conversations/words.py`), the best first.

    Raises:
        ConfigError: if the query is no text, or the limit, the cursor or an id cannot be used.
    """
    if not isinstance(query, str):
        raise ConfigError(f"the query must be a str, not a {type(query).__name__}")
    check_number("limit", limit)
    if not (isinstance(marks, (tuple, list)) and len(marks) == 2 and all(isinstance(one, str) for one in marks)):
        raise ConfigError(f"marks must be two texts, for before and after a word, not {marks!r}")
    terms = terms_of(query)
    [offset] = [0] if cursor is None else place_of(cursor, "search", int)
    if not terms or not limit:
        return SearchPage([], None)
    await index.make_ready(db)
    where = _conditions(index, terms, scope)

    async def read() -> SearchPage:
        found, after, look = await db.read(partial(_look, index, where, scope.checkpoint_id, offset, limit))
        hits = await db.compute(lambda: look.weight, partial(_hits, store, index, found, look, terms, marks))
        return SearchPage(hits, None if after is None else cursor_of("search", after))

    return await unless_lost(read)


def enabled(index: Index | None) -> Index:
    """The index of a saver.

    Raises:
        ConfigError: if it has none.
    """
    if index is None:
        raise ConfigError("this saver does not search; open it with search=True")
    return index


def index_of(wanted: bool | str, serde: SerializerProtocol) -> Index | None:
    """The index that a saver's `search=` asks for.

    Raises:
        ConfigError: if it is none, or the serializer may be there to hide what is stored.
    """
    if not isinstance(wanted, (bool, str)):
        raise ConfigError(f"search must be a bool or the name of a channel, not {wanted!r}")
    if not wanted:
        return None
    check_open(serde)
    return Index("messages" if wanted is True else wanted)


def check_open(serde: SerializerProtocol) -> None:
    """Check that a serializer hides nothing, because an index would not.

    Raises:
        ConfigError: if it may: the words would be stored in the clear.
    """
    if not isinstance(serde, JsonPlusSerializer) or encrypts(serde):
        raise ConfigError(
            f"search=True would store in the clear the words of messages that {type(serde).__name__} may hide; "
            "open the saver without it, or with a serializer that does not encrypt"
        )


async def kept_index(db: Reads) -> Index | None:
    """The index that a database has, for whoever changes it and must keep it; `None` if it has none."""

    async def look(tx: Tx) -> Index | None:
        if not await tx.fetch("has_search"):
            return None
        rows = await tx.fetch("searched_channel")
        return Index(unescape(rows[0][0]) if rows else "messages")

    return await db.read(look)


def scope_of(index: Index, view: View) -> Scope:
    """The scope of a view of messages.

    Raises:
        ConfigError: if its messages are not indexed.
    """
    thread_id, ns, checkpoint_id = view.address
    if ns or view.channel != index.channel:
        raise ConfigError(
            f"only the messages of channel {index.channel!r} in the root namespace can be searched; "
            'search="..." chooses another channel'
        )
    return Scope(None, thread_id, checkpoint_id)


def scope(user_id: Any, thread_id: Any) -> Scope:
    """The scope for the ids that a user gives.

    Raises:
        ConfigError: if an id cannot be used.
    """
    user = None if user_id is None else user_key(user_id)
    return Scope(user, None if thread_id is None else thread_key(thread_id))


def _conditions(index: Index, terms: Sequence[Term], scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = {
        "channel": escape(index.channel),
        "fts": for_fts5(terms),
        "tsquery": for_tsquery(terms),
    }
    if scope.user_id is not None:
        found["user_id"] = scope.user_id
    if scope.thread_id is not None:
        found["thread_id"] = scope.thread_id
    return found


async def _look(
    index: Index, where: Mapping[str, Any], checkpoint_id: str | None, offset: int, limit: int, tx: Tx
) -> tuple[list[_Found], int | None, Look]:
    found, after = await _candidates(index, where, checkpoint_id, offset, limit, tx)
    look = Look({})
    await look.fetch(tx, [one.piece for one in found])
    return found, after, look


async def _candidates(
    index: Index, where: Mapping[str, Any], checkpoint_id: str | None, offset: int, limit: int, tx: Tx
) -> tuple[list[_Found], int | None]:
    """The next messages that are found, and after how many rows of the query the page after them begins."""
    if "thread_id" in where:
        scopes = ["thread_id", "of_user"] if "user_id" in where else ["thread_id"]
    else:
        scopes = ["user_id"] if "user_id" in where else ["anywhere"]
    name = f"search where {' and '.join(['channel', *scopes])}"
    heads: dict[str, _Head | None] = {}
    found: list[_Found] = []
    while True:
        rows = await tx.fetch(name, **where, limit=_CANDIDATES, offset=offset)
        _check(rows)
        await _look_up(index, {row[0] for row in rows} - heads.keys(), checkpoint_id, heads, tx)
        for at, row in enumerate(rows, offset):
            one = _found(index, row, heads[row[0]])
            if one is not None and len(found) == limit:
                return found, at
            if one is not None:
                found.append(one)
        if len(rows) < _CANDIDATES:
            return found, None
        offset += len(rows)


def _check(rows: Sequence[Row]) -> None:
    """Check the places that the index names.

    Raises:
        DecodeError: if one of them is damaged.
    """
    for thread_id, seq, _ in rows:
        if type(thread_id) is not str or type(seq) is not int:
            found = "the index of messages is damaged; rebuild_search(clear=True) makes it anew"
            raise DecodeError(found, **Address(thread_id).where)


async def _look_up(
    index: Index, threads: set[str], checkpoint_id: str | None, heads: dict[str, _Head | None], tx: Tx
) -> None:
    """Read which messages the checkpoints of these threads hold."""
    heads.update(dict.fromkeys(threads))
    if not threads:
        return
    if checkpoint_id is None:
        rows = await tx.fetch("heads", threads=json.dumps(sorted(threads)))
    else:
        places = [Address(key, "", checkpoint_id) for key in threads]
        rows = [(*at[::2], sealed) for at in places for (sealed,) in await tx.fetch("slots", **at._asdict())]
    for key, head_id, sealed in rows:
        at = Address(key, "", head_id)
        slot = slots_at(at, sealed).get(index.channel)
        if isinstance(slot, Manifest) and slot.kind == LIST:
            heads[key] = _Head(at, sealed, slot)


def _found(index: Index, row: Row, head: _Head | None) -> _Found | None:
    """The candidate, if its thread's checkpoint holds it."""
    done = 0
    for first, count in head.manifest.ranges if head else ():
        if head is not None and first <= row[1] < first + count:
            piece = head.manifest._replace(ranges=((row[1], 1),))
            return _Found(row, done + row[1] - first, only(head.address, index.channel, piece, head.sealed))
        done += count
    return None


def _hits(
    store: Store,
    index: Index,
    found: Sequence[_Found],
    look: Look,
    terms: Sequence[Term],
    marks: tuple[str, str],
) -> list[SearchHit]:
    hits = []
    for (thread_id, _, score), idx, piece in found:
        [part] = look.parts(piece, index.channel, store.serde)
        shown = snippet(part.value.text, terms, marks)
        hits.append(SearchHit(unescape(thread_id), idx, part.value, moment(part.added_at), shown, float(score)))
    return hits


# --- What is not indexed yet ---


async def rebuild_search(
    store: Store,
    db: Database,
    index: Index,
    *,
    clear: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> int:
    """Index the messages that are not. Returns how many were added.

    Args:
        clear: begin with an empty index.
        on_progress: called with how many stored messages were looked at, and how many there were at the beginning.
    """
    await index.make_ready(db)
    channel = escape(index.channel)
    if clear:
        await db.change(lambda tx: tx.execute("clear_search"))

    async def count(tx: Tx) -> int:
        return int((await tx.fetch("count_searched_items", channel=channel))[0][0])

    total, done, added = await db.read(count), 0, 0
    after: Row = ("", -(2**62))
    while True:

        async def batch(tx: Tx, after: Row = after) -> list[Row]:
            return await tx.fetch(
                "searched_items", channel=channel, after_thread=after[0], after_seq=after[1], limit=_BATCH
            )

        rows = await db.read(batch)
        if not rows:
            return added
        fresh = await db.compute(partial(_weight, rows), partial(_unindexed, store, channel, rows))
        if fresh:

            async def add(tx: Tx, fresh: Sequence[SearchRow] = fresh) -> None:
                await tx.execute("lock_threads", threads=json.dumps(sorted({row.thread_id for row in fresh})))
                await tx.load("load_search", fresh)

            await db.change(add)
        added += len(fresh)
        done += len(rows)
        after = rows[-1][0], rows[-1][1]
        if on_progress is not None:
            on_progress(done, max(total, done))


def _weight(rows: Sequence[Row]) -> int:
    return sum(len(row[4] or b"") for row in rows)


def _unindexed(store: Store, channel: str, rows: Sequence[Row]) -> list[SearchRow]:
    found = [
        SearchRow(thread_id, "", channel, seq, added_at, words_of_item(store.serde, bytes(data)))
        for thread_id, seq, added_at, is_indexed, data in rows
        if not is_indexed and type(thread_id) is str and type(seq) is int
    ]
    return [row for row in found if row.words]
