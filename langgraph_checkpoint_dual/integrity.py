"""MACs made anew: with a new key, or for a database that was begun without one. See docs/encryption.md."""

from __future__ import annotations

from collections.abc import Callable

from langgraph_checkpoint_dual.core import resealing
from langgraph_checkpoint_dual.core.integrity import Keys
from langgraph_checkpoint_dual.core.resealing import Resealed
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.saver import Saver

__all__ = ["Resealed", "areseal", "reseal"]

_UNSEALED = ("refuse", "accept")


def reseal(
    saver: Saver, *, unsealed: str = "refuse", on_progress: Callable[[Resealed], object] | None = None
) -> Resealed:
    """Give every stored row a MAC under the first of a saver's keys.

    It may be interrupted and repeated. Savers with the same keys may go on meanwhile.

    Args:
        saver: one of ours with `integrity_key=`.
        unsealed: what becomes of rows without a MAC: "refuse" leaves them as they are, "accept" takes them for right,
            whoever has stored them, if their checksum fits.
        on_progress: called after each thread with what was done so far.

    Raises:
        ConfigError: if the saver has no key.
    """
    keys, accept = _checked(saver, unsealed)
    return finish(resealing.reseal(saver._blocking, keys, accept=accept, on_progress=on_progress))


async def areseal(
    saver: Saver, *, unsealed: str = "refuse", on_progress: Callable[[Resealed], object] | None = None
) -> Resealed:
    """As `reseal`; the event loop stays free meanwhile."""
    keys, accept = _checked(saver, unsealed)
    return await resealing.reseal(saver._looping, keys, accept=accept, on_progress=on_progress)


def _checked(saver: Saver, unsealed: str) -> tuple[Keys, bool]:
    if unsealed not in _UNSEALED:
        raise ConfigError(f"unsealed must be one of {', '.join(_UNSEALED)}, not {unsealed!r}")
    if saver._keys is None:
        raise ConfigError(
            "a saver without integrity_key= has no key to seal rows with; on the command line the key comes from the "
            "environment variable LANGGRAPH_INTEGRITY_KEY, in base64"
        )
    return saver._keys, unsealed == "accept"
