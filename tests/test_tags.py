"""Messages are found by their id through an index: at the same cost however many there are, and only where they are."""

from __future__ import annotations

import sqlite3
from asyncio import gather
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, HumanMessageChunk, RemoveMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from langgraph_checkpoint_dual import Serializer, SqliteSaver
from langgraph_checkpoint_dual.core import items, tags
from langgraph_checkpoint_dual.core.conversations import appending
from langgraph_checkpoint_dual.core.inspection import doctor, mending
from langgraph_checkpoint_dual.core.migrations import migrations_of
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.migrate import migrate
from langgraph_checkpoint_dual.transfer import transfer
from tests.support.checkpoints import checkpoint, config, metadata, put
from tests.support.golden import LATEST, load, serde
from tests.support.savers import KINDS, Kind, opened
from tests.support.tables import is_postgres, named_rows, rows
from tests.test_items import SERDES

BLOCKING = [kind for kind in KINDS if kind.face == "blocking"]
TEXT = "what is said in a message that is longer than what is stored inline, as most messages are in truth: " * 2


@pytest.fixture(params=BLOCKING, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Both databases; the faces add nothing of their own."""
    found: Kind = request.param
    return found


def chat(length: int) -> list[BaseMessage]:
    return [(HumanMessage, AIMessage)[at % 2](f"{TEXT} {at}", id=f"m{at}") for at in range(length)]


def texts(view: Any) -> list[str]:
    return [message.text.removeprefix(TEXT).strip() for message in view.last(100_000)]


def not_found(saver: Any) -> list[Any]:
    """What the doctor says of messages that are not found by their id."""
    found = finish(doctor.examine(saver._blocking, serde=saver.serde)).findings
    return [one for one in found if one.kind == "stale tags"]


def tagged(database: str, where: str = "thread") -> int:
    """How many items have a tag."""
    return sum(row["tag"] is not None for row in named_rows(database, "dual_items") if row["thread_id"] == where)


# --- What a tag is ---


class Note(HumanMessage):
    """A message of a user's own."""


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (HumanMessage("any", id="m1"), 7568749776399832181),
        (AIMessage("other", id="m1"), 7568749776399832181),
        (Note("own", id="m1"), 7568749776399832181),
        (HumanMessageChunk("part", id="m1"), 7568749776399832181),
        (HumanMessage("any", id=""), 7568749776304459557),
        (HumanMessage("odd", id="é\ud800\0"), 7568749776495074136),
        (HumanMessage("none"), None),
        ({"type": "human", "content": "any", "id": "m1"}, None),
        ("m1", None),
        (None, None),
    ],
)
def test_the_tag_of_a_value_is_part_of_the_format(value: Any, tag: int | None) -> None:
    assert tags.tag_in(tags.place_of("thread", "", "messages"), tags.id_hash_of(value)) == tag


@given(st.text(), st.text(), st.text(), st.text(), st.integers(1, 2**32 - 1))
def test_the_tag_of_a_copy(source: str, target: str, ns: str, channel: str, id_hash: int) -> None:
    tag, copied = (tags.tag_in(tags.place_of(one, ns, channel), id_hash) for one in (source, target))
    assert tag is not None
    assert tag ^ tags.between(source, target) == copied
    assert -(2**63) <= tag < 2**63
    assert tag & (2**32 - 1) == id_hash


# --- What it costs ---


