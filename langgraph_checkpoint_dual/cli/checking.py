"""Commands about the database itself: setup, verify, ddl, doctor, reseal."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.text import Text

from langgraph_checkpoint_dual.cli.commands import Desk, Yes, command, confirm
from langgraph_checkpoint_dual.cli.outcomes import Code
from langgraph_checkpoint_dual.cli.output import bytes_of, cell, count, counting, say, say_json
from langgraph_checkpoint_dual.core.inspection.doctor import Examination, Finding, examine
from langgraph_checkpoint_dual.core.inspection.mending import repair
from langgraph_checkpoint_dual.core.migrations import migrations_of
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.integrity import reseal
from langgraph_checkpoint_dual.opening import is_postgres, target
from langgraph_checkpoint_dual.saver import Saver


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, function in (("setup", setup), ("verify", verify), ("doctor", doctor), ("reseal", resealed)):
        command(app, name, panel="The database")(function)
    command(app, "ddl", panel="The database", json=False)(ddl)


def setup(desk: Desk) -> None:
    """Make the tables, or bring them up to date. A SQLite file that is missing is made."""
    with desk.saver(create=True) as saver:
        made: Any = saver
        made.setup()
    _say(desk, f"{desk.shown}: the tables are there and up to date", ok=True)


def verify(desk: Desk) -> None:
    """Check that the tables, and the rights on them, are there and up to date; change nothing."""
    with desk.saver(ours=True):
        _say(desk, f"{desk.shown}: the tables are there and up to date", ok=True)


def ddl(desk: Desk) -> None:
    """Print the SQL that setup runs in an empty database: that of Postgres, unless --db is SQLite."""
    if desk.url and not is_postgres(desk.url):
        from langgraph_checkpoint_dual.sqlite import SqliteSaver

        typer.echo(SqliteSaver.ddl(prefix=desk.prefix), nl=False)
        return
    from langgraph_checkpoint_dual.postgres import PostgresSaver

    typer.echo(PostgresSaver.ddl(schema=desk.schema, prefix=desk.prefix), nl=False)


def _say(desk: Desk, text: str, **said: object) -> None:
    if desk.as_json:
        say_json(said)
    else:
        say(text)


def doctor(
    desk: Desk,
    *,
    thread: Annotated[str | None, typer.Option(metavar="THREAD", help="Look at this thread only.")] = None,
    mend: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired without any risk, after a backup.")
    ] = False,
    backup: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the backup goes; it must not exist.", show_default=False)
    ] = None,
    yes: Yes = False,
) -> None:
    """Look for damage: checksums, missing values, orphaned items and writes, broken chains, registry, indexes.

    Exit code 1 if anything is found and left. Only what no reader can miss is ever repaired: rows that nothing refers
    to are removed, rows of the registry and indexes are made anew, and what can be searched is completed.
    """
    with desk.saver(look=not mend) as saver:
        found = _examined(desk, saver, thread)
        mended: list[Finding] = []
        saved = None
        if mend and any(finding.repair for finding in found.findings):
            if not desk.as_json:
                _show_findings(desk, found)
            confirm(f"\nRepair what can be repaired in {desk.shown}?", yes=yes)
            with _backup(desk, backup) as (saved, save):
                mended = finish(
                    repair(saver._sealing(saver._blocking), found.findings, _migrations(desk), save, saver._store)
                )
    left = [finding for finding in found.findings if finding not in mended]
    if desk.as_json:
        say_json(_examination_json(found, mended, saved))
    else:
        if not mended:
            _show_findings(desk, found)
        else:
            say(cell(f"repaired {len(mended)} of {len(found.findings)}; what was there before is in {saved}", "green"))
    if left:
        raise typer.Exit(Code.NO)


def resealed(
    desk: Desk,
    *,
    accept_unsealed: Annotated[
        bool, typer.Option("--accept-unsealed", help="Take rows that have no MAC for right, whoever has stored them.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Give every row a MAC under the first key in LANGGRAPH_INTEGRITY_KEY: after a change of keys, or to begin.

    Exit code 1 if rows were refused: they stay as they are, and doctor names them. It may be interrupted and repeated.
    """
    with desk.saver(ours=True) as saver:
        if accept_unsealed:
            confirm(f"Take all rows of {desk.shown} that have no MAC for right?", yes=yes)
        with counting("resealing") as update:
            unsealed = "accept" if accept_unsealed else "refuse"
            done = reseal(
                saver, unsealed=unsealed, on_progress=lambda now: update(now.threads, None, count(now.rows, "row"))
            )
    looked = f"{count(done.rows, 'row')} of {count(done.threads, 'thread')}"
    _say(desk, f"{looked}: {done.changed:,} resealed, {done.refused:,} refused", **done._asdict())
    if done.refused:
        raise typer.Exit(Code.NO)


