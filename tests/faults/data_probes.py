"""What becomes of odd values, and of data that is damaged in the database or on its disk, ours or the official one."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.faults.common import Report
from tests.faults.history import astep, made, values
from tests.faults.postgres_servers import Cluster
from tests.support import tables
from tests.support.checkpoints import config, listed, metadata, put
from tests.support.compare import answer
from tests.support.savers import Kind, faced, opened

Row = dict[str, Any]
BLOCK = random.Random(1).randbytes(1024 * 1024)
ODD = (
    "nul \0 in it",
    "a lone \ud800",
    "'; DROP TABLE checkpoints; --",
    "100%_s %(a)s ?",
    "\u2028 \U0001f469",
    "{}[]\\",
)


async def filled(kind: Kind, database: str, package: str) -> tuple[list[Any], list[Any]]:
    """Some checkpoints with writes: where they are, and what the saver says of them."""
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        parent = config("thread")
        for number in range(4):
            new = made("thread", number)
            parent = await subject.aput(parent, new, metadata(step=number), new["channel_versions"])
            await subject.aput_writes(parent, [("log", values("w", 3))], "task")
        places = [found.config async for found in subject.alist(None)]
        return places, [answer(await subject.aget_tuple(one)) for one in places]


async def says_other(kind: Kind, database: str, package: str, places: list[Any], intact: list[Any]) -> bool:
    """Whether a new saver says anything else of a checkpoint, without an error."""
    with suppress(Exception):  # it may not even open any more
        async with opened(kind.load(package), database) as saver:
            subject = faced(saver, kind.face)
            for one, before in zip(places, intact, strict=True):
                try:
                    same = answer(await subject.aget_tuple(one)) == before
                except Exception:
                    continue
                if not same:
                    return True
    return False


async def in_cells(kind: Kind, database: str, package: str, rounds: int, other: Callable[..., bytes | None]) -> Report:
    """Let one binary cell have another value, read everything, and put it back."""
    report = Report()
    places, intact = await filled(kind, database, package)
    rows = {table: tables.named_rows(database, table) for table in sorted(tables.data_tables(database))}
    cells = [
        (table, row, column)
        for table, some in rows.items()
        for row in some
        for column, value in row.items()
        if isinstance(value, bytes) and value
    ]
    while report.rounds < rounds:
        table, row, column = random.choice(cells)
        new = other(row[column], [one[column] for one in rows[table] if isinstance(one[column], bytes)])
        if new is None:
            continue
        change(database, table, row, column, new)
        report.lost += await says_other(kind, database, package, places, intact)
        change(database, table, {**row, column: new}, column, row[column])
        report.rounds += 1
    return report


def flipped(value: bytes, beside: list[bytes]) -> bytes:
    """With one random bit inverted."""
    bit = random.randrange(len(value) * 8)
    damaged = bytearray(value)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def taken_from_another(value: bytes, beside: list[bytes]) -> bytes | None:
    """What the same column of another row holds."""
    others = sorted({one for one in beside if one and one != value})
    return random.choice(others) if others else None


def change(database: str, table: str, row: Row, column: str, value: bytes) -> None:
    """Set one cell of the row that has these contents."""
    known = {name: one for name, one in row.items() if isinstance(one, (str, int, bytes))}
    if tables.is_postgres(database):
        where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in known)
        statement = sql.SQL("UPDATE {} SET {} = %s WHERE {}")
        with psycopg.connect(database, autocommit=True) as connection:
            made_sql = statement.format(sql.Identifier(table), sql.Identifier(column), where)
            changed = connection.execute(made_sql, [value, *known.values()]).rowcount
    else:
        text = " AND ".join(f'"{name}" = ?' for name in known)
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            changed = connection.execute(
                f'UPDATE "{table}" SET "{column}" = ? WHERE {text}', [value, *known.values()]
            ).rowcount
    assert changed == 1, (table, column)


async def without_a_value(kind: Kind, database: str, package: str) -> Report:
    """Let each row that holds a value be gone in turn."""
    report = Report()
    places, intact = await filled(kind, database, package)
    mark = "%s" if tables.is_postgres(database) else "?"
    for table in sorted({"dual_items", "checkpoint_blobs"} & tables.tables(database)):
        for row in tables.named_rows(database, table):
            known = {name: one for name, one in row.items() if one is not None}
            names, marks = ", ".join(f'"{name}"' for name in known), ", ".join(mark for _ in known)
            where = " AND ".join(f'"{name}" = {mark}' for name in known)
            tables.rows(database, f'DELETE FROM "{table}" WHERE {where}', tuple(known.values()))
            report.lost += await says_other(kind, database, package, places, intact)
            tables.rows(database, f'INSERT INTO "{table}" ({names}) VALUES ({marks})', tuple(known.values()))
            report.rounds += 1
    return report


async def on_bad_pages(kind: Kind, database: str, package: str) -> Report:
    """Overwrite a part of each page of the database's tables in turn, while nobody has it open."""
    if kind.backend == "sqlite":
        places, intact = await filled(kind, database, package)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return await _spoiling(kind, database, package, places, intact, [Path(database)], 4096, lambda: None)
    with Cluster.new() as cluster:
        places, intact = await filled(kind, cluster.uri, package)
        cluster.execute("CHECKPOINT")
        names = sorted(tables.data_tables(cluster.uri))
        paths = [cluster.execute(f"SELECT pg_relation_filepath('{name}')")[0][0] for name in names]
        files = [path for path in (cluster.data / one for one in paths) if path.stat().st_size]
        return await _spoiling(kind, cluster.uri, package, places, intact, files, 8192, cluster.restart)


