"""A disk that is really full: a clear error, nothing acknowledged lost, and it goes on when there is space."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from langgraph_checkpoint_dual.errors import UnavailableError
from tests.faults.common import Report, rounds
from tests.faults.crash import check
from tests.faults.disks import Disk, database_on
from tests.faults.filling import LEFT, fill_rounds
from tests.faults.history import astep
from tests.faults.postgres_servers import Cluster, folder
from tests.support.checkpoints import config, listed
from tests.support.savers import KINDS, Kind, faced, opened

FULL = ("database or disk is full", "No space left on device")
"""SQLite's words, and those that Postgres has from the system."""


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk.mounted(48) as found:
        yield found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.new() as found:
        yield found


@pytest.fixture
def database(kind: Kind, disk: Disk, request: pytest.FixtureRequest) -> Iterator[str]:
    cluster = request.getfixturevalue("cluster") if kind.backend == "postgres" else None
    with database_on(disk, kind, cluster) as found:
        yield found


async def forever(work: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again, until it fails."""
    for _ in range(2000):
        await work()


def says_so(error: BaseException) -> bool:
    return any(text in str(error) for text in FULL)


@pytest.mark.slow
async def test_whatever_is_stored_there(kind: Kind, database: str, disk: Disk) -> None:
    report, said = await fill_rounds(kind, database, disk, rounds(2))
    assert report.clean, report
    assert said
    assert all(map(says_so, said)), said


@pytest.mark.slow
async def test_a_copy_that_does_not_fit_leaves_nothing(kind: Kind, database: str, disk: Disk) -> None:
    async with opened(kind.ours, database) as saver:
        subject = faced(saver, kind.face)
        parent = None
        for number in range(8):
            parent = await astep(subject, "thread", number, parent)
        disk.fill(LEFT)
        copies: list[str] = []

        async def copy() -> None:
            name = f"copy-{len(copies)}"
            await subject.acopy_thread("thread", name)
            copies.append(name)

        with pytest.raises(Exception, match="|".join(FULL)):
            await forever(copy)
        assert await listed(subject, config(f"copy-{len(copies)}")) == []
        disk.free()
        await subject.acopy_thread("thread", f"copy-{len(copies)}")
        for name in ("thread", *copies, f"copy-{len(copies)}"):
            found = await listed(subject, config(name))
            assert [one.checkpoint["channel_values"]["number"] for one in found] == list(range(7, -1, -1))
            assert len(found[0].pending_writes) == 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[2:], ids=str)
async def test_a_server_that_cannot_write_its_log(kind: Kind) -> None:
    """Postgres crashes then. Once it has space and is started again, the same saver goes on."""
    acknowledged: list[tuple[str, int, str]] = []
    options = ["--wal-segsize=1", "-X"]
    with Disk.mounted(64) as disk, folder() as home, Cluster.made(home, *options, disk.folder("log")) as cluster:
        async with opened(kind.ours, cluster.uri, retry_for=0.5) as saver:
            subject = faced(saver, kind.face)

            async def write(thread: str) -> None:
                stored = await astep(subject, thread, 99, None)
                acknowledged.append((thread, 99, stored["configurable"]["checkpoint_id"]))

            disk.fill(2 * LEFT)
            with pytest.raises(UnavailableError):
                await forever(lambda: write(f"full-{len(acknowledged)}"))
            disk.free()
            cluster.kill()
            cluster.start()
            await write("after")
        report = Report()
        await check(kind, cluster.uri, acknowledged, report)
    assert (report.lost, report.torn) == (0, 0)
    assert len(acknowledged) > 1
