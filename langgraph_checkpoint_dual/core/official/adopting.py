"""The tables of the official savers, read as if they were ours. This is the only place where both meet.

The contract:

1. `Adopting` is a `Database` over another one. While the official tables are there, its transactions answer the queries
   below from both; all others, and all additions, go to our tables alone. So no operation of the core knows of this.
2. Where both hold a checkpoint or a write, ours counts: the other one is what it was moved from.
3. The latest checkpoint may be in either. Both have ids in the order of time, so the highest id is the latest.
4. A checkpoint of ours may have its parent among the official ones, and pending writes may be in both.
5. The official tables change only where checkpoints are removed: `delete_thread`, `prune` and `delete_for_runs`.
6. Whether they are there is looked up once, before the first operation, and again after `Adoption.forget`. Tables that
   vanish (they were moved and dropped) are noticed by the query that misses them, and the operation starts again.

Official ids are stored as they are, ours escaped (`core/text.py`); the rows given out here are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.address import Address
from langgraph_checkpoint_dual.core.checkpoints import loaded, sealed_body, slots_of
from langgraph_checkpoint_dual.core.items import Slot, pack_slots
from langgraph_checkpoint_dual.core.official.moving import Again, Mover, copy
from langgraph_checkpoint_dual.core.official.tables import (
    escaped,
    escaped_one,
    metadata_text,
    opened,
    own_writes,
    raw,
    raw_list,
    raw_places,
    raw_places_of,
)
from langgraph_checkpoint_dual.core.rows import Named, Outcome, Put, PutWrites
from langgraph_checkpoint_dual.core.store import ATTEMPTS, Store, newness
from langgraph_checkpoint_dual.core.text import escape, unescape
from langgraph_checkpoint_dual.core.tx import Database, Row, TableGone, Tx
from langgraph_checkpoint_dual.errors import CheckpointerError, DecodeError

T = TypeVar("T")
_CHAIN = 32
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_KEYS = {"thread_id", "checkpoint_ns", "checkpoint_id", "before", "after_id", "after_thread", "after_ns"}


class Adoption:
    """Whether the official tables are to be read: found out once for all that share this.

    Args:
        wanted: whether to look for them at all.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.there: bool | None = None if wanted else False

    def forget(self) -> None:
        """Look again before the next operation."""
        self.there = None if self.wanted else False

    async def look(self, db: Database) -> bool:
        """Whether they are there."""
        if self.there is None:
            self.there = await db.read(is_there)
        return self.there


async def is_there(tx: Tx) -> bool:
    """Whether the official tables are there and may be read."""
    return bool(await tx.fetch("official_tables"))


class Adopting:
    """See the module.

    Args:
        db: where both are.
        adoption: whether the official tables are there.
        store: reads their values, and encodes what is copied.
    """

    def __init__(self, db: Database, adoption: Adoption, store: Store) -> None:
        self._db, self._adoption, self._store = db, adoption, store
        self._copies: dict[str, Mover] = {}

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._whole(self._db.read, look)

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._whole(self._db.change, edit)

    async def append(self, addition: Put | PutWrites) -> Outcome:
        await self._adoption.look(self._db)  # so that nothing stands in between from now on if they are not there
        return await self._db.append(addition)

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._db.compute(weigh, work)

    async def _whole(
        self, run: Callable[[Callable[[Tx], Awaitable[T]]], Awaitable[T]], work: Callable[[Tx], Awaitable[T]]
    ) -> T:
        for _ in range(ATTEMPTS):
            if not await self._adoption.look(self._db):
                return await run(work)
            try:
                return await run(lambda tx: work(WholeTx(tx, self._store, self._copies)))
            except TableGone:
                self._adoption.there = False
            except Again:
                continue
        raise CheckpointerError(f"the thread could not be copied in {ATTEMPTS} attempts: others kept changing it")


