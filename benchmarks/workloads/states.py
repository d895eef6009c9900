"""States of other shapes: small, wide, and many parallel subgraphs."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.data import text
from benchmarks.graphs import counter, fan_out, wide
from benchmarks.measure import median_milliseconds
from benchmarks.savers import MEMORY, SYNC
from benchmarks.workload import Trial, thread, workload


@dataclass(frozen=True)
class Turns:
    """Turns that are timed, and how wide the state or the fan-out is."""

    turns: int
    width: int = 1


@workload(
    "small-state",
    "a number and a short text: ms a turn",
    (*SYNC, MEMORY),
    {"quick": Turns(5), "default": Turns(100)},
)
def small_state(trial: Trial) -> None:
    config = thread("small")
    with trial.open() as saver:
        graph = counter(saver)

        def turn() -> None:
            graph.invoke({"count": 1, "note": ""}, config, durability="sync")

        turn()
        trial.record("turn", "ms", median_milliseconds(turn, trial.size.turns))
    trial.record(f"database after {trial.size.turns + 1} turns", "bytes", trial.site.size())


@workload(
    "wide-state",
    "200 channels, two of which change in a turn: ms a turn",
    (*SYNC, MEMORY),
    {"quick": Turns(3, 20), "default": Turns(50, 200)},
)
def wide_state(trial: Trial) -> None:
    rng = trial.random()
    config = thread("wide")
    with trial.open() as saver:
        graph = wide(saver, rng, trial.size.width)
        graph.invoke({f"field_{i:03}": text(rng, 8) for i in range(trial.size.width)}, config, durability="sync")

        def turn() -> None:
            graph.invoke({"field_000": text(rng, 8)}, config, durability="sync")

        turn()
        trial.record("turn", "ms", median_milliseconds(turn, trial.size.turns))
    trial.record(f"database after {trial.size.turns + 2} turns", "bytes", trial.site.size())


@workload(
    "fan-out",
    "100 `Send`s to a subgraph of two nodes in one run: ms a run",
    (*SYNC, MEMORY),
    {"quick": Turns(2, 5), "default": Turns(5, 100)},
)
def fan_out_runs(trial: Trial) -> None:
    rng = trial.random()
    config = thread("fan-out")
    with trial.open() as saver:
        graph = fan_out(saver, rng)

        def run() -> None:
            graph.invoke({"numbers": list(range(trial.size.width))}, config, durability="sync")

        run()
        trial.record("run", "ms", median_milliseconds(run, trial.size.turns))
    trial.record(f"database after {trial.size.turns + 1} runs", "bytes", trial.site.size())
