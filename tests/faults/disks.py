"""Small file systems of their own, which can really be full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.faults.postgres_servers import USER, Cluster, execute, folder
from tests.support.savers import Kind

_SUDO = [] if os.geteuid() == 0 else ["sudo", "-n"]
MEGABYTE = 1024 * 1024


class Disk:
    """A mounted file system of a few megabytes, of which a file of ours may take what is free."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @classmethod
    @contextmanager
    def mounted(cls, megabytes: int) -> Iterator[Disk]:
        """A new one; skips where nothing may be mounted."""
        with folder() as place:
            command = [*_SUDO, "mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(place)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as exc:
                said = getattr(exc, "stderr", b"") or str(exc).encode()
                pytest.skip(f"no file system can be mounted here: {said.decode(errors='replace').strip()}")
            try:
                yield cls(place)
            finally:
                subprocess.run([*_SUDO, "umount", "--lazy", str(place)], check=True)

    def fill(self, leaving: int) -> None:
        """Take all space but so many bytes."""
        with open(self._ballast, "ab") as file:
            file.truncate(0)
            size = shutil.disk_usage(self.path).free - leaving
            os.posix_fallocate(file.fileno(), 0, size)

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink()

    def folder(self, name: str) -> Path:
        """A folder of the Postgres server's."""
        made = self.path / name
        made.mkdir(mode=0o700)
        if USER:
            shutil.chown(made, USER)
        return made


@contextmanager
def database_on(disk: Disk, kind: Kind, cluster: Cluster | None) -> Iterator[str]:
    """An empty database on this disk: a file, or one of the server's in a tablespace."""
    if kind.backend == "sqlite":
        yield str(disk.path / "checkpoints.db")
        return
    assert cluster is not None
    cluster.execute(f"CREATE TABLESPACE small LOCATION '{disk.folder('tablespace')}'")
    try:
        cluster.execute("CREATE DATABASE small TEMPLATE template0 TABLESPACE small")
        yield make_conninfo(cluster.uri, dbname="small")
    finally:
        with suppress(FileNotFoundError):
            disk.free()
        execute(cluster.uri, "DROP DATABASE IF EXISTS small WITH (FORCE)")
        execute(cluster.uri, "DROP TABLESPACE small")
