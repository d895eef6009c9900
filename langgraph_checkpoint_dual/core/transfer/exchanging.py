"""Transfer through what every saver can do: checkpoints are read from one side and put to the other, one by one.

It is slower than rows, but works between any two savers, and between ours where the serializers differ. It goes up a
thread in the order of the ids, so that parents come before their children; the writes of a checkpoint come before it,
so that whatever checkpoint is there has them. What the target has is found by its ids, so an interrupted transfer goes
on where it was.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, Checkpoint, CheckpointMetadata, CheckpointTuple, writes_sort_key

from langgraph_checkpoint_dual.core.address import Address, config_of, thread_key
from langgraph_checkpoint_dual.core.checkpoints import pending_writes, write_row
from langgraph_checkpoint_dual.core.equality import same
from langgraph_checkpoint_dual.core.listing import listing
from langgraph_checkpoint_dual.core.rows import PutWrites, RegistryRow
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.threads import delete_thread
from langgraph_checkpoint_dual.core.times import micros, micros_of, micros_of_id
from langgraph_checkpoint_dual.core.transfer.narrow import ThreadPages
from langgraph_checkpoint_dual.core.transfer.transfers import Meter, Options
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

Place: TypeAlias = tuple[str, str]
"""A namespace and a checkpoint in it."""
_REMEMBERED = 64
_THREADS = 256


class Pending(NamedTuple):
    """One pending write; `idx` is `None` where its saver does not tell."""

    task_id: str
    task_path: str
    idx: int | None
    channel: str
    value: Any


class Ids(Protocol):
    """The ids of the threads that are asked for."""

    async def total(self) -> int | None: ...

    async def next(self) -> list[str]:
        """The next ones; none at the end."""
        ...


class Walk(Protocol):
    """Some checkpoints of a thread under way, latest id first."""

    async def next(self) -> CheckpointTuple | DecodeError | None:
        """The next one, or why it cannot be read; `None` at the end."""
        ...


class Side(Protocol):
    """A saver, as a transfer sees it. Ids are those that users know."""

    has_paths: bool
    """Whether it tells the paths of tasks."""

    def threads(self, options: Options) -> Ids: ...

    async def adopted(self, keys: Sequence[str]) -> set[str]:
        """Which of these threads, as stored, are partly in official tables beside ours."""
        ...

    async def places(self, thread_id: str) -> dict[Place, str | None]:
        """The checkpoints of a thread, each with the id of its parent."""
        ...

    async def get(self, thread_id: str, place: Place) -> CheckpointTuple | None: ...

    async def writes(self, thread_id: str, found: CheckpointTuple) -> list[Pending]: ...

    def walk(self, thread_id: str, places: Collection[Place]) -> Walk: ...

    async def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: dict[str, Any],
    ) -> None: ...

    async def put_writes(self, thread_id: str, place: Place, writes: Sequence[Pending]) -> None: ...

    async def welcome(self, thread_id: str) -> None:
        """Let in a thread that may have been deleted here."""
        ...

    async def delete(self, thread_id: str) -> None: ...

    async def registered(self, thread_id: str) -> RegistryRow | None:
        """What the registry knows of a thread, if there is one."""
        ...

    async def register(self, thread_id: str, row: RegistryRow | None, times: tuple[int, int]) -> None:
        """Note that, or else when the first and the latest checkpoint of the root were made; 0 is an unknown time."""
        ...


async def exchange(source: Side, target: Side, meter: Meter, thread_id: str) -> Mapping[Place, str | None]:
    """Bring over what the target lacks of a thread. Returns the checkpoints that the source has of it."""
    return await _Thread(source, target, meter, thread_id).run()


class _Thread:
    """A thread on its way."""

    def __init__(self, source: Side, target: Side, meter: Meter, thread_id: str) -> None:
        self._source, self._target, self._meter, self._id = source, target, meter, thread_id
        self._options, self._report = meter.options, meter.report
        self._sent: OrderedDict[Place, dict[str, Any]] = OrderedDict()

    async def run(self) -> Mapping[Place, str | None]:
        everything = await self._source.places(self._id)
        await self._exchange(everything)
        return everything

    async def _exchange(self, everything: Mapping[Place, str | None]) -> None:
        self._report.threads += 1
        wanted = await self._latest(everything) if self._options.latest_only else everything
        stored = await self._target.places(self._id)
        if stored.keys() - everything.keys():
            if wanted.keys() <= stored.keys():
                self._report.ahead += 1
                return
            if self._options.on_conflict != "replace":
                self._report.conflicts.append(self._id)
                return
            if not self._options.dry_run:
                await self._target.delete(self._id)
            stored = {}
        before = self._report.checkpoints, self._report.writes
        await self._bring(wanted, stored)
        if (self._report.checkpoints, self._report.writes) != before:
            self._report.changed += 1
        self._meter.tell()

    async def _bring(self, wanted: Mapping[Place, str | None], stored: Collection[Place]) -> None:
        if self._options.dry_run:
            self._report.checkpoints += len(wanted.keys() - set(stored))
            return
        await self._target.welcome(self._id)
        heads = _heads(wanted)
        for place in sorted(wanted, key=lambda place: (place[1], place[0])):
            if place in stored:
                if place in heads.items():
                    await self._renew(place)
            else:
                await self._send(place, wanted[place])
        roots = [micros_of_id(checkpoint_id) for ns, checkpoint_id in wanted if not ns]
        times = (min(roots), max(roots)) if roots else (0, 0)
        await self._target.register(self._id, await self._source.registered(self._id), times)

    async def _send(self, place: Place, parent_id: str | None) -> None:
        """Put a checkpoint after its writes."""
        try:
            found = await self._source.get(self._id, place)
            writes = [] if found is None else await self._source.writes(self._id, found)
        except DecodeError as exc:
            self._report.damaged.append(str(exc))
            return
        if found is None:  # it was removed meanwhile
            return
        if writes:
            await self._target.put_writes(self._id, place, writes)
        checkpoint = found.checkpoint
        config: Any = config_of(self._id, place[0], parent_id or "")
        if not parent_id:
            del config["configurable"]["checkpoint_id"]
        await self._target.put(config, checkpoint, found.metadata, self._new_versions(place, parent_id, checkpoint))
        self._report.checkpoints += 1
        self._report.writes += len(writes)
        self._meter.tell()

    async def _renew(self, place: Place) -> None:
        """Bring over the writes that a latest checkpoint has got since it was put."""
        try:
            found, there = await self._source.get(self._id, place), await self._target.get(self._id, place)
            if found is None or there is None or not _has_news(found, there):
                return
            writes = await self._source.writes(self._id, found)
        except DecodeError:  # what is damaged stays as it is; verifying tells where
            return
        await self._target.put_writes(self._id, place, writes)
        self._report.writes += len(writes)

    def _new_versions(self, place: Place, parent_id: str | None, checkpoint: Checkpoint) -> dict[str, Any]:
        """The versions of the channels whose values are not known to be stored with the parent."""
        versions = checkpoint["channel_versions"]
        having = {channel: versions[channel] for channel in checkpoint["channel_values"] if channel in versions}
        before = self._sent.get((place[0], parent_id or ""), {})
        self._sent[place] = having
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        return {channel: version for channel, version in having.items() if before.get(channel) != version}

    # --- the latest only ---

    async def _latest(self, everything: Mapping[Place, str | None]) -> dict[Place, str | None]:
        """The latest checkpoint of each namespace and what it needs, with the parents that they have then."""
        heads = _heads(everything)
        kept: set[Place] = set()
        for place in heads.items():
            kept |= await self._needed(place, everything, heads)
        return {place: _nearest(place, everything, kept) for place in kept}

    async def _needed(
        self, place: Place, everything: Mapping[Place, str | None], heads: Mapping[str, str]
    ) -> set[Place]:
        """A head, and the ancestors that its delta channels are rebuilt from; nothing if its call is gone."""
        found = await self._source.get(self._id, place)
        if found is None:
            return set()
        root = (found.metadata.get("parents") or {}).get("")
        if ":" in place[0] and ("", root) in everything and root != heads.get(""):
            return set()
        needed = {place}
        wanted = _deltas(found)
        while wanted - found.checkpoint["channel_values"].keys():
            wanted -= found.checkpoint["channel_values"].keys()
            parent = (place[0], everything.get(place) or "")
            above = await self._source.get(self._id, parent) if parent in everything else None
            if above is None:
                break
            place, found = parent, above
            needed.add(place)
        return needed


def _has_news(found: CheckpointTuple, there: CheckpointTuple) -> bool:
    """Whether the writes of a checkpoint have changed in the source; with more of them, it went on in the target."""
    ours, theirs = found.pending_writes or [], there.pending_writes or []
    return len(ours) >= len(theirs) and not same(list(ours), list(theirs))


def _heads(places: Iterable[Place]) -> dict[str, str]:
    """The latest checkpoint of each namespace."""
    found: dict[str, str] = {}
    for ns, checkpoint_id in places:
        found[ns] = max(found.get(ns, ""), checkpoint_id)
    return found


def _deltas(found: CheckpointTuple) -> set[str]:
    """The delta channels of a checkpoint's graph, as its metadata tells."""
    counters = found.metadata.get("counters_since_delta_snapshot")
    return set(counters) if isinstance(counters, Mapping) else set()


