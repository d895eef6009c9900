"""Interrupts a saver's steps in a process of its own, which may hang or die of it; a line for each few rounds.

Usage: `python -m tests.faults.interrupt_worker PACKAGE KIND DATABASE BATCHES`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from dataclasses import asdict

from tests.faults.common import Report
from tests.faults.interrupts import interrupt_rounds
from tests.support.savers import KINDS, opened

ROUNDS = 10


async def main(package: str, kind_name: str, database: str, batches: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == kind_name]
    for _ in range(int(batches)):
        try:
            async with opened(kind.load(package), database) as saver:
                report = interrupt_rounds(saver, ROUNDS, beside=4)
        except BaseException:
            traceback.print_exc()
            report = Report(rounds=ROUNDS, stuck=1)
        os.write(1, f"{json.dumps(asdict(report))}\n".encode())
    os._exit(0)  # threads may hang


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
