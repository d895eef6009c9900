"""Text that every database stores and returns exactly.

Postgres refuses NUL in text, UTF-8 has no lone surrogates, and Python strings may hold both. Such characters,
and the escape character itself, are written as the escape character and four hexadecimal digits.
"""

from __future__ import annotations

import re

_ESCAPE = "\ue000"
_UNSAFE = re.compile("[\x00\ue000\ud800-\udfff]")
_ESCAPED = re.compile(_ESCAPE + "([0-9a-f]{4})")


def escape(text: str) -> str:
    """`text` without NUL and lone surrogates; different texts stay different."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSAFE.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    if text.isascii() or _ESCAPE not in text:
        return text
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
