"""The graphs whose threads are in the golden databases; they run under every release that wrote one.

Nodes are deterministic: a thread goes on to the same state under any saver.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

try:
    from langgraph.types import Send
except ImportError:
    from langgraph.constants import Send


@dataclass
class Trip:
    """A data class of a user's own."""

    city: str
    days: int


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    files: dict[str, str]
    turns: Annotated[int, operator.add]
    topic: str
    ratio: float
    done: bool
    nothing: None
    trip: Any


def human(text: str) -> HumanMessage:
    return HumanMessage(text, id=f"h-{text}")


def chat(saver: Any) -> Any:
    """A model that calls a tool, the tool, and an answer."""

    def model(state: Chat) -> Any:
        said = state["messages"]
        if isinstance(said[-1], ToolMessage):
            values = {"turns": 1, "topic": "höflich ✓", "ratio": 0.25, "done": True, "nothing": None}
            return {"messages": [AIMessage(f"it is {said[-1].content}", id=f"a{len(said)}")], **values}
        call = {"name": "look", "args": {"what": said[-1].content}, "id": f"c{len(said)}", "type": "tool_call"}
        return {"messages": [AIMessage("", tool_calls=[call], id=f"a{len(said)}")]}

    def tool(state: Chat) -> Any:
        call = state["messages"][-1].tool_calls[0]  # type: ignore[union-attr]
        found = ToolMessage(f"seen {call['args']['what']}", tool_call_id=call["id"], id=f"t{call['id']}")
        files = {f"f{number}": f"{number}" for number in range(20)}
        return {"messages": [found], "files": {**(state.get("files") or {}), **files}}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("tool", tool)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tool", "model")
    return builder.compile(checkpointer=saver)


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def steps(*names: str) -> list[tuple[str, Callable[[Log], Any]]]:
    return [(name, lambda state, name=name: {"log": [f"{name} after {len(state['log'])}"]}) for name in names]


def approval(saver: Any) -> Any:
    """Stops before the second of its steps."""
    builder = StateGraph(Log)
    for name, step in steps("draft", "send"):
        builder.add_node(name, step)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "send")
    builder.add_edge("send", END)
    return builder.compile(checkpointer=saver, interrupt_before=["send"])


def fan_out(saver: Any) -> Any:
    """Stops before the tasks that were sent."""
    builder = StateGraph(Log)
    builder.add_node("plan", lambda state: {"log": ["plan"]})
    builder.add_node("work", lambda state: {"log": [f"work {state['number']}"]})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda state: [Send("work", {"number": n}) for n in range(3)], ["work"])
    builder.add_edge("work", END)
    return builder.compile(checkpointer=saver, interrupt_before=["work"])


BROKEN = {"now": False}
"""Whether the right one of the two branches fails."""


def branches(saver: Any) -> Any:
    """Two branches at once, of which one may fail: what the other one did is a pending write."""

    def right(state: Log) -> Any:
        if BROKEN["now"]:
            raise RuntimeError("broken")
        return {"log": ["right"]}

    builder = StateGraph(Log)
    builder.add_node("left", lambda state: {"log": ["left"]})
    builder.add_node("right", right)
    builder.add_edge(START, "left")
    builder.add_edge(START, "right")
    return builder.compile(checkpointer=saver)


def nested(saver: Any) -> Any:
    """A subgraph that stops in the middle, inside a graph."""
    inner = StateGraph(Log)
    for name, step in steps("first", "second"):
        inner.add_node(name, step)
    inner.add_edge(START, "first")
    inner.add_edge("first", "second")
    outer = StateGraph(Log)
    outer.add_node("before", lambda state: {"log": ["before"]})
    outer.add_node("inner", inner.compile(interrupt_before=["second"]))
    outer.add_edge(START, "before")
    outer.add_edge("before", "inner")
    return outer.compile(checkpointer=saver)


def asking(saver: Any) -> Any:
    """Asks a question and waits for the answer (from LangGraph 0.2.57 on)."""
    from langgraph.types import interrupt

    builder = StateGraph(Log)
    builder.add_node("ask", lambda state: {"log": [f"answer: {interrupt('which?')}"]})
    builder.add_edge(START, "ask")
    return builder.compile(checkpointer=saver)


def deltas(saver: Any) -> Any:
    """A list that is stored as deltas (from LangGraph 1.2 on)."""
    from langgraph.channels.delta import DeltaChannel

    def joined(state: list[str], writes: list[list[str]]) -> list[str]:
        return [*state, *(entry for write in writes for entry in write)]

    channel = Annotated[list[str], DeltaChannel(joined, snapshot_frequency=4)]
    builder = StateGraph(TypedDict("State", {"entries": channel}))  # type: ignore[operator]
    builder.add_node("one", lambda state: {"entries": [f"one {len(state['entries'])}"]})
    builder.add_node("two", lambda state: {"entries": [f"two {len(state['entries'])}"]})
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    return builder.compile(checkpointer=saver)


CONTINUATIONS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "chat": (chat, {"messages": [human("again")]}),
    "Zoë/✓": (chat, {"messages": [human("again")]}),
    "fork": (chat, {"messages": [human("again")]}),
    "approval": (approval, None),
    "sends": (fan_out, None),
    "failed": (branches, None),
    "nested": (nested, None),
    "asking": (asking, "resume"),
    "deltas": (deltas, {"entries": ["more"]}),
}
"""For each thread the graph that it is of, and the input that continues it (`"resume"` answers its question)."""
