"""Every method works from any thread, inside and outside a loop, whichever class it is called on."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.compare import answer
from tests.support.savers import Kind

THREADS = 8


def chain(saver: Any, name: str, length: int = 10) -> list[Any]:
    """A thread's checkpoints, put and read back through the blocking methods; their configs."""
    configs = [config(name)]
    for step in range(length):
        made = checkpoint({"log": [f"{name} {n}" for n in range(step * 5)]})
        configs.append(saver.put(configs[-1], made, metadata(step=step), made["channel_versions"]))
        saver.put_writes(configs[-1], [("log", step)], "task")
        assert saver.get_tuple(configs[-1]).pending_writes == [("task", "log", step)]
    return configs[1:]


async def achain(saver: Any, name: str, length: int = 10) -> list[Any]:
    """As `chain`, through the awaited methods."""
    configs = [config(name)]
    for step in range(length):
        configs.append(await put(saver, configs[-1], {"log": [f"{name} {n}" for n in range(step * 5)]}, step=step))
        await saver.aput_writes(configs[-1], [("log", step)], "task")
        assert (await saver.aget_tuple(configs[-1])).pending_writes == [("task", "log", step)]
    return configs[1:]


async def test_many_threads_and_tasks_at_once(saver: Any) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as pool:
        blocking = [loop.run_in_executor(pool, chain, saver, f"blocking {n}") for n in range(THREADS)]
        awaited = [achain(saver, f"awaited {n}") for n in range(THREADS)]
        for configs in await asyncio.gather(*blocking, *awaited):
            found = await listed(saver, config(configs[0]["configurable"]["thread_id"]))
            assert [one.config for one in found] == configs[::-1]


async def test_many_tasks_on_one_thread_id(saver: Any) -> None:
    root = await put(saver, values={"log": ["root"] * 40})
    stored = await asyncio.gather(*(put(saver, root, {"log": ["root"] * 40 + [n]}) for n in range(20)))
    for n, one in enumerate(stored):
        assert (await saver.aget_tuple(one)).checkpoint["channel_values"]["log"] == ["root"] * 40 + [n]
    assert len(await listed(saver, config())) == 21


async def test_blocking_call_from_inside_a_task_on_the_loop(saver: Any) -> None:
    """Code of a node may call a blocking graph from inside an async one."""
    await asyncio.gather(achain(saver, "awaited"), asyncio.sleep(0))
    chain(saver, "blocking in the loop")
    assert answer(saver.get_tuple(config("awaited"))) == answer(await saver.aget_tuple(config("awaited")))


async def test_other_loops_in_other_threads(saver: Any) -> None:
    await achain(saver, "here")
    with ThreadPoolExecutor(2) as pool:
        loops = [
            asyncio.get_running_loop().run_in_executor(pool, asyncio.run, achain(saver, f"there {n}")) for n in range(2)
        ]
        await asyncio.gather(*loops, achain(saver, "here, meanwhile"))
    assert len(await listed(saver, None)) == 40


def test_with_no_loop_at_all(kind: Kind, database: str) -> None:
    with kind.ours(database) as saver:
        saver.get_tuple(config())
        configs = chain(saver, "thread")
        assert [one.config for one in saver.list(config())] == configs[::-1]
        saver.copy_thread("thread", "copy")
        saver.prune(["copy"])
        assert len(list(saver.list(config("copy")))) == 1
        saver.delete_for_runs(["nobody"])
        saver.delete_thread("thread")
        assert saver.get(config()) is None
        assert saver.get_delta_channel_history(config=config("copy"), channels=["log"]) == {"log": {"writes": []}}


def test_one_loop_after_another(kind: Kind, database: str) -> None:
    with kind.ours(database) as saver:
        for n in range(3):
            assert len(asyncio.run(achain(saver, f"thread {n}"))) == 10
            assert saver.get(config(f"thread {n}")) is not None
