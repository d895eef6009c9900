"""Secrets in a run's config stay out of the database: every table, and for SQLite every file, is searched for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel, SecretBytes, SecretStr

from langgraph_checkpoint_dual import CheckpointerConfig, Serializer
from langgraph_checkpoint_dual.errors import ConfigError, EncodeError
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.savers import Kind, faced, opened

SECRET = "planted-\x00-geheim"
PLANT = "geheim"
KEYS = ["api_key", "*token*", "auth"]


def is_planted(database: str) -> bool:
    """Whether the secret is in any row of any table, or in a SQLite file, its WAL included."""
    files = [] if tables.is_postgres(database) else list(Path(database).parent.glob(Path(database).name + "*"))
    in_rows = any(
        PLANT.encode() in (bytes(cell) if isinstance(cell, (bytes, memoryview)) else str(cell).encode())
        for rows in tables.contents(database).values()
        for row in rows
        for cell in row
    )
    return in_rows or any(PLANT.encode() in file.read_bytes() for file in files)


def told(**extra: Any) -> Any:
    """A config with secrets in all places that savers take metadata from."""
    found = config()
    found["configurable"].update(api_key=SECRET, user_id="joe", tenant="acme")
    found["metadata"] = {"Refresh_TOKEN": PLANT, "run_id": "run", **extra}
    return found


@pytest.fixture
def secret_metadata() -> Any:
    return metadata(auth=PLANT, deep={"list": [{"access_token": PLANT, "kept": 1}], "pair": ({"auth": PLANT}, 2)})


async def store(saver: Any, secret_metadata: Any) -> Any:
    made = checkpoint({"messages": [HumanMessage("hello", id="1")]})
    return await saver.aput(told(), made, secret_metadata, made["channel_versions"])


@pytest.mark.parametrize(
    "redact", [KEYS, tuple(KEYS), {"API_KEY", "*TOKEN*", "Auth"}, "hook"], ids=["list", "tuple", "set", "hook"]
)
async def test_keys_never_reach_the_database(kind: Kind, database: str, redact: Any, secret_metadata: Any) -> None:
    def hook(found: dict[str, Any]) -> dict[str, Any]:
        found.pop("deep", None)
        return {key: value for key, value in found.items() if PLANT not in str(value)}

    async with opened(kind.ours, database, redact=hook if redact == "hook" else redact) as saver:
        for face in ("async", "blocking"):
            where = await store(faced(saver, face), secret_metadata)
        saver.messages(told()).append([HumanMessage("again", id="2")])
        found = await saver.aget_tuple(where)
        thread = saver.threads.get("thread")
        assert not is_planted(database)
        assert await listed(saver, None, filter={"tenant": "acme"})
        assert not await listed(saver, None, filter={"api_key": SECRET})
    assert not is_planted(database)
    assert secret_metadata["deep"]["list"] == [{"access_token": PLANT, "kept": 1}]  # the caller's own is as it was
    expected = {"source": "loop", "step": 1, "parents": {}, "run_id": "run", "user_id": "joe", "tenant": "acme"}
    if redact != "hook":
        expected["deep"] = {"list": [{"kept": 1}], "pair": [{}, 2]}
    assert found.metadata == expected
    assert thread.user_id == "joe" and thread.metadata["tenant"] == "acme"


async def test_without_redact_they_do(kind: Kind, database: str, secret_metadata: Any) -> None:
    """What the searches above are worth."""
    async with opened(kind.ours, database) as saver:
        await store(saver, secret_metadata)
    assert is_planted(database)


async def test_a_graph_with_secrets_in_its_config_runs_and_resumes(kind: Kind, database: str) -> None:
    class State(TypedDict):
        count: int

    graph = StateGraph(State)
    graph.add_node("one", lambda state: {"count": state["count"] + 1})
    graph.add_node("two", lambda state: {"count": state["count"] + 1})
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    graph.add_edge("two", END)
    async with opened(kind.ours, database, redact=["*"]) as saver:
        compiled = graph.compile(checkpointer=saver, interrupt_before=["two"])
        await compiled.ainvoke({"count": 0}, told())
        assert (await compiled.ainvoke(None, told()))["count"] == 2
        assert await compiled.aupdate_state(told(), {"count": 7})
        found = await listed(saver, config())
        assert all(one.metadata.keys() <= {"source", "step", "parents", "run_id"} for one in found)
        assert {one.metadata["step"] for one in found} == {-1, 0, 1, 2, 3}
        assert saver.threads.get("thread").metadata == {}
    assert not is_planted(database)


@pytest.mark.parametrize(
    "redact", ["api_key", b"api_key", 7, [1], [""], ["api_key", "Step"], {"source"}, ["run_id"], ["parents"]], ids=repr
)
def test_what_cannot_be_left_out_is_refused(kind: Kind, database: str, redact: Any) -> None:
    with pytest.raises(ConfigError, match="redact"):
        kind.ours(database, redact=redact)


async def _no_hook(found: dict[str, Any]) -> dict[str, Any]:
    return found


async def test_hooks_that_cannot_be_used_are_refused(kind: Kind, database: str) -> None:
    with pytest.raises(ConfigError, match="coroutine"):
        kind.ours(database, redact=_no_hook)
    hooks: list[Any] = [
        lambda found: None,
        lambda found: list(found),
        lambda found: {},
        lambda found: {**found, "run_id": "mine"},
        lambda found: found["parents"].update(x="y") or found,
    ]
    for hook in hooks:
        async with opened(kind.ours, database, redact=hook) as saver:
            with pytest.raises(ConfigError, match="redact hook") as caught:
                await put(saver, secret=PLANT)
            assert PLANT not in str(caught.value)
            assert await listed(saver, None) == []


def test_settings_leave_keys_out(sqlite_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKPOINTER_URL", f"sqlite:///{sqlite_path}")
    monkeypatch.setenv("CHECKPOINTER_REDACT", '["*key*"]')
    with CheckpointerConfig().create() as saver:
        made = checkpoint()
        saver.put(told(Refresh_TOKEN="none"), made, metadata(), {})
    assert not is_planted(sqlite_path)
    with pytest.raises(ConfigError, match=r"redact.*step"):
        CheckpointerConfig(redact=["step"])


class Key(SecretStr):
    """A class of secrets of a user's own."""


