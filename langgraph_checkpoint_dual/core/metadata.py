"""Checkpoint metadata: what is stored of it, how it is searched, and what a filter means.

A filter means what containment (`@>`) of Postgres' jsonb means, on every database; in addition a filter value
`None` also matches a missing key. Metadata is searched as JSON. Where JSON cannot hold it exactly (NUL, NaN,
objects, ...), the JSON is an approximation for searching and the exact value is stored beside it.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import EXCLUDED_METADATA_KEYS, CheckpointMetadata

from langgraph_checkpoint_dual.core.redacting import Redaction
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

_MAX_INT_BITS = 1024
_TEXTS = frozenset((str,))
_SIMPLE = frozenset((str, bool, type(None)))
_NUL = "\\u0000"
"""What NUL is in JSON text."""


def merged_metadata(
    config: RunnableConfig, metadata: CheckpointMetadata, redact: Redaction | None = None
) -> dict[str, Any]:
    """The metadata to store: that of the checkpoint, then the plain values of the config's metadata and configurable.

    As langgraph-checkpoint's `get_checkpoint_metadata`, except that NUL characters stay, and what `redact` makes of it.
    """
    merged: dict[str, Any] = dict(metadata)
    for source in (config.get("metadata") or {}, config.get("configurable") or {}):
        for key in source:
            if key in merged or key in EXCLUDED_METADATA_KEYS or key.startswith("__"):
                continue
            if isinstance(value := source[key], (str, int, float)):
                merged[key] = value
    return merged if redact is None else redact(merged)


def to_json(metadata: Mapping[str, Any]) -> tuple[str, bool]:
    """Metadata as JSON text for searching, and whether that text says it exactly."""
    if _is_simple(metadata):
        text = _text(metadata)
        if _NUL not in text and escape(text) is text:
            return text, True
    plain, exact = _plain(metadata)
    return _text(plain), exact


def _is_simple(metadata: Mapping[str, Any]) -> bool:
    """Whether it is what metadata usually is: texts, whole numbers and dicts of them, under texts."""
    if not _TEXTS.issuperset(map(type, metadata)):
        return False
    for value in metadata.values():
        kind = type(value)
        if kind is int:
            if abs(value) >= 2**63:
                return False
        elif kind not in _SIMPLE and not (kind is dict and _is_simple(value)):
            return False
    return True


def text_of(value: Any) -> str | None:
    """A piece of metadata as the text that it is in `to_json`; `None` if it is no text there, or an empty one."""
    if value is None:
        return None
    plain = escape(value) if type(value) is str else _plain(value)[0]
    return plain if type(plain) is str and plain else None


def text_checksum(text: str) -> int:
    """The checksum of `to_json`'s text."""
    return zlib.crc32(text.encode())


def from_json(text: str, checksum: int) -> dict[str, Any]:
    """Metadata from `to_json`'s text; a database may have laid it out anew.

    Raises:
        DecodeError: if it does not have this `text_checksum`.
    """
    found: dict[str, Any] = json.loads(text)
    if text_checksum(text) != checksum and text_checksum(_text(found)) != checksum:
        raise DecodeError("the stored metadata is damaged: its checksum does not fit")
    return found


def canonical(text: str) -> str | None:
    """The text of `to_json` that a database has laid out anew as this one; `None` if it is no JSON."""
    try:
        return _text(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None


_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def _plain(value: Any) -> tuple[Any, bool]:
    if value is None or type(value) is bool:
        return value, True
    if type(value) is str:
        safe = escape(value)
        return safe, safe is value
    if type(value) is int:
        return (value, True) if value.bit_length() <= _MAX_INT_BITS else (f"{value:#x}", False)
    if type(value) is float:
        return _plain_float(value)
    if isinstance(value, Mapping):
        pairs = [(key if isinstance(key, str) else str(key), _plain(item)) for key, item in value.items()]
        exact = all(part[1] for _, part in pairs) and all(isinstance(k, str) and escape(k) is k for k in value)
        return {escape(key): part[0] for key, part in pairs}, exact
    if isinstance(value, (list, tuple)):
        parts = [_plain(item) for item in value]
        return [part[0] for part in parts], all(part[1] for part in parts)
    return escape(str(value)), False


def _plain_float(value: float) -> tuple[Any, bool]:
    if not math.isfinite(value):
        return f"float {value}", False
    # jsonb keeps numbers as decimals: -0.0 and exponents do not come back as they were.
    return value, "e" not in repr(value) and (value != 0 or math.copysign(1, value) > 0)


def filter_args(filter: Mapping[str, Any] | None) -> dict[str, str] | None:
    """A filter as the arguments `needle` and `nulls` of the listing queries; `None` if it matches everything.

    Raises:
        ConfigError: if the filter is not a mapping with `str` keys.
    """
    if not filter:
        return None
    if not isinstance(filter, Mapping) or not all(isinstance(key, str) for key in filter):
        raise ConfigError("filter must be a mapping from str keys to the values that the metadata must contain")
    needle, _ = to_json({key: value for key, value in filter.items() if value is not None})
    nulls = json.dumps([escape(key) for key, value in filter.items() if value is None])
    return {"needle": needle, "nulls": nulls}


def matches(metadata: str, needle: str, nulls: str) -> bool:
    """Whether a checkpoint's JSON metadata satisfies `filter_args`: the filter of databases that have none.

    What is damaged is let through: whoever reads it says so.
    """
    return _satisfies(needle, nulls, metadata)


def matches_either(first: str, second: str, needle: str, nulls: str) -> bool:
    """As `matches`, for two pieces of metadata of which the second wins."""
    return _satisfies(needle, nulls, first, second)


def _satisfies(needle: str, nulls: str, *texts: str) -> bool:
    found: dict[str, Any] = {}
    try:
        for text in texts:
            found.update(json.loads(text))
    except (ValueError, TypeError):
        return True
    return _contains(found, json.loads(needle)) and all(found.get(key) is None for key in json.loads(nulls))


def _contains(value: Any, needle: Any) -> bool:
    if isinstance(needle, dict):
        return isinstance(value, dict) and all(
            key in value and _contains(value[key], item) for key, item in needle.items()
        )
    if isinstance(needle, list):
        return isinstance(value, list) and all(any(_contains(have, item) for have in value) for item in needle)
    # jsonb tells true from 1, but not 1 from 1.0.
    if isinstance(needle, bool) or isinstance(value, bool):
        return value is needle
    return bool(value == needle)
