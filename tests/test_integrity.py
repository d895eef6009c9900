"""Rows that somebody has changed who has not the key of a saver with `integrity_key=` are refused."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import zlib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import validate
from langgraph.checkpoint.conformance.initializer import RegisteredCheckpointer

from langgraph_checkpoint_dual import CheckpointerConfig, Retention, Serializer, open_saver
from langgraph_checkpoint_dual.core import resealing, values
from langgraph_checkpoint_dual.core.checkpoints import restored, sealed_body, slots_of
from langgraph_checkpoint_dual.core.inspection.doctor import examine
from langgraph_checkpoint_dual.core.inspection.mending import repair
from langgraph_checkpoint_dual.core.integrity import OPENED, Keys, has_mac
from langgraph_checkpoint_dual.core.items import Inline, pack_slots
from langgraph_checkpoint_dual.core.queries import Queries
from langgraph_checkpoint_dual.core.rows import CheckpointRow
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError
from langgraph_checkpoint_dual.integrity import areseal, reseal
from langgraph_checkpoint_dual.migrate import amigrate, migrate
from langgraph_checkpoint_dual.transfer import atransfer
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.compare import fingerprint
from tests.support.graphs import SCENARIOS
from tests.support.runs import Session
from tests.support.savers import KINDS, Kind, faced, opened, settle
from tests.support.tables import is_postgres, named_rows, rows

KEY, OTHER = b"a key for the MACs of all rows..", b"a key of somebody else, as long."
CHAT = [HumanMessage(f"message {n}: long enough that each is an item of its own", id=str(n)) for n in range(3)]
VALUES = {"messages": CHAT, "text": "short"}
MACS = {"dual_checkpoints": ("checkpoint", "slots"), "dual_items": ("data",), "dual_writes": ("data",)}


async def fill(saver: Any, thread_id: str = "thread") -> Any:
    """Two checkpoints, of which the second has a pending write; its config."""
    first = await put(saver, config(thread_id), VALUES, owner="alice")
    second = await put(saver, first, {**VALUES, "text": "later"}, owner="alice")
    await saver.aput_writes(second, [("text", "written")], "task")
    return second


def change(database: str, table: str, row: dict[str, Any], **cells: Any) -> None:
    """Change a row, past the package."""
    mark = "%s" if is_postgres(database) else "?"
    keys = [name for name in ("thread_id", "checkpoint_id", "channel", "seq", "task_id") if name in row]
    sets = ", ".join(f"{name} = {mark}" for name in cells)
    where = " AND ".join(f"{name} = {mark}" for name in keys)
    text: Any = f"UPDATE {table} SET {sets} WHERE {where}"
    rows(database, text, (*cells.values(), *(row[name] for name in keys)))


def known(found: Any) -> Any:
    """What a checkpoint says; databases lay out the JSON of metadata as they like."""
    return fingerprint([found.checkpoint, found.pending_writes]), found.metadata, found.parent_config


def stripped(sealed: Any) -> bytes:
    """The bytes before a MAC."""
    assert has_mac(bytes(sealed))
    return bytes(sealed)[:-20]


class Forger:
    """Changes what is at rest as this package stores it; all checksums are right, as far as they need no key."""

    def __init__(self, database: str, at: Any) -> None:
        self.database, self.thread_id = database, at["configurable"]["thread_id"]
        self.id = at["configurable"]["checkpoint_id"]
        self.row = next(row for row in self._rows("dual_checkpoints") if row["checkpoint_id"] == self.id)

    def item(self) -> None:
        row = self._rows("dual_items")[0]
        typed = values.encode(Serializer(), HumanMessage("forged", id="1"))
        checksum = values.item_checksum(typed, values.place("item", "messages"), row["seq"], row["added_at"])
        change(self.database, "dual_items", row, data=typed, checksum=checksum)

    def value(self) -> None:
        slots = slots_of(self.id, stripped(self.row["slots"]))
        slots["text"] = Inline(values.encode(Serializer(), "forged"))
        self._set(slots=values.seal(pack_slots(slots), values.place("slots", self.id)))

    def value_with_its_old_mac(self) -> None:
        slots = slots_of(self.id, stripped(self.row["slots"]))
        slots["text"] = Inline(values.encode(Serializer(), "forged"))
        sealed = values.seal(pack_slots(slots), values.place("slots", self.id))
        self._set(slots=sealed + bytes(self.row["slots"])[-20:])

    def metadata(self) -> None:
        text = json.dumps({**self._metadata(), "owner": "mallory"}, separators=(",", ":"), sort_keys=True)
        self._set(metadata=text)

    def metadata_and_body(self) -> None:
        text = json.dumps({**self._metadata(), "owner": "mallory"}, separators=(",", ":"), sort_keys=True)
        self._set(metadata=text, checkpoint=self._body(zlib.crc32(text.encode())))

    def parent(self) -> None:
        self._set(parent_checkpoint_id=None)

    def parent_and_body(self) -> None:
        self.row["parent_checkpoint_id"] = None
        self._set(parent_checkpoint_id=None, checkpoint=self._body(0))

    def version(self) -> None:
        self._set(checkpoint=self._body(0, {"text": f"{99:032}.{0.5:016}"}))

    def write(self) -> None:
        [row] = self._rows("dual_writes")
        place = values.place("write", self.id, row["task_id"], row["task_path"], str(row["idx"]), row["channel"])
        data = values.seal(values.encode(Serializer(), "forged"), place)
        change(self.database, "dual_writes", row, data=data)

    def write_of_another_task(self) -> None:
        [row] = self._rows("dual_writes")
        change(self.database, "dual_writes", row, task_path="elsewhere")

    def slots_of_its_parent(self) -> None:
        rows_of_thread = self._rows("dual_checkpoints")
        parent = next(row for row in rows_of_thread if row["checkpoint_id"] == self.row["parent_checkpoint_id"])
        self._set(slots=bytes(parent["slots"]))

    def _rows(self, table: str) -> list[dict[str, Any]]:
        return [row for row in named_rows(self.database, table) if row["thread_id"] == self.thread_id]

    def _body(self, checksum: int, versions: Any = None) -> bytes:
        stored = Serializer().loads_typed(values.split(stripped(self.row["checkpoint"])[4:]))
        body = restored(stored[:-1])
        body["channel_versions"] = {**body["channel_versions"], **(versions or {})}
        parent_id = self.row["parent_checkpoint_id"]
        return sealed_body(Serializer(), body, self.id, parent_id, checksum or stored[-1])

    def _metadata(self) -> Any:
        found = self.row["metadata"]
        return found if isinstance(found, dict) else json.loads(found)

    def _set(self, **cells: Any) -> None:
        change(self.database, "dual_checkpoints", self.row, **cells)


EDITS = [name for name in vars(Forger) if not name.startswith("_")]


async def test_what_is_changed_at_rest_is_refused(kind: Kind, database: str) -> None:
    """Each edit is made in a thread of its own, and every way to read it refuses it."""
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        ids = {edit: await fill(saver, edit) for edit in EDITS}
        assert len(await listed(saver, None)) == 2 * len(EDITS)
    for edit, at in ids.items():
        getattr(Forger(database, at), edit)()
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        db = saver._sealing(saver._looping if kind.face == "async" else saver._blocking)
        for edit, at in ids.items():
            with pytest.raises(DecodeError, match=r"MAC|metadata is damaged") as caught:
                pytest.fail(f"{edit}: {await saver.aget_tuple(at)}")
            assert caught.value.where["checkpoint_id"] == at["configurable"]["checkpoint_id"], edit
            damaged: list[Any] = []
            await listed(saver, config(edit), on_damaged=damaged.append)
            assert damaged, edit
        assert {finding.thread_id for finding in (await examine(db)).findings} == set(EDITS)


async def test_another_key_no_key_and_rows_without_macs(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        at = await fill(saver)
    async with opened(kind.ours, database, integrity_key=OTHER) as saver:
        with pytest.raises(DecodeError, match="another integrity_key=") as caught:
            await saver.aget_tuple(at)
        assert KEY.decode() not in str(caught.value) and OTHER.decode() not in repr(saver)
    async with opened(kind.ours, database) as saver:
        with pytest.raises(DecodeError, match="stored with integrity_key="):
            await saver.aget_tuple(at)
        plain = await fill(saver, "plain")
        with pytest.raises(ConfigError, match="LANGGRAPH_INTEGRITY_KEY"):
            await examine(saver._looping if kind.face == "async" else saver._blocking, thread_id="thread")
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        with pytest.raises(DecodeError, match="have no MAC: they were stored without integrity_key="):
            await saver.aget_tuple(plain)


async def test_everything_works_with_a_key(kind: Kind, database: str, tmp_path: Any) -> None:
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        at = await fill(saver)
        before = known(await saver.aget_tuple(at))
        await saver.acopy_thread("thread", "copy")
        assert (await saver.aget_tuple(config("copy"))).checkpoint["channel_values"]["messages"] == CHAT
        third = await put(saver, at, {**VALUES, "text": "third"})
        await saver.aprune(["copy"])
        assert len(await listed(saver, config("copy"))) == 1
        for target_key in (KEY, OTHER, None):
            name = "none" if target_key is None else target_key[:9].decode()
            with open_saver(tmp_path / f"{name}.db", integrity_key=target_key) as target:
                assert await atransfer(saver, target, verify=True)
                assert known(await target.aget_tuple(at)) == before
                assert len(await listed(target, config())) == 3
        with open_saver(tmp_path / "latest.db", integrity_key=KEY) as target:
            assert await atransfer(saver, target, latest_only=True, verify=True)
            assert (await target.aget_tuple(config())).config == third
        found = await examine(saver._sealing(saver._looping if kind.face == "async" else saver._blocking))
        assert found.findings == []
        await saver.adelete_thread("thread")
        assert await listed(saver, config()) == []


async def test_official_rows_have_no_mac_and_migrate_gives_them_one(kind: Kind, database: str) -> None:
    official: BaseCheckpointSaver[Any]
    async with opened(kind.official, database) as official:
        made = checkpoint(VALUES)
        await settle(faced(official, kind.face).aput(config(), made, metadata(), made["channel_versions"]))
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        assert await saver.aget_tuple(config()) is None
        if kind.face == "async":
            await amigrate(saver, verify=True)
        else:
            migrate(saver, verify=True)
        assert (await saver.aget_tuple(config())).checkpoint["channel_values"] == VALUES


async def test_a_conversation_is_paged_searched_and_continued(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, integrity_key=KEY, search=True) as saver:
        talk = saver.messages("thread")
        await talk.aappend([*CHAT])
        await talk.aappend([HumanMessage("one more word", id="more")])
        assert [one.message.id for one in await talk.apage()][-1] == "more"
        assert (await talk.acount()) == 4


# --- Where a row stands ---


def test_no_two_rows_are_hashed_alike() -> None:
    """Bytes that users choose, at the end of a row, do not pass for the end of what stands before them."""
    keys, text = Keys([KEY]), '{"a":1}'
    slots = b"slots\0" + b"1\0\xff"
    sealed = keys.seal_checkpoint(CheckpointRow("thread", "", "id", None, None, b"body", slots, text, None))
    forged = sealed._replace(metadata=f"{text}\0{len(slots)}\0slots", slots=b"not sealed")
    assert keys.open_checkpoint(sealed).checkpoint == b"body"
    assert keys.open_checkpoint(forged).checkpoint == values.MISFIT


async def test_rows_that_were_moved_whole_are_refused(kind: Kind, database: str) -> None:
    """All of a thread but one table's rows is what it was; these come from elsewhere, with the same ids."""
    genuine: dict[str, Any] = {}
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        for number, (table, elsewhere) in enumerate(product(MACS, ("other", "child:1"))):
            thread_id = f"thread {number}"
            there = (thread_id, elsewhere) if elsewhere == "child:1" else (f"{elsewhere} {number}", "")
            first = checkpoint({**VALUES, "text": "said"})
            for at, text in ((config(thread_id), "said"), (config(*there), "forged")):
                made = {**first, "channel_values": {**VALUES, "text": text}}
                stored = await saver.aput(at, made, metadata(), made["channel_versions"])
                await saver.aput_writes(stored, [("text", text)], "task")
            genuine[thread_id] = config(thread_id, checkpoint_id=first["id"])
            assert await saver.aget_tuple(genuine[thread_id]) is not None
            rows(database, f"DELETE FROM {table} WHERE thread_id = '{thread_id}' AND checkpoint_ns = ''")
            rows(
                database,
                f"UPDATE {table} SET thread_id = '{thread_id}', checkpoint_ns = '' "
                f"WHERE thread_id = '{there[0]}' AND checkpoint_ns = '{there[1]}'",
            )
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        for thread_id, at in genuine.items():
            with pytest.raises(DecodeError, match="MAC does not fit"):
                pytest.fail(f"{thread_id}: {await saver.aget_tuple(at)}")


