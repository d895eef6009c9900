"""The core's transaction on a `sqlite3` connection, and how additions are stored in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from langgraph_checkpoint_dual.core.queries import INDEXES, OPTIONAL_INDEXES, OPTIONAL_TABLES, TABLES, Queries, fill
from langgraph_checkpoint_dual.core.rows import Guard, Named, Outcome, Put, PutWrites, too_large
from langgraph_checkpoint_dual.core.tx import Row, TableGone, Tx

T = TypeVar("T")
Work: TypeAlias = Callable[[Tx], Awaitable[Any]]


class SqliteTx:
    """The core's transaction on a `sqlite3` connection. Its methods never suspend."""

    def __init__(self, conn: sqlite3.Connection, queries: Queries, names: dict[str, str]) -> None:
        self._conn, self._queries, self._names = conn, queries, names

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        try:
            return self._cursor().execute(self._queries[query], args).fetchall()
        except sqlite3.OperationalError as exc:
            _notice_gone(query, exc)
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
        try:
            for statement in self._queries[query].split(";\n"):
                self._cursor().execute(statement, args)
        except sqlite3.OperationalError as exc:
            _notice_gone(query, exc)
            raise

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        self._many(query, rows)

    async def compute(self, weight: int, work: Callable[[], T]) -> T:
        return work()

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        if addition.guard is not None and not await self._is_let_in(addition.thread_id, addition.guard):
            return Outcome.GUARD_GONE
        try:
            return self._store(addition)
        except (sqlite3.DataError, OverflowError) as exc:  # the length of a field, or of a row
            raise too_large(addition, f"this database takes ({exc})") from exc

    def _store(self, addition: Put | PutWrites) -> Outcome:
        if isinstance(addition, PutWrites):
            self._many("replace_write" if addition.replace else "insert_write", addition.rows)
            return Outcome.STORED
        try:
            self._many("insert_item", addition.items)
        except sqlite3.IntegrityError as exc:
            _check_taken(exc)
            return Outcome.SEQ_TAKEN
        if addition.words:
            self._many("load_search", addition.words)
        try:
            self._one("new_checkpoint", addition.row)
        except sqlite3.IntegrityError as exc:
            _check_taken(exc)
            return Outcome.ID_TAKEN
        if addition.thread is not None:
            self._one("touch_thread", addition.thread)
        return Outcome.STORED

    async def _is_let_in(self, thread_id: str, guard: Guard) -> bool:
        where = {"thread_id": thread_id, "checkpoint_ns": guard.checkpoint_ns, "checkpoint_id": guard.checkpoint_id}
        found = await self.fetch("slots", **where)
        if found or guard.slots is not None:
            return guard.slots is None or found == [(guard.slots,)]
        return not await self.fetch("deleted_since", **where)

    def _one(self, query: str, row: tuple[Any, ...]) -> None:
        self._cursor().execute(self._queries[query], row)

    def _many(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            self._cursor().executemany(self._queries[query], rows)

    def _cursor(self) -> sqlite3.Cursor:
        cursor = self._conn.cursor()
        cursor.row_factory = None  # whatever the user's connection makes of rows
        return cursor


def _notice_gone(query: str, exc: sqlite3.OperationalError) -> None:
    if query.startswith("official") and "no such table" in str(exc):
        raise TableGone(query) from exc


def _check_taken(exc: sqlite3.IntegrityError) -> None:
    """A key may be taken. What other constraints and triggers refuse, they alone can explain."""
    if not str(exc).startswith("UNIQUE constraint failed"):
        raise exc


def _damaged_text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def quoted_names(prefix: str) -> dict[str, str]:
    """The names of tables and indexes, as SQL."""
    names = (*TABLES, *INDEXES, *OPTIONAL_TABLES, *OPTIONAL_INDEXES)
    quoted = {name: '"' + f"{prefix}{name}".replace('"', '""') + '"' for name in names}
    literals = {f"{name}_name": "'" + f"{prefix}{name}".replace("'", "''") + "'" for name in ("migrations", "search")}
    return {**quoted, **literals}
