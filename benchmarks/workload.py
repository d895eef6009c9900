"""What a workload is, and what it gets for one trial."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig

from benchmarks.savers import Saver, SaverKind
from benchmarks.sites import Site

SCALES = ("quick", "default", "full")

# Units whose bigger value is the better one; of all others the smaller one is.
HIGHER_IS_BETTER = frozenset({"1/s"})


@dataclass
class Trial:
    """One saver, one fresh database, one round: the workload's parameters, and where its figures go.

    Attributes:
        site: the fresh database.
        size: the workload's parameters for the scale of this run.
        figures: figure name → (unit, value).
        series: series name → [(x, y)], for charts.
    """

    site: Site
    size: Any
    seed: int = 1
    figures: dict[str, tuple[str, float]] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def kind(self) -> SaverKind:
        return self.site.kind

    def random(self) -> random.Random:
        """The same sequence for every saver of a round."""
        return random.Random(self.seed)

    def record(self, figure: str, unit: str, value: float | None) -> None:
        """Keep a figure; None (it does not apply to this saver) is left out."""
        if value is not None:
            self.figures[figure] = (unit, value)

    def point(self, series: str, x: float, y: float | None) -> None:
        """Add a point to a series; None is left out."""
        if y is not None:
            self.series.setdefault(series, []).append((x, y))

    @contextmanager
    def open(self, pool: int | None = None) -> Iterator[Saver]:
        """A new blocking saver on the trial's database."""
        with self.site.open(pool) as saver:
            yield saver

    @asynccontextmanager
    async def aopen(self, pool: int | None = None) -> AsyncIterator[Saver]:
        """A new async saver on the trial's database."""
        async with self.site.aopen(pool) as saver:
            yield saver


@dataclass(frozen=True)
class Workload:
    """A named piece of work.

    Attributes:
        name: on the command line and in the results.
        summary: what it measures, one line.
        savers: the classes that it makes sense for.
        sizes: parameters by scale, `quick`, `default` and `full`; a missing `full` is the default.
        run: does one trial.
        max_rounds: an upper limit for long workloads whose figures hardly vary.
    """

    name: str
    summary: str
    savers: tuple[SaverKind, ...]
    sizes: dict[str, Any]
    run: Callable[[Trial], None]
    max_rounds: int | None = None

    def size(self, scale: str) -> Any:
        """The parameters of a scale."""
        return self.sizes.get(scale, self.sizes["default"])


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str,
    summary: str,
    savers: tuple[SaverKind, ...],
    sizes: dict[str, Any],
    max_rounds: int | None = None,
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Register a function as a workload; the arguments are the fields of `Workload`."""

    def register(run: Callable[[Trial], None]) -> Callable[[Trial], None]:
        WORKLOADS[name] = Workload(name, summary, savers, sizes, run, max_rounds)
        return run

    return register


def thread(thread_id: str) -> RunnableConfig:
    """The config of a thread."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
