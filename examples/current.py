"""Users with their current thread: who comes back goes on where he was, with each agent in a thread of its own.

python examples/current.py ada travel "Where shall we stay in Rome?"
python examples/current.py ada cook "What is for dinner?"
python examples/current.py ada travel "And how do we get there?"
python examples/current.py ada travel --new "Another journey"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langgraph.graph import START, MessagesState, StateGraph

from langgraph_checkpoint_dual import PostgresSaver, SqliteSaver, open_saver


def answer(state: MessagesState) -> dict[str, Any]:
    """In place of a model."""
    told = [message.text for message in state["messages"] if message.type == "human"]
    return {"messages": [("ai", f"message {len(told)} here; this began with: {told[0]}")]}


def thread_of(saver: SqliteSaver | PostgresSaver, user: str, agent: str, title: str, *, new: bool = False) -> str:
    """The thread that a user is in with an agent; a new one where there is none, or it was deleted."""
    current = None if new else saver.threads.current(user, agent)
    if current is None:
        current = str(uuid4())
        saver.threads.register(current, user_id=user, title=title[:40], metadata={"agent": agent})
        saver.threads.set_current(user, current, agent)
    return current


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Talk to an agent, in the thread that you are in with it.")
    parser.add_argument("user")
    parser.add_argument("agent")
    parser.add_argument("text")
    parser.add_argument("--new", action="store_true", help="begin a new thread")
    parser.add_argument("--db", default="current.db", metavar="URL")
    given = parser.parse_args(arguments)
    with open_saver(given.db) as saver:
        graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile(checkpointer=saver)
        thread_id = thread_of(saver, given.user, given.agent, given.text, new=given.new)
        said = graph.invoke({"messages": [("human", given.text)]}, {"configurable": {"thread_id": thread_id}})
        print(said["messages"][-1].text)
        for thread in saver.threads.list(user_id=given.user, metadata={"agent": given.agent}, limit=10).threads:
            print("*" if thread.thread_id == thread_id else " ", thread.title)


if __name__ == "__main__":
    main()
