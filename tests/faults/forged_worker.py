"""A process that reads checkpoints with forged bytes, and reports whatever it was made to do.

Usage: `python -m tests.faults.forged_worker KIND DATABASE`. Prints JSON: how many rows it read, those that were not
refused, and what was imported, opened, started or called.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import ormsgpack

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.errors import DecodeError
from tests.support.checkpoints import checkpoint, config, metadata
from tests.support.savers import KINDS, opened, settle

GADGETS = [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("antigravity", "fly")]
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.", "exec", "compile", "pickle.", "import")


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def forgeries() -> Iterator[bytes]:
    """Typed bytes that name dangerous things."""

    def typed(name: str, data: bytes) -> bytes:
        return bytes([values._TYPES.index(name)]) + data

    yield typed("pickle", pickle.dumps(Command()))
    for module, name in GADGETS:
        for code in range(6):
            for payload in ("true", ["true"]):
                inner = ormsgpack.packb((module, name, payload))
                yield typed("msgpack", ormsgpack.packb([ormsgpack.Ext(code, inner)]))
        for version in (1, 2):
            named = {"lc": version, "type": "constructor", "id": [module, name], "kwargs": {}, "args": ["true"]}
            yield typed("json", json.dumps(named).encode())


class Forger:
    """Stands in for what encodes values: gives the forged bytes instead of those of the marked value."""

    MARK = "to be forged"

    def __init__(self) -> None:
        self.forged = b""
        self._encode = values.encode

    def __call__(self, serde: Any, value: Any) -> bytes:
        return self.forged if self.MARK in repr(value) else self._encode(serde, value)


async def plant(saver: Any, forged: bytes, number: int) -> list[Any]:
    """Checkpoints with the forged bytes as an inline value, an item, a pending write, metadata, and the checkpoint."""
    forger = Forger()
    forger.forged = forged
    values.encode = forger  # only in this process, and only while it writes
    placed = []
    try:
        for where in ("value", "item", "write", "metadata", "checkpoint"):
            into = config(f"{where}-{number}")
            value: Any = {"value": Forger.MARK, "item": [Forger.MARK, *({"x": "x" * 80, "n": n} for n in range(30))]}
            new = checkpoint({"a": value.get(where, 1)})
            if where == "checkpoint":
                new["ts"] = Forger.MARK
            odd = {"odd": float("nan"), "mark": Forger.MARK} if where == "metadata" else {}
            stored = await saver.aput(into, new, metadata(**odd), new["channel_versions"])
            if where == "write":
                await saver.aput_writes(stored, [("a", Forger.MARK)], "task")
            placed.append(stored)
    finally:
        values.encode = forger._encode
    return placed


async def main(kind_name: str, database: str) -> None:
    [kind] = [kind for kind in KINDS if kind.name == kind_name]
    events: list[str] = []
    watching = False

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if watching and event.startswith(WATCHED):
            events.append(f"{event} {args!r}"[:200])

    async with opened(kind.ours, database) as saver:
        placed = [one for at, forged in enumerate(forgeries()) for one in await plant(saver, forged, at)]
    async with opened(kind.ours, database) as saver:
        good = await saver.aput(config("good"), checkpoint({"a": [1] * 100}), metadata(), {})
        assert await saver.aget_tuple(good)  # loads all that is loaded on first use
        sys.addaudithook(audit)
        revived = []
        before = set(sys.modules)
        watching = True
        for stored in placed:
            try:
                found = await settle(saver.aget_tuple(stored))
            except DecodeError:
                continue
            revived.append(repr(found)[:300])
        watching = False
        events += sorted(set(sys.modules) - before)
    os.write(1, json.dumps({"rows": len(placed), "revived": revived[:20], "events": events[:20]}).encode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
