"""A chat that grows: what it costs on disk, and what one turn costs at a given length."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from benchmarks.data import image, question
from benchmarks.graphs import Graph, chat, chat_turn, preload
from benchmarks.measure import median_milliseconds, milliseconds
from benchmarks.savers import MEMORY, SYNC
from benchmarks.workload import Trial, thread, workload

CONFIG = thread("chat")


@dataclass(frozen=True)
class Growth:
    """Turns to run, and the numbers of turns after which the size and the time are taken."""

    turns: int
    marks: tuple[int, ...]


@workload(
    "chat-growth",
    "a chat from its first turn on: database bytes and ms a turn against turns",
    (*SYNC, MEMORY),
    {
        "quick": Growth(12, (4, 8, 12)),
        "default": Growth(300, (10, 25, 50, 100, 150, 200, 250, 300)),
        "full": Growth(1000, (10, 25, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)),
    },
    max_rounds=2,
)
def chat_growth(trial: Trial) -> None:
    size: Growth = trial.size
    rng = trial.random()
    with trial.open() as saver:
        graph = chat(saver, rng)
        previous = 0
        for mark in size.marks:
            times = [_turn(graph, rng) for _ in range(mark - previous)]
            trial.point("ms a turn", mark, statistics.median(times[-10:]))
            trial.point("bytes", mark, trial.site.size())
            previous = mark
            if mark in (300, size.turns):
                _record_growth(trial, mark)


def _turn(graph: Graph, rng: random.Random) -> float:
    return milliseconds(lambda: chat_turn(graph, CONFIG, rng))


def _record_growth(trial: Trial, mark: int) -> None:
    trial.record(f"database after {mark} turns", "bytes", trial.site.size())
    trial.record(f"turn after {mark} turns", "ms", trial.series["ms a turn"][-1][1])


@dataclass(frozen=True)
class Lengths:
    """Messages of the short and of the long thread, and how many turns are timed."""

    short: int
    long: int
    turns: int


@workload(
    "chat-turn",
    "ms a turn of a thread that already has that many messages",
    (*SYNC, MEMORY),
    {"quick": Lengths(20, 60, 2), "default": Lengths(20, 2000, 7)},
)
def chat_turns(trial: Trial) -> None:
    size: Lengths = trial.size
    short = _timed_turns(trial, "short", size.short, size.turns)
    long = _timed_turns(trial, "long", size.long, size.turns)
    trial.record(f"turn at {size.short} messages", "ms", short)
    trial.record(f"turn at {size.long} messages", "ms", long)
    trial.record(f"turn at {size.long} against {size.short}", "×", long / short)


def _timed_turns(trial: Trial, name: str, messages: int, turns: int) -> float:
    rng = trial.random()
    config = thread(name)
    with trial.open() as saver:
        graph = chat(saver, rng)
        preload(graph, config, rng, messages)
        chat_turn(graph, config, rng)  # the first turn after the updates is not the usual one
        return median_milliseconds(lambda: chat_turn(graph, config, rng), turns)


@dataclass(frozen=True)
class ImageChat:
    """Bytes of the image, and turns that follow it."""

    image_bytes: int
    turns: int


@workload(
    "chat-image",
    "a chat whose first message holds an image of 200 KB: database bytes and ms a turn",
    (*SYNC, MEMORY),
    {"quick": ImageChat(200_000, 3), "default": ImageChat(200_000, 20)},
)
def chat_image(trial: Trial) -> None:
    size: ImageChat = trial.size
    rng = trial.random()
    with trial.open() as saver:
        graph = chat(saver, rng)
        graph.invoke({"messages": [image(rng, size.image_bytes)]}, CONFIG, durability="sync")
        turn = median_milliseconds(
            lambda: graph.invoke({"messages": [question(rng)]}, CONFIG, durability="sync"), size.turns
        )
    trial.record(f"turn after the image, median of {size.turns}", "ms", turn)
    trial.record(f"database after {size.turns + 1} turns", "bytes", trial.site.size())
