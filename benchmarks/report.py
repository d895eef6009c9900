"""Results: medians, spread, ratios to the other savers, as text and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.savers import KINDS, MEMORY
from benchmarks.workload import HIGHER_IS_BETTER

PACKAGES = (
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "langgraph-checkpoint-dual",
    "psycopg",
    "aiosqlite",
)


@dataclass
class Figure:
    """One figure of one saver.

    Attributes:
        values: one for each round that produced it, by round.
        vs_official: the median of the ratios to the official saver of the same database and kind, each of one round;
            None if that did not run, or is zero.
        vs_official_range: the smallest and the largest of these ratios.
        vs_memory: the median of the ratios to InMemorySaver.
    """

    workload: str
    figure: str
    unit: str
    saver: str
    values: dict[int, float] = field(default_factory=dict)
    vs_official: float | None = None
    vs_official_range: tuple[float, float] | None = None
    vs_memory: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values.values())


@dataclass
class Results:
    """Everything that one run measured."""

    meta: dict[str, Any]
    figures: dict[tuple[str, str, str], Figure] = field(default_factory=dict)
    series: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, workload: str, figure: str, unit: str, saver: str, number: int, value: float) -> None:
        """Keep the value of one round."""
        key = (workload, figure, saver)
        self.figures.setdefault(key, Figure(workload, figure, unit, saver)).values[number] = value

    def add_series(self, workload: str, saver: str, series: dict[str, list[tuple[float, float]]]) -> None:
        """Keep the curves of a trial; those of the last round remain."""
        for name, points in series.items():
            self.series.setdefault(workload, {}).setdefault(name, {})[saver] = points

    def of(self, workload: str) -> list[Figure]:
        """The figures of a workload, grouped by figure, savers in the order of `KINDS`."""
        order = list(KINDS)
        found = [figure for key, figure in self.figures.items() if key[0] == workload]
        names = list(dict.fromkeys(figure.figure for figure in found))
        return sorted(found, key=lambda figure: (names.index(figure.figure), order.index(figure.saver)))

    def compare(self) -> None:
        """Fill in the ratios."""
        for figure in self.figures.values():
            self._compare(figure)

    def _compare(self, figure: Figure) -> None:
        memory = self.figures.get((figure.workload, figure.figure, MEMORY.name))
        figure.vs_memory = median_of(ratios(figure, memory))
        if figure.saver == MEMORY.name:
            return
        official = self.figures.get((figure.workload, figure.figure, KINDS[figure.saver].official))
        found = ratios(figure, official)
        figure.vs_official = median_of(found)
        figure.vs_official_range = (min(found), max(found)) if found else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a file."""
        return {
            "meta": self.meta,
            "figures": [{**asdict(figure), "median": figure.median} for figure in self.figures.values()],
            "series": self.series,
            "failures": self.failures,
        }


def from_json(data: dict[str, Any]) -> Results:
    """What `Results.to_json` wrote."""
    results = Results(data["meta"], series=data["series"], failures=data["failures"])
    for row in data["figures"]:
        for number, value in row["values"].items():
            results.add(row["workload"], row["figure"], row["unit"], row["saver"], int(number), value)
    results.compare()
    return results


def ratios(figure: Figure, other: Figure | None) -> list[float]:
    """One ratio for each round in which both ran: a round is short, so both met the same machine."""
    if other is None or other is figure:
        return []
    both = figure.values.keys() & other.values.keys()
    return [figure.values[number] / other.values[number] for number in both if other.values[number]]


def median_of(values: list[float]) -> float | None:
    """The median; None of nothing."""
    return statistics.median(values) if values else None


def machine(arguments: list[str], rounds: int, scale: str) -> dict[str, Any]:
    """What a reader needs to judge the figures: machine, versions, command."""
    return {
        "command": " ".join(["python -m benchmarks", *arguments]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "rounds": rounds,
        "scale": scale,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(results: Results, path: Path) -> None:
    """Write the results, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results.to_json(), indent=1) + "\n")


def table(results: Results, workload: str) -> str:
    """The figures of a workload, with spread and ratios."""
    lines = [f"\n{workload}"]
    header = ("", "median", "min – max", "× official", "(rounds)", "× memory")
    rows: list[tuple[str, ...]] = []
    name = ""
    for figure in results.of(workload):
        if figure.figure != name:
            name = figure.figure
            rows.append((f"{name} [{figure.unit}]", "", "", "", "", ""))
        rows.append(_row(figure))
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        lines.append("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in _cells(row, widths)))
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: tuple[str, ...], widths: list[int]) -> Any:
    return enumerate(zip(row, widths, strict=True))


def _row(figure: Figure) -> tuple[str, ...]:
    low, high = min(figure.values.values()), max(figure.values.values())
    spread = f"{amount(low, figure.unit)} – {amount(high, figure.unit)}" if len(figure.values) > 1 else ""
    rounds = figure.vs_official_range
    return (
        f"  {figure.saver}",
        amount(figure.median, figure.unit),
        spread,
        times(figure.vs_official),
        f"{rounds[0]:.3g} – {rounds[1]:.3g}" if rounds and len(figure.values) > 1 else "",
        times(figure.vs_memory),
    )


def times(value: float | None) -> str:
    """A ratio, or nothing."""
    return "" if value is None else f"{value:.3g}×"


def amount(value: float, unit: str) -> str:
    """A number that fits its unit."""
    if unit == "bytes":
        return f"{value / 1e6:,.2f} MB"
    if unit == "errors":
        return f"{value:.0f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def noise(results: Results) -> str:
    """How much this machine varies by itself, in the same run."""
    lines = [_noise_line(name, values) for name, values in results.meta.get("noise", {}).items() if values]
    return "\n".join(["noise of this machine during the run (work that is always the same):", *lines])


def _noise_line(name: str, values: list[float]) -> str:
    middle = statistics.median(values)
    mad = statistics.median(abs(value - middle) for value in values)
    spread = f"min {min(values):.3g}, max {max(values):.3g}, MAD {mad / max(middle, 1e-9):.0%}"
    return f"  {name}: median {middle:.3g}, {spread}"


def better(unit: str) -> str:
    """Which direction is the good one."""
    return "higher" if unit in HIGHER_IS_BETTER else "lower"
