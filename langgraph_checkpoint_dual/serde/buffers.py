"""Whether a value holds a bytearray or a memoryview, which msgpack would write as the bytes that they are not."""

from __future__ import annotations

from typing import Any

_WALKED = frozenset((dict, list, tuple, bytearray, memoryview))


def has_byte_strings(data: bytes) -> bool:
    """Whether there may be one of the three tags of a byte string, as which a bytearray would be written too."""
    return 0xC4 in data or 0xC5 in data or 0xC6 in data


def holds_other_buffers(value: Any) -> bool:
    """Whether a bytearray or a memoryview is somewhere in the lists, tuples and dicts of `value`."""
    pending = [value]
    for item in pending:  # grows while it is walked
        cls = type(item)
        if cls is bytearray or cls is memoryview:
            return True
        if cls is dict:
            item = item.values()
        elif not (cls is list or cls is tuple) or _is_vector(item):
            continue
        if not _WALKED.isdisjoint(map(type, item)):
            pending += item
    return False


def _is_vector(items: Any) -> bool:
    """Whether this is a long sequence of numbers, such as an embedding: a sum is the fastest way to know."""
    if len(items) < 32 or type(items[0]) is not float:
        return False
    try:
        return type(sum(items)) is float
    except Exception:
        return False
