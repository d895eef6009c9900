"""What LangGraph and its users may rely on, over all four classes through both faces."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, copy_checkpoint
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, TASKS

from langgraph_checkpoint_dual.errors import DecodeError
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.compare import answer
from tests.support.records import Record
from tests.support.savers import Kind, opened

MANY = 30  # more checkpoints than a listing fetches at once


async def history(subject: Any, count: int = MANY) -> list[Any]:
    """A chain of checkpoints; their configs, oldest first."""
    configs = [config()]
    for step in range(count):
        configs.append(await put(subject, configs[-1], {"total": step, "log": ["x" * 50] * step}, step=step))
    return configs[1:]


class TestListing:
    async def test_reads_and_writes_between_its_items(self, subject: Any) -> None:
        stored = await history(subject)
        seen = []
        async for found in subject.alist(config()):
            assert answer(await subject.aget_tuple(found.config)) == answer(found)
            await put(subject, found.config, {"total": -1}, source="fork")
            await subject.aput_writes(found.config, [("total", -1)], "task")
            seen.append(found.config)
        assert seen == stored[::-1]

    def test_reads_and_writes_between_its_items_with_no_loop_running(self, kind: Kind, database: str) -> None:
        with kind.ours(database) as saver:
            parent = config()
            for step in range(MANY):
                made = checkpoint({"total": step})
                parent = saver.put(parent, made, metadata(), made["channel_versions"])
            for found in saver.list(config()):
                assert answer(saver.get_tuple(found.config)) == answer(found)
                made = checkpoint({"total": -1})
                saver.put(found.config, made, metadata(), made["channel_versions"])
            assert len(list(saver.list(config()))) == 2 * MANY

    async def test_an_abandoned_iterator_holds_nothing(
        self, kind: Kind, saver: Any, face: str, subject: Any, database: str
    ) -> None:
        await history(subject)
        iterator = subject.alist(config())
        first = await anext(iterator)
        holds_nothing(database)
        async with opened(kind.ours, database) as other:  # nothing keeps another process from writing
            await put(other, first.config, {"total": -1})
            await other.adelete_thread("thread")
        await put(subject, values={"total": 1})
        del iterator

    async def test_deleting_while_listing_ends_it_cleanly(self, subject: Any) -> None:
        await history(subject)
        seen = 0
        async for _ in subject.alist(config()):
            seen += 1
            await subject.adelete_thread("thread")
        assert 1 <= seen <= MANY
        assert await listed(subject, config()) == []

    async def test_limits(self, subject: Any) -> None:
        stored = await history(subject, 12)
        for limit in (0, 1, 8, 9, 12, 100):
            assert [found.config for found in await listed(subject, config(), limit=limit)] == stored[::-1][:limit]

    async def test_is_newest_first_across_threads_and_namespaces(self, subject: Any) -> None:
        stored = [
            await put(subject, config(thread, ns), {"total": 1})
            for _ in range(3)
            for thread in ("b", "a")
            for ns in ("", "child:1")
        ]
        assert [found.config for found in await listed(subject, None)] == stored[::-1]
        thread_a = [one for one in stored if one["configurable"]["thread_id"] == "a"]
        found = await listed(subject, {"configurable": {"thread_id": "a"}})
        assert [one.config for one in found] == thread_a[::-1]


OPEN_TRANSACTIONS = """
SELECT state FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in%'
"""
HELD_LOCKS = """
SELECT relation::regclass, mode FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE datname = current_database() AND pid <> pg_backend_pid() AND locktype = 'relation'
"""


def holds_nothing(database: str) -> None:
    """Nobody else has a transaction, a lock or a snapshot of the database."""
    if tables.is_postgres(database):
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        assert (
            tables.rows(database, f"SELECT state FROM pg_stat_activity WHERE state LIKE 'idle in%' AND {others}") == []
        )
        relations = "locktype = 'relation' AND pid <> pg_backend_pid()"
        database_id = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        assert tables.rows(database, f"SELECT mode FROM pg_locks WHERE {relations} AND {database_id}") == []
    else:
        [(busy, _, _)] = tables.rows(database, "PRAGMA wal_checkpoint(TRUNCATE)")
        assert busy == 0
        tables.rows(database, "BEGIN EXCLUSIVE")


class TestGetTuple:
    async def test_latest_by_id_and_absent(self, subject: Any) -> None:
        stored = await history(subject, 3)
        assert (await subject.aget_tuple(config())).config == stored[-1]
        assert (await subject.aget_tuple(stored[0])).checkpoint["channel_values"]["total"] == 0
        assert await subject.aget_tuple(config("nobody")) is None
        assert await subject.aget_tuple(config("thread", "", "not-there")) is None
        assert (await subject.aget({"configurable": {"thread_id": "thread"}}))["channel_values"]["total"] == 2

    async def test_answers_share_nothing(self, subject: Any) -> None:
        """LangGraph keeps and changes what it is given."""
        stored = await put(subject, values={"log": [{"a": [1]}] * 40, "files": {"f": ["x"]}})
        pristine = answer(await subject.aget_tuple(stored))
        for _ in range(2):
            found = await subject.aget_tuple(stored)
            found.checkpoint["channel_values"]["log"][0]["a"].append(2)
            found.checkpoint["channel_values"]["log"].clear()
            found.checkpoint["channel_values"]["files"]["f"].append("y")
            found.checkpoint["channel_versions"]["other"] = 1
            found.metadata["step"] = 99
            assert answer(await subject.aget_tuple(stored)) == pristine

    async def test_does_not_see_changes_made_to_what_was_put(self, subject: Any) -> None:
        made = checkpoint({"log": [{"a": [n]} for n in range(40)]})
        stored = await subject.aput(config(), made, metadata(), made["channel_versions"])
        expected = answer(await subject.aget_tuple(stored))
        made["channel_values"]["log"][3]["a"].append("later")
        made["channel_values"]["log"].clear()
        made["channel_versions"].clear()
        assert answer(await subject.aget_tuple(stored)) == expected


class TestPut:
    async def test_a_repeated_put_changes_nothing(self, subject: Any, database: str) -> None:
        made = checkpoint({"log": [{"n": n} for n in range(40)], "total": 1})
        for _ in range(2):
            stored = await subject.aput(config(), made, metadata(), made["channel_versions"])
            after = tables.contents(database)
            for _ in range(2):
                assert await subject.aput(config(), made, metadata(), made["channel_versions"]) == stored
            assert tables.contents(database) == after
            await subject.adelete_thread("thread")

    async def test_a_fork_with_no_new_versions_keeps_its_values(self, subject: Any) -> None:
        first, second = await history(subject, 2)
        made = copy_checkpoint((await subject.aget_tuple(first)).checkpoint)
        made["id"] = checkpoint()["id"]
        fork = await subject.aput(first, made, metadata(source="fork"), {})
        found = await subject.aget_tuple(fork)
        assert found.parent_config == first
        assert found.checkpoint["channel_values"] == made["channel_values"]
        assert (await subject.aget_tuple(second)).checkpoint["channel_values"]["total"] == 1

    async def test_a_new_version_without_a_value_removes_the_channel(self, subject: Any) -> None:
        first = await put(subject, values={"total": 1, "log": [1]})
        made = checkpoint({"total": 2})
        made["channel_versions"]["log"] = f"{10**6:032}.{0.5:016}"
        second = await subject.aput(first, made, metadata(), made["channel_versions"])
        found = await subject.aget_tuple(second)
        assert found.checkpoint["channel_values"] == {"total": 2}
        assert found.checkpoint["channel_versions"] == made["channel_versions"]
        assert (await subject.aget_tuple(first)).checkpoint["channel_values"] == {"total": 1, "log": [1]}

    async def test_versions_may_be_ints_floats_or_strings(self, subject: Any) -> None:
        for version in (7, 2.5, "7", f"{7:032}.{0.25:016}"):
            made = checkpoint(
                {"total": 1}, channel_versions={"total": version}, versions_seen={"n": {"total": version}}
            )
            stored = await subject.aput(config(), made, metadata(), {"total": version})
            found = (await subject.aget_tuple(stored)).checkpoint
            assert repr(found["channel_versions"]["total"]) == repr(version)
            assert repr(found["versions_seen"]["n"]["total"]) == repr(version)

    async def test_internal_keys_of_the_config_are_not_metadata(self, subject: Any) -> None:
        into = {
            "configurable": {"thread_id": "thread", "checkpoint_ns": "", "__pregel_x": "no", "user": "ann"},
            "metadata": {"tag": "t", "langgraph_step": 3},
        }
        found = await subject.aget_tuple(await put(subject, into, step=5))
        assert found.metadata == metadata(step=5, user="ann", tag="t")


class TestWrites:
    async def test_may_come_before_their_checkpoint_and_in_any_order(self, subject: Any) -> None:
        made = checkpoint()
        at = config("thread", "", made["id"])
        await subject.aput_writes(at, [("b", 2), ("a", 1)], "task-1", "~p, 2")
        await subject.aput_writes(at, [("c", 3)], "task-2", "~p, 1")
        await subject.aput_writes(at, [("d", 4)], "task-3")
        await subject.aput_writes(at, [], "task-4")
        await subject.aput(config(), made, metadata(), {})
        assert (await subject.aget_tuple(at)).pending_writes == [
            ("task-3", "d", 4),
            ("task-2", "c", 3),
            ("task-1", "b", 2),
            ("task-1", "a", 1),
        ]

    async def test_first_values_stay_and_special_ones_are_replaced(self, subject: Any) -> None:
        stored = await put(subject)
        for attempt in ("first", "second"):
            await subject.aput_writes(stored, [("total", attempt), ("log", attempt)], "task")
            await subject.aput_writes(stored, [(ERROR, attempt)], "task")
            await subject.aput_writes(stored, [(INTERRUPT, attempt), (INTERRUPT, attempt)], "task")
        assert (await subject.aget_tuple(stored)).pending_writes == [
            ("task", INTERRUPT, "second"),
            ("task", ERROR, "second"),
            ("task", "total", "first"),
            ("task", "log", "first"),
        ]


class TestDeltaHistory:
    async def test_walks_the_parent_chain_and_not_the_ids(self, subject: Any) -> None:
        root = await put(subject, values={"log": None})
        await subject.aput_writes(root, [("log", "w0")], "t")
        middle = await put(subject, root, {})
        await subject.aput_writes(middle, [("log", "w1"), ("other", "o1")], "t")
        beside = await put(subject, root, {"log": "not on the way"})
        await subject.aput_writes(beside, [("log", "no")], "t")
        head = await put(subject, middle, {})
        await subject.aput_writes(head, [("log", "pending")], "t")
        found = await subject.aget_delta_channel_history(config=head, channels=["log", "other"])
        assert found == {
            "log": {"seed": None, "writes": [("t", "log", "w0"), ("t", "log", "w1")]},
            "other": {"writes": [("t", "other", "o1")]},
        }
        assert await subject.aget_delta_channel_history(config=head, channels=[]) == {}
        absent = await subject.aget_delta_channel_history(config=config("nobody"), channels=["log"])
        assert absent == {"log": {"writes": []}}

    @pytest.mark.parametrize("shape", ["a line", "branches beside it", "ids in no order", "ids that fall"])
    async def test_is_found_whatever_stands_between(self, saver: Any, shape: str) -> None:
        """The chain is longer than the first page of it that is read."""
        length, beside = 40, 2 if shape == "branches beside it" else 0
        numbers = list(range(length * (1 + beside)))
        if shape == "ids in no order":
            random.Random(1).shuffle(numbers)
        elif shape == "ids that fall":
            numbers.reverse()
        ids = iter([f"{number:05}" for number in numbers])
        at, expected = config(), []
        for step in range(length):
            parent, at = at, await saver.aput(at, checkpoint(id=next(ids)), metadata(), {})
            if step % 3 == 0 and step < length - 1:
                await saver.aput_writes(at, [("log", step)], "t")
                expected.append(("t", "log", step))
            for _ in range(beside):
                other = await saver.aput(parent, checkpoint(id=next(ids)), metadata(), {})
                await saver.aput_writes(other, [("log", "no")], "t")
        found = await saver.aget_delta_channel_history(config=at, channels=["log", "other"])
        assert found == {"log": {"writes": expected}, "other": {"writes": []}}


class TestOldFormat:
    async def test_sends_of_the_parent_are_taken_over(self, subject: Any) -> None:
        """Before format 4 the sends of a step were writes of its parent; they are a channel since."""
        parent = await subject.aput(config(), checkpoint({"total": 1}, v=3), metadata(), {})
        await subject.aput_writes(parent, [(TASKS, "send 2")], "task-2", "~p, 2")
        await subject.aput_writes(parent, [(TASKS, "send 1a"), ("total", 5), (TASKS, "send 1b")], "task-1", "~p, 1")
        made = checkpoint({"total": 2}, v=3)
        child = await subject.aput(parent, made, metadata(), made["channel_versions"])
        newer = await put(subject, parent, {"total": 3})

        for found in (await subject.aget_tuple(child), (await listed(subject, child))[0]):
            assert found.checkpoint["channel_values"] == {"total": 2, TASKS: ["send 1a", "send 1b", "send 2"]}
            assert found.checkpoint["channel_versions"][TASKS] == max(made["channel_versions"].values())
        assert TASKS not in (await subject.aget_tuple(newer)).checkpoint["channel_values"]


class TestVersions:
    def test_are_those_of_the_official_savers(self, kind: Kind, saver: Any) -> None:
        official = kind.official.get_next_version
        for current in (None, 5, "5", f"{5:032}.{0.25:016}"):
            ours = saver.get_next_version(current, None)
            assert re.fullmatch(r"\d{32}\.0\.\d+(e-\d+)?", ours)
            assert ours.split(".")[0] == official(saver, current, None).split(".")[0]
            assert official(saver, ours, None) > ours > f"{5:032}" * bool(current)

    def test_are_unique(self, saver: Any) -> None:
        assert len({saver.get_next_version(None, None) for _ in range(1000)}) == 1000


class TestSerde:
    async def test_is_read_at_every_call(self, saver: Any, subject: Any, database: str) -> None:
        saver.serde = EncryptedSerializer.from_pycryptodome_aes(JsonPlusSerializer(), key=b"k" * 32)
        values = {"log": ["marker-in-clear"] * 40, "total": "marker-in-clear", "files": {"f": "marker-in-clear"}}
        stored = await put(subject, values=values)
        await subject.aput_writes(stored, [("total", "marker-in-clear")], "task")
        found = await subject.aget_tuple(stored)
        assert found.checkpoint["channel_values"] == values
        assert found.pending_writes == [("task", "total", "marker-in-clear")]
        assert "marker-in-clear" not in repr(tables.contents(database))

    async def test_allowlist(self, saver: Any) -> None:
        saver.serde = JsonPlusSerializer(allowed_msgpack_modules=None)
        clone = saver.with_allowlist([(Record.__module__, Record.__name__)])
        assert isinstance(clone, BaseCheckpointSaver)
        assert type(clone) is type(saver)
        stored = await put(clone, values={"record": Record(1), "records": [Record(n) for n in range(40)]})
        found = await clone.aget_tuple(stored)
        assert found.checkpoint["channel_values"]["record"] == Record(1)
        assert found.checkpoint["channel_values"]["records"][39] == Record(39)
        assert clone.get_tuple(stored).checkpoint["channel_values"]["record"] == Record(1)


class TestDamage:
    async def test_a_damaged_row_names_its_checkpoint_and_spares_the_others(self, kind: Kind, database: str) -> None:
        async with opened(kind.ours, database) as saver:
            good = await put(saver, config("good"), {"log": ["x" * 100] * 40, "total": 1})
            bad = await put(saver, config("bad"), {"log": ["x" * 100] * 40, "total": 1}, nul="\0")
            for at in (good, bad):
                await saver.aput_writes(at, [("total", 1)], "task")
        columns = list(binary_columns(database))
        assert len(columns) >= 3
        for table, column in columns:
            flip(database, table, column)
            async with opened(kind.ours, database) as saver:  # a process that remembers nothing
                with pytest.raises(DecodeError) as caught:
                    await saver.aget_tuple(bad)
                assert "'bad'" in str(caught.value)
                assert caught.value.where["thread_id"] == "bad"
                with pytest.raises(DecodeError):
                    await listed(saver, config("bad"))
                assert (await saver.aget_tuple(good)).checkpoint["channel_values"]["total"] == 1
            flip(database, table, column)
        async with opened(kind.ours, database) as saver:
            assert (await saver.aget_tuple(bad)).checkpoint["channel_values"]["total"] == 1


def binary_columns(database: str) -> Any:
    """Table and column of everything that is stored as bytes for the thread `bad`."""
    for table in sorted(tables.data_tables(database)):
        found = tables.named_rows(database, table)
        for row in found:
            if row.get("thread_id") == "bad":
                yield from ((table, name) for name, value in row.items() if isinstance(value, bytes))
                break


def flip(database: str, table: str, column: str) -> None:
    """Invert the last byte of a column in every row of the thread `bad`."""
    if tables.is_postgres(database):
        last = f'length("{column}") - 1'
        change = f'set_byte("{column}", {last}, 255 - get_byte("{column}", {last}))'
    else:
        change = f'flip("{column}")'
    tables.rows(database, f'UPDATE "{table}" SET "{column}" = {change} WHERE thread_id = \'bad\'')
