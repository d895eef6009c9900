"""An event loop that cannot wait for sockets of others, as `ProactorEventLoop`, the default on Windows.

As a program it uses a saver on such a loop and ends: `python -m tests.support.deaf_loop DATABASE`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.support.checkpoints import listed, put

T = TypeVar("T")


class DeafLoop(asyncio.SelectorEventLoop):
    """Has the methods that `ProactorEventLoop` has: those for readers and writers are asyncio's own, which refuse."""

    add_reader = asyncio.AbstractEventLoop.add_reader
    remove_reader = asyncio.AbstractEventLoop.remove_reader
    add_writer = asyncio.AbstractEventLoop.add_writer
    remove_writer = asyncio.AbstractEventLoop.remove_writer


def run_deaf(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    loop = DeafLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def use(database: str) -> None:
    async with AsyncPostgresSaver.from_conn_string(database) as saver:
        await saver.setup()
        await asyncio.gather(*(put(saver) for _ in range(20)))
        assert len(await listed(saver, None)) == 20


if __name__ == "__main__":
    run_deaf(use(sys.argv[1]))
    sys.stdout.write("done")
