"""How single objects are laid out in msgpack extension values, and how they are made from them again.

An encoder takes a value and returns `(code, payload)`; a maker takes the class and the payload. Nothing here decides
which class a stored name may stand for: that is `serde/trust.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import ipaddress
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, cast

import langgraph.types as lg_types
import ormsgpack
import pydantic.networks
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item, SearchItem
from pydantic import AliasChoices, BaseModel, RootModel, SecretBytes, SecretStr

from langgraph_checkpoint_dual.errors import DecodeError, EncodeError
from langgraph_checkpoint_dual.messages import BY_CLASS

Name = tuple[str, str]
Encoded = tuple[int, Any]
Encoder = Callable[[Any], Encoded]
Kind = Literal["enum", "model", "model_v1", "dataclass", "named_tuple", "subclass"]

# The codes and layouts of langgraph's own serializer.
SINGLE_ARG, POS_ARGS, KW_ARGS, METHOD, PYDANTIC_V1, PYDANTIC_V2, NUMPY_ARRAY, DELTA_SNAPSHOT = range(8)
# Ours, for what those cannot hold.
VALUE = 32  # (kind, *parts): a key of VALUES
TEXT = 33  # UTF-8 with lone surrogates
BIG_INT = 34  # two's complement, little endian
BYTEARRAY = 35
SUBCLASS = 36  # (module, qualified name, built-in, content, attributes or None)
ENUM_NAME = 37  # (module, qualified name, member)
GENERIC = 38  # (module, qualified name, type arguments, fields)
READY = -1  # not a code: the payload takes the value's place as it is

PACK = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)

# The order matters: the first that a class extends is its base.
_BASES: dict[str, Any] = {
    base.__name__: base
    for base in (
        OrderedDict, defaultdict, dict, list, tuple, deque, set, frozenset, str, bytes, bytearray, int, float, complex,
    )
}  # fmt: skip
_FACTORIES: dict[str, type] = {
    factory.__name__: factory
    for factory in (
        list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, complex, bool, deque, OrderedDict,
        collections.Counter,
    )
}  # fmt: skip
_OPTION = ""  # the attribute name that carries a default_factory or a maxlen; no real attribute is called so


def dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def shown(module: object, name: object) -> str:
    """A stored type name, fit for an error message."""
    return f"{module}.{name}"[:200]


# --- Kinds of classes ---


def find(module: Any, name: str) -> Any:
    """The class that a dotted name means in a module that is already imported, or None. Runs no code of the module."""
    loaded = sys.modules.get(module)
    if not isinstance(loaded, types.ModuleType):
        return None
    # Not getattr: a module may import others, or itself, when asked for an attribute.
    scope: Any = object.__getattribute__(loaded, "__dict__")
    found: Any = None
    # pydantic leaves generic models that a module has parametrised under names such as "Box[a.B]".
    for part in [name] if name in scope else name.split("."):
        found = scope.get(part)
        if not isinstance(found, type):
            return None
        scope = type.__getattribute__(found, "__dict__")
    return found


def _is_model_v1(cls: type) -> bool:
    base = find("pydantic.v1.main", "BaseModel")
    return base is not None and base in cls.__mro__


@lru_cache(maxsize=1024)
def base_of(cls: Any) -> str | None:
    """The built-in that `cls` extends with Python code only, so that an instance can be made without running any."""
    heap_type = 1 << 9
    made_by_class_statement = cls.__flags__ & heap_type and not hasattr(cls, "n_sequence_fields")
    if not made_by_class_statement and cls not in (collections.Counter, OrderedDict, defaultdict):
        return None
    return next((name for name, base in _BASES.items() if base in cls.__mro__), None)


@lru_cache(maxsize=1024)
def kind_of(cls: Any) -> Kind | None:
    """Which sort of data class this is; None for one that may do anything, such as start a process."""
    if issubclass(cls, Enum):
        return "enum"
    if BaseModel in cls.__mro__:
        return "model"
    if _is_model_v1(cls):
        return "model_v1"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    if tuple in cls.__mro__ and isinstance(getattr(cls, "_fields", None), tuple):
        return "named_tuple"
    return "subclass" if base_of(cls) else None


# --- Encoders of known types ---


def _one_arg(argument: Callable[[Any], Any]) -> Encoder:
    def encode(value: Any) -> Encoded:
        cls = type(value)
        return SINGLE_ARG, (cls.__module__, cls.__name__, argument(value))

    return encode


def _timezone_args(zone: timezone) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", zone.__getinitargs__())  # type: ignore[attr-defined]  # typeshed leaves it out


def _encode_datetime(value: datetime) -> Encoded:
    zone = value.tzinfo
    named = type(zone) is zoneinfo.ZoneInfo or (type(zone) is timezone and len(_timezone_args(zone)) > 1)
    if value.fold or named:
        return VALUE, ("datetime", value.replace(tzinfo=None, fold=0).isoformat(), value.fold, zone)
    return METHOD, ("datetime", "datetime", value.isoformat(), "fromisoformat")


def _encode_time(value: time) -> Encoded:
    parts = ("hour", "minute", "second", "microsecond", "tzinfo", "fold")
    return KW_ARGS, ("datetime", "time", {part: getattr(value, part) for part in parts})


def _encode_zone(value: zoneinfo.ZoneInfo) -> Encoded:
    if value.key is None:
        raise EncodeError("a ZoneInfo without a key cannot be stored")
    return SINGLE_ARG, ("zoneinfo", "ZoneInfo", value.key)


def _encode_deque(value: deque[Any]) -> Encoded:
    if value.maxlen is not None:
        return VALUE, ("deque", list(value), value.maxlen)
    return SINGLE_ARG, ("collections", "deque", tuple(value))


def _encode_path(value: pathlib.Path) -> Encoded:
    return POS_ARGS, (type(value).__module__, type(value).__name__, value.parts)


def _encode_pure_path(value: pathlib.PurePath) -> Encoded:
    return VALUE, ("path", type(value).__name__, value.parts)


def _encode_send(value: lg_types.Send) -> Encoded:
    timeout = getattr(value, "timeout", None)
    args = (value.node, value.arg) if timeout is None else (value.node, value.arg, timeout)
    return POS_ARGS, ("langgraph.types", "Send", args)


def _encode_item(value: Item) -> Encoded:
    return PYDANTIC_V1, (type(value).__module__, type(value).__name__, value.dict())


def _encode_message(value: Any) -> Encoded:
    shape = BY_CLASS[type(value)]
    extra = value.__pydantic_extra__
    state = {**value.__dict__, **extra} if extra else value.__dict__
    return PYDANTIC_V2, (shape.module, shape.name, state, "model_validate_json")


URL_TYPES: tuple[type, ...] = tuple(
    cls
    for cls in vars(pydantic.networks).values()
    if isinstance(cls, type) and cls.__module__ == "pydantic.networks" and cls.__name__.endswith(("Url", "Dsn"))
)

KNOWN: dict[type, Encoder] = {
    **dict.fromkeys(BY_CLASS, _encode_message),
    **dict.fromkeys(
        (
            Decimal,
            ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network,
            ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network,
            *URL_TYPES,
        ),
        _one_arg(str),
    ),
    **dict.fromkeys((SecretStr, SecretBytes), _one_arg(lambda value: value.get_secret_value())),
    **dict.fromkeys((pathlib.PosixPath, pathlib.WindowsPath), _encode_path),
    **dict.fromkeys((pathlib.PurePosixPath, pathlib.PureWindowsPath), _encode_pure_path),
    **dict.fromkeys((Item, SearchItem), _encode_item),
    deque: _encode_deque,
    uuid.UUID: _one_arg(lambda value: value.hex),
    datetime: _encode_datetime,
    date: lambda value: (POS_ARGS, ("datetime", "date", (value.year, value.month, value.day))),
    time: _encode_time,
    timedelta: lambda value: (POS_ARGS, ("datetime", "timedelta", (value.days, value.seconds, value.microseconds))),
    timezone: lambda value: (POS_ARGS, ("datetime", "timezone", _timezone_args(value))),
    zoneinfo.ZoneInfo: _encode_zone,
    re.Pattern: lambda value: (POS_ARGS, ("re", "compile", (value.pattern, value.flags))),
    complex: lambda value: (VALUE, ("complex", value.real, value.imag)),
    Fraction: lambda value: (VALUE, ("fraction", value.numerator, value.denominator)),
    range: lambda value: (VALUE, ("range", value.start, value.stop, value.step)),
    lg_types.Send: _encode_send,
    _DeltaSnapshot: lambda value: (DELTA_SNAPSHOT, value.value),
}  # fmt: skip


# --- numpy ---


def encode_array(value: Any) -> Encoded:
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata or not dtype.itemsize:
        raise EncodeError(f"a numpy array of dtype {dtype} cannot be stored exactly")
    if dtype.kind in "biufcSU" and dtype.isbuiltin != 2:
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        as_it_is = value.flags.c_contiguous and value.ndim and value.size and dtype.kind in "biufc" and dtype.isnative
        data = memoryview(value).cast("B") if as_it_is else value.tobytes(order="A")
        return NUMPY_ARRAY, ormsgpack.packb((dtype.str, value.shape, order, data))
    return VALUE, ormsgpack.packb(("npy", _npy(value)))


def _npy(value: Any) -> bytes:
    """An array of dates, records or raw bytes in numpy's own file format, which describes these exactly."""
    import numpy

    layout = numpy.lib.format
    if value.dtype.kind not in "mMV" or layout.descr_to_dtype(layout.dtype_to_descr(value.dtype)) != value.dtype:
        raise EncodeError(f"a numpy array of dtype {value.dtype} cannot be stored exactly")
    file = io.BytesIO()
    layout.write_array(file, value, version=(3, 0), allow_pickle=False)
    return file.getvalue()


