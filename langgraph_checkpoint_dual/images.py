"""Exact images of plain values: has this element changed since it was stored, and fresh copies of it without decoding.

An image is the value's msgpack encoding, made by C code that is told to refuse whatever it could not tell apart:
tuples, subclasses, keys that are not `str`, enums, dates. Byte strings have none, because it takes a bytearray for
bytes. Two values with equal images are stored as equal bytes.

The image of a message is the number of its class and the encoding of its fields. These are two msgpack values, so it is
never that of a plain value, which is one; and of the images of a list, put one after the other, it is known where each
ends. That is why `images`, `revive_all` and above all a `Block` may work on many at once, which takes about half of the
time.

The image of a message is also the form in which a plain message is stored: no other stored form begins with one of
these numbers. The array of several, with 0xC1, which opens no msgpack value, and 0xFF before it, is the form of a list
of these. `load`, `load_all` and `load_list` read these forms with the checks that a stored row needs; `revive` and
`revive_all` are for images that this process has made, or has loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, cast

import ormsgpack
from pydantic import ValidationError

from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.messages import BY_CLASS, BY_NUMBER, build_all, extra_of, fields_of, fit_all, private_of

_STRICT = (
    ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_LIST = b"\xc1\xff"
_NUMBERS = {cls: shape.number for cls, shape in BY_CLASS.items()}
_FIRST, _LAST = bytes((min(BY_NUMBER),)), b"\x7f"
"""Between these are the numbers of classes, those of versions to come included."""
_PREFIXES = {cls: bytes((number,)) for cls, number in _NUMBERS.items()}
AT_ONCE = 64
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
            if type(value) in _BUFFERS:
                return None
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
    for start in range(0, known, AT_ONCE):
        stop = min(start + AT_ONCE, known)
        some, before = values[start:stop], expected[start:stop]
        found += before if have_images(some, before) else map(image, some)
    found += map(image, values[known:])
    return found


def have_images(values: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether these are the images of just as many values, which are all messages, or all plain; found out at once."""
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


def faithful(image: bytes) -> bool:
    """Whether `revive(image)` is exactly what storing and loading a value with this image gives.

    True for plain values, and for messages that would pass validation unchanged.
    """
    if _is_of_message(image):
        return stored_fields(image) is not None
    try:
        _unpack(image)
    except ValueError:  # an extension value, which has no image of its own
        return False
    return True


def is_message(typed: bytes) -> bool:
    """Whether this is the stored form of a message's image."""
    return _FIRST <= typed[:1] <= _LAST


def is_list(typed: bytes) -> bool:
    """Whether this is the stored form of a list of messages."""
    return typed[:2] == _LIST


def stored_fields(image: bytes) -> dict[str, Any] | None:
    """The fields of a message that is stored as this image of it: one that would pass validation unchanged.

    Returns:
        `None` if this is the image of anything else.
    """
    if not _is_of_message(image):
        return None
    try:
        fields: dict[str, Any] = _unpack(memoryview(image)[1:])
    except ValueError:  # it holds an extension value
        return None
    return fields if BY_NUMBER[image[0]].fits(fields) else None


def stored_list(values: Sequence[Any]) -> bytes | None:
    """The form in which a list of plain messages that validation would not change is stored; `None` for any other."""
    try:
        data = _chat(values)
        made = _unpack(data)
        if not fit_all(made[::2], made[1::2]) or (_may_hold_buffers(data) and _holds_buffers(made[1::2])):
            return None
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    return _LIST + data


def stored_message(value: Any) -> bytes | None:
    """The form in which a plain message that validation would not change is stored; `None` for anything else."""
    alone = stored_list([value])
    return alone and alone[len(_LIST) + len(_opening(2)) :]


def _is_of_message(image: bytes) -> bool:
    return image[0] in BY_NUMBER and len(image) > 1  # a number alone is itself


def load(stored: bytes) -> tuple[Any, bytes | None]:
    """The message of a stored image: its class is one of langchain-core's, its fields hold plain data.

    Fields that are not those of a valid message of the installed langchain-core are validated.

    Returns:
        The message, and its image if `revive` makes the same of it.

    Raises:
        DecodeError: the bytes are not the image of a message, or its fields are refused.
    """
    try:
        if not is_message(stored):
            raise ValueError("not a message")
        number, fields, end = _unpack(b"".join((_opening(3), stored, _END)))
        if number != stored[0] or end != b"":
            raise ValueError("not a message")
        message, fits = _opened(number, fields)
        return message, stored if fits and not _had_buffers(stored, fields) else None
    except (ValueError, TypeError, LookupError) as exc:
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
        if not is_list(stored) or end != b"" or type(values) is not list or not _are_numbers(values[::2]):
            raise ValueError("not a list of messages")
        return [_opened(number, fields)[0] for number, fields in zip(values[::2], values[1::2], strict=True)]
    except (ValueError, TypeError, LookupError) as exc:
        raise DecodeError(f"the stored messages are damaged: {exc}") from exc


