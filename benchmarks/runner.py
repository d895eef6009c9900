"""Runs workloads: every round runs every saver once, so that a slow minute of the machine hits them all."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable

from benchmarks.measure import Stopwatch, processor_milliseconds, sync_milliseconds
from benchmarks.report import Results
from benchmarks.sampling import Sampler
from benchmarks.savers import SaverKind
from benchmarks.server import PostgresServer
from benchmarks.sites import fresh_site
from benchmarks.workload import Trial, Workload

# What is measured at the start of every round to know how quiet the machine is.
NOISE: dict[str, Callable[[], float]] = {
    "a fixed piece of Python, ms": processor_milliseconds,
    "fsync, ms": sync_milliseconds,
    "runnable threads (load average of one minute)": lambda: os.getloadavg()[0],
}


class Runner:
    """One run over several workloads."""

    def __init__(self, results: Results, server: PostgresServer, scale: str, rounds: int) -> None:
        self._results = results
        self._server = server
        self._scale = scale
        self._rounds = rounds
        self._noise: dict[str, list[float]] = results.meta.setdefault("noise", {name: [] for name in NOISE})

    def run(self, workload: Workload, kinds: Iterable[SaverKind]) -> None:
        """All rounds of a workload; a saver that fails is reported and left out of the remaining rounds."""
        remaining = [kind for kind in workload.savers if kind in set(kinds)]
        for number in range(min(self._rounds, workload.max_rounds or self._rounds)):
            self._probe()
            for kind in rotated(remaining, number):
                if not self._trial(workload, kind, number):
                    remaining.remove(kind)
        self._results.compare()

    def profile(self, workload: Workload, kinds: Iterable[SaverKind]) -> None:
        """One trial of every saver, and where its timed parts spent their time."""
        for kind in (kind for kind in workload.savers if kind in set(kinds)):
            sampler = Stopwatch.sampler = Sampler()
            with sampler.running():
                self._trial(workload, kind, 0)
            Stopwatch.sampler = None
            print(f"\n{workload.name} {kind.name}\n{sampler.text()}", flush=True)

    def _probe(self) -> None:
        for name, measure in NOISE.items():
            self._noise[name].append(measure())

    def _trial(self, workload: Workload, kind: SaverKind, number: int) -> bool:
        started = time.perf_counter()
        try:
            with fresh_site(kind, self._server) as site:
                trial = Trial(site, workload.size(self._scale), seed=number + 1)
                workload.run(trial)
        except Exception as error:
            self._failed(workload, kind, number, error)
            return False
        for figure, (unit, value) in trial.figures.items():
            self._results.add(workload.name, figure, unit, kind.name, number, value)
        self._results.add_series(workload.name, kind.name, trial.series)
        _progress(f"{workload.name} round {number + 1} {kind.name}: {time.perf_counter() - started:.1f} s")
        return True

    def _failed(self, workload: Workload, kind: SaverKind, number: int, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self._results.failures.append(
            {"workload": workload.name, "saver": kind.name, "round": number, "error": repr(error), "traceback": text}
        )
        _progress(f"{workload.name} round {number + 1} {kind.name} FAILED\n{text}")


def rotated(kinds: list[SaverKind], number: int) -> list[SaverKind]:
    """The savers in an order that differs from round to round, so that none is always the first."""
    start = number % len(kinds) if kinds else 0
    return [*kinds[start:], *kinds[:start]]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
