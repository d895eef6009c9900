"""How the checkpoints of a thread hang together, and removing some of them without harm to those that stay.

The contract:

1. What is removed is decided on the *tree* of a thread, or of a part of it: its narrow rows, without values. Whoever
   removes holds the thread's lock, so the rows stay as they are read.
2. A checkpoint that stays keeps the ancestors that its delta channels are rebuilt from, and in formats before 4 the
   parent that holds its sends. Its parent becomes the nearest ancestor that stays.
3. The namespace of a subgraph's call stays as long as the checkpoint that made the call does: that is what a run needs
   to go on inside of the subgraph. Namespaces of subgraphs that keep their state between calls have no such end.
4. Items go when no checkpoint of their namespace that stays refers to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import restored, slots_of
from langgraph_checkpoint_dual.core.items import Manifest, Range, Slot, merged, numbers
from langgraph_checkpoint_dual.core.text import check_texts, escape, unescape
from langgraph_checkpoint_dual.core.tx import Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

_CALL = ":"
_NODE = 1_000
"""About how many bytes the row of a checkpoint has in a tree."""


@dataclass(frozen=True, slots=True)
class Node:
    """A checkpoint in the tree of its namespace. Ids and namespaces are as stored."""

    parent_id: str | None
    slots: Mapping[str, Slot]
    deltas: frozenset[str]
    """The delta channels of the graph that have no value here, as its metadata tells."""
    callers: Mapping[str, str]
    """The checkpoints of the graphs around it that it was made under, by namespace."""

    @property
    def wanted(self) -> frozenset[str]:
        """The channels whose values are rebuilt from ancestors, if they were ever written."""
        return self.deltas - self.slots.keys()


Nodes: TypeAlias = dict[str, Node]
Tree: TypeAlias = dict[str, Nodes]
"""Nodes by namespace and checkpoint id."""
Places: TypeAlias = dict[str, set[str]]
"""Ids of checkpoints by namespace."""


async def tree_of(key: str, tx: Tx) -> Tree:
    """The tree of a thread.

    Raises:
        DecodeError: if a row of it is damaged.
    """
    rows = await tx.fetch("tree", thread_id=key)
    return await tx.compute(lambda: _NODE * len(rows), partial(_grown, key, rows))


async def part_of_tree(key: str, low: str, high: str, tx: Tx) -> Tree:
    """As `tree_of`, of the namespaces from `low` up to `high`."""
    return _grown(key, await tx.fetch("subtree", thread_id=key, low=low, high=high))


def _grown(key: str, rows: Iterable[Row]) -> Tree:
    tree: Tree = {}
    for ns, checkpoint_id, parent_id, metadata, sealed in rows:
        where = Address(key, ns, checkpoint_id).where
        try:
            check_texts(ns)
            tree.setdefault(ns, {})[checkpoint_id] = _node(checkpoint_id, parent_id, metadata, sealed)
        except DecodeError as exc:
            raise exc.at(**where) from exc
        except (ValueError, TypeError, AttributeError) as exc:
            raise DecodeError(f"the stored checkpoint is damaged: {exc}", **where) from exc
    return tree


def _node(checkpoint_id: str, parent_id: str | None, metadata: str, sealed: bytes) -> Node:
    meta = json.loads(metadata)
    counters = meta.get("counters_since_delta_snapshot")
    deltas = frozenset(map(unescape, counters)) if isinstance(counters, dict) else frozenset()
    parents = meta.get("parents")
    callers = parents.items() if isinstance(parents, dict) else ()
    mine = {name: caller for name, caller in callers if isinstance(caller, str)}
    return Node(parent_id, slots_of(checkpoint_id, sealed), deltas, mine)


def latest(nodes: Nodes) -> set[str]:
    """The choice that keeps the latest checkpoint."""
    return {max(nodes)}


async def staying(
    serde: SerializerProtocol, key: str, tree: Tree, choose: Callable[[Nodes], set[str]], tx: Tx
) -> Places:
    """What stays of a tree if these of each namespace are kept: they, and what they need."""
    kept: Places = {}
    found: Places = {}
    for ns in sorted(tree, key=len):  # a caller's namespace is shorter
        nodes = tree[ns]
        kept[ns] = set() if _call_is_gone(ns, nodes[max(nodes)], tree, kept) else choose(nodes)
        found[ns] = kept[ns] | await needed(serde, key, ns, nodes, kept[ns], tx)
    return found


def _call_is_gone(ns: str, head: Node, tree: Tree, kept: Places) -> bool:
    """Whether a namespace is that of a subgraph's call by a checkpoint that is to go, or is gone already.

    Runs save in the background, so a call may be saved before the checkpoint that made it.
    """
    for caller_ns, caller in head.callers.items():
        callers = tree.get(caller_ns, {})
        if is_call(ns, caller_ns) and caller not in kept.get(caller_ns, ()) and callers and caller <= max(callers):
            return True
    return False


def is_call(ns: str, caller_ns: str) -> bool:
    """Whether a namespace is that of a subgraph's call, made at any depth below the graph of the other namespace."""
    return ns.startswith(caller_ns) and _CALL in ns[len(caller_ns) :]


