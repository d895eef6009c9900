"""Several processes with several threads each, all on one database."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.clients import CLIENTS, Client
from benchmarks.savers import SaverKind, open_saver

# How long the slowest process may take to import everything and open its saver.
START_SECONDS = 120

_barrier: Any = None


@dataclass(frozen=True)
class Load:
    """What every process does: `job` names the clients, one a thread, each doing a first step and then `steps`."""

    kind: SaverKind
    location: str
    job: str
    threads: int
    steps: int
    pool: int | None


@dataclass(frozen=True)
class Done:
    """What one process did.

    Attributes:
        started, ended: monotonic time, comparable between processes.
        acknowledged: thread id → steps that returned without an error, the first one among them.
        timed: steps that returned without an error between `started` and `ended`.
        errors: one text for each step that raised.
    """

    started: float
    ended: float
    acknowledged: dict[str, int]
    timed: int
    errors: list[str]


def run(load: Load, processes: int) -> list[Done]:
    """Start the processes together and wait for all."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_remember, initargs=(barrier,)) as executor:
        return list(executor.map(_process, [load] * processes, range(processes)))


def _remember(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _process(load: Load, number: int) -> Done:
    with open_saver(load.kind, load.location, load.pool) as saver, ThreadPoolExecutor(load.threads) as executor:
        make = CLIENTS[load.job](saver)
        clients = [make(f"{number}-{index}") for index in range(load.threads)]
        first = list(executor.map(_steps, clients, [1] * load.threads))
        _barrier.wait(START_SECONDS)
        started = time.perf_counter()
        outcomes = list(executor.map(_steps, clients, [load.steps] * load.threads))
        ended = time.perf_counter()
    both = zip(clients, first, outcomes, strict=True)
    acknowledged = {client.thread_id: before + good for client, (before, _), (good, _) in both}
    errors = [error for _, found in (*first, *outcomes) for error in found]
    return Done(started, ended, acknowledged, sum(good for good, _ in outcomes), errors)


def _steps(client: Client, steps: int) -> tuple[int, list[str]]:
    good = 0
    errors = []
    for _ in range(steps):
        try:
            client.step()
            good += 1
        except Exception as error:  # every error of the saver is what is being counted
            errors.append(repr(error))
    return good, errors
