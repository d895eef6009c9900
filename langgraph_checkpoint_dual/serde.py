"""The serializer that all savers share: langgraph's, made exact, loud, and unable to run what a row names.

It reads what `JsonPlusSerializer` wrote and writes what that one can read, in the same format, unless a type needs
more. Two rules differ:

- **Data, not code.** A type named in stored bytes is revived only if langgraph lists it as safe, if it was registered,
  or if it is a data class of a module that is already imported. Nothing is imported because a row says so.
- **Exact or refused.** What cannot come back as it went in is refused when it is written, naming the place in the
  value; what cannot be revived raises, and never turns into `None` or into a bare dict.

Deliberately kept from langgraph's serializer: tuples come back as lists, exceptions as their `repr`, dates in time
zones of other libraries at their offset, and dict keys that are enums, dates or UUIDs as their plain value.
"""

from __future__ import annotations

import collections
import copy
import importlib
import json
import os
import pickle
import sys
import types as types_
import typing
import uuid
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import date, datetime
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Any, Literal, NoReturn, cast

import langgraph.types as lg_types
import ormsgpack
from langchain_core.messages import base as lc_base
from langgraph.checkpoint.serde import _msgpack as lg_msgpack
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import SearchItem
from pydantic import BaseModel, SecretBytes, SecretStr

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError, EncodeError
from langgraph_checkpoint_dual.messages import SHAPES
from langgraph_checkpoint_dual.wire import Encoded, Encoder, Name, dotted, find, kind_of, shown

__all__ = ["Serializer"]

_UNPACK = ormsgpack.OPT_NON_STR_KEYS
_PYDANTIC_V2 = wire.PYDANTIC_V2
_packb, _unpackb = ormsgpack.packb, ormsgpack.unpackb
_MAX_NESTING = 250  # ormsgpack's own limit is 254 containers, counted anew in each extension value
# Where the content of an extension value begins, by its first byte: lengths of 1, 2 and 4 bytes, then the code.
_CONTENT_STARTS = {0xC7: 3, 0xC8: 4, 0xC9: 6}
_NO_ALIASES: Mapping[str, type] = types_.MappingProxyType({})

# ormsgpack reports any exception of a callback as "failed" and drops it; the first one waits here for the caller.
_failure: ContextVar[BaseException | None] = ContextVar("_failure", default=None)


def take_failure() -> BaseException | None:
    """What a callback of msgpack raised; it is forgotten then."""
    failure = _failure.get()
    if failure is not None:
        _failure.set(None)
    return failure


def _load_safe_types() -> dict[Name, Any]:
    """What langgraph lists as safe, and what else is plain data, by stored name."""
    safe: dict[Name, Any] = {}
    for module, name in cast("Iterable[Name]", lg_msgpack.SAFE_MSGPACK_TYPES):
        # Some Python versions call the module so; a row may come from one of them.
        source = "pathlib" if module == "pathlib._local" else module
        if (target := getattr(importlib.import_module(source), name, None)) is not None:
            safe[module, name] = target
    plain = [SearchItem, SecretStr, SecretBytes, collections.Counter, OrderedDict, defaultdict, *wire.URL_TYPES]
    if hasattr(lc_base, "TextAccessor"):  # since langchain-core 1.0
        plain.append(lc_base.TextAccessor)
    moved = {("langgraph.constants", cls.__name__): cls for cls in (lg_types.Send, lg_types.Interrupt)}
    return {**safe, **moved, **{(cls.__module__, cls.__qualname__): cls for cls in plain}}


_SAFE = _load_safe_types()

_PLAIN_ARGUMENTS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        object, bool, int, float, complex, str, bytes, list, dict, tuple, set, frozenset, date, datetime, Decimal,
        uuid.UUID,
    )
} | {"None": type(None), "Any": Any, "...": ...}  # fmt: skip
_PLAIN_NAMES = {id(argument): name for name, argument in _PLAIN_ARGUMENTS.items()}
# Elements of a set that come back as they went in; sets of anything else are tried before they are stored.
_PLAIN_ELEMENTS = {str, int, float, bool, bytes, type(None), date, datetime, Decimal, uuid.UUID}


def _is_strict() -> bool:
    asked = os.getenv("LANGGRAPH_STRICT_MSGPACK", "false").lower() in ("1", "true", "yes")
    return asked or lg_msgpack.STRICT_MSGPACK_ENABLED


def _refuse(module: object, name: object, why: str) -> NoReturn:
    type_ = shown(module, name)
    raise DecodeError(
        f"type {type_} {why}; import its module before reading, register it with types=[...], "
        f"or, if it was renamed or moved, map it with aliases={{{type_!r}: NewClass}}"
    )


