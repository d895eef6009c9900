"""The operations that every run uses: get a checkpoint, list them, put one, put pending writes.

A get is one look (two queries at most) and then pure decoding. A put is pure encoding and then one addition, which is
repeated with other item numbers, or without its base, when the database says that these are taken or gone.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from langgraph_checkpoint_dual import observing
from langgraph_checkpoint_dual.core.address import Address, address_of, config_of, text_key
from langgraph_checkpoint_dual.core.checkpoints import Foreign, Loaded, id_of, loaded, pending_writes, write_row
from langgraph_checkpoint_dual.core.looks import ItemLost, Known, Look
from langgraph_checkpoint_dual.core.metadata import merged_metadata
from langgraph_checkpoint_dual.core.putting import Putting, guard_of, is_stored, make_room
from langgraph_checkpoint_dual.core.redacting import Redaction
from langgraph_checkpoint_dual.core.rows import CheckpointRow, Guard, Outcome, Put, PutWrites, WriteRow, size_of
from langgraph_checkpoint_dual.core.text import order_of, unescape
from langgraph_checkpoint_dual.core.trimming import Succession, check_parent, succession, trim
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx, stored
from langgraph_checkpoint_dual.core.versions import highest_version
from langgraph_checkpoint_dual.core.weighing import weigh
from langgraph_checkpoint_dual.errors import (
    CheckpointerError,
    ClosedError,
    ConfigError,
    DecodeError,
    DeletedError,
    EncodeError,
    StaleHeadError,
)

T = TypeVar("T")

LATE = ("drop", "raise")
"""What may become of what a run puts whose thread was deleted since it began."""
_DELIBERATE = ("fork", "update")
_UNKNOWN_WEIGHT = 65_536
_MUCH = 1_000_000
"""How many bytes of rows an event loop is not to free itself."""
ATTEMPTS = 8
"""How often a read or a put begins again when others change what it works on."""


async def unless_lost(read: Callable[[], Awaitable[T]]) -> T:
    """Read, and once more from the start if something was removed meanwhile.

    Raises:
        ItemLost: if it is missing again and again, so it was lost rather than removed.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(ItemLost):
            return await read()
    return await read()


class Memory(Protocol):
    """Where knowledge of checkpoints is kept between operations; losing it costs only time."""

    def get(self, thread_id: str, checkpoint_ns: str) -> Known | None: ...

    def keep(self, thread_id: str, checkpoint_ns: str, known: Known) -> None: ...

    def forget(self, thread_id: str) -> None: ...

    def drop(self, thread_id: str, checkpoint_id: str) -> None:
        """Remember that this checkpoint was deleted with its thread, or is left out because it hangs on such a one."""
        ...

    def is_dropped(self, thread_id: str, checkpoint_id: str) -> bool: ...


class Rules(NamedTuple):
    """What a saver refuses to store.

    `late` says what becomes of what a run puts whose thread was deleted since it began: "drop" leaves it out and logs
    a warning, "raise" raises `DeletedError`. With `fence` a put whose parent is not the latest checkpoint of its
    namespace raises `StaleHeadError`, unless it is a deliberate fork or update. `history` says what stays of the
    checkpoints before one that is put: "all", or with "latest" only what is needed to go on (see `core/trimming.py`).
    `redact` says what of a checkpoint's metadata is stored (see `core/redacting.py`).
    """

    late: str = "drop"
    fence: bool = False
    history: str = "all"
    redact: Redaction | None = None


class AfterPut(Protocol):
    """What is done, as part of its operation, once a checkpoint is stored. It raises nothing."""

    async def __call__(self, store: Store, db: Database, key: str, /) -> None: ...


