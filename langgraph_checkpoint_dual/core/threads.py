"""Whole threads and runs: delete, copy, prune. None of it ever breaks a delta channel.

What is removed is decided on the *tree* of a thread: narrow rows that say how checkpoints hang together. Items go when
no checkpoint of their namespace references them any more. Each thread is changed in a transaction of its own, alone:
puts to the thread wait for it, and find their base gone if it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from langgraph.checkpoint.serde.types import TASKS

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address, many, text_key, thread_key
from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.items import Manifest, Range, merged, numbers
from langgraph_checkpoint_dual.core.registry import now
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.tx import Database, Tx
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

STRATEGIES = ("keep_latest", "delete")
_REMEMBERED = 7 * 24 * 3600 * 10**6
"""For how many microseconds a deleted thread is remembered, so that runs that began before cannot bring it back."""


async def delete_thread(store: Store, db: Database, thread_id: str) -> None:
    """Remove everything of a thread."""
    await _delete(store, db, thread_key(thread_id))


async def copy_thread(store: Store, db: Database, source_thread_id: str, target_thread_id: str) -> None:
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
        await tx.execute("copy_thread", source=source, target=target, at=now())

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
        await db.change(partial(_without_runs, key, runs))
        store.memory.forget(key)


async def _delete(store: Store, db: Database, key: str) -> None:
    async def delete(tx: Tx) -> None:
        at = now()
        await tx.execute("lock_thread", thread_id=key)
        await tx.execute("delete_thread", thread_id=key, at=at, expired=at - _REMEMBERED)

    await db.change(delete)
    store.memory.forget(key)


@dataclass(frozen=True, slots=True)
class _Node:
    """A checkpoint in the tree of its namespace."""

    parent_id: str | None
    channels: frozenset[str]
    """The channels that have a stored value here."""
    deltas: frozenset[str]
    """The delta channels of the graph, as its metadata tells."""
    root_id: str | None
    """The root graph's checkpoint that a subgraph's checkpoint belongs to."""


_Tree = dict[str, dict[str, _Node]]


async def _keep_latest(store: Store, key: str, tx: Tx) -> None:
    await tx.execute("lock_thread", thread_id=key)
    tree, kept = await _latest(store, key, tx)
    await _remove_others(key, tree, kept, tx)


async def kept_by_prune(store: Store, key: str, tx: Tx) -> dict[tuple[str, str], str | None]:
    """The checkpoints that `prune` keeps of a thread, by namespace and id, with the parents that they have then."""
    tree, kept = await _latest(store, key, tx)
    found: dict[tuple[str, str], str | None] = {}
    for ns, nodes in tree.items():
        keep = kept[ns] | _needed(nodes, kept[ns])
        for checkpoint_id in keep:
            parent_id = nodes[checkpoint_id].parent_id
            found[ns, checkpoint_id] = _nearest(nodes, checkpoint_id, keep) if parent_id in nodes else parent_id
    return found


async def _latest(store: Store, key: str, tx: Tx) -> tuple[_Tree, dict[str, set[str]]]:
    """The tree of a thread, and the latest checkpoint of each namespace, with the parent that holds its sends."""
    tree = await _tree(key, tx)
    kept = {ns: {max(nodes)} for ns, nodes in tree.items()}
    for ns in list(kept):
        head = tree[ns][max(tree[ns])]
        if _call_is_gone(ns, head, tree.get("", {}), kept.get("", set())):
            kept[ns] = set()
        elif head.parent_id in tree[ns] and await _needs_sends(
            store, Address(key, ns, max(tree[ns])), head.parent_id, tx
        ):
            kept[ns].add(head.parent_id)
    return tree, kept


def _call_is_gone(ns: str, head: _Node, roots: Collection[str], kept_roots: Collection[str]) -> bool:
    """Whether a namespace is that of a subgraph call whose root checkpoint was saved and is now to go.

    Runs save in the background, so a call may be saved before the root checkpoint that made it.
    """
    return ":" in ns and head.root_id in roots and head.root_id not in kept_roots


async def _needs_sends(store: Store, at: Address, parent_id: str, tx: Tx) -> bool:
    """Whether a checkpoint takes its sends from its parent's writes, as those of before format 4 do."""
    place = json.dumps([[*at[:2], parent_id]])
    if not await tx.fetch("writes", checkpoints=place, channels=json.dumps([TASKS])):
        return False
    where = "page where thread_id and checkpoint_ns and checkpoint_id"
    [head] = await store.load_rows(tx, await tx.fetch(where, limit=1, **at._asdict()))
    return head.checkpoint.get("v", 4) < 4


