"""Faults that were found once and mended: each test fails on the code of before."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import ormsgpack
import pytest
from langchain_core.messages import HumanMessage

from langgraph_checkpoint_dual import Serializer
from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.postgres.transactions import BlockingTx, LoopTx
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.compare import answer, fingerprint
from tests.support.savers import KINDS, Kind, faced, opened
from tests.support.tables import counts, is_postgres, named_rows, rows

POSTGRES_KINDS = [kind for kind in KINDS if kind.backend == "postgres"]


def message(number: Any, text: str = "some words that make it long enough to be an item") -> HumanMessage:
    return HumanMessage(f"message {number}: {text}", id=str(number))


def chat(length: int, text: str = "some words that make it long enough to be an item") -> list[HumanMessage]:
    return [message(number, text) for number in range(length)]


async def channel_m(saver: Any, at: Any = None) -> Any:
    return (await saver.aget_tuple(at or config())).checkpoint["channel_values"]["m"]


# Reads on Postgres while others delete and write


def meanwhile(patch: pytest.MonkeyPatch, query: str, action: Callable[[], object]) -> list[str]:
    """Do `action` once, just before a transaction sends its first `query`; the list says that it was done."""
    done: list[str] = []
    for kind in (BlockingTx, LoopTx):

        def wrapped(real: Callable[..., Awaitable[Any]]) -> Any:
            async def fetch(self: Any, name: str, /, **args: Any) -> Any:
                if name == query and not done:
                    done.append(name)
                    action()
                return await real(self, name, **args)

            return fetch

        patch.setattr(kind, "fetch", wrapped(kind.fetch))
    return done


class Branches:
    """A checkpoint A and its child B of the run `b`, which can be replaced by a child C that takes B's item numbers."""

    def __init__(self, writer: PostgresSaver) -> None:
        self.writer, self.common = writer, chat(10)
        self.a = self._put(config(), self.common)
        self.b = self._put(self.a, [*self.common, message("B")], run_id="b")

    def replace(self) -> None:
        self.writer.delete_for_runs(["b"])
        self.writer.get_tuple(self.a)  # the writer knows A, and so appends to its items
        self._put(self.a, [*self.common, message("C")])

    def _put(self, parent: Any, messages: list[Any], **extra: Any) -> Any:
        made = checkpoint({"m": list(messages)})
        return self.writer.put(parent, made, metadata(**extra), made["channel_versions"])


