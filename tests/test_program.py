"""The command line as a new user has it: a program in a terminal, on a database that somebody else's program wrote."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from typer.testing import CliRunner

from langgraph_checkpoint_dual.cli.app import app
from tests.support.tables import rows

OTHER_PROGRAM = """
import sys
from dataclasses import dataclass
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt


@dataclass
class Order:
    what: str


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    order: Order


def answer(state):
    if "pay" in state["messages"][-1].content:
        interrupt("3 EUR?")
    return {"messages": [AIMessage("an answer so long that a narrow terminal wraps it: " + "word " * 20)],
            "order": Order("coffee")}


with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
    graph = StateGraph(State).add_node(answer).add_edge(START, "answer").compile(checkpointer=saver)
    for thread, texts in (("first", ["one", "two"]), ("second", ["one", "pay"])):
        for text in texts:
            graph.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": thread}})
"""
PROGRAM = "import sys; from langgraph_checkpoint_dual.cli import main; sys.argv[0] = 'langgraph-dual'; main()"
"""What the script is that an installation makes."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database that a program wrote which knows nothing of this package."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "program.py").write_text(OTHER_PROGRAM)
    subprocess.run([sys.executable, folder / "program.py", folder / "shop.db"], check=True, capture_output=True)
    return (folder / "shop.db").read_bytes()


@pytest.fixture
def shop(written: bytes, tmp_path: Path) -> Path:
    """A folder with that database."""
    (tmp_path / "shop.db").write_bytes(written)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    return {**kept, "LANGGRAPH_DUAL_URL": "shop.db", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **more}


def started(folder: Path, *arguments: str, width: int = 80) -> Any:
    """The program in a terminal."""
    return pexpect.spawn(
        sys.executable,
        ["-c", PROGRAM, *arguments],
        dimensions=(40, width),
        cwd=str(folder),
        env=environment(),
        encoding="utf-8",
        timeout=60,
    )


def seen(folder: Path, *arguments: str, width: int = 80, answers: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run the program in a terminal; its exit code and what was seen."""
    child = started(folder, *arguments, width=width)
    for answer in answers:
        child.expect(r"\[y/N\]: ")
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, child.before


def piped(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program without a terminal."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )


EVERY_COMMAND: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("threads",)),
    (0, ("history", "first")),
    (0, ("show", "first")),
    (1, ("diff", "first")),
    (0, ("messages", "first")),
    (0, ("size",)),
    (0, ("doctor",)),
    (3, ("verify",)),
    (0, ("copy", "first", "copy")),
    (0, ("search", "--rebuild", "answer")),
    (0, ("migrate", "--verify")),
    (0, ("search", "one", "--thread", "second")),
    (0, ("prune", "copy", "--yes")),
    (0, ("delete", "copy", "--yes")),
    (0, ("export", "first.db", "first")),
    (0, ("export", "first.jsonl", "first")),
    (0, ("transfer", "shop.db", "other.db")),
    (0, ("import", "first.db", "--db", "other.db")),
    (0, ("migrate", "--drop", "--yes")),
    (0, ("vacuum",)),
    (0, ("setup",)),
    (0, ("verify",)),
    (0, ("doctor",)),
)


def test_every_command_answers_with_json_that_can_be_read(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    for code, arguments in EVERY_COMMAND:
        done = CliRunner().invoke(app, [*arguments, "--json"], env={"LANGGRAPH_DUAL_URL": "shop.db"})
        assert (done.exit_code, arguments) == (code, arguments), done.output
        if code != 3:
            assert json.loads(done.stdout) is not None
        assert (done.stderr == "") == (code != 3)


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_has_colours_and_its_own_width(shop: Path, width: int) -> None:
    code, said = seen(shop, "--help", width=width)
    widest = max(len(COLOUR.sub("", line).rstrip()) for line in said.splitlines())
    assert (code, "\x1b[" in said) == (0, True)
    assert width - 20 < widest <= width
    assert len(said.splitlines()) > 20


def test_what_is_piped_has_no_colours(shop: Path) -> None:
    assert "\x1b" not in piped(shop, "history", "first").stdout
    assert "\x1b" not in piped(shop, "history", "nobody").stderr


def test_it_asks_before_it_destroys(shop: Path) -> None:
    for command, answer in ((("delete", "first"), ""), (("prune", "first"), "n"), (("migrate", "--drop"), "No")):
        code, said = seen(shop, *command, answers=(answer,))
        assert (code, "nothing was changed" in said) == (1, True)
    assert seen(shop, "delete", "first", answers=("what?", "y"))[0] == 0
    assert rows(str(shop / "shop.db"), "SELECT DISTINCT thread_id FROM checkpoints") == [("second",)]


def test_an_interrupt_at_a_question_is_no_answer(shop: Path) -> None:
    child = started(shop, "delete", "first")
    child.expect(r"\[y/N\]: ")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert (child.exitstatus, COLOUR.sub("", child.before)) == (130, "^Clanggraph-dual: interrupted\r\n")
    assert len(rows(str(shop / "shop.db"), "SELECT DISTINCT thread_id FROM checkpoints")) == 2


# Modules that are imported on the way from the first line to the command.
MOMENTS = (
    "langgraph_checkpoint_dual.cli.interrupts", "enum", "contextlib",
    "langgraph_checkpoint_dual.cli.app", "langchain_core.messages", "rich.progress",
)  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_while_modules_are_imported_ends_with_one_line(shop: Path, moment: str) -> None:
    meddled = f"""
import os, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), {int(signal.SIGINT)})
sys.meta_path.insert(0, Interrupting())
{PROGRAM.replace("; ", chr(10))}
"""
    command = [sys.executable, "-c", meddled, "threads"]
    done = subprocess.run(command, cwd=shop, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "langgraph-dual: interrupted\n")


def test_nothing_is_imported_before_the_command_line_begins() -> None:
    """An interrupt meanwhile would be met by nobody."""
    code = "import os, sys; had = {*sys.modules}; from langgraph_checkpoint_dual.cli import main"
    command = [sys.executable, "-S", "-c", f"{code}; print(sorted({{*sys.modules}} - had))"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['langgraph_checkpoint_dual', 'langgraph_checkpoint_dual.cli']\n"


@pytest.fixture
def locked(shop: Path) -> Iterator[Path]:
    """The same, and somebody else keeps it locked, so that commands that write have to wait."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE'); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; input()", shop / "shop.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield shop
        other.kill()


