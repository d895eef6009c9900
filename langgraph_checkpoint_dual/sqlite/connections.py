"""Where the engine's connections come from: a file's own, or the one that there is.

A file has one connection that writes and several that read: in WAL mode neither waits for the other. A connection that
was given by the user, and a database in memory, is one connection for everything, used by one operation at a time.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from langgraph_checkpoint_dual.core.metadata import matches, matches_either
from langgraph_checkpoint_dual.core.official.tables import matches_official, run_of
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.errors import ClosedError

_READERS = 8
_PATIENCE_MS = 5
_FORK_PATIENCE = 5.0
CLOSED = "this saver was closed; open a new one"


class Place:
    """A place for one connection, used by who holds its lock: `with place.lock: place.take(); ...; place.rest()`.

    An exception from outside (Ctrl-C) may come between any two steps, also while it is dealt with. The connection stays
    in its place all the same, and what was left of a transaction is ended before the next use.

    Args:
        make: opens the connection when it is first needed.
    """

    def __init__(self, make: Callable[[], sqlite3.Connection]) -> None:
        self.lock = threading.Lock()
        self.conn: sqlite3.Connection | None = None
        self._make = make
        self._cursor: sqlite3.Cursor | None = None
        self._ours = False

    def take(self) -> sqlite3.Connection:
        """The connection, as it was before its last use."""
        if self.conn is None:
            self.conn = self._make()
        else:
            self.rest()
        return self.conn

    def cursor(self) -> sqlite3.Cursor:
        """The cursor of this use, which is closed with it.

        A query that was interrupted holds its snapshot of the database for as long as its cursor lives, which may be in
        a traceback, and lets the connection see nothing newer.
        """
        if self._cursor is None:
            assert self.conn is not None
            self._cursor = self.conn.cursor()
            self._cursor.row_factory = None  # whatever the user's connection makes of rows
        return self._cursor

    def begin(self, statement: str = "BEGIN") -> None:
        """Begin a transaction that ends with the use at the latest."""
        self._ours = True
        self.cursor().execute(statement)

    def rest(self) -> None:
        """End the use: what is still open of a query is closed, and of a transaction rolled back."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None
        if self._ours and self.conn is not None:
            roll_back_on(self.conn)
            self._ours = False

    def close(self) -> None:
        """Close the connection; it is opened again if it is needed.

        A statement that was interrupted may keep a closed connection alive, and with it the locks of its transaction.
        """
        self.rest()
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.close()

    def leave_to_parent(self) -> None:
        """After a fork: never use the parent's connection, nor close it, which would drop the parent's locks."""
        if self.conn is not None:
            _INHERITED.append((self.conn, self._cursor))
        self.lock, self.conn, self._cursor, self._ours = threading.Lock(), None, None, False


_INHERITED: list[tuple[sqlite3.Connection, sqlite3.Cursor | None]] = []


