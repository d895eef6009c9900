"""The graphs that the workloads run, with a seeded generator in the place of the model."""

import operator
import random
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict, cast

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Send

from benchmarks.data import WORDS_A_MESSAGE, answer, conversation, question, text
from benchmarks.savers import Saver

Graph = CompiledStateGraph[Any, Any, Any, Any]


class ChatState(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def chat(saver: Saver, rng: random.Random, words: int = WORDS_A_MESSAGE) -> Graph:
    """One node that answers the last message."""

    def respond(state: ChatState) -> dict[str, Any]:
        return {"messages": [answer(rng, words)]}

    builder = StateGraph(ChatState)
    builder.add_node("respond", respond)
    builder.add_edge(START, "respond")
    builder.add_edge("respond", END)
    return builder.compile(checkpointer=saver)


def chat_turn(graph: Graph, config: RunnableConfig, rng: random.Random) -> None:
    """One message of the user and its answer."""
    graph.invoke({"messages": [question(rng)]}, config, durability="sync")


def preload(
    graph: Graph, config: RunnableConfig, rng: random.Random, messages: int, batch: int = 200
) -> RunnableConfig:
    """Give a thread of the chat graph a history, `batch` messages an update; returns the last update's config."""
    latest = config
    for start in range(0, messages, batch):
        update = {"messages": conversation(rng, min(batch, messages - start))}
        latest = graph.update_state(config, update, as_node="respond")
    return latest


class AgentState(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    files: Annotated[dict[str, str], operator.or_]


def file_agent(saver: Saver, rng: random.Random, file_words: int) -> Graph:
    """An agent that writes one file a turn through a tool, and then answers."""

    def model(state: AgentState) -> dict[str, Any]:
        if isinstance(state["messages"][-1], ToolMessage):
            return {"messages": [answer(rng, 40)]}
        number = len(state["files"])
        arguments = {"path": f"src/module_{number:04}.py", "content": text(rng, file_words)}
        call = {"name": "write_file", "args": arguments, "id": f"call_{rng.getrandbits(64):016x}"}
        return {"messages": [answer(rng, 10, tool_calls=[call])]}

    def tools(state: AgentState) -> dict[str, Any]:
        last = state["messages"][-1]
        assert isinstance(last, AIMessage)
        call = last.tool_calls[0]
        done = ToolMessage(content=f"wrote {call['args']['path']}", tool_call_id=call["id"], name="write_file")
        return {"messages": [done], "files": {call["args"]["path"]: call["args"]["content"]}}

    def next_node(state: AgentState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    builder = StateGraph(AgentState)
    builder.add_node("model", model)
    builder.add_node("tools", tools)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", next_node, ["tools", END])
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=saver)


class CounterState(TypedDict):
    count: Annotated[int, operator.add]
    note: str


def counter(saver: Saver) -> Graph:
    """A small state: a number and a short text."""

    def step(state: CounterState) -> dict[str, Any]:
        return {"count": 1, "note": f"seen {state['count']}"}

    builder = StateGraph(CounterState)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_edge("step", END)
    return builder.compile(checkpointer=saver)


def wide(saver: Saver, rng: random.Random, channels: int) -> Graph:
    """A state of that many channels, of which a turn changes two."""
    names = [f"field_{index:03}" for index in range(channels)]
    make: Any = TypedDict  # its fields are not known before
    schema = make("WideState", dict.fromkeys(names, str))

    def step(state: dict[str, str]) -> dict[str, str]:
        return {rng.choice(names): text(rng, 8)}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(schema)
    builder.add_node("step", cast(Any, step))
    builder.add_edge(START, "step")
    builder.add_edge("step", END)
    return builder.compile(checkpointer=saver)


class Item(TypedDict):
    number: int
    draft: str


class FanOutState(TypedDict):
    numbers: list[int]
    results: Annotated[list[str], operator.add]


class ItemState(Item):
    results: Annotated[list[str], operator.add]


def fan_out(saver: Saver, rng: random.Random) -> Graph:
    """One `Send` for each number to a subgraph of two nodes, which keeps its own checkpoints."""

    def draft(state: ItemState) -> dict[str, Any]:
        return {"draft": f"{state['number']}: " + text(random.Random(state["number"]), 20)}

    def finish(state: ItemState) -> dict[str, Any]:
        return {"results": [state["draft"].upper()]}

    subgraph = StateGraph(ItemState)
    subgraph.add_node("draft", draft)
    subgraph.add_node("finish", finish)
    subgraph.add_edge(START, "draft")
    subgraph.add_edge("draft", "finish")
    subgraph.add_edge("finish", END)

    def dispatch(state: FanOutState) -> list[Send]:
        return [Send("work", {"number": number, "draft": "", "results": []}) for number in state["numbers"]]

    builder = StateGraph(FanOutState)
    builder.add_node("work", subgraph.compile())
    builder.add_conditional_edges(START, dispatch, ["work"])
    builder.add_edge("work", END)
    return builder.compile(checkpointer=saver)


def append_all(state: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    """Reducer of the delta channel: every write is a list to append."""
    return [*state, *(item for write in writes for item in write)]


def delta_loop(saver: Saver, rng: random.Random, steps: int, snapshot_frequency: int) -> Graph:
    """A loop that appends one message to a `DeltaChannel` in every super-step."""
    channel: Any = DeltaChannel(append_all, list, snapshot_frequency=snapshot_frequency)

    class DeltaState(TypedDict):
        messages: Annotated[list[AnyMessage], channel]
        count: Annotated[int, operator.add]

    def step(state: DeltaState) -> dict[str, Any]:
        return {"messages": [answer(rng)], "count": 1}

    builder = StateGraph(DeltaState)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["count"] < steps else END, ["step", END])
    return builder.compile(checkpointer=saver)
