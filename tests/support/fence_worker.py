"""A process that goes on with one thread, step by step, and loads the head again where another was first."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langgraph_checkpoint_dual.errors import StaleHeadError
from tests.support.checkpoints import config, put
from tests.support.savers import KINDS, opened


async def main(kind: str, database: str, steps: int) -> None:
    [found] = [one for one in KINDS if one.name == kind]
    won = 0
    async with opened(found.ours, database, fence=True) as saver:
        at: Any = config()
        done: list[str] = []
        for step in range(steps):
            try:
                at = await put(saver, at, {"steps": [*done, f"step {step}"]})
                done, won = [*done, f"step {step}"], won + 1
            except StaleHeadError:
                head = await saver.aget_tuple(config())
                at, done = head.config, head.checkpoint["channel_values"]["steps"]
    print(won)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
