"""What every transfer has in common: what is asked for, what is told meanwhile, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from langgraph_checkpoint_dual.core.address import many, thread_key
from langgraph_checkpoint_dual.core.queries import Conditions
from langgraph_checkpoint_dual.core.registry import conditions
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError

ON_CONFLICT = ("raise", "skip", "replace")
_TOLD = 10


class TransferError(CheckpointerError):
    """A transfer that ended with threads that could not be brought over as they are; all others were.

    Attributes:
        report: what was transferred, and what was not.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        parts = [
            _told("in which source and target have parted (on_conflict= says what to do)", report.conflicts),
            _told("that are damaged in the source", report.damaged),
            _told("that differ after the transfer", report.differences),
        ]
        super().__init__("; ".join(part for part in parts if part))


class Progress(NamedTuple):
    """How far a transfer is."""

    threads: int
    threads_total: int | None
    """`None` if the source cannot tell."""
    checkpoints: int
    bytes: int
    seconds: float
    seconds_left: float | None


@dataclass
class Report:
    """What a transfer did, or with `dry_run` would do."""

    threads: int = 0
    """Threads that were looked at."""
    changed: int = 0
    """Threads of which something was missing in the target."""
    checkpoints: int = 0
    """Checkpoints that were stored."""
    writes: int = 0
    """Pending writes that were stored."""
    bytes: int = 0
    """About the bytes of what was stored."""
    verified: int = 0
    """Checkpoints that were read from both sides and found equal."""
    conflicts: list[str] = field(default_factory=list)
    """Threads that went on on both sides, so that neither history contains the other. Nothing of them was stored."""
    ahead: int = 0
    """Threads that have everything of the source and went on in the target. They were left alone."""
    damaged: list[str] = field(default_factory=list)
    """Checkpoints that are damaged in the source."""
    differences: list[str] = field(default_factory=list)
    """Checkpoints that `verify` did not find equal."""
    lost: tuple[str, ...] = ()
    """What this source cannot tell, or this target cannot hold."""
    seconds: float = 0.0
    """How long it took."""


class Options(NamedTuple):
    """What is asked for; ids are escaped."""

    thread_ids: tuple[str, ...] | None = None
    user_id: str | None = None
    since: datetime | None = None
    latest_only: bool = False
    on_conflict: str = "raise"
    verify: bool = False
    dry_run: bool = False
    on_progress: Callable[[Progress], object] | None = None

    @property
    def where(self) -> Conditions:
        """The filters as conditions on the registry."""
        return conditions(user_id=self.user_id, updated_after=self.since)


def options(
    thread_ids: Iterable[Any] | None,
    user_id: str | None,
    since: datetime | None,
    latest_only: bool,
    on_conflict: str,
    verify: bool,
    dry_run: bool,
    on_progress: Callable[[Progress], object] | None,
) -> Options:
    """`Options` from a caller's arguments.

    Raises:
        ConfigError: if one of them cannot be used.
    """
    if on_conflict not in ON_CONFLICT:
        raise ConfigError(f"on_conflict must be one of {', '.join(ON_CONFLICT)}, not {on_conflict!r}")
    ids = None if thread_ids is None else tuple(sorted({thread_key(one) for one in many("thread_ids", thread_ids)}))
    found = Options(ids, user_id, since, latest_only, on_conflict, verify, dry_run, on_progress)
    _ = found.where
    return found


class Meter:
    """Counts, and tells the caller how far it is."""

    def __init__(self, options: Options, total: int | None) -> None:
        self.options, self.total = options, total
        self.report = Report()
        self._begun = time.monotonic()

    def tell(self) -> None:
        """Tell the caller."""
        report = self.report
        report.seconds = time.monotonic() - self._begun
        if self.options.on_progress is not None:
            self.options.on_progress(
                Progress(
                    report.threads, self.total, report.checkpoints, report.bytes, report.seconds, self._seconds_left
                )
            )

    @property
    def _seconds_left(self) -> float | None:
        done = self.report.threads
        if self.total is None or not done:
            return None
        return self.report.seconds / done * max(0, self.total - done)

    def finish(self) -> Report:
        """The report.

        Raises:
            TransferError: if something could not be brought over as it is.
        """
        self.tell()
        report = self.report
        conflicts = report.conflicts if self.options.on_conflict == "raise" else []
        if conflicts or report.damaged or report.differences:
            raise TransferError(report)
        return report


def _told(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"{len(names)} {what}: {', '.join(names[:_TOLD])}{more}"
