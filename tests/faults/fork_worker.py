"""A process that forks while its saver is in use; parent and child both go on, and the parent closes first.

Usage: `python -m tests.faults.fork_worker DATABASE path|given|loop|postgres|postgres-given|postgres-loop`.
Prints "done" if all was well.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
import warnings
from typing import Any

import psycopg

import langgraph_checkpoint_dual as dual
from langgraph_checkpoint_dual.errors import ClosedError
from tests.faults.history import astep, is_whole, step

CHILDREN = 3
STEPS = 10


def write(saver: Any, thread_id: str) -> None:
    parent = None
    for number in range(STEPS):
        parent = step(saver, thread_id, number, parent)
        assert is_whole(saver.get_tuple(parent))


def child(saver: Any, number: int, closed: int) -> None:
    write(saver, f"child-{number}-early")
    os.read(closed, 1)  # until the parent has closed its saver
    write(saver, f"child-{number}-late")
    saver.close()


def main(saver: Any) -> None:
    write(saver, "before")
    beside = [threading.Thread(target=write, args=(saver, f"beside-{one}")) for one in range(4)]
    for thread in beside:
        thread.start()
    reading, writing = os.pipe()
    children = []
    for number in range(CHILDREN):
        if (pid := os.fork()) == 0:
            os.close(writing)
            try:
                child(saver, number, reading)
            except BaseException as exc:
                os.write(2, repr(exc).encode())
                os._exit(1)
            os._exit(0)
        children.append(pid)
    write(saver, "parent")
    for thread in beside:
        thread.join()
    saver.close()
    os.close(writing)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * CHILDREN
    os.write(1, b"done")


async def use(saver: Any, thread_id: str) -> None:
    parent = None
    for number in range(STEPS):
        parent = await astep(saver, thread_id, number, parent)
        assert is_whole(await saver.aget_tuple(parent))


async def on_a_loop(saver: Any) -> None:
    """Fork in a coroutine; the child goes on with a loop of its own, and without one."""
    await use(saver, "before")
    beside = asyncio.create_task(use(saver, "beside"))
    await asyncio.sleep(0)
    if (pid := os.fork()) == 0:
        try:
            write(saver, "child-blocking")
            asyncio.run(use(saver, "child"))
            saver.close()
        except BaseException as exc:
            os.write(2, repr(exc).encode())
            os._exit(1)
        os._exit(0)
    await use(saver, "parent")
    await beside
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert status == 0
    found = {one.config["configurable"]["thread_id"] async for one in saver.alist(None)}
    assert found == {"before", "beside", "parent", "child", "child-blocking"}
    await saver.aclose()
    os.write(1, b"done")


async def opened_on_a_loop(database: str, how: str) -> None:
    await on_a_loop(dual.AsyncSqliteSaver(database) if how == "loop" else dual.AsyncPostgresSaver(database))


def given(opened: Any) -> None:
    with opened as saver:
        write(saver, "parent")
        if (pid := os.fork()) == 0:
            try:
                saver.get_tuple({"configurable": {"thread_id": "parent"}})
            except ClosedError as exc:
                os._exit(0 if "fork" in str(exc) else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        write(saver, "parent")
    os.write(1, b"done")


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what this is about
    database, how = sys.argv[1:]
    if how == "path":
        main(dual.SqliteSaver(database))
    elif how == "given":
        given(dual.SqliteSaver(sqlite3.connect(database, check_same_thread=False)))
    elif how.endswith("loop"):
        asyncio.run(opened_on_a_loop(database, how))
    elif how == "postgres":
        main(dual.PostgresSaver(database, max_size=4))
    else:
        given(dual.PostgresSaver(psycopg.connect(database, autocommit=True)))
