"""Regenerates `docs/reliability.md`: runs the probes on our savers and on the official ones, and writes what came out.

Usage: `python -m tests.faults.report [FACTOR]`; the factor multiplies the rounds.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import langgraph_checkpoint_dual as dual
from tests.faults.cancelling import CancelAt
from tests.faults.common import Report
from tests.faults.crash import crash_rounds
from tests.faults.history import made, values, writes
from tests.faults.interrupts import interrupt_rounds
from tests.support import postgres, tables
from tests.support.checkpoints import config, metadata
from tests.support.compare import answer
from tests.support.savers import KINDS, OFFICIAL, OURS, Kind, opened

PAGE = Path("docs") / "reliability.md"  # from the root of the checkout
HEAD = """# Reliability

What faults do, measured. Each is really caused, in real processes and databases; nothing is simulated. This page is
written by `python -m tests.faults.report`, and holds only what ran; `tests/faults` has these and more as tests.

- *lost*: writes that were acknowledged and are not there afterwards; for bit flips, damage that was returned as data.
- *torn*: what is there only in part.
- *goes on*: whether the next operation works, with the same saver or in the next process, without any help.

| fault | class | saver | rounds | writes acknowledged | lost | torn | goes on |
|---|---|---|---:|---:|---:|---:|---|
"""
TAIL = """
How each is caused:

- **process killed**: a process that writes in four threads or tasks gets SIGKILL at a random moment; the next reads.
- **cancelled put_writes**: ten writes are cancelled at each point in turn where the coroutine suspends, early and late.
- **Ctrl-C**: a signal handler raises in the main thread at a random moment, while four other threads write. Not run on
  the official savers.
- **bit flipped**: one random bit of one stored binary value is inverted, and all checkpoints are read; *lost* counts
  the rounds in which a reader was given other data than was stored, without an error.
"""


@contextmanager
def databases(kind: Kind, server: postgres.Server) -> Iterator[str]:
    if kind.backend == "postgres":
        with server.database() as uri:
            yield uri
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "probe.db")


async def cancelled(kind: Kind, database: str, package: str) -> Report:
    """Cancel ten writes at each suspension in turn."""
    report = Report()
    async with opened(kind.load(package), database) as saver:
        for late in (False, True):
            for suspension in range(1, 60):
                new = made("thread", 0)
                stored = await saver.aput(config("thread"), new, metadata(step=0), new["channel_versions"])
                report.acknowledged += 1
                if not await cancel_once(saver, stored, suspension, late, report):
                    break
    return report


async def cancel_once(saver: Any, stored: Any, suspension: int, late: bool, report: Report) -> bool:
    cancelling = CancelAt(saver.aput_writes(stored, writes(0), "task"), suspension, late=late)

    async def run() -> None:
        await cancelling

    await asyncio.wait([asyncio.ensure_future(run())])
    report.rounds += cancelling.reached
    try:
        found = await asyncio.wait_for(saver.aget_tuple(stored), 20)
    except Exception:
        report.stuck += 1
        return False
    report.torn += len(found.pending_writes) not in (0, 10)
    return cancelling.reached


async def flipped(kind: Kind, database: str, package: str, rounds: int) -> Report:
    """Flip a bit, read everything, flip it back."""
    report = Report()
    async with opened(kind.load(package), database) as saver:
        parent = config("thread")
        for number in range(4):
            new = made("thread", number)
            parent = await saver.aput(parent, new, metadata(step=number), new["channel_versions"])
            await saver.aput_writes(parent, [("log", values("w", 3))], "task")
            report.acknowledged += 1
        ids = [found.config async for found in saver.alist(None)]
        intact = [answer(await saver.aget_tuple(one)) for one in ids]
    cells = [
        (table, row, column)
        for table in sorted(tables.data_tables(database))
        for row in tables.named_rows(database, table)
        for column, value in row.items()
        if isinstance(value, bytes) and value
    ]
    for _ in range(rounds):
        table, row, column = random.choice(cells)
        bit = random.randrange(len(row[column]) * 8)
        damaged = bytearray(row[column])
        damaged[bit // 8] ^= 1 << bit % 8
        change(database, table, row, column, bytes(damaged))
        async with opened(kind.load(package), database) as saver:
            for one, before in zip(ids, intact, strict=True):
                try:
                    same = answer(await saver.aget_tuple(one)) == before
                except Exception:
                    continue
                if not same:
                    report.lost += 1
                    break
        change(database, table, {**row, column: bytes(damaged)}, column, row[column])
        report.rounds += 1
    return report


def change(database: str, table: str, row: dict[str, Any], column: str, value: bytes) -> None:
    """Set one cell of the row that has these contents."""
    known = {name: one for name, one in row.items() if isinstance(one, (str, int, bytes))}
    if tables.is_postgres(database):
        where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in known)
        statement = sql.SQL("UPDATE {} SET {} = %s WHERE {}")
        with psycopg.connect(database, autocommit=True) as connection:
            made_sql = statement.format(sql.Identifier(table), sql.Identifier(column), where)
            changed = connection.execute(made_sql, [value, *known.values()]).rowcount
    else:
        text = " AND ".join(f'"{name}" = ?' for name in known)
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            changed = connection.execute(
                f'UPDATE "{table}" SET "{column}" = ? WHERE {text}', [value, *known.values()]
            ).rowcount
    assert changed == 1, (table, column)


def interrupted(kind: Kind, database: str, rounds: int) -> Report:
    saver_class: Any = dual.SqliteSaver if kind.backend == "sqlite" else dual.PostgresSaver
    with saver_class(database) as saver:
        return interrupt_rounds(saver, rounds, beside=4)


def line(fault: str, kind: Kind, package: str, report: Report) -> str:
    saver = "ours" if package == OURS else "official"
    acknowledged = "" if fault.startswith("bit") else f"{report.acknowledged:,}"
    lost, torn = (f"**{count}**" if count else "0" for count in (report.lost, report.torn))
    goes_on = "yes" if not report.stuck else f"**no** ({report.stuck} rounds)"
    shown = f"`{kind.class_name}`"
    return f"| {fault} | {shown} | {saver} | {report.rounds} | {acknowledged} | {lost} | {torn} | {goes_on} |"


def main(factor: float = 1.0) -> None:
    lines = []

    def add(fault: str, kind: Kind, package: str, report: Report) -> None:
        lines.append(line(fault, kind, package, report))
        sys.stderr.write(lines[-1] + "\n")

    with postgres.server() as server:
        for kind in KINDS:
            for package in (OURS, OFFICIAL):
                with databases(kind, server) as database:
                    add("process killed", kind, package,
                        asyncio.run(crash_rounds(kind, database, round(4 * factor), package)))  # fmt: skip
        for kind in KINDS[1::2]:
            for package in (OURS, OFFICIAL):
                with databases(kind, server) as database:
                    add("cancelled put_writes", kind, package, asyncio.run(cancelled(kind, database, package)))
        for kind in KINDS[::2]:
            with databases(kind, server) as database:
                add("Ctrl-C", kind, OURS, interrupted(kind, database, round(80 * factor)))
        for kind in KINDS[1::2]:
            for package in (OURS, OFFICIAL):
                with databases(kind, server) as database:
                    add("bit flipped", kind, package,
                        asyncio.run(flipped(kind, database, package, round(100 * factor))))  # fmt: skip
    names = ("langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "langgraph")
    beside = ", ".join(f"{name} {version(name)}" for name in names)
    PAGE.write_text(f"{HEAD}{chr(10).join(lines)}\n{TAIL}\nOfficial savers and runtime: {beside}.\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
