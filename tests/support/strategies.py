"""Made-up channel values, edits of them, writes and metadata."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED

CHANNELS = ["messages", "files", "total", "x y'\";%", "__start__"]

# What the official serializer cannot hold (lone surrogates) is left to tests of the serializer.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=True),
    text,
    st.binary(max_size=4),
)
plain = st.recursive(
    scalar, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)), max_leaves=5
)
messages = st.one_of(
    st.builds(HumanMessage, text, id=text),
    st.builds(AIMessage, text, id=text, additional_kwargs=st.dictionaries(text, text, max_size=2)),
    st.builds(
        AIMessage,
        st.just(""),
        id=text,
        tool_calls=st.just([{"name": "look", "args": {"at": 1}, "id": "c1", "type": "tool_call"}]),
    ),
    st.builds(ToolMessage, text, tool_call_id=st.just("c1"), id=text),
)
element = st.one_of(messages, messages, plain)
short_list = st.lists(element, max_size=4)
# Long enough that a saver which stores elements one by one does so.
long_list = st.builds(
    lambda items, repeat: (items * repeat)[:60], st.lists(element, min_size=2, max_size=4), st.integers(10, 20)
)
big_dict = st.builds(
    lambda names, value: {f"{name}-{n}": value for n, name in enumerate(names * 8)},
    st.lists(text, min_size=2, max_size=4),
    plain,
)
new_value = st.one_of(short_list, long_list, big_dict, plain)


def first_value(channel: str) -> st.SearchStrategy[Any]:
    """What a channel starts with: the messages with many, the others with anything."""
    return long_list if channel == "messages" else new_value


task_writes = st.one_of(
    st.lists(st.tuples(st.sampled_from(CHANNELS), plain), max_size=3),
    st.lists(st.tuples(st.sampled_from([ERROR, INTERRUPT, RESUME, SCHEDULED]), plain), min_size=1, max_size=3),
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from([0, 1, 1.0, 2.5, "1", "true", "a", "it's", "%"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["k", 'l"\\', "$.m"]), inner, max_size=2)
    ),
    max_leaves=3,
)
_FLAGS = st.sampled_from([True, 1, 1.0, "1", None, False, 0])  # what some databases take for one another
metadata_extra = st.fixed_dictionaries({}, optional={"tag": _json, "depth": _json, "flag": _FLAGS})


LIST_EDITS = ["append", "append", "mutate", "mutate", "replace", "remove", "trim", "reverse", "double", "clear"]


def edited(data: st.DataObject, value: Any) -> Any:
    """The value after a step of a graph: appended to, edited (in place or not), or replaced."""
    if isinstance(value, list):
        return _edited_list(data, value)
    if isinstance(value, dict):
        return _edited_dict(data, value)
    return data.draw(new_value, "replacement")


def _edited_list(data: st.DataObject, value: list[Any]) -> list[Any]:
    how = data.draw(
        st.sampled_from(["append", "append", "replace", "remove", "trim", "reverse", "double", "mutate", "clear"]),
        "edit",
    )
    if how == "append" or not value:
        return [*value, *data.draw(st.lists(element, min_size=1, max_size=3), "added")]
    at = data.draw(st.integers(0, len(value) - 1), "at")
    if how == "replace":
        return [*value[:at], data.draw(element, "element"), *value[at + 1 :]]
    if how == "remove":
        return [*value[:at], *value[at + 1 :]]
    if how == "trim":
        return value[at:]
    if how == "reverse":
        return value[::-1]
    if how == "double":
        return [*value, value[at]]  # the same object twice
    if how == "clear":
        return []
    return _mutated(data, value, at)


def _mutated(data: st.DataObject, value: list[Any], at: int) -> list[Any]:
    """The same list object, one of its elements changed in place where there is one that can be."""
    changeable = [item for item in value if isinstance(item, (dict, list)) or hasattr(item, "additional_kwargs")]
    item = changeable[at % len(changeable)] if changeable else value[at]
    if hasattr(item, "additional_kwargs"):
        item.additional_kwargs[data.draw(text, "key")] = data.draw(st.sampled_from([1, True, 1.0, "1"]), "leaf")
    elif isinstance(item, dict):
        item[data.draw(text, "key")] = data.draw(plain, "leaf")
    elif isinstance(item, list):
        item.append(data.draw(plain, "leaf"))
    else:
        value[at] = data.draw(plain, "leaf")
    return value


def _edited_dict(data: st.DataObject, value: dict[str, Any]) -> dict[str, Any]:
    how = data.draw(st.sampled_from(["set", "drop", "in place"]), "edit")
    if how == "drop" and value:
        gone = data.draw(st.sampled_from(list(value)), "key")
        return {key: item for key, item in value.items() if key != gone}
    key, item = data.draw(st.one_of(st.sampled_from(list(value)), text) if value else text, "key"), data.draw(plain)
    if how == "in place":
        value[key] = item
        return value
    return {**value, key: item}
