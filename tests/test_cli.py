"""The command line as its users have it: on both databases, ours and official, as text and as JSON."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import ormsgpack
import pexpect
import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from langgraph_checkpoint_dual.cli.app import app
from langgraph_checkpoint_dual.opening import masked, open_saver
from tests.golden import graphs
from tests.support import golden, screens
from tests.support.checkpoints import checkpoint, config, metadata
from tests.support.tables import contents, is_postgres, rows, tables

COMMANDS = (
    "threads history show diff messages search size copy delete prune vacuum migrate transfer export import "
    "setup verify ddl doctor reseal"
).split()
SECRET = "s3cr3t/w@rd"
Run = Callable[..., Any]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    found: str = request.getfixturevalue("sqlite_path" if request.param == "sqlite" else "postgres_uri")
    return found


@pytest.fixture
def run(database: str) -> Run:
    """Runs a command on the database."""

    def run(*arguments: str, code: int = 0, db: str = database) -> str:
        done = CliRunner().invoke(app, list(arguments), env={"LANGGRAPH_DUAL_URL": db, "COLUMNS": "200"})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return str(done.output)

    return run


@pytest.fixture
def ask(run: Run) -> Callable[..., Any]:
    """Runs a command with --json; what it says."""
    return lambda *arguments, **options: json.loads(run(*arguments, "--json", **options))


@pytest.fixture
def chat(database: str) -> list[str]:
    """A thread with three checkpoints, a fork and a subgraph; the ids of its checkpoints, the head last."""
    with open_saver(database) as saver:
        ids = [put(saver, config(), ["h0"], 0)]
        ids.append(put(saver, at(ids[0]), ["h0", "a1"], 1))
        put(saver, config("thread", "child:1"), ["h0"], 0, parents={"": ids[1]})
        put(saver, at(ids[0]), ["h0", "other"], 1)
        ids.append(put(saver, at(ids[1]), ["h0", "a1", "h2"], 2))
        saver.put_writes(at(ids[2]), [("__interrupt__", {"question": "go on?"})], "task", "path")
        saver.threads.update("thread", title="A chat", user_id="ann")
    return ids


def at(checkpoint_id: str) -> Any:
    return config(checkpoint_id=checkpoint_id)


def put(saver: Any, into: Any, names: list[str], step: int, **extra: Any) -> str:
    """Put a chat of these messages; the id of its checkpoint."""
    messages = [(HumanMessage if name[0] == "h" else AIMessage)(f"what {name} says", id=name) for name in names]
    made = checkpoint({"messages": messages, "step": step})
    saver.put(into, made, metadata(step=step, **extra), made["channel_versions"])
    found: str = made["id"]
    return found


def test_the_help_lists_every_command(run: Run) -> None:
    said = run("--help")
    assert [name for name in COMMANDS if f" {name} " not in said] == []
    for name in COMMANDS:
        assert "--db" in run(name, "--help")


# --- Looking around ---


def test_threads_are_listed(chat: Any, run: Run, ask: Any) -> None:
    found = ask("threads")
    assert [(one["thread_id"], one["title"], one["user_id"], one["status"]) for one in found["threads"]] == [
        ("thread", "A chat", "ann", "interrupted")
    ]
    assert (found["total"], found["official"]) == (1, [])
    assert "A chat" in run("threads", "--user", "ann", "--status", "interrupted")
    assert "0 of 0 threads" in run("threads", "--user", "bob")
    assert "KEY=VALUE" in run("threads", "--metadata", "x", code=2)
    assert ask("threads", "-m", "x=1", "-m", "y=text")["threads"] == []


def test_the_history_shows_forks_and_subgraphs(chat: list[str], run: Run, ask: Any) -> None:
    lines = run("history", "thread").splitlines()
    marks = [line.lstrip("│├└─ ").split()[0] for line in lines]
    assert marks[0] == "thread"
    assert marks[1] == chat[0]
    assert "fork" in lines[2]
    assert marks[4] == chat[1]
    assert "subgraph child:1" in lines[5]
    assert (marks[7], lines[7].split()[-1]) == (chat[2], "interrupted")
    found = ask("history", "thread", "-n", "2")
    assert found["more"]
    assert found["checkpoints"][0]["checkpoint_id"] == chat[2]
    assert "--before" in run("history", "thread", "-n", "2")
    assert len(ask("history", "thread", "--ns", "child:1")["checkpoints"]) == 1
    assert ask("history", "thread", "--before", chat[1])["checkpoints"][0]["checkpoint_id"] == chat[0]
    run("history", "nobody", code=3)


def test_a_long_history_is_no_deep_tree(database: str, run: Run) -> None:
    with open_saver(database) as saver:
        into = config()
        for step in range(500):
            into = at(put(saver, into, ["h0"], step))
    said = run("history", "thread", "-n", "500")
    assert len(said.splitlines()) == 501


def test_a_checkpoint_is_shown(chat: list[str], run: Run, ask: Any) -> None:
    said = run("show", "thread")
    assert "HumanMessage(content='what h2 says', id='h2')" in said
    assert "__interrupt__ {'question': 'go on?'}" in said
    found = ask("show", "thread", chat[1])
    assert (found["checkpoint_id"], found["parent_checkpoint_id"]) == (chat[1], chat[0])
    assert [one["fields"]["id"] for one in found["channel_values"]["messages"]] == ["h0", "a1"]
    assert list(ask("show", "thread", "-c", "step")["channel_values"]) == ["step"]
    assert ask("show", "thread", "--ns", "child:1")["metadata"]["parents"] == {"": chat[1]}
    for missing in (("nobody",), ("thread", "none"), ("thread", "--ns", "none")):
        run("show", *missing, code=3)


def test_two_checkpoints_are_compared(chat: list[str], run: Run, ask: Any) -> None:
    said = run("diff", "thread", code=1)
    assert "+ [2] HumanMessage(content='what h2 says', id='h2')" in said
    assert "- 1" in said
    assert "+ 2" in said
    found = ask("diff", "thread", chat[2], chat[1], code=1)
    assert [(one["path"], one["kind"]) for one in found["channels"]["messages"]] == [("[2]", "removed")]
    assert "nothing differs" in run("diff", "thread", chat[1], chat[1])
    run("copy", "thread", "copy")
    assert "nothing differs" in run("diff", "thread", "--thread", "copy")
    run("diff", "thread", chat[0], code=3)
    run("diff", "thread", chat[0], "none", code=3)


def test_a_changed_message_is_compared_field_by_field(database: str, ask: Any) -> None:
    long = "what was said, in so many words that it takes an item of its own " * 3
    with open_saver(database) as saver:
        into: Any = config()
        for text, files in (("before", 20), ("after", 21)):
            messages = [HumanMessage(long, id="h0"), AIMessage(text + long, id="a1"), HumanMessage(long, id="h2")]
            names = {f"f{number}": f"{text if number == 3 else ''}{long}" for number in range(files)}
            made = checkpoint({"messages": messages, "files": names})
            into = saver.put(into, made, metadata(), made["channel_versions"])
    found = ask("diff", "thread", code=1)["channels"]
    assert [(one["path"], one["kind"]) for one in found["messages"]] == [("[1].content", "changed")]
    assert {(one["path"], one["kind"]) for one in found["files"]} == {("['f3']", "changed"), ("['f20']", "added")}


def test_messages_are_shown(chat: Any, run: Run, ask: Any) -> None:
    said = run("messages", "thread")
    assert said.index("what h0 says") < said.index("what a1 says") < said.index("what h2 says")
    assert "0 to 2 of 3 messages" in said
    found = ask("messages", "thread", "-n", "1")
    assert [(one["idx"], one["type"], one["content"]) for one in found["messages"]] == [(2, "human", "what h2 says")]
    assert [one["idx"] for one in ask("messages", "thread", "--before", "2", "-n", "1")["messages"]] == [1]
    assert [one["idx"] for one in ask("messages", "thread", "--after", "0")["messages"]] == [1, 2]
    assert ask("messages", "thread", "--checkpoint", chat[0])["total"] == 1
    assert ask("messages", "thread", "--stats")["by_role"] == {"human": 2, "ai": 1}
    run("messages", "nobody", code=3)
    run("messages", "thread", "-c", "step", code=2)


def test_messages_are_searched(chat: Any, run: Run, ask: Any) -> None:
    assert "--rebuild" in run("search", "what", code=3)
    assert ask("search", "--rebuild")["added"] >= 3
    assert [hit["id"] for hit in ask("search", "a1")["hits"]] == ["a1"]
    assert "thread [1] ai" in run("search", "a1", "--user", "ann")
    assert "nothing found" in run("search", "a1", "--user", "bob", code=1)
    run("search", code=2)


def test_an_index_that_is_there_is_kept(chat: Any, database: str, run: Run, ask: Any, tmp_path: Path) -> None:
    """Whatever the command line changes, search finds it, and the doctor agrees."""
    ask("search", "--rebuild")
    run("copy", "thread", "copy")
    assert {hit["thread_id"] for hit in ask("search", "a1")["hits"]} == {"thread", "copy"}
    assert ask("messages", "copy")["total"] == 3
    run("export", str(tmp_path / "copy.md"), "copy")
    run("delete", "copy", "--yes")
    assert {hit["thread_id"] for hit in ask("search", "a1")["hits"]} == {"thread"}
    file = str(tmp_path / "thread.db")
    run("export", file, "thread")
    run("delete", "thread", "--yes")
    run("search", "a1", code=1)
    run("import", file)
    assert {hit["thread_id"] for hit in ask("search", "a1")["hits"]} == {"thread"}
    assert ask("search", "--rebuild")["added"] == 0
    assert "no damage found" in run("doctor")


def test_messages_that_are_not_indexed_are_found_by_the_doctor(
    chat: Any, database: str, run: Run, ask: Any, tmp_path: Path
) -> None:
    ask("search", "--rebuild")
    with open_saver(database) as saver:  # which does not search, and so does not index
        saver.put_writes(put_at(saver, ["h0", "a1", "h2", "a3", ""], 3), [("step", 4)], "task")
    found = ask("doctor", code=1)["findings"]
    assert [(one["kind"], one["channel"], one["rows"], one["harmless"]) for one in found] == [
        ("stale search", "messages", 1, True)
    ]
    run("search", "a3", code=1)
    saved = str(tmp_path / "saved")
    assert [one["repaired"] for one in ask("doctor", "--repair", "--yes", "--backup", saved)["findings"]] == [True]
    assert [hit["id"] for hit in ask("search", "a3")["hits"]] == ["a3"]
    assert "no damage found" in run("doctor")


def put_at(saver: Any, names: list[str], step: int) -> Any:
    """Go on from the latest checkpoint with these messages; "" is one without words."""
    kinds = [HumanMessage if name[:1] == "h" else AIMessage for name in names]
    said = [kind(name and f"what {name} says", id=name or "silent") for kind, name in zip(kinds, names, strict=True)]
    made = checkpoint({"messages": said, "step": step})
    return saver.put(saver.get_tuple(config()).config, made, metadata(step=step), made["channel_versions"])


def test_sizes_add_up(chat: Any, database: str, run: Run, ask: Any) -> None:
    found = ask("size")
    [thread] = found["threads"]
    assert thread["total"] == sum(one["size"] for one in found["channels"])
    lengths = rows(database, "SELECT sum(length(data)) FROM dual_items")[0][0]
    assert sum(one["size"] for one in found["channels"] if one["kind"] == "value") == lengths
    assert found["database"] > thread["total"]
    assert ask("size", "thread")["channels"] == found["channels"]
    assert ask("size", "nobody")["channels"] == []
    assert "dual_items" in run("size")


def test_looking_changes_nothing(chat: Any, database: str, run: Run) -> None:
    before = contents(database)
    for command in ("threads", "history thread", "show thread", "messages thread", "size", "doctor", "verify"):
        run(*command.split())
    run("diff", "thread", code=1)
    assert contents(database) == before


# --- Changing ---


def test_threads_are_copied_pruned_and_deleted(chat: Any, run: Run, ask: Any) -> None:
    run("copy", "thread", "copy")
    assert len(ask("history", "copy")["checkpoints"]) == 5
    run("copy", "thread", "copy", code=2)
    assert ask("prune", "copy", "--dry-run")["checkpoints"] == 4
    assert len(ask("history", "copy")["checkpoints"]) == 5
    run("prune", "copy", "--yes")
    assert len(ask("history", "copy")["checkpoints"]) == 1
    assert ask("prune", "--max-age", "1h", "--yes")["checkpoints"] == 0
    assert ask("prune", "--keep-last", "2", "--yes")["checkpoints"] > 0
    run("delete", "copy", "thread", "--yes")
    assert ask("threads")["total"] == 0
    assert ask("vacuum")["before"] > 0
    run("delete", "thread", "--yes", code=3)
    run("prune", code=2)
    run("prune", "--max-idle", "long", code=2)


def test_a_damaged_thread_keeps_no_other_from_being_pruned(chat: Any, database: str, run: Run, ask: Any) -> None:
    run("copy", "thread", "damaged")
    rows(database, "UPDATE dual_checkpoints SET slots = 'x' WHERE thread_id = 'damaged'")
    assert "damaged" in run("prune", "--keep-last", "1", "--dry-run", code=4)
    assert "damaged" in run("prune", "--keep-last", "1", "--yes", code=4)
    assert len(ask("history", "thread")["checkpoints"]) == 1
    assert rows(database, "SELECT count(*) FROM dual_checkpoints WHERE thread_id = 'damaged'") == [(5,)]


def test_pinned_threads_stay(chat: Any, database: str, ask: Any) -> None:
    with open_saver(database) as saver:
        saver.threads.update("thread", metadata={"pinned": True})
    assert ask("prune", "--keep-last", "1", "--dry-run")["checkpoints"] == 0
    assert ask("prune", "--keep-last", "1", "--dry-run", "--pinned")["checkpoints"] > 0


@pytest.mark.parametrize("command", [("delete", "thread"), ("prune", "thread")])
def test_nothing_is_removed_unasked(command: Any, chat: Any, database: str, run: Run) -> None:
    before = contents(database)
    assert "--yes" in run(*command, code=2)  # nobody is there to ask
    assert contents(database) == before


def test_a_terminal_is_asked(sqlite_path: str) -> None:
    with open_saver(sqlite_path) as saver:
        put(saver, config(), ["h0"], 0)
    for answer, code, left in (("", 1, 1), ("y", 0, 0)):
        child = pexpect.spawn(
            sys.executable,
            ["-m", "langgraph_checkpoint_dual", "delete", "thread"],
            env={**os.environ, "LANGGRAPH_DUAL_URL": sqlite_path},
            encoding="utf-8",
            timeout=60,
        )
        child.expect(r"Delete thread thread from .*\[y/N\]: ")
        child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        assert (child.exitstatus, len(rows(sqlite_path, "SELECT * FROM dual_threads"))) == (code, left)


# --- The database itself ---


def test_the_tables_are_made_and_checked(database: str, run: Run, ask: Any, tmp_path: Path) -> None:
    missing = database if is_postgres(database) else str(tmp_path / "new/chats.db")
    run("verify", code=3, db=missing)
    run("threads", code=3, db=missing)
    assert not (tmp_path / "new").exists()
    assert ask("setup", db=missing) == {"ok": True}
    assert ask("verify", db=missing) == {"ok": True}
    assert ask("threads", db=missing)["total"] == 0


def test_the_ddl_makes_what_setup_makes(database: str, run: Run) -> None:
    script = run("ddl", "--prefix", "x_")
    if is_postgres(database):
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(script)  # type: ignore[call-overload]
        assert 'CREATE TABLE "s"."dual_items"' in run("ddl", "--schema", "s")
    else:
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(script)
    assert "up to date" in run("verify", "--prefix", "x_")


def test_other_tables_are_named(chat: Any, database: str, run: Run, ask: Any) -> None:
    options = ("--prefix", "other_", *(("--schema", "place") if is_postgres(database) else ()))
    run("setup", *options)
    assert ask("threads", *options)["total"] == 0
    assert ask("threads")["total"] == 1
    if not is_postgres(database):
        run("threads", "--schema", "place", code=2)


def test_a_newer_database_is_refused(chat: Any, database: str, run: Run) -> None:
    rows(database, "UPDATE dual_migrations SET version = 999")
    assert "upgrade" in run("threads", code=4)


def test_the_doctor_finds_and_repairs(chat: Any, database: str, run: Run, ask: Any, tmp_path: Path) -> None:
    assert "no damage found" in run("doctor")
    rows(database, f"DELETE FROM dual_checkpoints WHERE checkpoint_id = '{chat[2]}'")
    rows(database, f"DELETE FROM dual_writes WHERE checkpoint_id = '{chat[2]}'")
    before = contents(database)
    found = ask("doctor", code=1)
    assert [(one["kind"], one["harmless"], one["repaired"]) for one in found["findings"]] == [
        ("orphaned items", True, False)
    ]
    assert "--repair would remove" in run("doctor", code=1)
    assert "--yes" in run("doctor", "--repair", code=2)
    assert contents(database) == before

    saved = tmp_path / "saved"
    found = ask("doctor", "--repair", "--yes", "--backup", str(saved))
    assert [one["repaired"] for one in found["findings"]] == [True]
    assert found["backup"] == str(saved)
    assert "no damage found" in run("doctor")
    assert contents(database) != before
    if is_postgres(database):
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(saved.read_bytes())
        assert contents(database) == before
    else:
        assert contents(str(saved)) == before
    rows(database, "DELETE FROM dual_threads")
    run("doctor", "--repair", "--yes", "--backup", str(saved), code=4)  # a backup is never overwritten
    assert "unlisted thread" in run("doctor", code=1)


def test_what_cannot_be_repaired_is_left(chat: Any, database: str, run: Run, tmp_path: Path) -> None:
    rows(database, "DELETE FROM dual_items")
    before = contents(database)
    assert "missing items" in run("doctor", "--repair", "--yes", "--backup", str(tmp_path / "saved"), code=1)
    assert contents(database) == before
    assert not (tmp_path / "saved").exists()


def test_damage_is_shown_where_it_is(database: str, run: Run) -> None:
    with open_saver(database) as saver:
        put(saver, config(), ["h0", "a1"], 0)
    rows(database, "DELETE FROM dual_items WHERE seq = (SELECT max(seq) FROM dual_items)")
    said = run("show", "thread")
    assert "what h0 says" in said
    assert "damaged: item" in said
    run("history", "thread")
    run("messages", "thread", code=4)


# --- Moving ---


def test_threads_are_moved_between_databases(chat: Any, run: Run, ask: Any, database: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.db")
    done = ask("transfer", database, other, "--verify")
    assert (done["threads"], done["checkpoints"], done["verified"]) == (1, 5, 5)
    assert ask("transfer", other, database)["changed"] == 0
    run("delete", "thread", "--yes")
    assert ask("transfer", other, database)["changed"] == 1
    assert "no damage found" in run("doctor")
    run("transfer", str(tmp_path / "none.db"), database, code=3)


def test_threads_are_exported_and_imported(chat: Any, run: Run, ask: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "thread.db")
    assert ask("export", file, "thread")["verified"] == 5
    run("export", file, "thread", code=2)
    run("delete", "thread", "--yes")
    assert ask("import", file, "--dry-run")["checkpoints"] == 5
    assert ask("threads")["total"] == 0
    assert ask("import", file)["verified"] == 5
    assert ask("threads")["threads"][0]["title"] == "A chat"
    run("import", str(tmp_path / "none.db"), code=3)


def test_a_transcript_is_exported(chat: Any, run: Run, ask: Any, tmp_path: Path) -> None:
    assert ask("export", str(tmp_path / "chat.jsonl"), "thread")["messages"] == 3
    said = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert [one["content"] for one in said] == ["what h0 says", "what a1 says", "what h2 says"]
    run("export", str(tmp_path / "chat.md"), "thread")
    assert "what a1 says" in (tmp_path / "chat.md").read_text()
    run("export", str(tmp_path / "chat.md"), "thread", code=4)
    run("export", str(tmp_path / "two.md"), code=2)
    run("export", str(tmp_path / "none.md"), "nobody", code=3)
    assert not (tmp_path / "none.md").exists()


# --- Official databases, and those of strangers ---


@pytest.mark.parametrize("release", [golden.RELEASES[0], golden.LATEST])
def test_official_databases_are_looked_at_and_stay_as_they_are(release: str, database: str, run: Run, ask: Any) -> None:
    golden.load(release, database)
    before = contents(database)
    found = ask("threads")["official"]
    assert {"chat", "fork"} <= {one["thread_id"] for one in found}
    for thread in [one["thread_id"] for one in found]:
        step = ask("history", thread)["checkpoints"][0]
        assert "damage" not in ask("show", thread, step["checkpoint_id"], "--ns", step["checkpoint_ns"])
    assert "fork" in run("history", "fork")
    assert "content" in ask("messages", "chat")["messages"][0]
    assert "nothing differs" not in run("diff", "chat", code=1)
    assert ask("size")["threads"]
    doctor = ask("doctor")
    assert (doctor["findings"], doctor["official"]) == ([], sum(one["checkpoints"] for one in found))
    run("verify", code=3)
    assert ask("migrate", "--dry-run")["checkpoints"] == doctor["official"]
    assert contents(database) == before
    assert tables(database) == set(before)


def test_official_threads_are_moved_with_types_that_nobody_knows(
    database: str, run: Run, ask: Any, tmp_path: Path
) -> None:
    golden.load(golden.LATEST, database)
    run("setup")
    run("search", "--rebuild")
    moved = ask("migrate", "--verify")
    assert ask("search", "--rebuild")["added"] == 0
    assert moved["verified"] == moved["checkpoints"] > 40
    other = str(tmp_path / "other.db")
    assert ask("transfer", database, other, "--verify")["verified"] == moved["checkpoints"]
    assert "Trip(city='Rome', days=3)" in run("show", "chat", db=other)
    with open_saver(other, serde=golden.serde()) as saver:
        assert saver.get(config("chat"))["channel_values"]["trip"] == graphs.Trip("Rome", 3)
    assert ask("migrate", "--drop", "--yes")["dropped"]
    assert "dual_checkpoints" in tables(database)
    assert "checkpoints" not in tables(database)
    assert "no damage found" in run("doctor")


def test_damage_in_official_tables_is_found(database: str, run: Run) -> None:
    golden.load(golden.LATEST, database)
    if is_postgres(database):
        rows(database, "UPDATE checkpoint_blobs SET blob = '\\xc7ff' WHERE channel = 'messages' AND thread_id = 'chat'")
    else:
        rows(database, "UPDATE checkpoints SET checkpoint = x'c7ff' WHERE thread_id = 'chat'")
    said = run("doctor", code=1)
    assert "damaged checkpoint  thread chat" in said
    assert "thread fork" not in said


def test_changes_reach_official_threads(database: str, run: Run, ask: Any) -> None:
    golden.load(golden.LATEST, database)
    steps = len(ask("history", "fork")["checkpoints"])
    assert ask("prune", "fork", "--dry-run")["checkpoints"] == steps - 1
    assert len(ask("history", "fork")["checkpoints"]) == steps
    assert "migrate" in run("prune", "fork", "--max-age", "1d", "--yes", code=2)
    assert ask("prune", "fork", "--yes")["checkpoints"] == steps - 1
    assert len(ask("history", "fork")["checkpoints"]) == 1
    run("copy", "chat", "copy")
    assert ask("history", "copy")["checkpoints"]
    run("delete", "nested", "--yes")
    run("history", "nested", code=3)


def test_nothing_is_revived_to_be_shown(database: str, run: Run, ask: Any) -> None:
    """Types that cannot be imported here, and one whose import would be noticed."""
    gone = ormsgpack.Ext(2, ormsgpack.packb(("no_such_module", "Gone", {"x": 1, "secret": [1, 2]})))
    call = ormsgpack.Ext(0, ormsgpack.packb(("antigravity", "fly", "now")))
    with open_saver(database, serde=Stored()) as saver:
        made = checkpoint({"gone": Bytes(ormsgpack.packb(gone)), "call": Bytes(ormsgpack.packb([call]))})
        saver.put(config(), made, metadata(), made["channel_versions"])
    assert "Gone(x=1, secret=[1, 2])" in run("show", "thread")
    assert ask("show", "thread")["channel_values"]["call"] == [{"type": "antigravity.fly", "args": ["now"]}]
    assert "antigravity" not in sys.modules
    run("doctor")
    run("copy", "thread", "copy")


class Bytes(bytes):
    """Stands for a value that is stored as these bytes."""


class Stored:
    """A serializer whose `Bytes` come from elsewhere."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return "msgpack", bytes(obj) if isinstance(obj, Bytes) else ormsgpack.packb(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return ormsgpack.unpackb(data[1])


