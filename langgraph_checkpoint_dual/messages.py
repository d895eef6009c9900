"""The message classes of langchain-core, and when one may be rebuilt without validating it again.

Validation of a message that was valid when it was stored changes nothing, and costs most of the time of reading a
chat. `MessageShape.build` skips it exactly where `MessageShape.fits` has proved that it would be a no-op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import langchain_core.messages as lc_messages
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

Fields = dict[str, Any]
Predicate = Callable[[Fields], bool]

# pydantic's own slots, read and set without the detours of BaseModel.
fields_of = BaseModel.__dict__["__dict__"].__get__
extra_of = BaseModel.__dict__["__pydantic_extra__"].__get__
private_of = BaseModel.__dict__["__pydantic_private__"].__get__
_new = object.__new__
_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__

_BASE = ("content", "additional_kwargs", "response_metadata", "type", "name", "id")
_AI = (*_BASE, "tool_calls", "invalid_tool_calls", "usage_metadata")
_TOOL = (*_BASE, "tool_call_id", "artifact", "status")
_AI_CHUNK = (*_AI, "tool_call_chunks", "chunk_position")
_CHAT = (*_BASE, "role")
_TOOL_CALL = ("name", "args", "id", "type")
# The validators that the predicates below were written against; a class that has others is always validated.
_KNOWN_VALIDATORS = {"_backwards_compat_tool_calls", "init_tool_calls", "init_server_tool_calls", "coerce_args"}


class MessageShape:
    """How one message class lays out its fields.

    Attributes:
        cls: the class; its subclasses have other shapes, and are never taken for it.
        module, name: under which the class is stored.
        number: which stands for the class where messages are stored as their images.
        fields: the names of its fields in the order in which pydantic stores them.
        fits: takes the fields of a message and tells whether validating them would return them unchanged.
    """

    __slots__ = ("cls", "fields", "fits", "module", "name", "names", "number")

    def __init__(self, cls: type[BaseMessage], number: int, fields: tuple[str, ...], fits: Predicate):
        self.cls, self.number, self.fields, self.fits = cls, number, fields, fits
        self.module, self.name = cls.__module__, cls.__name__
        self.names = set(fields)

    def build(self, fields: Fields) -> BaseMessage:
        """A message that takes `fields` over as its own; only for fields that `fits`."""
        message = _new(self.cls)
        _set_dict(message, fields)
        _set_fields_set(message, self.names.copy())
        _set_extra(message, {})
        _set_private(message, None)
        return message


def _fits_content(content: Any) -> bool:
    """A list of texts and dicts, which passes the union of these unchanged."""
    return type(content) is list and all(type(part) is dict or type(part) is str for part in content)


def _fits_base(type_: str, content: Any, kwargs: Any, metadata: Any, kind: Any, name: Any, id_: Any) -> bool:
    return (
        (type(content) is str or _fits_content(content))
        and type(kwargs) is dict
        and type(metadata) is dict
        and kind == type_
        and (name is None or type(name) is str)
        and (id_ is None or type(id_) is str)
    )


def _fits_tool_call(call: Any) -> bool:
    if type(call) is not dict or (*call,) != _TOOL_CALL:
        return False
    name, args, id_, kind = call.values()
    if type(name) is not str or type(args) is not dict or not (id_ is None or type(id_) is str) or kind != "tool_call":
        return False
    for key in args:  # noqa: SIM110  (a generator would cost more than the loop)
        if type(key) is not str:
            return False
    return True


def _ordered_subsets(names: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {subset for size in range(len(names) + 1) for subset in combinations(names, size)}


_TOTALS = ("input_tokens", "output_tokens", "total_tokens")
_DETAILS = {
    "input_token_details": _ordered_subsets(("audio", "cache_creation", "cache_read")),
    "output_token_details": _ordered_subsets(("audio", "reasoning")),
}
_USAGES = {_TOTALS + details: details for details in _ordered_subsets(tuple(_DETAILS))}


def _fits_usage(usage: Any) -> bool:
    """Token counts that are whole numbers, under the known names in the known order."""
    if type(usage) is not dict:
        return False
    names = (*usage,)
    if names == _TOTALS:  # as most are
        total_in, total_out, total = usage.values()
        return type(total_in) is type(total_out) is type(total) is int
    if (details := _USAGES.get(names)) is None:
        return False
    total_in, total_out, total, *_ = usage.values()
    if not type(total_in) is type(total_out) is type(total) is int:
        return False
    for name in details:
        counts = usage[name]
        if type(counts) is not dict or tuple(counts) not in _DETAILS[name]:
            return False
        for count in counts.values():
            if type(count) is not int:
                return False
    return True


def _fits_calls(calls: Any, invalid: Any, usage: Any, kwargs: dict[Any, Any]) -> bool:
    if type(calls) is not list or invalid != [] or not (usage is None or _fits_usage(usage)):
        return False
    if not calls:  # then validation parses those that a provider left in `additional_kwargs`
        return not (kwargs and kwargs.get("tool_calls"))
    for call in calls:  # noqa: SIM110  (a generator would cost more than the loop)
        if not _fits_tool_call(call):
            return False
    return True


def _plain(type_: str) -> Predicate:
    def fits(fields: Fields) -> bool:
        if (*fields,) != _BASE:
            return False
        content, kwargs, metadata, kind, name, id_ = fields.values()
        return (
            (type(content) is str or _fits_content(content))
            and kind == type_
            and type(kwargs) is type(metadata) is dict
            and (id_ is None or type(id_) is str)
            and (name is None or type(name) is str)
        )

    return fits


def _fits_ai(fields: Fields) -> bool:
    if (*fields,) != _AI:
        return False
    content, kwargs, metadata, kind, name, id_, calls, invalid, usage = fields.values()
    return (
        kind == "ai"
        and (type(content) is str or _fits_content(content))
        and type(kwargs) is type(metadata) is dict
        and (id_ is None or type(id_) is str)
        and (name is None or type(name) is str)
        and _fits_calls(calls, invalid, usage, kwargs)
    )


def _fits_ai_chunk(fields: Fields) -> bool:
    """Only without tool calls: validation makes calls from chunks, and chunks from calls."""
    if (*fields,) != _AI_CHUNK:
        return False
    *base, calls, invalid, usage, chunks, position = fields.values()
    return (
        _fits_base("AIMessageChunk", *base)
        and _fits_calls(calls, invalid, usage, base[1])
        and calls == chunks == []
        and position is None
    )


def _tool(type_: str) -> Predicate:
    def fits(fields: Fields) -> bool:
        if (*fields,) != _TOOL:
            return False
        content, kwargs, metadata, kind, name, id_, call_id, _, status = fields.values()
        return (
            _fits_base(type_, content, kwargs, metadata, kind, name, id_)
            and type(call_id) is str
            and (status == "success" or status == "error")
        )

    return fits


def _chat(type_: str) -> Predicate:
    def fits(fields: Fields) -> bool:
        return (*fields,) == _CHAT and type(fields["role"]) is str and _fits_base(type_, *list(fields.values())[:-1])

    return fits


def _function(type_: str) -> Predicate:
    plain = _plain(type_)
    return lambda fields: plain(fields) and fields["name"] is not None


def _remove(type_: str) -> Predicate:
    plain = _plain(type_)
    return lambda fields: plain(fields) and fields["content"] == ""


# The order is that of the numbers in stored messages: new classes go at the end.
_PREDICATES: dict[str, tuple[tuple[str, ...], Predicate]] = {
    "HumanMessage": (_BASE, _plain("human")),
    "AIMessage": (_AI, _fits_ai),
    "SystemMessage": (_BASE, _plain("system")),
    "ToolMessage": (_TOOL, _tool("tool")),
    "ChatMessage": (_CHAT, _chat("chat")),
    "FunctionMessage": (_BASE, _function("function")),
    "RemoveMessage": (_BASE, _remove("remove")),
    "HumanMessageChunk": (_BASE, _plain("HumanMessageChunk")),
    "AIMessageChunk": (_AI_CHUNK, _fits_ai_chunk),
    "SystemMessageChunk": (_BASE, _plain("SystemMessageChunk")),
    "ToolMessageChunk": (_TOOL, _tool("ToolMessageChunk")),
    "ChatMessageChunk": (_CHAT, _chat("ChatMessageChunk")),
    "FunctionMessageChunk": (_BASE, _function("FunctionMessageChunk")),
}


_FIRST_NUMBER = 16
"""Smaller ones are the types of serializers, in the bytes that begin with them."""


def _never(fields: Fields) -> bool:
    return False


def _shape(index: int, name: str) -> MessageShape:
    """The shape of a class as it is installed: one that differs from the known layout never fits."""
    cls = getattr(lc_messages, name)
    fields, fits = _PREDICATES[name]
    decorators = cls.__pydantic_decorators__
    known = (
        tuple(cls.model_fields) == fields
        and set(decorators.model_validators) <= _KNOWN_VALIDATORS
        and not (decorators.field_validators or decorators.validators or decorators.root_validators)
        and cls.model_config.get("extra") == "allow"
        and not cls.__private_attributes__
    )
    return MessageShape(cls, _FIRST_NUMBER + index, tuple(cls.model_fields), fits if known else _never)


SHAPES: tuple[MessageShape, ...] = tuple(_shape(index, name) for index, name in enumerate(_PREDICATES))
BY_CLASS: dict[type, MessageShape] = {shape.cls: shape for shape in SHAPES}
BY_NUMBER: dict[int, MessageShape] = {shape.number: shape for shape in SHAPES}


def fit_all(numbers: Sequence[int], fields: Sequence[Any]) -> bool:
    """Whether the fields of many messages, of the classes with these numbers, all fit.

    Raises:
        KeyError: if a number is of no class.
    """
    if not set(map(type, fields)) <= {dict}:
        return False
    for number, own in zip(numbers, fields, strict=True):  # noqa: SIM110  (a generator would cost more than the loop)
        if not BY_NUMBER[number].fits(own):
            return False
    return True


def build_all(numbers: Sequence[int], fields: Sequence[Fields]) -> list[BaseMessage]:
    """As `MessageShape.build` for many messages, of the classes with these numbers."""
    found: list[BaseMessage] = []
    for number, own in zip(numbers, fields, strict=True):
        cls, names = _MADE_OF[number]
        message = _new(cls)
        _set_dict(message, own)
        _set_fields_set(message, names.copy())
        _set_extra(message, {})
        _set_private(message, None)
        found.append(message)
    return found


_MADE_OF = {shape.number: (shape.cls, shape.names) for shape in SHAPES}
