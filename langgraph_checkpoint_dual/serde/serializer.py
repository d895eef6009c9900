"""The serializer itself: the fast way of writing and of reading, and the way to all others."""

from __future__ import annotations

import copy
import pickle
import types as types_
import weakref
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Literal

import ormsgpack
from langgraph.checkpoint.serde import _msgpack as lg_msgpack
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import DecodeError, EncodeError
from langgraph_checkpoint_dual.messages import SHAPES
from langgraph_checkpoint_dual.serde import json_rows
from langgraph_checkpoint_dual.serde.buffers import has_byte_strings, holds_other_buffers
from langgraph_checkpoint_dual.serde.encoding import Encoders, direct_encoders
from langgraph_checkpoint_dual.serde.exact import ExactWriter
from langgraph_checkpoint_dual.serde.revival import REVIVERS
from langgraph_checkpoint_dual.serde.trust import Trust, is_strict
from langgraph_checkpoint_dual.wire import Encoder

_UNPACK = ormsgpack.OPT_NON_STR_KEYS
_PYDANTIC_V2 = wire.PYDANTIC_V2
_packb, _unpackb = ormsgpack.packb, ormsgpack.unpackb
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
            listed = None if is_strict() else True
        if listed and listed is not True:
            listed = tuple(listed)
        super().__init__(
            pickle_fallback=pickle_fallback,
            allowed_json_modules=allowed_json_modules,
            allowed_msgpack_modules=listed,
            **options,
        )
        self._direct = direct_encoders(secrets, pickle_fallback)
        listed_types = [item for item in listed if isinstance(item, type)] if isinstance(listed, tuple) else []
        allowed, allowed_json = self._allowed_msgpack_modules, self._allowed_json_modules
        self._trust = Trust([*types, *listed_types], aliases, allowed, allowed_json)
        self._bind()

    def _bind(self) -> None:
        """Set what a serializer and its copies must not share."""
        # By class, not by name: a class that is defined anew gets an encoder of its own.
        self._encoders: weakref.WeakKeyDictionary[type, Encoder] = weakref.WeakKeyDictionary()
        refuses_secrets = self._direct is not wire.KNOWN
        self._maker = Encoders(self._trust, self._pack, self._decode, refuses_secrets=refuses_secrets)
        aliases = self._trust.aliases
        self._messages = {shape.name: shape for shape in SHAPES if f"{shape.module}.{shape.name}" not in aliases}
        if not self._custom_unpack_ext_hook:
            self._unpack_ext_hook = self._revive_extension

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> Serializer:
        """A serializer that may revive these classes too; this one if it may already.

        Args:
            extra_allowlist: classes, or their names as tuples `("my_module", "MyClass")`.
        """
        trust = self._trust.extended(tuple(extra_allowlist))
        if trust is self._trust:
            return self
        clone = copy.copy(self)
        clone._trust, clone._allowed_msgpack_modules = trust, trust.allowed
        clone._bind()
        return clone

    @property
    def is_plain(self) -> bool:
        """Whether plain messages come back as their own classes: no subclass, alias or hook has a say in it."""
        return type(self) is Serializer and not self._custom_unpack_ext_hook and len(self._messages) == len(SHAPES)

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
            if not has_byte_strings(data) or not holds_other_buffers(obj):
                return "msgpack", data
        except TypeError:
            if (interrupt := take_failure()) is not None:
                raise interrupt from None
        return self._dump_exactly(obj)

    def _dump_exactly(self, value: Any) -> tuple[str, bytes]:
        """The slow way: it can write more, and knows the place of what cannot be written."""
        try:
            return "msgpack", ExactWriter(self._encoder_of, self._decode).write(value)
        except EncodeError:
            if self.pickle_fallback:
                return "pickle", pickle.dumps(value)
            raise

    def _pack(self, value: Any) -> bytes:
        data = _packb(value, self._default, wire.PACK)
        if has_byte_strings(data) and holds_other_buffers(value):
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
            encoder = self._encoders[cls] = self._maker.make(cls)
        return encoder

    def _encoder_of(self, cls: type) -> Encoder:
        return self._direct.get(cls) or self._encoder(cls)

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
            return json_rows.decode(payload, self._reviver)
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
                return REVIVERS[_PYDANTIC_V2](self._trust, parts)
            if (from_bytes := wire.RAW.get(code)) is not None:
                return from_bytes(data)
            if (revive := REVIVERS.get(code)) is None:
                raise DecodeError(f"unknown extension code {code}: written by a newer version?")
            return revive(self._trust, _unpackb(data, ext_hook=self._unpack_ext_hook, option=_UNPACK))
        except BaseException as exc:
            if _failure.get() is None:  # the innermost says it best
                _failure.set(exc)
            raise

    def _reviver(self, value: dict[str, Any]) -> Any:
        found = json_rows.constructor(value)
        return value if found is None else self._revive_json(*found, value)

    def _revive_json(self, version: int, path: tuple[str, ...], value: dict[str, Any]) -> Any:
        return json_rows.revive(self._trust, version, path, value)
