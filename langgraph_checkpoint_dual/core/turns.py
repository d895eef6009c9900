"""Long work in a thread beside an event loop, with which it takes turns.

The interpreter runs one thread at a time. Who waits for it gets it after 5 ms (`sys.getswitchinterval`), and later if
it was free for a moment meanwhile, for then the waiting begins again. So long work gives way on its own: it sleeps for
a moment, every millisecond or so, wherever it calls `give_way`. What a single call of C code takes, nothing divides.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_TURN = 0.001
_PAUSE = 0.00005
"""In seconds. A shorter sleep may end before the other thread has woken up."""
NO_FULL_ONES = 1_000_000
"""After how many collections of younger objects the garbage collector would go through all of them meanwhile."""


class _Turn:
    """When the work that runs in a context is to give way next."""

    __slots__ = ("end",)

    def __init__(self) -> None:
        self.end = time.perf_counter() + _TURN


_turn: ContextVar[_Turn | None] = ContextVar("langgraph_checkpoint_dual.turn", default=None)


def alongside(work: Callable[[], T]) -> T:
    """The result of work that runs beside an event loop.

    Collections of garbage stop the loop. So they come as often as usual, each of few objects, and only the full ones
    wait: to go through 100,000 new objects at once, as after `unhurried` work, takes 15 ms.
    """
    token = _turn.set(_Turn())
    usual = gc.get_threshold()
    changes = usual[0] > 0 and usual[2] < NO_FULL_ONES
    try:
        if changes:
            gc.set_threshold(*usual[:2], NO_FULL_ONES)
        return work()
    finally:
        _turn.reset(token)
        if changes and gc.get_threshold()[2] == NO_FULL_ONES:  # nobody has chosen another number since
            gc.set_threshold(*usual)


def give_way() -> None:
    """Let other threads run, if this is work of `alongside` and its turn is over."""
    turn = _turn.get()
    if turn is not None and time.perf_counter() >= turn.end:
        time.sleep(_PAUSE)
        turn.end = time.perf_counter() + _TURN