@pytest.mark.parametrize("number", [1, 2, 8, 32, 128, 512])
def test_an_interrupt_at_any_moment(locked: Path, number: int) -> None:
    """After so many lookups of modules, from the one on that `main` begins with."""
    announcing = f"""
import os, sys
class Announcing:
    begun = False
    def find_spec(self, name, path=None, target=None):
        self.begun = self.begun or name == "langgraph_checkpoint_dual.cli.interrupts"
        if self.begun:
            os.write(1, b".")
sys.meta_path.insert(0, Announcing())
{PROGRAM.replace("; ", chr(10))}
"""
    command = [sys.executable, "-c", announcing, "migrate"]  # which waits for the lock then
    with subprocess.Popen(
        command, cwd=locked, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read(number) == b"." * number
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()
    assert child.returncode == 130
    assert said.endswith(b"langgraph-dual: interrupted\n")
    assert b"Traceback" not in said


def test_an_interrupt_while_a_command_works(locked: Path) -> None:
    child = started(locked, "migrate")
    child.expect("moving")  # the progress bar is up, and the first batch waits for the lock
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    lines = [line for line in COLOUR.sub("", child.before).split("\r\n") if line]
    assert child.exitstatus == 130
    assert lines[-1].endswith("langgraph-dual: interrupted")
    assert "Traceback" not in child.before


@pytest.mark.parametrize("arguments", [("history", "first"), ("ddl",)])
def test_a_pipe_that_is_closed_is_silent(shop: Path, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            command, cwd=shop, env=environment(), stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.stderr == ""
    assert done.returncode in (0, 1, -signal.SIGPIPE)


def test_completion_can_be_shown_and_installed(shop: Path) -> None:
    shown = piped(shop, "--show-completion", "bash")
    assert (shown.returncode, "_LANGGRAPH_DUAL_COMPLETE" in shown.stdout) == (0, True)
    home = {"HOME": str(shop), "XDG_CONFIG_HOME": str(shop / "config")}
    command = [sys.executable, "-c", PROGRAM, "--install-completion", "bash"]
    done = subprocess.run(
        command, cwd=shop, env=environment(**home), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert any("langgraph-dual" in file.name for file in shop.rglob("*") if file.is_file())