async def _spoiling(
    kind: Kind, database: str, package: str, places: Any, intact: Any, files: list[Path], size: int, forget: Any
) -> Report:
    report = Report()
    for file in files:
        content = file.read_bytes()
        for at in range(0, len(content), size):
            file.write_bytes(content[: at + size // 2] + os.urandom(size // 2) + content[at + size :])
            forget()
            report.lost += await says_other(kind, database, package, places, intact)
            for log in file.parent.glob(f"{file.name}-*"):
                log.unlink()
            file.write_bytes(content)
            report.rounds += 1
        forget()
    report.stuck += await says_other(kind, database, package, places, intact)
    return report


async def odd_text(kind: Kind, database: str, package: str) -> Report:
    """Odd text as id, channel, value, metadata and filter; lost is what does not come back exactly."""
    report = Report()
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        for text in ODD:
            report.rounds += 1
            try:
                stored = await put(subject, config(text, text), {text: text, "log": [text]}, tag=text)
                report.acknowledged += 1
                await subject.aput_writes(stored, [(text, text)], text)
                found = await subject.aget_tuple(stored)
                wanted = {"tag": text}
                exact = (
                    found.config == stored
                    and found.checkpoint["channel_values"] == {text: text, "log": [text]}
                    and found.metadata["tag"] == text
                    and found.pending_writes == [(text, text, text)]
                    and [one.config for one in await listed(subject, None, filter=wanted)] == [stored]
                )
            except Exception:
                exact = False
            report.lost += not exact
        report.stuck += not await _works(subject)
    return report


async def large(kind: Kind, database: str, package: str) -> Report:
    """A value of 64 MB."""
    report = Report(rounds=1, acknowledged=1)
    value = {"large": BLOCK * 64, "number": 1}
    async with opened(kind.load(package), database) as saver:
        stored = await put(faced(saver, kind.face), config(), value)
    async with opened(kind.load(package), database) as saver:
        found = await faced(saver, kind.face).aget_tuple(stored)
        report.lost += found is None or found.checkpoint["channel_values"] != value
    return report


async def refused_value(kind: Kind, database: str, package: str) -> Report:
    """A put, and writes, of which one value cannot be stored; torn is what is there of them afterwards."""
    report = Report()
    bad: Any = print
    async with opened(kind.load(package), database) as saver:
        subject = faced(saver, kind.face)
        stored = await astep(subject, "thread", 0, None)
        report.acknowledged = 1
        before = tables.contents(database)
        for attempt in (
            lambda: put(subject, stored, {"log": ["a" * 300], "bad": bad}),
            lambda: subject.aput_writes(stored, [("log", 1), ("bad", bad)], "other task"),
        ):
            report.rounds += 1
            try:
                await attempt()
                report.lost += 1
            except Exception:
                report.torn += tables.contents(database) != before
        report.stuck += not await _works(subject)
    return report


async def _works(subject: Any) -> bool:
    try:
        await astep(subject, "after", 3, None)
    except Exception:
        return False
    return True


async def read_only(kind: Kind, database: str, package: str) -> Report:
    """Read with a saver that may not write: a file opened as `mode=ro`, a role whose transactions are read-only."""
    report = Report(rounds=1)
    _, intact = await filled(kind, database, package)
    try:
        async with _may_only_read(kind, database) as connection:
            saver: Any = kind.load(package)(connection)
            done: Any = saver.setup()
            if isinstance(done, Awaitable):
                await done
            subject = faced(saver, kind.face)
            found = [answer(one) for one in await listed(subject, None)]
            report.lost += found != intact
    except Exception:
        report.stuck += 1
    return report


@asynccontextmanager
async def _may_only_read(kind: Kind, database: str) -> AsyncIterator[Any]:
    options: Any = {"autocommit": True, "row_factory": dict_row, "options": "-c default_transaction_read_only=on"}
    uri = f"file:{database}?mode=ro"
    if kind.name == "sqlite":
        with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as connection:
            yield connection
    elif kind.name == "sqlite-aio":
        async with aiosqlite.connect(uri, uri=True) as on_loop:
            yield on_loop
    elif kind.face == "blocking":
        with psycopg.Connection.connect(database, **options) as session:
            yield session
    else:
        async with await psycopg.AsyncConnection.connect(database, **options) as loop_session:
            yield loop_session


async def new_file(kind: Kind, database: str, package: str) -> Report:
    """Make a new SQLite file; lost are its files that others than its owner may read."""
    report = Report(rounds=1)
    with _ordinary_mask():
        async with opened(kind.load(package), database) as saver:
            await astep(faced(saver, kind.face), "thread", 3, None)
            report.acknowledged = 1
            files = list(Path(database).parent.glob(Path(database).name + "*"))
            report.lost += sum(bool(stat.S_IMODE(file.stat().st_mode) & 0o077) for file in files)
    return report


@contextmanager
def _ordinary_mask() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
