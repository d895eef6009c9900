"""The four savers: how each is opened, ours and the official one of the same kind."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver

OURS, OFFICIAL = "langgraph_checkpoint_dual", "langgraph.checkpoint"


@dataclass(frozen=True)
class Kind:
    """One of the four classes, by the module path and name that ours and the official one share."""

    name: str
    backend: Literal["sqlite", "postgres"]
    face: Literal["blocking", "async"]
    module: str
    class_name: str

    def load(self, package: str) -> type[BaseCheckpointSaver[str]]:
        found: type[BaseCheckpointSaver[str]] = getattr(
            importlib.import_module(f"{package}.{self.module}"), self.class_name
        )
        return found

    @property
    def ours(self) -> Any:
        return self.load(OURS)

    @property
    def official(self) -> Any:
        return self.load(OFFICIAL)

    def __str__(self) -> str:
        return self.name


KINDS = (
    Kind("sqlite", "sqlite", "blocking", "sqlite", "SqliteSaver"),
    Kind("sqlite-aio", "sqlite", "async", "sqlite.aio", "AsyncSqliteSaver"),
    Kind("postgres", "postgres", "blocking", "postgres", "PostgresSaver"),
    Kind("postgres-aio", "postgres", "async", "postgres.aio", "AsyncPostgresSaver"),
)


async def settle(value: Any) -> Any:
    """The result of a call that may have given an awaitable."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def opened(saver_class: Any, database: str, **arguments: Any) -> AsyncIterator[Any]:
    """A saver on a database (a path or a connection string), set up, as `from_conn_string` opens it."""
    async with AsyncExitStack() as stack:
        manager = saver_class.from_conn_string(database, **arguments)
        if hasattr(manager, "__aenter__"):
            saver = await stack.enter_async_context(manager)
        else:
            saver = stack.enter_context(manager)
        await settle(saver.setup())
        yield saver


class BlockingFace(BaseCheckpointSaver[str]):
    """Drives a saver through its blocking methods only: each async method calls the blocking one of the same name.

    The call is made on the event loop's own thread, the place where a careless bridge deadlocks.
    """

    def __init__(self, saver: Any) -> None:
        super().__init__(serde=saver.serde)
        self.inner = saver

    async def aget(self, config: Any) -> Any:
        return self.inner.get(config)

    async def aget_tuple(self, config: Any) -> Any:
        return self.inner.get_tuple(config)

    async def alist(self, config: Any, **arguments: Any) -> Any:
        for found in self.inner.list(config, **arguments):
            yield found

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        return self.inner.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self.inner.put_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        self.inner.delete_thread(thread_id)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        self.inner.delete_for_runs(run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.inner.copy_thread(source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        self.inner.prune(thread_ids, strategy=strategy)

    async def aget_delta_channel_history(self, *, config: Any, channels: Any) -> Any:
        return self.inner.get_delta_channel_history(config=config, channels=channels)

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.inner.get_next_version(current, channel)


def faced(saver: Any, face: str) -> Any:
    """The saver as an object with async methods, driven through the face that is asked for."""
    return saver if face == "async" else BlockingFace(saver)


class Registry:
    """`saver.threads` through one of its faces, awaited."""

    def __init__(self, saver: Any, face: str) -> None:
        self._threads, self._face = saver.threads, face

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            if self._face == "async":
                return await getattr(self._threads, f"a{name}")(*arguments, **options)
            return getattr(self._threads, name)(*arguments, **options)

        return call
