"""Items as the binary form of COPY, in pieces: how much of them goes to the server at once.

libpq moves all that it has yet to send with every part that it gets rid of, and a statement goes to it whole. So of a
large addition, whose time is that of its bytes, the items follow the statement that stores the checkpoint, in one
transaction with it. Between two pieces an event loop has its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import TypeGuard

from langgraph_checkpoint_dual.core.rows import ItemRow, Put, PutWrites, SearchRow, size_of

COPY_ITEMS = (
    "ddl COPY {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)"
    " FROM STDIN (FORMAT BINARY)"
)
LARGE = 1_000_000
"""From how many bytes on an addition goes in pieces: fewer are quicker in one statement."""
_PIECE = 131_072
_ROWS = 256
_OPENING = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_COLUMNS = Struct("!h")
_SIZE = Struct("!i")
_NUMBERS = Struct("!iqiqiqiqi")
_NUMBERS_NO_TAG = Struct("!iqiqiqii")


def is_large(addition: Put | PutWrites) -> TypeGuard[Put]:
    """Whether the items of an addition are better sent in pieces."""
    return isinstance(addition, Put) and size_of(addition) >= LARGE


def pieces(items: Iterable[ItemRow], encoding: str) -> Iterator[bytes]:
    """What COPY takes, in pieces of a bounded size.

    Args:
        encoding: the connection's.
    """
    held: list[bytes] = [_OPENING]
    size = 0
    for item in items:
        held.append(_head(item, encoding))
        if len(item.data) < _PIECE:
            held.append(item.data)
            size += len(item.data)
        else:
            yield b"".join(held)
            yield from (item.data[at : at + _PIECE] for at in range(0, len(item.data), _PIECE))
            held, size = [], 0
        if size >= _PIECE or len(held) >= 2 * _ROWS:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join([*held, _END])


def _head(item: ItemRow, encoding: str) -> bytes:
    """An item's row, up to its data."""
    texts = [text.encode(encoding) for text in item[:3]]
    parts = [part for text in texts for part in (_SIZE.pack(len(text)), text)]
    _, _, _, seq, added_at, checksum, tag, data = item
    if tag is None:
        numbers = _NUMBERS_NO_TAG.pack(8, seq, 8, added_at, 8, checksum, -1, len(data))
    else:
        numbers = _NUMBERS.pack(8, seq, 8, added_at, 8, checksum, 8, tag, len(data))
    return b"".join((_COLUMNS.pack(len(item)), *parts, numbers))


def in_slices(words: Sequence[SearchRow]) -> Iterator[Sequence[SearchRow]]:
    """Words in slices that are a piece each."""
    return (words[at : at + _ROWS] for at in range(0, len(words), _ROWS))
