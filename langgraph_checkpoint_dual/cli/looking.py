"""Commands that look: threads, history, show, diff, size. None of them changes anything."""

from __future__ import annotations

import json as json_
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from langgraph_checkpoint_dual.cli.commands import Desk, command
from langgraph_checkpoint_dual.cli.outcomes import Code, NotFound
from langgraph_checkpoint_dual.cli.output import bytes_of, cell, count, moment, safe, say, say_json, table
from langgraph_checkpoint_dual.core.address import Address, text_key, thread_key
from langgraph_checkpoint_dual.core.inspection import comparing, inspecting, lineage, sizes
from langgraph_checkpoint_dual.core.inspection.describing import Object, text, to_json
from langgraph_checkpoint_dual.core.inspection.inspecting import Damage, Inspected
from langgraph_checkpoint_dual.core.inspection.lineage import Line, Step
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.registry import Thread
from langgraph_checkpoint_dual.saver import Saver

ThreadId = Annotated[str, typer.Argument(metavar="THREAD", help="The id of the thread.", show_default=False)]
Namespace = Annotated[str, typer.Option("--ns", metavar="NAMESPACE", help="The namespace, such as that of a subgraph.")]
_LINE = 160
_VALUE = 2_000


def declare(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, function in (
        ("threads", threads),
        ("history", history),
        ("show", show),
        ("diff", diff),
        ("size", size),
    ):
        command(app, name, panel="Look around")(function)


def threads(
    desk: Desk,
    *,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Only threads of this user.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only idle, interrupted or error.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Only with this in their metadata."),
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="Only threads that were updated after this time.")] = None,
    order: Annotated[str, typer.Option(metavar="ORDER", help="Latest updated or latest created first.")] = "updated",
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
) -> None:
    """List the threads, latest first."""
    where: Any = {"user_id": user, "status": status, "metadata": _pairs(metadata), "updated_after": since}
    filtered = any(value is not None for value in where.values())
    with desk.saver() as saver:
        page = saver.threads.list(**where, order=order, limit=limit, cursor=cursor)
        total = saver.threads.count(**where)
        official = [] if filtered else finish(lineage.official_threads(saver._blocking, limit=limit))
    if desk.as_json:
        others = [one._asdict() for one in official]
        found = {"threads": [one._asdict() for one in page.threads], "total": total, "cursor": page.cursor}
        say_json({**found, "official": others})
        return
    if page.threads or not official:
        columns = ("thread", "title", "user", "status", "checkpoints", "updated")
        say(table(columns, [_thread(one) for one in page.threads], numbers=("checkpoints",)))
        more = f"; the next page: --cursor {page.cursor}" if page.cursor else ""
        say(f"\n{len(page.threads)} of {count(total, 'thread')}{more}")
    if official:
        say("in the official saver's tables, readable as they are:")
        rows = [(one.thread_id, one.checkpoints, moment(one.updated_at)) for one in official]
        say(table(("thread", "checkpoints", "updated"), rows, numbers=("checkpoints",)))


def _thread(thread: Thread) -> list[object]:
    title, status = cell(thread.title), cell(thread.status, _STYLES.get(thread.status, ""))
    return [thread.thread_id, title, thread.user_id, status, thread.checkpoints, moment(thread.updated_at)]


_STYLES = {"interrupted": "yellow", "error": "red"}


