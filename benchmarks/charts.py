"""Charts from a JSON file of results: what a chat costs as it grows, and throughput against clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.report import Results

COLOURS = {"dual": "#1565c0", "official": "#c62828", "memory": "#616161"}
LABELS = {"dual": "this package", "official": "official", "memory": "InMemorySaver"}
DATABASES = {"sqlite": "SQLite", "postgres": "Postgres"}


@dataclass(frozen=True)
class Chart:
    """One picture of one curve of one workload.

    Attributes:
        scale: what a value is divided by.
    """

    file: str
    workload: str
    series: str
    title: str
    x: str
    y: str
    scale: float = 1.0
    logarithmic_x: bool = False
    logarithmic_y: bool = False


CHARTS = (
    Chart("chat-bytes.png", "chat-growth", "bytes", "A chat on disk", "turns", "MB (log)", 1e6, logarithmic_y=True),
    Chart("chat-ms.png", "chat-growth", "ms a turn", "Time of one turn of a chat", "turns", "ms a turn"),
    Chart("puts-async.png", "puts-async", "a second", "put + put_writes, asyncio", "clients", "a second", 1.0, True),
    Chart(
        "puts-threads.png", "puts-threads", "a second", "put + put_writes, threads", "clients", "a second", 1.0, True
    ),
    Chart(
        "puts-network.png",
        "puts-network",
        "a second",
        "put + put_writes, 2 ms a round trip",
        "clients",
        "a second",
        1.0,
        True,
    ),
)


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw every chart that the results have data for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _draw(chart, curves, results.meta, folder)
        for chart in CHARTS
        if (curves := results.series.get(chart.workload, {}).get(chart.series))
    ]


def _draw(chart: Chart, curves: dict[str, list[Any]], meta: dict[str, Any], folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130)
    for saver, points in curves.items():
        maker, label, dashed = _style(saver)
        axes.plot(
            [x for x, _ in points],
            [y / chart.scale for _, y in points],
            label=label,
            color=COLOURS[maker],
            linestyle="--" if dashed else "-",
            marker="o",
            markersize=3,
        )
    _decorate(axes, chart)
    figure.text(0.01, 0.005, _caption(meta), fontsize=6, color="#616161")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    path = folder / chart.file
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return path


def _style(saver: str) -> tuple[str, str, bool]:
    """Colour by maker, dashes by database: maker, label, whether dashed."""
    parts = saver.split("-")
    database = DATABASES.get(parts[-1], "")
    face = "async " if "async" in parts else ""
    return parts[0], f"{LABELS[parts[0]]} {face}{database}".strip(), parts[-1] == "postgres"


def _decorate(axes: Any, chart: Chart) -> None:
    axes.set_title(chart.title)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    if chart.logarithmic_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    if chart.logarithmic_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _caption(meta: dict[str, Any]) -> str:
    return f"{meta['command']}   ·   {meta['processors']} processors, Python {meta['python']}, {meta['date'][:10]}"
