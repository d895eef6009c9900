"""How an operation whose session failed is repeated: pauses that grow and differ, a deadline, an end that says why."""

from __future__ import annotations

import pytest

from langgraph_checkpoint_dual.errors import UnavailableError
from langgraph_checkpoint_dual.retrying import Attempts, InterruptedSession, block, repeated

FAILURE = InterruptedSession("the server went away")


def pauses(count: int) -> list[float]:
    attempts = Attempts(1e9)
    return [attempts.pause(FAILURE) for _ in range(count)]


def test_pauses_grow_to_a_limit_and_are_never_those_of_another() -> None:
    """So that many clients of a server that is back do not all come at the same moment."""
    many = [pauses(12) for _ in range(200)]
    longest = [max(at) for at in zip(*many, strict=True)]
    limits = [min(2.0, 0.05 * 2**number) for number in range(12)]
    assert all(limit / 2 < found <= limit for found, limit in zip(longest, limits, strict=True))
    assert len({round(some[-1], 6) for some in many}) > 150


def test_no_pause_is_longer_than_what_is_left() -> None:
    attempts = Attempts(0.01)
    for _ in range(3):
        try:
            assert attempts.pause(FAILURE) <= 0.01
        except UnavailableError:
            return


@pytest.mark.parametrize("within", [0.0, 0.2])
async def test_the_end_says_what_was_tried(within: float) -> None:
    tried: list[float] = []

    async def once(attempts: Attempts) -> None:
        tried.append(attempts.left())
        raise InterruptedSession("the server went away", advice="give it a pool")

    with pytest.raises(UnavailableError, match=r"the server went away.*give it a pool") as raised:
        await repeated(once, within, block)
    assert raised.value.attempts == len(tried) >= (2 if within else 1)
    assert raised.value.seconds >= within
    assert f"{len(tried)} attempt" in str(raised.value)
    assert within or len(tried) == 1


async def test_what_has_waited_long_enough_is_not_repeated() -> None:
    async def once(attempts: Attempts) -> None:
        raise InterruptedSession("no connection", again=False)

    with pytest.raises(UnavailableError, match="1 attempt"):
        await repeated(once, 60.0, block)
