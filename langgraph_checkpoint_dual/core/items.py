"""Channel values as items: what makes a step cost what it changed.

The contract:

1. The value of a channel is either *inline* (a few bytes, in the checkpoint's own row) or made of *items*: immutable,
   numbered rows. A list has an item for each element, a large dict one for each entry, any other large value is a
   single item. The checkpoint holds only the *manifest*, the ranges of item numbers in order.
2. Which elements are already stored is known from the *marks* of the checkpoint that a put starts from, its base:
   one for each item. The mark of a plain element is its image (`images.image`), which changes with any
   change of the element, at any depth, in value or in type; the mark of any other element is its serialised form.
   Equal marks therefore mean equal stored values. What cannot be proven unchanged is serialised and compared.
   Images are kept in blocks (`images.Block`), which are compared, revived and taken over as a whole.
3. A put uses again only items of its base, so whoever removes items that no checkpoint references is safe as long
   as the base still exists when the put is stored.
4. Numbers continue after the highest that the base's value ever had; a value without a base starts at a number that
   comes from its bytes. Two branches that continue from one base take the same numbers: the database refuses the
   second, which then starts at a random number. Numbers are never given twice to different data while a checkpoint
   that references them exists.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import ormsgpack
from langchain_core.messages import BaseMessage
from typing_extensions import TypeIs

from langgraph_checkpoint_dual.core.tags import hash_of_id, id_hash_of
from langgraph_checkpoint_dual.core.turns import give_way
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.images import (
    AT_ONCE,
    Block,
    faithful,
    have_images,
    image,
    images,
    revive,
    revive_all,
    stored_fields,
)

WHOLE, LIST, DICT = 0, 1, 2
INLINE_BYTES = 160
"""Values up to this size are stored in the checkpoint's row: about what a row of their own would cost in keys."""
DICT_ENTRIES = 16
"""Dicts with fewer entries are stored whole."""
_SMALL_ELEMENT = 32
_MANY_RANGES = 64
_FEW = 8
_RANDOM_BITS = 46
_NO_RAWS: Mapping[bytes, bytes] = MappingProxyType({})
NO_SCALAR = object()
_IMMUTABLE = frozenset((str, int, float, bool, bytes, type(None)))

Encode: TypeAlias = Callable[[Any], bytes]
Decode: TypeAlias = Callable[[bytes], Any]
Range: TypeAlias = tuple[int, int]
Mark: TypeAlias = "bytes | tuple[bytes]"
"""An image, or in a tuple the typed bytes of a part that has none."""


class Inline(NamedTuple):
    """A small value, as typed bytes."""

    data: bytes


class Manifest(NamedTuple):
    """The items of a value: ranges of (first number, count), in order, and the number that the next new item gets.

    `check` is a checksum over all items that ever were new in the value's ancestry, so that equal manifests mean equal
    items even if a thread was removed and made again.
    """

    kind: int
    next: int
    check: int
    ranges: tuple[Range, ...]

    @property
    def seqs(self) -> list[int]:
        """The item numbers, in order."""
        return numbers(self.ranges)


Slot: TypeAlias = Inline | Manifest