def test_messages_hold_what_nobody_knows(database: str, run: Run) -> None:
    with open_saver(database, serde=golden.serde()) as saver:
        found = [ToolMessage("done", tool_call_id="c", id="t", artifact=graphs.Trip("Oslo", 2))]
        made = checkpoint({"messages": found})
        saver.put(config(), made, metadata(), made["channel_versions"])
    assert "artifact=Trip(city='Oslo', days=2)" in run("show", "thread")
    assert "done" in run("messages", "thread")


def test_encrypted_values_stay_so(database: str, run: Run, ask: Any) -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    with open_saver(database, serde=serde) as saver:
        put(saver, config(), ["h0"], 0)
    assert "what h0 says" not in run("show", "thread")
    assert ask("show", "thread")["channel_values"]["step"]["what"] == "msgpack+aes, not looked into"
    assert "step 0" in run("history", "thread")
    assert "no damage found" in run("doctor")


def test_control_characters_do_not_reach_the_terminal(database: str, run: Run) -> None:
    with open_saver(database) as saver:
        put(saver, config("red\x1b[31m"), ["h0\x1b]0;title\x07\u202e"], 0)
        saver.threads.update("red\x1b[31m", title="[bold]\x9b1m")
    for command in (("threads",), ("history", "red\x1b[31m"), ("show", "red\x1b[31m"), ("messages", "red\x1b[31m")):
        said = run(*command)
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(said)
    assert "[bold]\\x9b1m" in run("threads")


