"""Many threads and a long one: what an application asks of its conversations, beside what the official savers offer.

Those have no registry, no pages and no search: threads are found by listing checkpoints, messages by loading the state.
"""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from langchain_core.messages import HumanMessage
from langchain_core.messages.utils import count_tokens_approximately, trim_messages
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, MessagesState, StateGraph
from psycopg.conninfo import make_conninfo

from benchmarks.data import conversation, question, vocabulary
from benchmarks.measure import median_milliseconds
from benchmarks.savers import SYNC, Saver
from benchmarks.workload import Trial, thread, workload


@dataclass(frozen=True)
class Chats:
    """Threads of a message and so many bytes of notes, of so many users, and the messages of the long thread."""

    threads: int
    users: int
    messages: int
    notes: int = 0


USER = "user 7"
PAGE = 20
WORD = vocabulary()[0][3_000]
_NOTE = 4_000
_WRITERS = {"sqlite": 1, "postgres": 8}


@workload(
    "conversations",
    "list 20 threads of a user, a page of 20 messages, the last 50, a window of tokens, search, stats, append",
    SYNC,
    {
        "quick": Chats(200, 20, 400, 24_000),
        "default": Chats(20_000, 200, 10_000),
        "full": Chats(100_000, 1_000, 10_000, 24_000),  # more than 2 GB
    },
    max_rounds=1,
)
def conversations(trial: Trial) -> None:
    size: Chats = trial.size
    rng = trial.random()
    _check_room(size)
    with _filling(trial) as saver:
        _fill(saver, size, _WRITERS[trial.kind.database])
        for name, count in (("long", size.messages), ("short", 100)):
            messages = conversation(rng, count, 40)
            for start in range(0, count, 1_000):
                _graph(saver).update_state(thread(name), {"messages": messages[start : start + 1_000]}, as_node="model")
    if trial.kind.database == "postgres":
        with psycopg.connect(trial.site.location, autocommit=True) as connection:
            connection.execute("ANALYZE")  # as autovacuum does after a minute: plans depend on it
    trial.record("database", "bytes", trial.site.size())
    with trial.kind.load().from_conn_string(trial.site.location, **_options(trial)) as saver:
        asked = _ours(saver) if trial.kind.maker == "dual" else _theirs(saver)
        for name, ask in asked:
            ask()
            trial.record(name, "ms", median_milliseconds(ask, 3 if trial.kind.maker == "official" else 7))


class Asked(NamedTuple):
    """What is asked, and how."""

    name: str
    ask: Callable[[], Any]


@contextmanager
def _filling(trial: Trial) -> Iterator[Saver]:
    """A saver that need not be durable, because the database is only being filled."""
    kind, location = trial.kind, trial.site.location
    if kind.database == "postgres":
        careless = make_conninfo(location, options="-c synchronous_commit=off")
        with kind.load().from_conn_string(careless, **_options(trial)) as saver:
            saver.setup()
            yield saver
    else:
        with closing(sqlite3.connect(location, check_same_thread=False)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            yield kind.load()(connection, **_options(trial))


def _options(trial: Trial) -> dict[str, Any]:
    return {"search": True} if trial.kind.maker == "dual" else {}


def _check_room(size: Chats) -> None:
    """Refuse to fill the disk: besides the database there are its log and what is written anew."""
    needed = 4 * size.threads * size.notes
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise RuntimeError(f"the threads need up to {needed:,} bytes in {tempfile.gettempdir()}, {free:,} are free")


def _fill(saver: Saver, size: Chats, writers: int) -> None:
    def begin(number: int) -> None:
        made = empty_checkpoint()
        made["channel_values"] = {"messages": [HumanMessage(f"hello {number}", id=f"m{number}")]}
        made["channel_versions"] = {"messages": f"{1:032}.0"}
        if size.notes:  # random, so that no database makes them smaller
            notes = random.Random(number).randbytes(size.notes)
            made["channel_values"]["notes"] = [notes[at : at + _NOTE] for at in range(0, size.notes, _NOTE)]
            made["channel_versions"]["notes"] = f"{1:032}.0"
        config: Any = thread(f"thread {number}")
        config["metadata"] = {"user_id": f"user {number % size.users}", "title": f"Chat {number}"}
        saver.put(config, made, {"source": "loop", "step": 0, "parents": {}}, made["channel_versions"])

    with ThreadPoolExecutor(writers) as pool:
        for start in range(0, size.threads, 1_000):  # so that few wait
            list(pool.map(begin, range(start, min(start + 1_000, size.threads))))


def _graph(saver: Saver) -> Any:
    builder = StateGraph(MessagesState).add_node("model", lambda state: {}).add_edge(START, "model")
    return builder.compile(checkpointer=saver)


def _questions() -> Iterator[HumanMessage]:
    return (question(random.Random(number)) for number in itertools.count())


def _ours(saver: Any) -> list[Asked]:
    long, short = saver.messages("long"), saver.messages("short")
    fresh = _questions()
    return [
        Asked("list 20 threads of a user", lambda: saver.threads.list(user_id=USER, limit=PAGE)),
        Asked("list 20 threads", lambda: saver.threads.list(limit=PAGE)),
        Asked("page of 20 of the long thread", lambda: long.page(PAGE, after_idx=200)),
        Asked("page of 20 of 100 messages", lambda: short.page(PAGE, after_idx=20)),
        Asked("last 50", lambda: long.last(50)),
        Asked("window of 2,000 tokens", lambda: long.window(2_000)),
        Asked("search the long thread", lambda: long.search(WORD)),
        Asked("search a user's threads", lambda: saver.search("hello", user_id=USER)),
        Asked("stats", long.stats),
        Asked("append", lambda: long.append(next(fresh))),
    ]


def _theirs(saver: Any) -> list[Asked]:
    graph = _graph(saver)
    fresh = _questions()

    def messages(name: str) -> list[Any]:
        found: list[Any] = saver.get_tuple(thread(name)).checkpoint["channel_values"]["messages"]
        return found

    def tokens() -> int:
        return sum(one.usage_metadata["total_tokens"] for one in messages("long") if one.type == "ai")

    def threads(limit: int | None = PAGE, **which: Any) -> list[str]:
        names: dict[str, None] = {}
        for one in saver.list(None, **which):
            names[one.config["configurable"]["thread_id"]] = None
            if len(names) == limit:
                break
        return list(names)

    def found(names: list[str], word: str) -> list[Any]:
        return [one for name in names for one in messages(name) if word in one.text.lower()]

    return [
        Asked("list 20 threads of a user", lambda: threads(filter={"user_id": USER})),
        Asked("list 20 threads", threads),
        Asked("page of 20 of the long thread", lambda: messages("long")[200:220]),
        Asked("page of 20 of 100 messages", lambda: messages("short")[20:40]),
        Asked("last 50", lambda: messages("long")[-50:]),
        Asked(
            "window of 2,000 tokens",
            lambda: trim_messages(messages("long"), max_tokens=2_000, token_counter=count_tokens_approximately),
        ),
        Asked("search the long thread", lambda: found(["long"], WORD)),
        Asked("search a user's threads", lambda: found(threads(None, filter={"user_id": USER}), "hello")),
        Asked("stats", tokens),
        Asked("append", lambda: graph.update_state(thread("long"), {"messages": [next(fresh)]}, as_node="model")),
    ]
