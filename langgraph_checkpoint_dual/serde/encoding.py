"""How the instances of each class are encoded: of those that are known to all serializers, and of any other."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NoReturn, cast

import ormsgpack
from langgraph.checkpoint.serde import jsonplus
from pydantic import SecretBytes, SecretStr

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError, EncodeError
from langgraph_checkpoint_dual.serde.generics import describe
from langgraph_checkpoint_dual.serde.trust import Trust
from langgraph_checkpoint_dual.wire import Encoded, Encoder, dotted, kind_of

_packb = ormsgpack.packb
_SECRETS = (SecretStr, SecretBytes)
# Elements of a set that come back as they went in; sets of anything else are tried before they are stored.
_PLAIN_ELEMENTS = {str, int, float, bool, bytes, type(None), date, datetime, Decimal, uuid.UUID}


def direct_encoders(secrets: str, pickle_fallback: bool) -> Mapping[type, Encoder]:
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


class Encoders:
    """Makes the encoders of classes that are not known to all serializers.

    Args:
        trust: says under which name a class is stored.
        pack: writes what is in an object.
        decode: reads what was written, to see whether it comes back as it was.
    """

    def __init__(
        self, trust: Trust, pack: Callable[[Any], bytes], decode: Callable[[bytes], Any], *, refuses_secrets: bool
    ) -> None:
        self._trust, self._pack, self._decode, self._refuses_secrets = trust, pack, decode, refuses_secrets

    def make(self, cls: type) -> Encoder:
        """The encoder of a class.

        Raises:
            EncodeError: its instances cannot be stored.
        """
        if self._refuses_secrets and issubclass(cls, _SECRETS):
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
            return self._make_generic(cls)
        return self._make_named(cls, kind)

    def _make_named(self, cls: Any, kind: wire.Kind | None) -> Encoder:
        name, base = self._trust.name_of(cls), wire.base_of(cls)
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

    def _make_generic(self, cls: Any) -> Encoder:
        meta = cls.__pydantic_generic_metadata__
        head = (*self._trust.name_of(meta["origin"]), [describe(self._trust, argument) for argument in meta["args"]])
        encode = wire.model_encoder(("", ""), cls)
        return lambda value: (wire.GENERIC, (*head, encode(value)[1][2]))
