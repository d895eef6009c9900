"""Commands that change threads: copy, delete, prune."""

from __future__ import annotations

from typing import Annotated

import typer

from langgraph_checkpoint_dual.cli.commands import Desk, Yes, command, confirm
from langgraph_checkpoint_dual.cli.looking import ThreadId
from langgraph_checkpoint_dual.cli.outcomes import NotFound
from langgraph_checkpoint_dual.cli.output import say, say_json
from langgraph_checkpoint_dual.core import lineage
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.saver import Saver

ThreadIds = Annotated[
    list[str], typer.Argument(metavar="THREAD...", help="The ids of the threads.", show_default=False)
]


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, function in (("copy", copy), ("delete", delete), ("prune", prune)):
        command(app, name, panel="Change threads")(function)


def copy(
    desk: Desk,
    source: ThreadId,
    target: Annotated[str, typer.Argument(metavar="NEW", help="The id of the copy.", show_default=False)],
) -> None:
    """Copy a thread with its whole history to a new thread of the same database."""
    with desk.saver(look=False) as saver:
        _check_there(saver, [source])
        saver.copy_thread(source, target)
    _done(desk, f"copied {source} to {target}", source=source, target=target)


def delete(desk: Desk, threads: ThreadIds, *, yes: Yes = False) -> None:
    """Delete threads with everything of them."""
    with desk.saver(look=False) as saver:
        _check_there(saver, threads)
        confirm(f"Delete {_named(threads)} from {desk.shown}?", yes=yes)
        for thread in threads:
            saver.delete_thread(thread)
    _done(desk, f"deleted {_named(threads)}", deleted=threads)


def prune(desk: Desk, threads: ThreadIds, *, yes: Yes = False) -> None:
    """Remove all checkpoints of threads but the latest of each namespace, and what that needs."""
    with desk.saver(look=False) as saver:
        _check_there(saver, threads)
        confirm(f"Remove the history of {_named(threads)} from {desk.shown}?", yes=yes)
        saver.prune(threads)
    _done(desk, f"pruned {_named(threads)}", pruned=threads)


def _check_there(saver: Saver, threads: list[str]) -> None:
    """Raise `NotFound` for threads that do not exist: a mistyped id is told."""
    for thread in threads:
        if not finish(lineage.steps(saver._whole_blocking, thread, limit=1)) and saver.threads.get(thread) is None:
            raise NotFound(f"there is no thread {thread!r}")


def _named(threads: list[str]) -> str:
    return f"thread {threads[0]}" if len(threads) == 1 else f"{len(threads)} threads"


def _done(desk: Desk, text: str, **said: object) -> None:
    if desk.as_json:
        say_json(said)
    else:
        say(text)
