"""Processes, event loops and threads: after fork(), on a second loop, from plain threads, while the saver is closed."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import Any

import aiosqlite
import pytest

import langgraph_checkpoint_dual as dual
from langgraph_checkpoint_dual.errors import ClosedError
from tests.faults import busy_worker, fork_worker
from tests.faults.common import rounds
from tests.faults.history import astep, is_whole, step
from tests.support import tables
from tests.support.checkpoints import config, listed
from tests.support.processes import Process, run
from tests.support.savers import Kind, opened


def of_backend(backend: str, request: pytest.FixtureRequest) -> tuple[str, str, Any]:
    if backend == "sqlite":
        return request.getfixturevalue("sqlite_path"), "path", dual.SqliteSaver
    return request.getfixturevalue("postgres_uri"), "postgres", dual.PostgresSaver


def forked(database: str, how: str) -> None:
    """Run a process that forks, in which all must be well."""
    ended = run("-m", "tests.faults.fork_worker", database, how, timeout=100, warnings=None)
    assert (ended.returncode, ended.stdout) == (0, "done"), ended.stderr
    noted = [line for line in ended.stderr.splitlines() if not line.startswith("slow: ")]
    assert noted == []  # nor was any attempt repeated


@pytest.mark.slow
class TestProcesses:
    @pytest.mark.parametrize("backend", ["sqlite", "postgres"])
    def test_parent_and_children_go_on_after_fork(self, backend: str, request: pytest.FixtureRequest) -> None:
        database, how, saver_class = of_backend(backend, request)
        for _ in range(rounds(2)):
            forked(database, how)
            with saver_class(database) as saver:
                found = list(saver.list(None))
                assert all(map(is_whole, found))
                threads = {one.config["configurable"]["thread_id"] for one in found}
                late = {f"child-{number}-late" for number in range(fork_worker.CHILDREN)}
                assert late <= threads
                assert len(found) == len(threads) * fork_worker.STEPS
                for thread in threads:
                    saver.delete_thread(thread)
        if backend == "sqlite":
            assert tables.rows(database, "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize("backend", ["sqlite", "postgres"])
    def test_a_fork_on_an_event_loop(self, backend: str, request: pytest.FixtureRequest) -> None:
        database, how, _ = of_backend(backend, request)
        forked(database, "loop" if how == "path" else f"{how}-loop")

    @pytest.mark.parametrize("backend", ["sqlite", "postgres"])
    def test_a_given_connection_is_refused_after_fork(self, backend: str, request: pytest.FixtureRequest) -> None:
        database, how, _ = of_backend(backend, request)
        forked(database, how.replace("path", "given").replace("postgres", "postgres-given"))

    def test_four_processes_of_eight_threads_share_a_file(self, sqlite_path: str) -> None:
        steps = rounds(8)
        command = ("-m", "tests.faults.busy_worker", sqlite_path)
        with ExitStack() as stack:
            workers = [stack.enter_context(Process(*command, f"process-{one}", str(steps))) for one in range(4)]
            said = [worker.communicate()[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * 4, said
        with dual.SqliteSaver(sqlite_path) as saver:
            found = list(saver.list(None))
        assert len(found) == 4 * busy_worker.THREADS * steps
        assert all(map(is_whole, found))
        assert tables.rows(sqlite_path, "PRAGMA integrity_check") == [("ok",)]


async def use(saver: Any, name: str) -> None:
    parents = await asyncio.gather(*(astep(saver, f"{name}-{one}", 0, None) for one in range(4)))
    assert all([is_whole(await saver.aget_tuple(parent)) for parent in parents])


def in_thread(work: Any) -> None:
    """Run a function in a thread of its own; its error is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.slow
class TestLoops:
    def test_one_loop_after_the_other(self, kind: Kind, database: str) -> None:
        saver = kind.ours(database)
        for number in range(3):
            asyncio.run(use(saver, f"loop-{number}"))
        saver.close()

    async def test_a_second_loop_beside(self, saver: Any) -> None:
        await use(saver, "here")
        for number in range(3):
            await asyncio.gather(
                asyncio.to_thread(asyncio.run, use(saver, f"there-{number}")), use(saver, f"here-{number}")
            )

    async def test_threads_without_a_loop(self, saver: Any) -> None:
        await use(saver, "here")
        await asyncio.gather(*(asyncio.to_thread(step, saver, f"there-{one}", 0, None) for one in range(8)))
        in_thread(lambda: step(saver, "there-8", 0, None))  # on the loop's own thread's time: it waits here
        assert len(await listed(saver, None)) == 4 + 9

    def test_a_cancelled_call_whose_loop_is_gone(self, sqlite_path: str) -> None:
        """The result comes when nobody listens any more; the connection lives on."""

        async def leave(saver: Any) -> None:
            task = asyncio.create_task(use(saver, "left"))
            await asyncio.sleep(0)
            task.cancel()

        saver = dual.AsyncSqliteSaver(sqlite_path)
        for _ in range(rounds(20)):
            asyncio.run(leave(saver))
        asyncio.run(use(saver, "last"))
        saver.close()

    async def test_a_second_loop_on_aiosqlite(self, sqlite_path: str) -> None:
        async with aiosqlite.connect(sqlite_path) as connection:
            saver = dual.AsyncSqliteSaver(connection)
            await use(saver, "here")
            await asyncio.gather(asyncio.to_thread(asyncio.run, use(saver, "there")), use(saver, "here"))


def write_until_closed(
    saver: Any, name: str, acknowledged: list[Any], ends: list[BaseException], first: threading.Event
) -> None:
    try:
        for number in range(1_000_000):
            acknowledged.append(step(saver, f"{name}-{number}", 0, None))
            first.set()
    except BaseException as exc:
        ends.append(exc)
        first.set()


@pytest.mark.slow
class TestClosing:
    async def test_with_threads_in_flight(self, kind: Kind, database: str) -> None:
        for _ in range(rounds(5)):
            saver = kind.ours(database)
            acknowledged: list[Any] = []
            ends: list[BaseException] = []
            first = threading.Event()
            threads = [
                threading.Thread(target=write_until_closed, args=(saver, f"thread-{one}", acknowledged, ends, first))
                for one in range(6)
            ]
            for thread in threads:
                thread.start()
            await asyncio.to_thread(first.wait)
            saver.close()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            await saver.aclose()
            assert [type(end) for end in ends] == [ClosedError] * 6, ends
            async with opened(kind.ours, database) as other:
                for stored in acknowledged:
                    assert is_whole(await other.aget_tuple(stored))

    async def test_with_tasks_in_flight(self, kind: Kind, database: str) -> None:
        for round_ in range(rounds(10)):
            saver = kind.ours(database)
            await astep(saver, f"first-{round_}", 0, None)
            tasks = [asyncio.create_task(astep(saver, f"task-{round_}-{one}", 0, None)) for one in range(12)]
            for _ in range(round_ * 3):
                await asyncio.sleep(0)
            await saver.aclose()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ends} <= {dict, ClosedError}, ends
            async with opened(kind.ours, database) as other:
                for end in ends:
                    assert isinstance(end, ClosedError) or is_whole(await other.aget_tuple(end))  # type: ignore[arg-type]
                assert all(map(is_whole, await listed(other, config(f"first-{round_}"))))