async def test_a_thread_under_another_name_is_refused(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        await fill(saver)
    for table in MACS:
        rows(database, f"UPDATE {table} SET thread_id = 'renamed'")
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        with pytest.raises(DecodeError, match="MAC does not fit"):
            await saver.aget_tuple(config("renamed"))


# --- Every way in ---


async def all_sealed(saver: Any, kind: Kind, database: str) -> int:
    """Check that all rows have MACs, under the newest key and for the place where they are; how many they are."""
    stored = [
        (row[column], table) for table, names in MACS.items() for row in named_rows(database, table) for column in names
    ]
    assert [table for data, table in stored if not has_mac(bytes(data))] == []
    done = await (areseal(saver) if kind.face == "async" else settle(reseal(saver)))
    assert (done.changed, done.refused) == (0, 0)
    assert done.rows == sum(len(named_rows(database, table)) for table in MACS)
    return done.rows


async def _puts(saver: Any, subject: Any) -> None:
    await fill(subject)
    at = await put(subject, values={"dict": {f"key {n}": "an entry that is an item " * 3 for n in range(20)}})
    await put(subject, at, {"large": b"x" * 2_000_000}, score=float("nan"), run_id="run")


async def _forks_and_subgraphs(saver: Any, subject: Any) -> None:
    first = await put(subject, config("forked"), VALUES)
    for text in ("one", "two"):
        await put(subject, first, {**VALUES, "text": text})
    await put(subject, config("forked", "child:1"), VALUES)


async def _the_same_again(saver: Any, subject: Any) -> None:
    made = checkpoint(VALUES)
    for text in ("one", "one", "two"):  # repeated, then put in its place
        again = {**made, "channel_values": {**VALUES, "text": text}}
        await subject.aput(config("again"), again, metadata(), made["channel_versions"])


async def _writes(saver: Any, subject: Any) -> None:
    at = await put(subject, config("writes"), VALUES)
    for text in ("one", "two"):
        await subject.aput_writes(at, [("text", text), ("messages", CHAT)], "task", "path")
        await subject.aput_writes(at, [("__error__", text), ("__interrupt__", text)], "task")
    await subject.aput_writes(config("writes", checkpoint_id=str(uuid6())), [("text", "early")], "task")


async def _appends(saver: Any, subject: Any) -> None:
    talk = saver.messages("talk")
    await talk.aappend([*CHAT])
    talk.append([HumanMessage("another text for the message of this id", id="1")])
    assert [one.message.id for one in talk.page()] == ["0", "1", "2"]


async def _copies(saver: Any, subject: Any) -> None:
    await subject.acopy_thread("thread", "copy")
    await subject.acopy_thread("copy", "copy of the copy")
    assert (
        known(await subject.aget_tuple(config("copy of the copy")))[0] == known(await subject.aget_tuple(config()))[0]
    )
    await put(subject, config("copy"), VALUES)


async def _removals(saver: Any, subject: Any) -> None:
    for name in ("pruned", "retained", "without"):
        await subject.acopy_thread("thread", name)
    await subject.aprune(["pruned"])
    await saver.aretain(Retention(keep_last=1), thread_ids=["retained"])
    await subject.adelete_for_runs(["run"])
    await subject.adelete_thread("without")


async def _the_registry(saver: Any, subject: Any) -> None:
    await saver.threads.aregister("registered", title="A title", metadata={"a": 1})
    await saver.threads.aupdate("thread", user_id="ann")


async def _the_doctor(saver: Any, subject: Any) -> None:
    old = config(checkpoint_id="1ef0a1b2-c3d4-6e5f-8000-0123456789ab")
    await subject.aput_writes(old, [("text", "orphaned")], "task")
    stored: list[Any] = []
    db = saver._sealing(saver._looping)
    found = await examine(db, serde=saver.serde)
    assert [one.kind for one in found.findings if one.repair] == ["orphaned writes"]
    assert await repair(db, found.findings, (), lambda table, columns, gone: stored.extend(gone), saver._store)
    assert [has_mac(bytes(row[-1])) for row in stored] == [True]  # as it was, to be put back
    assert [one.kind for one in (await examine(db, serde=saver.serde)).findings if one.repair] == []


async def _at_once(saver: Any, subject: Any) -> None:
    """Group commits: some callers store what others bring."""
    await asyncio.gather(*(fill(saver, f"at once {number}") for number in range(8)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: saver.put(*_arguments(f"thread {number}")), range(12)))


def _arguments(thread_id: str) -> Any:
    made = checkpoint(VALUES)
    return config(thread_id), made, metadata(), made["channel_versions"]


_WAYS_IN = (
    (_puts, _forks_and_subgraphs, _the_same_again, _writes, _appends, _copies),
    (_removals, _the_registry, _the_doctor, _at_once),  # these take away rows of those before
)


async def test_every_row_has_its_mac(kind: Kind, database: str) -> None:
    search = kind in (KINDS[1], KINDS[2])  # on each backend once
    async with opened(kind.ours, database, integrity_key=KEY, search=search) as saver:
        subject = faced(saver, kind.face)
        for several in _WAYS_IN:
            for store in several:
                await store(saver, subject)
            assert await all_sealed(saver, kind, database)
        if search:
            assert len((await saver.asearch("message", thread_id="copy")).hits) == len(CHAT)
            assert await saver.arebuild_search(clear=True) > 0
        assert (await examine(saver._sealing(saver._looping), serde=saver.serde)).findings == []
    async with opened(kind.ours, database, integrity_key=KEY, search=search) as saver:
        assert len(await listed(saver, None, on_damaged=pytest.fail)) > 40


_PLAYED = [(KINDS[1], name) for name in SCENARIOS] + [
    (KINDS[3], name) for name in ("conversation", "delta_channels", "subgraphs", "time_travel_and_forks")
]


@pytest.mark.parametrize(("kind", "name"), _PLAYED, ids=str)
async def test_what_graphs_store_has_macs(kind: Kind, name: str, database: str) -> None:
    history = "latest" if is_postgres(database) else "all"
    build, play = SCENARIOS[name]
    async with opened(kind.ours, database, history=history, redact=["secret"], integrity_key=KEY) as saver:
        with suppress(IndexError if history == "latest" else ()):  # a scenario that goes back finds no history there
            await play(Session(saver, "async", build, "sync"))
        assert await all_sealed(saver, kind, database)
        assert (await examine(saver._sealing(saver._looping), serde=saver.serde)).findings == []


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=str)
async def test_conformance_with_a_key(kind: Kind, database: str) -> None:
    async def make() -> AsyncGenerator[Any, None]:
        async with opened(kind.ours, database, integrity_key=KEY) as saver:
            yield faced(saver, kind.face)

    report = await validate(RegisteredCheckpointer(name=str(kind), factory=make))
    assert [text for result in report.results.values() for text in result.failures] == []
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        await all_sealed(saver, kind, database)