class WholeTx:
    """A transaction that sees the official tables too.

    Args:
        tx: one that does not.
        store: reads their values, and encodes what is copied.
        copies: who copies threads, by source; kept while the transaction is repeated.
    """

    def __init__(self, tx: Tx, store: Store, copies: dict[str, Mover]) -> None:
        self._tx, self._store, self._serde, self._copies = tx, store, store.serde, copies
        self._fetches: Mapping[str, Callable[..., Awaitable[list[Row]]]] = {
            "page": self._page,
            "head": self._head,
            "checkpoint": self._checkpoint,
            "ancestors": self._ancestors,
            "writes": self._writes,
            "writes_of_chain": self._writes_of_chain,
            "tree": self._tree,
            "any_of_thread": self._any_of_thread,
            "threads_of_runs": self._threads_of_runs,
            "checkpoints_of_runs": self._checkpoints_of_runs,
        }
        self._executes: Mapping[str, Callable[..., Awaitable[None]]] = {
            "delete_thread": self._delete_thread,
            "delete_checkpoints": self._on_both,
            "hang": self._on_both,
            "copy_thread": self._copy_thread,
        }

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        name, _, conditions = query.partition(" where ")
        both = self._fetches.get(name)
        if both is None:
            return await self._tx.fetch(query, **args)
        return await (both(conditions, **args) if name == "page" else both(**args))

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        return await self._tx.compute(weigh, work)

    async def execute(self, query: str, /, **args: Any) -> None:
        both = self._executes.get(query)
        await (self._tx.execute(query, **args) if both is None else both(query, **args))

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        await self._tx.load(query, rows)

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        return await self._tx.insert(addition)

    # --- what is read ---

    async def _page(self, conditions: str, *, limit: int, **args: Any) -> list[Row]:
        where = conditions.split(" and ") if conditions else []
        own = await self._tx.fetch(_named("page", where), limit=limit, **args)
        checkpoints = sorted((row for row in own if not row[0]), key=newness, reverse=True)
        official = await self._official_page(where, limit, args, checkpoints)
        if official is None:
            return own
        held = {row[1:4] for row in checkpoints}
        theirs = [row for row in opened(official) if row[1:4] not in held]
        rows = sorted([*checkpoints, *theirs], key=newness, reverse=True)[:limit]
        places = {row[1:4] for row in rows}
        # Ours of their checkpoints, theirs of all; those of ours came with ours.
        more = await self._writes_of([row[1:4] for row in rows if row[1:4] not in held])
        writes = _merged([*(row for row in own if row[0]), *more], own_writes(official))
        return [*rows, *(row for row in writes if row[1:4] in places)]

    async def _official_page(
        self, where: list[str], limit: int, args: dict[str, Any], own: list[Row]
    ) -> list[Row] | None:
        """Their rows that may be among the latest `limit`, and their writes of our checkpoints; `None` if none can."""
        found = {key: unescape(value) if key in _KEYS else value for key, value in args.items()}
        if "filter" in where:
            needle = _unescaped(args["needle"]), _unescaped(args["nulls"])
            if None in needle:
                return None
            found["needle"], found["nulls"] = needle
        if len(own) == limit > 0:
            where = [*where, "newer"]
            thread_id, ns, checkpoint_id = map(unescape, own[-1][1:4])
            found.update(newer_id=checkpoint_id, newer_thread=thread_id, newer_ns=ns)
        others = raw_places_of(row[1:4] for row in own)
        return await self._tx.fetch(_named("official_page", where), limit=limit, others=others, **found)

    async def _writes_of(self, places: Sequence[Row]) -> list[Row]:
        if not places:
            return []
        return await self._tx.fetch("writes_of", checkpoints=json.dumps(places))

    async def _head(self, **at: Any) -> list[Row]:
        own = await self._tx.fetch("head", **at)
        theirs = await self._tx.fetch("official_head", **raw(at))
        return sorted([*own, *escaped(theirs)], reverse=True)[:1]

    async def _checkpoint(self, **at: Any) -> list[Row]:
        own = await self._tx.fetch("checkpoint", **at)
        if own:
            return own
        place = raw_places_of([(at["thread_id"], at["checkpoint_ns"], at["checkpoint_id"])])
        theirs = opened(await self._tx.fetch("official_checkpoints", checkpoints=place, channels="[]"))
        return [(row[4], self._sealed_body(row)) for row in theirs]

    def _sealed_body(self, row: Row) -> bytes:
        """The body of an official checkpoint as we would have it; empty if it is damaged."""
        try:
            return sealed_body(self._serde, loaded(self._serde, row, []).checkpoint, row[3], row[4], 0)
        except DecodeError:
            return b""

    async def _parent(self, at: Mapping[str, Any]) -> str | None:
        own = [row[:1] for row in await self._tx.fetch("checkpoint", **at)]
        found = own or escaped(await self._tx.fetch("official_parent", **raw(dict(at))))
        return found[0][0] if found else None

    async def _ancestors(self, *, limit: int, channels: str = "[]", **at: Any) -> list[Row]:
        found = await self._tx.fetch("ancestors", limit=limit, **at)
        wanted = set(json.loads(channels))
        nearest = sorted(found, key=lambda row: int(row[0]))
        for _, checkpoint_id, sealed in nearest:
            wanted -= set(map(escape, slots_of(checkpoint_id, sealed)))
        if nearest:
            at["checkpoint_id"] = nearest[-1][1]
        while len(found) < limit and (wanted or channels == "[]"):
            steps = await self._official_steps(min(_CHAIN, limit - len(found)), wanted, at)
            if not steps:
                break
            for checkpoint_id, slots in steps:
                found.append((len(found) + 1, checkpoint_id, _sealed(checkpoint_id, slots)))
                wanted -= slots.keys()
            at["checkpoint_id"] = found[-1][1]
        return found

    async def _official_steps(
        self, limit: int, wanted: Collection[str], at: dict[str, Any]
    ) -> list[tuple[str, dict[str, Slot]]]:
        """The next official ancestors, with what they store of some channels."""
        parent = await self._parent(at)
        if parent is None:
            return []
        start = {**at, "checkpoint_id": parent}
        rows = await self._tx.fetch("official_chain", limit=limit, **raw(start))
        chain = [row[1] for row in sorted(rows, key=lambda row: int(row[0]))]
        stored = await self._stored(at["thread_id"], at["checkpoint_ns"], list(map(escape, chain)), wanted)
        return [(escape(checkpoint_id), stored[escape(checkpoint_id)]) for checkpoint_id in chain]

    async def _stored(
        self, thread_id: str, checkpoint_ns: str, checkpoint_ids: Collection[str], wanted: Collection[str]
    ) -> dict[str, dict[str, Slot]]:
        """What official checkpoints store of some channels, as slots, by checkpoint and (escaped) channel."""
        found: dict[str, dict[str, Slot]] = {checkpoint_id: {} for checkpoint_id in checkpoint_ids}
        if not wanted:
            return found
        ids = list(checkpoint_ids)
        for first in range(0, len(ids), _CHAIN):
            places = raw_places_of((thread_id, checkpoint_ns, one) for one in ids[first : first + _CHAIN])
            channels = json.dumps(sorted(map(unescape, wanted)))
            for row in opened(await self._tx.fetch("official_checkpoints", checkpoints=places, channels=channels)):
                found[row[3]] = self._slots_of(row, wanted)
        return found

    def _slots_of(self, row: Row, wanted: Collection[str]) -> dict[str, Slot]:
        try:
            found: dict[str, Slot] = row[8].stored(self._serde, wanted)
            return found
        except DecodeError as exc:
            raise exc.at(**Address(*row[1:4]).where) from exc
        except (ValueError, TypeError, AttributeError) as exc:
            where = Address(*row[1:4]).where
            raise DecodeError(f"the stored checkpoint is damaged: {exc}", **where) from exc

    async def _writes(self, *, checkpoints: str, channels: str) -> list[Row]:
        own = await self._tx.fetch("writes", checkpoints=checkpoints, channels=channels)
        theirs = await self._tx.fetch(
            "official_writes", checkpoints=raw_places(checkpoints), channels=json.dumps(raw_list(channels))
        )
        return _merged(own, own_writes(theirs))

    async def _writes_of_chain(
        self, *, thread_id: str, checkpoint_ns: str, checkpoint_ids: str, channels: str
    ) -> list[Row]:
        places = json.dumps([[thread_id, checkpoint_ns, one] for one in json.loads(checkpoint_ids)])
        rows = await self._writes(checkpoints=places, channels=channels)
        [(count,)] = await self._present(checkpoints=places)
        return [*rows, (2, *[None] * 6, count, *[None] * 3)]

    async def _present(self, *, checkpoints: str) -> list[Row]:
        [(own,)] = await self._tx.fetch("present", checkpoints=checkpoints)
        if own == len(json.loads(checkpoints)):
            return [(own,)]
        held = {row[1:4] for row in await self._tx.fetch("places", checkpoints=checkpoints)}
        theirs = await self._tx.fetch("official_checkpoints", checkpoints=raw_places(checkpoints), channels="[]")
        return [(len(held | {row[1:4] for row in opened(theirs)}),)]

    async def _tree(self, *, thread_id: str) -> list[Row]:
        own = await self._tx.fetch("tree", thread_id=thread_id)
        held = {row[:2] for row in own}
        theirs = [
            (escape(ns), escape(checkpoint_id), escaped_one(parent), metadata_text(metadata))
            for ns, checkpoint_id, parent, metadata in await self._tx.fetch(
                "official_tree", thread_id=unescape(thread_id)
            )
        ]
        theirs = [row for row in theirs if row[:2] not in held]
        deltas = _delta_channels([*own, *theirs])
        found = list(own)
        for ns in {row[0] for row in theirs}:
            rows = [row for row in theirs if row[0] == ns]
            stored = await self._stored(thread_id, ns, [row[1] for row in rows], deltas)
            found += [(*row, _sealed(row[1], stored[row[1]])) for row in rows]
        return found

    async def _any_of_thread(self, *, thread_id: str) -> list[Row]:
        return await self._tx.fetch("any_of_thread", thread_id=thread_id) or await self._tx.fetch(
            "official_any", thread_id=unescape(thread_id)
        )

    async def _threads_of_runs(self, *, run_ids: str) -> list[Row]:
        own = await self._tx.fetch("threads_of_runs", run_ids=run_ids)
        theirs = await self._tx.fetch("official_runs", run_ids=json.dumps(raw_list(run_ids)))
        return list(dict.fromkeys([*own, *((escape(row[0]),) for row in theirs)]))

    async def _checkpoints_of_runs(self, *, thread_id: str, run_ids: str) -> list[Row]:
        own = await self._tx.fetch("checkpoints_of_runs", thread_id=thread_id, run_ids=run_ids)
        theirs = await self._tx.fetch(
            "official_runs of_thread", thread_id=unescape(thread_id), run_ids=json.dumps(raw_list(run_ids))
        )
        return [*own, *((*row, None) for row in escaped(row[1:] for row in theirs))]

    # --- what is removed ---

    async def _on_both(self, query: str, **args: Any) -> None:
        await self._tx.execute(query, **args)
        theirs = raw({key: value for key, value in args.items() if key != "checkpoint"})
        if "checkpoint_ids" in theirs:
            theirs["checkpoint_ids"] = json.dumps(raw_list(theirs["checkpoint_ids"]))
        await self._tx.execute(f"official_{query}", **theirs)

    async def _delete_thread(self, query: str, **args: Any) -> None:
        await self._tx.execute(query, **args)
        theirs = unescape(args["thread_id"])
        await self._tx.execute("official_bury", own_id=args["thread_id"], thread_id=theirs, at=args["at"])
        await self._tx.execute("official_delete_thread", thread_id=theirs)

    async def _copy_thread(self, query: str, *, source: str, target: str, at: int, **args: Any) -> None:
        await self._tx.execute(query, source=source, target=target, at=at, **args)
        mover = self._copies.setdefault(source, Mover(self._store, source, target, created_at=at))
        await copy(mover, self._tx)


def _merged(own: Iterable[Row], theirs: Iterable[Row]) -> list[Row]:
    """Writes of ours and official ones; of the same write, ours."""
    found = {(*row[1:5], row[7]): row for row in theirs}
    found.update({(*row[1:5], row[7]): row for row in own})
    return list(found.values())


def _sealed(checkpoint_id: str, slots: dict[str, Slot]) -> bytes:
    return values.seal(pack_slots(slots), values.place("slots", checkpoint_id))


def _delta_channels(rows: Iterable[Row]) -> set[str]:
    """The (escaped) delta channels that the metadata of `tree` rows tell of."""
    found: set[str] = set()
    for row in rows:
        counters = json.loads(row[3]).get("counters_since_delta_snapshot")
        if isinstance(counters, dict):
            found.update(counters)
    return found


def _named(query: str, where: Sequence[str]) -> str:
    return f"{query} where {' and '.join(where)}" if where else query


def _unescaped(text: str) -> str | None:
    """The JSON of a filter as official metadata has it; `None` if it holds what that cannot."""
    raw = unescape(text)
    return None if _UNSTORABLE.search(raw) else raw
