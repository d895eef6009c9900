"""From a LangGraph config to the checkpoint that it means; bad input stops here, before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from langchain_core.runnables import RunnableConfig

from langgraph_checkpoint_dual.core.text import escape, shown
from langgraph_checkpoint_dual.errors import ConfigError

T = TypeVar("T")


class Address(NamedTuple):
    """A thread, a namespace in it and a checkpoint in that, as stored; `None` stands for any (of these two)."""

    thread_id: str
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None

    @property
    def conditions(self) -> dict[str, dict[str, str]]:
        """What is known of it, as conditions of the query `page`."""
        return {key: {key: value} for key, value in self._asdict().items() if value is not None}

    @property
    def where(self) -> dict[str, Any]:
        """The address as its user knows it, for error texts: also of a damaged row, whose ids may be of any type."""
        return {key: shown(value) for key, value in self._asdict().items() if value is not None}


def thread_key(thread_id: object) -> str:
    """A thread's id as stored. `int` and `UUID` ids become `str`, the same way everywhere.

    Raises:
        ConfigError: if it is missing, empty or of another type.
    """
    if not isinstance(thread_id, str) and isinstance(thread_id, (int, UUID)) and not isinstance(thread_id, bool):
        thread_id = str(thread_id)
    if not isinstance(thread_id, str) or not thread_id:
        raise ConfigError(f"thread_id must be a non-empty str, an int or a UUID, not {thread_id!r}")
    return escape(thread_id)


def text_key(name: str, value: object) -> str:
    """An id other than the thread's, as stored.

    Raises:
        ConfigError: if it is not a `str`.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a str, not {value!r}")
    return escape(value)


def user_key(user_id: object) -> str:
    """A user's id as stored. `int` ids become `str`.

    Raises:
        ConfigError: if it is empty or of another type.
    """
    if isinstance(user_id, int) and not isinstance(user_id, bool):
        user_id = str(user_id)
    if not isinstance(user_id, str) or not user_id:
        raise ConfigError(f"user_id must be a non-empty str or an int, not {user_id!r}")
    return escape(user_id)


def many(name: str, ids: Iterable[T]) -> Iterable[T]:
    """Some ids.

    Raises:
        ConfigError: if it is a single `str`, whose characters would pass for ids.
    """
    if isinstance(ids, str):
        raise ConfigError(f"{name} must be a list of ids, not the str {ids!r}")
    return ids


def _configurable(config: RunnableConfig | None) -> Mapping[str, Any]:
    found = config.get("configurable") if type(config) is dict or isinstance(config, Mapping) else None
    if type(found) is not dict and not isinstance(found, Mapping):
        raise ConfigError(
            "the config has no 'configurable'; pass config={'configurable': {'thread_id': ...}}: "
            f"got {type(config).__name__}"
        )
    return found


def address_of(config: RunnableConfig) -> Address:
    """The thread and checkpoint namespace (`""` unless given) and checkpoint id (`None` unless given) of a config.

    Raises:
        ConfigError: if the config has no `configurable` or no usable `thread_id`, or an id is not a `str`.
    """
    return _address(config, "")


def selection_of(config: RunnableConfig) -> Address:
    """As `address_of`, but a config without a namespace means every namespace of the thread."""
    return _address(config, None)


def _address(config: RunnableConfig, otherwise: str | None) -> Address:
    configurable = _configurable(config)
    if "thread_id" not in configurable:
        raise ConfigError("the config has no thread_id; pass config={'configurable': {'thread_id': ...}}")
    ns, checkpoint_id = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
    return Address(
        thread_key(configurable["thread_id"]),
        otherwise if ns is None else text_key("checkpoint_ns", ns),
        text_key("checkpoint_id", checkpoint_id) if checkpoint_id else None,
    )


def before_id(config: RunnableConfig | None) -> str | None:
    """The checkpoint id that a listing stops short of, or `None` for no bound."""
    if config is None:
        return None
    checkpoint_id = _configurable(config).get("checkpoint_id")
    return text_key("checkpoint_id", checkpoint_id) if checkpoint_id else None


def config_of(thread_id: Any, checkpoint_ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that means exactly one checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns, "checkpoint_id": checkpoint_id}}