def encode_scalar(value: Any) -> Encoded:
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata or dtype.isbuiltin == 2 or dtype.kind == "V":
        raise EncodeError(f"a numpy scalar of dtype {dtype} cannot be stored exactly")
    return VALUE, ormsgpack.packb(("scalar", dtype.str, value.tobytes()))


def make_array(dtype: str, shape: Iterable[int], order: str, data: bytes) -> Any:
    """A writable array over its own copy of `data`."""
    import numpy

    # A name such as "O" would make pointers out of stored bytes.
    if (exact := numpy.dtype(dtype)).hasobject:
        raise ValueError("an array of objects")
    array: Any = numpy.ndarray(tuple(shape), exact, bytearray(data), order=cast(Any, order))
    if array.nbytes != len(data):
        raise ValueError("an array of another size than its data")
    return array


def _make_scalar(dtype: str, data: bytes) -> Any:
    import numpy

    # An empty string has no bytes, for which numpy makes no array.
    exact = numpy.dtype(dtype)
    return make_array(dtype, (), "C", data)[()] if exact.itemsize else exact.type()


def _read_npy(data: bytes) -> Any:
    import numpy

    return numpy.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


# --- Values that langgraph's layouts cannot hold ---


def hashable(key: Any) -> Any:
    """A dict key or an element of a set that was a tuple, from the list that it was stored as."""
    return tuple(map(hashable, key)) if type(key) is list else key


