"""The serializer: exact or refused, readable by and from langgraph's own, and unable to run what a row names."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import json
import math
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union

import numpy as np
import ormsgpack
import pydantic.v1
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from langchain_core import messages as lc
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.base import TextAccessor
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item, SearchItem
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    PlainSerializer,
    RootModel,
    SecretStr,
    field_serializer,
)

from langgraph_checkpoint_dual.errors import DecodeError, EncodeError
from langgraph_checkpoint_dual.messages import SHAPES
from langgraph_checkpoint_dual.serde import Serializer
from tests.support.exact import exact, messages, messages_of, plain, text

T = TypeVar("T")
ours, official = Serializer(), JsonPlusSerializer()


class Colour(enum.Enum):
    RED = 1
    PAIR = (1, 2)


class Word(str, enum.Enum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class Bits(enum.Flag):
    X = 1
    Y = 2


class Outer:
    class Inner(BaseModel):
        x: int = 1

    class Kind(enum.Enum):
        Q = "q"


class Box(BaseModel, Generic[T]):
    value: T


class Numbers(RootModel[list[int]]):
    pass


class Table(RootModel[dict[str, int]]):
    pass


class Renamed(BaseModel):
    number: int = Field(default=0, alias="Number")


class Parent(BaseModel):
    anything: Any = None
    pair: tuple[int, ...] = ()
    names: set[str] = set()
    secret: SecretStr = SecretStr("s")
    link: HttpUrl | None = None
    child: Parent | None = None


class Child(Parent):
    more: int = 3


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Dumped(BaseModel):
    """Its author says how it is stored."""

    when: dt.date

    @field_serializer("when")
    def _year(self, when: dt.date) -> str:
        return when.isoformat()


class Picky(BaseModel):
    n: int = Field(gt=0)


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
    late: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass
class Prepared:
    given: dataclasses.InitVar[int]
    kept: int = 0

    def __post_init__(self, given: int) -> None:
        self.kept = given


class Pair(NamedTuple):
    a: Any
    b: Any = 2


class Text(str):
    pass


class Tagged(str):
    tag: str


class Table2(dict[str, Any]):
    pass


class Row(list[Any]):
    pass


class Names(set[str]):
    pass


class Groups(collections.defaultdict[str, list[int]]):
    pass


class Plain:
    pass


class Moment(dt.datetime):
    pass


class Mine(HumanMessage):
    note: str = ""


def stored(value: Any, serializer: Any = ours) -> Any:
    return serializer.loads_typed(serializer.dumps_typed(value))


def row(code: int, *parts: Any) -> tuple[str, bytes]:
    """A stored extension value, as somebody who can write to the database may have made it."""
    return "msgpack", ormsgpack.packb([ormsgpack.Ext(code, ormsgpack.packb(parts, option=ormsgpack.OPT_NON_STR_KEYS))])


# --- Exact ---

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
EXACT: list[Any] = [
    None,
    True,
    1,
    1.0,
    -0.0,
    math.nan,
    math.inf,
    1e22,
    2**64,
    -(2**63) - 1,
    10**400,
    -(10**400),
    "a\0b",
    "\ud800x",
    {"\udfff": ["\ud800"]},
    {2**70: 1},
    b"x\xff",
    bytearray(b"y"),
    [bytearray(b"z"), b"z", "ę"],
    {"a": ({"b": bytearray()})},
    Colour.RED,
    Colour.PAIR,
    Word.A,
    Number.ONE,
    Bits.X | Bits.Y,
    Bits(0),
    Outer.Kind.Q,
    [Word.A, {"k": Number.ONE}],
    Outer.Inner(x=3),
    Box[int](value=3),
    Box[list[int]](value=[1]),
    Box[Box[str]](value=Box[str](value="a")),
    Box[Optional[int]](value=None),  # noqa: UP045
    Box[Union[int, str]](value="1"),  # noqa: UP007
    Box[int | None](value=1),
    Box[Colour](value=Colour.RED),
    Box[Literal["a", 2]](value=2),
    Box[Any](value=Point(1)),
    Box[Outer.Inner](value=Outer.Inner()),
    Box(value=2),
    Numbers([1, 2]),
    Table({"root": 1}),
    Renamed(Number=5),
    Open(more=[1]),
    Dumped(when=dt.date(2024, 1, 1)),
    Parent(
        anything=Point(1, Pair(3)),
        pair=(1, 2),
        names={"n"},
        link=HttpUrl("http://a.b/c"),
        child=Child(anything=[Child()]),
    ),
    Mine("x", note="n"),
    Point(1, [Point(2)]),
    Frozen(1),
    Prepared(5),
    Pair(1, Point(3)),
    Pair(Pair(1)),
    Text("q"),
    Table2(a=[1]),
    Row([1, {"x": Row()}]),
    Names({"n"}),
    Groups(list, {"a": [1]}),
    collections.defaultdict(list, {"a": [1]}),
    collections.defaultdict(None, {1: 2}),
    collections.Counter("aab"),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.deque([1, 2], 5),
    collections.deque([1]),
    complex(1, -0.0),
    fractions.Fraction(1, 3),
    range(1, 9, 2),
    decimal.Decimal("1.10"),
    uuid.UUID(int=7),
    re.compile("a.b", re.I),
    re.compile(b"x"),
    pathlib.PurePosixPath("a/b"),
    pathlib.PureWindowsPath("c:\\x"),
    pathlib.Path("/a"),
    pathlib.Path(),
    ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_interface("10.0.0.1/8"),
    dt.datetime(2024, 1, 1),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    dt.datetime(2024, 10, 27, 2, 30, fold=1),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2), "X")),
    dt.date(2024, 1, 1),
    dt.time(1, 2, 3, 4, tzinfo=dt.timezone.utc, fold=1),
    dt.timedelta(1, 2, 3),
    BERLIN,
    dt.timezone(dt.timedelta(hours=1)),
    {1, 2},
    frozenset({"a"}),
    {(1, (2, 3))},
    {frozenset({1}), "x"},
    {Pair(1)},
    {frozenset({1}): 2},
    {Pair(1): 3},
    {1j: 2},
    {("a", ("\ud800",)): 1},
    {7: 2, None: 3, True: 4, 1.5: 6, b"x": 7, (1, (2, "a")): 8},
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::2],
    np.array(5),
    np.zeros((0, 3)),
    np.array(["a", "bc"]),
    np.array([b"a"]),
    np.array(["2020-01-01"], "M8[D]"),
    np.array([1, 2], ">i4"),
    np.array([True]),
    np.array([1j]),
    np.float16([1]),
    np.zeros(2, [("a", "i4"), ("b", "f8")]),
    np.zeros((2, 2), "V3"),
    {"a": [np.arange(3, dtype="u1")]},
    np.float64(1.5),
    np.float32(1.1),
    np.int64(3),
    np.bool_(True),
    np.str_("x"),
    np.str_(""),
    np.bytes_(b"q"),
    np.datetime64("2020-01-01T00:00:00", "ms"),
    np.timedelta64(3, "s"),
    np.longdouble(1) / 3,
    [np.float64(1), 1.0],
    Interrupt(value={"a": Pair(1)}, id="x"),
    Command(update={"a": 1}, goto=[Send("n", 1)]),
    Overwrite([1]),
    _DeltaSnapshot([1, {2}]),
    Document("x", metadata={"a": 1}),
    AIMessage("x").text,
    HumanMessage([{"type": "text", "text": "\ud800"}]),
    ToolMessage("x", tool_call_id="1", artifact=Point(1)),
    HumanMessage("x", additional_kwargs={"n": 2**65, "b": b"1"}),
    HumanMessage("x", additional_kwargs={"b": [bytearray(b"1")]}),
    SecretStr("s"),
]


@pytest.mark.parametrize("value", EXACT, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"k": [value]}]], ids=["bare", "nested"])
def test_comes_back_as_it_went_in(value: Any, wrap: Callable[[Any], Any]) -> None:
    if isinstance(value, lc.BaseMessage):
        value.__pydantic_fields_set__.update(type(value).model_fields)  # what was left to its default is stored too
    assert exact(stored(wrap(value))) == exact(wrap(value))


def test_objects_without_equality_of_their_own_come_back() -> None:
    now = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
    item = SearchItem(namespace=("a", "b"), key="k", value={"x": 1}, created_at=now, updated_at=now, score=0.5)
    for value in (item, Item(namespace=("a",), key="k", value={}, created_at=now, updated_at=now)):
        back = stored(value)
        assert type(back) is type(value)
        assert back.dict() == value.dict()
    send = stored([Send("n", {"a": (1,)}, timeout=3)])[0]
    assert (send.node, send.arg, send.timeout.run_timeout) == ("n", {"a": [1]}, 3.0)


def test_a_deque_a_dict_and_a_text_keep_the_attributes_of_their_class() -> None:
    tagged, table = Tagged("x"), Table2(a=1)
    tagged.tag, table.note = "t", ["n"]  # type: ignore[attr-defined]
    assert exact(vars(stored(tagged))) == exact({"tag": "t"})
    assert exact(vars(stored([table])[0])) == exact({"note": ["n"]})
    groups = stored(Groups(list))
    groups["new"].append(1)
    assert groups == {"new": [1]}


def test_the_serializer_keeps_what_langgraph_relies_on() -> None:
    assert stored((1, (2,))) == [1, [2]]
    assert stored(ValueError("x")) == "ValueError('x')"
    assert stored({Word.A: 1, Number.ONE: 2, dt.date(2020, 1, 1): 3}) == {"a": 1, 1: 2, "2020-01-01": 3}


def test_arrays_can_be_written_to() -> None:
    array = stored(np.zeros(2))
    array[0] = 1
    assert array.tolist() == [1, 0]


def test_a_model_that_has_become_stricter_still_loads() -> None:
    assert stored(Picky.model_construct(n=-1)).n == -1


class Legacy(pydantic.v1.BaseModel):
    x: int
    inner: dict[str, Any] = {}


class Cached(BaseModel):
    x: int = 1

    @functools.cached_property
    def double(self) -> int:
        return self.x * 2


class Opaque:
    def __init__(self, text: str) -> None:
        self.text = text


class Holder(BaseModel):
    """Only its own dump can tell what the list holds."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    items: list[
        Annotated[
            Opaque,
            PlainSerializer(lambda item: item.text),
            BeforeValidator(lambda item: Opaque(item) if isinstance(item, str) else item),
        ]
    ]


