"""What becomes of a saver, ours or the official one, whose Postgres server, or the way to it, fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tests.faults.common import Report
from tests.faults.crash import check
from tests.faults.disks import Disk, database_on
from tests.faults.filling import fill_rounds
from tests.faults.history import astep, step
from tests.faults.postgres_servers import Cluster, Proxy, execute, pgbouncer, terminate, until_one_waits
from tests.support import tables
from tests.support.savers import OURS, Kind, faced, opened

PATIENCE = 10.0


def going_on(
    kind: Kind, database: str, package: str, rounds: int, cause: Callable[[], object], through: str | None = None
) -> Report:
    """Cause a fault before each next step of one saver, which ought to go on; then look at what is there."""
    report, acknowledged = Report(), list[tuple[str, int, str]]()
    options: dict[str, Any] = {"response_timeout": 1.0} if package == OURS else {}

    async def run() -> None:
        async with opened(kind.load(package), through or database, **options) as saver:
            subject = faced(saver, kind.face)
            for number in range(rounds + 1):
                if number:
                    await asyncio.to_thread(cause)
                    report.rounds += 1
                try:
                    stored = await asyncio.wait_for(astep(subject, f"thread-{number}", 3, None), PATIENCE)
                except Exception:
                    report.stuck += 1
                else:
                    acknowledged.append((f"thread-{number}", 3, stored["configurable"]["checkpoint_id"]))

    def run_to_the_end() -> None:
        with suppress(Exception):  # some cannot even be closed afterwards
            asyncio.run(run())

    thread = threading.Thread(target=run_to_the_end, daemon=True)
    thread.start()
    thread.join(PATIENCE * (rounds + 1))
    report.stuck += thread.is_alive()
    report.acknowledged = len(acknowledged)
    asyncio.run(check(kind, database, list(acknowledged), report, package))
    return report


def one_step(kind: Kind, database: str, package: str) -> bool:
    """What another process does; whether it could."""

    async def run() -> None:
        async with opened(kind.load(package), database) as saver:
            await astep(faced(saver, kind.face), "beside", 3, None)

    try:
        asyncio.run(run())
    except Exception:
        return False
    return True


def with_proxy(
    kind: Kind, database: str, package: str, rounds: int, cause: Callable[[Proxy], object] = Proxy.silence
) -> Report:
    with Proxy(database) as proxy:
        return going_on(kind, database, package, rounds, lambda: cause(proxy), proxy.uri)


def with_pooler(kind: Kind, database: str, package: str, rounds: int, mode: str) -> Report:
    worked: list[bool] = []
    with pgbouncer(database, mode) as pooled:
        beside = lambda: worked.append(one_step(kind, pooled, package))  # noqa: E731
        report = going_on(kind, database, package, rounds, beside, pooled)
    report.stuck = min(report.rounds, report.stuck + worked.count(False))
    return report


def with_cluster(kind: Kind, package: str, rounds: int) -> Report:
    with Cluster.new() as cluster:

        def crash() -> None:
            cluster.kill()
            cluster.start()

        return going_on(kind, cluster.uri, package, rounds, crash)


def with_restarts(kind: Kind, package: str, rounds: int) -> Report:
    with Cluster.new() as cluster:
        return going_on(kind, cluster.uri, package, rounds, cluster.restart)


def with_failover(kind: Kind, package: str) -> Report:
    """The primary is killed and its standby promoted; the connection string names both."""
    with Cluster.new() as primary, primary.standby() as standby:
        hosts = f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres dbname=postgres"

        def fail_over() -> None:
            primary.kill()
            standby.promote()

        return going_on(kind, standby.uri, package, 1, fail_over, f"{hosts} target_session_attrs=read-write")


def terminated_during(kind: Kind, database: str, package: str, rounds: int) -> Report:
    """A lock holds up a step until its backend is terminated; the step itself must end well."""
    return asyncio.run(_terminated_during(kind, database, package, rounds))


async def _terminated_during(kind: Kind, database: str, package: str, rounds: int) -> Report:
    report, acknowledged = Report(), list[tuple[str, int, str]]()
    async with _unclosed(kind, database, package) as saver:
        for number in range(rounds):
            report.rounds += 1
            async with await psycopg.AsyncConnection.connect(database) as holder:
                names = ", ".join(sorted(tables.data_tables(database)))
                await holder.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
                task = asyncio.create_task(_step(kind, saver, f"thread-{number}"))
                waiting = asyncio.create_task(until_one_waits(database))
                await asyncio.wait({task, waiting}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                terminate(database, "wait_event_type = 'Lock'")
                await holder.rollback()
            try:
                stored = await asyncio.wait_for(task, PATIENCE)
            except Exception:
                report.stuck += 1
            else:
                acknowledged.append((f"thread-{number}", 3, stored["configurable"]["checkpoint_id"]))
    await check(kind, database, acknowledged, report, package)
    report.acknowledged = len(acknowledged)
    return report


@asynccontextmanager
async def _unclosed(kind: Kind, database: str, package: str) -> AsyncIterator[Any]:
    """A saver whose end may fail."""
    manager = opened(kind.load(package), database)
    saver = await manager.__aenter__()
    try:
        yield saver
    finally:
        with suppress(Exception):
            await manager.__aexit__(None, None, None)


async def _step(kind: Kind, saver: Any, thread_id: str) -> Any:
    if kind.face == "async":
        return await astep(saver, thread_id, 3, None)
    return await asyncio.to_thread(step, saver, thread_id, 3, None)


def with_exhausted_pool(kind: Kind, database: str, package: str, rounds: int) -> Report:
    """All connections of a pool are in use for longer than it waits; then they are free again."""
    return asyncio.run(_with_exhausted_pool(kind, database, package, rounds))


async def _with_exhausted_pool(kind: Kind, database: str, package: str, rounds: int) -> Report:
    report, acknowledged = Report(), list[tuple[str, int, str]]()
    async with opened(kind.load(package), database):
        pass  # the tables are there
    kwargs = {"autocommit": True, "row_factory": dict_row}
    options: dict[str, Any] = {"kwargs": kwargs, "min_size": 1, "max_size": 1, "timeout": 0.5, "open": False}
    pool: Any = (ConnectionPool if kind.face == "blocking" else AsyncConnectionPool)(database, **options)
    saver: Any = kind.load(package)(pool)
    for number in range(rounds):
        report.rounds += 1
        held = pool.connection()
        if kind.face == "blocking":
            pool.open()
            with held:
                refused = await _refused(kind, saver)
        else:
            await pool.open()
            async with held:
                refused = await _refused(kind, saver)
        try:
            stored = await asyncio.wait_for(_step(kind, saver, f"thread-{number}"), PATIENCE)
        except Exception:
            refused = False
        else:
            acknowledged.append((f"thread-{number}", 3, stored["configurable"]["checkpoint_id"]))
        report.stuck += not refused
    if kind.face == "blocking":
        pool.close()
    else:
        await pool.close()
    await check(kind, database, acknowledged, report, package)
    report.acknowledged = len(acknowledged)
    return report


async def _refused(kind: Kind, saver: Any) -> bool:
    """Whether a step fails in time, rather than waiting for ever."""
    task = asyncio.create_task(_step(kind, saver, "refused"))
    ended, _ = await asyncio.wait([task], timeout=PATIENCE)
    return bool(ended) and task.exception() is not None


async def in_a_transaction(kind: Kind, database: str, package: str) -> Report:
    """Set up, and step, on a connection whose caller has begun a transaction, and commits it."""
    report = Report(rounds=1)
    options: dict[str, Any] = {"autocommit": True, "row_factory": dict_row}
    with suppress(Exception):
        if kind.face == "blocking":
            with psycopg.connect(database, **options) as connection, connection.transaction():
                saver: Any = kind.load(package)(connection)
                saver.setup()
                stored = step(saver, "thread", 3, None)
        else:
            async with await psycopg.AsyncConnection.connect(database, **options) as on_loop, on_loop.transaction():
                loop_saver: Any = kind.load(package)(on_loop)
                await loop_saver.setup()
                stored = await astep(loop_saver, "thread", 3, None)
        report.acknowledged = 1
    report.stuck += not report.acknowledged
    if report.acknowledged:
        await check(kind, database, [("thread", 3, stored["configurable"]["checkpoint_id"])], report, package)
    return report


def as_clerk(kind: Kind, database: str, package: str) -> Report:
    """An administrator makes the tables; then a role that may not create any is used, `setup()` included."""
    report, role = Report(rounds=1), f"clerk_{conninfo_to_dict(database)['dbname']}"
    asyncio.run(_open_once(kind, database, package))
    execute(database, f"CREATE ROLE {role} LOGIN")
    try:
        execute(database, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        execute(database, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        report.add(going_on(kind, database, package, 0, lambda: None, make_conninfo(database, user=role)))
        report.stuck += report.acknowledged == 0
    finally:
        execute(database, f"DROP OWNED BY {role}")
        execute(database, f"DROP ROLE {role}")
    return report


async def _open_once(kind: Kind, database: str, package: str) -> None:
    async with opened(kind.load(package), database):
        pass


def with_full_disk(kind: Kind, package: str, rounds: int, cluster: Cluster) -> Report:
    with Disk.mounted(48) as disk, database_on(disk, kind, cluster) as database:
        return asyncio.run(fill_rounds(kind, database, disk, rounds, package))[0]
