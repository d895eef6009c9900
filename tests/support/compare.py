"""Comparison that tells True, 1 and 1.0 apart, and what a saver says about a checkpoint in comparable form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from pydantic import BaseModel

_SCALARS = (str, bytes, bool, int, type(None))


def fingerprint(value: Any) -> Any:
    """A plain structure that is equal for two values exactly when both are equal with all their types."""
    if isinstance(value, float):
        return ("float", repr(value))  # tells -0.0 from 0.0 and finds NaN equal to itself
    if isinstance(value, _SCALARS):
        return (type(value).__qualname__, value)
    if isinstance(value, (list, tuple)):
        return (type(value).__qualname__, [fingerprint(item) for item in value])
    if isinstance(value, BaseModel):
        return (type(value).__qualname__, fingerprint(value.__dict__), sorted(value.model_fields_set))
    if isinstance(value, Mapping):
        return (type(value).__qualname__, [(fingerprint(k), fingerprint(v)) for k, v in value.items()])
    if isinstance(value, (set, frozenset)):
        return (type(value).__qualname__, sorted((fingerprint(item) for item in value), key=repr))
    if hasattr(value, "__dict__"):
        return (type(value).__qualname__, fingerprint(vars(value)))
    return (type(value).__qualname__, repr(value))


def key_of(found: CheckpointTuple) -> tuple[str, str, str]:
    """Thread, namespace and checkpoint id."""
    place = found.config["configurable"]
    return place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"]


def parent_of(found: CheckpointTuple) -> str | None:
    """The parent's checkpoint id."""
    return found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None


def answer(found: CheckpointTuple | None) -> Any:
    """Everything that a saver says about a checkpoint but its parent, in comparable form.

    The order of a mapping that the saver builds itself (channels by name) carries no meaning.
    """
    if found is None:
        return None
    checkpoint: dict[str, Any] = dict(found.checkpoint)
    return {
        "key": key_of(found),
        "values": {name: fingerprint(value) for name, value in checkpoint.pop("channel_values").items()},
        "checkpoint": {
            name: unordered(value) for name, value in checkpoint.items() if (name, value) != ("pending_sends", [])
        },
        "metadata": {name: unordered(value) for name, value in found.metadata.items()},
        "writes": [fingerprint(write) for write in found.pending_writes or []],
    }


def unordered(value: Any) -> Any:
    """As `fingerprint`, but the order of dict entries does not count (metadata and versions are mappings by name)."""
    if isinstance(value, Mapping):
        return {name: unordered(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [unordered(item) for item in value]
    return fingerprint(value)
