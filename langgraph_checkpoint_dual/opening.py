"""Opening a saver by the URL of its database, so that the choice of the database can be left to a setting.

    sqlite:///chats.db            a file, from the working directory; sqlite:////var/lib/chats.db from the root
    sqlite://, sqlite://:memory:  a database in memory
    chats.db                      a file; so is `pathlib.Path("chats.db")`
    postgresql://user:password@host:5432/app
    host=localhost dbname=app     libpq's own notation

A driver that other libraries want in the scheme (`postgresql+psycopg://`, `sqlite+aiosqlite://`) is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from langgraph_checkpoint_dual.errors import ConfigError

if TYPE_CHECKING:
    from langgraph_checkpoint_dual.postgres import PostgresSaver
    from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
    from langgraph_checkpoint_dual.sqlite import SqliteSaver
    from langgraph_checkpoint_dual.sqlite.aio import AsyncSqliteSaver

_SCHEME = re.compile(r"(?P<kind>[a-zA-Z][\w.-]*)(?:\+[\w.-]+)?://")
_KINDS = {"sqlite": "sqlite", "sqlite3": "sqlite", "postgresql": "postgres", "postgres": "postgres"}
_KEYWORDS = re.compile(r"\s*(?:host|hostaddr|port|dbname|user|password|passfile|service|sslmode|options)\s*=")
_PASSWORD = re.compile(r":.*@", re.DOTALL)
"""Up to the last @: where a password has an @ or / of its own, too much is covered rather than too little."""
_OPTION = re.compile(r"\b(?P<name>\w*password|passwd)\s*=\s*(?P<secret>'(?:\\.|[^'])*'|[^\s&\"]+)", re.IGNORECASE)
_IN_TEXT = re.compile(r"(?<=://)(?P<user>[^/@\s]*?):(?P<secret>[^\s]*)@(?=[^@\s]*(?:$|\s|[\"']))")
_MISTYPED = re.compile(r":/{0,3}[^:/@\s]*:(?P<secret>.+)@")
_COVERED = "***"
_HOW = "use sqlite:///path, sqlite:// (in memory), a path, or postgresql://user:password@host/database"
_QUOTE = "in a user or password, write each of the signs % : / ? # [ ] @ and space as % and two digits (%40 is @)"


class Target(NamedTuple):
    """What a URL means: the kind of database, "sqlite" or "postgres", and what its saver is opened with."""

    kind: str
    place: str


def open_saver(url: str | PathLike[str], **options: Any) -> SqliteSaver | PostgresSaver:
    """A blocking saver on the database at a URL; use it as a context manager, or `close` it.

    Args:
        url: see the module.
        options: those of `SqliteSaver` or of `PostgresSaver`.

    Raises:
        ConfigError: if the URL means no database that there is a saver for, or its driver cannot be loaded.
    """
    kind, place = target(url)
    if kind == "sqlite":
        from langgraph_checkpoint_dual.sqlite import SqliteSaver

        return SqliteSaver(place, **options)
    try:
        from langgraph_checkpoint_dual.postgres import PostgresSaver
    except ImportError as exc:
        raise _missing(exc) from exc
    return PostgresSaver(place, **options)


def aopen_saver(url: str | PathLike[str], **options: Any) -> Opening:
    """As `open_saver`, for event loops: `async with aopen_saver(url) as saver`, or `saver = await aopen_saver(url)`."""
    kind, place = target(url)
    return Opening(kind, place, options)


class Opening:
    """An asynchronous saver that is about to be opened: await it, or enter it."""

    def __init__(self, kind: str, place: str, options: dict[str, Any]) -> None:
        self._kind, self._place, self._options = kind, place, options
        self._saver: AsyncSqliteSaver | AsyncPostgresSaver | None = None

    def __await__(self) -> Generator[Any, None, AsyncSqliteSaver | AsyncPostgresSaver]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncSqliteSaver | AsyncPostgresSaver:
        self._saver = await self._open()
        return self._saver

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saver is not None:
            await self._saver.aclose()

    async def _open(self) -> AsyncSqliteSaver | AsyncPostgresSaver:
        if self._kind == "sqlite":
            from langgraph_checkpoint_dual.sqlite.aio import AsyncSqliteSaver

            return AsyncSqliteSaver(self._place, **self._options)
        try:
            from langgraph_checkpoint_dual.postgres.aio import AsyncPostgresSaver
        except ImportError as exc:
            raise _missing(exc) from exc
        return AsyncPostgresSaver(self._place, **self._options)


def target(url: str | PathLike[str]) -> Target:
    """What a URL means.

    Raises:
        ConfigError: see `open_saver`. It never shows a password.
    """
    text = fspath(url) if isinstance(url, (str, PathLike)) else None
    if not isinstance(text, str) or not text:
        raise ConfigError(f"the URL of a database must be a str or a path, not {type(url).__name__}; {_HOW}")
    found = _SCHEME.match(text)
    if found is None:
        return Target("postgres", _checked(text)) if _KEYWORDS.match(text) else Target("sqlite", text)
    kind = _KINDS.get(found["kind"].lower())
    if kind is None:
        raise ConfigError(f"there is no saver for {found['kind']}:// URLs; {_HOW}")
    rest = text[found.end() :]
    return Target(kind, _path(rest)) if kind == "sqlite" else Target(kind, _checked(f"postgresql://{rest}"))


def _path(rest: str) -> str:
    """The path that stands after `sqlite://`."""
    if rest in ("", "/", ":memory:", "/:memory:"):
        return ":memory:"
    if not rest.startswith("/"):
        raise ConfigError("a sqlite:// URL has no host: write sqlite:///chats.db, with three slashes, or a path")
    if "?" in rest:
        raise ConfigError("a sqlite:// URL has no options: give them as arguments, and write a ? in a path as %3F")
    return unquote(rest[1:])


def _checked(conninfo: str) -> str:
    """A connection string that libpq understands as it was meant."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as exc:
        raise _missing(exc) from exc
    try:
        found = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        found = None
    # libpq's own words may hold a part of the password; an @ in the name of a database was part of one, too.
    if found is None or ("://" in conninfo and "@" in str(found.get("dbname", ""))):
        raise ConfigError(f"the connection string {masked(conninfo)!r} cannot be understood; {_QUOTE}")
    return conninfo


def masked(text: str, *secrets: str) -> str:
    """A URL or connection string, or a text with some, without the passwords in them and without these secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _COVERED)
    found = _SCHEME.match(text)
    if found is not None:
        text = text[: found.end()] + _PASSWORD.sub(f":{_COVERED}@", text[found.end() :])
    text = _IN_TEXT.sub(lambda match: f"{match['user']}:{_COVERED}@", text)
    return _OPTION.sub(lambda match: f"{match['name']}={_COVERED}", text)


def secrets_of(url: str) -> tuple[str, ...]:
    """The passwords in a URL or connection string, as they are written and as they are meant; mistyped ones too."""
    found = [match["secret"] for pattern in (_IN_TEXT, _OPTION, _MISTYPED) for match in pattern.finditer(url)]
    return tuple(one for secret in found for one in (secret, unquote(secret), secret.strip("'")) if len(one) > 1)


def is_postgres(url: str | PathLike[str]) -> bool:
    """Whether this is a URL or a connection string of Postgres."""
    return target(url).kind == "postgres"


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"Postgres needs psycopg, which cannot be loaded ({error}): pip install 'psycopg[binary,pool]'")