def _pairs(pairs: Iterable[str] | None) -> dict[str, Any] | None:
    """`key=value` pairs; a value is JSON if it can be, and text if not."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"--metadata takes KEY=VALUE, not {pair!r}")
        try:
            found[key] = json_.loads(value)
        except ValueError:
            found[key] = value
    return found or None


def history(
    desk: Desk,
    thread: ThreadId,
    *,
    ns: Annotated[str | None, typer.Option("--ns", metavar="NAMESPACE", help="Only this namespace.")] = None,
    before: Annotated[str | None, typer.Option(metavar="ID", help="Only checkpoints before this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many checkpoints at most, the latest ones.")] = 50,
) -> None:
    """Show how the checkpoints of a thread hang together, with forks and subgraphs, oldest first."""
    with desk.saver() as saver:
        found = finish(lineage.steps(saver._whole_blocking, thread, checkpoint_ns=ns, before=before, limit=limit + 1))
    more, found = len(found) > limit, found[:limit]
    if not found:
        raise _no_thread(thread)
    if desk.as_json:
        say_json({"thread_id": thread, "checkpoints": [one._asdict() for one in found], "more": more})
        return
    tree = Tree(cell(f"thread {thread}", "bold"))
    for line in lineage.grown(found):
        _grow(tree.add(_namespace(line)) if line.checkpoint_ns else tree, line)
    say(tree)
    if more:
        say(f"\nthe latest {limit}; older ones: --before {found[-1].checkpoint_id}, or a higher --limit")


def _no_thread(thread: str) -> NotFound:
    return NotFound(f"there is no checkpoint of thread {thread!r}")


def _grow(tree: Tree, line: Line) -> None:
    """Add a line and what hangs on it; deep chains of forks and calls are walked without recursion."""
    pending = [(tree, line)]
    while pending:
        branch, current = pending.pop(0)
        for node in current.nodes:
            leaf = branch.add(_step(node.step))
            pending += [(leaf.add(cell("fork", "cyan")), fork) for fork in node.forks]
            pending += [(leaf.add(_namespace(call)), call) for call in node.calls]


def _namespace(line: Line) -> Text:
    return cell(f"subgraph {line.checkpoint_ns}", "magenta")


def _step(step: Step) -> Text:
    label = cell(step.checkpoint_id, "bold")
    label.append(f"  step {'?' if step.step is None else step.step} {safe(step.source or '')}")
    if step.at is not None:
        label.append(f"  {moment(step.at)}", style="dim")
    if step.status is not None:
        label.append(f"  {step.status}", style=_STYLES[step.status])
    return label


def show(
    desk: Desk,
    thread: ThreadId,
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CHECKPOINT]", help="Its id; the latest unless given.", show_default=False)
    ] = None,
    *,
    ns: Namespace = "",
    channel: Annotated[
        list[str] | None, typer.Option("--channel", "-c", metavar="NAME", help="Only these channels.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten values.")] = False,
) -> None:
    """Show a checkpoint: its metadata, its channels and its pending writes. Nothing is revived to show it."""
    address = _address(thread, ns, checkpoint)
    with desk.saver() as saver:
        found = finish(inspecting.inspect(saver._whole_blocking, address, channels=channel))
    if found is None:
        raise _missing(address)
    wanted = {name: value for name, value in found.values.items() if not channel or name in channel}
    if desk.as_json:
        say_json(_as_json(found, wanted))
        return
    limit = None if full else _VALUE
    _show_head(found)
    for name, value in wanted.items():
        say(Text("\n").append(cell(name, "bold green")).append(_size_note(value)))
        for line in _lines(value, limit):
            say(Text("  ").append(line))
    _show_writes(found, limit)


def _address(thread: str, ns: str, checkpoint: str | None) -> Address:
    checkpoint_id = text_key("checkpoint", checkpoint) if checkpoint else None
    return Address(thread_key(thread), text_key("--ns", ns), checkpoint_id)


def _missing(address: Address) -> NotFound:
    where = ", ".join(f"{name} {value!r}" for name, value in address.where.items() if value)
    return NotFound(f"there is no such checkpoint: {where}")


def _as_json(found: Inspected, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **found.address.where,
        "parent_checkpoint_id": found.parent_id and unescape(found.parent_id),
        "checkpoint": _json(found.body),
        "metadata": _json(found.metadata),
        "channel_values": {name: _json(value) for name, value in wanted.items()},
        "pending_writes": [{**write._asdict(), "value": _json(write.value)} for write in found.writes],
        **({"damage": found.damage.reason} if found.damage else {}),
    }


def _json(value: Any) -> Any:
    return to_json(value)


def _show_head(found: Inspected) -> None:
    body: Mapping[str, Any] = found.body if isinstance(found.body, dict) else {}
    rows = [
        ("thread", found.address.where["thread_id"]),
        ("namespace", unescape(found.address.checkpoint_ns or "") or None),
        ("checkpoint", unescape(found.address.checkpoint_id or "")),
        ("parent", unescape(found.parent_id) if found.parent_id else None),
        ("made", body.get("ts")),
    ]
    if isinstance(found.metadata, dict):
        rows += [(key, text(value, _LINE)) for key, value in found.metadata.items() if value not in ({}, None)]
    for label, value in rows:
        if value is not None:
            say(cell(f"{label:<12}", "dim").append(cell(value, "")))
    for damage in (found.body, found.metadata, found.damage):
        if isinstance(damage, Damage):
            say(cell(f"damaged: {damage.reason}", "red"))


def _size_note(value: Any) -> Text:
    if isinstance(value, (list, dict)) and value:
        return cell(f"  {count(len(value), 'element' if isinstance(value, list) else 'key')}", "dim")
    return Text()


def _lines(value: Any, limit: int | None) -> Iterator[Text]:
    """A described value, an element or an entry a line."""
    if isinstance(value, list) and value:
        for at, part in enumerate(value):
            yield cell(f"[{at}] ", "dim").append(_value(part, limit))
    elif isinstance(value, dict) and value:
        for key, part in value.items():
            yield cell(f"{text(key, _LINE)}: ", "dim").append(_value(part, limit))
    else:
        yield _value(value, limit)


def _value(value: Any, limit: int | None = None) -> Text:
    if isinstance(value, Damage):
        return cell(f"damaged: {value.reason}", "red")
    if isinstance(value, Object) and value.is_message:
        return cell(value.name, "cyan").append(cell(text(value, limit)[len(value.name) :]))
    return cell(text(value, limit))


def _show_writes(found: Inspected, limit: int | None) -> None:
    if not found.writes:
        return
    say(Text("\n").append(cell("pending writes", "bold green")))
    for write in found.writes:
        style = "yellow" if write.channel.startswith("__") else "dim"
        say(Text("  ").append(cell(f"{write.channel} ", style)).append(_value(write.value, limit)))


def diff(
    desk: Desk,
    thread: ThreadId,
    first: Annotated[
        str | None,
        typer.Argument(metavar="[CHECKPOINT]", help="The checkpoint; the latest unless given.", show_default=False),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]", help="What to compare it with: its parent, unless given.", show_default=False
        ),
    ] = None,
    *,
    ns: Namespace = "",
    other_thread: Annotated[
        str | None, typer.Option("--thread", metavar="THREAD", help="The thread of the other checkpoint.")
    ] = None,
) -> None:
    """Show what differs between two checkpoints: by channel, message by message. Two ids are compared first to second.

    Exit code 1 if anything differs.
    """
    with desk.saver() as saver:
        before, after = _two(saver, _address(thread, ns, first), second, other_thread)
        found = finish(comparing.difference(saver._whole_blocking, before, after))
    if isinstance(found, list):
        raise _missing(found[0])
    if desk.as_json:
        say_json(_difference_json(found))
    else:
        _show_difference(found)
    if found.channels or found.metadata:
        raise typer.Exit(Code.NO)


def _two(saver: Saver, one: Address, second: str | None, other_thread: str | None) -> tuple[Address, Address]:
    """What to compare, the older first: two checkpoints as given, or one with its parent."""
    if second is not None or other_thread is not None:
        other = one._replace(checkpoint_id=text_key("checkpoint", second) if second else None)
        return one, other if other_thread is None else other._replace(thread_id=thread_key(other_thread))
    found = finish(inspecting.inspect(saver._whole_blocking, one, channels=()))
    if found is None:
        raise _missing(one)
    if found.parent_id is None:
        raise NotFound(f"checkpoint {unescape(found.address.checkpoint_id or '')!r} has no parent to compare it with")
    return found.address._replace(checkpoint_id=found.parent_id), found.address


def _difference_json(found: comparing.Difference) -> dict[str, Any]:
    return {
        "before": found.before.address.where,
        "after": found.after.address.where,
        "channels": {name: [_change_json(one) for one in changes] for name, changes in found.channels.items()},
        "unchanged": list(found.unchanged),
        "metadata": [_change_json(one) for one in found.metadata],
    }


def _change_json(change: comparing.Change) -> dict[str, Any]:
    sides = {"added": ("after",), "removed": ("before",), "changed": ("before", "after")}[change.kind]
    return {"path": change.path, "kind": change.kind, **{side: _json(getattr(change, side)) for side in sides}}


def _show_difference(found: comparing.Difference) -> None:
    for sign, one, style in (("-", found.before, "red"), ("+", found.after, "green")):
        step = one.metadata.get("step") if isinstance(one.metadata, dict) else None
        where = one.address.where
        say(cell(f"{sign} {where['thread_id']} {where['checkpoint_id']}  step {'?' if step is None else step}", style))
    for name, changes in (*found.channels.items(), *([("metadata", found.metadata)] if found.metadata else [])):
        say(Text("\n").append(cell(name, "bold")))
        for change in changes:
            _show_change(change)
    if found.unchanged:
        say(cell(f"\nunchanged: {', '.join(found.unchanged)}", "dim"))
    if not found.channels and not found.metadata:
        say("nothing differs")


def _show_change(change: comparing.Change) -> None:
    place = f"{change.path} " if change.path else ""
    if change.kind != "added":
        say(cell(f"  - {place}", "red").append(cell(text(change.before, _VALUE), "red")))
    if change.kind != "removed":
        say(cell(f"  + {place}", "green").append(cell(text(change.after, _VALUE), "green")))


def size(
    desk: Desk,
    thread: Annotated[
        str | None, typer.Argument(metavar="[THREAD]", help="Only this thread.", show_default=False)
    ] = None,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many threads and channels at most.")] = 10,
) -> None:
    """Show what takes the bytes: tables, threads, channels."""
    with desk.saver() as saver:
        found = finish(sizes.sizes(saver._whole_blocking, thread_id=thread, limit=limit))
    if desk.as_json:
        say_json(
            {
                "database": found.database,
                "free": found.free,
                "tables": [one._asdict() for one in found.tables],
                "threads": [{**one._asdict(), "total": one.total} for one in found.threads],
                "channels": [one._asdict() for one in found.channels],
            }
        )
        return
    if thread is None:
        _show_database(found)
    numbers = ("size", "rows", "largest")
    rows = [
        (_CHANNELS[one.kind], one.channel, bytes_of(one.size), f"{one.rows:,}", bytes_of(one.largest))
        for one in found.channels
    ]
    say(table(("what", "channel", *numbers), rows, numbers=numbers))


_CHANNELS = {"value": "values of", "write": "pending writes to", "checkpoint": "rows of checkpoints"}


def _show_database(found: sizes.Sizes) -> None:
    free = "" if found.free is None else f", {bytes_of(found.free)} of it free"
    say(f"database {bytes_of(found.database)}{free}\n")
    numbers: tuple[str, ...] = ("data", "indexes")
    if found.tables:
        tables = [(one.name, bytes_of(one.data), bytes_of(one.indexes)) for one in found.tables]
        say(table(("table", *numbers), tables, numbers=numbers))
        say("")
    numbers = ("size", "values", "checkpoints", "pending writes")
    rows = [
        (one.thread_id, bytes_of(one.total), bytes_of(one.items), bytes_of(one.checkpoints), bytes_of(one.writes))
        for one in found.threads
    ]
    say(table(("thread", *numbers), rows, numbers=numbers))
    say("")
