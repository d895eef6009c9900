"""Rounds of a probe in a process of its own, which may hang or die of it; a line of JSON for each.

Usage: `python -m tests.faults.probe_worker PROBE PACKAGE KIND DATABASE ROUNDS`. The report runs the same probes on our
savers and on the official ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from typing import Any

import aiosqlite
import ormsgpack
import psycopg
from psycopg.rows import dict_row

from tests.faults.common import Report
from tests.faults.crash import check
from tests.faults.history import astep, has_writes, is_whole, step
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import KINDS, OURS, Kind, faced, opened, settle

PATIENCE = 40.0
SHORT_PATIENCE = 6
"""The same where whoever is stuck would be waited for often."""
WORKER = (sys.executable, "-m", "tests.faults.probe_worker")
KEPT: list[Any] = []
"""What shall not be closed before the process ends."""
Acknowledged = list[tuple[str, int, str]]
BAD_IDS: tuple[Any, ...] = (None, "", {"a": 1}, ["a"], True, b"a")
GADGETS = [
    ("os", "system", "true"),
    ("builtins", "eval", "open('/dev/null')"),
    ("subprocess", "getoutput", "true"),
    ("antigravity", "fly", ""),
]
WATCHED = ("os.system", "subprocess.Popen", "open", "import")


def noted(acknowledged: Acknowledged, stored: Any, number: int) -> None:
    place = stored["configurable"]
    acknowledged.append((place["thread_id"], number, place["checkpoint_id"]))


async def on_a_thread(kind: Kind, saver: Any, thread_id: str, number: int = 3) -> Any:
    """A step that does not hold up the event loop."""
    if kind.face == "async":
        return await astep(saver, thread_id, number, None)
    return await asyncio.to_thread(step, saver, thread_id, number, None)


async def works(kind: Kind, saver: Any, name: str, acknowledged: Acknowledged, report: Report) -> None:
    """Whether a step works now."""
    try:
        noted(acknowledged, await asyncio.wait_for(on_a_thread(kind, saver, name), PATIENCE), 3)
    except Exception:
        report.stuck += 1


async def cancelled_at_random(kind: Kind, database: str, package: str, number: int) -> Report:
    """Begin six steps on an event loop and cancel some of them at some moment."""
    report, acknowledged = Report(rounds=1), Acknowledged()
    async with opened(kind.load(package), database) as saver:
        tasks = [asyncio.create_task(astep(saver, f"{number}-{one}", 3, None)) for one in range(6)]
        for _ in range(int(random.expovariate(1 / 40))):
            await asyncio.sleep(0)
        for task in random.sample(tasks, random.randint(1, 6)):
            task.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        for one in ended:
            if not isinstance(one, BaseException):
                noted(acknowledged, one, 3)
        await works(kind, saver, f"{number}-after", acknowledged, report)
    await check(kind, database, acknowledged, report, package)
    report.acknowledged = len(acknowledged)
    return report


async def raced(kind: Kind, database: str, package: str, number: int) -> Report:
    """Let four put onto one checkpoint at once; a branch beside the first is lost to whoever reads the latest."""
    report = Report(rounds=1)
    options: dict[str, Any] = {"fence": True} if package == OURS else {}
    async with opened(kind.load(package), database, **options) as saver:
        subject = faced(saver, kind.face)
        parent = await put(subject, config(f"race-{number}"), {"number": 0})

        def blocking(new: Any) -> Any:
            return saver.put(parent, new, metadata(), new["channel_versions"])

        async def run(one: int) -> Any:
            new = checkpoint({"number": one})
            if kind.face == "blocking":
                return await asyncio.to_thread(blocking, new)
            return await saver.aput(parent, new, metadata(), new["channel_versions"])

        ended = await asyncio.gather(*map(run, range(4)), return_exceptions=True)
        won = sum(not isinstance(one, BaseException) for one in ended)
        report.acknowledged, report.lost, report.stuck = won + 1, max(0, won - 1), int(won == 0)
    return report


async def deleted(kind: Kind, database: str, package: str, number: int) -> Report:
    """Delete a thread under a run that goes on; what comes back of it is torn."""
    report, thread = Report(rounds=1), f"deleted-{number}"
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        stored = await astep(subject, thread, 3, None)
        await subject.adelete_thread(thread)
        with suppress(Exception):
            await subject.aput_writes(stored, [("log", 1)], "late")
            await put(subject, stored, {"late": 1})
        report.torn += bool(await listed(subject, config(thread)))
        await subject.adelete_thread(thread)
        await works(kind, saver, thread, [], report)
        report.acknowledged = 2
    return report


async def misused(kind: Kind, database: str, package: str, number: int) -> Report:
    """Put under a `thread_id` that cannot be one; whatever takes it is told apart by nobody."""
    report = Report(rounds=1)
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        try:
            await put(subject, config(BAD_IDS[number % len(BAD_IDS)]), {"number": 1})
            report.lost += 1
        except Exception:
            pass
        await works(kind, saver, f"good-{number}", [], report)
        report.acknowledged = 1
    return report


class Forging:
    """A serializer that writes what an attacker would."""

    def __init__(self, inner: Any, forged: tuple[str, bytes]) -> None:
        self._inner, self._forged = inner, forged

    def dumps_typed(self, value: Any) -> tuple[str, bytes]:
        if isinstance(value, dict) and "to be forged" in value:
            return self._forged
        typed: tuple[str, bytes] = self._inner.dumps_typed(value)
        return typed

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return self._inner.loads_typed(data)


async def forged(kind: Kind, database: str, package: str, number: int) -> Report:
    """Plant a pending write that names a function or a module, and read it; what was made to run is lost."""
    report, thread, events = Report(rounds=1, acknowledged=1), f"forged-{number}", list[str]()
    gadget = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(GADGETS[number % len(GADGETS)])))
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        stored = await astep(subject, thread, 3, None)
        await subject.aget_tuple(stored)  # loads what is loaded on first use
        plain, saver.serde = saver.serde, Forging(saver.serde, ("msgpack", gadget))
        await subject.aput_writes(stored, [("log", {"to be forged": 1})], "forged")
        saver.serde = plain
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        await subject.aget_tuple(config("nothing"))
        watching = True

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if watching and event in WATCHED and (event != "open" or args[0] == "/dev/null"):
                events.append(event)

        sys.addaudithook(audit)
        with suppress(Exception):
            await subject.aget_tuple(stored)
        watching = False
        report.lost += bool(events)
        await works(kind, saver, f"{thread}-after", [], report)
    return report


async def forked(kind: Kind, database: str, package: str, number: int) -> Report:
    """Fork while the saver is in use; parent and children go on with it at the same time."""
    report, acknowledged = Report(rounds=1), Acknowledged()
    warnings.simplefilter("ignore", DeprecationWarning)
    reading, writing = os.pipe()
    async with opened(kind.load(package), database) as saver:
        noted(acknowledged, await on_a_thread(kind, saver, f"{number}-before"), 3)
        children = []
        for one in range(2):
            if (pid := os.fork()) == 0:
                signal.alarm(SHORT_PATIENCE)
                _write_and_exit(kind, saver, f"{number}-child-{one}", writing)
            children.append(pid)
        os.close(writing)
        try:
            for one in range(5):
                stored = await asyncio.wait_for(on_a_thread(kind, saver, f"{number}-parent-{one}"), SHORT_PATIENCE)
                noted(acknowledged, stored, 3)
        except Exception:
            report.stuck += 1
        acknowledged += await asyncio.to_thread(_told_by_children, reading)
        report.stuck += any([await asyncio.to_thread(_end_of, pid) for pid in children])
    report.stuck = min(report.stuck, 1)
    await check(kind, database, acknowledged, report, package)
    report.acknowledged = len(acknowledged)
    return report


def _told_by_children(reading: int) -> Acknowledged:
    with open(reading) as lines:
        return [(name, 3, one) for name, one in map(str.split, lines)]


def _end_of(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _write_and_exit(kind: Kind, saver: Any, name: str, told: int) -> None:
    try:
        for one in range(5):
            if kind.face == "blocking":
                stored = step(saver, f"{name}-{one}", 3, None)
            else:
                stored = asyncio.run(astep(saver, f"{name}-{one}", 3, None))
            os.write(told, f"{name}-{one} {stored['configurable']['checkpoint_id']}\n".encode())
    except BaseException:
        os._exit(1)
    os._exit(0)


async def on_a_second_loop(kind: Kind, database: str, package: str, number: int) -> Report:
    """Use the saver on a second event loop while it is used on its own."""
    report, acknowledged = Report(rounds=1), Acknowledged()
    async with opened(kind.load(package), database) as saver:

        async def elsewhere() -> Any:
            return await asyncio.wait_for(astep(saver, f"{number}-there", 3, None), SHORT_PATIENCE)

        ended = await asyncio.gather(
            asyncio.to_thread(asyncio.run, elsewhere()),
            *(astep(saver, f"{number}-here-{one}", 3, None) for one in range(4)),
            return_exceptions=True,
        )
    return await _checked(kind, database, package, ended, report, acknowledged)


async def _checked(
    kind: Kind, database: str, package: str, ended: Sequence[Any], report: Report, acknowledged: Acknowledged
) -> Report:
    """What came of uses at once, of which `ended` are the last checkpoints or errors."""
    report.stuck += any(isinstance(one, BaseException) for one in ended)
    for one in ended:
        if not isinstance(one, BaseException):
            noted(acknowledged, one, 3)
    await check(kind, database, acknowledged, report, package)
    report.acknowledged = len(acknowledged)
    return report


async def in_plain_threads(kind: Kind, database: str, package: str, number: int) -> Report:
    """Use the blocking methods in threads that have no event loop, also while the loop's own thread waits for that."""
    report, acknowledged = Report(rounds=1), Acknowledged()
    async with opened(kind.load(package), database) as saver:

        def use(one: int) -> Any:
            return step(saver, f"{number}-{one}", 3, None)

        ended = await asyncio.wait_for(
            asyncio.gather(*(asyncio.to_thread(use, one) for one in range(2)), return_exceptions=True), PATIENCE
        )
        signal.alarm(SHORT_PATIENCE)  # or it may wait for ever
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(use, one) for one in range(2, 4)]
            ended += [one.exception() or one.result() for one in waiting]
        signal.alarm(0)
    return await _checked(kind, database, package, ended, report, acknowledged)


