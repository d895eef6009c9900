"""The command line, `langgraph-dual`. It needs the extra `[cli]`; without it, `main` says how to get it.

Nothing is imported before `main` minds Ctrl-C.
"""

import os

EXIT_CODE = 130
SAID = "langgraph-dual: interrupted"
"""What becomes of a command that is interrupted."""
_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line on the arguments of the process."""
    try:
        from langgraph_checkpoint_dual.cli.interrupts import watch

        watch()
    except KeyboardInterrupt:
        leave()
    try:
        from langgraph_checkpoint_dual.cli.app import run
    except ModuleNotFoundError as exc:
        if exc.name not in _NEEDED:
            raise
        raise SystemExit(
            f"langgraph-dual: the command line needs {exc.name}, which is not installed; "
            "get it with: pip install 'langgraph-checkpoint-dual[cli]'"
        ) from None
    run()


def leave() -> None:
    """End the process at once, as interrupted, whatever else interrupts that."""
    try:
        os.write(2, f"{SAID}\n".encode())
    finally:
        os._exit(EXIT_CODE)
