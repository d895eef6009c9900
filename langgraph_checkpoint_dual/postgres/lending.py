"""Connections of pools for threads that signal handlers may interrupt.

A signal handler runs in the main thread, between any two steps of whatever runs there, and may raise (Ctrl-C does).
psycopg's pool is not made for that: a thread that is interrupted while it waits for a connection is given one later all
the same, which is then lost to everyone. The contract:

1. The main thread never runs a pool's code. A thread of this module, which no handler interrupts, takes connections
   for it, gives them back, opens pools and closes them. Other threads do so by themselves.
2. A `Loan` is made before the connection is asked for, and ended by a `finally` whose first step is
   `loan.hand_over(loan.end)`: for the main thread a single call into C, before which the interpreter does not look for
   signals. Whatever has become of the loan by then, its connection goes back, once.
3. A connection whose use was interrupted is closed; the pool opens another in its place. What psycopg knows of it may
   be wrong in any way.
4. What is handed over is done in that order, so that who comes next finds the connection that was just given back.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from psycopg import Connection, Error
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from langgraph_checkpoint_dual.postgres import watch
from langgraph_checkpoint_dual.postgres.faults import drain

T = TypeVar("T")
Task = Callable[[], object]
_NAME = "langgraph-checkpoint-dual-lending"
_log = logging.getLogger("langgraph_checkpoint_dual.sessions")
_tasks: SimpleQueue[Task] = SimpleQueue()
_thread: threading.Thread | None = None


class _Errand(Generic[T]):
    """Work that another thread does while this one waits."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._context = work, copy_context()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._error: BaseException | None = None
        self._result: T

    def run(self) -> None:
        try:
            self._result = self._context.run(self._work)
        except BaseException as exc:
            self._error = exc
        self._gate.release()

    def wait(self) -> T:
        self._gate.acquire()
        if self._error is None:
            return self._result
        try:
            raise self._error
        finally:
            self._error = None  # it refers to this frame


class Loan:
    """One use of a connection of a pool.

    Args:
        pool: where it goes back to.
        take: takes it from there, and may wait for it.
    """

    def __init__(self, pool: ConnectionPool[Any], take: Callable[[], Connection[Any]]) -> None:
        self._pool, self._take = pool, take
        self._lock = threading.Lock()
        self._conn: Connection[Any] | None = None
        self._ended = False
        self._is_direct = not _is_interruptible()
        self.intact = False
        """Whether the use came to its end, well or not, and was not interrupted."""
        self.hand_over: Callable[[Task], None] = _do if self._is_direct else _tasks.put

    def begin(self) -> Connection[Any]:
        """The connection."""
        if self._is_direct:
            return self._lend()
        errand = _Errand(self._lend)
        self.hand_over(lambda: self._serve(errand))
        return errand.wait()

    def end(self) -> None:
        """Give the connection back; one that is still on its way goes back when it comes."""
        with self._lock:
            self._ended = True
            conn, self._conn = self._conn, None
        if conn is not None:
            self._clean(conn)
            self._pool.putconn(conn)

    def _serve(self, errand: _Errand[Connection[Any]]) -> None:
        if self._pool.get_stats()["pool_available"]:
            errand.run()
            return
        try:  # nobody else shall wait for what this one waits for
            threading.Thread(target=errand.run, name=_NAME, daemon=True).start()
        except RuntimeError:  # the process ends
            errand.run()

    def _lend(self) -> Connection[Any]:
        conn = self._take()
        with self._lock:
            is_late = self._ended
            self._conn = None if is_late else conn
        if is_late:
            self._pool.putconn(conn)
        return conn

    def _clean(self, conn: Connection[Any]) -> None:
        watch.forget(conn, None)
        if not self.intact:
            with suppress(Error):
                if conn.info.transaction_status == TransactionStatus.ACTIVE:
                    drain(conn)
            conn.pgconn.finish()


def uninterrupted(work: Callable[[], T]) -> T:
    """Do some work to its end, whatever hits this thread meanwhile, after all that was handed over before."""
    if not _is_interruptible():
        return work()
    errand = _Errand(work)
    _tasks.put(errand.run)
    return errand.wait()


def _do(task: Task) -> None:
    task()


def _is_interruptible() -> bool:
    """Whether signal handlers run in this thread, and there is another one to work for it."""
    global _thread
    if threading.current_thread() is not threading.main_thread() or sys.is_finalizing():
        return False
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_work, name=_NAME, daemon=True)
        try:
            _thread.start()
        except RuntimeError:  # the process ends
            return False
    return True


def _work() -> None:
    tasks = _tasks
    while True:
        task = tasks.get()
        try:
            task()
        except Exception:
            _log.exception("a connection could not be given back")
        del task  # while waiting, nothing is kept alive


def _forget_parent() -> None:
    """A child process has none of its parent's threads."""
    global _tasks, _thread
    _tasks, _thread = SimpleQueue(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
