"""Named SQL from `.sql` files: those of the core, and those of one database, with its table names filled in."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

TABLES = ("checkpoints", "items", "writes", "migrations")
INDEXES = ("checkpoints_latest", "checkpoints_run")
_NAME = re.compile(r"^-- name: (\S+)\n", re.MULTILINE)
_COMMENT_LINES = re.compile(r"^--(?! name: ).*\n?", re.MULTILINE)


class Queries:
    """The queries of one database, by name.

    A name may carry conditions, each of which is itself a named piece of SQL: `page where thread_id and before`.

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
        base, _, conditions = name.partition(" where ")
        pieces = [self._named[f"{base}.{one}"] for one in conditions.split(" and ")] if conditions else []
        where = f"WHERE {' AND '.join(pieces)}" if pieces else ""
        return fill(self._named[base], {**self._tables, "where": where})


def fill(sql: str, names: dict[str, str]) -> str:
    """SQL with the names in braces replaced by these (quoted) names."""
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], sql)


@lru_cache
def _sections(package: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files(package).iterdir():
        if file.name.endswith(".sql"):
            _, *parts = _NAME.split(_COMMENT_LINES.sub("", file.read_text(encoding="utf-8")))
            found.update(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))
    return found
