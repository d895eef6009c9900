"""The messages of one thread, blocking and asynchronous side by side: what `saver.messages()` gives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from langgraph_checkpoint_dual.core.address import address_of, text_key
from langgraph_checkpoint_dual.core.conversations import appending, searching
from langgraph_checkpoint_dual.core.conversations import reading as conversations
from langgraph_checkpoint_dual.core.conversations.deltas import Reducer, messages_reducer
from langgraph_checkpoint_dual.core.conversations.indexing import Index
from langgraph_checkpoint_dual.core.conversations.reading import ConversationStats, CountTokens, StoredMessage, View
from langgraph_checkpoint_dual.core.conversations.searching import MARKS, SearchPage
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.tx import Database, finish
from langgraph_checkpoint_dual.observing import Observer

T = TypeVar("T")

__all__ = ["Conversation", "ConversationStats", "StoredMessage"]


class Conversation:
    """A list of messages in a thread: its latest state, or that of one checkpoint.

    Nothing is read before a method is called, and each call reads anew. A thread that does not exist has no messages.
    The methods raise `ConfigError` if the channel holds something else than messages.
    """

    def __init__(
        self,
        store: Store,
        blocking: Database,
        looping: Database,
        config: RunnableConfig,
        view: View,
        next_version: Callable[[Any, None], Any],
        index: Index | None,
        observer: Observer,
        system: str,
    ) -> None:
        self._store, self._blocking, self._looping = store, blocking, looping
        self._config, self._view, self._next_version, self._index = config, view, next_version, index
        self._observer, self._system = observer, system

    def _seen(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return self._observer.observed(self._system, self._config, work)

    def page(
        self,
        limit: int = 20,
        *,
        before_idx: int | None = None,
        after_idx: int | None = None,
        reverse: bool = False,
    ) -> list[StoredMessage]:
        """The first `limit` messages between two places, with their places and times. It reads only these.

        Args:
            limit: how many at most.
            before_idx: only messages before this place.
            after_idx: only messages after this place.
            reverse: from the end: the last `limit` of them, latest first. With `before_idx` of the last one that was
                shown, that scrolls back through a chat.
        """
        return finish(self._page(self._blocking, limit, before_idx, after_idx, reverse))

    async def apage(
        self,
        limit: int = 20,
        *,
        before_idx: int | None = None,
        after_idx: int | None = None,
        reverse: bool = False,
    ) -> list[StoredMessage]:
        """As `page`."""
        return await self._page(self._looping, limit, before_idx, after_idx, reverse)

    async def _page(
        self, db: Database, limit: int, before_idx: int | None, after_idx: int | None, reverse: bool
    ) -> list[StoredMessage]:
        return await self._seen(
            conversations.messages_page(
                self._store, db, self._view, limit=limit, before_idx=before_idx, after_idx=after_idx, reverse=reverse
            )
        )

    def last(self, n: int) -> list[BaseMessage]:
        """The last `n` messages in their order, as a model takes them."""
        return finish(self._seen(conversations.messages_last(self._store, self._blocking, self._view, n)))

    async def alast(self, n: int) -> list[BaseMessage]:
        """As `last`."""
        return await self._seen(conversations.messages_last(self._store, self._looping, self._view, n))

    def window(
        self,
        max_tokens: int,
        *,
        count_tokens: CountTokens | None = None,
        keep_system: bool = False,
        start_on: str | None = None,
    ) -> list[BaseMessage]:
        """As many of the newest messages as fit into a number of tokens, in their order, as a model takes them.

        It reads backwards, and only about as far as needed. A result of a tool is never without the call that it
        answers: the window begins after a result whose call does not fit, or is not there.

        Args:
            max_tokens: what they may count together.
            count_tokens: tells how many tokens a list of messages takes; more messages must never count less. Unless
                given, langchain-core's `count_tokens_approximately`. `model.get_num_tokens_from_messages` fits.
            keep_system: put the system message that the thread begins with in front; it counts too.
            start_on: the type of message that the window must begin with (after the system message), such as "human".

        Raises:
            ConfigError: if the system message alone does not fit.
        """
        return finish(self._window(self._blocking, max_tokens, count_tokens, keep_system, start_on))

    async def awindow(
        self,
        max_tokens: int,
        *,
        count_tokens: CountTokens | None = None,
        keep_system: bool = False,
        start_on: str | None = None,
    ) -> list[BaseMessage]:
        """As `window`. `count_tokens` is a plain function, and may be called on another thread."""
        return await self._window(self._looping, max_tokens, count_tokens, keep_system, start_on)

    async def _window(
        self, db: Database, max_tokens: int, count_tokens: CountTokens | None, keep_system: bool, start_on: str | None
    ) -> list[BaseMessage]:
        return await self._seen(
            conversations.messages_window(
                self._store,
                db,
                self._view,
                max_tokens=max_tokens,
                count_tokens=count_tokens,
                keep_system=keep_system,
                start_on=start_on,
            )
        )

    def count(self) -> int:
        """How many messages there are."""
        return finish(self._seen(conversations.messages_count(self._store, self._blocking, self._view)))

    async def acount(self) -> int:
        """As `count`."""
        return await self._seen(conversations.messages_count(self._store, self._looping, self._view))

    def stats(self) -> ConversationStats:
        """Messages by role, tokens as the models counted them, times and size. It reads all messages, in pages."""
        return finish(self._seen(conversations.messages_stats(self._store, self._blocking, self._view)))

    async def astats(self) -> ConversationStats:
        """As `stats`."""
        return await self._seen(conversations.messages_stats(self._store, self._looping, self._view))

    def search(
        self, query: str, *, limit: int = 20, cursor: str | None = None, marks: tuple[str, str] = MARKS
    ) -> SearchPage:
        """The messages with some words, the best first. As `search` of the saver, for this thread.

        Raises:
            ConfigError: if the saver was not made with `search=True`, or another channel or namespace is meant.
        """
        return finish(self._search(self._blocking, query, limit, cursor, marks))

    async def asearch(
        self, query: str, *, limit: int = 20, cursor: str | None = None, marks: tuple[str, str] = MARKS
    ) -> SearchPage:
        """As `search`."""
        return await self._search(self._looping, query, limit, cursor, marks)

    async def _search(
        self, db: Database, query: str, limit: int, cursor: str | None, marks: tuple[str, str]
    ) -> SearchPage:
        index = searching.enabled(self._index)
        scope = searching.scope_of(index, self._view)
        return await self._seen(
            searching.search_messages(self._store, db, index, query, scope, limit=limit, cursor=cursor, marks=marks)
        )

    def append(self, messages: Any) -> RunnableConfig:
        """Add messages without running a graph, as a checkpoint that a graph with this saver goes on from.

        It means what `add_messages` means: a message without an id gets one, a message with the id of a stored one
        replaces it, a `RemoveMessage` removes it. Other channels stay as they are, and no node is run or due for it:
        to have the graph answer, invoke it with the message instead. Where several append at once, all are kept.

        Args:
            messages: a message, or a pair of role and text, a dict or a text for one, or a list of these.

        Returns:
            The config of the new checkpoint.

        Raises:
            ConfigError: if they are no messages, or a `RemoveMessage` names none that is there, or the thread waits in
                the middle of a step that changed delta channels.
            EncodeError: if a message cannot be stored.
        """
        return finish(self._append(self._blocking, messages))

    async def aappend(self, messages: Any) -> RunnableConfig:
        """As `append`. If cancelled, the messages are stored whole or not at all."""
        return await self._append(self._looping, messages)

    async def _append(self, db: Database, messages: Any) -> RunnableConfig:
        return await self._seen(
            appending.append_messages(self._store, db, self._view, self._config, messages, self._next_version)
        )


def view_of(
    thread: Any, channel: str, checkpoint_id: str | None, reducer: Reducer | None
) -> tuple[RunnableConfig, View]:
    """The config and the view for a thread's id, or a config of it.

    Raises:
        ConfigError: if an id cannot be used.
    """
    given = cast(RunnableConfig, thread if isinstance(thread, Mapping) else {"configurable": {"thread_id": thread}})
    address = address_of(given)
    if checkpoint_id is not None:
        address = address._replace(checkpoint_id=text_key("checkpoint_id", checkpoint_id))
    text_key("channel", channel)
    return given, View(address, channel, reducer or messages_reducer)
