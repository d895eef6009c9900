"""The golden databases: what official releases wrote, each test with a copy of its own."""

from __future__ import annotations

import shutil
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from langgraph.checkpoint.serde.types import TASKS
from langgraph.types import Command
from pydantic import BaseModel

from langgraph_checkpoint_dual.serde import Serializer
from tests.golden import graphs
from tests.support.compare import answer, key_of, parent_of
from tests.support.tables import is_postgres

DATA = Path(__file__).parent.parent / "golden/data"
RELEASES = sorted(path.stem for path in DATA.glob("*.sqlite"))
LATEST = RELEASES[-1]


def serde() -> Serializer:
    """Reads all that is in the golden databases, under any saver."""
    return Serializer(types=[graphs.Trip])


def load(release: str, database: str) -> str:
    """Load what a release has written into an empty database."""
    if is_postgres(database):
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute((DATA / f"{release}.sql").read_bytes())
    else:
        shutil.copy(DATA / f"{release}.sqlite", database)
    return database


async def answers(saver: Any, thread_ids: Any = None) -> list[Any]:
    """What a saver says to every question that can be asked of its checkpoints, through its awaited methods."""
    everything = await _listed(saver, None)
    if thread_ids is not None:
        everything = [found for found in everything if found.config["configurable"]["thread_id"] in thread_ids]
    # Listed without a thread, the official Postgres saver finds the pending sends of one thread only.
    said: list[Any] = [key_of(found) for found in everything]
    for found in everything:
        said.append(_said(await saver.aget_tuple(found.config)))
    for thread_id in sorted({found.config["configurable"]["thread_id"] for found in everything}):
        config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        mine = [found for found in everything if found.config["configurable"]["thread_id"] == thread_id]
        half = mine[len(mine) // 2].config
        said.append(_said(await saver.aget_tuple({"configurable": {"thread_id": thread_id}})))
        for options in ({}, {"limit": 3}, {"before": half}, {"before": half, "limit": 1}, {"filter": {"step": 1}}):
            said.append((sorted(options), [_said(found) for found in await _listed(saver, config, **options)]))
        for ns in sorted({found.config["configurable"]["checkpoint_ns"] for found in mine}):
            at = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns}}
            said.append((ns, _said(await saver.aget_tuple(at)), [_said(found) for found in await _listed(saver, at)]))
    said.append(_said(await saver.aget_tuple({"configurable": {"thread_id": "nobody"}})))
    return said


async def _listed(saver: Any, config: Any, **options: Any) -> list[Any]:
    """A listing; the order of checkpoints that share an id (the first releases gave it to subgraphs too) is settled."""
    found = [one async for one in saver.alist(config, **options)]
    ids = [one.config["configurable"]["checkpoint_id"] for one in found]
    assert ids == sorted(ids, reverse=True)
    return sorted(found, key=lambda one: key_of(one)[::-1], reverse=True)


def _said(found: Any) -> Any:
    if found is None:
        return None
    sends = found.checkpoint.get("pending_sends")
    if sends and isinstance(sends[0], str):
        # The first releases encoded them. Later ones leave them so, and give them a second time from the writes.
        found.checkpoint["pending_sends"] = serde().loads_typed((sends[0], b64decode(sends[1])))
        found.checkpoint["channel_values"].pop(TASKS, None)
        found.checkpoint["channel_versions"].pop(TASKS, None)
    _unset([found.checkpoint, found.pending_writes])
    return answer(found), parent_of(found)


def _unset(value: Any) -> None:
    """Forget which fields of models were given: the JSON of the first releases tells, what is stored today does not."""
    if isinstance(value, BaseModel):
        value.model_fields_set.clear()
    elif isinstance(value, Mapping):
        _unset(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            _unset(one)


def continued(saver: Any, thread_id: str, like: str | None = None) -> Any:
    """Go on with a golden thread (or one like it) to its end, and what its state is then; `None` if there is none."""
    build, given = graphs.CONTINUATIONS[like or thread_id]
    config: Any = {"configurable": {"thread_id": thread_id}}
    if saver.get_tuple(config) is None:
        return None
    graphs.BROKEN["now"] = False
    graph = build(saver)
    graph.invoke(Command(resume="yes") if given == "resume" else given, config)
    return state_of(graph.get_state(config))


def state_of(state: Any) -> Any:
    """What a state says, without ids and times."""
    return repr(state.values), state.next, [task.name for task in state.tasks], (state.metadata or {}).get("step")
