"""Reading: by a process that holds nothing, again by the same one, and the history."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig

from benchmarks.graphs import chat, chat_turn, preload
from benchmarks.measure import in_child, median_milliseconds, milliseconds
from benchmarks.savers import MEMORY, SYNC, Saver, SaverKind
from benchmarks.sites import Site
from benchmarks.workload import Trial, thread, workload

LONG = thread("long")
OTHER = thread("other")


@dataclass(frozen=True)
class Load:
    """Messages of the thread, and how often it is read."""

    messages: int
    times: int


@workload(
    "load",
    "`get_tuple` of a long chat: first read of a new process, and again by the same saver",
    (*SYNC, MEMORY),
    {"quick": Load(40, 2), "default": Load(2000, 7)},
)
def load(trial: Trial) -> None:
    size: Load = trial.size
    rng = trial.random()
    with trial.open() as saver:
        graph = chat(saver, rng)
        preload(graph, OTHER, rng, 2)
        preload(graph, LONG, rng, size.messages)
        chat_turn(graph, LONG, rng)
        if trial.kind == MEMORY:
            trial.record("get_tuple, warm", "ms", median_milliseconds(lambda: saver.get_tuple(LONG), size.times))
    if trial.kind != MEMORY:
        cold, warm = in_child(_loads, trial.kind, trial.site.location, size.times)
        trial.record("get_tuple, cold", "ms", cold)
        trial.record("get_tuple, warm", "ms", warm)


def _loads(kind: SaverKind, location: str, times: int) -> tuple[float, float]:
    """First read of the thread by this process, and the median of the following ones by the same saver."""
    with _fresh(kind, location) as saver:
        cold = milliseconds(lambda: saver.get_tuple(LONG))
        warm = median_milliseconds(lambda: saver.get_tuple(LONG), times)
    return cold, warm


def _fresh(kind: SaverKind, location: str) -> Any:
    """A new saver in a process that has imported what reading needs, by reading another thread first."""
    with Site(kind, location).open() as other:
        assert other.get_tuple(OTHER) is not None
    return _connected(Site(kind, location))


class _connected:
    """A saver whose connection and schema check are done, but which has read nothing of the thread."""

    def __init__(self, site: Site) -> None:
        self._context = site.open()

    def __enter__(self) -> Saver:
        saver = self._context.__enter__()
        saver.get_tuple(thread("none"))
        return saver

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


@dataclass(frozen=True)
class History:
    """Turns of the thread (two messages each), and how many snapshots are read."""

    turns: int
    limit: int
    times: int


@workload(
    "history",
    "`get_state_history` of the last 50 checkpoints of a chat of 200 messages",
    (*SYNC, MEMORY),
    {"quick": History(6, 5, 2), "default": History(100, 50, 5)},
    max_rounds=5,
)
def history(trial: Trial) -> None:
    size: History = trial.size
    rng = trial.random()
    with trial.open() as saver:
        graph = chat(saver, rng)
        for _ in range(size.turns):
            chat_turn(graph, LONG, rng)
        trial.record(f"history of {size.limit}, warm", "ms", statistics.median(_histories(saver, size)))
    if trial.kind != MEMORY:
        with _connected(trial.site) as fresh:
            trial.record(f"history of {size.limit}, fresh saver", "ms", _histories(fresh, size)[0])


def _histories(saver: Saver, size: History) -> list[float]:
    read = _reader(saver, LONG, size.limit)
    return [milliseconds(read) for _ in range(size.times)]


def _reader(saver: Saver, config: RunnableConfig, limit: int) -> Callable[[], None]:
    import random

    graph = chat(saver, random.Random(0))

    def read() -> None:
        assert len(list(graph.get_state_history(config, limit=limit))) == limit

    return read
