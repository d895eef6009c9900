"""Reading much makes the garbage collector wait, and leaves it as it was; a step leaves it nothing to do."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from langgraph_checkpoint_dual.core.garbage import unhurried
from langgraph_checkpoint_dual.core.turns import alongside
from langgraph_checkpoint_dual.sqlite import SqliteSaver
from tests.support.checkpoints import checkpoint, config, metadata


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    usual = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*usual)


def test_waits_meanwhile_and_no_longer() -> None:
    during = unhurried(gc.get_threshold)
    assert during[0] > 700 and during[1:] == gc.get_threshold()[1:]
    assert gc.get_threshold()[0] == 700


def test_a_failure_ends_the_wait() -> None:
    with pytest.raises(KeyboardInterrupt):
        unhurried(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert gc.get_threshold()[0] == 700


@pytest.mark.parametrize("own", [0, 10_000_000])
def test_who_switched_it_off_or_wants_more_patience_is_obeyed(own: int) -> None:
    gc.set_threshold(own)
    assert unhurried(gc.get_threshold)[0] == own == gc.get_threshold()[0]


def test_a_choice_made_meanwhile_stays() -> None:
    unhurried(lambda: gc.set_threshold(5_000))
    assert gc.get_threshold()[0] == 5_000


def test_overlapping_work_leaves_the_usual_threshold() -> None:
    assert unhurried(lambda: unhurried(gc.get_threshold))[0] > 700
    assert gc.get_threshold()[0] == 700


def test_beside_an_event_loop_collections_stay_short_and_only_full_ones_wait() -> None:
    def during() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        return gc.get_threshold(), unhurried(gc.get_threshold)

    seen, inside = alongside(during)
    assert seen[:2] == (700, 10) and seen[2] > 10
    assert inside == seen  # nothing there makes them longer
    assert gc.get_threshold() == (700, 10, 10)


def test_beside_an_event_loop_a_failure_ends_the_wait() -> None:
    with pytest.raises(KeyboardInterrupt):
        alongside(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert gc.get_threshold() == (700, 10, 10)


def test_beside_an_event_loop_who_switched_it_off_is_obeyed() -> None:
    gc.set_threshold(0)
    assert alongside(gc.get_threshold)[0] == 0 == gc.get_threshold()[0]
    gc.set_threshold(700, 10, 10)
    alongside(lambda: gc.set_threshold(700, 10, 20))
    assert gc.get_threshold() == (700, 10, 20)


def test_a_step_leaves_no_cycles(sqlite_path: str) -> None:
    with SqliteSaver(sqlite_path) as saver:
        for step in range(6):
            if step == 3:  # all that is made once is there
                gc.collect()
            made = checkpoint({"count": step, "note": "x" * 500})
            place = saver.put(config(), made, metadata(), made["channel_versions"])
            saver.put_writes(place, [("count", step)], "task")
            assert saver.get_tuple(place) is not None
        assert gc.collect() == 0
