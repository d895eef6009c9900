"""Named SQL from `.sql` files: those of the core, and those of one database, with its table names filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

from langgraph_checkpoint_dual.core.tx import Row, Tx

if TYPE_CHECKING:
    from importlib.abc import Traversable

Conditions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Names of conditions, with the arguments of each."""
TABLES = ("checkpoints", "items", "writes", "threads", "current_threads", "tombstones", "migrations")
INDEXES = (
    "checkpoints_latest",
    "checkpoints_run",
    "items_tagged",
    "writes_status",
    "threads_updated",
    "threads_created",
    "threads_user",
    "current_threads_thread",
    "tombstones_age",
)
OPTIONAL_TABLES = ("search",)
"""Tables that are made when they are first needed."""
OPTIONAL_INDEXES = ("search_index", "search_added", "search_removed", "search_of_items")
_PART = re.compile(r"\{\+(\w+)\}")
_NAME = re.compile(r"^-- name: (.+)\n", re.MULTILINE)
_COMMENT_LINES = re.compile(r"^--(?! name: ).*\n?", re.MULTILINE)


class Queries:
    """The queries of one database, by name.

    A name may carry an order and conditions, each of which is itself a named piece of SQL: `page where before`.
    Queries whose names begin with the same word have the same conditions. `{+name}` in a query stands for another one.

    Args:
        package: the package whose `.sql` files add to (and override) those of the core.
        tables: the quoted name of each table.
    """

    def __init__(self, package: str, tables: dict[str, str]) -> None:
        self._named = {**_sections("langgraph_checkpoint_dual.core"), **_sections(package)}
        self._tables = tables
        self._made: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """The SQL of a query.

        Raises:
            KeyError: if there is none of this name.
        """
        sql = self._made.get(name)
        if sql is None:
            sql = self._made[name] = self._make(name)
        return sql

    def _make(self, name: str) -> str:
        ordered, _, conditions = name.partition(" where ")
        base, _, order = ordered.partition(" by ")
        pieces = [self._named[f"{base.split()[0]}.{one}"] for one in conditions.split(" and ")] if conditions else []
        where = f"WHERE {' AND '.join(pieces)}" if pieces else ""
        sql = self._named[base].replace("{where}", where).replace("{order}", self._named[ordered] if order else "")
        return fill(self._joined(sql), self._tables)

    def _joined(self, sql: str) -> str:
        """SQL with the parts that it names, and those that these name."""
        return _PART.sub(lambda match: self._joined(self._named[match[1]]), sql)


async def fetch_where(tx: Tx, query: str, where: Conditions, **args: Any) -> list[Row]:
    """The rows of a query under these conditions."""
    given = {name: value for some in where.values() for name, value in some.items()}
    return await tx.fetch(f"{query} where {' and '.join(where)}" if where else query, **given, **args)


def fill(sql: str, names: dict[str, str]) -> str:
    """SQL with the names in braces replaced by these (quoted) names."""
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], sql)


@lru_cache
def _sections(package: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in _sql_files(files(package)):
        _, *parts = _NAME.split(_COMMENT_LINES.sub("", file.read_text(encoding="utf-8")))
        named = dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))
        if twice := found.keys() & named.keys():
            raise ValueError(f"{file.name} has queries that another file of {package} has: {', '.join(sorted(twice))}")
        found.update(named)
    return found


def _sql_files(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sql_files(entry)
        elif entry.name.endswith(".sql"):
            yield entry
