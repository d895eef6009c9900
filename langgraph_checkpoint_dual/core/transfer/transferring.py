"""Transfer between two databases of ours: rows as they are, in batches, so that the databases set the pace.

The contract:

1. No value is decoded: checksums depend on the place of a row in its thread and not on the database. Whether the
   target's serializer can read what the source's has written is decided before.
2. A *page* is one transaction on the target: some checkpoints with all their items that the target lacks, and with
   their pending writes. So each checkpoint that is seen in the target is whole, and so is each thread of up to
   `PAGE_BYTES` (`pages.py`).
3. Progress is noted nowhere. What the target has is found by comparing narrow rows (keys and checksums), and what is
   equal is not sent again. Whoever is killed begins again from the start and soon is where he was; whoever repeats a
   transfer brings over what is new.
4. A thread that has checkpoints in the target that the source lacks went on there, or was pruned in the source, and is
   left alone. If it lacks others that the source has, the histories have parted: that is a conflict. Of a checkpoint
   that both have, the pending writes of the source count, unless the target has more of them.
5. What others put to the source meanwhile is brought over or not, each checkpoint whole, with the writes that it had
   when it was read. What others remove meanwhile makes the thread begin again.
6. In memory are one page, the narrow rows of one *span* (part of a long thread, or some short ones), and for each
   channel of these threads the ranges of the items that the target has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.items import Manifest, Range, merged
from langgraph_checkpoint_dual.core.looks import ItemLost
from langgraph_checkpoint_dual.core.rows import CheckpointRow, CurrentRow, ItemRow, RegistryRow, WriteRow
from langgraph_checkpoint_dual.core.store import Store, unless_lost
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.threads import delete_thread, kept_by_prune
from langgraph_checkpoint_dual.core.transfer.narrow import (
    WHOLE,
    Bounds,
    Key,
    Narrow,
    Stamp,
    fetched,
    has_more,
    narrow,
    sizes_of,
)
from langgraph_checkpoint_dual.core.transfer.pages import Entry, Fetched, Page, beyond, pages_of, portions
from langgraph_checkpoint_dual.core.transfer.transfers import Meter
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import DecodeError

_SPAN = 2000

Parents: TypeAlias = Mapping[tuple[str, str], "str | None"]


class Link(NamedTuple):
    """What a transfer of rows is between, and what is asked for.

    `store` are the operations on the source, `target_store` those on the target; to copy, they decode nothing.
    """

    source: Database
    target: Database
    store: Store
    target_store: Store
    meter: Meter

    async def copy(self, threads: Sequence[str]) -> None:
        """Bring over some threads, at most as many as `ThreadPages` gives at once."""
        for group, is_short in groups(threads, await sizes_of(self.source, threads)):
            try:
                await self._copy(group, is_short)
            except ItemLost:  # somebody removes checkpoints of one of them: each alone, again from its start
                for thread in group:
                    await unless_lost(partial(self._copy, [thread], is_short))

    async def _copy(self, threads: list[str], is_short: bool) -> None:
        await Group(self, threads, is_short).run()


def groups(threads: Sequence[str], sizes: Mapping[str, int]) -> Iterator[tuple[list[str], bool]]:
    """The threads in groups of up to a span; a longer one alone."""
    group: list[str] = []
    room = _SPAN
    for thread in threads:
        size = sizes.get(thread, 0)
        if size > _SPAN:
            yield [thread], False
            continue
        if size > room:
            yield group, True
            group, room = [], _SPAN
        group.append(thread)
        room -= size
    if group:
        yield group, True


class Group:
    """Some short threads, or a long one, on their way."""

    def __init__(self, link: Link, threads: list[str], is_short: bool) -> None:
        self._link, self._threads, self._is_short = link, threads, is_short
        self._options, self._report = link.meter.options, link.meter.report
        self._present: set[str] = set()
        self._kept: dict[str, Parents] = {}
        self._have: dict[tuple[str, str, str], list[Range]] = {}
        self._changed: set[str] = set()
        self._damaged: list[str] = []
        self._read: tuple[Narrow, Narrow] | None = None

    async def run(self) -> None:
        """Bring over what is missing in the target."""
        spans = await self.spans()
        await self._look()
        ahead, parted = await self._relations(spans)
        todo = [thread for thread in self._threads if thread not in ahead and thread not in parted]
        if self._options.on_conflict == "replace":
            todo += await self._replace(parted)
        for span in spans:
            await self._bring(span, set(todo))
        await self._register(todo)
        self._note(len(ahead), parted)

    def _note(self, ahead: int, parted: set[str]) -> None:
        report = self._report
        report.threads += len(self._threads)
        report.changed += len(self._changed)
        report.ahead += ahead
        report.damaged += dict.fromkeys(self._damaged)
        if self._options.on_conflict != "replace":
            report.conflicts += [unescape(thread) for thread in sorted(parted)]
        self._link.meter.tell()

    async def _look(self) -> None:
        """What the target has anything of, and what is wanted."""
        self._present = set(await sizes_of(self._link.target, self._threads))
        if self._options.latest_only:
            for thread in self._threads:
                self._kept[thread] = await self._latest(thread)

    async def _latest(self, thread: str) -> Parents:
        """What is wanted of a thread if that is the latest only; nothing of one whose tree cannot be read."""
        try:
            return await self._link.source.read(partial(kept_by_prune, self._link.store, thread))
        except DecodeError as exc:
            self._damaged.append(str(exc))
            return {}

    async def spans(self) -> list[Bounds]:
        """The parts in which to go about it."""
        if self._is_short:
            return [WHOLE]
        [thread] = self._threads
        found: list[Bounds] = []
        after: tuple[str, str] | None = None
        while True:
            ns, checkpoint_id = after or ("", "")
            args = {"thread_id": thread, "after_ns": ns, "after_id": checkpoint_id, "count": _SPAN - 1}
            rows = await fetched(self._link.source, "boundary", **args)
            upto = (rows[0][0], rows[0][1]) if rows else None
            found.append((after, upto))
            if upto is None:
                return found
            after = upto

    # --- what is missing ---

    async def _relations(self, spans: list[Bounds]) -> tuple[set[str], set[str]]:
        """The threads that went on in the target, and those of which both sides have what the other lacks."""
        lacking: set[str] = set()
        extra: set[str] = set()
        for span in spans if self._present else []:
            source, target = await self._both(span)
            extra.update(key[0] for key in target.checkpoints.keys() - source.checkpoints.keys())
            lacking.update(
                key[0] for key in source.checkpoints.keys() - target.checkpoints.keys() if self._is_wanted(key)
            )
        return extra - lacking, extra & lacking

    async def _both(self, span: Bounds) -> tuple[Narrow, Narrow]:
        """The narrow rows of the source and of the target."""
        if self._read is not None:
            return self._read
        source = await narrow(self._link.source, self._threads, span)
        target = await narrow(self._link.target, sorted(self._present), span) if self._present else Narrow({}, {})
        if self._is_short:
            self._read = source, target
        return source, target

    def _is_wanted(self, key: Key) -> bool:
        return not self._options.latest_only or key[1:] in self._kept[key[0]]

    async def _replace(self, threads: set[str]) -> list[str]:
        """Forget what the target has of these threads."""
        for thread in threads:
            if not self._options.dry_run:
                await delete_thread(self._link.target_store, self._link.target, unescape(thread))
        self._present -= threads
        if self._read is not None:
            source, target = self._read
            self._read = source, Narrow(_without(target.checkpoints, threads), _without(target.writes, threads))
        return sorted(threads)

    # --- bringing it over ---

    async def _bring(self, span: Bounds, threads: set[str]) -> None:
        source, target = await self._both(span)
        entries: list[Entry] = []
        for key in sorted(source.checkpoints.keys() | source.writes.keys()):
            if key[0] in threads and self._is_wanted(key):
                entry = self._entry(key, source, target)
                if entry is not None:
                    entries.append(entry)
        await self._weigh(entries)
        for page in pages_of(entries):
            await self._send(page)

    def _entry(self, key: Key, source: Narrow, target: Narrow) -> Entry | None:
        """What the target lacks of a checkpoint; `None` if nothing."""
        stamp = source.checkpoints.get(key)
        ranges = [] if stamp is None else self._new_ranges(key, stamp)
        if stamp is not None and self._is_same(stamp, target.checkpoints.get(key)):
            stamp, ranges = None, []
        writes, stored = source.writes.get(key), target.writes.get(key)
        if writes is not None and stored is not None and not has_more(writes, stored):
            writes = None
        if stamp is None and writes is None:
            return None
        size = (stamp.size if stamp else 0) + (writes.size if writes else 0)
        return Entry(key, stamp, 0 if writes is None else len(writes.stamps), size, ranges)

    def _is_same(self, stamp: Stamp, stored: Stamp | None) -> bool:
        if self._options.latest_only:  # its parent may be another one, and so its checksum
            return stored is not None and stamp.slots == stored.slots
        return stored is not None and stamp[:3] == stored[:3]

    def _new_ranges(self, key: Key, stamp: Stamp) -> list[tuple[str, Range]]:
        """The items of a checkpoint that nothing before it brings over, by channel."""
        found: list[tuple[str, Range]] = []
        try:
            slots = slots_of(key[2], stamp.slots)
        except DecodeError as exc:
            self._damaged.append(str(exc.at(**Address(*key).where)))
            return found
        for name, slot in slots.items():
            if isinstance(slot, Manifest):
                channel = escape(name)
                have = self._have.get((key[0], key[1], channel), [])
                new = beyond(slot.ranges, have)
                if new:
                    self._have[key[0], key[1], channel] = merged([*have, *new])
                    found += [(channel, part) for part in new]
        return found

    async def _weigh(self, entries: Iterable[Entry]) -> None:
        """Add the sizes of their items to the entries."""
        owners = [entry for entry in entries for _ in entry.ranges]
        if owners:
            text = json.dumps([one for entry in entries for one in entry.wanted])
            for at, size in await fetched(self._link.source, "item_sizes", ranges=text):
                owners[at].size += size

    async def _send(self, page: Page) -> None:
        if not self._options.dry_run:
            fetched = await self._link.source.read(partial(self._fetch, page))
            await self._link.target.change(partial(_store, page, fetched))
        self._changed.update(entry.key[0] for entry in page.entries)
        self._report.checkpoints += sum(entry.stamp is not None for entry in page.entries)
        self._report.writes += sum(entry.writes for entry in page.entries)
        self._report.bytes += page.size
        self._link.meter.tell()

    async def _fetch(self, page: Page, tx: Tx) -> Fetched:
        """The rows of a page.

        Raises:
            ItemLost: if one of its checkpoints is not what it was when it was compared.
        """
        copied = {entry.key: entry.stamp for entry in page.entries if entry.stamp is not None}
        keys = json.dumps(list(copied))
        ranges = [one for entry in page.entries for one in entry.wanted]
        items: list[ItemRow] = []
        slots = [stamp.slots for stamp in copied.values()]
        unchanged = 0
        for at, *row in await tx.fetch("rows_of_items", ranges=json.dumps(ranges), checkpoints=keys):
            if at >= 0:
                items.append(ItemRow(*ranges[at][:3], *row))
            else:
                unchanged += row[-1] == slots[row[0]]
        checkpoints = [CheckpointRow(*row) for row in await tx.fetch("rows_of_checkpoints", checkpoints=keys)]
        if unchanged != len(copied) or any(copied[row[:3]].slots != row.slots for row in checkpoints):
            raise ItemLost("a checkpoint was removed or replaced while it was transferred")
        written = json.dumps([entry.key for entry in page.entries if entry.writes])
        writes = [WriteRow(*row) for row in await tx.fetch("rows_of_writes", checkpoints=written)]
        if self._options.latest_only:
            checkpoints = [_hung(row, self._kept[row.thread_id][row[1:3]]) for row in checkpoints]
        return Fetched(items, sorted(checkpoints, key=_place), sorted(writes, key=_place))

    # --- the registry ---

    async def _register(self, threads: list[str]) -> None:
        """Bring over the registry's rows of these threads, unless the target's are of the same time."""
        names = json.dumps(threads)
        rows = [RegistryRow(*row) for row in await fetched(self._link.source, "rows_of_threads", threads=names)]
        stored = {
            row[0]: RegistryRow(*row) for row in await fetched(self._link.target, "rows_of_threads", threads=names)
        }
        rows = [row for row in rows if row.thread_id in self._changed or _has_news(row, stored.get(row.thread_id))]
        current = [
            CurrentRow(*row) for row in await fetched(self._link.source, "rows_of_current_threads", threads=names)
        ]
        if rows and not self._options.dry_run:
            self._changed.update(row.thread_id for row in rows)
            await self._link.target.change(partial(_store_registry, rows, current))


async def _store(page: Page, fetched: Fetched, tx: Tx) -> None:
    threads = json.dumps(sorted({entry.key[0] for entry in page.entries}))
    await tx.execute("lock_threads", threads=threads)
    await tx.execute("forget_deleted", threads=threads)
    for items in portions(fetched.items):
        await tx.load("load_items", items)
    await tx.load("insert_checkpoint", fetched.checkpoints)
    await tx.load("replace_write", fetched.writes)


async def _store_registry(rows: list[RegistryRow], current: list[CurrentRow], tx: Tx) -> None:
    await tx.load("load_threads", rows)
    await tx.load("load_current_threads", current)


def _hung(row: CheckpointRow, parent_id: str | None) -> CheckpointRow:
    """A checkpoint's row with another parent, which its checksum covers."""
    if row.parent_checkpoint_id == parent_id:
        return row
    typed = values.unseal(row.checkpoint, values.place("checkpoint", row.checkpoint_id, row.parent_checkpoint_id or ""))
    sealed = values.seal(typed, values.place("checkpoint", row.checkpoint_id, parent_id or ""))
    return row._replace(parent_checkpoint_id=parent_id, checkpoint=sealed)


def _has_news(row: RegistryRow, stored: RegistryRow | None) -> bool:
    return stored is None or row.updated_at != stored.updated_at


def _place(row: CheckpointRow | WriteRow) -> Row:
    return row[:3] if isinstance(row, CheckpointRow) else row[:5]


def _without(rows: Mapping[Key, Any], threads: set[str]) -> dict[Key, Any]:
    return {key: value for key, value in rows.items() if key[0] not in threads}
