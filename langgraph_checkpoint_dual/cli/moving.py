"""Commands that move threads between tables, databases and files: migrate, transfer, export, import."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from langgraph_checkpoint_dual.cli.commands import Desk, Yes, command, confirm
from langgraph_checkpoint_dual.cli.looking import Namespace
from langgraph_checkpoint_dual.cli.outcomes import Code, NotFound
from langgraph_checkpoint_dual.cli.output import bytes_of, cell, count, counting, say, say_json
from langgraph_checkpoint_dual.cli.places import INTEGRITY, TARGET_INTEGRITY, opened
from langgraph_checkpoint_dual.core.inspection.describing import MessageReader
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.migrate import MoveError
from langgraph_checkpoint_dual.migrate import Progress as MoveProgress
from langgraph_checkpoint_dual.migrate import Report as MoveReport
from langgraph_checkpoint_dual.migrate import migrate as moved
from langgraph_checkpoint_dual.opening import is_postgres, masked
from langgraph_checkpoint_dual.transcripts import transcript
from langgraph_checkpoint_dual.transfer import Progress, Report, TransferError
from langgraph_checkpoint_dual.transfer import transfer as transferred

Threads = Annotated[
    list[str] | None, typer.Option("--thread", "-t", metavar="THREAD", help="Only this thread; may be repeated.")
]
User = Annotated[str | None, typer.Option(metavar="ID", help="Only threads of this user.")]
Since = Annotated[datetime | None, typer.Option(help="Only threads that were updated after this time.")]
LatestOnly = Annotated[bool, typer.Option("--latest-only", help="Only the latest checkpoints, and what they need.")]
OnConflict = Annotated[
    str,
    typer.Option(metavar="HOW", help="Threads that went on on both sides: raise, skip, or replace the target's."),
]
Verify = Annotated[bool, typer.Option("--verify", help="Compare every checkpoint through both savers.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what would be done.")]
_TEXTS = {".md": "markdown", ".markdown": "markdown", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, function in (("migrate", migrate), ("transfer", transfer), ("export", export), ("import", import_)):
        command(app, name, panel="Move threads")(function)


def transfer(
    desk: Desk,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The URL to read from.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The URL to write to.", show_default=False)],
    *,
    thread: Threads = None,
    user: User = None,
    since: Since = None,
    latest_only: LatestOnly = False,
    on_conflict: OnConflict = "raise",
    verify: Verify = False,
    dry_run: DryRun = False,
) -> None:
    """Bring over what the target lacks of the source's threads. It may be interrupted and repeated at any time."""
    options = {"thread_ids": thread or None, "user_id": user, "since": since, "latest_only": latest_only}
    options |= {"on_conflict": on_conflict, "verify": verify, "dry_run": dry_run}
    _transfer(desk, source, target, options)


