"""Tags: by which an item that is a message is found from the message's id, without a look at any other item.

The contract:

1. An item has a tag if and only if it is a message with an id, whatever serializer stores it.
2. A tag is a number of 64 bits in a column and an index of its own: a checksum of the place (thread, namespace and
   channel) above a hash of the id. So the index is small, what is new in a thread goes into it side by side, and a
   database of encrypted values tells an id only to who knows it already.
3. The index is asked for the tag alone. With the place beside it a planner may take the primary key instead, and read
   the whole list.
4. Different messages may share a tag: of what is found, the place and the id are compared.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any
from zlib import crc32

from langchain_core.messages import BaseMessage

from langgraph_checkpoint_dual.messages import BY_CLASS


def id_hash_of(value: Any) -> int | None:
    """What the tag of an item that holds this value has of its id; `None` if it gets no tag."""
    if type(value) not in BY_CLASS and not isinstance(value, BaseMessage):  # which takes long to ask
        return None
    found = value.id
    return hash_of_id(found) if isinstance(found, str) else None


def hash_of_id(message_id: str) -> int:
    """What the tags of messages with this id have of the id: 32 bits of BLAKE2b."""
    found = int.from_bytes(blake2b(_bytes(message_id), digest_size=4).digest(), "big")
    return found or 1  # so that no tag is 0, which stands for none where there can be no NULL


def tag_in(place: int, id_hash: int | None) -> int | None:
    """The tag of an item in this place, if it gets one."""
    return None if id_hash is None else place | id_hash


@lru_cache(1024)  # most places get items again and again
def place_of(thread_id: str, checkpoint_ns: str, channel: str) -> int:
    """What all tags of one place have in common. Names are as they are stored."""
    return _of_thread(thread_id) ^ _upper(crc32(_bytes(f"{checkpoint_ns}\0{channel}")))


def between(source: str, target: str) -> int:
    """In which bits (exclusive or) the tags of a thread differ from those of its copy."""
    return _of_thread(source) ^ _of_thread(target)


def _of_thread(thread_id: str) -> int:
    return _upper(crc32(_bytes(thread_id)))


def _upper(checksum: int) -> int:
    """The upper half of a signed number of 64 bits."""
    return (checksum - (checksum >> 31 << 32)) << 32


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
