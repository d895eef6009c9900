"""A data class of a user's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Record:
    number: int
