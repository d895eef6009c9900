"""Writers are killed with SIGKILL at random moments; the next process finds all that was acknowledged, and goes on."""

from __future__ import annotations

import random
from typing import Any

from tests.faults.common import Report
from tests.faults.history import has_writes, is_whole
from tests.support import tables
from tests.support.checkpoints import config
from tests.support.processes import Process
from tests.support.savers import OURS, Kind, faced, opened


async def crash_rounds(kind: Kind, database: str, rounds: int, package: str = OURS) -> Report:
    """Kill a writer, and check the database, this often."""
    report = Report()
    for number in range(rounds):
        acknowledged = run_and_kill(kind, database, f"round-{number}", package)
        await check(kind, database, acknowledged, report, package)
        report.rounds += 1
        report.acknowledged += len(acknowledged)
    return report


def run_and_kill(kind: Kind, database: str, name: str, package: str) -> list[tuple[str, int, str]]:
    """What a writer acknowledged (thread, number, checkpoint) before it was killed."""
    command = ("-m", "tests.faults.crash_worker", package, kind.name, database, name)
    lines: list[str] = []
    with Process(*command, warnings=None) as worker:
        for _ in range(random.randint(1, 60)):
            lines.append(worker.stdout.readline())
        worker.kill()
        lines += worker.stdout.readlines()
        said = worker.stderr.read()
    found = [line.split() for line in lines if line.endswith("\n")]
    assert found, said
    return [(thread, int(number), checkpoint_id) for thread, number, checkpoint_id in found]


async def check(
    kind: Kind, database: str, acknowledged: list[tuple[str, int, str]], report: Report, package: str = OURS
) -> None:
    """Every acknowledged step is there with its writes, and whatever else is there is whole."""
    if kind.backend == "sqlite" and tables.rows(database, "PRAGMA integrity_check") != [("ok",)]:
        report.torn += 1
    async with opened(kind.load(package), database) as saver:
        subject, stored = faced(saver, kind.face), dict[str, Any]()
        for thread_id in {thread for thread, _, _ in acknowledged}:
            async for found in subject.alist(config(thread_id)):
                stored[found.config["configurable"]["checkpoint_id"]] = found
        report.torn += sum(not is_whole(found) for found in stored.values())
        for _, number, checkpoint_id in acknowledged:
            found = stored.get(checkpoint_id)
            if found is None or found.checkpoint["channel_values"]["number"] != number or not has_writes(found):
                report.lost += 1
    if package == OURS:
        report.torn += await disagreements(kind, database)


async def disagreements(kind: Kind, database: str) -> int:
    """How many threads the registry or the search index tell otherwise than the checkpoints do."""
    found = 0
    async with opened(kind.ours, database, search=True) as saver:
        threads = (await saver.threads.alist(limit=10_000)).threads
        known = {one.thread_id: (one.checkpoints, one.checkpoint_id) for one in threads}
        stored: dict[str, list[str]] = {}
        async for one in saver.alist(None):
            place = one.config["configurable"]
            stored.setdefault(place["thread_id"], []).append(place["checkpoint_id"])
        found += known != {name: (len(ids), max(ids)) for name, ids in stored.items()}
        for name in known:
            if name.endswith("-chat"):
                hits = (await saver.asearch("said", thread_id=name, limit=1_000)).hits
                found += len(hits) != await saver.messages(name).acount()
    return found
