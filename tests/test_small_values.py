"""A small value that looks like the one before it is not taken for it, whatever `==` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from langgraph_checkpoint_dual import Serializer
from langgraph_checkpoint_dual.sqlite import SqliteSaver
from tests.support.checkpoints import checkpoint, config, metadata
from tests.support.exact import exact


class Word(str):
    pass


NAN = float("nan")
ALIKE = [
    1,
    True,
    1.0,
    True,
    1,
    0,
    False,
    0.0,
    -0.0,
    0.0,
    None,
    NAN,
    NAN,
    "a",
    Word("a"),
    b"a",
    bytearray(b"a"),
    "a",
    "a",
]
SERDES: dict[str, Callable[[], Any]] = {
    "default": Serializer,
    "encrypted": lambda: EncryptedSerializer.from_pycryptodome_aes(serde=Serializer(), key=b"0123456789abcdef"),
}


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("serde", SERDES)
def test_values_that_look_alike(tmp_path: Path, serde: str, forgets: bool) -> None:
    with SqliteSaver(tmp_path / "alike.db", serde=SERDES[serde]()) as saver:
        latest = config("alike")
        for value in ALIKE:
            made = checkpoint()
            made["channel_values"] = {"value": value, "same": 1}
            made["channel_versions"] = {"value": saver.get_next_version(None, None)}
            latest = saver.put(latest, made, metadata(), {})
            if forgets:
                saver._cache.clear()
            found = saver.get_tuple(latest)
            assert found is not None
            assert exact(found.checkpoint["channel_values"]) == exact({"value": value, "same": 1})


class Shouting(Serializer):
    """Gives back another text than it was given."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        value = super().loads_typed(data)
        return value.upper() if isinstance(value, str) else value


@pytest.mark.parametrize("times", [1, 2])
def test_a_serializer_of_the_users_own_has_its_say_in_every_read(tmp_path: Path, times: int) -> None:
    with SqliteSaver(tmp_path / "shouting.db", serde=Shouting()) as saver:
        made = checkpoint()
        made["channel_values"] = {"value": "quiet"}
        latest = saver.put(config("shouting"), made, metadata(), {})
        for _ in range(times):
            found = saver.get_tuple(latest)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"value": "QUIET"}
