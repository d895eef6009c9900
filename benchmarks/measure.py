"""Timing, memory and child processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from benchmarks.sampling import Sampler

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Times a block: `with Stopwatch() as watch`. A sampler in `Stopwatch.sampler` is switched on meanwhile."""

    sampler: ClassVar[Sampler | None] = None

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sampling = self.sampler.on() if self.sampler else nullcontext()

    def __enter__(self) -> Stopwatch:
        self._sampling.__enter__()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        self.seconds = time.perf_counter() - self._started
        self._sampling.__exit__(None, None, None)


def milliseconds(action: Callable[[], Any]) -> float:
    """How long one call takes, in milliseconds."""
    with Stopwatch() as watch:
        action()
    return watch.seconds * 1000


def median_milliseconds(action: Callable[[], Any], times: int) -> float:
    """The median of several calls, in milliseconds; garbage of earlier work is collected first."""
    gc.collect()
    return statistics.median(milliseconds(action) for _ in range(times))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least that share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a module-level function in a new process and return its result; while profiling, in this one, to be seen."""
    if Stopwatch.sampler is not None:
        return function(*args, **kwargs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(function, *args, **kwargs).result()


def reset_peak_memory() -> int:
    """Start a new measurement of the peak; returns the bytes resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """The most bytes resident since `reset_peak_memory` (Linux)."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def processor_milliseconds() -> float:
    """A fixed piece of pure Python work: how much it varies is the noise of the processor."""
    return milliseconds(lambda: sum(i * i for i in range(300_000)))


def sync_milliseconds(times: int = 20) -> float:
    """Median time of appending 4 KB to a file and fsync: its spread is the noise of the disk."""
    with tempfile.NamedTemporaryFile(prefix="bench-fsync-") as file:

        def append() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return median_milliseconds(append, times)
