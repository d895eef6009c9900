"""A transfer that says when it has begun to write, until it is done or killed.

Usage: `python -m tests.support.transfer_worker SOURCE TARGET RECODE`. A line for each report of progress, then "done".
"""

from __future__ import annotations

import os
import sys

from langgraph_checkpoint_dual.core.transfer import pages
from langgraph_checkpoint_dual.transfer import Progress, transfer


def main(source: str, target: str, recode: str) -> None:
    pages.PAGE_BYTES = 4096  # many transactions, so that there is much to be killed between

    def say(at: Progress) -> None:
        os.write(1, f"{at.checkpoints}\n".encode())

    transfer(source, target, recode=bool(int(recode)), on_progress=say)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
