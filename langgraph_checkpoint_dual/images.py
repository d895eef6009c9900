"""Exact images of plain values: has this element changed since it was stored, and fresh copies of it without decoding.

An image is the value's msgpack encoding, made by C code that is told to refuse whatever it could not tell apart:
tuples, subclasses, keys that are not `str`, enums, dates. Byte strings have none, because it takes a bytearray for
bytes. Two values with equal images are stored as equal bytes.

The image of a message is the number of its class and the encoding of its fields. These are two msgpack values, so it is
never that of a plain value, which is one; and of the images of a list, put one after the other, it is known where each
ends. That is why `images` and `revive_all` may work on many at once, which takes about half of the time.

With 0xC1 in front, which opens no msgpack value, the image of a message is also the form in which a plain message is
stored; with 0xFF after it, which is no class, the images of several are the form of a list of these. `load` and
`load_list` read these forms with the checks that a stored row needs; `revive` and `revive_all` are for images that this
process has made, or has loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

import ormsgpack
from pydantic import ValidationError

from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.messages import BY_CLASS, SHAPES, build_all, extra_of, fields_of, private_of

_STRICT = (
    ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_STORED, _LIST = b"\xc1", b"\xff"
_NUMBERS = {cls: shape.index for cls, shape in BY_CLASS.items()}
_PREFIXES = {cls: bytes((number,)) for cls, number in _NUMBERS.items()}
_AT_ONCE = 64
"""How many elements go into one call: enough to hardly notice it, few enough to stay in the processor's cache."""

_END = b"\xc4\x00"
"""An empty byte string, which is in no image. What follows the last value of an array is not told by ormsgpack."""

_pack = ormsgpack.packb
_unpack = ormsgpack.unpackb


def image(value: Any) -> bytes | None:
    """The exact image of the present state of `value`.

    Args:
        value: `None`, bool, int of up to 64 bits, float, str, a list or a dict with `str` keys of these, or a message
            of one of langchain-core's own classes that holds only these.

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
    if _may_hold_buffers(data) and _holds_buffers(value.__dict__ if prefix else value):
        return None
    return data


def images(values: Sequence[Any], expected: Sequence[object]) -> list[bytes | None]:
    """As `image` for each of some values, quicker where the image is the expected one.

    Args:
        expected: what the images of the first values may be, in order: images, or anything that is not `bytes`.
    """
    found: list[Any] = []
    known = min(len(values), len(expected))
    for start in range(0, known, _AT_ONCE):
        stop = min(start + _AT_ONCE, known)
        some, before = values[start:stop], expected[start:stop]
        found += before if _are(some, before) else map(image, some)
    found += map(image, values[known:])
    return found


def _are(values: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether these are the images of the values, all of which are messages, or plain values."""
    try:
        is_chat = type(values[0]) in _NUMBERS
        data = _chat(values) if is_chat else _pack(values, None, _STRICT)
        together = b"".join(expected)
    except (KeyError, TypeError, AttributeError):
        return False
    opening = _opening(len(values) * (1 + is_chat))
    return data.endswith(together) and len(data) == len(opening) + len(together)


def _chat(messages: Sequence[Any]) -> bytes:
    """The msgpack array of all messages' classes and fields.

    Raises:
        TypeError, KeyError, AttributeError: if one of them has no image.
    """
    if any(map(extra_of, messages)) or any(map(private_of, messages)):
        raise TypeError("it holds more than its fields")
    numbers = map(_NUMBERS.__getitem__, map(type, messages))
    return _pack(list(chain.from_iterable(zip(numbers, map(fields_of, messages), strict=True))), None, _STRICT)


def _opening(count: int) -> bytes:
    """What opens a msgpack array of that many values."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 65_536 else b"\xdd" + count.to_bytes(4, "big")


def _may_hold_buffers(data: bytes) -> bool:
    """Whether the tag of a byte string is among these bytes, perhaps as part of something else."""
    return 0xC4 in data or 0xC5 in data or 0xC6 in data


def _holds_buffers(value: Any) -> bool:
    """Whether anything was encoded as a byte string, somewhere in `value`."""
    level = [value]
    while level:
        types = set(map(type, level))
        if not types.isdisjoint(_BUFFERS):
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


_BUFFERS = frozenset((bytes, bytearray, memoryview))


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


def is_message(typed: bytes) -> bool:
    """Whether this is the stored form of a message's image."""
    return typed[:1] == _STORED and typed[1:2] != _LIST


