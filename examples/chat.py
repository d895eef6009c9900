"""A chat that remembers each user, also after a crash.

    python examples/chat.py alice
    python examples/chat.py alice --db postgresql://user:password@localhost:5432/app
    python examples/chat.py alice --window 20

The database keeps the whole conversation; with `--window` the model sees the last messages only.
With the key of a model provider in the environment it talks to that provider's model, else to a small local one.
"""

from __future__ import annotations

import argparse
import ast
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage, trim_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import StateSnapshot
from local_model import LocalModel

from langgraph_checkpoint_dual import open_saver

# The environment variable that holds a provider's key, the model to use then, and the package that speaks to it.
PROVIDERS = (
    ("ANTHROPIC_API_KEY", "anthropic:claude-haiku-4-5", "langchain-anthropic"),
    ("OPENAI_API_KEY", "openai:gpt-4.1-mini", "langchain-openai"),
    ("GOOGLE_API_KEY", "google_genai:gemini-2.5-flash", "langchain-google-genai"),
)

HELP = "/turns lists the turns, /back N goes to the end of turn N and goes on from there, Ctrl-D ends."


# The tools ------------------------------------------------------------------------------------------------------------

OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def value_of(node: ast.AST) -> float:
    """Evaluate +, -, * and / over numbers; anything else is a ValueError."""
    match node:
        case ast.Expression(body=body):
            return value_of(body)
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value_of(left), value_of(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value_of(operand))
    raise ValueError("only numbers, +, -, *, / and brackets")


@tool
def now() -> str:
    """The date and time."""
    return f"It is {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}."


@tool
def calculate(expression: str) -> str:
    """The value of an arithmetic expression such as "2 * (3 + 4)"."""
    return f"{expression} = {value_of(ast.parse(expression, mode='eval'))}"


@tool
def take_note(text: str, config: RunnableConfig) -> str:
    """Add a line to the user's file of notes."""
    name = f"notes-{quote(config['configurable']['thread_id'], safe='')}.txt"
    with Path(name).open("a", encoding="utf-8") as notes:
        notes.write(f"{text}\n")
    return f"Noted in {name}."


@tool
def read_file(name: str) -> str:
    """The text of a file in the folder that the chat was started in."""
    folder = Path.cwd().resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError("only files of this folder")
    return f"{name} says: {path.read_text(encoding='utf-8').strip()}"


TOOLS = [now, calculate, take_note, read_file]


# The graph ------------------------------------------------------------------------------------------------------------


def choose_model(name: str | None) -> BaseChatModel:
    """The model called `name`, or else the one whose key is in the environment, or else the local one."""
    package = "the package of the provider"
    if name is None:
        name, package = next(((model, pip) for key, model, pip in PROVIDERS if os.environ.get(key)), ("local", ""))
    if name == "local":
        return LocalModel()
    try:
        from langchain.chat_models import init_chat_model  # an optional package

        model: BaseChatModel = init_chat_model(name)
    except ImportError as error:
        sys.exit(f"{error}\nThe model {name} needs langchain and {package}. `--model local` needs neither.")
    return model


def latest(messages: Sequence[AnyMessage], window: int | None) -> Sequence[BaseMessage]:
    """The last messages, from something that the user said on: never a tool's result without its call.

    All of the turn that is under way are shown, also if these are more.
    """
    if window is None:
        return messages
    found = trim_messages(messages, max_tokens=window, token_counter=len, start_on="human", include_system=True)
    turn = max((at for at, message in enumerate(messages) if isinstance(message, HumanMessage)), default=0)
    return found if any(isinstance(message, HumanMessage) for message in found) else messages[turn:]


def build_graph(
    model: BaseChatModel, saver: BaseCheckpointSaver[str], window: int | None = None
) -> CompiledStateGraph[MessagesState, None, MessagesState, MessagesState]:
    """A model that may call tools, until it answers. It sees the last `window` messages, or all."""
    bound = model.bind_tools(TOOLS)

    def call_model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(latest(state["messages"], window))]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call_model)
    builder.add_node("tools", ToolNode(TOOLS, handle_tool_errors=True))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=saver)


