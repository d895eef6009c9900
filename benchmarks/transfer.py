"""Moving many threads from SQLite to Postgres and back: `python -m benchmarks.transfer --threads 10000`.

Each transfer runs in a process of its own, whose peak memory is told. For comparison the same rows are sent with bare
`COPY`, one table after the other: about what the server can do at all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from benchmarks.data import conversation
from benchmarks.server import PostgresServer, database_bytes
from langgraph_checkpoint_dual import PostgresSaver, SqliteSaver
from langgraph_checkpoint_dual.transfer import transfer

_TABLES = ("checkpoints", "items", "writes", "threads")


class Figures(NamedTuple):
    """What a step took."""

    name: str
    seconds: float
    megabytes: float
    """Peak memory of its process."""
    what: str


def fill(path: str, threads: int, turns: int, words: int) -> str:
    """Write chats: every turn is a checkpoint with two new messages and a pending write."""
    rng = random.Random(7)
    texts = conversation(rng, 2 * turns + 200, words)
    with SqliteSaver(path, synchronous="OFF") as saver:
        for number in range(threads):
            config: Any = {"configurable": {"thread_id": f"thread-{number:06}", "checkpoint_ns": ""}}
            start = rng.randrange(200)
            for turn in range(turns):
                checkpoint: Any = empty_checkpoint()
                messages = texts[start : start + 2 * turn + 2]
                version = f"{turn + 1:032}.{rng.random():016}"
                checkpoint.update(
                    id=str(uuid6()),
                    channel_values={"messages": messages},
                    channel_versions={"messages": version},
                )
                metadata: Any = {"source": "loop", "step": turn, "parents": {}, "user_id": f"user-{number % 100}"}
                config = saver.put(config, checkpoint, metadata, checkpoint["channel_versions"])
                saver.put_writes(config, [("messages", messages[-1:])], f"task-{turn}", f"~__pregel_pull, {turn}")
    return f"{threads} threads of {turns} checkpoints, {Path(path).stat().st_size / 1e6:.0f} MB"


def move(source: str, target: str, verify: bool) -> str:
    """Transfer."""
    report = transfer(source, target, verify=verify)
    return f"{report.checkpoints} checkpoints, {report.bytes / 1e6:.0f} MB of values, {report.verified} verified"


def copy(source: str, target: str) -> str:
    """The same rows by bare `COPY` into the same tables."""
    with PostgresSaver(target) as saver:
        saver.setup()
    rows = 0
    with psycopg.connect(target) as postgres:
        sqlite = sqlite3.connect(source)
        for table in _TABLES:
            with postgres.cursor().copy(f"COPY dual_{table} FROM STDIN") as out:
                for row in sqlite.execute(f"SELECT * FROM dual_{table}"):
                    out.write_row(row)
                    rows += 1
        sqlite.close()
    return f"{rows} rows"


def measured(name: str, work: Callable[..., str], *arguments: Any) -> Figures:
    """Run some work in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        seconds, peak, what = executor.submit(_run, work, arguments).result()
    figures = Figures(name, seconds, peak / 1e3, what)
    print(f"{name:34} {seconds:8.1f} s {figures.megabytes:8.0f} MB   {what}", flush=True)
    return figures


def _run(work: Callable[..., str], arguments: tuple[Any, ...]) -> tuple[float, int, str]:
    begun = time.perf_counter()
    what = work(*arguments)
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, what


def main() -> None:
    """Fill, move there and back."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--threads", type=int, default=200, help="how many threads (10,000 are about 1 GB)")
    parser.add_argument("--turns", type=int, default=12, help="checkpoints of a thread")
    parser.add_argument("--words", type=int, default=250, help="words of a message")
    parser.add_argument("--verify", action="store_true", help="verify the transfer to Postgres, too")
    options = parser.parse_args()
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as folder, server.database() as bare, server.database() as there:
            here, back = f"{folder}/here.db", f"{folder}/back.db"
            measured("fill SQLite", fill, here, options.threads, options.turns, options.words)
            measured("COPY of the rows to Postgres", copy, here, bare)
            measured("SQLite to Postgres", move, here, there, False)
            measured("again (nothing is missing)", move, here, there, False)
            if options.verify:
                measured("again, verified", move, here, there, True)
            measured("Postgres to SQLite", move, there, back, False)
            print(f"Postgres {database_bytes(there) / 1e6:.0f} MB, SQLite {Path(back).stat().st_size / 1e6:.0f} MB")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