class Loose:
    """The marks of elements that follow one another, any of them, where a `Block` cannot have them. Never changed."""

    __slots__ = ("marks", "weight")

    def __init__(self, marks: tuple[Mark, ...]) -> None:
        self.marks = marks
        longer = 0 if are_images(marks) else sum([len(mark[0]) for mark in marks if not is_image(mark)])
        self.weight = 100 + 48 * len(marks) + sum(map(len, marks)) + longer
        """About the bytes of memory that they take."""

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether these are the images of these values."""
        if len(values) != len(self.marks):
            return False
        return have_images(values, self.marks) or tuple(map(image, values)) == self.marks

    def find(self, mark: Mark) -> int | None:
        """The place of the first element with this mark; `None` if there is none."""
        return self.marks.index(mark) if mark in self.marks else None


Group: TypeAlias = Block | Loose


def marks_of(groups: Iterable[Group]) -> tuple[Mark, ...]:
    """The marks in these groups, in order."""
    found: list[Mark] = []
    for group in groups:
        found += group.images() if isinstance(group, Block) else group.marks
    return tuple(found)


def size_of(group: Group) -> int:
    """How many elements a group is about: a block is always full."""
    return AT_ONCE if isinstance(group, Block) else len(group.marks)


def grouped(kept: Sequence[Group], marks: Sequence[Mark]) -> tuple[Group, ...]:
    """These groups, and after them these marks in groups."""
    groups = list(kept)
    if groups and marks and isinstance(last := groups[-1], Loose) and len(last.marks) < AT_ONCE:
        groups.pop()
        marks = (*last.marks, *marks)
    return (*groups, *(Loose(tuple(marks[at : at + AT_ONCE])) for at in range(0, len(marks), AT_ONCE)))


class Stored:
    """The value of a channel in one checkpoint, as far as it is known here. Never changed.

    Attributes:
        slot: how it is stored.
        groups: the marks of all items, in order; `None` if they are not known.
        raws: the typed bytes of the items whose images are not `faithful`, by image.
        scalar: the value itself, if it is a small text, number, ..., which cannot change; `NO_SCALAR` for all others.
        weight: about the bytes of memory that this takes.
    """

    __slots__ = ("groups", "raws", "scalar", "slot", "weight")

    def __init__(
        self,
        slot: Slot,
        groups: tuple[Group, ...] | None = None,
        raws: Mapping[bytes, bytes] = _NO_RAWS,
        *,
        scalar: Any = NO_SCALAR,
    ) -> None:
        self.slot, self.groups, self.raws = slot, groups, raws
        self.scalar = scalar if type(scalar) in _IMMUTABLE else NO_SCALAR
        self.weight = 400 + 2 * len(slot.data) if isinstance(slot, Inline) else self._weight_of_items(slot)

    def _weight_of_items(self, slot: Manifest) -> int:
        total = sum([group.weight for group in self.groups or ()])
        return 300 + total + 100 * len(slot.ranges) + sum(map(len, self.raws.values()))

    def holds(self, value: Any) -> bool:
        """Whether this is known to be stored of just this value, without encoding it: a small text, number, ..."""
        scalar = self.scalar
        # 0.0 == -0.0, so of floats only the same object will do.
        return scalar is value or (type(value) is type(scalar) is not float and scalar == value)


NewItem: TypeAlias = "tuple[int, int | None, bytes]"
"""The number, the hash of its id if it is a message with one, and the typed bytes."""


class Planned(NamedTuple):
    """How a value will be stored: what will then be known of it, the new items, and whether it uses its base's."""

    stored: Stored
    items: list[NewItem]
    reuses: bool


def pack_slots(slots: dict[str, Slot]) -> bytes:
    """The slots of a checkpoint as bytes; numbers are relative to `next`, which keeps them short."""
    return ormsgpack.packb(
        {channel: slot.data if isinstance(slot, Inline) else _flat(slot) for channel, slot in slots.items()}
    )


def unpack_slots(packed: bytes) -> dict[str, Slot]:
    """The slots of `pack_slots`."""
    slots: dict[str, Slot] = {}
    for channel, slot in ormsgpack.unpackb(packed).items():
        if type(slot) is bytes:
            slots[channel] = _inline((slot,))
        elif len(slot) == 5:  # one range, as most have
            kind, upper, check, back, count = slot
            slots[channel] = Manifest(kind, upper, check, ((upper - back, count),))
        else:
            kind, upper, check, *flat = slot
            ranges = tuple((upper - back, count) for back, count in zip(flat[::2], flat[1::2], strict=True))
            slots[channel] = Manifest(kind, upper, check, ranges)
    return slots


_inline: Callable[[tuple[bytes]], Inline] = partial(tuple.__new__, Inline)  # half the time of calling the class


