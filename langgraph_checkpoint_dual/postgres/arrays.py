"""Rows as one array a column, and arrays as bytes: psycopg's way looks at each element, which costs more than all else.

The classes of arrays have their type in the database from their class and not from their elements, so that a prepared
statement is one for all values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, ClassVar
from weakref import WeakSet

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8

_HEAD = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_SIZE = Struct("!i")
_NUMBER = Struct("!iq")


class Texts(list[str]):
    """A `text[]`."""


class Blobs(list[bytes]):
    """A `bytea[]`."""


class Numbers(list[int]):
    """A `bigint[]`."""


def texts(values: Sequence[str], encoding: str) -> bytes:
    """A `text[]` in binary form."""
    return blobs([value.encode(encoding) for value in values], encoding, element=25)


def blobs(values: Sequence[bytes], encoding: str, *, element: int = 17) -> bytes:
    """A `bytea[]` in binary form: each element with its length in front."""
    if not values:
        return _EMPTY.pack(0, 0, element)
    parts = [part for value in values for part in (_SIZE.pack(len(value)), value)]
    return _HEAD.pack(1, 0, element, len(values), 1) + b"".join(parts)


def numbers(values: Sequence[int], encoding: str) -> bytes:
    """A `bigint[]` in binary form."""
    if not values:
        return _EMPTY.pack(0, 0, 20)
    return _HEAD.pack(1, 0, 20, len(values), 1) + b"".join([_NUMBER.pack(8, value) for value in values])


class _ArrayDumper(Dumper):
    """An array without NULL in binary form."""

    format = Format.BINARY
    packs: ClassVar[Callable[[Any, str], bytes]]

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self._encoding = self.connection.info.encoding if self.connection else "utf-8"

    def dump(self, obj: Any) -> bytes:
        return type(self).packs(obj, self._encoding)


class _TextsDumper(_ArrayDumper):
    oid, packs = 1009, texts


class _BlobsDumper(_ArrayDumper):
    oid, packs = 1001, blobs


class _NumbersDumper(_ArrayDumper):
    oid, packs = 1016, numbers


_registered: WeakSet[AdaptContext] = WeakSet()


def register(conn: AdaptContext) -> None:
    """Make a connection know the arrays."""
    if conn not in _registered:
        for array, dumper in ((Texts, _TextsDumper), (Blobs, _BlobsDumper), (Numbers, _NumbersDumper)):
            conn.adapters.register_dumper(array, dumper)
        _registered.add(conn)


def columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Rows as one array a column; empty stands for NULL, and 0 for no tag."""
    found: list[Any] = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return {name: _column(name, values) for name, values in zip(names, found, strict=True)}


def scalar(name: str, value: Any) -> Any:
    """A single value of a column, of the same type in the database whatever it is; empty stands for NULL."""
    if name in _NUMBERS:
        return Int8(value)
    return value or (b"" if name in _BLOBS else "")


def _column(name: str, values: Sequence[Any]) -> Texts | Blobs | Numbers:
    if name in _TAGS:
        return Numbers([value or 0 for value in values])
    if name in _NUMBERS:
        return Numbers(values)
    if name in _BLOBS:
        return Blobs([value or b"" for value in values])
    return Texts([value or "" for value in values])


_NUMBERS = {
    "idx", "item_place", "item_seq", "item_added_at", "item_checksum", "write_place", "at",
    "word_place", "word_seq", "word_added_at", "seq", "added_at", "checksum", "created_at", "updated_at",
}  # fmt: skip
_TAGS = {"item_tag", "tag"}
_BLOBS = {"checkpoint", "slots", "metadata_exact", "guard_slots", "item_data", "data"}
