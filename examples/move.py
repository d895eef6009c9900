"""Moving one conversation to another database, with its whole history.

    python examples/move.py alice --from sqlite:///chats.db --to postgresql://user:password@localhost:5432/app

Nobody should talk in the conversation meanwhile. If it is interrupted, start it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from langgraph_checkpoint_dual import open_saver
from langgraph_checkpoint_dual.errors import CheckpointerError
from langgraph_checkpoint_dual.transfer import transfer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("thread_id")
    parser.add_argument("--from", dest="source", required=True, metavar="URL")
    parser.add_argument("--to", dest="target", required=True, metavar="URL")
    parser.add_argument("--keep", action="store_true", help="do not delete it where it was")
    given = parser.parse_args(arguments)
    try:
        with open_saver(given.source) as source, open_saver(given.target) as target:
            if source.threads.get(given.thread_id) is None:
                print(f"there is no thread {given.thread_id!r}", file=sys.stderr)
                return 1
            report = transfer(source, target, thread_ids=[given.thread_id], verify=True)
            print(f"{report.checkpoints} checkpoints moved, {report.verified} compared")
            if not given.keep:
                source.threads.delete(given.thread_id)
    except CheckpointerError as error:  # also if a comparison fails: then nothing was deleted
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
