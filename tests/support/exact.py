"""Everything that can be told about a value, as plain data: equal for two values only if no detail differs."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
from hypothesis import strategies as st
from langchain_core import messages as lc
from pydantic import BaseModel


def exact(value: Any) -> Any:
    """Types, order, signs of zero, attributes and hidden parts of `value`, all the way down.

    Of a model that is no message, which fields were left to their defaults is not told: storing sets them all.
    """
    return type(value), _parts(value)


def _parts(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields_set = value.__pydantic_fields_set__ if isinstance(value, lc.BaseMessage) else None
        hidden = (fields_set, value.__pydantic_private__)
        return (
            _items(value.__dict__),
            value.__pydantic_extra__ and _items(value.__pydantic_extra__),
            hidden,
            repr(value),
        )
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes(), value.flags.writeable
    if isinstance(value, np.generic):
        return value.dtype, value.tobytes()
    if isinstance(value, (float, complex)):
        return repr(value)
    if isinstance(value, dict):
        items = list(OrderedDict.items(value)) if isinstance(value, OrderedDict) else list(value.items())
        return (
            _items(dict(items)),
            getattr(value, "__dict__", None),
            isinstance(value, defaultdict) and value.default_factory,
        )
    if isinstance(value, (list, tuple, deque)):
        return [exact(item) for item in value], getattr(value, "maxlen", None), getattr(value, "__dict__", None)
    if isinstance(value, (set, frozenset)):
        return sorted((exact(item) for item in value), key=repr), getattr(value, "__dict__", None)
    if dataclasses.is_dataclass(value):
        return [(field.name, exact(getattr(value, field.name))) for field in dataclasses.fields(value)]
    return value, repr(value)


def _items(mapping: dict[Any, Any]) -> list[Any]:
    return [(exact(key), exact(item)) for key, item in mapping.items()]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-2, 2),
    st.floats(),
    text,
    st.binary(max_size=4),
)
plain = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
keyed = st.dictionaries(text, plain, max_size=3)
content = st.one_of(
    text, st.lists(text | keyed | st.fixed_dictionaries({"type": st.just("text"), "text": text}), max_size=3)
)
base = {"content": content, "additional_kwargs": keyed, "response_metadata": keyed, "name": st.none() | text}
ids = {"id": st.none() | text}
count = st.integers(0, 10**6)
usage = st.fixed_dictionaries(
    {"input_tokens": count, "output_tokens": count, "total_tokens": count},
    optional={
        "input_token_details": st.fixed_dictionaries(
            {}, optional={"audio": count, "cache_read": count, "other": count}
        ),
        "output_token_details": st.fixed_dictionaries({}, optional={"reasoning": count, "audio": count}),
    },
)


def _calls(arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    given = {"name": text, "args": arguments, "id": st.none() | text}
    return st.lists(st.fixed_dictionaries(given, optional={"type": st.just("tool_call")}), max_size=2)


invalid_call = st.fixed_dictionaries(dict.fromkeys(("name", "args", "id", "error"), st.none() | text))
chunk = st.fixed_dictionaries(
    {"name": st.none() | text, "args": st.none() | text, "id": st.none() | text, "index": st.none() | count}
)
ai = {
    **base,
    **ids,
    "tool_calls": _calls(keyed),
    "invalid_tool_calls": st.lists(invalid_call, max_size=1),
    "usage_metadata": st.none() | usage,
}
tool = {**base, **ids, "tool_call_id": text, "artifact": plain, "status": st.sampled_from(["success", "error"])}


def _built(name: str, fields: dict[str, Any]) -> st.SearchStrategy[Any]:
    extra = st.just({}) | st.dictionaries(st.sampled_from(["example", "more"]), plain, max_size=2)
    return st.builds(lambda given, more: getattr(lc, name)(**more, **given), st.fixed_dictionaries(fields), extra)


_plain_message, _chat_message = {**base, **ids}, {**base, **ids, "role": text}
_function_message = {**base, **ids, "name": text}
# The arguments of a chunk's calls are turned into JSON when it is made.
_chunk_calls = {**ai, "tool_calls": _calls(st.dictionaries(text, text, max_size=2))}
_chunk_chunks = {**base, **ids, "tool_call_chunks": st.lists(chunk, max_size=2)}
messages_of: dict[str, st.SearchStrategy[Any]] = {
    "HumanMessage": _built("HumanMessage", _plain_message),
    "HumanMessageChunk": _built("HumanMessageChunk", _plain_message),
    "SystemMessage": _built("SystemMessage", _plain_message),
    "SystemMessageChunk": _built("SystemMessageChunk", _plain_message),
    "ChatMessage": _built("ChatMessage", _chat_message),
    "ChatMessageChunk": _built("ChatMessageChunk", _chat_message),
    "FunctionMessage": _built("FunctionMessage", _function_message),
    "FunctionMessageChunk": _built("FunctionMessageChunk", _function_message),
    "ToolMessage": _built("ToolMessage", tool),
    "ToolMessageChunk": _built("ToolMessageChunk", tool),
    "AIMessage": _built("AIMessage", ai),
    "AIMessageChunk": _built("AIMessageChunk", _chunk_calls) | _built("AIMessageChunk", _chunk_chunks),
    "RemoveMessage": text.map(lambda id_: lc.RemoveMessage(id=id_)),
}
messages = st.one_of(*messages_of.values())
