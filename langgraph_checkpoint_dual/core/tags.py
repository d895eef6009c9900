"""Tags: by which an item that is a message is found from the message's id, without a look at any other item.

The tag of an id is a number of 64 bits, its BLAKE2b hash, in a column of its own. So their index is small whatever the
ids are, and a database of encrypted values tells an id only to who knows it already. Two ids may share a tag: what is
found by it is compared with the id that is looked for.

An item has a tag if and only if it is a message with an id, whatever serializer stores it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from langchain_core.messages import BaseMessage

_BYTES = 8


def tag_of(value: Any) -> int | None:
    """The tag of an item that holds this value."""
    if not isinstance(value, BaseMessage):
        return None
    found = value.id
    return tag_of_id(found) if type(found) is str else None


def tag_of_id(message_id: str) -> int:
    """The tag of messages that have this id."""
    digest = blake2b(message_id.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
    return int.from_bytes(digest, "big", signed=True) or 1  # 0 stands for none where there can be no NULL
