"""Commands that change threads: copy, delete, prune; and vacuum."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer

from langgraph_checkpoint_dual.cli.commands import Desk, Yes, command, confirm
from langgraph_checkpoint_dual.cli.looking import ThreadId
from langgraph_checkpoint_dual.cli.outcomes import NotFound
from langgraph_checkpoint_dual.cli.output import bytes_of, count, counting, say, say_json
from langgraph_checkpoint_dual.core.address import thread_key
from langgraph_checkpoint_dual.core.inspection import lineage
from langgraph_checkpoint_dual.core.retention import Progress, Removed, Retention
from langgraph_checkpoint_dual.core.threads import kept_by_prune
from langgraph_checkpoint_dual.core.tx import Tx, finish
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError
from langgraph_checkpoint_dual.saver import Saver

ThreadIds = Annotated[
    list[str], typer.Argument(metavar="THREAD...", help="The ids of the threads.", show_default=False)
]


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, function in (("copy", copy), ("delete", delete), ("prune", prune), ("vacuum", vacuum)):
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


def prune(
    desk: Desk,
    threads: Annotated[
        list[str] | None,
        typer.Argument(metavar="[THREAD...]", help="The threads; all unless given.", show_default=False),
    ] = None,
    *,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", metavar="N", help="Keep this many checkpoints of each namespace.")
    ] = None,
    max_age: Annotated[str | None, typer.Option(metavar="SPAN", help="Keep younger checkpoints: 12h, 30d, 8w.")] = None,
    max_idle: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Delete threads without a new checkpoint for this long.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Only threads of this user.")] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="Threads with pinned=true in their metadata too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Yes = False,
) -> None:
    """Remove checkpoints that are not needed to go on: all but the latest of each namespace, or as the options say.

    What a kept checkpoint needs stays, and so does the latest one of each namespace, unless its thread goes as a whole.
    """
    age, idle = _span("--max-age", max_age), _span("--max-idle", max_idle)
    if keep_last is None and age is None and idle is None:
        if not threads:
            raise ConfigError("what shall go? Name threads, or give --keep-last, --max-age or --max-idle")
        keep_last = 1
    exempt = None if pinned else {"pinned": True}
    policy = Retention(keep_last=keep_last, max_age=age, max_idle=idle, exempt=exempt)
    with desk.saver(look=False) as saver:
        _check_there(saver, threads or [])
        where: Any = {"thread_ids": threads or None, "user_id": user}
        others = [thread for thread in threads or [] if saver.threads.get(thread) is None]
        if others and policy != Retention(keep_last=1, exempt=exempt):
            raise ConfigError(
                f"{_named(others)} is in the official saver's tables only: these rules need it in ours, into which "
                "langgraph-dual migrate brings it; without rules all but the latest checkpoints are removed"
            )
        removed, damage = _retained(saver, policy, where, dry_run=True)
        removed = removed._replace(checkpoints=removed.checkpoints + sum(_prunable(saver, one) for one in others))
        if removed.checkpoints and not dry_run:
            confirm(f"Remove {_removed(removed)} from {desk.shown}?", yes=yes)
            with counting("pruning") as update:
                done, damage = _retained(saver, policy, where, on_progress=lambda now: update(now.done, now.total))
                removed = removed._replace(threads=done.threads, bytes=done.bytes)
                saver.prune(others)
    did = "would go" if dry_run else "removed"
    freed = "" if dry_run or not removed.bytes else "; vacuum gives the space back to the disk"
    _done(desk, f"{_removed(removed)} {did}{freed}", **removed._asdict(), dry_run=dry_run)
    if damage is not None:
        raise damage


def _retained(
    saver: Saver,
    policy: Retention,
    where: dict[str, Any],
    *,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] = lambda now: None,
) -> tuple[Removed, DecodeError | None]:
    """What a policy removes, and the error of the first thread that is damaged and so stays as it is."""
    removed = Removed()

    def note(now: Progress) -> None:
        nonlocal removed
        removed = now.removed
        on_progress(now)

    try:
        return saver.retain(policy, **where, dry_run=dry_run, on_progress=note), None
    except DecodeError as exc:
        return removed, exc


def _prunable(saver: Saver, thread: str) -> int:
    """How many checkpoints `prune` removes of a thread."""
    key = thread_key(thread)

    async def look(tx: Tx) -> int:
        return len(await tx.fetch("tree", thread_id=key)) - len(await kept_by_prune(saver._store, key, tx))

    return finish(saver._whole_blocking.read(look))


def _removed(removed: Removed) -> str:
    whole = f", with them {count(removed.threads, 'whole thread')}" if removed.threads else ""
    size = f" ({bytes_of(removed.bytes)})" if removed.bytes else ""
    return f"{count(removed.checkpoints, 'checkpoint')}{size}{whole}"


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _span(name: str, text: str | None) -> timedelta | None:
    """A span of time, such as 12h, 30d or 8w."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if found is None:
        raise ConfigError(f"{name} takes a span such as 90m, 12h, 30d or 8w, not {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def vacuum(
    desk: Desk,
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Postgres: give back all of it; the tables are locked meanwhile.")
    ] = False,
) -> None:
    """Give the space of what was removed back to the disk."""
    with desk.saver(look=False) as saver:
        done = saver.vacuum(full=full)
    text = f"{bytes_of(done.before)} before, {bytes_of(done.after)} after: {bytes_of(max(0, done.freed))} given back"
    _done(desk, text, **done._asdict(), freed=done.freed)


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
