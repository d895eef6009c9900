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


class PlaintextError(DecodeError):
    """A stored value that is not encrypted, though the serializer of the saver encrypts.

    Whoever can write to the database could have put it there without the key. A saver with `plaintext="read"` reads it.
    """


class ThreadNotFoundError(CheckpointerError, KeyError):
    """There is no such thread in the registry."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(f"there is no thread {thread_id!r}; register() makes one")

    __str__ = Exception.__str__  # KeyError's would be the repr of the text


class StaleHeadError(CheckpointerError, RuntimeError):
    """A put whose parent is not the latest checkpoint of its thread and namespace any more: somebody else was first.

    Raised by savers with `fence=True`; nothing was written. Load the latest checkpoint and go on from there.

    Attributes:
        parent_id: the checkpoint that the run went on from, or `""` if it began anew.
        head_id: the latest checkpoint that is stored.
    """

    def __init__(self, where: dict[str, Any], parent_id: str, head_id: str) -> None:
        self.where, self.parent_id, self.head_id = where, parent_id, head_id
        place = ", ".join(f"{key} {value!r}" for key, value in where.items())
        went_on = f"went on from {parent_id!r}" if parent_id else "began anew"
        super().__init__(f"{place}: this run {went_on}, but the latest checkpoint is {head_id!r}; load that and go on")


class DeletedError(CheckpointerError, RuntimeError):
    """What a run puts whose thread was deleted since the run began. Raised by savers with `late="raise"`.

    Attributes:
        thread_id: the thread.
        checkpoint_id: the checkpoint that was not stored, or whose writes were not.
    """

    def __init__(self, thread_id: str, after: str, checkpoint_id: str) -> None:
        self.thread_id, self.checkpoint_id = thread_id, checkpoint_id
        super().__init__(
            f"thread_id {thread_id!r} was deleted while a run went on that began before: checkpoint {checkpoint_id!r}, "
            f"which hangs on {after!r}, stays out"
        )


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
