"""Editing a thread from outside a run: `update_state`, and a fork at an older checkpoint."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

from benchmarks.data import question
from benchmarks.graphs import chat, chat_turn, preload
from benchmarks.measure import milliseconds
from benchmarks.savers import MEMORY, SYNC
from benchmarks.workload import Trial, thread, workload

CONFIG = thread("edited")


@dataclass(frozen=True)
class Edits:
    """Messages of the thread, and how often each edit is timed."""

    messages: int
    times: int


@workload(
    "update-and-fork",
    "`update_state` on a chat of 500 messages, and forking it ten messages back: ms and bytes",
    (*SYNC, MEMORY),
    {"quick": Edits(20, 2), "default": Edits(500, 5)},
)
def update_and_fork(trial: Trial) -> None:
    size: Edits = trial.size
    rng = trial.random()
    updates, forks = [], []
    with trial.open() as saver:
        graph = chat(saver, rng)
        base = preload(graph, CONFIG, rng, size.messages, batch=100)
        for _ in range(5):
            chat_turn(graph, CONFIG, rng)
        before = trial.site.size()
        for _ in range(size.times):
            update = {"messages": [question(rng)]}
            updates.append(milliseconds(partial(graph.update_state, CONFIG, update, as_node="respond")))
        for _ in range(size.times):
            forks.append(milliseconds(lambda: chat_turn(graph, base, rng)))
        after = trial.site.size()
    trial.record("update_state", "ms", statistics.median(updates))
    trial.record("turn that forks", "ms", statistics.median(forks))
    if before is not None and after is not None:
        trial.record(f"bytes of {size.times} updates and {size.times} forks", "bytes", after - before)
