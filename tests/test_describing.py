"""Stored values as data: every form is described, nothing is imported or called, and no bytes break it."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import json
import pathlib
import sys
import uuid
from typing import Any

import numpy as np
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Interrupt, Send
from pydantic import BaseModel, SecretStr

from langgraph_checkpoint_dual.carrying import Carrier
from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.inspection.comparing import compared
from langgraph_checkpoint_dual.core.inspection.describing import Object, Opaque, describe, text, to_json
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.serde import Serializer
from tests.support.exact import exact
from tests.support.records import Record


class Colour(enum.Enum):
    RED = "red"
    MIXED = (1, 2)


class Trip(BaseModel):
    city: str
    stops: list[Any]


DESCRIBED = [
    (None, "None"),
    ([1, 2.5, "three", b"four", True], "[1, 2.5, 'three', b'four', True]"),
    ({"a": {"b": [1]}}, "{'a': {'b': [1]}}"),
    ({1: "one", (2, 3): "two"}, "{1: 'one', (2, 3): 'two'}"),
    (2**80, str(2**80)),
    ("lone \ud800", "'lone \\ud800'"),
    (float("nan"), "nan"),
    (bytearray(b"xy"), "bytearray(b'xy')"),
    (Record(3), "Record(number=3)"),
    (Trip(city="Rome", stops=[Record(1)]), "Trip(city='Rome', stops=[Record(number=1)])"),
    (Colour.RED, "Colour('red')"),
    (Colour.MIXED, "Colour('MIXED')"),
    (Send("node", {"x": 1}), "Send('node', {'x': 1})"),
    (decimal.Decimal("1.5"), "Decimal('1.5')"),
    (datetime.date(2026, 1, 2), "date(2026, 1, 2)"),
    (pathlib.PurePosixPath("/a/b"), "path('PurePosixPath', ['/', 'a', 'b'])"),
    (collections.deque([1], maxlen=2), "deque([1], 2)"),
    (uuid.UUID(int=1), f"UUID('{uuid.UUID(int=1).hex}')"),
    ({1, 2}, "set([1, 2])"),
    (np.zeros((2, 3)), "ndarray(<<f8 2×3, 48 bytes>)"),
    (b"x" * 100, f"<100 bytes: {(b'x' * 16).hex()}…>"),
    (SecretStr("hunter2"), "SecretStr('**********')"),
    (HumanMessage("hi", id="1"), "HumanMessage(content='hi', id='1')"),
    (AIMessage("", id="2", usage_metadata=None), "AIMessage(id='2')"),
]


@pytest.mark.parametrize(("value", "shown"), DESCRIBED, ids=lambda one: type(one).__name__)
def test_values_are_described(value: Any, shown: str) -> None:
    found = describe(values.encode(Serializer(), value))
    assert text(found) == shown
    json.dumps(to_json(found))
    assert len(text(found, 5)) <= 6 + 1


def test_a_message_is_described_alike_in_each_form() -> None:
    message = AIMessage("hi", id="1", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}])
    serializer = Serializer()
    regular = describe(values.typed(*serializer.dumps_typed(message)))
    assert describe(values.encode(serializer, message)) == regular
    assert describe(values.encode(serializer, [message] * 20)) == [regular] * 20
    for snapshot in (_DeltaSnapshot([message]), _DeltaSnapshot([message, 1])):
        expected = describe(values.typed(*serializer.dumps_typed(snapshot)))
        assert describe(values.encode(serializer, snapshot)) == expected
    assert regular.is_message
    assert describe(values.encode(JsonPlusSerializer(), message)).fields["tool_calls"] == regular.fields["tool_calls"]


def test_an_interrupt_is_described() -> None:
    [found] = describe(values.encode(Serializer(), [Interrupt("go on?", id="x")]))
    assert (found.type, found.fields["value"]) == ("langgraph.types.Interrupt", "go on?")


def test_json_rows_are_described() -> None:
    row = {"lc": 2, "type": "constructor", "id": ["antigravity", "Fly"], "args": [1], "kwargs": {"up": [True]}}
    assert describe(values.typed("json", json.dumps([row]).encode())) == [
        Object("antigravity.Fly", (1,), {"up": [True]})
    ]
    assert "antigravity" not in sys.modules


def test_what_cannot_be_looked_into_says_so() -> None:
    assert describe(values.typed("pickle", b"cos\nsystem\n(S'exit 1'\ntR.")) == Opaque("pickle, not looked into", 25)
    assert text(describe(values.typed("msgpack+aes", b"secret"))) == "<msgpack+aes, not looked into, 6 bytes>"
    newer = ormsgpack.packb(ormsgpack.Ext(99, b"x"))
    assert text(describe(values.typed("msgpack", newer))) == "<extension value 99 of a newer version, 1 bytes>"


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 36, 37])
def test_nothing_is_imported_or_called(code: int) -> None:
    for parts in (("antigravity", "fly", ["x"], "now", {}), ("os", "system", ["exit 1"], "x", None)):
        found = describe(values.typed("msgpack", ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(parts)))))
        assert found.type == f"{parts[0]}.{parts[1]}"
    assert "antigravity" not in sys.modules


def test_nesting_is_bounded() -> None:
    bomb = b"\xc0"
    for _ in range(5000):
        bomb = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("m", "C", ormsgpack.Ext(7, bomb)))))[:60_000]
        if len(bomb) >= 60_000:
            break
    for data in (bomb, b"\x91" * 200 + b"\xc0", json.dumps(None).encode()):
        found = _described(values.typed("msgpack", data))
        text(found)
        json.dumps(to_json(found))
    deep: Any = None
    for _ in range(300):
        deep = [deep]
    assert "nested too deeply" in text(describe(values.typed("json", json.dumps(deep).encode())))


def _described(typed: bytes) -> Any:
    try:
        return describe(typed)
    except DecodeError as exc:
        return str(exc)


@given(st.sampled_from(["msgpack", "json", "bytes", "null", "other"]), st.binary(max_size=60))
def test_no_bytes_break_it(name: str, data: bytes) -> None:
    found = _described(values.typed(name, data))
    text(found)
    json.dumps(to_json(found))
    assert list(compared(found, found)) == []


@given(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 32, 33, 34, 36, 37, 38]), st.binary(max_size=60))
def test_no_extension_breaks_it(code: int, data: bytes) -> None:
    found = _described(values.typed("msgpack", ormsgpack.packb({"x": ormsgpack.Ext(code, data)})))
    text(found)
    json.dumps(to_json(found))


def test_changes_name_the_place() -> None:
    before = {"a": [HumanMessage("one", id="1"), HumanMessage("two", id="2")], "b": 1}
    after = {"a": [HumanMessage("new", id="0"), HumanMessage("one!", id="1")], "c": 1}
    serde = Serializer()
    found = compared(describe(values.encode(serde, before)), describe(values.encode(serde, after)))
    assert sorted((change.path, change.kind) for change in found) == [
        ("['a'][0]", "added"),
        ("['a'][1]", "removed"),
        ("['a'][1].content", "changed"),
        ("['b']", "removed"),
        ("['c']", "added"),
    ]


# --- What is carried along ---


@pytest.mark.parametrize("value", [one for one, _ in DESCRIBED], ids=lambda one: type(one).__name__)
def test_unknown_types_are_carried_as_they_are(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Serializer().dumps_typed({"known": [value], "more": value})
    with monkeypatch.context() as hidden:
        hidden.delitem(sys.modules, __name__)
        hidden.delitem(sys.modules, Record.__module__)
        carried = Carrier().dumps_typed(Carrier().loads_typed(stored))
    assert exact(Serializer().loads_typed(carried)) == exact(Serializer().loads_typed(stored))


def test_unknown_types_of_json_rows_are_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"lc": 2, "type": "constructor", "id": [*Record.__module__.split("."), "Record"], "kwargs": {"number": 7}}
    with monkeypatch.context() as hidden:
        hidden.delitem(sys.modules, Record.__module__)
        carried = Carrier().dumps_typed(Carrier().loads_typed(("json", json.dumps({"x": row}).encode())))
    assert Serializer().loads_typed(carried) == {"x": Record(7)}


def test_damage_is_not_carried() -> None:
    for data in (b"\xc1", ormsgpack.packb("no parts")):
        with pytest.raises(DecodeError):
            Carrier().loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(2, data))))
