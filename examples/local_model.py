"""A chat model that needs no network and no key: it answers from the conversation itself, always in the same way."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool

# What the user may ask a tool for: the pattern, the tool, and the name of the argument that takes the first group.
REQUESTS = (
    (re.compile(r"what time is it", re.I), "now", None),
    (re.compile(r"what is ([-+*/(). \d]*\d[-+*/(). \d]*)\??$", re.I), "calculate", "expression"),
    (re.compile(r"(?:note|write down) that (.+)", re.I), "take_note", "text"),
    (re.compile(r"read (\S+)", re.I), "read_file", "name"),
)
NAME = re.compile(r"\bmy name is (\w+)", re.I)


class LocalModel(BaseChatModel):
    """Understands a few sentences; several requests may be joined by "then" and are answered one after another."""

    @property
    def _llm_type(self) -> str:
        return "local"

    def bind_tools(self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any) -> Any:
        """Return the model itself: it knows which tools the example has."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=reply(messages))])


def reply(messages: Sequence[BaseMessage]) -> AIMessage:
    """The next message: a tool call, or the answer once every tool that the user asked for has answered."""
    asked = max(place for place, message in enumerate(messages) if isinstance(message, HumanMessage))
    answers = [message.text for message in messages[asked + 1 :] if isinstance(message, ToolMessage)]
    requests = re.split(r",? then ", messages[asked].text.strip())
    if len(answers) < len(requests) and (call := tool_call(requests[len(answers)], f"call-{len(messages)}")):
        return AIMessage("", tool_calls=[call])
    if answers:
        return AIMessage(" ".join(answers))
    told = [message.text for message in messages[:asked] if isinstance(message, HumanMessage)]
    return AIMessage(talk(messages[asked].text, told))


def tool_call(request: str, call_id: str) -> dict[str, Any] | None:
    """The tool call that one request asks for, or None when it is talk."""
    for pattern, tool, argument in REQUESTS:
        if found := pattern.match(request):
            return {"name": tool, "args": {argument: found[1].strip()} if argument else {}, "id": call_id}
    return None


def talk(said: str, told: Sequence[str]) -> str:
    """The answer to something that needs no tool. `told` is what the user said before, oldest first."""
    if re.search(r"what did i just tell you", said, re.I):
        statements = [text for text in told if not text.rstrip().endswith("?")]
        return f"You told me: {statements[-1]}" if statements else "You have told me nothing yet."
    if re.search(r"what is my name", said, re.I):
        names = [found[1] for text in told if (found := NAME.search(text))]
        return f"Your name is {names[-1]}." if names else "You have not told me your name."
    if found := NAME.search(said):
        return f"Nice to meet you, {found[1]}."
    return "I do not know." if said.rstrip().endswith("?") else "I will keep that in mind."
