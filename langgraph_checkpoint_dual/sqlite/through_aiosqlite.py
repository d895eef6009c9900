"""A user's `aiosqlite.Connection`: every operation goes to its thread whole, as one function.

Its thread runs one function after the other, so operations queue there and never wait for an event loop: a blocking
method works even on the thread of the loop that other operations of the saver are waiting on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiosqlite

from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.space import Vacuumed
from langgraph_checkpoint_dual.core.turns import alongside
from langgraph_checkpoint_dual.core.tx import Tx, finish
from langgraph_checkpoint_dual.errors import ClosedError
from langgraph_checkpoint_dual.hopping import INLINE_WEIGHT
from langgraph_checkpoint_dual.sqlite.connections import CLOSED, OneConnection
from langgraph_checkpoint_dual.sqlite.driver import SqliteEngine

T = TypeVar("T")


class AiosqliteFace:
    """The asynchronous `Database` on an `aiosqlite.Connection`."""

    def __init__(self, conn: aiosqlite.Connection, *, prefix: str, timeout: float) -> None:
        self._conn, self._prefix, self._timeout = conn, prefix, timeout
        self._engine: SqliteEngine | None = None
        self._closed = False

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._on_its_thread(lambda engine: finish(engine.read(look)))

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._on_its_thread(lambda engine: finish(engine.change(edit)))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return await self._on_its_thread(lambda engine: finish(engine.append(addition)))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work() if weigh() < INLINE_WEIGHT else await asyncio.to_thread(alongside, work)

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`."""
        return await self._on_its_thread(lambda engine: finish(engine.vacuum(full=full)))

    async def setup(self) -> None:
        """Make the schema, or bring it up to date."""
        await self._on_its_thread(lambda engine: engine.setup())

    async def verify(self) -> None:
        """As `SqliteEngine.verify`."""
        await self._on_its_thread(lambda engine: engine.verify())

    def close(self) -> None:
        """Refuse further operations; the connection stays open."""
        self._closed = True

    async def _on_its_thread(self, work: Callable[[SqliteEngine], T]) -> T:
        if self._closed:
            raise ClosedError(CLOSED)
        # aiosqlite has no public way to run a function on its thread, and none to ask whether it is connected.
        if self._conn._connection is None and not self._conn._thread.is_alive():
            await self._conn
        if self._engine is None:
            self._engine = SqliteEngine(
                OneConnection(self._conn._conn, owned=False), prefix=self._prefix, timeout=self._timeout
            )
        try:
            result: T = await self._conn._execute(work, self._engine)  # type: ignore[no-untyped-call]
        except ValueError as exc:
            if self._conn._connection is None:
                raise ClosedError("the aiosqlite connection of this saver was closed") from exc
            raise
        return result


class AiosqliteBlockingFace:
    """The blocking `Database` on an `aiosqlite.Connection`: a passing event loop on another thread waits for it."""

    def __init__(self, face: AiosqliteFace) -> None:
        self._face = face

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return _elsewhere(self._face.read(look))

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return _elsewhere(self._face.change(edit))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return _elsewhere(self._face.append(addition))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work()

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`."""
        return _elsewhere(self._face.vacuum(full=full))


def _elsewhere(operation: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, operation).result()
