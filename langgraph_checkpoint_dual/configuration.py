"""A saver from settings: environment variables, files, or code. Needs `pydantic-settings`, the extra `config`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, Secret, SecretStr, ValidationError, field_validator, model_validator
from typing_extensions import Self

from langgraph_checkpoint_dual.cache import DEFAULT_BYTES, DEFAULT_ENTRIES, Cache
from langgraph_checkpoint_dual.core.integrity import keys_of
from langgraph_checkpoint_dual.core.redacting import redaction_of
from langgraph_checkpoint_dual.core.retention import Retention
from langgraph_checkpoint_dual.encryption import integrity_keys
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.opening import Opening, aopen_saver, masked, open_saver, target
from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.sqlite import SqliteSaver

try:
    from pydantic_settings import BaseSettings, SettingsConfigDict
except ImportError as exc:
    raise ImportError(
        f"CheckpointerConfig needs pydantic-settings ({exc}): pip install 'langgraph-checkpoint-dual[config]'"
    ) from exc

_ONLY = {
    "sqlite": {"synchronous"},
    "postgres": {"password", "pg_schema", "min_size", "max_size", "retry_for", "response_timeout"},
}
_NOT_PASSED = {"url", "password", "integrity_key", "pg_schema", "cache_bytes", "cache_entries"}


class DatabaseUrl(Secret[str]):
    """The URL of a database, which is shown without its password."""

    def _display(self) -> str:
        return masked(self.get_secret_value())


class CheckpointerConfig(BaseSettings):
    """The settings of a saver: what is not given as an argument comes from environment variables.

    Each is called `CHECKPOINTER_` and the setting's name: `CHECKPOINTER_URL`, `CHECKPOINTER_MAX_SIZE`, ... What is set
    nowhere is left to the saver. `_env_file=".env"` and `_secrets_dir="/run/secrets"` name further sources, as in all
    classes of pydantic-settings. The password, and the one in the URL, are never shown.

    Raises:
        ConfigError: if a setting is missing, unknown, or cannot be used.
    """

    model_config = SettingsConfigDict(
        env_prefix="CHECKPOINTER_",
        env_parse_none_str="none",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    url: DatabaseUrl = Field(description="of the database; see langgraph_checkpoint_dual.opening")
    password: SecretStr | None = Field(None, description="Postgres: where it is not in the URL")
    pg_schema: str | None = Field(None, description="Postgres: the schema of the tables")
    prefix: str = Field("dual_", description="what the names of the tables begin with")
    history: Literal["all", "latest"] = Field("all", description='"latest" keeps only what is needed to go on')
    retention: Retention | None = Field(None, description='what stays as checkpoints are put, as {"keep_last": 20}')
    fence: bool = Field(False, description="of two runs on one thread let one win each step")
    late: Literal["drop", "raise"] = Field("drop", description="what becomes of puts to threads that were deleted")
    adopt: bool = Field(True, description="read the threads that the official saver has left")
    search: bool = Field(False, description="index the words of messages, so that they can be searched")
    redact: tuple[str, ...] | None = Field(None, description="keys and patterns that are left out of metadata")
    plaintext: Literal["refuse", "read"] = Field("refuse", description="what is not encrypted, where serde= encrypts")
    integrity_key: SecretStr | None = Field(None, description="in base64, for MACs of rows; several: newest first")
    timeout: float = Field(30.0, ge=0, description="seconds to wait for a lock, or for a connection of the pool")
    synchronous: Literal["EXTRA", "FULL", "NORMAL", "OFF"] = Field("FULL", description="SQLite's setting of this name")
    min_size: int = Field(1, ge=0, description="Postgres: connections of the pool at least")
    max_size: int = Field(10, ge=1, description="Postgres: connections of the pool at most")
    retry_for: float = Field(30.0, ge=0, description="Postgres: seconds to repeat what a lost connection interrupted")
    response_timeout: float | None = Field(60.0, gt=0, description="Postgres: seconds to wait for an answer; or none")
    cache_bytes: int = Field(DEFAULT_BYTES, ge=0, description="memory for what is known of stored checkpoints")
    cache_entries: int = Field(DEFAULT_ENTRIES, ge=0, description="of how many threads to know something")

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as exc:  # which holds what was given, with passwords
            raise ConfigError(_told(exc)) from None

    @field_validator("url")
    @classmethod
    def _means_a_database(cls, url: DatabaseUrl) -> DatabaseUrl:
        target(url.get_secret_value())
        return url

    @field_validator("redact")
    @classmethod
    def _can_be_left_out(cls, redact: tuple[str, ...] | None) -> tuple[str, ...] | None:
        redaction_of(redact)
        return redact

    @field_validator("integrity_key")
    @classmethod
    def _can_make_macs(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            keys_of(_keys_in(key))
        return key

    @model_validator(mode="after")
    def _fits_the_database(self) -> Self:
        kind = target(self.url.get_secret_value()).kind
        others = {name for other, names in _ONLY.items() if other != kind for name in names}
        if wrong := sorted(others & self.model_fields_set):
            raise ValueError(f"{', '.join(wrong)}: not for {kind}")
        return self

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, table: str | None = None) -> Self:
        """Settings from a TOML or JSON file; environment variables fill in what it leaves out.

        Args:
            table: the name of the table (the object) of the file that holds them; the whole file unless given.

        Raises:
            ConfigError: if the file is of another kind or cannot be understood, or has no such table.
            OSError: if it cannot be read.
        """
        place = Path(path)
        found = _read(place)
        for name in table.split(".") if table else ():
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise ConfigError(f"{place} has no table {table!r}")
        return cls(**found)

    def create(self, **options: Any) -> SqliteSaver | PostgresSaver:
        """The saver, blocking: use it as a context manager, or `close` it. `options` add to the settings: `serde=`."""
        return open_saver(self.url.get_secret_value(), **{**self._options(), **options})

    def acreate(self, **options: Any) -> Opening:
        """The saver for event loops: `async with config.acreate() as saver`, or `saver = await config.acreate()`."""
        return aopen_saver(self.url.get_secret_value(), **{**self._options(), **options})

    def _options(self) -> dict[str, Any]:
        """What was set, as arguments of the saver."""
        found = {name: getattr(self, name) for name in self.model_fields_set - _NOT_PASSED}
        if self.password is not None:
            found["password"] = self.password.get_secret_value()
        if self.integrity_key is not None:
            found["integrity_key"] = _keys_in(self.integrity_key)
        if self.pg_schema is not None:
            found["schema"] = self.pg_schema
        if self.model_fields_set & {"cache_bytes", "cache_entries"}:
            found["cache"] = Cache(self.cache_bytes, self.cache_entries)
        return found


def _keys_in(key: SecretStr) -> list[bytes]:
    return integrity_keys(key.get_secret_value(), "integrity_key")


def _told(error: ValidationError) -> str:
    """What is wrong with each setting, without any value, and where settings come from."""
    wrong = [
        f"{'.'.join(map(str, one['loc'])) or 'the settings'}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return (
        f"{'; '.join(wrong)} (a setting is an argument, or an environment variable: "
        f"url is {CheckpointerConfig.model_config['env_prefix']}URL)"
    )


def _read(place: Path) -> Any:
    """What a file holds."""
    readers: dict[str, Callable[[str], Any]] = {".toml": _toml, ".json": json.loads}
    reader = readers.get(place.suffix.lower())
    if reader is None:
        raise ConfigError(f"{place} is neither a .toml nor a .json file")
    try:
        return reader(place.read_text(encoding="utf-8"))
    except ValueError as exc:
        told = str(exc)
    raise ConfigError(f"{place} cannot be understood: {told}")  # the first error may hold the text, with passwords


def _toml(text: str) -> Any:
    return import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)
