"""The examples as a user starts them: the chat in a terminal of its own, and the whole demo."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from langgraph_checkpoint_dual import open_saver
from tests.support import processes

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CTRL_D = "\x04"
PATIENCE = 60.0  # seconds until a silent process counts as hung
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GOOGLE_API_KEY")


def environment(**more: str) -> dict[str, str]:
    """The environment without keys of model providers, with warnings as errors."""
    kept = {name: value for name, value in os.environ.items() if name not in KEYS}
    return {**kept, "PYTHONWARNINGS": "error", "TERM": "dumb", **more}


class Terminal:
    """`chat.py` in a terminal: what is typed is echoed, Ctrl-D is a key."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self._terminal, inner = pty.openpty()
        self.process = processes.Process(
            EXAMPLES / "chat.py",
            *arguments,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=environment(**more),
            start_new_session=True,
        )
        os.close(inner)

    def read_until(self, end: str) -> str:
        """All output up to `end`, without the keys that a terminal echoes as control sequences."""
        seen, deadline = "", time.monotonic() + PATIENCE
        while not seen.endswith(end):
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"nothing more after {seen!r}")
            try:
                piece = os.read(self._terminal, 65536)
            except OSError:  # Linux: the other end is closed
                piece = b""
            if not piece:
                raise EOFError(f"ended after {seen!r}")
            seen += re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", piece.decode()).replace("\r\n", "\n")
        return seen.removesuffix(end)

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def end(self) -> int:
        self.press(CTRL_D)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.close()
        os.close(self._terminal)


@contextmanager
def chat(folder: Path, user: str, *arguments: str, **more: str) -> Iterator[Terminal]:
    terminal = Terminal(folder, user, *arguments, **more)
    try:
        yield terminal
    finally:
        terminal.close()


def ask(terminal: Terminal, user: str, line: str) -> str:
    """Type a line; what is printed until the next prompt, without the echo."""
    terminal.press(f"{line}\n")
    return terminal.read_until(f"{user}> ").removeprefix(f"{line}\n")


def test_a_restarted_chat_goes_on(tmp_path: Path) -> None:
    with chat(tmp_path, "alice") as terminal:
        assert "not met before" in terminal.read_until("alice> ")
        assert ask(terminal, "alice", "the door is green") == "bot: I will keep that in mind.\n"
        assert terminal.end() == 0
    with chat(tmp_path, "alice") as terminal:
        assert "alice: the door is green\nbot: I will keep that in mind.\n" in terminal.read_until("alice> ")
        assert ask(terminal, "alice", "what did I just tell you?") == "bot: You told me: the door is green\n"
    assert (tmp_path / "chats.db").exists()


def test_another_user_has_a_clean_slate(tmp_path: Path) -> None:
    with chat(tmp_path, "alice") as terminal:
        terminal.read_until("alice> ")
        ask(terminal, "alice", "my name is Ann")
        assert terminal.end() == 0
    with chat(tmp_path, "bob") as terminal:
        started = terminal.read_until("bob> ")
        assert "not met before" in started
        assert "Ann" not in started
        assert ask(terminal, "bob", "what is my name?") == "bot: You have not told me your name.\n"


def test_two_users_at_once(tmp_path: Path) -> None:
    with chat(tmp_path, "alice") as hers, chat(tmp_path, "bob") as his:
        hers.read_until("alice> ")
        his.read_until("bob> ")
        ask(hers, "alice", "my name is Ann")
        ask(his, "bob", "my name is Bob")
        assert ask(hers, "alice", "what is my name?") == "bot: Your name is Ann.\n"
        assert ask(his, "bob", "what is my name?") == "bot: Your name is Bob.\n"


def test_interrupted_turns_are_finished_by_the_next_process(tmp_path: Path) -> None:
    pipe = tmp_path / "letter"
    os.mkfifo(pipe)
    with chat(tmp_path, "alice") as terminal:
        terminal.read_until("alice> ")
        terminal.press("read letter\n")
        with pipe.open("w"):  # opens when the tool opens it
            terminal.process.send_signal(signal.SIGKILL)
            assert terminal.process.wait(PATIENCE) == -signal.SIGKILL
    pipe.unlink()
    pipe.write_text("hello")
    with chat(tmp_path, "alice") as terminal:
        started = terminal.read_until("alice> ")
        assert started.endswith("[read_file -> letter says: hello]\nbot: letter says: hello\n")
        assert started.count("alice: read letter\n") == 1


def test_tools_stay_in_their_folder_and_turns_go_on_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not for you")
    folder = tmp_path / "chat"
    folder.mkdir()
    with chat(folder, "../alice") as terminal:
        terminal.read_until("../alice> ")
        refused = ask(terminal, "../alice", "read ../secret")
        assert "only files of this folder" in refused
        assert "not for you" not in refused
        assert "6 / 4 = 1.5" in ask(terminal, "../alice", "what is 6 / 4?")
        assert "division by zero" in ask(terminal, "../alice", "what is 6 / 0?")
        ask(terminal, "../alice", "note that it rains")
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "chat"}


