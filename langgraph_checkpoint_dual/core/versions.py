"""Channel versions, in the format of the official SQL savers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any


def next_version(current: str | int | float | None) -> str:
    """The version after `current`: a 32-digit number that grows, and a random part that makes it unique.

    Threads whose versions are `int` (from other savers) go on with strings.
    """
    if current is None:
        number = 0
    elif isinstance(current, str):
        number = int(current.split(".")[0])
    else:
        number = int(current)
    return f"{number + 1:032}.{random.random():016}"


def highest_version(versions: Mapping[str, Any]) -> Any:
    """The highest of a checkpoint's versions, or a first one."""
    return max(versions.values()) if versions else next_version(None)
