"""Values so large that they may neither block an event loop nor be cut."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import uuid4

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from langgraph_checkpoint_dual import Serializer, SqliteSaver
from langgraph_checkpoint_dual.errors import EncodeError
from tests.faults.common import rounds
from tests.support import tables
from tests.support.checkpoints import config, put
from tests.support.savers import KINDS, Kind, faced, opened


class Watching(Serializer):
    """Notes on which threads it works on what is large."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[str, set[int]] = {"dumps": set(), "loads": set()}

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        typed = super().dumps_typed(obj)
        if len(typed[1]) > 10_000:
            self.threads["dumps"].add(threading.get_ident())
        return typed

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if len(data[1]) > 10_000:
            self.threads["loads"].add(threading.get_ident())
        return super().loads_typed(data)


async def test_what_is_large_is_encoded_and_decoded_off_the_loop(kind: Kind, database: str) -> None:
    values = {"dict": {"text": "x" * 200_000}, "list": [{"text": "y" * 20_000}] * 10, "bytes": b"z" * 200_000}
    serde = Watching()
    async with opened(kind.ours, database, serde=serde) as saver:
        stored = await put(saver, values=values)
        await saver.aput_writes(stored, [("dict", {"text": "w" * 200_000})], "task")
    async with opened(kind.ours, database, serde=serde) as saver:
        found = await saver.aget_tuple(config())
        assert found.checkpoint["channel_values"] == values
        assert len([one async for one in saver.alist(config())]) == 1
    assert serde.threads["dumps"]
    assert serde.threads["loads"]
    assert threading.get_ident() not in serde.threads["dumps"] | serde.threads["loads"]


BLOCK = random.Random(1).randbytes(1024 * 1024)
LETTERS = BLOCK.hex()[: len(BLOCK)]
SHAPES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: BLOCK * 64,
    "text": lambda: LETTERS * 64,
    "text that is not ASCII": lambda: "\u20ac" * (64 * len(BLOCK) // 3),
    "list of many": lambda: [f"{at} {LETTERS[at : at + 3200]}" for at in range(20_000)],
    "list of few": lambda: [LETTERS * 16, BLOCK * 16, [LETTERS * 16], {"deep": {"er": BLOCK * 16}}],
    "dict": lambda: {f"key {at}": BLOCK if at % 2 else LETTERS for at in range(64)},
    "message": lambda: HumanMessage([{"type": "image", "base64": LETTERS * 64}], id="large"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "examples"), [(KINDS[0], 3), (KINDS[3], 1)], ids=["sqlite", "postgres"])
def test_64_mb(kind: Kind, examples: int, request: pytest.FixtureRequest) -> None:
    """A value of this size in some shape, and a write of another, read by a saver that knows nothing of them."""
    database = request.getfixturevalue("sqlite_path" if kind.backend == "sqlite" else "postgres_uri")

    @given(st.sampled_from(sorted(SHAPES)))
    @settings(max_examples=rounds(examples))
    def run(shape: str) -> None:
        asyncio.run(round_trip(kind, database, {shape: SHAPES[shape](), "number": 1}))

    run()


async def round_trip(kind: Kind, database: str, values: dict[str, Any]) -> None:
    async with opened(kind.ours, database) as saver:
        stored = await put(saver, config(str(uuid4())), values)
        await saver.aput_writes(stored, [("number", BLOCK * 4)], "task")
    async with opened(kind.ours, database) as saver:
        found = await saver.aget_tuple(stored)
        assert found.checkpoint["channel_values"] == values
        assert found.pending_writes == [("task", "number", BLOCK * 4)]
        await saver.adelete_thread(stored["configurable"]["thread_id"])


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "setlimit"), reason="Python 3.10 cannot set SQLite's limits")
@pytest.mark.parametrize("history", ["all", "latest"])
async def test_what_sqlite_does_not_take(sqlite_path: str, history: str, face: str) -> None:
    with closing(sqlite3.connect(sqlite_path, check_same_thread=False)) as connection:
        saver = SqliteSaver(connection, history=history)
        subject = faced(saver, face)
        stored = await put(subject, values={"small": 1})
        before = tables.contents(sqlite_path)
        limited: Any = connection
        limited.setlimit(0, 1_000_000)  # SQLITE_LIMIT_LENGTH, which is 1,000,000,000 otherwise
        with pytest.raises(EncodeError, match="channel 'large': 2000012 bytes at once are more than this database"):
            await put(subject, stored, {"small": 2, "large": {"text": "x" * 2_000_000}})
        with pytest.raises(EncodeError, match="channel 'large'"):
            await subject.aput_writes(stored, [("small", 2), ("large", b"x" * 2_000_000)], "task")
        assert tables.contents(sqlite_path) == before
        assert not connection.in_transaction
        await put(subject, stored, {"list": ["x" * 500_000] * 4})


@pytest.mark.slow
@pytest.mark.skipif(psutil.virtual_memory().available < 8 * 1024**3, reason="takes some gigabytes of memory")
async def test_what_postgres_does_not_take(postgres_uri: str) -> None:
    async with opened(KINDS[3].ours, postgres_uri) as saver:
        stored = await put(saver, values={"small": 1})
        with pytest.raises(
            EncodeError, match=r"channel 'large': 10000000.. bytes at once are more than Postgres takes"
        ):
            await put(saver, stored, {"small": 2, "large": bytes(1_000_000_000)})
        assert (await saver.aget_tuple(config())).config == stored
        assert len(tables.all_rows(postgres_uri, "dual_checkpoints")) == 1
