"""LangGraph's own conformance tests: everything, base and extended, on all four classes, through both faces."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from langgraph.checkpoint.conformance import validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.conformance.initializer import RegisteredCheckpointer

from tests.support.savers import Kind, faced, opened


async def test_full_conformance(kind: Kind, face: str, database: str) -> None:
    async def make() -> AsyncGenerator[Any, None]:
        async with opened(kind.ours, database) as saver:
            yield faced(saver, face)

    report = await validate(RegisteredCheckpointer(name=f"{kind}-{face}", factory=make))

    failures = [text for result in report.results.values() for text in result.failures]
    assert not failures, "\n".join(failures)
    assert {name for name, result in report.results.items() if result.passed} == {c.value for c in ALL_CAPABILITIES}
    assert report.conformance_level() == "FULL"
    assert sum(result.tests_passed for result in report.results.values()) >= 80
