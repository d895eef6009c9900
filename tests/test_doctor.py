"""The doctor finds every damage that is planted, repairs only what nobody can miss, and finds none in health."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from langgraph_checkpoint_dual.core.inspection import doctor, mending, surveying, tables
from langgraph_checkpoint_dual.core.migrations import migrations_of
from langgraph_checkpoint_dual.core.tx import finish
from tests.support.checkpoints import checkpoint, config, metadata, put
from tests.support.graphs import SCENARIOS
from tests.support.runs import Session
from tests.support.savers import KINDS, Kind, opened
from tests.support.tables import contents, is_postgres, rows


@pytest.fixture(params=[KINDS[0], KINDS[3]], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Both databases and both faces; the classes add nothing of their own."""
    found: Kind = request.param
    return found


OLD = "1ef0a1b2-c3d4-6e5f-8000-0123456789ab"
"""A checkpoint's id of 2024."""
TEXT = "what is said in a message that is longer than what is stored inline"


async def chat(saver: Any, thread_id: str = "thread", turns: int = 3, ns: str = "") -> list[str]:
    """Puts a growing chat with a large dict; the ids of its checkpoints."""
    at, ids = config(thread_id, ns), []
    messages: list[Any] = []
    for turn in range(turns):
        messages = [*messages, HumanMessage(f"{TEXT} {turn}", id=f"h{turn}"), AIMessage(TEXT, id=f"a{turn}")]
        files = {f"file {number}": f"{TEXT} {number}" for number in range(20 + turn)}
        at = await put(saver, at, {"messages": messages, "files": files, "turn": turn}, step=turn)
        await saver.aput_writes(at, [("messages", [HumanMessage(TEXT)]), ("turn", turn)], f"task {turn}", "path")
        ids.append(at["configurable"]["checkpoint_id"])
    return ids


async def examined(saver: Any, kind: Kind, thread_id: str | None = None) -> doctor.Examination:
    """What the doctor finds, through the face of the class."""
    if kind.face == "async":
        return await doctor.examine(saver._looping, thread_id=thread_id)
    return finish(doctor.examine(saver._blocking, thread_id=thread_id))


async def repaired(saver: Any, kind: Kind, save: Any = lambda *rows: None) -> list[doctor.Finding]:
    """What the doctor repairs of what it finds."""
    found = (await examined(saver, kind)).findings
    known = migrations_of(f"langgraph_checkpoint_dual.{kind.backend}")
    if kind.face == "async":
        return await mending.repair(saver._looping, found, known, save)
    return finish(mending.repair(saver._blocking, found, known, save))


def kinds(found: doctor.Examination) -> list[str]:
    return sorted(finding.kind for finding in found.findings)


def flip(database: str, table: str, column: str, where: str) -> None:
    """Invert the last byte of a value."""
    if is_postgres(database):
        last = f"length({column}) - 1"
        changed = f"set_byte({column}, {last}, 255 - get_byte({column}, {last}))"
    else:
        changed = f"flip({column})"
    rows(database, f"UPDATE {table} SET {column} = {changed} WHERE {where}")


async def test_a_healthy_database_has_no_findings(saver: Any, kind: Kind) -> None:
    await chat(saver, turns=4)
    await chat(saver, "other", ns="child:1")
    found = await examined(saver, kind)
    assert found.findings == []
    assert (found.threads, found.checkpoints, found.writes) == (2, 7, 14)
    assert found.items == 8 + 23 + 6 + 22


