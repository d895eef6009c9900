"""The migration runner: numbered `.sql` files, each applied once, in the transaction that records it.

Runs under the database's lock for migrations, so that of several processes one migrates and the others find nothing to
do. A database newer than this package is refused and left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

from langgraph_checkpoint_dual.core.tx import Tx
from langgraph_checkpoint_dual.errors import SchemaError

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


class Migration(NamedTuple):
    """One step of the schema. `sql` has table names in braces; statements end with a semicolon at the end of a line."""

    number: int
    name: str
    sql: str

    @property
    def statements(self) -> list[str]:
        """The statements, without comments."""
        text = re.sub(r"^\s*--.*$", "", self.sql, flags=re.MULTILINE)
        return [part.strip() for part in re.split(r";\s*$", text, flags=re.MULTILINE) if part.strip()]


def migrations_of(package: str) -> list[Migration]:
    """The migrations of a database, in order."""
    found = []
    for file in files(package).joinpath("migrations").iterdir():
        if match := _FILE.fullmatch(file.name):
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found)


def pending(migrations: Iterable[Migration], applied: Iterable[int]) -> list[Migration]:
    """The migrations that a database with these applied ones still needs.

    Raises:
        SchemaError: if the database has migrations that this package does not know.
    """
    known, done = {one.number: one for one in migrations}, set(applied)
    if newer := done - known.keys():
        raise SchemaError(
            f"the database was made by a newer langgraph-checkpoint-dual (it has migration {max(newer)}, this version "
            f"knows {max(known)}); upgrade the package. Nothing was changed."
        )
    return [one for number, one in known.items() if number not in done]


async def migrate(tx: Tx, migrations: Iterable[Migration]) -> list[Migration]:
    """Apply what is pending, inside the caller's transaction; returns what was applied.

    Raises:
        SchemaError: if the database is newer than this package.
    """
    await tx.execute("lock_migrations")
    todo = pending(migrations, await applied_numbers(tx))
    for migration in todo:
        for statement in migration.statements:
            await tx.execute(f"ddl {statement}")
        await tx.execute("record_migration", version=migration.number, name=migration.name)
    return todo


async def applied_numbers(tx: Tx) -> list[int]:
    """The numbers of the applied migrations; none if the schema is not there at all."""
    if not await tx.fetch("has_migrations"):
        return []
    return [row[0] for row in await tx.fetch("applied_migrations")]
