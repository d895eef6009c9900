"""Additions as Postgres statements: any number of checkpoints, or of pending writes, in one statement each.

One statement is one round trip and atomic by itself, so it needs no transaction around it, works behind any pooler, and
cannot be left half done by a cancellation. A single addition has statements of its own, without arrays where it needs
none: they take the server half the time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from psycopg import errors, sql

from langgraph_checkpoint_dual.core.queries import INDEXES, OPTIONAL_INDEXES, OPTIONAL_TABLES, TABLES, Queries, fill
from langgraph_checkpoint_dual.core.rows import CheckpointRow, Named, Outcome, Put, PutWrites, WriteRow
from langgraph_checkpoint_dual.core.tx import Row
from langgraph_checkpoint_dual.postgres.arrays import columns
from langgraph_checkpoint_dual.postgres.direct import Direct, direct

PACKAGE = "langgraph_checkpoint_dual.postgres"
Addition: TypeAlias = Put | PutWrites


class Statement(NamedTuple):
    """A statement that stores some additions, which are given by their places in the batch."""

    query: str
    args: dict[str, Any]
    places: list[int]

    def outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        """What became of each addition."""
        stored = {row[0] for row in rows}
        return [Outcome.STORED if at in stored else Outcome.GUARD_GONE for at in range(len(self.places))]


class Dialect:
    """Postgres' queries for one schema and prefix.

    Args:
        schema: the schema of the tables; the connection's search path decides if `None`.
        prefix: what the names of the tables begin with.
    """

    def __init__(self, schema: str | None, prefix: str) -> None:
        def quoted(*parts: str | None) -> str:
            return sql.Identifier(*(part for part in parts if part is not None)).as_string(None)

        tables = {table: quoted(schema, prefix + table) for table in (*TABLES, *OPTIONAL_TABLES)}
        indexes = {index: quoted(prefix + index) for index in (*INDEXES, *OPTIONAL_INDEXES)}
        migrations = tables["migrations"]
        self._names = {
            **tables,
            **indexes,
            "migrations_name": sql.Literal(f"{prefix}migrations").as_string(None),
            "search_name": sql.Literal(f"{prefix}search").as_string(None),
            "schema": quoted(schema or "public"),
            "schema_name": sql.Literal(schema).as_string(None),
            "lock": str(zlib.crc32(migrations.encode())),
        }
        self._queries = Queries(PACKAGE, {name: f"{{{name}}}" for name in self._names})
        self._made: dict[str, bytes] = {}
        self._direct: dict[str, Direct] = {}

    def __getitem__(self, query: str) -> bytes:
        """The SQL of a query in psycopg's notation, as `bytes`: psycopg's types want `str` to be literal."""
        made = self._made.get(query)
        if made is None:
            made = self._made[query] = self._make(query).encode()
        return made

    def direct(self, query: str) -> Direct:
        """A query that is to be run without a cursor."""
        made = self._direct.get(query)
        if made is None:
            made = self._direct[query] = direct(self._queries[query], self._names)
        return made

    def typed(self, query: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of an addition, or of rows to load, for a cursor."""
        return self.direct(query).typed(args)

    def _make(self, query: str) -> str:
        if query.startswith("ddl "):
            return fill(query[4:], self._names)
        names = {name: quoted.replace("%", "%%") for name, quoted in self._names.items()}
        return fill(_noted(self._queries[query]), names)  # last, so that no name is taken for a parameter


def _noted(text: str) -> str:
    # Arrays go in binary form: bytea in text form would double in size. As subqueries they look the same to the planner
    # whatever their length, so it does not plan anew for each.
    text = re.sub(r"(?<!:):(\w+)(::\w+\[\])", r"(SELECT %(\1)b\2)", text)
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", text)


def statements(additions: Sequence[Addition]) -> list[Statement]:
    """The statements that store these additions: one for checkpoints, one or two for pending writes."""
    puts: list[tuple[int, Put]] = []
    kept: list[tuple[int, PutWrites]] = []
    replaced: list[tuple[int, PutWrites]] = []
    for at, addition in enumerate(additions):
        if isinstance(addition, Put):
            puts.append((at, addition))
        else:
            (replaced if addition.replace else kept).append((at, addition))
    made = [_of_puts(puts)] if puts else []
    return made + [_of_writes(some) for some in (kept, replaced) if some]