def _unmade(what: str, exc: Exception) -> DecodeError:
    return DecodeError(f"{what} could not be made from its stored state ({type(exc).__name__})")


def _unmade_type(type_: str, exc: Exception) -> DecodeError:
    hint = f"if the class has changed, map it with aliases={{{type_!r}: NewClass}} to one that takes this state"
    return DecodeError(f"{_unmade(f'type {type_}', exc).reason}; {hint}")


def _attempt(what: str, make: Callable[[], Any], failed: Callable[[str, Exception], DecodeError] = _unmade) -> Any:
    try:
        return make()
    except DecodeError:
        raise
    except Exception as exc:
        raise failed(what, exc) from exc


class Serializer(JsonPlusSerializer):
    """Encodes and decodes channel values, metadata and pending writes.

    Args:
        types: classes that may be revived, in addition to those that may anyway; also classes that are defined inside
            a function, or that are no data classes.
        aliases: classes that were renamed or moved since they were stored, by their old name:
            `{"old_module.OldName": NewClass}`. A class named here may be revived.
        pickle_fallback: store with `pickle` what cannot be stored otherwise, and read it. Only for a database that
            nobody else can write to: reading a pickle runs code.
        allowed_json_modules: classes that may be revived from rows of langgraph's old JSON format, as tuples of their
            dotted names, `("my_module", "MyClass")`; True means whatever may be revived from the present format.
        allowed_msgpack_modules: classes, or their names as tuples. When it is given, only these, `types`, `aliases`
            and langgraph's safe types are revived. True is the default.
        secrets: what becomes of pydantic's `SecretStr` and `SecretBytes`: "store" stores them, in clear unless the
            serializer encrypts; "refuse" raises `EncodeError`. It cannot be combined with `pickle_fallback`.

    With `LANGGRAPH_STRICT_MSGPACK` set at construction, only `types`, `aliases` and langgraph's safe types are revived.
    """

    def __init__(
        self,
        *,
        types: Iterable[type] = (),
        aliases: Mapping[str, type] = _NO_ALIASES,
        pickle_fallback: bool = False,
        allowed_json_modules: Iterable[tuple[str, ...]] | Literal[True] | None = None,
        allowed_msgpack_modules: lg_msgpack.AllowedMsgpackModules | Literal[True] | None = lg_msgpack._SENTINEL,
        secrets: Literal["store", "refuse"] = "store",
        **options: Any,
    ) -> None:
        listed: Any = allowed_msgpack_modules
        if listed is lg_msgpack._SENTINEL:
            listed = None if _is_strict() else True
        if listed and listed is not True:
            listed = tuple(listed)
        super().__init__(
            pickle_fallback=pickle_fallback,
            allowed_json_modules=allowed_json_modules,
            allowed_msgpack_modules=listed,
            **options,
        )
        self._direct = _direct_encoders(secrets, pickle_fallback)
        self._aliases = dict(aliases)
        self._registered: dict[Name, type] = {}
        self._register(types)
        if isinstance(listed, tuple):
            self._register(item for item in listed if isinstance(item, type))
        self._bind()

    def _bind(self) -> None:
        """Set what a serializer and its copies must not share."""
        # By class, not by name: a class that is defined anew gets an encoder of its own.
        self._encoders: weakref.WeakKeyDictionary[type, Encoder] = weakref.WeakKeyDictionary()
        self._known: dict[Name, Any] = {**_SAFE, **self._registered}
        self._messages = {shape.name: shape for shape in SHAPES if f"{shape.module}.{shape.name}" not in self._aliases}
        if not self._custom_unpack_ext_hook:
            self._unpack_ext_hook = self._revive_extension

    def _register(self, classes: Iterable[type]) -> None:
        for cls in classes:
            self._registered[cls.__module__, cls.__qualname__] = cls
            self._registered.setdefault((cls.__module__, cls.__name__), cls)

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> Serializer:
        """A serializer that may revive these classes too; this one if it may already.

        Args:
            extra_allowlist: classes, or their names as tuples `("my_module", "MyClass")`.
        """
        extra = tuple(extra_allowlist)
        names = {(item.__module__, item.__name__) if isinstance(item, type) else item for item in extra}
        new = [item for item in extra if isinstance(item, type) and not self._is_known(item)]
        allowed = self._allowed_msgpack_modules
        if not new and (allowed is True or names <= (allowed or set())):
            return self
        clone = copy.copy(self)
        clone._registered = dict(self._registered)
        clone._register(new)
        if allowed is not True:
            clone._allowed_msgpack_modules = (allowed or set()) | names
        clone._bind()
        return clone

    def _is_known(self, cls: type) -> bool:
        return cls in self._registered.values() or find(cls.__module__, cls.__qualname__) is cls

    # --- Writing ---

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Encode a value as `(type, bytes)`.

        Raises:
            EncodeError: the value, or something in it, could not be read back as it is; names the place.
        """
        if obj is None:
            return "null", b""
        if type(obj) is bytes:
            return "bytes", obj
        if type(obj) is bytearray:
            return "bytearray", bytes(obj)
        try:
            data = _packb(obj, self._default, wire.PACK)
            if not _has_byte_strings(data) or not _holds_other_buffers(obj):
                return "msgpack", data
        except TypeError:
            if (interrupt := take_failure()) is not None:
                raise interrupt from None
        return self._dump_exactly(obj)

    def _dump_exactly(self, value: Any) -> tuple[str, bytes]:
        """The slow way: it can write more, and knows the place of what cannot be written."""
        try:
            return "msgpack", _ExactWriter(self).write(value)
        except EncodeError:
            if self.pickle_fallback:
                return "pickle", pickle.dumps(value)
            raise

    def _pack(self, value: Any) -> bytes:
        data = _packb(value, self._default, wire.PACK)
        if _has_byte_strings(data) and _holds_other_buffers(value):
            raise TypeError
        return data

    def _default(self, value: Any) -> Any:
        try:
            cls = type(value)
            code, payload = (self._direct.get(cls) or self._encoder(cls))(value)
            if code == wire.READY:
                return payload
            return ormsgpack.Ext(code, payload if type(payload) is bytes else self._pack(payload))
        except Exception:
            raise
        except BaseException as interrupt:
            _failure.set(interrupt)
            raise

    def _encoder(self, cls: type) -> Encoder:
        """The encoder of a class that is not one of the known.

        Raises:
            EncodeError: its instances cannot be stored.
        """
        encoder = self._encoders.get(cls)
        if encoder is None:
            encoder = self._encoders[cls] = self._make_encoder(cls)
        return encoder

    def _make_encoder(self, cls: type) -> Encoder:
        if self._direct is not wire.KNOWN and issubclass(cls, _SECRETS):
            return _refuse_secret
        numpy = sys.modules.get("numpy")
        if numpy is not None and cls is numpy.ndarray:
            return wire.encode_array
        if numpy is not None and issubclass(cls, numpy.generic):
            return wire.encode_scalar
        if cls is set or cls is frozenset:
            return self._encode_set
        kind = kind_of(cls)
        if kind is None and issubclass(cls, BaseException):
            return lambda value: (wire.READY, repr(value))
        if kind == "model" and cast(Any, cls).__pydantic_generic_metadata__["origin"] is not None:
            return self._make_generic_encoder(cls)
        return self._make_named_encoder(cls, kind)

    def _make_named_encoder(self, cls: Any, kind: wire.Kind | None) -> Encoder:
        name, base = self._name_of(cls), wire.base_of(cls)
        if kind == "enum":
            return lambda value: wire.encode_enum(name, value)
        if kind == "model":
            return wire.model_encoder(name, cls)
        if kind == "model_v1":
            return lambda value: (wire.PYDANTIC_V1, (*name, value.dict()))
        if kind == "dataclass" and base is None:
            return lambda value: wire.encode_dataclass(name, value)
        if kind == "named_tuple":
            return lambda value: wire.encode_named_tuple(name, value)
        if kind == "subclass" and base is not None:
            return lambda value: wire.encode_subclass(name, base, value)
        return lambda value: self._encode_registered(value)

    def _encode_registered(self, value: Any) -> Encoded:
        """For a class that is registered but no data class: as langgraph does it, if the same comes back."""
        cls = type(value)
        ext = jsonplus._msgpack_default(value)
        back = self._decode(_packb(ext)) if isinstance(ext, ormsgpack.Ext) else None
        compares = getattr(cls, "__eq__", None) is not object.__eq__
        if type(back) is not cls or (compares and back != value):
            raise EncodeError(f"{dotted(cls)} does not come back as it was; store its parts, or a data class, instead")
        return wire.READY, ext

    def _encode_set(self, value: Any) -> Encoded:
        cls, items = type(value), tuple(value)
        encoded = wire.SINGLE_ARG, ("builtins", cls.__name__, items)
        if set(map(type, items)) <= _PLAIN_ELEMENTS:
            return encoded
        # A tuple in an element comes back as a list, and may then be no element at all.
        ext = ormsgpack.Ext(wire.SINGLE_ARG, self._pack(encoded[1]))
        try:
            same = self._decode(_packb(ext)) == value
        except DecodeError:
            same = False
        if not same:
            raise EncodeError(f"a {cls.__name__} with elements that do not come back as they were")
        return wire.READY, ext

    def _make_generic_encoder(self, cls: Any) -> Encoder:
        meta = cls.__pydantic_generic_metadata__
        head = (*self._name_of(meta["origin"]), [self._describe(argument) for argument in meta["args"]])
        encode = wire.model_encoder(("", ""), cls)
        return lambda value: (wire.GENERIC, (*head, encode(value)[1][2]))

    def _name_of(self, cls: type) -> Name:
        """The name under which reading will find the class again.

        Raises:
            EncodeError: it would not, or may not revive it.
        """
        reason = ""
        for name in dict.fromkeys((cls.__qualname__, cls.__name__)):
            try:
                found = self._resolve(cls.__module__, name)
            except DecodeError as exc:
                reason = reason or exc.reason
                continue
            # A class that was defined anew, as in a notebook, still goes by its name.
            if found is cls or (getattr(found, "__qualname__", None) == name and kind_of(found) == kind_of(cls)):
                return cls.__module__, name
        if "<locals>" in cls.__qualname__:
            reason = "it is defined inside a function: move it to its module, or register it with types=[...]"
        elif kind_of(cls) is None and self._allowed_msgpack_modules is True:
            reason = "it is no data class (pydantic model, dataclass, NamedTuple or Enum): store one, or plain values"
        elif not reason:
            reason = "its module has another class of this name"
        raise EncodeError(f"type {dotted(cls)} cannot be stored, because reading could not revive it: {reason}")

    def _describe(self, argument: Any) -> Any:
        """A type argument of a generic model as plain data."""
        if (plain := _PLAIN_NAMES.get(id(argument))) is not None:
            return plain
        origin, arguments = typing.get_origin(argument), typing.get_args(argument)
        if origin is Literal and all(type(choice) in (str, int, bool, type(None)) for choice in arguments):
            return ["Literal", *arguments]
        if origin is typing.Union or origin is types_.UnionType:
            return ["Union" if origin is typing.Union else "|", *map(self._describe, arguments)]
        if type(argument) is types_.GenericAlias and id(origin) in _PLAIN_NAMES:
            return ["[]", _PLAIN_NAMES[id(origin)], *map(self._describe, arguments)]
        if not isinstance(argument, type) or origin is not None:
            raise EncodeError(f"a generic model with the type argument {argument!r} cannot be stored")
        meta = getattr(argument, "__pydantic_generic_metadata__", {"origin": None})
        if meta["origin"] is not None:
            return ["generic", *self._name_of(meta["origin"]), *map(self._describe, meta["args"])]
        return ["class", *self._name_of(argument)]

    @property
    def is_plain(self) -> bool:
        """Whether plain messages come back as their own classes: no subclass, alias or hook has a say in it."""
        return type(self) is Serializer and not self._custom_unpack_ext_hook and len(self._messages) == len(SHAPES)

    # --- Reading ---

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decode `(type, bytes)` as written by `dumps_typed`, or by any version of langgraph's own serializer.

        Raises:
            DecodeError: the bytes are damaged, or hold a type that may not or cannot be revived.
        """
        type_, payload = data
        if type_ == "msgpack":
            start = _CONTENT_STARTS.get(payload[0]) if payload else None
            message = self._decode_message(payload, start) if start else None
            return self._decode(payload) if message is None else message
        if type_ == "null":
            return None
        if type_ == "bytes":
            return payload
        if type_ == "bytearray":
            return bytearray(payload)
        if type_ == "json":
            return self._decode_json(payload)
        if type_ == "pickle":
            if self.pickle_fallback:
                return pickle.loads(payload)
            raise DecodeError("the value was pickled; reading it needs pickle_fallback=True, and a trusted database")
        raise DecodeError(f"unknown serialization type {str(type_)[:60]!r}")

    def _decode(self, payload: bytes) -> Any:
        try:
            return _unpackb(payload, ext_hook=self._unpack_ext_hook, option=_UNPACK)
        except ValueError as exc:
            cause = take_failure()
            if cause is None:
                raise DecodeError(f"damaged msgpack data: {exc}") from None
        if isinstance(cause, DecodeError) or not isinstance(cause, Exception):
            raise cause
        raise DecodeError(f"damaged extension value ({type(cause).__name__})") from cause

    def _decode_message(self, payload: bytes, start: int) -> Any:
        """A value that is one message, without the detour through the extension hook; None for anything else."""
        try:
            if payload[start - 1] != _PYDANTIC_V2 or self._custom_unpack_ext_hook:
                return None
            module, name, fields, _ = _unpackb(payload[start:], ext_hook=self._unpack_ext_hook, option=_UNPACK)
            shape = self._messages.get(name)
            if shape is not None and shape.module == module and shape.fits(fields):
                return shape.build(fields)
            return None
        except Exception:
            interrupt = take_failure()
        if interrupt is not None and not isinstance(interrupt, Exception):
            raise interrupt
        return None  # whatever it is, the regular way says it better

    def _revive_extension(self, code: int, data: bytes) -> Any:
        try:
            if code == _PYDANTIC_V2:
                parts = _unpackb(data, ext_hook=self._unpack_ext_hook, option=_UNPACK)
                shape = self._messages.get(parts[1])
                if shape is not None and shape.module == parts[0] and shape.fits(parts[2]):
                    return shape.build(parts[2])
                return self._revive_fields(parts)
            if (from_bytes := wire.RAW.get(code)) is not None:
                return from_bytes(data)
            if (revive := self._revivers.get(code)) is None:
                raise DecodeError(f"unknown extension code {code}: written by a newer version?")
            return revive(self, _unpackb(data, ext_hook=self._unpack_ext_hook, option=_UNPACK))
        except BaseException as exc:
            if _failure.get() is None:  # the innermost says it best
                _failure.set(exc)
            raise

    def _resolve(self, module: Any, name: Any) -> Any:
        """The class, or other safe callable, that a stored name stands for.

        Raises:
            DecodeError: it is unknown here, or may not be revived.
        """
        if (target := self._trusted(module, name)) is not None:
            return target
        allowed = self._allowed_msgpack_modules
        if allowed is not True and (module, name) in (allowed or ()):
            return self._import_listed(module, name)
        found = find(module, name)
        if found is None:
            _refuse(module, name, "is not defined in a module that is imported")
        if allowed is not True:
            # A list names a nested class by its last name alone.
            if (found.__module__, found.__name__) not in (allowed or ()):
                _refuse(module, name, "is not on the allowlist")
        elif kind_of(found) is None:
            _refuse(module, name, "is no data class (pydantic model, dataclass, NamedTuple or Enum)")
        return found

    def _trusted(self, module: Any, name: Any) -> Any:
        """What a name stands for by the user's word or by langgraph's, or None."""
        if self._aliases and (aliased := self._aliases.get(f"{module}.{name}")) is not None:
            return aliased
        return self._known.get((module, name))

    def _import_listed(self, module: str, name: str) -> Any:
        """A class that the user's own allowlist names: it may be imported, as no row has a say in it."""
        try:
            importlib.import_module(module)
        except ImportError as exc:
            raise DecodeError(f"type {shown(module, name)} is on the allowlist but cannot be imported: {exc}") from exc
        if (found := find(module, name)) is None:
            _refuse(module, name, "is on the allowlist, but is no class of its module")
        return found

    def _revive(self, parts: Any, make: Callable[[Any, Any], Any]) -> Any:
        """Make an object of the type that `parts` names, from its third part."""
        module, name, state = parts[0], parts[1], parts[2]
        target = self._resolve(module, name)
        try:
            return make(target, state)
        except DecodeError:
            raise
        except Exception as exc:
            raise _unmade_type(shown(module, name), exc) from exc

    def _revive_single(self, parts: Any) -> Any:
        return self._revive(parts, _make_single)

    def _revive_positional(self, parts: Any) -> Any:
        return self._revive(parts, _make_positional)

    def _revive_fields(self, parts: Any) -> Any:
        return self._revive(parts, _make_from_fields)

    def _revive_method(self, parts: Any) -> Any:
        return self._revive(parts, lambda target, text: wire.make_by_method(target, parts[3], text))

    def _revive_array(self, parts: Any) -> Any:
        return _attempt("a numpy array", lambda: wire.make_array(*parts))

    def _revive_delta(self, value: Any) -> Any:
        return _DeltaSnapshot(value)

    def _revive_value(self, parts: Any) -> Any:
        kind, *rest = parts
        if (make := wire.VALUES.get(kind)) is None:
            raise DecodeError(f"unknown kind of value {str(kind)[:60]!r}: written by a newer version?")
        return _attempt(f"a value of kind {kind}", lambda: make(*rest))

    def _revive_subclass(self, parts: Any) -> Any:
        module, name, base, content, attributes = parts
        return self._revive(
            (module, name, content), lambda target, content: wire.make_subclass(target, base, content, attributes)
        )

    def _revive_enum_name(self, parts: Any) -> Any:
        return self._revive(parts, wire.make_enum_by_name)

    def _revive_generic(self, parts: Any) -> Any:
        module, name, arguments, fields = parts
        return self._revive(
            (module, name, fields), lambda target, fields: wire.make_model(self._specialise(target, arguments), fields)
        )

    def _specialise(self, generic: Any, arguments: Iterable[Any]) -> Any:
        if kind_of(generic) != "model":
            raise DecodeError(f"type {dotted(generic)} is no pydantic model")
        return generic[tuple(map(self._undescribe, arguments))]

    def _undescribe(self, description: Any) -> Any:
        """The type argument that `_describe` described."""
        if isinstance(description, str):
            return _PLAIN_ARGUMENTS[description]
        form, *rest = description
        if form == "Literal":
            return Literal[tuple(rest)]
        if form == "class":
            return self._resolve(*rest)
        if form == "generic":
            return self._specialise(self._resolve(*rest[:2]), rest[2:])
        arguments = tuple(map(self._undescribe, rest))
        if form == "Union":
            return typing.Union[arguments]  # noqa: UP007
        return reduce(or_, arguments) if form == "|" else arguments[0][arguments[1:]]

    _revivers: typing.ClassVar[dict[int, Callable[[Serializer, Any], Any]]] = {
        wire.SINGLE_ARG: _revive_single,
        wire.POS_ARGS: _revive_positional,
        wire.KW_ARGS: _revive_fields,
        wire.METHOD: _revive_method,
        wire.PYDANTIC_V1: _revive_fields,
        wire.NUMPY_ARRAY: _revive_array,
        wire.DELTA_SNAPSHOT: _revive_delta,
        wire.VALUE: _revive_value,
        wire.SUBCLASS: _revive_subclass,
        wire.ENUM_NAME: _revive_enum_name,
        wire.GENERIC: _revive_generic,
    }

    # --- Reading the JSON that old versions of langgraph's serializer wrote ---

    def _decode_json(self, payload: bytes) -> Any:
        try:
            return json.loads(payload, object_hook=self._reviver)
        except DecodeError:
            raise
        except (ValueError, RecursionError) as exc:
            raise DecodeError(f"damaged JSON data: {exc}") from None

    def _reviver(self, value: dict[str, Any]) -> Any:
        version, kind, path = value.get("lc"), value.get("type"), value.get("id")
        if version not in (1, 2) or path is None:
            return value
        if not isinstance(path, list) or not all(isinstance(part, str) for part in path) or len(path) < 1:
            raise DecodeError("damaged JSON data: an object without the name of its type")
        if kind == "constructor":
            return self._revive_json(version, tuple(path), value)
        if version == 1 and kind in ("secret", "not_implemented"):
            raise DecodeError(f"the JSON row holds a placeholder ({kind}) for {'.'.join(path)[:200]}")
        return value

    def _revive_json(self, version: int, path: tuple[str, ...], value: dict[str, Any]) -> Any:
        if version == 1:
            path = jsonplus.LC_REVIVER.import_mappings.get(path, path)
        module, name = ".".join(path[:-1]), path[-1]
        args, fields = value.get("args") or [], value.get("kwargs") or {}
        type_ = shown(module, name)
        if module == "builtins" and name in ("bytes", "bytearray"):
            make = bytes.fromhex if name == "bytes" else bytearray.fromhex
            return _attempt(type_, lambda: make(*args), _unmade_type)
        found = find(module, name)
        if found is not None and issubclass(found, BaseException):
            return f"{name}({', '.join(map(repr, args))})"
        target = self._resolve_json(path, module, name)
        if value.get("method") == "fromisoformat":
            return _attempt(type_, lambda: wire.make_by_method(target, "fromisoformat", *args), _unmade_type)
        if fields:
            return _attempt(type_, lambda: _make_from_fields(target, fields), _unmade_type)
        if len(args) == 1:
            return _attempt(type_, lambda: _make_single(target, args[0]), _unmade_type)
        return _attempt(type_, lambda: _make_positional(target, args), _unmade_type)

    def _resolve_json(self, path: tuple[str, ...], module: str, name: str) -> Any:
        """As `_resolve`, but for a row in JSON, for which there is an allowlist of its own."""
        if (target := self._trusted(module, name)) is not None:
            return target
        allowed = self._allowed_json_modules
        if allowed is True:
            return self._resolve(module, name)
        if path in (allowed or ()):
            return self._import_listed(module, name)
        found = find(module, name)
        if found is not None and (found.__module__, found.__name__) in _SAFE:
            return found
        _refuse(module, name, "is not on the allowlist for JSON rows (allowed_json_modules)")


