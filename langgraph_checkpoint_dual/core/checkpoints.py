"""One checkpoint between LangGraph's dicts and the stored row, without its channel values.

LangGraph's version strings are 50 characters long and each stands in a checkpoint several times; here each is
stored once, in short form, and referred to by its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple, cast

import ormsgpack
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, PendingWrite, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address, config_of, text_key
from langgraph_checkpoint_dual.core.items import Inline, Slot, pack_slots, unpack_slots
from langgraph_checkpoint_dual.core.metadata import from_json, text_checksum, text_of, to_json
from langgraph_checkpoint_dual.core.rows import CheckpointRow, WriteRow
from langgraph_checkpoint_dual.core.text import check_texts, escape, shown, unescape
from langgraph_checkpoint_dual.core.tx import Row
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError
from langgraph_checkpoint_dual.wire import PACK

_ELSEWHERE = ("id", "channel_values", "channel_versions", "versions_seen")
_PADDED = 32
_TEXTS = frozenset((str,))
_PLAIN = frozenset((str, int, type(None)))
_SHORT = frozenset((list, str, int))
"""What `_short` makes of versions; a list is a number and a text."""


class Loaded(NamedTuple):
    """A checkpoint as read, before its channel values are."""

    address: Address
    parent_id: str | None
    checkpoint: Checkpoint
    slots: dict[str, Slot]
    sealed_slots: bytes
    """Empty for a foreign one: nothing that is known of it holds for a put."""
    metadata: CheckpointMetadata
    writes: list[PendingWrite]

    @property
    def weight(self) -> int:
        """The bytes of the values that are in the checkpoint itself."""
        return sum(len(slot.data) for slot in self.slots.values() if isinstance(slot, Inline))

    @property
    def config(self) -> RunnableConfig:
        """The config that means this checkpoint."""
        return config_of(*(unescape(part or "") for part in self.address))

    @property
    def parent_config(self) -> RunnableConfig | None:
        """The config that means its parent."""
        if not self.parent_id:
            return None
        thread_id, checkpoint_ns, _ = self.address
        return config_of(unescape(thread_id), unescape(checkpoint_ns or ""), unescape(self.parent_id))


class Foreign(ABC):
    """In a row of the `page` query, in place of our bytes: a checkpoint that somebody else stored in another form."""

    @abstractmethod
    def read(self, serde: SerializerProtocol) -> tuple[dict[str, Any], dict[str, Slot], Any]:
        """Its body, with the values that are read already, the slots of all others, and its metadata."""

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Its metadata alone."""


def id_of(checkpoint: Checkpoint) -> str:
    """The id of a checkpoint that is to be put, as stored.

    Raises:
        ConfigError: if it is no checkpoint.
    """
    if type(checkpoint) is not dict and not isinstance(checkpoint, Mapping):
        raise ConfigError(f"a checkpoint must be a mapping, not {checkpoint!r}")
    checkpoint_id = text_key("checkpoint['id']", checkpoint.get("id"))
    if not checkpoint_id:
        raise ConfigError("checkpoint['id'] must not be empty")
    if not isinstance(checkpoint.get("v", 1), int):
        raise ConfigError(f"checkpoint['v'] must be an int, not {checkpoint['v']!r}")
    for name in ("channel_values", "channel_versions", "versions_seen"):
        found: Any = checkpoint.get(name) or {}
        if not (type(found) is dict and _TEXTS.issuperset(map(type, found))) and not _is_by_name(found):
            raise ConfigError(f"checkpoint[{name!r}] must be a mapping with str keys")
    return checkpoint_id


def _is_by_name(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(key, str) for key in found)


_NO_TEXT = -1
"""In place of the checksum of metadata's text where the text does not say it exactly: no text has it."""


def checkpoint_row(
    serde: SerializerProtocol,
    parent: Address,
    checkpoint_id: str,
    checkpoint: Mapping[str, Any],
    slots: dict[str, Slot],
    metadata: Mapping[str, Any],
) -> CheckpointRow:
    """The row of a checkpoint whose values are stored in `slots`, with the metadata of `merged_metadata`."""
    text, exact = to_json(metadata)
    parent_id = parent.checkpoint_id
    return CheckpointRow(
        parent.thread_id,
        parent.checkpoint_ns or "",
        checkpoint_id,
        parent_id,
        run_of(metadata),
        sealed_body(serde, checkpoint, checkpoint_id, parent_id, text_checksum(text) if exact else _NO_TEXT),
        values.seal(pack_slots(_under_stored_names(slots)), values.place("slots", checkpoint_id)),
        text,
        None if exact else values.seal(values.encode(serde, metadata), values.place("metadata", checkpoint_id)),
    )