def _flat(manifest: Manifest) -> list[int]:
    kind, upper, check, ranges = manifest
    found = [kind, upper, check]
    for start, count in ranges:
        found += (upper - start, count)
    return found


class Planner:
    """Plans how the values of one checkpoint are stored.

    Args:
        encode: a value to typed bytes; what it raises passes through.
        trusted: whether the serializer is known to give what `images.revive` gives for `images.faithful` values.
        direct: whether messages may be stored as their images, past the serializer.
        fresh: start all new items at random numbers (after others took the next ones).
    """

    def __init__(self, encode: Encode, *, trusted: bool, direct: bool = False, fresh: bool = False) -> None:
        self._encode, self._trusted, self._direct, self._fresh = encode, trusted, direct, fresh

    def plan(self, value: Any, base: Stored | None) -> Planned:
        """Plan a value of which the base checkpoint stores `base`."""
        if type(value) is list and value and not (_scalar(value[0]) and _scalar(value[-1])):
            return self._plan_parts(LIST, value, value, base)
        if type(value) is dict and len(value) >= DICT_ENTRIES and all(type(key) is str for key in value):
            return self._plan_parts(DICT, value, [list(entry) for entry in value.items()], base)
        return self._plan_whole(value, base)

    def _plan_whole(self, value: Any, base: Stored | None) -> Planned:
        encoded: bytes | None = None
        if base is None or isinstance(base.slot, Inline):
            encoded = self._encode(value)
            if base is not None and base.slot == (encoded,):
                return Planned(base, [], False)
            if len(encoded) <= INLINE_BYTES:
                return Planned(Stored(Inline(encoded), scalar=value), [], False)
        before = _items_of(base, WHOLE)
        mark = self._mark(value, encoded)
        if base is not None and before is not None and marks_of(base.groups or ()) == (mark,):
            return Planned(base, [], True)
        mark, typed, id_hash, revivable = self._made(value, mark)
        if len(typed) <= INLINE_BYTES:
            return Planned(Stored(Inline(typed)), [], False)
        start = _first_number([typed], before, fresh=self._fresh)
        check = crc32(typed, before.check if before else 0)
        raws = {mark: typed} if is_image(mark) and not revivable else _NO_RAWS
        stored = Stored(Manifest(WHOLE, start + 1, check, ((start, 1),)), (Loose((mark,)),), raws)
        return Planned(stored, [(start, id_hash, typed)], False)

    def _plan_parts(self, kind: int, value: Any, parts: Sequence[Any], base: Stored | None) -> Planned:
        numbering = _Numbering(kind, base, fresh=self._fresh)
        held = numbering.held(parts)
        kept = numbering.use_all(held)
        if kept == len(parts) and base is not None:
            return Planned(base, [], True)
        for part, found in zip(parts[kept:], numbering.images(parts, held, kept), strict=True):
            self._place(part, found, numbering)
            give_way()
        small = numbering.size <= max(INLINE_BYTES, _SMALL_ELEMENT * len(parts))
        # Messages are always items: each has its time, and is found.
        if small and not numbering.reuses and not isinstance(parts[0], BaseMessage):
            return self._plan_whole(value, base)
        if numbering.scattered:
            return self._plan_parts(kind, value, parts, None)
        return numbering.result()

    def _place(self, part: Any, found: bytes | None, numbering: _Numbering) -> None:
        """Give a part, with its image, its item: that of the base with an equal mark, or a new one."""
        mark = self._mark(part) if found is None else found
        if not numbering.use(mark):
            numbering.add(*self._made(part, mark))

    def _mark(self, part: Any, encoded: bytes | None = None) -> Mark:
        found = image(part)
        return (encoded or self._encode(part),) if found is None else found

    def _made(self, part: Any, mark: Mark) -> tuple[Mark, bytes, int | None, bool]:
        """A new item: its mark, its typed bytes, the hash of its id, and whether its image is enough to revive it."""
        if type(part) in _IMMUTABLE and is_image(mark):
            return mark, self._encode(part), None, self._trusted
        if not is_image(mark):
            return mark, mark[0], id_hash_of(part), True
        if self._direct and (fields := stored_fields(mark)) is not None:
            return mark, mark, None if fields["id"] is None else hash_of_id(fields["id"]), True
        typed, id_hash = self._encode(part), id_hash_of(part)
        if image(part) == mark:
            return mark, typed, id_hash, self._trusted and faithful(mark)
        # Another thread has changed the part meanwhile: its image proves nothing of what is stored.
        typed = self._encode(part)
        return (typed,), typed, id_hash_of(part), True

    def edit(self, before: Manifest, ranges: Iterable[Range], parts: Sequence[Any]) -> Planned:
        """Plan an edit of a stored list, whatever its elements are.

        Args:
            before: the items of the list as it is stored.
            ranges: what there will be, in order; a range that begins at -n stands for the n-th new part.
            parts: the new parts.
        """
        new = [self._typed(part) for part in parts]
        start = random.getrandbits(_RANDOM_BITS) if self._fresh else before.next
        check = before.check
        for typed in new:
            check = crc32(typed, check)
        placed = joined((first if first >= 0 else start - 1 - first, count) for first, count in ranges)
        manifest = Manifest(before.kind, start + len(new), check, placed)
        return Planned(Stored(manifest), _numbered(start, map(id_hash_of, parts), new), True)

    def _typed(self, part: Any) -> bytes:
        mark = image(part) if self._direct else None
        return self._encode(part) if mark is None or stored_fields(mark) is None else mark