def _examined(desk: Desk, saver: Saver, thread: str | None) -> Examination:
    with counting("looking") as update:

        def progress(done: int, total: int) -> None:
            update(done, None if thread else total, f"{done:,} rows")

        return finish(
            examine(saver._sealing(saver._blocking), thread_id=thread, serde=saver.serde, on_progress=progress)
        )


def _migrations(desk: Desk) -> Any:
    backend = "postgres" if is_postgres(desk.database) else "sqlite"
    return migrations_of(f"langgraph_checkpoint_dual.{backend}")


def _show_findings(desk: Desk, found: Examination) -> None:
    looked = ", ".join(
        count(number, what)
        for number, what in (
            (found.threads, "thread"),
            (found.checkpoints, "checkpoint"),
            (found.items, "item"),
            (found.writes, "pending write"),
        )
    )
    if found.official:
        looked += f", and {count(found.official, 'checkpoint')} in the official saver's tables"
    if not found.findings:
        say(cell(f"{desk.shown}: {looked}: no damage found", "green"))
        return
    for finding in found.findings:
        say(cell(finding.kind, "yellow" if finding.is_harmless else "bold red").append(_place(finding)))
        say(Text("  ").append(cell(finding.detail)))
        if finding.repair:
            size = f" ({bytes_of(finding.size)})" if finding.size else ""
            say(Text("  ").append(cell(f"--repair would {finding.repair}{size}", "dim")))
    kinds = Counter(finding.kind for finding in found.findings)
    say(f"\n{looked}")
    say("found: " + ", ".join(f"{number} × {kind}" for kind, number in kinds.most_common()))


def _place(finding: Finding) -> Text:
    parts = {
        "thread": finding.thread_id,
        "namespace": finding.checkpoint_ns or None,
        "checkpoint": finding.checkpoint_id,
        "channel": finding.channel if finding.thread_id else None,
    }
    said = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    return cell(f"  {said}" if said else "", "")


def _examination_json(found: Examination, mended: Sequence[Finding], saved: Path | None) -> dict[str, Any]:
    return {
        "threads": found.threads,
        "checkpoints": found.checkpoints,
        "items": found.items,
        "writes": found.writes,
        "official": found.official,
        "findings": [
            {**finding._asdict(), "harmless": finding.is_harmless, "repaired": finding in mended}
            for finding in found.findings
        ],
        "backup": None if saved is None else str(saved),
    }


@contextmanager
def _backup(desk: Desk, path: Path | None) -> Iterator[tuple[Path, Callable[..., object]]]:
    """A backup, and what saves rows that are about to be removed.

    Of SQLite it is a whole copy of the database, of Postgres a file of SQL that puts the removed rows back.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    if is_postgres(desk.database):
        path = path or Path(f"langgraph-dual-repair-{stamp}.sql")
        path.touch(mode=0o600, exist_ok=False)
        with path.open("w", encoding="utf-8") as file:
            yield path, _RowsAsSql(desk, file).save
        return
    source = target(desk.database).place
    path = path or Path(f"{source.partition('?')[0].removeprefix('file:')}.backup-{stamp}")
    path.touch(mode=0o600, exist_ok=False)
    is_uri = source.startswith("file:")
    with closing(sqlite3.connect(source, uri=is_uri)) as old, closing(sqlite3.connect(path)) as copy:
        old.backup(copy)
    yield path, lambda *rows: None


class _RowsAsSql:
    """Writes rows as statements that insert them again, for `psql`."""

    def __init__(self, desk: Desk, file: TextIO) -> None:
        self._desk, self._file = desk, file
        file.write("-- Rows that langgraph-dual doctor --repair removed; psql -f puts them back.\n")

    def save(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        from psycopg import sql

        name = self._desk.prefix + table
        place = sql.Identifier(self._desk.schema, name) if self._desk.schema else sql.Identifier(name)
        for row in rows:
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING;\n").format(
                place, sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(map(_literal, row))
            )
            self._file.write(statement.as_string(None))
        self._file.flush()


def _literal(value: Any) -> Any:
    from psycopg import sql

    return sql.SQL("'\\x{}'::bytea").format(sql.SQL(value.hex())) if isinstance(value, bytes) else sql.Literal(value)
