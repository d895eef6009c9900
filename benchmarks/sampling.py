"""A sampling profiler of all threads, which runs only while something is being timed: why a figure is what it is."""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

INTERVAL = 0.001
DEPTH = 60

# A thread whose innermost frame is in one of these modules waits for another one.
WAITING = {"threading.py", "queue.py", "selectors.py", "connection.py", "pool.py", "waiting.py"}

_PACKAGES = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(Path(__file__).resolve().parent.parent))


class Sampler:
    """Counts, while it is switched on, in which functions the threads are.

    Attributes:
        own: function → samples in which it was the innermost one.
        within: function → samples in which it was on the stack.
        samples: stacks counted.
    """

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.within: Counter[str] = Counter()
        self.samples = 0
        self._on = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="benchmark-sampler", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the sampling thread; it sleeps until `on` is entered."""
        usual = sys.getswitchinterval()
        # Otherwise the sampler would only get its turn where a thread gives up the interpreter by itself.
        sys.setswitchinterval(INTERVAL / 20)
        self._thread.start()
        try:
            yield
        finally:
            sys.setswitchinterval(usual)
            self._stopped = True
            self._on.set()
            self._thread.join()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Count during this block."""
        self._on.set()
        try:
            yield
        finally:
            self._on.clear()

    def _watch(self) -> None:
        pause = threading.Event()
        own_id = threading.get_ident()
        while self._on.wait() and not self._stopped:
            for identity, frame in sys._current_frames().items():
                if identity != own_id and not _waits(frame):
                    self._count(frame)
            pause.wait(INTERVAL)

    def _count(self, frame: FrameType) -> None:
        self.samples += 1
        self.own[_name(frame)] += 1
        self.within.update({_name(each) for each in _stack(frame) if not _frames_all(each)})

    def text(self, rows: int = 25) -> str:
        """The functions that took most, by themselves and with what they called."""
        if not self.samples:
            return "  no samples: the timed part runs in another process"
        head = f"  {self.samples} samples of running threads\n  {'itself':>7} {'within':>7}"
        names = dict.fromkeys([name for name, _ in self.own.most_common(rows)])
        names |= dict.fromkeys(name for name, _ in self.within.most_common(rows))
        share = 100 / self.samples
        lines = [f"  {self.own[name] * share:6.1f}% {self.within[name] * share:6.1f}%  {name}" for name in names]
        return "\n".join([head, *lines])


def _waits(frame: FrameType) -> bool:
    name = Path(frame.f_code.co_filename).name
    return name in WAITING or (name == "thread.py" and frame.f_code.co_name == "_worker")


def _frames_all(frame: FrameType) -> bool:
    """Whether it is on every stack, because it only starts what is measured."""
    filename = frame.f_code.co_filename
    return filename.startswith(("<", _PACKAGES[1], f"{_PACKAGES[2]}/benchmarks")) and "site-packages" not in filename


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{_short(code.co_filename)}:{code.co_firstlineno} {code.co_name}"


def _short(filename: str) -> str:
    for prefix in _PACKAGES:
        if filename.startswith(prefix):
            return filename[len(prefix) + 1 :]
    return filename
