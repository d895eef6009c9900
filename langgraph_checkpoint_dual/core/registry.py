"""The registry of threads: what lists them without a look at their state.

A checkpoint of the root namespace makes or touches its thread's row in the transaction that stores it. The row holds
only what cannot be found out from the checkpoints at the price of an index lookup: times, user, title and metadata.
The number of checkpoints, the latest one and the status are read from the checkpoints and their pending writes, so they
cannot disagree with them.

What is set explicitly and what the config of a run says are kept apart: metadata that was set wins over that of runs;
of users and titles the latest wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from langgraph_checkpoint_dual.core.address import text_key, thread_key, user_key
from langgraph_checkpoint_dual.core.cursors import cursor_of, place_of
from langgraph_checkpoint_dual.core.metadata import filter_args, to_json
from langgraph_checkpoint_dual.core.queries import Conditions, fetch_where
from langgraph_checkpoint_dual.core.rows import ThreadRow
from langgraph_checkpoint_dual.core.text import escape, shown, unescape
from langgraph_checkpoint_dual.core.times import micros, now, utc
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError, ThreadNotFoundError

Status: TypeAlias = Literal["idle", "interrupted", "error"]
_STATUSES = {None: "idle", "__interrupt__": "interrupted", "__error__": "error"}
_CHANNELS = {status: channel for channel, status in _STATUSES.items()}
_OF_CHECKPOINTS = {
    "source", "step", "parents", "run_id", "thread_id", "user_id", "title", "writes", "counters_since_delta_snapshot",
}  # fmt: skip
_FOREIGN = ("langgraph_", "ls_", "lc_", "checkpoint_")
_MAX_LIMIT = 10_000
_TIMES = {"updated": 1, "created": 2}
"""The orders of listings, and where in a row of theirs the time is."""


class Thread(NamedTuple):
    """A thread, as the registry knows it."""

    thread_id: str
    created_at: datetime
    """When its first checkpoint was stored, or it was registered; in UTC, as all times."""
    updated_at: datetime
    """When its latest checkpoint was stored, or it was registered."""
    user_id: str | None
    title: str | None
    metadata: dict[str, Any]
    checkpoints: int
    """How many checkpoints it has, in all namespaces."""
    checkpoint_id: str | None
    """Its latest checkpoint; `None` if it has none yet."""
    status: Status
    """What the pending writes of the latest checkpoint say: "error" if a task failed, "interrupted" if one waits."""


class ThreadPage(NamedTuple):
    """Some threads, and where the next page begins."""

    threads: list[Thread]
    cursor: str | None
    """Give it to `list` for the next page; `None` after the last one."""


def thread_row(thread_id: str, metadata: Mapping[str, Any]) -> ThreadRow:
    """What a checkpoint with this (merged) metadata tells the registry of its thread, which is escaped already."""
    extra = {key: value for key, value in metadata.items() if _is_of_thread(key)}
    text = to_json(extra)[0] if extra else "{}"
    return ThreadRow(thread_id, now(), _text(metadata.get("user_id")), _text(metadata.get("title")), text)


def _is_of_thread(key: Any) -> bool:
    return isinstance(key, str) and key not in _OF_CHECKPOINTS and not key.startswith(_FOREIGN)


def _text(value: Any) -> str | None:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return escape(str(value)) or None
    return None


async def threads_get(db: Database, thread_id: str) -> Thread | None:
    """A thread; `None` if there is none of this id."""
    found = await _page(db, {"thread_id": {"thread_id": thread_key(thread_id)}}, "updated", 1)
    return _thread(found[0]) if found else None


async def threads_list(
    db: Database, where: Mapping[str, Any], *, order: str = "updated", limit: int = 20, cursor: str | None = None
) -> ThreadPage:
    """A page of the threads that `conditions` describe, latest first.

    Raises:
        ConfigError: if the limit, the order or the cursor cannot be used.
    """
    if not isinstance(order, str) or order not in _TIMES:
        raise ConfigError(f"order must be 'updated' or 'created', not {order!r}")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= _MAX_LIMIT:
        raise ConfigError(f"limit must be an int from 0 to {_MAX_LIMIT}, not {limit!r}")
    found = conditions(**where)
    if cursor is not None:
        at, thread_id = place_of(cursor, order, int, str)
        found[f"after_{order}"] = {"after_at": at, "after_thread": escape(unescape(thread_id))}
    rows = await _page(db, found, order, limit) if limit else []
    more = len(rows) == limit > 0
    after = cursor_of(order, rows[-1][_TIMES[order]], rows[-1][0]) if more else None
    return ThreadPage([_thread(row) for row in rows], after)


async def threads_count(db: Database, where: Mapping[str, Any]) -> int:
    """How many threads `conditions` describe."""
    [(number,)] = await db.read(partial(fetch_where, query="threads counted", where=conditions(**where)))
    return int(number)


def conditions(
    user_id: str | None = None,
    status: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    updated_after: datetime | None = None,
    updated_before: datetime | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Which threads, as named conditions of the queries with their arguments.

    Raises:
        ConfigError: if one of them cannot be used.
    """
    found: dict[str, Mapping[str, Any]] = {}
    if user_id is not None:
        found["user_id"] = {"user_id": user_key(user_id)}
    if status is not None:
        if not isinstance(status, str) or status not in _CHANNELS:
            raise ConfigError(f"status must be one of {', '.join(_CHANNELS)}, not {status!r}")
        found["is_idle" if status == "idle" else "status"] = {} if status == "idle" else {"status": _CHANNELS[status]}
    if updated_after is not None:
        found["updated_after"] = {"updated_after": micros(updated_after)}
    if updated_before is not None:
        found["updated_before"] = {"updated_before": micros(updated_before)}
    if (wanted := filter_args(metadata)) is not None:
        found["metadata"] = wanted
    return found


