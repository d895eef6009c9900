"""Writes the threads of a golden database with the official saver of whatever release this runs under.

python -m tests.golden.write sqlite PATH
python -m tests.golden.write postgres CONNECTION_STRING
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage

from tests.golden import graphs
from tests.golden.graphs import Trip, human


@contextlib.contextmanager
def saver_of(backend: str, place: str) -> Iterator[Any]:
    if backend == "sqlite":
        from langgraph.checkpoint.sqlite import SqliteSaver as Saver
    else:
        from langgraph.checkpoint.postgres import PostgresSaver as Saver
    with Saver.from_conn_string(place) as saver:
        saver.setup()
        yield saver


THREADS = {"chat": ("hello", "naïve\nsecond line"), "Zoë/✓": ("hello",), "fork": ("hello",)}


def config(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}, "metadata": {"user": "ann", "tags": ["a", "b"], "tier": 2}}


def write(saver: Any) -> None:
    chat = graphs.chat(saver)
    for thread_id, texts in THREADS.items():
        for text in texts:
            chat.invoke({"messages": [human(text)]}, config(thread_id))
    chat.update_state(config("chat"), {"trip": Trip("Rome", 3)}, as_node="model")
    earlier = list(chat.get_state_history(config("fork")))[2].config
    chat.update_state(earlier, {"messages": [AIMessage("another way", id="other")]}, as_node="model")
    graphs.approval(saver).invoke({"log": ["start"]}, config("approval"))
    graphs.fan_out(saver).invoke({"log": ["start"]}, config("sends"))
    graphs.BROKEN["now"] = True
    with contextlib.suppress(RuntimeError):
        graphs.branches(saver).invoke({"log": ["start"]}, config("failed"))
    graphs.nested(saver).invoke({"log": ["start"]}, config("nested"))
    with contextlib.suppress(ImportError):
        graphs.asking(saver).invoke({"log": ["start"]}, config("asking"))
    with contextlib.suppress(ImportError):
        deltas = graphs.deltas(saver)
        for number in range(3):
            deltas.invoke({"entries": [f"given {number}"]}, config("deltas"))


if __name__ == "__main__":
    with saver_of(*sys.argv[1:]) as found:
        write(found)
