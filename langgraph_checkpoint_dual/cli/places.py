"""Opening the database of a command: to look at it, to change it, or to make it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.carrying import Carrier
from langgraph_checkpoint_dual.cli.outcomes import NotFound
from langgraph_checkpoint_dual.core.conversations.indexing import Index
from langgraph_checkpoint_dual.core.conversations.searching import kept_index
from langgraph_checkpoint_dual.core.official.adopting import is_there
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.encryption import integrity_keys_from_env
from langgraph_checkpoint_dual.errors import ConfigError, SchemaError
from langgraph_checkpoint_dual.opening import is_postgres, masked, secrets_of, target
from langgraph_checkpoint_dual.saver import Saver

_NO_PATH, _URL = re.compile(r"(?!file:)\w{2,}:/"), re.compile(r"\w[\w+.-]*://")
INTEGRITY, TARGET_INTEGRITY = "LANGGRAPH_INTEGRITY_KEY", "LANGGRAPH_TARGET_INTEGRITY_KEY"
"""Environment variables with the keys of MACs: of all databases, and of the one that is moved to if that has others."""
_PATIENCE = 10
"""How many seconds to wait for a server that does not answer."""


@contextmanager
def opened(
    url: str,
    schema: str | None,
    prefix: str,
    *,
    create: bool = False,
    look: bool = True,
    ours: bool = False,
    serde: Any = None,
    search: str | None = None,
    keys: str = INTEGRITY,
) -> Iterator[Saver]:
    """A saver on the database at a URL.

    Args:
        create: whether its file and tables may be made if they are missing.
        look: whether it is only looked at. Then a database that has the official tables alone is seen as a saver sees
            it, but our tables stay out of it: they are made in memory, or on Postgres as temporary ones.
        ours: whether our tables must be there already.
        serde: the serializer of the saver; unless given, one that carries along what it does not know.
        search: the channel that is searched. Unless given, an index that is there is kept by what changes messages,
            which has no serializer of its own.
        keys: the environment variable with the keys of MACs.

    Raises:
        NotFound: if there are no checkpoints of either kind, and nothing may be made.
    """
    if _NO_PATH.match(url) and not _URL.match(url):
        raise ConfigError(
            f"{masked(url, *secrets_of(url))!r} is neither a URL nor a path: two slashes follow the colon"
        )
    on_postgres = is_postgres(url)
    if schema is not None and not on_postgres:
        raise ConfigError("--schema is for Postgres; a SQLite database has none")
    place = Place(
        target(url).place,
        schema,
        {"prefix": prefix, "serde": serde or Carrier(), "integrity_key": integrity_keys_from_env(keys)},
    )
    if not on_postgres and not create and not place.url.startswith("file:") and not Path(place.url).is_file():
        raise NotFound(f"there is no database {place.url!r}")
    connect = _on_postgres if on_postgres else _on_sqlite
    with connect(place) as saver:
        missing = None if create else _missing(saver)
        if missing is None:
            if serde is None:
                saver._index = Index(search) if search else finish(kept_index(saver._blocking))
            yield saver
            return
    if ours:
        raise NotFound(f"{masked(url)}: {missing}")
    official = place._replace(options={**place.options, "integrity_key": None})  # there are no rows of ours to check
    with connect(official, beside=True) as saver:
        if not finish(saver._blocking.read(is_there)):
            raise NotFound(f"{masked(url)}: {missing}")
        if look:
            yield saver
            return
    with connect(place) as saver:
        yield saver


def _missing(saver: Any) -> SchemaError | None:
    """What the schema lacks.

    Raises:
        SchemaError: if it is newer than this package.
    """
    try:
        saver.setup(create=False)
    except SchemaError as exc:
        if "newer" in str(exc):
            raise
        return exc
    return None


class Place(NamedTuple):
    """A database, the schema of the tables, and the options of its saver."""

    url: str
    schema: str | None
    options: dict[str, Any]


@contextmanager
def _on_postgres(place: Place, *, beside: bool = False) -> Iterator[Any]:
    import psycopg

    from langgraph_checkpoint_dual.postgres import PostgresSaver

    # One connection, which fails at once where a pool would go on trying; unprepared, for a pooler may be between.
    with psycopg.connect(place.url, autocommit=True, prepare_threshold=None, connect_timeout=_PATIENCE) as connection:
        schema = place.schema
        if beside:
            connection.execute("SELECT set_config('search_path', 'pg_temp, ' || current_setting('search_path'), false)")
            schema = None
        yield PostgresSaver(connection, schema=schema, **place.options)


@contextmanager
def _on_sqlite(place: Place, *, beside: bool = False) -> Iterator[Any]:
    from langgraph_checkpoint_dual.sqlite import SqliteSaver

    path = place.url
    if beside:
        with closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, uri=True)) as memory:
            attached = path if path.startswith("file:") else f"{Path(path).absolute().as_uri()}?mode=ro"
            memory.execute("ATTACH ? AS official", (attached,))
            yield SqliteSaver(memory, **place.options)
        return
    with SqliteSaver(path, **place.options) as saver:
        yield saver