def _nearest(place: Place, everything: Mapping[Place, str | None], kept: Collection[Place]) -> str | None:
    """The nearest ancestor that is kept."""
    ns, _ = place
    parent_id = everything[place]
    while parent_id is not None and (ns, parent_id) not in kept:
        parent_id = everything.get((ns, parent_id))
    return parent_id


def is_wanted(options: Options, head: CheckpointTuple | None) -> bool:
    """Whether a thread with this latest checkpoint is asked for, where no registry can tell."""
    if head is None:
        return False
    if options.user_id is not None and str(head.metadata.get("user_id", "")) != str(options.user_id):
        return False
    return options.since is None or micros_of(head.checkpoint.get("ts")) > micros(options.since)


class OurSide:
    """A saver of ours.

    Args:
        store: its operations.
        db: its database, with the threads that the official saver left in it if `adopts`.
    """

    has_paths = True

    def __init__(self, store: Store, db: Database, *, adopts: bool) -> None:
        self._store, self._db, self._adopts = store, db, adopts

    def threads(self, options: Options) -> Ids:
        return _OurIds(self._store, self._db, options, adopts=self._adopts)

    async def adopted(self, keys: Sequence[str]) -> set[str]:
        """Which of these threads, as stored, the official tables have something of."""
        if not self._adopts:
            return set()

        async def look(tx: Tx) -> set[str]:
            return {key for key in keys if await tx.fetch("official_any", thread_id=unescape(key))}

        return await self._db.read(look)

    async def places(self, thread_id: str) -> dict[Place, str | None]:
        rows = await _fetched(self._db, "tree", thread_id=thread_key(thread_id))
        return {(unescape(ns), unescape(one)): unescape(up) if up else None for ns, one, up, *_ in rows}

    async def get(self, thread_id: str, place: Place) -> CheckpointTuple | None:
        return await self._store.tuple_at(self._db, _address(thread_id, place))

    async def writes(self, thread_id: str, found: CheckpointTuple) -> list[Pending]:
        if not found.pending_writes:
            return []
        where = found.config["configurable"]
        address = _address(thread_id, (where["checkpoint_ns"], where["checkpoint_id"]))
        rows = await _fetched(
            self._db, "page where thread_id and checkpoint_ns and checkpoint_id", limit=1, **address._asdict()
        )
        pending = [_pending(self._store, row) for row in rows if row[0]]
        return sorted(pending, key=lambda one: writes_sort_key(one.task_path, one.task_id, one.idx or 0))

    def walk(self, thread_id: str, places: Collection[Place]) -> Walk:
        return _OurWalk(self._store, self._db, thread_id, places)

    async def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: dict[str, Any]
    ) -> None:
        await self._store.put(self._db, config, checkpoint, metadata)

    async def put_writes(self, thread_id: str, place: Place, writes: Sequence[Pending]) -> None:
        address = _address(thread_id, place)
        by_task: dict[str, list[Pending]] = {}
        for one in writes:
            by_task.setdefault(one.task_id, []).append(one)
        for task in by_task.values():
            await self._db.append(PutWrites(self._rows(address, task), replace=True))

    def _rows(self, address: Address, writes: Iterable[Pending]) -> list[Any]:
        return [
            write_row(
                self._store.serde, address, escape(one.task_id), escape(one.task_path), idx, one.channel, one.value
            )
            for idx, one in numbered(writes)
        ]

    async def welcome(self, thread_id: str) -> None:
        key = thread_key(thread_id)
        if await _fetched(self._db, "was_deleted", thread_id=key):

            async def forget(tx: Tx) -> None:
                await tx.execute("forget_deleted", threads=json.dumps([key]))

            await self._db.change(forget)
            self._store.memory.forget(key)

    async def delete(self, thread_id: str) -> None:
        await delete_thread(self._store, self._db, thread_id)

    async def registered(self, thread_id: str) -> RegistryRow | None:
        rows = await _fetched(self._db, "rows_of_threads", threads=json.dumps([thread_key(thread_id)]))
        return RegistryRow(*rows[0]) if rows else None

    async def register(self, thread_id: str, row: RegistryRow | None, times: tuple[int, int]) -> None:
        own = await self.registered(thread_id)
        if row is None and own is not None and all(times):
            row = own._replace(created_at=times[0], updated_at=times[1])
        if row is None or (own is not None and own.updated_at == row.updated_at):
            return
        rows = [row]
        await self._db.change(lambda tx: tx.load("load_threads", rows))