_COLUMNS = re.compile(r"(?<![{\w])(checkpoint|slots|data|metadata_exact|\*)(?![}\w])(?! AS )")
_NOT_BROUGHT = frozenset(
    # what stores rows, or copies them
    "new_checkpoint insert_checkpoint insert_item insert_write replace_write load_items move_write hang copy_thread "
    "reseal_items put_rows put_one_with_items its_row its_writes put put_one put_writes put_writes_of_one "
    "replace_writes_of_one replace_writes all_writes "
    # what counts rows or their bytes, or brings other columns of them
    "size_of_checkpoint size_threads size_channels extent_of_thread size_of_checkpoints size_of_items item_sizes "
    "doctor_items doctor_writes doctor_orphans doctor_counted "
    # parts of others
    "from_ranges from_keys piece "
    # parts that are in other queries
    "let_in allowed stands "
    # files and indexes
    "size_database items_tagged "
    # what drivers ask, below
    "slots_of".split(),
)


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_every_query_that_brings_what_has_macs_is_opened(backend: str) -> None:
    """A query that is not: `core/integrity.py` must open what it brings, or else it belongs above."""
    queries = Queries(f"langgraph_checkpoint_dual.{backend}", {})
    names = {name for name in queries._named if "official" not in name and "threads" not in name}
    bring = {name for name in names if _COLUMNS.search(re.sub(r"count\(\*\)", "", queries._named[name]))}
    assert bring - _NOT_BROUGHT - OPENED == {"narrow writes"}  # no more than checksums, to compare
    assert names | {"rows_of_threads"} >= OPENED


