"""Group commit for threads: writes that arrive while a commit is under way share the next one.

The contract:

1. `Combiner.run(work)` returns when the batch that held the work was committed, with the work's result, or raises what
   the work raised. It never returns before the commit, and a failing work does not fail its neighbours.
2. There is at most one batch at a time. Who arrives while there is none leads at once: a lone writer waits for nobody
   and changes no thread. Who arrives meanwhile waits; when the batch ends, the first who waits leads the next one,
   which is everything that has arrived by then, or when `run_batch` asks once more (`arrived`). Only where batches may
   run beside each other (`slow`), a thread that has waited that long leads what is in line without waiting for a batch
   that may be stuck.
3. A caller on an event loop does not lead (`submit`): a thread of the executor does it for it.
4. A thread with `patience` does not lead at once, but lets whoever comes within that time take its work along. After
   that it waits as all others do, or leads.
5. An exception from outside (Ctrl-C) hits only the work of the thread that it is raised in, wherever it is raised;
   the rest stays in line. Every state that it can leave is one that `_leave` ends: what belongs together is stored in
   one assignment, locks are taken by `with`, and all that ends a batch may be done twice.
6. The threads of a batch are woken in chains, each by the one before it: the interpreter runs one at a time anyway, and
   where all fight for it at once, changing from one to the other costs more than their work. Whoever does not wait any
   more, for whatever reason, has left, and is passed over.

Leading by the first who waits is the idea of flat combining (Hendler, Incze, Shavit, Tzafrir 2010).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Generic, TypeVar

W = TypeVar("W")
_CHAINS = 2
"""How many of a batch's threads are woken at once."""


class Job(Generic[W]):
    """A piece of work in line. Who runs the batch calls `settle` once the commit has succeeded or the work failed."""

    patient = False
    """Whether it waits for company, and so is not to lead yet."""
    done = False
    leads = False
    batch: Sequence[Job[W]] = ()
    heir: Job[W] | None = None
    _result: Any = None
    _error: BaseException | None = None

    def __init__(self, work: W) -> None:
        self.work = work

    def prepare(self) -> None:
        """Get ready to wait in line."""

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Note how the work ended."""
        self._result, self._error, self.done = result, error, True

    def result(self) -> Any:
        """The result of the work, or its error raised."""
        if self._error is not None:
            raise self._error
        return self._result


class _ThreadJob(Job[W]):
    """A job whose caller is a waiting thread. It is woken at most once, however often that is tried."""

    following: _ThreadJob[W] | None = None
    """Which one the caller wakes when it does not wait any more."""
    has_left = False
    _gate: threading.Lock

    def prepare(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        self._gate = gate

    def wake(self) -> None:
        """End the wait, or if it has ended already, that of those who follow."""
        job: _ThreadJob[W] | None = self
        while job is not None:
            try:  # noqa: SIM105  (`suppress` would cost more than waking)
                job._gate.release()
            except RuntimeError:  # it was woken already
                pass
            job = job.following if job.has_left else None

    def wait(self, seconds: float = -1) -> bool:
        """Wait until the job is done or leads, or for some seconds; whether it was woken."""
        return self._gate.acquire(timeout=seconds)

    def leave(self) -> None:
        """Wait no more, and wake who follows."""
        self.has_left = True
        if self.following is not None:
            self.following.wake()


class _LoopJob(Job[W]):
    """A job whose caller is a task on an event loop."""

    def __init__(self, work: W) -> None:
        super().__init__(work)
        self.claimed = False
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()


def _wake(jobs: Iterable[Job[W]]) -> None:
    """Let the callers of these jobs go on; those on an event loop with one call a loop, threads one after the other."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    threads: list[_ThreadJob[W]] = []
    for job in jobs:
        if isinstance(job, _ThreadJob):
            threads.append(job)
        elif isinstance(job, _LoopJob):
            futures.setdefault(job.loop, []).append(job.future)
    for job, following in zip(threads, threads[_CHAINS:], strict=False):
        job.following = following
    for job in threads[:_CHAINS]:
        job.wake()
    for loop, waiting in futures.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, waiting)


