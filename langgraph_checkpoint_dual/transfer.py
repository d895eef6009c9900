"""Moving threads between databases and savers: `transfer`, and `atransfer` on an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.store import Rules, Store
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.transfer.auditing import audit
from langgraph_checkpoint_dual.core.transfer.exchanging import OurSide, Side, exchange
from langgraph_checkpoint_dual.core.transfer.transferring import Link
from langgraph_checkpoint_dual.core.transfer.transfers import Meter, Options, Progress, Report, TransferError, options
from langgraph_checkpoint_dual.core.transfer.verifying import verify as verified
from langgraph_checkpoint_dual.core.tx import Database, finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.opening import aopen_saver, open_saver
from langgraph_checkpoint_dual.opening import target as target_of
from langgraph_checkpoint_dual.peers import PeerSide
from langgraph_checkpoint_dual.saver import Saver

__all__ = ["Progress", "Report", "TransferError", "atransfer", "transfer"]

End: TypeAlias = "BaseCheckpointSaver[Any] | str | PathLike[str]"


def transfer(
    source: End,
    target: End,
    *,
    thread_ids: Iterable[str] | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
    latest_only: bool = False,
    on_conflict: str = "raise",
    recode: bool | None = None,
    verify: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> Report:
    """Bring over what the target lacks of the source's threads: all checkpoints with their namespaces, parents, values,
    metadata, versions and pending writes, and the registry of threads. The source is not changed.

    It may be interrupted, killed and repeated at any time: it goes on with what is missing. Between two databases of
    this package rows are copied as they are, in batches and in constant memory. With any other saver on one side
    checkpoints are read and put one by one; `Report.lost` says what such a saver cannot tell.

    Args:
        source, target: savers of any kind, or what `open_saver` takes: a URL of Postgres, or the path of a SQLite file.
        thread_ids: only these threads.
        user_id: only threads of this user.
        since: only threads whose latest checkpoint is younger.
        latest_only: only the latest checkpoint of each namespace, and what it needs (as `prune` keeps it).
        on_conflict: what to do with a thread whose histories have parted, so that each side has checkpoints that the
            other lacks: "raise" (after all others are done) and "skip" leave it alone, "replace" forgets the target's.
        recode: read and put every value instead of copying rows, to store them with the target's serializer. By default
            that is done if the two serializers are not known to read the same.
        verify: compare every checkpoint through both savers.
        dry_run: only count what would be done.
        on_progress: called again and again with a `Progress`.

    Raises:
        TransferError: at the end, if threads are in conflict, damaged, or differ after the transfer; all others are
            done.
        ConfigError: if an argument cannot be used.
    """
    wanted = options(thread_ids, user_id, since, latest_only, on_conflict, verify, dry_run, on_progress)
    with _opened(source, is_source=True) as one, _opened(target) as two:
        _check(one, two)
        return finish(_transfer(one, two, wanted, recode, loop=False))


async def atransfer(
    source: End,
    target: End,
    *,
    thread_ids: Iterable[str] | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
    latest_only: bool = False,
    on_conflict: str = "raise",
    recode: bool | None = None,
    verify: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> Report:
    """As `transfer`; blocking savers of others work on threads meanwhile."""
    wanted = options(thread_ids, user_id, since, latest_only, on_conflict, verify, dry_run, on_progress)
    async with _aopened(source, is_source=True) as one, _aopened(target) as two:
        _check(one, two)
        return await _transfer(one, two, wanted, recode, loop=True)


async def _transfer(
    source: BaseCheckpointSaver[Any],
    target: BaseCheckpointSaver[Any],
    wanted: Options,
    recode: bool | None,
    *,
    loop: bool,
) -> Report:
    one, two = await _side(source, loop), await _side(target, loop)
    ids = one.threads(wanted)
    meter = Meter(wanted, await ids.total())
    if not one.has_paths:
        meter.report.lost = ("paths of tasks",)
    link = None
    if isinstance(source, Saver) and isinstance(target, Saver) and not _recodes(source.serde, target.serde, recode):
        link = Link(_database(source, loop), _database(target, loop), _store(source), _store(target), meter)
    while page := await ids.next():
        rows, others = await _split(link, one, two, page)
        if link is not None:
            await link.copy(rows)
        places = {thread_id: await exchange(one, two, meter, thread_id) for thread_id in others}
        if wanted.verify and not wanted.dry_run:
            parted = set(meter.report.conflicts)
            if link is not None:
                await audit(link, [key for key in rows if unescape(key) not in parted])
            for thread_id in others:
                if thread_id not in parted:
                    await verified(one, two, meter, thread_id, places[thread_id])
    return meter.finish()


async def _split(link: Link | None, source: Side, target: Side, page: list[str]) -> tuple[list[str], list[str]]:
    """The threads, as stored, whose rows are copied, and those that go checkpoint by checkpoint.

    The latter are all, or those of which an official saver has left something on one side.
    """
    if link is None:
        return [], page
    keys = [escape(one) for one in page]
    others = await source.adopted(keys) | await target.adopted(keys)
    return [key for key in keys if key not in others], [unescape(key) for key in keys if key in others]


async def _side(saver: BaseCheckpointSaver[Any], loop: bool) -> Side:
    if not isinstance(saver, Saver):
        return PeerSide(saver, loop=loop)
    adopts = await saver._adoption.look(_database(saver, loop))
    whole = saver._whole_looping if loop else saver._whole_blocking
    return OurSide(_store(saver), whole, adopts=adopts)


def _database(saver: Saver, loop: bool) -> Database:
    return saver._indexed(saver._looping if loop else saver._blocking)


def _store(saver: Saver) -> Store:
    """The saver's operations, without its rules for runs."""
    store = saver._store
    return Store(store.serde, store.memory, Rules())


def _recodes(first: SerializerProtocol, second: SerializerProtocol, recode: bool | None) -> bool:
    if recode is not None:
        return recode
    return not (
        first is second
        or (values.is_direct(first) and values.is_direct(second))
        or type(first) is type(second) is JsonPlusSerializer
    )


def _check(source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any]) -> None:
    if source is target:
        raise ConfigError("source and target are the same saver")


@contextmanager
def _opened(end: End, *, is_source: bool = False) -> Iterator[BaseCheckpointSaver[Any]]:
    if isinstance(end, BaseCheckpointSaver):
        yield end
    else:
        with open_saver(_there(end) if is_source else end) as saver:
            yield saver


@asynccontextmanager
async def _aopened(end: End, *, is_source: bool = False) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    if isinstance(end, BaseCheckpointSaver):
        yield end
    else:
        async with aopen_saver(_there(end) if is_source else end) as saver:
            yield saver


def _there(url: str | PathLike[str]) -> str | PathLike[str]:
    """The URL of a source: opening a SQLite file would make one that is not there."""
    found = target_of(url)
    if found.kind == "sqlite" and not found.place.startswith("file:") and not Path(found.place).exists():
        raise ConfigError(f"there is no database {found.place!r} to transfer from")
    return url