def test_models_of_other_makes() -> None:
    legacy = stored([Legacy(x=1, inner={"a": [1]})])[0]
    assert type(legacy) is Legacy
    assert legacy == Legacy(x=1, inner={"a": [1]})
    cached = Cached(x=2)
    assert cached.double == 4
    assert "double" not in stored([cached])[0].__dict__
    assert stored([cached]) == [Cached(x=2)]
    assert [item.text for item in stored([Holder(items=[Opaque("a")])])[0].items] == ["a"]


def test_one_serializer_in_many_threads() -> None:
    values = [[Point(n, {"k": HumanMessage(str(n))}), Colour.RED, 2**65 + n] for n in range(200)]
    serializer = Serializer()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda value: stored(value, serializer), values)) == values


def test_a_big_text_and_a_big_integer() -> None:
    big = "é" * (32 << 20)
    assert stored([big])[0] == big
    assert stored([2**100_000]) == [2**100_000]


@given(plain)
def test_plain_values_are_exact_and_in_the_format_of_langgraph(value: Any) -> None:
    assert exact(stored(value)) == exact(value)
    assert ours.dumps_typed(value) == official.dumps_typed(value)


@given(
    st.recursive(
        st.text() | st.integers() | st.binary().map(bytearray),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_text_any_integer_and_bytearrays_are_exact(value: Any) -> None:
    assert exact(stored(value)) == exact(value)


# --- Messages: the same as langgraph's serializer, though they are not validated again ---


@given(messages)
def test_messages_are_as_langgraph_reads_them(message: Any) -> None:
    typed = official.dumps_typed(message)
    expected = exact(official.loads_typed(typed))
    assert exact(ours.loads_typed(typed)) == expected
    assert exact(ours.loads_typed(official.dumps_typed([message]))[0]) == expected
    assert ours.dumps_typed(message) == typed
    assert exact(stored(message)) == expected


odd = st.one_of(plain, st.sampled_from([{}, [], "ai", "human", "success", 1.0, [{}], [None], "AIMessageChunk"]))


@given(st.sampled_from(SHAPES), st.data())
def test_rows_with_odd_fields_are_as_langgraph_reads_them(shape: Any, data: st.DataObject) -> None:
    message = data.draw(messages_of[shape.name])
    fields = message.model_dump()
    for field in data.draw(st.lists(st.sampled_from([*shape.fields, "content_blocks", "more"]), max_size=2)):
        fields[field] = data.draw(odd)
    for field in data.draw(st.lists(st.sampled_from(shape.fields), max_size=1)):
        fields.pop(field, None)
    if data.draw(st.booleans()):
        fields = dict(reversed(fields.items()))
    typed = row(5, shape.module, shape.name, fields, "model_validate_json")
    expected = official.loads_typed(typed)[0]
    if type(expected) is dict:
        event("refused")
        with pytest.raises(DecodeError):
            ours.loads_typed(typed)
    else:
        event("revived")
        assert exact(ours.loads_typed(typed)[0]) == exact(expected)


nested = st.dictionaries(text | st.sampled_from(["type", "extras", "index"]), plain | st.just("tool_call"), max_size=3)
call_like = st.fixed_dictionaries({"name": odd, "args": odd, "id": odd, "type": st.just("tool_call") | odd})
usage_like = st.fixed_dictionaries(
    dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), st.integers(0, 9) | odd),
    optional={
        "input_token_details": nested | st.just({"audio": 1.0}),
        "output_token_details": st.just({"audio": 1}) | odd,
    },
)


