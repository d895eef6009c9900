"""Each column of each table holds what it never should: whatever is called then, only documented errors come out."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from psycopg import sql
from typer.testing import CliRunner

import langgraph_checkpoint_dual as dual
from langgraph_checkpoint_dual.cli.app import app
from langgraph_checkpoint_dual.errors import DecodeError
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, metadata

THREADS = ("plain", "delta")
KEY = b"an integrity key of 32 bytes ..."
TABLES = ("checkpoints", "items", "writes", "threads", "current_threads", "tombstones", "search")
WRONG: tuple[Any, ...] = (b"\xff\x00 no text", "no bytes", 7.5)
"""What SQLite takes in any column: bytes that are no text, a text, and a number."""


def fill(saver: Any) -> None:
    """A thread with a chat, and one that has a delta channel besides; with writes, odd metadata, title and user."""
    for thread_id in THREADS:
        at, chat = config(thread_id), []
        for step in range(3):
            chat = [
                *chat,
                HumanMessage(f"a question {'x' * 200}", id=f"h{step}"),
                AIMessage("an answer", id=f"a{step}"),
            ]
            new = checkpoint({"messages": chat, "step": step})
            more: dict[str, Any] = {"odd": float("nan")} if step == 1 else {}
            if thread_id == "delta":
                new["channel_versions"]["log"] = "1"
                more["counters_since_delta_snapshot"] = {"log": (step, step)}
            at = saver.put(at, new, metadata(step=step, run_id=f"run-{step}", **more), new["channel_versions"])
            if step < 2:  # append() waits for the end of a step
                saver.put_writes(at, [("log", [f"written {step}"]), ("step", step)], f"task-{step}", "~path")
        saver.threads.update(thread_id, title="a title", user_id="ann", metadata={"plan": "a"})
        saver.threads.set_current("ann", thread_id, thread_id)
    saver.put(config("gone"), checkpoint(), metadata(), {})
    saver.delete_thread("gone")


def looks(thread_id: str) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Everything that reads, by name."""
    at = config(thread_id)
    yield "get", lambda saver: saver.get_tuple(at)
    yield "list", lambda saver: list(saver.list(None))
    yield "list filtered", lambda saver: list(saver.list(at, filter={"step": 1}))
    yield "list damaged", lambda saver: list(saver.list(None, on_damaged=lambda told: None))
    yield "history", lambda saver: saver.get_delta_channel_history(config=at, channels=["log", "messages"])
    yield "page", lambda saver: saver.messages(thread_id).page()
    yield "last", lambda saver: saver.messages(thread_id).last(2)
    yield "window", lambda saver: saver.messages(thread_id).window(max_tokens=100)
    yield "count", lambda saver: saver.messages(thread_id).count()
    yield "stats", lambda saver: saver.messages(thread_id).stats()
    if thread_id == "delta":
        yield "delta", lambda saver: saver.messages(thread_id, channel="log").count()
    yield "search in", lambda saver: saver.messages(thread_id).search("question")
    yield "search", lambda saver: saver.search("answer", user_id="ann")
    yield "thread", lambda saver: saver.threads.get(thread_id)
    yield "threads", lambda saver: saver.threads.list()
    yield "threads found", lambda saver: saver.threads.list(order="created", metadata={"plan": "a"}, status="idle")
    yield "threads counted", lambda saver: saver.threads.count(user_id="ann")
    yield "current", lambda saver: saver.threads.current("ann", thread_id)
    yield "retain keeping", lambda saver: saver.retain(dual.Retention(keep_last=1), dry_run=True)
    yield "retain idle", lambda saver: saver.retain(dual.Retention(max_idle=timedelta()), dry_run=True)


def changes(thread_id: str) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Everything that reads in order to change, by name, and in an order in which each still finds something."""
    yield "rebuild", lambda saver: saver.rebuild_search(clear=True)
    yield "append", lambda saver: saver.messages(thread_id).append([HumanMessage("again", id="h0")])
    yield "update", lambda saver: saver.threads.register(thread_id, metadata={"plan": "b"})
    yield "copy", lambda saver: saver.copy_thread(thread_id, f"copy of {thread_id}")
    yield "copied", lambda saver: saver.get_tuple(config(f"copy of {thread_id}"))
    yield "runs", lambda saver: saver.delete_for_runs(["run-0"])
    yield "prune", lambda saver: saver.prune([thread_id])
    yield "retain", lambda saver: saver.retain(dual.Retention(keep_last=1))
    yield "delete", lambda saver: saver.delete_thread(thread_id)
    yield "retain nothing", lambda saver: saver.retain(dual.Retention(max_idle=timedelta()))


def call_all(saver: Any, what: Any) -> int:
    """Call everything; how often damage was told, each time with the thread that it is in."""
    told = 0
    for make in (looks, changes):
        for thread_id in THREADS:
            for name, call in make(thread_id):
                try:
                    call(saver)
                except DecodeError as exc:
                    found: Any = exc
                except Exception as exc:
                    raise AssertionError(f"{what}, {name}: {exc!r}") from exc
                else:
                    continue
                assert {"thread_id", "user_id"} & found.where.keys(), (what, name, found)
                told += 1
    return told


def cells(database: str) -> Iterator[tuple[str, str, Any, Any]]:
    """Some cells of each column: table, column, and the row's place; what it holds."""
    row_id = "ctid::text" if tables.is_postgres(database) else "rowid"
    for table in (f"dual_{name}" for name in TABLES):
        rows = tables.named_rows(database, table)
        places = [place for (place,) in tables.rows(database, f'SELECT {row_id} FROM "{table}" ORDER BY {row_id}')]
        for number in sorted({0, len(rows) - 1}):
            for column in sorted(rows[number]):
                yield table, column, places[number], rows[number][column]