def migrate(
    desk: Desk,
    *,
    verify: Verify = False,
    dry_run: DryRun = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop the official tables after that, if everything was found equal.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Move the official saver's threads into our tables, while runs go on.

    It may be interrupted and repeated at any time, and done by several processes at once. The official tables are only
    read; with --drop they are dropped at the end, which needs all processes with the official saver stopped.
    """
    if drop and not dry_run:
        confirm(f"Drop the official tables of {desk.shown} once everything is moved and found equal?", yes=yes)
    with desk.saver(look=dry_run) as saver, counting("moving") as update:

        def progress(now: MoveProgress) -> None:
            note = f"{now.checkpoints:,} checkpoints, {bytes_of(now.bytes_before)} to {bytes_of(now.bytes_after)}"
            update(now.threads, now.threads_total, note)

        try:
            report = moved(saver, verify=verify, dry_run=dry_run, drop=drop, on_progress=progress)
        except MoveError as exc:
            _show_move(desk, exc.report, dry_run=dry_run)
            typer.secho(f"langgraph-dual: {desk.mask(str(exc))}", err=True, fg=typer.colors.RED)
            raise typer.Exit(Code.NO) from None
    _show_move(desk, report, dry_run=dry_run)


def _show_move(desk: Desk, report: MoveReport, *, dry_run: bool) -> None:
    if desk.as_json:
        say_json(vars(report))
        return
    did = "would be moved" if dry_run else "moved"
    say(
        f"{count(report.checkpoints, 'checkpoint')} of {count(report.threads, 'thread')} and "
        f"{count(report.writes, 'pending write')} {did}; {count(report.there, 'checkpoint')} had been moved before"
    )
    say(f"{bytes_of(report.bytes_before)} in the official tables, {bytes_of(report.bytes_after)} in ours")
    if report.verified:
        say(f"{count(report.verified, 'checkpoint')} read from both and found equal")
    if report.dropped:
        say("the official tables were dropped")


def export(
    desk: Desk,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", show_default=False)],
    threads: Annotated[
        list[str] | None,
        typer.Argument(metavar="[THREAD...]", help="The threads; all unless given.", show_default=False),
    ] = None,
    *,
    user: User = None,
    since: Since = None,
    latest_only: LatestOnly = False,
    channel: Annotated[
        str, typer.Option("--channel", "-c", metavar="NAME", help="Transcripts: the channel that holds the messages.")
    ] = "messages",
    ns: Namespace = "",
) -> None:
    """Write threads to a file: a SQLite database that can be imported again; or, as .md or .jsonl, one transcript."""
    format = _TEXTS.get(file.suffix.lower())
    if format is not None:
        _export_transcript(desk, file, threads or [], format, channel, ns)
        return
    options = {"thread_ids": threads or None, "user_id": user, "since": since, "latest_only": latest_only}
    if file.exists():
        raise ConfigError(f"{file} exists already; use transfer to add to it")
    _transfer(desk, desk.database, str(file), {**options, "verify": True})


def import_(
    desk: Desk,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.", show_default=False)],
    *,
    thread: Threads = None,
    on_conflict: OnConflict = "raise",
    dry_run: DryRun = False,
) -> None:
    """Bring the threads of an exported file, or of any SQLite database, into the database."""
    if not file.is_file():
        raise NotFound(f"there is no file {str(file)!r}")
    options = {"thread_ids": thread or None, "on_conflict": on_conflict, "verify": True, "dry_run": dry_run}
    _transfer(desk, str(file), desk.database, options)


def _export_transcript(desk: Desk, file: Path, threads: list[str], format: str, channel: str, ns: str) -> None:
    if len(threads) != 1:
        raise ConfigError("a transcript is of one thread: name it after the file")
    place: Any = {"configurable": {"thread_id": threads[0], "checkpoint_ns": ns}}
    written = 0
    with desk.saver(serde=MessageReader()) as saver:
        if saver.get_tuple(place) is None:
            raise NotFound(f"there is no checkpoint of thread {threads[0]!r}")
        with file.open("x", encoding="utf-8", newline="\n") as text:
            for line in transcript(saver, place, format=format, channel=channel):
                text.write(line)
                written += 1
    if desk.as_json:
        say_json({"file": str(file), "messages": written})
    else:
        say(f"{count(written, 'message')} of thread {threads[0]} to {file}")


def _transfer(desk: Desk, source: str, target: str, options: dict[str, Any]) -> None:
    with ExitStack() as stack, counting("transferring") as update:

        def progress(now: Progress) -> None:
            size = f", {bytes_of(now.bytes)}" if now.bytes else ""
            update(now.threads, now.threads_total, f"{count(now.checkpoints, 'checkpoint')}{size}")

        one = stack.enter_context(opened(source, _schema(desk, source), desk.prefix))
        keys = TARGET_INTEGRITY if TARGET_INTEGRITY in os.environ else INTEGRITY
        create = not options.get("dry_run")
        two = stack.enter_context(
            opened(target, _schema(desk, target), desk.prefix, create=create, look=False, keys=keys)
        )
        try:
            report = transferred(one, two, **options, recode=False, on_progress=progress)
        except TransferError as exc:
            _show_report(desk, exc.report, target, dry_run=bool(options.get("dry_run")))
            typer.secho(f"langgraph-dual: {desk.mask(masked(str(exc)))}", err=True, fg=typer.colors.RED)
            raise typer.Exit(Code.NO) from None
    _show_report(desk, report, target, dry_run=bool(options.get("dry_run")))


def _schema(desk: Desk, url: str) -> str | None:
    """The schema, for the sides that have one."""
    return desk.schema if is_postgres(url) else None


def _show_report(desk: Desk, report: Report, target: str, *, dry_run: bool) -> None:
    if desk.as_json:
        say_json(vars(report))
        return
    did = "would be stored" if dry_run else "stored"
    size = f" ({bytes_of(report.bytes)})" if report.bytes else ""  # put one by one, they are not counted
    say(
        f"{report.changed:,} of {count(report.threads, 'thread')}, {count(report.checkpoints, 'checkpoint')}, "
        f"{count(report.writes, 'pending write')}{size} {did} in {masked(target)}"
    )
    say(f"took {report.seconds:.1f} s")
    if report.verified:
        say(f"{count(report.verified, 'checkpoint')} read from both and found equal")
    if report.ahead:
        say(f"{count(report.ahead, 'thread')} went on in the target, left alone")
    for label, found in (("conflict", report.conflicts), ("damaged", report.damaged), ("differs", report.differences)):
        for one in found:
            say(cell(f"{label}: {one}", "red"))
    if report.lost:
        say(cell(f"not told by the source: {', '.join(report.lost)}", "yellow"))
