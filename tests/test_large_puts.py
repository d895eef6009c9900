"""Postgres: what is large goes to the server in pieces, and is stored whole or not at all, as anything else."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langgraph_checkpoint_dual import Cache
from langgraph_checkpoint_dual.core.rows import CheckpointRow, ItemRow, Put
from langgraph_checkpoint_dual.postgres import PostgresSaver, pieces
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import KINDS, Kind, opened

RANDOM = random.Random(5)
CHAT = [
    HumanMessage(f"{at} é\0 {RANDOM.randbytes(1000).hex()}", id=str(at)) if at % 2 else AIMessage("ä", id=str(at))
    for at in range(2000)
]
LARGE: dict[str, Any] = {
    "messages": CHAT,
    "bytes": RANDOM.randbytes(3_000_000),
    "dict": {f"{at}é": ["entry", at] for at in range(100)},
    "small": 1,
}
ON_POSTGRES = pytest.mark.parametrize("kind", KINDS[2:], ids=str)


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
async def large_saver(kind: Kind, postgres_uri: str, cache: Cache) -> AsyncIterator[Any]:
    async with opened(kind.ours, postgres_uri, search=True, cache=cache) as saver:
        yield saver


def rows_of_items(database: str) -> list[tuple[Any, ...]]:
    return sorted(tables.all_rows(database, "dual_items"))


async def values_of(kind: Kind, database: str, place: Any) -> Any:
    """What a saver finds that knows nothing of it."""
    async with opened(kind.ours, database) as saver:
        found = await saver.aget_tuple(place)
        return found and found.checkpoint["channel_values"]


@ON_POSTGRES
async def test_the_rows_are_those_of_one_statement(
    kind: Kind, large_saver: Any, postgres_uri: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = checkpoint(LARGE)
    stored: list[Any] = []
    for large in (pieces.LARGE, 100_000_000):
        monkeypatch.setattr(pieces, "LARGE", large)
        place = await large_saver.aput(config(), made, metadata(), made["channel_versions"])
        stored.append([sorted(tables.all_rows(postgres_uri, f"dual_{name}")) for name in ("items", "search")])
        if len(stored) == 1:
            assert await values_of(kind, postgres_uri, place) == LARGE
            await large_saver.adelete_thread("thread")
            tables.rows(postgres_uri, "DELETE FROM dual_tombstones")
            cache.clear()
    assert stored[0] == stored[1]
    assert len(stored[0][0]) == 2002
    assert len(stored[0][1]) > 1000


def test_no_piece_is_large() -> None:
    items = [ItemRow("thread", "", "bytes", at, 0, at, None, bytes(size)) for at, size in enumerate([0] * 5000)]
    items.append(ItemRow("thread", "", "bytes", 5000, 0, 1, 7, bytes(3_000_000)))
    row = CheckpointRow("thread", "", "1", None, None, b"", b"", "{}", None)
    several = list(pieces.copied(Put(row, items), "utf-8"))
    assert max(map(len, several)) < 300_000
    assert sum(map(len, several)) > 3_000_000 + 5000 * 60


@ON_POSTGRES
async def test_who_takes_the_same_numbers_is_tried_again(kind: Kind, large_saver: Any, postgres_uri: str) -> None:
    base = await put(large_saver, values={"messages": CHAT})
    longer = [[*CHAT, *(HumanMessage(f"{name} {at} {'x' * 2000}") for at in range(700))] for name in ("one", "two")]
    places = [await put(large_saver, base, {"messages": messages}) for messages in longer]
    for place, messages in zip(places, longer, strict=True):
        assert (await values_of(kind, postgres_uri, place))["messages"] == messages


@ON_POSTGRES
async def test_a_repeated_put_and_one_in_the_place_of_another(
    kind: Kind, large_saver: Any, postgres_uri: str, cache: Cache
) -> None:
    made = checkpoint(LARGE)
    for values in (LARGE, LARGE, {**LARGE, "bytes": b"y" * 2_000_000}):
        made["channel_values"] = values
        cache.clear()
        place = await large_saver.aput(config(), made, metadata(), made["channel_versions"])
        assert await values_of(kind, postgres_uri, place) == values
        assert len(await listed(large_saver, config())) == 1
        assert len(rows_of_items(postgres_uri)) == 2002


@ON_POSTGRES
async def test_the_rows_of_writes_are_those_of_one_statement(
    kind: Kind, large_saver: Any, postgres_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await put(large_saver, values={"small": 1})
    writes = [("messages", CHAT), ("é", 1), ("bytes", LARGE["bytes"]), ("__error__", "é\0")]
    stored = []
    for large in (pieces.LARGE, 100_000_000):
        monkeypatch.setattr(pieces, "LARGE", large)
        await large_saver.aput_writes(place, writes, "task é", "~path")
        stored.append(sorted(tables.all_rows(postgres_uri, "dual_writes")))
        found = await large_saver.aget_tuple(place)
        assert sorted(found.pending_writes, key=str) == sorted((("task é", *one) for one in writes), key=str)
        tables.rows(postgres_uri, "DELETE FROM dual_writes")
    assert stored[0] == stored[1]


@ON_POSTGRES
async def test_large_writes_that_are_there_stay_and_special_ones_are_replaced(kind: Kind, large_saver: Any) -> None:
    place = await put(large_saver, values={"small": 1})
    before, after = ([("one", bytes(2_000_000)), ("two", two)] for two in (1, 2))
    await large_saver.aput_writes(place, before[:1], "task")
    await large_saver.aput_writes(place, after, "task")
    await large_saver.aput_writes(place, before, "task")
    for error in (b"x" * 2_000_000, b"y" * 2_000_000):
        await large_saver.aput_writes(place, [("__error__", error)], "other")
    found = await large_saver.aget_tuple(place)
    assert found.pending_writes == [("other", "__error__", b"y" * 2_000_000), *(("task", *one) for one in after)]


@ON_POSTGRES
async def test_large_writes_that_are_late_leave_nothing(kind: Kind, large_saver: Any, postgres_uri: str) -> None:
    place = await put(large_saver, values={"small": 1})
    await large_saver.adelete_thread("thread")
    await large_saver.aput_writes(place, [("one", bytes(2_000_000))], "task")
    assert list(tables.all_rows(postgres_uri, "dual_writes")) == []


@ON_POSTGRES
async def test_what_is_late_leaves_nothing(kind: Kind, large_saver: Any, postgres_uri: str) -> None:
    base = await put(large_saver, values={"small": 1})
    await large_saver.adelete_thread("thread")
    await put(large_saver, base, LARGE)
    assert rows_of_items(postgres_uri) == []
    assert await values_of(kind, postgres_uri, config()) is None


@ON_POSTGRES
@pytest.mark.parametrize("beside", [-1, 0, 1])
async def test_what_is_read_in_pieces(kind: Kind, large_saver: Any, postgres_uri: str, beside: int) -> None:
    """Values of just about one, two and three pieces, whether or not the server stores them compressed."""
    sizes = [pieces.PIECE * count + beside - 1 for count in (1, 2, 3)]  # the first byte is the type
    values = {f"{size} {fill.__name__}": fill(size) for size in sizes for fill in (RANDOM.randbytes, bytes)}
    place = await put(large_saver, values=values)
    assert await values_of(kind, postgres_uri, place) == values
    assert {row[-1][0] for row in rows_of_items(postgres_uri)} == {1}
    copied = await put(large_saver, place, {**values, "small": 2})
    await large_saver.acopy_thread("thread", "copy")
    copied["configurable"]["thread_id"] = "copy"
    assert await values_of(kind, postgres_uri, copied) == {**values, "small": 2}


def test_in_a_transaction_of_the_callers(postgres_uri: str, cache: Cache) -> None:
    with psycopg.connect(postgres_uri) as conn:
        saver = PostgresSaver(conn, cache=cache)
        saver.setup()
        made = checkpoint(LARGE)
        with conn.transaction(force_rollback=True):
            saver.put(config(), made, metadata(), made["channel_versions"])
        cache.clear()
        assert saver.get_tuple(config()) is None
        with conn.transaction():
            place = saver.put(config(), made, metadata(), made["channel_versions"])
        cache.clear()
        found = saver.get_tuple(place)
        assert found is not None
        assert found.checkpoint["channel_values"] == LARGE


def test_a_table_with_row_level_security_which_copy_refuses(postgres_uri: str) -> None:
    role = f"limited_{secrets.token_hex(4)}"
    with PostgresSaver.from_conn_string(postgres_uri) as saver:
        saver.setup()
    tables.rows(
        postgres_uri,
        f"CREATE ROLE {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        "ALTER TABLE dual_items ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON dual_items USING (thread_id = 'thread')",
    )
    try:
        with psycopg.connect(postgres_uri, autocommit=True) as conn:
            conn.execute(f"SET ROLE {role}")
            saver = PostgresSaver(conn)
            made = checkpoint(LARGE)
            saver.put(config(), made, metadata(), made["channel_versions"])
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                saver.put(config("another"), made, metadata(), made["channel_versions"])
            assert {row[0] for row in rows_of_items(postgres_uri)} == {"thread"}
    finally:
        tables.rows(postgres_uri, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("turns", [5, 20, 60])
async def test_cancelled_on_its_way(postgres_uri: str, turns: int) -> None:
    """After some turns of the loop since its transaction was seen to have begun."""
    async with opened(KINDS[3].ours, postgres_uri, max_size=1) as saver:
        made = checkpoint(LARGE)
        task = asyncio.create_task(saver.aput(config(), made, metadata(), made["channel_versions"]))
        async with await psycopg.AsyncConnection.connect(postgres_uri, autocommit=True) as other:
            asking = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%' AND pid <> pg_backend_pid()"
            while not task.done() and not await (await other.execute(asking)).fetchall():
                pass
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        stored = await values_of(KINDS[3], postgres_uri, config())
        assert stored == LARGE if stored else task.cancelled() and rows_of_items(postgres_uri) == []
        await put(saver, config("next"), {"small": 2})
        assert await values_of(KINDS[3], postgres_uri, config("next")) == {"small": 2}