# --- Keys are changed, and begun with ---


async def resealed(saver: Any, kind: Kind, **options: Any) -> Any:
    return await areseal(saver, **options) if kind.face == "async" else reseal(saver, **options)


async def test_keys_are_changed(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, integrity_key=OTHER) as saver:
        at = await fill(saver)
        before = known(await saver.aget_tuple(at))
    async with (
        opened(kind.ours, database, integrity_key=[OTHER, KEY]) as old,  # all learn first to read the new key
        opened(kind.ours, database, integrity_key=[KEY, OTHER]) as saver,
    ):
        assert known(await saver.aget_tuple(at)) == before
        later = await put(saver, at, {**VALUES, "text": "later"})
        again = await put(old, later, {**VALUES, "text": "later still"})
        assert (await saver.aget_tuple(again)).checkpoint["channel_values"]["text"] == "later still"
        assert (await old.aget_tuple(later)).checkpoint["channel_values"]["text"] == "later"
        await saver.messages("thread").aappend([HumanMessage("appended", id="new")])
        done = await resealed(saver, kind)
        assert done.refused == 0
        assert done.changed > 5
        await all_sealed(saver, kind, database)
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        assert known(await saver.aget_tuple(at)) == before
        assert (await examine(saver._sealing(saver._looping))).findings == []