@contextmanager
def sqlite_copy(original: Path, at: Path) -> Iterator[str]:
    """A copy of a database of which nothing is left afterwards."""
    shutil.copy(original, at)
    try:
        yield str(at)
    finally:
        for left in at.parent.glob(f"{at.name}*"):
            left.unlink()


def damage_sqlite(path: str, table: str, column: str, row: Any, value: Any) -> bool:
    """Set a cell; whether the database takes the value."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        try:
            connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (value, row))
        except sqlite3.IntegrityError:
            return False
    return True


@pytest.fixture(scope="module", params=[None, KEY], ids=["without MACs", "with MACs"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A database, at rest, and the key of its MACs."""
    path = tmp_path_factory.mktemp("wrong") / "original.db"
    with dual.SqliteSaver(str(path), search=True, integrity_key=request.param) as saver:
        fill(saver)
    return path, request.param


@pytest.mark.slow
def test_wrong_types_are_told(original: tuple[Path, Any], tmp_path: Path) -> None:
    path, key = original
    told = 0
    for number, (table, column, row, _) in enumerate(cells(str(path))):
        value = WRONG[number % len(WRONG)]
        with sqlite_copy(path, tmp_path / "copy.db") as copy:
            if damage_sqlite(copy, table, column, row, value):
                with dual.SqliteSaver(copy, search=True, integrity_key=key) as saver:
                    told += call_all(saver, (table, column, row, value))
    assert told > 100


def wrong_on_postgres(held: Any) -> Any:
    """What a column of Postgres takes in place of this, though it is wrong."""
    if isinstance(held, bytes):
        return held[: len(held) // 2]
    if isinstance(held, dict):
        return "[1]"
    return held + 1 if isinstance(held, int) else "no such"


@pytest.mark.slow
def test_wrong_contents_are_told(postgres_uri: str) -> None:
    """Postgres keeps types, so that only what is in them can be wrong."""
    with dual.PostgresSaver(postgres_uri, search=True) as saver:
        fill(saver)
    told = 0
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        for table, column, row, held in list(cells(postgres_uri)):
            statement = sql.SQL("UPDATE {} SET {} = %s WHERE ctid = %s::tid")
            with connection.transaction(force_rollback=True):
                try:
                    with connection.transaction():
                        named = statement.format(sql.Identifier(table), sql.Identifier(column))
                        connection.execute(named, (wrong_on_postgres(held), row))
                except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError):
                    continue
                told += call_all(dual.PostgresSaver(connection, search=True), (table, column, row))
    assert told > 100


COMMANDS = (
    "threads", "history plain", "history delta --json", "show plain", "show plain --json", "diff plain",
    "messages plain", "search answer", "size", "export {}.export.db", "doctor --json", "doctor --repair --yes",
)  # fmt: skip


def command(database: str, line: str) -> tuple[int, str]:
    """Run a command of the command line: its exit code, and what it prints."""
    environment = {"LANGGRAPH_DUAL_URL": database, "COLUMNS": "200"}
    done = CliRunner().invoke(app, line.format(database).split(), env=environment)
    if not isinstance(done.exception, (SystemExit, type(None))):
        raise AssertionError(f"{line}: {done.exception!r}") from done.exception
    return done.exit_code, done.output


@pytest.mark.slow
@pytest.mark.parametrize("original", [None], indirect=True)
def test_commands_tell_of_wrong_types(original: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = original
    for number, (table, column, row, _) in enumerate(cells(str(path))):
        value = WRONG[number % len(WRONG)]
        with sqlite_copy(path, tmp_path / "copy.db") as copy:
            if number % 2 or not damage_sqlite(copy, table, column, row, value):
                continue
            for line in COMMANDS:
                code, said = command(copy, line)
                assert code in (0, 1, 3, 4), (table, column, row, value, line, said)
