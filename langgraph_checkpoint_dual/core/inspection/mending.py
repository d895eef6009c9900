"""Repairs of what the doctor has found: of what no reader can miss, looked at again in the transaction that repairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from langgraph_checkpoint_dual.core.address import thread_key
from langgraph_checkpoint_dual.core.conversations.indexing import Index
from langgraph_checkpoint_dual.core.conversations.searching import rebuild_search
from langgraph_checkpoint_dual.core.inspection.doctor import Finding
from langgraph_checkpoint_dual.core.inspection.surveying import intersection, page, rows_of_items, survey_in
from langgraph_checkpoint_dual.core.inspection.tables import wanted_tag
from langgraph_checkpoint_dual.core.integrity import as_stored
from langgraph_checkpoint_dual.core.migrations import Migration
from langgraph_checkpoint_dual.core.registry import thread_row
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.times import micros_of_id, now
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx

_AT_ONCE = 4096
_NEED_STORE = ("stale search", "stale tags")

Saved: TypeAlias = Callable[[str, Sequence[str], Sequence[Row]], object]
"""Is given the table, the columns and the rows that are about to be removed."""
_ITEM = ("thread_id", "checkpoint_ns", "channel", "seq", "added_at", "checksum", "tag", "data")
_WRITE = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "task_path", "channel", "data")


async def repair(
    db: Database,
    findings: Iterable[Finding],
    migrations: Sequence[Migration],
    save: Saved = lambda *rows: None,
    store: Store | None = None,
) -> list[Finding]:
    """Repair what can be repaired of these findings; those that were.

    Args:
        migrations: those of the database, which know how its indexes are made.
        save: called with rows before they are removed; they are removed only after it returned.
        store: reads the messages that are to be found by their words or id; without it these findings are left.
    """
    done: list[Finding] = []
    for finding in findings:
        if finding.repair is None or (store is None and finding.kind in _NEED_STORE):
            continue
        if finding.kind == "orphaned items":
            await _remove_items(db, finding, save)
        elif finding.kind == "orphaned writes":
            await _remove_writes(db, finding, save)
        elif finding.kind == "missing index":
            await _make_index(db, finding.channel or "", migrations)
        elif store is not None and finding.kind == "stale search":
            await _index(db, store, finding.channel or "")
        elif store is not None and finding.kind == "stale tags":
            await _tag(db, store, finding)
        else:
            await _register(db, thread_key(finding.thread_id))
        done.append(finding)
    return done


async def _remove_items(db: Database, finding: Finding, save: Saved) -> None:
    thread_id, ns = thread_key(finding.thread_id), escape(finding.checkpoint_ns or "")
    channel = escape(finding.channel or "")
    async for row in rows_of_items(as_stored(db), "doctor_items data", thread_id, ns, channel, finding.ranges):
        save("items", _ITEM, [row])

    async def remove(tx: Tx) -> None:
        await tx.execute("lock_thread", thread_id=thread_id)
        found = await survey_in(thread_id, ns, tx)
        if not found.knows_all:
            return
        left = intersection(found.orphaned.get(channel, []), finding.ranges)
        for start, count in left:
            for at in range(start, start + count, _AT_ONCE):
                some = [[channel, seq] for seq in range(at, min(at + _AT_ONCE, start + count))]
                await tx.execute("delete_items", thread_id=thread_id, checkpoint_ns=ns, items=json.dumps(some))

    await db.change(remove)


async def _remove_writes(db: Database, finding: Finding, save: Saved) -> None:
    where = {
        "thread_id": thread_key(finding.thread_id),
        "checkpoint_ns": escape(finding.checkpoint_ns or ""),
        "checkpoint_id": escape(finding.checkpoint_id or ""),
    }
    for row in await page(as_stored(db), "doctor_writes data", {"of_checkpoint": where}):
        save("writes", _WRITE, [row])

    async def remove(tx: Tx) -> None:
        await tx.execute("lock_thread", thread_id=where["thread_id"])
        await tx.execute("doctor_delete_writes", **where)

    await db.change(remove)


async def _make_index(db: Database, index: str, migrations: Sequence[Migration]) -> None:
    [statement] = [
        statement
        for migration in migrations
        for statement in migration.statements
        if f"INDEX {{{index}}}" in statement and statement.startswith("CREATE")
    ][-1:]

    async def make(tx: Tx) -> None:
        await tx.execute("lock_migrations")
        if index not in {row[0] for row in await tx.fetch("doctor_schema")}:
            await tx.execute(f"ddl {statement}")

    await db.change(make)


async def _index(db: Database, store: Store, channel: str) -> None:
    await db.change(lambda tx: tx.execute("remove_orphaned_words"))
    await rebuild_search(store, db, Index(channel))


async def _tag(db: Database, store: Store, finding: Finding) -> None:
    """Give messages the tags of their ids."""
    place = thread_key(finding.thread_id), escape(finding.checkpoint_ns or ""), escape(finding.channel or "")
    wanted: list[dict[str, Any]] = []
    async for row in rows_of_items(db, "doctor_items data", *place, finding.ranges):
        tag = wanted_tag(store.serde, row)
        if tag is not None:
            wanted.append({"seq": row[3], "checksum": row[5], "tag": tag})

    async def tag_all(tx: Tx) -> None:
        for one in wanted:
            await tx.execute("doctor_tag", thread_id=place[0], checkpoint_ns=place[1], channel=place[2], **one)

    await db.change(tag_all)


async def _register(db: Database, thread_id: str) -> None:
    """Give a thread the row in the registry that its root checkpoints say."""

    async def register(tx: Tx) -> None:
        await tx.execute("lock_thread", thread_id=thread_id)
        rows = await tx.fetch("doctor_namespace", thread_id=thread_id, checkpoint_ns="")
        if not rows:
            return
        head = max(rows)
        times = [made for row in rows if (made := micros_of_id(row[0]))] or [now()]
        row = thread_row(thread_id, json.loads(head[2]))
        await tx.execute(
            "doctor_add_thread",
            thread_id=thread_id,
            created_at=min(times),
            updated_at=max(times),
            user_id=row.user_id,
            title=row.title,
            run_metadata=row.run_metadata,
        )
        await tx.execute("doctor_touch_thread", thread_id=thread_id, at=max(times))

    await db.change(register)