def is_list(typed: bytes) -> bool:
    """Whether this is the stored form of a list of messages."""
    return typed[:2] == _STORED + _LIST


def stored_form(image: bytes) -> bytes | None:
    """The form in which a message with this image is stored; `None` for the image of anything else."""
    return _STORED + image if _is_of_message(image) else None


def stored_list(values: Sequence[Any]) -> bytes | None:
    """The form in which a list of plain messages that validation would not change is stored; `None` for any other."""
    try:
        data = _chat(values)
        made = _unpack(data)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    fields = made[1::2]
    if not _fit(made[::2], fields) or (_may_hold_buffers(data) and _holds_buffers(fields)):
        return None
    return _STORED + _LIST + data


def stored_message(value: Any) -> bytes | None:
    """The form in which a plain message that validation would not change is stored; `None` for anything else."""
    alone = stored_list([value])
    return alone and _STORED + alone[len(_STORED) + len(_LIST) + len(_opening(2)) :]


def _is_of_message(image: bytes) -> bool:
    return image[0] < len(SHAPES) and len(image) > 1  # a number alone is itself


def load(stored: bytes) -> tuple[Any, bytes | None]:
    """The message of a stored image: its class is one of langchain-core's, its fields hold plain data.

    Fields that are not those of a valid message of the installed langchain-core are validated.

    Returns:
        The message, and its image if `revive` makes the same of it.

    Raises:
        DecodeError: the bytes are not the image of a message, or its fields are refused.
    """
    try:
        if stored[:1] != _STORED:
            raise ValueError("not a message")
        number, fields, end = _unpack(b"".join((_opening(3), stored[1:], _END)))
        if number != stored[1] or end != b"":
            raise ValueError("not a message")
        message, fits = _opened(number, fields)
        return message, _provable(stored[1:], fields) if fits else None
    except (ValueError, TypeError, IndexError) as exc:
        raise DecodeError(f"the stored message is damaged: {exc}") from exc


def load_list(stored: bytes) -> list[Any]:
    """The messages of a stored list, as `load` would make each of them.

    Raises:
        DecodeError: the bytes are not those of such a list, or a message is refused.
    """
    if (quickly := load_lists([stored])) is not None:
        return quickly[0]
    try:
        values, end = _unpack(b"".join((_opening(2), stored[2:], _END)))
        if not is_list(stored) or end != b"" or type(values) is not list or not _is_each_number(values[::2]):
            raise ValueError("not a list of messages")
        return [_opened(number, fields)[0] for number, fields in zip(values[::2], values[1::2], strict=True)]
    except (ValueError, TypeError, IndexError) as exc:
        raise DecodeError(f"the stored messages are damaged: {exc}") from exc


