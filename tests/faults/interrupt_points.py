"""Exceptions at each point of an operation at which the interpreter lets signal handlers run, one after the other.

CPython looks for signals when a Python function begins, when a C function has returned, and when a loop goes back. A
profile function is called at the first two, and what it raises takes the same way as what a signal handler raises.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

from tests.faults.common import rounds
from tests.faults.history import is_whole, step
from tests.faults.interrupts import Interruption
from tests.support.checkpoints import config

PATIENCE = 60.0
_POINTS = ("call", "c_return")
_SCOPE = ("langgraph_checkpoint_dual", "psycopg", "threading", "contextlib", "queue")


class Point:
    """Raises `Interruption` at the n-th point from where it is set, of those in modules whose names begin so."""

    def __init__(self, number: int, scope: tuple[str, ...] = _SCOPE) -> None:
        self._left, self._scope = number, scope
        self.where = ""

    @property
    def was_reached(self) -> bool:
        return self._left <= 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event not in _POINTS or not frame.f_globals.get("__name__", "").startswith(self._scope):
            return
        self._left -= 1
        if self._left == 0:
            sys.setprofile(None)
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}, {event} {arg}"
            raise Interruption


def is_interrupted(point: Point, operation: Callable[[], object]) -> bool:
    """Do it with an interruption at this point; whether that came out of it."""
    try:
        sys.setprofile(point)
        operation()
        sys.setprofile(None)
    except Interruption:
        return True
    finally:
        sys.setprofile(None)
    return False


def _works(saver: Any, thread: str, point: Point) -> None:
    try:
        assert is_whole(saver.get_tuple(step(saver, thread, 0, None)))
    except Exception as exc:
        raise AssertionError(f"after an interruption at {point.where}") from exc


Operation = Callable[[Any, str], object]


def sweep(saver: Any, operation: Operation, beside: int, spacing: int, prepare: Operation | None = None) -> int:
    """Interrupt an operation of the main thread at its points, every `spacing`-th in one go; how many these were.

    The operation is given the saver and the thread that it may write; so is `prepare`, before it and undisturbed. After
    each the saver must work, in this thread while the traceback is still there and in `beside` others, which write all
    the while, and what was interrupted be whole or absent.
    """
    with writing_beside(saver, beside):
        for number in count(1, max(1, round(spacing / rounds(1)))):
            thread, point = f"point-{number}", Point(number)
            if prepare is not None:
                prepare(saver, thread)
            try:
                sys.setprofile(point)
                operation(saver, thread)
                sys.setprofile(None)
            except Interruption:  # still while it is being handled, its traceback holds what was under way
                _works(saver, f"{thread}-after", point)
            finally:
                sys.setprofile(None)
            assert all(map(is_whole, saver.list(config(thread)))), point.where
            if not point.was_reached:
                return number
    raise AssertionError("unreachable")


@contextmanager
def writing_beside(saver: Any, threads: int) -> Iterator[None]:
    """Let other threads write during the block; each must still do so at its end."""
    stop, errors, progress = threading.Event(), [], [0] * threads

    def write(place: int) -> None:
        parent = None
        try:
            while not stop.is_set():
                number = progress[place] % 5
                parent = step(saver, f"beside-{place}", number, parent if number else None)
                progress[place] += 1
        except BaseException as exc:
            errors.append(exc)

    writers = [threading.Thread(target=write, args=[place], daemon=True) for place in range(threads)]
    for writer in writers:
        writer.start()
    try:
        yield
        assert not errors, errors
    finally:
        stop.set()
        for writer in writers:
            writer.join(PATIENCE)
    assert not any(writer.is_alive() for writer in writers), "stuck"
    assert not errors, errors
    assert all(progress), progress
