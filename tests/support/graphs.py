"""Small graphs that together use what LangGraph offers, and scenarios that users play on them."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, RetryPolicy, Send, interrupt
from typing_extensions import TypedDict

from tests.support.runs import Session, thread

Scenario = tuple[Callable[[Any], Any], Callable[[Session], Awaitable[None]]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(build: Callable[[Any], Any]) -> Callable[[Callable[[Session], Awaitable[None]]], None]:
    """Registers how a graph is used, under the name of the function."""

    def register(play: Callable[[Session], Awaitable[None]]) -> None:
        SCENARIOS[play.__name__] = (build, play)

    return register


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    files: dict[str, str]
    turns: Annotated[int, operator.add]


def chat(saver: Any) -> Any:
    """A model that calls a tool, the tool, and an answer."""
    numbers = count()

    def model(state: Chat) -> Any:
        last = state["messages"][-1]
        if isinstance(last, ToolMessage):
            return {"messages": [AIMessage(f"it is {last.content}", id=f"a{next(numbers)}")], "turns": 1}
        call = {"name": "look", "args": {"what": last.content}, "id": f"c{next(numbers)}", "type": "tool_call"}
        return {"messages": [AIMessage("", tool_calls=[call], id=f"a{next(numbers)}")]}

    def tool(state: Chat) -> Any:
        call = state["messages"][-1].tool_calls[0]  # type: ignore[union-attr]
        found = ToolMessage(f"seen {call['args']['what']}", tool_call_id=call["id"], id=f"t{next(numbers)}")
        return {"messages": [found], "files": {**state.get("files", {}), call["id"]: str(found.content)}}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("tool", tool)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tool", "model")
    return builder.compile(checkpointer=saver)


def said(text: str) -> Any:
    return {"messages": [HumanMessage(text, id=f"h-{text}")]}


@scenario(chat)
async def conversation(session: Session) -> None:
    for turn in range(12):
        await session.run(said(f"turn {turn}"))
    await session.state()
    await session.run({"messages": [RemoveMessage("h-turn 1"), HumanMessage("again", id="h-turn 3")]})
    await session.history(limit=20)
    await session.history(filter={"source": "input"})
    await session.run(said("another"), thread("other"))
    await session.history(thread("other"))


@scenario(chat)
async def time_travel_and_forks(session: Session) -> None:
    for turn in range(4):
        await session.run(said(f"turn {turn}"))
    history = await session.history()
    early = history[-4].config
    await session.run(None, early)  # replay
    fork = await session.update(early, said("instead"), as_node=START)
    await session.run(None, fork)
    await session.state(early)
    await session.run(said("after the fork"))
    await session.history()
    await session.history(before=history[2].config, limit=3)


@scenario(chat)
async def edits_of_the_state(session: Session) -> None:
    await session.run(said("first"))
    await session.update(thread(), {"turns": 10})
    await session.update(thread(), {"messages": [AIMessage("by hand", id="by-hand")]}, as_node="tool")
    await session.state()
    await session.run(None)
    await session.history()


class Ask(TypedDict, total=False):
    asked: Annotated[list[str], operator.add]
    answer: str


def asking(saver: Any) -> Any:
    def ask(state: Ask) -> Any:
        first, second = interrupt({"question": "name?"}), interrupt("age?")
        return {"asked": [f"{first} {second}"]}

    builder = StateGraph(Ask)
    builder.add_node("ask", ask)
    builder.add_node("check", lambda state: {"answer": ", ".join(state["asked"])})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "check")
    return builder.compile(checkpointer=saver, interrupt_before=["check"])


@scenario(asking)
async def interrupts(session: Session) -> None:
    await session.run({"asked": ["start"]})
    await session.state()
    await session.run(Command(resume="ann"))
    await session.state()
    await session.run(Command(resume=41))
    await session.state()
    await session.run(None)
    history = await session.history()
    await session.run(Command(resume="bob"), history[-2].config)
    await session.history()


class Outer(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def nested(saver: Any) -> Any:
    def leaf(state: Outer) -> Any:
        return {"log": [f"leaf heard {interrupt('leaf?')}"]}

    inner = StateGraph(Outer)
    inner.add_node("before", lambda state: {"log": ["before"]})
    inner.add_node("leaf", leaf)
    inner.add_edge(START, "before")
    inner.add_edge("before", "leaf")
    middle = StateGraph(Outer)
    middle.add_node("inner", inner.compile())
    middle.add_edge(START, "inner")
    counter = StateGraph(Outer)
    counter.add_node("count", lambda state: {"log": [f"seen {len(state['log'])}"]})
    counter.add_edge(START, "count")
    outer = StateGraph(Outer)
    outer.add_node("middle", middle.compile())
    outer.add_node("counter", counter.compile(checkpointer=True))  # keeps a state of its own
    outer.add_edge(START, "middle")
    outer.add_edge("middle", "counter")
    return outer.compile(checkpointer=saver)


@scenario(nested)
async def subgraphs(session: Session) -> None:
    for turn in ("one", "two"):
        await session.run({"log": [turn]}, subgraphs=True)
        found = await session.state(subgraphs=True)
        inside = found.tasks[0].state.config  # type: ignore[union-attr]
        await session.update(inside, {"log": ["by hand"]})
        await session.run(Command(resume=turn), subgraphs=True)
        await session.state(subgraphs=True)
    history = await session.history()
    await session.run(None, history[-2].config, subgraphs=True)
    await session.history()


class Fan(TypedDict, total=False):
    items: list[int]
    done: Annotated[list[str], operator.add]


def fan_out(saver: Any) -> Any:
    attempts = {"fails once": 0, "retried": 0}

    def work(state: Any) -> Any:
        item = state["item"]
        if item == 3 and attempts["fails once"] == 0:
            attempts["fails once"] += 1
            raise RuntimeError("3 is hard")
        if item == 5 and attempts["retried"] < 2:
            attempts["retried"] += 1
            raise ConnectionError("5 needs patience")
        return {"done": [f"{item} done"]}

    def nothing(state: Fan) -> None:
        return None

    builder = StateGraph(Fan)
    builder.add_node("plan", nothing)
    builder.add_node(
        "work", work, retry_policy=RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)
    )
    builder.add_node("collect", lambda state: {"items": sorted(int(done.split()[0]) for done in state["done"])})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda state: [Send("work", {"item": n}) for n in state["items"]], ["work"])
    builder.add_edge("work", "collect")
    return builder.compile(checkpointer=saver)


@scenario(fan_out)
async def sends_errors_and_retries(session: Session) -> None:
    await session.run({"items": list(range(8))}, stream_mode=["values"])
    await session.run(None, stream_mode=["values"])  # which tasks were done already is a matter of timing
    await session.state()
    await session.run({"items": [1, 2]}, stream_mode=["values"])
    await session.history(brief=True)


def appended(value: list[Any], updates: Any) -> list[Any]:
    return [*value, *(item for update in updates for item in update)]


class Deltas(TypedDict, total=False):
    log: Annotated[list[str], DeltaChannel(appended, snapshot_frequency=4)]
    steps: Annotated[int, operator.add]


class RareDeltas(Deltas, total=False):
    rare: Annotated[list[str], DeltaChannel(appended)]


def deltas(saver: Any, schema: Any = Deltas, *, parallel: bool = False) -> Any:
    """Writers of a channel that stores its value only now and then."""

    def step(name: str) -> Any:
        def node(state: Any) -> Any:
            made: dict[str, Any] = {"log": [f"{name} after {len(state.get('log', []))}"], "steps": 1}
            if schema is RareDeltas and state.get("steps", 0) % 3 == 0:
                made["rare"] = [name]
            return made

        return node

    builder = StateGraph(schema)
    for name in ("left", "right", "join"):
        builder.add_node(name, step(name))
    builder.add_edge(START, "left")
    builder.add_edge(START if parallel else "left", "right")
    builder.add_edge(["left", "right"] if parallel else "right", "join")
    return builder.compile(checkpointer=saver)


def rare_deltas(saver: Any) -> Any:
    """As `deltas`, with a channel whose value is hardly ever stored."""
    return deltas(saver, RareDeltas)


def parallel_deltas(saver: Any) -> Any:
    """As `rare_deltas`, with nodes that write at once: what is rebuilt must be in the order that the run saw."""
    return deltas(saver, RareDeltas, parallel=True)


async def play_deltas(session: Session) -> None:
    for turn in range(7):
        await session.run({"log": [f"turn {turn}"]}, stream_mode=["values"])
    await session.update(thread(), {"log": ["by hand"]}, as_node="join")
    await session.state()
    history = await session.history()
    fork = await session.update(history[len(history) // 2].config, {"log": ["fork"]}, as_node="join")
    await session.state(fork)
    await session.run({"log": ["after the fork"]}, stream_mode=["values"])
    await session.history()


@scenario(rare_deltas)
async def delta_channels(session: Session) -> None:
    await play_deltas(session)


@scenario(parallel_deltas)
async def delta_channels_written_at_once(session: Session) -> None:
    await play_deltas(session)


class Jump(TypedDict, total=False):
    path: Annotated[list[str], operator.add]


def jumping(saver: Any) -> Any:
    inner = StateGraph(Jump)
    inner.add_node("leave", lambda state: Command(graph=Command.PARENT, goto="last", update={"path": ["leave"]}))
    inner.add_edge(START, "leave")
    builder = StateGraph(Jump)
    builder.add_node(
        "first", lambda state: Command(goto=[Send("aside", {"path": []}), "inner"], update={"path": ["first"]})
    )
    builder.add_node("aside", lambda state: {"path": ["aside"]})
    builder.add_node("inner", inner.compile())
    builder.add_node("last", lambda state: {"path": ["last"]})
    builder.add_edge(START, "first")
    return builder.compile(checkpointer=saver)


@scenario(jumping)
async def commands(session: Session) -> None:
    await session.run({"path": []}, stream_mode=["values"])
    await session.state()
    await session.history()


def functional(saver: Any) -> Any:
    @task
    def double(number: int) -> int:
        return 2 * number

    @entrypoint(checkpointer=saver)
    def workflow(number: int, *, previous: int | None = None) -> Any:
        doubled = double(number).result()
        extra = interrupt({"doubled": doubled})
        total = doubled + extra + (previous or 0)
        return entrypoint.final(value={"total": total}, save=total)

    return workflow


@scenario(functional)
async def functional_workflow(session: Session) -> None:
    for number in (1, 2):
        await session.run(number, stream_mode=["updates"])
        await session.run(Command(resume=100), stream_mode=["updates"])
    await session.state()
    await session.history()