def without_data(addition: Addition) -> Statement:
    """The statement that lets in an addition whose items, words or writes are stored apart, and stores the rest."""
    if isinstance(addition, Put):
        return _of_put(0, replace(addition, items=[], words=[]))
    return _of_task(0, addition, ())


def outcome_of(addition: Addition, error: Exception) -> Outcome | Exception:
    """What the failure of a statement that stored just this addition means for it."""
    if not isinstance(addition, Put) or not isinstance(error, errors.UniqueViolation):
        return error
    return Outcome.ID_TAKEN if (error.diag.table_name or "").endswith("checkpoints") else Outcome.SEQ_TAKEN


def _of_puts(puts: list[tuple[int, Put]]) -> Statement:
    if len(puts) == 1 and not puts[0][1].words:
        return _of_put(*puts[0])
    puts.sort(key=lambda entry: entry[1].row[:3])
    items = [(place, *item[2:]) for place, (_, put) in enumerate(puts, 1) for item in put.items]
    args = columns(_PUT_COLUMNS, [_row_of(put) for _, put in puts])
    args.update(columns(_ITEM_COLUMNS, items))
    words = [(place, *row[2:]) for place, (_, put) in enumerate(puts, 1) for row in put.words]
    if words:
        args.update(columns(_WORD_COLUMNS, words))
    return Statement("put_with_words" if words else "put", args, [at for at, _ in puts])


def _of_put(at: int, put: Put) -> Statement:
    args: dict[str, Any] = dict(zip(_PUT_COLUMNS, _row_of(put), strict=True))
    if not put.items:
        return Statement("put_one", args, [at])
    args.update(columns(_ITEM_COLUMNS[1:], [item[2:] for item in put.items]))
    return Statement("put_one_with_items", args, [at])


def _row_of(put: Put) -> tuple[Any, ...]:
    """All of a put but its items and words, as `_PUT_COLUMNS` name it."""
    return (*put.row, *(put.thread[1:] if put.thread else _NO_THREAD), *(put.guard or _NO_GUARD))


def _of_task(at: int, one: PutWrites, rows: Sequence[WriteRow]) -> Statement:
    first = one.rows[0]
    args: dict[str, Any] = columns(_VALUE_COLUMNS, [(row.idx, row.channel, row.data) for row in rows])
    args.update(thread_id=first.thread_id, task_id=first.task_id, task_path=first.task_path)
    args.update(zip(_GUARD_COLUMNS, one.guard, strict=True))
    return Statement("replace_writes_of_one" if one.replace else "put_writes_of_one", args, [at])


def _of_writes(writes: list[tuple[int, PutWrites]]) -> Statement:
    if len(writes) == 1:
        [(at, one)] = writes
        return _of_task(at, one, one.rows)
    writes.sort(key=lambda entry: entry[1].thread_id)
    rows = [
        (place, row.task_id, row.idx, row.task_path, row.channel, row.data)
        for place, (_, one) in enumerate(writes, 1)
        for row in one.rows
    ]
    args = columns(_WRITE_COLUMNS, rows)
    args.update(columns(("thread_id", *_GUARD_COLUMNS), [(one.thread_id, *one.guard) for _, one in writes]))
    return Statement("replace_writes" if writes[0][1].replace else "put_writes", args, [at for at, _ in writes])


def of_rows(rows: Sequence[Named]) -> dict[str, Any]:
    """Rows of one kind as one array a column."""
    return columns(rows[0]._fields, rows)


_GUARD_COLUMNS = ("guard_ns", "guard_id", "guard_slots")
_PUT_COLUMNS = (*CheckpointRow._fields, "at", "user_id", "title", "run_metadata", *_GUARD_COLUMNS)
_ITEM_COLUMNS = ("item_place", "item_channel", "item_seq", "item_added_at", "item_checksum", "item_tag", "item_data")
_VALUE_COLUMNS = ("idx", "channel", "data")
_WORD_COLUMNS = ("word_place", "word_channel", "word_seq", "word_added_at", "words")
_WRITE_COLUMNS = ("write_place", "task_id", "idx", "task_path", "channel", "data")
_NO_GUARD = ("", "", b"")
_NO_THREAD = (0, None, None, "{}")
