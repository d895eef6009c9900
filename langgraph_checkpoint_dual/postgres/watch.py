"""A limit to how long a server may keep silent.

A peer that is gone without a word may leave a statement waiting for ever: the kernel notices only what it sends itself,
and not through a proxy. When an operation takes too long its socket is shut down, from a thread that all savers of the
process share; the driver, blocking or not, then finds the connection lost. A server that is slow, not gone, notices too
and rolls back.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from psycopg import AsyncConnection, Connection, Error, OperationalError

_PERIOD = 0.25
_lock = threading.Lock()
_work = threading.Event()
_entries: dict[Connection[Any] | AsyncConnection[Any], Watched] = {}
forget = _entries.pop
"""`forget(conn, None)` ends what an exception from outside (Ctrl-C) may have left, in one step."""
_thread: threading.Thread | None = None


class NoAnswer(OperationalError):
    """The server kept silent for too long."""


class Watched:
    """Shuts the connection down if this block takes longer.

    Args:
        seconds: how long it may take; `None` for as long as it likes.

    Raises:
        NoAnswer: in place of the driver's error, if that happened.
    """

    __slots__ = ("_seconds", "conn", "cut", "deadline")

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any], seconds: float | None) -> None:
        self.conn, self._seconds, self.cut = conn, seconds, False
        self.deadline = time.monotonic() + (seconds or 0)

    def __enter__(self) -> None:
        if self._seconds is not None:
            _begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _entries.pop(self.conn, None)
        if self._seconds is None or time.monotonic() < self.deadline:
            return
        with _lock:  # it may be just about to be shut down
            pass
        if self.cut and isinstance(error, Error):
            raise NoAnswer(f"no answer from the server within {self._seconds:g} s (response_timeout)") from error


def _begin(entry: Watched) -> None:
    global _thread
    _entries[entry.conn] = entry
    if _work.is_set():
        return
    if _thread is None or not _thread.is_alive():  # the first time, and after a fork
        with _lock:
            if _thread is None or not _thread.is_alive():
                _thread = threading.Thread(target=_patrol, name="langgraph-checkpoint-dual-watch", daemon=True)
                _thread.start()
    _work.set()


def _patrol() -> None:
    while _work.wait():
        now = time.monotonic()
        with _lock:
            _work.clear()
            entries = list(_entries.values())  # one step for the interpreter: blocks begin and end meanwhile
            if entries:
                _work.set()
            for entry in entries:
                if entry.deadline <= now and not entry.cut and _entries.get(entry.conn) is entry:
                    entry.cut = True
                    _entries.pop(entry.conn, None)
                    _shut_down(entry.conn)
        time.sleep(_PERIOD)


def _shut_down(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    with suppress(Error, OSError), socket.socket(fileno=os.dup(conn.fileno())) as handle:  # unless it ended just now
        handle.shutdown(socket.SHUT_RDWR)


def _forget_parent() -> None:
    """A child process has none of its parent's threads, and a lock that one of them held stays held."""
    global _lock, _work, _thread
    _lock, _work, _thread = threading.Lock(), threading.Event(), None
    _entries.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
