"""On a large state an event loop has its turns: threads do the work, and leave it the interpreter every now and then.

Nothing here measures time: what threads do is counted.
"""

from __future__ import annotations

import sys
import threading
from asyncio import Handle
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langgraph_checkpoint_dual.core.turns import alongside, give_way
from tests.support.checkpoints import config, put
from tests.support.savers import KINDS, Kind, opened

ASYNC = pytest.mark.parametrize("kind", [KINDS[1], KINDS[3]], ids=str)
MANY = 6000
CHAT = [(AIMessage if at % 2 else HumanMessage)(f"{at}: " + "some words " * 25, id=f"m{at}") for at in range(MANY)]
STATE: dict[str, Any] = {
    "messages": CHAT,
    "bytes": bytes(3_000_000),
    "rows": {f"row {at}": ["some", "words", at] * 4 for at in range(MANY)},
}

Operation = Callable[[], Awaitable[Any]]


async def operations(kind: Kind, database: str, around: Callable[[str, Operation], Awaitable[Any]]) -> None:
    """Put a large state, put one that has grown, read it with and without knowing it; each through `around`."""
    async with opened(kind.ours, database) as saver:
        await saver.aget_tuple(config())
        stored = await around("put", lambda: put(saver, values=STATE))
        grown = {**STATE, "messages": [*CHAT, HumanMessage("more", id="more")], "bytes": bytes(3_000_001)}
        await around("append", lambda: put(saver, stored, grown))
    async with opened(kind.ours, database) as saver:
        for name in ("cold", "warm", "warm again"):
            found = await around(name, lambda: saver.aget_tuple(config()))
            assert found.checkpoint["channel_values"] == grown


class Steps:
    """Counts the calls that one thread makes, in the callback of its loop that makes the most."""

    def __init__(self) -> None:
        self.most = self._now = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code is Handle._run.__code__:
            self._now = 0
        elif event in ("call", "c_call"):
            self._now += 1
            self.most = max(self.most, self._now)


@ASYNC
async def test_the_loop_does_not_go_through_a_large_state(kind: Kind, database: str) -> None:
    most: dict[str, int] = {}

    async def counted(name: str, operation: Operation) -> Any:
        steps = Steps()
        before = sys.getprofile()
        sys.setprofile(steps)
        try:
            return await operation()
        finally:
            sys.setprofile(before)
            most[name] = steps.most

    await operations(kind, database, counted)
    assert max(most.values()) < MANY / 2, most


class Stretches(Steps):
    """Counts the calls that a thread makes between two in which it gives way."""

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[int, int] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        thread = threading.get_ident()
        if frame.f_code is give_way.__code__:
            self._of[thread] = 0
        elif event in ("call", "c_call"):
            self._of[thread] = self._of.get(thread, 0) + 1
            self.most = max(self.most, self._of[thread])


@ASYNC
async def test_threads_give_way_again_and_again(kind: Kind, database: str) -> None:
    most: dict[str, int] = {}

    async def counted(name: str, operation: Operation) -> Any:
        stretches = Stretches()
        counting.append(stretches)
        try:
            return await operation()
        finally:
            counting.pop()
            most[name] = stretches.most

    def count(frame: FrameType, event: str, arg: Any) -> None:
        if counting:
            counting[-1](frame, event, arg)

    counting: list[Stretches] = []
    before = threading.getprofile()
    threading.setprofile(count)  # for the threads that begin now
    try:
        await operations(kind, database, counted)
    finally:
        threading.setprofile(before)
    assert max(most.values()) < MANY * 1.5, most
    assert min(most.values()) > 0


def test_who_gives_way_lets_others_run() -> None:
    """Nobody else would, because nobody takes the interpreter from anybody here."""
    has_run, usual = threading.Event(), sys.getswitchinterval()

    def work() -> bool:
        threading.Thread(target=has_run.set).start()
        for _ in range(100_000_000):
            if has_run.is_set():
                return True
            give_way()
        return False

    sys.setswitchinterval(1000)
    try:
        assert alongside(work)
    finally:
        sys.setswitchinterval(usual)