async def _without_runs(key: str, runs: str, tx: Tx) -> None:
    await tx.execute("lock_thread", thread_id=key)
    tree = await _tree(key, tx)
    gone = {(row[0], row[1]) for row in await tx.fetch("checkpoints_of_runs", thread_id=key, run_ids=runs)}
    kept = {ns: {one for one in nodes if (ns, one) not in gone} for ns, nodes in tree.items()}
    await _remove_others(key, tree, kept, tx)


async def _tree(key: str, tx: Tx) -> _Tree:
    tree: _Tree = {}
    for ns, checkpoint_id, parent_id, metadata, sealed in await tx.fetch("tree", thread_id=key):
        meta = json.loads(metadata)
        parents = meta.get("parents")
        root = parents.get("") if isinstance(parents, dict) else None
        counters = meta.get("counters_since_delta_snapshot")
        deltas = frozenset(map(unescape, counters)) if isinstance(counters, dict) else frozenset()
        try:
            channels = frozenset(slots_of(checkpoint_id, sealed))
        except DecodeError as exc:
            raise exc.at(**Address(key, ns, checkpoint_id).where) from exc
        tree.setdefault(ns, {})[checkpoint_id] = _Node(parent_id, channels, deltas, root)
    return tree


async def _remove_others(key: str, tree: _Tree, kept: dict[str, set[str]], tx: Tx) -> None:
    """Remove all checkpoints but these and those that they need, their writes, and the items left without any use."""
    for ns, nodes in tree.items():
        keep = kept[ns] | _needed(nodes, kept[ns])
        gone = nodes.keys() - keep
        if not gone:
            continue
        ids = json.dumps(sorted(gone))
        await tx.execute("delete_checkpoints", thread_id=key, checkpoint_ns=ns, checkpoint_ids=ids)
        for checkpoint_id in keep:
            if nodes[checkpoint_id].parent_id in gone:
                await _hang(Address(key, ns, checkpoint_id), _nearest(nodes, checkpoint_id, keep), tx)
        await _collect(key, ns, tx)


def _needed(nodes: dict[str, _Node], kept: Iterable[str]) -> set[str]:
    """The ancestors that the delta channels of these checkpoints are rebuilt from."""
    needed: set[str] = set()
    walked: dict[str, frozenset[str]] = {}
    for checkpoint_id in kept:
        node = nodes[checkpoint_id]
        wanted = node.deltas - node.channels
        while wanted and node.parent_id in nodes and not wanted <= walked.get(node.parent_id, frozenset()):
            walked[node.parent_id] = walked.get(node.parent_id, frozenset()) | wanted
            needed.add(node.parent_id)
            node = nodes[node.parent_id]
            wanted -= node.channels
    return needed


def _nearest(nodes: dict[str, _Node], checkpoint_id: str, keep: Collection[str]) -> str | None:
    """The nearest ancestor that stays."""
    parent_id = nodes[checkpoint_id].parent_id
    while parent_id in nodes and parent_id not in keep:
        parent_id = nodes[parent_id].parent_id
    return parent_id if parent_id in keep else None


async def _hang(at: Address, parent_id: str | None, tx: Tx) -> None:
    """Give a checkpoint another parent; its checksum covers the parent."""
    where: dict[str, Any] = at._asdict()
    [(old, sealed)] = await tx.fetch("checkpoint", **where)
    typed = values.unseal(sealed, values.place("checkpoint", at.checkpoint_id or "", old or ""))
    fresh = values.seal(typed, values.place("checkpoint", at.checkpoint_id or "", parent_id or ""))
    await tx.execute("hang", parent_checkpoint_id=parent_id, checkpoint=fresh, **where)


async def _collect(key: str, ns: str, tx: Tx) -> None:
    """Remove the items of a namespace that no checkpoint of it references."""
    stored = await tx.fetch("item_numbers", thread_id=key, checkpoint_ns=ns)
    used: dict[str, list[Range]] = {}
    for checkpoint_id, sealed in await tx.fetch("slots_of_namespace", thread_id=key, checkpoint_ns=ns):
        for channel, slot in slots_of(checkpoint_id, sealed).items():
            if isinstance(slot, Manifest):
                used.setdefault(escape(channel), []).extend(slot.ranges)
    alive = {(channel, seq) for channel, ranges in used.items() for seq in numbers(merged(ranges))}
    garbage = [item for item in stored if tuple(item) not in alive]
    if garbage:
        await tx.execute("delete_items", thread_id=key, checkpoint_ns=ns, items=json.dumps(garbage))