class Conversation:
    """The thread of one user."""

    def __init__(self, graph: CompiledStateGraph[Any, Any, Any, Any], user: str) -> None:
        self._graph = graph
        self._thread: RunnableConfig = {"configurable": {"thread_id": user}}
        self._place = self._thread  # with a checkpoint_id after `go_back`, until something is said there

    @property
    def messages(self) -> list[AnyMessage]:
        found: list[AnyMessage] = self._graph.get_state(self._place).values.get("messages", [])
        return found

    @property
    def unfinished(self) -> bool:
        """Whether a process ended before it had answered."""
        return bool(self._graph.get_state(self._place).next)

    def say(self, text: str) -> Iterator[AnyMessage]:
        """Take a turn. Gives the new messages as they come."""
        place, self._place = self._place, self._thread
        return self._run({"messages": [HumanMessage(text)]}, place)

    def go_on(self) -> Iterator[AnyMessage]:
        """Finish the turn that another process began. Gives the new messages as they come."""
        return self._run(None, self._thread)

    def turns(self) -> list[StateSnapshot]:
        """The state at the end of each turn, of all branches, oldest first."""
        history = list(self._graph.get_state_history(self._thread))
        return [state for state in reversed(history) if state.values.get("messages") and not state.next]

    def go_back(self, turn: int) -> None:
        """Go to the end of a turn, counted from 1. What is said next forks from there. Raises KeyError."""
        self._place = dict(enumerate(self.turns(), 1))[turn].config

    def _run(self, given: Any, place: RunnableConfig) -> Iterator[AnyMessage]:
        # "sync": each step is in the database before the next one begins
        for update in self._graph.stream(given, place, stream_mode="updates", durability="sync"):
            for result in update.values():
                yield from result["messages"]


# The terminal ---------------------------------------------------------------------------------------------------------


def show(messages: Iterable[AnyMessage], user: str) -> None:
    """Print messages as they come."""
    for message in messages:
        match message:
            case HumanMessage():
                print(f"{user}: {message.text}", flush=True)
            case ToolMessage():
                print(f"  [{message.name} -> {message.text}]", flush=True)
            case AIMessage():
                for call in message.tool_calls:
                    print(f"  [{call['name']} {call['args']}]", flush=True)
                if message.text:
                    print(f"bot: {message.text}", flush=True)


def show_turns(turns: Iterable[StateSnapshot]) -> None:
    for number, state in enumerate(turns, 1):
        said = [message.text for message in state.values["messages"] if isinstance(message, HumanMessage)]
        print(f"  {number}. {'... > ' if said[2:] else ''}{' > '.join(said[-2:])}")


def go_back(conversation: Conversation, turn: str, user: str) -> None:
    try:
        conversation.go_back(int(turn))
    except (ValueError, KeyError):
        print(f"There is no turn {turn!r}.")
    else:
        show(conversation.messages, user)


def restore(conversation: Conversation, user: str) -> None:
    """Show what was said before, and finish what was left unfinished."""
    messages = conversation.messages
    print(f"Welcome back, {user}." if messages else f"Hello {user}, we have not met before.", HELP)
    show(messages, user)
    if conversation.unfinished:
        print("(The last answer was cut off. Going on with it.)", flush=True)
        show(conversation.go_on(), user)


def talk(conversation: Conversation, user: str) -> None:
    """Read lines until the end of the input."""
    while True:
        try:
            line = input(f"{user}> ").strip()
        except EOFError:
            print()
            return
        command, _, argument = line.partition(" ")
        if command == "/turns":
            show_turns(conversation.turns())
        elif command == "/back":
            go_back(conversation, argument, user)
        elif command.startswith("/"):
            print(HELP)
        elif line:
            show(conversation.say(line), user)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat that remembers each user, also after a crash.")
    parser.add_argument("user", help="whose conversation to open")
    parser.add_argument(
        "--db",
        default=os.environ.get("CHAT_DB", "chats.db"),
        help="path of a SQLite file, or postgresql://... (default: $CHAT_DB, or chats.db)",
    )
    parser.add_argument("--model", help='a name for init_chat_model, such as openai:gpt-4.1-mini, or "local"')
    parser.add_argument("--window", type=int, metavar="N", help="show the model the last N messages only")
    options = parser.parse_args()
    with open_saver(options.db) as saver:
        conversation = Conversation(build_graph(choose_model(options.model), saver, options.window), options.user)
        restore(conversation, options.user)
        talk(conversation, options.user)


if __name__ == "__main__":
    main()