@given(
    st.sampled_from(["AIMessage", "AIMessageChunk"]),
    st.lists(call_like, max_size=2),
    usage_like | st.none(),
    st.booleans(),
)
def test_rows_with_odd_calls_and_counts_are_as_langgraph_reads_them(
    name: str, calls: list[Any], usage: Any, raw: bool
) -> None:
    cls = getattr(lc, name)
    fields = {**cls("x").model_dump(), "tool_calls": calls, "usage_metadata": usage}
    if raw:
        fields["additional_kwargs"] = {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    typed = row(5, cls.__module__, name, fields, "model_validate_json")
    assert exact(ours.loads_typed(typed)) == exact(official.loads_typed(typed))


ODD: list[Any] = [
    None,
    True,
    0,
    1,
    1.0,
    -1.5,
    2**63,
    "",
    "x",
    "ai",
    "human",
    "success",
    "tool_call",
    "last",
    "AIMessageChunk",
    b"x",
    [],
    ["x"],
    [1],
    [None],
    [["x"]],
    [{}],
    [{"type": "text"}],
    {},
    {"a": 1},
    {1: 2},
    {"a": {}},
    {"tool_calls": []},
    {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"tool_calls": "x"},
    {"audio": 1},
    {"audio": 1.0},
    {"audio": True},
    {"reasoning": 1, "audio": 2},
    {"other": 1},
    {"cache_read": None},
]
CALL = {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}
USAGE = {
    "input_tokens": 1,
    "output_tokens": 2,
    "total_tokens": 3,
    "input_token_details": {"audio": 1, "cache_read": 2},
    "output_token_details": {"reasoning": 1},
}


def variants(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same with each value replaced by each odd one, without each key, with a key more, and in another order."""
    for key in plain:
        yield from ({**plain, key: odd} for odd in ODD)
        yield {other: value for other, value in plain.items() if other != key}
        yield {key: plain[key], **plain}
    yield from (
        {**plain, more: odd} for more in ("type", "index", "extras", "content_blocks", "more") for odd in ODD[:4]
    )
    yield {**plain, 1: 2}  # type: ignore[dict-item]


def _fields_of(shape: Any) -> dict[str, Any]:
    needed = {"content": "x", "tool_call_id": "1", "name": "n", "role": "r", "id": "1"}
    if shape.name == "RemoveMessage":
        needed = {"id": "1"}
    return dict(shape.cls(**{name: needed[name] for name in needed if name in shape.fields}).model_dump())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_odd_field_is_as_langgraph_reads_it(shape: Any) -> None:
    plain = _fields_of(shape)
    assert shape.fits(plain)
    rows = [plain, *variants(plain)]
    if "tool_calls" in plain:
        rows += [{**plain, "tool_calls": [CALL, call]} for call in (CALL, *variants(CALL))]
        rows += [{**plain, "tool_calls": [{**CALL, "args": args}]} for args in ({1: 2}, {"": []}, {"a": (1,)})]
        rows += [{**plain, "usage_metadata": usage} for usage in (USAGE, *variants(USAGE))]
        rows += [{**plain, "tool_calls": [CALL], "additional_kwargs": odd} for odd in ODD]
    if "tool_call_chunks" in plain:
        chunk = {"name": "f", "args": "{}", "id": "1", "index": 0, "type": "tool_call_chunk"}
        rows += [{**plain, "tool_call_chunks": [part]} for part in (chunk, *variants(chunk))]
    for fields in rows:
        typed = row(5, shape.module, shape.name, fields, "model_validate_json")
        expected = official.loads_typed(typed)[0]
        if type(expected) is dict:
            with pytest.raises(DecodeError):
                ours.loads_typed(typed)
        else:
            assert exact(ours.loads_typed(typed)[0]) == exact(expected), fields


def test_ordinary_messages_are_not_validated_again() -> None:
    calls = [{"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}]
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_token_details": {"cache_read": 1}}
    ordinary = [
        HumanMessage("x", id="1"),
        HumanMessage([{"type": "image", "url": "u"}, "text"]),
        AIMessage("x", tool_calls=calls, usage_metadata=usage, response_metadata={"a": {}}),
        ToolMessage("x", tool_call_id="1", artifact={"a": [1]}),
    ]
    for message in ordinary:
        shape = next(shape for shape in SHAPES if shape.cls is type(message))
        assert shape.fits(message.__dict__)


def test_subclasses_of_messages_are_validated() -> None:
    back = stored(Mine("x", note="n"))
    assert type(back) is Mine
    assert exact(back) == exact(official.loads_typed(official.dumps_typed(Mine("x", note="n"))))


# --- Readable by and from langgraph's serializer ---

SHARED: list[Any] = [
    value
    for value in EXACT
    if isinstance(
        value, (str, int, float, bytes, uuid.UUID, decimal.Decimal, dt.date, re.Pattern, pathlib.Path, Point, Pair)
    )
    and not isinstance(value, (np.generic, Text, TextAccessor))
    and type(value).__qualname__ == type(value).__name__
    and "\ud800" not in str(value)
    and not (isinstance(value, int) and abs(value) >= 2**63)
    and not (isinstance(value, enum.Enum) and not isinstance(value.value, (int, str)))
    and not (isinstance(value, dt.datetime) and (value.fold or value.tzname() == "X"))
]


@pytest.mark.parametrize("value", SHARED, ids=lambda value: type(value).__name__)
def test_what_langgraph_can_hold_is_written_for_it(value: Any) -> None:
    assert ours.dumps_typed([value]) == official.dumps_typed([value])
    assert exact(official.loads_typed(ours.dumps_typed([value]))) == exact([value])


def test_names_of_nested_classes_do_not_stop_langgraph_from_reading_the_rest() -> None:
    assert official.loads_typed(ours.dumps_typed([Outer.Inner(x=2), 3])) == [{"x": 2}, 3]


def test_rows_of_all_types() -> None:
    assert ours.loads_typed(("null", b"")) is None
    assert ours.loads_typed(("bytes", b"x")) == b"x"
    assert exact(ours.loads_typed(("bytearray", b"x"))) == exact(bytearray(b"x"))
    assert ours.loads_typed(("json", b'{"a": [1, NaN]}'))["a"][0] == 1
    with pytest.raises(DecodeError, match="pickle_fallback"):
        ours.loads_typed(("pickle", pickle.dumps(1)))
    with pytest.raises(DecodeError, match="unknown serialization type 'other'"):
        ours.loads_typed(("other", b""))


def test_a_bytearray_is_stored_as_it_was() -> None:
    value = bytearray(b"x")
    typed = ours.dumps_typed(value)
    value.append(1)
    assert ours.loads_typed(typed) == b"x"


JSON_ROWS: list[tuple[Any, Any]] = [
    (
        {"lc": 2, "type": "constructor", "id": ["uuid", "UUID"], "args": ["00000000000000000000000000000007"]},
        uuid.UUID(int=7),
    ),
    ({"lc": 2, "type": "constructor", "id": ["builtins", "set"], "args": [[1, 2]]}, {1, 2}),
    ({"lc": 2, "type": "constructor", "id": ["datetime", "date"], "args": [2024, 1, 2]}, dt.date(2024, 1, 2)),
    (
        {
            "lc": 2,
            "type": "constructor",
            "id": ["datetime", "datetime"],
            "method": "fromisoformat",
            "args": ["2024-01-02T00:00:00"],
        },
        dt.datetime(2024, 1, 2),
    ),
    ({"lc": 2, "type": "constructor", "id": ["builtins", "bytes"], "method": "fromhex", "args": ["ff00"]}, b"\xff\0"),
    (
        {
            "lc": 2,
            "type": "constructor",
            "id": ["langgraph.types".split(".")[0], "types", "Send"],
            "args": ["n", {"a": 1}],
        },
        Send("n", {"a": 1}),
    ),
    ({"lc": 2, "type": "constructor", "id": ["builtins", "ValueError"], "args": ["x"]}, "ValueError('x')"),
    (
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "schema", "messages", "HumanMessage"],
            "kwargs": {"content": "x", "type": "human"},
        },
        HumanMessage("x"),
    ),
    (
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain_core", "messages", "ai", "AIMessage"],
            "kwargs": {"content": "x"},
        },
        AIMessage("x"),
    ),
    (
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "schema", "document", "Document"],
            "kwargs": {"page_content": "x"},
        },
        Document("x"),
    ),
    (
        {"lc": 3, "type": "constructor", "id": ["os", "system"]},
        {"lc": 3, "type": "constructor", "id": ["os", "system"]},
    ),
    ({"lc": 2, "type": "other", "id": ["a"]}, {"lc": 2, "type": "other", "id": ["a"]}),
]


@pytest.mark.parametrize(("data", "expected"), JSON_ROWS, ids=lambda item: type(item).__name__)
def test_rows_of_the_old_json_format(data: Any, expected: Any) -> None:
    assert ours.loads_typed(("json", json.dumps({"k": [data]}).encode())) == {"k": [expected]}


def test_allowed_json_modules() -> None:
    path = [*__name__.split("."), "Point"]
    typed = "json", json.dumps({"lc": 2, "type": "constructor", "id": path, "kwargs": {"x": 1}}).encode()
    with pytest.raises(DecodeError, match="allowed_json_modules"):
        ours.loads_typed(typed)
    assert Serializer(allowed_json_modules=[tuple(path)]).loads_typed(typed) == Point(1)
    assert Serializer(allowed_json_modules=True).loads_typed(typed) == Point(1)
    assert Serializer(types=[Point]).loads_typed(typed) == Point(1)


# --- Refused when written, with the place ---


def _local() -> Any:
    class Local(BaseModel):
        x: int = 1

    return Local


class Sorted(list[Any]):
    __slots__ = ("key",)


def _sorted() -> Sorted:
    value = Sorted()
    value.key = 1
    return value


REFUSED: list[tuple[Any, str, str]] = [
    ([0, {"a": HumanMessage("x", additional_kwargs={"f": print})}], "[1]['a'].additional_kwargs['f']", "no data class"),
    (
        [HumanMessage("x"), ToolMessage("x", tool_call_id="1", artifact=[1, {2: Plain()}])],
        "[1].artifact[1][2]",
        "no data class",
    ),
    (Point(1, Plain()), ".y", "Plain"),
    (Pair(Plain()), ".a", "Plain"),
    (Parent(anything=[Plain()]), ".anything[0]", "Plain"),
    (Send("n", [Plain()]), ".arg[0]", "Plain"),
    ({"a": [_local()()]}, "['a'][0]", "inside a function"),
    ([lambda: 1], "[0]", "function"),
    ({"t": Plain}, "['t']", "builtins.type"),
    ([sys], "[0]", "module"),
    ((i for i in ()), "", "generator"),
    ([threading.Lock()], "[0]", "lock"),
    ({"f": sys.stdout}, "['f']", "cannot be stored"),
    ([collections.defaultdict(lambda: 1)], "[0]", "default_factory"),
    ({"v": [memoryview(b"x")]}, "['v'][0]", "bytes(view)"),
    (np.array([object()]), "", "dtype object"),
    ([np.ma.array([1], mask=[1])], "[0]", "MaskedArray"),
    ({Pair((1,)): 1}, "", "keys"),
    ([{Pair((1,))}], "[0]", "elements"),
    ([Moment(2024, 1, 1)], "[0]", "Moment"),
    (Box[Callable].model_construct(value=1), "", "Callable"),
    ([_sorted()], "[0]", "slots"),
    ([sys.version_info], "[0]", "version_info"),
    ([np.zeros(1, [("a", "i4")])[0]], "[0]", "scalar"),
    ({1: [{Plain(): 1}]}, "[1][0]", "Plain"),
    (HumanMessage("x", more=Plain()), ".more", "Plain"),
    (collections.Counter({Plain(): 1}), "", "Plain"),
]


@pytest.mark.parametrize(
    ("value", "path", "reason"), REFUSED, ids=lambda item: item if isinstance(item, str) else type(item).__name__
)
def test_refused_with_the_place(value: Any, path: str, reason: str) -> None:
    with pytest.raises(EncodeError) as caught:
        ours.dumps_typed(value)
    assert caught.value.path.startswith(path)
    assert reason in caught.value.reason


def test_a_value_that_fails_to_tell_its_state_is_refused_without_it() -> None:
    @dataclasses.dataclass
    class Failing:
        x: int

        def __getattribute__(self, name: str) -> Any:
            raise ValueError("secret")

    with pytest.raises(EncodeError) as caught:
        Serializer(types=[Failing]).dumps_typed([Failing(1)])
    assert "secret" not in str(caught.value)
    assert caught.value.path == "[0]"


@pytest.mark.parametrize("levels", [300, 5_000])
def test_deep_nesting_is_refused(levels: int) -> None:
    value: Any = []
    for _ in range(levels):
        value = [value]
    with pytest.raises(EncodeError, match="nested"):
        ours.dumps_typed(value)
    value = Point(1)
    for _ in range(levels * 10):
        value = Point(value)
    with pytest.raises(EncodeError, match="nested"):
        ours.dumps_typed(value)
    while type(value) is Point:  # taken apart from outside, or Python itself would recurse
        value = value.x


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(EncodeError, match="contains itself"):
        ours.dumps_typed(loop)
    point = Point(1)
    point.y = point
    with pytest.raises(EncodeError, match="contains itself"):
        ours.dumps_typed(point)


def test_pickle_fallback() -> None:
    serializer = Serializer(pickle_fallback=True)
    typed = serializer.dumps_typed(np.ma.array([1, 2], mask=[0, 1]))
    assert typed[0] == "pickle"
    assert serializer.loads_typed(typed).mask.tolist() == [False, True]
    assert serializer.dumps_typed([Point(1)]) == ours.dumps_typed([Point(1)])


# --- Data, not code ---

called: list[Any] = []


def test_gadgets_in_rows_are_not_touched() -> None:
    """In a process of its own, which is watched for anything that is imported, opened, started or called."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.gadget_worker"], capture_output=True, text=True, timeout=100, check=True
    )
    report = json.loads(done.stdout)
    assert report["rows"] > 10_000
    assert report["revived"] == []
    assert report["events"] == []


