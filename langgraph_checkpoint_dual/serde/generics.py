"""The type arguments of generic pydantic models as plain data, and the models that they make of a generic one."""

from __future__ import annotations

import types as types_
import typing
import uuid
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Any, Literal

from langgraph_checkpoint_dual.errors import DecodeError, EncodeError
from langgraph_checkpoint_dual.serde.trust import Trust
from langgraph_checkpoint_dual.wire import dotted, kind_of

_PLAIN_ARGUMENTS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        object, bool, int, float, complex, str, bytes, list, dict, tuple, set, frozenset, date, datetime, Decimal,
        uuid.UUID,
    )
} | {"None": type(None), "Any": Any, "...": ...}  # fmt: skip
_PLAIN_NAMES = {id(argument): name for name, argument in _PLAIN_ARGUMENTS.items()}


def describe(trust: Trust, argument: Any) -> Any:
    """A type argument of a generic model as plain data."""
    if (plain := _PLAIN_NAMES.get(id(argument))) is not None:
        return plain
    origin, arguments = typing.get_origin(argument), typing.get_args(argument)
    if origin is Literal and all(type(choice) in (str, int, bool, type(None)) for choice in arguments):
        return ["Literal", *arguments]
    if origin is typing.Union or origin is types_.UnionType:
        return ["Union" if origin is typing.Union else "|", *(describe(trust, one) for one in arguments)]
    if type(argument) is types_.GenericAlias and id(origin) in _PLAIN_NAMES:
        return ["[]", _PLAIN_NAMES[id(origin)], *(describe(trust, one) for one in arguments)]
    if not isinstance(argument, type) or origin is not None:
        raise EncodeError(f"a generic model with the type argument {argument!r} cannot be stored")
    meta = getattr(argument, "__pydantic_generic_metadata__", {"origin": None})
    if meta["origin"] is not None:
        return ["generic", *trust.name_of(meta["origin"]), *(describe(trust, one) for one in meta["args"])]
    return ["class", *trust.name_of(argument)]


def specialise(trust: Trust, generic: Any, arguments: Iterable[Any]) -> Any:
    """The generic model with these type arguments, which are described."""
    if kind_of(generic) != "model":
        raise DecodeError(f"type {dotted(generic)} is no pydantic model")
    return generic[tuple(undescribe(trust, one) for one in arguments)]


def undescribe(trust: Trust, description: Any) -> Any:
    """The type argument that `describe` described."""
    if isinstance(description, str):
        return _PLAIN_ARGUMENTS[description]
    form, *rest = description
    if form == "Literal":
        return Literal[tuple(rest)]
    if form == "class":
        return trust.resolve(*rest)
    if form == "generic":
        return specialise(trust, trust.resolve(*rest[:2]), rest[2:])
    arguments = tuple(undescribe(trust, one) for one in rest)
    if form == "Union":
        return typing.Union[arguments]  # noqa: UP007  (a type that was written so is made so)
    return reduce(or_, arguments) if form == "|" else arguments[0][arguments[1:]]
