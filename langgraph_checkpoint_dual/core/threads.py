"""Whole threads and runs: delete, copy, prune. None of it ever breaks a delta channel (see `core/tree.py`).

Each thread is changed in a transaction of its own, alone: puts to the thread wait for it, and find their base gone if
it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from langgraph_checkpoint_dual.core.address import Address, many, text_key, thread_key
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.tags import between
from langgraph_checkpoint_dual.core.times import now
from langgraph_checkpoint_dual.core.tree import (
    Places,
    latest,
    nearest,
    needed,
    removals,
    remove,
    staying,
    tree_of,
)
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

STRATEGIES = ("keep_latest", "delete")
_REMEMBERED = 7 * 24 * 3600 * 10**6
"""For how many microseconds a deleted thread is remembered, so that runs that began before cannot bring it back."""


async def delete_thread(store: Store, db: Database, thread_id: str) -> None:
    """Remove everything of a thread."""
    await _delete(store, db, thread_key(thread_id))


async def copy_thread(db: Database, source_thread_id: str, target_thread_id: str) -> None:
    """Copy a thread with its whole history, inside the database. An absent source copies nothing.

    Raises:
        ConfigError: if the target has checkpoints already: two histories cannot become one.
    """
    source, target = thread_key(source_thread_id), thread_key(target_thread_id)
    if source == target:
        return

    async def copy(tx: Tx) -> None:
        await tx.execute("lock_thread", thread_id=target)
        if await tx.fetch("any_of_thread", thread_id=target):
            raise ConfigError(
                f"thread {target_thread_id!r} has checkpoints already; delete it first or copy to a new thread_id"
            )
        await tx.execute("copy_thread", source=source, target=target, between=between(source, target), at=now())

    await db.change(copy)


async def prune(store: Store, db: Database, thread_ids: Sequence[str], strategy: str) -> None:
    """Keep only the latest checkpoint of each namespace, or nothing, of each of these threads.

    Checkpoints that the latest one needs stay: the ancestors that its delta channels are rebuilt from, and for
    checkpoints of before format 4 the parent that holds its sends. Namespaces of subgraph calls go with the root
    checkpoint that made the call.

    Raises:
        ConfigError: if the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}; use one of {', '.join(STRATEGIES)}")
    for key in dict.fromkeys(map(thread_key, many("thread_ids", thread_ids))):
        if strategy == "delete":
            await _delete(store, db, key)
        else:
            await db.change(partial(_keep_latest, store, key))
            store.memory.forget(key)


async def delete_for_runs(store: Store, db: Database, run_ids: Sequence[str]) -> None:
    """Remove the checkpoints that these runs made, except those that a remaining checkpoint's delta channels need."""
    runs = json.dumps([text_key("run_id", run_id) for run_id in many("run_ids", run_ids)])

    async def threads(tx: Tx) -> list[str]:
        return [row[0] for row in await tx.fetch("threads_of_runs", run_ids=runs)]

    for key in await db.read(threads) if run_ids else []:
        await db.change(partial(_without_runs, store, key, runs))
        store.memory.forget(key)


async def _delete(store: Store, db: Database, key: str) -> None:
    async def delete(tx: Tx) -> None:
        await tx.execute("lock_thread", thread_id=key)
        await remove_thread(key, tx)

    await db.change(delete)
    store.memory.forget(key)


async def remove_thread(key: str, tx: Tx) -> None:
    """Remove everything of a thread, whose lock is held."""
    at = now()
    await tx.execute("delete_thread", thread_id=key, at=at, expired=at - _REMEMBERED)


async def _keep_latest(store: Store, key: str, tx: Tx) -> None:
    await tx.execute("lock_thread", thread_id=key)
    tree = await tree_of(key, tx)
    stay = await staying(store.serde, key, tree, latest, tx)
    await remove(key, await removals(key, tree, stay, tx), tx)


async def kept_by_prune(store: Store, key: str, tx: Tx) -> dict[tuple[str, str], str | None]:
    """The checkpoints that `prune` keeps of a thread, by namespace and id, with the parents that they have then."""
    tree = await tree_of(key, tx)
    stay = await staying(store.serde, key, tree, latest, tx)
    return {(ns, one): nearest(tree[ns], one, ids) for ns, ids in stay.items() for one in ids}


async def _without_runs(store: Store, key: str, runs: str, tx: Tx) -> None:
    await tx.execute("lock_thread", thread_id=key)
    tree = await tree_of(key, tx)
    gone = _of_runs(key, await tx.fetch("checkpoints_of_runs", thread_id=key, run_ids=runs), json.loads(runs))
    stay: Places = {}
    for ns, nodes in tree.items():
        kept = {one for one in nodes if (ns, one) not in gone}
        stay[ns] = kept | await needed(store.serde, key, ns, nodes, kept, tx)
    await remove(key, await removals(key, tree, stay, tx), tx)


def _of_runs(key: str, rows: Sequence[Row], runs: Sequence[str]) -> set[tuple[str, str]]:
    """The checkpoints in rows of the `checkpoints_of_runs` query.

    Raises:
        DecodeError: if the metadata of one names another run: one of the two is damaged.
    """
    for ns, checkpoint_id, metadata in rows:
        if metadata is not None and json.loads(metadata).get("run_id") not in runs:
            raise DecodeError(
                "the stored run_id is damaged: it is not that of the metadata; nothing of the thread was removed",
                **Address(key, ns, checkpoint_id).where,
            )
    return {(row[0], row[1]) for row in rows}
