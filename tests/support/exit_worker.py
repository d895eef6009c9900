"""A process that uses a saver and ends without closing it.

Usage: `python -m tests.support.exit_worker KIND DATABASE FACE`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import KINDS

KEPT: list[Any] = []


def main(name: str, database: str, face: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == name]
    if face == "async":
        asyncio.run(use(kind.ours, database))
    else:
        saver = kind.ours(database)
        KEPT.append(saver)
        saver.put(config(), checkpoint(), metadata(), {})
        KEPT.append(saver.list(config()))
        next(KEPT[-1])
    print("done", flush=True)


async def use(saver_class: Any, database: str) -> None:
    saver = saver_class(database)
    KEPT.append(saver)
    await put(saver)
    assert await listed(saver, config())
    # Enough at once that a pool is still making connections when the loop ends.
    await asyncio.gather(*(saver.aget_tuple(config()) for _ in range(50)))


if __name__ == "__main__":
    main(*sys.argv[1:])
