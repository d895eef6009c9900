"""Where the database is: URLs, how they are opened, and how they are shown without their password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from langgraph_checkpoint_dual.cli.outcomes import NotFound
from langgraph_checkpoint_dual.errors import ConfigError, SchemaError
from langgraph_checkpoint_dual.saver import Saver

_COVERED = "***"
# The password of a URL, and the values of options that hold one: in a URL's query or in libpq's own notation.
_IN_URL = re.compile(r"(?<=://)(?P<user>[^/@\s]*?):(?P<secret>[^\s]*)@(?=[^@\s]*(?:$|\s|[\"']))")
_IN_OPTION = re.compile(r"\b(?P<name>password|sslpassword|passwd)\s*=\s*(?P<secret>'(?:\\.|[^'])*'|[^\s&'\"]+)", re.I)


def masked(text: str, *secrets: str) -> str:
    """Text without the passwords in URLs and connection strings, and without these secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _COVERED)
    text = _IN_URL.sub(lambda match: f"{match['user']}:{_COVERED}@", text)
    return _IN_OPTION.sub(lambda match: f"{match['name']}={_COVERED}", text)


def secrets_of(url: str) -> tuple[str, ...]:
    """The passwords in a URL or connection string, as they are written and as they are meant."""
    found = [match["secret"] for pattern in (_IN_URL, _IN_OPTION) for match in pattern.finditer(url)]
    return tuple(one for secret in found for one in (secret, unquote(secret), secret.strip("'")) if len(one) > 1)


def is_postgres(url: str) -> bool:
    """Whether this is a URL or a connection string of Postgres."""
    return url.startswith(("postgres://", "postgresql://")) or bool(re.match(r"\w+\s*=", url))


def path_of(url: str) -> str:
    """The path that a SQLite URL, or a path, means."""
    for start in ("sqlite:///", "sqlite://"):
        if url.startswith(start):
            return unquote(url[len(start) :])
    if re.match(r"\w[\w+.-]+://", url):
        raise ConfigError(f"unknown kind of database: {masked(url)!r}; use sqlite:///path or postgresql://...")
    return url


@contextmanager
def opened(url: str, schema: str | None, prefix: str, *, create: bool) -> Iterator[Saver]:
    """A saver on the database at a URL.

    Args:
        create: whether its file and tables may be made if they are missing.

    Raises:
        NotFound: if they are missing and may not be made.
    """
    saver = _saver(url, schema, prefix, create=create)
    with saver:
        if not create:
            try:
                saver.setup(create=False)
            except SchemaError as exc:
                raise NotFound(f"{masked(url)}: {exc}") from exc
        yield saver


def _saver(url: str, schema: str | None, prefix: str, *, create: bool) -> Any:
    if is_postgres(url):
        from langgraph_checkpoint_dual.postgres import PostgresSaver

        return PostgresSaver(url, schema=schema, prefix=prefix, retry_for=5.0, min_size=0, max_size=4, timeout=10.0)
    from langgraph_checkpoint_dual.sqlite import SqliteSaver

    if schema is not None:
        raise ConfigError("--schema is for Postgres; a SQLite database has none")
    path = path_of(url)
    if not create and not path.startswith("file:") and not Path(path).is_file():
        raise NotFound(f"there is no database {path!r}")
    return SqliteSaver(path, prefix=prefix)