@pytest.mark.parametrize("kind", ["secret", "not_implemented"])
def test_placeholders_in_json_rows_are_errors(kind: str) -> None:
    with pytest.raises(DecodeError, match=kind):
        ours.loads_typed(("json", json.dumps({"lc": 1, "type": kind, "id": ["HOME"]}).encode()))


def test_langchain_objects_other_than_messages_are_not_made_from_json() -> None:
    path = ["langchain", "prompts", "prompt", "PromptTemplate"]
    value = {"lc": 1, "type": "constructor", "id": path, "kwargs": {"template": "x", "template_format": "jinja2"}}
    with pytest.raises(DecodeError, match="PromptTemplate"):
        ours.loads_typed(("json", json.dumps(value).encode()))


def test_a_row_cannot_import_a_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_module.py").write_text("import enum\nclass E(enum.Enum):\n    A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DecodeError, match=r"planted_module\.E is not defined in a module that is imported"):
        ours.loads_typed(row(0, "planted_module", "E", 1))
    assert "planted_module" not in sys.modules
    # A module that imports others when it is asked for an attribute is not asked.
    lazy = types.ModuleType("lazy_module")
    lazy.__getattr__ = lambda name: called.append(name)  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    called.clear()
    with pytest.raises(DecodeError):
        ours.loads_typed(row(0, "lazy_module", "E", 1))
    assert not called
    # The user's own allowlist may.
    listed = Serializer(allowed_msgpack_modules=[("planted_module", "E")])
    assert listed.loads_typed(row(0, "planted_module", "E", 1))[0].value == 1
    monkeypatch.delitem(sys.modules, "planted_module")


