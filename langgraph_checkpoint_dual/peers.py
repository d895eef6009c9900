"""Savers of others as sides of a transfer: called blocking or from an event loop, whatever they can.

What the public interface does not tell (which threads there are, and the paths of tasks) is read from the tables of the
official SQL savers and the dicts of `InMemorySaver`; of all others the threads are found by listing everything once,
and the paths are lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    writes_sort_key,
)
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_checkpoint_dual.core.address import config_of
from langgraph_checkpoint_dual.core.rows import RegistryRow
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.transfer.exchanging import Pending, Place, is_wanted, place_of
from langgraph_checkpoint_dual.core.transfer.transfers import Options
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

_OFFICIAL = {
    ("langgraph.checkpoint.sqlite", "SqliteSaver"): "sqlite",
    ("langgraph.checkpoint.sqlite.aio", "AsyncSqliteSaver"): "sqlite.aio",
    ("langgraph.checkpoint.postgres", "PostgresSaver"): "postgres",
    ("langgraph.checkpoint.postgres.aio", "AsyncPostgresSaver"): "postgres.aio",
}
_THREADS = 256
_THREAD_IDS = "SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id > ? ORDER BY thread_id LIMIT ?"
_COUNT = "SELECT count(DISTINCT thread_id) FROM checkpoints"
_PLACES = "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints WHERE thread_id = ?"
_WRITES = "SELECT task_path, task_id, idx FROM {} WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_TABLES = {"sqlite": "writes", "postgres": "checkpoint_writes"}


def official(saver: BaseCheckpointSaver[Any]) -> str | None:
    """Which of the official SQL savers this is, by module, whether or not their packages are installed."""
    for kind in type(saver).__mro__:
        found = _OFFICIAL.get((kind.__module__, kind.__name__))
        if found is not None:
            return found
    return None


class PeerSide:
    """A saver of somebody else.

    Args:
        saver: the saver.
        loop: whether to call it from a running event loop; its blocking methods go to a thread then, where it has no
            others.

    Raises:
        ConfigError: if it works on an event loop only, and there is none.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any], *, loop: bool) -> None:
        self._saver, self._loop = saver, loop
        self._kind = official(saver)
        self._backend = (self._kind or "").partition(".")[0]
        if not loop and self._kind is not None and self._kind.endswith(".aio"):
            raise ConfigError(f"{type(saver).__name__} works on its event loop only: use `await atransfer(...)`")
        self._memory = saver if isinstance(saver, InMemorySaver) else None
        self.has_paths = self._memory is not None
        if self._kind is not None:
            self.has_paths = getattr(saver, "_has_task_path", True)

    # --- reading ---

    def threads(self, options: Options) -> _PeerIds:
        return _PeerIds(self, options)

    async def adopted(self, keys: Sequence[str]) -> set[str]:
        return set()

    async def places(self, thread_id: str) -> dict[Place, str | None]:
        if self._kind is not None:
            rows = await self.fetch(_PLACES, thread_id)
            return {(ns, checkpoint_id): parent_id or None for ns, checkpoint_id, parent_id in rows}
        found: dict[Place, str | None] = {}
        if self._memory is not None:
            for ns, stored in [*self._memory.storage.get(thread_id, {}).items()]:
                found.update({(ns, one): parent_id for one, (*_, parent_id) in [*stored.items()]})
            return found
        await self._each({"configurable": {"thread_id": thread_id}}, lambda one: found.update(_edge(one)))
        return found

    async def get(self, thread_id: str, place: Place) -> CheckpointTuple | None:
        found: CheckpointTuple | None = await self._call("get_tuple", config_of(thread_id, *place))
        return found

    async def head(self, thread_id: str) -> CheckpointTuple | None:
        """The latest checkpoint of the root."""
        config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        found: CheckpointTuple | None = await self._call("get_tuple", config)
        return found

    async def writes(self, thread_id: str, found: CheckpointTuple) -> list[Pending]:
        pending = found.pending_writes or []
        if self._memory is not None:
            return _remembered(self._memory.writes.get((thread_id, *place_of(found)), {}), pending)
        if self._kind is None or not pending or not self.has_paths:
            return [Pending(task_id, "", None, channel, value) for task_id, channel, value in pending]
        rows = await self.fetch(_WRITES.format(_TABLES[self._backend]), thread_id, *place_of(found))
        rows.sort(key=lambda row: writes_sort_key(*row))
        if [task_id for _, task_id, _ in rows] != [task_id for task_id, _, _ in pending]:  # more came meanwhile
            return [Pending(task_id, "", None, channel, value) for task_id, channel, value in pending]
        return [Pending(one[0], row[0], row[2], *one[1:]) for row, one in zip(rows, pending, strict=True)]

    def walk(self, thread_id: str, places: Collection[Place]) -> _PeerWalk:
        return _PeerWalk(self, thread_id, places)

    async def thread_ids(self) -> list[str]:
        """All threads, found by listing everything."""
        if self._memory is not None:
            return sorted(
                str(thread_id) for thread_id, stored in [*self._memory.storage.items()] if any(stored.values())
            )
        found: dict[str, None] = {}
        await self._each(None, lambda one: found.setdefault(str(one.config["configurable"]["thread_id"])))
        return sorted(found)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """The rows of a query on the tables of an official saver."""
        if self._backend == "postgres":
            query = query.replace("?", "%s")
        if self._kind in ("sqlite.aio", "postgres.aio"):
            return await _afetch(self._saver, self._backend, query, args)
        if self._loop:
            return await asyncio.to_thread(_fetch, self._saver, self._backend, query, args)
        return _fetch(self._saver, self._backend, query, args)

    @property
    def is_official(self) -> bool:
        """Whether its tables can be asked."""
        return self._kind is not None

    # --- writing ---

    async def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: dict[str, Any]
    ) -> None:
        await self._call("put", config, checkpoint, metadata, new_versions)

    async def put_writes(self, thread_id: str, place: Place, writes: Sequence[Pending]) -> None:
        config = config_of(thread_id, *place)
        for task_id, path, part in _calls(writes):
            await self._call("put_writes", config, part, task_id, path)

    async def welcome(self, thread_id: str) -> None:
        pass

    async def delete(self, thread_id: str) -> None:
        await self._call("delete_thread", thread_id)

    async def registered(self, thread_id: str) -> RegistryRow | None:
        return None

    async def register(self, thread_id: str, row: RegistryRow | None, times: tuple[int, int]) -> None:
        pass

    # --- calling ---

    async def _call(self, name: str, *args: Any) -> Any:
        if self._loop:
            try:
                return await getattr(self._saver, f"a{name}")(*args)
            except NotImplementedError:
                return await asyncio.to_thread(getattr(self._saver, name), *args)
        return getattr(self._saver, name)(*args)

    async def _each(self, config: Any, see: Any) -> None:
        """Show every checkpoint of a listing."""
        if self._loop:
            try:
                async for one in self._saver.alist(config):
                    see(one)
            except NotImplementedError:
                await asyncio.to_thread(_see_all, self._saver, config, see)
        else:
            _see_all(self._saver, config, see)


