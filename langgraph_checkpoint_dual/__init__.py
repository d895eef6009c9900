"""Checkpoint savers for LangGraph on SQLite and Postgres: a drop-in replacement for the official ones."""

TYPE_CHECKING = False  # not that of `typing`, whose import would come before a command can mind Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from langgraph_checkpoint_dual.cache import Cache
    from langgraph_checkpoint_dual.configuration import CheckpointerConfig
    from langgraph_checkpoint_dual.core.retention import Retention
    from langgraph_checkpoint_dual.encryption import KeyringSerializer
    from langgraph_checkpoint_dual.observing import Observer
    from langgraph_checkpoint_dual.opening import aopen_saver, open_saver
    from langgraph_checkpoint_dual.postgres import PostgresSaver
    from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
    from langgraph_checkpoint_dual.serde import Serializer
    from langgraph_checkpoint_dual.sqlite import SqliteSaver
    from langgraph_checkpoint_dual.sqlite.aio import AsyncSqliteSaver

__all__ = [
    "AsyncPostgresSaver",
    "AsyncSqliteSaver",
    "Cache",
    "CheckpointerConfig",
    "KeyringSerializer",
    "Observer",
    "PostgresSaver",
    "Retention",
    "Serializer",
    "SqliteSaver",
    "aopen_saver",
    "open_saver",
]

_HOMES = {
    "SqliteSaver": "sqlite",
    "AsyncSqliteSaver": "sqlite.aio",
    "PostgresSaver": "postgres",
    "AsyncPostgresSaver": "postgres.aio",
    "CheckpointerConfig": "configuration",
    "Cache": "cache",
    "KeyringSerializer": "encryption",
    "Observer": "observing",
    "Retention": "core.retention",
    "Serializer": "serde",
    "aopen_saver": "opening",
    "open_saver": "opening",
}


def __getattr__(name: str) -> "Any":
    """Import what is first asked for: whoever uses SQLite need not load psycopg, and a command starts at once."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