@pytest.mark.parametrize("history", ["all", "latest"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_what_graphs_leave_is_healthy(name: str, history: str, sqlite_path: str) -> None:
    [kind] = [one for one in KINDS if one.name == "sqlite-aio"]
    build, play = SCENARIOS[name]
    async with opened(kind.ours, sqlite_path, history=history) as saver:
        with suppress(IndexError if history == "latest" else ()):  # a scenario that goes back finds no history there
            await play(Session(saver, "async", build, "sync"))
        assert (await examined(saver, kind)).findings == []


async def test_what_whole_thread_operations_leave_is_healthy(saver: Any, kind: Kind) -> None:
    for name in ("a", "b", "c"):
        await chat(saver, name)
    await saver.acopy_thread("a", "copy")
    await saver.aprune(["a", "copy"])
    await saver.adelete_thread("b")
    at = await put(saver, config("c"), {"messages": [HumanMessage(TEXT, id="new")]}, run_id="run")
    await put(saver, at, {"messages": []}, run_id="other run")
    await saver.adelete_for_runs(["run"])
    await saver.threads.aregister("empty")
    assert (await examined(saver, kind)).findings == []


async def test_the_size_of_a_page_makes_no_difference(
    saver: Any, kind: Kind, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await chat(saver, name)
        await chat(saver, name, ns="child:1")
    flip(database, "dual_items", "data", "thread_id = 'b' AND channel = 'messages' AND checkpoint_ns = ''")
    flip(database, "dual_writes", "data", "thread_id = 'a' AND idx = 1")
    whole = await examined(saver, kind)
    for module, name, size in (
        (doctor, "ROWS", 2),
        (tables, "ROWS", 2),
        (doctor, "NARROW_ROWS", 3),
        (tables, "_PAGE_BYTES", 500),
        (surveying, "_MANY_RANGES", 1),
    ):
        monkeypatch.setattr(module, name, size)
    for table, size in ((tables.Checkpoints, 2), (tables.Checked, 3)):
        monkeypatch.setattr(table, "limit", size)
    assert await examined(saver, kind) == whole
    assert len(whole.findings) == 7


async def test_a_damaged_item_names_the_checkpoints_that_it_spoils(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    flip(database, "dual_items", "data", "channel = 'files' AND seq = (SELECT max(seq) FROM dual_items)")
    flip(
        database,
        "dual_items",
        "data",
        "channel = 'messages' AND seq = (SELECT min(seq) FROM dual_items WHERE channel = 'messages')",
    )
    found = await examined(saver, kind)
    by_channel = {finding.channel: finding for finding in found.findings}
    assert {finding.kind for finding in found.findings} == {"damaged item"}
    assert by_channel["messages"].checkpoint_id == ids[-1]
    assert "3 checkpoints cannot be read whole" in by_channel["messages"].detail
    assert not any(finding.is_harmless or finding.repair for finding in found.findings)
    assert await repaired(saver, kind) == []


async def test_missing_items_are_found(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    rows(
        database,
        "DELETE FROM dual_items WHERE channel = 'messages' "
        "AND seq >= (SELECT max(seq) - 1 FROM dual_items WHERE channel = 'messages')",
    )
    [finding] = (await examined(saver, kind)).findings
    assert (finding.kind, finding.rows, finding.channel, finding.checkpoint_id) == (
        "missing items",
        2,
        "messages",
        ids[-1],
    )
    assert "1 checkpoint cannot be read whole" in finding.detail


@pytest.mark.parametrize("column", ["checkpoint", "slots", "metadata_exact", "parent_checkpoint_id"])
async def test_a_damaged_checkpoint_is_found(column: str, saver: Any, kind: Kind, database: str) -> None:
    first, second, _ = await chat(saver)
    if column == "metadata_exact":
        await put(saver, config("exact", checkpoint_id=None), {}, odd=float("nan"))
        flip(database, "dual_checkpoints", column, "thread_id = 'exact'")
    elif column == "parent_checkpoint_id":
        rows(database, f"UPDATE dual_checkpoints SET {column} = NULL WHERE checkpoint_id = '{second}'")
    else:
        flip(database, "dual_checkpoints", column, f"checkpoint_id = '{second}'")
    found = await examined(saver, kind)
    assert kinds(found) == ["damaged checkpoint"]
    assert found.findings[0].checkpoint_id != first
    assert await repaired(saver, kind) == []


async def test_exact_metadata_that_is_gone_is_found(saver: Any, kind: Kind, database: str) -> None:
    await put(saver, config("exact", checkpoint_id=None), {}, odd=float("nan"))
    assert (await examined(saver, kind)).findings == []
    rows(database, "UPDATE dual_checkpoints SET metadata_exact = NULL")
    assert kinds(await examined(saver, kind)) == ["damaged checkpoint"]


async def test_damaged_metadata_is_found(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    rows(database, "UPDATE dual_checkpoints SET metadata = '{\"step\": 7}' WHERE checkpoint_id = '" + ids[1] + "'")
    [finding] = (await examined(saver, kind)).findings
    assert (finding.kind, finding.checkpoint_id) == ("damaged checkpoint", ids[1])
    assert "metadata" in finding.detail


async def test_damaged_and_misplaced_writes_are_found(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    flip(database, "dual_writes", "data", f"checkpoint_id = '{ids[0]}' AND idx = 0")
    rows(database, f"UPDATE dual_writes SET channel = 'other' WHERE checkpoint_id = '{ids[1]}' AND idx = 1")
    found = await examined(saver, kind)
    assert [(finding.kind, finding.checkpoint_id) for finding in found.findings] == [
        ("damaged write", ids[0]),
        ("damaged write", ids[1]),
    ]


async def test_orphaned_items_are_removed_once_they_are_saved(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    before = contents(database)
    rows(database, f"DELETE FROM dual_checkpoints WHERE checkpoint_id = '{ids[-1]}'")
    rows(database, f"DELETE FROM dual_writes WHERE checkpoint_id = '{ids[-1]}'")
    found = await examined(saver, kind)
    assert kinds(found) == ["orphaned items", "orphaned items"]
    assert sum(finding.rows for finding in found.findings) == 3  # two messages and a file
    assert all(finding.is_harmless and finding.size > 50 for finding in found.findings)

    saved: list[Any] = []
    done = await repaired(
        saver, kind, lambda table, columns, gone: saved.extend(zip([table] * len(gone), gone, strict=True))
    )
    assert kinds(found) == sorted(finding.kind for finding in done)
    assert {table for table, _ in saved} == {"items"}
    after = contents(database)
    assert sorted([*after["dual_items"], *(row for _, row in saved)], key=repr) == before["dual_items"]
    assert (await examined(saver, kind)).findings == []
    assert (await saver.aget_tuple(config())).checkpoint["id"] == ids[1]


async def test_items_are_no_orphans_while_a_checkpoint_cannot_be_read(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    flip(database, "dual_checkpoints", "slots", f"checkpoint_id = '{ids[-1]}'")
    before = contents(database)
    assert kinds(await examined(saver, kind)) == ["damaged checkpoint"]
    assert await repaired(saver, kind) == []
    assert contents(database) == before


async def test_only_old_writes_without_checkpoint_are_orphans(saver: Any, kind: Kind, database: str) -> None:
    await chat(saver)
    for checkpoint_id in (OLD, str(uuid6()), "an id of its own"):
        await saver.aput_writes(config(checkpoint_id=checkpoint_id), [("turn", 1), ("messages", TEXT)], "task")
    found = await examined(saver, kind)
    assert [(finding.kind, finding.checkpoint_id, finding.rows) for finding in found.findings] == [
        ("orphaned writes", OLD, 2),
        ("orphaned writes", "an id of its own", 2),
    ]
    saved: list[Any] = []
    done = await repaired(saver, kind, lambda table, columns, gone: saved.extend(gone))
    assert [finding.checkpoint_id for finding in done] == [OLD]  # of the other nobody knows how old it is
    assert len(saved) == 2
    left = {row[0] for row in rows(database, "SELECT checkpoint_id FROM dual_writes")}
    assert OLD not in left
    assert "an id of its own" in left


async def test_a_missing_parent_is_found(saver: Any, kind: Kind, database: str) -> None:
    ids = await chat(saver)
    rows(database, f"DELETE FROM dual_checkpoints WHERE checkpoint_id = '{ids[0]}'")
    rows(database, f"DELETE FROM dual_writes WHERE checkpoint_id = '{ids[0]}'")
    [finding] = (await examined(saver, kind)).findings
    assert (finding.kind, finding.checkpoint_id, finding.repair) == ("missing parent", ids[1], None)


async def test_a_broken_delta_history_is_found(saver: Any, kind: Kind, database: str) -> None:
    at, ids = config(), []
    for step in range(5):
        values = {"log": [TEXT]} if step == 3 else {}
        at = await put(saver, at, values, step=step, counters_since_delta_snapshot={"log": [step, 1]})
        ids.append(at["configurable"]["checkpoint_id"])
    assert (await examined(saver, kind)).findings == []
    rows(database, f"DELETE FROM dual_checkpoints WHERE checkpoint_id = '{ids[0]}'")
    found = await examined(saver, kind)
    assert kinds(found) == ["broken delta history", "missing parent"]
    [broken] = [finding for finding in found.findings if finding.kind == "broken delta history"]
    assert (broken.channel, broken.checkpoint_id, broken.rows, broken.is_harmless) == ("log", ids[1], 2, False)


async def test_the_registry_is_mended(saver: Any, kind: Kind, database: str) -> None:
    at = config("lost")
    at["metadata"] = {"user_id": "ann", "title": "Rome", "tenant": "x"}
    await put(saver, at, {"turn": 1})
    await chat(saver, "late")
    known = {name: await saver.threads.aget(name) for name in ("lost", "late")}
    rows(database, "DELETE FROM dual_threads WHERE thread_id = 'lost'")
    rows(database, "UPDATE dual_threads SET updated_at = 5 WHERE thread_id = 'late'")
    found = await examined(saver, kind)
    assert [(finding.kind, finding.thread_id) for finding in found.findings] == [
        ("unlisted thread", "lost"),
        ("stale registry", "late"),
    ]
    assert len(await repaired(saver, kind)) == 2
    assert (await examined(saver, kind)).findings == []
    mended = await saver.threads.aget("lost")
    assert (mended.user_id, mended.title, mended.metadata) == ("ann", "Rome", {"tenant": "x"})
    for name in ("lost", "late"):
        then = known[name].updated_at - (await saver.threads.aget(name)).updated_at
        assert 0 <= then.total_seconds() < 60


async def test_a_missing_index_is_made_again(saver: Any, kind: Kind, database: str) -> None:
    await chat(saver)
    rows(database, "DROP INDEX dual_checkpoints_latest")
    [finding] = (await examined(saver, kind)).findings
    assert (finding.kind, finding.channel) == ("missing index", "checkpoints_latest")
    assert len(await repaired(saver, kind)) == 1
    assert (await examined(saver, kind)).findings == []


async def test_a_missing_table_does_not_stop_the_rest(saver: Any, kind: Kind, database: str) -> None:
    await chat(saver)
    flip(
        database,
        "dual_items",
        "data",
        "channel = 'messages' AND seq = (SELECT max(seq) FROM dual_items WHERE channel = 'messages')",
    )
    rows(database, "DROP TABLE dual_threads")
    found = {finding.kind for finding in (await examined(saver, kind)).findings}
    assert {"missing table", "unreadable", "damaged item"} <= found


async def test_one_thread_alone_is_looked_at(saver: Any, kind: Kind, database: str) -> None:
    await chat(saver, "a")
    await chat(saver, "b")
    flip(database, "dual_writes", "data", "idx = 0")
    found = await examined(saver, kind, "b")
    assert {finding.thread_id for finding in found.findings} == {"b"}
    assert (found.checkpoints, len(found.findings)) == (3, 3)


async def test_an_encrypted_database_is_healthy_too(kind: Kind, database: str) -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    async with opened(kind.ours, database, serde=serde) as saver:
        await chat(saver)
        assert (await examined(saver, kind)).findings == []
        flip(database, "dual_items", "data", "seq = (SELECT max(seq) FROM dual_items)")
        assert kinds(await examined(saver, kind)) == ["damaged item"]


async def test_odd_names_are_told_as_they_are(saver: Any, kind: Kind, database: str) -> None:
    odd = 'it\'s 100% "odd"\0\ud800'
    made = checkpoint({odd: [{"text": TEXT * 3}, {"text": TEXT}]})
    await saver.aput(config(odd, odd), made, metadata(), made["channel_versions"])
    rows(database, "DELETE FROM dual_items")
    [finding] = (await examined(saver, kind)).findings
    assert (finding.thread_id, finding.checkpoint_ns, finding.channel) == (odd, odd, odd)
    json.dumps(finding._asdict())


async def test_runs_that_go_on_meanwhile_are_no_damage(kind: Kind, database: str, tmp_path: Path) -> None:
    """What others store and remove between the doctor's pages passes for neither missing nor orphaned."""
    async with opened(kind.ours, database) as saver, opened(kind.ours, database) as other:
        await chat(saver)
        db = saver._looping
        turn = 0

        class Busy:
            """A database in which something happens before every look."""

            compute = db.compute

            async def read(self, look: Any) -> Any:
                nonlocal turn
                turn += 1
                await chat(other, "thread" if turn % 2 else f"thread {turn % 5}", turns=1)
                if turn % 3 == 0:
                    await other.aprune(["thread"])
                if turn % 7 == 0:
                    await other.adelete_thread(f"thread {turn % 5}")
                return await db.read(look)

        busy: Any = Busy()
        for _ in range(3):
            assert (await doctor.examine(busy)).findings == []
        assert turn > 30


@pytest.mark.parametrize("seed", range(3))
async def test_random_operations_leave_a_healthy_database(seed: int, saver: Any, kind: Kind) -> None:
    draw = random.Random(seed)
    threads, spaces = ["a", "b", "c"], ["", "child:1", "child:1|grandchild:2"]
    for step in range(60):
        name, ns = draw.choice(threads), draw.choice(spaces)
        stored = [found.config async for found in saver.alist(config(name, ns))]
        chosen = draw.choices(range(6), [10, 4, 1, 1, 1, 1])[0]
        if chosen == 0 or not stored:
            at = draw.choice(stored[:3]) if stored else config(name, ns)
            messages = (await saver.aget_tuple(at)).checkpoint["channel_values"]["messages"] if stored else []
            edited = [*messages[draw.randint(0, 1) :], HumanMessage(f"{TEXT} {step}", id=f"{step}")]
            await put(saver, at, {"messages": edited, "step": step}, run_id=f"run {step % 9}", step=step)
        elif chosen == 1:
            await saver.aput_writes(draw.choice(stored), [("messages", [TEXT]), ("step", step)], f"task {step}")
        elif chosen == 2:
            await saver.aprune([name])
        elif chosen == 3:
            await saver.adelete_for_runs([f"run {draw.randint(0, 8)}"])
        elif chosen == 4:
            await saver.adelete_thread(name)
        else:
            await saver.adelete_thread("copy")
            await saver.acopy_thread(name, "copy")
    assert (await examined(saver, kind)).findings == []
