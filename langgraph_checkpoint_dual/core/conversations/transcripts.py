"""A message as a reader wants to see it: as a line of JSON, or as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.messages import BaseMessage, ChatMessage, ToolMessage

from langgraph_checkpoint_dual.core.conversations.reading import StoredMessage
from langgraph_checkpoint_dual.errors import ConfigError

_TICKS = re.compile("`{3,}")


def entry(stored: StoredMessage) -> dict[str, Any]:
    """What a transcript says of a message; what is empty is left out."""
    message = stored.message
    found: dict[str, Any] = {
        "idx": stored.idx,
        "role": _role(message),
        "at": None if stored.added_at is None else stored.added_at.isoformat(),
        "id": message.id,
        "name": message.name,
        "content": message.content,
        "tool_calls": [
            {"id": call.get("id"), "name": call["name"], "args": call["args"]}
            for call in getattr(message, "tool_calls", ())
        ],
        "tool_call_id": message.tool_call_id if isinstance(message, ToolMessage) else None,
        "status": message.status if isinstance(message, ToolMessage) else None,
        "usage": getattr(message, "usage_metadata", None),
    }
    return {key: value for key, value in found.items() if key in ("idx", "role", "content") or value}


def as_json(stored: StoredMessage) -> str:
    """A message as one line of JSON."""
    found = entry(stored)
    text = json.dumps(found, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character, which no file can hold
        text = json.dumps(found, default=str)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n"


def as_markdown(stored: StoredMessage) -> str:
    """A message as a section of Markdown."""
    message = stored.message
    at = "" if stored.added_at is None else f" · {stored.added_at:%Y-%m-%d %H:%M:%S} UTC"
    name = f" ({message.name})" if message.name else ""
    parts = [f"## {_role(message)}{name}{at}"]
    text = _text(message.content)
    if text:
        parts.append(_fenced(text) if isinstance(message, ToolMessage) else text)
    for call in getattr(message, "tool_calls", ()):
        arguments = json.dumps(call["args"], ensure_ascii=False, indent=2, default=str)
        parts.append(f"calls `{call['name']}`\n\n{_fenced(arguments, 'json')}")
    return ("\n\n".join(parts) + "\n\n").encode("utf-8", "replace").decode()


FORMATS: Mapping[str, Callable[[StoredMessage], str]] = {"markdown": as_markdown, "jsonl": as_json}


def writer(format: str) -> Callable[[StoredMessage], str]:
    """The function that writes a message in this format.

    Raises:
        ConfigError: if there is no such format.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    return FORMATS[format]


def _role(message: BaseMessage) -> str:
    return message.role if isinstance(message, ChatMessage) else message.type


def _text(content: Any) -> str:
    """The text of a message; other parts of it by their type."""
    if isinstance(content, str):
        return content
    return "\n\n".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type', 'part')}]"


def _fenced(text: str, language: str = "") -> str:
    longest = max((len(ticks) for ticks in _TICKS.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
