"""Serializers that encrypt: plaintext is refused, keys are changed, and nothing tells a key."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg import sql

from langgraph_checkpoint_dual import KeyringSerializer, Serializer, open_saver
from langgraph_checkpoint_dual.core import values
from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.items import Inline, pack_slots
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError, PlaintextError
from langgraph_checkpoint_dual.transfer import atransfer
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.compare import fingerprint
from tests.support.savers import KINDS, Kind, faced, opened, settle
from tests.support.tables import all_rows, is_postgres, named_rows, rows

OLD, NEW = b"the old key, 16b", b"a new key of 32 bytes, in letters"[:32]
SERDES = {
    "langgraph": lambda: EncryptedSerializer.from_pycryptodome_aes(key=OLD),
    "langgraph over ours": lambda: EncryptedSerializer.from_pycryptodome_aes(serde=Serializer(), key=OLD),
    "keyring": lambda: KeyringSerializer({"2026-11": NEW}, current="2026-11"),
}
VALUES = {
    "messages": [
        HumanMessage(f"message {n}: long enough that each is an item of its own", id=str(n)) for n in range(3)
    ],
    "one": HumanMessage("a message that is the whole value of its channel, and long enough for an item " * 4, id="one"),
    "small": [HumanMessage("hi", id="s")],
    "dict": {f"key {n}": "a long text that makes this entry an item " * 3 for n in range(20)},
    "text": "short",
    "nothing": None,
    "snapshot": _DeltaSnapshot([HumanMessage("in a snapshot", id="d")]),
}
WRITES = [
    ("messages", [HumanMessage("written", id="w")]),
    ("messages", [HumanMessage("again", id="v")]),
    ("text", "later"),
]
NAN = {"score": float("nan")}


async def fill(saver: Any, thread_id: str = "thread", made: Any = None) -> Any:
    """A checkpoint with values, metadata and writes of all shapes; its config."""
    made = made or checkpoint(VALUES)
    at = await saver.aput(config(thread_id), made, metadata(**NAN), made["channel_versions"])
    await saver.aput_writes(at, WRITES, "task")
    return at


def change(database: str, statement: str, *parameters: Any) -> None:
    """Run a statement on the database, past the package."""
    text = statement.replace("?", "%s") if is_postgres(database) else statement
    rows(database, sql.SQL(text) if is_postgres(database) else text, parameters)  # type: ignore[arg-type]


def forge_items(database: str, typed: bytes) -> None:
    """Put these bytes in place of the items of the messages, with the checksum of whoever has no key."""
    for row in named_rows(database, "dual_items"):
        if row["channel"] == "messages":
            checksum = values.item_checksum(typed, values.place("item", "messages"), row["seq"], row["added_at"])
            change(database, "UPDATE dual_items SET data = ?, checksum = ? WHERE seq = ?", typed, checksum, row["seq"])


def forge_text(database: str) -> None:
    """Put another text in the checkpoint's own row, with the checksum of whoever has no key."""
    [row] = [row for row in named_rows(database, "dual_checkpoints") if row["thread_id"] == "thread"]
    slots = slots_of(row["checkpoint_id"], bytes(row["slots"]))
    slots["text"] = Inline(values.encode(Serializer(), "forged"))
    sealed = values.seal(pack_slots(slots), values.place("slots", row["checkpoint_id"]))
    change(database, "UPDATE dual_checkpoints SET slots = ? WHERE thread_id = 'thread'", sealed)


def take_over(database: str, table: str, column: str) -> None:
    """Put a column of the thread `plain` in place of that of `thread`, whose rows have the same keys."""
    keys = "a.checkpoint_id = b.checkpoint_id" + (" AND a.idx = b.idx" if table == "dual_writes" else "")
    change(
        database,
        f"UPDATE {table} AS a SET {column} = b.{column} FROM {table} AS b "
        f"WHERE a.thread_id = 'thread' AND b.thread_id = 'plain' AND {keys}",
    )