def _resolve(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _first_ready(line: Iterable[Job[W]]) -> Job[W] | None:
    for job in line:
        if not job.patient:
            return job
    return None


class Combiner(Generic[W]):
    """Runs works in batches.

    Args:
        run_batch: runs and commits a batch, and settles each of its jobs. What it leaves unsettled goes back in line.
        executor: lends a thread to lead for callers on event loops; not needed if there are none.
        slow: after how many seconds of waiting a batch may run beside the one under way; `None` if none ever may.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Job[W]]], None],
        executor: Executor | None = None,
        *,
        slow: float | None = None,
    ) -> None:
        self._run_batch, self._executor, self._slow = run_batch, executor, slow
        self._mutex = threading.Lock()
        self._line: list[Job[W]] = []
        self._leader: Job[W] | None = None

    def run(self, work: W, patience: float = 0.0) -> Any:
        """Run work in a batch, from a thread that may block; it may wait `patience` seconds for company."""
        job = _ThreadJob(work)
        job.patient = patience > 0
        try:
            if not self._enter(job):
                self._wait(job, patience)
            if not job.done:
                self._lead(job)
        except BaseException:
            try:
                self._leave(job)
            except BaseException:  # one more Ctrl-C
                self._leave(job)
                raise
            raise
        return job.result()

    async def submit(self, work: W) -> Any:
        """Run work in a batch, from an event loop. Cancelled work is done whole or not at all."""
        job = _LoopJob(work)
        if self._enter(job):
            self._start(job)
        try:
            await job.future
        except BaseException:
            with self._mutex:
                # A thread of the executor is on its way to lead for the first in line: let it.
                if job in self._line and job is not self._leader:
                    self._line.remove(job)
            raise
        return job.result()

    def _enter(self, job: Job[W]) -> bool:
        """Lead whatever is in line if nobody does, or get in line; whether the job leads."""
        with self._mutex:
            if self._leader is None and not job.patient:
                job.batch, self._line, self._leader, job.leads = [*self._line, job], [], job, True
                return True
            job.prepare()
            self._line.append(job)
            return False

    def _wait(self, job: _ThreadJob[W], patience: float) -> None:
        """Wait until the job is done or leads."""
        is_ready = job.patient and (job.wait(patience) or self._lose_patience(job))
        if not is_ready and self._slow is not None:
            is_ready = job.wait(self._slow) or self._overtake(job)
        if not is_ready:
            job.wait()
        job.leave()

    def _lose_patience(self, job: _ThreadJob[W]) -> bool:
        """Wait for company no more: lead, if nobody does; whether the job leads or is done."""
        with self._mutex:
            job.patient = False
            if self._leader is None and job in self._line:
                self._leader, job.leads = job, True
            return self._leader is job or job.done

    def _overtake(self, job: _ThreadJob[W]) -> bool:
        """Lead beside the batch under way; whether the job leads or is done. It does neither if it is in that batch."""
        with self._mutex:
            if job in self._line and (self._leader is None or self._leader.batch):
                self._leader, job.leads = job, True
            return job.leads or job.done

    def _leave(self, job: Job[W]) -> None:
        """Give a job up, wherever it was; a leader hands over."""
        job.done = True
        if isinstance(job, _ThreadJob):
            job.leave()
        with self._mutex:
            if job in self._line:
                self._line.remove(job)
        self._hand_over(job)

    def _lead(self, own: Job[W]) -> None:
        """Run everything in line as one batch, then hand over."""
        self._run_line(own)
        self._hand_over(own)

    def _run_line(self, own: Job[W]) -> None:
        """Run a leader's batch; an heir's is whatever is in line by now."""
        if not own.batch:
            with self._mutex:
                own.batch, self._line = self._line, []
        self._run_batch(own.batch)

    def arrived(self) -> Sequence[Job[W]]:
        """For `run_batch`: who is in line by now, and so in the batch that is under way."""
        if not self._line:  # who comes at this moment is too late, as one moment later
            return ()
        with self._mutex:
            own, line = self._leader, self._line
            if own is not None and own.batch and line:
                own.batch, self._line = [*own.batch, *line], []
                return line
        return ()

    def _hand_over(self, own: Job[W]) -> None:
        """Let the next one lead, and wake whose work is done."""
        heir = self._end(own)
        if heir is not None:
            self._start(heir)
        self._wake_batch(own)

    def _end(self, own: Job[W]) -> Job[W] | None:
        """Make the first in line who has no patience the next leader; the heir, if there is one.

        What the batch has left over goes to the head of the line. Who was overtaken has no heir.
        """
        with self._mutex:
            if own.leads:
                line = [job for job in own.batch if not job.done] + self._line
                is_overtaken = self._leader not in (own, None)
                heir = None if is_overtaken or not line else _first_ready(line)
                if heir is not None:
                    heir.leads = True
                leader = self._leader if is_overtaken else heir
                self._line, self._leader, own.heir, own.leads = line, leader, heir, False
        return own.heir

    def _wake_batch(self, own: Job[W]) -> None:
        if len(own.batch) > 1:
            _wake([job for job in own.batch if job.done and job is not own])
        own.batch = ()  # it holds the job itself

    def _start(self, leader: Job[W]) -> None:
        """Let a leader lead."""
        if isinstance(leader, _ThreadJob):
            leader.wake()
        elif isinstance(leader, _LoopJob):
            if self._executor is None:
                raise RuntimeError("this combiner has no executor for callers on event loops")
            try:
                self._executor.submit(self._carry, leader)
            except RuntimeError:  # it was shut down: what is in line still ends
                self._carry(leader)

    def _carry(self, job: _LoopJob[W]) -> None:
        """Lead for a job of an event loop, and then for those of event loops that come next."""
        leader: Job[W] | None = job
        while isinstance(leader, _LoopJob) and self._claim(leader):
            own = leader
            try:
                self._run_line(own)
            except BaseException as exc:  # the job carries it to its caller
                own.settle(error=exc)
            leader = self._end(own)
            if isinstance(leader, _ThreadJob):
                leader.wake()
            self._wake_batch(own)
            _wake([own])

    def _claim(self, job: _LoopJob[W]) -> bool:
        """Whether this thread is the one to lead for a job."""
        with self._mutex:
            if job is not self._leader or job.claimed:
                return False
            job.claimed = True
            return True
