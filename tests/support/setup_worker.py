"""One of several processes that set up the same database at once.

Usage: `python -m tests.support.setup_worker KIND DATABASE`. Says "ready", waits for a line, and calls `setup()`.
"""

from __future__ import annotations

import asyncio
import sys

from tests.support.savers import KINDS, opened


async def main(name: str, database: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == name]
    saver_class = kind.ours
    print("ready", flush=True)
    sys.stdin.readline()
    async with opened(saver_class, database):
        pass
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
