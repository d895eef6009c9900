"""A mixed load on both databases at once, with random faults, for as long as is asked for; then everything is checked.

Usage: `python -m tests.faults.soak [--seconds 600] [--seed SEED]`, or `make soak`. The seed decides which faults come,
in which order and with which pauses. Each fault is a round, which ends when every worker has made progress again.
The exit code is 0 if nothing was lost, torn or left over.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import psycopg

from tests.faults.postgres_servers import Cluster, terminate
from tests.faults.soak_check import Findings, check
from tests.faults.soak_worker import OPTIONS
from tests.support.savers import KINDS, Kind

PATIENCE = 90.0
"""Seconds after which who makes no progress is stuck."""
_PERIOD = 0.02
_TOLD = 12_000
_SESSIONS = """
    SELECT row_to_json(s)::text FROM (
        SELECT pid, client_port, state, wait_event_type, wait_event, backend_start, xact_start, state_change,
            pg_blocking_pids(pid) AS blocked_by, left(query, 200) AS query
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    ) AS s"""
_BURST = 10
_COMPLAINTS = (b"Traceback", b"never retrieved", b"ResourceWarning")
Say: TypeAlias = Callable[[str], object]


class Member:
    """A place for a worker: one process at a time, and the journals of all that were in it."""

    def __init__(self, kind: Kind, database: str, folder: Path, seed: str) -> None:
        self.kind, self._database, self._folder, self._seed = kind, database, folder, seed
        self.journals: list[Path] = []
        self.explanation = ""
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        name = f"{self.kind.name}-{len(self.journals)}"
        self.journals.append(self._folder / f"{name}.jsonl")
        self.journals[-1].touch()
        command = [sys.executable, "-W", "default", "-m", "tests.faults.soak_worker", self.kind.name, self._database]
        with self.journals[-1].with_suffix(".log").open("wb") as log:
            self.process = subprocess.Popen([*command, str(self.journals[-1]), name, self._seed], stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, sign: bytes, since: int | None = None, patience: float = PATIENCE) -> bool:
        """Wait until the present process has written this to its journal from now on; whether it has."""
        deadline = time.monotonic() + patience
        with self.journals[-1].open("rb") as journal:
            journal.seek(self.journals[-1].stat().st_size if since is None else since)
            seen = b""
            while sign not in (seen := seen[-100:] + journal.read()):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    return False
                time.sleep(_PERIOD)  # a file does not tell of itself
        return True

    def progresses(self) -> bool:
        """Whether the process has an operation acknowledged that it begins from now on."""
        return self.wait_for(BEGUN) and self.wait_for(ACKNOWLEDGED)

    def stop(self) -> bool:
        """Let the process end by itself; whether it did."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE) == 0
        self.explanation = self.explain()
        self.kill()
        return False

    def explain(self) -> str:
        """Where the threads of the present process are, and what it had said before."""
        log = self.journals[-1].with_suffix(".log")
        self.process.send_signal(signal.SIGQUIT)
        time.sleep(1)  # the dump does not tell when it is complete
        return f"{log.stem} said:\n{log.read_bytes()[-_TOLD:].decode(errors='replace')}"


BEGUN = b'"op": '
ACKNOWLEDGED = b'"acknowledged": true'


