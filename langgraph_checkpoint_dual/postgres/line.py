"""Write combining on an event loop: what arrives while others are on their way to the server goes with the next ones.

As `combining.Combiner`, for tasks instead of threads: the groups are carried by tasks of their own, so a caller that is
cancelled leaves the others alone. Its own work is done whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class Line(Generic[W]):
    """Works wait in line, and go in groups.

    Args:
        carry: does a group of works and returns a result or an exception for each.
        groups: how many groups may be under way at once.
        largest: how many works at most go in one group.
        slow: after how many seconds a group, which may be stuck, counts no longer; `None` if it always does.
    """

    def __init__(
        self,
        carry: Callable[[Sequence[W]], Awaitable[Sequence[Any]]],
        *,
        groups: int = 4,
        largest: int = 256,
        slow: float | None = None,
    ) -> None:
        self._carry, self._groups, self._largest, self._slow = carry, groups, largest, slow
        self._waiting: list[tuple[W, asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._starting: Coroutine[Any, Any, None] | None = None

    async def submit(self, work: W) -> Any:
        """The result of the work, once it was carried."""
        entry = (work, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._start()
        try:
            return await entry[1]
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(entry)
            raise

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        if self._waiting and self._starting is None and self._under_way < self._groups:
            self._under_way += 1
            going = self._starting = self._go()
            task = asyncio.get_running_loop().create_task(going)
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, going))

    def _ended(self, going: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        """Go on where somebody has cancelled all tasks of the loop, these too, one of them before it began."""
        self._tasks.discard(task)
        if self._starting is going:
            self._starting = None
            self._under_way -= 1
        self._start()

    async def _go(self) -> None:
        """Carry groups until nobody waits. By the time a task begins, all that the loop had ready has got in line."""
        self._starting = None
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
                self._start()
                await self._carry_group(group)
        finally:
            self._under_way -= 1

    async def _carry_group(self, group: Sequence[tuple[W, asyncio.Future[Any]]]) -> None:
        try:
            with self._another_if_slow():
                results = await self._carry([work for work, _ in group])
        except BaseException as exc:
            _settle(group, [exc] * len(group))
            if not isinstance(exc, Exception):
                raise
        else:
            _settle(group, results)

    @contextmanager
    def _another_if_slow(self) -> Iterator[None]:
        if self._slow is None:
            yield
            return
        released: list[bool] = []

        def release() -> None:
            released.append(True)
            self._under_way -= 1
            self._start()

        timer = asyncio.get_running_loop().call_later(self._slow, release)
        try:
            yield
        finally:
            timer.cancel()
            self._under_way += len(released)


def _settle(group: Sequence[tuple[Any, asyncio.Future[Any]]], results: Sequence[Any]) -> None:
    for (_, future), result in zip(group, results, strict=True):
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