def test_an_append_by_id_takes_sqlite_the_same_steps_however_long_the_thread_is(sqlite_path: str) -> None:
    steps = []
    with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
        saver = SqliteSaver(connection)
        for length in (10, 10_000):
            view = saver.messages(f"thread {length}")
            view.append(chat(length))
            for added in (AIMessage("new", id="new"), HumanMessage("changed", id=f"m{length // 2}")):
                taken = 0

                def step() -> int:
                    nonlocal taken
                    taken += 1
                    return 0

                connection.set_progress_handler(step, 1)
                view.append(added)
                connection.set_progress_handler(None, 1)
                steps.append(taken)
            wanted = [*map(str, range(length)), "new"]
            wanted[length // 2] = "changed"
            assert texts(view) == wanted
    new, replaced, new_of_many, replaced_of_many = steps
    assert abs(new_of_many - new) <= 20, steps
    assert abs(replaced_of_many - replaced) <= 60, steps  # the manifest has the message's range between two others


def test_the_databases_look_into_the_index_whatever_they_know_of_the_tables(kind: Kind, database: str) -> None:
    """With many short threads a planner expects little of the primary key too, which leads to all of a thread."""
    with kind.ours.from_conn_string(database) as saver:
        saver.messages("thread").append(chat(2000))
        numbers = (
            "SELECT n FROM generate_series(1, 20000) AS n"
            if kind.backend == "postgres"
            else "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000) SELECT n FROM s"
        )
        for analyzed in (False, True):
            assert _explained(saver, database) == 1
            if not analyzed:
                rows(
                    database,
                    "INSERT INTO dual_items (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data) "
                    f"SELECT 'short ' || n, '', 'messages', n, 0, 0, n, '' FROM ({numbers}) AS s",
                )
                rows(database, "ANALYZE")


def _explained(saver: Any, database: str) -> int:
    """How many rows are looked at for the tag of one message."""
    wanted = tags.tag_in(tags.place_of("thread", "", "messages"), tags.hash_of_id("m7"))
    if not is_postgres(database):
        statement = saver._backend._queries["items_tagged"].replace(":tags", f"'[{wanted}]'")
        [*_, plan] = rows(database, f"EXPLAIN QUERY PLAN {statement}")[-1]
        assert plan == "SEARCH i USING INDEX dual_items_tagged (tag=?)"
        return 1
    statement = saver._engine._dialect["items_tagged"].decode().replace("%(tags)s", f"'[{wanted}]'")
    plan = str(rows(database, f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"))
    assert "dual_items_tagged" in plan
    assert "Filter" not in plan
    [(found,)] = rows(database, f"SELECT count(*) FROM ({statement}) AS s")
    return int(found)


# --- Which messages are meant ---


def test_only_the_message_of_this_branch_namespace_channel_and_thread(kind: Kind, database: str) -> None:
    with kind.ours.from_conn_string(database) as saver:
        first = saver.messages("thread").append(chat(3))
        saver.messages("thread").append(HumanMessage("of the other branch", id="only there"))
        saver.messages("other thread").append(chat(3))
        for ns, channel in (("", "notes"), ("child:1", "messages")):
            made = checkpoint({channel: chat(3)})
            saver.put(config("other", ns), made, metadata(), made["channel_versions"])
        branch = saver.messages("thread", checkpoint_id=first["configurable"]["checkpoint_id"])
        at = branch.append([HumanMessage("new here", id="only there"), AIMessage("changed", id="m1")])
        here = saver.messages("thread", checkpoint_id=at["configurable"]["checkpoint_id"])
        assert texts(here) == ["0", "changed", "2", "new here"]
        assert texts(saver.messages("other thread")) == ["0", "1", "2"]
        saver.messages("other", channel="notes").append(AIMessage("changed", id="m2"))
        assert texts(saver.messages("other", channel="notes")) == ["0", "1", "changed"]
        assert texts(saver.messages(config("other", "child:1"))) == ["0", "1", "2"]
        assert not_found(saver) == []


def test_a_message_that_was_removed_is_added_again(kind: Kind, database: str) -> None:
    with kind.ours.from_conn_string(database) as saver:
        view = saver.messages("thread")
        view.append(chat(5))
        for turn in range(3):
            view.append(RemoveMessage("m2"))
            view.append(AIMessage(f"again {turn}", id="m2"))
            view.append(AIMessage(f"changed {turn}", id="m2"))
        assert texts(view) == ["0", "1", "3", "4", "changed 2"]
        saver.prune(["thread"])
        assert len(named_rows(database, "dual_items")) == tagged(database) == 5
        view.append(AIMessage("after it was pruned", id="m2"))
        assert texts(view) == ["0", "1", "3", "4", "after it was pruned"]


@pytest.fixture
def one_tag_for_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (tags, items, appending):
        monkeypatch.setattr(module, "hash_of_id", lambda message_id: 7)
    monkeypatch.setattr(tags, "crc32", lambda data: 3)
    tags.place_of.cache_clear()
    yield
    tags.place_of.cache_clear()


@pytest.mark.usefixtures("one_tag_for_all")
def test_ids_that_share_a_tag(kind: Kind, database: str) -> None:
    with kind.ours.from_conn_string(database) as saver:
        view = saver.messages("thread")
        view.append(chat(20))
        view.append([AIMessage("changed", id="m7"), AIMessage("new", id="n"), RemoveMessage("m3")])
        wanted = [str(number) for number in range(20) if number != 3]
        wanted[6] = "changed"
        assert texts(view) == [*wanted, "new"]
        saver.messages("other thread").append(chat(20))
        view.append(AIMessage("again", id="m7"))
        assert texts(view)[6] == "again"
        assert texts(saver.messages("other thread")) == list(map(str, range(20)))
        assert {row["tag"] for row in named_rows(database, "dual_items")} == {7}


@pytest.mark.parametrize("name", SERDES)
def test_every_serializer(name: str, kind: Kind, database: str) -> None:
    odd = [HumanMessage("é", id="id é 🙂"), HumanMessage("quoted", id='"\n\\'), HumanMessage("empty", id="")]
    with kind.ours.from_conn_string(database, serde=SERDES[name]()) as saver:
        made = checkpoint({"messages": [*chat(6), *odd], "one": HumanMessage(TEXT, id="alone"), "list": [TEXT, {}]})
        saver.put(config(), made, metadata(), made["channel_versions"])
        view = saver.messages("thread")
        view.append([AIMessage("changed", id=one.id) for one in (*odd, chat(2)[1])])
        assert texts(view) == ["0", "changed", "2", "3", "4", "5", *["changed"] * 3]
        assert tagged(database) == 6 + 3 + 1 + 4
        assert not_found(saver) == []


# --- Who stores items ---


def test_copies_keep_their_tags(kind: Kind, database: str) -> None:
    with kind.ours.from_conn_string(database) as saver:
        saver.messages("thread").append(chat(50))
        saver.copy_thread("thread", "copy")
        saver.messages("copy").append(AIMessage("changed", id="m20"))
        assert texts(saver.messages("copy"))[20] == "changed"
        assert texts(saver.messages("thread")) == list(map(str, range(50)))
        assert (tagged(database), tagged(database, "copy")) == (50, 51)


@pytest.mark.parametrize("recode", [False, True])
def test_a_transfer_brings_them(recode: bool, kind: Kind, database: str, tmp_path: Any) -> None:
    with kind.ours.from_conn_string(database) as source, SqliteSaver(str(tmp_path / "target.db")) as target:
        source.messages("thread").append(chat(50))
        report = transfer(source, target, recode=recode, verify=True)
        assert (report.verified, report.differences) == (1, [])
        target.messages("thread").append(AIMessage("changed", id="m20"))
        assert texts(target.messages("thread"))[20] == "changed"
        assert target.messages("thread").count() == 50
        assert tagged(str(tmp_path / "target.db")) == 51
        assert not_found(target) == []


def test_moved_threads_have_them(kind: Kind, database: str) -> None:
    load(LATEST, database)
    with kind.ours.from_conn_string(database, serde=serde()) as saver:
        migrate(saver, drop=True)
        found = named_rows(database, "dual_items")
        assert sum(row["tag"] is not None for row in found) > 5
        assert not_found(saver) == []


async def test_the_first_put_onto_an_official_checkpoint(kind: Kind, database: str) -> None:
    async with opened(kind.official, database) as official:
        made = checkpoint({"messages": chat(5)})
        official.put(config(), made, metadata(), made["channel_versions"])
    with kind.ours.from_conn_string(database) as saver:
        saver.messages("thread").append(AIMessage("changed", id="m2"))
        assert texts(saver.messages("thread")) == ["0", "1", "changed", "3", "4"]
        assert tagged(database) == 5
        assert not_found(saver) == []


async def test_many_puts_at_once(kind: Kind, database: str) -> None:
    """Several additions in one statement have an array of tags, some of which there are not."""
    [looping] = [one for one in KINDS if one.backend == kind.backend and one.face == "async"][:1]
    async with opened(looping.ours, database) as saver:
        values = {"messages": chat(4), "files": {f"file {number}": TEXT for number in range(20)}}
        await gather(*(put(saver, config(f"thread {number}"), values) for number in range(12)))
        found = named_rows(database, "dual_items")
        assert {row["tag"] is not None for row in found if row["channel"] == "messages"} == {True}
        assert {row["tag"] for row in found if row["channel"] == "files"} == {None}
        assert not_found(saver) == []


# --- The doctor ---


def test_the_doctor_finds_and_mends_tags(kind: Kind, database: str) -> None:
    with kind.ours.from_conn_string(database) as saver:
        view = saver.messages("thread")
        view.append(chat(8))
        seqs = sorted(row["seq"] for row in named_rows(database, "dual_items"))
        rows(database, f"UPDATE dual_items SET tag = NULL WHERE seq <= {seqs[3]}")
        rows(database, f"UPDATE dual_items SET tag = 5 WHERE seq = {seqs[6]}")
        before = named_rows(database, "dual_items")
        found = not_found(saver)
        assert [(one.thread_id, one.channel, one.rows, one.is_harmless) for one in found] == [
            ("thread", "messages", 5, True)
        ]
        assert finish(doctor.examine(saver._blocking)).findings == [], "without a serializer no message is read"
        known = migrations_of(f"langgraph_checkpoint_dual.{kind.backend}")
        assert finish(mending.repair(saver._blocking, found, known)) == []
        assert named_rows(database, "dual_items") == before
        assert finish(mending.repair(saver._blocking, found, known, store=saver._store)) == found
        assert not_found(saver) == []
        view.append([AIMessage("changed", id="m1"), AIMessage("changed", id="m6")])
        assert texts(view) == ["0", "changed", "2", "3", "4", "5", "changed", "7"]


def test_without_the_key_nothing_is_said_of_tags(kind: Kind, database: str) -> None:
    encrypted = EncryptedSerializer.from_pycryptodome_aes(serde=Serializer(), key=b"0123456789abcdef")
    with kind.ours.from_conn_string(database, serde=encrypted) as saver:
        saver.messages("thread").append(chat(4))
        assert not_found(saver) == []
    with kind.ours.from_conn_string(database) as saver:
        rows(database, "UPDATE dual_items SET tag = 5")
        assert not_found(saver) == []


def test_an_index_that_is_missing_is_made_again(kind: Kind, database: str) -> None:
    with kind.ours.from_conn_string(database) as saver:
        view = saver.messages("thread")
        view.append(chat(4))
        rows(database, "DROP INDEX dual_items_tagged")
        view.append(AIMessage("changed", id="m1"))
        assert texts(view) == ["0", "changed", "2", "3"]
        [found] = finish(doctor.examine(saver._blocking)).findings
        assert (found.kind, found.channel) == ("missing index", "items_tagged")
        known = migrations_of(f"langgraph_checkpoint_dual.{kind.backend}")
        finish(mending.repair(saver._blocking, [found], known))
        assert finish(doctor.examine(saver._blocking)).findings == []
