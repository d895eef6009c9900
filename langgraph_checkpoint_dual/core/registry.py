"""The registry of threads: what lists them without a look at their state.

A checkpoint of the root namespace makes or touches its thread's row in the transaction that stores it. The row holds
only what cannot be found out from the checkpoints at the price of an index lookup: times, user, title and metadata.
The number of checkpoints, the latest one and the status are read from the checkpoints and their pending writes, so they
cannot disagree with them.

What is set explicitly and what the config of a run says are kept apart: metadata that was set wins over that of runs;
of users and titles the latest wins.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from langgraph_checkpoint_dual.core.address import text_key, thread_key
from langgraph_checkpoint_dual.core.metadata import filter_args, to_json
from langgraph_checkpoint_dual.core.rows import ThreadRow
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError, ThreadNotFoundError

Status: TypeAlias = Literal["idle", "interrupted", "error"]
Order: TypeAlias = Literal["updated", "created"]
_STATUSES = {None: "idle", "__interrupt__": "interrupted", "__error__": "error"}
_CHANNELS = {status: channel for channel, status in _STATUSES.items()}
_OF_CHECKPOINTS = {
    "source", "step", "parents", "run_id", "thread_id", "user_id", "title", "writes", "counters_since_delta_snapshot",
}  # fmt: skip
_FOREIGN = ("langgraph_", "ls_", "lc_", "checkpoint_")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MAX_LIMIT = 10_000


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


def now() -> int:
    """The time in microseconds since 1970."""
    return time.time_ns() // 1000


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


async def get(db: Database, thread_id: str) -> Thread | None:
    """A thread; `None` if there is none of this id."""
    found = await _page(db, {"thread_id": {"thread_id": thread_key(thread_id)}}, "updated", 1)
    return _thread(found[0]) if found else None


async def page(
    db: Database, where: Mapping[str, Any], *, order: str = "updated", limit: int = 20, cursor: str | None = None
) -> ThreadPage:
    """A page of the threads that `conditions` describe, latest first.

    Raises:
        ConfigError: if the limit, the order or the cursor cannot be used.
    """
    if order not in ("updated", "created"):
        raise ConfigError(f"order must be 'updated' or 'created', not {order!r}")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= _MAX_LIMIT:
        raise ConfigError(f"limit must be an int from 0 to {_MAX_LIMIT}, not {limit!r}")
    found = conditions(**where)
    if cursor is not None:
        found[f"after_{order}"] = _position(cursor, order)
    rows = await _page(db, found, order, limit) if limit else []
    more = len(rows) == limit > 0
    return ThreadPage([_thread(row) for row in rows], _cursor(order, rows[-1]) if more else None)


async def count(db: Database, where: Mapping[str, Any]) -> int:
    """How many threads `conditions` describe."""
    found = conditions(**where)

    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch(_named("threads counted", found), **_args(found))

    [(number,)] = await db.read(look)
    return int(number)


def conditions(
    user_id: str | None = None,
    status: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    updated_after: datetime | None = None,
    updated_before: datetime | None = None,
) -> dict[str, dict[str, Any]]:
    """Which threads, as named conditions of the queries with their arguments.

    Raises:
        ConfigError: if one of them cannot be used.
    """
    found: dict[str, dict[str, Any]] = {}
    if user_id is not None:
        found["user_id"] = {"user_id": _key("user_id", user_id)}
    if status is not None:
        if status not in _CHANNELS:
            raise ConfigError(f"status must be one of {', '.join(_CHANNELS)}, not {status!r}")
        found["is_idle" if status == "idle" else "status"] = {} if status == "idle" else {"status": _CHANNELS[status]}
    if updated_after is not None:
        found["updated_after"] = {"updated_after": micros(updated_after)}
    if updated_before is not None:
        found["updated_before"] = {"updated_before": micros(updated_before)}
    if (wanted := filter_args(metadata)) is not None:
        found["metadata"] = dict(wanted)
    return found


async def edit(
    db: Database,
    thread_id: str,
    *,
    user_id: str | None = None,
    title: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    make: bool,
) -> Thread:
    """Set what is given of a thread; metadata is merged key by key, and `None` removes a key.

    Raises:
        ThreadNotFoundError: if there is no such thread and `make` is false.
    """
    key = thread_key(thread_id)
    user = None if user_id is None else _key("user_id", user_id)
    name = None if title is None else text_key("title", title)
    if metadata is not None:
        filter_args(metadata)  # the same keys as a filter may have

    async def change(tx: Tx) -> Row:
        await tx.execute("lock_thread", thread_id=key)
        if make:
            await tx.execute("register_thread", thread_id=key, at=now())
        elif not await tx.fetch("metadata_of_thread", thread_id=key):
            raise ThreadNotFoundError(unescape(key))
        if metadata is not None:
            [(old,)] = await tx.fetch("metadata_of_thread", thread_id=key)
            merged = {**json.loads(old), **json.loads(to_json(metadata)[0])}
            text = json.dumps({name: value for name, value in merged.items() if value is not None})
            await tx.execute("set_thread_metadata", thread_id=key, metadata=text)
        if user is not None:
            await tx.execute("set_thread_user", thread_id=key, user_id=user)
        if name is not None:
            await tx.execute("set_thread_title", thread_id=key, title=name)
        [row] = await tx.fetch("threads by updated where thread_id", thread_id=key, limit=1)
        return row

    return _thread(await db.change(change))


async def current(db: Database, user_id: str, agent: str) -> str | None:
    """The thread that a user is in with an agent."""
    args = {"user_id": _key("user_id", user_id), "agent": text_key("agent", agent)}

    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch("current_thread", **args)

    found = await db.read(look)
    return unescape(found[0][0]) if found else None


async def set_current(db: Database, user_id: str, thread_id: str | None, agent: str) -> None:
    """Note which thread a user is in with an agent; `None` forgets it. The thread need not exist yet."""
    args = {"user_id": _key("user_id", user_id), "agent": text_key("agent", agent)}
    key = None if thread_id is None else thread_key(thread_id)

    async def change(tx: Tx) -> None:
        await tx.execute("leave_current_thread", **args)
        if key is not None:
            await tx.execute("enter_current_thread", thread_id=key, **args)

    await db.change(change)


def micros(moment: datetime) -> int:
    """A time in microseconds since 1970; without a time zone it is taken as local, as `datetime` does.

    Raises:
        ConfigError: if it is no `datetime`.
    """
    if not isinstance(moment, datetime):
        raise ConfigError(f"a time must be a datetime, not {moment!r}")
    return (moment.astimezone(timezone.utc) - _EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    """The time of `micros`, in UTC."""
    return _EPOCH + timedelta(microseconds=at)


def _key(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    key = text_key(name, value)
    if not key:
        raise ConfigError(f"{name} must not be empty")
    return key


async def _page(db: Database, where: Mapping[str, Mapping[str, Any]], order: str, limit: int) -> list[Row]:
    async def look(tx: Tx) -> list[Row]:
        return await tx.fetch(_named(f"threads by {order}", where), limit=limit, **_args(where))

    place = 1 if order == "updated" else 2
    return sorted(await db.read(look), key=lambda row: (row[place], row[0]), reverse=True)


def _named(query: str, where: Mapping[str, Any]) -> str:
    return f"{query} where {' and '.join(where)}" if where else query


def _args(where: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for args in where.values() for name, value in args.items()}


def _thread(row: Row) -> Thread:
    thread_id, updated_at, created_at, user_id, title, metadata, run_metadata, checkpoints, head, channel = row
    return Thread(
        unescape(thread_id),
        moment(created_at),
        moment(updated_at),
        None if user_id is None else unescape(user_id),
        unescape(title) if title else None,
        cast(dict[str, Any], _unescaped({**json.loads(run_metadata), **json.loads(metadata)})),
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


def _cursor(order: str, row: Row) -> str:
    at = row[1] if order == "updated" else row[2]
    return base64.urlsafe_b64encode(json.dumps([order, at, row[0]]).encode()).decode()


def _position(cursor: str, order: str) -> dict[str, Any]:
    try:
        its_order, at, thread_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if its_order != order or type(at) is not int or type(thread_id) is not str or abs(at) >= 2**63:
            raise ValueError
    except (ValueError, TypeError, AttributeError, UnicodeError, binascii.Error) as exc:
        raise ConfigError(f"the cursor is not one of a listing ordered by {order!r}: {cursor!r}") from exc
    return {"after_at": at, "after_thread": escape(unescape(thread_id))}
