"""What differs between two checkpoints: by channel, element by element, and inside of messages field by field.

Items that both checkpoints of one namespace use are the same by their number, and are neither read nor compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, NamedTuple, TypeAlias

from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.inspection.describing import Object, text
from langgraph_checkpoint_dual.core.inspection.inspecting import Inspected, inspect_together, is_entry
from langgraph_checkpoint_dual.core.items import DICT, LIST, Manifest
from langgraph_checkpoint_dual.core.tx import Database

_MAX_MATCHED = 2_000
_SHORT = 60
Part: TypeAlias = Callable[[int], Any]


class Change(NamedTuple):
    """One difference: where in the channel's value, as Python indexing, and what was and is there, described."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


@dataclass(frozen=True)
class Difference:
    """What differs between two checkpoints, by channel, and in their metadata."""

    before: Inspected
    after: Inspected
    channels: Mapping[str, Sequence[Change]]
    unchanged: Sequence[str]
    metadata: Sequence[Change]


async def difference(db: Database, before: Address, after: Address) -> Difference | list[Address]:
    """What differs between two checkpoints; those of them that are not there, if any are missing."""
    found = await inspect_together(db, [before, after], differing=True)
    first, second = found
    if first is None or second is None:
        return [address for address, one in zip((before, after), found, strict=True) if one is None]
    channels: dict[str, list[Change]] = {}
    unchanged: list[str] = []
    for channel in dict.fromkeys((*first.direct, *first.slots, *second.direct, *second.slots)):
        changes = list(_channel(first, second, channel))
        if changes:
            channels[channel] = changes
        else:
            unchanged.append(channel)
    return Difference(first, second, channels, unchanged, list(compared(first.metadata, second.metadata)))


def _channel(first: Inspected, second: Inspected, channel: str) -> Iterator[Change]:
    old, new = first.slots.get(channel), second.slots.get(channel)
    if old is None and channel not in first.direct:
        yield Change("", "added", after=second.value(channel))
    elif new is None and channel not in second.direct:
        yield Change("", "removed", before=first.value(channel))
    elif first.address[:2] == second.address[:2] and old is not None and old == new:
        return
    elif isinstance(old, Manifest) and isinstance(new, Manifest) and old.kind == new.kind:
        yield from _items(_Side(first, channel, old), _Side(second, channel, new), old.kind)
    else:
        yield from compared(first.value(channel), second.value(channel))


class _Side:
    """The items of one channel in one of the checkpoints. Those that both have in common were not fetched."""

    def __init__(self, checkpoint: Inspected, channel: str, slot: Manifest) -> None:
        self.items, self.seqs = checkpoint.items[channel], slot.seqs

    @property
    def keys(self) -> list[Any]:
        """What the items are compared by: their bytes, or their numbers where they are those of the other side too."""
        return [self.items.found.get(seq, seq) for seq in self.seqs]

    def at(self, index: int) -> Any:
        """The part at an index, described."""
        return self.items.part(self.seqs[index])

    def fetched(self) -> list[Any]:
        """The parts that were fetched, described."""
        return [self.items.part(seq) for seq in self.seqs if seq in self.items.found]


def _items(old: _Side, new: _Side, kind: int) -> Iterator[Change]:
    if kind == LIST:
        yield from _aligned(old.keys, new.keys, old.at, new.at, "")
        return
    first, second = old.fetched(), new.fetched()
    if kind == DICT and all(map(is_entry, (*first, *second))):
        yield from compared(dict(first), dict(second))
    else:
        yield from compared(_only(first), _only(second))


def _only(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else parts


def compared(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """The differences of two described values. The order of a dict's keys is none."""
    if repr(before) == repr(after):
        return
    if isinstance(before, Object) and isinstance(after, Object) and before.type == after.type:
        yield from _fields(before.fields, after.fields, path, lambda name: f".{name}")
        yield from compared(before.args, after.args, path)
    elif isinstance(before, dict) and isinstance(after, dict):
        yield from _fields(before, after, path, lambda key: f"[{text(key, _SHORT)}]")
    elif isinstance(before, (list, tuple)) and type(before) is type(after):
        yield from _aligned(
            list(map(repr, before)), list(map(repr, after)), before.__getitem__, after.__getitem__, path
        )
    else:
        yield Change(path, "changed", before, after)


def _fields(
    before: Mapping[Any, Any], after: Mapping[Any, Any], path: str, step: Callable[[Any], str]
) -> Iterator[Change]:
    for key in dict.fromkeys((*before, *after)):
        place = path + step(key)
        if key not in after:
            yield Change(place, "removed", before=before[key])
        elif key not in before:
            yield Change(place, "added", after=after[key])
        else:
            yield from compared(before[key], after[key], place)


def _aligned(old: Sequence[Any], new: Sequence[Any], before: Part, after: Part, path: str) -> Iterator[Change]:
    """The differences of two sequences whose elements are equal where their keys are."""
    for kind, start, end, other_start, other_end in _blocks(old, new):
        if kind == "equal":
            continue
        gone = {at: before(at) for at in range(start, end)}
        come = {at: after(at) for at in range(other_start, other_end)}
        for at, other in _pairs(gone, come):
            yield from compared(gone.pop(at), come.pop(other), f"{path}[{other}]")
        for at, part in gone.items():
            yield Change(f"{path}[{at}]", "removed", before=part)
        for at, part in come.items():
            yield Change(f"{path}[{at}]", "added", after=part)


def _blocks(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[str, int, int, int, int]]:
    """As `SequenceMatcher.get_opcodes`, whose time is bounded by not matching what is long and different."""
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    first, second = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(first) * len(second) > _MAX_MATCHED**2:
        return [("replace", head, len(old) - tail, head, len(new) - tail)]
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return [(kind, a + head, b + head, c + head, d + head) for kind, a, b, c, d in matcher.get_opcodes()]


def _common(old: Sequence[Any], new: Sequence[Any]) -> int:
    """How many elements are equal at the beginning."""
    return next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _pairs(gone: Mapping[int, Any], come: Mapping[int, Any]) -> list[tuple[int, int]]:
    """Which removed element is which added one in another state: the one of the same id."""
    ids = {_id(part): at for at, part in gone.items() if _id(part) is not None}
    return [(ids.pop(_id(part)), at) for at, part in come.items() if _id(part) in ids]


def _id(part: Any) -> Any:
    """The id of a message or of a dict."""
    fields = part.fields if isinstance(part, Object) else part if isinstance(part, dict) else {}
    found = fields.get("id")
    return found if isinstance(found, (str, int)) else None
