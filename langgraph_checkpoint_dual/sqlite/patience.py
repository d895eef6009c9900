"""How long a task's writes wait for the checkpoint that follows them, so that both share a commit.

LangGraph saves the writes of a super-step and, some tenths of a millisecond later, its checkpoint, each on a thread or
task of its own. Where that is seen, writes wait for the checkpoint, which then takes them along; nobody waits for them.
Where callers save one after the other it is never seen, and nothing waits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

_SECONDS = 0.001
"""How long to wait at most."""
_SURE, _SUREST = 2, 4


class _Writes:
    """Writes that are under way."""

    __slots__ = ("_patience", "_thread_id", "followed")

    def __init__(self, patience: Patience, thread_id: str) -> None:
        self._patience, self._thread_id = patience, thread_id
        self.followed = False

    def __enter__(self) -> float:
        return _SECONDS if self._patience.score >= _SURE else 0.0

    def __exit__(self, *_: object) -> None:
        self._patience.end(self._thread_id, self)


class Patience:
    """What was seen so far. Threads may use it at once: what they overwrite of each other is an estimate."""

    def __init__(self) -> None:
        self._under_way: dict[str, _Writes] = {}
        self.score = 0

    def note_put(self, thread_id: str) -> None:
        """Note that a checkpoint comes."""
        if (writes := self._under_way.get(thread_id)) is not None:
            writes.followed = True

    def noting_writes(self, thread_id: str) -> AbstractContextManager[float]:
        """Note that writes come, and when they end; yields how many seconds they should wait for a checkpoint."""
        writes = self._under_way[thread_id] = _Writes(self, thread_id)
        return writes

    def end(self, thread_id: str, writes: _Writes) -> None:
        """Note that writes are under way no more."""
        if self._under_way.get(thread_id) is writes:
            self._under_way.pop(thread_id, None)
        self.score = min(self.score + 1, _SUREST) if writes.followed else max(self.score - 1, 0)
