"""Texts and messages: seeded, so that every saver stores the same, and varied, so that they do not compress away."""

from __future__ import annotations

import base64
import random
from functools import cache
from itertools import accumulate
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage

WORDS = 6000
WORDS_A_MESSAGE = 100

_ONSETS = (
    *("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w"),
    *("br", "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "pl", "pr", "sh", "sl", "sp", "st", "str", "th", "tr"),
)
_NUCLEI = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "ie", "oa", "oo", "ou"]
_CODAS = ["", "", "", "n", "r", "s", "t", "l", "m", "d", "ck", "nd", "ng", "nt", "rt", "st"]


@cache
def vocabulary() -> tuple[list[str], list[float]]:
    """Distinct pronounceable words and their cumulative frequencies, which follow Zipf's law as in natural text."""
    rng = random.Random(20240607)
    words: dict[str, None] = {}
    while len(words) < WORDS:
        syllables = rng.choices((1, 2, 3, 4), weights=(2, 5, 3, 1))[0]
        words["".join(_syllable(rng) for _ in range(syllables))] = None
    return list(words), list(accumulate(1 / (rank + 3) for rank in range(WORDS)))


def _syllable(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)


def text(rng: random.Random, words: int = WORDS_A_MESSAGE) -> str:
    """A text of about that many words (60 % to 140 %), in sentences."""
    vocabulary_words, frequencies = vocabulary()
    count = max(1, round(words * rng.uniform(0.6, 1.4)))
    chosen = rng.choices(vocabulary_words, cum_weights=frequencies, k=count)
    return " ".join(_sentences(rng, chosen))


def _sentences(rng: random.Random, words: list[str]) -> list[str]:
    sentences = []
    start = 0
    while start < len(words):
        end = start + rng.randint(6, 18)
        sentences.append(" ".join(words[start:end]).capitalize() + ".")
        start = end
    return sentences


def question(rng: random.Random, words: int = WORDS_A_MESSAGE) -> HumanMessage:
    """A message of the user."""
    return HumanMessage(content=text(rng, words), id=_identifier(rng))


def answer(rng: random.Random, words: int = WORDS_A_MESSAGE, **more: Any) -> AIMessage:
    """A message of a model, with the metadata that chat models attach."""
    read, written = rng.randint(100, 9000), rng.randint(20, 400)
    return AIMessage(
        content=text(rng, words),
        id=f"run--{_identifier(rng)}",
        response_metadata={"finish_reason": "stop", "model_name": "model-2024-08-06"},
        usage_metadata={"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
        **more,
    )


def _identifier(rng: random.Random) -> str:
    raw = f"{rng.getrandbits(128):032x}"
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))


def conversation(rng: random.Random, messages: int, words: int = WORDS_A_MESSAGE) -> list[AnyMessage]:
    """That many messages, the user's and the model's in turn."""
    return [question(rng, words) if index % 2 == 0 else answer(rng, words) for index in range(messages)]


def image(rng: random.Random, size: int) -> HumanMessage:
    """A message with a text and an image of `size` bytes in base64."""
    data = base64.b64encode(rng.randbytes(size)).decode()
    return HumanMessage(
        content=[
            {"type": "text", "text": text(rng, 20)},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        ],
        id=_identifier(rng),
    )