async def closed_in_flight(kind: Kind, database: str, package: str, number: int) -> Report:
    """Close while four threads or tasks write; each must end, with an error."""
    report, acknowledged, ends = Report(rounds=1), Acknowledged(), list[BaseException]()
    first = threading.Event()

    async def run(one: int) -> None:
        try:
            for at in range(100_000):
                noted(acknowledged, await on_a_thread(kind, saver, f"{number}-{one}-{at}"), 3)
                first.set()
        except BaseException as exc:
            ends.append(exc)
            first.set()

    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(opened(kind.load(package), database))
        tasks = [asyncio.create_task(run(one)) for one in range(4)]
        await asyncio.to_thread(first.wait, PATIENCE)
        await asyncio.wait_for(stack.aclose(), PATIENCE)
    _, waiting = await asyncio.wait(tasks, timeout=PATIENCE)
    report.stuck += bool(waiting)
    with suppress(Exception):
        report.lost += await asyncio.wait_for(on_a_thread(kind, saver, "closed"), PATIENCE) is not None
    await check(kind, database, acknowledged, report, package)
    report.acknowledged = len(acknowledged)
    return report


async def left_open(kind: Kind, database: str, package: str, number: int) -> Report:
    """End a process without closing its saver: it ends at once, says nothing, and what it stored is there."""
    report = Report(rounds=1, acknowledged=1)
    report.stuck += not await asyncio.to_thread(_left, [package, kind.name, database, str(number)])
    async with opened(kind.load(package), database) as saver:
        found = await faced(saver, kind.face).aget_tuple(config(f"left-{number}"))
        report.lost += found is None or not (is_whole(found) and has_writes(found))
    return report