def load_lists(stored: Sequence[bytes]) -> list[list[Any]] | None:
    """As `load_list` for each of many, quickly; `None` if one of them needs a closer look, or is no such list."""
    try:
        *lists, end = _unpack(b"".join((_opening(len(stored) + 1), *(one[2:] for one in stored if is_list(one)), _END)))
        flat = list(chain.from_iterable(lists))
        numbers, fields = flat[::2], flat[1::2]
        if end != b"" or set(map(type, lists)) != {list} or any(len(one) % 2 for one in lists):
            return None
        if not _is_each_number(numbers) or not _fit(numbers, fields):
            return None
    except (ValueError, TypeError, IndexError):
        return None
    messages = iter(build_all(numbers, fields))
    return [list(islice(messages, len(one) // 2)) for one in lists]


def _is_each_number(numbers: Sequence[Any]) -> bool:
    return set(map(type, numbers)) <= {int} and min(numbers, default=0) >= 0


def _fit(numbers: Sequence[int], fields: Sequence[Any]) -> bool:
    """Whether all these fields are those of valid messages of the classes with these numbers."""
    if not set(map(type, fields)) <= {dict}:
        return False
    for number, own in zip(numbers, fields, strict=True):  # noqa: SIM110  (a generator would cost more than the loop)
        if not SHAPES[number].fits(own):
            return False
    return True


def _opened(number: int, fields: Any) -> tuple[Any, bool]:
    """A message of the class with this number, and whether it took the fields as they are."""
    shape = SHAPES[number]
    if type(fields) is not dict:
        raise ValueError("its fields have no names")
    if shape.fits(fields):
        return shape.build(fields), True
    try:
        return shape.cls(**fields), False
    except ValidationError:  # it was valid for the langchain-core that stored it
        return shape.cls.model_construct(**fields), False


def _provable(image: bytes, fields: dict[str, Any]) -> bytes | None:
    """The image, unless it was stored when byte strings had one too."""
    return None if _may_hold_buffers(image) and _holds_buffers(fields) else image


def load_all(stored: Sequence[bytes]) -> list[tuple[Any, bytes | None]] | None:
    """As `load` for each of many, quickly; `None` if one of them needs a closer look, or is no message."""
    found: list[tuple[Any, bytes | None]] = []
    try:
        for start in range(0, len(stored), _AT_ONCE):
            loaded = _loaded(stored[start : start + _AT_ONCE])
            if loaded is None:
                return None
            found += loaded
    except (ValueError, TypeError, IndexError):
        return None
    return found


def _loaded(stored: Sequence[bytes]) -> Iterable[tuple[Any, bytes | None]] | None:
    images = [one[1:] for one in stored if one[0] == _STORED[0]]
    *values, end = _unpack(b"".join((_opening(2 * len(stored) + 1), *images, _END)))
    numbers, fields = values[::2], values[1::2]
    # Each begins where it should: none of them goes on in the next one.
    if end != b"" or numbers != [image[0] for image in images] or not _fit(numbers, fields):
        return None
    return zip(build_all(numbers, fields), map(_provable, images, fields), strict=True)


def revive(image: bytes) -> Any:
    """A new object from an image that this process made of a faithful value.

    Shares nothing mutable with the original, nor with another revival.

    Raises:
        ValueError: `image` was not made by `image()`.
    """
    if not _is_of_message(image):
        return _unpack(image)
    return SHAPES[image[0]].build(_unpack(memoryview(image)[1:]))


def revive_all(images: Sequence[bytes]) -> list[Any]:
    """As `revive` for each of many images."""
    found: list[Any] = []
    for start in range(0, len(images), _AT_ONCE):
        found += _revived(images[start : start + _AT_ONCE])
    return found


def _revived(images: Sequence[bytes]) -> list[Any]:
    count = len(images)
    try:  # there are as many values as images only if all are plain, and twice as many only if all are of messages
        if _is_of_message(images[0]):
            values = _unpack(b"".join((_opening(2 * count), *images)))
            return build_all(values[::2], values[1::2])
        values = _unpack(b"".join((_opening(count + 1), *images, _END)))
        if values.pop() == b"":
            return list(values)
    except ValueError:
        pass
    return list(map(revive, images))


class Copies:
    """Many copies of the value of one image: they share what cannot change, above all its texts.

    Args:
        image: an image of a faithful value.
    """

    __slots__ = ("_deep", "_fields", "_flat", "_number")

    def __init__(self, image: bytes) -> None:
        self._number = image[0] if _is_of_message(image) else None
        self._fields: Any = _unpack(image if self._number is None else memoryview(image)[1:])
        if self._number is None:
            return
        mutable = [key for key, value in self._fields.items() if type(value) in _MUTABLE]
        self._flat = [key for key in mutable if _is_flat(self._fields[key])]
        self._deep = [key for key in mutable if key not in self._flat]

    def one(self) -> Any:
        """A copy that shares nothing mutable with any other."""
        return self.one_of_each([self])[0]

    @staticmethod
    def one_of_each(many: Sequence[Copies]) -> list[Any]:
        """`one` of each of these."""
        if any(each._number is None for each in many):
            return [_copied(each._fields) if each._number is None else each.one() for each in many]
        numbers: list[Any] = []
        copied: list[dict[str, Any]] = []
        for each in many:
            fields = each._fields.copy()
            for key in each._flat:
                fields[key] = fields[key].copy()
            for key in each._deep:
                fields[key] = _copied(fields[key])
            numbers.append(each._number)
            copied.append(fields)
        return build_all(numbers, copied)


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
