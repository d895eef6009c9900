"""Whether two values that two savers gave are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph_checkpoint_dual.images import image


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal with all their types; NaN equals itself, the order of a dict does not count."""
    if type(first) is not type(second):
        return False
    if (exact := image(first)) is not None and exact == image(second):  # as most are, and much quicker
        return True
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float):
        return repr(first) == repr(second)
    if isinstance(first, (set, frozenset)):
        return bool(first == second)
    return _same_objects(first, second)


def _same_objects(first: Any, second: Any) -> bool:
    if hasattr(first, "tobytes"):  # an array's == is an array
        return bool(first.tobytes() == second.tobytes() and str(first) == str(second))
    if not hasattr(first, "__dict__") or isinstance(first, type):
        return bool(first == second)
    return same(vars(first), vars(second)) and (bool(first == second) or repr(first) == repr(second))
