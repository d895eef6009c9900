"""Text that every database stores and returns exactly.

Postgres refuses NUL in text, UTF-8 has no lone surrogates, and Python strings may hold both. Such characters,
and the escape character itself, are written as the escape character and four hexadecimal digits.
"""

from __future__ import annotations

import re
from typing import Any

from langgraph_checkpoint_dual.errors import DecodeError

_ESCAPE = "\ue000"
_UNSAFE = re.compile("[\x00\ue000\ud800-\udfff]")
_ESCAPED = re.compile(_ESCAPE + "([0-9a-f]{4})")


def escape(text: str) -> str:
    """`text` without NUL and lone surrogates; different texts stay different."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSAFE.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that `escape` was given.

    Raises:
        DecodeError: if what is stored is no text.
    """
    try:
        if _ESCAPE not in text:
            return text
    except TypeError:
        check_texts(text)
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def shown(stored: Any) -> Any:
    """As `unescape`, for error texts: what is no text is left as it is."""
    return unescape(stored) if isinstance(stored, str) else stored


def order_of(*stored: Any) -> tuple[Any, ...]:
    """What ids from the database are sorted by, as databases do: a damaged one may be bytes, and comes last."""
    return tuple([(isinstance(one, bytes), one) for one in stored])


def check_texts(*stored: object) -> None:
    """Check ids and names that come from the database: SQLite keeps anything in any column.

    Raises:
        DecodeError: if one of them is no text.
    """
    for one in stored:
        if type(one) is not str:
            raise DecodeError(f"a stored id or name is damaged: it is of type {type(one).__name__}, not text")
