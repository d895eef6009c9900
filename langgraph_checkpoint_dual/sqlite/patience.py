"""How long a task's writes wait for the checkpoint that follows them, so that both share a commit.

LangGraph saves the writes of a super-step and, some tenths of a millisecond later, its checkpoint, each on a thread or
task of its own. Where that is seen, writes wait for the checkpoint, which then takes them along; nobody waits for them.
Where callers save one after the other it is never seen, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langgraph_checkpoint_dual.core.rows import Put, PutWrites

_SECONDS = 0.001
"""How long to wait at most."""
_SURE, _SUREST = 2, 4


class _Writes:
    """Writes that are under way."""

    __slots__ = ("followed",)

    def __init__(self) -> None:
        self.followed = False


class Patience:
    """What was seen so far. Threads may use it at once: what they overwrite of each other is an estimate."""

    def __init__(self) -> None:
        self._under_way: dict[str, _Writes] = {}
        self._score = 0

    @contextmanager
    def noting(self, addition: Put | PutWrites) -> Iterator[float]:
        """Note what becomes of an addition; yields how many seconds it should wait for company."""
        if isinstance(addition, Put):
            if (writes := self._under_way.get(addition.thread_id)) is not None:
                writes.followed = True
            yield 0.0
            return
        writes = self._under_way[addition.thread_id] = _Writes()
        try:
            yield _SECONDS if self._score >= _SURE else 0.0
        finally:
            if self._under_way.get(addition.thread_id) is writes:
                self._under_way.pop(addition.thread_id, None)
            self._score = min(self._score + 1, _SUREST) if writes.followed else max(self._score - 1, 0)
