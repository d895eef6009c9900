"""What an operation tells of itself: how long it took, how many bytes it moved, what it waited for and met.

The contract:

1. `Observer.observed` is put around each operation, by the faces of the savers and nobody else.
2. Whatever runs below finds the operations that it runs for by a context variable, and notes what it knows: `read`,
   `stored`, `waited`, `retried`, `dropped`. Where no operation is observed these do nothing.
3. Work that several operations share says for whom it is done: `callers` when it is handed over, `on_behalf_of` where
   it is carried out.
4. Logged are names, numbers and kinds of errors. Thread ids and the texts of errors are for the level DEBUG only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine, Iterable
from contextvars import ContextVar
from itertools import chain
from typing import Any, TypeAlias, TypeVar

from langgraph_checkpoint_dual.errors import CheckpointerError, DeletedError, EncodeError

T = TypeVar("T")
_log = logging.getLogger("langgraph_checkpoint_dual.operations")
_NAMES = {"page": "list", "delta_history": "get_delta_channel_history"}
_LONG = {"retain", "vacuum"}
"""What may take its time."""
_READS = {
    "get_tuple", "list", "get_delta_channel_history", "search_messages",
    "messages_page", "messages_last", "messages_window", "messages_count", "messages_stats",
    "threads_get", "threads_list", "threads_count", "threads_current",
}  # fmt: skip


class Operation:
    """One call of a method of a saver, as far as it has gone.

    Attributes:
        name: the method's name without the `a` of the asynchronous face; each page of a listing is a `list`.
        system: the database, `"sqlite"` or `"postgresql"`.
        seconds: how long it took, once it has ended.
        bytes: what was stored, or about what the checkpoints that were read amount to.
        retries: how often its work began again because a session failed.
        wait: how many seconds it waited for a connection of the pool; `None` if it needed none of a pool.
        dropped: whether it stored nothing, because it came too late.
        error: what it raised.
    """

    seconds = 0.0
    bytes = 0
    retries = 0
    wait: float | None = None
    dropped = False
    error: BaseException | None = None

    def __init__(self, name: str, system: str) -> None:
        self.name, self.system = name, system


Callers: TypeAlias = tuple[Operation, ...]
_callers: ContextVar[Callers] = ContextVar("langgraph_checkpoint_dual_callers", default=())


class Observer:
    """Logs what is out of the ordinary, to loggers below `langgraph_checkpoint_dual`. Savers may share one.

    Args:
        slow_seconds: an operation that takes longer is logged as slow; `None` logs none.
        large_bytes: a checkpoint or a task's writes that are larger are logged when they are stored or read; `None`
            logs none.
    """

    def __init__(self, *, slow_seconds: float | None = 1.0, large_bytes: int | None = 10_000_000) -> None:
        self._slow = float("inf") if slow_seconds is None else slow_seconds
        self._large = float("inf") if large_bytes is None else large_bytes

    async def observed(self, system: str, subject: Any, work: Coroutine[Any, Any, T]) -> T:
        """Do the work of an operation, and tell of it. `subject` is its config or thread id."""
        name: str = work.__name__  # type: ignore[attr-defined]  # of every coroutine of an `async def`
        operation = Operation(_NAMES.get(name, name), system)
        before = _callers.get()
        _callers.set((operation,))
        noted = self.begin(operation)
        begun = time.perf_counter()
        try:
            return await work
        except BaseException as exc:
            operation.error = exc
            raise
        finally:
            _callers.set(before)  # not `reset`: an abandoned coroutine ends in another context
            operation.seconds = time.perf_counter() - begun
            self.end(operation, noted)
            if operation.seconds > self._slow or operation.bytes > self._large or operation.error is not None:
                self._warn(operation)
            if _log.isEnabledFor(logging.DEBUG):
                _describe(operation, subject)

    def begin(self, operation: Operation) -> Any:
        """Called before an operation; what it returns is given to `end`."""

    def end(self, operation: Operation, noted: Any) -> None:
        """Called when an operation has ended, well or not."""

    def _warn(self, operation: Operation) -> None:
        if operation.seconds > self._slow and operation.name not in _LONG:
            _log.warning("slow: %s took %.2f s", operation.name, operation.seconds)
        if operation.bytes > self._large:
            _log.warning("large: %s of %d bytes", operation.name, operation.bytes)
        if isinstance(operation.error, CheckpointerError) and operation.name not in _READS:
            _log.warning("refused: %s, with %s", operation.name, _kind(operation.error))


def callers() -> Callers:
    """The operations that this code runs for."""
    return _callers.get()


class on_behalf_of:
    """Runs the block for the operations of several callers."""

    __slots__ = ("_before", "_callers")

    def __init__(self, all_callers: Iterable[Callers]) -> None:
        self._callers: Callers = tuple(chain.from_iterable(all_callers))
        self._before: Callers = ()

    def __enter__(self) -> None:
        self._before = _callers.get()
        _callers.set(self._callers)

    def __exit__(self, *error: object) -> None:
        _callers.set(self._before)


def names() -> str:
    """What this code runs for, for people: `put, put_writes`."""
    return ", ".join(dict.fromkeys(operation.name for operation in _callers.get())) or "an operation"


def read(count: int) -> None:
    """Note that checkpoints of about so many bytes were read."""
    for operation in _callers.get():
        operation.bytes += count


def stored(count: int) -> None:
    """Note that so many bytes were stored; what was read to that end no longer counts."""
    for operation in _callers.get():
        operation.bytes = count


def waited(seconds: float) -> None:
    """Note a wait for a connection of the pool."""
    for operation in _callers.get():
        operation.wait = (operation.wait or 0.0) + seconds


def retried() -> None:
    """Note that the work begins again."""
    for operation in _callers.get():
        operation.retries += 1


def dropped(why: DeletedError) -> None:
    """Note, and log, that a write is not stored because it came too late."""
    _log.warning("not stored: a late %s, whose thread was deleted since its run began", names())
    _log.debug("not stored: %s", why)
    for operation in _callers.get():
        operation.dropped = True


def _describe(operation: Operation, subject: Any) -> None:
    _log.debug(
        "%s of thread %s: %.1f ms, %d bytes, %d retries%s",
        operation.name,
        _thread_of(subject),
        operation.seconds * 1000,
        operation.bytes,
        operation.retries,
        "" if operation.error is None else f", {operation.error!r}",
    )


def _kind(error: CheckpointerError) -> str:
    kind = type(error).__name__
    return f"{kind} in channel {error.channel!r}" if isinstance(error, EncodeError) else kind


def _thread_of(subject: Any) -> Any:
    if isinstance(subject, dict):
        subject = (subject.get("configurable") or {}).get("thread_id")
    return repr(subject)
