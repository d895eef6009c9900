"""The screens in docs/cli.md: its commands are run, in their order, on a database that is made for them.

`python -m tests.support.screens` writes the page anew. A test runs the same commands and compares what does not depend
on the moment, the machine, or the versions of others.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from typer.testing import CliRunner
from typing_extensions import TypedDict

from langgraph_checkpoint_dual.cli.app import app
from langgraph_checkpoint_dual.sqlite import SqliteSaver
from tests.support.golden import LATEST, load

PAGE = Path(__file__).resolve().parents[2] / "docs/cli.md"
_BLOCK = re.compile(r"```console\n(?P<text>.*?)```", re.S)
_WIDTH = "118"
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"[0-9a-f]{32}"), "ID"),
    (re.compile(r", response_schema=None"), ""),
    (re.compile(r"(cursor\"?:? )\S+"), r"\1CURSOR"),
    (re.compile(r"table +data +indexes\n(?:.+\n)+"), "TABLES\n"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "TIME"),
    (re.compile(r"\d{8}-\d{6}"), "STAMP"),
    (re.compile(r"items? [\d–, ]+"), "ITEMS "),
    (re.compile(r"\d[\d.,]* (B|kB|MB)"), "SIZE"),
    (re.compile(r"\d+(\.\d+)?"), "N"),
    (re.compile(r"[ \t]+"), " "),
)
_BY_SIZE = re.compile(r"(?:.+ SIZE N SIZE\n)+")
"""Rows in the order of sizes that are nearly the same, and so of the versions of LangGraph."""


class Trip(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    city: str


def _graph(saver: Any) -> Any:
    """An assistant that looks things up, and asks before it books."""

    def model(state: Trip) -> Any:
        last, number = state["messages"][-1], len(state["messages"])
        if isinstance(last, ToolMessage):
            return {"messages": [AIMessage(f"In {state['city']}: {last.content}.", id=f"a{number}")]}
        if "book" in str(last.content):
            return {"messages": [AIMessage(f"Booked: {interrupt('book for 310 EUR?')}", id=f"a{number}")]}
        city = str(last.content).split()[-1].strip("?")
        call = {"name": "weather", "args": {"city": city}, "id": f"call-{number}", "type": "tool_call"}
        return {"messages": [AIMessage("", tool_calls=[call], id=f"a{number}")], "city": city}

    def tool(state: Trip) -> Any:
        call: Any = state["messages"][-1].tool_calls[0]  # type: ignore[union-attr]
        said = ToolMessage("24 degrees and sun", name="weather", tool_call_id=call["id"], id=f"t{call['id']}")
        return {"messages": [said]}

    builder = StateGraph(Trip).add_node(model).add_node(tool).add_edge(START, "model").add_edge("tool", "model")
    builder.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    return builder.compile(checkpointer=saver)


def _make(folder: Path) -> None:
    """The databases that the page's commands work on."""
    with SqliteSaver(folder / "chats.db") as saver:
        graph = _graph(saver)

        def say(thread: str, text: str, number: int, config: Any = None, **metadata: Any) -> None:
            graph.invoke({"messages": [HumanMessage(text, id=f"h{number}")]}, config or _config(thread, **metadata))

        say("rome", "How is the weather in Rome?", 0, user_id="ann", title="A week in Rome")
        say("rome", "And in Oslo?", 4)
        answered = [found.config for found in graph.get_state_history(_config("rome")) if not found.next]
        say("rome", "And in Lima?", 4, answered[-1])
        say("booking", "Please book the hotel", 0, user_id="ann", title="Hotel")
        say("oslo", "Is it warm in Oslo?", 0, user_id="bob")
    load(LATEST, str(folder / "official.db"))
    with SqliteSaver(folder / "broken.db") as saver:
        _graph(saver).invoke({"messages": [HumanMessage("How is the weather in Rome?", id="h0")]}, _config("rome"))
    with closing(sqlite3.connect(folder / "broken.db")) as connection, connection:
        connection.execute("DELETE FROM dual_threads")
        connection.execute(
            "DELETE FROM dual_items WHERE seq = (SELECT max(seq) FROM dual_items WHERE channel = 'messages')"
        )


def _config(thread: str, **metadata: Any) -> Any:
    return {"configurable": {"thread_id": thread}, "metadata": metadata}


def screens(page: str) -> list[tuple[str, str]]:
    """The console blocks of a page, and what they are when their commands are run now."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        _make(Path(name))
        os.chdir(name)
        try:
            return [(match["text"], _run(match["text"])) for match in _BLOCK.finditer(page)]
        finally:
            os.chdir(here)


def _run(text: str) -> str:
    """Run the commands of a block; the block anew."""
    lines = []
    for command in re.findall(r"^\$ (.+)$", text, re.M):
        program, *arguments = shlex.split(command)
        assert program == "langgraph-dual", command
        environment = {"COLUMNS": _WIDTH, "LANGGRAPH_DUAL_URL": "chats.db"}
        done = CliRunner().invoke(app, arguments, env=environment, prog_name=program)
        said = "\n".join(line.rstrip() for line in done.output.splitlines())
        lines += [f"$ {command}", *([said] if said else [])]
    return "\n".join(lines) + "\n"


def settled(screen: str) -> str:
    """A screen without what differs from run to run."""
    for pattern, name in _VARYING:
        screen = pattern.sub(name, screen)
    return _BY_SIZE.sub(lambda rows: "".join(sorted(rows[0].splitlines(keepends=True))), screen)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for old, new in screens(page):
        page = page.replace(f"```console\n{old}```", f"```console\n{new}```")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