def _left(args: list[str]) -> bool:
    try:
        done = subprocess.run([*WORKER, "leave", *args], capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and b"Traceback" not in done.stderr


async def _connected(kind: Kind, database: str) -> Any:
    """What the official savers are given."""
    if kind.backend == "sqlite":
        connect: Any = sqlite3.connect if kind.face == "blocking" else aiosqlite.connect
        return await settle(connect(database, check_same_thread=False))
    connection: Any = psycopg.Connection if kind.face == "blocking" else psycopg.AsyncConnection
    return await settle(connection.connect(database, autocommit=True, row_factory=dict_row))


async def leave(kind: Kind, database: str, package: str, number: int) -> Report:
    """What `left_open` runs."""
    saver = kind.ours(database) if package == OURS else kind.official(await _connected(kind, database))
    KEPT.append(saver)
    await settle(saver.setup())
    await astep(faced(saver, kind.face), f"left-{number}", 3, None)
    return Report(rounds=1)


async def set_up_at_once(kind: Kind, database: str, package: str, number: int) -> Report:
    """Four processes call `setup()` on an empty database at once."""
    report = Report(rounds=1)
    report.stuck += not await asyncio.to_thread(_entered, [package, kind.name, database, "0"])
    acknowledged = Acknowledged()
    async with opened(kind.load(package), database) as saver:
        await works(kind, saver, "after", acknowledged, report)
    report.acknowledged, report.stuck = len(acknowledged), min(report.stuck, 1)
    return report


def _entered(args: list[str]) -> bool:
    """Whether four processes that begin at once all end well."""
    workers = [
        subprocess.Popen(
            [*WORKER, "enter", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # it is ready
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    ends = [worker.wait(PATIENCE) for worker in workers]
    return not any(ends)


async def enter(kind: Kind, database: str, package: str, number: int) -> Report:
    """What `set_up_at_once` runs."""
    saver_class = kind.load(package)
    os.write(1, b"ready\n")
    sys.stdin.readline()
    async with opened(saver_class, database):
        return Report(rounds=1)


PROBES: dict[str, Callable[[Kind, str, str, int], Awaitable[Report]]] = {
    one.__name__: one
    for one in (
        cancelled_at_random, raced, deleted, misused, forged, forked, on_a_second_loop, in_plain_threads,
        closed_in_flight, left_open, set_up_at_once, leave, enter,
    )
}  # fmt: skip


def main(probe: str, package: str, kind_name: str, database: str, rounds: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == kind_name]
    numbers = [int(rounds)] if probe in ("leave", "enter") else range(int(rounds))
    for number in numbers:
        try:
            report = asyncio.run(PROBES[probe](kind, database, package, number))
        except BaseException:
            traceback.print_exc()
            report = Report(rounds=1, stuck=1)
            if probe in ("leave", "enter"):
                os._exit(1)
        os.write(1, f"{json.dumps(asdict(report))}\n".encode())
    if probe != "leave":
        os._exit(0)  # threads of official savers may hang


if __name__ == "__main__":
    main(*sys.argv[1:])
