"""Values as bytes: what a serializer made, framed with its type, and sealed with a checksum when stored.

- *typed* bytes are one byte for the serializer's type name (or 255 and the name itself) and the serializer's data;
  or the image of a plain message, or of a list of them, which begin with other bytes; or 254 and such a list, for a
  delta channel's snapshot of it.
- *sealed* bytes are a CRC-32 and the typed bytes. Items have their checksum in a column of its own: their bytes are
  kept as marks, and so need no copying. Checksums start from the row's place, so a row that was damaged, or moved to
  another place, is found out when it is read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual.core.text import check_texts
from langgraph_checkpoint_dual.encryption import encrypts, plaintext_error, refuses_plaintext
from langgraph_checkpoint_dual.errors import DecodeError, EncodeError
from langgraph_checkpoint_dual.images import (
    is_list,
    is_message,
    load,
    load_list,
    load_lists,
    stored_list,
    stored_message,
)
from langgraph_checkpoint_dual.messages import BY_CLASS

_TYPES = ("null", "bytes", "bytearray", "msgpack", "json", "pickle", "empty")
_CODES = {name: bytes([code]) for code, name in enumerate(_TYPES)}
_OTHER = 255
_SNAPSHOT = b"\xfe"
_SHORTER = frozenset((list, _DeltaSnapshot, *BY_CLASS))
_HEADER = 4
_PIECE = 1_000_000

MARK = b"\xffMAC"
"""What the bytes of a row end with that has a MAC (`core/integrity.py`)."""
MISFIT, BARE = b"\xfe", b"\xff"
"""In place of sealed bytes whose MAC does not fit, or that have none: they are too short to have a checksum."""
MISFIT_ITEM, BARE_ITEM = -1, -2
"""The same for items, in place of their checksum, which is never negative."""
_MISFIT = "are damaged: their MAC does not fit, so they were changed, or were stored with another integrity_key="
_BARE = "have no MAC: they were stored without integrity_key=, or changed since"
REFUSED: dict[bytes | int, str] = {MISFIT: _MISFIT, MISFIT_ITEM: _MISFIT, BARE: _BARE, BARE_ITEM: _BARE}


def encode(serde: SerializerProtocol, value: Any) -> bytes:
    """A value as typed bytes.

    Raises:
        EncodeError: if the serializer cannot store it.
    """
    if type(value) in _SHORTER and is_direct(serde) and (short := _shorter(value)) is not None:
        return short
    try:
        name, data = serde.dumps_typed(value)
    except EncodeError:
        raise
    except Exception as exc:
        raise EncodeError(f"{type(serde).__name__} cannot store a {type(value).__name__}: {exc}") from exc
    return typed(name, data)


def _shorter(value: Any) -> bytes | None:
    """Messages as their images, past the serializer, if nothing else is in the value."""
    if type(value) is _DeltaSnapshot:
        held = value.value
        inner = stored_list(held) if type(held) is list and held else None
        return inner and _SNAPSHOT + inner
    if type(value) is list:
        return stored_list(value) if value else None
    return stored_message(value)


def typed(name: str, data: bytes) -> bytes:
    """What a serializer made, its type name and data, as typed bytes."""
    return b"".join((_CODES.get(name) or _named(name), data))  # which lets other threads run if it is much


def _named(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > 255:
        raise EncodeError(f"the serializer's type name is longer than 255 bytes: {name[:40]!r}...")
    return bytes((_OTHER, len(raw))) + raw


def decode(serde: SerializerProtocol, typed: bytes) -> Any:
    """The value of typed bytes.

    Raises:
        PlaintextError: if they are not encrypted, and the serializer encrypts.
        DecodeError: if they are damaged, or of a type that the serializer may not revive.
    """
    if not is_direct(serde) and refuses_plaintext(serde):
        _check_encrypted(typed)
    if is_message(typed):
        return load(typed)[0]
    if is_list(typed):
        return load_list(typed)
    if is_snapshot(typed):
        return _DeltaSnapshot(load_list(typed[1:]))
    name, data = split(typed)
    try:
        return serde.loads_typed((name, data))
    except DecodeError:
        raise
    except Exception as exc:
        raise DecodeError(f"{type(serde).__name__} cannot read the stored {name}: {exc or type(exc).__name__}") from exc


def _check_encrypted(typed: bytes) -> None:
    if not typed or typed[0] == _OTHER:
        name = split(typed)[0]
        if "+" in name:
            return
    else:
        name = _TYPES[typed[0]] if typed[0] < len(_TYPES) else "message"
    raise plaintext_error(name)


def decode_all(serde: SerializerProtocol, typed: Sequence[bytes]) -> list[Any]:
    """The values of many typed bytes.

    Raises:
        DecodeError: as `decode`.
    """
    lists = [] if refuses_plaintext(serde) else list(filter(is_list, typed))
    quickly = load_lists(lists) if len(lists) > 1 else None
    if quickly is None:
        return [decode(serde, one) for one in typed]
    found = iter(quickly)
    return [next(found) if is_list(one) else decode(serde, one) for one in typed]


def is_snapshot(typed: bytes) -> bool:
    """Whether this is a delta channel's snapshot of a list of messages: 254, and that list."""
    return typed[:1] == _SNAPSHOT


