"""The doctor: finds what is wrong in a database, and repairs what can be repaired without any risk.

The contract:

1. Looking changes nothing, revives nothing (but messages, where a serializer is given to see whether they are found by
   their words and ids), and goes on where something is damaged. Checksums are compared for every
   checkpoint, item and write; what hangs together is looked at through narrow rows.
2. Tables are read page by page in the order of their keys, so memory does not grow with the database. Pages are bounded
   in bytes; only where something is wrong are the narrow rows of one namespace held together.
3. Runs may go on meanwhile. Whatever looks wrong between two pages is looked at once more before it is reported.
4. Repaired is only what no reader can miss: items that no checkpoint of their namespace references, writes of a
   checkpoint that is not stored and older than a day, rows of the registry, and indexes. Each is looked at again, alone
   on its thread, in the transaction that repairs it. What is removed is given away to be saved before.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_dual.core.address import Address, thread_key
from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.inspection.describing import describe
from langgraph_checkpoint_dual.core.inspection.inspecting import damages, inspected
from langgraph_checkpoint_dual.core.inspection.surveying import (
    ROWS,
    Survey,
    extend,
    intersection,
    number_of,
    pages,
    rows_of_items,
    settled,
    surveyed,
    used_ranges,
)
from langgraph_checkpoint_dual.core.inspection.tables import (
    NARROW_ROWS,
    Checkpoints,
    Items,
    Verdict,
    Writes,
    next_places,
    unsealed,
)
from langgraph_checkpoint_dual.core.inspection.wording import out_of_step
from langgraph_checkpoint_dual.core.integrity import as_stored, has_mac
from langgraph_checkpoint_dual.core.items import Range
from langgraph_checkpoint_dual.core.metadata import from_json
from langgraph_checkpoint_dual.core.official.tables import opened, own_writes
from langgraph_checkpoint_dual.core.queries import INDEXES, TABLES, fetch_where
from langgraph_checkpoint_dual.core.text import order_of, shown, unescape
from langgraph_checkpoint_dual.core.times import micros_of_id, now
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError, DecodeError

_OFFICIAL_ROWS = 16
_DAY = 24 * 3600 * 10**6

Kind: TypeAlias = Literal[
    "damaged database", "unreadable", "damaged checkpoint", "damaged item", "damaged write", "missing items",
    "broken delta history", "missing table", "missing index", "missing parent", "orphaned items", "orphaned writes",
    "unlisted thread", "stale registry", "stale search", "stale tags",
]  # fmt: skip
HARMLESS = (
    "missing parent", "orphaned items", "orphaned writes", "unlisted thread", "stale registry", "missing index",
    "stale search", "stale tags",
)  # fmt: skip
"""Findings that keep no checkpoint from being read."""


class Finding(NamedTuple):
    """Something that is wrong. Ids are as their user knows them; `rows` says how many are concerned."""

    kind: Kind
    detail: str
    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    channel: str | None = None
    rows: int = 1
    size: int = 0
    """The bytes of the rows, where a repair would remove them."""
    repair: str | None = None
    """What a repair would do; `None` if there is none that is safe."""
    ranges: tuple[Range, ...] = ()
    """The numbers of the items concerned."""

    @property
    def is_harmless(self) -> bool:
        """Whether all checkpoints can be read all the same."""
        return self.kind in HARMLESS


@dataclass
class Examination:
    """What the doctor has looked at, and found."""

    checkpoints: int = 0
    items: int = 0
    writes: int = 0
    threads: int = 0
    official: int = 0
    """Checkpoints of the official tables."""
    findings: list[Finding] = field(default_factory=list)


Progress: TypeAlias = Callable[[int, int], object]


async def examine(
    db: Database,
    *,
    thread_id: str | None = None,
    serde: SerializerProtocol | None = None,
    on_finding: Callable[[Finding], object] = lambda finding: None,
    on_progress: Progress = lambda done, total: None,
) -> Examination:
    """Look at everything, or at everything of one thread.

    Args:
        serde: reads messages, to find those that are not found by their words (in an index for search) or by their id;
            unless given, this is not looked at.
        on_finding: called with each finding as soon as it is sure.
        on_progress: called with the number of rows that were looked at, and of all.

    Raises:
        ConfigError: if rows have MACs, and the database is not one that checks them: all would look damaged.
    """
    doctor = _Doctor(db, None if thread_id is None else thread_key(thread_id), serde, on_finding, on_progress)
    await doctor.check_key()
    if thread_id is None:
        await doctor.guarded("the state of the database", doctor.integrity)
        await doctor.guarded("the schema", doctor.schema)
    await doctor.guarded("the checkpoints", doctor.namespaces)
    await doctor.guarded("the parents", doctor.parents)
    await doctor.guarded("the pending writes", doctor.orphaned_writes)
    await doctor.guarded("the registry of threads", doctor.registry)
    if thread_id is None and serde is not None:
        await doctor.guarded("the index of messages", partial(doctor.search, serde))
    await doctor.guarded("the official tables", doctor.official)
    return doctor.found


class _Doctor:
    """One examination under way."""

    def __init__(
        self,
        db: Database,
        only: str | None,
        serde: SerializerProtocol | None,
        on_finding: Callable[[Finding], object],
        on_progress: Progress,
    ) -> None:
        self.db, self.found, self._serde = db, Examination(), serde
        self._where = {} if only is None else {"thread_id": {"thread_id": only}}
        self._on_finding, self._on_progress = on_finding, on_progress
        self._total = 0

    async def check_key(self) -> None:
        """Check that an integrity key is at hand if one is needed.

        Raises:
            ConfigError: if it is missing.
        """
        if as_stored(self.db) is not self.db:
            return
        try:
            rows = await self.db.read(lambda tx: fetch_where(tx, "doctor_checkpoints", self._where, limit=1))
        except Exception:  # the examination will tell
            return
        if any(has_mac(row[4]) for row in rows):
            raise ConfigError(
                "this database was stored with integrity_key=, without which nothing can be said of its rows; on the "
                "command line the key comes from the environment variable LANGGRAPH_INTEGRITY_KEY, in base64"
            )

    def report(self, finding: Finding) -> None:
        """Note a finding. A row whose ids are no texts is found by nobody, and so neither by a repair."""
        if not all(isinstance(one, (str, type(None))) for one in finding[2:6]):
            finding = finding._replace(repair=None)
        self.found.findings.append(finding)
        self._on_finding(finding)

    async def guarded(self, what: str, look: Callable[[], Any]) -> None:
        """Look at one thing; if the database cannot, that is a finding, and the rest is looked at all the same."""
        try:
            await look()
        except DecodeError as exc:
            self.report(Finding("unreadable", f"{what} cannot be read: {exc}"))
        except CheckpointerError:
            raise
        except Exception as exc:
            self.report(Finding("unreadable", f"{what} cannot be read: {type(exc).__name__}: {str(exc).strip()}"))

    # --- The database ---

    async def integrity(self) -> None:
        for (text,) in await self._fetch("doctor_integrity"):
            self.report(
                Finding("damaged database", f"{text}; restore a backup, or recover the file with its own tools")
            )

    async def schema(self) -> None:
        there = {row[0] for row in await self._fetch("doctor_schema")}
        for table in TABLES:
            if table not in there:
                self.report(Finding("missing table", f"the table {table} is missing; restore a backup", channel=table))
        for index in INDEXES:
            if index not in there:
                text = f"the index {index} is missing, so some queries are slow"
                self.report(Finding("missing index", text, channel=index, repair="make the index"))

    async def _fetch(self, query: str, **args: Any) -> list[Row]:
        async def look(tx: Tx) -> list[Row]:
            return await tx.fetch(query, **args)

        return await self.db.read(look)

    # --- Checkpoints, items and writes ---

    async def namespaces(self) -> None:
        """Look at all rows of each namespace together."""
        counted = await self._fetch("doctor_counted")
        self._total = sum(counted[0])
        self._advanced()
        checkpoints = Checkpoints(self.db, self._where)
        items = Items(self.db, self._where, self._serde)
        writes = Writes(self.db, self._where)
        last = None
        while place := min(await next_places(checkpoints, items, writes), key=lambda one: order_of(*one), default=None):
            namespace = _Namespace(self, *place)
            async for row in checkpoints.of(place):
                namespace.take(row)
            async for key, verdict in items.of(place):
                namespace.take_item(key, verdict)
            await namespace.conclude()
            async for key, verdict in writes.of(place):
                namespace.take_write(key, verdict)
            self.found.threads += place[0] != last
            last = place[0]
            self._advanced()

    def _advanced(self) -> None:
        done = self.found.checkpoints + self.found.items + self.found.writes
        self._on_progress(done, max(done, self._total))

    # --- What hangs together ---

    async def parents(self) -> None:
        """Checkpoints whose parent is not there, and the delta channels that cannot be rebuilt because of it."""
        lost: dict[tuple[str, str], set[str]] = {}
        async for thread_id, ns, checkpoint_id, parent_id in self._pages("doctor_lost_parents where lost", 3):
            at = Address(thread_id, ns, checkpoint_id)
            text = f"its parent {shown(parent_id)!r} is missing: going back in time ends here"
            self.report(_at(at, Finding("missing parent", text)))
            lost.setdefault((thread_id, ns), set()).add(checkpoint_id)
        for (thread_id, ns), ids in lost.items():
            rows = await self._fetch("doctor_namespace", thread_id=thread_id, checkpoint_ns=ns)
            for channel, start, count in _cut_off(rows, ids):
                text = (
                    f"the history of this delta channel is cut off before checkpoint {shown(start)!r}: "
                    f"{count} checkpoint{'s' * (count > 1)} cannot be rebuilt whole"
                )
                at = Address(thread_id, ns, start)
                self.report(_at(at, Finding("broken delta history", text, channel=channel, rows=count)))

    async def orphaned_writes(self) -> None:
        """Writes are saved before their checkpoint: only those that are old enough are left over for sure."""
        before = now() - _DAY
        async for thread_id, ns, checkpoint_id, count, size in self._pages("doctor_orphans where orphaned", 3):
            made = micros_of_id(checkpoint_id)
            if made > before:
                continue
            text = f"{count} pending write{'s' * (count > 1)} of a checkpoint that was never stored, or is gone"
            finding = Finding("orphaned writes", text, rows=count, size=int(size))
            if made:
                finding = finding._replace(repair="remove them")
            self.report(_at(Address(thread_id, ns, checkpoint_id), finding))

    async def registry(self) -> None:
        async for thread_id, _, _ in self._pages("doctor_unlisted where unlisted", 1):
            text = "the thread has checkpoints but is not in the registry, so it is not listed"
            self.report(_at(Address(thread_id), Finding("unlisted thread", text, repair="add it to the registry")))
        async for thread_id, updated_at, metadata, run_metadata, head, *rest in self._pages("doctor_listed", 1):
            if not (_is_object(metadata) and _is_object(run_metadata)):
                text = "the thread's metadata in the registry is damaged; set it anew with threads.update()"
                self.report(_at(Address(thread_id), Finding("stale registry", text)))
            made = micros_of_id(head) if head else 0
            if not _is_listable(updated_at, *rest):
                text = (
                    "the thread's row in the registry is damaged: a time is no number, or its user or title is no text"
                )
                self.report(_at(Address(thread_id), Finding("stale registry", text)))
            elif updated_at < made - _DAY and made <= now():
                text = "the registry takes the thread for older than its latest checkpoint"
                self.report(_at(Address(thread_id), Finding("stale registry", text, repair="correct its time")))

    async def search(self, serde: SerializerProtocol) -> None:
        found = await out_of_step(self.db, serde)
        if found is not None:
            parts = [f"{found.missing} messages are not indexed, so they are not found"] if found.missing else []
            parts += [f"{found.orphaned} messages are indexed that are gone"] if found.orphaned else []
            rows = found.missing + found.orphaned
            text = "; ".join(parts)
            self.report(Finding("stale search", text, channel=found.channel, rows=rows, repair="complete the index"))

    # --- The official tables ---

    async def official(self) -> None:
        """Look at what official savers have left; their rows have no checksums, so this is whether they can be read."""
        if not await self._fetch("official_tables"):
            return
        if self._where:
            await self._official_thread(unescape(self._where["thread_id"]["thread_id"]))
            return
        after = ""
        while ids := await self._fetch("official_threads", after=after, limit=ROWS):
            for (thread_id,) in ids:
                await self._official_thread(thread_id)
                after = thread_id

    async def _official_thread(self, thread_id: str) -> None:
        after: dict[str, Any] = {}
        while True:
            where = " and after" if after else ""
            args = {"thread_id": thread_id, "limit": _OFFICIAL_ROWS, "others": "[]", **after}
            rows = await self._fetch(f"official_page where thread_id{where}", **args)
            heads, writes = opened(rows), own_writes(rows)
            for head in heads:
                self.found.official += 1
                mine = [write for write in writes if write[1:4] == head[1:4]]
                for what in damages(inspected(head, mine)):
                    text = f"the official saver's checkpoint cannot be read whole: {what}"
                    self.report(_at(Address(*head[1:4]), Finding("damaged checkpoint", text)))
            if len(heads) < _OFFICIAL_ROWS:
                return
            last = min((head[3], head[1], head[2]) for head in heads)
            after = dict(zip(("after_id", "after_thread", "after_ns"), map(unescape, last), strict=True))

    async def _pages(self, query: str, width: int) -> AsyncIterator[Row]:
        """All rows of a query whose first columns, `width` of them, are their key."""
        async for row in pages(self.db, query, width, self._where, NARROW_ROWS):
            yield row


def _at(at: Address, finding: Finding) -> Finding:
    return finding._replace(**at.where)


def _is_listable(updated_at: Any, created_at: Any, user_id: Any, title: Any) -> bool:
    """Whether a row of the registry holds what it should: SQLite keeps anything in any column."""
    texts = isinstance(user_id, (str, type(None))) and isinstance(title, (str, type(None)))
    return isinstance(updated_at, int) and isinstance(created_at, int) and texts


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


# --- One namespace ---


class _Namespace:
    """The rows of one namespace: what its checkpoints reference is compared with the items that there are."""

    def __init__(self, doctor: _Doctor, thread_id: str, checkpoint_ns: str) -> None:
        self._doctor, self.thread_id, self.ns = doctor, thread_id, checkpoint_ns
        self._used: dict[str, list[Range]] = {}
        self._stored: dict[str, list[Range]] = {}
        self._damaged: dict[str, list[Range]] = {}
        self._untagged: dict[str, list[Range]] = {}
        self._knows_all = True

    def _report(self, finding: Finding, checkpoint_id: str | None = None) -> None:
        self._doctor.report(_at(Address(self.thread_id, self.ns, checkpoint_id), finding))

    def take(self, row: Row) -> None:
        """Look at a checkpoint."""
        _, _, checkpoint_id, parent_id, checkpoint, sealed, metadata, exact, run_id = row
        self._doctor.found.checkpoints += 1
        for what in _damages(checkpoint_id, parent_id, checkpoint, metadata, exact, run_id):
            self._report(Finding("damaged checkpoint", f"{what} is damaged"), checkpoint_id)
        ranges = used_ranges(checkpoint_id, sealed)
        if ranges is None:
            self._knows_all = False
            self._report(Finding("damaged checkpoint", "its list of channel values is damaged"), checkpoint_id)
            return
        for channel, some in ranges:
            extend(self._used, channel, some)

    def take_item(self, row: Row, verdict: Verdict) -> None:
        """Look at an item."""
        _, _, channel, seq, _ = row
        self._doctor.found.items += 1
        if not (isinstance(channel, str) and isinstance(seq, int)):
            text = f"an item is damaged: nobody finds it under the channel {channel!r} and the number {seq!r}"
            self._report(Finding("damaged item", text))
            return
        extend(self._stored, channel, [(seq, 1)])
        if verdict is Verdict.DAMAGED:
            extend(self._damaged, channel, [(seq, 1)])
        elif verdict is Verdict.NOT_FOUND:
            extend(self._untagged, channel, [(seq, 1)])

    def take_write(self, row: Row, verdict: Verdict) -> None:
        """Look at a pending write."""
        _, _, checkpoint_id, task_id, idx, _ = row
        self._doctor.found.writes += 1
        if verdict is Verdict.DAMAGED:
            text = f"the pending write {idx} of task {shown(task_id)!r} is damaged: its checksum does not fit"
            self._report(Finding("damaged write", text), checkpoint_id)

    async def conclude(self) -> None:
        """Compare what is used with what there is."""
        self._report_not_found()
        used, stored = settled(self._used), settled(self._stored)
        if used == stored and not self._damaged:
            return
        survey = await surveyed(self._doctor.db, self.thread_id, self.ns)
        for channel, ranges in survey.missing.items():
            self._spoilt(survey, channel, ranges, "missing items", "missing")
        for channel, ranges in settled(self._damaged).items():
            if used_ones := intersection(ranges, survey.used.get(channel, [])):
                self._spoilt(survey, channel, used_ones, "damaged item", "damaged")
        if self._knows_all and survey.knows_all:
            for channel, ranges in survey.orphaned.items():
                await self._orphaned(channel, ranges)

    def _report_not_found(self) -> None:
        for channel, ranges in settled(self._untagged).items():
            rows = number_of(ranges)
            text = (
                f"{rows} message{_plural(ranges)} of this channel {_are(ranges)} not found by id, so that append() "
                "adds another one of the same id in place of replacing it"
            )
            repair, name = "set what finds them", unescape(channel)
            self._report(Finding("stale tags", text, channel=name, rows=rows, repair=repair, ranges=tuple(ranges)))

    def _spoilt(self, survey: Survey, channel: str, ranges: list[Range], kind: Kind, what: str) -> None:
        users, rows = survey.users(channel, ranges), number_of(ranges)
        text = f"item{_plural(ranges)} {_shown(ranges)} of this channel {_are(ranges)} {what}: {_cannot(users)}"
        finding = Finding(kind, text, channel=unescape(channel), rows=rows, ranges=tuple(ranges))
        self._report(finding, max(users, default=None))

    async def _orphaned(self, channel: str, ranges: list[Range]) -> None:
        text = f"item{_plural(ranges)} {_shown(ranges)} of this channel {_are(ranges)} referenced by no checkpoint"
        finding = Finding(
            "orphaned items",
            text,
            channel=unescape(channel),
            rows=number_of(ranges),
            size=await _size(self._doctor.db, self.thread_id, self.ns, channel, ranges),
            repair="remove them" if number_of(ranges) > 1 else "remove it",
            ranges=tuple(ranges),
        )
        self._report(finding)


def _damages(
    checkpoint_id: str, parent_id: str | None, checkpoint: bytes, metadata: str, exact: bytes | None, run_id: str | None
) -> Iterator[str]:
    """What of a checkpoint's row is damaged, besides its slots."""
    typed = unsealed(checkpoint, "checkpoint", checkpoint_id, parent_id or "")
    if typed is None:
        yield "its row (or the parent that it names)"
    if exact is not None:
        if unsealed(exact, "metadata", checkpoint_id) is None:
            yield "its metadata"
    elif typed is not None and not _fits(typed, metadata):
        yield "its metadata"
    if (run_id or None) != _run_of(metadata):
        yield "its run_id"


