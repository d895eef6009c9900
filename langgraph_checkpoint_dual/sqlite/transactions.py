"""The core's transaction on a `sqlite3` connection, and how additions are stored in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from langgraph_checkpoint_dual.core.queries import INDEXES, TABLES, Queries, fill
from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.tx import Row, Tx

Work: TypeAlias = Callable[[Tx], Awaitable[Any]]


class SqliteTx:
    """The core's transaction on a `sqlite3` connection. Its methods never suspend."""

    def __init__(self, conn: sqlite3.Connection, queries: Queries, names: dict[str, str]) -> None:
        self._conn, self._queries, self._names = conn, queries, names

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        try:
            return self._cursor().execute(self._queries[query], args).fetchall()
        except sqlite3.OperationalError as exc:
            if "decode" not in str(exc):
                raise
        # Damaged text: its checksum says more than an error about UTF-8.
        factory, self._conn.text_factory = self._conn.text_factory, _damaged_text
        try:
            return self._cursor().execute(self._queries[query], args).fetchall()
        finally:
            self._conn.text_factory = factory

    async def execute(self, query: str, /, **args: Any) -> None:
        if query.startswith("ddl "):
            self._cursor().execute(fill(query[4:], self._names))
            return
        for statement in self._queries[query].split(";\n"):
            self._cursor().execute(statement, args)

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        """Store an addition; after any outcome but `STORED` the caller must roll back."""
        if isinstance(addition, PutWrites):
            self._many("replace_write" if addition.replace else "insert_write", addition.rows)
            return Outcome.STORED
        row = addition.row
        if addition.base is not None:
            base = {"thread_id": row.thread_id, "checkpoint_ns": row.checkpoint_ns, "checkpoint_id": addition.base}
            if await self.fetch("slots", **base) != [(addition.base_slots,)]:
                return Outcome.BASE_GONE
        try:
            self._many("insert_item", addition.items)
        except sqlite3.IntegrityError:
            return Outcome.SEQ_TAKEN
        self._many("insert_checkpoint", [row])
        return Outcome.STORED

    def _many(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._cursor().executemany(self._queries[query], rows)

    def _cursor(self) -> sqlite3.Cursor:
        cursor = self._conn.cursor()
        cursor.row_factory = None  # whatever the user's connection makes of rows
        return cursor


class _NotStored(Exception):
    """Rolls back an addition that had another outcome than `STORED`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


async def stored(change: Callable[[Work], Awaitable[Any]], addition: Put | PutWrites) -> Outcome:
    """Store an addition in a change; another outcome than `STORED` rolls its part back."""

    async def insert(tx: Any) -> Outcome:
        outcome: Outcome = await tx.insert(addition)
        if outcome is not Outcome.STORED:
            raise _NotStored(outcome)
        return outcome

    try:
        result: Outcome = await change(insert)
    except _NotStored as exc:
        return exc.outcome
    return result


def _damaged_text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def quoted_names(prefix: str) -> dict[str, str]:
    """The names of tables and indexes, as SQL."""
    quoted = {name: '"' + f"{prefix}{name}".replace('"', '""') + '"' for name in (*TABLES, *INDEXES)}
    return {**quoted, "migrations_name": "'" + f"{prefix}migrations".replace("'", "''") + "'"}
