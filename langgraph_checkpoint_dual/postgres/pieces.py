"""Large data on its way to the server and back, in pieces: between two of them an event loop has its turn.

To the server: libpq moves all that it has yet to send with every part that it gets rid of, and a statement goes to it
whole. So of a large addition, whose time is that of its bytes, the items or writes go ahead of the statement that lets
it in, in one transaction with it, as the binary form of COPY.

Back: what is larger than a piece comes as several rows, of which only the last column differs (`piece` in queries.sql).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from struct import Struct

from langgraph_checkpoint_dual.core.rows import ItemRow, Put, PutWrites, SearchRow, WriteRow, size_of
from langgraph_checkpoint_dual.core.turns import give_way
from langgraph_checkpoint_dual.core.tx import Row

_COPY_ITEMS = (
    "ddl COPY {items} (thread_id, checkpoint_ns, channel, seq, added_at, checksum, tag, data)"
    " FROM STDIN (FORMAT BINARY)"
)
_COPY_WRITES = (
    "ddl COPY {writes} (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, channel, idx, data)"
    " FROM STDIN (FORMAT BINARY)"
)
LARGE = 1_000_000
"""From how many bytes on an addition goes in pieces: fewer are quicker in one statement."""
PIECE = 131_072
"""How many bytes go at once. The queries know it too."""
SLICE = 32
"""How many rows of a result are made objects of at once."""
_ROWS = 256
_OPENING = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_COLUMNS = Struct("!h")
_SIZE = Struct("!i")
_NUMBERS = Struct("!iqiqiqiqi")
_NUMBERS_NO_TAG = Struct("!iqiqiqii")
_INDEX = Struct("!iii")


def is_large(addition: Put | PutWrites) -> bool:
    """Whether an addition is better sent in pieces."""
    return not (isinstance(addition, PutWrites) and addition.replace) and size_of(addition) >= LARGE


def command_of(addition: Put | PutWrites) -> str:
    """The COPY that stores the items of a checkpoint, or a task's writes."""
    return _COPY_ITEMS if isinstance(addition, Put) else _COPY_WRITES


def copied(addition: Put | PutWrites, encoding: str) -> Iterator[bytes]:
    """What COPY takes of an addition, in pieces of a bounded size.

    Args:
        encoding: the connection's.
    """
    held: list[bytes] = [_OPENING]
    size = 0
    for head, data in _rows(addition, encoding):
        held.append(head)
        if len(data) < PIECE:
            held.append(data)
            size += len(data)
        else:
            yield b"".join(held)
            yield from (data[at : at + PIECE] for at in range(0, len(data), PIECE))
            held, size = [], 0
        if size >= PIECE or len(held) >= 2 * _ROWS:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join([*held, _END])


def _rows(addition: Put | PutWrites, encoding: str) -> Iterator[tuple[bytes, bytes]]:
    """The rows of an addition: how each begins, and its data."""
    if isinstance(addition, Put):
        return ((_item(item, encoding), item.data) for item in addition.items)
    return ((_write(row, encoding), row.data) for row in addition.rows)


def _item(item: ItemRow, encoding: str) -> bytes:
    thread_id, ns, channel, seq, added_at, checksum, tag, data = item
    if tag is None:
        numbers = _NUMBERS_NO_TAG.pack(8, seq, 8, added_at, 8, checksum, -1, len(data))
    else:
        numbers = _NUMBERS.pack(8, seq, 8, added_at, 8, checksum, 8, tag, len(data))
    return _texts((thread_id, ns, channel), len(item), encoding) + numbers


def _write(row: WriteRow, encoding: str) -> bytes:
    texts = (row.thread_id, row.checkpoint_ns, row.checkpoint_id, row.task_id, row.task_path, row.channel)
    return _texts(texts, len(row), encoding) + _INDEX.pack(4, row.idx, len(row.data))


@lru_cache(16)
def _texts(texts: Sequence[str], columns: int, encoding: str) -> bytes:
    """How a row of so many columns begins; the rows of a channel's items all begin alike."""
    encoded = [text.encode(encoding) for text in texts]
    return _COLUMNS.pack(columns) + b"".join([_SIZE.pack(len(text)) + text for text in encoded])


def in_slices(words: Sequence[SearchRow]) -> Iterator[Sequence[SearchRow]]:
    """Words in slices that are a piece each."""
    return (words[at : at + _ROWS] for at in range(0, len(words), _ROWS))


def are_pieces(query: str, rows: Sequence[Row]) -> bool:
    """Whether some of these rows are to be `joined`."""
    return query in _IN_PIECES and PIECE in map(len, map(_DATA, rows))


def joined(rows: Iterable[Row]) -> list[Row]:
    """The rows of a query, those that are the pieces of one as one."""
    return [_joined(key, list(map(_DATA, several))) for key, several in groupby(rows, _KEY)]


def _joined(key: Row, parts: Sequence[bytes]) -> Row:
    give_way()
    return (*key, parts[0] if len(parts) == 1 else b"".join(parts))


_IN_PIECES = ("items", "rows_of_items")
_KEY, _DATA = itemgetter(slice(-1)), itemgetter(-1)
