"""A full disk, a file that may not grow, files that can only be read, and who may read a new one."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import langgraph_checkpoint_dual as dual
from tests.faults.history import is_whole, step
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, metadata
from tests.support.processes import run


def put_large(saver: Any, thread_id: str, size: int) -> Any:
    new = checkpoint({"blob": os.urandom(size)})
    return saver.put(config(thread_id), new, metadata(), new["channel_versions"])


def fill(saver: Any, acknowledged: list[Any]) -> None:
    for number in range(1000):
        acknowledged.append(step(saver, f"fill-{number}", 0, None))


def test_a_full_database_says_so_and_goes_on_when_there_is_space(sqlite_path: str) -> None:
    with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
        saver = dual.SqliteSaver(connection)
        acknowledged = [step(saver, "thread", 0, None)]
        [(pages,)] = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages + 40}").fetchall()
        with pytest.raises(sqlite3.OperationalError, match="full"):
            put_large(saver, "large", 1_000_000)
        acknowledged.append(step(saver, "thread", 1, acknowledged[-1]))
        with pytest.raises(sqlite3.OperationalError, match="full"):
            fill(saver, acknowledged)
        assert not connection.in_transaction
        assert all(is_whole(saver.get_tuple(stored)) for stored in acknowledged)
        connection.execute(f"PRAGMA max_page_count = {pages + 4000}").fetchall()
        put_large(saver, "large", 1_000_000)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_small_neighbours_of_a_write_that_does_not_fit_are_stored(sqlite_path: str) -> None:
    with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
        saver = dual.SqliteSaver(connection)
        saver.setup()
        [(pages,)] = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages + 200}").fetchall()
        outcomes: dict[str, Any] = {}

        def write(name: str) -> None:
            try:
                outcomes[name] = put_large(saver, name, 1_000_000) if "large" in name else step(saver, name, 0, None)
            except Exception as exc:
                outcomes[name] = exc

        names = [*(f"small-{one}" for one in range(8)), "large-0", "large-1"]
        threads = [threading.Thread(target=write, args=(name,)) for name in names]
        with saver.cursor():  # until all are in line, so that they share a commit
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
        assert all(isinstance(outcomes[name], sqlite3.OperationalError) for name in names if "large" in name)
        assert all(is_whole(saver.get_tuple(outcomes[name])) for name in names if "small" in name)


def test_a_file_that_may_not_grow(sqlite_path: str) -> None:
    ended = run("-m", "tests.faults.full_worker", sqlite_path)
    assert (ended.returncode, ended.stdout) == (0, "done"), ended.stderr
    assert tables.rows(sqlite_path, "PRAGMA integrity_check") == [("ok",)]


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with dual.SqliteSaver(path) as saver:
        step(saver, "thread", 0, None)
        files = list(tmp_path.iterdir())
        assert {file.name for file in files} == {"private.db", "private.db-wal", "private.db-shm"}
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3


READ = """
import os, sys
from langgraph_checkpoint_dual import SqliteSaver
with SqliteSaver(":memory:") as saver:  # loads all that another user's Python may not be allowed to
    list(saver.list(None))
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
with SqliteSaver(sys.argv[1]) as saver:
    assert len(list(saver.list(None))) == 1
    try:
        saver.delete_thread("thread")
    except Exception as exc:
        assert "read" in str(exc), exc
    else:
        raise SystemExit("it could write")
"""


@pytest.mark.parametrize("open_elsewhere", [False, True])
def test_a_file_in_a_folder_that_can_only_be_read(open_elsewhere: bool) -> None:
    # Not in pytest's own folder, which only its user may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saver = dual.SqliteSaver(folder / "read.db")
        step(saver, "thread", 0, None)
        if not open_elsewhere:
            saver.close()
        try:
            for file in folder.iterdir():
                file.chmod(0o444)
            folder.chmod(0o555)
            command = [sys.executable, "-c", READ, str(folder / "read.db")]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == 0, ended.stderr
        finally:
            folder.chmod(0o755)
            saver.close()
