"""Moving the threads that the official saver has left into our tables: `migrate`, and `amigrate` on an event loop."""

from __future__ import annotations

from collections.abc import Callable

from langgraph_checkpoint_dual.cache import Cache
from langgraph_checkpoint_dual.core.official.migrating import MoveError, Options, Progress, Report
from langgraph_checkpoint_dual.core.official.migrating import migrate as moved
from langgraph_checkpoint_dual.core.store import Rules, Store
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.saver import Saver

__all__ = ["MoveError", "Progress", "Report", "amigrate", "migrate"]


def migrate(
    saver: Saver,
    *,
    dry_run: bool = False,
    verify: bool = False,
    drop: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> Report:
    """Move the threads in the official tables of a saver's database into our tables.

    Runs may go on meanwhile, also with the official saver. The official tables are only read, so that a thread is there
    at every moment. It may be interrupted, killed, repeated, and done by several processes at once: each goes on with
    what is missing. Several processes begin at different threads and so share the work.

    Args:
        saver: any saver of this package; its serializer reads and stores the values.
        dry_run: only read, and count what would be moved.
        verify: read every checkpoint back and compare it with the official one.
        drop: after that, drop the official tables. Only if everything was moved and found equal, and if nothing is
            added meanwhile: stop all processes with the official saver first. It cannot be undone.
        on_progress: called again and again with a `Progress`.

    Raises:
        MoveError: at the end, if checkpoints cannot be read or differ after the move; its report names them. All others
            are moved, nothing is dropped.
    """
    report = finish(moved(_store(saver), saver._indexed(saver._blocking), Options(dry_run, verify, drop, on_progress)))
    saver._adoption.forget()
    return report


async def amigrate(
    saver: Saver,
    *,
    dry_run: bool = False,
    verify: bool = False,
    drop: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> Report:
    """As `migrate`; the event loop stays free meanwhile."""
    report = await moved(_store(saver), saver._indexed(saver._looping), Options(dry_run, verify, drop, on_progress))
    saver._adoption.forget()
    return report


def _store(saver: Saver) -> Store:
    """What is known of moved checkpoints is of no use to runs, and is kept apart."""
    return Store(saver._store.serde, Cache(), Rules())