class Arena:
    """A database, those that write to it, and the faults that happen to it."""

    def __init__(self, backend: str, database: str, folder: Path, seed: str) -> None:
        self.backend, self.database = backend, database
        self.members = [Member(kind, database, folder, seed) for kind in KINDS if kind.backend == backend]
        self.rounds = 0
        self.faults: Counter[str] = Counter()
        self.stuck: list[str] = []
        self.explanations: list[str] = []
        """Where those are who are stuck, and what leaked connections were at."""
        self.findings = Findings()

    def faults_of(self, rng: random.Random) -> list[tuple[str, Callable[[], object]]]:
        """Each kind of fault, ready to happen."""
        member = rng.choice(self.members)
        blocking, looping = self.members
        pause = rng.uniform(0.1, 1.0)
        return [
            ("kill -9 of a process", lambda: _replace(member)),
            ("process stopped for a while", lambda: _freeze(member.process.pid, pause)),
            ("operations cancelled", lambda: _signal_often(looping, rng)),
            ("Ctrl-C", lambda: _signal_often(blocking, rng)),
            ("process ended and started", lambda: self._restart(member)),
            ("process forked", lambda: _ask(blocking, signal.SIGHUP, b'"event": "forked"')),
            ("saver closed in use", lambda: _ask(member, signal.SIGWINCH, b'"event": "reopened"')),
        ]

    def happen(self, fault: str, cause: Callable[[], object]) -> None:
        cause()
        self.faults[fault] += 1
        self.rounds += 1
        self.wait_for_progress(fault)

    def wait_for_progress(self, after: str) -> None:
        """Wait until everyone goes on."""
        for member in self.members:
            if not member.progresses():
                self._note_stuck(f"{member.kind.name} after {after}", member.explain())

    def end(self) -> None:
        """Let all end, and look at what is there."""
        for member in self.members:
            if not member.stop():
                self._note_stuck(f"{member.kind.name} at the end", member.explanation)
        journals = [journal for member in self.members for journal in member.journals]
        self.findings = asyncio.run(check(self.members[0].kind, self.database, journals))
        for journal in journals:
            said = journal.with_suffix(".log").read_bytes()
            if any(complaint in said for complaint in _COMPLAINTS):
                self.findings.wrong.append(f"{journal.stem} said: {said[-3000:].decode(errors='replace')}")

    @property
    def clean(self) -> bool:
        return self.findings.clean and not self.stuck and self.rounds > 0

    def _restart(self, member: Member) -> None:
        if not member.stop():
            self._note_stuck(f"{member.kind.name} at its end", member.explanation)
        member.start()

    def _note_stuck(self, who: str, where: str) -> None:
        self.stuck.append(who)
        self.explanations.append(where)
        self.explanations += self.sessions()

    def sessions(self) -> list[str]:
        """What the sessions of the database are at, if it can tell."""
        return []


class SqliteArena(Arena):
    def faults_of(self, rng: random.Random) -> list[tuple[str, Callable[[], object]]]:
        return [*super().faults_of(rng), ("disk full", self._fill)]

    def _fill(self) -> None:
        process, blocking = self.members[0].process, self.members[0]
        size = blocking.journals[-1].stat().st_size
        process.send_signal(signal.SIGUSR2)
        blocking.wait_for(b'"unsettled": "full"', size, patience=10)
        process.send_signal(signal.SIGUSR2)


class PostgresArena(Arena):
    def __init__(self, cluster: Cluster, folder: Path, seed: str) -> None:
        super().__init__("postgres", cluster.uri, folder, seed)
        self._cluster = cluster

    def faults_of(self, rng: random.Random) -> list[tuple[str, Callable[[], object]]]:
        silence = OPTIONS["postgres"]["response_timeout"] + rng.uniform(0.2, 1.5)
        return [
            *super().faults_of(rng),
            ("all backends terminated", lambda: terminate(self.database, "backend_type = 'client backend'")),
            ("one backend terminated", lambda: self._terminate_one(rng)),
            ("idle connections dropped", lambda: terminate(self.database, "state = 'idle'")),
            ("backends silent", lambda: self._silence(silence)),
            ("server killed and started", self._crash),
            ("server restarted", self._cluster.restart),
        ]

    def _terminate_one(self, rng: random.Random) -> None:
        backends = self._backends()
        if backends:
            terminate(self.database, f"pid = {rng.choice(backends)}")

    def _backends(self) -> list[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        with psycopg.connect(self.database, autocommit=True) as conn:
            return [pid for (pid,) in conn.execute(query)]

    def _silence(self, seconds: float) -> None:
        with ExitStack() as stack:
            for pid in self._backends():
                stack.enter_context(_stopped(pid))
            time.sleep(seconds)

    def _crash(self) -> None:
        self._cluster.kill()
        self._cluster.start()

    def end(self) -> None:
        super().end()
        leaked = self.sessions()
        self.findings.leaked += len(leaked)
        self.explanations += leaked

    def sessions(self) -> list[str]:
        with suppress(psycopg.Error), psycopg.connect(self.database, autocommit=True, connect_timeout=10) as conn:
            return [f"session {row}" for (row,) in conn.execute(_SESSIONS)]
        return ["the server did not answer"]


def _signal_often(member: Member, rng: random.Random) -> None:
    for _ in range(_BURST):
        member.process.send_signal(signal.SIGUSR1)
        time.sleep(rng.uniform(0, 0.05))


def _ask(member: Member, sign: signal.Signals, answer: bytes) -> None:
    size = member.journals[-1].stat().st_size
    member.process.send_signal(sign)
    member.wait_for(answer, size)


def _replace(member: Member) -> None:
    member.kill()
    member.start()


def _freeze(pid: int, seconds: float) -> None:
    with _stopped(pid):
        time.sleep(seconds)


@contextmanager
def _stopped(pid: int) -> Any:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).resume()


