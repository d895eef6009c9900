"""Cancellation of coroutines at every point where they suspend, and at random moments."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
import pytest


class CancelAt(Awaitable[Any]):
    """Awaits an operation and cancels it at its n-th suspension: before it waits, or when what it waits for has come.

    `reached` tells whether the operation suspended so often.
    """

    def __init__(self, operation: Coroutine[Any, Any, Any], suspension: int, *, late: bool) -> None:
        self.reached = False
        self._operation, self._suspension, self._late = operation, suspension, late

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._operation.__await__()
        count, sent = 0, None
        try:
            waited = steps.send(None)
            while True:
                count += 1
                if count == self._suspension:
                    self.reached = True
                    if not self._late:
                        task = asyncio.current_task()
                        assert task is not None
                        task.cancel()
                try:
                    sent = yield waited
                except BaseException as exc:
                    waited = steps.throw(exc)
                    continue
                if count == self._suspension and self._late:
                    waited = steps.throw(asyncio.CancelledError())
                else:
                    waited = steps.send(sent)
        except StopIteration as stop:
            return stop.value


@contextmanager
def yielding() -> Iterator[None]:
    """Let the drivers suspend wherever they may, at each lock that is free and at each message to the server."""
    acquire = asyncio.Lock.acquire

    async def suspending(lock: asyncio.Lock) -> Literal[True]:
        await asyncio.sleep(0)
        return await acquire(lock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Lock, "acquire", suspending)
        # For how long psycopg lets its event loop wait, as long as the server keeps up.
        patch.setattr(psycopg.waiting, "MAX_BUSY_TIME", -1.0, raising=False)
        yield


Operation = Callable[[], Coroutine[Any, Any, Any]]
Check = Callable[[], Awaitable[None]]


async def cancel_everywhere(operation: Operation, check: Check) -> int:
    """Cancel the operation at each of its suspensions in turn, early and late; check after each. How often."""
    points = 0
    for late in (False, True):
        for suspension in range(1, 200):
            cancelling = CancelAt(operation(), suspension, late=late)
            await _ended(_awaited(cancelling))
            await check()
            if not cancelling.reached:
                break
            points += 1
    return points


async def cancel_at_random(operations: list[Operation], check: Check, rounds: int) -> None:
    """Begin operations together and cancel some of them at some step of the loop; check after each round."""
    for _ in range(rounds):
        tasks = [asyncio.create_task(operation()) for operation in operations]
        for _ in range(int(random.expovariate(1 / 30))):
            await asyncio.sleep(0)
        for task in random.sample(tasks, random.randint(1, len(tasks))):
            task.cancel()
        for task in tasks:
            await _ended(task)
        await check()


async def _awaited(cancelling: CancelAt) -> Any:
    return await cancelling


async def _ended(awaitable: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
