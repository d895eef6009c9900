"""Which class a name in stored bytes stands for, whether it may be revived, and under which name a class is stored.

Nothing is imported because a row says so: a name means what langgraph lists as safe, what the user has registered or
listed, or a data class of a module that is imported already.
"""

from __future__ import annotations

import collections
import copy
import importlib
import os
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NoReturn, TypeAlias, cast

import langgraph.types as lg_types
from langchain_core.messages import base as lc_base
from langgraph.checkpoint.serde import _msgpack as lg_msgpack
from langgraph.store.base import SearchItem
from pydantic import SecretBytes, SecretStr

from langgraph_checkpoint_dual import wire
from langgraph_checkpoint_dual.errors import DecodeError, EncodeError
from langgraph_checkpoint_dual.wire import Name, dotted, find, kind_of, shown

Allowed: TypeAlias = "set[tuple[str, ...]] | Literal[True] | None"
"""Names of classes; True for whatever may be revived without a list."""


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


def is_strict() -> bool:
    """Whether the environment asks for revival from lists alone."""
    asked = os.getenv("LANGGRAPH_STRICT_MSGPACK", "false").lower() in ("1", "true", "yes")
    return asked or lg_msgpack.STRICT_MSGPACK_ENABLED


def _refuse(module: object, name: object, why: str) -> NoReturn:
    type_ = shown(module, name)
    raise DecodeError(
        f"type {type_} {why}; import its module before reading, register it with types=[...], "
        f"or, if it was renamed or moved, map it with aliases={{{type_!r}: NewClass}}"
    )


class Trust:
    """What one serializer may revive.

    Args:
        types: classes that may be revived, whatever they are.
        aliases: classes by the names that they had when they were stored.
        allowed: what else may be; True for all data classes.
        allowed_json: the same for rows in langgraph's old JSON format.
    """

    def __init__(
        self, types: Iterable[type], aliases: Mapping[str, type], allowed: Allowed, allowed_json: Allowed
    ) -> None:
        self.aliases, self.allowed, self._allowed_json = dict(aliases), allowed, allowed_json
        self._registered: dict[Name, type] = {}
        self._register(types)

    def _register(self, classes: Iterable[type]) -> None:
        for cls in classes:
            self._registered[cls.__module__, cls.__qualname__] = cls
            self._registered.setdefault((cls.__module__, cls.__name__), cls)
        self._known: dict[Name, Any] = {**_SAFE, **self._registered}

    def extended(self, extra: Collection[tuple[str, ...] | type]) -> Trust:
        """As this one, with more that is allowed; this one itself if it allows all that."""
        names = {(item.__module__, item.__name__) if isinstance(item, type) else item for item in extra}
        new = [item for item in extra if isinstance(item, type) and not self._is_known(item)]
        if not new and (self.allowed is True or names <= (self.allowed or set())):
            return self
        clone = copy.copy(self)
        clone._registered = dict(self._registered)
        clone._register(new)
        if self.allowed is not True:
            clone.allowed = (self.allowed or set()) | names
        return clone

    def _is_known(self, cls: type) -> bool:
        return cls in self._registered.values() or find(cls.__module__, cls.__qualname__) is cls

    def name_of(self, cls: type) -> Name:
        """The name under which reading will find the class again.

        Raises:
            EncodeError: it would not, or may not revive it.
        """
        reason = ""
        for name in dict.fromkeys((cls.__qualname__, cls.__name__)):
            try:
                found = self.resolve(cls.__module__, name)
            except DecodeError as exc:
                reason = reason or exc.reason
                continue
            # A class that was defined anew, as in a notebook, still goes by its name.
            if found is cls or (getattr(found, "__qualname__", None) == name and kind_of(found) == kind_of(cls)):
                return cls.__module__, name
        if "<locals>" in cls.__qualname__:
            reason = "it is defined inside a function: move it to its module, or register it with types=[...]"
        elif kind_of(cls) is None and self.allowed is True:
            reason = "it is no data class (pydantic model, dataclass, NamedTuple or Enum): store one, or plain values"
        elif not reason:
            reason = "its module has another class of this name"
        raise EncodeError(f"type {dotted(cls)} cannot be stored, because reading could not revive it: {reason}")

    def resolve(self, module: Any, name: Any) -> Any:
        """The class, or other safe callable, that a stored name stands for.

        Raises:
            DecodeError: it is unknown here, or may not be revived.
        """
        if (target := self._trusted(module, name)) is not None:
            return target
        allowed = self.allowed
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
        if self.aliases and (aliased := self.aliases.get(f"{module}.{name}")) is not None:
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

    def resolve_json(self, path: tuple[str, ...], module: str, name: str) -> Any:
        """As `resolve`, but for a row in JSON, for which there is an allowlist of its own."""
        if (target := self._trusted(module, name)) is not None:
            return target
        allowed = self._allowed_json
        if allowed is True:
            return self.resolve(module, name)
        if path in (allowed or ()):
            return self._import_listed(module, name)
        found = find(module, name)
        if found is not None and (found.__module__, found.__name__) in _SAFE:
            return found
        _refuse(module, name, "is not on the allowlist for JSON rows (allowed_json_modules)")
