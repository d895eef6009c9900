"""Regenerates `docs/reliability.md`: runs the probes on our savers and on the official ones, and writes what came out.

Usage: `python -m tests.faults.report [FACTOR]`; the factor multiplies the rounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
from psycopg import sql

from tests.faults.cancelling import CancelAt
from tests.faults.common import Report
from tests.faults.crash import check, crash_rounds
from tests.faults.history import astep, made, values, writes
from tests.faults.postgres_servers import Cluster, Proxy, pgbouncer, terminate
from tests.faults.soak import Arena, soak
from tests.support import postgres, tables
from tests.support.checkpoints import config, metadata
from tests.support.compare import answer
from tests.support.savers import KINDS, OFFICIAL, OURS, Kind, faced, opened, settle

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
- **Ctrl-C**: a signal handler raises in the main thread at a random moment, while four other threads write.
- **backends terminated**: `pg_terminate_backend` for all connections between two steps of one saver, as opened by
  `from_conn_string`, which for the official ones is a single connection.
- **server killed**: SIGKILL for the postmaster and all its children between two steps, then it is started again.
- **server silent**: a proxy before the server forwards nothing more on the connections that there are, without closing
  them. Ours with `response_timeout=1`; whoever has not gone on after 20 s a round counts as stuck.
- **transaction pooler**: PgBouncer with `pool_mode = transaction` and one connection to the server; another client
  steps between any two steps.
- **disk full**: `max_page_count` is set to just above the size of the database, on a connection of the caller's, until
  a write is refused; then there is space again.
- **bit flipped**: one random bit of one stored binary value is inverted, and all checkpoints are read; *lost* counts
  the rounds in which a reader was given other data than was stored, without an error.
"""

SOAK = """## All at once

What `make soak` did in a minute: processes put, read, list, copy, prune and delete on both databases, with a random
fault every few seconds. After each, every process had to make progress again; at the end all that was acknowledged is
compared with what is there. `SOAK_SECONDS=600 make soak` does it for ten minutes.
"""
PATIENCE = 20.0


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
        subject = faced(saver, kind.face)
        parent = config("thread")
        for number in range(4):
            new = made("thread", number)
            parent = await subject.aput(parent, new, metadata(step=number), new["channel_versions"])
            await subject.aput_writes(parent, [("log", values("w", 3))], "task")
            report.acknowledged += 1
        ids = [found.config async for found in subject.alist(None)]
        intact = [answer(await subject.aget_tuple(one)) for one in ids]
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
            subject = faced(saver, kind.face)
            for one, before in zip(ids, intact, strict=True):
                try:
                    same = answer(await subject.aget_tuple(one)) == before
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


