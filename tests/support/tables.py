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
    if is_postgres(database):
        return rows(database, sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
    quoted = table.replace('"', '""')
    return rows(database, f'SELECT * FROM "{quoted}"')


def rows(database: str, statement: Any, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The rows that a statement gives, or [] where it gives none; committed."""
    if is_postgres(database):
        with psycopg.connect(database, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()
