"""Work on an event loop that cancellation does not stop half way, such as giving a connection back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unhindered(work: Coroutine[Any, Any, T]) -> T:
    """Do some work to its end, also if the caller is cancelled meanwhile, who is then told at once."""
    return await asyncio.shield(asyncio.ensure_future(work))


async def unhindered_if_slow(work: Coroutine[Any, Any, T]) -> T:
    """As `unhindered`, for work that seldom has to wait: only then is a task made for the rest of it.

    It must have no time limit of asyncio's, which would end whichever task has set it.
    """
    try:
        waited = work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    return await unhindered(_rest(work, waited))


@coroutine
def _rest(work: Coroutine[Any, Any, T], waited: Any) -> Generator[Any, Any, T]:
    """What is left of work that has begun, from what it waits for."""
    try:
        while True:
            try:
                yield waited
            except BaseException as exc:
                waited = work.throw(exc)
            else:
                waited = work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
