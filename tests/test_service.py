"""The example chat service, over real HTTP: a server process on each database, users at once, and a restart."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import httpx
import pytest

from tests.support import processes
from tests.test_examples import EXAMPLES, PATIENCE, as_url, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
USERS = ("ada", "bob", "cleo")


@contextmanager
def serving(database: str, *arguments: str) -> Iterator[str]:
    """The service in a process of its own; its address."""
    options = ("--port", "0", "--model", "local", *arguments)
    process = processes.Process(
        EXAMPLES / "service.py", *options, env=environment(CHECKPOINTER_URL=database), stdout=DEVNULL
    )
    said, deadline, log = "", time.monotonic() + PATIENCE, process.stderr.fileno()
    try:
        while not (found := re.search(r"running on (http://\S+)", said)):
            ready = select.select([log], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(log, 65536).decode() if ready else ""
            assert piece, said
            said += piece
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, said
        said += os.read(log, 65536).decode()
    finally:
        process.close()
    assert "Traceback" not in said


def client(address: str, user: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, headers={"X-User": user}, timeout=PATIENCE, trust_env=False)


async def asked(call: Any, status: int = 200) -> Any:
    response = await call
    assert response.status_code == status, response.text
    return response.json() if response.content else None


async def live(address: str, user: str) -> list[str]:
    """What a user does: two threads, and some messages in each, in turns."""
    async with client(address, user) as http:
        named = await asked(http.post("/threads", json={"title": f"{user}'s first"}), 201)
        unnamed = await asked(http.post("/threads", json={}), 201)
        for text in (f"my name is {user}", "the door is green", "what is my name?"):
            answer = await asked(http.post(f"/threads/{named['thread_id']}/messages", json={"text": text}))
        assert (answer["role"], answer["text"], answer["idx"]) == ("ai", f"Your name is {user}.", 5)
        await asked(http.post(f"/threads/{unnamed['thread_id']}/messages", json={"text": f"a river, {user}"}))
        return [named["thread_id"], unnamed["thread_id"]]


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_the_service(backend: str, postgres_uri: str, tmp_path: Path) -> None:
    database = as_url(postgres_uri) if backend == "postgres" else f"sqlite:///{tmp_path}/chats.db"
    with serving(database, "--budget", "60") as address:
        threads = dict(zip(USERS, await asyncio.gather(*(live(address, user) for user in USERS)), strict=True))
        for user in USERS:
            await check(address, user, threads[user])
        async with client(address, "eve") as http:
            await strangers(http, threads["ada"][0])
        async with client(address, "ada") as http:
            await one_thread_at_once(http, threads["ada"][0])
            await budget(http, threads["ada"][1])
    with serving(database) as address:
        await check(address, "bob", threads["bob"])
        async with client(address, "bob") as http:
            await asked(http.patch(f"/threads/{threads['bob'][0]}", json={"title": "renamed", "pinned": True}))
            await asked(http.delete(f"/threads/{threads['bob'][1]}"), 204)
            [left] = (await asked(http.get("/threads")))["threads"]
            assert (left["title"], left["pinned"]) == ("renamed", True)
            assert await asked(http.get("/search", params={"q": "river"})) == []


async def check(address: str, user: str, threads: list[str]) -> None:
    first, second = threads
    async with client(address, user) as http:
        page = await asked(http.get("/threads", params={"limit": 1}))
        assert [(one["thread_id"], one["title"]) for one in page["threads"]] == [(second, f"a river, {user}")]
        page = await asked(http.get("/threads", params={"limit": 1, "cursor": page["cursor"]}))
        assert [(one["thread_id"], one["title"]) for one in page["threads"]] == [(first, f"{user}'s first")]

        page = await asked(http.get(f"/threads/{first}/messages", params={"limit": 2}))
        assert [one["text"] for one in page] == ["what is my name?", f"Your name is {user}."]
        page = await asked(http.get(f"/threads/{first}/messages", params={"limit": 3, "before": page[0]["idx"]}))
        assert [(one["idx"], one["role"]) for one in page] == [(1, "ai"), (2, "human"), (3, "ai")]

        hits = await asked(http.get("/search", params={"q": f'river "{user}"'}))
        assert {(hit["thread_id"], hit["idx"]) for hit in hits} == {(second, 0)}
        assert hits[0]["snippet"] == f"a **river, {user}**"
        await asked(http.get("/search", params={"q": '" OR 1; --('}))
        assert (await asked(http.get(f"/threads/{first}/stats")))["by_role"] == {"human": 3, "ai": 3}


async def strangers(http: httpx.AsyncClient, thread: str) -> None:
    """Threads of others are not there."""
    assert (await asked(http.get("/threads"))) == {"threads": [], "cursor": None}
    assert await asked(http.get("/search", params={"q": "river"})) == []
    for call in (
        http.get(f"/threads/{thread}/messages"),
        http.post(f"/threads/{thread}/messages", json={"text": "hello"}),
        http.patch(f"/threads/{thread}", json={"title": "mine"}),
        http.delete(f"/threads/{thread}"),
        http.get("/threads/unknown/stats"),
    ):
        await asked(call, 404)
    await asked(http.get("/threads", params={"cursor": "nonsense"}), 422)
    await asked(http.get("/threads", headers={"X-User": ""}), 422)


async def one_thread_at_once(http: httpx.AsyncClient, thread: str) -> None:
    """Of messages to one thread at the same moment some are refused, and what was answered is there, in order."""
    path = f"/threads/{thread}/messages"
    answers = await asyncio.gather(*(http.post(path, json={"text": f"at once {number}"}) for number in range(5)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 409}
    assert 200 in codes
    said = [one["text"] for one in await asked(http.get(path, params={"limit": 100}))]
    for number, code in enumerate(codes):
        if code == 200:
            assert said.count(f"at once {number}") == 1
    again = await asked(http.post(path, json={"text": "what did I just tell you?"}))
    assert again["text"].startswith("You told me: at once")


async def budget(http: httpx.AsyncClient, thread: str) -> None:
    """The model is shown what fits into the budget; the database keeps all."""
    path = f"/threads/{thread}/messages"
    await asked(http.post(path, json={"text": "my name is Ada"}))
    assert (await asked(http.post(path, json={"text": "what is my name?"})))["text"] == "Your name is Ada."
    await asked(http.post(path, json={"text": "many words " * 30}))
    forgotten = await asked(http.post(path, json={"text": "what is my name?"}))
    assert forgotten["text"] == "You have not told me your name."
    assert len(await asked(http.get(path, params={"limit": 100}))) == 10
