"""A load of runs on a saver while faults happen, and the check that nothing acknowledged was lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
from tests.support.checkpoints import config, put
from tests.support.savers import BlockingFace

_KWARGS = {"autocommit": True, "prepare_threshold": 0}
"""What the official savers open their connections with."""
PATIENCE = 60
"""Seconds after which a load that makes no progress fails its test."""


@dataclass(frozen=True)
class Way:
    """One way to open a saver: the class, and what it is given."""

    face: str
    given: str

    def __str__(self) -> str:
        return f"{self.face}-{self.given}"

    @asynccontextmanager
    async def opened(self, uri: str, **options: Any) -> AsyncIterator[Any]:
        """A saver, driven through awaited methods."""
        if self.face == "async":
            async with self._async(uri, options) as saver:
                yield saver
        elif self.given == "string":
            with PostgresSaver(uri, **options) as saver:
                yield BlockingFace(saver)
        else:
            pool = ConnectionPool(uri, kwargs=_KWARGS, min_size=2, max_size=4, open=True)
            with pool, PostgresSaver(pool, **options) as saver:
                yield BlockingFace(saver)

    @asynccontextmanager
    async def _async(self, uri: str, options: Any) -> AsyncIterator[Any]:
        if self.given == "string":
            async with AsyncPostgresSaver(uri, **options) as saver:
                yield saver
            return
        pool = AsyncConnectionPool(uri, kwargs=_KWARGS, min_size=2, max_size=4, open=False)
        async with pool, AsyncPostgresSaver(pool, **options) as saver:
            yield saver


WAYS = [Way(face, given) for face in ("blocking", "async") for given in ("string", "pool")]


class Load:
    """Several runs at once, each putting checkpoints and writes to a thread of its own and reading them back."""

    def __init__(self, saver: Any, runs: int = 3) -> None:
        self._saver, self._runs = saver, runs
        self._changed = threading.Condition()
        self._stopping = False
        self.stored: list[tuple[Any, int]] = []
        self.failures: list[BaseException] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._start(f"run-{number}")) for number in range(self._runs)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE)

    async def progress(self, steps: int = 6) -> None:
        """Wait until this many more steps are acknowledged."""

        def wait() -> bool:
            with self._changed:
                enough = len(self.stored) + steps
                return self._changed.wait_for(lambda: self.failures or len(self.stored) >= enough, PATIENCE)

        assert await asyncio.to_thread(wait), "no progress"
        assert self.failures == []

    async def _start(self, thread: str) -> None:
        if isinstance(self._saver, BlockingFace):  # blocks the loop that it is used on
            await asyncio.to_thread(asyncio.run, self._run(thread))
        else:
            await self._run(thread)

    async def _run(self, thread: str) -> None:
        try:
            place, number = config(thread), 0
            while not self._stopping:
                place = await put(self._saver, place, {"number": number, "log": list(range(number % 50))})
                await self._saver.aput_writes(place, [("number", number)], "task")
                with self._changed:
                    self.stored.append((place, number))
                    self._changed.notify_all()
                await self.check(self._saver, place, number)
                number += 1
        except BaseException as exc:
            with self._changed:
                self.failures.append(exc)
                self._changed.notify_all()

    @staticmethod
    async def check(saver: Any, place: Any, number: int) -> None:
        """Whether a step is there, whole."""
        found = await saver.aget_tuple(place)
        assert found is not None, place
        assert found.checkpoint["channel_values"] == {"number": number, "log": list(range(number % 50))}
        assert found.pending_writes == [("task", "number", number)]

    async def check_all(self, uri: str) -> None:
        """Whether nothing failed, and all that was acknowledged is there, for a saver that knows nothing yet."""
        assert self.failures == []
        async with AsyncPostgresSaver(uri) as fresh:
            for place, number in self.stored:
                await self.check(fresh, place, number)
