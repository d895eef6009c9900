"""What must be in a database after a soak, by the journals of those that wrote to it, and what is."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.items import Manifest, numbers
from langgraph_checkpoint_dual.core.text import escape
from tests.faults.history import has_writes, is_whole
from tests.support import tables
from tests.support.checkpoints import config
from tests.support.savers import Kind, opened

Stored = dict[str, tuple[int, bool]]
"""The checkpoints of a thread: the number and whether the writes must be there, by id."""


@dataclass
class Thread:
    """What is certain of a thread, and what may be."""

    sure: Stored = field(default_factory=dict)
    maybe: Stored = field(default_factory=dict)
    unsettled: str = ""
    """The operation on the whole thread of which it is not known whether it happened: all of it did or nothing."""
    source: str = ""


@dataclass
class Findings:
    """What came out of a soak of one database."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    unsettled: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What is there though it was removed, garbage, and errors that nobody should have seen."""
    used: int = 0
    """Connections that were open just before."""
    leaked: int = 0
    """Connections that were open after their saver was closed."""
    left_open: list[str] = field(default_factory=list)
    """Which these were, and what held them."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.torn or self.wrong or self.leaked)


def lines_of(journals: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for journal in journals:
        for line in journal.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


def expected(journals: list[Path], findings: Findings) -> dict[str, Thread]:
    """Replay the journals. Only its one writer changes a thread, except for shared ones, which only grow."""
    ended: dict[str, dict[str, Any]] = {}
    begun: list[dict[str, Any]] = []
    for line in lines_of(journals):
        if "end" in line:
            # An interruption may come after the line that says that all went well.
            if "unsettled" not in ended.get(line["end"], {"unsettled": ""}):
                continue
            ended[line["end"]] = line
        elif "op" in line:
            begun.append(line)
        elif line["event"] == "error":
            findings.wrong.append(f"{line['thread']}: {line['error']}")
        elif line["event"] == "closed":
            findings.used += line["before"]
            findings.leaked += line["open"]
            findings.left_open += line.get("which", [])
    threads: dict[str, Thread] = defaultdict(Thread)
    for line in begun:
        end = ended.get(line["key"], {"unsettled": "killed"})
        is_sure = "unsettled" not in end
        if is_sure:
            findings.acknowledged[line["op"]] += 1
        else:
            findings.unsettled[end["unsettled"]] += 1
        _replay(threads, line, is_sure)
    return threads


def _replay(threads: dict[str, Thread], line: dict[str, Any], is_sure: bool) -> None:
    thread, op = threads[line["thread"]], line["op"]
    if op in ("put", "fenced_put"):
        (thread.sure if is_sure else thread.maybe)[line["id"]] = (line["number"], False)
    elif op in ("late_put", "late_put_writes"):
        pass  # its thread is deleted, and stays so
    elif op == "put_writes":
        if is_sure:
            thread.sure[line["id"]] = (thread.sure[line["id"]][0], True)
    elif op == "copy_thread":
        copy = threads[line["target"]] = Thread(dict(thread.sure), source=line["thread"])
        copy.unsettled = "" if is_sure else op
    elif not is_sure:
        thread.unsettled = op
    else:
        thread.sure = {max(thread.sure): thread.sure[max(thread.sure)]} if op == "prune" else {}


async def check(kind: Kind, database: str, journals: list[Path]) -> Findings:
    """Compare a database with the journals of its writers."""
    findings = Findings()
    threads = expected(journals, findings)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    branches: Counter[tuple[str, Any]] = Counter()
    async with opened(kind.ours, database) as saver:
        async for one in saver.alist(None):
            place = one.config["configurable"]
            thread = place["thread_id"]
            source = threads[thread].source if thread in threads else ""
            one.config["configurable"] = {**place, "thread_id": source or thread}
            branches[thread, (one.parent_config or config())["configurable"].get("checkpoint_id")] += 1
            if not is_whole(one):
                findings.torn.append(f"{thread} {place['checkpoint_id']}")
            found[thread][place["checkpoint_id"]] = (one.checkpoint["channel_values"].get("number"), has_writes(one))
    for name in found.keys() | threads.keys():
        _compare(name, threads.get(name) or Thread(), found.get(name, {}), findings)
    two = [at for at, count in branches.items() if count > 1 and at[0].startswith("fenced-")]
    findings.wrong += [f"{thread}: several go on from {checkpoint_id}" for thread, checkpoint_id in two]
    findings.wrong += [f"garbage: {item}" for item in garbage(database)]
    if kind.backend == "sqlite" and tables.rows(database, "PRAGMA integrity_check") != [("ok",)]:
        findings.torn.append("integrity_check")
    return findings


def _compare(name: str, thread: Thread, found: Stored, findings: Findings) -> None:
    if thread.unsettled in ("delete_thread", "copy_thread") and not found:
        return
    sure = thread.sure
    if thread.unsettled == "prune" and len(found) == 1:
        sure = {max(sure): sure[max(sure)]}
    for checkpoint_id, (number, written) in sure.items():
        there = found.get(checkpoint_id)
        if there is None or there[0] != number or (written and not there[1]):
            findings.lost.append(f"{name} {checkpoint_id}: {there} for {(number, written)}, {thread.unsettled}")
    if extra := found.keys() - sure.keys() - thread.maybe.keys():
        findings.wrong.append(f"{name}: {len(extra)} that were removed or never put, {thread.unsettled}")


def garbage(database: str) -> list[tuple[Any, ...]]:
    """The items that no checkpoint references."""
    used = set()
    for row in tables.named_rows(database, "dual_checkpoints"):
        for channel, slot in slots_of(row["checkpoint_id"], row["slots"]).items():
            if isinstance(slot, Manifest):
                at = (row["thread_id"], row["checkpoint_ns"], escape(channel))
                used.update((*at, seq) for seq in numbers(slot.ranges))
    columns = "thread_id, checkpoint_ns, channel, seq"
    return [item for item in tables.rows(database, f"SELECT {columns} FROM dual_items") if tuple(item) not in used]
