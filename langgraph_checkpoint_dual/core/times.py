"""Times as the database holds them: microseconds since 1970, in UTC; 0 stands for a time that is not known."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from langgraph_checkpoint_dual.errors import ConfigError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_UUID_EPOCH = 0x01B21DD213814000
"""1970 in the count of UUIDs: steps of 100 ns since 1582."""


def now() -> int:
    """The present time."""
    return time.time_ns() // 1000


def micros(at: datetime) -> int:
    """A time that a user gave; without a time zone it is taken as local, as `datetime` does.

    Raises:
        ConfigError: if it is no `datetime`, or one that has no place in the local time zone.
    """
    if not isinstance(at, datetime):
        raise ConfigError(f"a time must be a datetime, not {at!r}")
    try:
        return ((at if at.tzinfo else at.astimezone()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"{at!r} cannot be used as a time: {exc}; give it a time zone") from exc


def micros_of(ts: Any) -> int:
    """The time that a checkpoint's `ts` says, which is ISO 8601; without a time zone it is taken for UTC."""
    if not isinstance(ts, str):
        return 0
    try:
        found = datetime.fromisoformat(ts.replace("Z", "+00:00"))
    except ValueError:
        return 0
    since = (found if found.tzinfo else found.replace(tzinfo=timezone.utc)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds  # a division takes far longer


def micros_of_id(checkpoint_id: str) -> int:
    """The time in the id of a checkpoint, where it is one of LangGraph's: a UUID of version 6."""
    try:
        found = UUID(checkpoint_id)
    except (ValueError, TypeError, AttributeError):  # the latter for what is no text
        return 0
    if found.version != 6:
        return 0
    ticks = found.time_low << 28 | found.time_mid << 12 | found.time_hi_version & 0x0FFF
    return (ticks - _UUID_EPOCH) // 10


def utc(at: int) -> datetime:
    """The time, in UTC."""
    return _EPOCH + timedelta(microseconds=at)


def moment(at: int) -> datetime | None:
    """As `utc`; `None` if it is not known."""
    return utc(at) if at else None
