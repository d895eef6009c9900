"""Retention: which threads and checkpoints a policy lets go, and letting them go, thread by thread.

Threads are read in pages by id, so memory stays constant. Each thread is looked at first, without a lock; if anything
of it is to go, it is looked at again and changed in a transaction of its own: what was used or exempted meanwhile
stays. A thread that is damaged stays as it is, and hinders no other one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core import times
from langgraph_checkpoint_dual.core.address import Address, many, thread_key
from langgraph_checkpoint_dual.core.metadata import filter_args
from langgraph_checkpoint_dual.core.queries import Conditions, fetch_where
from langgraph_checkpoint_dual.core.registry import conditions
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.text import check_texts, shown, unescape
from langgraph_checkpoint_dual.core.threads import remove_thread
from langgraph_checkpoint_dual.core.tree import Nodes, Removal, removals, remove, staying, tree_of
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

_PAGE = 256


@dataclass(frozen=True)
class Retention:
    """Which threads and checkpoints to keep. A checkpoint stays if every rule that is given lets it stay.

    Whatever the rules say, a checkpoint that stays keeps what it needs: the ancestors that its delta channels are
    rebuilt from, and the subgraphs that wait in it. The latest checkpoint of each namespace stays unless its thread
    goes.

    Args:
        keep_last: how many checkpoints of each thread and namespace to keep; 1 keeps just the latest.
        max_age: keep only checkpoints that are younger. The age of those with ids of one's own is not known: they stay.
        max_idle: delete threads, with everything of them, that had no new checkpoint for this long.
        exempt: threads whose metadata contains this (as jsonb's `@>`) are left alone: those that are pinned, unless
            told otherwise; `None` exempts none.

    Raises:
        ConfigError: if there is no rule, or one cannot be used.
    """

    keep_last: int | None = None
    max_age: timedelta | None = None
    max_idle: timedelta | None = None
    exempt: Mapping[str, Any] | None = field(default_factory=lambda: {"pinned": True})

    def __post_init__(self) -> None:
        last = self.keep_last
        if last is not None and (not isinstance(last, int) or isinstance(last, bool) or last < 1):
            raise ConfigError(f"keep_last must be an int from 1 on, not {last!r}")
        for name in ("max_age", "max_idle"):
            span = getattr(self, name)
            if span is not None and (not isinstance(span, timedelta) or span < timedelta()):
                raise ConfigError(f"{name} must be a timedelta that is not negative, not {span!r}")
        if last is None and self.max_age is None and self.max_idle is None:
            raise ConfigError("a Retention needs a rule: keep_last, max_age or max_idle")
        filter_args(self.exempt)


class Removed(NamedTuple):
    """What went, or with `dry_run` would go."""

    threads: int = 0
    """Threads that went as a whole."""
    checkpoints: int = 0
    """Checkpoints in all, with those of these threads."""
    bytes: int = 0
    """About what was stored in all that went; the files get smaller by `vacuum`."""


class Progress(NamedTuple):
    """How far an application of a policy has come."""

    done: int
    """Threads that were dealt with."""
    total: int
    """Threads that there were at the start."""
    thread_id: str
    """The thread that was dealt with last."""
    removed: Removed
    """What went so far."""


Watch = Callable[[Progress], object]


class _Bounds(NamedTuple):
    """A policy at one moment: times in microseconds since 1970."""

    keep_last: int | None
    oldest: int | None
    idle: int | None

    def chosen(self, nodes: Nodes) -> set[str]:
        """The checkpoints of a namespace that the rules let stay."""
        ids = sorted(nodes, reverse=True)
        kept = ids[: self.keep_last]
        oldest = self.oldest
        if oldest is not None:
            kept = [one for one in kept if not 0 < times.micros_of_id(unescape(one)) < oldest]
        return {ids[0], *kept}

    def is_idle(self, updated_at: int) -> bool:
        """Whether a thread is to go."""
        return self.idle is not None and updated_at < self.idle


class _Going(NamedTuple):
    """What goes of a thread: all of it if `parts` is `None`."""

    removed: Removed
    parts: list[Removal] | None


async def retain(
    store: Store,
    db: Database,
    policy: Retention,
    where: Mapping[str, Any],
    *,
    thread_ids: Sequence[str] | None = None,
    dry_run: bool = False,
    on_progress: Watch | None = None,
    now: datetime | None = None,
) -> Removed:
    """Apply a policy to the threads that `conditions` describe, or to some of these.

    Raises:
        ConfigError: if an argument cannot be used.
        DecodeError: for the first thread that is damaged, once all others have been dealt with.
    """
    if not isinstance(policy, Retention):
        raise ConfigError(f"the policy must be a Retention, not a {type(policy).__name__}")
    chosen = _conditions(policy, where, thread_ids)
    sweep = Sweep(store, db, _bounds(policy, times.now() if now is None else times.micros(now)), chosen)
    total = await db.read(sweep.count) if on_progress is not None else 0
    removed, done = Removed(), 0
    damaged: list[DecodeError] = []
    while rows := await db.read(sweep.page):
        for key, _ in rows:
            try:
                check_texts(key)
                removed = _plus(removed, await sweep.one(key, dry_run=dry_run))
            except DecodeError as exc:
                damaged.append(exc.at(**Address(key).where))
            done += 1
            if on_progress is not None:
                on_progress(Progress(done, max(total, done), str(shown(key)), removed))
        sweep.beyond(rows[-1][0])
    if damaged:
        raise damaged[0]
    return removed


class Sweep:
    """A way through the threads that some conditions describe."""

    def __init__(self, store: Store, db: Database, bounds: _Bounds, where: Conditions) -> None:
        self._store, self._db, self._bounds, self._where = store, db, bounds, where
        self._from: Conditions = {}

    @classmethod
    def of(cls, store: Store, db: Database, policy: Retention) -> Sweep:
        """Through all threads, as of now."""
        return cls(store, db, _bounds(policy, times.now()), _conditions(policy, {}, None))

    def beyond(self, key: str) -> None:
        """Go on after this thread."""
        self._from = {"beyond": {"beyond": key}}

    async def count(self, tx: Tx) -> int:
        """How many threads there are."""
        [(number,)] = await fetch_where(tx, "threads counted", self._where)
        return int(number)

    async def page(self, tx: Tx) -> list[Row]:
        """The next threads: their keys, and when they were updated."""
        return await fetch_where(tx, "threads paged", {**self._where, **self._from}, limit=_PAGE)

    async def one(self, key: str, *, dry_run: bool) -> Removed:
        """Let go what is to go of a thread."""
        going = await self._db.read(partial(self._going, key))
        if going is None or dry_run:
            return going.removed if going is not None else Removed()
        removed = await self._db.change(partial(self._let_go, key))
        if removed.threads:  # of checkpoints, what is known is only used where they are still there
            self._store.memory.forget(key)
        return removed

    async def _let_go(self, key: str, tx: Tx) -> Removed:
        await tx.execute("lock_thread", thread_id=key)
        going = await self._going(key, tx)
        if going is None:
            return Removed()
        if going.parts is None:
            await remove_thread(key, tx)
        else:
            await remove(key, going.parts, tx)
        return going.removed

    async def _going(self, key: str, tx: Tx) -> _Going | None:
        """What is to go of a thread, if it is still there and meant."""
        rows = await fetch_where(tx, "threads paged", {**self._where, "thread_id": {"thread_id": key}}, limit=1)
        if not rows:
            return None
        if not isinstance(rows[0][1], int):
            what = f"the thread's row in the registry is damaged: its time is of type {type(rows[0][1]).__name__}"
            raise DecodeError(what, **Address(key).where)
        if self._bounds.is_idle(rows[0][1]):
            [(checkpoints, size)] = await tx.fetch("extent_of_thread", thread_id=key)
            return _Going(Removed(1, checkpoints, int(size)), None)
        if self._bounds.keep_last is None and self._bounds.oldest is None:
            return None
        tree = await tree_of(key, tx)
        stay = await staying(self._store.serde, key, tree, self._bounds.chosen, tx)
        parts = await removals(key, tree, stay, tx)
        if not parts:
            return None
        size = sum([await _size(key, part, tx) for part in parts])
        return _Going(Removed(0, sum(len(part.checkpoints) for part in parts), size), parts)


def _bounds(policy: Retention, now: int) -> _Bounds:
    def before(span: timedelta | None) -> int | None:
        return None if span is None else now - span // timedelta(microseconds=1)

    return _Bounds(policy.keep_last, before(policy.max_age), before(policy.max_idle))


def _conditions(policy: Retention, where: Mapping[str, Any], thread_ids: Iterable[str] | None) -> Conditions:
    found = conditions(**where)
    if thread_ids is not None:
        found["among"] = {"among": json.dumps([thread_key(one) for one in many("thread_ids", thread_ids)])}
    if (exempt := filter_args(policy.exempt)) is not None:
        found["not_exempt"] = {f"exempt_{name}": value for name, value in exempt.items()}
    return found


async def _size(key: str, part: Removal, tx: Tx) -> int:
    where = {"thread_id": key, "checkpoint_ns": part.ns}
    [(checkpoints,)] = await tx.fetch("size_of_checkpoints", **where, checkpoint_ids=json.dumps(part.checkpoints))
    if not part.items:
        return int(checkpoints)
    [(items,)] = await tx.fetch("size_of_items", **where, items=json.dumps(part.items))
    return int(checkpoints) + int(items)


def _plus(one: Removed, other: Removed) -> Removed:
    return Removed(one.threads + other.threads, one.checkpoints + other.checkpoints, one.bytes + other.bytes)
