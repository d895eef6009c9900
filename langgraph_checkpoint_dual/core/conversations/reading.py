"""The messages of a thread, without the rest of its state: pages, token windows, figures.

The contract:

1. A *view* means one list of messages: a channel of a thread's namespace, in its latest checkpoint or in a given one.
   A thread that is not there has no messages.
2. Each operation begins at one checkpoint and stays with it, whatever is put meanwhile. If that checkpoint is removed
   under it, it begins again.
3. A list of messages is stored as items (`core/items.py`), so a part of it costs what that part weighs: the row of the
   checkpoint says which numbers it has. Only a list that is not stored so (a few short values that are no messages, the
   list of a delta channel) is read whole.
4. A message has the time of the checkpoint that it came with, which stands beside it, so that it outlives that
   checkpoint. A message that was changed came with the checkpoint that changed it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.messages.utils import count_tokens_approximately

from langgraph_checkpoint_dual import observing
from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import Loaded
from langgraph_checkpoint_dual.core.conversations.deltas import Reducer, rebuilt, without_snapshot
from langgraph_checkpoint_dual.core.history import only, slots_at
from langgraph_checkpoint_dual.core.items import LIST, Inline, Manifest, Range, Slot, cut, joined
from langgraph_checkpoint_dual.core.looks import Look, Part
from langgraph_checkpoint_dual.core.queries import fetch_where
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.times import moment
from langgraph_checkpoint_dual.core.tx import Reads, Tx
from langgraph_checkpoint_dual.errors import ConfigError

CountTokens: TypeAlias = Callable[[list[BaseMessage]], int]

NO_MESSAGE = (ValueError, TypeError, KeyError, NotImplementedError)
"""What langchain-core raises for something that it cannot take for a message."""
LARGEST_READ = 512
"""How many messages are read at a time at most."""
_FIRST_READ = 32


class StoredMessage(NamedTuple):
    """A message in its thread."""

    idx: int
    """Its place in the list of messages, from 0."""
    message: BaseMessage
    added_at: datetime | None
    """The time of the checkpoint that it came with, in UTC; `None` if that is not known."""


class ConversationStats(NamedTuple):
    """What a list of messages amounts to."""

    messages: int
    by_role: dict[str, int]
    """How many messages of each type (`"human"`, `"ai"`, `"tool"`, ...; of a `ChatMessage` its role)."""
    input_tokens: int
    """The sum of what the messages' `usage_metadata` say, as the two below."""
    output_tokens: int
    total_tokens: int
    started_at: datetime | None
    """The time of the oldest message."""
    last_at: datetime | None
    bytes: int
    """The size of the messages as they are stored."""


@dataclass(frozen=True)
class View:
    """Which messages: see the contract. `reducer` makes the list of a delta channel."""

    address: Address
    channel: str
    reducer: Reducer


class Spot(NamedTuple):
    """The checkpoint that an operation stays with, and how it stores the channel; `None` if it does not."""

    address: Address
    sealed: bytes
    slot: Slot | None


class Source(Protocol):
    """A list of messages in one checkpoint."""

    count: int

    async def parts(self, db: Reads, start: int, stop: int) -> Sequence[Part]:
        """The elements in these places of the list."""
        ...


async def messages_page(
    store: Store,
    db: Reads,
    view: View,
    *,
    limit: int,
    before_idx: int | None,
    after_idx: int | None,
    reverse: bool,
) -> list[StoredMessage]:
    """The first `limit` messages between the two places, or the last ones, latest first, if `reverse`.

    Raises:
        ConfigError: if an argument is negative or no `int`, or the channel holds no messages.
    """
    check_number("limit", limit)
    low = 0 if after_idx is None else check_number("after_idx", after_idx) + 1

    async def read() -> list[StoredMessage]:
        source = await opened(store, db, view, dated=True)
        high = source.count if before_idx is None else min(source.count, check_number("before_idx", before_idx))
        start, stop = (max(low, high - limit), high) if reverse else (low, min(high, low + limit))
        found = _messages(view, start, await source.parts(db, start, stop)) if start < stop else []
        return found[::-1] if reverse else found

    return await unless_lost(read)


