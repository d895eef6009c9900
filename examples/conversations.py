"""Conversations without a graph: users, each with several threads, one of them the current one.

    python examples/conversations.py new ada "Plans for Rome"
    python examples/conversations.py say ada "Where shall we stay?"
    python examples/conversations.py answer ada "Near the river."
    python examples/conversations.py new ada "Recipes"
    python examples/conversations.py list ada
    python examples/conversations.py switch ada 2
    python examples/conversations.py show ada
    python examples/conversations.py find ada river
    python examples/conversations.py stats ada
    python examples/conversations.py delete ada 1

The messages are those of LangGraph threads: a graph compiled with the same saver goes on from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from uuid import uuid4

from langgraph_checkpoint_dual import PostgresSaver, SqliteSaver, open_saver
from langgraph_checkpoint_dual.registry import Thread

COMMANDS = ("new", "say", "answer", "list", "switch", "show", "find", "stats", "delete")


class Desk:
    """The conversations of one user."""

    def __init__(self, saver: SqliteSaver | PostgresSaver, user: str) -> None:
        self._saver, self._user = saver, user

    def new(self, title: str) -> None:
        """Begin a thread, and go there."""
        thread_id = str(uuid4())
        self._saver.threads.register(thread_id, user_id=self._user, title=title or "Untitled")
        self._saver.threads.set_current(self._user, thread_id)

    def say(self, role: str, text: str) -> None:
        """Add a message to the current thread, as one atomic step."""
        if self._saver.threads.current(self._user) is None:
            self.new(text[:40])
        self._saver.messages(self._current()).append((role, text))

    def list(self) -> list[Thread]:
        """The threads of the user, latest first."""
        return self._saver.threads.list(user_id=self._user, limit=100).threads

    def switch(self, number: str) -> None:
        """Go to a thread of the list."""
        self._saver.threads.set_current(self._user, self._numbered(number).thread_id)

    def show(self) -> None:
        """The last messages of the current thread; only these are read."""
        for message in self._saver.messages(self._current()).last(20):
            print(f"{message.type}: {message.text}")

    def find(self, word: str) -> None:
        """The messages with these words in all threads of the user, the best first."""
        titles = {thread.thread_id: thread.title for thread in self.list()}
        for hit in self._saver.search(word, user_id=self._user).hits:
            print(f"{titles.get(hit.thread_id)}, {hit.idx + 1}: {hit.snippet}")

    def stats(self) -> None:
        """How long each thread is."""
        for thread in self.list():
            found = self._saver.messages(thread.thread_id).stats()
            roles = ", ".join(f"{number} {role}" for role, number in sorted(found.by_role.items()))
            print(f"{thread.title}: {found.messages} messages ({roles or 'none yet'})")

    def delete(self, number: str) -> None:
        """Remove a thread of the list, with everything of it."""
        self._saver.threads.delete(self._numbered(number).thread_id)

    def print_list(self) -> None:
        """The list with numbers; a star marks the current thread."""
        current = self._saver.threads.current(self._user)
        for number, thread in enumerate(self.list(), 1):
            print(f"{number}{'*' if thread.thread_id == current else ' '} {thread.title}")

    def _current(self) -> str:
        found = self._saver.threads.current(self._user)
        if found is None:
            sys.exit(f"{self._user} is in no thread: begin one with `new`, or go to one with `switch`")
        return found

    def _numbered(self, number: str) -> Thread:
        threads = self.list()
        if not number.isdecimal() or not 1 <= int(number) <= len(threads):
            sys.exit(f"there is no thread {number!r}")
        return threads[int(number) - 1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("user")
    parser.add_argument("text", nargs="?", default="")
    parser.add_argument("--db", default="sqlite:///conversations.db")
    given = parser.parse_args(arguments)
    with open_saver(given.db, search=True) as saver:
        desk = Desk(saver, given.user)
        actions: dict[str, Callable[[], None]] = {
            "new": lambda: desk.new(given.text),
            "say": lambda: desk.say("human", given.text),
            "answer": lambda: desk.say("ai", given.text),
            "list": desk.print_list,
            "switch": lambda: desk.switch(given.text),
            "show": desk.show,
            "find": lambda: desk.find(given.text),
            "stats": desk.stats,
            "delete": lambda: desk.delete(given.text),
        }
        actions[given.command]()


if __name__ == "__main__":
    main()
