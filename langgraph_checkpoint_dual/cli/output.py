"""What commands print: tables and text for people, JSON for programs.

What comes from the database is shown as text: control characters, with which it could take over a terminal, are written
as escapes, and nothing in it is taken for markup.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_WIDE = 200
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _console(stream: Any) -> Console:
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def out() -> Console:
    """What goes to stdout."""
    return _console(sys.stdout)


def err() -> Console:
    """What goes to stderr."""
    return _console(sys.stderr)


def safe(text: object) -> str:
    """Text that a terminal only shows."""
    return _CONTROLS.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if ord(match[0]) < 256 else f"\\u{ord(match[0]):04x}", str(text)
    )


def cell(value: object, style: str = "") -> Text:
    """A cell of a table."""
    if isinstance(value, Text):
        return value
    return Text("" if value is None else safe(value), style=style)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()) -> Table:
    """A table; the columns in `numbers` are right-aligned."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        found.add_row(*map(cell, row))
    return found


def say(what: Any) -> None:
    """Print something for people. Text is left to the terminal to wrap."""
    out().print(cell(what) if isinstance(what, str) else what, soft_wrap=isinstance(what, (str, Text)))


def say_json(value: Any) -> None:
    """Print something for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain).encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def bytes_of(size: float | None) -> str:
    """A number of bytes for people, such as "1.2 MB"."""
    if size is None:
        return "?"
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def count(number: int, what: str) -> str:
    """A number of things for people, such as "1 thread" or "2 threads"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def moment(at: datetime | None) -> str:
    """A time for people: the local one, in the form of ISO 8601."""
    return "" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def progress_bar() -> Progress:
    """A progress bar on stderr; nothing is shown if that is no terminal."""
    console = err()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def counting(description: str) -> Iterator[Any]:
    """A progress bar for what counts: gives a function that takes what is done, of how much, and a note."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=None, note="")

        def update(done: float, total: float | None, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield update
