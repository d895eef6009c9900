"""Decoding much at once without the garbage collector going through it again and again.

What is being decoded is alive and has no cycles, but the collector counts its objects all the same, and so goes
through all objects of the process once in a few large reads: tens of milliseconds where langchain is imported. It is
never off: whoever interrupts this anywhere does no harm.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

from langgraph_checkpoint_dual.core.turns import NO_FULL_ONES

T = TypeVar("T")
_PATIENCE = 100_000
"""How many new objects the collector waits for where nobody else waits meanwhile."""


def unhurried(work: Callable[[], T]) -> T:
    """The result of the work, during which the collector waits for more new objects than usual."""
    usual = gc.get_threshold()
    if not 0 < usual[0] < _PATIENCE:  # it is off, or waits longer already, perhaps for another thread's work
        return work()
    if usual[2] >= NO_FULL_ONES:  # others wait for each collection
        return work()
    try:
        gc.set_threshold(_PATIENCE, *usual[1:])
        return work()
    finally:
        if gc.get_threshold()[0] == _PATIENCE:  # nobody has chosen another number since
            gc.set_threshold(*usual)
