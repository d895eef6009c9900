"""What this process knows of the latest checkpoints that it met: bounded, shared by both faces, safe in threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict

from langgraph_checkpoint_dual.core.looks import Known

DEFAULT_BYTES = 64 * 1024 * 1024
DEFAULT_ENTRIES = 2_000
_MAX_DROPPED = 10_000


_CACHES: weakref.WeakSet[Cache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_CACHES):
        cache.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Cache:
    """The least recently used knowledge goes first once there is too much of it. Losing any of it costs only time.

    Args:
        max_bytes: about how much memory the knowledge may take, in bytes; 0 keeps none.
        max_entries: of how many (thread, namespace) pairs to keep the latest checkpoint.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES, max_entries: int = DEFAULT_ENTRIES) -> None:
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._dropped: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._bytes = 0
        _CACHES.add(self)

    def renew_lock(self) -> None:
        """After a fork: a thread that is not in this process may have held the lock."""
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """About the memory in use, in bytes."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._known)

    def get(self, thread_id: str, checkpoint_ns: str) -> Known | None:
        """What is known of a thread's namespace."""
        with self._lock:
            known = self._known.get((thread_id, checkpoint_ns))
            if known is not None:
                self._known.move_to_end((thread_id, checkpoint_ns))
            return known

    def keep(self, thread_id: str, checkpoint_ns: str, known: Known) -> None:
        """Remember this in place of what was known of the namespace; nothing if it is larger than all there may be."""
        with self._lock:
            self._drop((thread_id, checkpoint_ns))
            if known.weight > self.max_bytes:
                return
            self._known[thread_id, checkpoint_ns] = known
            self._bytes += known.weight
            while self._bytes > self.max_bytes or len(self._known) > self.max_entries:
                self._drop(next(iter(self._known)))

    def forget(self, thread_id: str) -> None:
        """Forget a whole thread."""
        with self._lock:
            for key in [key for key in self._known if key[0] == thread_id]:
                self._drop(key)

    def drop(self, thread_id: str, checkpoint_id: str) -> None:
        """Remember that a checkpoint is left out, or was deleted: what hangs on it is left out too."""
        with self._lock:
            self._dropped[thread_id, checkpoint_id] = None
            while len(self._dropped) > _MAX_DROPPED:
                self._dropped.popitem(last=False)

    def is_dropped(self, thread_id: str, checkpoint_id: str) -> bool:
        """Whether this checkpoint was dropped."""
        return (thread_id, checkpoint_id) in self._dropped

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._bytes = 0

    def _drop(self, key: tuple[str, str]) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._bytes -= known.weight
