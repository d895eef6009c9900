"""The rows of the official savers' tables, as they are, and as rows of ours.

Official ids are stored as they are, ours escaped (`core/text.py`): what comes from here is escaped.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.checkpoints import Foreign
from langgraph_checkpoint_dual.core.items import Inline, Slot
from langgraph_checkpoint_dual.core.metadata import matches, to_json
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.tx import Row


class Theirs(Foreign):
    """An official checkpoint, not yet read.

    Args:
        type: the type of its data; `None` for JSON without values, as Postgres has it.
        data: the checkpoint.
        metadata: its metadata, as JSON.
        values: the type and data of each value that is stored apart.
    """

    def __init__(
        self, type: str | None, data: bytes, metadata: str, values: list[tuple[str, str, bytes | None]]
    ) -> None:
        self._type, self._data, self._metadata, self.values = type, data, metadata, values

    def read(self, serde: SerializerProtocol) -> tuple[dict[str, Any], dict[str, Slot], dict[str, Any]]:
        body = dict(self._body(serde))
        slots = self._slots()
        stored = body.get("channel_values") or {}
        # For a snapshot of a delta channel there is a mark among the values.
        body["channel_values"] = {channel: value for channel, value in stored.items() if channel not in slots}
        return body, slots, self.metadata

    @property
    def size(self) -> int:
        """Its bytes without the values that are stored apart."""
        return len(self._data) + len(self._metadata)

    @property
    def metadata(self) -> dict[str, Any]:
        found = _told(self._metadata)
        if found is None:
            raise ValueError("the metadata is no JSON object")
        return found

    def stored(self, serde: SerializerProtocol, wanted: Collection[str]) -> dict[str, Slot]:
        """What it stores of some channels, by (escaped) channel."""
        body, slots, _ = self.read(serde)
        encoded = {
            channel: Inline(values.encode(serde, value))
            for channel, value in body["channel_values"].items()
            if escape(channel) in wanted
        }
        return {escape(channel): slot for channel, slot in {**encoded, **slots}.items() if escape(channel) in wanted}

    def _body(self, serde: SerializerProtocol) -> dict[str, Any]:
        if self._type is not None:
            found: dict[str, Any] = values.decode(serde, values.typed(self._type, self._data))
            return found
        body: dict[str, Any] = json.loads(self._data)
        sends = body.get("pending_sends")
        if sends and len(sends) == 2 and all(isinstance(part, str) for part in sends):  # early releases
            body["pending_sends"] = values.decode(serde, values.typed(sends[0], b64decode(sends[1])))
        return body

    def _slots(self) -> dict[str, Slot]:
        return {
            channel: Inline(values.typed(type, data or b"")) for channel, type, data in self.values if type != "empty"
        }


def opened(rows: Iterable[Row]) -> list[Row]:
    """The checkpoints among official rows, in the shape of the `page` query."""
    found: list[Row] = []
    apart: dict[Row, list[tuple[str, str, bytes | None]]] = {}
    for row in rows:
        if row[0] == 2:
            apart.setdefault(row[1:4], []).append((row[6], row[9], row[8]))
        elif row[0] == 0:
            found.append(row)
    return [
        (
            0,
            *map(escape, row[1:4]),
            escaped_one(row[4]),
            None,
            None,
            0,
            _theirs(row, apart.get(row[1:4], [])),
            b"",
            None,
        )
        for row in found
    ]


def _theirs(row: Row, apart: list[tuple[str, str, bytes | None]]) -> Theirs:
    return Theirs(row[9], row[8], metadata_text(row[5]), apart)


def own_writes(rows: Iterable[Row]) -> list[Row]:
    """The writes among official rows, as rows of ours."""
    found: list[Row] = []
    for kind, thread_id, ns, checkpoint_id, task, path, channel, idx, data, type in rows:
        if kind != 1:
            continue
        place = *map(escape, (checkpoint_id, task, path)), str(idx), escape(channel)
        sealed = values.seal(values.typed(type, data or b""), values.place("write", *place))
        ids = *map(escape, (thread_id, ns, checkpoint_id, task, path, channel)), idx, sealed
        found.append((1, *ids, None, None))
    return found


def metadata_text(metadata: str | bytes | None) -> str:
    """Official metadata as JSON text; what is damaged is no JSON then."""
    if metadata is None:
        return "{}"
    return metadata if isinstance(metadata, str) else metadata.decode(errors="backslashreplace")


def raw_places_of(keys: Iterable[Row]) -> str:
    """Keys of checkpoints as JSON, with official ids."""
    return json.dumps([[*map(unescape, key)] for key in keys])


def raw_places(checkpoints: str) -> str:
    """The same keys with official ids."""
    return raw_places_of(json.loads(checkpoints))


def raw_list(texts: str) -> list[str]:
    """The same ids as official ones."""
    return [unescape(one) for one in json.loads(texts)]


def raw(args: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments with official ids."""
    return {key: unescape(value) if isinstance(value, str) else value for key, value in args.items()}


def escaped(rows: Iterable[Row]) -> list[Row]:
    """Official ids as ours."""
    return [tuple(map(escaped_one, row)) for row in rows]


def escaped_one(text: str | None) -> str | None:
    """An official id as ours."""
    return None if text is None else escape(text)


def matches_official(metadata: str | bytes | None, needle: str, nulls: str) -> bool:
    """Whether an official checkpoint's metadata satisfies a filter, for databases that cannot tell.

    As in `matches`, what is damaged is let through.
    """
    found = _told(metadata)
    return found is None or matches(to_json(found)[0], to_json(json.loads(needle))[0], nulls)


def run_of(metadata: str | bytes | None) -> str | None:
    """The run that an official checkpoint's metadata names, for databases that cannot tell; none if it is damaged."""
    run_id = (_told(metadata) or {}).get("run_id")
    return run_id if isinstance(run_id, str) else None


def _told(metadata: str | bytes | None) -> dict[str, Any] | None:
    """What official metadata tells; `None` if it is damaged."""
    try:
        found = json.loads(metadata_text(metadata))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
