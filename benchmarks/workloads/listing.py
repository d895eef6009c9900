"""Listing many big checkpoints: peak memory and time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from benchmarks.measure import in_child, peak_memory, reset_peak_memory
from benchmarks.savers import ASYNC, SYNC, Saver, SaverKind
from benchmarks.sites import Site
from benchmarks.workload import Trial, thread, workload

CONFIG = thread("listed")


@dataclass(frozen=True)
class Listing:
    """Checkpoints, and bytes of the value that changes in each."""

    checkpoints: int
    value_bytes: int


@workload(
    "listing",
    "listing 2,000 checkpoints of 200 KB: peak memory of the process above what it had before, and time",
    (*SYNC, *ASYNC),
    {"quick": Listing(20, 20_000), "default": Listing(2000, 200_000)},
    max_rounds=1,
)
def listing(trial: Trial) -> None:
    asyncio.run(_fill_async(trial)) if trial.kind.is_async else _fill(trial)
    seconds, grown = in_child(_list_all, trial.kind, trial.site.location, trial.size.checkpoints)
    trial.record("time", "ms", seconds * 1000)
    trial.record("peak memory above the start", "bytes", grown)


def _fill(trial: Trial) -> None:
    with trial.open() as saver:
        for arguments in _puts(saver, trial):
            saver.put(*arguments)


async def _fill_async(trial: Trial) -> None:
    async with trial.aopen() as saver:
        for arguments in _puts(saver, trial):
            await saver.aput(*arguments)


def _puts(saver: Saver, trial: Trial) -> Any:
    rng = trial.random()
    config, version = CONFIG, None
    for step in range(trial.size.checkpoints):
        version = saver.get_next_version(version, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"document": rng.randbytes(trial.size.value_bytes)}
        checkpoint["channel_versions"] = {"document": version}
        yield config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {"document": version}
        config = {"configurable": {**CONFIG["configurable"], "checkpoint_id": checkpoint["id"]}}


def _list_all(kind: SaverKind, location: str, expected: int) -> tuple[float, int]:
    """Seconds, and bytes of memory at the peak beyond those before the listing."""
    if kind.is_async:
        return asyncio.run(_alist_all(kind, location, expected))
    with Site(kind, location).open() as saver:
        saver.get_tuple(CONFIG)
        before, started = reset_peak_memory(), time.perf_counter()
        count = sum(1 for _ in saver.list(CONFIG))
        seconds = time.perf_counter() - started
    assert count == expected
    return seconds, max(0, peak_memory() - before)  # the kernel counts pages in batches


async def _alist_all(kind: SaverKind, location: str, expected: int) -> tuple[float, int]:
    async with Site(kind, location).aopen() as saver:
        await saver.aget_tuple(CONFIG)
        before, started = reset_peak_memory(), time.perf_counter()
        count = 0
        async for _ in saver.alist(CONFIG):
            count += 1
        seconds = time.perf_counter() - started
    assert count == expected
    return seconds, max(0, peak_memory() - before)  # the kernel counts pages in batches