class _OurIds:
    """The threads of our tables, then those of the official ones that ours have nothing of."""

    def __init__(self, store: Store, db: Database, options: Options, *, adopts: bool) -> None:
        self._store, self._db, self._options = store, db, options
        self._pages = ThreadPages(db, options)
        given = options.thread_ids
        # Without further conditions those that are given are all among the first.
        self._more = adopts and (given is None or bool(options.where))
        self._given = None if given is None else [unescape(key) for key in given]
        self._after = ""

    async def total(self) -> int | None:
        own = await self._pages.total()
        if not self._more or self._given is not None:
            return own
        [(theirs, _)] = await _fetched(self._db, "official_counts")
        return None if self._options.where else own + int(theirs)

    async def next(self) -> list[str]:
        found = [unescape(key) for key in await self._pages.next()]
        while self._more and not found:
            page = await self._page()
            self._more = bool(page)
            known = {row[0] for row in await _fetched(self._db, "known_threads", threads=json.dumps(page))}
            found = [unescape(key) for key in page if key not in known and await self._is_wanted(key)]
        return found

    async def _page(self) -> list[str]:
        if self._given is not None:
            page, self._given = self._given, []
        else:
            page = [row[0] for row in await _fetched(self._db, "official_threads", after=self._after, limit=_THREADS)]
            self._after = page[-1] if page else ""
        return [escape(one) for one in page]

    async def _is_wanted(self, key: str) -> bool:
        return not self._options.where or is_wanted(
            self._options, await self._store.tuple_at(self._db, Address(key, ""))
        )