def run_of(metadata: Mapping[str, Any]) -> str | None:
    """The run that a checkpoint with this metadata is found by, as stored: what its JSON says, if that is a text."""
    return text_of(metadata.get("run_id"))


def sealed_body(
    serde: SerializerProtocol, checkpoint: Mapping[str, Any], checkpoint_id: str, parent_id: str | None, checksum: int
) -> bytes:
    """A checkpoint without its values, and the checksum of its metadata."""
    place = values.place("checkpoint", checkpoint_id, parent_id or "")
    return values.seal(_encoded(serde, [*_shortened(checkpoint), checksum]), place)


def _encoded(serde: SerializerProtocol, body: list[Any]) -> bytes:
    """As `values.encode`, which goes through all versions if a number among them looks like the tag of a buffer."""
    rest, versions, *_ = body
    if _SHORT.issuperset(map(type, versions)) and all(map(_holds_nothing, rest.values())) and values.is_direct(serde):
        try:
            return values.typed("msgpack", ormsgpack.packb(body, None, PACK))
        except TypeError:
            pass
    return values.encode(serde, body)


def _holds_nothing(value: Any) -> bool:
    """Whether there can be no buffer in a value: the usual ones, quickly."""
    return type(value) in _PLAIN or (type(value) is list and _TEXTS.issuperset(map(type, value)))


def loaded(serde: SerializerProtocol, row: Row, write_rows: list[Row]) -> Loaded:
    """A row of the `page` query, and the rows of its pending writes, decoded.

    Raises:
        DecodeError: if anything of it is damaged; it says which checkpoint.
    """
    address, parent_id, packed = Address(*row[1:4]), row[4], row[9]
    try:
        check_texts(*address)
        body, slots, meta = row[8].read(serde) if isinstance(row[8], Foreign) else _read(serde, row)
        writes = pending_writes(serde, write_rows)
        if not isinstance(body.get("v", 1), int):
            raise DecodeError(f"the stored checkpoint is damaged: its format is {body['v']!r}")
        return Loaded(address, parent_id, cast(Checkpoint, body), slots, packed, meta, writes)
    except DecodeError as exc:
        raise exc.at(**address.where) from exc
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
        raise DecodeError(f"the stored checkpoint is damaged: {exc}", **address.where) from exc


def _read(serde: SerializerProtocol, row: Row) -> tuple[dict[str, Any], dict[str, Slot], Any]:
    _, _, _, checkpoint_id, parent_id, metadata, run_id, _, checkpoint, packed, metadata_exact = row
    typed = values.unseal(checkpoint, values.place("checkpoint", checkpoint_id, parent_id or ""))
    *stored, checksum = values.decode(serde, typed)
    body = restored(stored)
    body["id"] = unescape(checkpoint_id)
    if metadata_exact is None:
        meta: Any = from_json(metadata, checksum)
    else:
        meta = values.decode(serde, values.unseal(metadata_exact, values.place("metadata", checkpoint_id)))
    if (run_id or None) != run_of(meta):
        raise DecodeError(f"the stored run_id is damaged: {run_id!r} is not that of the metadata")
    return body, slots_of(checkpoint_id, packed), meta


def slots_of(checkpoint_id: str, sealed: bytes, among: Iterable[str] = ()) -> dict[str, Slot]:
    """The slots of a checkpoint's row, by channel; quickly none of them if it has none of the channels `among`.

    Raises:
        DecodeError: if they, or the id, are damaged.
    """
    packed = values.unseal(sealed, values.place("slots", checkpoint_id))
    if among and not any(map(packed.__contains__, _needles(tuple(among)))):
        return {}
    try:
        return {unescape(channel): slot for channel, slot in unpack_slots(packed).items()}
    except (ValueError, TypeError, AttributeError) as exc:
        raise DecodeError(f"the stored list of channel values is damaged: {exc}") from exc


def may_have(found: Sequence[Row], channels: Iterable[str]) -> list[bool]:
    """For each of some checkpoints' ids and sealed slots, whether one of these channels may be among its slots.

    Raises:
        DecodeError: if one of them is damaged.
    """
    starts = [values.place("slots", checkpoint_id) for checkpoint_id, _ in found]
    packed = values.unseal_all([sealed for _, sealed in found], starts)
    first, *others = _needles(tuple(channels))
    return [first in one or any(map(one.__contains__, others)) for one in packed]


@lru_cache(256)
def _needles(channels: tuple[str, ...]) -> list[bytes]:
    """What there is in packed slots if they may have one of these channels."""
    return [escape(channel).encode() for channel in channels]


def _under_stored_names(slots: dict[str, Slot]) -> dict[str, Slot]:
    names = "".join(slots)
    return slots if escape(names) == names else {escape(channel): slot for channel, slot in slots.items()}


