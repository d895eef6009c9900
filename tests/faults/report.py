"""Regenerates `docs/reliability.md`: runs the probes on our savers and on the official ones, and writes what came out.

Usage: `python -m tests.faults.report [FACTOR [FAULT]]`; the factor multiplies the rounds. With a fault, or a part of
the name of one, only its rows are run, and shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiosqlite

from tests.faults.cancelling import CancelAt, yielding
from tests.faults.common import Report
from tests.faults.crash import check, crash_rounds
from tests.faults.data_probes import (
    flipped,
    in_cells,
    large,
    new_file,
    odd_text,
    on_bad_pages,
    read_only,
    refused_value,
    taken_from_another,
    without_a_value,
)
from tests.faults.history import astep, made, writes
from tests.faults.postgres_probes import (
    as_clerk,
    going_on,
    in_a_transaction,
    terminated_during,
    with_cluster,
    with_exhausted_pool,
    with_failover,
    with_full_disk,
    with_pooler,
    with_proxy,
    with_restarts,
)
from tests.faults.postgres_servers import Cluster, Proxy, terminate
from tests.faults.probe_worker import BAD_IDS, GADGETS, WORKER
from tests.faults.soak import Arena, soak
from tests.support import postgres
from tests.support.checkpoints import config, metadata
from tests.support.savers import KINDS, OFFICIAL, OURS, Kind, faced, opened, settle

PAGE = Path("docs") / "reliability.md"  # from the root of the checkout
HEAD = """# Reliability

What faults do, measured. Each is really caused, in real processes and databases; nothing is simulated. This page is
written by `python -m tests.faults.report`, and holds only what ran; `tests/faults` has these and more as tests.

- *lost*: writes that were acknowledged and are not there afterwards, or what below is said to count as lost.
- *torn*: what is there only in part, or what below is said to count as torn.
- *goes on*: whether the next operation works, with the same saver or in the next process, without any help.

| fault | class | saver | rounds | writes acknowledged | lost | torn | goes on |
|---|---|---|---:|---:|---:|---:|---|
"""
TAIL = """
How each is caused:

- **process killed**: a process that writes in four threads or tasks gets SIGKILL at a random moment; the next reads.
- **cancelled put_writes**: ten writes are cancelled at each point in turn where the coroutine suspends, early and late;
  the drivers are made to suspend wherever they may, as they do on a busy event loop.
- **cancelled at random**: of six steps at once some are cancelled at some turn of the event loop.
- **Ctrl-C**: a signal handler raises in the main thread at a random moment, while four other threads write.
- **backends terminated**: `pg_terminate_backend` for all connections between two steps of one saver, as opened by
  `from_conn_string`, which for the official ones is a single connection.
- **backend terminated in a step**: the same while a lock of somebody else holds the step up.
- **idle connections dropped**: a proxy before the server closes all connections between two steps.
- **server restarted**: `pg_ctl restart -m fast` between two steps.
- **server killed**: SIGKILL for the postmaster and all its children between two steps, then it is started again.
- **failover**: the primary is killed and its streaming standby promoted; the connection string names both.
- **server silent**: a proxy before the server forwards nothing more on the connections that there are, without closing
  them. Ours with `response_timeout=1`; whoever has not gone on after 10 s a round counts as stuck.
- **answer lost**: a proxy before the server lets a statement of the step through, and closes the connection when the
  answer to it is there.
- **pool exhausted**: all connections of a pool are in use for longer than it waits; the step must fail in time, and the
  next one work.
- **transaction pooler**, **statement pooler**: PgBouncer in this mode with one connection to the server; another client
  steps between any two steps, and must be able to.
- **disk full**: a file system of 48 MB, on which are the SQLite file or the tablespace of the Postgres database, is
  filled until a write is refused; then there is space again.
- **page limit**: `max_page_count` is set to just above the size of the database, on a connection of the caller's, until
  a write is refused; then there is space again.