def test_odd_names_are_found_again(database: str, run: Run, ask: Any) -> None:
    odd = 'it\'s 100% "odd"\0'
    with open_saver(database) as saver:
        put(saver, config(odd), ["h0"], 0)
    assert ask("threads")["threads"][0]["thread_id"] == odd
    assert len(ask("history", odd)["checkpoints"]) == 1
    run("delete", odd, "--yes")
    assert ask("threads")["total"] == 0


# --- Rows with MACs ---

KEYS = {name: base64.b64encode(f"a key of 32 bytes, named {name:.<8}".encode()).decode() for name in ("one", "two")}
ONE, TWO = ("LANGGRAPH_INTEGRITY_KEY", "LANGGRAPH_TARGET_INTEGRITY_KEY")


@pytest.fixture
def sealed(database: str) -> str:
    """A database with `integrity_key=`; its key in base64."""
    with open_saver(database, integrity_key=base64.b64decode(KEYS["one"])) as saver:
        put(saver, config(), ["h0"], 0)
        put(saver, config(), ["h0", "a1"], 1)
    return KEYS["one"]


def test_the_key_of_macs_comes_from_the_environment(
    sealed: str, database: str, run: Run, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("doctor", code=2)
    assert ONE in refused
    assert "stored with integrity_key=" in run("show", "thread")
    monkeypatch.setenv(ONE, KEYS["two"])
    said = run("doctor", code=1)
    assert "damaged" in said
    assert "another integrity_key=" in run("show", "thread")
    monkeypatch.setenv(ONE, f"{KEYS['two']}, {sealed}")
    assert "no damage found" in run("doctor")
    assert ask("messages", "thread")["total"] == 2
    run("copy", "thread", "copy")
    run("prune", "copy", "--yes")
    assert ask("threads")["total"] == 2
    monkeypatch.setenv(ONE, f"{sealed[:-6]}!")
    wrong = run("threads", code=2)
    assert "no base64" in wrong
    for text in (refused, said, wrong):
        assert sealed[:-6] not in text
        assert KEYS["two"] not in text


def test_a_database_is_resealed(chat: Any, database: str, run: Run, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ONE in run("reseal", code=2)
    monkeypatch.setenv(ONE, KEYS["one"])
    done = ask("reseal", code=1)
    assert (done["changed"], done["refused"] > 5) == (0, True)
    run("reseal", "--accept-unsealed", code=2)  # there is nobody to ask
    assert ask("reseal", "--accept-unsealed", "--yes") == {**done, "changed": done["refused"], "refused": 0}
    assert "no damage found" in run("doctor")
    monkeypatch.setenv(ONE, f"{KEYS['two']} {KEYS['one']}")
    assert f"{done['rows']} resealed, 0 refused" in run("reseal")
    monkeypatch.setenv(ONE, KEYS["two"])
    assert "no damage found" in run("doctor")
    assert ask("messages", "thread")["total"] == 3


def test_macs_are_made_anew_by_what_moves_threads(
    sealed: str, database: str, run: Run, ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ONE, sealed)
    for name, key in (("same", None), ("other", KEYS["two"]), ("none", "")):
        target = str(tmp_path / f"{name}.db")
        if key is not None:
            monkeypatch.setenv(TWO, key)
        assert ask("transfer", database, target, "--verify")["verified"] == 2
        monkeypatch.delenv(TWO, raising=False)
        monkeypatch.setenv(ONE, sealed if key is None else key)
        assert "no damage found" in run("doctor", db=target)
        monkeypatch.setenv(ONE, sealed)
    run("delete", "thread", "--yes")
    file = str(tmp_path / "none.db")
    monkeypatch.delenv(ONE)
    monkeypatch.setenv(TWO, sealed)
    assert ask("import", file)["verified"] == 2
    monkeypatch.setenv(ONE, sealed)
    assert "no damage found" in run("doctor")


def test_official_threads_get_macs_when_they_are_moved(
    database: str, run: Run, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.load(golden.LATEST, database)
    monkeypatch.setenv(ONE, KEYS["one"])
    assert "content" in ask("messages", "chat")["messages"][0]
    moved = ask("migrate", "--verify")
    assert moved["verified"] == moved["checkpoints"] > 40
    assert ask("reseal")["changed"] == 0
    assert "no damage found" in run("doctor")


# --- Secrets, errors, processes ---


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "langgraph_checkpoint_dual", *arguments],
        env={**{name: value for name, value in os.environ.items() if name != "LANGGRAPH_DUAL_URL"}, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://joe:{quote(SECRET, safe='')}@localhost:1/app",
        f"postgresql://joe:{SECRET}@localhost:1/app",
        f"host=localhost port=1 user=joe password='{SECRET}'",
        f"postgresql://localhost:1/app?user=joe&password={quote(SECRET, safe='')}",
        f"postgresql://joe:{SECRET}%zz@localhost:1/app",
        f"mysql://joe:{SECRET}@localhost/app",
        f"postgresql:/joe:{SECRET}@localhost/app",
    ],
)
def test_passwords_are_never_printed(url: str) -> None:
    for command in (("threads",), ("setup",), ("delete", "x", "--yes"), ("transfer", url, url), ("--help",)):
        done = CliRunner().invoke(app, list(command), env={"LANGGRAPH_DUAL_URL": url})
        assert done.exit_code in ((0,) if command == ("--help",) else (2, 3, 4))
        assert "s3cr3t" not in done.output
        assert isinstance(done.exception, SystemExit) or done.exception is None


def test_passwords_are_masked_wherever_a_url_is_shown() -> None:
    for text in (f"cannot reach postgresql://joe:{SECRET}@host/app, sorry", f"password='{SECRET}' host=x"):
        assert "s3cr3t" not in masked(text)
    assert masked("postgresql://joe@host/app") == "postgresql://joe@host/app"
    assert masked("chats.db") == "chats.db"


def test_questions_mask_the_password(postgres_uri: str) -> None:
    url = "postgresql://?" + urlencode({**conninfo_to_dict(postgres_uri), "password": SECRET}, quote_via=quote)
    with open_saver(postgres_uri) as saver:
        put(saver, config(), ["h0"], 0)
    done = CliRunner().invoke(app, ["delete", "thread"], env={"LANGGRAPH_DUAL_URL": url})
    assert (done.exit_code, "s3cr3t" in done.output, "***" in done.output) == (2, False, True)


def test_errors_say_the_way_out(sqlite_path: str) -> None:
    done = program("threads")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--db URL" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    Path(sqlite_path).write_text("no database at all, but text that is long enough to be read as one" * 20)
    refused = CliRunner().invoke(app, ["threads", "--db", sqlite_path])
    assert (refused.exit_code, "not a database" in refused.output) == (4, True)


def test_without_its_extra_the_program_says_what_is_missing() -> None:
    hidden = "import sys; sys.modules['typer'] = None; from langgraph_checkpoint_dual.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'langgraph-checkpoint-dual[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_shells_complete_commands() -> None:
    line = {"_LANGGRAPH_DUAL_COMPLETE": "complete_bash", "COMP_WORDS": "langgraph-dual hi", "COMP_CWORD": "1"}
    assert program(**line).stdout.split() == ["history"]


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    database = str(tmp_path / "many.db")
    with open_saver(database) as saver:
        for number in range(300):
            saver.threads.register(f"{number} {'x' * 500}")
    command = f"'{sys.executable}' -m langgraph_checkpoint_dual threads -n 300 --json --db '{database}' | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_locked_database_is_read(chat: Any, database: str, run: Run) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "interrupted" in run("threads")  # reading waits for nobody
        other.execute("COMMIT")


# --- The page about it ---


def test_the_screens_of_the_page_are_what_the_program_prints() -> None:
    page = screens.PAGE.read_text(encoding="utf-8")
    for old, new in screens.screens(page):
        assert screens.settled(old) == screens.settled(new), "python -m tests.support.screens writes the page anew"


def test_the_page_names_every_command() -> None:
    page = screens.PAGE.read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"langgraph-dual {name}" not in page and f"`{name}`" not in page] == []
