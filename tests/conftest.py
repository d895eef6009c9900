"""Fixtures: a Postgres server for each worker, an empty database for each test, the four savers through both faces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import postgres
from tests.support.savers import KINDS, Kind, faced, opened

settings.register_profile(
    "real-databases",
    deadline=None,  # a statement may wait for a disk
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("real-databases")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds; left out of `make check`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no worker is busy with it when the others have nothing left to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A running Postgres, one for each worker process."""
    with postgres.server() as server:
        yield server


@pytest.fixture
def postgres_uri(postgres_server: postgres.Server) -> Iterator[str]:
    """Connection string of an empty database that is dropped after the test."""
    with postgres_server.database() as uri:
        yield uri


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the four classes."""
    found: Kind = request.param
    return found


@pytest.fixture
def sqlite_path(tmp_path: Path) -> str:
    """Where a SQLite database may be made."""
    return str(tmp_path / "checkpoints.db")


@pytest.fixture
def database(kind: Kind, request: pytest.FixtureRequest) -> str:
    """An empty database for the class under test: a path or a connection string."""
    found: str = request.getfixturevalue("sqlite_path" if kind.backend == "sqlite" else "postgres_uri")
    return found


@pytest.fixture
async def saver(kind: Kind, database: str) -> AsyncIterator[Any]:
    """Each of the four classes, opened with `from_conn_string` on an empty database."""
    async with opened(kind.ours, database) as found:
        yield found


@pytest.fixture(params=["async", "blocking"])
def face(request: pytest.FixtureRequest) -> str:
    """Which of its two faces a saver is driven through."""
    found: str = request.param
    return found


@pytest.fixture
def subject(saver: Any, face: str) -> Any:
    """Each class through each face, as an object whose async methods may be awaited."""
    return faced(saver, face)