def _run_of(metadata: str) -> str | None:
    """The run that metadata names; what cannot be read names none."""
    try:
        found = json.loads(metadata).get("run_id")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) and found else None


def _fits(typed: bytes, metadata: str) -> bool:
    """Whether metadata has the checksum that its checkpoint names; encrypted ones are not looked into."""
    try:
        body = describe(typed)
    except DecodeError:
        return True
    if not (isinstance(body, list) and body and isinstance(body[-1], int)):
        return True
    try:
        from_json(metadata, body[-1])
    except (DecodeError, ValueError):
        return False
    return True


async def _size(db: Database, thread_id: str, ns: str, channel: str, ranges: Sequence[Range]) -> int:
    size = 0
    async for row in rows_of_items(db, "doctor_items", thread_id, ns, channel, ranges):
        size += row[4]
    return size


# --- Delta channels ---


def _cut_off(rows: Sequence[Row], lost: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """The delta channels that cannot be rebuilt beyond checkpoints without their parent, and for how many.

    Args:
        rows: those of `doctor_namespace`.
        lost: the checkpoints whose parent is missing.
    """
    children: dict[str, list[str]] = {}
    needs: dict[str, set[str]] = {}
    for checkpoint_id, parent_id, metadata, sealed in rows:
        if parent_id:
            children.setdefault(parent_id, []).append(checkpoint_id)
        needs[checkpoint_id] = _deltas(metadata) - _channels(checkpoint_id, sealed)
    for start in sorted(lost):
        for channel in sorted(needs.get(start, ())):
            reached = [start]
            for one in reached:  # grows while it is walked
                reached += [child for child in children.get(one, ()) if channel in needs[child]]
            yield channel, start, len(reached)


def _deltas(metadata: str) -> set[str]:
    """The delta channels of a checkpoint's graph, as its metadata tells."""
    counters = json.loads(metadata).get("counters_since_delta_snapshot")
    return set(map(unescape, counters)) if isinstance(counters, dict) else set()


def _channels(checkpoint_id: str, sealed: bytes) -> set[str]:
    try:
        return set(slots_of(checkpoint_id, sealed))
    except DecodeError:
        return set()


def _plural(ranges: Sequence[Range]) -> str:
    return "s" if number_of(ranges) > 1 else ""


def _are(ranges: Sequence[Range]) -> str:
    return "are" if number_of(ranges) > 1 else "is"


def _shown(ranges: Sequence[Range]) -> str:
    """A few ranges as text."""
    shown = [str(start) if count == 1 else f"{start}–{start + count - 1}" for start, count in ranges[:3]]
    return ", ".join(shown) + (f" and {number_of(ranges[3:])} more" if len(ranges) > 3 else "")


def _cannot(users: Sequence[str]) -> str:
    return f"{len(users)} checkpoint{'s' if len(users) != 1 else ''} cannot be read whole"
