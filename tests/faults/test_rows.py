"""Damaged and forged rows: reading gives what was stored or says which checkpoint is damaged, and runs nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.types import TASKS
from langgraph.types import Send
from psycopg import sql

import langgraph_checkpoint_dual as dual
from langgraph_checkpoint_dual.errors import DecodeError
from tests.faults.common import rounds
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.compare import answer
from tests.support.savers import KINDS, Kind, opened

THREADS = ("one", "two")


def fill(saver: Any) -> None:
    """Two threads with lists, small and large values, pending writes, and metadata that is no JSON."""
    for thread_id in THREADS:
        parent = config(thread_id, "")
        log: list[Any] = []
        for number in range(3):
            log = [*log, *({"text": f"{thread_id} {number} {at}", "n": at} for at in range(8))]
            new = checkpoint({"log": log, "number": number, "blob": f"{thread_id}{number}" * 60, "none": None})
            meta = metadata(step=number, run_id=f"run-{number}", **({"odd": float("nan")} if number == 1 else {}))
            parent = saver.put(parent, new, meta, new["channel_versions"])
            saver.put_writes(parent, [("log", {"w": number}), ("number", "x" * 200)], f"task-{number}", "~path")


def read(saver: Any) -> dict[tuple[str, str], Any]:
    """What a saver says of each checkpoint, or the error that it raises."""
    found: dict[tuple[str, str], Any] = {}
    for thread_id, checkpoint_id in KNOWN:
        try:
            found[thread_id, checkpoint_id] = answer(saver.get_tuple(config(thread_id, "", checkpoint_id)))
        except DecodeError as exc:
            found[thread_id, checkpoint_id] = exc
    return found


KNOWN: list[tuple[str, str]] = []


class Damaged:
    """A database whose rows can be changed and put back."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.postgres = tables.is_postgres(database)
        with self.saver() as saver:
            fill(saver)
            KNOWN[:] = [
                (found.config["configurable"]["thread_id"], found.config["configurable"]["checkpoint_id"])
                for found in saver.list(None)
            ]
            self.intact = read(saver)
        self.rows = {table: tables.named_rows(database, table) for table in sorted(KEYS)}
        self.cells = [
            (table, number, column)
            for table, rows in self.rows.items()
            for number, row in enumerate(rows)
            for column in sorted(row)
        ]

    def saver(self) -> Any:
        kind = dual.PostgresSaver if self.postgres else dual.SqliteSaver
        return kind(self.database)  # nothing cached from before

    @contextmanager
    def changed(self, table: str, number: int, column: str, change: Any) -> Iterator[Any]:
        """Change a cell for a while; gives what it was and is, or `None` if the database refuses it."""
        row = self.rows[table][number]
        key = {name: value for name, value in row.items() if name in KEYS[table]}
        old = json.dumps(row[column]) if isinstance(row[column], dict) else row[column]
        new = change(old)
        try:
            place = self._set(table, key, column, new)
        except (sqlite3.Error, psycopg.Error):
            place = None
        if place is None:
            yield None
            return
        try:
            yield old, new
        finally:
            assert self._set(table, {"ctid" if self.postgres else "rowid": place}, column, old) is not None

    def _set(self, table: str, key: dict[str, Any], column: str, value: Any) -> Any:
        """Set one cell; where the row is now, or `None` if the database does not take the value."""
        if self.postgres:
            if isinstance(value, Text):
                return None
            where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in key)
            statement = sql.SQL("UPDATE {} SET {} = %s WHERE {} RETURNING ctid::text").format(
                sql.Identifier(table), sql.Identifier(column), where
            )
            with psycopg.connect(self.database, autocommit=True) as connection:
                return connection.execute(statement, [value, *key.values()]).fetchall()[0][0]
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            new = "CAST(? AS TEXT)" if isinstance(value, Text) else "?"
            where_text = " AND ".join(f'"{name}" = ?' for name in key)
            statement_text = f'UPDATE "{table}" SET "{column}" = {new} WHERE {where_text} RETURNING rowid'
            return connection.execute(statement_text, [value, *key.values()]).fetchall()[0][0]


class Text(bytes):
    """Text that is not UTF-8."""