class Connections(Protocol):
    """Where an engine gets its connections from."""

    def reader(self) -> Place:
        """The place of a connection to read with."""
        ...

    def writer(self) -> Place:
        """The place of the connection to write with."""
        ...

    def close(self) -> None:
        """Finish what is under way, and close what was opened here."""
        ...

    def before_fork(self) -> None:
        """Let nothing be under way; what was opened here is closed, if it can be opened again."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """Go on."""
        ...


class FileConnections:
    """Connections to a file: one writes, several read.

    Args:
        path: the file; it and its folder are made if missing, the file readable by its owner only.
        timeout: how long to wait for other processes' locks, in seconds.
        synchronous: SQLite's setting; `FULL` survives power loss, `NORMAL` may then lose the last commits.
    """

    def __init__(self, path: str, *, timeout: float, synchronous: str) -> None:
        self.path, self.timeout, self.synchronous = path, timeout, synchronous
        self._readers = [Place(self._open_reader) for _ in range(_READERS)]
        self._writer = Place(self._open_writer)
        self._held: list[Place] = []
        self._closed = False
        _make_private(path)

    def reader(self) -> Place:
        for place in self._readers:
            if not place.lock.locked():
                return place
        return random.choice(self._readers)

    def writer(self) -> Place:
        return self._writer

    def close(self) -> None:
        self._closed = True
        for place in self._places:
            with place.lock:
                place.close()

    def before_fork(self) -> None:
        # A process that inherits open connections believes that it holds their locks, and so does harm.
        deadline = time.monotonic() + _FORK_PATIENCE
        for place in self._places:
            if place.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._held.append(place)
                place.close()

    def after_fork(self, *, in_child: bool) -> None:
        held, self._held = self._held, []
        if in_child:
            for place in self._places:
                place.leave_to_parent()
        else:
            for place in held:
                place.lock.release()

    @property
    def _places(self) -> list[Place]:
        return [self._writer, *self._readers]

    def _open_reader(self) -> sqlite3.Connection:
        return self._open("PRAGMA query_only = ON")

    def _open_writer(self) -> sqlite3.Connection:
        return self._open(
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {self.synchronous}",
            f"PRAGMA busy_timeout = {_PATIENCE_MS}",
        )

    def _open(self, *pragmas: str) -> sqlite3.Connection:
        if self._closed:
            raise ClosedError(CLOSED)
        path = _never_written(self.path) or self.path
        conn = sqlite3.connect(
            path, timeout=self.timeout, isolation_level=None, check_same_thread=False, uri=path[:5] == "file:"
        )
        cursor: sqlite3.Cursor | None = None
        try:
            cursor = conn.cursor()
            for pragma in pragmas:
                cursor.execute(pragma).fetchall()
            _prepare(conn)
        except BaseException:  # which may keep both alive for long
            if cursor is not None:
                cursor.close()
            conn.close()
            raise
        return conn


class OneConnection(Place):
    """A single connection for everything: the user's own, or that of a database in memory."""

    def __init__(self, conn: sqlite3.Connection, *, owned: bool) -> None:
        super().__init__(self._give)
        self._given, self._owned = conn, owned
        self._text_factory: Any = None
        self._closed = self._forked = False

    def reader(self) -> Place:
        return self

    writer = reader

    def _give(self) -> sqlite3.Connection:
        _prepare(self._given)
        return self._given

    def take(self) -> sqlite3.Connection:
        if self._closed:
            raise ClosedError(CLOSED)
        if self._forked:
            raise ClosedError(
                "this saver's connection belongs to the process that fork() was called in; "
                "open a connection and a saver in each process, or give the saver the path of a file"
            )
        conn = super().take()
        self._text_factory, conn.text_factory = conn.text_factory, str
        return conn

    def rest(self) -> None:
        super().rest()
        if self._text_factory is not None:
            self._given.text_factory = self._text_factory
            self._text_factory = None

    def close(self) -> None:
        with self.lock:
            with suppress(sqlite3.ProgrammingError):  # its owner has closed it
                self.rest()
            self._closed = True
            if self._owned:
                self._given.close()

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._forked = True
            _INHERITED.append((self._given, self._cursor))
            self.lock, self._cursor = threading.Lock(), None


def _prepare(conn: sqlite3.Connection) -> None:
    conn.create_function("langgraph_matches", 3, matches, deterministic=True)
    conn.create_function("langgraph_matches", 4, matches_either, deterministic=True)
    conn.create_function("langgraph_matches_official", 3, matches_official, deterministic=True)
    conn.create_function("langgraph_run_of", 1, run_of, deterministic=True)
    conn.create_function("langgraph_escape", 1, escape, deterministic=True)


def _make_private(path: str) -> None:
    """Make a new database file with its folder, readable by its owner only; SQLite gives the same mode to its WAL."""
    if path.startswith("file:") or Path(path).exists():
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _never_written(path: str) -> str | None:
    """How to open a file that can only be read, in a folder in which no log can be made for it; `None` for others."""
    if path.startswith("file:") or os.access(Path(path).parent, os.W_OK) or Path(f"{path}-wal").exists():
        return None
    return f"{Path(path).absolute().as_uri()}?immutable=1" if Path(path).exists() else None


def commit_on(conn: sqlite3.Connection) -> None:
    """End the transaction that is open."""
    # With autocommit=True (Python 3.12), commit() and rollback() do nothing.
    if getattr(conn, "autocommit", None) is True:
        conn.execute("COMMIT")
    else:
        conn.commit()


def roll_back_on(conn: sqlite3.Connection) -> None:
    """End the transaction that is open, if one is."""
    if not conn.in_transaction:
        return
    if getattr(conn, "autocommit", None) is True:
        conn.execute("ROLLBACK")
    else:
        conn.rollback()
