"""The space that a database takes on the disk, and giving back what it does not need."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from langgraph_checkpoint_dual.core.tx import Database


class Vacuumed(NamedTuple):
    """What was taken on the disk, in bytes: on SQLite by the whole file and its log, on Postgres by the tables."""

    before: int
    after: int

    @property
    def freed(self) -> int:
        """The bytes that were given back."""
        return self.before - self.after


class Storage(Database, Protocol):
    """A database with what cannot be done in a transaction."""

    async def vacuum(self, *, full: bool) -> Vacuumed:
        """Give back unused space, `full` at whatever price."""
        ...
