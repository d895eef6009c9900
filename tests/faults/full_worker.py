"""A process that may only write files up to a size, and meets that limit; then it gets space again.

Usage: `python -m tests.faults.full_worker PATH`. Prints "done" if all was well.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import sys
from typing import Any

import langgraph_checkpoint_dual as dual
from tests.faults.history import is_whole, step
from tests.support.checkpoints import checkpoint, config, metadata

LIMIT = 400_000


def main(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with dual.SqliteSaver(path) as saver:
        acknowledged: list[Any] = [step(saver, "thread", 0, None)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, most))
        refused = 0
        while refused < 3:
            new = checkpoint({"blob": os.urandom(20_000)})
            try:
                saver.put(config("large"), new, metadata(), new["channel_versions"])
            except sqlite3.OperationalError:
                refused += 1
        for stored in acknowledged:
            assert is_whole(saver.get_tuple(stored))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        acknowledged.append(step(saver, "thread", 1, acknowledged[-1]))
        assert all(is_whole(saver.get_tuple(stored)) for stored in acknowledged)
        assert len(list(saver.list(config("large")))) > 0
    os.write(1, b"done")


if __name__ == "__main__":
    main(*sys.argv[1:])