# What checkpoints consist of; the registry tells nothing of their contents.
KEYS = {
    "dual_checkpoints": {"thread_id", "checkpoint_ns", "checkpoint_id"},
    "dual_items": {"thread_id", "checkpoint_ns", "channel", "seq"},
    "dual_writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"},
}


def flipped(value: Any, bit: int) -> Any:
    """The value with one bit of it inverted."""
    if value is None:
        return "x"
    if isinstance(value, int):
        return value ^ (1 << bit % 30)
    data = bytearray(value.encode() if isinstance(value, str) else bytes(value))
    if not data:
        return "x" if isinstance(value, str) else b"x"
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    if not isinstance(value, str):
        return bytes(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Text(data)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    if request.param == "sqlite":
        yield Damaged(str(tmp_path_factory.mktemp("rows") / "rows.db"))
        return
    with request.getfixturevalue("postgres_server").database() as uri:
        yield Damaged(uri)


def check(damaged: Damaged, cell: tuple[str, int, str], what: Any) -> str:
    """Every checkpoint is as it was stored, or raises an error that names it, or is gone with its key."""
    table, _, column = cell
    with damaged.saver() as saver:
        now = read(saver)
    outcome = "same"
    for (thread_id, checkpoint_id), before in damaged.intact.items():
        found = now[thread_id, checkpoint_id]
        if isinstance(found, DecodeError):
            assert {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}.items() <= (
                found.where.items()
            ), (cell, what, found)
            outcome = "told"
        elif found != before:
            assert column in KEYS[table], (cell, what, found, before)  # a row that bears another name is another row
            outcome = "gone"
    return outcome


@pytest.mark.slow
def test_any_flipped_bit_is_told(damaged: Damaged) -> None:
    outcomes: set[str] = set()

    @settings(max_examples=rounds(60))
    @given(st.sampled_from(damaged.cells), st.integers(0, 100_000))
    def run(cell: tuple[str, int, str], bit: int) -> None:
        with damaged.changed(*cell, lambda value: flipped(value, bit)) as what:
            if what is not None:
                outcomes.add(check(damaged, cell, what))

    run()
    assert "told" in outcomes


ODD: list[Any] = [None, 0, -1, 2**40, 1.5, "", "x", "{}", "[1]", b"", b"\0", b"\xff" * 40, b"\0" * 400]


@pytest.mark.slow
def test_any_other_value_is_told(damaged: Damaged) -> None:
    outcomes: set[str] = set()

    @settings(max_examples=rounds(60))
    @given(st.sampled_from(damaged.cells), st.sampled_from(ODD))
    def run(cell: tuple[str, int, str], value: Any) -> None:
        if isinstance(value, (int, float)) and cell[2] == "data":
            value = b""  # no number has ever been seen where bytes were stored
        with damaged.changed(*cell, lambda _: value) as what:
            if what is not None:
                outcomes.add(check(damaged, cell, what))

    run()
    assert "told" in outcomes


@pytest.mark.slow
def test_contents_of_two_rows_that_are_swapped_are_told(damaged: Damaged) -> None:
    """Within a thread. A thread can be copied row by row, so rows do not tell which thread they are of."""
    outcomes: set[str] = set()
    contents = [cell for cell in damaged.cells if cell[2] in ("checkpoint", "slots", "data", "metadata")]

    @settings(max_examples=rounds(40))
    @given(st.sampled_from(contents), st.data())
    def run(cell: tuple[str, int, str], data: st.DataObject) -> None:
        rows = damaged.rows[cell[0]]
        same = [
            number
            for number, row in enumerate(rows)
            if number != cell[1] and row["thread_id"] == rows[cell[1]]["thread_id"]
        ]
        other = (cell[0], data.draw(st.sampled_from(same)), cell[2])
        values = [rows[number][cell[2]] for number in (cell[1], other[1])]
        values = [json.dumps(value) if isinstance(value, dict) else value for value in values]
        with damaged.changed(*cell, lambda _: values[1]) as what:
            assert what is not None
            outcomes.add(check(damaged, cell, what))

    run()
    assert "told" in outcomes


@pytest.mark.slow
def test_an_item_that_is_gone_is_told(damaged: Damaged) -> None:
    items = [number for table, number, column in damaged.cells if table == "dual_items" and column == "seq"]
    for number in items[:: max(1, len(items) // 10)]:
        cell = ("dual_items", number, "thread_id")
        with damaged.changed(*cell, lambda _: "elsewhere") as what, damaged.saver() as saver:
            assert what is not None
            assert any(isinstance(found, DecodeError) for found in read(saver).values())


def spoilt(value: Any) -> Any:
    return value.replace("loop", "soup") if isinstance(value, str) else flipped(value, 90)


@pytest.mark.slow
async def test_a_damaged_checkpoint_leaves_the_others_of_its_thread_readable(damaged: Damaged) -> None:
    # Metadata that JSON cannot hold stands beside it, and the JSON is only searched.
    number = next(at for at, row in enumerate(damaged.rows["dual_checkpoints"]) if row["metadata_exact"] is None)
    for column in ("checkpoint", "slots", "metadata"):
        cell = ("dual_checkpoints", number, column)
        with damaged.changed(*cell, spoilt) as what, damaged.saver() as saver:
            assert what is not None
            with pytest.raises(DecodeError):
                list(saver.list(None))
            told: list[DecodeError] = []
            found = [answer(one) for one in saver.list(None, on_damaged=told.append)]
            assert len(told) == 1
            where = told[0].where["thread_id"], told[0].where["checkpoint_id"]
            assert found == [damaged.intact[key] for key in KNOWN if key != where]
            assert [answer(one) async for one in saver.alist(None, on_damaged=told.append)] == found
            assert len(told) == 2


async def test_metadata_whose_exact_value_is_gone(subject: Any, database: str) -> None:
    """What stands in JSON for searching is never taken for it."""
    stored = await put(subject, odd=float("nan"))
    tables.rows(database, "UPDATE dual_checkpoints SET metadata_exact = NULL")
    with pytest.raises(DecodeError, match="metadata is damaged"):
        await subject.aget_tuple(stored)


async def test_a_run_id_that_is_not_that_of_the_metadata(subject: Any, database: str) -> None:
    """Whoever deletes the other run must not lose a checkpoint to it."""
    first = await put(subject, values={"total": 1}, run_id="run-1")
    last = await put(subject, first, {"total": 2}, run_id="run-2")
    await put(subject, config("other"), {"total": 3}, run_id="run-1")
    tables.rows(database, "UPDATE dual_checkpoints SET run_id = 'run-1' WHERE run_id = 'run-2'")
    before = tables.contents(database)
    with pytest.raises(DecodeError, match=r"checkpoint_id.*run_id is damaged") as told:
        await subject.aget_tuple(last)
    assert told.value.where == last["configurable"]
    assert await subject.aget_tuple(first) is not None
    await subject.adelete_for_runs(["run-2"])
    assert tables.contents(database) == before
    with pytest.raises(DecodeError, match="nothing of the thread was removed"):
        await subject.adelete_for_runs(["run-1"])
    assert len([row for row in tables.named_rows(database, "dual_checkpoints") if row["thread_id"] == "thread"]) == 2
    await subject.adelete_thread("thread")


@pytest.mark.parametrize("run_id", [UUID(int=7), 7, "", "run\0\ud800", None, ["run"], 1.5], ids=repr)
async def test_odd_run_ids_are_no_damage(subject: Any, run_id: Any) -> None:
    stored = await put(subject, values={"total": 1}, run_id=run_id)
    assert (await subject.aget_tuple(stored)).metadata["run_id"] == run_id
    await put(subject, stored, {"total": 2}, run_id="other")
    await subject.adelete_for_runs(["other", str(run_id)])
    left = [one.config for one in await listed(subject, config())]
    assert left == ([] if isinstance(run_id, UUID) or (isinstance(run_id, str) and run_id) else [stored])


async def test_a_damaged_send_leaves_the_other_checkpoints_readable(subject: Any, database: str) -> None:
    """Checkpoints of before format 4 take pending sends from their parents, of which one is damaged."""
    places: dict[str, list[Any]] = {}
    for thread in ("good", "bad"):
        parent = await put(subject, config(thread), {"total": 1})
        await subject.aput_writes(parent, [(TASKS, Send("node", thread))], "task")
        made = checkpoint({"total": 2}, v=3)
        places[thread] = [parent, await subject.aput(parent, made, metadata(), made["channel_versions"])]
    [data] = tables.rows(database, "SELECT data FROM dual_writes WHERE thread_id = 'bad'")[0]
    spoilt = bytes(data)[:-1] + bytes([data[-1] ^ 255])
    literal = f"'\\x{spoilt.hex()}'::bytea" if tables.is_postgres(database) else f"x'{spoilt.hex()}'"
    tables.rows(database, f"UPDATE dual_writes SET data = {literal} WHERE thread_id = 'bad'")
    told: list[DecodeError] = []
    found = {str(one.config): one for one in await listed(subject, None, on_damaged=told.append)}
    assert found.keys() == set(map(str, places["good"]))
    assert found[str(places["good"][1])].checkpoint["channel_values"] == {"total": 2, TASKS: [Send("node", "good")]}
    assert {one.where["checkpoint_id"] for one in told} == {
        one["configurable"]["checkpoint_id"] for one in places["bad"]
    }
    assert all(one.where["thread_id"] == "bad" and one.where["channel"] == TASKS for one in told)
    for where in places["bad"]:
        with pytest.raises(DecodeError):
            await subject.aget_tuple(where)
    with pytest.raises(DecodeError):
        await listed(subject, None)


async def test_metadata_that_is_no_json(subject: Any, database: str) -> None:
    """Damaged so badly, it must not keep a filter from finding the others."""
    first = await put(subject, values={"total": 1}, user="ann")
    last = await put(subject, first, {"total": 2}, user="ann")
    where = f"WHERE checkpoint_id = '{last['configurable']['checkpoint_id']}'"
    tables.rows(database, f"UPDATE dual_checkpoints SET metadata = '{BAD[tables.is_postgres(database)]}' {where}")
    told: list[DecodeError] = []
    wanted = {"user": "ann"}
    assert [one.config for one in await listed(subject, None, filter=wanted, on_damaged=told.append)] == [first]
    for operation in (subject.aget_tuple(config()), subject.aprune(["thread"]), subject.aget_tuple(last)):
        with pytest.raises(DecodeError) as damaged:
            await operation
        assert damaged.value.where == last["configurable"]
    assert all(one.where == last["configurable"] for one in told)
    assert (await subject.aget_tuple(first)).config == first
    await subject.adelete_thread("thread")
    assert await listed(subject, None) == []


BAD = {False: '{"user": "an', True: "[1]"}
"""What is no metadata; jsonb holds nothing that is no JSON."""


@pytest.mark.parametrize("column", ["metadata", "run_metadata"])
async def test_a_damaged_row_of_the_registry(saver: Any, database: str, column: str) -> None:
    await put(saver, config("thread"), {"total": 1})
    await saver.threads.aupdate("thread", metadata={"plan": "a"})
    tables.rows(database, f"UPDATE dual_threads SET {column} = '{BAD[tables.is_postgres(database)]}'")
    await put(saver, config("other"), {"total": 1})
    for operation in (saver.threads.aget("thread"), saver.threads.alist()):
        with pytest.raises(DecodeError, match=r"threads.update") as told:
            await operation
        assert told.value.where == {"thread_id": "thread"}
    assert (await saver.threads.aget("other")).checkpoints == 1
    assert (await saver.aget_tuple(config("thread"))).checkpoint["channel_values"] == {"total": 1}
    found = await saver.threads.aupdate("thread", metadata={"plan": "b"})
    assert found.metadata == {"plan": "b"}
    assert len((await saver.threads.alist(metadata={"plan": "b"})).threads) == 1


@pytest.mark.parametrize("forged", ["title = x'ff'", "user_id = x'ff'", "updated_at = 'soon'", "created_at = 9e18"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.backend == "sqlite"], ids=str)
async def test_a_forged_row_of_the_registry(kind: Kind, sqlite_path: str, forged: str) -> None:
    """SQLite stores any type in any column."""
    async with opened(kind.ours, sqlite_path) as saver:
        await put(saver, config("thread"), {"total": 1})
        tables.rows(sqlite_path, f"UPDATE dual_threads SET {forged}")
        for operation in (saver.threads.aget("thread"), saver.threads.alist()):
            with pytest.raises(DecodeError, match="registry is damaged"):
                await operation
        assert (await saver.aget_tuple(config("thread"))).checkpoint["channel_values"] == {"total": 1}
