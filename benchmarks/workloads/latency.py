"""How long others wait: readers beside busy writers, and everything else on the event loop."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import Checkpoint, empty_checkpoint

from benchmarks.clients import Client, put_clients
from benchmarks.data import conversation
from benchmarks.measure import Stopwatch, percentile
from benchmarks.savers import ASYNC, SYNC, Saver
from benchmarks.workload import Trial, thread, workload

READ = thread("read")
POOL = 16


@dataclass(frozen=True)
class Readers:
    """Writers that are busy, messages of the thread that is read, and the fewest reads and seconds that are timed."""

    writers: int
    messages: int
    reads: int
    seconds: float

    def enough(self, times: list[float]) -> bool:
        """Whether these reads, in milliseconds, saw enough of what the writers do."""
        return len(times) >= self.reads and sum(times) >= self.seconds * 1000


@workload(
    "read-latency",
    "`get_tuple` of a chat of 50 messages while 32 writers are busy: median and p99",
    (*SYNC, *ASYNC),
    {"quick": Readers(4, 10, 10, 0.1), "default": Readers(32, 50, 200, 1.5)},
)
def read_latency(trial: Trial) -> None:
    if trial.kind.is_async:
        times, rate = asyncio.run(_async_latency(trial))
    else:
        times, rate = _sync_latency(trial)
    trial.record("get_tuple, median", "ms", percentile(times, 0.5))
    trial.record("get_tuple, p99", "ms", percentile(times, 0.99))
    trial.record("writers' steps a second meanwhile", "1/s", rate)


def _sync_latency(trial: Trial) -> tuple[list[float], float]:
    size: Readers = trial.size
    stop = threading.Event()
    with trial.open(POOL) as saver, ThreadPoolExecutor(size.writers) as executor:
        saver.put(READ, *_chat_checkpoint(saver, trial.random(), size.messages))
        clients = [put_clients(saver)(f"writer-{index}") for index in range(size.writers)]
        list(executor.map(lambda client: client.step(), clients))
        with Stopwatch() as watch:
            counts = [executor.submit(_write_until, client, stop) for client in clients]
            try:
                times: list[float] = []
                while not size.enough(times):
                    times.append(_timed_read(saver))
            finally:
                stop.set()
            steps = sum(count.result() for count in counts)
        return times, steps / watch.seconds


def _write_until(client: Client, stop: threading.Event) -> int:
    steps = 0
    while not stop.is_set():
        client.step()
        steps += 1
    return steps


def _timed_read(saver: Saver) -> float:
    started = time.perf_counter()
    assert saver.get_tuple(READ) is not None
    return (time.perf_counter() - started) * 1000


async def _async_latency(trial: Trial) -> tuple[list[float], float]:
    size: Readers = trial.size
    stop = asyncio.Event()
    async with trial.aopen(POOL) as saver:
        await saver.aput(READ, *_chat_checkpoint(saver, trial.random(), size.messages))
        clients = [put_clients(saver)(f"writer-{index}") for index in range(size.writers)]
        await asyncio.gather(*(client.astep() for client in clients))
        with Stopwatch() as watch:
            counts = [asyncio.create_task(_awrite_until(client, stop)) for client in clients]
            times: list[float] = []
            while not size.enough(times):
                times.append(await _atimed_read(saver))
            stop.set()
            steps = sum(await asyncio.gather(*counts))
        return times, steps / watch.seconds


async def _awrite_until(client: Client, stop: asyncio.Event) -> int:
    steps = 0
    while not stop.is_set():
        await client.astep()
        steps += 1
    return steps


async def _atimed_read(saver: Saver) -> float:
    started = time.perf_counter()
    assert await saver.aget_tuple(READ) is not None
    return (time.perf_counter() - started) * 1000


def _chat_checkpoint(saver: Saver, rng: random.Random, messages: int) -> tuple[Checkpoint, Any, dict[str, Any]]:
    return _checkpoint(saver, None, conversation(rng, messages))


def _checkpoint(saver: Saver, version: Any, value: Any) -> tuple[Checkpoint, Any, dict[str, Any]]:
    """The arguments of a `put` of a state with one channel, whose version follows `version`."""
    versions = {"messages": saver.get_next_version(version, None)}
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"messages": value}
    checkpoint["channel_versions"] = dict(versions)
    return checkpoint, {"source": "loop", "step": 0, "parents": {}}, versions


@dataclass(frozen=True)
class BigState:
    """Messages of the state, and words of each."""

    messages: int
    words: int

    @property
    def blob_bytes(self) -> int:
        """The same size in one piece: about 6 bytes a word."""
        return self.messages * self.words * 6


class LagProbe:
    """Wakes up every millisecond and notes by how much it was late: what any other task of the loop would feel."""

    INTERVAL = 0.001

    def __init__(self) -> None:
        self.lags: list[float] = []
        self._woke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LagProbe:
        gc.collect()
        self._task = asyncio.create_task(self._watch())
        await self._woken()
        self.lags.clear()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._woken()
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _woken(self) -> None:
        self._woke.clear()
        await self._woke.wait()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(self.INTERVAL)
            self.lags.append((loop.time() - before - self.INTERVAL) * 1000)
            self._woke.set()

    @property
    def worst(self) -> float:
        """Milliseconds that the loop was blocked at the longest."""
        return max(self.lags)


@workload(
    "loop-lag",
    "longest time that the event loop is blocked by one operation on a state of 20 MB",
    ASYNC,
    {"quick": BigState(200, 20), "default": BigState(10_000, 330)},
)
def loop_lag(trial: Trial) -> None:
    asyncio.run(_loop_lag(trial))


async def _loop_lag(trial: Trial) -> None:
    rng = trial.random()
    async with trial.aopen():
        idle = await _lag(_idle)
    messages = conversation(rng, trial.size.messages, trial.size.words)
    blob = rng.randbytes(trial.size.blob_bytes)
    trial.record("idle loop", "ms", idle)
    await _lags_of(trial, "messages", messages, [*messages, *conversation(rng, 2)])
    await _lags_of(trial, "bytes", blob, blob + b"more")


async def _idle() -> None:
    await asyncio.sleep(0.05)


async def _lags_of(trial: Trial, name: str, value: Any, longer: Any) -> None:
    config = thread(name)
    async with trial.aopen() as saver:
        checkpoint, metadata, versions = _checkpoint(saver, None, value)
        trial.record(f"aput, {name}", "ms", await _lag(lambda: saver.aput(config, checkpoint, metadata, versions)))
        following, metadata, versions = _checkpoint(saver, versions["messages"], longer)
        parent = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
        trial.record(f"aput that appends, {name}", "ms", await _lag(lambda: _aput(saver, parent, following, versions)))
    async with trial.aopen() as saver:
        trial.record(f"aget_tuple, cold, {name}", "ms", await _lag(lambda: saver.aget_tuple(config)))
        trial.record(f"aget_tuple, warm, {name}", "ms", await _lag(lambda: saver.aget_tuple(config)))


async def _aput(saver: Saver, parent: Any, checkpoint: Checkpoint, versions: dict[str, Any]) -> Any:
    return await saver.aput(parent, checkpoint, {"source": "loop", "step": 1, "parents": {}}, versions)


async def _lag(operation: Callable[[], Awaitable[Any]]) -> float:
    async with LagProbe() as probe:
        result = await operation()
    del result  # only now: freeing 20 MB is the caller's time, not the saver's
    return probe.worst
