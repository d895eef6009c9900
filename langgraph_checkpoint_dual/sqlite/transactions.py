"""The core's transaction on a `sqlite3` connection, and how additions are stored in it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from itertools import chain, compress
from typing import Any, TypeAlias, TypeVar

from langgraph_checkpoint_dual.core.queries import INDEXES, OPTIONAL_INDEXES, OPTIONAL_TABLES, TABLES, Queries, fill
from langgraph_checkpoint_dual.core.rows import (
    CheckpointRow,
    Guard,
    ItemRow,
    Named,
    Outcome,
    Put,
    PutWrites,
    SearchRow,
    ThreadRow,
    WriteRow,
    size_of,
    too_large,
)
from langgraph_checkpoint_dual.core.tx import Row, TableGone, Tx

T = TypeVar("T")
Work: TypeAlias = "Callable[[Tx], Awaitable[Any]] | Put | PutWrites"
"""What is done in a transaction: an addition is stored, anything else is called."""
_Insert: TypeAlias = Callable[[str, Sequence[tuple[Any, ...]]], None]
_MANY = 8
"""How many rows a statement takes at once. Between two statements other threads get the interpreter."""
_AT_ONCE = 1_000_000
"""Up to how many bytes several additions go into such statements, which hold them twice."""
_ROW = re.compile(r"VALUES (\([?, ]+\))")


class SqliteTx:
    """The core's transaction, on a cursor. Its methods never suspend."""

    def __init__(self, cursor: sqlite3.Cursor, queries: Queries, names: dict[str, str]) -> None:
        self._cursor, self._queries, self._names = cursor, queries, names

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        return self._fetch(query, args)

    def _fetch(self, query: str, args: dict[str, Any]) -> list[Row]:
        try:
            return self._cursor.execute(self._queries[query], args).fetchall()
        except sqlite3.OperationalError as exc:
            _notice_gone(query, exc)
            if "decode" not in str(exc):
                raise
        # Damaged text: its checksum says more than an error about UTF-8.
        conn = self._cursor.connection
        factory, conn.text_factory = conn.text_factory, _damaged_text
        try:
            return self._cursor.execute(self._queries[query], args).fetchall()
        finally:
            conn.text_factory = factory

    async def execute(self, query: str, /, **args: Any) -> None:
        if query.startswith("ddl "):
            self._cursor.execute(fill(query[4:], self._names))
            return
        try:
            for statement in self._queries[query].split(";\n"):
                self._cursor.execute(statement, args)
        except sqlite3.OperationalError as exc:
            _notice_gone(query, exc)
            raise

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        self._rows(query, rows)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work()

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        return self.insert_one(addition)

    def insert_one(self, addition: Put | PutWrites) -> Outcome:
        """As `insert`."""
        guard = addition.guard
        if guard is not None and not self._is_let_in(addition.thread_id, guard):
            return Outcome.GUARD_GONE
        try:
            if isinstance(addition, Put):
                threads = [] if addition.thread is None else [addition.thread]
                return self._store(addition.items, addition.words, [addition.row], threads, self._rows)
            self._rows(_writing(addition), addition.rows)
            return Outcome.STORED
        except (sqlite3.DataError, OverflowError) as exc:  # the length of a field, or of a row
            raise too_large(addition, f"this database takes ({exc})") from exc

    def insert_all(self, additions: Sequence[Put | PutWrites]) -> list[Outcome] | None:
        """Store several additions by few statements.

        `None` if that cannot be: then the transaction must be rolled back, and each addition be tried by itself.
        """
        if sum(map(size_of, additions)) > _AT_ONCE:
            return None
        let_in = self._let_in(additions)
        try:
            outcome = self._store_all(list(compress(additions, let_in)))
        except (sqlite3.DataError, sqlite3.IntegrityError, OverflowError):
            return None
        if outcome is not Outcome.STORED:
            return None
        return [Outcome.STORED if is_let_in else Outcome.GUARD_GONE for is_let_in in let_in]

    def _store_all(self, additions: Sequence[Put | PutWrites]) -> Outcome:
        """Store additions that are let in. After another outcome than `STORED` some of it may be stored."""
        puts: list[Put] = []
        writes: dict[str, list[WriteRow]] = {}
        for one in additions:
            if isinstance(one, Put):
                puts.append(one)
            else:
                writes.setdefault(_writing(one), []).extend(one.rows)
        for query, rows in sorted(writes.items()):
            self._many(query, rows)
        return self._store(
            [item for put in puts for item in put.items],
            [words for put in puts for words in put.words],
            [put.row for put in puts],
            [put.thread for put in puts if put.thread is not None],
            self._many,
        )

    def _store(
        self,
        items: Sequence[ItemRow],
        words: Sequence[SearchRow],
        checkpoints: Sequence[CheckpointRow],
        threads: Sequence[ThreadRow],
        insert: _Insert,
    ) -> Outcome:
        """Store the rows of puts, all that there are of each table."""
        try:
            insert("insert_item", items)
        except sqlite3.IntegrityError as exc:
            _check_taken(exc)
            return Outcome.SEQ_TAKEN
        self._rows("load_search", words)
        try:
            insert("new_checkpoint", checkpoints)
        except sqlite3.IntegrityError as exc:
            _check_taken(exc)
            return Outcome.ID_TAKEN
        insert("touch_thread", [thread[:2] + thread[1:] for thread in threads])
        return Outcome.STORED

    def _is_let_in(self, thread_id: str, guard: Guard) -> bool:
        where = {"thread_id": thread_id, "checkpoint_ns": guard.checkpoint_ns, "checkpoint_id": guard.checkpoint_id}
        found = self._fetch("slots", where)
        if found or guard.slots is not None:
            return guard.slots is None or found == [(guard.slots,)]
        return not self._fetch("deleted_since", where)

    def _let_in(self, additions: Sequence[Put | PutWrites]) -> list[bool]:
        """As `_is_let_in`, of several additions, if none of them was under way."""
        guards = [(one.thread_id, one.guard) for one in additions]
        places = [(thread_id, *guard[:2]) for thread_id, guard in guards if guard is not None]
        slots = {row[:3]: row[3] for row in self._fetch("slots_of", {"checkpoints": json.dumps(places)})}
        return [
            guard is None or _suits(guard, slots.get((thread_id, *guard[:2]))) or self._is_let_in(thread_id, guard)
            for thread_id, guard in guards
        ]

    def _rows(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if len(rows) == 1:
            self._cursor.execute(self._queries[query], rows[0])
        elif rows:
            self._cursor.executemany(self._queries[query], rows)

    def _many(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As `_rows`, by fewer statements."""
        whole = len(rows) - len(rows) % _MANY
        for start in range(0, whole, _MANY):
            values = list(chain.from_iterable(rows[start : start + _MANY]))
            self._cursor.execute(_repeated(self._queries[query]), values)
        self._rows(query, rows[whole:])


def _writing(addition: PutWrites) -> str:
    """The query that stores writes."""
    return "replace_write" if addition.replace else "insert_write"


def _suits(guard: Guard, slots: bytes | None) -> bool:
    """Whether a guard is stored as it should be."""
    return slots is not None and guard.slots in (None, slots)


@lru_cache
def _repeated(insert: str) -> str:
    """A statement that inserts a row, for `_MANY` of them."""
    return _ROW.sub(lambda match: f"VALUES {', '.join([match[1]] * _MANY)}", insert)


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