def make_set(cls: Any, items: list[Any]) -> Any:
    try:
        return cls(items)
    except TypeError:
        return cls(map(hashable, items))


def _make_zoned(text: str, fold: int, zone: Any) -> datetime:
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _make_pure_path(flavour: str, parts: list[str]) -> pathlib.PurePath:
    return {"PurePosixPath": pathlib.PurePosixPath, "PureWindowsPath": pathlib.PureWindowsPath}[flavour](*parts)


VALUES: dict[str, Callable[..., Any]] = {
    "complex": complex,
    "fraction": Fraction,
    "range": range,
    "datetime": _make_zoned,
    "deque": deque,
    "dict": lambda pairs: {hashable(key): value for key, value in pairs},
    "path": _make_pure_path,
    "scalar": _make_scalar,
    "npy": _read_npy,
}

RAW: dict[int, Callable[[bytes], Any]] = {
    TEXT: lambda data: data.decode("utf-8", "surrogatepass"),
    BIG_INT: lambda data: int.from_bytes(data, "little", signed=True),
    BYTEARRAY: bytearray,
}


# --- Enums, dataclasses, named tuples ---


def encode_enum(name: Name, value: Enum) -> Encoded:
    raw = value.value
    if type(raw) in (str, int) and (isinstance(value, Flag) or type(value)._value2member_map_.get(raw) is value):
        return SINGLE_ARG, (*name, raw)
    if type(value).__members__.get(value.name) is not value:
        raise EncodeError(f"a member of {dotted(type(value))} that has neither a name nor a plain value")
    return ENUM_NAME, (*name, value.name)


