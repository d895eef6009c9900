"""Many clients at once: tasks, threads, processes; on the spot and across a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.clients import CLIENTS, WRITES_A_STEP, Client, chat_thread
from benchmarks.measure import Stopwatch
from benchmarks.proxy import delayed
from benchmarks.savers import ASYNC, ASYNC_POSTGRES, SYNC, SYNC_POSTGRES, Saver, ensure_schema
from benchmarks.sites import Site
from benchmarks.workload import Trial, thread, workload

POOL = 16


@dataclass(frozen=True)
class Crowd:
    """Numbers of clients, and about how many steps all clients of one number do together."""

    clients: tuple[int, ...]
    steps: int
    pool: int = POOL

    def each(self, clients: int) -> int:
        """Steps of one client."""
        return max(2, self.steps // clients)


QUICK = Crowd((1, 4), 12, pool=4)


@workload(
    "puts-async",
    "tasks that do `aput` and `aput_writes` on threads of their own, pool of 16: steps a second",
    ASYNC,
    {"quick": QUICK, "default": Crowd((1, 16, 64, 256), 640)},
)
def puts_async(trial: Trial) -> None:
    _tasks(trial, trial.site, "puts")


@workload(
    "puts-threads",
    "threads that do `put` and `put_writes` on LangGraph threads of their own, pool of 16: steps a second",
    SYNC,
    {"quick": QUICK, "default": Crowd((1, 16, 32, 64, 256), 640)},
)
def puts_threads(trial: Trial) -> None:
    _threads(trial, trial.site, "puts")


@workload(
    "puts-network",
    "the same puts and writes with 2 ms a round trip to Postgres",
    (*ASYNC_POSTGRES, *SYNC_POSTGRES),
    {"quick": QUICK, "default": Crowd((1, 16, 64, 256), 320)},
)
def puts_network(trial: Trial) -> None:
    _over_network(trial, "puts")


@workload(
    "turns-async",
    "tasks that each run turns of a chat, pool of 16: turns a second",
    ASYNC,
    {"quick": QUICK, "default": Crowd((1, 16, 64, 256), 256)},
    max_rounds=3,
)
def turns_async(trial: Trial) -> None:
    _tasks(trial, trial.site, "turns")


@workload(
    "turns-threads",
    "threads that each run turns of a chat, pool of 16: turns a second",
    SYNC,
    {"quick": QUICK, "default": Crowd((1, 16, 64, 256), 256)},
    max_rounds=3,
)
def turns_threads(trial: Trial) -> None:
    _threads(trial, trial.site, "turns")


@workload(
    "turns-network",
    "turns of a chat with 2 ms a round trip to Postgres",
    (*ASYNC_POSTGRES, *SYNC_POSTGRES),
    {"quick": QUICK, "default": Crowd((1, 16, 64, 256), 128)},
    max_rounds=3,
)
def turns_network(trial: Trial) -> None:
    _over_network(trial, "turns")


def _over_network(trial: Trial, job: str) -> None:
    ensure_schema(trial.kind, trial.site.location)
    with delayed(trial.site.location) as location:
        site = Site(trial.kind, location)
        (_tasks if trial.kind.is_async else _threads)(trial, site, job)


def _tasks(trial: Trial, site: Site, job: str) -> None:
    for clients in trial.size.clients:
        _record(trial, job, clients, asyncio.run(_task_rate(site, job, clients, trial.size)))


def _record(trial: Trial, job: str, clients: int, rate: float) -> None:
    noun = "steps" if job == "puts" else "turns"
    trial.record(f"{noun} a second, {clients} client{'s' if clients > 1 else ''}", "1/s", rate)
    trial.point("a second", clients, rate)


async def _task_rate(site: Site, job: str, clients: int, crowd: Crowd) -> float:
    async with site.aopen(crowd.pool) as saver:
        members = _members(saver, job, clients)
        await asyncio.gather(*(member.astep() for member in members))  # opens connections, prepares statements
        with Stopwatch() as watch:
            await asyncio.gather(*(_arepeat(member, crowd.each(clients)) for member in members))
        return clients * crowd.each(clients) / watch.seconds


async def _arepeat(client: Client, steps: int) -> None:
    for _ in range(steps):
        await client.astep()


def _threads(trial: Trial, site: Site, job: str) -> None:
    for clients in trial.size.clients:
        _record(trial, job, clients, _thread_rate(site, job, clients, trial.size))


def _thread_rate(site: Site, job: str, clients: int, crowd: Crowd) -> float:
    with site.open(crowd.pool) as saver, ThreadPoolExecutor(clients) as executor:
        members = _members(saver, job, clients)
        list(executor.map(_repeat, members, [1] * clients))  # opens connections, prepares statements
        with Stopwatch() as watch:
            list(executor.map(_repeat, members, [crowd.each(clients)] * clients))
        return clients * crowd.each(clients) / watch.seconds


def _repeat(client: Client, steps: int) -> None:
    for _ in range(steps):
        client.step()


def _members(saver: Saver, job: str, clients: int) -> list[Client]:
    make = CLIENTS[job](saver)
    return [make(f"{clients}-{index}") for index in range(clients)]


@dataclass(frozen=True)
class Processes:
    """Processes, threads of each, steps of each thread, connections of each process."""

    processes: int
    threads: int
    steps: int
    pool: int = POOL


@workload(
    "puts-processes",
    "4 processes of 8 threads that do `put` and `put_writes` on one database: steps a second, errors, losses",
    SYNC,
    {"quick": Processes(2, 2, 3, 2), "default": Processes(4, 8, 20)},
)
def puts_processes(trial: Trial) -> None:
    _processes(trial, "puts", _lost_steps)


@workload(
    "turns-processes",
    "4 processes of 8 threads that run turns of a chat on one database: turns a second, errors, losses",
    SYNC,
    {"quick": Processes(2, 2, 2, 2), "default": Processes(4, 8, 5)},
    max_rounds=3,
)
def turns_processes(trial: Trial) -> None:
    _processes(trial, "turns", _lost_turns)


def _processes(trial: Trial, job: str, lost: Callable[[Saver, dict[str, int]], int]) -> None:
    size: Processes = trial.size
    ensure_schema(trial.kind, trial.site.location)
    load = processes.Load(trial.kind, trial.site.location, job, size.threads, size.steps, size.pool)
    done = processes.run(load, size.processes)
    acknowledged = {thread_id: steps for one in done for thread_id, steps in one.acknowledged.items()}
    seconds = max(one.ended for one in done) - min(one.started for one in done)
    timed = sum(one.timed for one in done)
    noun = "steps" if job == "puts" else "turns"
    trial.record(f"{noun} a second, {size.processes} × {size.threads}", "1/s", timed / seconds)
    trial.record("errors", "errors", sum(len(one.errors) for one in done))
    with trial.open() as saver:
        trial.record("acknowledged but lost", "errors", lost(saver, acknowledged))


def _lost_steps(saver: Saver, acknowledged: dict[str, int]) -> int:
    return sum(max(0, steps - _whole_checkpoints(saver, thread_id)) for thread_id, steps in acknowledged.items())


def _whole_checkpoints(saver: Saver, thread_id: str) -> int:
    found = saver.list(thread(thread_id))
    return sum(len(checkpoint.pending_writes or []) == WRITES_A_STEP for checkpoint in found)


def _lost_turns(saver: Saver, acknowledged: dict[str, int]) -> int:
    return sum(max(0, turns - _all_answers(saver, client, turns)) for client, turns in acknowledged.items())


def _all_answers(saver: Saver, client: str, turns: int) -> int:
    return sum(_answers(saver, thread_id) for thread_id in {chat_thread(client, turn) for turn in range(turns)})


def _answers(saver: Saver, thread_id: str) -> int:
    found = saver.get_tuple(thread(thread_id))
    messages = found.checkpoint["channel_values"].get("messages", []) if found else []
    return sum(message.type == "ai" for message in messages)
