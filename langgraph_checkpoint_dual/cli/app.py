"""`langgraph-dual`: all commands, in the order in which the help lists them."""

from __future__ import annotations

import logging

import typer

from langgraph_checkpoint_dual.cli import changing, checking, looking, moving, reading

_HELP = """Look around in, move and repair LangGraph's checkpoints in SQLite and Postgres.

The database is named by --db or in LANGGRAPH_DUAL_URL: postgresql://…, sqlite:///file.db, or the path of a SQLite file.

Exit codes: 0 done; 1 the answer is no (damaged, different, nothing found, declined); 2 wrong usage; 3 no such database,
thread or checkpoint; 4 failed; 130 interrupted.
"""

app = typer.Typer(name="langgraph-dual", help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False)
for part in (looking, reading, changing, moving, checking):
    part.declare(app)

for name in ("langgraph_checkpoint_dual", "psycopg.pool"):  # what is wrong is said once, by the error
    logging.getLogger(name).addHandler(logging.NullHandler())


def run() -> None:
    """Run the command line on the arguments of the process."""
    app(prog_name="langgraph-dual")
