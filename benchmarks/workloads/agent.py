"""A tool-calling agent that keeps its files in the state."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

from benchmarks.data import question
from benchmarks.graphs import file_agent
from benchmarks.measure import milliseconds
from benchmarks.savers import MEMORY, SYNC
from benchmarks.workload import Trial, thread, workload


@dataclass(frozen=True)
class Agent:
    """Turns, each of which writes one file, and the words of a file."""

    turns: int
    file_words: int


@workload(
    "agent-files",
    "an agent that writes one file a turn into a `files` dict: ms a turn at the end, database bytes",
    (*SYNC, MEMORY),
    {"quick": Agent(4, 200), "default": Agent(100, 600)},
    max_rounds=3,
)
def agent_files(trial: Trial) -> None:
    size: Agent = trial.size
    rng = trial.random()
    config = thread("agent")
    times = []
    with trial.open() as saver:
        graph = file_agent(saver, rng, size.file_words)
        for _ in range(size.turns):
            request = {"messages": [question(rng, 30)], "files": {}}
            times.append(milliseconds(partial(graph.invoke, request, config, durability="sync")))
    trial.record(f"turn at {size.turns} files", "ms", statistics.median(times[-10:]))
    trial.record(f"database after {size.turns} turns", "bytes", trial.site.size())