def write_row(
    serde: SerializerProtocol, address: Address, task_id: str, task_path: str, idx: int, channel: str, value: Any
) -> WriteRow:
    """The row of one pending write; `task_id` and `task_path` are escaped already."""
    channel = escape(channel)
    ns, checkpoint_id = address.checkpoint_ns or "", address.checkpoint_id or ""
    start = values.place("write", checkpoint_id, task_id, task_path, str(idx), channel)
    data = values.seal(values.encode(serde, value), start)
    return WriteRow(address.thread_id, ns, checkpoint_id, task_id, idx, task_path, channel, data)


def pending_writes(serde: SerializerProtocol, rows: list[Row]) -> list[PendingWrite]:
    """The pending writes of one checkpoint, from rows of the `page` query, in `writes_sort_key` order."""
    return writes_of(serde, in_order(rows))


def in_order(rows: list[Row]) -> list[Row]:
    """The rows of one checkpoint's pending writes, in `writes_sort_key` order."""
    if len(rows) > 1:
        with suppress(DecodeError, TypeError):  # which one is damaged is told where it is decoded
            return sorted(rows, key=lambda row: writes_sort_key(unescape(row[5]), unescape(row[4]), row[7]))
    return rows


def writes_of(serde: SerializerProtocol, rows: Sequence[Row]) -> list[PendingWrite]:
    """The writes in these rows.

    Raises:
        DecodeError: if one of them is damaged; it says of which checkpoint, task and channel.
    """
    if not rows:
        return []
    with suppress(DecodeError):
        sealed = [row[8] for row in rows]
        decoded = values.decode_all(serde, values.unseal_all(sealed, list(map(_place_of_write, rows))))
        return [(unescape(row[4]), unescape(row[6]), value) for row, value in zip(rows, decoded, strict=True)]
    found: list[PendingWrite] = []
    for row in rows:  # one by one, to say where
        try:
            found.append((unescape(row[4]), unescape(row[6]), values.decode(serde, _typed_write(row))))
        except DecodeError as exc:
            raise exc.at(**Address(*row[1:4]).where, task_id=shown(row[4]), channel=shown(row[6])) from exc
    return found


def _typed_write(row: Row) -> bytes:
    return values.unseal(row[8], _place_of_write(row))


def _place_of_write(row: Row) -> int:
    _, _, _, checkpoint_id, task, path, channel, idx, *_ = row
    return values.place("write", checkpoint_id, task, path, str(idx), channel)


def _shortened(checkpoint: Mapping[str, Any]) -> list[Any]:
    """`[the rest, the versions, channel_versions, versions_seen]`, the latter two by place in the versions."""
    rest = dict(checkpoint)
    for name in _ELSEWHERE:
        rest.pop(name, None)
    places: dict[Any, int] = defaultdict(count().__next__)
    by_place = _by_place(checkpoint, places)
    if _TEXTS.issuperset(map(type, places)):
        return [rest, list(map(_short, places)), *by_place]
    places = _PlacesByType()
    by_place = _by_place(checkpoint, places)
    return [rest, [_short(version) for _, version in places], *by_place]


class _PlacesByType(dict[Any, int]):
    """The places of versions of which some are numbers: 1 and 1.0 are two."""

    def __getitem__(self, version: Any) -> int:
        return self.setdefault((type(version), version), len(self))


def _by_place(checkpoint: Mapping[str, Any], places: Mapping[Any, int]) -> tuple[Any, Any]:
    channels, seen = checkpoint.get("channel_versions"), checkpoint.get("versions_seen")
    return (
        channels and {name: places[version] for name, version in channels.items()},
        seen and {node: {name: places[version] for name, version in at.items()} for node, at in seen.items()},
    )


def restored(stored: list[Any]) -> dict[str, Any]:
    """What `_shortened` made short, without channel values."""
    rest, short, channels, nodes = stored
    versions = [_long(version) for version in short]

    def by_name(places: Mapping[str, int]) -> dict[str, Any]:
        return {name: versions[at] for name, at in places.items()}

    body = dict(rest, channel_values={})
    if channels is not None:
        body["channel_versions"] = by_name(channels)
    if nodes is not None:
        body["versions_seen"] = {node: by_name(places) for node, places in nodes.items()}
    return body


@lru_cache(4096, typed=True)  # most versions come again with the next checkpoints
def _short(version: Any) -> Any:
    """LangGraph's `{int:032}.{fraction}` as `[int, fraction]`, anything else as it is."""
    if type(version) is str and version[_PADDED : _PADDED + 1] == ".":
        digits = version[:_PADDED]
        if digits.isascii() and digits.isdigit() and int(digits) < 2**63:
            return [int(digits), version[_PADDED + 1 :]]
    return version


def _long(short: Any) -> Any:
    return f"{str(short[0]).zfill(_PADDED)}.{short[1]}" if isinstance(short, list) else short
