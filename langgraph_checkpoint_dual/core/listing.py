"""Listing checkpoints: in pages, so that memory stays constant and nothing is held in the database between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from langgraph_checkpoint_dual import observing
from langgraph_checkpoint_dual.core.address import before_id, selection_of
from langgraph_checkpoint_dual.core.checkpoints import Loaded
from langgraph_checkpoint_dual.core.looks import ItemLost, Look
from langgraph_checkpoint_dual.core.metadata import filter_args
from langgraph_checkpoint_dual.core.queries import fetch_where
from langgraph_checkpoint_dual.core.store import Store, newness, undamaged, unless_lost, with_values
from langgraph_checkpoint_dual.core.tx import Database, Row, Tx
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError

_FIRST_PAGE, _FIRST_OF_FEW, _LARGEST_PAGE, _PAGE_BYTES = 8, 32, 128, 4 * 1024 * 1024


def listing(
    store: Store,
    config: RunnableConfig | None,
    filter: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
    on_damaged: Callable[[DecodeError], object] | None,
) -> Listing:
    """A listing, to be read page by page.

    Raises:
        ConfigError: if the limit is negative or no `int`, or the filter or a config cannot be used.
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise ConfigError(f"limit must be a non-negative int or None, not {limit!r}")
    where: dict[str, Mapping[str, Any]] = {} if config is None else {**selection_of(config).conditions}
    if (bound := before_id(before)) is not None:
        where["before"] = {"before": bound}
    if (wanted := filter_args(filter)) is not None:
        where["filter"] = wanted
    return Listing(store, where, limit, on_damaged)


class Listing:
    """A listing under way, newest checkpoint first: nothing is held in the database between its pages."""

    def __init__(
        self,
        store: Store,
        where: dict[str, Mapping[str, Any]],
        limit: int | None,
        on_damaged: Callable[[DecodeError], object] | None,
    ) -> None:
        self._store, self._where, self._left, self._on_damaged = store, where, limit, on_damaged
        # Who names a limit will read on until then.
        self._size = _FIRST_PAGE if limit is None else _FIRST_OF_FEW
        self._average, self._look = 1, Look({})

    async def page(self, db: Database) -> list[Loaded | DecodeError]:
        """The next checkpoints, an error for each damaged one; none at the end."""
        size = self._size if self._left is None else min(self._size, self._left)
        if size == 0:
            return []
        found, self._look, last = await unless_lost(lambda: db.read(partial(self._fetch, size)))
        if found:
            self._where["after"] = {"after_id": last[3], "after_thread": last[1], "after_ns": last[2]}
        if self._left is not None:
            self._left = self._left - len(found) if len(found) == size else 0
        observing.read(self._look.weight)
        self._average = max(1, self._look.weight // max(1, len(found)))
        self._size = max(1, min(self._size * 2, _LARGEST_PAGE, _PAGE_BYTES // self._average))
        return found

    async def _fetch(self, size: int, tx: Tx) -> tuple[list[Loaded | DecodeError], Look, Row]:
        rows = await fetch_where(tx, "page", self._where, limit=size)
        found = await self._store.load_page(tx, rows)
        look = Look({})
        await look.fetch(tx, [one for one in found if isinstance(one, Loaded)])
        return found, look, min((row for row in rows if not row[0]), key=newness, default=())

    async def tuple(self, db: Database, checkpoint: Loaded | DecodeError) -> CheckpointTuple | None:
        """A checkpoint of the page with its values; `None` if it was deleted since, or is damaged and so reported.

        Raises:
            DecodeError: if it is damaged and nobody is to be told.
        """
        try:
            return await self._tuple(db, undamaged(checkpoint))
        except DecodeError as exc:
            if self._on_damaged is None:
                raise
            self._on_damaged(exc)
            return None

    async def _tuple(self, db: Database, checkpoint: Loaded) -> CheckpointTuple | None:
        try:
            work: Callable[[], dict[str, Any]] = partial(self._look.values, checkpoint, self._store.serde)
            return with_values(checkpoint, await db.compute(lambda: self._average, work))
        except ItemLost:
            return await self._store.tuple_at(db, checkpoint.address)
