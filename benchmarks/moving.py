"""Moving in, looking around, moving out: `python -m benchmarks moving --threads 10000 --gigabytes 1`.

Chats are really run, with the official saver for `migrate` and with ours for the rest, until a thread has its share of
the bytes; the database then multiplies these threads under other ids, rows and all. Each step runs in a process of its
own, whose peak memory is told. For comparison the same rows are sent with bare `COPY`, one table after the other: about
what the server can do at all.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.graphs import chat, chat_turn
from benchmarks.measure import in_child, peak_memory
from benchmarks.report import machine
from benchmarks.savers import SaverKind, open_saver
from benchmarks.server import PostgresServer, database_bytes
from langgraph_checkpoint_dual import PostgresSaver
from langgraph_checkpoint_dual.core.inspection.doctor import examine
from langgraph_checkpoint_dual.core.inspection.sizes import sizes
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.migrate import migrate
from langgraph_checkpoint_dual.opening import open_saver as open_ours
from langgraph_checkpoint_dual.transfer import transfer

RESULT = Path(__file__).resolve().parent / "results" / "moving.json"
_PATTERNS = 32
"""So many threads are run; all others are like one of them."""
_OFFICIAL = {"sqlite": ("checkpoints", "writes"), "postgres": ("checkpoints", "checkpoint_blobs", "checkpoint_writes")}
_OURS = ("dual_checkpoints", "dual_items", "dual_writes", "dual_threads")
_WORDS = {"official": 100, "dual": 200}


@dataclass
class Step:
    """What a step took.

    Attributes:
        cpu: the seconds of processor time of its process (not of Postgres): less than `seconds` where it waits.
        megabytes: the peak memory of its process; of all of them together where several share the work.
        before, after: the bytes of the database that it changes.
    """

    name: str
    seconds: float
    cpu: float
    megabytes: float
    before: int
    after: int
    what: str


# --- What is moved ---


def share_turns(maker: str, share: float) -> int:
    """How many turns a chat takes until it has this many bytes in SQLite."""
    kind = SaverKind(maker, "sqlite")
    with tempfile.TemporaryDirectory() as folder, open_saver(kind, f"{folder}/one.db") as saver:
        rng = random.Random(1)
        graph, turns = chat(saver, rng, _WORDS[maker]), 0
        config: Any = {"configurable": {"thread_id": "one"}}
        while turns == 0 or _bytes_of_rows(f"{folder}/one.db", maker) * (turns + 0.5) / turns < share:
            chat_turn(graph, config, rng)
            turns += 1
    return turns


def _bytes_of_rows(path: str, maker: str) -> int:
    columns = {
        "official": (("checkpoints", "checkpoint"), ("checkpoints", "metadata"), ("writes", "value")),
        "dual": (("dual_items", "data"), ("dual_writes", "data"), ("dual_checkpoints", "checkpoint")),
    }[maker]
    with closing(sqlite3.connect(path)) as connection:
        found = [connection.execute(f"SELECT sum(length({name})) FROM {table}").fetchone() for table, name in columns]
    return sum(row[0] or 0 for row in found)


def fill(kind: SaverKind, location: str, threads: int, turns: int) -> str:
    """Write chats."""
    patterns = min(threads, _PATTERNS)
    with open_saver(kind, location) as saver:
        for number in range(patterns):
            rng = random.Random(number)
            config: Any = {"configurable": {"thread_id": _name(number)}, "metadata": {"user_id": f"user-{number}"}}
            graph = chat(saver, rng, _WORDS[kind.maker])
            for _ in range(turns):
                chat_turn(graph, config, rng)
    multiply = _multiply_sqlite if kind.database == "sqlite" else _multiply_postgres
    tables = _OURS if kind.maker == "dual" else _OFFICIAL[kind.database]
    multiply(location, tables, [(_name(number % patterns), _name(number)) for number in range(patterns, threads)])
    return f"{threads:,} threads of {turns} turns"


def _name(number: int) -> str:
    return f"thread-{number:06}"


def _multiply_sqlite(path: str, tables: Sequence[str], pairs: list[tuple[str, str]]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for table in tables:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "thread_id"]
            columns = ", ".join(names)
            connection.executemany(
                f"INSERT INTO {table} (thread_id, {columns}) SELECT ?2, {columns} FROM {table} WHERE thread_id = ?1",
                pairs,
            )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _multiply_postgres(uri: str, tables: Sequence[str], pairs: list[tuple[str, str]]) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for table in tables:
            found = connection.execute(f"SELECT * FROM {table} LIMIT 0")
            names = [column.name for column in found.description or () if column.name != "thread_id"]
            connection.execute(
                sql.SQL(
                    "INSERT INTO {table} (thread_id, {columns}) SELECT p.new, {columns} FROM {table} AS t"
                    " JOIN unnest(%s::text[], %s::text[]) AS p (old, new) ON p.old = t.thread_id"
                ).format(table=sql.Identifier(table), columns=sql.SQL(", ").join(map(sql.Identifier, names))),
                [list(part) for part in zip(*pairs, strict=True)] if pairs else [[], []],
            )
        connection.execute("VACUUM ANALYZE")


# --- What is measured ---


def move_in(location: str, verify: bool, drop: bool) -> str:
    """`migrate`."""
    with open_ours(location) as saver:
        found = migrate(saver, verify=verify, drop=drop)
    size = f"{found.bytes_before / 1e6:.0f} MB of values became {found.bytes_after / 1e6:.0f} MB; "
    return (size if found.checkpoints else "") + f"{found.checkpoints:,} moved, {found.verified:,} verified"


def vacuum(location: str) -> str:
    """Give the space of the dropped tables back."""
    with open_ours(location) as saver:
        done = saver.vacuum(full=True)
    return f"{done.freed / 1e6:.0f} MB freed"


def move(source: str, target: str, verify: bool) -> str:
    """`transfer`."""
    found = transfer(source, target, verify=verify)
    return f"{found.checkpoints:,} checkpoints, {found.bytes / 1e6:.0f} MB of values, {found.verified:,} verified"


def copy(source: str, target: str) -> str:
    """The same rows by bare `COPY` into the same tables."""
    with PostgresSaver(target) as saver:
        saver.setup()
    rows = 0
    with psycopg.connect(target) as postgres, closing(sqlite3.connect(source)) as sqlite:
        for table in _OURS:
            with postgres.cursor().copy(f"COPY {table} FROM STDIN") as out:
                for row in sqlite.execute(f"SELECT * FROM {table}"):
                    out.write_row(row)
                    rows += 1
    return f"{rows:,} rows"


def doctor(location: str) -> str:
    """`langgraph-dual doctor`."""
    with open_ours(location) as saver:
        found = finish(examine(saver._blocking))
    return f"{found.checkpoints:,} checkpoints, {found.items:,} items, {len(found.findings)} findings"


def size(location: str) -> str:
    """`langgraph-dual size`."""
    with open_ours(location) as saver:
        found = finish(sizes(saver._blocking))
    return f"{found.database / 1e6:.0f} MB"


def _timed(work: Callable[..., str], *arguments: Any) -> tuple[float, float, int, str]:
    begun, used = time.perf_counter(), time.process_time()
    what = work(*arguments)
    return time.perf_counter() - begun, time.process_time() - used, peak_memory(), what


def bytes_in(location: str) -> int:
    """The bytes of a database."""
    if location.startswith("postgresql:") or "dbname=" in location:
        return database_bytes(location)
    return sum(Path(f"{location}{end}").stat().st_size for end in ("", "-wal") if Path(f"{location}{end}").exists())


class Steps:
    """What was measured, in order."""

    def __init__(self, write: Callable[[list[Step]], object]) -> None:
        self.done: list[Step] = []
        self._write = write

    def run(self, name: str, location: str, work: Callable[..., str], *arguments: Any, processes: int = 1) -> None:
        """Run some work in processes of their own."""
        before = bytes_in(location)
        with ThreadPoolExecutor(processes) as pool:
            found = list(pool.map(lambda _: in_child(_timed, work, *arguments), range(processes)))
        seconds = max(took for took, *_ in found)
        said = " | ".join(what for *_, what in found)
        cpu, peak = sum(one[1] for one in found), sum(one[2] for one in found) / 1e6
        step = Step(name, seconds, cpu, peak, before, bytes_in(location), said)
        self.done.append(step)
        self._write(self.done)
        print(_line(asdict(step)), flush=True)


def _line(step: dict[str, Any]) -> str:
    return (
        f"{step['name']:38} {step['seconds']:7.1f} s {step['cpu']:6.1f} s cpu {step['megabytes']:5.0f} MB "
        f"{step['before'] / 1e6:6.0f} → {step['after'] / 1e6:5.0f} MB   {step['what']}"
    )


def measure_moving_in(steps: Steps, database: str, location: str, threads: int, turns: int) -> None:
    """`migrate`, and the drop of the official tables, before which everything is verified."""
    steps.run(f"fill official {database}", location, fill, SaverKind("official", database), location, threads, turns)
    steps.run(f"migrate {database}", location, move_in, location, False, False)
    steps.run(f"migrate {database} --drop (verifies)", location, move_in, location, False, True)
    steps.run(f"vacuum {database}", location, vacuum, location)


def measure_sharing(steps: Steps, database: str, location: str, threads: int, turns: int) -> None:
    """`migrate` by two processes at once."""
    steps.run(f"fill official {database}", location, fill, SaverKind("official", database), location, threads, turns)
    steps.run(f"migrate {database}, two processes", location, move_in, location, False, False, processes=2)


def measure_moving_out(steps: Steps, here: str, there: str, back: str, bare: str, threads: int, turns: int) -> None:
    """`transfer` there and back, `doctor` and `size`."""
    steps.run("fill ours sqlite", here, fill, SaverKind("dual", "sqlite"), here, threads, turns)
    steps.run("COPY of the rows to postgres", bare, copy, here, bare)
    steps.run("transfer sqlite to postgres", there, move, here, there, False)
    steps.run("transfer again (nothing is missing)", there, move, here, there, False)
    steps.run("transfer again --verify", there, move, here, there, True)
    steps.run("transfer postgres to sqlite", back, move, there, back, False)
    for database, location in (("sqlite", here), ("postgres", there)):
        steps.run(f"doctor {database}", location, doctor, location)
        steps.run(f"size {database}", location, size, location)


def table(found: dict[str, Any]) -> str:
    """The results as a table for the docs."""
    lines = ["| step | time | of the processor | peak memory | database before | after |", "|---|---|---|---|---|---|"]
    for step in found["steps"]:
        if not step["name"].startswith("fill"):
            lines.append(
                f"| {step['name']} | {step['seconds']:.0f} s | {step['cpu']:.0f} s | {step['megabytes']:.0f} MB "
                f"| {step['before'] / 1e6:,.0f} MB | {step['after'] / 1e6:,.0f} MB |"
            )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Fill, move in, move there and back, look around."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks moving", description=__doc__)
    parser.add_argument("--threads", type=int, default=100, help="how many threads")
    parser.add_argument("--gigabytes", type=float, default=0.01, help="bytes of their values, official and ours each")
    parser.add_argument("--json", type=Path, default=None, help=f"write the results to this file, such as {RESULT}")
    parser.add_argument("--table", type=Path, help="only print the table of such a file")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return 0
    share = options.gigabytes * 1e9 / options.threads
    meta = machine(["moving", *arguments], 1, "moving")
    about = {"meta": meta, "threads": options.threads, "gigabytes": options.gigabytes}

    def write(done: list[Step]) -> None:
        if options.json:
            results = {**about, "steps": [asdict(step) for step in done]}
            options.json.write_text(json.dumps(results, indent=1) + "\n")

    steps, server = Steps(write), PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            one, two, three, bare = (stack.enter_context(server.database()) for _ in range(4))
            here, there, back = f"{folder}/here.db", three, f"{folder}/back.db"
            turns = share_turns("official", share)
            measure_moving_in(steps, "sqlite", f"{folder}/official.db", options.threads, turns)
            measure_moving_in(steps, "postgres", one, options.threads, turns)
            measure_moving_out(steps, here, there, back, bare, options.threads, share_turns("dual", share))
            measure_sharing(steps, "postgres", two, options.threads, turns)
    finally:
        server.stop()
    print(f"\n{table({'steps': [asdict(step) for step in steps.done]})}")
    return 0
