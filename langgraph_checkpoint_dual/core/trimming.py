"""`history="latest"`: each put takes away what nobody goes on from any more, in its own transaction.

What a run needs to go on, and so stays:

1. The checkpoint that was put, with its pending writes, and the ancestors that its delta channels are rebuilt from.
2. The other ends of branches: somebody may be going on from each. The latest few stay; of two runs at once on one
   thread each finds its own last checkpoint. Whatever is newer than the parent of what was put is left alone.
3. The subgraphs that these called. A subgraph's checkpoint goes when the graph that called it has gone on, because the
   call has ended then.

A checkpoint that needs no ancestors is stored without a parent, so it need not be changed when that goes. As long as no
delta channel is given a new start, nothing of its namespace can go, and nothing is looked at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.rows import CheckpointRow
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.tree import (
    Nodes,
    is_call,
    needed,
    part_of_tree,
    released,
    remove_items,
    remove_namespaces,
)
from langgraph_checkpoint_dual.core.tx import Tx
from langgraph_checkpoint_dual.errors import DecodeError, StaleHeadError

HISTORIES = ("all", "latest")
_BRANCHES = 8
"""How many ends of branches stay in a namespace."""
_log = logging.getLogger("langgraph_checkpoint_dual")


class Succession(NamedTuple):
    """A checkpoint that takes the place of its parent."""

    parent_id: str
    has_deltas: bool
    """Whether the graph has delta channels: without its ancestors such a checkpoint is worth nothing."""
    is_rebuilt: bool
    """Whether some of them are rebuilt from its ancestors."""
    ends_history: bool
    """Whether ancestors may go."""


def succession(
    parent: Address, checkpoint_id: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Succession | None:
    """How a checkpoint that is put takes its parent's place; `None` if it does not."""
    if parent.checkpoint_id is None or checkpoint_id <= parent.checkpoint_id:
        return None
    found = checkpoint.get("channel_values") or {}
    counters = metadata.get("counters_since_delta_snapshot")
    names = set(counters) if isinstance(counters, Mapping) else set()
    versions = checkpoint.get("channel_versions")
    rebuilt = any(name not in found and (versions is None or name in versions) for name in names)
    snapshots = any(isinstance(value, _DeltaSnapshot) for value in found.values())
    return Succession(parent.checkpoint_id, bool(names) or snapshots, rebuilt, snapshots or not rebuilt)


async def check_parent(row: CheckpointRow, over: Succession, tx: Tx) -> None:
    """Refuse a checkpoint without whose parent its delta channels would lose their values.

    Raises:
        StaleHeadError: if another run has taken the parent's place and ended its history.
    """
    where: dict[str, Any] = Address(*row[:2])._asdict()
    if over.has_deltas and not await tx.fetch("checkpoint", **{**where, "checkpoint_id": over.parent_id}):
        del where["checkpoint_id"]
        for (head,) in await tx.fetch("head", **where):
            raise StaleHeadError(Address(*row[:3]).where, unescape(over.parent_id), unescape(head))


async def trim(serde: SerializerProtocol, row: CheckpointRow, over: Succession, tx: Tx) -> None:
    """Take away what is not needed any more, now that this checkpoint is stored."""
    key, ns = row[:2]
    try:
        tree = await part_of_tree(key, ns if over.ends_history else _first_below(ns), _beyond(ns), tx)
    except DecodeError as exc:
        _log.warning("older checkpoints stay where they are, because one is damaged")
        _log.debug("older checkpoints stay where they are: %s", exc)
        return
    kept: set[str] | None = None
    if over.ends_history:
        kept = _ends(tree[ns], over.parent_id)
        await _remove_older(serde, Address(key, ns, over.parent_id), tree[ns], kept, tx)
    ended = [name for name, nodes in tree.items() if _has_ended(name, nodes, ns, over.parent_id, kept)]
    await remove_namespaces(key, ended, tx)


def _ends(nodes: Nodes, parent_id: str) -> set[str]:
    """The checkpoints that somebody may go on from."""
    inner = {node.parent_id for node in nodes.values()} | {parent_id}
    return {*sorted(nodes.keys() - inner)[-_BRANCHES:], *(one for one in nodes if one > parent_id)}


async def _remove_older(serde: SerializerProtocol, last: Address, nodes: Nodes, kept: Collection[str], tx: Tx) -> None:
    key, ns, last_id = last.thread_id, last.checkpoint_ns or "", last.checkpoint_id or ""
    stay = {*kept, *await needed(serde, key, ns, nodes, kept, tx)}
    older = json.dumps(sorted(one for one in stay if one <= last_id))
    await tx.execute("delete_older", thread_id=key, checkpoint_ns=ns, last=last_id, kept=older)
    await remove_items(key, ns, released(nodes, nodes.keys() - stay, stay), tx)


def _has_ended(ns: str, nodes: Nodes, caller_ns: str, parent_id: str, kept: Collection[str] | None) -> bool:
    """Whether a namespace is that of a call that the checkpoints up to the parent made, and none of those that stay."""
    caller = nodes[max(nodes)].callers.get(caller_ns)
    if caller is None or not is_call(ns, caller_ns):
        return False
    return caller == parent_id or (kept is not None and caller < parent_id and caller not in kept)


def _first_below(ns: str) -> str:
    return f"{ns}|" if ns else "\x01"


def _beyond(ns: str) -> str:
    """What is higher than the names of all namespaces below this one; "}" follows "|"."""
    return ns + "}" if ns else "\U0010ffff"
