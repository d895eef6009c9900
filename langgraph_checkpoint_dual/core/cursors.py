"""Where the next page of a listing begins, as a text that its user hands back."""

from __future__ import annotations

import base64
import json
from typing import Any

from langgraph_checkpoint_dual.errors import ConfigError

_LARGEST = 2**63 - 1
"""The largest number that both databases take."""


def cursor_of(listing: str, *place: int | str) -> str:
    """The cursor of a place in a listing of this name."""
    return base64.urlsafe_b64encode(json.dumps([listing, *place]).encode()).decode()


def place_of(cursor: object, listing: str, *kinds: type) -> list[Any]:
    """The place that a cursor means: values of these types.

    Raises:
        ConfigError: if it is no cursor of this listing.
    """
    name, place = _parts(cursor)
    in_range = all(0 <= one <= _LARGEST for one in place if isinstance(one, int))
    if name != listing or [type(one) for one in place] != list(kinds) or not in_range:
        raise ConfigError(f"{cursor!r} is no cursor of a listing by {listing!r}: give the one of the page before")
    return place


def _parts(cursor: object) -> tuple[Any, list[Any]]:
    try:
        name, *place = json.loads(base64.urlsafe_b64decode(str(cursor)))
    except (ValueError, TypeError, RecursionError):
        return None, []
    return name, place
