"""Rows that an attacker wrote, with right checksums: whatever they name, reading imports and calls nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.savers import Kind


@pytest.mark.slow
def test_forged_rows_run_nothing(kind: Kind, database: str) -> None:
    command = [sys.executable, "-m", "tests.faults.forged_worker", kind.name, database]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["rows"] > 50
    assert told["columns"] > 30
    assert told["revived"] == []
    assert told["events"] == []
