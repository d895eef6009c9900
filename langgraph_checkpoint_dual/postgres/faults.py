"""What a failure says about a session, whether a waiting one is still alive, and what became of a lost commit."""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from psycopg import AsyncConnection, Connection, Error, OperationalError, errors
from psycopg.pq import TransactionStatus
from psycopg.transaction import OutOfOrderTransactionNesting

from langgraph_checkpoint_dual.core.tx import Tx
from langgraph_checkpoint_dual.retrying import InterruptedSession

T = TypeVar("T")
_CANCEL_SECONDS = 5.0
_PASSING = {"40001", "40P01"}
"""Serialization failure, deadlock: the server rolled back and asks for a repetition."""
_SINGLE = "this saver was given a single connection, which it cannot open again: give it a pool or a connection string"
_ROLLED_BACK = "it was part of a transaction of the caller's: roll that back and run it again"


def interrupts(error: Exception, conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether the session is to blame for an error, and not what was asked of it."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return not _is_read_only_by_choice(conn)
    return (
        conn.closed
        or isinstance(error, OutOfOrderTransactionNesting)
        or (isinstance(error, Error) and error.sqlstate in _PASSING)
    )


def hidden_by(error: Error) -> BaseException | None:
    """The exception from outside (Ctrl-C) that psycopg hides if it hits a transaction as it begins."""
    hidden = error.__context__ if isinstance(error, OutOfOrderTransactionNesting) else None
    while isinstance(hidden, Exception):
        hidden = hidden.__context__
    return hidden


def interruption(
    error: Exception, conn: Connection[Any] | AsyncConnection[Any], *, replaceable: bool
) -> InterruptedSession:
    """The failure of a session, for whoever decides on another attempt; the session is not used again."""
    if not replaceable:
        advice = _SINGLE if conn.closed else "" if _is_idle(conn) else _ROLLED_BACK
        return InterruptedSession(error, again=not conn.closed and _is_idle(conn), advice=advice)
    if isinstance(error, errors.ReadOnlySqlTransaction):
        conn.pgconn.finish()  # the server became a standby, or is not the primary yet
    return InterruptedSession(error)


def _is_read_only_by_choice(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    status = conn.pgconn.parameter_status
    return status(b"default_transaction_read_only") == b"on" and status(b"in_hot_standby") != b"on"


def _is_idle(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    return conn.info.transaction_status == TransactionStatus.IDLE


def refuses_transactions(error: Exception) -> bool:
    """Whether this is how PgBouncer says that it only lets single statements through."""
    # Older psycopg gives the text only, without PgBouncer's (general) error code.
    return isinstance(error, OperationalError) and "not allowed in statement pooling mode" in str(error)


def is_alive(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether a connection that waited in a pool is still open, without asking the server.

    An idle server sends nothing but notices and, when it ends the session, the reason and the end of the stream.
    """
    try:
        for _ in range(3):
            if conn.closed:
                return False
            if not _has_input(conn.fileno()):
                return True
            conn.pgconn.consume_input()
    except OperationalError:
        return False
    return not conn.closed


def _has_input(fd: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def drain(conn: Connection[Any]) -> None:
    """Cancel a statement that nobody waits for any more, and take in what the server says to it."""
    with suppress(Error):
        conn.cancel_safe(timeout=_CANCEL_SECONDS)
    while conn.pgconn.get_result() is not None:
        pass


def roll_back(conn: Connection[Any]) -> None:
    """End a transaction of which psycopg may have lost track."""
    conn.pgconn.exec_(b"ROLLBACK")
    conn._num_transactions = 0


class Fate(Generic[T]):
    """Finds out what became of a transaction whose commit was never answered, before it is repeated."""

    def __init__(self, edit: Callable[[Tx], Awaitable[T]]) -> None:
        self._edit, self._number = edit, None
        self.result: T

    async def run(self, tx: Tx) -> T:
        """Run the edit, as all that a transaction does."""
        self.result = await self._edit(tx)
        [(self._number,)] = await tx.fetch("ddl SELECT txid_current_if_assigned()")
        return self.result

    async def is_committed(self, tx: Tx) -> bool:
        """Whether an earlier attempt was committed: `result` is what it gave then.

        Raises:
            InterruptedSession: if the server is still at it.
        """
        if self._number is None:
            return False
        try:
            [(status,)] = await tx.fetch("ddl SELECT txid_status(%(number)s)", number=self._number)
        except errors.InvalidParameterValue:  # after a failover: the new primary never saw it
            status = "aborted"
        if status == "in progress":
            raise InterruptedSession("the server has not ended the transaction of the lost session yet")
        self._number = None
        return bool(status == "committed")
