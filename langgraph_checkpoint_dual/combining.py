"""Group commit for threads: writes that arrive while a commit is under way share the next one.

The contract:

1. `Combiner.run(work)` returns when the batch that held the work was committed, with the work's result, or raises what
   the work raised. It never returns before the commit, and a failing work does not fail its neighbours.
2. There is at most one batch at a time. Who arrives while there is none leads at once: a lone writer waits for nobody
   and changes no thread. Who arrives meanwhile waits; when the batch ends, the first who waits leads the next one,
   which is everything that has arrived by then.
3. A caller on an event loop does not lead (`submit`): a thread of the executor does it for it.
4. An exception from outside (Ctrl-C) while leading hits only the leader's own work; the rest stays in line.

Leading by the first who waits is the idea of flat combining (Hendler, Incze, Shavit, Tzafrir 2010).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class Job(Generic[W]):
    """A piece of work in line. Who runs the batch calls `settle` once the commit has succeeded or the work failed."""

    def __init__(self, work: W) -> None:
        self.work = work
        self.done = False
        self.leads = False
        self._result: Any = None
        self._error: BaseException | None = None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Note how the work ended."""
        self._result, self._error, self.done = result, error, True

    def result(self) -> Any:
        """The result of the work, or its error raised."""
        if self._error is not None:
            raise self._error
        return self._result


class _ThreadJob(Job[W]):
    """A job whose caller is a waiting thread."""

    def __init__(self, work: W) -> None:
        super().__init__(work)
        self._gate = threading.Lock()
        self._gate.acquire()

    def wake(self) -> None:
        """End the wait."""
        self._gate.release()

    def wait(self) -> None:
        """Wait until the job is done or leads."""
        self._gate.acquire()


class _LoopJob(Job[W]):
    """A job whose caller is a task on an event loop."""

    def __init__(self, work: W) -> None:
        super().__init__(work)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()


def _wake(jobs: Sequence[Job[W]]) -> None:
    """Let the callers of these jobs go on; those on an event loop with one call a loop."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for job in jobs:
        if isinstance(job, _ThreadJob):
            job.wake()
        elif isinstance(job, _LoopJob):
            futures.setdefault(job.loop, []).append(job.future)
    for loop, waiting in futures.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, waiting)


def _resolve(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Combiner(Generic[W]):
    """Runs works in batches.

    Args:
        run_batch: runs and commits a batch, and settles each of its jobs. What it leaves unsettled goes back in line.
        executor: lends a thread to lead for callers on event loops; not needed if there are none.
    """

    def __init__(self, run_batch: Callable[[Sequence[Job[W]]], None], executor: Executor | None = None) -> None:
        self._run_batch, self._executor = run_batch, executor
        self._mutex = threading.Lock()
        self._line: deque[Job[W]] = deque()
        self._busy = False

    def run(self, work: W) -> Any:
        """Run work in a batch, from a thread that may block."""
        job = _ThreadJob(work)
        try:
            if not self._enter(job):
                job.wait()
            if not job.done:
                self._lead(job)
        except BaseException:
            self._leave(job)
            raise
        return job.result()

    async def submit(self, work: W) -> Any:
        """Run work in a batch, from an event loop. Cancelled work is done whole or not at all."""
        job = _LoopJob(work)
        if self._enter(job):
            self._lend(job)
        try:
            await job.future
        except asyncio.CancelledError:
            self._leave(job)
            raise
        return job.result()

    def _enter(self, job: Job[W]) -> bool:
        """Get in line; whether the job leads."""
        with self._mutex:
            self._line.append(job)
            if self._busy:
                return False
            self._busy = job.leads = True
            return True

    def _leave(self, job: Job[W]) -> None:
        """Get out of line if the job is still in it; a leader that leaves hands over."""
        with self._mutex:
            # A thread of the executor is on its way to lead for a loop's job: let it.
            if job not in self._line or (job.leads and isinstance(job, _LoopJob)):
                return
            self._line.remove(job)
        if job.leads:
            self._hand_over()

    def _lead(self, own: Job[W]) -> None:
        """Run everything in line as one batch, then hand over."""
        with self._mutex:
            batch = list(self._line)
            self._line.clear()
        try:
            self._run_batch(batch)
        except BaseException as exc:
            own.settle(error=exc)
            raise
        finally:
            with self._mutex:
                self._line.extendleft(reversed([job for job in batch if not job.done]))
            self._hand_over()
            _wake([job for job in batch if job.done and job is not own])

    def _carry(self, own: Job[W]) -> None:
        """Lead for a job of an event loop."""
        try:
            self._lead(own)
        except BaseException as exc:  # the job carries it to its caller
            own.settle(error=exc)
        _wake([own])

    def _hand_over(self) -> None:
        """Make the first in line the next leader."""
        with self._mutex:
            if not self._line:
                self._busy = False
                return
            heir = self._line[0]
            heir.leads = True
        if isinstance(heir, _ThreadJob):
            heir.wake()
        else:
            self._lend(heir)

    def _lend(self, job: Job[W]) -> None:
        if self._executor is None:
            raise RuntimeError("this combiner has no executor for callers on event loops")
        self._executor.submit(self._carry, job)
