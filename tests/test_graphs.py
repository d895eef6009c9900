"""The same graphs, on the official saver of the same database and on ours: what a user sees is equal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.checkpoints import listed
from tests.support.graphs import SCENARIOS, deltas, nested
from tests.support.runs import Session, thread
from tests.support.savers import KINDS, opened


@asynccontextmanager
async def official_of(backend: str, face: str, database: str) -> AsyncIterator[Any]:
    """The official saver that offers this face."""
    [kind] = [kind for kind in KINDS if (kind.backend, kind.face) == (backend, face)]
    async with opened(kind.official, database) as saver:
        yield saver


CASES = [(name, how) for name in SCENARIOS for how in ("sync", "async", "exit")]


@pytest.mark.parametrize(("name", "durability"), CASES)
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_like_the_official_saver(
    backend: str, face: str, name: str, durability: str, request: pytest.FixtureRequest
) -> None:
    """Both of our classes for a database, with the same face of each, and the official class that has this face."""
    database = request.getfixturevalue("sqlite_path" if backend == "sqlite" else "postgres_uri")

    async def recorded(saver: Any) -> list[Any]:
        build, play = SCENARIOS[name]
        session = Session(saver, face, build, durability)
        await play(session)
        return session.record

    async with official_of(backend, face, database) as official:
        expected = await recorded(official)
        for kind in (kind for kind in KINDS if kind.backend == backend):
            async with opened(kind.ours, database, adopt=False, prefix=f"{kind.face}_") as ours:
                found = await recorded(ours)
            assert len(found) == len(expected)
            for at, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
                assert mine == theirs, f"{kind}: answer {at} of {len(found)}"


class TestDeltaChannels:
    """Deleting and copying keep what the values of the remaining checkpoints are rebuilt from."""

    async def play(self, saver: Any, face: str) -> tuple[Session, Any]:
        session = Session(saver, face, deltas, "sync")
        for turn in range(9):
            await session.run({"log": [f"turn {turn}"]}, {**thread(), "metadata": {"run_id": f"run-{turn}"}})
        return session, (await session.state()).values

    async def test_prune(self, saver: Any, subject: Any, face: str) -> None:
        session, values = await self.play(saver, face)
        before = len(await listed(subject, thread()))
        await subject.aprune(["thread"])
        assert (await session.state()).values == values
        assert len(await listed(subject, thread())) < before
        await session.run({"log": ["more"]})
        assert (await session.state()).values["log"][: len(values["log"])] == values["log"]

    async def test_copy_thread(self, saver: Any, subject: Any, face: str) -> None:
        session, values = await self.play(saver, face)
        await subject.acopy_thread("thread", "copy")
        await subject.adelete_thread("thread")
        assert (await session.state(thread("copy"))).values == values
        assert len(await session.history(thread("copy"))) == len(await listed(subject, thread("copy")))

    async def test_delete_for_runs(self, saver: Any, subject: Any, face: str) -> None:
        session, values = await self.play(saver, face)
        runs = {found.metadata["run_id"] for found in await listed(subject, thread())}
        assert len(runs) == 9
        head = (await subject.aget_tuple(thread())).metadata["run_id"]
        await subject.adelete_for_runs(sorted(runs - {head}))
        assert (await session.state()).values == values


class TestSubgraphNamespaces:
    async def test_prune_removes_those_of_deleted_root_checkpoints(self, saver: Any, subject: Any, face: str) -> None:
        session = Session(saver, face, nested, "sync")
        for turn in ("one", "two"):
            await session.run({"log": [turn]})
            await session.run(None)
            if turn == "one":
                await subject.aprune(["thread"])
                assert (await session.state(subgraphs=True)).tasks[0].interrupts
        head = await session.state(subgraphs=True)
        namespaces = {found.config["configurable"]["checkpoint_ns"] for found in await listed(subject, thread())}
        await subject.aprune(["thread"])
        kept = {found.config["configurable"]["checkpoint_ns"] for found in await listed(subject, thread())}
        assert kept < namespaces
        assert (await session.state(subgraphs=True)).values == head.values
