"""Stored values as data to look at: nothing in them is imported, called or revived, whatever a row says.

The contract:

1. `describe` turns the typed bytes of a row into plain Python values; whatever is more than that becomes an `Object`:
   the name that the row gives its type, and its parts. The name is text and nothing else.
2. It takes every form that this package or langgraph's serializer ever wrote. What it cannot see into (pickles, values
   that a serializer of the user's encrypted) becomes an `Opaque` that says what it is.
3. Nesting is bounded; what lies deeper is `Opaque`. Secrets of pydantic stay covered.
4. Two values that describe equal are stored with equal content, up to the order of a dict's keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ormsgpack
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.images import is_list, is_message
from langgraph_checkpoint_dual.messages import BY_NUMBER, SHAPES

_MAX_NESTING = 100
_LONG_INT = 4096  # bits; Python refuses to write much longer ones in decimal
_SNAPSHOT = "DeltaSnapshot"
_KEPT = "described"
_SHAPES = {shape.name: shape for shape in SHAPES}
_SECRETS = ("SecretStr", "SecretBytes")


@dataclass(frozen=True)
class Object:
    """An object that a row holds: the full name of its type, what it was made from, in order, and its fields."""

    type: str
    args: tuple[Any, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The type's name without its module."""
        return self.type.rpartition(".")[2]

    @property
    def is_message(self) -> bool:
        """Whether this is a message of langchain-core."""
        return self.type.startswith("langchain_core.messages.") and "content" in self.fields

    def __hash__(self) -> int:
        return hash(self.type)


@dataclass(frozen=True)
class Opaque:
    """Stored bytes that are not looked into: `what` says why, `size` is in bytes."""

    what: str
    size: int


class _Extension(NamedTuple):
    """An extension value of msgpack, before it is described."""

    code: int
    data: bytes


def describe(typed: bytes) -> Any:
    """What typed bytes hold.

    Raises:
        DecodeError: if the bytes are damaged.
    """
    try:
        if is_message(typed):
            return _message(typed[0], ormsgpack.unpackb(typed[1:]))
        if is_list(typed):
            return _messages(typed)
        if values.is_snapshot(typed):
            return Object(_SNAPSHOT, (_messages(typed[1:]),))
        name, data = values.split(typed)
        return _named(name, data)
    except DecodeError:
        raise
    except (ValueError, TypeError, LookupError, RecursionError) as exc:
        raise DecodeError(f"the stored value is damaged: {exc}") from exc


