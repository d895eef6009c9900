"""Values so large that they may neither block an event loop nor be cut."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from langgraph_checkpoint_dual import Serializer
from tests.support.checkpoints import config, put
from tests.support.savers import KINDS, Kind, opened


class Watching(Serializer):
    """Notes on which threads it works on what is large."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[str, set[int]] = {"dumps": set(), "loads": set()}

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        typed = super().dumps_typed(obj)
        if len(typed[1]) > 10_000:
            self.threads["dumps"].add(threading.get_ident())
        return typed

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if len(data[1]) > 10_000:
            self.threads["loads"].add(threading.get_ident())
        return super().loads_typed(data)


async def test_what_is_large_is_encoded_and_decoded_off_the_loop(kind: Kind, database: str) -> None:
    values = {"dict": {"text": "x" * 200_000}, "list": [{"text": "y" * 20_000}] * 10, "bytes": b"z" * 200_000}
    serde = Watching()
    async with opened(kind.ours, database, serde=serde) as saver:
        stored = await put(saver, values=values)
        await saver.aput_writes(stored, [("dict", {"text": "w" * 200_000})], "task")
    async with opened(kind.ours, database, serde=serde) as saver:
        found = await saver.aget_tuple(config())
        assert found.checkpoint["channel_values"] == values
        assert len([one async for one in saver.alist(config())]) == 1
    assert serde.threads["dumps"]
    assert serde.threads["loads"]
    assert threading.get_ident() not in serde.threads["dumps"] | serde.threads["loads"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=str)
async def test_64_mb(kind: Kind, database: str) -> None:
    block = random.Random(1).randbytes(1024 * 1024)
    values = {"bytes": block * 64, "text": {"text": block.hex() * 8}}
    async with opened(kind.ours, database) as saver:
        stored = await put(saver, values=values)
        await saver.aput_writes(stored, [("bytes", block * 16)], "task")
    async with opened(kind.ours, database) as saver:
        found = await saver.aget_tuple(config())
        assert found.checkpoint["channel_values"] == values
        assert found.pending_writes == [("task", "bytes", block * 16)]
