"""A process that writes without end, in four threads or tasks, and says what was acknowledged, until it is killed.

Usage: `python -m tests.faults.crash_worker PACKAGE KIND DATABASE NAME`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

from tests.faults.history import astep, step
from tests.support.savers import KINDS, OURS, opened

WRITERS = 4
LONGEST = 40


def say(thread_id: str, number: int, stored: Any) -> None:
    """One system call a line, so that no line is torn."""
    os.write(1, f"{thread_id} {number} {stored['configurable']['checkpoint_id']}\n".encode())


def write(saver: Any, name: str) -> None:
    for run in range(1_000_000):
        parent = None
        for number in range(LONGEST):
            parent = step(saver, f"{name}-{run}", number, parent)
            say(f"{name}-{run}", number, parent)
            if hasattr(saver, "messages"):
                saver.messages(f"{name}-chat").append(("human", f"said {number}"))


async def awrite(saver: Any, name: str) -> None:
    for run in range(1_000_000):
        parent = None
        for number in range(LONGEST):
            parent = await astep(saver, f"{name}-{run}", number, parent)
            say(f"{name}-{run}", number, parent)
            if hasattr(saver, "messages"):
                await saver.messages(f"{name}-chat").aappend(("human", f"said {number}"))


async def main(package: str, kind_name: str, database: str, name: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == kind_name]
    async with opened(kind.load(package), database, **({"search": True} if package == OURS else {})) as saver:
        if kind.face == "async":
            await asyncio.gather(*(awrite(saver, f"{name}-{one}") for one in range(WRITERS)))
        else:
            threads = [threading.Thread(target=write, args=(saver, f"{name}-{one}")) for one in range(WRITERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
