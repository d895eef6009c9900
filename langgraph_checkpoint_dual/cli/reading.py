"""Commands that read conversations: messages."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from langgraph_checkpoint_dual.cli.commands import Desk, command
from langgraph_checkpoint_dual.cli.looking import Namespace, ThreadId
from langgraph_checkpoint_dual.cli.outcomes import NotFound
from langgraph_checkpoint_dual.cli.output import bytes_of, cell, moment, say, say_json, table
from langgraph_checkpoint_dual.conversation import Conversation, ConversationStats, StoredMessage
from langgraph_checkpoint_dual.core.describing import MessageReader, Object, text, to_json

_ROLES = {"human": "green", "ai": "cyan", "tool": "yellow", "system": "magenta"}


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "messages", panel="Look around")(messages)


def messages(
    desk: Desk,
    thread: ThreadId,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most, the last ones.")] = 20,
    before: Annotated[int | None, typer.Option(metavar="INDEX", help="Only messages before this one.")] = None,
    after: Annotated[
        int | None, typer.Option(metavar="INDEX", help="The first ones after this one, instead of the last ones.")
    ] = None,
    channel: Annotated[str, typer.Option("--channel", "-c", metavar="NAME", help="The channel that holds them.")] = (
        "messages"
    ),
    checkpoint: Annotated[str | None, typer.Option(metavar="ID", help="As of this checkpoint.")] = None,
    ns: Namespace = "",
    stats: Annotated[bool, typer.Option("--stats", help="Show figures instead: messages by role, tokens, times.")] = (
        False
    ),
) -> None:
    """Show the messages of a thread, the last ones at the end."""
    place: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}
    with desk.saver(serde=MessageReader()) as saver:
        found = saver.messages(place, channel=channel, checkpoint_id=checkpoint)
        if stats:
            _say_stats(desk, found.stats())
            return
        page = _page(found, limit, before, after)
        total = found.count()
        if not page and saver.get_tuple(place) is None:
            raise NotFound(f"there is no checkpoint of thread {thread!r}")
    if desk.as_json:
        say_json({"thread_id": thread, "total": total, "messages": [_as_json(one) for one in page]})
        return
    for one in page:
        _show(one)
    shown = f"{page[0].idx} to {page[-1].idx}" if page else "none"
    older = f"; older ones: --before {page[0].idx}" if page and page[0].idx else ""
    say(cell(f"{shown} of {total} messages{older}", "dim"))


def _page(found: Conversation, limit: int, before: int | None, after: int | None) -> list[StoredMessage]:
    if after is not None:
        return found.page(limit, before_idx=before, after_idx=after)
    return found.page(limit, before_idx=before, reverse=True)[::-1]


def _show(one: StoredMessage) -> None:
    message = one.message
    head = cell(f"[{one.idx}] ", "dim").append(cell(message.type, _ROLES.get(message.type, "bold")))
    if message.name:
        head.append(cell(f" {message.name}"))
    if one.added_at is not None:
        head.append(cell(f"  {moment(one.added_at)}", "dim"))
    say(head)
    for line in _content(message.content):
        say(Text("    ").append(line))
    for call in getattr(message, "tool_calls", None) or ():
        say(Text("    ").append(cell(f"→ {call['name']}({text(call['args'], 500)})", "yellow")))
    say("")


def _content(content: Any) -> list[Text]:
    """What a message says, as lines: texts as they are, other blocks described."""
    blocks = [content] if isinstance(content, str) else content
    lines: list[Text] = []
    for block in blocks:
        said = block if isinstance(block, str) else block.get("text") if isinstance(block, dict) else None
        if isinstance(said, str):
            lines += [cell(line) for line in said.splitlines()]
        else:
            lines.append(cell(text(block, 200), "dim"))
    return lines


def _as_json(one: StoredMessage) -> dict[str, Any]:
    cls = type(one.message)
    described = to_json(Object(f"{cls.__module__}.{cls.__name__}", fields=one.message.__dict__))
    return {"idx": one.idx, "added_at": one.added_at, "class": described["type"], **described["fields"]}


def _say_stats(desk: Desk, stats: ConversationStats) -> None:
    if desk.as_json:
        say_json(stats._asdict())
        return
    rows = [
        ("messages", f"{stats.messages:,}"),
        *((f"  {role}", f"{count:,}") for role, count in stats.by_role.items()),
        ("input tokens", f"{stats.input_tokens:,}"),
        ("output tokens", f"{stats.output_tokens:,}"),
        ("total tokens", f"{stats.total_tokens:,}"),
        ("bytes", bytes_of(stats.bytes)),
        ("started", moment(stats.started_at)),
        ("last", moment(stats.last_at)),
    ]
    say(table(("", "number"), rows, numbers=("number",)))