class Describer:
    """A serializer that describes what it reads: for rows that other savers stored.

    What it is given to store it only keeps, so that reading it again works as long as it lives.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """A value that was described, as a mark that stands for it."""
        self._kept.append(obj)
        return _KEPT, f"{len(self._kept) - 1} {text(obj)}".encode("utf-8", "replace")  # about as long as the value

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """What the data of a serializer holds.

        Raises:
            DecodeError: if it is damaged.
        """
        name, stored = data
        try:
            return self._kept[int(stored.split()[0])] if name == _KEPT else _named(name, stored)
        except (ValueError, TypeError, LookupError, RecursionError) as exc:
            raise DecodeError(f"the stored value is damaged: {exc}") from exc


class MessageReader(Describer):
    """A `Describer` that makes messages of langchain-core's own classes, for what works on lists of these.

    Their fields hold what is described, and are not validated.
    """

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return _with_messages(super().loads_typed(data))


def _with_messages(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_messages(item) for item in value]
    if not isinstance(value, Object):
        return value
    if value.type == _SNAPSHOT and len(value.args) == 1:
        return _DeltaSnapshot(_with_messages(value.args[0]))
    shape = _SHAPES.get(value.name) if value.type.startswith("langchain") else None
    return value if shape is None else shape.cls.model_construct(**value.fields)


def _message(number: int, fields: Any) -> Object:
    shape = BY_NUMBER[number]
    return Object(f"{shape.module}.{shape.name}", fields=_fields(fields, 1))


def _messages(typed: bytes) -> list[Object]:
    stored = ormsgpack.unpackb(typed[2:])
    return [_message(number, fields) for number, fields in zip(stored[::2], stored[1::2], strict=True)]


def _named(name: str, data: bytes) -> Any:
    if name == "null":
        return None
    if name == "bytes":
        return data
    if name == "bytearray":
        return Object("bytearray", (data,))
    if name == "msgpack":
        return _expanded(_unpacked(data), 0)
    if name == "json":
        return _from_json(json.loads(data))
    return Opaque(f"{name}, not looked into", len(data))


def _unpacked(data: bytes) -> Any:
    return ormsgpack.unpackb(data, ext_hook=_Extension, option=ormsgpack.OPT_NON_STR_KEYS)


def _expanded(value: Any, depth: int) -> Any:
    if isinstance(value, (_Extension, dict, list)) and depth > _MAX_NESTING:
        return _too_deep(value)
    if isinstance(value, _Extension):
        return _object(value, depth + 1)
    if isinstance(value, dict):
        return {_expanded_key(key, depth): _expanded(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, depth + 1) for item in value]
    return value


def _too_deep(value: Any) -> Opaque:
    return Opaque("nested too deeply", len(value.data if isinstance(value, _Extension) else value))


def _expanded_key(key: Any, depth: int) -> Any:
    return _hashable(_expanded(key, depth))


def _hashable(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(map(_hashable, key))
    return repr(key) if isinstance(key, dict) else key


def _object(found: _Extension, depth: int) -> Any:
    if found.code in wire.RAW:
        return Object("bytearray", (found.data,)) if found.code == wire.BYTEARRAY else wire.RAW[found.code](found.data)
    describe_parts = _BY_CODE.get(found.code)
    if describe_parts is None:
        return Opaque(f"extension value {found.code} of a newer version", len(found.data))
    return describe_parts(_unpacked(found.data), depth)


def _fields(state: Any, depth: int) -> dict[str, Any]:
    """The fields of an object, from whatever its state was stored as."""
    if not isinstance(state, dict):
        return {"": _expanded(state, depth)}
    return {str(name): _expanded(item, depth) for name, item in state.items()}


def _args(parts: Any, depth: int) -> tuple[Any, ...]:
    return tuple(_expanded(part, depth) for part in parts)


def _single(parts: Any, depth: int) -> Object:
    module, name, arg, *_ = parts
    if name in _SECRETS:
        arg = "**********"
    return Object(wire.shown(module, name), _args([arg], depth))


def _positional(parts: Any, depth: int) -> Object:
    module, name, args, *_ = parts
    return Object(wire.shown(module, name), _args(args, depth))


def _keywords(parts: Any, depth: int) -> Object:
    module, name, state, *_ = parts
    return Object(wire.shown(module, name), fields=_fields(state, depth))


def _array(parts: Any, depth: int) -> Object:
    dtype, shape, _, data = parts
    return Object("numpy.ndarray", (Opaque(f"{dtype} {'×'.join(map(str, shape))}", len(data)),))


def _value(parts: Any, depth: int) -> Any:
    kind, *content = parts
    if kind == "dict":
        return {_expanded_key(key, depth): _expanded(item, depth) for key, item in content[0]}
    return Object(_VALUE_NAMES.get(kind, str(kind)), _args(content, depth))


def _subclass(parts: Any, depth: int) -> Object:
    module, name, _, content, attributes = parts
    return Object(wire.shown(module, name), _args([content], depth), _fields(attributes or {}, depth))


def _generic(parts: Any, depth: int) -> Object:
    module, name, _, state = parts
    return Object(wire.shown(module, name), fields=_fields(state, depth))


_VALUE_NAMES = {"fraction": "fractions.Fraction", "datetime": "datetime.datetime", "deque": "collections.deque"}
_BY_CODE: dict[int, Callable[[Any, int], Any]] = {
    wire.SINGLE_ARG: _single,
    wire.POS_ARGS: _positional,
    wire.KW_ARGS: _keywords,
    wire.METHOD: _single,
    wire.PYDANTIC_V1: _keywords,
    wire.PYDANTIC_V2: _keywords,
    wire.NUMPY_ARRAY: _array,
    wire.DELTA_SNAPSHOT: lambda value, depth: Object(_SNAPSHOT, _args([value], depth)),
    wire.VALUE: _value,
    wire.SUBCLASS: _subclass,
    wire.ENUM_NAME: _single,
    wire.GENERIC: _generic,
}


def _from_json(value: Any, depth: int = 0) -> Any:
    """A value of langgraph's old JSON format, in which objects say what they are made from."""
    if isinstance(value, (list, dict)) and depth > _MAX_NESTING:
        return _too_deep(value)
    if isinstance(value, list):
        return [_from_json(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("lc") in (1, 2) and value.get("type") == "constructor" and isinstance(value.get("id"), list):
        args, fields = value.get("args") or (), value.get("kwargs") or {}
        described = {str(name): _from_json(one, depth + 1) for name, one in fields.items()}
        return Object(".".join(map(str, value["id"])), tuple(_from_json(arg, depth + 1) for arg in args), described)
    return {name: _from_json(item, depth + 1) for name, item in value.items()}


# --- As text and as JSON ---


def to_json(value: Any) -> Any:
    """A described value as JSON data: an object is a dict with `"type"`, bytes are hexadecimal."""
    if value is None or isinstance(value, (bool, int)):
        return hex(value) if value is not None and value.bit_length() > _LONG_INT else value
    if isinstance(value, float):
        return value if value - value == 0 else {"type": "float", "value": repr(value)}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (bytes, bytearray)):
        return {"type": "bytes", "size": len(value), "hex": bytes(value[:64]).hex()}
    if isinstance(value, Opaque):
        return {"type": "opaque", "what": value.what, "size": value.size}
    if isinstance(value, Object):
        args = {"args": to_json(list(value.args))} if value.args else {}
        fields = {"fields": to_json(dict(value.fields))} if value.fields else {}
        return {"type": value.type, **args, **fields}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else text(key): to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value]


