"""Whether two databases of ours hold the same of some threads: every row is read and decoded from both, once.

A value that many checkpoints share is made of the same items in each of them, so it is compared with the first: where
the rows of two checkpoints are equal, and the items that these name, the checkpoints are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import loaded
from langgraph_checkpoint_dual.core.equality import same
from langgraph_checkpoint_dual.core.items import Inline
from langgraph_checkpoint_dual.core.looks import ItemLost
from langgraph_checkpoint_dual.core.rows import CheckpointRow, ItemRow, WriteRow
from langgraph_checkpoint_dual.core.store import Store
from langgraph_checkpoint_dual.core.text import unescape
from langgraph_checkpoint_dual.core.transfer.narrow import Bounds, Key, Narrow, sizes_of
from langgraph_checkpoint_dual.core.transfer.pages import Entry, Fetched, Page, pages_of
from langgraph_checkpoint_dual.core.transfer.transferring import Group, Link, groups
from langgraph_checkpoint_dual.errors import DecodeError


async def audit(link: Link, threads: Sequence[str]) -> None:
    """Compare some threads, at most as many as a page of them has, and report what differs."""
    for group, is_short in groups(threads, await sizes_of(link.source, threads)):
        await _Audit(link, group, is_short).run()


class _Audit(Group):
    """Some short threads, or a long one, under comparison."""

    async def run(self) -> None:
        spans = await self.spans()
        await self._look()
        for span in spans:
            await self._compare(span)
        self._link.meter.tell()

    async def _compare(self, span: Bounds) -> None:
        source, target = await self._both(span)
        entries = []
        for key in sorted(source.checkpoints):
            if not self._is_wanted(key):
                continue
            if key in target.checkpoints:
                entries.append(self._whole(key, source))
            else:
                self._differs(key, "missing")
        await self._weigh(entries)
        for page in pages_of(entries):
            await self._check(page)

    def _whole(self, key: Key, source: Narrow) -> Entry:
        stamp, writes = source.checkpoints[key], source.writes.get(key)
        number, size = (0, 0) if writes is None else (len(writes.stamps), writes.size)
        return Entry(key, stamp, number, stamp.size + size, self._new_ranges(key, stamp))

    async def _check(self, page: Page) -> None:
        work = partial(self._fetch, page)
        here = await self._link.source.read(work)
        try:
            there = await self._link.target.read(work)
        except ItemLost:
            if len(page.entries) > 1:
                for entry in page.entries:
                    await self._check(Page([entry]))
            else:
                self._differs(page.entries[0].key, "the checkpoint")
            return
        await self._judge(page, here, there)

    async def _judge(self, page: Page, here: Fetched, there: Fetched) -> None:
        found = await self._link.target.compute(
            lambda: page.size + sum(len(item.data) for item in here.items),
            partial(self._faults, page, here, there),
        )
        for row in here.checkpoints:
            fault = found.get(row[:3])
            if fault is None:
                self._report.verified += 1
            else:
                self._differs(row[:3], fault)

    def _faults(self, page: Page, here: Fetched, there: Fetched) -> dict[Key, str]:
        """What is wrong with the checkpoints of a page, or with the items that they are the first to name."""
        found = self._faults_of_items(page, here, there)
        stored = {row[:3]: row for row in there.checkpoints}
        written = {row[:5]: row for row in there.writes}
        pending: dict[Key, list[WriteRow]] = {}
        for one in here.writes:
            pending.setdefault(one[:3], []).append(one)
        for row in here.checkpoints:
            writes = pending.get(row[:3], [])
            fault = self._fault(row, writes, stored[row[:3]], [written.get(one[:5]) for one in writes])
            if fault is not None:
                found.setdefault(row[:3], fault)
        return found

    def _fault(
        self, row: CheckpointRow, writes: list[WriteRow], stored: CheckpointRow, written: list[WriteRow | None]
    ) -> str | None:
        if None in written:
            return "a pending write is missing"
        try:
            first = _opened(self._link.store, row, writes)
        except DecodeError as exc:
            return f"damaged in the source: {exc}"
        try:
            second = _opened(self._link.target_store, stored, [one for one in written if one is not None])
        except DecodeError as exc:
            return f"damaged in the target: {exc}"
        names = ("the parent", "the checkpoint", "values", "metadata", "pending writes")
        for name, one, two in zip(names, first, second, strict=True):
            if not same(one, two):
                return name
        return None

    def _faults_of_items(self, page: Page, here: Fetched, there: Fetched) -> dict[Key, str]:
        first, second = ({row[:4]: row for row in side.items} for side in (here, there))
        found: dict[Key, str] = {}
        for entry in page.entries:
            for thread, ns, channel, start, stop in entry.wanted:
                for seq in range(start, stop + 1):
                    place = thread, ns, channel, seq
                    fault = self._fault_of_item(first.get(place), second.get(place))
                    if fault is not None:
                        found.setdefault(entry.key, f"channel {unescape(channel)!r}: {fault}")
        return found

    def _fault_of_item(self, row: ItemRow | None, stored: ItemRow | None) -> str | None:
        try:
            value = _item(self._link.store, row)
        except DecodeError as exc:
            return f"damaged in the source: {exc}"
        try:
            return None if same(value, _item(self._link.target_store, stored)) else f"item {row and row.seq}"
        except DecodeError as exc:
            return f"damaged in the target: {exc}"

    def _differs(self, key: Key, what: str) -> None:
        place = ", ".join(f"{name} {value!r}" for name, value in Address(*key).where.items())
        self._report.differences.append(f"{place}: {what}")


def _opened(store: Store, row: CheckpointRow, writes: Sequence[WriteRow]) -> tuple[Any, ...]:
    """A checkpoint and its writes, read as `get_tuple` reads them, without the values that are items."""
    thread_id, ns, checkpoint_id, parent_id, _, checkpoint, slots, metadata, exact = row
    page = (0, thread_id, ns, checkpoint_id, parent_id, metadata, None, 0, checkpoint, slots, exact)
    pending = [(1, *one[:4], one.task_path, one.channel, one.idx, one.data, None, None) for one in writes]
    found = loaded(store.serde, page, pending)
    inline = {
        channel: values.decode(store.serde, slot.data)
        for channel, slot in found.slots.items()
        if isinstance(slot, Inline)
    }
    return found.parent_id, dict(found.checkpoint), inline, dict(found.metadata), list(found.writes)


def _item(store: Store, row: ItemRow | None) -> Any:
    if row is None:
        raise DecodeError("an item of the stored value is missing")
    start = values.place("item", row.channel)
    if not values.is_item(row.checksum, row.data, start, row.seq, row.added_at):
        raise DecodeError(f"item {row.seq} of the stored value is damaged: its checksum does not fit")
    return values.decode(store.serde, row.data)