PARTS = ["checkpoint", "slots", "metadata_exact", "data", "items", "item of text"]
REPLACED = [
    pytest.param(kind, name, part, id=f"{kind}-{name}-{part}")
    for kind in KINDS
    for name in SERDES
    for part in PARTS
    if name == "keyring" or (kind.face == "blocking" and part != "item of text")
]
"""With one serializer on all classes, with the others on one face, and what does not depend on them once."""


@pytest.mark.parametrize(("kind", "name", "part"), REPLACED)
async def test_plaintext_in_place_of_an_encrypted_value_is_refused(
    kind: Kind, database: str, name: str, part: str
) -> None:
    made = checkpoint(VALUES)
    async with opened(kind.ours, database, serde=SERDES[name]()) as saver:
        at = await fill(saver, made=made)
    async with opened(kind.ours, database) as plain:
        await fill(plain, "plain", made)
    if part == "items":
        forge_items(
            database, values.encode(Serializer(), HumanMessage("forged, and long enough to be an item", id="1"))
        )
    elif part == "slots":
        forge_text(database)
    elif part == "item of text":
        forge_items(database, values.encode(Serializer(), "forged"))
    else:
        take_over(database, "dual_writes" if part == "data" else "dual_checkpoints", part)
    async with opened(kind.ours, database, serde=SERDES[name]()) as saver:
        with pytest.raises(PlaintextError, match='plaintext="read"') as caught:
            await saver.aget_tuple(at)
        place = {"thread_id": "thread", "checkpoint_ns": "", "checkpoint_id": made["id"]}
        assert place.items() <= caught.value.where.items()
        if part not in ("checkpoint", "metadata_exact"):
            assert caught.value.where["channel"] in VALUES
        damaged: list[Any] = []
        assert await listed(saver, config(), on_damaged=damaged.append) == [] and len(damaged) == 1


@pytest.mark.parametrize("name", SERDES)
async def test_a_database_that_was_begun_in_plaintext(kind: Kind, database: str, name: str) -> None:
    async with opened(kind.ours, database) as plain:
        at = await fill(plain)
        before = fingerprint(await plain.aget_tuple(at))
    async with opened(kind.ours, database, serde=SERDES[name]()) as saver:
        with pytest.raises(PlaintextError):
            await saver.aget_tuple(config())
    async with opened(kind.ours, database, serde=SERDES[name](), plaintext="read") as saver:
        found = await saver.aget_tuple(at)
        assert fingerprint(found) == before
        assert saver.with_allowlist([("tests", "No")]).get_tuple(at) is not None
        after = checkpoint({**found.checkpoint["channel_values"], "text": "goes on"})
        await saver.aput(at, after, metadata(), {"text": after["channel_versions"]["text"]})
        latest = (await saver.aget_tuple(config())).checkpoint["channel_values"]
        assert latest["text"] == "goes on" and latest["messages"] == VALUES["messages"]


async def test_nothing_of_the_values_is_in_the_database(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, serde=SERDES["keyring"]()) as saver:
        await fill(saver)
    stored = b"".join(
        bytes(cell)
        for table in ("dual_checkpoints", "dual_items", "dual_writes")
        for row in all_rows(database, table)
        for cell in row
        if isinstance(cell, (bytes, memoryview))
    )
    assert b"msgpack+aes-gcm:2026-11" in stored
    assert not [word for word in (b"message 1", b"a long text", b"short", b"written", b"later", NEW) if word in stored]


async def test_rows_of_the_official_saver_are_held_to_the_same_rule(kind: Kind, database: str) -> None:
    async with opened(kind.official, database) as official:
        made = checkpoint({"messages": VALUES["messages"]})
        await settle(faced(official, kind.face).aput(config(), made, metadata(), made["channel_versions"]))
    async with opened(kind.ours, database, serde=SERDES["langgraph"]()) as saver:
        with pytest.raises(PlaintextError):
            await saver.aget_tuple(config())
    async with opened(kind.ours, database, serde=SERDES["langgraph"](), plaintext="read") as saver:
        assert (await saver.aget_tuple(config())).checkpoint["channel_values"]["messages"] == VALUES["messages"]


