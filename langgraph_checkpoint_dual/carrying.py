"""A serializer for who moves values without knowing their types: what it cannot revive it carries along as it is.

Whoever moves threads with a program of their own gives it their types. The command line knows nobody's: it revives what
every process knows, such as messages, and an object of any other type stays the bytes that it is stored as.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ormsgpack

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.serde import Serializer, take_failure


@dataclass(frozen=True)
class Carried:
    """An object of a type that is not known here: an extension value of msgpack."""

    code: int
    data: bytes


class Carrier(Serializer):
    """See the module. What it stores, a `Serializer` that knows the types reads as if it had never been moved."""

    @property
    def is_plain(self) -> bool:
        return True  # messages are what they are under a `Serializer`

    def _revive_extension(self, code: int, data: bytes) -> Any:
        try:
            return super()._revive_extension(code, data)
        except DecodeError:
            if not _names_a_type(data):
                raise
            take_failure()
            return Carried(code, data)

    def _revive_json(self, version: int, path: tuple[str, ...], value: dict[str, Any]) -> Any:
        try:
            return super()._revive_json(version, path, value)
        except DecodeError:
            code, parts = _from_json(value)
            return Carried(code, self._pack((".".join(path[:-1]), path[-1], *parts)))

    def _encoder(self, cls: type) -> wire.Encoder:
        if cls is Carried:
            return lambda value: (wire.READY, ormsgpack.Ext(value.code, value.data))
        return super()._encoder(cls)


def _names_a_type(data: bytes) -> bool:
    """Whether this is an object, undamaged as far as that can be told."""
    try:
        parts = ormsgpack.unpackb(data, ext_hook=Carried, option=ormsgpack.OPT_NON_STR_KEYS)
    except ValueError:
        return False
    return isinstance(parts, list) and len(parts) > 2 and all(isinstance(part, str) for part in parts[:2])


def _from_json(value: dict[str, Any]) -> tuple[int, tuple[Any, ...]]:
    """How an object of langgraph's old JSON format is laid out as an extension value."""
    args, fields = value.get("args") or [], value.get("kwargs") or {}
    if isinstance(method := value.get("method"), str) and args:
        return wire.METHOD, (args[0], method)
    if fields:
        return wire.KW_ARGS, (fields,)
    return (wire.SINGLE_ARG, (args[0],)) if len(args) == 1 else (wire.POS_ARGS, (args,))
