"""Images tell every change of a plain value, and give back what storing and loading it would give."""

from __future__ import annotations

import array
import copy
import datetime
import enum
from collections import OrderedDict
from typing import Any

import numpy as np
import ormsgpack
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.images import (
    Block,
    faithful,
    image,
    images,
    load,
    load_all,
    revive,
    revive_all,
    stored_fields,
)
from langgraph_checkpoint_dual.messages import BY_CLASS, SHAPES, fit_all
from langgraph_checkpoint_dual.serde import Serializer
from tests.support.exact import exact, messages, plain

serializer = Serializer()


class Word(str):
    pass


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Mine(HumanMessage):
    pass


def stored(value: Any) -> Any:
    return serializer.loads_typed(serializer.dumps_typed(value))


# What a leaf may be replaced with, without that `==` or a careless encoding would tell.
def likes(leaf: Any) -> list[Any]:
    found: list[Any] = [None, [leaf], {"x": leaf}]
    if isinstance(leaf, bool):
        found += [int(leaf), float(leaf)]
    elif isinstance(leaf, int):
        found += [float(leaf) if abs(leaf) < 2**53 else leaf + 1, leaf + 1, bool(leaf), Level.LOW, np.int64(1)]
    elif isinstance(leaf, float):
        found += [-leaf, np.float64(leaf), 0.0, -0.0, int(leaf) if leaf == leaf and abs(leaf) < 2**60 else 0]
    elif isinstance(leaf, str):
        found += [
            Word(leaf),
            leaf + "a",
            leaf.encode("utf-8", "surrogatepass"),
            Colour.RED,
            leaf + "\ud800",
            AIMessage(leaf).text,
        ]
    elif isinstance(leaf, bytes):
        found += [bytearray(leaf), memoryview(leaf), array.array("B", leaf), leaf.decode("latin-1"), leaf + b"\0"]
    elif isinstance(leaf, list):
        found += [tuple(leaf), leaf[::-1], {str(at): item for at, item in enumerate(leaf)}, [*leaf, None]]
    elif isinstance(leaf, dict):
        found += [dict(reversed(leaf.items())), list(leaf.items()), {Word(key): item for key, item in leaf.items()}]
    return found


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each container with each of its keys, all the way down."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


@given(st.lists(plain, min_size=1, max_size=4) | messages, st.data())
def test_any_change_at_any_depth_changes_the_image(value: Any, data: st.DataObject) -> None:
    before, was = image(value), exact(copy.deepcopy(value))
    holder, key = data.draw(st.sampled_from(places(value if isinstance(value, list) else value.__dict__)))
    holder[key] = data.draw(st.sampled_from(likes(holder[key])))
    after = image(value)
    if exact(value) != was:
        event("changed")
        assert after is None or after != before
    assert images([value], [before]) == [after]


@given(plain, plain)
def test_equal_images_mean_equal_values_and_equal_stored_bytes(one: Any, other: Any) -> None:
    if image(one) is not None:
        assert (image(one) == image(other)) == (exact(one) == exact(other))
    if image(one) == image(other) is not None:
        assert serializer.dumps_typed(one) == serializer.dumps_typed(other)


few = st.lists(messages, max_size=4) | st.lists(plain, max_size=4) | st.lists(messages | plain, max_size=4)
times = st.sampled_from([1, 17, 40])


@given(few, times, st.data())
def test_many_images_at_once_are_those_of_each(some: list[Any], times: int, data: st.DataObject) -> None:
    """Whatever is expected of them, and however the values were changed since."""
    values = [copy.deepcopy(value) for _ in range(times) for value in some]
    before: list[Any] = list(map(image, values))
    expected = data.draw(st.sampled_from([before, before[1:], before[:-1], before[::-1], [*before, b"\0"], [("x",)]]))
    copies = copy.deepcopy(values)
    assert images(copies, expected) == before
    for holder, key in data.draw(st.lists(st.sampled_from(all_places(copies) or [([0], 0)]), max_size=3)):
        holder[key] = data.draw(st.sampled_from(likes(holder[key])))
    assert images(copies, before) == list(map(image, copies))


def all_places(values: list[Any]) -> list[tuple[Any, Any]]:
    inside = [value.__dict__ if isinstance(value, BaseMessage) else value for value in values]
    return [*((values, at) for at in range(len(values))), *(place for one in inside for place in places(one))]


