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
    NO_SCALAR,
    Decode,
    Group,
    Inline,
    Loose,
    Manifest,
    Mark,
    Range,
    Stored,
    are_images,
    assemble,
    grouped,
    is_image,
    marks_of,
    merged,
    part_of,
    parts_of,
    value_of,
)
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.core.turns import give_way
from langgraph_checkpoint_dual.core.tx import Row, Tx
from langgraph_checkpoint_dual.encryption import refuses_plaintext
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.images import AT_ONCE, Copies, image, is_message, load, load_all

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
        self.weight = 0
        """The bytes fetched."""
        self._start = values.place("item", channel)
        self._marks: dict[int, Mark] = {}
        self._raws: dict[bytes, bytes] = {}
        self._copies: dict[int, Copies] = {}
        self._read: Stored | None = None  # what was read at once, whose rows are gone

    def know(self, stored: Stored) -> None:
        """Take over what is known of a value that is stored here."""
        if isinstance(stored.slot, Manifest) and stored.groups is not None:
            self._marks.update(zip(stored.slot.seqs, marks_of(stored.groups), strict=True))
            self._raws.update(stored.raws)

    def missing(self, manifest: Manifest) -> Iterable[Range]:
        """The ranges of a manifest that are not known here."""
        if not self._marks:
            return manifest.ranges
        return [(seq, 1) for seq in manifest.seqs if seq not in self._marks]

    def read(self, slot: Manifest, serde: SerializerProtocol, *, again: bool) -> tuple[Any, Stored]:
        """A value, anew, and what is known of it now.

        Args:
            again: whether many of its items are read more than once.
        """
        if self._read is not None and self._read.slot == slot:
            return value_of(self._read, partial(values.decode, serde))
        seqs = slot.seqs
        if not self._marks and not again and len(set(seqs)) == len(seqs):
            return self._read_at_once(slot, seqs, serde)
        opened = self._open_all([seq for seq in seqs if seq not in self._marks], serde)
        marks = list(map(self._marks.__getitem__, seqs))
        raws = {mark: self._raws[mark] for mark in marks if is_image(mark) and mark in self._raws} if self._raws else {}
        decode = partial(values.decode, serde)
        if len(opened) == len(seqs):  # in the same order, and none twice
            parts = list(opened.values())
        elif not opened and not again:
            parts = parts_of(marks, raws, decode)
        elif not opened and not raws and are_images(marks):
            parts = Copies.one_of_each(list(map(self._copies_of, seqs, marks)))
        else:
            parts = [
                opened.pop(seq) if seq in opened else self._copy(seq, mark, decode)
                for seq, mark in zip(seqs, marks, strict=True)
            ]
        groups = (Loose(tuple(marks)),) if again else grouped((), marks)
        return assemble(slot.kind, parts), Stored(slot, groups, raws)

    def _read_at_once(self, slot: Manifest, seqs: Sequence[int], serde: SerializerProtocol) -> tuple[Any, Stored]:
        """As `read`, of items of which none is known, and none is there twice."""
        parts: list[Any] = []
        groups: list[Group] = []
        for start in range(0, len(seqs), AT_ONCE):
            some = seqs[start : start + AT_ONCE]
            found, group = self._open_some(self._take(some), serde)
            parts += found
            groups.append(group)
            for seq in some:  # so that memory is used again rather than taken anew
                del self.fetched[seq]
            give_way()
        self._read = Stored(slot, tuple(groups), dict(self._raws))
        return assemble(slot.kind, parts), self._read

    def _copy(self, seq: int, mark: Mark, decode: Decode) -> Any:
        if not is_image(mark) or mark in self._raws:
            return part_of(mark, self._raws, decode)
        return self._copies_of(seq, mark).one()

    def _copies_of(self, seq: int, image: bytes) -> Copies:
        copies = self._copies.get(seq)
        if copies is None:
            copies = self._copies[seq] = Copies(image)
        return copies

    def parts(self, slot: Manifest, serde: SerializerProtocol) -> list[Part]:
        """The elements of a list whose items were all fetched."""
        trusted = values.is_trusted(serde)
        found: list[Part] = []
        for seq, typed in zip(slot.seqs, self._take(slot.seqs), strict=True):
            value, _ = self._open(typed, serde, trusted)
            found.append(Part(value, self.fetched[seq][2], len(typed)))
        return found

    def _open_all(self, seqs: Iterable[int], serde: SerializerProtocol) -> dict[int, Any]:
        """The parts that fetched items hold, by number; their marks are known then, and the rows are let go."""
        opened: dict[int, Any] = {}
        numbers = list(dict.fromkeys(seqs))
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            parts, group = self._open_some(self._take(some), serde)
            opened.update(zip(some, parts, strict=True))
            self._marks.update(zip(some, group.marks, strict=True))
            for seq in some:
                del self.fetched[seq]
            give_way()
        return opened

    def _open_some(self, typed: list[bytes], serde: SerializerProtocol) -> tuple[list[Any], Loose]:
        """The parts that a few items hold, and their marks."""
        messages = load_all(typed) if is_message(typed[0]) and not refuses_plaintext(serde) else None
        if messages is not None:
            return messages, Loose(tuple(typed))
        trusted = values.is_trusted(serde)
        opened = [self._open(one, serde, trusted) for one in typed]
        return [part for part, _ in opened], Loose(tuple([mark for _, mark in opened]))

    def _take(self, seqs: Sequence[int]) -> list[bytes]:
        """The typed bytes of fetched items."""
        rows = [row for seq in seqs if (row := self.fetched.get(seq)) is not None]
        if len(rows) == len(seqs):
            _, numbers, times, checksums, typed = zip(*rows, strict=True)
            if values.item_checksums(typed, self._start, numbers, times) == list(checksums):
                return list(map(bytes, typed))
        return list(map(self._checked, seqs))  # one by one, to say which

    def _checked(self, seq: int) -> bytes:
        """The typed bytes of a fetched item."""
        found = self.fetched.get(seq)
        if found is None:
            raise ItemLost(f"item {seq} of the stored value is missing")
        _, _, added_at, checksum, typed = found
        if not values.is_item(checksum, typed, self._start, seq, added_at):
            raise DecodeError(f"item {seq} of the stored value {values.unfit(checksum)}")
        return bytes(typed)

    def _open(self, typed: bytes, serde: SerializerProtocol, trusted: bool) -> tuple[Any, Mark]:
        """The part that an item holds, and its mark."""
        if is_message(typed) and not refuses_plaintext(serde):
            message, mark = load(typed)
            return message, mark or (typed,)
        part = values.decode(serde, typed)
        mark = image(part)
        if mark is not None and not trusted:
            self._raws[mark] = typed
        return part, mark or (typed,)


