"""A process that moves a golden database and says how far it is, until it is done or killed.

Usage: `python -m tests.support.migrate_worker KIND DATABASE`.
"""

from __future__ import annotations

import os
import sys

from langgraph_checkpoint_dual.core.official import moving
from langgraph_checkpoint_dual.migrate import Progress, migrate
from tests.support.golden import serde
from tests.support.savers import KINDS


def say(progress: Progress) -> None:
    os.write(1, f"{progress.threads}\n".encode())


if __name__ == "__main__":
    moving._LARGEST_BATCH = 8  # many transactions, so that there is much to be killed between
    [kind] = [kind for kind in KINDS if kind.name == sys.argv[1]]
    with kind.ours(sys.argv[2], serde=serde()) as saver:
        migrate(saver, on_progress=say)
    os.write(1, b"done\n")