class _Numbering:
    """The item numbers of one value, while they are given out. New items have negative numbers until the end."""

    def __init__(self, kind: int, base: Stored | None, *, fresh: bool) -> None:
        self.kind, self.size, self.reuses = kind, 0, False
        self.new: list[bytes] = []
        self._id_hashes: list[int | None] = []
        self._groups: tuple[Group, ...] = ()  # the marks of the base's items, if their numbers may be used again
        self._kept = 0  # how many of them are the first ones here; what follows is about all others
        self._seqs: list[int] = []
        self._marks: list[Mark] = []
        self._raws: dict[bytes, bytes] = {}
        self._fresh = fresh
        self._before = _items_of(base, kind)
        self._old_raws: Mapping[bytes, bytes] = {}
        if base is not None and self._before is not None:
            self._old_raws, self._groups = base.raws, base.groups or ()
        self._count = sum(map(size_of, self._groups))
        self._added: dict[Mark, int] = {}
        self._finds = 0

    @cached_property
    def _expected(self) -> tuple[Mark, ...]:
        return marks_of(self._groups)

    @cached_property
    def _old_seqs(self) -> list[int]:
        return self._before.seqs if self._before else []

    @cached_property
    def _index(self) -> dict[Mark, int]:
        return {**dict(zip(self._expected, self._old_seqs, strict=True)), **self._added}

    def _find(self, mark: Mark) -> int | None:
        """The number of an item with this mark. To look for a few, as those at the end of a chat, needs no index."""
        self._finds += 1
        if self._finds > _FEW:
            return self._index.get(mark)
        if mark in self._added:
            return self._added[mark]
        before = 0
        for group in self._groups:
            at = group.find(mark)
            if at is not None:
                return self._old_seqs[before + at]
            before += size_of(group)
        return None

    @property
    def scattered(self) -> bool:
        """Whether the value is in so many ranges that storing it again in one is worth it."""
        many = max(_MANY_RANGES, (self._kept + len(self._seqs)) // 8)
        if not self.reuses or len(self._kept_ranges) + len(self._seqs) <= many:
            return False
        new = 1 << (_RANDOM_BITS + 2)  # the new items will have numbers in a row
        return len(self._all_ranges(seq if seq >= 0 else new - seq for seq in self._seqs)) > many

    def held(self, parts: Sequence[Any]) -> list[bool]:
        """For each group of the base's marks, whether the parts in its place have these images."""
        ends = accumulate(map(size_of, self._groups), initial=0)
        held: list[bool] = []
        for group, (low, high) in zip(self._groups, pairwise(ends), strict=True):
            held.append(group.holds(parts[low:high]))
            give_way()
        return held

    def use_all(self, held: Sequence[bool]) -> int:
        """Use all items of the base again, if the first parts have their images; how many parts that were."""
        if not held or not all(held):
            return 0
        self._kept, self._raws, self.reuses = self._count, dict(self._old_raws), True
        return self._kept

    def images(self, parts: Sequence[Any], held: Sequence[bool], kept: int) -> list[bytes | None]:
        """The images of the parts after the kept ones; those that are held need not be made again."""
        if kept:
            return _images(parts[kept:])
        found: list[bytes | None] = []
        for group, same in zip(self._groups, held, strict=True):
            if same and isinstance(group, Block):
                found += group.images()
            else:
                found += images(parts[len(found) : len(found) + size_of(group)], marks_of([group]))
            give_way()
        return found + _images(parts[len(found) :])

    def use(self, mark: Mark) -> bool:
        """Use the item with this mark again, if there is one."""
        at = self._kept + len(self._marks)
        if at < self._count and mark == self._expected[at]:  # in its old place, as most are: no hash is needed
            mark, seq = self._expected[at], self._old_seqs[at]
        else:
            found = self._find(mark)
            if found is None:
                return False
            seq = found
        self._seqs.append(seq)
        self._marks.append(mark)
        self.reuses = self.reuses or seq >= 0
        if is_image(mark) and mark in self._old_raws:
            self._raws[mark] = self._old_raws[mark]
        return True

    def add(self, mark: Mark, typed: bytes, id_hash: int | None, revivable: bool) -> None:
        """Make a new item."""
        self.new.append(typed)
        self._id_hashes.append(id_hash)
        self._added[mark] = -len(self.new)
        if self._finds > _FEW:
            self._index[mark] = -len(self.new)
        self._seqs.append(-len(self.new))
        self._marks.append(mark)
        self.size += len(typed)
        if is_image(mark) and not revivable:
            self._raws[mark] = typed

    def result(self) -> Planned:
        """The plan, once all parts have their items."""
        check = self._before.check if self._before else 0
        for typed in self.new:
            check = crc32(typed, check)
            give_way()
        start = _first_number(self.new, self._before, fresh=self._fresh)
        ranges = self._all_ranges(seq if seq >= 0 else start - 1 - seq for seq in self._seqs)
        manifest = Manifest(self.kind, start + len(self.new), check, ranges)
        groups = grouped(self._groups if self._kept else (), self._marks)
        stored = Stored(manifest, groups, self._raws)
        return Planned(stored, _numbered(start, self._id_hashes, self.new), self.reuses)

    def _all_ranges(self, seqs: Iterable[int]) -> tuple[Range, ...]:
        """The ranges of what is kept, and of these numbers after it."""
        return joined((*self._kept_ranges, *[(seq, 1) for seq in seqs]))

    @property
    def _kept_ranges(self) -> tuple[Range, ...]:
        return self._before.ranges if self._before and self._kept else ()


def _images(parts: Sequence[Any]) -> list[bytes | None]:
    found: list[bytes | None] = []
    for start in range(0, len(parts), AT_ONCE):
        found += map(image, parts[start : start + AT_ONCE])
        give_way()
    return found


def _items_of(base: Stored | None, kind: int) -> Manifest | None:
    """How a value is stored, if its items may be used again for one of this kind."""
    if base is None or base.groups is None or not isinstance(base.slot, Manifest):
        return None
    return base.slot if base.slot.kind == kind else None


def _first_number(new: Iterable[bytes], before: Manifest | None, *, fresh: bool) -> int:
    """The number of the first new item.

    Without a base it comes from the items' bytes: a put that is repeated finds its own numbers taken by itself.
    """
    if fresh:
        return random.getrandbits(_RANDOM_BITS)
    if before is not None:
        return before.next
    digest = blake2b(digest_size=8)
    for typed in new:
        digest.update(typed)
        give_way()
    return int.from_bytes(digest.digest(), "big") >> (64 - _RANDOM_BITS)


def _numbered(start: int, id_hashes: Iterable[int | None], new: Sequence[bytes]) -> list[NewItem]:
    return list(zip(range(start, start + len(new)), id_hashes, new, strict=True))


def value_of(stored: Stored, decode: Decode) -> tuple[Any, Stored]:
    """A value whose marks are known, anew: it shares nothing mutable with any other copy.

    Returns:
        The value, and what is known of it, in the form in which it is read and compared more quickly again.
    """
    slot = stored.slot
    if isinstance(slot, Inline):
        return decode(slot.data), stored
    parts: list[Any] = []
    groups: list[Group] = []
    for group in stored.groups or ():
        some, group = _revived(group, stored.raws, decode)
        parts += some
        groups.append(group)
        give_way()
    if tuple(groups) != stored.groups:
        stored = Stored(slot, tuple(groups), stored.raws)
    return assemble(slot.kind, parts), stored


def _revived(group: Group, raws: Mapping[bytes, bytes], decode: Decode) -> tuple[list[Any], Group]:
    """The parts of a group, anew, and if it can be one their block."""
    if isinstance(group, Block):
        return group.revive(), group
    parts = parts_of(group.marks, raws, decode)
    if len(group.marks) == AT_ONCE and not raws and are_images(group.marks):
        return parts, Block.of(parts) or group
    return parts, group


def parts_of(marks: Sequence[Mark], raws: Mapping[bytes, bytes], decode: Decode) -> list[Any]:
    """The parts that have these marks, anew."""
    if not raws and are_images(marks):
        return revive_all(marks)
    return [part_of(mark, raws, decode) for mark in marks]


def part_of(mark: Mark, raws: Mapping[bytes, bytes], decode: Decode) -> Any:
    """The part that has this mark, anew."""
    if not is_image(mark):
        return decode(mark[0])
    return decode(raws[mark]) if mark in raws else revive(mark)


def assemble(kind: int, parts: list[Any]) -> Any:
    """The value that consists of these parts.

    Raises:
        DecodeError: if the kind is unknown, which only a newer or damaged database has.
    """
    if kind == LIST:
        return parts
    if kind == DICT:
        return dict(parts)
    if kind == WHOLE and len(parts) == 1:
        return parts[0]
    raise DecodeError(f"a value of the unknown kind {kind} with {len(parts)} items")


def is_image(mark: Mark) -> TypeIs[bytes]:
    """Whether a mark is an image."""
    return type(mark) is bytes


def are_images(marks: Sequence[Mark]) -> TypeIs[Sequence[bytes]]:
    """Whether all of these marks are images."""
    return tuple not in set(map(type, marks))


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in as few ranges as possible."""
    found: list[Range] = []
    for start, count in sorted(ranges):
        if found and start <= sum(found[-1]):
            first, held = found[-1]
            found[-1] = (first, max(held, start + count - first))
        else:
            found.append((start, count))
    return found


def numbers(ranges: Iterable[Range]) -> list[int]:
    """The item numbers of these ranges, in order."""
    return [seq for start, count in ranges for seq in range(start, start + count)]


def cut(ranges: Iterable[Range], start: int, stop: int) -> list[Range]:
    """The ranges of the items in these places of a list."""
    found: list[Range] = []
    place = 0
    for first, count in ranges:
        low, high = max(start, place), min(stop, place + count)
        if low < high:
            found.append((first + low - place, high - low))
        place += count
    return found


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers in the same order, in as few ranges as possible."""
    found: list[Range] = []
    end = None
    for start, count in ranges:
        if start == end:
            first, held = found[-1]
            found[-1] = (first, held + count)
        else:
            found.append((start, count))
        end = start + count
    return tuple(found)


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) < 64)