class _PeerIds:
    """The threads of a saver that are asked for."""

    def __init__(self, side: PeerSide, options: Options) -> None:
        self._side, self._options = side, options
        given = options.thread_ids
        self._ids: list[str] | None = None if given is None else [unescape(key) for key in given]
        self._after = ""

    async def total(self) -> int | None:
        if self._options.where:
            return None
        if self._ids is None and self._side.is_official:
            return int((await self._side.fetch(_COUNT))[0][0])
        return len(await self._all())

    async def next(self) -> list[str]:
        while True:
            page = await self._page()
            found = [one for one in page if await self._is_wanted(one)]
            if found or not page:
                return found

    async def _page(self) -> list[str]:
        if self._ids is None and self._side.is_official:
            rows = [row[0] for row in await self._side.fetch(_THREAD_IDS, self._after, _THREADS)]
            self._after = rows[-1] if rows else self._after
            return rows
        ids = await self._all()
        page, self._ids = ids[:_THREADS], ids[_THREADS:]
        return page

    async def _all(self) -> list[str]:
        if self._ids is None:
            self._ids = await self._side.thread_ids()
        return self._ids

    async def _is_wanted(self, thread_id: str) -> bool:
        return not self._options.where or is_wanted(self._options, await self._side.head(thread_id))


class _PeerWalk:
    """Some checkpoints of a thread, latest first."""

    def __init__(self, side: PeerSide, thread_id: str, places: Collection[Place]) -> None:
        self._side, self._thread_id = side, thread_id
        self._places = sorted(places, key=lambda place: (place[1], place[0]))

    async def next(self) -> CheckpointTuple | DecodeError | None:
        while self._places:
            found = await self._side.get(self._thread_id, self._places.pop())
            if found is not None:
                return found
        return None


def _remembered(rows: Mapping[Any, Any], pending: Sequence[tuple[str, str, Any]]) -> list[Pending]:
    """The pending writes of a checkpoint in memory, in their order; `rows` are by task and number."""
    places: dict[tuple[str, str], deque[tuple[str, int]]] = {}
    for (task_id, idx), (_, channel, _, path) in sorted(rows.items(), key=lambda row: row[0][1]):
        places.setdefault((task_id, channel), deque()).append((path, idx))
    found = []
    for task_id, channel, value in pending:
        mine = places.get((task_id, channel))
        path, idx = mine.popleft() if mine else ("", None)
        found.append(Pending(task_id, path, idx, channel, value))
    return sorted(found, key=lambda one: writes_sort_key(one.task_path, one.task_id, one.idx or 0))


def _edge(found: CheckpointTuple) -> dict[Place, str | None]:
    parent = found.parent_config
    return {place_of(found): parent["configurable"].get("checkpoint_id") if parent else None}


def _see_all(saver: BaseCheckpointSaver[Any], config: Any, see: Any) -> None:
    for one in saver.list(config):
        see(one)


def _calls(writes: Iterable[Pending]) -> Iterable[tuple[str, str, list[tuple[str, Any]]]]:
    """The writes as calls of `put_writes`: those of each task, the special channels apart, which replace others."""
    calls: dict[tuple[str, str, bool], list[tuple[str, Any]]] = {}
    for one in writes:
        key = one.task_id, one.task_path, one.channel in WRITES_IDX_MAP
        calls.setdefault(key, []).append((one.channel, one.value))
    for (task_id, path, _), part in calls.items():
        yield task_id, path, part


def _fetch(saver: Any, backend: str, query: str, args: Sequence[Any]) -> list[Any]:
    if backend == "sqlite":
        with saver.cursor(transaction=False) as cursor:
            return [tuple(row) for row in cursor.execute(query, args).fetchall()]
    with saver._cursor() as cursor:  # the only way to its connection that honours its lock, pool and pipeline
        return [tuple(row.values()) for row in cursor.execute(query, args or None).fetchall()]


async def _afetch(saver: Any, backend: str, query: str, args: Sequence[Any]) -> list[Any]:
    if backend == "sqlite":
        await saver.setup()
        async with saver.lock, saver.conn.execute(query, args) as cursor:
            return [tuple(row) for row in await cursor.fetchall()]
    async with saver._cursor() as cursor:
        await cursor.execute(query, args or None)
        return [tuple(row.values()) for row in await cursor.fetchall()]
