"""SQLite: a task's writes wait for the checkpoint that follows them, where that was seen; never otherwise."""

from __future__ import annotations

import threading
from typing import Any

from langgraph_checkpoint_dual.sqlite import SqliteSaver
from langgraph_checkpoint_dual.sqlite.patience import Patience
from tests.support.checkpoints import checkpoint, config, metadata


def waits(patience: Patience, *puts: str, thread_id: str = "thread") -> bool:
    """Whether writes wait; `puts` are the threads of checkpoints that come while they are under way."""
    with patience.noting_writes(thread_id) as seconds:
        for put in puts:
            patience.note_put(put)
    return seconds > 0


def test_who_saves_one_after_the_other_never_waits() -> None:
    patience = Patience()
    for _ in range(10):
        assert not waits(patience)
        patience.note_put("thread")


def test_writes_wait_after_checkpoints_came_while_others_were_under_way() -> None:
    patience = Patience()
    assert [waits(patience, "thread") for _ in range(5)] == [False, False, True, True, True]
    assert [waits(patience) for _ in range(5)] == [True, True, True, False, False]


def test_a_checkpoint_of_another_thread_is_not_company() -> None:
    patience = Patience()
    assert not any(waits(patience, "thread", thread_id="other") for _ in range(10))


def test_a_checkpoint_takes_the_writes_before_it_along(sqlite_path: str) -> None:
    """Even if they would wait for ever."""
    with SqliteSaver(sqlite_path) as saver:
        made = checkpoint({"count": 1})
        where = saver.put(config(), made, metadata(), made["channel_versions"])
        engine: Any = saver._blocking
        run, engine.combiner.run = engine.combiner.run, None

        def waiting(work: Any, patience: float = 0.0) -> Any:
            return run(work, 60.0 if threading.current_thread() is writer else patience)

        engine.combiner.run = waiting
        writer = threading.Thread(target=saver.put_writes, args=[where, [("count", 2)], "task"])
        writer.start()
        while not engine.combiner._line and writer.is_alive():
            pass
        assert not saver.get_tuple(where).pending_writes  # type: ignore[union-attr]
        after = checkpoint({"count": 2})
        saver.put(where, after, metadata(), after["channel_versions"])
        writer.join()
        assert [value for *_, value in saver.get_tuple(where).pending_writes] == [2]  # type: ignore[union-attr]
