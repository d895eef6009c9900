"""Threads worth transferring, on any saver, and what is compared of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START
from langgraph.types import Command

from tests.support.checkpoints import config, listed, put
from tests.support.compare import answer, key_of, parent_of
from tests.support.graphs import asking, chat, deltas, nested, said
from tests.support.runs import Session, thread, visible
from tests.support.savers import KINDS, BlockingFace, opened

OTHERS = {f"official {kind}": kind for kind in KINDS}
OURS = {str(kind): kind for kind in KINDS}
GRAPHS: dict[str, Callable[[Any], Any]] = {"chat": chat, "asking": asking, "nested": nested, "deltas": deltas}


@asynccontextmanager
async def saver_of(name: str, databases: Callable[[str], str]) -> AsyncIterator[Any]:
    """A saver by name: "sqlite", "postgres-aio", "official sqlite", ..., "memory"."""
    if name == "memory":
        yield InMemorySaver()
        return
    kind = OTHERS.get(name) or OURS[name]
    async with opened(kind.official if name in OTHERS else kind.ours, databases(kind.backend)) as saver:
        yield saver


def face_of(name: str) -> str:
    return "async" if name.endswith("aio") else "blocking"


async def play(saver: Any, face: str) -> None:
    """A forked chat, a question that waits, one inside of a subgraph, and a delta channel with a fork."""
    sessions = {name: Session(saver, face, build, "sync") for name, build in GRAPHS.items()}
    talk = sessions["chat"]
    for turn in range(3):
        await talk.run(said(f"turn {turn}"), thread("chat"))
    early = (await talk.history(thread("chat")))[-4].config
    await talk.run(None, await talk.update(early, said("instead"), as_node=START))
    await sessions["asking"].run({"asked": ["start"]}, thread("asking"))
    await sessions["nested"].run({"log": ["one"]}, thread("nested"), subgraphs=True)
    rare = sessions["deltas"]
    for turn in range(3):
        await rare.run({"log": [f"turn {turn}"]}, thread("deltas"))
    history = await rare.history(thread("deltas"))
    await rare.update(history[len(history) // 2].config, {"log": ["fork"]}, as_node="join")


NEXT: dict[str, list[Any]] = {
    "chat": [said("another")],
    "asking": [Command(resume="ann"), Command(resume=41), None],
    "nested": [Command(resume="heard")],
    "deltas": [{"log": ["on"]}],
}


async def go_on(saver: Any, face: str) -> dict[str, Any]:
    """Go on with each thread, and the state that it ends in."""
    found = {}
    for name, inputs in NEXT.items():
        session = Session(saver, face, GRAPHS[name], "sync")
        for given in inputs:
            await session.run(given, thread(name))
        state = await session.state(thread(name))
        found[name] = (visible(state.values), state.next)
    return found


async def everything(saver: Any, face: str, thread_id: str) -> dict[Any, Any]:
    """All that a saver says of a thread, by checkpoint.

    The stored values of delta channels are left out: savers that store values by version repeat them. What they are
    for, the state, is compared when the graphs go on.
    """
    subject = BlockingFace(saver) if face == "blocking" else saver
    place = {"configurable": {"thread_id": thread_id}}
    found = {key_of(one): (answer(one), parent_of(one)) for one in await listed(subject, place)}
    for told, _ in found.values():
        told["values"] = {name: value for name, value in told["values"].items() if value[0] != "_DeltaSnapshot"}
    return found


async def put_chain(saver: Any, thread_id: str, length: int, *, ns: str = "", **metadata: Any) -> list[Any]:
    """A chat of this many checkpoints by hand, each with a pending write that has a path; their configs."""
    configs: list[Any] = []
    messages: list[Any] = []
    at = config(thread_id, ns)
    for number in range(length):
        messages = [*messages, HumanMessage(f"message {number} " + "x" * 40, id=f"m{number}")]
        at = await put(saver, at, {"messages": messages, "number": number}, **metadata)
        await saver.aput_writes(at, [("number", number + 1)], f"task-{number}", f"~path, {number}")
        configs.append(at)
    return configs
