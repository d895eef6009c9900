"""Whether the index of a database has the words of all messages, and no others."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core.conversations.indexing import Index, words_of_item
from langgraph_checkpoint_dual.core.conversations.searching import kept_index
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx

_ROWS = 2048


class Wording(NamedTuple):
    """An index that is out of step with the messages."""

    channel: str
    missing: int
    """Messages whose words are not indexed."""
    orphaned: int
    """Rows of the index whose message is gone."""


async def out_of_step(db: Database, serde: SerializerProtocol) -> Wording | None:
    """Compare the index with the messages; `None` if they agree, or if there is no index.

    Args:
        serde: reads the messages that are not indexed, to see whether there are words in them.
    """
    index = await kept_index(db)
    if index is None:
        return None
    missing = await _missing(db, serde, index)

    async def orphans(tx: Tx) -> int:
        return int((await tx.fetch("orphaned_words"))[0][0])

    found = Wording(index.channel, missing, await db.read(orphans))
    return found if found.missing or found.orphaned else None


async def _missing(db: Database, serde: SerializerProtocol, index: Index) -> int:
    missing, after = 0, ("", -(2**62))
    while True:

        async def batch(tx: Tx, after: Row = after) -> list[Row]:
            return await tx.fetch(
                "searched_items", channel=escape(index.channel), after_thread=after[0], after_seq=after[1], limit=_ROWS
            )

        rows = await db.read(batch)
        if not rows:
            return missing
        unindexed = [bytes(row[4]) for row in rows if not row[3]]
        missing += await db.compute(partial(_total, unindexed), partial(_with_words, serde, unindexed))
        after = rows[-1][0], rows[-1][1]


def _total(items: list[bytes]) -> int:
    return sum(map(len, items))


def _with_words(serde: SerializerProtocol, items: list[bytes]) -> int:
    return sum(bool(words_of_item(serde, one)) for one in items)
