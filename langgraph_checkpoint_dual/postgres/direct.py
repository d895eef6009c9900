"""Additions given to libpq without a cursor, which would take the client longer than the statement takes the server.

The contract:

1. Every argument of a statement that is run here has its type in the SQL, as `:name::type` or, if that is an array that
   the planner may look at, `CAST(:name AS type[])`. It goes in binary form; nothing is found out about it at run time.
   In place of NULL stands what is empty, or 0.
2. A statement that was run as often as the connection's `prepare_threshold` says is prepared there, which is a round
   trip more, under a name that its text gives it. Somebody else may deallocate it: that run goes without.
3. Only a connection in autocommit mode, outside of transactions and pipelines, is used so (`is_free`).
4. Waiting, and what Ctrl-C or a cancellation does meanwhile, is left to psycopg's `wait`, which runs the generator. It
   returns whatever the server answers: of an error that it raised after a cancellation, psycopg closes the connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from psycopg import AsyncConnection, Connection, errors
from psycopg.abc import PQGen
from psycopg.generators import execute
from psycopg.pq import DiagnosticField, ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8

from langgraph_checkpoint_dual.core.queries import fill
from langgraph_checkpoint_dual.core.tx import Row
from langgraph_checkpoint_dual.postgres.arrays import Blobs, Numbers, Texts, blobs, numbers, texts

_NUMBER = Struct("!q")
_ARGUMENT = re.compile(
    r"(?<!:):(?P<name>[a-z]\w*)::(?P<kind>\w+(?:\[\])?)|CAST\(:(?P<plain>\w+) AS (?P<array>\w+\[\])\)"
)
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)

_IS_THERE, _IS_GONE = b"42P05", b"26000"
"""The SQLSTATEs of a name that is taken already, and of one that no prepared statement has."""

_PREPARED = -1
_runs: WeakKeyDictionary[Connection[Any] | AsyncConnection[Any], dict[bytes, int]] = WeakKeyDictionary()
"""How often connections have run statements, or that these are prepared there."""


class Direct(NamedTuple):
    """A statement as libpq takes it.

    Attributes:
        name: what it is called where it is prepared.
        text: the SQL, with numbers in place of names.
        oids: the types of its arguments.
        packs: for each argument its name, and what makes bytes of it, given the connection's encoding.
        classes: for each argument its name, and what makes it one whose class tells psycopg its type.
    """

    name: bytes
    text: bytes
    oids: list[int]
    packs: list[tuple[str, Callable[[Any, str], bytes]]]
    classes: list[tuple[str, Callable[[Any], Any]]]

    def packed(self, args: Mapping[str, Any], encoding: str) -> list[bytes]:
        """The arguments in binary form."""
        return [b"" if (value := args[name]) is None else pack(value, encoding) for name, pack in self.packs]

    def typed(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for a cursor, where the statement cannot be run here."""
        return {name: class_(args[name]) for name, class_ in self.classes}


def direct(text: str, names: dict[str, str]) -> Direct:
    """A statement whose arguments are written as the contract says, with the names in braces filled in."""
    kinds: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        name, kind = match["name"] or match["plain"], match["kind"] or match["array"]
        kinds.setdefault(name, kind)
        argument = f"${list(kinds).index(name) + 1}::{kind}"
        return f"(SELECT {argument})" if match["kind"] and kind.endswith("[]") else argument

    made = fill(_ARGUMENT.sub(numbered, text), names).encode()
    types = [_TYPES[kind] for kind in kinds.values()]
    oids, packs, classes = zip(*types, strict=True)
    name = f"dual_{blake2b(made, digest_size=8).hexdigest()}".encode()
    return Direct(name, made, list(oids), list(zip(kinds, packs, strict=True)), list(zip(kinds, classes, strict=True)))


def is_free(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether a statement would be a transaction of its own here, and would be answered at once."""
    pgconn = conn.pgconn
    return (
        conn.autocommit
        and pgconn.transaction_status == TransactionStatus.IDLE
        and pgconn.pipeline_status == PipelineStatus.OFF
    )


def run(
    conn: Connection[Any] | AsyncConnection[Any],
    statement: Direct,
    values: list[bytes],
    prepare_after: int | None,
) -> PQGen[PGresult]:
    """Run a statement with packed arguments; what the server answers.

    After so many runs it is prepared; after `None`, never.
    """
    pgconn = conn.pgconn
    formats = [1] * len(values)
    runs = _runs.get(conn)
    if runs is None:
        runs = _runs[conn] = {}
    answers: list[PGresult]
    while True:
        count = runs.get(statement.name, 0)
        if prepare_after is None or 0 <= count < prepare_after:
            runs[statement.name] = count + 1
            pgconn.send_query_params(statement.text, values, statement.oids, formats, 1)
            answers = yield from execute(pgconn)
            return answers[-1]
        if count != _PREPARED:
            pgconn.send_prepare(statement.name, statement.text, statement.oids)
            answers = yield from execute(pgconn)
            if _failure(answers[-1]) not in (None, _IS_THERE):  # it is if an interruption came before that was noted
                return answers[-1]
            runs[statement.name] = _PREPARED
        pgconn.send_query_prepared(statement.name, values, formats, 1)
        answers = yield from execute(pgconn)
        if _failure(answers[-1]) != _IS_GONE:
            return answers[-1]
        del runs[statement.name]
        prepare_after = None


def rows_of(answer: PGresult, encoding: str) -> list[Row]:
    """The rows that a statement has returned, which hold a whole number each.

    Raises:
        psycopg.Error: what the server says.
    """
    if answer.status in _FAILED:
        raise errors.error_from_result(answer, encoding)
    return [(int.from_bytes(answer.get_value(at, 0) or b"", "big"),) for at in range(answer.ntuples)]


def _failure(answer: PGresult) -> bytes | None:
    """The SQLSTATE of an answer that is an error."""
    return answer.error_field(DiagnosticField.SQLSTATE) or b"" if answer.status in _FAILED else None


def _bytes(value: bytes, encoding: str) -> bytes:
    return value


def _number(value: int, encoding: str) -> bytes:
    return _NUMBER.pack(value)


_TYPES: dict[str, tuple[int, Callable[[Any, str], bytes], Callable[[Any], Any]]] = {
    "text": (25, str.encode, lambda value: value or ""),
    "bytea": (17, _bytes, lambda value: value or b""),
    "bigint": (20, _number, Int8),
    "text[]": (1009, texts, Texts),
    "bytea[]": (1001, blobs, Blobs),
    "bigint[]": (1016, numbers, Numbers),
}