async def messages_last(store: Store, db: Reads, view: View, number: int) -> list[BaseMessage]:
    """The last messages, in their order.

    Raises:
        ConfigError: if the number is negative or no `int`, or the channel holds no messages.
    """
    check_number("n", number)

    async def read() -> list[BaseMessage]:
        source = await opened(store, db, view)
        return await _slice(db, view, source, max(0, source.count - number), source.count)

    return await unless_lost(read)


async def messages_count(store: Store, db: Reads, view: View) -> int:
    """How many messages there are."""
    return (await unless_lost(lambda: opened(store, db, view))).count


async def messages_window(
    store: Store,
    db: Reads,
    view: View,
    *,
    max_tokens: int,
    count_tokens: CountTokens | None,
    keep_system: bool,
    start_on: str | None,
) -> list[BaseMessage]:
    """As many of the newest messages as fit into `max_tokens`, in their order.

    Raises:
        ConfigError: if the system message alone does not fit, or the channel holds no messages.
    """
    check_number("max_tokens", max_tokens)
    counted = count_tokens_approximately if count_tokens is None else count_tokens

    async def read() -> list[BaseMessage]:
        source = await opened(store, db, view)
        system = await _system(db, view, source) if keep_system else []
        if system and counted(system) > max_tokens:
            raise ConfigError(
                f"max_tokens={max_tokens} is not enough for the system message, which takes {counted(system)}"
            )
        found: list[BaseMessage] = []
        left = source.count
        size = _FIRST_READ
        while left > len(system) and await _fits(db, counted, system + found, max_tokens):
            start = max(len(system), left - size)
            found = await _slice(db, view, source, start, left) + found
            left, size = start, min(size * 2, LARGEST_READ)
        return system + await db.compute(
            partial(_weight, found), partial(_largest_end, found, system, counted, max_tokens, start_on)
        )

    return await unless_lost(read)


async def messages_stats(store: Store, db: Reads, view: View) -> ConversationStats:
    """Figures of all messages, which are read in pages: memory stays constant."""

    async def read() -> ConversationStats:
        source = await opened(store, db, view, dated=True)
        tally = _Tally(store)
        for start in range(0, source.count, LARGEST_READ):
            parts = await source.parts(db, start, min(source.count, start + LARGEST_READ))
            await db.compute(partial(_tallied, parts), partial(tally.add, view, start, parts))
        return tally.result()

    return await unless_lost(read)


# --- Where messages come from ---


async def opened(store: Store, db: Reads, view: View, *, dated: bool = False) -> Source:
    """The list that a view means.

    Args:
        dated: find the times of all messages, where that takes a look at other checkpoints.

    Raises:
        ConfigError: if the channel holds something else than a list.
    """
    spot = await db.read(partial(_find, store, view))
    if spot is None:
        return _Held([])
    if isinstance(spot.slot, Manifest) and spot.slot.kind == LIST:
        return ListedItems(store, view.channel, spot, spot.slot)
    read = partial(rebuilt, store, db, spot.address, view.channel, view.reducer, dated=dated)
    if spot.slot is None:
        return _Held(await read())
    stored = await value_at(store, db, view, spot, spot.slot)
    value = without_snapshot(stored)
    if not isinstance(value, (list, tuple)):
        raise not_a_list(view, value)
    if dated and value is not stored:
        return _Held(await read(own=only(spot.address, view.channel, spot.slot, spot.sealed)))
    return _Held([Part(one, 0, 0) for one in value])


def not_a_list(view: View, value: Any) -> ConfigError:
    """The error for a channel that holds something else than messages."""
    return ConfigError(
        f"channel {view.channel!r} holds a {type(value).__name__}, not a list of messages; "
        "say which channel does with channel="
    )


