"""How the checkpoints of a thread hang together: forks, and the subgraphs that steps called. Values are not read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core.address import text_key, thread_key
from langgraph_checkpoint_dual.core.checkpoints import Foreign
from langgraph_checkpoint_dual.core.queries import fetch_where
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.times import micros_of_id, moment
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx

_STATUSES = {"__interrupt__": "interrupted", "__error__": "error"}


class Step(NamedTuple):
    """A checkpoint, without its values. `parents` are the checkpoints of the graphs around it, by namespace."""

    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    run_id: str | None
    source: str | None
    step: int | None
    at: datetime | None
    """When it was made, as its id tells."""
    status: str | None
    """"interrupted" or "error", as the pending writes tell."""
    parents: Mapping[str, str]


@dataclass
class Node:
    """A checkpoint in the tree: other lines that began at it, and the subgraphs that were called from it."""

    step: Step
    forks: list[Line] = field(default_factory=list)
    calls: list[Line] = field(default_factory=list)


@dataclass
class Line:
    """A line of checkpoints of one namespace, each the parent of the next."""

    checkpoint_ns: str
    nodes: list[Node]


async def steps(
    db: Database, thread_id: str, *, checkpoint_ns: str | None = None, before: str | None = None, limit: int = 100
) -> list[Step]:
    """The latest checkpoints of a thread, latest first.

    Args:
        checkpoint_ns: only those of this namespace.
        before: only those of a lower id than this one.
    """
    where = {"thread_id": {"thread_id": thread_key(thread_id)}}
    if checkpoint_ns is not None:
        where["checkpoint_ns"] = {"checkpoint_ns": text_key("checkpoint_ns", checkpoint_ns)}
    if before is not None:
        where["before"] = {"before": text_key("before", before)}
    rows = await db.read(partial(fetch_where, query="page", where=where, limit=limit))
    marked: dict[tuple[str, str], str] = {}
    for row in rows:
        if row[0] and row[6] in _STATUSES:
            marked[row[2:4]] = min(row[6], marked.get(row[2:4], row[6]))
    found = [_step(row, marked.get(row[2:4])) for row in rows if not row[0]]
    return sorted(found, key=lambda step: step.checkpoint_id, reverse=True)


class OfficialThread(NamedTuple):
    """A thread of the official tables that the registry does not know yet."""

    thread_id: str
    checkpoints: int
    checkpoint_id: str
    updated_at: datetime | None


async def official_threads(db: Database, *, limit: int) -> list[OfficialThread]:
    """The threads of the official tables that the registry does not know yet, latest first; none if there are none."""

    async def look(tx: Tx) -> list[Row]:
        if not await tx.fetch("official_tables"):
            return []
        return await tx.fetch("official_unlisted", limit=limit)

    return [
        OfficialThread(thread_id, count, head, moment(micros_of_id(head)))
        for thread_id, count, head in await db.read(look)
    ]


def _step(row: Row, channel: str | None) -> Step:
    _, _, ns, checkpoint_id, parent_id, metadata, _, _, checkpoint, *_ = row
    meta = _metadata(checkpoint, metadata)
    parents = meta.get("parents")
    callers = parents.items() if isinstance(parents, dict) else ()
    return Step(
        unescape(ns),
        unescape(checkpoint_id),
        unescape(parent_id) if parent_id else None,
        _of_type(str, meta.get("run_id")),
        _of_type(str, meta.get("source")),
        _of_type(int, meta.get("step")),
        moment(micros_of_id(checkpoint_id)),
        None if channel is None else _STATUSES[channel],
        {unescape(key): unescape(one) for key, one in callers if isinstance(one, str)},
    )


def _metadata(checkpoint: Any, text: str) -> dict[str, Any]:
    """A checkpoint's metadata; nothing if it is damaged."""
    try:
        found = checkpoint.metadata if isinstance(checkpoint, Foreign) else json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _of_type(cls: type, value: Any) -> Any:
    return value if type(value) is cls else None


def grown(found: Iterable[Step]) -> list[Line]:
    """The tree of some checkpoints of a thread: the lines that hang on nothing among them, oldest first.

    A line goes on towards the latest of the checkpoints that descend from it; what else began on it are forks.
    """
    nodes = {(one.checkpoint_ns, one.checkpoint_id): Node(one) for one in found}
    places = sorted(nodes, key=lambda place: place[1])
    latest = {place: place[1] for place in places}
    for ns, checkpoint_id in reversed(places):
        parent = (ns, nodes[ns, checkpoint_id].step.parent_id or "")
        if parent in nodes:
            latest[parent] = max(latest[parent], latest[ns, checkpoint_id])
    children: dict[tuple[str, str | None], list[Node]] = {}
    for ns, checkpoint_id in sorted(places, key=lambda place: latest[place]):
        parent_id = nodes[ns, checkpoint_id].step.parent_id
        key = (ns, parent_id if (ns, parent_id or "") in nodes else None)
        children.setdefault(key, []).append(nodes[ns, checkpoint_id])
    lines = []
    for (ns, parent_id), starts in children.items():
        if parent_id is None:
            lines += [_line(ns, start, children) for start in starts]
    return _with_calls(lines, nodes)


def _line(ns: str, start: Node, children: Mapping[tuple[str, str | None], Sequence[Node]]) -> Line:
    """The line from a checkpoint on, with its forks."""
    line = Line(ns, [start])
    pending = [line]
    while pending:
        current = pending.pop()
        while following := children.get((ns, current.nodes[-1].step.checkpoint_id)):
            *others, heir = following
            forks = [Line(ns, [one]) for one in others]
            current.nodes[-1].forks += forks
            pending += forks
            current.nodes.append(heir)
    return line


def _with_calls(lines: list[Line], nodes: Mapping[tuple[str, str], Node]) -> list[Line]:
    """Hang the lines of subgraphs on the checkpoints that called them; those that are left."""
    left = []
    for line in lines:
        around = line.checkpoint_ns.rpartition("|")[0]
        caller = nodes.get((around, line.nodes[0].step.parents.get(around, "")))
        if line.checkpoint_ns and caller is not None:
            caller.calls.append(line)
        else:
            left.append(line)
    return left
