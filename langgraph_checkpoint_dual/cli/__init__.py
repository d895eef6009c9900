"""The command line, `langgraph-dual`. It needs the extra `[cli]`; without it, `main` says how to get it."""

from __future__ import annotations

import sys

from langgraph_checkpoint_dual.cli.interrupts import watch

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line on the arguments of the process."""
    watch()
    try:
        from langgraph_checkpoint_dual.cli.app import run
    except ModuleNotFoundError as exc:
        if exc.name not in _NEEDED:
            raise
        sys.exit(
            f"langgraph-dual: the command line needs {exc.name}, which is not installed; "
            "get it with: pip install 'langgraph-checkpoint-dual[cli]'"
        )
    run()