async def _find(store: Store, view: View, tx: Tx) -> Spot | None:
    """The checkpoint of a view; `None` if there is none, or nothing was ever written to the channel."""
    at = view.address
    if at.checkpoint_id is None:
        head = await tx.fetch("head", thread_id=at.thread_id, checkpoint_ns=at.checkpoint_ns)
        if not head:
            return None
        at = at._replace(checkpoint_id=head[0][0])
    for (sealed,) in await tx.fetch("slots", **at._asdict()):
        slots = slots_at(at, sealed)
        if view.channel in slots:
            return Spot(at, sealed, slots[view.channel])
    for loaded in await store.load_rows(tx, await fetch_where(tx, "page", at.conditions, limit=1)):
        if view.channel in loaded.slots:  # it is a foreign one
            return Spot(at, b"", loaded.slots[view.channel])
        read_already = loaded.checkpoint["channel_values"]
        if view.channel in read_already:
            return Spot(at, b"", Inline(values.encode(store.serde, read_already[view.channel])))
        if view.channel in loaded.checkpoint["channel_versions"]:
            return Spot(at, b"", None)
    return None


async def value_at(store: Store, db: Reads, view: View, spot: Spot, slot: Slot) -> Any:
    """The value of the channel, whatever it is."""
    one = only(spot.address, view.channel, slot, spot.sealed)
    look = await db.read(partial(_fetched, one))
    observing.read(look.weight)
    return (await db.compute(lambda: look.weight, partial(look.values, one, store.serde)))[view.channel]


async def _fetched(one: Loaded, tx: Tx) -> Look:
    look = Look({})
    await look.fetch(tx, [one])
    return look


class ListedItems:
    """A list whose elements are items: only those that are asked for are read."""

    def __init__(self, store: Store, channel: str, spot: Spot, manifest: Manifest) -> None:
        self._store, self._channel, self._spot, self.manifest = store, channel, spot, manifest
        self.count = sum(count for _, count in manifest.ranges)

    async def parts(self, db: Reads, start: int, stop: int) -> Sequence[Part]:
        return await self._parts(db, cut(self.manifest.ranges, start, stop))

    async def parts_at(self, db: Reads, places: Sequence[int]) -> Sequence[Part]:
        """The elements in these places."""
        return await self._parts(db, joined(one for at in places for one in cut(self.manifest.ranges, at, at + 1)))

    async def _parts(self, db: Reads, ranges: Iterable[Range]) -> Sequence[Part]:
        piece = self.manifest._replace(ranges=tuple(ranges))
        one = only(self._spot.address, self._channel, piece, self._spot.sealed)
        look = await db.read(partial(_fetched, one))
        observing.read(look.weight)
        return await db.compute(lambda: look.weight, partial(look.parts, one, self._channel, self._store.serde))

    def places(self, seqs: Iterable[int]) -> list[int]:
        """The places of those items that have one of these numbers."""
        wanted = sorted(set(seqs))
        found: list[int] = []
        place = 0
        for first, count in self.manifest.ranges:
            some = wanted[bisect_left(wanted, first) : bisect_left(wanted, first + count)]
            found += [place + seq - first for seq in some]
            place += count
        return found

    @property
    def place(self) -> tuple[str, str, str]:
        """The thread, namespace and channel of the items, as they are stored."""
        thread_id, ns, _ = self._spot.address
        return thread_id, ns or "", escape(self._channel)