def test_an_array_of_pointers_is_not_made() -> None:
    for dtype in ("O", "i4,O", "|O8"):
        with pytest.raises(DecodeError):
            ours.loads_typed(row(6, dtype, [1], "C", b"\0" * 16))
        with pytest.raises(DecodeError):
            ours.loads_typed(row(32, "scalar", dtype, b"\0" * 16))
    for shape in ([3], [1], [2**40], "x"):
        with pytest.raises(DecodeError):
            ours.loads_typed(row(6, "i8", shape, "C", b"\0" * 16))


@pytest.mark.parametrize(
    "parts",
    [
        (0, "uuid", "UUID", "zz"),
        (0, __name__, "Colour", 77),
        (37, __name__, "Colour", "BLUE"),
        (37, __name__, "Point", "x"),
        (2, __name__, "Point", {"z": 1}),
        (2, __name__, "Point", [1]),
        (5, __name__, "Outer.Inner", [1]),
        (5, __name__, "Gone", {}),
        (1, __name__, "Outer.Inner", [1]),
        (0, __name__, "Point", 1),
        (36, __name__, "Text", "dict", {}, None),
        (99, 1),
        (0,),
        (0, 1, 2, 3),
        (36, "collections", "OrderedDict", "defaultdict", {}, None),
        (36, "collections", "OrderedDict", "dict", {"a": 1}, None),
        (36, "collections", "defaultdict", "defaultdict", {}, {"": "eval"}),
        (38, __name__, "Box", [["class", "os", "_wrap_close"]], {"value": 1}),
        (38, __name__, "Box", ["int", "int"], {"value": 1}),
        (32, "other", 1),
        (32, "deque", 1, 2),
        (33, b"\xff"),
        (3, "datetime", "datetime", "2020-01-01", "now"),
        ([], {}),
        (5, [], {}, 1),
    ],
    ids=lambda parts: str(parts[0]),
)
def test_what_cannot_be_revived_raises(parts: Any) -> None:
    code, *rest = parts if isinstance(parts[0], int) else (0, *parts)
    with pytest.raises(DecodeError):
        ours.loads_typed(row(code, *rest))