@pytest.mark.parametrize("kind", POSTGRES_KINDS, ids=str)
async def test_a_read_never_returns_items_of_a_branch_that_took_the_numbers(
    kind: Kind, face: str, postgres_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(kind.ours, postgres_uri) as inner:
        reader = faced(inner, face)
        with PostgresSaver(postgres_uri) as writer:
            branches = Branches(writer)
            before = answer(writer.get_tuple(branches.b))
            done = meanwhile(monkeypatch, "items", branches.replace)
            found = answer(await reader.aget_tuple(branches.b))
            assert done
            assert found in (before, None)


@pytest.mark.parametrize("kind", POSTGRES_KINDS, ids=str)
async def test_a_listing_never_returns_items_of_a_branch_that_took_the_numbers(
    kind: Kind, face: str, postgres_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(kind.ours, postgres_uri) as inner:
        reader = faced(inner, face)
        with PostgresSaver(postgres_uri) as writer:
            branches = Branches(writer)
            before = [answer(found) for found in writer.list(config())]
            done = meanwhile(monkeypatch, "items", branches.replace)
            found = [answer(one) for one in await listed(reader, config())]
            assert done
            assert found in (before, [answer(one) for one in writer.list(config())])


@pytest.mark.parametrize("kind", POSTGRES_KINDS, ids=str)
async def test_a_delta_history_is_of_one_state_of_the_chain(
    kind: Kind, face: str, postgres_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(kind.ours, postgres_uri) as inner:
        reader = faced(inner, face)
        with PostgresSaver(postgres_uri) as writer:
            at = config()
            for step in range(4):
                made = checkpoint({} if step else {"delta": chat(10)})
                at = writer.put(at, made, metadata(run_id=f"run {step}"), made["channel_versions"])
                writer.put_writes(at, [("delta", message(f"of step {step}"))], "task")

            def told(history: Any) -> Any:
                return fingerprint({**history["delta"]})

            before = told(writer.get_delta_channel_history(config=at, channels=["delta"]))
            done = meanwhile(monkeypatch, "writes_of_chain", lambda: writer.delete_for_runs(["run 2", "run 3"]))
            found = told(await reader.aget_delta_channel_history(config=at, channels=["delta"]))
            assert done
            after = told(writer.get_delta_channel_history(config=at, channels=["delta"]))
            assert before != after
            assert found in (before, after)


# Puts


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_repeated_put_updates_the_row_and_stores_no_item_twice(
    kind: Kind, database: str, reopened: bool
) -> None:
    made = checkpoint({"m": chat(20)})
    again = {**made, "channel_versions": {"m": f"{77:032}.{0.5:016}"}, "versions_seen": {"node": {"m": "x"}}}
    async with opened(kind.ours, database) as saver:
        await saver.aput(config(), made, metadata(step=1), made["channel_versions"])
        stored = counts(database)
        if not reopened:
            await saver.aput(config(), again, metadata(step=99, note="second"), again["channel_versions"])
    async with opened(kind.ours, database) as saver:
        if reopened:  # a saver that knows nothing of what is stored
            await saver.aput(config(), again, metadata(step=99, note="second"), again["channel_versions"])
        found = await saver.aget_tuple(config())
    assert (found.metadata["step"], found.metadata["note"]) == (99, "second")
    assert found.checkpoint["channel_versions"] == again["channel_versions"]
    assert found.checkpoint["versions_seen"] == again["versions_seen"]
    assert found.checkpoint["channel_values"] == {"m": chat(20)}
    assert counts(database) == stored


async def test_a_bulk_append_stores_only_what_is_new(saver: Any, database: str) -> None:
    at = await put(saver, values={"m": chat(100)})
    first = len(named_rows(database, "dual_items"))
    await put(saver, at, {"m": chat(200)})
    assert (first, len(named_rows(database, "dual_items"))) == (100, 200)
    assert await channel_m(saver) == chat(200)


def damage_an_item(database: str) -> None:
    """Change the bytes of the item with the lowest number."""
    zero = "'\\x00'::bytea" if is_postgres(database) else "x'00'"
    rows(database, f"UPDATE dual_items SET data = {zero} WHERE seq = (SELECT min(seq) FROM dual_items)")


async def test_a_child_of_a_damaged_checkpoint_is_stored(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        at = await put(saver, values={"m": chat(20, "x" * 600)})
    damage_an_item(database)
    async with opened(kind.ours, database) as saver:  # knows nothing of the parent, so it compares first
        child = await put(saver, at, {"m": chat(20, "y" * 600)})
        assert await channel_m(saver, child) == chat(20, "y" * 600)


@pytest.mark.parametrize("cold", [False, True])
async def test_a_value_changed_in_place_is_stored_whatever_the_saver_remembers(
    kind: Kind, database: str, cold: bool
) -> None:
    messages = chat(20)
    first = checkpoint({"m": messages})
    second = checkpoint()
    second.update(channel_values={"m": messages}, channel_versions=first["channel_versions"])
    async with opened(kind.ours, database) as saver:
        at = await saver.aput(config(), first, metadata(), first["channel_versions"])
        messages[0].content = "changed in place"
        if not cold:
            await saver.aput(at, second, metadata(), {})
    async with opened(kind.ours, database) as saver:
        if cold:
            await saver.aput(at, second, metadata(), {})
        assert (await channel_m(saver))[0].content == "changed in place"
        assert await channel_m(saver, at) == chat(20)


# Cold and warm reads


async def assert_cold_is_warm(saver_class: Any, database: str, serde: Any) -> Any:
    """The first element of the channel, which a saver that just opened and one that knows it must give alike."""
    async with opened(saver_class, database, serde=serde) as saver:
        at = await put(saver, values={"m": chat(20)})
        written = await channel_m(saver, at)
    async with opened(saver_class, database, serde=serde) as saver:
        cold = await channel_m(saver, at)
        warm = await channel_m(saver, at)
    assert [fingerprint(one) for one in (written, warm)] == [fingerprint(cold)] * 2
    return cold[0]


class OwnHuman(HumanMessage):
    """A user's message class."""


class Converting(Serializer):
    """A serializer that turns what it reads into a class of the user's."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        value = super().loads_typed(data)
        return OwnHuman(**value.model_dump(exclude={"type"})) if type(value) is HumanMessage else value


class Pickling:
    """A user's serializer, which keeps the fields that were set."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return "pickle", pickle.dumps(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return pickle.loads(data[1])


async def test_a_serializer_that_converts_what_it_reads_is_asked_cold_and_warm(database: str, kind: Kind) -> None:
    assert type(await assert_cold_is_warm(kind.ours, database, Converting())) is OwnHuman


async def test_an_alias_of_a_message_class_holds_cold_and_warm(database: str, kind: Kind) -> None:
    serde = Serializer(aliases={"langchain_core.messages.human.HumanMessage": OwnHuman})
    assert type(await assert_cold_is_warm(kind.ours, database, serde)) is OwnHuman


async def test_a_serializer_of_the_user_s_own_keeps_the_fields_set_cold_and_warm(database: str, kind: Kind) -> None:
    found = await assert_cold_is_warm(kind.ours, database, Pickling())
    assert found.model_fields_set == message(0).model_fields_set


def drop_a_field(database: str) -> None:
    """Make the stored messages those of a langchain-core that knew no `name`."""
    mark = "%s" if is_postgres(database) else "?"
    for row in named_rows(database, "dual_items"):
        fields = ormsgpack.unpackb(row["data"][1:])
        del fields["name"]
        typed = bytes(row["data"][:1]) + ormsgpack.packb(fields)
        checksum = values.item_checksum(typed, values.place("item", "m"), row["seq"], row["added_at"])
        statement = f"UPDATE dual_items SET data = {mark}, checksum = {mark} WHERE seq = {mark}"
        rows(database, statement, (typed, checksum, row["seq"]))


async def test_a_message_of_another_langchain_core_reads_the_same_cold_and_warm(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        at = await put(saver, values={"m": chat(20)})
    drop_a_field(database)
    async with opened(kind.ours, database) as saver:
        cold, warm = await channel_m(saver, at), await channel_m(saver, at)
    assert [one.name for one in cold] == [one.name for one in warm] == [None] * 20
    assert fingerprint(cold) == fingerprint(warm)
