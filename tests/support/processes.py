"""Python programs in processes of their own, without each of them loading LangGraph for seconds.

They are forked from a process that has loaded it (`fork_server.py`). Tests of what a program loads, and of how an
interpreter begins and ends, start theirs with `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

SERVER = Path(__file__).with_name("fork_server.py")


@functools.cache
def _server(pid: int) -> socket.socket:
    """The connection of this process to a server of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-W", "error", str(SERVER), str(theirs.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


class Process:
    """A running program, as `subprocess.Popen` shows one; pipes are text.

    `argv` is a script, or "-m" and a module, and then the arguments. `warnings` is what `-W` says, if anything. A
    stream is a file descriptor, `subprocess.PIPE` or `subprocess.DEVNULL`.
    """

    def __init__(
        self,
        *argv: str | Path,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        warnings: Literal["error", "ignore"] | None = "error",
    ) -> None:
        self.returncode: int | None = None
        self._reading = threading.Lock()
        request = {
            "argv": [str(one) for one in argv],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "new_session": start_new_session,
            "warnings": warnings,
        }
        with ExitStack() as given:
            self.stdin, reads = _pipe(stdin, given, writes=True)
            self.stdout, writes = _pipe(stdout, given)
            self.stderr, complains = _pipe(stderr, given)
            self._report, report = _pipe(subprocess.PIPE, given)
            socket.send_fds(_server(os.getpid()), [json.dumps(request).encode()], [reads, writes, complains, report])
        self.pid = int(self._report.readline())

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        with self._reading:
            if self.returncode is None and select.select([self._report], [], [], 0)[0]:
                self.returncode = int(self._report.readline())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._report], [], [], timeout)[0]:  # stays readable from its end on
            raise TimeoutError(f"process {self.pid} has not ended after {timeout} seconds")
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, given: str = "") -> tuple[str, str]:
        """Write all of its input, wait until it has ended; what it has written to its two streams."""
        errors: list[str] = []
        reading = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        reading.start()
        with suppress(BrokenPipeError):
            self.stdin.write(given)
            self.stdin.close()
        said = self.stdout.read()
        reading.join()
        self.wait()
        return said, errors[0]

    def close(self) -> None:
        """Kill it if it is not at its end yet, and close our ends of its pipes."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr, self._report):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(*argv: str | Path, given: str = "", timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, but kill it after `timeout` seconds; as `subprocess.run` tells what became of it."""
    with Process(*argv, **options) as process:
        late = threading.Timer(timeout, process.kill)
        late.start()
        try:
            said, errors = process.communicate(given)
        finally:
            late.cancel()
        return subprocess.CompletedProcess(argv, process.wait(), said, errors)


def _pipe(how: int, given: ExitStack, *, writes: bool = False) -> tuple[Any, int]:
    """Our end of a stream, if it is a pipe, and the program's, which is closed here once it is given."""
    if how == subprocess.DEVNULL:
        how = os.open(os.devnull, os.O_RDWR)
        given.callback(os.close, how)
    if how != subprocess.PIPE:
        return None, how
    read, write = os.pipe()
    ours, theirs = (write, read) if writes else (read, write)
    given.callback(os.close, theirs)
    return open(ours, "w" if writes else "r", encoding="utf-8"), theirs