class Login(BaseModel):
    name: str
    password: SecretStr


async def test_secrets_of_pydantic_in_the_state_are_stored_in_clear(kind: Kind, database: str) -> None:
    """As the official savers store them: a value comes back as it went in."""
    async with opened(kind.ours, database) as saver:
        where = await put(saver, values={"login": Login(name="joe", password=SecretStr(PLANT))})
        found = await saver.aget_tuple(where)
        assert found.checkpoint["channel_values"]["login"].password.get_secret_value() == PLANT
    assert is_planted(database)


VALUES = [
    SecretStr(PLANT),
    SecretBytes(PLANT.encode()),
    [1, {"a": SecretStr(PLANT)}],
    Login(name="joe", password=SecretStr(PLANT)),
    HumanMessage("hi", additional_kwargs={"key": SecretStr(PLANT)}),
    [HumanMessage("hi", id=str(at), additional_kwargs={"key": SecretStr(PLANT)}) for at in range(70)],
    {str(at): SecretStr(PLANT) for at in range(20)},
    {"view": bytearray(b"x"), "key": SecretStr(PLANT)},
]


async def test_secrets_of_pydantic_are_refused_when_asked(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, serde=Serializer(secrets="refuse")) as saver:
        where = await put(saver, values={"name": "joe"})
        for value in VALUES:
            with pytest.raises(EncodeError, match="Secret") as caught:
                await put(saver, where, {"login": value})
            assert caught.value.channel == "login" and PLANT not in str(caught.value)
            with pytest.raises(EncodeError, match="Secret"):
                await saver.aput_writes(where, [("login", value)], "task")
        clone = saver.with_allowlist([("tests", "Nothing")])
        with pytest.raises(EncodeError, match="Secret"):
            await put(clone, where, {"login": VALUES[0]})
    assert not is_planted(database)


def test_what_refuses_secrets_stores_none_and_reads_them() -> None:
    with pytest.raises(ConfigError, match="pickle"):
        Serializer(secrets="refuse", pickle_fallback=True)
    with pytest.raises(ConfigError, match="secrets"):
        Serializer(secrets="cover")  # type: ignore[arg-type]
    registered = Serializer(secrets="refuse", types=[Key])
    for value in (Key(PLANT), [Key(PLANT)], {Key(PLANT)}, {Key(PLANT): 1}, Send("node", Key(PLANT))):
        with pytest.raises(EncodeError, match=r"Key is not stored|set cannot be stored"):
            registered.dumps_typed(value)
    stored = Serializer().dumps_typed(SecretStr(PLANT))
    assert Serializer(secrets="refuse").loads_typed(stored).get_secret_value() == PLANT
