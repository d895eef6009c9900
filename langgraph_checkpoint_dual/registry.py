"""`saver.threads`: the registry of threads, each method blocking and asynchronous, side by side."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any, TypeVar

from langgraph_checkpoint_dual.core import registry, threads
from langgraph_checkpoint_dual.core.registry import Thread, ThreadPage
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.tx import Database, finish
from langgraph_checkpoint_dual.observing import Observer

T = TypeVar("T")

__all__ = ["Thread", "ThreadPage", "Threads"]


class Threads:
    """The threads of a saver: found, counted, named and deleted without a look at their state.

    Every checkpoint of the root namespace touches its thread here, in the transaction that stores it. `user_id`,
    `title` and further metadata come from the config of the run (its `metadata` or `configurable`), or are set
    explicitly with `register` and `update`. Metadata that was set explicitly wins over that of runs, of users and
    titles the latest wins.

    All ids are `str`; `int` ids (and `UUID` thread ids) are taken as their `str`. All times are in UTC. Whatever cannot
    be used raises `ConfigError`.
    """

    def __init__(self, store: Store, blocking: Database, looping: Database, observer: Observer, system: str) -> None:
        self._store, self._blocking, self._looping = store, blocking, looping
        self._observer, self._system = observer, system

    def _seen(self, thread_id: Any, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return self._observer.observed(self._system, thread_id, work)

    def get(self, thread_id: str) -> Thread | None:
        """A thread; `None` if there is none of this id."""
        return finish(self._seen(thread_id, registry.threads_get(self._blocking, thread_id)))

    async def aget(self, thread_id: str) -> Thread | None:
        """As `get`."""
        return await self._seen(thread_id, registry.threads_get(self._looping, thread_id))

    def list(
        self,
        *,
        user_id: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        order: str = "updated",
        limit: int = 20,
        cursor: str | None = None,
    ) -> ThreadPage:
        """A page of threads, latest first.

        Args:
            user_id: only threads of this user.
            status: only "idle", "interrupted" (a task waits for an answer) or "error" (a task failed) ones.
            metadata: what a thread's metadata must contain (as jsonb's `@>`); `None` also matches a missing key.
            updated_after, updated_before: bounds, without themselves, of the time of the latest checkpoint.
            order: latest "updated" first, or latest "created".
            limit: how many threads at most, up to 10,000.
            cursor: that of the page before. A thread that was updated meanwhile is where its new time puts it: on a
                page that was read already. Nothing is listed twice.
        """
        where = _where(user_id, status, metadata, updated_after, updated_before)
        return finish(
            self._seen(None, registry.threads_list(self._blocking, where, order=order, limit=limit, cursor=cursor))
        )

    async def alist(
        self,
        *,
        user_id: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        order: str = "updated",
        limit: int = 20,
        cursor: str | None = None,
    ) -> ThreadPage:
        """As `list`."""
        where = _where(user_id, status, metadata, updated_after, updated_before)
        return await self._seen(
            None, registry.threads_list(self._looping, where, order=order, limit=limit, cursor=cursor)
        )

    def count(
        self,
        *,
        user_id: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
    ) -> int:
        """How many threads `list` would find in all."""
        where = _where(user_id, status, metadata, updated_after, updated_before)
        return finish(self._seen(None, registry.threads_count(self._blocking, where)))

    async def acount(
        self,
        *,
        user_id: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
    ) -> int:
        """As `count`."""
        where = _where(user_id, status, metadata, updated_after, updated_before)
        return await self._seen(None, registry.threads_count(self._looping, where))

    def register(
        self,
        thread_id: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Thread:
        """Make a thread known before its first run, or set what is given of one that is there.

        Metadata is merged key by key; a value `None` removes the key.
        """
        given = {"user_id": user_id, "title": title, "metadata": metadata}
        return finish(self._seen(thread_id, registry.threads_register(self._blocking, thread_id, **given)))

    async def aregister(
        self,
        thread_id: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Thread:
        """As `register`."""
        given = {"user_id": user_id, "title": title, "metadata": metadata}
        return await self._seen(thread_id, registry.threads_register(self._looping, thread_id, **given))

    def update(
        self,
        thread_id: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Thread:
        """As `register`, for a thread that is there.

        Raises:
            ThreadNotFoundError: if it is not.
        """
        given = {"user_id": user_id, "title": title, "metadata": metadata}
        return finish(self._seen(thread_id, registry.threads_update(self._blocking, thread_id, **given)))

    async def aupdate(
        self,
        thread_id: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Thread:
        """As `update`."""
        given = {"user_id": user_id, "title": title, "metadata": metadata}
        return await self._seen(thread_id, registry.threads_update(self._looping, thread_id, **given))

    def delete(self, thread_id: str) -> None:
        """Remove a thread with everything of it, as the saver's `delete_thread` does."""
        finish(self._seen(thread_id, threads.delete_thread(self._store, self._blocking, thread_id)))

    async def adelete(self, thread_id: str) -> None:
        """As `delete`."""
        await self._seen(thread_id, threads.delete_thread(self._store, self._looping, thread_id))

    def current(self, user_id: str, agent: str = "") -> str | None:
        """The id of the thread that a user is in with an agent, as `set_current` noted it; `None` if there is none."""
        return finish(self._seen(None, registry.threads_current(self._blocking, user_id, agent)))

    async def acurrent(self, user_id: str, agent: str = "") -> str | None:
        """As `current`."""
        return await self._seen(None, registry.threads_current(self._looping, user_id, agent))

    def set_current(self, user_id: str, thread_id: str | None, agent: str = "") -> None:
        """Note which thread a user is in with an agent; `None` forgets it, and so does deleting the thread."""
        finish(self._seen(thread_id, registry.threads_set_current(self._blocking, user_id, thread_id, agent)))

    async def aset_current(self, user_id: str, thread_id: str | None, agent: str = "") -> None:
        """As `set_current`."""
        await self._seen(thread_id, registry.threads_set_current(self._looping, user_id, thread_id, agent))


def _where(
    user_id: str | None,
    status: str | None,
    metadata: Mapping[str, Any] | None,
    updated_after: datetime | None,
    updated_before: datetime | None,
) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "status": status,
        "metadata": metadata,
        "updated_after": updated_after,
        "updated_before": updated_before,
    }