def _put_away(rows: Iterable[Row], shelves: Sequence[_Shelf], checkpoints: Sequence[Loaded]) -> int:
    """Put rows of the `items` query on their shelves; how many of the checkpoints are still stored as they were."""
    unchanged = 0
    for row in rows:
        at, seq, _, _, data = row
        if at >= 0:
            shelves[at].fetched[seq] = row
            shelves[at].weight += len(data)
        else:
            unchanged += data == checkpoints[seq].sealed_slots
        give_way()
    return unchanged


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
        self._many = False

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
        self._many = len(checkpoints) > 1
        self._foreign += sum(one.weight for one in checkpoints if not one.sealed_slots)
        checkpoints = [one for one in checkpoints if one.sealed_slots]
        wanted = {key: self._wanted(key, manifests) for key, manifests in self._manifests(checkpoints).items()}
        ranges = [(key, start, start + count - 1) for key, parts in wanted.items() for start, count in parts]
        if not ranges:
            return
        text = json.dumps([[*key[:2], escape(key[2]), first, last] for key, first, last in ranges])
        shelves = [self._shelves[key] for key, _, _ in ranges]
        places = json.dumps([one.address for one in checkpoints])
        rows = await tx.fetch("items", ranges=text, checkpoints=places)
        unchanged = await tx.compute(lambda: 100 * len(rows), partial(_put_away, rows, shelves, checkpoints))
        if unchanged != len(checkpoints):
            raise ItemLost("a checkpoint was removed or replaced while it was read")

    def values(self, loaded: Loaded, serde: SerializerProtocol) -> dict[str, Any]:
        """The channel values of a checkpoint whose items were fetched, as fresh objects."""
        return unhurried(partial(self._read, loaded, serde))[0]

    def read(self, loaded: Loaded, serde: SerializerProtocol) -> tuple[dict[str, Any], Known]:
        """The channel values of a checkpoint whose items were fetched, and what is now known of it."""
        found, channels = unhurried(partial(self._read, loaded, serde))
        return found, known_of(loaded.address.checkpoint_id or "", loaded.sealed_slots, channels)

    def let_go(self) -> None:
        """Forget what was fetched and known, once all is read."""
        self._known, self._shelves = {}, {}

    def _read(self, loaded: Loaded, serde: SerializerProtocol) -> tuple[dict[str, Any], dict[str, Stored]]:
        found: dict[str, Any] = {}
        channels = self._scalars(loaded, serde)
        for channel in loaded.slots:
            if (scalar := channels.get(channel)) is not None:
                found[channel] = scalar.scalar
                continue
            with _told_where(loaded, channel):
                found[channel], channels[channel] = self._value(loaded, channel, serde)
        return found, channels

    def _scalars(self, loaded: Loaded, serde: SerializerProtocol) -> dict[str, Stored]:
        """The channels whose value is known to be a small text, number, ..., which needs no decoding."""
        known = self._known.get(_key(loaded, "")[:2])
        if known is None or not values.is_trusted(serde):
            return {}
        channels = known.channels
        return {
            channel: stored
            for channel, slot in loaded.slots.items()
            if (stored := channels.get(channel)) is not None and stored.scalar is not NO_SCALAR and stored.slot == slot
        }

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
        if known is not None and known.slot == slot and known.groups is not None:
            return value_of(known, partial(values.decode, serde))
        return self._shelves[key].read(slot, serde, again=self._many)

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
        return stored if stored is not None and stored.groups is not None else None


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
