"""Giving the unused space of a SQLite file back to the disk."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

from langgraph_checkpoint_dual.core.space import Vacuumed
from langgraph_checkpoint_dual.errors import BusyError, CheckpointerError, ConfigError


def vacuumed(conn: sqlite3.Connection, timeout: float) -> Vacuumed:
    """Write the database anew without gaps, and empty its log.

    Args:
        timeout: for how many seconds to wait for other connections.

    Raises:
        ConfigError: if the connection is in a transaction.
        BusyError: if others use the database all the time.
        CheckpointerError: if it cannot be written, or the disk has no room for the copy.
    """
    if conn.in_transaction:
        raise ConfigError("SQLite cannot vacuum in a transaction: commit or roll back on the saver's connection first")
    before = _size(conn)
    [[patience]] = conn.execute("PRAGMA busy_timeout").fetchall()
    conn.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}").fetchall()
    try:
        conn.execute("VACUUM")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as exc:
        if "locked" in str(exc) or "busy" in str(exc):
            raise BusyError(f"other connections kept the SQLite database locked for {timeout:g} s") from exc
        raise CheckpointerError(f"the SQLite database cannot be vacuumed: {exc}") from exc
    finally:
        conn.execute(f"PRAGMA busy_timeout = {patience}").fetchall()
    return Vacuumed(before, _size(conn))


def _size(conn: sqlite3.Connection) -> int:
    """The bytes of the file and its log, or of the pages of a database in memory."""
    [path] = [file for _, name, file in conn.execute("PRAGMA database_list").fetchall() if name == "main"]
    if not path:
        [[pages], [size]] = [conn.execute(f"PRAGMA {one}").fetchone() for one in ("page_count", "page_size")]
        return int(pages * size)
    found = 0
    for file in (path, f"{path}-wal"):
        with suppress(FileNotFoundError):
            found += os.stat(file).st_size
    return found
