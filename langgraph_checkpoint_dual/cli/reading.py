"""Commands that read conversations: messages, search."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from langgraph_checkpoint_dual.cli.commands import Desk, command
from langgraph_checkpoint_dual.cli.looking import Namespace, ThreadId
from langgraph_checkpoint_dual.cli.outcomes import Code, NotFound
from langgraph_checkpoint_dual.cli.output import bytes_of, cell, count, counting, moment, say, say_json, table
from langgraph_checkpoint_dual.conversation import Conversation, ConversationStats, StoredMessage
from langgraph_checkpoint_dual.core.conversations.searching import SearchHit, SearchPage
from langgraph_checkpoint_dual.core.inspection.describing import MessageReader, Object, text, to_json
from langgraph_checkpoint_dual.core.tx import Tx, finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.saver import Saver

_ROLES = {"human": "green", "ai": "cyan", "tool": "yellow", "system": "magenta"}


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "messages", panel="Look around")(messages)
    command(app, "search", panel="Look around")(search)


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
    say(cell(f"{shown} of {count(total, 'message')}{older}", "dim"))


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


def search(
    desk: Desk,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORDS...]",
            help='Words that must all occur; "several words" in a row, begin*, -without.',
            show_default=False,
        ),
    ] = None,
    *,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Only in threads of this user.")] = None,
    thread: Annotated[str | None, typer.Option("--thread", "-t", metavar="THREAD", help="Only in this thread.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 10,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
    channel: Annotated[
        str, typer.Option("--channel", "-c", metavar="NAME", help="The channel whose messages are indexed.")
    ] = "messages",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First index what is not indexed yet, such as all of it.")
    ] = False,
) -> None:
    """Search the messages of all threads, the best first. Exit code 1 if nothing is found.

    Messages are indexed where savers have search=True; --rebuild makes the index or completes it.
    """
    if not words and not rebuild:
        raise ConfigError("what shall be searched for?")
    with desk.saver(look=not rebuild, search=channel) as saver:
        added = _rebuilt(saver) if rebuild else None
        if not finish(saver._blocking.read(_has_index)):
            raise NotFound("the messages are not indexed here; langgraph-dual search --rebuild makes the index")
        page = (
            saver.search(" ".join(words), user_id=user, thread_id=thread, limit=limit, cursor=cursor) if words else None
        )
    if desk.as_json:
        hits = [_hit_json(hit) for hit in page.hits] if page else []
        say_json({"added": added, "hits": hits, "cursor": page and page.cursor})
    else:
        if added is not None:
            say(f"{count(added, 'message')} added to the index")
        if page is not None:
            _show_hits(page)
    if page is not None and not page.hits:
        raise typer.Exit(Code.NO)


def _rebuilt(saver: Saver) -> int:
    with counting("indexing") as update:
        return saver.rebuild_search(on_progress=update)


async def _has_index(tx: Tx) -> bool:
    return bool(await tx.fetch("has_search"))


def _show_hits(page: SearchPage) -> None:
    for hit in page.hits:
        head = cell(f"{hit.thread_id} [{hit.idx}] ", "bold").append(
            cell(hit.message.type, _ROLES.get(hit.message.type, ""))
        )
        if hit.added_at is not None:
            head.append(cell(f"  {moment(hit.added_at)}", "dim"))
        say(head)
        say(Text("    ").append(cell(hit.snippet)))
    if not page.hits:
        say("nothing found")
    if page.cursor:
        say(cell(f"the next page: --cursor {page.cursor}", "dim"))


def _hit_json(hit: SearchHit) -> dict[str, Any]:
    return {
        "thread_id": hit.thread_id,
        "idx": hit.idx,
        "id": hit.message.id,
        "role": hit.message.type,
        "added_at": hit.added_at,
        "snippet": hit.snippet,
        "score": hit.score,
    }


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