def test_plaintext_is_a_choice_of_two() -> None:
    with pytest.raises(ConfigError, match="plaintext must be one of refuse, read"):
        open_saver(":memory:", plaintext="maybe")


class Hiding(JsonPlusSerializer):
    """A serializer of somebody's own that encrypts, if only in name."""

    encrypts = True


@pytest.mark.parametrize("serde", [*(make() for make in SERDES.values()), Hiding()], ids=lambda one: type(one).__name__)
def test_no_words_of_what_is_encrypted_are_indexed(serde: Any) -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        open_saver(":memory:", serde=serde, search=True)


# The keyring


def keyring(*ids: str, current: str | None = None) -> KeyringSerializer:
    keys = {"2025-01": OLD, "2026-11": NEW}
    return KeyringSerializer({one: keys[one] for one in ids}, current=current or ids[-1])


async def test_keys_are_changed(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, serde=keyring("2025-01")) as saver:
        first = await fill(saver)
        before = fingerprint(await saver.aget_tuple(first))
    async with opened(kind.ours, database, serde=keyring("2025-01", "2026-11")) as saver:
        assert fingerprint(await saver.aget_tuple(first)) == before
        await put(saver, first, {**VALUES, "text": "with the new key"})
        assert (await saver.aget_tuple(config())).checkpoint["channel_values"]["messages"] == VALUES["messages"]
    assert {b"2025-01" in bytes(row["checkpoint"]) for row in named_rows(database, "dual_checkpoints")} == {True, False}
    async with opened(kind.ours, database, serde=keyring("2026-11")) as saver:
        with pytest.raises(DecodeError, match=r"'2025-01'.*does not have: it has '2026-11'"):
            await saver.aget_tuple(first)


async def test_transfer_encrypts_anew(kind: Kind, database: str, tmp_path: Any) -> None:
    async with opened(kind.ours, database, serde=keyring("2025-01")) as saver:
        first = await fill(saver)
        before = fingerprint(await saver.aget_tuple(first))
        with open_saver(tmp_path / "new.db", serde=keyring("2026-11")) as target:
            await atransfer(saver, target, verify=True)
            assert fingerprint(await target.aget_tuple(first)) == before
    stored = [
        row
        for table in ("checkpoints", "items", "writes")
        for row in all_rows(str(tmp_path / "new.db"), f"dual_{table}")
    ]
    assert b"2026-11" in (joined := b"".join(cell for row in stored for cell in row if isinstance(cell, bytes)))
    assert b"2025-01" not in joined


def test_type_key_and_every_byte_are_authenticated() -> None:
    both = keyring("2025-01", "2026-11")
    name, data = both.dumps_typed(b"some bytes")
    assert name == "bytes+aes-gcm:2026-11" and both.loads_typed((name, data)) == b"some bytes"
    for other in ("bytearray+aes-gcm:2026-11", "bytes+aes-gcm:2025-01", "x+bytes+aes-gcm:2026-11"):
        with pytest.raises(DecodeError, match="cannot be decrypted"):
            both.loads_typed((other, data))
    for at in range(len(data)):
        with pytest.raises(DecodeError, match="cannot be decrypted"):
            both.loads_typed((name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))
    for short in range(len(data)):
        with pytest.raises(DecodeError):
            both.loads_typed((name, data[:short]))
    with pytest.raises(DecodeError, match="not encrypted by a KeyringSerializer"):
        both.loads_typed(("bytes+aes", data))
    with pytest.raises(PlaintextError):
        both.loads_typed(("bytes", b"forged"))


