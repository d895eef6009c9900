"""Objects made again from their extension values: which way of making fits which kind of class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import langgraph.types as lg_types
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.serde.generics import specialise
from langgraph_checkpoint_dual.serde.trust import Trust
from langgraph_checkpoint_dual.wire import dotted, kind_of, shown


def _unmade(what: str, exc: Exception) -> DecodeError:
    return DecodeError(f"{what} could not be made from its stored state ({type(exc).__name__})")


def unmade_type(type_: str, exc: Exception) -> DecodeError:
    """The error for an object of a type that could not be made."""
    hint = f"if the class has changed, map it with aliases={{{type_!r}: NewClass}} to one that takes this state"
    return DecodeError(f"{_unmade(f'type {type_}', exc).reason}; {hint}")


def attempt(what: str, make: Callable[[], Any], failed: Callable[[str, Exception], DecodeError] = _unmade) -> Any:
    """What `make` makes; whatever goes wrong is a `DecodeError`."""
    try:
        return make()
    except DecodeError:
        raise
    except Exception as exc:
        raise failed(what, exc) from exc


def make_single(target: Any, argument: Any) -> Any:
    """An object that is made of one argument."""
    kind = kind_of(target) if isinstance(target, type) else None
    if target is set or target is frozenset:
        return wire.make_set(target, argument)
    if kind == "subclass":
        return wire.make_subclass(target, cast(str, wire.base_of(target)), argument)
    # Called with one argument, an Enum without members would make a new class.
    if kind is None or (kind == "enum" and target.__members__):
        return target(argument)
    raise DecodeError(f"type {dotted(target)} is not made from one argument")


def make_positional(target: Any, arguments: list[Any]) -> Any:
    """An object that is made of several arguments."""
    if target is lg_types.Send:
        node, arg, *timeout = arguments
        return lg_types.Send(node, arg, timeout=timeout[0]) if timeout else lg_types.Send(node, arg)
    kind = kind_of(target) if isinstance(target, type) else None
    if kind in (None, "dataclass", "named_tuple"):
        return target(*arguments)
    raise DecodeError(f"type {dotted(target)} is not made from arguments")


def make_from_fields(target: Any, fields: Any) -> Any:
    """An object that is made of named fields."""
    kind = kind_of(target) if isinstance(target, type) else None
    if kind == "model":
        return wire.make_model(target, fields)
    if kind == "model_v1":
        return wire.make_model_v1(target, fields)
    if kind == "dataclass":
        return wire.make_dataclass(target, fields)
    if kind == "named_tuple":
        return wire.make_named_tuple(target, fields)
    if kind is None:
        return target(**fields)
    raise DecodeError(f"type {dotted(target)} is not made from fields")


# --- By the layout of their parts ---


def _revive(trust: Trust, parts: Any, make: Callable[[Any, Any], Any]) -> Any:
    """Make an object of the type that `parts` names, from its third part."""
    module, name, state = parts[0], parts[1], parts[2]
    target = trust.resolve(module, name)
    try:
        return make(target, state)
    except DecodeError:
        raise
    except Exception as exc:
        raise unmade_type(shown(module, name), exc) from exc


def _revive_single(trust: Trust, parts: Any) -> Any:
    return _revive(trust, parts, make_single)


def _revive_positional(trust: Trust, parts: Any) -> Any:
    return _revive(trust, parts, make_positional)


def _revive_fields(trust: Trust, parts: Any) -> Any:
    return _revive(trust, parts, make_from_fields)


def _revive_method(trust: Trust, parts: Any) -> Any:
    return _revive(trust, parts, lambda target, text: wire.make_by_method(target, parts[3], text))


def _revive_array(trust: Trust, parts: Any) -> Any:
    return attempt("a numpy array", lambda: wire.make_array(*parts))


def _revive_delta(trust: Trust, value: Any) -> Any:
    return _DeltaSnapshot(value)


def _revive_value(trust: Trust, parts: Any) -> Any:
    kind, *rest = parts
    if (make := wire.VALUES.get(kind)) is None:
        raise DecodeError(f"unknown kind of value {str(kind)[:60]!r}: written by a newer version?")
    return attempt(f"a value of kind {kind}", lambda: make(*rest))


def _revive_subclass(trust: Trust, parts: Any) -> Any:
    module, name, base, content, attributes = parts
    return _revive(
        trust, (module, name, content), lambda target, content: wire.make_subclass(target, base, content, attributes)
    )


def _revive_enum_name(trust: Trust, parts: Any) -> Any:
    return _revive(trust, parts, wire.make_enum_by_name)


def _revive_generic(trust: Trust, parts: Any) -> Any:
    module, name, arguments, fields = parts
    return _revive(
        trust,
        (module, name, fields),
        lambda target, fields: wire.make_model(specialise(trust, target, arguments), fields),
    )


REVIVERS: dict[int, Callable[[Trust, Any], Any]] = {
    wire.SINGLE_ARG: _revive_single,
    wire.POS_ARGS: _revive_positional,
    wire.KW_ARGS: _revive_fields,
    wire.METHOD: _revive_method,
    wire.PYDANTIC_V1: _revive_fields,
    wire.PYDANTIC_V2: _revive_fields,
    wire.NUMPY_ARRAY: _revive_array,
    wire.DELTA_SNAPSHOT: _revive_delta,
    wire.VALUE: _revive_value,
    wire.SUBCLASS: _revive_subclass,
    wire.ENUM_NAME: _revive_enum_name,
    wire.GENERIC: _revive_generic,
}
"""By the code of an extension value, what makes an object of its parts."""
