"""The pools that savers open by themselves, from a connection string or in place of what they were given."""

from __future__ import annotations

import asyncio
import inspect
import os
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from psycopg import AsyncConnection, Connection, Error
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

_CONNECT = {"autocommit": True, "prepare_threshold": None}
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A peer that is gone without a word is noticed within 30 s, unless the connection string says otherwise."""
_PREPARE_AFTER = 1
_WHO = b"SELECT pg_backend_pid()"
_RECONNECT_SECONDS = 2.0
_PROBE_SECONDS = 3


class BlockingPool(ConnectionPool[Any]):
    """A pool that lends what came back last: its session is warm, and has the statements prepared."""

    def _get_ready_connection(self, timeout: float | None) -> Connection[Any] | None:
        self._pool.rotate()
        return super()._get_ready_connection(timeout)

    def ready(self) -> Connection[Any] | None:
        """A connection that nobody has to wait for, if there is one: `getconn` without what waiting takes."""
        if self._closed or self._check:
            return None
        with self._lock:
            if not self._pool:
                return None
            conn: Connection[Any] = self._pool.pop()
            self._nconns_min = min(self._nconns_min, len(self._pool))
            self._stats[self._REQUESTS_NUM] += 1
        conn._pool = self
        return conn


def blocking_pool(conninfo: str, options: dict[str, Any]) -> ConnectionPool[Any]:
    """A pool of blocking connections; `options` are those of `pool_options`."""
    return BlockingPool(
        conninfo,
        configure=_prepare_if_direct,
        reconnect_failed=_go_on,
        open=True,
        **pool_options(conninfo, options),
    )


class _LoopPool(AsyncConnectionPool[Any]):
    """As `BlockingPool`; and its tasks end with their event loop, also while they connect."""

    async def _get_ready_connection(self, timeout: float | None) -> AsyncConnection[Any] | None:
        self._pool.rotate()
        return await super()._get_ready_connection(timeout)

    def ready(self) -> AsyncConnection[Any] | None:
        """A connection that nobody has to wait for, if there is one."""
        if not self._pool or self._closed or self._check:
            return None
        conn: AsyncConnection[Any] = self._pool.pop()
        self._nconns_min = min(self._nconns_min, len(self._pool))
        self._stats[self._REQUESTS_NUM] += 1
        conn._pool = self
        return conn

    @classmethod
    async def worker(cls, q: Any) -> None:
        # A worker that is connecting swallows its cancellation, and then waits for work for ever.
        inner = asyncio.ensure_future(super().worker(q))
        try:
            await asyncio.wait([inner])
        finally:
            while not inner.done():
                inner.cancel()
                await asyncio.wait([inner], timeout=0.1)


def loop_pool(conninfo: str, options: dict[str, Any]) -> AsyncConnectionPool[Any]:
    """A pool of asynchronous connections, not yet open."""
    return _LoopPool(
        conninfo,
        configure=_aprepare_if_direct,
        reconnect_failed=_ago_on,
        open=False,
        **pool_options(conninfo, options),
    )


async def borrowed(pool: AsyncConnectionPool[Any], timeout: float) -> AsyncConnection[Any]:
    """A connection of a pool. One that comes after its borrower was cancelled goes back, wherever that was.

    Raises:
        PoolTimeout: if none comes within `timeout` seconds.
    """
    if isinstance(pool, _LoopPool) and (conn := pool.ready()) is not None:
        return conn
    borrowing = asyncio.ensure_future(pool.getconn(timeout))
    try:
        return await asyncio.shield(borrowing)
    except asyncio.CancelledError:
        borrowing.add_done_callback(partial(_hand_back, pool))
        raise


def _hand_back(pool: AsyncConnectionPool[Any], borrowing: asyncio.Future[AsyncConnection[Any]]) -> None:
    if not borrowing.cancelled() and borrowing.exception() is None:
        returning = asyncio.ensure_future(pool.putconn(borrowing.result()))
        _RETURNING.add(returning)
        returning.add_done_callback(_RETURNING.discard)


_RETURNING: set[asyncio.Future[None]] = set()
"""An event loop keeps no task alive by itself."""


def pool_options(conninfo: str, options: dict[str, Any]) -> dict[str, Any]:
    """The pool's own options as they are, all others for its connections."""
    own = {key: options[key] for key in _POOL_OPTIONS & options.keys()}
    own.setdefault("min_size", 1)
    own.setdefault("max_size", max(10, own["min_size"]))
    own.setdefault("reconnect_timeout", _RECONNECT_SECONDS)
    said = conninfo_to_dict(conninfo).keys()
    network = {key: value for key, value in _NETWORK.items() if key not in said}
    others = {key: options[key] for key in options.keys() - own.keys()}
    return {**own, "kwargs": {**_CONNECT, **network, **others}}


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