def soak(seconds: float, seed: str, say: Say = lambda text: None) -> list[Arena]:
    """Run it, and check; what came out of each database."""
    with tempfile.TemporaryDirectory(prefix="dual-soak-") as name, Cluster.new() as cluster:
        folder = Path(name)
        arenas = [
            SqliteArena("sqlite", str(folder / "soak.db"), folder, seed),
            PostgresArena(cluster, folder, seed),
        ]
        for arena in arenas:
            for member in arena.members:
                member.start()
        try:
            with ThreadPoolExecutor(len(arenas)) as threads:
                for result in [threads.submit(_happen, arena, seconds, seed, say) for arena in arenas]:
                    result.result()
            for arena in arenas:
                say(f"{arena.backend}: checking")
                arena.end()
        finally:
            for arena in arenas:
                for member in arena.members:
                    member.kill()
    return arenas


def _happen(arena: Arena, seconds: float, seed: str, say: Say) -> None:
    rng = random.Random(f"{seed}.{arena.backend}")
    arena.wait_for_progress("the begin")
    begun = time.monotonic()
    bag: list[int] = []
    while (not arena.rounds or time.monotonic() - begun < seconds) and not arena.stuck:
        kinds = arena.faults_of(rng)
        if not bag:  # every kind once before any comes again
            bag += rng.sample(range(len(kinds)), len(kinds))
        time.sleep(rng.uniform(0, 0.5))
        fault, cause = kinds[bag.pop()]
        arena.happen(fault, cause)
        say(f"{time.monotonic() - begun:5.1f} s  {arena.backend:8}  round {arena.rounds:3}  {fault}")


def summary(arenas: list[Arena]) -> str:
    """What came out, for people."""
    lines = []
    for arena in arenas:
        found = arena.findings
        lines += [
            f"{arena.backend}: {arena.rounds} rounds, {sum(found.acknowledged.values()):,} operations acknowledged, "
            f"lost = {len(found.lost)}, torn = {len(found.torn)}, wrong = {len(found.wrong)}, "
            f"stuck = {len(arena.stuck)}, leaked connections = {found.leaked}",
            f"  acknowledged: {_counts(found.acknowledged)}",
            f"  unsettled: {_counts(found.unsettled)}",
            f"  faults: {_counts(arena.faults)}",
            *(f"  ! {text}" for text in (*found.lost, *found.torn, *found.wrong, *arena.stuck)[:20]),
            *(f"  ? {text}" for text in (*arena.explanations, *found.left_open)[:40]),
        ]
    return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counter.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long faults happen")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="decides on the faults")
    chosen = parser.parse_args()
    say(f"seed {chosen.seed}, {chosen.seconds:g} s")
    arenas = soak(chosen.seconds, chosen.seed, say)
    say(f"{summary(arenas)}\nseed {chosen.seed}")
    return 0 if all(arena.clean for arena in arenas) else 1


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
