"""Ctrl-C at each point of getting in line, leading, following and handing over: the others go on, all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from langgraph_checkpoint_dual.combining import Combiner, Job
from tests.faults.interrupt_points import PATIENCE, Point, is_interrupted
from tests.faults.interrupts import Interruption

MAIN, OTHERS = "main", ("first", "second", "third")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)  # a line does not tell of itself


class Scene:
    """A combiner whose batches can be looked at, and threads that use it.

    A work may be committed twice, if the interruption comes between its commit and that being noted.
    """

    def __init__(self, slow: float | None = None) -> None:
        self.combiner: Combiner[str] = Combiner(self._run_batch, slow=slow)
        self.committed: list[str] = []
        self.batches: list[int] = []
        self.takes_late = False
        self.returned: dict[str, object] = {}
        self.before_commit: dict[str, Callable[[], None]] = {}
        """What happens in the first batch that holds a work."""
        self._threads: list[threading.Thread] = []

    def start(self, *works: str, patience: float = 0.0) -> None:
        """Each work in a thread, one after the other in line."""
        for work in works:
            before = len(self.combiner._line)
            self._threads.append(threading.Thread(target=self.use, args=[work, patience], daemon=True))
            self._threads[-1].start()
            wait_until(lambda before=before, work=work: len(self.combiner._line) > before or work in self.committed)  # type: ignore[misc]

    def lead(self, work: str) -> None:
        """A work in a thread, which leads unless somebody does."""
        self._threads.append(threading.Thread(target=self.use, args=[work], daemon=True))
        self._threads[-1].start()

    def use(self, work: str, patience: float = 0.0) -> None:
        try:
            self.returned[work] = self.combiner.run(work, patience)
        except BaseException as exc:
            self.returned[work] = exc

    def end(self, *works: str) -> None:
        """All that are in line come to their end, and so does whoever comes next."""
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "stuck"
        assert self.combiner.run("after") == "after!"
        assert self.combiner._leader is None
        assert not self.combiner._line
        assert {work: self.returned[work] for work in works} == {work: f"{work}!" for work in works}
        assert {*works, "after"} <= set(self.committed)

    def _run_batch(self, jobs: Sequence[Job[str]]) -> None:
        for job in jobs:
            self.before_commit.pop(job.work, lambda: None)()
        if self.takes_late:
            jobs = [*jobs, *self.combiner.arrived()]
        self.batches.append(len(jobs))
        for job in jobs:
            self.committed.append(job.work)
            job.settle(f"{job.work}!")


def main_is_interrupted(scene: Scene, point: Point, patience: float = 0.0) -> None:
    def use() -> None:
        scene.returned[MAIN] = scene.combiner.run(MAIN, patience)

    if not is_interrupted(point, use):
        assert scene.returned[MAIN] == f"{MAIN}!"


def each_point(attempt: Callable[[Point], None]) -> int:
    """Make attempts, each with an interruption at the next point, until one is beyond the end; how many points."""
    for number in count(1):
        point = Point(number, ("langgraph_checkpoint_dual.combining",))
        attempt(point)
        if not point.was_reached:
            return number - 1
    raise AssertionError("unreachable")


def test_who_leads_while_others_wait() -> None:
    def attempt(point: Point) -> None:
        scene = Scene()
        scene.before_commit[MAIN] = lambda: scene.start(*OTHERS)
        main_is_interrupted(scene, point)
        if MAIN in scene.before_commit:  # it did not come as far as that
            for other in OTHERS:
                scene.lead(other)
        scene.end(*OTHERS)

    assert each_point(attempt) > 15


@pytest.mark.parametrize("leads", [True, False])
def test_who_arrives_while_a_batch_begins_is_in_it(leads: bool) -> None:
    others = ("leader", *OTHERS) if not leads else OTHERS

    def attempt(point: Point) -> None:
        scene = Scene()
        scene.takes_late = True
        if leads:
            scene.before_commit[MAIN] = lambda: scene.start(*OTHERS)
            main_is_interrupted(scene, point)
        else:
            is_here = threading.Event()

            def block() -> None:
                is_here.set()
                scene.start(*OTHERS)
                wait_until(lambda: has_tried.is_set() or any(job.work == MAIN for job in scene.combiner._line))

            has_tried = threading.Event()
            scene.before_commit["leader"] = block
            scene.lead("leader")
            assert is_here.wait(PATIENCE)
            main_is_interrupted(scene, point)
            has_tried.set()
        if MAIN in scene.before_commit:  # it did not come as far as that
            for other in OTHERS:
                scene.lead(other)
        scene.end(*others)
        if not point.was_reached:
            assert max(scene.batches) == len(OTHERS) + 1 + (not leads)

    assert each_point(attempt) > 5


def test_within_a_batch() -> None:
    """What was in the batch with the work that is interrupted goes into the next one."""
    scene = Scene()

    def begin() -> None:
        scene.start(*OTHERS[1:])
        raise Interruption

    def block() -> None:
        scene.start(OTHERS[0])
        scene.before_commit[OTHERS[0]] = begin  # by the thread of the first, which leads for the main thread too

    scene.before_commit["leader"] = block
    scene.combiner.run("leader")
    scene.end(*OTHERS[1:])
    assert isinstance(scene.returned[OTHERS[0]], Interruption)


@pytest.mark.parametrize("place", range(len(OTHERS) + 1))
@pytest.mark.parametrize("leader_fails", [False, True])
def test_who_follows(place: int, leader_fails: bool) -> None:
    """It leads next if it is the first in line. The leader may fail too, and so leave its batch to others."""

    def attempt(point: Point) -> None:
        scene, is_here, has_tried = Scene(), threading.Event(), threading.Event()

        def block() -> None:
            is_here.set()
            wait_until(lambda: has_tried.is_set() or any(job.work == MAIN for job in scene.combiner._line))
            scene.start(*OTHERS[place:])
            if leader_fails:
                raise Interruption

        scene.before_commit["leader"] = block
        scene.lead("leader")
        assert is_here.wait(PATIENCE)
        scene.start(*OTHERS[:place])
        main_is_interrupted(scene, point)
        has_tried.set()
        scene.end(*OTHERS, *([] if leader_fails else ["leader"]))
        assert isinstance(scene.returned["leader"], Interruption) is leader_fails

    assert each_point(attempt) > 5


def test_who_leads_beside_a_batch_that_is_stuck() -> None:
    def attempt(point: Point) -> None:
        scene, is_stuck, goes_on = Scene(slow=0.001), threading.Event(), threading.Event()

        def block() -> None:
            is_stuck.set()
            assert goes_on.wait(PATIENCE)

        scene.before_commit["leader"] = block
        scene.lead("leader")
        assert is_stuck.wait(PATIENCE)
        main_is_interrupted(scene, point)
        scene.lead(OTHERS[0])
        wait_until(lambda: OTHERS[0] in scene.committed)
        assert "leader" not in scene.committed
        goes_on.set()
        scene.end(OTHERS[0], "leader")

    assert each_point(attempt) > 10


def test_what_is_left_of_a_batch_that_was_overtaken() -> None:
    scene, is_stuck, goes_on = Scene(), threading.Event(), threading.Event()

    def block() -> None:
        is_stuck.set()
        assert goes_on.wait(PATIENCE)
        raise Interruption

    scene.before_commit["leader"] = lambda: scene.start(*OTHERS[:2])
    scene.before_commit[OTHERS[0]] = block
    scene.lead("leader")
    assert is_stuck.wait(PATIENCE)
    scene.combiner._slow = 0.001
    assert scene.combiner.run(OTHERS[2]) == f"{OTHERS[2]}!"
    assert scene.committed == ["leader", OTHERS[2]]
    scene.returned[OTHERS[2]] = f"{OTHERS[2]}!"
    goes_on.set()
    scene.end(*OTHERS[1:])
    assert isinstance(scene.returned[OTHERS[0]], Interruption)


def test_who_has_patience_is_taken_along_by_who_comes() -> None:
    scene = Scene()
    scene.start(*OTHERS, patience=PATIENCE)
    assert scene.committed == []
    assert scene.combiner.run(MAIN) == f"{MAIN}!"
    scene.end(*OTHERS)
    assert scene.committed[:4] == [*OTHERS, MAIN], "in one batch"


def test_who_loses_patience_leads() -> None:
    scene = Scene()
    assert scene.combiner.run(MAIN, 0.001) == f"{MAIN}!"
    scene.end()


@pytest.mark.parametrize("patience", [0.0, 0.001, PATIENCE])
def test_who_has_patience_while_others_come_and_go(patience: float) -> None:
    """Losing it within a batch, before one and after one."""
    scene = Scene()
    scene.before_commit["leader"] = lambda: scene.start(*OTHERS, patience=patience)
    scene.combiner.run("leader")
    if patience == PATIENCE:
        assert scene.committed == ["leader"], "nobody who has patience leads"
        scene.lead("last")
    scene.end(*OTHERS)


@pytest.mark.parametrize("place", [0, 1])
def test_an_interruption_of_who_has_patience(place: int) -> None:
    def attempt(point: Point) -> None:
        scene = Scene()
        scene.start(*OTHERS[:place], patience=PATIENCE)
        main_is_interrupted(scene, point, patience=0.001)
        scene.start(*OTHERS[place:], patience=0.001)
        scene.lead("last")
        scene.end(*OTHERS, "last")

    assert each_point(attempt) > 5
