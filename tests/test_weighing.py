"""What values weigh decides whether an event loop works on them itself; who has no event loop does not ask."""

from __future__ import annotations

import threading
from collections import ChainMap, UserDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.core.weighing import ENOUGH, weigh
from langgraph_checkpoint_dual.sqlite import SqliteSaver
from langgraph_checkpoint_dual.sqlite.aio import AsyncSqliteSaver

TEXT = "x" * 10_000


class Text(str):
    pass


class Plain:
    def __init__(self) -> None:
        self.text = TEXT


class Slotted:
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        TEXT, TEXT.encode(), bytearray(10_000), Text(TEXT), [TEXT], (TEXT,), {"k": TEXT}, {TEXT}, frozenset((TEXT,)),
        deque([TEXT]), UserDict(k=TEXT), ChainMap({"k": TEXT}), Plain(), [{"k": ({"deep": [TEXT]},)}],
        HumanMessage(TEXT), ToolMessage("", tool_call_id="1", artifact=[TEXT]), np.zeros(10_000, np.uint8),
        AIMessage("", tool_calls=[{"name": "f", "args": {"k": TEXT}, "id": "1", "type": "tool_call"}]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_a_value_holds_is_found(value: Any) -> None:
    assert 10_000 < weigh([value]) < 11_500


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, True, Slotted(), object(), [], {}, ""], ids=lambda value: type(value).__name__
)
def test_what_holds_nothing_weighs_little(value: Any) -> None:
    assert 0 < weigh([value]) < 100


def test_counting_ends_once_it_is_enough() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert weigh([loop]) > ENOUGH
    assert weigh([[None] * 1_000]) > ENOUGH


def test_only_who_has_an_event_loop_asks(tmp_path: Path) -> None:
    with SqliteSaver(str(tmp_path / "a.db")) as saver:
        assert finish(saver._whole_blocking.compute(pytest.fail, threading.get_ident)) == threading.get_ident()


@pytest.mark.parametrize("several", [1, 10])
async def test_an_event_loop_leaves_what_is_heavy_to_a_thread(tmp_path: Path, several: int) -> None:
    async with AsyncSqliteSaver(str(tmp_path / "a.db")) as saver:
        worked = await saver._whole_looping.compute(lambda: weigh([TEXT] * several), threading.get_ident)
        assert (worked == threading.get_ident()) == (several == 1)
