"""Rows as one array a column, and arrays as bytes: psycopg's way looks at each element, which costs more than all else.

The classes of arrays have their type in the database from their class and not from their elements, so that a prepared
statement is one for all values. In place of NULL stand the empty text, no bytes, and 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, ClassVar
from weakref import WeakSet

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_SIZE = Struct("!i")
_NUMBER = Struct("!iq")


class Texts(list[str | None]):
    """A `text[]`."""


class Blobs(list[bytes | None]):
    """A `bytea[]`."""


class Numbers(list[int | None]):
    """A `bigint[]`."""


def texts(values: Sequence[str | None], encoding: str) -> bytes:
    """A `text[]` in binary form."""
    return _array([(value or "").encode(encoding) for value in values], 25)


def blobs(values: Sequence[bytes | None], encoding: str) -> bytes:
    """A `bytea[]` in binary form."""
    return _array([value or b"" for value in values], 17)


def _array(values: Sequence[bytes], element: int) -> bytes:
    """An array in binary form: each element with its length in front."""
    if not values:
        return _EMPTY.pack(0, 0, element)
    parts = [part for value in values for part in (_SIZE.pack(len(value)), value)]
    return _HEAD.pack(1, 0, element, len(values), 1) + b"".join(parts)


def numbers(values: Sequence[int | None], encoding: str) -> bytes:
    """A `bigint[]` in binary form."""
    if not values:
        return _EMPTY.pack(0, 0, 20)
    return _HEAD.pack(1, 0, 20, len(values), 1) + b"".join([_NUMBER.pack(8, value or 0) for value in values])


class _ArrayDumper(Dumper):
    """An array in binary form."""

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


def columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Sequence[Any]]:
    """Rows as one sequence a column."""
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