def load_lists(stored: Sequence[bytes]) -> list[list[Any]] | None:
    """As `load_list` for each of many, quickly; `None` if one of them needs a closer look, or is no such list."""
    try:
        *lists, end = _unpack(b"".join((_opening(len(stored) + 1), *(one[2:] for one in stored if is_list(one)), _END)))
        flat = list(chain.from_iterable(lists))
        numbers, fields = flat[::2], flat[1::2]
        if end != b"" or set(map(type, lists)) != {list} or any(len(one) % 2 for one in lists):
            return None
        if not _are_numbers(numbers) or not fit_all(numbers, fields):
            return None
    except (ValueError, TypeError, LookupError):
        return None
    messages = iter(build_all(numbers, fields))
    return [list(islice(messages, len(one) // 2)) for one in lists]


def _are_numbers(numbers: Sequence[Any]) -> bool:
    return set(map(type, numbers)) <= {int}


def _opened(number: int, fields: Any) -> tuple[Any, bool]:
    """A message of the class with this number, and whether it took the fields as they are."""
    shape = BY_NUMBER[number]
    if type(fields) is not dict:
        raise ValueError("its fields have no names")
    if shape.fits(fields):
        return shape.build(fields), True
    try:
        return shape.cls(**fields), False
    except ValidationError:  # it was valid for the langchain-core that stored it
        return shape.cls.model_construct(**fields), False


def _had_buffers(data: bytes, values: Any) -> bool:
    """Whether these values, of this encoding, were stored when byte strings had an image too."""
    return _may_hold_buffers(data) and _holds_buffers(values)


class Block:
    """The images of elements that follow one another, compared and revived at once.

    They are one msgpack array. The texts of messages are kept beside it, as they are: most of them need no comparison,
    because revivals share them, and no encoding. Never changed.
    """

    __slots__ = ("_data", "_frame", "_texts", "_types", "weight")

    def __init__(self, values: Sequence[Any], types: tuple[type, ...]) -> None:
        self._types, self._frame = types, (*chain.from_iterable((_NUMBERS[cls], None) for cls in types), b"")
        self._texts = _texts(list(map(fields_of, values))) if types else None
        self._data = self._encoded(values)
        held = sum(map(sys.getsizeof, self._texts)) + 8 * len(values) if self._texts else 0
        self.weight = 500 + len(self._data) + held + 32 * len(types)
        """About the bytes of memory that it takes."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> Block | None:
        """The block of some faithful values, which nobody changes meanwhile.

        Returns:
            `None` if only some of them are messages, or if one is nested just as deeply as can be.
        """
        types = tuple(map(type, values))
        messages = sum(map(_NUMBERS.__contains__, types))
        if messages not in (0, len(values)):
            return None
        try:
            return cls(values, types if messages else ())
        except (TypeError, AttributeError, ValueError):
            return None

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether the images of these values are those of this block's."""
        try:
            return self._encoded(values) == self._data
        except (TypeError, AttributeError, ValueError):
            return False

    def _encoded(self, values: Sequence[Any]) -> bytes:
        """All but the texts of values that may be those of this block.

        Raises:
            ValueError: if they are not: they are others than messages of these classes with these texts and no more.
            TypeError, AttributeError: if one of them has no image.
        """
        if not self._types:
            return _pack([*values, b""], None, _STRICT)
        if tuple(map(type, values)) != self._types or any(map(extra_of, values)) or any(map(private_of, values)):
            raise ValueError("other classes, or more than fields")
        fields = list(map(fields_of, values))
        if self._texts is not None:
            if _texts(fields) != self._texts:
                raise ValueError("other texts")
            fields = [{**own, _TEXT: None} for own in fields]
        frame = list(self._frame)
        frame[1::2] = fields
        return _pack(frame, None, _STRICT)

    def revive(self) -> list[Any]:
        """As `revive` for each of the images."""
        values = _unpack(self._data)
        values.pop()
        if not self._types:
            return list(values)
        fields = values[1::2]
        for own, text in zip(fields, self._texts or (), strict=False):
            own[_TEXT] = text
        return build_all(values[::2], fields)

    def images(self) -> list[bytes]:
        """The image of each element."""
        return [one for one in map(image, self.revive()) if one is not None]

    def find(self, image: object) -> int | None:
        """The place of the first element with this image; `None` if there is none, or if it is no image."""
        if type(image) is not bytes or not self._may_have(image):
            return None
        found = self.images()
        return found.index(image) if image in found else None

    def _may_have(self, image: bytes) -> bool:
        if self._texts is None:
            return image in self._data
        try:
            return _is_of_message(image) and _unpack(memoryview(image)[1:]).get(_TEXT) in self._texts
        except ValueError:  # an extension value, as in none of these
            return False


_TEXT = "content"


def _texts(several: Sequence[dict[str, Any]]) -> tuple[str, ...] | None:
    """The texts of messages with these fields; `None` if one has none, or anything about them is unusual."""
    if set(map(type, several)) != {dict}:
        return None
    texts = tuple([own.get(_TEXT) for own in several])
    return cast("tuple[str, ...]", texts) if set(map(type, texts)) == {str} else None


def load_all(stored: Sequence[bytes]) -> list[Any] | None:
    """As `load` for each of a few messages that all have images, quickly.

    Returns:
        `None` if one of them needs a closer look, or is no message.
    """
    try:
        *values, end = _unpack(b"".join((_opening(2 * len(stored) + 1), *stored, _END)))
        numbers, fields = values[::2], values[1::2]
        # Each begins where it should: none of them goes on in the next one.
        if end != b"" or numbers != [one[0] for one in stored] or not fit_all(numbers, fields):
            return None
        if _holds_buffers([own for own, one in zip(fields, stored, strict=True) if _may_hold_buffers(one)]):
            return None
    except (ValueError, TypeError, LookupError):
        return None
    return build_all(numbers, fields)


def revive(image: bytes) -> Any:
    """A new object from an image that this process made of a faithful value.

    Shares nothing mutable with the original, nor with another revival.

    Raises:
        ValueError: `image` was not made by `image()`.
    """
    if not _is_of_message(image):
        return _unpack(image)
    return BY_NUMBER[image[0]].build(_unpack(memoryview(image)[1:]))


def revive_all(images: Sequence[bytes]) -> list[Any]:
    """As `revive` for each of many images."""
    found: list[Any] = []
    for start in range(0, len(images), AT_ONCE):
        found += _revived(images[start : start + AT_ONCE])
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