# --- Making objects: which way of making fits which kind of class ---


_SECRETS = (SecretStr, SecretBytes)


def _direct_encoders(secrets: str, pickle_fallback: bool) -> Mapping[type, Encoder]:
    """The encoders of what is known to all serializers."""
    if secrets == "store":
        return wire.KNOWN
    if secrets != "refuse":
        raise ConfigError(f"secrets must be one of store, refuse, not {secrets!r}")
    if pickle_fallback:
        raise ConfigError("secrets='refuse' cannot be combined with pickle_fallback, which stores whatever is refused")
    return {**wire.KNOWN, **dict.fromkeys(_SECRETS, _refuse_secret)}


def _refuse_secret(value: Any) -> NoReturn:
    raise EncodeError(
        f"a {type(value).__name__} is not stored, as this serializer has secrets='refuse'; keep it out of the state, "
        "as by LangGraph's Runtime context, or name in the state where to find it"
    )


def _make_single(target: Any, argument: Any) -> Any:
    kind = kind_of(target) if isinstance(target, type) else None
    if target is set or target is frozenset:
        return wire.make_set(target, argument)
    if kind == "subclass":
        return wire.make_subclass(target, cast(str, wire.base_of(target)), argument)
    # Called with one argument, an Enum without members would make a new class.
    if kind is None or (kind == "enum" and target.__members__):
        return target(argument)
    raise DecodeError(f"type {dotted(target)} is not made from one argument")


