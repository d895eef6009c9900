"""What can go wrong, with texts that say the way out.

Every error that this package raises on purpose is a `CheckpointerError`. Each also derives from the
built-in that a caller of the official savers may already catch (`ValueError`, `TypeError`, ...).
"""

from __future__ import annotations

from typing import Any


class CheckpointerError(Exception):
    """Base of all errors raised by langgraph-checkpoint-dual."""


class ConfigError(CheckpointerError, ValueError):
    """A config, argument or identifier that cannot be used; nothing was written."""


class EncodeError(CheckpointerError, TypeError):
    """A value that cannot be stored; nothing was written.

    Attributes:
        reason: what is wrong with the value.
        path: where in the value, as Python indexing, e.g. `[3].additional_kwargs['f']`; `""` is the value itself.
        channel: the channel that holds the value, once known.
    """

    def __init__(self, reason: str, *, path: str = "", channel: str | None = None) -> None:
        self.reason, self.path, self.channel = reason, path, channel
        place = f"channel {channel!r}{' at ' + path if path else ''}: " if channel is not None else path and f"{path}: "
        super().__init__(f"{place}{reason}")

    def in_channel(self, channel: str) -> EncodeError:
        """The same error, naming the channel that it was met in."""
        return type(self)(self.reason, path=self.path, channel=channel)


class DecodeError(CheckpointerError, ValueError):
    """A stored value that is damaged, missing, or of a type that may not be revived.

    Attributes:
        reason: what is wrong with the stored value.
        where: the row, as far as known: `thread_id`, `checkpoint_ns`, `checkpoint_id`, `channel`.
    """

    def __init__(self, reason: str, **where: Any) -> None:
        self.reason, self.where = reason, where
        place = ", ".join(f"{key} {value!r}" for key, value in where.items())
        super().__init__(f"{place}: {reason}" if place else reason)

    def at(self, **where: Any) -> DecodeError:
        """The same error, with more said about the row that it was met in."""
        return type(self)(self.reason, **{**where, **self.where})


class SchemaError(CheckpointerError, RuntimeError):
    """The database's schema is missing, unfinished, or newer than this package."""


class BusyError(CheckpointerError, TimeoutError):
    """The database stayed locked by others, or no connection was free, for the whole timeout."""


class ClosedError(CheckpointerError, RuntimeError):
    """The saver was used after it was closed."""


class UnavailableError(CheckpointerError, ConnectionError):
    """The database could not be reached, or the connection was lost, for as long as the saver tries again.

    What was to be written may be stored or not if the last attempt lost its connection; repeating the call is safe.

    Attributes:
        attempts: how many attempts were made.
        seconds: how long they took together.
    """

    def __init__(self, cause: object, *, attempts: int, seconds: float, advice: str = "") -> None:
        self.attempts, self.seconds = attempts, seconds
        tried = f"{attempts} attempt{'s' if attempts > 1 else ''} in {seconds:.1f} s"
        super().__init__(f"the database could not be used ({tried}): {str(cause).strip()}{advice and '; ' + advice}")
