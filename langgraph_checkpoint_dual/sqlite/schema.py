"""The schema of one saver's tables, written out for whoever makes them elsewhere."""

from __future__ import annotations

from langgraph_checkpoint_dual.core import migrations
from langgraph_checkpoint_dual.core.conversations.indexing import STEPS
from langgraph_checkpoint_dual.core.queries import Queries, fill
from langgraph_checkpoint_dual.sqlite.transactions import quoted_names

PACKAGE = "langgraph_checkpoint_dual.sqlite"


def ddl(prefix: str, *, search: bool = False) -> str:
    """The statements that make everything in an empty database, as one transaction for the `sqlite3` shell."""
    names = quoted_names(prefix)
    queries = Queries(PACKAGE, {name: f"{{{name}}}" for name in names})
    record = queries["record_migration"]
    statements = ["BEGIN IMMEDIATE"]
    for one in migrations.migrations_of(PACKAGE):
        statements += [fill(statement, names) for statement in one.statements]
        statements.append(fill(record.replace(":version", str(one.number)).replace(":name", f"'{one.name}'"), names))
    if search:
        statements += [fill(queries[step], names) for step in STEPS]
    return "".join(f"{statement};\n\n" for statement in (*statements, "COMMIT")).rstrip() + "\n"
