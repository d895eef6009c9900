"""What the core asks of a database: two small protocols, and the way to run a coroutine without a loop.

The contract:

1. Every operation of the savers is one coroutine over a `Database`. It awaits nothing but the methods of
   `Database` and, inside a transaction, those of `Tx`.
2. A blocking database implements these methods without ever suspending. `finish` then runs the whole
   operation with a single `send(None)`; a coroutine that suspends under `finish` is a bug and says so.
   An asynchronous database may suspend in each of them.
3. A function given to `read` or `change` may be run again from its start when the database lost the
   connection or the transaction, so it must not have effects outside its `Tx`.
4. Nothing is handed to the caller while a transaction, a lock or a cursor is open.

The idea of running one coroutine core for blocking callers is that of the EdgeDB client; the idea of a
protocol that is written once and waited for in two ways is that of psycopg 3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from langgraph_checkpoint_dual.core.rows import Named, Outcome, Put, PutWrites

T = TypeVar("T")
Row = tuple[Any, ...]


class Tx(Protocol):
    """One transaction (or, for a read, one consistent enough look) on one connection."""

    async def fetch(self, query: str, /, **args: Any) -> list[Row]:
        """Run the named query and return all its rows. Lists go in as JSON text.

        Raises:
            TableGone: if the query is one of official tables, and these are gone.
        """
        ...

    async def execute(self, query: str, /, **args: Any) -> None:
        """Run the named statement, which returns no rows."""
        ...

    async def load(self, query: str, rows: Sequence[Named], /) -> None:
        """Run the named statement for all of these rows, which are of one kind, in one round trip."""
        ...

    async def insert(self, addition: Put | PutWrites) -> Outcome:
        """Store one addition; after any outcome but `STORED` the transaction must be rolled back (see `stored`)."""
        ...

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        """As `Reads.compute`, for work that decides what to fetch next."""
        ...


class Reads(Protocol):
    """Where an operation runs that only reads."""

    async def read(self, look: Callable[[Tx], Awaitable[T]]) -> T:
        """Run `look` on a connection that need not be able to write."""
        ...

    async def compute(self, weigh: Callable[[], int], work: Callable[[], T]) -> T:
        """Run pure work, off the event loop if that is worth it.

        Args:
            weigh: gives about the bytes of data that it works on. Who has no event loop does not ask.
        """
        ...


class Database(Reads, Protocol):
    """Where an operation runs: the effects that the core may have."""

    async def change(self, edit: Callable[[Tx], Awaitable[T]]) -> T:
        """Run `edit` in a transaction of its own; it is committed when this returns, or nothing happened."""
        ...

    async def append(self, addition: Put | PutWrites) -> Outcome:
        """Store one addition, durably and whole. Concurrent additions may share a transaction, never a failure."""
        ...


class TableGone(Exception):
    """A table that a query names is not there."""


class _NotStored(Exception):
    """Rolls back an addition that had another outcome than `STORED`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


Insert = Callable[[Tx], Awaitable[Outcome]]


async def stored(change: Callable[[Insert], Awaitable[Outcome]], insert: Insert) -> Outcome:
    """Run a change that stores an addition; another outcome than `STORED` rolls it back."""

    async def edit(tx: Tx) -> Outcome:
        outcome = await insert(tx)
        if outcome is not Outcome.STORED:
            raise _NotStored(outcome)
        return outcome

    try:
        return await change(edit)
    except _NotStored as exc:
        return exc.outcome


def finish(operation: Coroutine[Any, Any, T]) -> T:
    """Run an operation over a blocking database to its end, on this thread, without an event loop."""
    try:
        operation.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    operation.close()
    raise RuntimeError("an operation suspended on a blocking database: its methods must not await anything real")