def test_no_value_is_encrypted_alike_twice() -> None:
    one = keyring("2026-11")
    assert len({one.dumps_typed("the same")[1][:12] for _ in range(1000)}) == 1000


def test_keys_are_never_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = base64.b64encode(NEW).decode()
    said = [repr(keyring("2026-11")), str(keyring("2025-01", "2026-11"))]

    def fails(call: Any) -> None:
        with pytest.raises((ConfigError, DecodeError)) as caught:
            call()
        said.append("".join(traceback.format_exception(caught.value)))

    name, data = keyring("2026-11").dumps_typed("value")
    fails(lambda: KeyringSerializer({"a": NEW}, current="2026-11").loads_typed((name, data)))
    fails(lambda: KeyringSerializer({"2026-11": OLD}, current="2026-11").loads_typed((name, data)))
    fails(lambda: KeyringSerializer({NEW.decode(): NEW}, current="x"))
    fails(lambda: KeyringSerializer({"a": NEW[:-1]}, current="a"))
    fails(lambda: KeyringSerializer({"a": secret}, current="a"))  # type: ignore[dict-item]
    fails(lambda: KeyringSerializer({"a": NEW}, current="b"))
    fails(lambda: KeyringSerializer({}, current="b"))
    swapped = [f"{secret[:-1]}:{key_id}" for key_id in ("2026-11", "a", "b*")]  # without padding it can be an id
    odd = (secret, f"{secret}:a", f"a:{secret[:-3]}", f"a:{secret} a:{secret}", "a:", "", f"a:{secret}*")
    for text in (*odd, *swapped):
        monkeypatch.setenv("LANGGRAPH_AES_KEYS", text)
        fails(KeyringSerializer.from_env)
    told = "\n".join([*said, caplog.text])
    assert not [key for key in (secret[:-4], NEW[:-1].decode(), OLD.decode(), repr(NEW)) if key in told]
    assert repr(keyring("2025-01", "2026-11")) == "KeyringSerializer(keys '2025-01', '2026-11', current='2026-11')"


def test_a_keyring_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = base64.urlsafe_b64encode(b"\xff" * 32).decode(), base64.b64encode(OLD).decode().rstrip("=")
    monkeypatch.setenv("LANGGRAPH_AES_KEYS", f"2026-11:{new}, 2025-01:{old}")
    found = KeyringSerializer.from_env()
    assert found.current == "2026-11"
    assert found.loads_typed(keyring("2025-01").dumps_typed("old")) == "old"
    assert found.loads_typed(found.dumps_typed("new")) == "new"


def test_a_keyring_over_another_serializer_and_its_allowlist() -> None:
    strict = Serializer(allowed_msgpack_modules=None)
    saver = open_saver(":memory:", serde=KeyringSerializer({"a": NEW}, current="a", serde=strict))
    with saver:
        clone: Any = saver.with_allowlist([("tests.test_encryption", "Name")])
        assert clone is not saver and type(clone.serde) is KeyringSerializer
        assert clone.serde.loads_typed(saver.serde.dumps_typed({"a": [1]})) == {"a": [1]}
        assert clone.with_allowlist([("tests.test_encryption", "Name")]) is clone


def test_the_keyring_works_with_the_official_saver(sqlite_path: str) -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver

    with SqliteSaver.from_conn_string(sqlite_path) as saver:
        saver.serde = keyring("2026-11")
        made = checkpoint({"messages": VALUES["messages"]})
        saver.put(config(), made, metadata(), made["channel_versions"])
        found = saver.get_tuple(config())
        assert found is not None and found.checkpoint["channel_values"]["messages"] == VALUES["messages"]
    with open_saver(sqlite_path, serde=keyring("2026-11")) as ours:  # which adopts it
        found = ours.get_tuple(config())
        assert found is not None and found.checkpoint["channel_values"]["messages"] == VALUES["messages"]
        assert json.dumps(found.metadata)