@given(few, times)
def test_many_revivals_at_once_are_those_of_each(values: list[Any], times: int) -> None:
    made = [one for one in map(image, values) if one is not None] * times
    revived, again = revive_all(made), revive_all(made)
    assert exact(revived) == exact(list(map(revive, made)))
    for one in revived:
        spoil(one)
    assert exact(again) == exact(revive_all(made))


@given(few, times, st.data())
def test_a_block_holds_just_what_it_was_made_of(some: list[Any], times: int, data: st.DataObject) -> None:
    """However the values were changed since, and whatever else is compared with it."""
    values = [copy.deepcopy(value) for _ in range(times) for value in some if is_faithful(value)]
    before = [one for one in map(image, values) if one is not None]
    block = Block.of(revive_all(before))
    if block is None:
        assert {isinstance(value, BaseMessage) for value in values} == {True, False}
        return
    event("of messages" if values and isinstance(values[0], BaseMessage) else "of plain values")
    assert block.images() == before
    assert [block.find(one) for one in before] == [before.index(one) for one in before]
    copies, spoilt = block.revive(), block.revive()
    assert exact(copies) == exact(list(map(revive, before)))
    assert block.holds(values)
    assert block.holds(copies)
    for holder, key in data.draw(st.lists(st.sampled_from(all_places(copies) or [([0], 0)]), max_size=3)):
        holder[key] = data.draw(st.sampled_from(likes(holder[key])))
    present = list(map(image, copies))
    assert block.holds(copies) == (present == before)
    assert [block.find(one) is None for one in present] == [one not in before for one in present]
    for others in (values[1:], values[:-1], [*values, 0], [*values, b""], [*values, *values[:1]], values[::-1]):
        assert block.holds(others) == (list(map(image, others)) == before)
    for one in spoilt:
        spoil(one)
    assert block.holds(values)
    assert exact(block.revive()) == exact(list(map(revive, before)))


@given(few, times)
def test_many_messages_are_loaded_as_each_is(some: list[Any], times: int) -> None:
    made = [one for value in some * times if isinstance(value, BaseMessage) and (one := image(value)) is not None]
    loaded = load_all(made)
    if loaded is None:
        assert not all(load(one)[1] == one for one in made)
        return
    assert exact(loaded) == exact([load(one)[0] for one in made])
    assert list(map(image, loaded)) == made


def test_messages_among_plain_values_are_revived_as_messages() -> None:
    said: list[Any] = [AIMessage("one"), HumanMessage("two")]
    for some in ([None, *said], [*said, None], ["a", said[0], 1, said[1]], [1, 2, *said], [b"", *said]):
        made = [one for one in map(image, some) if one is not None]
        assert exact(revive_all(made)) == exact(list(map(revive, made)))


def spoil(value: Any) -> None:
    """Empty every container in a value."""
    if isinstance(value, BaseMessage):
        for part in (value.__dict__, value.__pydantic_fields_set__, value.__pydantic_extra__):
            spoil(part)
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value.clear()
    elif isinstance(value, (list, set)):
        for item in value:
            spoil(item)
        value.clear()


def turn_into_ai(message: Any) -> None:
    message.__class__ = AIMessage


