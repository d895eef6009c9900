"""A process that reads rows with forged bytes, and reports whatever it was made to do.

Usage: `python -m tests.faults.forged_worker KIND DATABASE`. Prints JSON: how many rows it read, those that were not
refused, the columns of all tables, ours and the official ones, that were forged as they are, and what was imported,
opened, started or called.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import ormsgpack
import psycopg
from psycopg.types.json import Jsonb

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.errors import DecodeError
from tests.faults.history import astep
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import KINDS, Kind, faced, opened, settle

GADGETS = [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("antigravity", "fly")]
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.", "exec", "compile", "pickle.", "import")


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def forgeries() -> Iterator[bytes]:
    """Typed bytes that name dangerous things."""

    def typed(name: str, data: bytes) -> bytes:
        return bytes([values._TYPES.index(name)]) + data

    yield typed("pickle", pickle.dumps(Command()))
    for module, name in GADGETS:
        for code in range(6):
            for payload in ("true", ["true"]):
                inner = ormsgpack.packb((module, name, payload))
                yield typed("msgpack", ormsgpack.packb([ormsgpack.Ext(code, inner)]))
        for version in (1, 2):
            named = {"lc": version, "type": "constructor", "id": [module, name], "kwargs": {}, "args": ["true"]}
            yield typed("json", json.dumps(named).encode())


class Forger:
    """Stands in for what encodes values: gives the forged bytes instead of those of the marked value."""

    MARK = "to be forged"

    def __init__(self) -> None:
        self.forged = b""
        self._encode = values.encode

    def __call__(self, serde: Any, value: Any) -> bytes:
        return self.forged if self.MARK in repr(value) else self._encode(serde, value)


async def plant(saver: Any, forged: bytes, number: int) -> list[Any]:
    """Checkpoints with the forged bytes as an inline value, an item, a pending write, metadata, and the checkpoint."""
    forger = Forger()
    forger.forged = forged
    values.encode = forger  # only in this process, and only while it writes
    placed = []
    try:
        for where in ("value", "item", "write", "metadata", "checkpoint"):
            into = config(f"{where}-{number}")
            value: Any = {"value": Forger.MARK, "item": [Forger.MARK, *({"x": "x" * 80, "n": n} for n in range(30))]}
            new = checkpoint({"a": value.get(where, 1)})
            if where == "checkpoint":
                new["noted"] = {"mark": Forger.MARK}
            odd = {"odd": float("nan"), "mark": Forger.MARK} if where == "metadata" else {}
            stored = await saver.aput(into, new, metadata(**odd), new["channel_versions"])
            if where == "write":
                await saver.aput_writes(stored, [("a", Forger.MARK)], "task")
            placed.append(stored)
    finally:
        values.encode = forger._encode
    return placed


async def fill(kind: Kind, database: str, threads: list[str], *, official: bool) -> None:
    """Threads in the official tables, or in ours."""
    async with opened(kind.official if official else kind.ours, database) as saver:
        subject = faced(saver, kind.face)
        for thread in threads:
            parent = await astep(subject, thread, 0, None)
            odd = "\0" if official else float("nan")
            await put(subject, parent, {"log": ["a" * 300] * 20}, odd=odd, user_id="ann")
            if not official:
                await saver.threads.aupdate(thread, title="a title", metadata={"plan": "a"})
                await saver.threads.aset_current("ann", thread)


def columns(database: str) -> Iterator[tuple[str, str, Any]]:
    """Each column that may be forged, with its table and what a row holds there."""
    for table in sorted(tables.data_tables(database)):
        rows = tables.named_rows(database, table)
        for column in sorted({name for row in rows for name in row} - {"thread_id"}):
            yield table, column, next((row[column] for row in rows if row[column] is not None), None)


def forged_values(held: Any) -> list[Any]:
    """What may be written where this is held: a few forgeries, as they are or as text."""
    forged = list(forgeries())
    some = [forged[0], forged[1], forged[-1]]  # pickle, msgpack, json
    if held is None or isinstance(held, bytes):
        return some
    pairs = [(name, base64.b64encode(data).decode()) for name, data in map(values.split, some)]
    if isinstance(held, dict):  # a Postgres checkpoint may hold pending sends, as type and data
        return [Jsonb({**held, "pending_sends": pair, "channel_values": {"log": pair}}) for pair in pairs]
    return [json.dumps(pairs[0])] if isinstance(held, str) else []


def forge(database: str, table: str, column: str, value: Any, thread: str) -> bool:
    """Set a column of a thread's rows, with the type beside it if there is one; whether the database takes that."""
    given = {column: value}
    if isinstance(value, bytes) and "type" in tables.named_rows(database, table)[0]:
        given["type"], given[column] = values.split(value)
    mark = "%s" if tables.is_postgres(database) else "?"
    assigned = ", ".join(f'"{name}" = {mark}' for name in given)
    try:
        tables.rows(database, f'UPDATE "{table}" SET {assigned} WHERE thread_id = {mark}', (*given.values(), thread))
    except (sqlite3.Error, psycopg.Error):
        return False
    return True


async def plant_in_columns(kind: Kind, database: str) -> list[str]:
    """Threads in whose rows a column is forged, each column of each table."""
    await fill(kind, database, ["example"], official=True)
    await fill(kind, database, ["example"], official=False)
    cases = {
        f"column-{number}": case
        for number, case in enumerate(
            (table, column, value) for table, column, held in columns(database) for value in forged_values(held)
        )
    }
    for official in (True, False):
        threads = [thread for thread, (table, *_) in cases.items() if table.startswith("dual_") != official]
        await fill(kind, database, threads, official=official)
    return [thread for thread, case in cases.items() if forge(database, *case, thread)]


async def read_all_of(kind: Kind, saver: Any, thread: str) -> None:
    """Whatever can be read of a thread."""
    subject = faced(saver, kind.face)
    for read in (
        subject.aget_tuple(config(thread)),
        listed(subject, {"configurable": {"thread_id": thread}}, on_damaged=lambda _: None),
        saver.threads.aget(thread),
        subject.aget_delta_channel_history(config=config(thread), channels=["log"]),
    ):
        with suppress(DecodeError):
            await read


async def main(kind_name: str, database: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == kind_name]
    events: list[str] = []
    watching = False

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if watching and event.startswith(WATCHED):
            events.append(f"{event} {args!r}"[:200])

    async with opened(kind.ours, database) as saver:
        placed = [one for at, forged in enumerate(forgeries()) for one in await plant(saver, forged, at)]
    threads = await plant_in_columns(kind, database)
    async with opened(kind.ours, database) as saver:
        good = await saver.aput(config("good"), checkpoint({"a": [1] * 100}), metadata(), {})
        assert await saver.aget_tuple(good)  # loads all that is loaded on first use
        await read_all_of(kind, saver, "example")
        sys.addaudithook(audit)
        revived = []
        before = set(sys.modules)
        watching = True
        for stored in placed:
            try:
                found = await settle(saver.aget_tuple(stored))
            except DecodeError:
                continue
            revived.append(repr(found)[:300])
        for thread in threads:
            await read_all_of(kind, saver, thread)
        watching = False
        events += sorted(set(sys.modules) - before)
    os.write(
        1,
        json.dumps(
            {"rows": len(placed), "columns": len(threads), "revived": revived[:20], "events": events[:20]}
        ).encode(),
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
