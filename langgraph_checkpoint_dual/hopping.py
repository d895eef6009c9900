"""The asynchronous `Database` over any blocking one: each effect is one hop to a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from typing import Protocol, TypeVar

from langgraph_checkpoint_dual.core.rows import Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.space import Storage, Vacuumed
from langgraph_checkpoint_dual.core.turns import alongside
from langgraph_checkpoint_dual.core.tx import Tx, finish

T = TypeVar("T")

INLINE_WEIGHT = 32_768
"""Encoding or decoding fewer bytes is quicker than a hop to a thread, and blocks a loop for less than 1 ms."""


class Engine(Storage, Protocol):
    """A blocking database that has a life."""

    def setup(self) -> None:
        """Make the schema, or bring it up to date, once."""
        ...

    def check_open(self) -> None:
        """Raise `ClosedError` if it was closed."""
        ...

    def close(self) -> None:
        """Finish what is under way and close what was opened."""
        ...


class HoppingFace:
    """See the module.

    Args:
        engine: the blocking database.
        executor: where to hop to; the event loop's own threads unless given.
    """

    def __init__(self, engine: Engine, executor: Executor | None = None) -> None:
        self._engine, self._executor = engine, executor

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._hop(partial(alongside, lambda: finish(self._engine.read(look))))

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._hop(lambda: finish(self._engine.change(edit)))

    async def append(self, addition: Put | PutWrites) -> Outcome:
        return await self._hop(lambda: finish(self._engine.append(addition)))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return work() if weigh() < INLINE_WEIGHT else await self._hop(partial(alongside, work))

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """See `Storage`."""
        return await self._hop(lambda: finish(self._engine.vacuum(full=full)))

    async def setup(self) -> None:
        """Make the schema, or bring it up to date."""
        await self._hop(self._engine.setup)

    async def _hop(self, work: Callable[[], T]) -> T:
        self._engine.check_open()
        return await asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, work)