class _Held:
    """A list that was read whole."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts, self.count = parts, len(parts)

    async def parts(self, db: Reads, start: int, stop: int) -> Sequence[Part]:
        return self._parts[start:stop]


def message_of(view: View, idx: int, element: Any) -> BaseMessage:
    """An element of the list as a message: it may be one already, or a pair of role and text, a dict, a text.

    Raises:
        ConfigError: if it is something else.
    """
    if isinstance(element, BaseMessage):
        return element
    try:
        [found] = convert_to_messages([element])
    except NO_MESSAGE as exc:
        raise ConfigError(
            f"element {idx} of channel {view.channel!r} is a {type(element).__name__}, not a message; "
            "say which channel holds messages with channel="
        ) from exc
    return found


def _messages(view: View, start: int, parts: Sequence[Part]) -> list[StoredMessage]:
    return [
        StoredMessage(idx, message_of(view, idx, part.value), moment(part.added_at))
        for idx, part in enumerate(parts, start)
    ]


async def _slice(db: Reads, view: View, source: Source, start: int, stop: int) -> list[BaseMessage]:
    if start >= stop:
        return []
    parts = await source.parts(db, start, stop)
    return [message_of(view, idx, part.value) for idx, part in enumerate(parts, start)]


# --- Token windows ---


async def _system(db: Reads, view: View, source: Source) -> list[BaseMessage]:
    """The system message that the list begins with, if it does."""
    first = await _slice(db, view, source, 0, min(1, source.count))
    return first if first and isinstance(first[0], SystemMessage) else []


async def _fits(db: Reads, counted: CountTokens, found: list[BaseMessage], max_tokens: int) -> bool:
    return not found or await db.compute(partial(_weight, found), partial(counted, found)) <= max_tokens


def _largest_end(
    found: list[BaseMessage],
    system: list[BaseMessage],
    counted: CountTokens,
    max_tokens: int,
    start_on: str | None,
) -> list[BaseMessage]:
    """The longest end of the messages found that fits beside the system message and begins where it may."""
    starts = _starts(found, start_on)
    low, high = 0, len(starts)  # fewer messages never count more
    while low < high:
        middle = (low + high) // 2
        if counted(system + found[starts[middle] :]) <= max_tokens:
            high = middle
        else:
            low = middle + 1
    return found[starts[low] :] if low < len(starts) else []


def _starts(found: list[BaseMessage], start_on: str | None) -> list[int]:
    """Where a window may begin, so that with every result of a tool there is the call that it answers."""
    unanswered: set[str] = set()
    starts: list[int] = []
    for at in range(len(found) - 1, -1, -1):
        message = found[at]
        if isinstance(message, ToolMessage):
            unanswered.add(message.tool_call_id)
        elif isinstance(message, AIMessage):
            unanswered.difference_update(call["id"] or "" for call in message.tool_calls)
        if not unanswered and (start_on is None or message.type == start_on):
            starts.append(at)
    return starts[::-1]


def _weight(found: list[BaseMessage]) -> int:
    return 200 * len(found) + sum(len(message.content) for message in found if isinstance(message.content, str))


# --- Figures ---


def _tallied(parts: Sequence[Part]) -> int:
    return 50 * len(parts)


class _Tally:
    """Adds up what there is to say of many messages."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = self._bytes = self._input = self._output = self._total = 0
        self._roles: dict[str, int] = {}
        self._times: list[int] = []

    def add(self, view: View, start: int, parts: Sequence[Part]) -> None:
        for idx, part in enumerate(parts, start):
            message = message_of(view, idx, part.value)
            role = message.role if isinstance(message, ChatMessage) else message.type
            self._roles[role] = self._roles.get(role, 0) + 1
            self._bytes += part.size or len(values.encode(self._store.serde, part.value))
            self._add_usage(getattr(message, "usage_metadata", None))
        times = [part.added_at for part in parts if part.added_at]
        self._times = [min(self._times + times), max(self._times + times)] if self._times + times else []
        self._count += len(parts)

    def _add_usage(self, usage: Mapping[str, Any] | None) -> None:
        if usage:
            self._input += usage.get("input_tokens") or 0
            self._output += usage.get("output_tokens") or 0
            self._total += usage.get("total_tokens") or 0

    def result(self) -> ConversationStats:
        first, final = (moment(time) for time in self._times or (0, 0))
        return ConversationStats(
            self._count, self._roles, self._input, self._output, self._total, first, final, self._bytes
        )


def check_number(name: str, value: object) -> int:
    """A number of things that is not negative.

    Raises:
        ConfigError: if it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} must be a non-negative int, not {value!r}")
    return value
