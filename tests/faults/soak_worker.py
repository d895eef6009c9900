"""A process that lives many lives: threads are begun, go on, are read, copied, pruned and deleted, until told to stop.

Some runs go on after their thread was deleted, which must stay so; all processes race on some threads with
`fence=True`, on which each step must have one winner; and some reads are made on a second event loop.

Usage: `python -m tests.faults.soak_worker KIND DATABASE JOURNAL NAME SEED`.

What it is about to do and what was acknowledged goes to the journal, a line each, which outlives it. SIGTERM ends it.
SIGUSR1 cancels some of the operations that are under way, or raises an exception in the main thread. SIGUSR2 fills the
disk (SQLite), and frees it the next time. SIGHUP forks a blocking one; the child uses the saver too, and ends. SIGWINCH
closes the saver while it is used, and opens another.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import threading
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from itertools import count
from typing import Any

import psutil
import psycopg

from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.errors import BusyError, ClosedError, StaleHeadError, UnavailableError
from tests.faults.history import is_whole, made, writes
from tests.faults.interrupts import Interruption
from tests.support.checkpoints import config, listed, metadata
from tests.support.savers import KINDS, Kind, faced

LIVES = 4
LONGEST = 20
OPTIONS: dict[str, dict[str, Any]] = {
    "postgres": {"max_size": 3, "retry_for": 60.0, "response_timeout": 3.0},
    "sqlite": {"timeout": 60.0},
}


class Unsettled(Exception):
    """What became of an operation is not known: it is whole or absent, and its thread is left alone from now on."""


class Journal:
    """Appends lines to a file, each with one system call, so that none is torn."""

    def __init__(self, path: str, name: str) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        self._name, self._numbers = name, count()

    def of_child(self) -> Journal:
        """The same file for a child process, with keys of its own."""
        self._name = f"{self._name}.{os.getpid()}"
        return self

    def begin(self, op: str, **what: Any) -> str:
        key = f"{self._name}.{next(self._numbers)}"
        self.say(key=key, op=op, **what)
        return key

    def say(self, **what: Any) -> None:
        os.write(self._file, f"{json.dumps(what)}\n".encode())


class Worker:
    """The saver of this process, and the signals that it gets."""

    def __init__(self, kind: Kind, database: str, journal: Journal, name: str, seed: str) -> None:
        self.kind, self.journal, self.name, self.seed = kind, journal, name, seed
        self._database = database
        self.open()
        self.stopping = self.forking = self.reopening = self.full = self._is_full = self._armed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._filling = threading.Lock()

    def open(self) -> None:
        """Open a saver, and one with a fence."""
        self.saver = self.kind.ours(self._database, **OPTIONS[self.kind.backend])
        self.fencing = self.kind.ours(self._database, fence=True, **OPTIONS[self.kind.backend])
        self.subject, self.fenced = faced(self.saver, self.kind.face), faced(self.fencing, self.kind.face)

    def close(self) -> None:
        """Close both."""
        self.saver.close()
        self.fencing.close()

    def reopen(self) -> None:
        """Close both while others use them, and go on with others."""
        self.reopening = False
        before = self.saver, self.fencing
        self.open()
        for saver in before:
            saver.close()
        self.journal.say(event="reopened")

    async def areopen(self) -> None:
        """As `reopen`."""
        before = self.saver, self.fencing
        self.open()
        for saver in before:
            await saver.aclose()
        self.journal.say(event="reopened")

    async def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """The result of an operation. Cancellation, a full disk and a server that is gone leave it unsettled."""
        try:
            if self.kind.face == "blocking":
                return finish(call)
            return await self._as_task(call)
        except (UnavailableError, BusyError, ClosedError, Interruption) as exc:
            raise Unsettled(type(exc).__name__) from exc
        except sqlite3.OperationalError as exc:
            if "full" not in str(exc):
                raise
            raise Unsettled("full") from exc

    async def _as_task(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            raise Unsettled("cancelled") from None
        finally:
            self._tasks.discard(task)

    def fill(self) -> None:
        """Let the disk be as full as it is to be."""
        with self._filling:
            if self.full == self._is_full:
                return
            self._is_full = self.full
            with self.saver.cursor(transaction=False) as cursor:
                [(pages,)] = cursor.execute("PRAGMA page_count")
                cursor.execute(f"PRAGMA max_page_count = {pages if self.full else 2**32 - 2}").fetchall()

    def fork(self) -> None:
        """Fork, while other threads use the saver; the child stores something with it and reads it again."""
        self.forking = False
        if (pid := os.fork()) == 0:
            os._exit(self._be_child())
        _, status = os.waitpid(pid, 0)
        self.journal.say(event="forked")
        if status:
            self.journal.say(event="error", thread="a child process", error=f"ended with status {status}")

    def _be_child(self) -> int:
        faulthandler.dump_traceback_later(60, exit=True)
        life = Life(self, f"{self.name}-child-{os.getpid()}", random.Random(0))
        life.journal = self.journal.of_child()
        try:
            with_no_loop(life.be_short())
            self.close()
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    # --- signals ---

    def listen(self) -> None:
        faulthandler.register(signal.SIGQUIT)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGUSR1, self._interrupt)
        signal.signal(signal.SIGUSR2, self._fill_or_free)
        signal.signal(signal.SIGHUP, self._ask_for_fork)
        signal.signal(signal.SIGWINCH, self._ask_for_another)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _ask_for_fork(self, *_: Any) -> None:
        self.forking = True

    def _ask_for_another(self, *_: Any) -> None:
        self.reopening = True

    def _fill_or_free(self, *_: Any) -> None:
        self.full = not self.full

    def _interrupt(self, *_: Any) -> None:
        if self._armed and not self.stopping:
            self._armed = False
            raise Interruption

    def cancel_some(self) -> None:
        for task in random.sample(sorted(self._tasks, key=id), random.randint(0, len(self._tasks))):
            task.cancel()

    # --- lives ---

    async def live(self, place: int) -> None:
        rng = random.Random(f"{self.seed}.{self.name}.{place}")
        for number in range(1_000_000):
            if self.stopping:
                return
            await Life(self, f"{self.name}-{place}-{number}", rng).run()
            await asyncio.sleep(0)

    async def live_together(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self.cancel_some)
        reopenings: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(signal.SIGWINCH, lambda: reopenings.add(loop.create_task(self.areopen())))
        await asyncio.gather(*(self.live(place) for place in range(LIVES)))
        await asyncio.gather(*reopenings)

    def live_in_threads(self) -> None:
        threads = [threading.Thread(target=asyncio.run, args=[self.live(place)]) for place in range(1, LIVES)]
        for thread in threads:
            thread.start()
        rng = random.Random(f"{self.seed}.{self.name}.main")
        for number in range(1_000_000):  # the life that signals interrupt
            if self.stopping:
                break
            if self.forking:
                self.fork()
            if self.reopening:
                self.reopen()
            try:
                self._armed = True
                with_no_loop(Life(self, f"{self.name}-main-{number}", rng).run())
                self._armed = False
            except Interruption:
                self.journal.say(event="interrupted")
        self._armed = False
        for thread in threads:
            thread.join()


def with_no_loop(life: Coroutine[Any, Any, None]) -> None:
    """Run a life of blocking operations, which never suspends."""
    try:
        life.send(None)
    except StopIteration:
        return
    raise AssertionError("a blocking operation suspended")


class Life:
    """One thread from its first checkpoint to its end."""

    def __init__(self, worker: Worker, thread: str, rng: random.Random) -> None:
        self.worker, self.thread, self.rng = worker, thread, rng
        self.subject, self.fenced, self.journal = worker.subject, worker.fenced, worker.journal

    async def run(self) -> None:
        try:
            await self._run()
        except Unsettled:
            return
        except Exception as exc:
            self.journal.say(event="error", thread=self.thread, error=repr(exc))

    async def _run(self) -> None:
        place = None
        for number in range(self.rng.randint(1, LONGEST)):
            if self.worker.kind.class_name == "SqliteSaver":
                self.worker.fill()
            if self.worker.stopping:
                return
            place = await self._put(place, number)
            if self.rng.random() < 0.2:
                await self._read(place, number)
            if self.rng.random() < 0.05:
                await self._race()
            if self.rng.random() < 0.05:
                shared = f"shared-{self.worker.kind.backend}-{os.getppid()}-{self.rng.randrange(5)}"
                await self._put(None, number, shared)
        if self.rng.random() < 0.85:
            await self._done("delete_thread", self.subject.adelete_thread(self.thread), thread=self.thread)
            if self.rng.random() < 0.3:
                await self._put_late(place)
        elif self.rng.random() < 0.5:
            await self._done("prune", self.subject.aprune([self.thread]), thread=self.thread)
            assert len(await self.worker.do(listed(self.subject, config(self.thread)))) == 1
        else:
            copying = self.subject.acopy_thread(self.thread, f"{self.thread}-copy")
            await self._done("copy_thread", copying, thread=self.thread, target=f"{self.thread}-copy")

    async def _put_late(self, place: Any) -> None:
        """What a run does that knows nothing of the deletion of its thread."""
        new = made(self.thread, 0)
        putting = self.subject.aput(place, new, metadata(step=0), new["channel_versions"])
        late = await self._done("late_put", putting, thread=self.thread)
        await self._done("late_put_writes", self.subject.aput_writes(late, writes(0), "task"), thread=self.thread)

    async def _race(self) -> None:
        """Go on from the head of a thread that all processes go on from."""
        thread = f"fenced-{self.worker.kind.backend}-{os.getppid()}-{self.rng.randrange(3)}"
        head = await self.worker.do(self.fenced.aget_tuple(config(thread)))
        number = (head.checkpoint["channel_values"]["number"] + 1) % LONGEST if head else 0
        new = made(thread, number)
        into = head.config if head else config(thread)
        putting = self.fenced.aput(into, new, metadata(step=number), new["channel_versions"])
        with suppress(StaleHeadError):
            await self._done("fenced_put", putting, number=number, thread=thread, id=new["id"])

    async def be_short(self) -> None:
        """One checkpoint, and nothing else."""
        with suppress(Unsettled):
            await self._read(await self._put(None, 0), 0)

    async def _put(self, parent: Any, number: int, thread: str | None = None) -> Any:
        new = made(thread or self.thread, number)
        into = parent or config(thread or self.thread)
        putting = self.subject.aput(into, new, metadata(step=number), new["channel_versions"])
        what = {"thread": thread or self.thread, "id": new["id"]}
        place = await self._done("put", putting, number=number, **what)
        await self._done("put_writes", self.subject.aput_writes(place, writes(number), "task"), **what)
        return place

    async def _read(self, place: Any, number: int) -> None:
        found = await self.worker.do(self.subject.aget_tuple(place))
        assert found is not None, place
        assert is_whole(found), place
        assert found.pending_writes, place
        assert found.checkpoint["channel_values"]["number"] == number, place
        latest = await self.worker.do(self.subject.aget_tuple(config(self.thread)))
        assert latest == found, place
        assert len(await self.worker.do(listed(self.subject, config(self.thread)))) == number + 1, place
        if self.worker.kind.face == "async" and self.rng.random() < 0.1:
            elsewhere = self.worker.do(asyncio.to_thread(asyncio.run, self.subject.aget_tuple(place)))
            assert await elsewhere == found, place

    async def _done(self, op: str, call: Coroutine[Any, Any, Any], **what: Any) -> Any:
        key = self.journal.begin(op, **what)
        try:
            result = await self.worker.do(call)
        except Unsettled as exc:
            self.journal.say(end=key, unsettled=str(exc))
            raise
        except StaleHeadError:
            self.journal.say(end=key, unsettled="refused")
            raise
        self.journal.say(end=key, acknowledged=True)
        return result


def still_open(database: str) -> list[str]:
    """The connections to the database that this process still has: files, or ports of its own."""
    gc.collect()  # sqlite3 ends a connection so that was interrupted before anybody got it
    process = psutil.Process()
    files = [one.path for one in process.open_files() if one.path.startswith(database)]
    return [*files, *(str(one.laddr.port) for one in process.net_connections("tcp") if one.raddr)]


def explained(port: str) -> str:
    """Which of psycopg's connections has this port, and what refers to it."""
    for found in [one for one in gc.get_objects() if isinstance(one, (psycopg.Connection, psycopg.AsyncConnection))]:
        with suppress(psycopg.Error), socket.socket(fileno=os.dup(found.fileno())) as handle:
            if port == str(handle.getsockname()[1]):
                return f"port {port}: {found}, held by {[type(one).__name__ for one in gc.get_referrers(found)]}"
    return f"{port}: held by nothing known"


def main(kind_name: str, database: str, journal_path: str, name: str, seed: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == kind_name]
    journal = Journal(journal_path, name)
    if kind.face == "blocking":
        worker = Worker(kind, database, journal, name, seed)
        worker.listen()
        worker.live_in_threads()
        before = len(still_open(database))
        worker.close()
    else:
        before = asyncio.run(live_on_a_loop(kind, database, journal, name, seed))
    which = still_open(database)
    journal.say(event="closed", before=before, open=len(which), which=[explained(one) for one in which])


async def live_on_a_loop(kind: Kind, database: str, journal: Journal, name: str, seed: str) -> int:
    worker = Worker(kind, database, journal, name, seed)
    worker.listen()
    await worker.live_together()
    before = len(still_open(database))
    await worker.saver.aclose()
    await worker.fencing.aclose()
    return before


if __name__ == "__main__":
    main(*sys.argv[1:])