class Beside:
    """Opens a pool of blocking connections to the same database, for the blocking methods of an asynchronous saver.

    Attributes:
        in_place: whether the asynchronous ones cannot be used, so that the pool is as large as theirs may be.
    """

    def __init__(self, conn: AsyncConnection[Any] | AsyncConnectionPool[Any]) -> None:
        self._conn, self.in_place = conn, False

    def __call__(self) -> ConnectionPool[Any]:
        conn, size = self._conn, {"min_size": 0, "max_size": _FEW}
        if isinstance(conn, AsyncConnection):
            return blocking_pool(make_conninfo(conn.info.dsn, password=conn.info.password or None), size)
        kwargs: Any = conn.kwargs or {}
        options = {key: value for key, value in kwargs.items() if key not in _OF_THE_CALLER}
        if self.in_place:
            size |= {name: getattr(conn, name) for name in _LIMITS}
            options |= {key: kwargs[key] for key in kwargs.keys() & {"prepare_threshold"}}
        return blocking_pool(cast(str, conn.conninfo), {**options, **size})


_FEW = 4
_LIMITS = ("max_size", "timeout", "max_waiting", "max_lifetime", "max_idle")
_OF_THE_CALLER = {"autocommit", "row_factory", "cursor_factory", "prepare_threshold", "context"}


_OPENED: WeakSet[Connection[Any] | AsyncConnection[Any]] = WeakSet()
"""The connections of pools that savers have opened."""


def leave_to_parent() -> None:
    """After a fork, in the child: never send anything to the parent's sessions, nor end them when objects go."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for conn in list(_OPENED):
        with suppress(Error, OSError):  # unless it is closed
            os.dup2(nowhere, conn.fileno())
    _OPENED.clear()
    os.close(nowhere)


def _prepare_if_direct(conn: Connection[Any]) -> None:
    _OPENED.add(conn)
    if conn.prepare_threshold is None and is_direct(conn):
        conn.prepare_threshold = _PREPARE_AFTER


async def _aprepare_if_direct(conn: AsyncConnection[Any]) -> None:
    _OPENED.add(conn)
    if conn.prepare_threshold is None and await ais_direct(conn):
        conn.prepare_threshold = _PREPARE_AFTER


def is_direct(conn: Connection[Any]) -> bool:
    """Whether no pooler lies between: one tells another process number than the server itself.

    Behind one, the names of prepared statements are not ours alone: a name may mean a statement of somebody else.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(_WHO, prepare=False).fetchone() == (conn.info.backend_pid,)


async def ais_direct(conn: AsyncConnection[Any]) -> bool:
    """As `is_direct`."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        return await (await cursor.execute(_WHO, prepare=False)).fetchone() == (conn.info.backend_pid,)


def _go_on(pool: ConnectionPool[Any]) -> None:
    """Try again soon while someone waits. By itself the pool pauses ever longer, and in the end forgets who waits."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


async def _ago_on(pool: AsyncConnectionPool[Any]) -> None:
    if pool.get_stats().get("requests_waiting"):
        await pool.check()


def probe(pool: ConnectionPool[Any]) -> Error | None:
    """Why the pool cannot connect; `None` if it can."""
    conninfo = pool.conninfo() if callable(pool.conninfo) else pool.conninfo
    kwargs = pool.kwargs() if callable(pool.kwargs) else pool.kwargs
    try:
        pool.connection_class.connect(conninfo, **{**(kwargs or {}), "connect_timeout": _PROBE_SECONDS}).close()
    except Error as exc:
        return exc
    return None


async def aprobe(pool: AsyncConnectionPool[Any]) -> Error | None:
    """As `probe`."""
    conninfo, kwargs = await _resolved(pool.conninfo), await _resolved(pool.kwargs)
    options = {**(kwargs or {}), "connect_timeout": _PROBE_SECONDS}
    try:
        await (await pool.connection_class.connect(conninfo, **options)).close()
    except Error as exc:
        return exc
    return None


async def _resolved(value: Any) -> Any:
    found = value() if callable(value) else value
    return await found if inspect.isawaitable(found) else found
