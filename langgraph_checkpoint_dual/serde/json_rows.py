"""Reading the JSON that old versions of langgraph's serializer wrote. Nothing writes it any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.serde import jsonplus

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.serde.revival import attempt, make_from_fields, make_positional, make_single, unmade_type
from langgraph_checkpoint_dual.serde.trust import Trust
from langgraph_checkpoint_dual.wire import find, shown


def decode(payload: bytes, reviver: Callable[[dict[str, Any]], Any]) -> Any:
    """What a row holds; `reviver` is given every object in it."""
    try:
        return json.loads(payload, object_hook=reviver)
    except DecodeError:
        raise
    except (ValueError, RecursionError) as exc:
        raise DecodeError(f"damaged JSON data: {exc}") from None


def constructor(value: dict[str, Any]) -> tuple[int, tuple[str, ...]] | None:
    """The version of the layout and the path of the type, where this stands for an object; `None` if it is a dict.

    Raises:
        DecodeError: if it stands for something that was not stored.
    """
    version, kind, path = value.get("lc"), value.get("type"), value.get("id")
    if version not in (1, 2) or path is None:
        return None
    if not isinstance(path, list) or not all(isinstance(part, str) for part in path) or len(path) < 1:
        raise DecodeError("damaged JSON data: an object without the name of its type")
    if kind == "constructor":
        return version, tuple(path)
    if version == 1 and kind in ("secret", "not_implemented"):
        raise DecodeError(f"the JSON row holds a placeholder ({kind}) for {'.'.join(path)[:200]}")
    return None


def revive(trust: Trust, version: int, path: tuple[str, ...], value: dict[str, Any]) -> Any:
    """The object of the type at this path."""
    if version == 1:
        path = jsonplus.LC_REVIVER.import_mappings.get(path, path)
    module, name = ".".join(path[:-1]), path[-1]
    args, fields = value.get("args") or [], value.get("kwargs") or {}
    type_ = shown(module, name)
    if module == "builtins" and name in ("bytes", "bytearray"):
        make = bytes.fromhex if name == "bytes" else bytearray.fromhex
        return attempt(type_, lambda: make(*args), unmade_type)
    found = find(module, name)
    if found is not None and issubclass(found, BaseException):
        return f"{name}({', '.join(map(repr, args))})"
    target = trust.resolve_json(path, module, name)
    if value.get("method") == "fromisoformat":
        return attempt(type_, lambda: wire.make_by_method(target, "fromisoformat", *args), unmade_type)
    if fields:
        return attempt(type_, lambda: make_from_fields(target, fields), unmade_type)
    if len(args) == 1:
        return attempt(type_, lambda: make_single(target, args[0]), unmade_type)
    return attempt(type_, lambda: make_positional(target, args), unmade_type)
