"""What of a checkpoint's metadata never reaches the database.

LangGraph gives savers the plain values of a run's config as metadata, so that an API key in there would be stored in
clear with every checkpoint. The contract:

1. What is hidden is hidden before anything is made of the metadata: its JSON, its exact form, the row of the registry.
2. Patterns hide keys at every depth of dicts, lists and tuples, without regard to case. A hook says itself what stays.
3. What LangGraph needs to go on (`NEEDED`) stays as it is. A pattern that names such a key, and a hook that leaves one
   out, adds or changes one, are errors; wildcards spare these keys, so that "*" leaves nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from fnmatch import translate
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

from langgraph_checkpoint_dual.errors import ConfigError

Redaction: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
Redact: TypeAlias = Collection[str] | Redaction
"""Patterns of keys, as of `fnmatch`, that are left out; or what takes the metadata and returns what to store."""

NEEDED = frozenset(("source", "step", "parents", "run_id", "counters_since_delta_snapshot"))


def redaction_of(redact: Redact | None) -> Redaction | None:
    """What is done to the metadata of each checkpoint before it is stored; `None` if nothing is.

    Raises:
        ConfigError: if it can be no redaction, or names what LangGraph needs.
    """
    if redact is None:
        return None
    if callable(redact):
        if iscoroutinefunction(redact):
            raise ConfigError("a redact hook must be an ordinary function, not a coroutine function")
        return partial(_hooked, redact)
    patterns = _checked(redact)
    if not patterns:
        return None
    return partial(_without, re.compile("|".join(map(translate, patterns))).match)


def _checked(redact: Any) -> list[str]:
    """The patterns, without regard to case."""
    if isinstance(redact, (str, bytes)) or not isinstance(redact, Collection):
        raise ConfigError(
            f"redact must be a collection of keys and patterns, such as ['*token*'], or a function, not "
            f"a {type(redact).__name__}"
        )
    if not all(isinstance(pattern, str) and pattern for pattern in redact):
        raise ConfigError("redact must hold keys and patterns of str, none of them empty")
    patterns = [pattern.casefold() for pattern in redact]
    if needed := sorted(NEEDED.intersection(patterns)):
        raise ConfigError(f"redact cannot leave out {', '.join(needed)}: LangGraph needs it to go on")
    return patterns


def _without(hides: Callable[[str], Any], metadata: Mapping[Any, Any]) -> dict[Any, Any]:
    needed = {key: metadata[key] for key in metadata if key in NEEDED}
    shown = _shown(hides, ((key, value) for key, value in metadata.items() if key not in NEEDED))
    return {**needed, **shown}


def _shown(hides: Callable[[str], Any], items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    return {key: _bare(hides, value) for key, value in items if not (isinstance(key, str) and hides(key.casefold()))}


def _bare(hides: Callable[[str], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return _shown(hides, value.items())
    if type(value) is list:
        return [_bare(hides, item) for item in value]
    if type(value) is tuple:
        return tuple(_bare(hides, item) for item in value)
    return value


def _hooked(hook: Redaction, metadata: dict[str, Any]) -> dict[str, Any]:
    found: Any = hook(deepcopy(metadata))
    if not isinstance(found, dict):
        raise ConfigError(f"a redact hook must return the dict to store, not a {type(found).__name__}")
    if _needed(found) != _needed(metadata):
        raise ConfigError(f"a redact hook must leave {', '.join(sorted(NEEDED))} as they are: LangGraph needs them")
    return found


def _needed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in NEEDED if key in metadata}