- **bit flipped**: one random bit of one stored binary value is inverted, and all checkpoints are read; *lost* counts
  the rounds in which a reader was given other data than was stored, without an error.
- **page damaged**: half of each page of the SQLite file, or of the tables' files while the server is down, is
  overwritten in turn, and all is read; *lost* as for a flipped bit, and below.
- **rows swapped**: a stored binary value is replaced by what the same column of another row holds.
- **value missing**: each row that holds a value is gone in turn. The official SQLite savers have no such rows.
- **forged write**: a pending write names `os.system`, `eval` and the like, and is read; *lost* counts what was run or
  imported.
- **bad thread_id**: `None`, an empty one, a dict, ...; *lost* counts those that were taken.
- **value refused**: a put, and writes, of which one value cannot be stored; *torn* counts those that left anything.
- **odd text**: NUL, a lone surrogate, SQL and other hostile text as thread, namespace, channel, value, metadata, task
  and filter; *lost* counts what did not come back exactly.
- **64 MB**: a value of this size, read by another saver.
- **four race**: four put onto the same checkpoint at once, ours with `fence=True`; *lost* counts the branches beside
  the first, which nobody sees who reads the latest.
- **put after delete**: a run goes on after its thread was deleted; *torn* counts the threads that are back.
- **set up at once**: four processes call `setup()` on an empty database at the same moment.
- **set up in a transaction**: `setup()` and a step on a connection whose caller has begun a transaction.
- **role without CREATE**: a role that may only read and write the tables calls `setup()` and goes on.
- **read only**: `setup()` and all reads on a SQLite file that was opened with `mode=ro`, or in sessions whose
  transactions are read-only.
