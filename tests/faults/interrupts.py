"""Exceptions that a signal handler raises in the main thread at random moments, as Ctrl-C does."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.faults.common import Report
from tests.faults.history import is_whole, step
from tests.support.checkpoints import config


class Interruption(KeyboardInterrupt):
    """What the handler raises."""


class Interrupter:
    """Sends SIGUSR1 to the main thread, once, a random while after it is asked to."""

    def __init__(self) -> None:
        self._asked = threading.Semaphore(0)
        self._ended = False
        self._pause = threading.Event()
        self.armed = False
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = signal.signal(signal.SIGUSR1, self._handle)
        self._thread.start()
        try:
            yield
        finally:
            self._ended = True
            self._asked.release()
            self._thread.join()
            signal.signal(signal.SIGUSR1, before)

    def arm(self) -> None:
        self.armed = True
        self._asked.release()

    def _handle(self, *_: Any) -> None:
        if self.armed:
            self.armed = False
            raise Interruption

    def _run(self) -> None:
        main = threading.main_thread().ident
        while True:
            self._asked.acquire()
            if self._ended:
                return
            self._pause.wait(random.expovariate(1 / 0.003))  # a random moment, not a synchronisation
            signal.pthread_kill(main or 0, signal.SIGUSR1)


def interrupt_rounds(saver: Any, rounds: int, beside: int = 0) -> Report:
    """Interrupt steps in the main thread, with other threads that write all the while; check after each."""
    report, interrupter, stop = Report(), Interrupter(), threading.Event()
    acknowledged: list[tuple[str, Any]] = []
    errors: list[BaseException] = []
    saver.setup()

    def write(name: str) -> None:
        parent, number = None, 0
        while not stop.is_set():
            try:
                parent = step(saver, name, number % 20, parent if number % 20 else None)
            except BaseException as exc:
                errors.append(exc)
                return
            acknowledged.append((name, parent))
            number += 1

    threads = [threading.Thread(target=write, args=(f"beside-{one}",)) for one in range(beside)]
    for thread in threads:
        thread.start()
    try:
        with interrupter.installed():
            for round_ in range(rounds):
                _interrupted(saver, interrupter, f"main-{round_}", acknowledged)
                report.rounds += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    report.acknowledged, report.stuck = len(acknowledged), len(errors)
    _check(saver, acknowledged, report)
    return report


def _interrupted(saver: Any, interrupter: Interrupter, name: str, acknowledged: list[tuple[str, Any]]) -> None:
    parent, number = None, 0
    try:
        while True:
            if not interrupter.armed:  # the last one met a destructor, out of which no exception comes
                interrupter.arm()
            parent = step(saver, name, number, parent)
            acknowledged.append((name, parent))
            number += 1
            saver.get_tuple(parent)
    except Interruption:
        # Still while the interruption is being handled: what waits for saves in a `finally` must not wait for ever.
        stored = step(saver, f"{name}-after", 0, None)
        acknowledged.append((f"{name}-after", stored))
        assert is_whole(saver.get_tuple(stored))


def _check(saver: Any, acknowledged: list[tuple[str, Any]], report: Report) -> None:
    stored: dict[str, Any] = {}
    for name in {name for name, _ in acknowledged}:
        for found in saver.list(config(name)):
            stored[found.config["configurable"]["checkpoint_id"]] = found
    report.torn += sum(not is_whole(found) for found in stored.values())
    report.lost += sum(one["configurable"]["checkpoint_id"] not in stored for _, one in acknowledged)
