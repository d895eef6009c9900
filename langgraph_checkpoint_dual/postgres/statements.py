"""Additions as Postgres statements: any number of checkpoints, or of pending writes, in one statement each.

One statement is one round trip and atomic by itself, so it needs no transaction around it, works behind any pooler, and
cannot be left half done by a cancellation.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from psycopg import errors, sql
from psycopg.types.numeric import Int8

from langgraph_checkpoint_dual.core.queries import INDEXES, TABLES, Queries, fill
from langgraph_checkpoint_dual.core.rows import CheckpointRow, Guard, Named, Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.tx import Row

PACKAGE = "langgraph_checkpoint_dual.postgres"
Addition: TypeAlias = Put | PutWrites


class Statement(NamedTuple):
    """A statement that stores some additions, which are given by their places in the batch."""

    query: str
    args: dict[str, list[Any]]
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

        tables = {table: quoted(schema, prefix + table) for table in TABLES}
        indexes = {index: quoted(prefix + index) for index in INDEXES}
        migrations = tables["migrations"]
        self._names = {
            **tables,
            **indexes,
            "migrations_name": sql.Literal(f"{prefix}migrations").as_string(None),
            "schema": quoted(schema or "public"),
            "schema_name": sql.Literal(schema).as_string(None),
            "lock": str(zlib.crc32(migrations.encode())),
        }
        self._queries = Queries(PACKAGE, {name: f"{{{name}}}" for name in self._names})
        self._made: dict[str, bytes] = {}

    def __getitem__(self, query: str) -> bytes:
        """The SQL of a query in psycopg's notation, as `bytes`: psycopg's types want `str` to be literal."""
        made = self._made.get(query)
        if made is None:
            made = self._made[query] = self._make(query).encode()
        return made

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
    """The statements that store these additions: one for checkpoints, one for pending writes."""
    puts = [(at, addition) for at, addition in enumerate(additions) if isinstance(addition, Put)]
    writes = [(at, addition) for at, addition in enumerate(additions) if isinstance(addition, PutWrites)]
    return [*([_of_puts(puts)] if puts else []), *([_of_writes(writes)] if writes else [])]


def outcome_of(addition: Addition, error: Exception) -> Outcome | Exception:
    """What the failure of a statement that stored just this addition means for it."""
    return Outcome.SEQ_TAKEN if isinstance(addition, Put) and isinstance(error, errors.UniqueViolation) else error


def _of_puts(puts: list[tuple[int, Put]]) -> Statement:
    puts.sort(key=lambda entry: entry[1].row[:3])
    items = [
        (place, item.channel, item.seq, item.added_at, item.checksum, item.data)
        for place, (_, put) in enumerate(puts, 1)
        for item in put.items
    ]
    args = _columns(CheckpointRow._fields, [put.row for _, put in puts])
    args.update(_columns(_ITEM_COLUMNS, items))
    args.update(_columns(_THREAD_COLUMNS, [put.thread[1:] if put.thread else _NO_THREAD for _, put in puts]))
    args.update(_guards([put.guard for _, put in puts]))
    return Statement("put", args, [at for at, _ in puts])


def _of_writes(writes: list[tuple[int, PutWrites]]) -> Statement:
    rows = [
        (place, row.task_id, row.idx, row.task_path, row.channel, row.data, int(one.replace))
        for place, (_, one) in enumerate(writes, 1)
        for row in one.rows
    ]
    args = _columns(_WRITE_COLUMNS, rows)
    args["thread_id"] = [one.thread_id for _, one in writes]
    args.update(_guards([one.guard for _, one in writes]))
    return Statement("put_writes", args, [at for at, _ in writes])


def _guards(guards: Sequence[Guard | None]) -> dict[str, list[Any]]:
    return {
        "guard_ns": [guard.checkpoint_ns if guard else "" for guard in guards],
        "guard_id": [guard.checkpoint_id if guard else "" for guard in guards],
        "guard_slots": [guard.slots or b"" if guard else b"" for guard in guards],
    }


def columns(rows: Sequence[Named]) -> dict[str, list[Any]]:
    """Rows of one kind as one array a column."""
    return _columns(rows[0]._fields, rows)


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return {name: _column(name, column) for name, column in zip(names, columns, strict=True)}


def _column(name: str, values: Sequence[Any]) -> list[Any]:
    """A column as an array whose type does not depend on its values: a prepared statement is one for its types."""
    if name in _NUMBERS:
        return [Int8(value) for value in values]
    if name in _NULLABLE:
        empty = _NULLABLE[name]
        return [empty if value is None else value for value in values]
    return list(values)


_ITEM_COLUMNS = ("item_place", "item_channel", "item_seq", "item_added_at", "item_checksum", "item_data")
_WRITE_COLUMNS = ("write_place", "task_id", "idx", "task_path", "channel", "data", "replace")
_THREAD_COLUMNS = ("at", "user_id", "title", "run_metadata")
_NO_THREAD = (0, None, None, "{}")
_NUMBERS = {
    "idx", "item_place", "item_seq", "item_added_at", "item_checksum", "write_place", "replace", "at",
    "seq", "added_at", "checksum", "created_at", "updated_at",
}  # fmt: skip
_NULLABLE: dict[str, str | bytes] = {
    "parent_checkpoint_id": "",
    "run_id": "",
    "metadata_exact": b"",
    "user_id": "",
    "title": "",
}
