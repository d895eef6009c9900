"""About how many bytes there are in values, found out cheaply: whether work on them is worth a hop to a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from langgraph_checkpoint_dual.messages import BY_CLASS, fields_of

ENOUGH = 32_768
"""What weighs this much is worth a hop, so counting stops."""
_EACH = 50
_TEXTS = frozenset((str, bytes, bytearray))
_NUMBERS = frozenset((int, float, bool, type(None)))


def weigh(several: Collection[Any]) -> int:
    """About the bytes of some values, or more than `ENOUGH`."""
    total, level = _EACH * len(several), several
    while level:
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if kind in _TEXTS:
                total += len(one)
            elif kind not in _NUMBERS:
                size, parts = _KNOWN.get(kind, _opened)(one)
                total += size + _EACH * len(parts)
                if total > ENOUGH:
                    return total
                below += parts
        level = below
    return total


def _opened(value: Any) -> tuple[int, Collection[Any]]:
    """The bytes of a value, as far as it is not made of parts, and its parts."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value), ()
    if isinstance(value, Mapping):
        return 0, list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return 0, value
    if hasattr(value, "__dict__"):
        return 0, vars(value).values()
    return getattr(value, "nbytes", 0), ()


_KNOWN: dict[type, Callable[[Any], tuple[int, Collection[Any]]]] = {
    **dict.fromkeys((list, tuple), lambda value: (0, value)),
    dict: lambda value: (0, value.values()),
    **dict.fromkeys(BY_CLASS, lambda message: (0, fields_of(message).values())),
}
"""As `_opened`, of the usual types."""
