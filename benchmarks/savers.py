"""The savers that are compared, each behind one name and one way to open it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from langgraph.checkpoint.base import BaseCheckpointSaver

Saver = BaseCheckpointSaver[str]

PACKAGES = {"dual": "langgraph_checkpoint_dual", "official": "langgraph.checkpoint"}


@dataclass(frozen=True)
class SaverKind:
    """One class of saver: who wrote it (`maker`), which database it uses, and whether it is the async class."""

    maker: str
    database: str
    is_async: bool = False

    @property
    def name(self) -> str:
        """The name on the command line and in the results, for example `official-async-sqlite`."""
        if self.maker == "memory":
            return "memory"
        return "-".join([self.maker, *(["async"] if self.is_async else []), self.database])

    @property
    def official(self) -> str:
        """The name of the official saver of the same database and kind."""
        return SaverKind("official", self.database, self.is_async).name

    def importable(self) -> bool:
        """Whether the class can be imported here."""
        try:
            return self.maker == "memory" or self.load() is not None
        except (ImportError, AttributeError):
            return False

    def _module(self) -> str:
        return f"{PACKAGES[self.maker]}.{self.database}" + (".aio" if self.is_async else "")

    def load(self) -> Any:
        """The saver class."""
        database = {"sqlite": "Sqlite", "postgres": "Postgres"}[self.database]
        return getattr(import_module(self._module()), f"{'Async' if self.is_async else ''}{database}Saver")


MEMORY = SaverKind("memory", "memory")
SYNC_SQLITE = (SaverKind("dual", "sqlite"), SaverKind("official", "sqlite"))
SYNC_POSTGRES = (SaverKind("dual", "postgres"), SaverKind("official", "postgres"))
ASYNC_SQLITE = (SaverKind("dual", "sqlite", True), SaverKind("official", "sqlite", True))
ASYNC_POSTGRES = (SaverKind("dual", "postgres", True), SaverKind("official", "postgres", True))
SYNC = SYNC_SQLITE + SYNC_POSTGRES
ASYNC = ASYNC_SQLITE + ASYNC_POSTGRES
KINDS = {kind.name: kind for kind in (*SYNC, *ASYNC, MEMORY)}


@contextmanager
def open_saver(kind: SaverKind, location: str, pool: int | None = None) -> Iterator[Saver]:
    """Open a blocking saver, ready for use, on a file or a connection string.

    Args:
        kind: the class.
        location: path of the SQLite file, or Postgres connection string.
        pool: connections of the Postgres pool; None is what `from_conn_string` does by default. Ignored for SQLite.
    """
    with _sync_context(kind, location, pool) as saver:
        if kind.database == "postgres":
            saver.setup()
        yield saver


def _sync_context(kind: SaverKind, location: str, pool: int | None) -> AbstractContextManager[Any]:
    if kind.database == "sqlite" or pool is None:
        return cast("AbstractContextManager[Any]", kind.load().from_conn_string(location))
    if kind.maker == "dual":
        return cast("AbstractContextManager[Any]", kind.load().from_conn_string(location, min_size=pool, max_size=pool))
    return _official_pool(kind, location, pool)


@contextmanager
def _official_pool(kind: SaverKind, location: str, size: int) -> Iterator[Any]:
    from psycopg_pool import ConnectionPool

    with ConnectionPool(location, min_size=size, max_size=size, kwargs=_official_connection()) as pool:
        pool.wait()
        yield kind.load()(pool)


@asynccontextmanager
async def open_async_saver(kind: SaverKind, location: str, pool: int | None = None) -> AsyncIterator[Saver]:
    """Open an async saver, ready for use; the arguments are those of `open_saver`."""
    if kind.database == "sqlite" or pool is None:
        context = kind.load().from_conn_string(location)
    elif kind.maker == "dual":
        context = kind.load().from_conn_string(location, min_size=pool, max_size=pool)
    else:
        context = _official_async_pool(kind, location, pool)
    async with context as saver:
        if kind.database == "postgres":
            await saver.setup()
        yield saver


@asynccontextmanager
async def _official_async_pool(kind: SaverKind, location: str, size: int) -> AsyncIterator[Any]:
    from psycopg_pool import AsyncConnectionPool

    pool: Any = AsyncConnectionPool(location, min_size=size, max_size=size, kwargs=_official_connection(), open=False)
    async with pool:
        await pool.wait()
        yield kind.load()(pool)


def _official_connection() -> dict[str, Any]:
    """The connection options that the official documentation asks for."""
    from psycopg.rows import dict_row

    return {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}


def ensure_schema(kind: SaverKind, location: str) -> None:
    """Create the saver's tables, so that processes that start together do not race for it."""
    if kind.is_async:
        asyncio.run(_ensure_schema_async(kind, location))
    else:
        with open_saver(kind, location) as saver:
            list(saver.list({"configurable": {"thread_id": "none"}}, limit=1))


async def _ensure_schema_async(kind: SaverKind, location: str) -> None:
    async with open_async_saver(kind, location) as saver:
        async for _ in saver.alist({"configurable": {"thread_id": "none"}}, limit=1):
            pass
