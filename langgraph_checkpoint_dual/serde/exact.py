"""The slow way of writing a value: for what the fast one cannot write, and to tell where in it that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ormsgpack
from pydantic import BaseModel

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import EncodeError
from langgraph_checkpoint_dual.wire import Encoded, Encoder, dotted

_packb = ormsgpack.packb
_MAX_NESTING = 250  # ormsgpack's own limit is 254 containers, counted anew in each extension value


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


class ExactWriter:
    """Writes a value step by step: whatever msgpack lacks becomes an extension value, and every error has its place.

    Args:
        encoder: gives the encoder of a class.
        decode: reads what was written, to see whether it comes back as it was.
    """

    def __init__(self, encoder: Callable[[type], Encoder], decode: Callable[[bytes], Any]) -> None:
        self._encoder, self._decode = encoder, decode

    def write(self, value: Any) -> bytes:
        """A value as msgpack.

        Raises:
            EncodeError: it, or something in it, cannot be stored; names the place.
        """
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
        back = self._decode(_packb(keys, option=wire.PACK))
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
            return self._encoder(cls)(value)
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