async def threads_register(db: Database, thread_id: str, **given: Any) -> Thread:
    """Make a thread unless it is there, and set what is given of it, as `threads_update` does."""
    return await _edit(db, thread_id, make=True, **given)


async def threads_update(db: Database, thread_id: str, **given: Any) -> Thread:
    """Set what is given of a thread: `user_id`, `title`, `metadata`. Metadata is merged, and `None` removes a key.

    Raises:
        ThreadNotFoundError: if there is no such thread.
        ConfigError: if something cannot be used.
    """
    return await _edit(db, thread_id, make=False, **given)


async def _edit(
    db: Database,
    thread_id: str,
    *,
    user_id: str | None,
    title: str | None,
    metadata: Mapping[str, Any] | None,
    make: bool,
) -> Thread:
    key = thread_key(thread_id)
    user = None if user_id is None else user_key(user_id)
    name = None if title is None else text_key("title", title)
    if metadata is not None and not (isinstance(metadata, Mapping) and all(isinstance(one, str) for one in metadata)):
        raise ConfigError("metadata must be a mapping with str keys")

    async def change(tx: Tx) -> Row:
        await tx.execute("lock_thread", thread_id=key)
        if make:
            await tx.execute("register_thread", thread_id=key, at=now())
        elif not await tx.fetch("metadata_of_thread", thread_id=key):
            raise ThreadNotFoundError(unescape(key))
        if metadata is not None:
            await _merge(key, metadata, tx)
        if user is not None:
            await tx.execute("set_thread_user", thread_id=key, user_id=user)
        if name is not None:
            await tx.execute("set_thread_title", thread_id=key, title=name)
        [row] = await tx.fetch("threads by updated where thread_id", thread_id=key, limit=1)
        return row

    return _thread(await db.change(change))


async def threads_current(db: Database, user_id: str, agent: str) -> str | None:
    """The thread that a user is in with an agent."""
    args = {"user_id": user_key(user_id), "agent": text_key("agent", agent)}

    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch("current_thread", **args)

    found = await db.read(look)
    try:
        return unescape(found[0][0]) if found else None
    except DecodeError as exc:
        raise exc.at(user_id=unescape(args["user_id"]), agent=unescape(args["agent"])) from exc


async def threads_set_current(db: Database, user_id: str, thread_id: str | None, agent: str) -> None:
    """Note which thread a user is in with an agent; `None` forgets it. The thread need not exist yet."""
    args = {"user_id": user_key(user_id), "agent": text_key("agent", agent)}
    key = None if thread_id is None else thread_key(thread_id)

    async def change(tx: Tx) -> None:
        await tx.execute("leave_current_thread", **args)
        if key is not None:
            await tx.execute("enter_current_thread", thread_id=key, **args)

    await db.change(change)


async def _page(db: Database, where: Conditions, order: str, limit: int) -> list[Row]:
    rows = await db.read(partial(fetch_where, query=f"threads by {order}", where=where, limit=limit))
    try:
        return sorted(rows, key=lambda row: (row[_TIMES[order]], row[0]), reverse=True)
    except TypeError:  # a time that is no number, or an id that is no text: the first such row says so
        for row in rows:
            _thread(row)
        raise


async def _merge(key: str, metadata: Mapping[str, Any], tx: Tx) -> None:
    """Set the keys that are given; what is damaged is forgotten."""
    [texts] = await tx.fetch("metadata_of_thread", thread_id=key)
    try:
        old, _ = map(_of_json, texts)
    except (ValueError, TypeError):
        old = {}
        await tx.execute("forget_thread_metadata", thread_id=key)
    merged = {**old, **json.loads(to_json(metadata)[0])}
    text = json.dumps({name: value for name, value in merged.items() if value is not None})
    await tx.execute("set_thread_metadata", thread_id=key, metadata=text)


def _of_json(text: str) -> dict[str, Any]:
    """A thread's metadata.

    Raises:
        ValueError: if it is no JSON.
        TypeError: if it is something else than an object.
    """
    return {**json.loads(text)}


def _thread(row: Row) -> Thread:
    try:
        return _whole(*row)
    except (AttributeError, OverflowError, TypeError, ValueError) as exc:
        advice = "threads.update() sets user, title and metadata anew"
        what = f"the thread's row in the registry is damaged: {exc}; {advice}"
        raise DecodeError(what, thread_id=shown(row[0])) from exc


def _whole(
    thread_id: str,
    updated_at: int,
    created_at: int,
    user_id: str | None,
    title: str | None,
    metadata: str,
    run_metadata: str,
    checkpoints: int,
    head: str | None,
    channel: str,
) -> Thread:
    merged = {**_of_json(run_metadata), **_of_json(metadata)}
    return Thread(
        unescape(thread_id),
        utc(created_at),
        utc(updated_at),
        None if user_id is None else unescape(user_id),
        unescape(title) if title else None,
        cast(dict[str, Any], _unescaped(merged)),
        checkpoints,
        None if head is None else unescape(head),
        cast(Status, _STATUSES[channel]),
    )


def _unescaped(value: Any) -> Any:
    if isinstance(value, str):
        return unescape(value)
    if isinstance(value, dict):
        return {unescape(key): _unescaped(item) for key, item in value.items()}
    return [_unescaped(item) for item in value] if isinstance(value, list) else value
