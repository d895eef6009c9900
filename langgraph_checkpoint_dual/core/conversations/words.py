"""Words of a text, what a search for them means, and the piece of a text that shows them.

The contract:

1. What a word is, is decided here and not by a database: both index the same words and get queries of the same form.
   A word is a run of letters and digits, without case and accents; a Chinese or Japanese character is a word by itself.
2. A query is words that must all occur, in any order. `"several words"` must follow one another, `begin*` stands for
   every word that begins so, `-word` must not occur. What a blank does not part belongs together like a phrase:
   `well-known`, `example.com`. Nothing else has a meaning, and nothing is an error. What follows the first 100 words is
   not asked for: databases fail at queries of thousands.
3. Words hold letters and digits only, so they can be put between quotation marks in any database's own notation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

_MOST_WORDS = 16_000
"""Postgres knows the places of the first 16,383 words of a text; what follows is not indexed."""
_LONGEST = 64
_MOST_BYTES = 400_000
_MOST_ASKED = 100
_MARKS = "\u0300-\u036f"
_SINGLE = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_SINGLE}]|(?:(?![{_SINGLE}])[^\\W_])(?:(?![{_SINGLE}])[^\\W_]|[{_MARKS}])*")
_PLAIN = re.compile(r"[a-z0-9]+")
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
_SNIPPET_WORDS = 24
_ELLIPSIS = "…"


class Word(NamedTuple):
    """A word as it is indexed, and where it is in its text."""

    text: str
    start: int
    end: int


class Term(NamedTuple):
    """Words that follow one another; the last may be just the beginning of one."""

    words: tuple[str, ...]
    is_prefix: bool
    is_excluded: bool


def words_of(text: str) -> Iterator[Word]:
    """The words of a text, in order."""
    if text.isascii():
        for match in _PLAIN.finditer(text.lower()):
            yield Word(match[0][:_LONGEST], *match.span())
        return
    for match in _WORD.finditer(text):
        if folded := _folded(match[0]):
            yield Word(folded, *match.span())


def _folded(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", word).casefold())
    return "".join(sign for sign in decomposed if sign.isalnum())[:_LONGEST]


def indexed(text: str) -> str:
    """The words of a text as they are indexed, parted by blanks."""
    found: list[str] = []
    left = _MOST_BYTES
    for word in words_of(text):
        left -= len(word.text.encode()) + 1
        if len(found) == _MOST_WORDS or left < 0:
            break
        found.append(word.text)
    return " ".join(found)


def terms_of(query: str) -> list[Term]:
    """What a query asks for; nothing, if it has no words."""
    found: list[Term] = []
    left = _MOST_ASKED
    for match in _TERM.finditer(query):
        minus, phrase, chunk = match.groups(default="")
        words = tuple(word.text for word in islice(words_of(chunk or phrase), left))
        left -= len(words)
        if words:
            found.append(Term(words, chunk.endswith("*") and left > 0, bool(minus)))
        if not left:
            break
    return found if any(not term.is_excluded for term in found) else []


def for_fts5(terms: Iterable[Term]) -> str:
    """The terms as a query of SQLite's FTS5, for the column `words`."""
    wanted: list[str] = []
    excluded: list[str] = []
    for term in terms:
        phrase = f'"{" ".join(term.words)}"{" *" if term.is_prefix else ""}'
        (excluded if term.is_excluded else wanted).append(phrase)
    together = " NOT ".join([f"({' AND '.join(wanted)})", *excluded])
    return f"words : ({together})"


def for_tsquery(terms: Iterable[Term]) -> str:
    """The terms as a `tsquery` of Postgres."""
    found = []
    for term in terms:
        words = [f"'{word}'" for word in term.words]
        if term.is_prefix:
            words[-1] += ":*"
        found.append(f"{'!' if term.is_excluded else ''}({' <-> '.join(words)})")
    return " & ".join(found)


def snippet(text: str, terms: Iterable[Term], marks: tuple[str, str]) -> str:
    """The piece of a text that shows most of what a query asks for, on one line.

    Args:
        marks: what is put before and after the words that were asked for.
    """
    words = list(words_of(text))
    hits = _hits([word.text for word in words], [term for term in terms if not term.is_excluded])
    first = _best(hits, len(words))
    shown = words[first : first + _SNIPPET_WORDS]
    last = first + len(shown)
    start = shown[0].start if first else 0
    end = shown[-1].end if last < len(words) else len(text)
    if not shown:
        end = min(end, 8 * _SNIPPET_WORDS)
    parts, done = [], start
    for at, word in enumerate(shown, first):
        if at in hits and (at == first or at - 1 not in hits):
            parts += [text[done : word.start], marks[0]]
            done = word.start
        if at in hits and (at == last - 1 or at + 1 not in hits):
            parts += [text[done : word.end], marks[1]]
            done = word.end
    line = " ".join("".join([*parts, text[done:end]]).split())
    return f"{_ELLIPSIS if first else ''}{line}{_ELLIPSIS if end < len(text) else ''}"


def _hits(words: list[str], terms: list[Term]) -> set[int]:
    """The places of the words that were asked for."""
    places: dict[str, list[int]] = {}
    for at, word in enumerate(words):
        places.setdefault(word, []).append(at)
    found: set[int] = set()
    for term in terms:
        if len(term.words) == 1 and term.is_prefix:
            starts = [at for word, ats in places.items() if word.startswith(term.words[0]) for at in ats]
        else:
            starts = places.get(term.words[0], [])
        for at in starts:
            if _follows(words[at : at + len(term.words)], term):
                found.update(range(at, at + len(term.words)))
    return found


def _follows(words: list[str], term: Term) -> bool:
    if len(words) < len(term.words) or tuple(words[:-1]) != term.words[:-1]:
        return False
    return words[-1].startswith(term.words[-1]) if term.is_prefix else words[-1] == term.words[-1]


def _best(hits: set[int], count: int) -> int:
    """Where the piece begins that has most of the hits, with a little before the first of them."""
    best, most = 0, 0
    for start in sorted(hits):
        inside = sum(1 for at in range(start, start + _SNIPPET_WORDS - 4) if at in hits)
        if inside > most:
            best, most = start, inside
    return max(0, min(best - 4, count - _SNIPPET_WORDS))
