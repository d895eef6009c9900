"""Moving threads between savers: what arrives is what was there, whatever the two savers are."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.types import Command

from langgraph_checkpoint_dual import PostgresSaver, SqliteSaver
from langgraph_checkpoint_dual.core.transfer import pages, transferring
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.transfer import Progress, TransferError, atransfer, transfer
from tests.support import postgres, tables
from tests.support.checkpoints import config
from tests.support.compare import key_of
from tests.support.graphs import asking, chat, said
from tests.support.processes import Process
from tests.support.runs import Session, thread, visible
from tests.support.savers import faced
from tests.support.transfers import everything, face_of, go_on, play, put_chain, saver_of

BLOCKING = ("sqlite", "postgres", "official sqlite", "official postgres", "memory")
ON_LOOPS = [
    ("sqlite-aio", "postgres-aio"),
    ("postgres-aio", "sqlite"),
    ("official sqlite-aio", "postgres-aio"),
    ("official postgres-aio", "sqlite-aio"),
    ("official sqlite", "official postgres-aio"),
    ("postgres", "official sqlite-aio"),
    ("memory", "postgres"),
]


@pytest.fixture
def databases(tmp_path: Path, postgres_server: postgres.Server) -> Iterator[Callable[[str], str]]:
    """Makes an empty database of the kind that is asked for."""
    numbers = count()
    with ExitStack() as stack:
        yield (
            lambda backend: (
                str(tmp_path / f"{next(numbers)}.db")
                if backend == "sqlite"
                else stack.enter_context(postgres_server.database())
            )
        )


async def moved(source: Any, target: Any, on_loop: bool, **options: Any) -> Any:
    return await atransfer(source, target, **options) if on_loop else transfer(source, target, **options)


OTHERS = [("official sqlite", "official postgres"), ("official postgres", "memory"), ("memory", "official sqlite")]
PAIRS = [
    *((one, two, False) for one in BLOCKING for two in BLOCKING if {one, two} & {"sqlite", "postgres"}),
    *((*pair, False) for pair in OTHERS),
    *((*pair, True) for pair in ON_LOOPS),
]


@pytest.mark.parametrize(("source_name", "target_name", "on_loop"), PAIRS)
async def test_between_any_two(databases: Any, source_name: str, target_name: str, on_loop: bool) -> None:
    async with saver_of(source_name, databases) as source, saver_of(target_name, databases) as target:
        here, there = face_of(source_name), face_of(target_name)
        await play(source, here)
        report = await moved(source, target, on_loop, verify=True)
        assert report.threads == report.changed == 4
        assert report.checkpoints == report.verified > 20
        for name in ("chat", "asking", "nested", "deltas"):
            assert await everything(target, there, name) == await everything(source, here, name)
        again = await moved(source, target, on_loop)
        assert (again.threads, again.changed, again.checkpoints, again.writes) == (4, 0, 0, 0)
        assert await go_on(target, there) == await go_on(source, here)


OURS = [("sqlite", "postgres"), ("postgres", "sqlite")]


@pytest.fixture(params=OURS, ids="-".join)
async def pair(request: pytest.FixtureRequest, databases: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Two empty savers of ours."""
    one, two = request.param
    async with saver_of(one, databases) as source, saver_of(two, databases) as target:
        yield source, target


HOSTILE = ["a\0b", "lone \ud800", "\ue0000000", "%s {threads} '\"; DROP TABLE x; --", "\U0010ffff" * 9, " ", "ns|a:b"]