def test_going_back_forks(tmp_path: Path) -> None:
    with chat(tmp_path, "alice") as terminal:
        terminal.read_until("alice> ")
        ask(terminal, "alice", "first")
        ask(terminal, "alice", "second")
        assert ask(terminal, "alice", "/back 1") == "alice: first\nbot: I will keep that in mind.\n"
        assert ask(terminal, "alice", "what did I just tell you?") == "bot: You told me: first\n"
        assert ask(terminal, "alice", "/back 9") == "There is no turn '9'.\n"
        assert ask(terminal, "alice", "/turns") == (
            "  1. first\n  2. first > second\n  3. first > what did I just tell you?\n"
        )


def test_the_model_sees_a_window_and_the_database_keeps_all(tmp_path: Path) -> None:
    with chat(tmp_path, "alice", "--window", "5") as terminal:
        terminal.read_until("alice> ")
        ask(terminal, "alice", "my name is Ann")
        assert ask(terminal, "alice", "what is my name?") == "bot: Your name is Ann.\n"
        answer = ask(terminal, "alice", "what is 1 + 1? then what is 2 + 2? then what is 3 + 3?")
        assert answer.endswith("bot: 1 + 1 = 2 2 + 2 = 4 3 + 3 = 6\n"), "a turn longer than the window is seen whole"
        ask(terminal, "alice", "it rains")
        assert ask(terminal, "alice", "what is my name?") == "bot: You have not told me your name.\n"
        assert ask(terminal, "alice", "what did I just tell you?") == "bot: You told me: it rains\n"
        assert terminal.end() == 0
    with chat(tmp_path, "alice") as terminal:
        assert "alice: my name is Ann\n" in terminal.read_until("alice> ")
        assert ask(terminal, "alice", "what is my name?") == "bot: Your name is Ann.\n"