def _make_positional(target: Any, arguments: list[Any]) -> Any:
    if target is lg_types.Send:
        node, arg, *timeout = arguments
        return lg_types.Send(node, arg, timeout=timeout[0]) if timeout else lg_types.Send(node, arg)
    kind = kind_of(target) if isinstance(target, type) else None
    if kind in (None, "dataclass", "named_tuple"):
        return target(*arguments)
    raise DecodeError(f"type {dotted(target)} is not made from arguments")


def _make_from_fields(target: Any, fields: Any) -> Any:
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


# --- Writing what the fast way cannot ---


def _has_byte_strings(data: bytes) -> bool:
    """Whether there may be one of the three tags of a byte string, as which a bytearray would be written too."""
    return 0xC4 in data or 0xC5 in data or 0xC6 in data


_WALKED = frozenset((dict, list, tuple, bytearray, memoryview))


def _holds_other_buffers(value: Any) -> bool:
    """Whether a bytearray or a memoryview is somewhere in the lists, tuples and dicts of `value`."""
    pending = [value]
    for item in pending:  # grows while it is walked
        cls = type(item)
        if cls is bytearray or cls is memoryview:
            return True
        if cls is dict:
            item = item.values()
        elif not (cls is list or cls is tuple) or _is_vector(item):
            continue
        if not _WALKED.isdisjoint(map(type, item)):
            pending += item
    return False


