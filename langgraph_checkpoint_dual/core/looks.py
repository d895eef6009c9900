"""Reading items: what a look at some checkpoints fetches, and how their values are put together from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.checkpoints import Loaded
from langgraph_checkpoint_dual.core.garbage import unhurried
from langgraph_checkpoint_dual.core.items import (
    Decode,
    Inline,
    Manifest,
    Mark,
    Range,
    Stored,
    assemble,
    is_image,
    merged,
    part_of,
    value_of,
)
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.tx import Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.images import Copies, image, is_message, load

ShelfKey: TypeAlias = tuple[str, str, str]


class ItemLost(DecodeError):
    """An item that a checkpoint references is not there: it was removed since the checkpoint was read, or lost."""


class Known(NamedTuple):
    """What is known of one checkpoint: how each of its channels is stored. `weight` is in bytes of memory.

    It holds as long as the checkpoint is stored with just these (sealed) slots.
    """

    checkpoint_id: str
    slots: bytes
    channels: Mapping[str, Stored]
    weight: int


def known_of(checkpoint_id: str, slots: bytes, channels: Mapping[str, Stored]) -> Known:
    """`Known` with its weight."""
    weight = 500 + len(slots) + sum([stored.weight for stored in channels.values()])
    return Known(checkpoint_id, slots, channels, weight)


class Part(NamedTuple):
    """An element of a stored list: `added_at` is the time of the checkpoint that brought it, `size` its bytes."""

    value: Any
    added_at: int
    size: int


class _Shelf:
    """The items of one channel that a look has fetched or knows.

    Args:
        channel: the channel's name as stored, from which the checksums of its items start.
    """

    def __init__(self, channel: str) -> None:
        self.fetched: dict[int, Row] = {}
        """By number, rows of the `items` query."""
        self._start = values.place("item", channel)
        self._marks: dict[int, Mark] = {}
        self._raws: dict[bytes, bytes] = {}
        self._copies: dict[int, Copies] = {}

    @property
    def weight(self) -> int:
        """The bytes fetched."""
        return sum([len(row[4]) for row in self.fetched.values()])

    def know(self, stored: Stored) -> None:
        """Take over what is known of a value that is stored here."""
        if isinstance(stored.slot, Manifest) and stored.marks is not None:
            self._marks.update(zip(stored.slot.seqs, stored.marks, strict=True))
            self._raws.update(stored.raws)

    def missing(self, manifest: Manifest) -> Iterable[Range]:
        """The ranges of a manifest that are not known here."""
        if not self._marks:
            return manifest.ranges
        return [(seq, 1) for seq in manifest.seqs if seq not in self._marks]

    def read(self, slot: Manifest, serde: SerializerProtocol) -> tuple[Any, Stored]:
        """A value, anew, and what is known of it now."""
        known, decode, trusted = self._marks, partial(values.decode, serde), values.is_trusted(serde)
        parts: list[Any] = []
        marks: list[Mark] = []
        for seq in slot.seqs:
            mark = known.get(seq)
            if mark is None:
                part, mark = self._open(seq, decode, trusted)
                known[seq] = mark
            elif is_image(mark) and mark not in self._raws:
                copies = self._copies.get(seq)
                if copies is None:
                    copies = self._copies[seq] = Copies(mark)
                part = copies.one()
            else:
                part = part_of(mark, self._raws, decode)
            parts.append(part)
            marks.append(mark)
        raws = {mark: self._raws[mark] for mark in marks if is_image(mark) and mark in self._raws} if self._raws else {}
        return assemble(slot.kind, parts), Stored(slot, tuple(marks), raws)

    def parts(self, slot: Manifest, serde: SerializerProtocol) -> list[Part]:
        """The elements of a list whose items were all fetched."""
        decode, trusted = partial(values.decode, serde), values.is_trusted(serde)
        found: list[Part] = []
        for seq in slot.seqs:
            value, _ = self._open(seq, decode, trusted)
            _, _, added_at, _, typed = self.fetched[seq]
            found.append(Part(value, added_at, len(typed)))
        return found

    def _open(self, seq: int, decode: Decode, trusted: bool) -> tuple[Any, Mark]:
        """The part that a fetched item holds, and its mark."""
        found = self.fetched.get(seq)
        if found is None:
            raise ItemLost(f"item {seq} of the stored value is missing")
        _, _, added_at, checksum, typed = found
        if values.item_checksum(typed, self._start, seq, added_at) != checksum:
            raise DecodeError(f"item {seq} of the stored value is damaged: its checksum does not fit")
        if is_message(typed):
            message, mark = load(typed)
            return message, mark or (typed,)
        part = decode(typed)
        mark = image(part)
        if mark is not None and not trusted:
            self._raws[mark] = typed
        return part, mark or (typed,)


class Look:
    """Reads the channel values of some checkpoints, each item once, and none that is known.

    Args:
        known: by thread and namespace, checkpoints whose items need not be read. They must be stored as they are known
            when the look begins: then none of their items can have been replaced.
    """

    def __init__(self, known: Mapping[tuple[str, str], Known]) -> None:
        self._known = known
        self._shelves: dict[ShelfKey, _Shelf] = {}
        self._foreign = 0

    @property
    def weight(self) -> int:
        """About the bytes that reading the checkpoints decodes: what was fetched, and what is known."""
        fetched = sum(shelf.weight for shelf in self._shelves.values())
        return fetched + self._foreign + sum(known.weight for known in self._known.values())

    async def fetch(self, tx: Tx, checkpoints: Sequence[Loaded]) -> None:
        """Fetch the items of these checkpoints that are not known.

        Raises:
            ItemLost: if one of the checkpoints has changed since it was read, so that its items may have too.
        """
        self._foreign += sum(one.weight for one in checkpoints if not one.sealed_slots)
        checkpoints = [one for one in checkpoints if one.sealed_slots]
        wanted = {key: self._wanted(key, manifests) for key, manifests in self._manifests(checkpoints).items()}
        ranges = [(key, start, start + count - 1) for key, parts in wanted.items() for start, count in parts]
        if not ranges:
            return
        text = json.dumps([[*key[:2], escape(key[2]), first, last] for key, first, last in ranges])
        fetched = [self._shelves[key].fetched for key, _, _ in ranges]
        unchanged = 0
        places = json.dumps([one.address for one in checkpoints])
        for row in await tx.fetch("items", ranges=text, checkpoints=places):
            at, seq, _, _, data = row
            if at >= 0:
                fetched[at][seq] = row
            else:
                unchanged += data == checkpoints[seq].sealed_slots
        if unchanged != len(checkpoints):
            raise ItemLost("a checkpoint was removed or replaced while it was read")

    def values(self, loaded: Loaded, serde: SerializerProtocol) -> dict[str, Any]:
        """The channel values of a checkpoint whose items were fetched, as fresh objects."""
        return unhurried(partial(self._read, loaded, serde))[0]

    def read(self, loaded: Loaded, serde: SerializerProtocol) -> tuple[dict[str, Any], Known]:
        """The channel values of a checkpoint whose items were fetched, and what is now known of it."""
        found, channels = unhurried(partial(self._read, loaded, serde))
        return found, known_of(loaded.address.checkpoint_id or "", loaded.sealed_slots, channels)

    def _read(self, loaded: Loaded, serde: SerializerProtocol) -> tuple[dict[str, Any], dict[str, Stored]]:
        found: dict[str, Any] = {}
        channels: dict[str, Stored] = {}
        for channel in loaded.slots:
            with _told_where(loaded, channel):
                found[channel], channels[channel] = self._value(loaded, channel, serde)
        return found, channels

    def parts(self, loaded: Loaded, channel: str, serde: SerializerProtocol) -> list[Part]:
        """The elements of a list, in a checkpoint of which all items were fetched."""
        slot = loaded.slots[channel]
        assert isinstance(slot, Manifest)
        with _told_where(loaded, channel):
            return unhurried(partial(self._shelves[_key(loaded, channel)].parts, slot, serde)) if slot.ranges else []

    def _value(self, loaded: Loaded, channel: str, serde: SerializerProtocol) -> tuple[Any, Stored]:
        slot = loaded.slots[channel]
        if isinstance(slot, Inline):
            value = values.decode(serde, slot.data)
            return value, Stored(slot, scalar=value)
        key = _key(loaded, channel)
        known = self._stored(key)
        if known is not None and known.slot == slot and known.marks is not None:
            return value_of(known, partial(values.decode, serde)), known
        return self._shelves[key].read(slot, serde)

    def _wanted(self, key: ShelfKey, manifests: list[Manifest]) -> list[Range]:
        known = self._stored(key)
        if known is not None and all(manifest == known.slot for manifest in manifests):
            return []
        shelf = self._shelves.setdefault(key, _Shelf(escape(key[2])))
        if known is not None:
            shelf.know(known)
        return merged(part for manifest in manifests for part in shelf.missing(manifest))

    def _manifests(self, checkpoints: Iterable[Loaded]) -> dict[ShelfKey, list[Manifest]]:
        found: dict[ShelfKey, list[Manifest]] = {}
        for loaded in checkpoints:
            for channel, slot in loaded.slots.items():
                if isinstance(slot, Manifest):
                    found.setdefault(_key(loaded, channel), []).append(slot)
        return found

    def _stored(self, key: ShelfKey) -> Stored | None:
        known = self._known.get(key[:2])
        stored = known.channels.get(key[2]) if known else None
        return stored if stored is not None and stored.marks is not None else None


@contextmanager
def _told_where(loaded: Loaded, channel: str) -> Iterator[None]:
    """Adds the place of a value to what goes wrong while it is read."""
    try:
        yield
    except DecodeError as exc:
        raise exc.at(**loaded.address.where, channel=channel) from exc
    except (ValueError, TypeError, KeyError, IndexError) as exc:
        where = {**loaded.address.where, "channel": channel}
        raise DecodeError(f"the stored value is damaged: {exc}", **where) from exc


def _key(loaded: Loaded, channel: str) -> ShelfKey:
    return loaded.address.thread_id, loaded.address.checkpoint_ns or "", channel