def interrupted(kind: Kind, database: str, package: str, batches: int) -> Report:
    """Interrupt steps in a process of its own; one that hangs is stuck."""
    report = Report()
    command = [sys.executable, "-m", "tests.faults.interrupt_worker", package, kind.name, database, str(batches)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        timer = threading.Timer(PATIENCE * batches, worker.kill)
        timer.start()
        assert worker.stdout is not None
        for text in worker.stdout:
            report.add(Report(**json.loads(text)))
        worker.wait()
        timer.cancel()
    if worker.returncode:
        report.add(Report(rounds=1, stuck=1))
    return report


def going_on(
    kind: Kind, database: str, package: str, rounds: int, cause: Callable[[], object], through: str | None = None
) -> Report:
    """Cause a fault before each next step of one saver, which ought to go on; then look at what is there."""
    report, acknowledged = Report(), list[tuple[str, int, str]]()
    options: dict[str, Any] = {"response_timeout": 1.0} if package == OURS else {}

    async def run() -> None:
        async with opened(kind.load(package), through or database, **options) as saver:
            subject = faced(saver, kind.face)
            for number in range(rounds + 1):
                if number:
                    await asyncio.to_thread(cause)
                    report.rounds += 1
                try:
                    stored = await asyncio.wait_for(astep(subject, f"thread-{number}", 3, None), PATIENCE)
                except Exception:
                    report.stuck += 1
                else:
                    acknowledged.append((f"thread-{number}", 3, stored["configurable"]["checkpoint_id"]))

    def run_to_the_end() -> None:
        with suppress(Exception):  # some cannot even be closed afterwards
            asyncio.run(run())

    thread = threading.Thread(target=run_to_the_end, daemon=True)
    thread.start()
    thread.join(PATIENCE * (rounds + 1))
    report.stuck += thread.is_alive()
    report.acknowledged = len(acknowledged)
    asyncio.run(check(kind, database, list(acknowledged), report, package))
    return report


def one_step(kind: Kind, database: str, package: str) -> None:
    """What another process does."""

    async def run() -> None:
        async with opened(kind.load(package), database) as saver:
            await astep(faced(saver, kind.face), "beside", 3, None)

    with suppress(Exception):
        asyncio.run(run())


async def filled(kind: Kind, database: str, package: str, rounds: int) -> Report:
    """Let the disk be full until a write is refused, then free it; on a connection of the caller's."""
    report, acknowledged = Report(), list[tuple[str, int, str]]()
    connecting: Any = sqlite3.connect(database, check_same_thread=False)
    if kind.face == "async":
        connecting.close()
        connecting = await aiosqlite.connect(database)
    saver: Any = kind.load(package)(connecting)
    subject = faced(saver, kind.face)

    async def write(thread: str) -> bool:
        try:
            stored = await astep(subject, thread, 3, None)
        except sqlite3.OperationalError:
            return False
        acknowledged.append((thread, 3, stored["configurable"]["checkpoint_id"]))
        return True

    async def pragma(text: str) -> int:
        cursor = await settle(connecting.execute(f"PRAGMA {text}"))
        return int((await settle(cursor.fetchone()))[0])

    for number in range(rounds):
        report.stuck += not await write(f"before-{number}")
        await pragma(f"max_page_count = {await pragma('page_count') + 20}")
        for more in range(1000):
            if not await write(f"full-{number}-{more}"):
                break
        else:
            raise AssertionError("it was never full")
        await pragma("max_page_count = 1000000")
        report.stuck += not await write(f"after-{number}")
        report.rounds += 1
    await settle(connecting.close())
    report.acknowledged = len(acknowledged)
    await check(kind, database, acknowledged, report, package)
    return report


def line(fault: str, kind: Kind, package: str, report: Report) -> str:
    saver = "ours" if package == OURS else "official"
    acknowledged = "" if fault.startswith("bit") else f"{report.acknowledged:,}"
    lost, torn = (f"**{count}**" if count else "0" for count in (report.lost, report.torn))
    goes_on = "yes" if not report.stuck else f"**no** ({report.stuck} rounds)"
    shown = f"`{kind.class_name}`"
    return f"| {fault} | {shown} | {saver} | {report.rounds} | {acknowledged} | {lost} | {torn} | {goes_on} |"


class Page:
    """The lines of the table, as they come."""

    def __init__(self, server: postgres.Server) -> None:
        self.lines: list[str] = []
        self._server = server

    def row(self, fault: str, kinds: Sequence[Kind], probe: Callable[[Kind, str, str], Report]) -> None:
        """Probe ours and the official saver of each kind, on a database of its own."""
        for kind in kinds:
            for package in (OURS, OFFICIAL):
                with databases(kind, self._server) as database:
                    self.lines.append(line(fault, kind, package, probe(kind, database, package)))
                sys.stderr.write(self.lines[-1] + "\n")


def with_proxy(kind: Kind, database: str, package: str, rounds: int) -> Report:
    with Proxy(database) as proxy:
        return going_on(kind, database, package, rounds, proxy.silence, proxy.uri)


def with_pooler(kind: Kind, database: str, package: str, rounds: int) -> Report:
    with pgbouncer(database, "transaction") as pooled:
        return going_on(kind, database, package, rounds, lambda: one_step(kind, pooled, package), pooled)


def with_cluster(kind: Kind, package: str, rounds: int) -> Report:
    with Cluster.new() as cluster:

        def crash() -> None:
            cluster.kill()
            cluster.start()

        return going_on(kind, cluster.uri, package, rounds, crash)


def main(factor: float = 1.0) -> None:
    def times(rounds: int) -> int:
        return max(1, round(rounds * factor))

    sqlite, on_postgres, on_loops = KINDS[:2], KINDS[2:], KINDS[1::2]
    with postgres.server() as server:
        page = Page(server)
        page.row("process killed", KINDS, lambda *at: asyncio.run(crash_rounds(at[0], at[1], times(4), at[2])))
        page.row("cancelled put_writes", on_loops, lambda *at: asyncio.run(cancelled(*at)))
        page.row("Ctrl-C", KINDS[::2], lambda *at: interrupted(*at, times(6)))
        page.row("backends terminated", on_postgres, lambda *at: going_on(*at, times(10), lambda: terminate(at[1])))
        page.row("server killed", on_postgres, lambda *at: with_cluster(at[0], at[2], times(2)))
        page.row("server silent", on_postgres, lambda *at: with_proxy(*at, times(2)))
        page.row("transaction pooler", on_postgres, lambda *at: with_pooler(*at, times(5)))
        page.row("disk full", sqlite, lambda *at: asyncio.run(filled(*at, times(10))))
        page.row("bit flipped", KINDS, lambda *at: asyncio.run(flipped(*at, times(60))))
    arenas = soak(60 * factor, "1", lambda text: sys.stderr.write(f"{text}\n"))
    names = ("langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "langgraph")
    beside = ", ".join(f"{name} {version(name)}" for name in names)
    PAGE.write_text(
        f"{HEAD}{chr(10).join(page.lines)}\n{TAIL}\n{SOAK}\n{soaked(arenas)}\n\n"
        f"Official savers and runtime: {beside}.\n",
        encoding="utf-8",
    )
    os._exit(0)  # threads of official savers may still hang


def soaked(arenas: Sequence[Arena]) -> str:
    """The table of a soak."""
    lines = ["| database | rounds | operations acknowledged | faults | lost | torn | stuck | leaked connections |"]
    lines.append("|---|---:|---:|---|---:|---:|---:|---:|")
    for arena in arenas:
        found = arena.findings
        faults = ", ".join(f"{name} {number}" for name, number in sorted(arena.faults.items()))
        operations = sum(found.acknowledged.values())
        bad = " | ".join(str(len(some)) for some in (found.lost, found.torn, arena.stuck))
        lines.append(f"| {arena.backend} | {arena.rounds} | {operations:,} | {faults} | {bad} | {found.leaked} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