def run(script: str, folder: Path, *arguments: str, **more: str) -> str:
    """What an example prints."""
    done = processes.run(EXAMPLES / script, *arguments, env=environment(**more), cwd=folder, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def imported(script: str) -> Any:
    """An example as a module."""
    found = importlib.util.spec_from_file_location(f"examples_{script.removesuffix('.py')}", EXAMPLES / script)
    assert found is not None
    assert found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def as_url(postgres_uri: str) -> str:
    return "postgresql://?" + urlencode(conninfo_to_dict(postgres_uri), quote_via=quote)


def test_shallow_mode_stores_the_latest_state_only(tmp_path: Path) -> None:
    assert run("shallow.py", tmp_path, "order", "a pizza") == "Order a pizza?\n2 checkpoints are stored\n"
    assert run("shallow.py", tmp_path, "answer", "no") == "a pizza: refused\n1 checkpoints are stored\n"


def test_shallow_mode_on_postgres(postgres_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = imported("shallow.py").main
    for _ in range(2):
        main(["order", "soup", "--db", as_url(postgres_uri)])
        main(["answer", "yes", "--db", as_url(postgres_uri)])
    printed = capsys.readouterr().out
    assert printed == 2 * "Order soup?\n2 checkpoints are stored\nsoup: ordered\n1 checkpoints are stored\n"


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_conversations_without_a_graph(
    tmp_path: Path, backend: str, postgres_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = as_url(postgres_uri) if backend == "postgres" else f"sqlite:///{tmp_path}/conversations.db"
    main = imported("conversations.py").main

    def does(*command: str) -> str:
        main([*command, "--db", database])
        return capsys.readouterr().out

    does("new", "ada", "Plans for Rome")
    does("say", "ada", "Where shall we stay?")
    does("answer", "ada", "Near the river.")
    does("new", "ada", "Recipes")
    does("say", "bob", "By the river, please")
    assert does("list", "ada") == "1* Recipes\n2  Plans for Rome\n"
    does("switch", "ada", "2")
    assert does("show", "ada") == "human: Where shall we stay?\nai: Near the river.\n"
    assert does("find", "ada", "river") == "Plans for Rome, 2: Near the **river**.\n"
    assert does("stats", "ada") == ("Recipes: 0 messages (none yet)\nPlans for Rome: 2 messages (1 ai, 1 human)\n")
    does("delete", "ada", "2")
    assert does("list", "ada") == "1  Recipes\n"
    assert does("find", "ada", "river") == ""
    with pytest.raises(SystemExit, match="begin one with"):
        does("show", "ada")
    assert run("conversations.py", tmp_path, "list", "bob", "--db", database) == "1* By the river, please\n"


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_users_go_on_in_their_current_thread(
    tmp_path: Path, backend: str, postgres_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = as_url(postgres_uri) if backend == "postgres" else f"sqlite:///{tmp_path}/current.db"
    main = imported("current.py").main

    def says(*words: str) -> list[str]:
        main([*words, "--db", database])
        return capsys.readouterr().out.splitlines()

    assert says("ada", "travel", "to Rome") == ["message 1 here; this began with: to Rome", "* to Rome"]
    assert says("ada", "cook", "soup") == ["message 1 here; this began with: soup", "* soup"]
    assert says("bob", "travel", "to Oslo") == ["message 1 here; this began with: to Oslo", "* to Oslo"]
    assert run("current.py", tmp_path, "ada", "travel", "by train", "--db", database).splitlines() == [
        "message 2 here; this began with: to Rome",
        "* to Rome",
    ]
    assert says("ada", "travel", "to Bonn", "--new")[1:] == ["* to Bonn", "  to Rome"]
    with open_saver(database) as saver:
        saver.threads.delete(saver.threads.current("ada", "travel"))
    assert says("ada", "travel", "home")[0] == "message 1 here; this began with: home"


def test_a_conversation_moves_to_postgres(
    tmp_path: Path, postgres_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = as_url(postgres_uri)
    with chat(tmp_path, "alice") as terminal:
        terminal.read_until("alice> ")
        ask(terminal, "alice", "my name is Ann")
        assert terminal.end() == 0
    move = imported("move.py").main
    places = ("--from", f"sqlite:///{tmp_path}/chats.db", "--to", target)
    assert move(["bob", *places]) == 1
    assert capsys.readouterr().err == "there is no thread 'bob'\n"
    assert move(["alice", *places]) == 0
    assert capsys.readouterr().out == "3 checkpoints moved, 3 compared\n"
    with chat(tmp_path, "alice", "--db", target) as terminal:
        terminal.read_until("alice> ")
        assert ask(terminal, "alice", "what is my name?") == "bot: Your name is Ann.\n"
    with open_saver(tmp_path / "chats.db") as saver:
        assert saver.threads.get("alice") is None


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_nightly_retention(
    tmp_path: Path,
    backend: str,
    postgres_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = as_url(postgres_uri) if backend == "postgres" else f"sqlite:///{tmp_path}/chats.db"
    with chat(tmp_path, "alice", "--db", database) as terminal:
        terminal.read_until("alice> ")
        for number in range(3):
            ask(terminal, "alice", f"sentence {number}")
        assert terminal.end() == 0
    monkeypatch.setenv("CHECKPOINTER_URL", database)
    main = imported("retention.py").main

    assert main(["--keep-last", "2", "--dry-run"]) == 0
    found = re.fullmatch(r"would go: 0 threads, 7 checkpoints, (\d+) bytes\n", capsys.readouterr().out)
    assert found
    gone = run("retention.py", tmp_path, "--keep-last", "2", "--vacuum", CHECKPOINTER_URL=database)
    assert gone.startswith(f"gone: 0 threads, 7 checkpoints, {found[1]} bytes\ngiven back: ")
    with chat(tmp_path, "alice", "--db", database) as terminal:
        assert "alice: sentence 0\n" in terminal.read_until("alice> "), "the conversation itself is all there"
    assert main(["--max-idle-days", "0"]) == 0
    assert capsys.readouterr().out.startswith("gone: 1 threads, 2 checkpoints, ")
    assert main([]) == 1
    assert capsys.readouterr().err == "a Retention needs a rule: keep_last, max_age or max_idle\n"


def test_a_model_that_is_not_installed_is_explained(tmp_path: Path) -> None:
    keys = environment(OPENAI_API_KEY="not-a-real-key")
    done = processes.run(EXAMPLES / "chat.py", "alice", env=keys, cwd=tmp_path, timeout=PATIENCE)
    assert done.returncode == 1
    assert "needs langchain and langchain-openai" in done.stderr
    assert "--model local" in done.stderr
    assert "not-a-real-key" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_finds_nothing_wrong(tmp_path: Path, postgres_uri: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"],
        env=environment(DUAL_TEST_POSTGRES_URI=postgres_uri),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = re.findall(r"^(ok  |FAIL)  (.+)$", done.stdout, re.M)
    assert {verdict for verdict, _ in checks} == {"ok  "}
    half = len(checks) // 2
    assert checks[:half] == checks[half:], "both databases are checked in the same way"
    assert f"\n{2 * half} checks passed, 0 failed." in done.stdout
    assert half > 20


def test_the_demo_fails_when_a_check_fails(tmp_path: Path) -> None:
    """`check` is what decides about the exit code: let one fail."""
    program = (
        "import sys, demo\n"
        "def scene(db, folder, check): check('it rains', False)\n"
        "demo.restart = demo.killed = demo.second_user = demo.time_travel = scene\n"
        "sys.exit(demo.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=str(EXAMPLES)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "0 checks passed, 8 failed." in done.stdout