def test_a_missing_type_names_itself_and_the_ways_out() -> None:
    gone = row(5, "old_module", "Old", {"x": 1}, "model_validate_json")
    with pytest.raises(DecodeError) as caught:
        ours.loads_typed(gone)
    message = str(caught.value)
    assert "old_module.Old" in message
    for way in ("import its module", "types=[", "aliases={'old_module.Old'"):
        assert way in message
    assert Serializer(aliases={"old_module.Old": Outer.Inner}).loads_typed(gone) == [Outer.Inner(x=1)]
    local = _local()
    assert exact(stored([local(x=2)], Serializer(types=[local]))) == exact([local(x=2)])


def test_an_alias_goes_before_a_known_message() -> None:
    typed = ours.dumps_typed(HumanMessage("x"))
    renamed = Serializer(aliases={"langchain_core.messages.human.HumanMessage": Mine})
    assert type(renamed.loads_typed(typed)) is Mine
    assert type(renamed.loads_typed(ours.dumps_typed([HumanMessage("x")]))[0]) is Mine


def test_a_registered_class_that_is_no_data_class_must_come_back_equal() -> None:
    serializer = Serializer(types=[Moment, np.ma.MaskedArray])
    assert exact(stored([Moment(2024, 1, 1)], serializer)) == exact([Moment(2024, 1, 1)])
    with pytest.raises(EncodeError):
        serializer.dumps_typed(np.ma.array([1]))