def text(value: Any, limit: int | None = None) -> str:
    """A described value on one line, as Python would write it; at most about `limit` characters."""
    pieces: list[str] = []
    left = limit
    for piece in _pieces(value):
        pieces.append(piece if left is None or len(piece) <= left else piece[: max(0, left)] + "…")
        if left is not None:
            left -= len(piece)
            if left < 0:
                if not pieces[-1].endswith("…"):
                    pieces.append("…")
                break
    return "".join(pieces)


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, Object):
        yield f"{value.name}("
        yield from _joined([*(("", arg) for arg in value.args), *_noted_fields(value)])
        yield ")"
    elif isinstance(value, Opaque):
        yield f"<{value.what}, {value.size:,} bytes>"
    elif isinstance(value, dict):
        yield "{"
        yield from _joined([(f"{text(key)}: ", item) for key, item in value.items()])
        yield "}"
    elif isinstance(value, (list, tuple)):
        yield "[" if isinstance(value, list) else "("
        yield from _joined([("", item) for item in value])
        yield "]" if isinstance(value, list) else ")"
    elif isinstance(value, (bytes, bytearray)) and len(value) > 64:
        yield f"<{len(value):,} bytes: {bytes(value[:16]).hex()}…>"
    else:
        yield hex(value) if isinstance(value, int) and value.bit_length() > _LONG_INT else repr(value)


def _noted_fields(value: Object) -> list[tuple[str, Any]]:
    """The fields of an object that say something: most of those of a message are empty."""
    empty: tuple[Any, ...] = (None, {}, [], "") if value.is_message else ()
    hidden = ("type",) if value.is_message else ()
    return [
        (f"{name}=" if name else "", item)
        for name, item in value.fields.items()
        if not any(type(item) is type(one) and item == one for one in empty) and name not in hidden
    ]


def _joined(entries: list[tuple[str, Any]]) -> Iterator[str]:
    for at, (label, item) in enumerate(entries):
        if at:
            yield ", "
        if label:
            yield label
        yield from _pieces(item)
