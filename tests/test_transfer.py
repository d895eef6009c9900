"""Moving threads between savers: what arrives is what was there, whatever the two savers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_checkpoint_dual.transfer import atransfer, transfer
from tests.support import postgres
from tests.support.transfers import everything, face_of, go_on, play, saver_of

BLOCKING = ("sqlite", "postgres", "official sqlite", "official postgres", "memory")
ON_LOOPS = [
    ("sqlite-aio", "postgres-aio"),
    ("postgres-aio", "sqlite"),
    ("official sqlite-aio", "postgres-aio"),
    ("official postgres-aio", "sqlite-aio"),
    ("official sqlite", "official postgres-aio"),
    ("postgres", "official sqlite-aio"),
    ("memory", "postgres"),
]


@pytest.fixture
def databases(tmp_path: Path, postgres_server: postgres.Server) -> Iterator[Callable[[str], str]]:
    """Makes an empty database of the kind that is asked for."""
    numbers = count()
    with ExitStack() as stack:
        yield lambda backend: (
            str(tmp_path / f"{next(numbers)}.db")
            if backend == "sqlite"
            else stack.enter_context(postgres_server.database())
        )


async def moved(source: Any, target: Any, on_loop: bool, **options: Any) -> Any:
    return await atransfer(source, target, **options) if on_loop else transfer(source, target, **options)


PAIRS = [(one, two, False) for one in BLOCKING for two in BLOCKING] + [(*pair, True) for pair in ON_LOOPS]


@pytest.mark.parametrize(("source_name", "target_name", "on_loop"), PAIRS)
async def test_between_any_two(databases: Any, source_name: str, target_name: str, on_loop: bool) -> None:
    async with saver_of(source_name, databases) as source, saver_of(target_name, databases) as target:
        here, there = face_of(source_name), face_of(target_name)
        await play(source, here)
        report = await moved(source, target, on_loop, verify=True)
        assert report.threads == report.changed == 4
        assert report.checkpoints == report.verified > 20
        for name in ("chat", "asking", "nested", "deltas"):
            assert await everything(target, there, name) == await everything(source, here, name)
        again = await moved(source, target, on_loop)
        assert (again.threads, again.changed, again.checkpoints, again.writes) == (4, 0, 0, 0)
        assert await go_on(target, there) == await go_on(source, here)
