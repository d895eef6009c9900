"""One of several processes that write to one database, in eight threads.

Usage: `python -m tests.faults.busy_worker PATH NAME STEPS`.
"""

from __future__ import annotations

import sys
import threading

import langgraph_checkpoint_dual as dual
from tests.faults.history import is_whole, step

THREADS = 8


def main(path: str, name: str, steps: str) -> None:
    failures: list[BaseException] = []

    def write(thread_id: str) -> None:
        parent = None
        try:
            for number in range(int(steps)):
                parent = step(saver, thread_id, number, parent)
                assert is_whole(saver.get_tuple(parent))
        except BaseException as exc:
            failures.append(exc)

    with dual.SqliteSaver(path) as saver:
        threads = [threading.Thread(target=write, args=(f"{name}-{one}",)) for one in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
