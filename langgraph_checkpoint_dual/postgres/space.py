"""Giving the unused space of the tables back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, Connection, errors

from langgraph_checkpoint_dual.core.space import Vacuumed
from langgraph_checkpoint_dual.core.tx import Tx
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError

_NAMES = "FROM jsonb_array_elements_text(CAST(%(names)s AS jsonb)) AS n (name)"
_THERE = f"ddl SELECT name {_NAMES} WHERE to_regclass(name) IS NOT NULL"
_SIZE = f"ddl SELECT CAST(coalesce(sum(pg_total_relation_size(to_regclass(name))), 0) AS bigint) {_NAMES}"
_TRANSACTION = (
    "Postgres cannot vacuum in a transaction or pipeline: give the saver a connection string, or connections with "
    "autocommit=True"
)


async def vacuumed(
    tx: Tx, conn: Connection[Any] | AsyncConnection[Any], names: Sequence[str], *, full: bool
) -> Vacuumed:
    """Vacuum the tables of these (quoted) names that are there.

    Raises:
        ConfigError: if the connection is in a transaction.
        CheckpointerError: if this role may not do it.
    """
    if not conn.autocommit:
        raise ConfigError(_TRANSACTION)
    warnings: list[str] = []

    def note(notice: Any) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary)

    given = json.dumps(names)
    tables = [name for (name,) in await tx.fetch(_THERE, names=given)]
    [(before,)] = await tx.fetch(_SIZE, names=given)
    conn.add_notice_handler(note)
    try:
        await tx.execute(f"ddl VACUUM ({'FULL, ' if full else ''}ANALYZE) {', '.join(tables)}")
    except errors.ActiveSqlTransaction as exc:
        raise ConfigError(_TRANSACTION) from exc
    finally:
        conn.remove_notice_handler(note)
    if warnings:
        raise CheckpointerError(f"not all tables were vacuumed: {'; '.join(warnings)}; their owner can do it")
    [(after,)] = await tx.fetch(_SIZE, names=given)
    return Vacuumed(before, after)
