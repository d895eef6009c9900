"""The two faces of the savers: every method blocking and asynchronous, side by side, over one `Store`.

A saver has two databases, `_blocking` and `_looping`, for the same data. What is mutable (connections, what is known,
whether the schema is ready) sits in objects that clones share: `with_allowlist` copies the saver.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from typing_extensions import Self

from langgraph_checkpoint_dual.cache import Cache
from langgraph_checkpoint_dual.conversation import Conversation, view_of
from langgraph_checkpoint_dual.core import history, retention, threads
from langgraph_checkpoint_dual.core.conversations import searching
from langgraph_checkpoint_dual.core.conversations.deltas import Reducer
from langgraph_checkpoint_dual.core.conversations.indexing import Indexing
from langgraph_checkpoint_dual.core.conversations.searching import MARKS, SearchPage, index_of
from langgraph_checkpoint_dual.core.integrity import Given, Keys, Sealing, keys_of
from langgraph_checkpoint_dual.core.keeping import Keeper, keeper_of
from langgraph_checkpoint_dual.core.listing import Listing, listing
from langgraph_checkpoint_dual.core.official.adopting import Adopting, Adoption
from langgraph_checkpoint_dual.core.redacting import Redact, redaction_of
from langgraph_checkpoint_dual.core.retention import Progress, Removed, Retention
from langgraph_checkpoint_dual.core.space import Storage, Vacuumed
from langgraph_checkpoint_dual.core.store import LATE, Rules, Store
from langgraph_checkpoint_dual.core.trimming import HISTORIES
from langgraph_checkpoint_dual.core.tx import Database, finish
from langgraph_checkpoint_dual.core.versions import next_version
from langgraph_checkpoint_dual.encryption import PLAINTEXT, KeyringSerializer, reading_plaintext
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError
from langgraph_checkpoint_dual.observing import Observer
from langgraph_checkpoint_dual.registry import Threads
from langgraph_checkpoint_dual.serde import Serializer

T = TypeVar("T")


class Saver(BaseCheckpointSaver[str]):
    """What all savers of this package do; the databases make the difference.

    Every method works blocking and asynchronous, from any thread, inside and outside of an event loop. All of them
    raise `ConfigError` for input that cannot be used, before anything is read or written, and `ClosedError` after
    `close`.
    """

    _system: ClassVar[str]
    _blocking: Storage
    _looping: Storage
    _adoption: Adoption
    _cache: Cache
    _rules: Rules
    _keeper: Keeper | None
    _reads_plaintext: bool
    _keys: Keys | None

    def __init__(
        self,
        *,
        serde: SerializerProtocol | None = None,
        cache: Cache | None = None,
        fence: bool = False,
        late: str = "drop",
        history: str = "all",
        retention: Retention | None = None,
        adopt: bool = True,
        search: bool | str = False,
        redact: Redact | None = None,
        observer: Observer | None = None,
        plaintext: str = "refuse",
        integrity_key: Given = None,
    ) -> None:
        super().__init__(serde=serde or Serializer())
        if plaintext not in PLAINTEXT:
            raise ConfigError(f"plaintext must be one of {', '.join(PLAINTEXT)}, not {plaintext!r}")
        self._reads_plaintext = plaintext == "read"
        self._keys = keys_of(integrity_key)
        self._cache = Cache() if cache is None else cache
        if late not in LATE:
            raise ConfigError(f"late must be one of {', '.join(LATE)}, not {late!r}")
        if history not in HISTORIES:
            raise ConfigError(f"history must be one of {', '.join(HISTORIES)}, not {history!r}")
        self._rules = Rules(late, fence, history, redaction_of(redact))
        self._keeper = keeper_of(retention, history)
        self._adoption = Adoption(adopt and self._keys is None)  # official rows have no MAC
        self._index = index_of(search, self.serde)
        self._observer = observer or Observer()

    @property
    def _whole_blocking(self) -> Database:
        return self._adopting(self._blocking)

    @property
    def _whole_looping(self) -> Database:
        return self._adopting(self._looping)

    def _indexed(self, db: Database) -> Database:
        """The database, where what is put in is also indexed for search."""
        db = self._sealing(db)
        if self._index is None:
            return db
        searching.check_open(self.serde)  # which may have been replaced
        return Indexing(db, self._index, self.serde)

    def _sealing(self, db: Database) -> Database:
        """The database, where rows have MACs if the saver has a key."""
        return db if self._keys is None else Sealing(db, self._keys)

    def _adopting(self, db: Database) -> Database:
        """The same with the threads that the official saver has left in it."""
        db = self._indexed(db)
        if self._adoption.there is False:
            return db
        return Adopting(db, self._adoption, self._store)

    @property
    def _store(self) -> Store:
        serde = reading_plaintext(self.serde) if self._reads_plaintext else self.serde
        return Store(serde, self._cache, self._rules, self._keeper)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[str]:
        """See `BaseCheckpointSaver.with_allowlist`, which knows no keyrings."""
        if not isinstance(self.serde, KeyringSerializer):
            return super().with_allowlist(extra_allowlist)
        serde = self.serde.with_msgpack_allowlist(extra_allowlist)
        if serde is self.serde:
            return self
        clone = copy.copy(self)
        clone.serde = serde
        return clone

    @property
    def threads(self) -> Threads:
        """The registry of threads: list, count, name and delete them without a look at their state."""
        return Threads(self._store, self._whole_blocking, self._whole_looping, self._observer, self._system)

    def messages(
        self,
        thread_id: Any,
        *,
        channel: str = "messages",
        checkpoint_id: str | None = None,
        reducer: Reducer | None = None,
    ) -> Conversation:
        """The messages of a thread: pages of them, the last ones, figures, and new ones, without a graph.

        Args:
            thread_id: the thread, or a config, which may also name a namespace and a checkpoint; what the config says
                besides becomes metadata of what is appended.
            channel: the channel that holds the list of messages.
            checkpoint_id: the checkpoint to look at; the latest unless given.
            reducer: what the channel's `DeltaChannel` has, if it is one and has not LangGraph's reducer of messages.

        Raises:
            ConfigError: if an id cannot be used.
        """
        config, view = view_of(thread_id, channel, checkpoint_id, reducer)
        return Conversation(
            self._store,
            self._whole_blocking,
            self._whole_looping,
            config,
            view,
            self.get_next_version,
            self._index,
            self._observer,
            self._system,
        )

    def search(
        self,
        query: str,
        *,
        user_id: Any = None,
        thread_id: Any = None,
        limit: int = 20,
        cursor: str | None = None,
        marks: tuple[str, str] = MARKS,
    ) -> SearchPage:
        """The messages with some words, in all threads or those of a user, the best first. Needs `search=True`.

        Args:
            query: words that must all occur, without regard to case and accents; `"several words"` must follow one
                another, `begin*` stands for all words that begin so, `-word` must not occur. Nothing in it is an error.
            user_id: only in the threads of this user, as the registry knows them.
            thread_id: only in this thread.
            limit: how many at most.
            cursor: that of the page before.
            marks: what is put before and after each word that was found, in the snippets.

        Raises:
            ConfigError: if the saver was made without `search=True`, or an argument cannot be used.
        """
        return finish(self._search(self._whole_blocking, query, user_id, thread_id, limit, cursor, marks))

    async def asearch(
        self,
        query: str,
        *,
        user_id: Any = None,
        thread_id: Any = None,
        limit: int = 20,
        cursor: str | None = None,
        marks: tuple[str, str] = MARKS,
    ) -> SearchPage:
        """As `search`."""
        return await self._search(self._whole_looping, query, user_id, thread_id, limit, cursor, marks)

    async def _search(
        self,
        db: Database,
        query: str,
        user_id: Any,
        thread_id: Any,
        limit: int,
        cursor: str | None,
        marks: tuple[str, str],
    ) -> SearchPage:
        scope = searching.scope(user_id, thread_id)
        index = searching.enabled(self._index)
        return await self._seen(
            thread_id,
            searching.search_messages(self._store, db, index, query, scope, limit=limit, cursor=cursor, marks=marks),
        )

    def rebuild_search(self, *, clear: bool = False, on_progress: Callable[[int, int], object] | None = None) -> int:
        """Index what is not indexed: what was stored before the saver had `search=True`, or by one without it.

        Others may read and write meanwhile; interrupted, it can be run again.

        Args:
            clear: begin with an empty index.
            on_progress: called now and then with how many messages were looked at, and how many there are.

        Returns:
            How many messages were added.

        Raises:
            ConfigError: if the saver was made without `search=True`.
        """
        return finish(self._rebuild_search(self._whole_blocking, clear, on_progress))

    async def arebuild_search(
        self, *, clear: bool = False, on_progress: Callable[[int, int], object] | None = None
    ) -> int:
        """As `rebuild_search`."""
        return await self._rebuild_search(self._whole_looping, clear, on_progress)

    async def _rebuild_search(self, db: Database, clear: bool, on_progress: Callable[[int, int], object] | None) -> int:
        index = searching.enabled(self._index)
        work = searching.rebuild_search(self._store, db, index, clear=clear, on_progress=on_progress)
        return await self._seen(None, work)

    def _seen(self, subject: Any, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return self._observer.observed(self._system, subject, work)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config means, or the latest of its thread and namespace; `None` if there is none.

        Raises:
            DecodeError: if what is stored is damaged, or of a type that may not be revived.
        """
        return finish(self._seen(config, self._store.get_tuple(self._whole_blocking, config)))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As `get_tuple`."""
        return await self._seen(config, self._store.get_tuple(self._whole_looping, config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
        on_damaged: Callable[[DecodeError], object] | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, latest first, read in pages: memory stays constant, and nothing is held between them.

        Args:
            config: the thread, and if given the namespace and the checkpoint; `None` lists all threads.
            filter: what the metadata must contain (as jsonb's `@>`); `None` also matches a missing key.
            before: list only checkpoints whose id is lower than this config's checkpoint_id.
            limit: how many at most, counting damaged ones.
            on_damaged: called with the error of each checkpoint that cannot be read, which is then left out.

        Raises:
            DecodeError: for a checkpoint that cannot be read, after all before it, if `on_damaged` is not given.
        """
        return self._list(listing(self._store, config, filter, before, limit, on_damaged))

    def _list(self, pages: Listing) -> Iterator[CheckpointTuple]:
        while page := finish(self._seen(None, pages.page(self._whole_blocking))):
            for checkpoint in page:
                if (found := finish(pages.tuple(self._whole_blocking, checkpoint))) is not None:
                    yield found

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
        on_damaged: Callable[[DecodeError], object] | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As `list`."""
        return self._alist(listing(self._store, config, filter, before, limit, on_damaged))

    async def _alist(self, pages: Listing) -> AsyncIterator[CheckpointTuple]:
        while page := await self._seen(None, pages.page(self._whole_looping)):
            for checkpoint in page:
                if (found := await pages.tuple(self._whole_looping, checkpoint)) is not None:
                    yield found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint durably; the config's checkpoint is its parent. Returns the config that means it.

        Raises:
            EncodeError: if a value cannot be stored; it names the channel and the path in the value.
        """
        return finish(self._seen(config, self._store.put(self._whole_blocking, config, checkpoint, metadata)))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `put`. If cancelled, the checkpoint is stored whole or not at all."""
        return await self._seen(config, self._store.put(self._whole_looping, config, checkpoint, metadata))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store a task's pending writes, pairs of channel and value, for the config's checkpoint."""
        finish(self._seen(config, self._store.put_writes(self._whole_blocking, config, writes, task_id, task_path)))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `put_writes`. If cancelled, the writes are stored whole or not at all."""
        await self._seen(config, self._store.put_writes(self._whole_looping, config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Remove everything of a thread, in every namespace."""
        finish(self._seen(thread_id, threads.delete_thread(self._store, self._whole_blocking, thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """As `delete_thread`."""
        await self._seen(thread_id, threads.delete_thread(self._store, self._whole_looping, thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that these runs made, except those that delta channels of others are rebuilt from."""
        finish(self._seen(None, threads.delete_for_runs(self._store, self._whole_blocking, run_ids)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As `delete_for_runs`."""
        await self._seen(None, threads.delete_for_runs(self._store, self._whole_looping, run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history inside the database, to a thread that has no checkpoints yet."""
        finish(
            self._seen(
                source_thread_id,
                threads.copy_thread(self._whole_blocking, source_thread_id, target_thread_id),
            )
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `copy_thread`."""
        await self._seen(source_thread_id, threads.copy_thread(self._whole_looping, source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep only the latest checkpoint of each namespace (`"keep_latest"`) or nothing (`"delete"`) of these threads.

        Checkpoints from which the kept ones' delta channels are rebuilt stay.
        """
        finish(self._seen(thread_ids, threads.prune(self._store, self._whole_blocking, thread_ids, strategy)))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `prune`."""
        await self._seen(thread_ids, threads.prune(self._store, self._whole_looping, thread_ids, strategy))

    def retain(
        self,
        policy: Retention,
        *,
        thread_ids: Sequence[str] | None = None,
        user_id: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
        now: datetime | None = None,
    ) -> Removed:
        """Let go the threads and checkpoints that a policy does not keep, of all threads or of some.

        Each thread is dealt with in a transaction of its own, so runs may go on, and what is interrupted may be done
        again. The database gives the space back by `vacuum`.

        Args:
            thread_ids: only these threads.
            user_id, status, metadata: only threads that `threads.list` would find with these.
            dry_run: change nothing; say what would go.
            on_progress: called after each thread. What it raises ends the work.
            now: the time that ages are counted from, if not the present.

        Raises:
            ConfigError: if an argument cannot be used.
            DecodeError: for the first thread that is damaged, once all others have been dealt with.
        """
        where = {"user_id": user_id, "status": status, "metadata": metadata}
        return finish(
            self._seen(
                None,
                retention.retain(
                    self._store,
                    self._whole_blocking,
                    policy,
                    where,
                    thread_ids=thread_ids,
                    dry_run=dry_run,
                    on_progress=on_progress,
                    now=now,
                ),
            )
        )

    async def aretain(
        self,
        policy: Retention,
        *,
        thread_ids: Sequence[str] | None = None,
        user_id: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
        now: datetime | None = None,
    ) -> Removed:
        """As `retain`."""
        where = {"user_id": user_id, "status": status, "metadata": metadata}
        return await self._seen(
            None,
            retention.retain(
                self._store,
                self._whole_looping,
                policy,
                where,
                thread_ids=thread_ids,
                dry_run=dry_run,
                on_progress=on_progress,
                now=now,
            ),
        )

    def vacuum(self, *, full: bool = False) -> Vacuumed:
        """Give the space of what was removed back to the disk. Returns what was taken before and after, in bytes.

        SQLite writes the whole file anew: nobody else writes meanwhile, and the disk needs room for a second one.
        Postgres makes the space usable again, and gives back what is free at the end of each table.

        Args:
            full: on Postgres, give back all of it: the tables are written anew, and locked meanwhile.

        Raises:
            ConfigError: if the saver's own connection is in a transaction.
            CheckpointerError: if the database does not let this user do it, or has no room.
        """
        return finish(self._seen(None, self._blocking.vacuum(full=full)))

    async def avacuum(self, *, full: bool = False) -> Vacuumed:
        """As `vacuum`."""
        return await self._seen(None, self._looping.vacuum(full=full))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The writes of delta channels along the parent chain, back to the nearest stored value of each."""
        return finish(self._seen(config, history.delta_history(self._store, self._whole_blocking, config, channels)))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As `get_delta_channel_history`."""
        return await self._seen(config, history.delta_history(self._store, self._whole_looping, config, channels))

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The version after `current`, in the format of the official SQL savers."""
        return next_version(current)

    @abstractmethod
    def close(self) -> None:
        """Finish what is under way and close what the saver opened; what it was given stays open."""

    @abstractmethod
    async def aclose(self) -> None:
        """As `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
