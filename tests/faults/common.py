"""What all faults share: how many rounds to run, and what a probe reports."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

ROUNDS_VARIABLE = "DUAL_FAULT_ROUNDS"


def rounds(default: int) -> int:
    """How many rounds to run: the default, times what the environment asks for."""
    return max(1, round(default * float(os.environ.get(ROUNDS_VARIABLE, "1"))))


@dataclass
class Report:
    """What came out of the rounds of one fault."""

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    torn: int = 0
    stuck: int = 0
    """Rounds after which the next operation did not work."""

    def add(self, other: Report) -> None:
        """Count what came out of further rounds too."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

    @property
    def clean(self) -> bool:
        return self.rounds > 0 and not (self.lost or self.torn or self.stuck)
