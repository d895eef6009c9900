"""A short soak with everything at once, and what the check after it finds out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import astep, made
from tests.faults.soak import soak, summary
from tests.faults.soak_check import Findings, check
from tests.support import tables
from tests.support.checkpoints import config, metadata
from tests.support.savers import KINDS, Kind, opened

SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_nothing_is_lost_whatever_happens() -> None:
    arenas = soak(SECONDS, os.environ.get("SOAK_SEED", "1"))
    assert all(arena.clean for arena in arenas), summary(arenas)
    assert all(arena.findings.acknowledged["put"] > 0 for arena in arenas), summary(arenas)
    assert all(arena.findings.acknowledged[op] > 0 for arena in arenas for op in ("late_put", "fenced_put"))
    assert all(arena.findings.used > 0 for arena in arenas)  # or what says that none leaked sees none at all


class TestCheck:
    """The check finds what it looks for."""

    @pytest.fixture(params=["sqlite-aio", "postgres-aio"])
    def kind(self, request: pytest.FixtureRequest) -> Kind:
        [found] = [kind for kind in KINDS if kind.name == request.param]
        return found

    async def findings(self, kind: Kind, database: str, tmp_path: Path, *lines: dict[str, Any]) -> Findings:
        """What is found where a thread has one step, whose put and writes the journal tells of."""
        async with opened(kind.ours, database) as saver:
            stored = await astep(saver, "thread", 3, None)
        place = {"thread": "thread", "id": stored["configurable"]["checkpoint_id"]}
        told = [
            {"key": "1", "op": "put", "number": 3, **place},
            {"end": "1", "acknowledged": True},
            {"key": "2", "op": "put_writes", **place},
            {"end": "2", "acknowledged": True},
            *lines,
        ]
        journal = tmp_path / "journal"
        journal.write_text("".join(f"{json.dumps(line)}\n" for line in told) + '{"torn')
        return await check(kind, database, [journal])

    async def test_all_is_well(self, kind: Kind, database: str, tmp_path: Path) -> None:
        found = await self.findings(kind, database, tmp_path)
        assert found.clean
        assert found.acknowledged == {"put": 1, "put_writes": 1}

    async def test_lost(self, kind: Kind, database: str, tmp_path: Path) -> None:
        put = {"key": "3", "op": "put", "thread": "other", "id": "lost", "number": 0}
        assert not (await self.findings(kind, database, tmp_path, put)).lost
        found = await self.findings(kind, database, tmp_path, put, {"end": "3", "acknowledged": True})
        assert len(found.lost) == 1

    async def test_deleted_and_still_there(self, kind: Kind, database: str, tmp_path: Path) -> None:
        delete = {"key": "3", "op": "delete_thread", "thread": "thread"}
        assert (await self.findings(kind, database, tmp_path, delete)).clean
        found = await self.findings(kind, database, tmp_path, delete, {"end": "3", "acknowledged": True})
        assert len(found.wrong) == 1

    async def test_a_late_put_that_brought_its_thread_back(self, kind: Kind, database: str, tmp_path: Path) -> None:
        told = [
            {"key": "3", "op": "delete_thread", "thread": "thread"},
            {"end": "3", "acknowledged": True},
            {"key": "4", "op": "late_put", "thread": "thread"},
            {"end": "4", "acknowledged": True},
        ]
        found = await self.findings(kind, database, tmp_path, *told)
        assert len(found.wrong) == 1

    async def test_two_that_won(self, kind: Kind, database: str, tmp_path: Path) -> None:
        told = []
        async with opened(kind.ours, database) as saver:
            first = await astep(saver, "fenced-thread", 0, None)
            for stored in (first, *[await astep(saver, "fenced-thread", 1, first) for _ in range(2)]):
                number = 0 if stored is first else 1
                place = {"thread": "fenced-thread", "id": stored["configurable"]["checkpoint_id"], "number": number}
                told += [{"key": place["id"], "op": "fenced_put", **place}, {"end": place["id"], "acknowledged": True}]
        found = await self.findings(kind, database, tmp_path, *told)
        assert len(found.wrong) == 1
        assert "several go on" in found.wrong[0]

    async def test_torn(self, kind: Kind, database: str, tmp_path: Path) -> None:
        async with opened(kind.ours, database) as saver:
            new = made("torn", 3)
            del new["channel_values"]["log"][1]
            await saver.aput(config("torn"), new, metadata(step=3), new["channel_versions"])
        found = await self.findings(kind, database, tmp_path)
        assert len(found.torn) == 1

    async def test_garbage(self, kind: Kind, database: str, tmp_path: Path) -> None:
        async with opened(kind.ours, database) as saver:
            await astep(saver, "robbed", 8, None)
        tables.rows(database, "DELETE FROM dual_checkpoints WHERE thread_id = 'robbed'")
        found = await self.findings(kind, database, tmp_path)
        assert found.wrong
        assert all("robbed" in text for text in found.wrong)

    async def test_leaked_and_failed(self, kind: Kind, database: str, tmp_path: Path) -> None:
        closed, failed = (
            {"event": "closed", "before": 3, "open": 2},
            {"event": "error", "thread": "thread", "error": "KeyError()"},
        )
        found = await self.findings(kind, database, tmp_path, closed, failed)
        assert (found.used, found.leaked, len(found.wrong)) == (3, 2, 1)