class TestBetweenOurs:
    """Rows are copied as they are: also what only our savers know, and what LangGraph never writes."""

    async def test_ids_and_namespaces_of_any_kind(self, pair: Any) -> None:
        source, target = pair
        for thread_id in HOSTILE:
            for ns in ("", *HOSTILE):
                await put_chain(source, thread_id, 2, ns=ns)
        assert transfer(source, target, verify=True).verified == len(HOSTILE) * (len(HOSTILE) + 1) * 2
        for thread_id in HOSTILE:
            assert await everything(target, "blocking", thread_id) == await everything(source, "blocking", thread_id)

    async def test_every_row_arrives(self, pair: Any) -> None:
        source, target = pair
        await put_chain(source, "chat", 30, user_id="ann", title="A chat")
        await put_chain(source, "chat", 3, ns="inner:1")
        source.put_writes(config("chat", "", "not stored yet"), [("late", 1)], "task", "~path")
        source.threads.register("only registered", user_id="bob", title="T", metadata={"x": [1, None]})
        source.threads.update("chat", metadata={"color": "red"})
        source.threads.set_current("ann", "chat", "agent")
        report = transfer(source, target)
        assert report.changed == 2 and report.writes == 34 and report.bytes > 0
        assert stored(target) == stored(source)
        assert transfer(source, target).changed == 0

    async def test_long_threads_come_in_parts(self, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = pair
        monkeypatch.setattr(transferring, "_SPAN", 7)
        monkeypatch.setattr(pages, "PAGE_BYTES", 2000)
        await put_chain(source, "long", 40)
        await put_chain(source, "long", 3, ns="z")
        source.put_writes(config("long", "zz", "not stored yet"), [("late", 1)], "task")
        for number in range(5):
            await put_chain(source, f"short {number}", 2)
        steps: list[Progress] = []
        report = transfer(source, target, on_progress=steps.append)
        assert stored(target) == stored(source)
        assert report.checkpoints == 53 and len(steps) > 10
        assert (steps[-1].threads, steps[-1].checkpoints) == (6, 53)
        assert steps[0].threads_total == 6 and steps[-1].seconds_left == 0
        await put_chain(source, "short 1", 4, ns="later")
        assert transfer(source, target).checkpoints == 4
        assert stored(target) == stored(source)

    async def test_what_is_new_follows(self, pair: Any) -> None:
        source, target = pair
        session = Session(source, "blocking", chat, "sync")
        await session.run(said("first"), thread("chat"))
        transfer(source, target)
        before = counts(target)
        await session.run(said("second"), thread("chat"))
        report = transfer(source, target, verify=True)
        assert stored(target) == stored(source)
        assert report.checkpoints == counts(target)["checkpoints"] - before["checkpoints"]

    @pytest.mark.parametrize("recode", [False, True])
    async def test_an_interrupt_that_was_answered_meanwhile(self, pair: Any, recode: bool) -> None:
        source, target = pair
        session = Session(source, "blocking", asking, "sync")
        await session.run({"asked": ["start"]}, thread("asking"))
        transfer(source, target)
        await session.run(Command(resume="ann"), thread("asking"))  # the same checkpoint, other writes
        assert transfer(source, target, recode=recode).writes > 0
        assert await everything(target, "blocking", "asking") == await everything(source, "blocking", "asking")

    @pytest.mark.parametrize("recode", [False, True])
    async def test_an_interrupt_that_was_answered_in_the_target(self, pair: Any, recode: bool) -> None:
        source, target = pair
        session = Session(source, "blocking", asking, "sync")
        await session.run({"asked": ["start"]}, thread("asking"))
        transfer(source, target)
        await Session(target, "blocking", asking, "sync").run(Command(resume="ann"), thread("asking"))
        before = await everything(target, "blocking", "asking")
        assert transfer(source, target, recode=recode).writes == 0
        assert await everything(target, "blocking", "asking") == before


class TestAdopted:
    """A database in which the official saver has left threads, opened with ours."""

    @pytest.mark.parametrize("backend", ["sqlite", "postgres"])
    async def test_their_threads_and_ours_go_together(self, databases: Any, backend: str) -> None:
        where = databases(backend)
        async with saver_of(f"official {backend}", lambda _: where) as official:
            await play(official, "blocking")
            await put_chain(faced(official, "blocking"), "theirs", 2, user_id="ann")
        async with saver_of(backend, lambda _: where) as source, saver_of("sqlite", databases) as target:
            await Session(source, "blocking", chat, "sync").run(said("with ours"), thread("chat"))
            await put_chain(source, "new", 3, user_id="ann")
            assert transfer(source, target, user_id="ann", thread_ids=["theirs"]).checkpoints == 2
            assert transfer(source, target, user_id="ann").checkpoints == 3
            report = transfer(source, target, verify=True)
            assert (report.threads, report.changed) == (6, 4)
            for name in ("chat", "asking", "nested", "deltas", "theirs", "new"):
                assert await everything(target, "blocking", name) == await everything(source, "blocking", name)
            assert transfer(source, target).changed == 0
            assert await go_on(target, "blocking") == await go_on(source, "blocking")


class TestWhichThreads:
    async def fill(self, source: Any) -> None:
        for thread_id, user_id in (("a", "ann"), ("b", "bob"), ("c", "ann")):
            await put_chain(source, thread_id, 3, user_id=user_id)

    def ids(self, saver: Any) -> list[str]:
        return sorted({key_of(one)[0] for one in saver.list(None)})

    async def test_by_id(self, pair: Any) -> None:
        source, target = pair
        await self.fill(source)
        assert transfer(source, target, thread_ids=["b", "c", "b", "not there"]).changed == 2
        assert self.ids(target) == ["b", "c"]

    @pytest.mark.parametrize("others", [False, True])
    async def test_by_user_and_time(self, pair: Any, others: bool) -> None:
        source, target = (InMemorySaver(), pair[1]) if others else pair
        await self.fill(source)
        assert transfer(source, target, user_id="ann", thread_ids=["a", "b"]).changed == 1
        assert self.ids(target) == ["a"]
        assert transfer(source, target, user_id="ann").changed == 1
        assert self.ids(target) == ["a", "c"]
        future = datetime.now(timezone.utc) + timedelta(hours=1)
        assert transfer(source, target, since=future).threads == 0
        past = datetime(2020, 1, 1, tzinfo=timezone.utc)
        assert transfer(source, target, since=past).changed == 1
        assert self.ids(target) == ["a", "b", "c"]

    @pytest.mark.parametrize("recode", [False, True])
    async def test_latest_only(self, pair: Any, recode: bool) -> None:
        source, target = pair
        await play(source, "blocking")
        report = transfer(source, target, latest_only=True, recode=recode, verify=True)
        assert transfer(source, target, latest_only=True, recode=recode).changed == 0
        names = ["chat", "asking", "nested", "deltas"]
        source.prune(names)
        for name in names:
            assert await everything(target, "blocking", name) == await everything(source, "blocking", name)
        assert report.checkpoints == counts(source)["checkpoints"]
        assert await go_on(target, "blocking") == await go_on(source, "blocking")

    async def test_a_dry_run_only_counts(self, pair: Any) -> None:
        source, target = pair
        await self.fill(source)
        before = stored(target)
        dry = transfer(source, target, dry_run=True)
        assert stored(target) == before
        done = transfer(source, target)
        assert (dry.threads, dry.checkpoints, dry.writes, dry.bytes) == (3, 9, 9, done.bytes)
        assert transfer(source, target, dry_run=True).checkpoints == 0


class TestBothSidesWentOn:
    async def part(self, source: Any, target: Any) -> None:
        session = Session(source, "blocking", chat, "sync")
        await session.run(said("first"), thread("chat"))
        await put_chain(source, "other", 2)
        transfer(source, target, thread_ids=["chat"])
        await Session(target, "blocking", chat, "sync").run(said("there"), thread("chat"))

    @pytest.mark.parametrize("recode", [False, True])
    async def test_a_thread_that_went_on_in_the_target_is_left_alone(self, pair: Any, recode: bool) -> None:
        source, target = pair
        await self.part(source, target)
        before = await everything(target, "blocking", "chat")
        report = transfer(source, target, recode=recode, verify=True)
        assert (report.ahead, report.changed, report.conflicts) == (1, 1, [])
        assert await everything(target, "blocking", "chat") == before

    @pytest.mark.parametrize("recode", [False, True])
    async def test_histories_that_parted(self, pair: Any, recode: bool) -> None:
        source, target = pair
        await self.part(source, target)
        await Session(source, "blocking", chat, "sync").run(said("here"), thread("chat"))
        before = await everything(target, "blocking", "chat")
        with pytest.raises(TransferError, match=r"parted.*: chat") as raised:
            transfer(source, target, recode=recode, verify=True)
        assert raised.value.report.conflicts == ["chat"]
        assert await everything(target, "blocking", "other") == await everything(source, "blocking", "other")
        assert transfer(source, target, recode=recode, on_conflict="skip").conflicts == ["chat"]
        assert await everything(target, "blocking", "chat") == before
        dry = transfer(source, target, recode=recode, on_conflict="replace", dry_run=True)
        assert await everything(target, "blocking", "chat") == before
        report = transfer(source, target, recode=recode, on_conflict="replace", verify=True)
        assert report.checkpoints == dry.checkpoints == len(await everything(source, "blocking", "chat"))
        assert await everything(target, "blocking", "chat") == await everything(source, "blocking", "chat")
        assert await go_on_with_chat(target) == await go_on_with_chat(source)

    async def test_a_thread_that_was_deleted_in_the_target_comes_back(self, pair: Any) -> None:
        source, target = pair
        for recode in (False, True):
            await put_chain(source, "chat", 3)
            transfer(source, target, recode=recode)
            target.delete_thread("chat")
            transfer(source, target, recode=recode, verify=True)
            assert await everything(target, "blocking", "chat") == await everything(source, "blocking", "chat")
            for saver in pair:
                saver.delete_thread("chat")


async def go_on_with_chat(saver: Any) -> Any:
    session = Session(saver, "blocking", chat, "sync")
    await session.run(said("more"), thread("chat"))
    return visible((await session.state(thread("chat"))).values)


class TestInterruptions:
    @pytest.mark.parametrize(("one", "two"), [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite")])
    async def test_killed_at_any_moment_it_goes_on(self, databases: Any, one: str, two: str) -> None:
        """The last pair goes checkpoint by checkpoint, as with the savers of others."""
        recode = one == two
        async with saver_of(one, databases) as source, saver_of(two, databases) as target:
            threads = max(8, 3 * KILLS)
            for number in range(threads):
                await put_chain(source, f"thread {number}", 8, user_id=f"user {number}")
                await put_chain(source, f"thread {number}", 2, ns="inner")
            kills = 0
            while not run_and_kill(place_of(source), place_of(target), recode):
                kills += 1
                for found in target.list(None):  # whatever is there is whole
                    number = found.checkpoint["channel_values"]["number"]
                    assert len(found.checkpoint["channel_values"]["messages"]) == number + 1
                    assert found.pending_writes[0][1:] == ("number", number + 1)
            assert kills
            assert transfer(source, target, recode=recode, verify=True).checkpoints == 0
            if recode:
                for number in range(threads):
                    assert await everything(target, "blocking", f"thread {number}") == await everything(
                        source, "blocking", f"thread {number}"
                    )
                assert target.threads.list() == source.threads.list()
            else:
                assert stored(target) == stored(source)

    async def test_while_others_write_to_the_source(self, pair: Any) -> None:
        source, target = pair
        halt = threading.Event()

        def write(name: str) -> None:
            async def chains() -> None:
                while not halt.is_set():
                    configs = await put_chain(faced(source, "blocking"), name, 4)
                    source.put_writes(configs[1], [("more", 1)], "another task")

            asyncio.run(chains())

        with ThreadPoolExecutor(2) as executor:
            writers = [executor.submit(write, f"busy {number}") for number in range(2)]
            try:
                seen = 0
                while seen < 40:
                    transfer(source, target)
                    seen = sum(1 for _ in target.list(None))  # whatever is there can be read
            finally:
                halt.set()
        for writer in writers:
            writer.result()
        transfer(source, target, verify=True)
        assert stored(target) == stored(source)

    async def test_while_the_source_drops_its_history(self, databases: Any) -> None:
        halt = threading.Event()

        def write(saver: Any, name: str) -> None:
            async def chains() -> None:
                while not halt.is_set():
                    await put_chain(faced(saver, "blocking"), name, 4)

            asyncio.run(chains())

        with SqliteSaver(databases("sqlite")) as target, SqliteSaver(databases("sqlite"), history="latest") as source:
            with ThreadPoolExecutor(2) as executor:
                writers = [executor.submit(write, source, f"busy {number}") for number in range(2)]
                try:
                    for _ in range(10):
                        transfer(source, target, on_conflict="replace")
                        for found in target.list(None):  # whatever is there can be read
                            number = found.checkpoint["channel_values"]["number"]
                            assert len(found.checkpoint["channel_values"]["messages"]) == number + 1
                finally:
                    halt.set()
            for writer in writers:
                writer.result()
            transfer(source, target, on_conflict="replace", verify=True)
            assert stored(target)["dual_checkpoints"] == stored(source)["dual_checkpoints"]


KILLS = int(os.environ.get("DUAL_TEST_KILLS", "2"))
_rounds: dict[str, int] = {}


def run_and_kill(source: str, target: str, recode: bool) -> bool:
    """Start a transfer, and kill it after a while, but not the last time; whether it came to its end."""
    number = _rounds[target] = _rounds.get(target, 0) + 1
    with Process("-m", "tests.support.transfer_worker", source, target, str(int(recode))) as worker:
        if number <= KILLS:
            told = [worker.stdout.readline() for _ in range(random.randint(1, 6))]
            worker.kill()
            return "done\n" in told
        told, errors = worker.communicate()
    assert told.endswith("done\n"), errors
    return True


class TestMemory:
    async def test_paths_of_tasks_come_along(self, databases: Any) -> None:
        memory = InMemorySaver()
        configs = await put_chain(faced(memory, "blocking"), "long", 5)
        memory.put_writes(configs[-1], [("b", 1), ("a", 2), ("b", 3)], "first by path", "~0")
        memory.put_writes(configs[-1], [("__error__", "wrong")], "first by path", "~0")
        with SqliteSaver(databases("sqlite")) as saver:
            report = transfer(memory, saver, verify=True)
            assert (report.checkpoints, report.verified, report.lost) == (5, 5, ())
            back = InMemorySaver()
            assert transfer(saver, back, verify=True).verified == 5
        for place, written in memory.writes.items():
            assert {key: row[:2] + row[3:] for key, row in back.writes[place].items()} == {
                key: row[:2] + row[3:] for key, row in written.items()
            }


class TestSerializers:
    async def test_values_are_encrypted_and_decrypted_on_the_way(self, databases: Any) -> None:
        secret = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
        there = databases("sqlite")
        with SqliteSaver(databases("sqlite")) as source, SqliteSaver(there, serde=secret) as target:
            await play(source, "blocking")
            assert transfer(source, target, verify=True).checkpoints > 20
            for name in ("chat", "asking", "nested", "deltas"):
                assert await everything(target, "blocking", name) == await everything(source, "blocking", name)
            plain = {row.thread_id: row for row in source.threads.list().threads}
            assert {row.thread_id: row for row in target.threads.list().threads} == plain
        assert not any(b"turn 1" in value for table in ("dual_items", "dual_writes") for value in blobs(there, table))
        with SqliteSaver(there, serde=secret) as source, PostgresSaver(databases("postgres"), serde=secret) as target:
            transfer(source, target)
            assert await go_on(target, "blocking") == await go_on(source, "blocking")


class TestDamage:
    async def test_one_damaged_checkpoint_does_not_stop_the_others(self, pair: Any) -> None:
        source, target = pair
        await put_chain(source, "a", 3)
        damaged = (await put_chain(source, "b", 3))[1]
        await put_chain(source, "c", 3)
        where = damaged["configurable"]
        flip(place_of(source), "checkpoints", "checkpoint", "checkpoint_id", where["checkpoint_id"])
        transfer(source, target)
        with pytest.raises(TransferError, match=f"damaged in the source.*{where['checkpoint_id']}"):
            transfer(source, target, verify=True)
        assert await everything(target, "blocking", "c") == await everything(source, "blocking", "c")

    @pytest.mark.parametrize(
        ("table", "column"),
        [("checkpoints", "checkpoint"), ("checkpoints", "slots"), ("items", "data"), ("writes", "data")],
    )
    @pytest.mark.parametrize("recode", [False, True])
    async def test_verifying_finds_what_is_damaged_in_the_target(
        self, pair: Any, table: str, column: str, recode: bool
    ) -> None:
        source, target = pair
        for thread_id in ("a", "b", "c"):
            await put_chain(source, thread_id, 3)
        transfer(source, target)
        flip(place_of(target), table, column, "thread_id", "b")
        if column == "slots" and not recode:  # rows are compared by these, so they come again
            assert transfer(source, target, verify=True).checkpoints == 3
            return
        with pytest.raises(TransferError, match="damaged in the target") as raised:
            transfer(source, target, verify=True, recode=recode)
        assert all("'b'" in one for one in raised.value.report.differences)

    async def test_verifying_finds_what_is_missing_in_the_target(self, pair: Any) -> None:
        source, target = pair
        await put_chain(source, "a", 3)
        transfer(source, target, verify=True)
        tables.rows(place_of(target), "DELETE FROM dual_items WHERE seq = (SELECT min(seq) FROM dual_items)")
        with pytest.raises(TransferError, match=r"'a'.*channel 'messages': damaged in the target: .*missing"):
            transfer(source, target, verify=True)


class TestEnds:
    async def test_urls_and_paths(self, databases: Any, tmp_path: Path) -> None:
        one, two, three = databases("sqlite"), databases("postgres"), tmp_path / "three.db"
        with SqliteSaver(one) as saver:
            await put_chain(faced(saver, "blocking"), "chat", 3)
            expected = stored(saver)
        assert transfer(one, two).checkpoints == 3
        assert (await atransfer(two, three, verify=True)).verified == 3
        with SqliteSaver(three) as saver:
            assert stored(saver) == expected
        assert "three.db-wal" not in os.listdir(tmp_path)  # an export is one file

    async def test_what_cannot_be_transferred(self, databases: Any, tmp_path: Path) -> None:
        missing = tmp_path / "missing.db"
        with SqliteSaver(databases("sqlite")) as saver:
            with pytest.raises(ConfigError, match="there is no database"):
                transfer(missing, saver)
            with pytest.raises(ConfigError, match="there is no database"):
                await atransfer(missing, saver)
            with pytest.raises(ConfigError, match="the same saver"):
                transfer(saver, saver)
            with pytest.raises(ConfigError, match="on_conflict must be one of raise, skip, replace"):
                transfer(InMemorySaver(), saver, on_conflict="merge")
            with pytest.raises(ConfigError, match="thread_ids must be a list"):
                transfer(InMemorySaver(), saver, thread_ids="chat")
            with pytest.raises(ConfigError):
                transfer(InMemorySaver(), saver, since="yesterday")  # type: ignore[arg-type]
            with pytest.raises(ConfigError):
                transfer(7, saver)  # type: ignore[arg-type]
            async with saver_of("official sqlite-aio", databases) as official:
                with pytest.raises(ConfigError, match="atransfer"):
                    transfer(official, saver)
        assert not missing.exists()

    async def test_one_database_holds_both(self, databases: Any) -> None:
        where = databases("sqlite")
        with SqliteSaver(where) as source, SqliteSaver(where, prefix="other_") as target, SqliteSaver(where) as same:
            await put_chain(faced(source, "blocking"), "chat", 3)
            assert transfer(source, same).changed == 0
            assert transfer(source, target, verify=True).verified == 3

    async def test_a_caller_that_fails_or_stops_harms_nothing(self, pair: Any) -> None:
        source, target = pair
        await put_chain(source, "chat", 3)

        def fail(_: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            transfer(source, target, on_progress=fail)
        assert transfer(source, target, verify=True).verified == 3
        assert stored(target) == stored(source)


def flip(database: str, table: str, column: str, where: str, value: str) -> None:
    """Invert the last byte of a column."""
    if tables.is_postgres(database):
        last = f"length({column}) - 1"
        flipped, sign = f"set_byte({column}, {last}, get_byte({column}, {last}) # 255)", "%s"
    else:
        flipped, sign = f"flip({column})", "?"
    tables.rows(database, f"UPDATE dual_{table} SET {column} = {flipped} WHERE {where} = {sign}", (value,))


def stored(saver: Any) -> Any:
    """All rows of the tables, without what databases write in their own way."""
    found = {}
    for name, rows in tables.contents(place_of(saver)).items():
        if name not in ("dual_migrations", "dual_tombstones"):
            found[name] = sorted(([plain(value) for value in row] for row in rows), key=repr)
    return found


def plain(value: Any) -> Any:
    if isinstance(value, str) and value[:1] == "{":
        return json.loads(value)
    return bytes(value) if isinstance(value, memoryview) else value


def counts(saver: Any) -> dict[str, int]:
    return {name.removeprefix("dual_"): len(rows) for name, rows in tables.contents(place_of(saver)).items()}


def blobs(database: str, table: str) -> list[bytes]:
    return [value for row in tables.all_rows(database, table) for value in row if isinstance(value, bytes)]


def place_of(saver: Any) -> str:
    return str(getattr(saver.conn, "conninfo", saver.conn))
