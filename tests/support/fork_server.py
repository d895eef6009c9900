"""A process that has what others publish loaded, and is forked for each program that it is asked to run.

`python -W error fork_server.py DESCRIPTOR`: requests come through that socket, each with the file descriptors of the
program's stdin, stdout and stderr, and one for what becomes of it: its process id, and then its exit code. It ends when
nobody can ask any more. `processes.py` is the other side.

A program gets a process, a `__main__` and an interpreter's shutdown of its own, and loads the package anew; only what
others publish is there already, loaded with warnings as errors. As in any fork, `sys.flags` and the seed of hashes
are the parent's. Needs Linux.
"""

import builtins
import gc
import importlib
import importlib.util
import json
import os
import selectors
import signal
import socket
import sys
import types
import warnings
from typing import Any

# All that takes long to load; what a program needs besides it loads itself.
PRELOADED = (
    "aiosqlite",
    "langchain_core.documents",
    "langchain_core.language_models",
    "langchain_core.tools",
    "langgraph.graph",
    "langgraph.prebuilt",
    "ormsgpack",
    "psycopg",
    "psycopg_pool",
    "sqlite3",
)
LONGEST = 1 << 18


def serve(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request; returns in the forked processes only, with what they are to run and its streams."""
    running: dict[int, tuple[int, int]] = {}
    ready = selectors.PollSelector()
    ready.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is not control:
                ready.unregister(key.fd)
                finish(key.fd, *running.pop(key.fd))
                continue
            message, files, _, _ = socket.recv_fds(control, LONGEST, 4)
            if not message:
                sys.exit()
            *streams, report = files
            pid = os.fork()
            if pid == 0:
                control.detach()
                return json.loads(message), streams
            os.write(report, f"{pid}\n".encode())
            for stream in streams:
                os.close(stream)
            ended = os.pidfd_open(pid)
            ready.register(ended, selectors.EVENT_READ)
            running[ended] = pid, report


def finish(ended: int, pid: int, report: int) -> None:
    """Tell how a program ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.write(report, f"{code}\n".encode())
    except BrokenPipeError:  # nobody wants to know
        pass
    finally:
        os.close(report)
        os.close(ended)


def become(request: dict[str, Any], streams: list[int]) -> Any:
    """Make this process what a new one would be; the code to run in `__main__`, and its globals."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 1 << 16)
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    if request["warnings"] != "error":
        warnings.filters.remove(("error", None, Warning, None, 0))  # type: ignore[attr-defined]
        if request["warnings"]:
            warnings.simplefilter(request["warnings"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    program, *arguments = request["argv"]
    if program == "-m":
        sys.path.insert(0, os.getcwd())
        found = importlib.util.find_spec(arguments.pop(0))
        code = found.loader.get_code(found.name)  # type: ignore[union-attr]
        sys.argv = [found.origin, *arguments]  # type: ignore[union-attr]
        return code, {"__spec__": found, "__package__": found.parent, "__file__": found.origin}  # type: ignore[union-attr]
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    sys.argv = [program, *arguments]
    with open(program, "rb") as script:
        return compile(script.read(), program, "exec", dont_inherit=True), {"__file__": program}


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for those who ask
    del sys.path[0]  # this folder
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or every program would copy all that is loaded when it collects
    request, streams = serve(control)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code, names = become(request, streams)
    __main__ = sys.modules["__main__"] = types.ModuleType("__main__")
    __main__.__dict__.update(__builtins__=builtins, **names)
    exec(code, __main__.__dict__)


if __name__ == "__main__":
    main()
