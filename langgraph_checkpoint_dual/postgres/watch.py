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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from psycopg import AsyncConnection, Connection, Error, OperationalError

_PERIOD = 0.25
_lock = threading.Lock()
_work = threading.Event()
_entries: set[_Entry] = set()
_thread: threading.Thread | None = None


class NoAnswer(OperationalError):
    """The server kept silent for too long."""


class _Entry:
    __slots__ = ("conn", "cut", "deadline")

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any], deadline: float) -> None:
        self.conn, self.deadline, self.cut = conn, deadline, False


@contextmanager
def watched(conn: Connection[Any] | AsyncConnection[Any], seconds: float | None) -> Iterator[None]:
    """Shut the connection down if this block takes longer.

    Raises:
        NoAnswer: in place of the driver's error, if that happened.
    """
    if seconds is None:
        yield
        return
    entry = _Entry(conn, time.monotonic() + seconds)
    try:
        _begin(entry)
        yield
    except Error as exc:
        if entry.cut:
            raise NoAnswer(f"no answer from the server within {seconds:g} s (response_timeout)") from exc
        raise
    finally:
        with _lock:
            _entries.discard(entry)


def _begin(entry: _Entry) -> None:
    global _thread
    with _lock:
        _entries.add(entry)
        if not _work.is_set():
            _work.set()
        if _thread is None or not _thread.is_alive():  # after a fork it is not
            _thread = threading.Thread(target=_patrol, name="langgraph-checkpoint-dual-watch", daemon=True)
            _thread.start()


def _patrol() -> None:
    while _work.wait():
        now = time.monotonic()
        with _lock:
            if not _entries:
                _work.clear()
            for entry in [one for one in _entries if one.deadline <= now and not one.cut]:
                entry.cut = True
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