def _is_vector(items: Any) -> bool:
    """Whether this is a long sequence of numbers, such as an embedding: a sum is the fastest way to know."""
    if len(items) < 32 or type(items[0]) is not float:
        return False
    try:
        return type(sum(items)) is float
    except Exception:
        return False


class _Place:
    """Where in a value the writer is: a step, and the place that it was made from."""

    __slots__ = ("outer", "step")

    def __init__(self, outer: _Place | None, step: str) -> None:
        self.outer, self.step = outer, step

    def path(self) -> str:
        steps: list[str] = []
        place: _Place | None = self
        while place is not None:
            steps.append(place.step)
            place = place.outer
        steps.reverse()
        return "".join(steps if len(steps) < 40 else [*steps[:20], "…", *steps[-10:]])


_FIELD_CODES = {wire.KW_ARGS, wire.PYDANTIC_V1, wire.PYDANTIC_V2, wire.GENERIC}


class _ExactWriter:
    """Writes a value step by step: whatever msgpack lacks becomes an extension value, and every error has its place."""

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer

    def write(self, value: Any) -> bytes:
        root = _Place(None, "")
        try:
            return _packb(self._plain(value, root, 0), option=wire.PACK)
        except EncodeError:
            raise
        except RecursionError:
            raise EncodeError("nested too deeply, or contains itself") from None
        except TypeError as exc:
            raise EncodeError(f"cannot be stored: {exc}") from exc

    def _plain(self, value: Any, place: _Place, depth: int) -> Any:
        """The same value, of nothing but what msgpack has and extension values."""
        cls = type(value)
        if cls is str:
            return value if _is_utf8(value) else ormsgpack.Ext(wire.TEXT, value.encode("utf-8", "surrogatepass"))
        if cls is int:
            return value if -(2**63) <= value < 2**64 else ormsgpack.Ext(wire.BIG_INT, _int_bytes(value))
        if value is None or cls is bool or cls is float or cls is bytes:
            return value
        if depth > _MAX_NESTING:
            raise EncodeError(f"nested more than {_MAX_NESTING} levels deep, or contains itself", path=place.path())
        if cls is list or cls is tuple:
            return [self._plain(item, _Place(place, f"[{index}]"), depth + 1) for index, item in enumerate(value)]
        if cls is dict:
            return self._plain_dict(value, place, depth + 1)
        if cls is bytearray:
            return ormsgpack.Ext(wire.BYTEARRAY, bytes(value))
        if cls is memoryview:
            raise EncodeError("a memoryview cannot be stored; store bytes(view)", path=place.path())
        return self._plain_object(value, place)

    def _plain_dict(self, value: dict[Any, Any], place: _Place, depth: int) -> Any:
        places = {key: _Place(place, f"[{_short(key)}]") for key in value}
        if all(map(_is_plain_key, value)):
            return {key: self._plain(item, places[key], depth) for key, item in value.items()}
        pairs = [
            [self._plain(key, places[key], depth), self._plain(item, places[key], depth)] for key, item in value.items()
        ]
        self._check_keys(value, [pair[0] for pair in pairs], place)
        return ormsgpack.Ext(wire.VALUE, _packb(("dict", pairs), option=wire.PACK))

    def _check_keys(self, value: dict[Any, Any], keys: list[Any], place: _Place) -> None:
        """A tuple inside a key comes back as a list, and may then be no key at all."""
        back = self._serializer._decode(_packb(keys, option=wire.PACK))
        if list(map(wire.hashable, back)) != list(value):
            raise EncodeError("a dict with keys that do not come back as they were", path=place.path())

    def _plain_object(self, value: Any, place: _Place) -> Any:
        code, payload = self._encoded(value, place)
        try:
            return self._extension(code, payload, place)
        except EncodeError:
            if code != wire.PYDANTIC_V2 or not isinstance(value, BaseModel):
                raise
            try:
                return self._extension(*wire.dumped_model(payload[:2], value), place)
            except Exception:
                pass
            raise

    def _encoded(self, value: Any, place: _Place) -> Encoded:
        cls = type(value)
        try:
            return (self._serializer._direct.get(cls) or self._serializer._encoder(cls))(value)
        except EncodeError as exc:
            raise EncodeError(exc.reason, path=place.path() + exc.path) from None
        except RecursionError:
            raise
        except Exception as exc:
            raise EncodeError(f"{dotted(cls)} cannot be stored ({type(exc).__name__})", path=place.path()) from exc

    def _extension(self, code: int, payload: Any, place: _Place) -> Any:
        if code == wire.READY:
            return self._plain(payload, place, 0) if isinstance(payload, str) else payload
        if type(payload) is bytes:
            return ormsgpack.Ext(code, payload)
        if code in _FIELD_CODES:
            parts: Any = [self._plain_fields(part, place) for part in payload]
        elif code == wire.POS_ARGS and payload[:2] == ("langgraph.types", "Send"):
            steps = (".node", ".arg", ".timeout")
            args = [self._plain(arg, _Place(place, step), 3) for arg, step in zip(payload[2], steps, strict=False)]
            parts = [*payload[:2], args]
        elif code == wire.DELTA_SNAPSHOT:
            parts = self._plain(payload, _Place(place, ".value"), 1)
        else:
            parts = [self._plain(part, place, 1) for part in payload]
        return ormsgpack.Ext(code, _packb(parts, option=wire.PACK))

    def _plain_fields(self, fields: Any, place: _Place) -> Any:
        if type(fields) is not dict or not all(map(_is_plain_key, fields)):
            return self._plain(fields, place, 1)
        return {name: self._plain(value, _Place(place, f".{name}"), 3) for name, value in fields.items()}


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _is_plain_key(key: Any) -> bool:
    """Whether msgpack takes it as a key of a map, in the way of langgraph's serializer."""
    try:
        _packb({key: None}, option=wire.PACK)
    except TypeError:
        return False
    return True


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
