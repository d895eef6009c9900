"""What is really in a database, read without the package."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql

_POSTGRES_TABLES = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
)
_SQLITE_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"


def is_postgres(database: str) -> bool:
    return "dbname=" in database or database.startswith("postgres")


def tables(database: str) -> set[str]:
    """Names of the user tables."""
    return {name for (name,) in rows(database, _POSTGRES_TABLES if is_postgres(database) else _SQLITE_TABLES)}


def data_tables(database: str) -> set[str]:
    """Names of the tables that hold checkpoints, that is, all but the record of migrations."""
    return {name for name in tables(database) if "migrations" not in name}


def contents(database: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in a settled order."""
    return {name: sorted(all_rows(database, name), key=repr) for name in sorted(tables(database))}


def counts(database: str) -> dict[str, int]:
    """How many rows each table that holds checkpoints has."""
    return {name: len(all_rows(database, name)) for name in sorted(data_tables(database))}


def all_rows(database: str, table: str) -> list[tuple[Any, ...]]:
    return _ask(database, _select_all(database, table))[1]


def named_rows(database: str, table: str) -> list[dict[str, Any]]:
    """Every row of a table, by column."""
    names, found = _ask(database, _select_all(database, table))
    return [dict(zip(names, row, strict=True)) for row in found]


def rows(database: str, statement: Any, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The rows that a statement gives, or [] where it gives none; committed."""
    return _ask(database, statement, parameters)[1]


def _select_all(database: str, table: str) -> Any:
    if is_postgres(database):
        return sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
    quoted = table.replace('"', '""')
    return f'SELECT * FROM "{quoted}"'


def _ask(database: str, statement: Any, parameters: tuple[Any, ...] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
    if is_postgres(database):
        with psycopg.connect(database, autocommit=True) as connection:
            cursor: Any = connection.execute(statement, parameters or None)
            return ([column[0] for column in cursor.description], cursor.fetchall()) if cursor.description else ([], [])
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.create_function("flip", 1, _flipped)
        cursor = connection.execute(statement, parameters)
        return [column[0] for column in cursor.description or ()], cursor.fetchall()


def _flipped(data: bytes) -> bytes:
    """The bytes with the last one inverted."""
    return data[:-1] + bytes([data[-1] ^ 255])
