"""Pages of the database that went bad on the disk: an error, never other data, and all is well once they are back."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

import langgraph_checkpoint_dual as dual
from langgraph_checkpoint_dual.errors import DecodeError
from tests.faults.history import step
from tests.faults.postgres_servers import Cluster
from tests.support.checkpoints import config, put
from tests.support.compare import answer

THREADS = ("one", "two")


def filled(saver: Any) -> dict[str, Any]:
    """The heads of some threads."""
    heads = {}
    for thread in THREADS:
        parent = None
        for number in range(12):
            parent = step(saver, thread, number, parent)
        heads[thread] = answer(saver.get_tuple(config(thread)))
    return heads


@pytest.mark.slow
def test_any_page_of_a_sqlite_file(sqlite_path: str) -> None:
    with dual.SqliteSaver(sqlite_path) as saver:
        heads = filled(saver)
    with closing(sqlite3.connect(sqlite_path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(size,)] = connection.execute("PRAGMA page_size")
    content = Path(sqlite_path).read_bytes()
    garbage = random.Random(1).randbytes(size)
    told: set[type[Exception]] = set()
    for at in range(size, len(content), size):
        bad = Path(f"{sqlite_path}-{at}.db")
        bad.write_bytes(content[:at] + garbage + content[at + size :])
        with dual.SqliteSaver(bad) as saver:
            for thread, head in heads.items():
                try:
                    assert answer(saver.get_tuple(config(thread))) == head, at
                except (sqlite3.DatabaseError, DecodeError) as exc:
                    told.add(type(exc))
        bad.unlink()
    assert sqlite3.DatabaseError in told


def test_a_sqlite_file_that_is_cut_off(sqlite_path: str) -> None:
    with dual.SqliteSaver(sqlite_path) as saver:
        heads = filled(saver)
    whole = f"{sqlite_path}.whole"
    shutil.copy(sqlite_path, whole)
    os.truncate(sqlite_path, os.path.getsize(sqlite_path) // 2)
    with dual.SqliteSaver(sqlite_path) as saver, pytest.raises((sqlite3.DatabaseError, DecodeError)):
        [answer(one) for one in saver.list(None)]
    shutil.copy(whole, sqlite_path)
    with dual.SqliteSaver(sqlite_path) as saver:
        assert {thread: answer(saver.get_tuple(config(thread))) for thread in THREADS} == heads
        step(saver, "one", 12, None)


@pytest.mark.slow
async def test_a_page_of_a_postgres_table() -> None:
    with Cluster.new() as cluster:
        async with dual.AsyncPostgresSaver(cluster.uri) as saver:
            stored = await put(saver, config("large"), {"log": [os.urandom(100).hex() for _ in range(300)]})
            await put(saver, config("small"), {"number": 1})
            before = answer(await saver.aget_tuple(stored))
        cluster.execute("CHECKPOINT")
        [(path,)] = cluster.execute("SELECT pg_relation_filepath('dual_items')")
        file = cluster.data / path
        content = file.read_bytes()
        file.write_bytes(os.urandom(8192) + content[8192:])
        cluster.restart()  # what it has in memory is still good
        async with dual.AsyncPostgresSaver(cluster.uri) as saver:
            with pytest.raises(psycopg.errors.DataCorrupted, match="invalid page"):
                await saver.aget_tuple(stored)
            small = await saver.aget_tuple(config("small"))
            assert small is not None and small.checkpoint["channel_values"] == {"number": 1}
            file.write_bytes(content)
            assert answer(await saver.aget_tuple(stored)) == before
