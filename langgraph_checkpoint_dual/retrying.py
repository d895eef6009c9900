"""Repeating an operation whose session failed: with growing, random pauses, for a limited time.

What is repeated must be safe to repeat: an attempt that failed may still have been carried out.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from langgraph_checkpoint_dual import observing
from langgraph_checkpoint_dual.errors import UnavailableError

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_log = logging.getLogger("langgraph_checkpoint_dual.retrying")


class InterruptedSession(Exception):
    """A session failed, not what was asked of it: another attempt, on another session, may succeed.

    Args:
        cause: what the driver said.
        again: `False` if this attempt has already waited as long as all may together.
        advice: what the user can do about it.
    """

    def __init__(self, cause: object, *, again: bool = True, advice: str = "") -> None:
        super().__init__(str(cause))
        self.again, self.advice = again, advice


class Attempts:
    """The attempts at one operation.

    Args:
        within: for how many seconds from now to begin new attempts. A lost session is worth a second one even after.
    """

    def __init__(self, within: float) -> None:
        self._within, self._start, self._made = within, time.monotonic(), 0

    def left(self) -> float:
        """Seconds that remain."""
        return max(0.0, self._within - (time.monotonic() - self._start))

    def pause(self, failure: InterruptedSession) -> float:
        """Note that an attempt failed; how many seconds to wait before the next one.

        Raises:
            UnavailableError: if there shall be none.
        """
        self._made += 1
        left = self.left()
        if not failure.again or self._within <= 0 or (left <= 0 and self._made > 1):
            error = UnavailableError(
                failure, attempts=self._made, seconds=time.monotonic() - self._start, advice=failure.advice
            )
            _log.warning("%s is given up: %s", observing.names(), error)
            raise error from failure.__cause__
        pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._made - 1)))
        observing.retried()
        _log.warning(
            "attempt %d at %s failed, the next one follows in %.2f s: %s",
            self._made,
            observing.names(),
            pause,
            str(failure).strip(),
        )
        return min(pause, left)


async def repeated(
    once: Callable[[Attempts], Awaitable[T]], within: float, sleep: Callable[[float], Awaitable[None]]
) -> T:
    """The result of the first attempt whose session did not fail. A `sleep` that blocks suits blocking operations."""
    attempts = Attempts(within)
    while True:
        try:
            return await once(attempts)
        except InterruptedSession as failure:
            pause = attempts.pause(failure)
        await sleep(pause)


async def block(seconds: float) -> None:
    """A `sleep` for operations that may block their thread."""
    time.sleep(seconds)  # noqa: ASYNC251  (blocking is what it is for)