def test_a_class_that_cannot_be_found_under_its_name_is_refused() -> None:
    hidden = dataclasses.make_dataclass("Colour", ["x"])
    hidden.__module__ = __name__
    with pytest.raises(EncodeError, match="another class of this name"):
        ours.dumps_typed(hidden(1))
    hidden.__qualname__ = hidden.__name__ = "Nowhere"
    with pytest.raises(EncodeError, match="not defined"):
        ours.dumps_typed(hidden(1))


def test_a_class_that_was_defined_anew_gets_its_own_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ours.dumps_typed([Point(1)])
    again = dataclasses.make_dataclass("Point", ["x", "y"])
    again.__module__ = __name__
    old = Point(1)
    monkeypatch.setitem(globals(), "Point", again)
    assert type(ours.loads_typed(before)[0]) is again
    assert ours.dumps_typed([old]) == before


# --- Stricter ---


@pytest.mark.parametrize(
    "value", [Point(1), Colour.RED, Outer.Inner(), Text("x"), Pair(1), Box[Colour](value=Colour.RED)]
)
def test_strict_mode_is_read_when_a_serializer_is_made(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ours.dumps_typed([value])
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    strict = Serializer()
    monkeypatch.delenv("LANGGRAPH_STRICT_MSGPACK")
    with pytest.raises(DecodeError, match="allowlist"):
        strict.loads_typed(typed)
    with pytest.raises(EncodeError, match="allowlist"):
        strict.dumps_typed([value])
    safe = [
        HumanMessage("x"),
        Send("n", 1),
        {1},
        collections.Counter("a"),
        uuid.UUID(int=1),
        AIMessage("x").text,
        2**64,
    ]
    assert stored(safe, strict) == safe
    cls = type(value)
    names = [(cls.__module__, cls.__name__), (__name__, "Box"), (__name__, "Colour")]
    for allowed in (
        strict.with_msgpack_allowlist([cls, Box, Colour]),
        strict.with_msgpack_allowlist(names),
        Serializer(allowed_msgpack_modules=names),
        Serializer(allowed_msgpack_modules=[cls, Box, Colour]),
    ):
        assert exact(stored([value], allowed)) == exact([value])
    with pytest.raises(DecodeError, match="allowlist"):
        strict.loads_typed(typed)


def test_strict_mode_that_langgraph_was_started_in_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langgraph.checkpoint.serde._msgpack.STRICT_MSGPACK_ENABLED", True)
    with pytest.raises(DecodeError, match="allowlist"):
        Serializer().loads_typed(ours.dumps_typed(Point(1)))
    assert stored(Point(1), Serializer(types=[Point])) == Point(1)


def test_an_allowlist_adds_to_the_serializer_only_what_it_lacks() -> None:
    assert ours.with_msgpack_allowlist([Point, ("a", "b")]) is ours
    strict = Serializer(allowed_msgpack_modules=None)
    wider = strict.with_msgpack_allowlist([Point])
    assert wider is not strict
    assert wider.with_msgpack_allowlist([Point]) is wider
    local = _local()
    assert exact(stored(local(x=3), ours.with_msgpack_allowlist([local]))) == exact(local(x=3))
    with pytest.raises(EncodeError):
        ours.dumps_typed(local())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_options_survive_copies(copied: Any) -> None:
    serializer = copied(Serializer(aliases={"old.Name": Point}, pickle_fallback=True, types=[_local()]))
    assert serializer.loads_typed(row(2, "old", "Name", {"x": 1, "y": 2})) == [Point(1, 2)]
    assert serializer.pickle_fallback


class _Turned:
    """A cipher that turns the bytes around: enough to tell what passes through it."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "turned", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "turned"
        return ciphertext[::-1]


def test_inside_an_encrypted_serializer() -> None:
    encrypted = EncryptedSerializer(_Turned(), Serializer(types=[_local()]))
    typed = encrypted.dumps_typed(["\ud800", Point(1)])
    assert typed[0] == "msgpack+turned"
    assert exact(encrypted.loads_typed(typed)) == exact(["\ud800", Point(1)])


def test_a_hook_given_by_the_user_is_used() -> None:
    hook = jsonplus._create_msgpack_ext_hook(None)
    serializer = Serializer(__unpack_ext_hook__=lambda code, data: hook(code, data) if code != 5 else "hooked")
    assert serializer.loads_typed(ours.dumps_typed(HumanMessage("x"))) == "hooked"


# --- Errors and interruptions reach the caller; damage is told ---


class Interrupting(BaseModel):
    """As a signal handler would do it: the next attempt is not interrupted."""

    x: int = 1

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        if self.x == 2 and not called:
            called.append(self)
            raise KeyboardInterrupt


class InterruptedOnce(BaseModel):
    """As a signal handler would do it: the next attempt is not interrupted."""

    def model_dump(self, **options: Any) -> dict[str, Any]:
        if not called:
            called.append(self)
            raise KeyboardInterrupt
        return super().model_dump(**options)


def test_an_interruption_reaches_the_caller() -> None:
    typed = ours.dumps_typed([Interrupting(x=1)])
    assert ours.loads_typed(typed) == [Interrupting(x=1)]
    interrupting = ormsgpack.Ext(5, ormsgpack.packb((__name__, "Interrupting", {"x": 2}, "")))
    in_message = {**ToolMessage("x", tool_call_id="1").model_dump(), "artifact": interrupting}
    for value in (interrupting, [interrupting], ("langchain_core.messages.tool", "ToolMessage", in_message, "")):
        content = ormsgpack.Ext(5, ormsgpack.packb(value)) if isinstance(value, tuple) else value
        called.clear()
        with pytest.raises(KeyboardInterrupt):
            ours.loads_typed(("msgpack", ormsgpack.packb(content)))
    called.clear()
    with pytest.raises(KeyboardInterrupt):
        ours.dumps_typed([Point(InterruptedOnce())])
    # And is over then.
    with pytest.raises(DecodeError, match="damaged msgpack"):
        ours.loads_typed(("msgpack", b"\xc1"))
    with pytest.raises(EncodeError):
        ours.dumps_typed([Plain()])


def test_the_innermost_error_is_told() -> None:
    inner = ormsgpack.Ext(0, ormsgpack.packb(("gone", "Gone", 1)))
    outer = ormsgpack.packb(ormsgpack.Ext(2, ormsgpack.packb((__name__, "Point", {"x": [inner]}))))
    with pytest.raises(DecodeError, match=r"gone\.Gone"):
        ours.loads_typed(("msgpack", outer))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"\xc7",
        b"\xc7\x05\x05",
        b"\xc7\x00\x05",
        b"\xc8\x00\x01\x05\xc0",
        b"\xa5abc",
        b"\x91" * 5_000 + b"\xc0",
    ],
    ids=lambda data: data[:4].hex() or "empty",
)
def test_damaged_data_is_told(data: bytes) -> None:
    with pytest.raises(DecodeError):
        ours.loads_typed(("msgpack", data))
    with pytest.raises(DecodeError):
        ours.loads_typed(("json", data + b"{"))


def test_deeply_nested_extension_values_are_damage_not_a_crash() -> None:
    data = b"\xc0"
    for _ in range(3_000):
        data = ormsgpack.packb(ormsgpack.Ext(7, data))
    with pytest.raises(DecodeError):
        ours.loads_typed(("msgpack", data))
    nested = b"[" * 100_000
    with pytest.raises(DecodeError):
        ours.loads_typed(("json", nested))


@given(st.sampled_from(EXACT) | messages, st.data())
def test_damage_anywhere_raises_nothing_but_decode_errors(value: Any, data: st.DataObject) -> None:
    type_, payload = ours.dumps_typed([value])
    at = data.draw(st.integers(0, len(payload) - 1))
    damaged = bytearray(payload)
    damaged[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([None, None, at]))
    try:
        ours.loads_typed((type_, bytes(damaged[:cut])))
    except DecodeError:
        event("refused")


@given(st.binary(max_size=60), st.integers(0, 40))
def test_noise_raises_nothing_but_decode_errors(noise: bytes, code: int) -> None:
    for payload in (noise, ormsgpack.packb(ormsgpack.Ext(code, noise))):
        for type_ in ("msgpack", "json"):
            with contextlib.suppress(DecodeError):
                ours.loads_typed((type_, payload))