def make_enum_by_name(cls: Any, member: str) -> Any:
    if kind_of(cls) != "enum":
        raise DecodeError(f"type {dotted(cls)} is no Enum")
    return cls.__members__[member]


def encode_dataclass(name: Name, value: Any) -> Encoded:
    return KW_ARGS, (*name, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})


@lru_cache(maxsize=1024)
def _late_fields(cls: Any) -> frozenset[str]:
    """The fields that the constructor does not take."""
    return frozenset(field.name for field in dataclasses.fields(cls) if not field.init)


def make_dataclass(cls: Any, state: dict[str, Any]) -> Any:
    late: Iterable[str] = _late_fields(cls)
    try:
        made = cls(**({name: value for name, value in state.items() if name not in late} if late else state))
    except TypeError:
        # An __init__ that takes something else, such as an InitVar: the fields alone are the object.
        if state.keys() != {field.name for field in dataclasses.fields(cls)}:
            raise
        made, late = object.__new__(cls), state
    for name in late:
        object.__setattr__(made, name, state[name])
    return made


def encode_named_tuple(name: Name, value: Any) -> Encoded:
    return KW_ARGS, (*name, dict(zip(type(value)._fields, value, strict=True)))


def make_named_tuple(cls: Any, state: dict[str, Any]) -> Any:
    try:
        return cls(**state)
    except TypeError:
        if state.keys() != set(cls._fields):
            raise
        return tuple.__new__(cls, [state[field] for field in cls._fields])


# --- Pydantic models ---


def model_encoder(name: Name, cls: type[BaseModel]) -> Encoder:
    if has_own_dump(cls):
        return lambda value: dumped_model(name, value)
    if issubclass(cls, RootModel):
        return lambda value: (PYDANTIC_V2, (*name, value.root, "model_validate_json"))
    return lambda value: (PYDANTIC_V2, (*name, model_state(value), "model_validate_json"))


def dumped_model(name: Name, value: BaseModel) -> Encoded:
    """As the model itself, or langgraph's serializer, would have it."""
    return PYDANTIC_V2, (*name, value.model_dump(), "model_validate_json")


def model_state(value: BaseModel) -> dict[str, Any]:
    """The fields of a model as they are: nested objects keep their own types, which `model_dump` would flatten."""
    fields, state, extra = type(value).model_fields, value.__dict__, value.__pydantic_extra__
    if len(state) != len(fields):  # cached properties are kept beside the fields
        state = {name: state[name] for name in fields if name in state}
    return {**state, **extra} if extra else state


def has_own_dump(cls: type[BaseModel]) -> bool:
    """Whether the author of a model has said how it is to be serialised."""
    decorators = cls.__pydantic_decorators__
    return bool(
        decorators.field_serializers
        or decorators.model_serializers
        or (cls.model_dump is not BaseModel.model_dump)
        or any(
            field.exclude or any(type(mark).__name__.endswith("Serializer") for mark in field.metadata)
            for field in cls.model_fields.values()
        )
    )


def make_model(cls: Any, state: Any) -> Any:
    if RootModel in cls.__mro__:
        return _make_root_model(cls, state)
    if not isinstance(state, dict):
        raise DecodeError(f"type {dotted(cls)} is not made from a {type(state).__name__}")
    try:
        return cls(**_by_alias(cls, state))
    except Exception:
        # What was valid when it was stored is not refused because the class has become stricter.
        return cls.model_construct(**state)


def _make_root_model(cls: Any, root: Any) -> Any:
    try:
        return cls.model_validate(root)
    except Exception:
        return cls.model_construct(root)


