"""The pools that savers open by themselves, from a connection string or in place of what they were given."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

_CONNECT = {"autocommit": True, "prepare_threshold": None}
_PREPARE_AFTER = 2


def blocking_pool(conninfo: str, options: dict[str, Any]) -> ConnectionPool[Any]:
    """A pool of blocking connections; `options` are those of `pool_options`."""
    return ConnectionPool(conninfo, configure=_prepare_if_direct, open=True, **pool_options(options))


def loop_pool(conninfo: str, options: dict[str, Any]) -> AsyncConnectionPool[Any]:
    """A pool of asynchronous connections, not yet open."""
    return AsyncConnectionPool(conninfo, configure=_aprepare_if_direct, open=False, **pool_options(options))


def pool_options(options: dict[str, Any]) -> dict[str, Any]:
    """The pool's own options as they are, all others for its connections."""
    own = {key: options[key] for key in _POOL_OPTIONS & options.keys()}
    own.setdefault("min_size", 1)
    own.setdefault("max_size", max(10, own["min_size"]))
    return {**own, "kwargs": {**_CONNECT, **{key: options[key] for key in options.keys() - own.keys()}}}


_POOL_OPTIONS = {
    "min_size",
    "max_size",
    "timeout",
    "max_waiting",
    "max_lifetime",
    "max_idle",
    "reconnect_timeout",
    "name",
}


def beside(conn: AsyncConnection[Any] | AsyncConnectionPool[Any]) -> ConnectionPool[Any]:
    """A pool of blocking connections to the same database, for the blocking methods of an asynchronous saver."""
    if isinstance(conn, AsyncConnection):
        conninfo = make_conninfo(conn.info.dsn, password=conn.info.password or None)
        options: dict[str, Any] = {}
    else:
        conninfo = conn.conninfo  # type: ignore[assignment]
        options = {key: value for key, value in (conn.kwargs or {}).items() if key not in _OF_THE_CALLER}  # type: ignore[union-attr]
    return blocking_pool(conninfo, {**options, "min_size": 0, "max_size": 4})


_OF_THE_CALLER = {"autocommit", "row_factory", "cursor_factory", "prepare_threshold", "context"}


def _prepare_if_direct(conn: Connection[Any]) -> None:
    [(pid,)] = conn.execute(b"SELECT pg_backend_pid()")
    _decide(conn, pid)


async def _aprepare_if_direct(conn: AsyncConnection[Any]) -> None:
    [pid] = await (await conn.execute(b"SELECT pg_backend_pid()")).fetchone()  # type: ignore[misc]
    _decide(conn, pid)


def _decide(conn: Connection[Any] | AsyncConnection[Any], pid: int) -> None:
    # A pooler tells another process number than the server: behind one, prepared statements are not ours alone.
    if conn.prepare_threshold is None and conn.info.backend_pid == pid:
        conn.prepare_threshold = _PREPARE_AFTER
