"""The nightly job: lets go what a policy does not keep, and gives the space back to the disk.

    export CHECKPOINTER_URL=sqlite:///chats.db
    python examples/retention.py --keep-last 20 --max-idle-days 90 --dry-run
    python examples/retention.py --keep-last 20 --max-idle-days 90 --vacuum

For cron: 30 3 * * * CHECKPOINTER_URL=... python retention.py --keep-last 20 --vacuum
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta

from langgraph_checkpoint_dual import CheckpointerConfig, Retention
from langgraph_checkpoint_dual.core.retention import Progress
from langgraph_checkpoint_dual.errors import CheckpointerError

WIDTH = 40


def show(progress: Progress) -> None:
    """Draw a progress bar over itself."""
    filled = WIDTH * progress.done // max(1, progress.total)
    bar = "#" * filled + "." * (WIDTH - filled)
    print(f"\r[{bar}] {progress.done}/{progress.total} threads", end="", file=sys.stderr, flush=True)
    if progress.done == progress.total:
        print(file=sys.stderr)


def days(text: str) -> timedelta:
    """A number of days as a span of time."""
    return timedelta(days=float(text))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Apply a retention policy to the database of CHECKPOINTER_URL.")
    parser.add_argument("--keep-last", type=int, metavar="N", help="checkpoints to keep of each thread and namespace")
    parser.add_argument("--max-age-days", type=days, metavar="DAYS", help="let older checkpoints go")
    parser.add_argument(
        "--max-idle-days", type=days, metavar="DAYS", help="delete threads that were not used for longer"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--vacuum", action="store_true", help="give the space back to the disk")
    given = parser.parse_args(arguments)
    try:
        policy = Retention(given.keep_last, given.max_age_days, given.max_idle_days)
        with CheckpointerConfig().create() as saver:
            progress = show if sys.stderr.isatty() else None
            removed = saver.retain(policy, dry_run=given.dry_run, on_progress=progress)
            verb = "would go" if given.dry_run else "gone"
            print(f"{verb}: {removed.threads} threads, {removed.checkpoints} checkpoints, {removed.bytes} bytes")
            if given.vacuum and not given.dry_run:
                space = saver.vacuum()
                print(f"given back: {space.freed} bytes, {space.after} are left")
    except CheckpointerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
