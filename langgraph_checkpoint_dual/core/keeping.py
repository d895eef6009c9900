"""A retention policy that is attached to a saver: what is put to a thread counts, and now and then a put applies it.

The contract:

1. What was put stays put: what goes wrong here is logged, and tried again with a later put.
2. The price is bounded. A thread is looked at once this process has put 16 checkpoints to it, or, if these are more,
   half as many as the policy keeps or as stayed the last time: so each put pays for the look at about three
   checkpoints. Where more have piled up than a put should wait for, they are left to `retain`.
3. For a thread that is new to the process, counting begins at a random number: most processes may be too short to
   count to 16, and so the same part of all puts applies the policy, however many processes make them.
4. Counts have no lock. One that two threads count at once comes a little late.
"""

from __future__ import annotations

import logging
import random

from langgraph_checkpoint_dual.core.retention import Removed, Retention, Sweep
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError

_OFTEN = 16
_MOST = 10_000
"""How many checkpoints of a thread a put may look at."""
_THREADS = 10_000
"""For how many threads puts are counted; then counting begins again."""
_log = logging.getLogger("langgraph_checkpoint_dual")


class Keeper:
    """Applies a policy to the threads that checkpoints are put to.

    Raises:
        ConfigError: if the policy is none, or is about threads that nobody puts to.
    """

    def __init__(self, policy: Retention) -> None:
        if not isinstance(policy, Retention):
            raise ConfigError(f"retention must be a Retention, not a {type(policy).__name__}")
        if policy.max_idle is not None:
            raise ConfigError(
                "a saver's retention cannot have max_idle, because nobody puts to idle threads: "
                "call retain(Retention(max_idle=...)) now and then, as from a cron job"
            )
        self._policy = policy
        self._first = max(_OFTEN, (policy.keep_last or 0) // 2)
        self._left: dict[str, int] = {}

    async def __call__(self, store: Store, db: Database, key: str, /) -> None:
        """Count a put to a thread, and apply the policy to it if it is time for that."""
        left = self._left.get(key) or random.randint(1, self._first)
        if left > 1:
            self._note(key, left - 1)
            return
        self._note(key, self._first)
        try:
            stayed = await self._apply(store, db, key)
        except Exception as exc:
            _log.warning("a saver's retention was not applied after a put, which is stored: %s", type(exc).__name__)
            _log.debug("the retention was not applied: %s", exc)
        else:
            self._note(key, max(self._first, stayed // 2))

    def _note(self, key: str, left: int) -> None:
        if len(self._left) >= _THREADS and key not in self._left:
            self._left = {}
        self._left[key] = left

    async def _apply(self, store: Store, db: Database, key: str) -> int:
        """Let go what the policy does not keep. Returns how many checkpoints the thread has then."""

        async def counted(tx: Tx) -> list[Row]:
            return await tx.fetch("checkpoints_up_to", thread_id=key, limit=_MOST + 1)

        [(number,)] = await db.read(counted)
        if number > _MOST:
            _log.warning("a thread has more than %d checkpoints, too many to let go beside a put: call retain()", _MOST)
            return int(number)
        removed: Removed = await Sweep.of(store, db, self._policy).one(key, dry_run=False)
        return int(number) - removed.checkpoints


def keeper_of(retention: Retention | None, history: str) -> Keeper | None:
    """What applies a saver's policy, if it has one.

    Raises:
        ConfigError: see `Keeper`; or if the saver keeps only the latest state anyway.
    """
    if retention is None:
        return None
    if history == "latest":
        raise ConfigError('history="latest" keeps less than any retention: give one of the two')
    return Keeper(retention)
