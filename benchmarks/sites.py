"""The place of one trial: a fresh database for one saver, how to open savers on it, and how big it has become."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.savers import MEMORY, Saver, SaverKind, open_async_saver, open_saver
from benchmarks.server import PostgresServer, database_bytes


class Site:
    """A fresh database for one saver.

    Attributes:
        kind: the saver's class.
        location: path of the SQLite file or Postgres connection string; empty for InMemorySaver.
    """

    def __init__(self, kind: SaverKind, location: str) -> None:
        self.kind = kind
        self.location = location
        self._memory = InMemorySaver() if kind == MEMORY else None

    @contextmanager
    def open(self, pool: int | None = None) -> Iterator[Saver]:
        """A blocking saver on this database: a new object every time, except for InMemorySaver."""
        if self._memory is not None:
            yield self._memory
        else:
            with open_saver(self.kind, self.location, pool) as saver:
                yield saver

    @asynccontextmanager
    async def aopen(self, pool: int | None = None) -> AsyncIterator[Saver]:
        """The same for the async class."""
        if self._memory is not None:
            yield self._memory
        else:
            async with open_async_saver(self.kind, self.location, pool) as saver:
                yield saver

    def size(self) -> int | None:
        """Bytes of the database; None for InMemorySaver."""
        if self.kind.database == "sqlite":
            return _sqlite_bytes(Path(self.location))
        if self.kind.database == "postgres":
            return database_bytes(self.location)
        return None


def _sqlite_bytes(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise RuntimeError("the saver holds a transaction open: its file cannot be measured")
    return sum(os.path.getsize(p) for p in (path, Path(f"{path}-wal")) if p.exists())


@contextmanager
def fresh_site(kind: SaverKind, server: PostgresServer) -> Iterator[Site]:
    """A site that is removed at the end."""
    if kind.database == "postgres":
        with server.database() as location:
            yield Site(kind, location)
    elif kind.database == "sqlite":
        with tempfile.TemporaryDirectory(prefix="bench-sqlite-") as folder:
            yield Site(kind, str(Path(folder) / "checkpoints.sqlite"))
    else:
        yield Site(kind, "")
