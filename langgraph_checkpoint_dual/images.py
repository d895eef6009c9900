"""Exact images of plain values: has this element changed since it was stored, and fresh copies of it without decoding.

An image is the value's msgpack encoding, made by C code that is told to refuse whatever it could not tell apart:
tuples, subclasses, keys that are not `str`, enums, dates. Two values with equal images are stored as equal bytes.

The image of a message is also the form in which a plain message is stored. `load` reads that form back with the checks
that a stored row needs; `revive` is for images that this process has made, or has loaded.
"""

from __future__ import annotations

from typing import Any

import ormsgpack
from pydantic import ValidationError

from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.messages import BY_CLASS, SHAPES

_STRICT = (
    ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
# 0xC1 opens no msgpack value, so the image of a message is never that of a plain value.
_MESSAGE = 0xC1
_PREFIXES = {cls: bytes((_MESSAGE, shape.index)) for cls, shape in BY_CLASS.items()}

_pack = ormsgpack.packb
_unpack = ormsgpack.unpackb


def image(value: Any) -> bytes | None:
    """The exact image of the present state of `value`.

    Args:
        value: `None`, bool, int of up to 64 bits, float, str, bytes, a list or a dict with `str` keys of these, or a
            message of one of langchain-core's own classes that holds only these.

    Returns:
        Bytes that are equal for two values only if these are equal in every type and detail that is stored;
        `None` where the value holds anything else, or is nested too deeply.
    """
    prefix = _PREFIXES.get(type(value))
    try:
        if prefix is None:
            data = _pack(value, None, _STRICT)
        elif value.__pydantic_extra__ or value.__pydantic_private__ is not None:
            return None
        else:
            data = prefix + _pack(value.__dict__, None, _STRICT)
    except (TypeError, AttributeError):
        return None
    # The three tags of a byte string: a bytearray or a memoryview would look like bytes.
    if (0xC4 in data or 0xC5 in data or 0xC6 in data) and _holds_other_buffers(value):
        return None
    return data


def _holds_other_buffers(value: Any) -> bool:
    """Whether anything but `bytes` was encoded as a byte string, somewhere in `value`."""
    level = [value.__dict__ if type(value) in _PREFIXES else value]
    while level:
        types = set(map(type, level))
        if bytearray in types or memoryview in types:
            return True
        below: list[Any] = []
        if list in types or dict in types:
            for item in level:
                if type(item) is list:
                    below += item
                elif type(item) is dict:
                    below += item.values()
        level = below
    return False


def faithful(value: Any) -> bool:
    """Whether `revive(image(value))` is exactly what storing and loading `value` gives.

    True for plain values, and for messages that would pass validation unchanged.
    """
    data = image(value)
    if data is None:
        return False
    shape = BY_CLASS.get(type(value))
    if shape is not None and not shape.fits(value.__dict__):
        return False
    try:
        revive(data)
    except ValueError:  # an extension value, which has no image of its own
        return False
    return True


def is_message(image: bytes) -> bool:
    """Whether this is the image of a message."""
    return image[:1] == b"\xc1"


def load(stored: bytes) -> tuple[Any, bool]:
    """The message of a stored image: its class is one of langchain-core's, its fields hold plain data.

    Fields that are not those of a valid message of the installed langchain-core are validated.

    Returns:
        The message, and whether `revive` may make more of it from the same bytes.

    Raises:
        DecodeError: the bytes are not the image of a message, or its fields are refused.
    """
    try:
        if stored[0] != _MESSAGE:
            raise ValueError("not a message")
        shape, fields = SHAPES[stored[1]], _unpack(memoryview(stored)[2:])
        if shape.fits(fields):
            return shape.build(fields), True
        try:
            return shape.cls(**fields), False
        except ValidationError:  # it was valid for the langchain-core that stored it
            return shape.cls.model_construct(**fields), False
    except (ValueError, TypeError, IndexError) as exc:
        raise DecodeError(f"the stored message is damaged: {exc}") from exc


def revive(image: bytes) -> Any:
    """A new object from an image that this process made of a faithful value.

    Shares nothing mutable with the original, nor with another revival.

    Raises:
        ValueError: `image` was not made by `image()`.
    """
    if image[0] != _MESSAGE:
        return _unpack(image)
    return SHAPES[image[1]].build(_unpack(memoryview(image)[2:]))


class Copies:
    """Many copies of the value of one image: they share what cannot change, above all its texts.

    Args:
        image: an image of a faithful value.
    """

    __slots__ = ("_deep", "_fields", "_flat", "_shape")

    def __init__(self, image: bytes) -> None:
        self._shape = SHAPES[image[1]] if is_message(image) else None
        self._fields: Any = _unpack(memoryview(image)[2:] if self._shape else image)
        if self._shape is None:
            return
        mutable = [key for key, value in self._fields.items() if type(value) in _MUTABLE]
        self._flat = [key for key in mutable if _is_flat(self._fields[key])]
        self._deep = [key for key in mutable if key not in self._flat]

    def one(self) -> Any:
        """A copy that shares nothing mutable with any other."""
        if self._shape is None:
            return _copied(self._fields)
        fields = self._fields.copy()
        for key in self._flat:
            fields[key] = fields[key].copy()
        for key in self._deep:
            fields[key] = _copied(fields[key])
        return self._shape.build(fields)


_MUTABLE = frozenset((dict, list))


def _is_flat(value: Any) -> bool:
    """Whether a dict or list holds nothing that can change."""
    return _MUTABLE.isdisjoint(map(type, value.values() if type(value) is dict else value))


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) is list:
        return [_copied(item) for item in value]
    return value