class _OurWalk:
    """A listing of ours, without the checkpoints that are not asked for."""

    def __init__(self, store: Store, db: Database, thread_id: str, places: Collection[Place]) -> None:
        self._db, self._places = db, set(places)
        self._damaged: list[DecodeError] = []
        config: Any = {"configurable": {"thread_id": thread_id}}
        self._listing = listing(store, config, None, None, None, self._damaged.append)
        self._page: list[Any] = []

    async def next(self) -> CheckpointTuple | DecodeError | None:
        while True:
            if not self._page:
                self._page = await self._listing.page(self._db)
                if not self._page:
                    return None
            found = await self._listing.tuple(self._db, self._page.pop(0))
            if self._damaged:
                return self._damaged.pop()
            if found is not None and place_of(found) in self._places:
                return found


def numbered(writes: Iterable[Pending]) -> Iterable[tuple[int, Pending]]:
    """A task's writes with their numbers: the known ones, or as LangGraph would give them."""
    ordinary = 0
    for one in writes:
        idx = WRITES_IDX_MAP.get(one.channel, ordinary) if one.idx is None else one.idx
        ordinary += one.channel not in WRITES_IDX_MAP
        yield idx, one


def place_of(found: CheckpointTuple) -> Place:
    """The place of a checkpoint in its thread."""
    where = found.config["configurable"]
    return where.get("checkpoint_ns", ""), where["checkpoint_id"]


def _address(thread_id: str, place: Place) -> Address:
    return Address(thread_key(thread_id), escape(place[0]), escape(place[1]))


async def _fetched(db: Database, query: str, /, **args: Any) -> list[Row]:
    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch(query, **args)

    return await db.read(look)


def _pending(store: Store, row: Row) -> Pending:
    [(task_id, channel, value)] = pending_writes(store.serde, [row])
    return Pending(task_id, unescape(row[5]), row[7], channel, value)