class Store:
    """The operations, over any `Database`, for one serializer and the knowledge that a process keeps."""

    def __init__(
        self, serde: SerializerProtocol, memory: Memory, rules: Rules, after_put: AfterPut | None = None
    ) -> None:
        self.serde, self.memory, self.rules, self.after_put = serde, memory, rules, after_put

    async def get_tuple(self, db: Database, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config means, or the latest of its thread and namespace."""
        return await self.tuple_at(db, address_of(config))

    async def tuple_at(self, db: Database, address: Address) -> CheckpointTuple | None:
        """As `get_tuple`, for an address."""
        return await unless_lost(partial(self._read_at, db, address))

    async def _read_at(self, db: Database, address: Address) -> CheckpointTuple | None:
        found = await db.read(partial(self._look_at, address))
        if found is None:
            return None
        checkpoint, look = found
        observing.read(look.weight)
        return with_values(checkpoint, await db.compute(lambda: look.weight, partial(self._values, checkpoint, look)))

    def _values(self, checkpoint: Loaded, look: Look) -> dict[str, Any]:
        """The channel values of a checkpoint, which is known then. What that took is let go here too."""
        got, known = look.read(checkpoint, self.serde)
        if checkpoint.sealed_slots:
            self.memory.keep(checkpoint.address.thread_id, checkpoint.address.checkpoint_ns or "", known)
        look.let_go()
        return got

    async def _look_at(self, address: Address, tx: Tx) -> tuple[Loaded, Look] | None:
        rows = await tx.fetch(f"page where {_predicates(address)}", limit=1, **_args(address))
        found = await self.load_rows(tx, rows)
        if not found:
            return None
        known = await self._still_known(tx, found[0])
        look = Look({} if known is None else {(address.thread_id, address.checkpoint_ns or ""): known})
        await look.fetch(tx, found)
        return found[0], look

    async def _still_known(self, tx: Tx, found: Loaded) -> Known | None:
        """What is known of the namespace, if it is still true."""
        known = self.memory.get(found.address.thread_id, found.address.checkpoint_ns or "")
        if known is None:
            return None
        if known.checkpoint_id == found.address.checkpoint_id:
            return known if known.slots == found.sealed_slots else None
        rows = await tx.fetch("slots", **_args(found.address._replace(checkpoint_id=known.checkpoint_id)))
        return known if [(known.slots,)] == rows else None

    async def load_rows(self, tx: Tx, rows: Sequence[Row]) -> list[Loaded]:
        """The checkpoints of the rows of a `page` query, latest first.

        Raises:
            DecodeError: if one of them is damaged.
        """
        return [undamaged(one) for one in await self.load_page(tx, rows)]

    async def load_page(self, tx: Tx, rows: Sequence[Row]) -> list[Loaded | DecodeError]:
        """As `load_rows`, with an error in place of each damaged checkpoint."""
        writes: dict[Row, list[Row]] = {}
        for row in rows:
            if row[0]:
                writes.setdefault(row[1:4], []).append(row)
        found = await tx.compute(lambda: sum(map(_weight, rows)), partial(self._loaded, rows, writes))
        return await self._with_sends(tx, found)

    def _loaded(self, rows: Sequence[Row], writes: Mapping[Row, list[Row]]) -> list[Loaded | DecodeError]:
        found: list[Loaded | DecodeError] = []
        for row in sorted((row for row in rows if not row[0]), key=newness, reverse=True):
            try:
                found.append(loaded(self.serde, row, writes.get(row[1:4], [])))
            except DecodeError as exc:
                found.append(exc)
        return found

    async def _with_sends(self, tx: Tx, found: list[Loaded | DecodeError]) -> list[Loaded | DecodeError]:
        """Checkpoints of before format 4 take the sends that are pending from their parent's writes."""
        old = [one for one in found if isinstance(one, Loaded) and _lacks_sends(one)]
        if not old:
            return found
        parents = json.dumps([[*one.address[:2], one.parent_id] for one in old])
        sends: dict[Row, list[Row]] = {}
        for row in await tx.fetch("writes", checkpoints=parents, channels=json.dumps([TASKS])):
            sends.setdefault(row[1:4], []).append(row)
        damaged = {one.address: exc for one in old if (exc := self._add_sends(one, sends)) is not None}
        return [damaged.get(one.address, one) if isinstance(one, Loaded) else one for one in found]

    def _add_sends(self, old: Loaded, sends: Mapping[Row, list[Row]]) -> DecodeError | None:
        """Add those of its parent to a checkpoint; the error if they are damaged."""
        rows = sends.get((*old.address[:2], old.parent_id))
        if not rows:
            return None
        try:
            values = [value for *_, value in pending_writes(self.serde, rows)]
        except DecodeError as exc:
            where = {**exc.where, **old.address.where}  # it is this checkpoint that cannot be read
            return type(exc)(exc.reason, **where)
        old.checkpoint["channel_values"][TASKS] = values
        old.checkpoint["channel_versions"][TASKS] = highest_version(old.checkpoint["channel_versions"])
        return None

    async def put(
        self,
        db: Database,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
    ) -> RunnableConfig:
        """Store a checkpoint; the config's checkpoint is its parent. Returns the config that means it.

        Every value is stored as it is now, whether or not its version is new: nodes may have changed it in place.
        """
        parent = address_of(config)
        checkpoint_id = id_of(checkpoint)
        channel_values = dict(checkpoint.get("channel_values") or {})
        merged = merged_metadata(config, metadata, self.rules.redact)
        putting = Putting(self.serde, parent, checkpoint_id, checkpoint, channel_values, merged)
        putting.guard = guard_of(parent, merged)
        over = self._succession(putting)
        if over is not None and not over.is_rebuilt:
            putting.own_parent = parent._replace(checkpoint_id=None)
        await self._put(db, putting, over)
        if self.after_put is not None:
            await self.after_put(self, db, parent.thread_id)
        place = config["configurable"]
        return config_of(place["thread_id"], place.get("checkpoint_ns") or "", checkpoint["id"])

    async def _put(self, db: Database, putting: Putting, over: Succession | None) -> None:
        parent = putting.parent
        putting.start_from(self._base(parent))
        for _ in range(ATTEMPTS):
            if putting.guard is not None and self.memory.is_dropped(parent.thread_id, putting.guard.checkpoint_id):
                await self._drop(db, parent._replace(checkpoint_id=putting.checkpoint_id), putting.guard)
                return
            addition, known = await db.compute(putting.weigh, putting.plan)
            if putting.should_compare(addition):
                with suppress(DecodeError):  # a damaged parent is no reason not to store its child
                    await self.tuple_at(db, parent)
                putting.start_from(self._base(parent))
                if putting.base is not None:
                    continue
            if await self._attempt(db, putting, addition, over):
                observing.stored(size_of(addition))
                self.memory.keep(parent.thread_id, parent.checkpoint_ns or "", known)
                if addition.size_of_items > _MUCH:
                    await _let_go(db, addition)
                return
        raise CheckpointerError(f"the checkpoint could not be stored in {ATTEMPTS} attempts: others kept changing it")

    async def _attempt(self, db: Database, putting: Putting, addition: Put, over: Succession | None) -> bool:
        """Make an attempt; whether it succeeded. If not, what to do otherwise is noted."""
        fence = putting.parent if self.rules.fence and putting.metadata.get("source") not in _DELIBERATE else None
        if fence is None and over is None and not putting.replaces:
            outcome = await db.append(addition)
        else:
            outcome = await stored(db.change, partial(self._insert, addition, fence, over, putting.replaces))
        if outcome is Outcome.STORED:
            return True
        if outcome is Outcome.GUARD_GONE:
            await self._note_if_late(db, addition)
            putting.learn(outcome, is_there=False)
            return False
        is_same = await db.read(partial(is_stored, addition.row))
        putting.learn(outcome, is_there=is_same is not None)
        return is_same is True  # the put repeats one that succeeded

    def _succession(self, putting: Putting) -> Succession | None:
        if self.rules.history != "latest":
            return None
        return succession(putting.parent, putting.checkpoint_id, putting.checkpoint, putting.metadata)

    def _base(self, parent: Address) -> Known | None:
        known = self.memory.get(parent.thread_id, parent.checkpoint_ns or "")
        return known if known is not None and known.checkpoint_id == parent.checkpoint_id else None

    async def _insert(
        self, addition: Put, fence: Address | None, over: Succession | None, replaces: bool, tx: Tx
    ) -> Outcome:
        """Store a checkpoint while nobody else puts to the thread; it may take its parent's place, or that of its id.

        With a fence, which is the parent, only if that is the latest one of its namespace.
        """
        await tx.execute("lock_thread", thread_id=addition.thread_id)
        if fence is not None:
            await _check_head(addition.row, fence.checkpoint_id, tx)
        if replaces:
            await make_room(addition.row, tx)
        if over is None:
            return await tx.insert(addition)
        await check_parent(addition.row, over, tx)
        outcome = await tx.insert(addition)
        if outcome is Outcome.STORED:
            await trim(self.serde, addition.row, over, tx)
        return outcome

    async def _note_if_late(self, db: Database, addition: Put | PutWrites) -> None:
        """Remember the checkpoint that an addition hangs on, if its thread was deleted since that was made."""
        thread_id, guard = addition.thread_id, addition.guard
        if guard is None:
            return

        async def deleted(tx: Tx) -> list[Row]:
            at = Address(thread_id, guard.checkpoint_ns, guard.checkpoint_id)
            return await tx.fetch("deleted_since", **_args(at))

        if await db.read(deleted):
            self.memory.drop(thread_id, guard.checkpoint_id)

    async def _drop(self, db: Database, address: Address, guard: Guard) -> None:
        """Leave a late addition to this checkpoint out, and remember that for what will hang on it.

        Raises:
            DeletedError: if the rules say so.
        """
        thread_id, checkpoint_id = address.thread_id, address.checkpoint_id or ""
        self.memory.drop(thread_id, checkpoint_id)

        async def remove_writes(tx: Tx) -> None:  # that came before their checkpoint
            await tx.execute("delete_early_writes", **_args(address))

        await db.change(remove_writes)
        error = DeletedError(unescape(thread_id), unescape(guard.checkpoint_id), unescape(checkpoint_id))
        if self.rules.late == "raise":
            raise error
        observing.dropped(error)

    async def put_writes(
        self,
        db: Database,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> None:
        """Store a task's pending writes; see `BaseCheckpointSaver.put_writes`."""
        address = address_of(config)
        if address.checkpoint_id is None:
            raise ConfigError("put_writes needs the checkpoint_id of the checkpoint that the writes belong to")
        task, path = text_key("task_id", task_id), text_key("task_path", task_path)
        replace = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        work = partial(self._write_rows, address, list(writes), task, path, replace)
        rows = await db.compute(lambda: weigh([value for _, value in writes]), work)
        if not rows:
            return
        addition = PutWrites(rows, replace)
        for _ in range(ATTEMPTS):
            stored_now = await db.append(addition) is Outcome.STORED
            if not stored_now:
                await self._note_if_late(db, addition)
            if self.memory.is_dropped(address.thread_id, address.checkpoint_id):
                await self._drop(db, address, addition.guard)
                return
            if stored_now:
                observing.stored(size_of(addition))
                return
        raise CheckpointerError(
            f"the writes could not be stored in {ATTEMPTS} attempts: others kept changing the thread"
        )

    def _write_rows(
        self, address: Address, writes: Sequence[tuple[str, Any]], task: str, path: str, replace: bool
    ) -> list[WriteRow]:
        rows: dict[int, WriteRow] = {}
        for at, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, at)
            if replace or idx not in rows:
                text_key("channel", channel)
                try:
                    rows[idx] = write_row(self.serde, address, task, path, idx, channel, value)
                except EncodeError as exc:
                    raise exc.in_channel(channel) from exc
        return [rows[idx] for idx in sorted(rows)]


async def _let_go(db: Database, addition: Put) -> None:
    """Free the rows of what was stored where large work is done, which takes milliseconds if they are many."""
    with suppress(ClosedError):
        await db.compute(partial(size_of, addition), addition.items.clear)


async def _check_head(row: CheckpointRow, parent_id: str | None, tx: Tx) -> None:
    """Refuse a checkpoint whose parent is not the latest one of its namespace."""
    head = await tx.fetch("head", thread_id=row.thread_id, checkpoint_ns=row.checkpoint_ns)
    if head and head[0][0] not in (parent_id, row.checkpoint_id):
        where = Address(row.thread_id, row.checkpoint_ns).where
        raise StaleHeadError(where, unescape(parent_id or ""), unescape(head[0][0]))


def _lacks_sends(one: Loaded) -> bool:
    return bool(one.checkpoint.get("v", 4) < 4 and one.parent_id and not one.checkpoint.get("pending_sends"))


def _weight(row: Row) -> int:
    """About the bytes that are to be decoded of a row of the `page` query; of a foreign one that is not known."""
    if isinstance(row[8], Foreign):
        return _UNKNOWN_WEIGHT
    return len(row[8]) if isinstance(row[8], (bytes, memoryview)) else 0  # damaged otherwise, as decoding will tell


def newness(row: Row) -> Row:
    """What listings are sorted by: the checkpoint's id, thread and namespace."""
    return order_of(row[3], row[1], row[2])


def undamaged(found: Loaded | DecodeError) -> Loaded:
    """A checkpoint of a page.

    Raises:
        DecodeError: if it is a damaged one.
    """
    if isinstance(found, DecodeError):
        raise found
    return found


def with_values(checkpoint: Loaded, channel_values: dict[str, Any]) -> CheckpointTuple:
    """A checkpoint as LangGraph knows it."""
    checkpoint.checkpoint["channel_values"] = {**channel_values, **checkpoint.checkpoint["channel_values"]}
    return CheckpointTuple(
        checkpoint.config, checkpoint.checkpoint, checkpoint.metadata, checkpoint.parent_config, checkpoint.writes
    )


def _predicates(address: Address) -> str:
    return " and ".join(_args(address))


def _args(address: Address) -> dict[str, str]:
    return {key: value for key, value in address._asdict().items() if value is not None}
