"""`kill -9` of writers at random moments: nothing acknowledged is lost, nothing is torn, the next process goes on."""

from __future__ import annotations

import pytest

from tests.faults.common import rounds
from tests.faults.crash import crash_rounds
from tests.support.savers import Kind


@pytest.mark.slow
async def test_killed_writers_lose_nothing_acknowledged(kind: Kind, database: str) -> None:
    report = await crash_rounds(kind, database, rounds(3))
    assert report.clean, report
    assert report.acknowledged >= report.rounds