- **new file**: a new SQLite file under the usual umask; *lost* counts its files (and its WAL's) that others may read.
- **fork**: two children and their parent use the saver at the same time.
- **threads without a loop**: four threads use the blocking methods, two of them while the event loop waits for them on
  its own thread.
- **second event loop**: the saver is used on a loop in another thread while it is used on its own.
- **closed in use**: it is closed while four threads or tasks write. All must end with an error, and so must what comes
  after; *lost* counts also what was taken after the end.
- **never closed**: a process ends without closing what it opened; it must not hang, and print no traceback.

What is not covered:

- A row that is moved to another thread, whole, under a free key. `copy_thread` copies rows as they are, so that the
  checksums know the place of a row within its thread, but not the thread. With an `integrity_key=` it is noticed.
- Whoever can write to the database can make a right checksum: CRC-32 is against accidents. Forged rows run nothing, but
  say what they like, unless the saver has an `integrity_key=` ([encryption.md](encryption.md)).
- Times, user and title of a thread in the registry, which have no checksum; metadata is told if it is no JSON any more.
  The registry tells nothing of what checkpoints contain, and the doctor compares the two.
- The JSON that filters search, where exact metadata stands beside it: a filter may miss what is damaged there.
- Encryption covers values, not ids, metadata and the registry, and ciphertext is bound to its row by the checksum only:
  [encryption.md](encryption.md) tells what stays in the clear. Values that are not encrypted are refused.
- By which number a message is found from its id: an `append` of that id then adds a message in place of replacing one.
  The doctor compares these numbers with the messages, and sets them right.
- A failover to a standby that replicates asynchronously loses what Postgres acknowledged and had not sent. If the
  answer to a commit was lost just then, whether it was committed is asked by a transaction number, which the new
  primary may have given to another transaction. With synchronous replication neither can happen.
- Read errors of the disk itself are SQLite's and Postgres' to notice; what they report is raised as it is.
"""

SOAK = """## All at once

What `make soak` did in a minute: processes put, read, list, copy, prune and delete on both databases, with a random
fault every few seconds. After each, every process had to make progress again; at the end all that was acknowledged is
compared with what is there. `SOAK_SECONDS=600 make soak` does it for ten minutes.
"""
PATIENCE = 20.0
_UNCOUNTED = ("page damaged", "bit flipped", "rows swapped", "value missing", "read only")


@contextmanager
def databases(kind: Kind, server: postgres.Server) -> Iterator[str]:
    if kind.backend == "postgres":
        with server.database() as uri:
            yield uri
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "probe.db")


async def cancelled(kind: Kind, database: str, package: str) -> Report:
    """Cancel ten writes at each suspension in turn, with drivers that suspend wherever they may."""
    report = Report()
    with yielding():
        async with opened(kind.load(package), database) as saver:
            await cancel_each(saver, report)
    return report


async def cancel_each(saver: Any, report: Report) -> None:
    for late in (False, True):
        for suspension in range(1, 60):
            new = made("thread", 0)
            stored = await saver.aput(config("thread"), new, metadata(step=0), new["channel_versions"])
            report.acknowledged += 1
            if not await cancel_once(saver, stored, suspension, late, report):
                break


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


def interrupted(kind: Kind, database: str, package: str, batches: int) -> Report:
    """Interrupt steps in a process of its own; one that hangs is stuck."""
    worker = [sys.executable, "-m", "tests.faults.interrupt_worker"]
    return _reported([*worker, package, kind.name, database, str(batches)], PATIENCE * batches)


def _reported(command: list[str], patience: float) -> Report:
    """What a process reports; if it dies, or hangs for so many seconds, somebody is stuck."""
    report = Report()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        timer = threading.Timer(patience, worker.kill)
        timer.start()
        assert worker.stdout is not None
        for text in worker.stdout:
            report.add(Report(**json.loads(text)))
        worker.wait()
        timer.cancel()
    if worker.returncode:
        report.add(Report(rounds=1, stuck=1))
    return report


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


def lose_the_next_answer(proxy: Proxy) -> None:
    proxy.lose_answer(b"thread-")


def line(fault: str, kind: Kind, package: str, report: Report) -> str:
    saver = "ours" if package == OURS else "official"
    acknowledged = "" if fault in _UNCOUNTED else f"{report.acknowledged:,}"
    lost, torn = (f"**{count}**" if count else "0" for count in (report.lost, report.torn))
    goes_on = "yes" if not report.stuck else f"**no** ({report.stuck} rounds)"
    shown = f"`{kind.class_name}`"
    return f"| {fault} | {shown} | {saver} | {report.rounds} | {acknowledged} | {lost} | {torn} | {goes_on} |"


class Page:
    """The lines of the table, as they come."""

    def __init__(self, server: postgres.Server, only: str) -> None:
        self.lines: list[str] = []
        self._server, self._only = server, only

    def row(self, fault: str, kinds: Sequence[Kind], probe: Callable[[Kind, str, str], Report]) -> None:
        """Probe ours and the official saver of each kind, on a database of its own."""
        for kind in kinds if self._only in fault else ():
            for package in (OURS, OFFICIAL):
                with databases(kind, self._server) as database:
                    self.lines.append(line(fault, kind, package, probe(kind, database, package)))
                sys.stderr.write(self.lines[-1] + "\n")


def probed(probe: str, kind: Kind, database: str, package: str, rounds: int, patience: float = 2 * PATIENCE) -> Report:
    """Run a probe in a process of its own; a round in which that dies, or hangs for so many seconds, is stuck."""
    return _reported([*WORKER, probe, package, kind.name, database, str(rounds)], patience * rounds)


def main(factor: float = 1.0, only: str = "") -> None:
    def times(rounds: int) -> int:
        return max(1, round(rounds * factor))

    sqlite, on_postgres, on_loops, blocking = KINDS[:2], KINDS[2:], KINDS[1::2], KINDS[::2]
    with postgres.server() as server:
        page = Page(server, only)
        page.row("process killed", KINDS, lambda *at: asyncio.run(crash_rounds(at[0], at[1], times(8), at[2])))
        page.row("cancelled put_writes", on_loops, lambda *at: asyncio.run(cancelled(*at)))
        page.row("cancelled at random", on_loops, lambda *at: probed("cancelled_at_random", *at, times(20)))
        page.row("Ctrl-C", blocking, lambda *at: interrupted(*at, times(6)))
        page.row("backends terminated", on_postgres, lambda *at: going_on(*at, times(10), lambda: terminate(at[1])))
        page.row("backend terminated in a step", on_postgres, lambda *at: terminated_during(*at, times(3)))
        page.row("idle connections dropped", on_postgres, lambda *at: with_proxy(*at, times(5), Proxy.drop))
        page.row("server restarted", on_postgres, lambda *at: with_restarts(at[0], at[2], times(2)))
        page.row("server killed", on_postgres, lambda *at: with_cluster(at[0], at[2], times(2)))
        page.row("failover", on_postgres, lambda *at: with_failover(at[0], at[2]))
        page.row("server silent", on_postgres, lambda *at: with_proxy(*at, times(2)))
        page.row("answer lost", on_postgres, lambda *at: with_proxy(*at, times(5), lose_the_next_answer))
        page.row("pool exhausted", on_postgres, lambda *at: with_exhausted_pool(*at, times(3)))
        page.row("transaction pooler", on_postgres, lambda *at: with_pooler(*at, times(5), "transaction"))
        page.row("statement pooler", on_postgres, lambda *at: with_pooler(*at, times(5), "statement"))
        with Cluster.new() as cluster:
            page.row("disk full", KINDS, lambda *at: with_full_disk(at[0], at[2], times(2), cluster))
        page.row("page limit", sqlite, lambda *at: asyncio.run(filled(*at, times(10))))
        page.row("page damaged", KINDS, lambda *at: asyncio.run(on_bad_pages(*at)))
        page.row("bit flipped", KINDS, lambda *at: asyncio.run(in_cells(*at, times(60), flipped)))
        page.row("rows swapped", KINDS, lambda *at: asyncio.run(in_cells(*at, times(20), taken_from_another)))
        page.row("value missing", KINDS, lambda *at: asyncio.run(without_a_value(*at)))
        page.row("forged write", KINDS, lambda *at: probed("forged", *at, len(GADGETS)))
        page.row("bad thread_id", KINDS, lambda *at: probed("misused", *at, len(BAD_IDS)))
        page.row("value refused", KINDS, lambda *at: asyncio.run(refused_value(*at)))
        page.row("odd text", KINDS, lambda *at: asyncio.run(odd_text(*at)))
        page.row("64 MB", KINDS, lambda *at: asyncio.run(large(*at)))
        page.row("four race", KINDS, lambda *at: probed("raced", *at, times(5)))
        page.row("put after delete", KINDS, lambda *at: probed("deleted", *at, times(3)))
        page.row("set up at once", KINDS, lambda *at: probed("set_up_at_once", *at, 1))
        page.row("set up in a transaction", on_postgres, lambda *at: asyncio.run(in_a_transaction(*at)))
        page.row("role without CREATE", on_postgres, lambda *at: as_clerk(*at))
        page.row("read only", KINDS, lambda *at: asyncio.run(read_only(*at)))
        page.row("new file", sqlite, lambda *at: asyncio.run(new_file(*at)))
        page.row("fork", KINDS, lambda *at: probed("forked", *at, times(2), 15.0))
        page.row("threads without a loop", KINDS, lambda *at: probed("in_plain_threads", *at, times(3), 15.0))
        page.row("second event loop", on_loops, lambda *at: probed("on_a_second_loop", *at, times(3), 15.0))
        page.row("closed in use", KINDS, lambda *at: probed("closed_in_flight", *at, times(3)))
        page.row("never closed", KINDS, lambda *at: probed("left_open", *at, 1))
    if only:
        os._exit(0)
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
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, *sys.argv[2:])