def split(typed: bytes) -> tuple[str, bytes]:
    """The serializer's type name and data in typed bytes that are no message's image.

    Raises:
        DecodeError: if there is no such type.
    """
    if not typed:
        raise DecodeError("the stored bytes are empty")
    code = typed[0]
    if code == _OTHER:
        with suppress(IndexError, UnicodeDecodeError):
            end = 2 + typed[1]
            return typed[2:end].decode(), _after(end, typed)
    if code < len(_TYPES):
        return _TYPES[code], _after(1, typed)
    raise DecodeError(f"the stored bytes begin with the unknown type {code}")


def _after(start: int, data: bytes) -> bytes:
    """What comes after the first bytes; much of it in pieces, because other threads wait while one is copied."""
    if len(data) <= _PIECE:
        return data[start:]
    return b"".join([data[at : at + _PIECE] for at in range(start, len(data), _PIECE)])


def is_direct(serde: SerializerProtocol) -> bool:
    """Whether messages may be stored as their images, past this serializer."""
    return getattr(serde, "is_plain", False) is True  # far quicker than isinstance(), which asks a Protocol


def is_trusted(serde: SerializerProtocol) -> bool:
    """Whether this serializer is known to give what `images.revive` gives for `images.faithful` values."""
    return is_direct(serde) or (encrypts(serde) and is_direct(getattr(serde, "serde", serde)))


def place(*keys: str) -> int:
    """The start value of the checksums of one kind of row in one place.

    Raises:
        DecodeError: if one of the row's keys is no text.
    """
    try:
        return zlib.crc32("\0".join(keys).encode())
    except TypeError:
        check_texts(*keys)
        raise


def seal(typed: bytes, start: int) -> bytes:
    """Typed bytes with their checksum in front."""
    return b"".join((zlib.crc32(typed, start).to_bytes(_HEADER, "big"), typed))


def unseal(sealed: bytes, start: int) -> bytes:
    """The typed bytes in sealed ones.

    Raises:
        DecodeError: if the checksum does not fit the bytes and the place.
    """
    try:
        typed = _after(_HEADER, sealed)
        fits = zlib.crc32(typed, start) == int.from_bytes(sealed[:_HEADER], "big") and len(typed) > 0
    except TypeError:
        raise DecodeError(f"the stored bytes are damaged: they are of type {type(sealed).__name__}") from None
    if not fits:
        raise DecodeError(_refusal(sealed))
    return typed


def unseal_all(sealed: Sequence[bytes], starts: Sequence[int]) -> list[bytes]:
    """As `unseal` for each of many.

    Raises:
        DecodeError: if one of the checksums does not fit.
    """
    with suppress(TypeError):
        typed = [_after(_HEADER, one) for one in sealed]
        if all(typed):
            checksums = struct.unpack(f">{len(sealed)}I", b"".join([one[:_HEADER] for one in sealed]))
            if tuple(map(zlib.crc32, typed, starts)) == checksums:
                return typed
    return list(map(unseal, sealed, starts))  # one by one, which raises


def _refusal(sealed: bytes) -> str:
    """What is wrong with bytes that have not their checksum, in words."""
    if (reason := REFUSED.get(bytes(sealed))) is not None:
        return f"the stored bytes {reason}"
    has_mac = "; they look as if they were stored with integrity_key=" if sealed[-len(MARK) :] == MARK else ""
    return f"the stored bytes are damaged: their checksum does not fit{has_mac}"


def unfit(checksum: int) -> str:
    """What is wrong with an item that has not its checksum but this one, in words."""
    refused = REFUSED.get(checksum)
    return f"was refused: its stored bytes {refused}" if refused else "is damaged: its checksum does not fit"


def item_checksum(typed: bytes, start: int, seq: int, added_at: int) -> int:
    """The checksum of an item, from the place of its channel, its number and its time."""
    return zlib.crc32(typed, start ^ ((seq ^ added_at ^ added_at >> 32) & 0xFFFFFFFF))


def is_item(checksum: int, typed: bytes, start: int, seq: int, added_at: int) -> bool:
    """Whether this is the checksum of an item; what is stored may be of any type."""
    try:
        return item_checksum(typed, start, seq, added_at) == checksum
    except TypeError:
        return False


def item_checksums(typed: Sequence[bytes], start: int, seqs: Iterable[int], times: Iterable[int]) -> list[int]:
    """As `item_checksum` for each of many items of one channel."""
    starts = [start ^ ((seq ^ at ^ at >> 32) & 0xFFFFFFFF) for seq, at in zip(seqs, times, strict=True)]
    return list(map(zlib.crc32, typed, starts))