async def needed(serde: SerializerProtocol, key: str, ns: str, nodes: Nodes, kept: Collection[str], tx: Tx) -> set[str]:
    """The other checkpoints of a namespace that these cannot do without."""
    wanted = {one: nodes[one].wanted for one in kept if nodes[one].wanted}
    parents = {one: nodes[one].parent_id for one in kept if nodes[one].parent_id in nodes.keys() - kept}
    senders = await _senders(key, ns, [parent for parent in parents.values() if parent], tx)
    asked = wanted.keys() | {one for one, parent in parents.items() if parent in senders}
    bodies = await _bodies(serde, key, ns, nodes, asked, tx)
    for one in wanted.keys() & bodies.keys():  # what was never written has no history
        versions = bodies[one].get("channel_versions")
        wanted[one] = wanted[one] if versions is None else wanted[one] & versions.keys()
    found = _rebuilt_from(nodes, wanted)
    return found | {parent for one, parent in parents.items() if parent in senders and _is_old(bodies.get(one))}


def _is_old(body: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint takes its sends from its parent's writes; `None` stands for one that is damaged."""
    return body is None or body.get("v", 4) < 4


async def _senders(key: str, ns: str, ids: Sequence[str], tx: Tx) -> set[str]:
    """Those of these checkpoints that have sends among their writes."""
    if not ids:
        return set()
    places = json.dumps([[key, ns, one] for one in ids])
    return {row[3] for row in await tx.fetch("writes", checkpoints=places, channels=json.dumps([TASKS]))}


async def _bodies(
    serde: SerializerProtocol, key: str, ns: str, nodes: Nodes, ids: Collection[str], tx: Tx
) -> dict[str, dict[str, Any]]:
    """Checkpoints without their values; those that are damaged are left out."""
    if not ids:
        return {}
    found: dict[str, dict[str, Any]] = {}
    rows = await tx.fetch("bodies", thread_id=key, checkpoint_ns=ns, checkpoint_ids=json.dumps(sorted(ids)))
    sealed_bodies: dict[str, bytes] = dict(rows)
    for one in ids:
        sealed = sealed_bodies.get(one) or await _sealed_body(Address(key, ns, one), tx)
        with suppress(ValueError, TypeError, KeyError, IndexError):
            typed = values.unseal(sealed, values.place("checkpoint", one, nodes[one].parent_id or ""))
            *stored, _ = values.decode(serde, typed)
            found[one] = restored(stored)
    return found


async def _sealed_body(at: Address, tx: Tx) -> bytes:
    """A checkpoint that is not among our own, but was left by the official saver."""
    where: dict[str, Any] = at._asdict()
    rows = await tx.fetch("checkpoint", **where)
    return rows[0][1] if rows else b""


def _rebuilt_from(nodes: Nodes, wanted: Mapping[str, frozenset[str]]) -> set[str]:
    """The ancestors that these channels of these checkpoints are rebuilt from."""
    found: set[str] = set()
    walked: dict[str, frozenset[str]] = {}
    for checkpoint_id, channels in wanted.items():
        node = nodes[checkpoint_id]
        while channels and node.parent_id in nodes and not channels <= walked.get(node.parent_id, frozenset()):
            walked[node.parent_id] = walked.get(node.parent_id, frozenset()) | channels
            found.add(node.parent_id)
            node = nodes[node.parent_id]
            channels -= node.slots.keys()
    return found


def nearest(nodes: Nodes, checkpoint_id: str, stay: Collection[str]) -> str | None:
    """The parent that a checkpoint has if only these stay. A parent that is not stored is left as it is."""
    parent_id = nodes[checkpoint_id].parent_id
    if parent_id not in nodes:
        return parent_id
    while parent_id in nodes and parent_id not in stay:
        parent_id = nodes[parent_id].parent_id
    return parent_id if parent_id in stay else None


class Removal(NamedTuple):
    """What goes of one namespace."""

    ns: str
    checkpoints: list[str]
    parents: dict[str, str | None]
    """The new parents of those that stay."""
    items: list[tuple[str, int]]
    """By channel and number, as stored."""


async def removals(key: str, tree: Tree, stay: Places, tx: Tx) -> list[Removal]:
    """All checkpoints but these, with the items left without any use."""
    found: list[Removal] = []
    for ns, nodes in tree.items():
        gone = nodes.keys() - stay[ns]
        if gone:
            hanging = [one for one in stay[ns] if nodes[one].parent_id in gone]
            parents = {one: nearest(nodes, one, stay[ns]) for one in hanging}
            found.append(Removal(ns, sorted(gone), parents, await _unused(key, ns, nodes, stay[ns], tx)))
    return found


async def remove(key: str, gone: Iterable[Removal], tx: Tx) -> None:
    """Remove checkpoints, their writes, and items."""
    for ns, checkpoints, parents, items in gone:
        ids = json.dumps(checkpoints)
        await tx.execute("delete_checkpoints", thread_id=key, checkpoint_ns=ns, checkpoint_ids=ids)
        for checkpoint_id, parent_id in parents.items():
            await _hang(Address(key, ns, checkpoint_id), parent_id, tx)
        await remove_items(key, ns, items, tx)


async def remove_namespaces(key: str, namespaces: Sequence[str], tx: Tx) -> None:
    """Remove all that these namespaces of a thread hold."""
    if namespaces:
        await tx.execute("delete_namespaces", thread_id=key, namespaces=json.dumps(namespaces))


async def remove_items(key: str, ns: str, items: Sequence[tuple[str, int]], tx: Tx) -> None:
    """Remove items, which are pairs of channel and number, as stored."""
    if items:
        await tx.execute("delete_items", thread_id=key, checkpoint_ns=ns, items=json.dumps(items))


async def _hang(at: Address, parent_id: str | None, tx: Tx) -> None:
    """Give a checkpoint another parent; its checksum covers the parent."""
    where: dict[str, Any] = at._asdict()
    [(old, sealed)] = await tx.fetch("checkpoint", **where)
    typed = values.unseal(sealed, values.place("checkpoint", at.checkpoint_id or "", old or ""))
    fresh = values.seal(typed, values.place("checkpoint", at.checkpoint_id or "", parent_id or ""))
    await tx.execute("hang", parent_checkpoint_id=parent_id, checkpoint=fresh, **where)


async def _unused(key: str, ns: str, nodes: Nodes, stay: Iterable[str], tx: Tx) -> list[tuple[str, int]]:
    """The items of a namespace that none of the checkpoints that stay refers to."""
    used = {(channel, seq) for channel, ranges in _used(nodes, stay).items() for seq in numbers(ranges)}
    stored = await tx.fetch("item_numbers", thread_id=key, checkpoint_ns=ns)
    whole = (row for row in stored if isinstance(row[0], str) and isinstance(row[1], int))  # the doctor tells of others
    return [(channel, seq) for channel, seq in whole if (channel, seq) not in used]


def released(nodes: Nodes, gone: Iterable[str], stay: Iterable[str]) -> list[tuple[str, int]]:
    """As `_unused`, of the items of these that go; found out without a look at the items."""
    used = _used(nodes, stay)
    return [
        (channel, seq)
        for channel, ranges in _used(nodes, gone).items()
        for seq in numbers(without(ranges, used.get(channel, [])))
    ]


def _used(nodes: Nodes, ids: Iterable[str]) -> dict[str, list[Range]]:
    found: dict[str, list[Range]] = {}
    for one in ids:
        for channel, slot in nodes[one].slots.items():
            if isinstance(slot, Manifest):
                found.setdefault(escape(channel), []).extend(slot.ranges)
    return {channel: merged(ranges) for channel, ranges in found.items()}


def without(ranges: Iterable[Range], others: Sequence[Range]) -> list[Range]:
    """The numbers of these ranges that the others do not have; both are `merged`."""
    found: list[Range] = []
    at = 0
    for start, count in ranges:
        stop = start + count
        while at < len(others) and sum(others[at]) <= start:
            at += 1
        place = at
        while start < stop:
            first, held = others[place] if place < len(others) else (stop, 0)
            if first > start:
                found.append((start, min(first, stop) - start))
            start = max(start, first + held) if first < stop else stop
            place += 1
    return found