class Counting:
    """A database that counts how often it is read."""

    def __init__(self, db: Any) -> None:
        self._db, self.reads = db, 0

    def __getattr__(self, name: str) -> Any:
        self.reads += name == "read"
        return getattr(self._db, name)


def test_only_a_put_that_uses_stored_items_again_reads_while_there_are_several_keys(sqlite_path: str) -> None:
    with open_saver(sqlite_path, integrity_key=[KEY, OTHER]) as saver:
        db = Counting(saver._blocking)
        sealing, store = saver._sealing(db), saver._store
        at, reads = config(), []
        for text in ("first", "second"):
            made = checkpoint({**VALUES, "text": text})
            at = finish(store.put(sealing, at, made, metadata()))
            finish(store.put_writes(sealing, at, [("text", "written")], "task", ""))
            reads.append(db.reads)
        assert reads == [0, 1]
        found = saver.get_tuple(at)
        assert found is not None and found.checkpoint["channel_values"] == {**VALUES, "text": "second"}


async def test_a_database_that_was_begun_without_a_key(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        at = await fill(saver)
        exact = await put(saver, at, VALUES, score=float("inf"))
        await fill(saver, "damaged")
        before = [known(await saver.aget_tuple(one)) for one in (at, exact)]
        with pytest.raises(ConfigError, match="no key"):
            await resealed(saver, kind)
    rows(database, "UPDATE dual_items SET checksum = checksum + 1 WHERE thread_id = 'damaged' AND checkpoint_ns = ''")
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        refused = await resealed(saver, kind)
        assert (refused.changed, refused.threads, refused.refused) == (0, 2, refused.rows)
        with pytest.raises(DecodeError, match="no MAC"):
            await saver.aget_tuple(at)
        seen: list[Any] = []
        done = await resealed(saver, kind, unsealed="accept", on_progress=seen.append)
        assert (done.changed, done.refused) == (refused.rows - len(CHAT), len(CHAT))
        assert seen[-1] == done
        assert [known(await saver.aget_tuple(one)) for one in (at, exact)] == before
        with pytest.raises(DecodeError, match="no MAC"):
            await saver.aget_tuple(config("damaged"))
        assert (await resealed(saver, kind)).changed == 0
        with pytest.raises(ConfigError, match="unsealed must be one of"):
            await resealed(saver, kind, unsealed="perhaps")


async def test_long_threads_are_resealed_in_parts(kind: Kind, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_THREADS", 2), ("_ROWS", 2), ("_NARROW_ROWS", 3), ("_BATCH", 300), ("_TRANSACTION", 500)):
        monkeypatch.setattr(resealing, name, size)
    async with opened(kind.ours, database, integrity_key=OTHER) as saver:
        for number in range(5):
            at = await fill(saver, f"thread {number}")
            for _ in range(5):
                at = await put(saver, at, {**VALUES, "text": "later"})
        await saver.acopy_thread("thread 0", "copy")
        total = await all_sealed(saver, kind, database)
    async with opened(kind.ours, database, integrity_key=[KEY, OTHER]) as saver:
        assert (await resealed(saver, kind)).changed == total
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        assert await all_sealed(saver, kind, database) == total


async def test_what_is_damaged_stays_so_in_copies(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        at = await fill(saver)
        Forger(database, at).item()
        await saver.acopy_thread("thread", "copy")
        done = await resealed(saver, kind)
        assert (done.changed, done.refused) == (0, 2)
    async with opened(kind.ours, database, integrity_key=KEY) as saver:
        for name in ("thread", "copy"):
            with pytest.raises(DecodeError, match="MAC"):
                await saver.aget_tuple(config(name))


@pytest.mark.parametrize(("table", "column"), [(table, name) for table, names in MACS.items() for name in names])
def test_cells_of_another_type_are_refused_like_others(sqlite_path: str, table: str, column: str) -> None:
    with open_saver(sqlite_path, integrity_key=OTHER) as saver:
        asyncio.run(fill(saver))
        asyncio.run(fill(saver, "untouched"))
    rows(sqlite_path, f"UPDATE {table} SET {column} = 7 WHERE thread_id = 'thread'")
    with open_saver(sqlite_path, integrity_key=[KEY, OTHER]) as saver:
        saver.copy_thread("thread", "copy")
        done = reseal(saver, unsealed="accept")
        damaged = len(rows(sqlite_path, f"SELECT 1 FROM {table} WHERE {column} = 7"))
        assert done.refused == damaged > 1
        for thread_id in ("thread", "copy"):
            with pytest.raises(DecodeError, match="MAC"):
                saver.get_tuple(config(thread_id))
    with open_saver(sqlite_path, integrity_key=KEY) as saver:
        assert saver.get_tuple(config("untouched")) is not None


async def test_a_key_from_settings(sqlite_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [base64.b64encode(key).decode() for key in (KEY, OTHER)]
    monkeypatch.setenv("CHECKPOINTER_INTEGRITY_KEY", " ".join(texts))
    settings = CheckpointerConfig(url=sqlite_path)
    async with settings.acreate() as saver:
        at = await fill(saver)
    with open_saver(sqlite_path, integrity_key=KEY) as saver:
        assert await saver.aget_tuple(at) is not None
    shown = repr(settings) + str(settings.model_dump()) + settings.model_dump_json()
    for wrong in (f"{texts[0][:-4]}!", "c2hvcnQ=", ""):
        with pytest.raises(ConfigError, match="integrity_key") as caught:
            CheckpointerConfig(url=sqlite_path, integrity_key=wrong)
        shown += str(caught.value)
    assert [text for text in texts if text[:16] in shown] == []


def test_no_key_is_shown() -> None:
    with open_saver(":memory:", integrity_key=[KEY, OTHER]) as saver:
        shown = f"{saver!r} {vars(saver)!r} {saver._keys!r} {saver._whole_blocking!r} {vars(saver._keys)!r}"
    for key in (KEY, OTHER):
        assert key.decode() not in shown
        assert base64.b64encode(key).decode() not in shown
        assert key.hex() not in shown


def test_a_key_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("a text of more than 16 characters", b"short", b"x" * 65, 7, [], [b"short"], ["a text of 16 chars"]):
        with pytest.raises(ConfigError, match="16 to 64 random bytes") as caught:
            open_saver(":memory:", integrity_key=wrong)
        assert str(wrong) not in str(caught.value)
    from langgraph_checkpoint_dual.encryption import integrity_keys_from_env

    monkeypatch.setenv("LANGGRAPH_INTEGRITY_KEY", base64.b64encode(KEY).decode())
    assert integrity_keys_from_env() == [KEY]
    monkeypatch.setenv("LANGGRAPH_INTEGRITY_KEY", "no base64!")
    with pytest.raises(ConfigError) as caught:
        integrity_keys_from_env()
    assert "no base64!" not in str(caught.value)