CHANGES = {
    "class": turn_into_ai,
    "subclass": lambda message: setattr(message, "__class__", Mine),
    "attribute": lambda message: message.__dict__.update(more=1),
    "fewer attributes": lambda message: message.__dict__.pop("name"),
    "renamed attribute": lambda message: message.__dict__.update(identity=message.__dict__.pop("id")),
    "extra": lambda message: setattr(message, "more", 1),
    "private": lambda message: object.__setattr__(message, "__pydantic_private__", {"_x": 1}),
    "other dict": lambda message: object.__setattr__(message, "__dict__", OrderedDict(message.__dict__)),
    "other keys": lambda message: object.__setattr__(
        message, "__dict__", {Word(key): item for key, item in message.__dict__.items()}
    ),
    "text": lambda message: message.__dict__.update(content=Word(message.content)),
    "deep": lambda message: message.additional_kwargs["deep"]["er"].append({}),
    "1 to True": lambda message: message.additional_kwargs.update(one=True),
    "1 to 1.0": lambda message: message.additional_kwargs.update(one=1.0),
    "no text": lambda message: message.__dict__.update(content=None),
    "list for text": lambda message: message.__dict__.update(content=[message.content]),
    "text elsewhere": lambda message: message.__dict__.update(content="", name=message.content),
    "bytes": lambda message: message.additional_kwargs.update(one=b"1"),
    "order": lambda message: message.additional_kwargs.update(deep=message.additional_kwargs.pop("deep")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("at", [0, 70, 99])
def test_a_change_of_one_among_many_is_noticed(change: Any, at: int) -> None:
    chat = [HumanMessage(f"{n}", id=str(n), additional_kwargs={"deep": {"er": []}, "one": 1}) for n in range(100)]
    before = images(chat, [])
    assert None not in before
    block = Block.of(revive_all([one for one in before if one is not None]))
    assert block is not None
    assert block.holds(chat)
    change(chat[at])
    assert not block.holds(chat)
    after = images(chat, before)
    assert after[at] != before[at]
    assert [*after[:at], *after[at + 1 :]] == [*before[:at], *before[at + 1 :]]


def test_what_moves_from_one_message_to_the_next_is_noticed() -> None:
    chat = [HumanMessage("", id="1", response_metadata={"a": 1}), HumanMessage("", id="1")]
    before = images(chat, [])
    chat[1].additional_kwargs["a"] = chat[0].response_metadata.pop("a")
    assert images(chat, before) == list(map(image, chat)) != before


@given(plain | messages)
def test_reviving_a_faithful_image_gives_what_storing_and_loading_gives(value: Any) -> None:
    event(f"faithful: {is_faithful(value)}")
    if is_faithful(value):
        made = image(value)
        assert made is not None
        assert exact(revive(made)) == exact(stored(value))


@given(plain)
def test_every_plain_value_without_bytes_is_faithful(value: Any) -> None:
    assert is_faithful(value) == ("bytes" not in kinds(value))


def is_faithful(value: Any) -> bool:
    made = image(value)
    return made is not None and faithful(made)


def kinds(value: Any) -> set[str]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {type(value).__name__}.union(*map(kinds, inside))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.cls.__name__)
def test_an_ordinary_message_of_each_class_is_faithful(shape: Any) -> None:
    needed = {"role": "user", "tool_call_id": "1", "name": "n"} if shape.cls.__name__ != "RemoveMessage" else {}
    content = {} if shape.cls.__name__ == "RemoveMessage" else {"content": "hello"}
    message = shape.cls(id="1", **content, **{key: value for key, value in needed.items() if key in shape.fields})
    assert is_faithful(message)
    made = image(message)
    assert made is not None
    assert exact(revive(made)) == exact(stored(message))


def test_revivals_share_nothing_mutable() -> None:
    message = AIMessage(
        [{"type": "text", "text": "x"}],
        id="1",
        response_metadata={"a": [1]},
        tool_calls=[{"name": "f", "args": {"b": [2]}, "id": "c", "type": "tool_call"}],
    )
    made = image(message)
    assert made is not None
    first, expected = revive(made), exact(revive(made))
    first.content[0]["text"] = "changed"
    first.response_metadata["a"].append(2)
    first.tool_calls[0]["args"]["b"].clear()
    first.more = 1
    first.__pydantic_fields_set__.clear()
    assert exact(revive(made)) == expected
    assert message.content == [{"type": "text", "text": "x"}]


@pytest.mark.parametrize(
    "value",
    [
        (1, 2), {1}, {1: 2}, {None: 1}, {Word("a"): 1}, {Colour.RED: 1}, Word("a"), Colour.RED, Level.LOW,
        2**64, "\ud800", b"x", bytearray(b"x"), memoryview(b"x"), np.float64(1), np.zeros(2), datetime.date(2020, 1, 1),
        object(), 1j,
        HumanMessage("x", more=1), Mine("x"), ToolMessage("x", tool_call_id="1", artifact=(1,)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"k": [value]}]], ids=["bare", "nested"])
def test_what_is_not_provably_plain_has_no_image(value: Any, wrap: Any) -> None:
    assert image(wrap(value)) is None
    assert not is_faithful(wrap(value))


def test_a_message_in_a_list_has_no_image() -> None:
    assert image([HumanMessage("x")]) is None


def test_text_in_any_script_and_of_any_length_is_plain() -> None:
    value = ["Łódź ęąć", "x" * 0xC4, {"k": ["y" * 0xC5C6]}, 0xC4, 1.1]
    assert is_faithful(value)
    for buffer in (b"z", bytearray(b"z" * 300), memoryview(b"z" * 70_000)):
        assert image([*value, [[buffer]]]) is None
        assert images([*value, buffer], [*map(image, value), ("x",)])[-1] is None


def test_a_stored_message_with_bytes_is_read_but_proves_nothing() -> None:
    message = HumanMessage("x", additional_kwargs={"data": b"\xc4\x00"})
    stored = b"\x10" + ormsgpack.packb(message.__dict__)
    assert load(stored) == (message, None)
    made = image(HumanMessage("x"))
    assert made is not None
    assert load(made) == (HumanMessage("x"), made)


