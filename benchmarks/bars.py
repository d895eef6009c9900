"""What the package promises, as ratios that a run can check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.report import Figure, Results, amount, better

Against = Literal["official", "memory", "itself"]

SQLITE = ("dual-sqlite",)
POSTGRES = ("dual-postgres",)
BOTH = SQLITE + POSTGRES
ASYNC_SQLITE = ("dual-async-sqlite",)
ASYNC_POSTGRES = ("dual-async-postgres",)
ASYNC_BOTH = ASYNC_SQLITE + ASYNC_POSTGRES


@dataclass(frozen=True)
class Bar:
    """One promise.

    Attributes:
        against: what the figure is divided by: the official saver, InMemorySaver, or nothing (`itself`).
        limit: the most that the quotient may be, or the least where more is better.
    """

    workload: str
    figure: str
    savers: tuple[str, ...]
    limit: float
    against: Against = "official"


BARS = (
    Bar("chat-growth", "database after 300 turns", SQLITE, 1 / 40),
    Bar("chat-growth", "database after 300 turns", POSTGRES, 1 / 15),
    Bar("chat-growth", "database after 1000 turns", SQLITE, 1 / 200),
    Bar("chat-growth", "database after 1000 turns", POSTGRES, 1 / 60),
    Bar("chat-turn", "turn at 2000 messages", SQLITE, 1 / 6),
    Bar("chat-turn", "turn at 2000 messages", POSTGRES, 1 / 5),
    Bar("chat-turn", "turn at 2000 messages", BOTH, 1 / 3, "memory"),
    Bar("chat-turn", "turn at 2000 against 20", BOTH, 4, "itself"),
    Bar("load", "get_tuple, cold", BOTH, 0.5),
    Bar("load", "get_tuple, warm", BOTH, 0.3),
    Bar("delta", "get_state, cold, snapshot every 100", SQLITE, 0.5),
    Bar("delta", "get_state, cold, snapshot every 100", POSTGRES, 0.7),
    Bar("delta", "get_state, cold, no snapshot", SQLITE, 0.5),
    Bar("delta", "get_state, cold, no snapshot", POSTGRES, 0.7),
    Bar("history", "history of 50, fresh saver", BOTH, 0.4),
    Bar("history", "history of 50, warm", BOTH, 0.4),
    Bar("small-state", "turn", BOTH, 0.9),
    Bar("wide-state", "turn", BOTH, 0.9),
    Bar("fan-out", "run", BOTH, 0.9),
    Bar("puts-async", "steps a second, 64 clients", ASYNC_POSTGRES, 3),
    Bar("puts-network", "steps a second, 64 clients", ASYNC_POSTGRES, 8),
    Bar("puts-async", "steps a second, 64 clients", ASYNC_SQLITE, 4),
    Bar("puts-threads", "steps a second, 32 clients", BOTH, 3),
    Bar("puts-async", "steps a second, 1 client", ASYNC_BOTH, 1),
    Bar("puts-threads", "steps a second, 1 client", BOTH, 1),
    Bar("turns-async", "turns a second, 1 client", ASYNC_BOTH, 1),
    Bar("turns-threads", "turns a second, 1 client", BOTH, 1),
    Bar("puts-processes", "steps a second, 4 × 8", SQLITE, 3),
    Bar("puts-processes", "errors", BOTH, 0, "itself"),
    Bar("puts-processes", "acknowledged but lost", BOTH, 0, "itself"),
    Bar("turns-processes", "errors", BOTH, 0, "itself"),
    Bar("turns-processes", "acknowledged but lost", BOTH, 0, "itself"),
    Bar("read-latency", "get_tuple, p99", BOTH + ASYNC_BOTH, 1 / 3),
    Bar("conversations", "list 20 threads", BOTH, 5, "itself"),
    Bar("conversations", "list 20 threads of a user", BOTH, 5, "itself"),
    Bar("conversations", "page of 20 of the long thread", BOTH, 0.1),
    Bar("conversations", "last 50", BOTH, 0.1),
    Bar("conversations", "window of 2,000 tokens", BOTH, 0.1),
    Bar("conversations", "search the long thread", BOTH, 0.2),
    Bar("conversations", "search a user's threads", BOTH, 0.5),
    Bar("conversations", "append", BOTH, 0.2),
    *(
        Bar("loop-lag", f"{operation}, {value}", ASYNC_BOTH, 10, "itself")
        for value in ("messages", "bytes")
        for operation in ("aput", "aput that appends", "aget_tuple, cold", "aget_tuple, warm")
    ),
)


def verdicts(results: Results) -> str:
    """Every bar that this run can judge, met or missed; the smallest sizes judge none."""
    if results.meta["scale"] == "quick":
        return "\nbars: not judged at the sizes of --quick"
    lines = [line for bar in BARS for saver in bar.savers if (line := _verdict(results, bar, saver))]
    return "\n".join(["", "bars", *lines]) if lines else "\nbars: none that this run can judge"


def _verdict(results: Results, bar: Bar, saver: str) -> str | None:
    figure = results.figures.get((bar.workload, bar.figure, saver))
    value = _quotient(figure, bar.against) if figure else None
    if figure is None or value is None:
        return None
    higher = better(figure.unit) == "higher"
    met = value >= bar.limit if higher else value <= bar.limit
    shown = amount(value, figure.unit) if bar.against == "itself" else f"{value:.3g}×"
    against = "" if bar.against == "itself" else f" of {bar.against}"
    sign = "≥" if higher else "≤"
    name = f"{bar.workload}: {bar.figure}, {saver}"
    return f"  {'met   ' if met else 'MISSED'}  {name:72} {shown:>8}{against}  (bar {sign} {bar.limit:.3g})"


def _quotient(figure: Figure, against: Against) -> float | None:
    return {"official": figure.vs_official, "memory": figure.vs_memory, "itself": figure.median}[against]
