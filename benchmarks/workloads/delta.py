"""A thread whose messages are in a `DeltaChannel`: stored as writes, rebuilt on reading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from langchain_core.runnables import RunnableConfig

from benchmarks.graphs import Graph, delta_loop
from benchmarks.measure import milliseconds
from benchmarks.savers import MEMORY, SYNC, Saver
from benchmarks.workload import Trial, thread, workload


@dataclass(frozen=True)
class Delta:
    """Super-steps of the thread, and the snapshot frequencies that are compared."""

    steps: int
    frequencies: tuple[int, ...]


@workload(
    "delta",
    "a `DeltaChannel` thread of 600 super-steps: cold `get_state`, ms a super-step, bytes",
    (*SYNC, MEMORY),
    {"quick": Delta(12, (5,)), "default": Delta(600, (100, 10_000))},
    max_rounds=3,
)
def delta(trial: Trial) -> None:
    size: Delta = trial.size
    for frequency in size.frequencies:
        label = f"snapshot every {frequency}" if frequency <= size.steps else "no snapshot"
        rng = trial.random()
        with trial.open() as saver:
            graph = delta_loop(saver, rng, size.steps, frequency)
            run = milliseconds(partial(_run, graph, label, size.steps))
        trial.record(f"super-step, {label}", "ms", run / size.steps)
        if trial.kind != MEMORY:
            trial.record(f"get_state, cold, {label}", "ms", _cold_state(trial, label, frequency))
    trial.record("database", "bytes", trial.site.size())


def _run(graph: Graph, thread_id: str, steps: int) -> None:
    config: RunnableConfig = {**thread(thread_id), "recursion_limit": steps + 10}
    graph.invoke({"messages": [], "count": 0}, config, durability="sync")


def _cold_state(trial: Trial, thread_id: str, frequency: int) -> float:
    with trial.open() as saver:
        saver.get_tuple(thread("none"))
        return milliseconds(lambda: _read(trial, saver, thread_id, frequency))


def _read(trial: Trial, saver: Saver, thread_id: str, frequency: int) -> None:
    graph = delta_loop(saver, trial.random(), trial.size.steps, frequency)
    assert len(graph.get_state(thread(thread_id)).values["messages"]) == trial.size.steps
