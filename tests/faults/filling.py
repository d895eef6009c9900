"""Writes until the disk is full, frees it, and goes on: what a saver, ours or the official one, makes of that."""

from __future__ import annotations

from typing import Any

from tests.faults.common import Report
from tests.faults.crash import check
from tests.faults.disks import Disk
from tests.faults.history import astep, is_whole
from tests.support.savers import OURS, Kind, faced, opened

LEFT = 400_000
"""The bytes that are free when the disk begins to be short."""


async def fill_rounds(
    kind: Kind, database: str, disk: Disk, rounds: int, package: str = OURS
) -> tuple[Report, list[Exception]]:
    """Fill the disk this often; what came out, and how the saver said that it is full."""
    report, acknowledged, said = Report(), list[tuple[str, int, str]](), list[Exception]()
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)

        async def write(thread: str) -> Any:
            stored = await astep(subject, thread, 99, None)
            acknowledged.append((thread, 99, stored["configurable"]["checkpoint_id"]))
            return stored

        for number in range(rounds):
            report.rounds += 1
            try:
                stored = await write(f"before-{number}")
                disk.fill(LEFT)
                said.append(await _until_refused(write, f"full-{number}"))
                report.torn += not is_whole(await subject.aget_tuple(stored))
                disk.free()
                await write(f"after-{number}")
            except Exception:
                report.stuck += 1
                break
    report.acknowledged = len(acknowledged)
    await check(kind, database, acknowledged, report, package)
    return report, said


async def _until_refused(write: Any, name: str) -> Exception:
    for number in range(2000):
        try:
            await write(f"{name}-{number}")
        except Exception as exc:
            return exc
    raise AssertionError("it was never full")
