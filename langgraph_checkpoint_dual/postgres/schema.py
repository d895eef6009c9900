"""The schema of one saver's tables: made and brought up to date, or only checked, or written out for a DBA."""

from __future__ import annotations

import json

from psycopg import errors, sql

from langgraph_checkpoint_dual.core import migrations
from langgraph_checkpoint_dual.core.conversations.indexing import STEPS
from langgraph_checkpoint_dual.core.queries import TABLES
from langgraph_checkpoint_dual.core.tx import Tx
from langgraph_checkpoint_dual.errors import SchemaError
from langgraph_checkpoint_dual.postgres.statements import PACKAGE, Dialect

REFUSED = (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)
_RIGHTS = {
    "migrations": ("SELECT",),
    "checkpoints": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "items": ("SELECT", "INSERT", "DELETE"),
    "writes": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "threads": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "current_threads": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "tombstones": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
# The case keeps has_table_privilege() from being asked about a table that is not there.
_MISSING = """ddl SELECT w.name, w.privilege, to_regclass(w.name) IS NULL
    FROM (SELECT e ->> 0, e ->> 1 FROM jsonb_array_elements(CAST(%(wanted)s AS jsonb)) AS e) AS w (name, privilege)
    WHERE CASE
        WHEN to_regclass(w.name) IS NULL THEN true ELSE NOT has_table_privilege(to_regclass(w.name), w.privilege)
    END
"""
_CREATE_SCHEMA = "CREATE SCHEMA IF NOT EXISTS {schema}"
_RECORD = "INSERT INTO {migrations} (version, name) VALUES"


class Schema:
    """The tables of one schema and prefix, as one database has them.

    Args:
        dialect: knows the names of the tables.
        schema: the schema that they are in, made if it is not there; `None` leaves it to the search path.
    """

    def __init__(self, dialect: Dialect, schema: str | None = None) -> None:
        self.dialect, self._schema = dialect, schema
        self.ready = False
        self.migrations = migrations.migrations_of(PACKAGE)

    async def is_current(self, tx: Tx, *, careful: bool) -> bool:
        """Whether nothing is pending.

        Args:
            careful: never ask for a table that may not be there, which costs one query more. The error would end a
                transaction; and if the caller is cancelled just then, psycopg closes the connection.
        """
        if careful:
            applied = await migrations.applied_numbers(tx)
        else:
            try:
                applied = [row[0] for row in await tx.fetch("applied_migrations")]
            except errors.UndefinedTable:
                applied = []
        self.ready = not migrations.pending(self.migrations, applied)
        return self.ready

    async def migrate(self, tx: Tx) -> None:
        """Apply what is pending, in the caller's transaction."""
        if self._schema is not None:
            await tx.execute("lock_migrations")
            if not await tx.fetch("ddl SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {schema_name}"):
                await tx.execute(f"ddl {_CREATE_SCHEMA}")
        await migrations.migrate(tx, self.migrations)

    async def verify(self, tx: Tx) -> None:
        """Check everything, change nothing.

        Raises:
            SchemaError: if something is missing; it says what, and how to get it.
        """
        if missing := await self.missing(tx):
            raise SchemaError(
                f"missing: {'; '.join(missing)}. A role that may create tables can run setup() or the statements that "
                "PostgresSaver.ddl() gives. Nothing was changed."
            )
        self.ready = True

    async def missing(self, tx: Tx) -> list[str]:
        """What the schema and this role lack for all operations."""
        wanted = [(self._name(table), right) for table, rights in _RIGHTS.items() for right in rights]
        rows = await tx.fetch(_MISSING, wanted=json.dumps(wanted))
        absent = list(dict.fromkeys(f"table {name}" for name, _, is_absent in rows if is_absent))
        if absent:
            return absent
        forbidden = [f"{right} on {name}" for name, right, _ in rows]
        if f"SELECT on {self._name('migrations')}" in forbidden:
            return forbidden
        todo = migrations.pending(self.migrations, await migrations.applied_numbers(tx))
        return forbidden + [f"migration {one.number} ({one.name})" for one in todo]

    @property
    def table_names(self) -> list[str]:
        """The tables, quoted, whether or not they are there."""
        return [self._name(table) for table in TABLES]

    def script(self) -> list[str]:
        """The statements that make everything in an empty database, under the lock of `setup`."""
        found = [self._filled("SELECT pg_advisory_xact_lock({lock})")]
        if self._schema is not None:
            found.append(self._filled(_CREATE_SCHEMA))
        for one in self.migrations:
            found += [self._filled(statement) for statement in one.statements]
            name = sql.Literal(one.name).as_string(None)
            found.append(self._filled(f"{_RECORD} ({one.number}, {name})"))
        return found

    def ddl(self, *, search: bool = False) -> str:
        """`script` as one transaction, for `psql`; with what savers with `search=True` make besides."""
        more = [self.dialect[step].decode().replace("%%", "%") for step in STEPS] if search else []
        statements = ("BEGIN", *self.script(), *filter(None, more), "COMMIT")
        return "".join(f"{statement};\n\n" for statement in statements).rstrip() + "\n"

    def _name(self, table: str) -> str:
        return self._filled(f"{{{table}}}")

    def _filled(self, text: str) -> str:
        return self.dialect[f"ddl {text}"].decode()
