"""Ctrl-C: one line and exit code 130 at every moment, also while modules are imported. Little is imported here.

While a command works, an interrupt is the usual `KeyboardInterrupt`, so that transactions are rolled back and files are
closed. Before and after that there is nothing to be undone, and the process leaves at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from langgraph_checkpoint_dual.cli import leave


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one line is enough
    leave()


def watch() -> None:
    """Leave at once from now on. Where interrupts are ignored, as under `nohup`, they stay so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def gently() -> Iterator[None]:
    """Where an interrupt is a `KeyboardInterrupt`."""
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)