def test_only_messages_are_stored_as_their_images() -> None:
    message = HumanMessage("x", id="1")
    made = image(message)
    assert made is not None
    assert stored_fields(made) == message.__dict__
    assert stored_fields(b"\x10") is None  # the number 16
    assert stored_fields(made[1:]) is None


def test_nesting_beyond_the_limit_has_no_image() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    assert image(value) is None
    loop: list[Any] = []
    loop.append(loop)
    assert image(loop) is None


def test_an_extension_value_is_not_faithful() -> None:
    assert not is_faithful([ormsgpack.Ext(5, b"\xc0")])


def test_a_message_that_validation_would_change_is_not_faithful() -> None:
    message = AIMessage("x")
    message.tool_calls = [{"name": "f", "args": {}, "id": None}]  # without the type that validation adds
    assert image(message) is not None
    assert not is_faithful(message)
    message = HumanMessage("x")
    del message.__dict__["name"]
    assert not is_faithful(message)


@given(st.lists(messages, min_size=1, max_size=4), times, st.data())
def test_many_fields_fit_at_once_just_if_each_does(several: list[Any], times: int, data: st.DataObject) -> None:
    copies = [copy.deepcopy(one) for _ in range(times) for one in several]
    for holder, key in data.draw(st.lists(st.sampled_from(all_places(copies)), max_size=2)):
        if not isinstance(holder, list) or holder is not copies:
            holder[key] = data.draw(st.sampled_from(likes(holder[key])))
    shapes = [BY_CLASS[type(one)] for one in copies]
    each = [shape.fits(one.__dict__) for shape, one in zip(shapes, copies, strict=True)]
    event(f"fit: {all(each)}")
    assert fit_all([shape.number for shape in shapes], [one.__dict__ for one in copies]) == all(each)


OWN_FORMS = {0xC1, 0xFE, *(shape.number for shape in SHAPES)}


@given(st.lists(messages, max_size=4) | st.lists(messages | plain, max_size=4), times)
def test_whatever_form_messages_are_stored_in_they_come_back_the_same(value: list[Any], times: int) -> None:
    for one in (value * times, _DeltaSnapshot(value), *value):
        typed = values.encode(serializer, one)
        event(f"{type(one).__name__} as {'its own form' if typed[0] in OWN_FORMS else 'the serializer has it'}")
        assert exact(values.decode(serializer, typed)) == exact(stored(one))


def test_a_list_of_ordinary_messages_is_stored_as_their_images() -> None:
    chat = [HumanMessage("a", id="1"), AIMessage("b", id="2")]
    for value in (chat, chat * 40_000, _DeltaSnapshot(chat), chat[0]):
        typed = values.encode(serializer, value)
        assert typed[0] in OWN_FORMS
        assert values.decode(serializer, typed) == value


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xc1", b"\xc1\xff", b"\xc1\xff\x91\x10", b"\xc1\xff\x92\x10\x90", b"\xc1\xff\x92\xff\x80",
        b"\xc1\xff\x92\xc3\x80", b"\xc1\xff\x92\x7f\x80", b"\xc1\xff\x80", b"\xc1\xff\x92\x80\x80",
        b"\xfe", b"\xfe\x10", b"\xfe\xfe\xc1\xff\x90", b"\xc1\xff\x92\x00\x80",
        b"\x10" + ormsgpack.packb(HumanMessage("").__dict__) + b"\xc0",
        b"\x10", b"\x10\x90", b"\x10\x96" + b"".join(map(ormsgpack.packb, SHAPES[0].fields)), b"\x10\xc4\x01a",
        b"\x7f\x80", b"\x0f\x80", b"\x10\x81\xa1a",
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_a_form_that_is_none_is_refused(damaged: bytes) -> None:
    with pytest.raises(DecodeError):
        values.decode(serializer, damaged)


def test_a_message_that_goes_on_in_the_next_one_is_refused() -> None:
    first, second = (one for one in map(image, [HumanMessage("a"), HumanMessage("b")]) if one is not None)
    assert load_all([first, second]) is not None
    assert load_all([first + second[:2], second[2:]]) is None
    assert load_all([first + second, b""]) is None
    assert load_all([first + second, first[:1]]) is None
    assert load_all([first[:-1], second]) is None
    assert load_all([first, b"\xc1\xff\x90"]) is None
    assert load_all([first, second + b"\xc0"]) is None