def _by_alias(cls: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The fields under the names that the constructor takes: a field that has an alias is ignored under its own."""
    aliases = _aliases(cls)
    return {aliases.get(name, name): value for name, value in state.items()} if aliases else state


@lru_cache(maxsize=1024)
def _aliases(cls: Any) -> dict[str, str]:
    config = cls.model_config
    if config.get("populate_by_name") or config.get("validate_by_name"):
        return {}
    aliases = {}
    for name, field in cls.model_fields.items():
        alias = field.validation_alias or field.alias
        if isinstance(alias, AliasChoices):
            alias = next((choice for choice in alias.choices if isinstance(choice, str)), None)
        if isinstance(alias, str):
            aliases[name] = alias
    return aliases


def make_model_v1(cls: Any, state: dict[str, Any]) -> Any:
    try:
        return cls(**state)
    except Exception:
        return cls.construct(**state)


# --- Subclasses of built-ins, made without running their code ---


def encode_subclass(name: Name, base: str, value: Any) -> Encoded:
    attributes = _attributes(value)
    if base == "defaultdict":
        attributes[_OPTION] = _factory_name(value.default_factory)
    elif base == "deque" and value.maxlen is not None:
        attributes[_OPTION] = value.maxlen
    return SUBCLASS, (*name, base, _content(base, value), attributes or None)


def _content(base: str, value: Any) -> Any:
    builtin = _BASES[base]
    if base in ("OrderedDict", "defaultdict", "dict"):
        return dict(builtin.items(value))
    if base == "complex":
        return [value.real, value.imag]
    if base == "bytearray":
        return bytes(value)
    if base in ("str", "bytes", "int", "float"):
        return builtin.__getnewargs__(value)[0]
    return list(builtin.__iter__(value))


def _attributes(value: Any) -> dict[str, Any]:
    """What an instance of a subclass holds besides its content."""
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot != "__dict__" and hasattr(value, slot):
                raise EncodeError(f"{dotted(type(value))} keeps attributes in slots, which cannot be stored")
    return dict(getattr(value, "__dict__", {}))


def _factory_name(factory: Any) -> str | None:
    if factory is None:
        return None
    for name, known in _FACTORIES.items():
        if factory is known:
            return name
    raise EncodeError("a defaultdict whose default_factory is none of " + ", ".join(sorted(_FACTORIES)))


def make_subclass(cls: Any, base: str, content: Any, attributes: dict[str, Any] | None = None) -> Any:
    if not isinstance(cls, type) or (base != "defaultdict" and base_of(cls) != base) or _BASES[base] not in cls.__mro__:
        raise DecodeError(f"type {dotted(cls)} is no {base}")
    rest = dict(attributes or {})
    made = _fill(cls, base, content, rest.pop(_OPTION, None))
    if rest:
        object.__getattribute__(made, "__dict__").update(rest)
    return made


def _fill(cls: Any, base: str, content: Any, option: Any) -> Any:
    """An instance with its content, by the methods of the built-in alone."""
    builtin = _BASES[base]
    if base in ("tuple", "str", "bytes", "int", "float"):
        return builtin.__new__(cls, content)
    if base == "frozenset":
        return frozenset.__new__(cls, map(hashable, content))
    if base == "complex":
        return complex.__new__(cls, *content)
    made = builtin.__new__(cls)
    if base == "OrderedDict":
        for key, value in content.items():
            OrderedDict.__setitem__(made, key, value)
    elif base in ("dict", "defaultdict"):
        if base == "defaultdict":
            defaultdict.__init__(made, None if option is None else _FACTORIES[option])
        dict.update(made, content)
    elif base == "deque":
        deque.__init__(made, content, option)
    elif base == "set":
        set.update(made, map(hashable, content))
    else:
        builtin.__init__(made, content)
    return made


def make_by_method(cls: Any, method: Any, text: str) -> Any:
    """The one method that a row may name: it parses a date."""
    if method != "fromisoformat" or not (isinstance(cls, type) and issubclass(cls, datetime)):
        raise DecodeError(f"method {str(method)[:60]!r} of type {dotted(cls)} may not be called")
    return cls.fromisoformat(text)
