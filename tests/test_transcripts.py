"""Threads as Markdown and as JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.transcripts import aexport_transcript, atranscript, export_transcript, transcript
from tests.support.checkpoints import config, put

CALL = {"name": "look", "args": {"what": "there"}, "id": "c1", "type": "tool_call"}
MESSAGES = [
    HumanMessage("what is there?", id="1", name="ann"),
    AIMessage("", id="2", tool_calls=[CALL], usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}),
    ToolMessage("```\na fence\n```", id="3", tool_call_id="c1"),
    AIMessage([{"type": "text", "text": "an image:"}, {"type": "image_url", "image_url": {"url": "data:x"}}], id="4"),
    ChatMessage("half a \ud83d character,\u2028a line", role="critic", id="5"),
]


async def text(saver: Any, face: str, thread: Any, **options: Any) -> str:
    if face == "async":
        return "".join([line async for line in atranscript(saver, thread, **options)])
    return "".join(transcript(saver, thread, **options))


async def test_markdown(saver: Any, subject: Any, face: str) -> None:
    first = await put(subject, config(), {"messages": MESSAGES[:2]})
    await put(subject, first, {"messages": MESSAGES})
    said = await text(saver, face, "thread")
    assert said.splitlines()[:3] == ["## human (ann) · 2026-01-01 00:00:00 UTC", "", "what is there?"]
    assert '\n\ncalls `look`\n\n```json\n{\n  "what": "there"\n}\n```\n\n' in said
    assert "\n\n````\n```\na fence\n```\n````\n\n" in said  # a fence that what is in it cannot end
    assert "an image:\n\n[image_url]\n" in said
    assert said.endswith("## critic · 2026-01-01 00:00:00 UTC\n\nhalf a ? character,\u2028a line\n\n")
    assert await text(saver, face, first) == said[: said.index("## tool")]


async def test_json_lines(saver: Any, subject: Any, face: str) -> None:
    await put(subject, config(), {"messages": MESSAGES})
    lines = (await text(saver, face, "thread", format="jsonl")).splitlines()
    said = [json.loads(line) for line in lines]
    assert [one["role"] for one in said] == ["human", "ai", "tool", "ai", "critic"]
    assert [one["content"] for one in said] == [message.content for message in MESSAGES]
    assert said[1]["tool_calls"] == [{"id": "c1", "name": "look", "args": {"what": "there"}}]
    assert said[1]["usage"]["total_tokens"] == 7
    assert said[2]["tool_call_id"] == "c1"
    assert {one["at"] for one in said} == {"2026-01-01T00:00:00+00:00"}


async def test_long_ones_come_in_pages(saver: Any, subject: Any, face: str) -> None:
    await put(subject, config(), {"messages": [HumanMessage(f"number {n}", id=str(n)) for n in range(450)]})
    lines = transcript(saver, "thread", format="jsonl")
    assert json.loads(next(lines))["idx"] == 0
    await put(subject, config(), {"messages": []})  # what is put meanwhile does not count
    assert [json.loads(line)["idx"] for line in lines] == list(range(1, 450))
    assert await text(saver, face, "no such thread") == ""


async def test_files(saver: Any, subject: Any, face: str, tmp_path: Path) -> None:
    await put(subject, config(), {"messages": MESSAGES, "number": 1})
    for name, format in (("a.md", "markdown"), ("a.jsonl", "jsonl")):
        if face == "async":
            await aexport_transcript(saver, "thread", tmp_path / name)
        else:
            export_transcript(saver, "thread", tmp_path / name)
        written = (tmp_path / name).read_bytes().decode()
        assert written == await text(saver, face, "thread", format=format)
        with pytest.raises(FileExistsError):
            export_transcript(saver, "thread", tmp_path / name)
    with pytest.raises(ConfigError):
        export_transcript(saver, "thread", tmp_path / "none.md", channel="number")
    with pytest.raises(ConfigError, match="format must be one of markdown, jsonl"):
        export_transcript(saver, "thread", tmp_path / "none.md", format="pdf")
    assert not (tmp_path / "none.md").exists()


async def test_savers_of_others() -> None:
    memory = InMemorySaver()
    await put(memory, config(), {"messages": MESSAGES})
    assert "".join(transcript(memory, "thread")).startswith("## human (ann)\n\nwhat is there?\n\n## ai\n")
    lines = [json.loads(line) async for line in atranscript(memory, "thread", format="jsonl")]
    assert len(lines) == 5 and "at" not in lines[0]
    assert list(transcript(memory, "no such thread")) == []
