"""Only the latest state: an approval that waits in a subgraph, across processes, in a database that never grows.

python examples/shallow.py order "a pizza"
python examples/shallow.py answer yes
python examples/shallow.py order "a salad" --db postgresql://user:password@localhost:5432/app
"""

from __future__ import annotations

import argparse
import operator
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langgraph_checkpoint_dual import PostgresSaver, SqliteSaver, open_saver

THREAD: RunnableConfig = {"configurable": {"thread_id": "orders"}}


class Orders(TypedDict, total=False):
    wanted: str
    log: Annotated[list[str], operator.add]


def check(state: Orders) -> dict[str, Any]:
    return {"log": [f"{state['wanted']}: checked"]}


def approve(state: Orders) -> dict[str, Any]:
    answer = interrupt(f"Order {state['wanted']}?")
    return {"log": [f"{state['wanted']}: {'ordered' if answer == 'yes' else 'refused'}"]}


def build(saver: SqliteSaver | PostgresSaver) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph whose one node is a graph that checks, and then waits for a person."""
    approval = (
        StateGraph(Orders).add_node(check).add_node(approve).add_edge(START, "check").add_edge("check", "approve")
    )
    outer = StateGraph(Orders).add_node("approval", approval.compile()).add_edge(START, "approval")
    return outer.compile(checkpointer=saver)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("order", "answer"))
    parser.add_argument("text")
    parser.add_argument("--db", default="sqlite:///orders.db")
    given = parser.parse_args(arguments)
    with open_saver(given.db, history="latest") as saver:
        graph = build(saver)
        answered: Any = Command(resume=given.text) if given.what == "answer" else {"wanted": given.text}
        graph.invoke(answered, THREAD)
        state = graph.get_state(THREAD)
        for waiting in state.interrupts:
            print(waiting.value)
        if not state.next:
            print(state.values["log"][-1])
        # One of the graph, and while it waits one of the subgraph: however many orders there were.
        print(f"{len(list(saver.list(THREAD)))} checkpoints are stored")


if __name__ == "__main__":
    main()
