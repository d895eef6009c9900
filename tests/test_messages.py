"""Messages of a thread without its state: pages, windows, figures, and messages that are added without a graph."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import chain
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer, add_messages
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langgraph_checkpoint_dual import Cache, SqliteSaver
from langgraph_checkpoint_dual.errors import ConfigError, DecodeError, EncodeError
from langgraph_checkpoint_dual.postgres.transactions import BlockingTx, LoopTx
from langgraph_checkpoint_dual.sqlite.transactions import SqliteTx
from tests.support.checkpoints import checkpoint, config, metadata, put
from tests.support.savers import Kind, opened
from tests.support.tables import counts


class Talk:
    """A view of messages through one of its faces."""

    def __init__(self, saver: Any, face: str, thread: Any = "thread", **options: Any) -> None:
        self.saver, self.face = saver, face
        self.view = saver.messages(thread, **options)

    async def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        if self.face == "async":
            return await getattr(self.view, f"a{method}")(*args, **options)
        return getattr(self.view, method)(*args, **options)

    async def texts(self) -> list[str]:
        return [message.text for message in await self("last", 10_000)]


@pytest.fixture
def face(kind: Kind) -> str:
    """Each class through its own face; one test below drives each through the other."""
    return kind.face


@pytest.fixture
def talk(saver: Any, face: str) -> Callable[..., Talk]:
    """Views of the saver under test, through the face under test."""
    return lambda thread="thread", **options: Talk(saver, face, thread, **options)


@pytest.fixture
def memory() -> Iterator[SqliteSaver]:
    with SqliteSaver(":memory:") as found:
        yield found


def chat(length: int, text: str = "message") -> list[BaseMessage]:
    """Human and AI messages in turn."""
    kinds = (HumanMessage, AIMessage)
    return [kinds[at % 2](f"{text} {at}", id=f"m{at}") for at in range(length)]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each query has given to the package since."""
    counts: list[int] = []
    for kind in (SqliteTx, BlockingTx, LoopTx):

        async def fetch(self: Any, query: str, /, _fetch: Any = kind.fetch, **args: Any) -> Any:
            rows = await _fetch(self, query, **args)
            counts.append(len(rows))
            return rows

        monkeypatch.setattr(kind, "fetch", fetch)
    return counts


# --- Pages ---


async def test_pages_are_slices_of_the_list(talk: Callable[..., Talk]) -> None:
    messages = chat(50)
    view = talk()
    await view("append", messages[:30])
    await view("append", messages[30:])
    assert await view("count") == 50
    everything = await view("page", 100)
    assert [one.message for one in everything] == messages
    assert [one.idx for one in everything] == list(range(50))
    for limit, before, after in [
        (20, None, None),
        (7, 31, None),
        (7, None, 28),
        (50, 40, 10),
        (5, 12, 9),
        (0, None, None),
    ]:
        wanted = [
            one
            for one in everything
            if (before is None or one.idx < before) and one.idx > (-1 if after is None else after)
        ]
        assert await view("page", limit, before_idx=before, after_idx=after) == wanted[:limit]
        backwards = await view("page", limit=limit, before_idx=before, after_idx=after, reverse=True)
        assert backwards == wanted[::-1][:limit]
    assert await view("page", before_idx=5, after_idx=5) == []
    assert await view("page", after_idx=200) == []
    assert await view("last", 3) == messages[-3:]
    assert await view("last", 0) == []


async def test_each_class_through_its_other_face(kind: Kind, saver: Any) -> None:
    view = Talk(saver, "async" if kind.face == "blocking" else "blocking")
    messages = chat(40)
    await view("append", messages)
    await view("append", RemoveMessage("m3"))
    del messages[3]
    assert [one.message for one in await view("page", 100)] == messages
    assert await view("last", 2) == messages[-2:]
    assert await view("window", 10**6) == messages
    assert (await view("count"), (await view("stats")).messages) == (39, 39)


async def test_a_chat_is_scrolled_back_by_places(talk: Callable[..., Talk]) -> None:
    view = talk()
    await view("append", chat(45))
    seen: list[int] = []
    before = None
    while page := await view("page", 20, before_idx=before, reverse=True):
        seen += [one.idx for one in page]
        before = page[-1].idx
    assert seen == list(reversed(range(45)))


async def test_a_thread_that_does_not_exist_has_no_messages(talk: Callable[..., Talk]) -> None:
    view = talk()
    assert await view("page") == []
    assert await view("last", 5) == []
    assert await view("window", 1000, keep_system=True) == []
    assert await view("count") == 0
    assert (await view("stats"))[:5] == (0, {}, 0, 0, 0)
    await put(view.saver, values={"other": 1})
    assert await view("page") == []


@pytest.mark.parametrize("method", ["page", "window", "append"])
async def test_a_call_reads_only_what_it_returns(talk: Callable[..., Talk], fetched: list[int], method: str) -> None:
    calls = {
        "page": lambda view: view("page", 20, after_idx=40),
        "window": lambda view: view("window", 200),
        "append": lambda view: view("append", AIMessage("new", id="new")),
    }
    rows = []
    for length in (100, 10_000):
        view = talk(f"thread {length}")
        await view("append", chat(length))
        view.saver._cache.clear()
        fetched.clear()
        await calls[method](view)
        rows.append(sum(fetched))
    assert rows[0] == rows[1] <= 40


async def test_the_rest_of_the_state_is_not_read(talk: Callable[..., Talk], fetched: list[int]) -> None:
    await put(talk().saver, values={"messages": chat(10), "files": {f"file {n}": "x" * 200 for n in range(500)}})
    view = talk()
    fetched.clear()
    await view("last", 10)
    await view("append", "one more")
    assert sum(fetched) < 30
    found = await view.saver.aget_tuple(config())
    assert len(found.checkpoint["channel_values"]["files"]) == 500
    assert len(found.checkpoint["channel_values"]["messages"]) == 11


async def test_a_view_of_a_checkpoint_and_of_a_namespace(talk: Callable[..., Talk]) -> None:
    view = talk()
    first = await view("append", "one")
    await view("append", "two")
    inner = talk(config(checkpoint_ns="inner:1"))
    await inner("append", "within")
    early = talk(checkpoint_id=first["configurable"]["checkpoint_id"])
    assert (await view.texts(), await early.texts(), await inner.texts()) == (["one", "two"], ["one"], ["within"])
    assert await talk(first).texts() == ["one"]
    assert await talk(checkpoint_id="no such checkpoint").texts() == []
    fork = await early("append", "instead")
    assert await talk(fork).texts() == ["one", "instead"]
    assert await view.texts() == ["one", "instead"]
    assert await talk(first).texts() == ["one"]


async def test_other_channels_and_other_forms_of_messages(talk: Callable[..., Talk]) -> None:
    notes = [("user", "short"), {"role": "assistant", "content": "a dict"}, "a text"]
    await put(talk().saver, values={"notes": notes, "texts": ["one", "two"], "long": ["a text", "x" * 400]})
    assert await talk(channel="notes").texts() == ["short", "a dict", "a text"]
    assert [one.type for one in await talk(channel="notes")("last", 3)] == ["human", "ai", "human"]
    assert await talk(channel="texts").texts() == ["one", "two"]
    assert await talk(channel="long").texts() == ["a text", "x" * 400]
    assert (await talk(channel="long")("stats")).messages == 2


@pytest.mark.parametrize("value", [{"a": 1}, "text", 3, {str(n): "x" * 50 for n in range(50)}, "x" * 500], ids=repr)
async def test_a_channel_that_holds_no_list(memory: SqliteSaver, value: Any) -> None:
    await put(memory, values={"messages": value})
    view = memory.messages("thread")
    for call in (view.page, view.count, view.stats, lambda: view.append("more")):
        with pytest.raises(ConfigError, match=r"'messages' holds a (dict|str|int), not a list of messages"):
            call()


async def test_a_list_of_something_else(memory: SqliteSaver) -> None:
    await put(memory, values={"messages": [HumanMessage("hi"), datetime.now(timezone.utc)]})
    view = memory.messages("thread")
    assert view.count() == 2
    assert [one.message.text for one in view.page(1)] == ["hi"]
    with pytest.raises(ConfigError, match="element 1 of channel 'messages' is a datetime"):
        view.page()
    await put(memory, config("numbers"), {"messages": [1, 2]})
    with pytest.raises(ConfigError, match="cannot be added to what the channel holds"):
        memory.messages("numbers").append("hi")


@pytest.mark.parametrize(
    "call",
    [
        lambda saver: saver.messages(""),
        lambda saver: saver.messages(None),
        lambda saver: saver.messages("thread", channel=3),
        lambda saver: saver.messages("thread", checkpoint_id=3),
        lambda saver: saver.messages("thread").page(-1),
        lambda saver: saver.messages("thread").page(before_idx=-1),
        lambda saver: saver.messages("thread").page(after_idx="1"),
        lambda saver: saver.messages("thread").last(True),
        lambda saver: saver.messages("thread").window(-1),
        lambda saver: saver.messages("thread").append([]),
        lambda saver: saver.messages("thread").append(None),
        lambda saver: saver.messages("thread").append([3]),
        lambda saver: saver.messages("thread").append({"no": "message"}),
        lambda saver: saver.messages("thread").append(RemoveMessage("unknown")),
        lambda saver: saver.messages("thread", checkpoint_id="gone").append("to nothing"),
    ],
)
def test_what_cannot_be_used_is_refused(memory: SqliteSaver, call: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError):
        call(memory)
    assert list(memory.list(None)) == []


async def test_messages_with_other_serializers(kind: Kind, database: str, face: str) -> None:
    class Turned(JsonPlusSerializer):
        def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
            name, data = super().dumps_typed(obj)
            return f"turned {name}", data[::-1]

        def loads_typed(self, data: tuple[str, bytes]) -> Any:
            return super().loads_typed((data[0].removeprefix("turned "), data[1][::-1]))

    serdes = [EncryptedSerializer.from_pycryptodome_aes(key=b"sixteen byte key"), JsonPlusSerializer(), Turned()]
    for number, serde in enumerate(serdes):
        async with opened(kind.ours, database, serde=serde) as saver:
            view = Talk(saver, face, number)
            await view("append", chat(30))
            await view("append", [HumanMessage("changed", id="m7"), RemoveMessage("m3"), ("ai", "new")])
            wanted = add_messages(chat(30), [HumanMessage("changed", id="m7"), RemoveMessage("m3")])
            assert await view.texts() == [*(message.text for message in wanted), "new"]
            assert [one.message for one in await view("page", 3, after_idx=4)] == wanted[5:8]
            assert (await view("stats")).by_role == {"human": 16, "ai": 14}


async def test_a_damaged_message_harms_only_its_own_page(memory: SqliteSaver) -> None:
    view = memory.messages("thread")
    view.append(chat(40))
    with memory.cursor() as cursor:
        cursor.execute(
            "UPDATE dual_items SET data = CAST('x' || data AS BLOB) WHERE seq = (SELECT max(seq) FROM dual_items)"
        )
    assert len(view.page(20)) == 20
    with pytest.raises(DecodeError, match=r"thread_id 'thread'.*channel 'messages'.*damaged"):
        view.last(1)
    view.append("goes on")
    assert [message.text for message in view.last(1)] == ["goes on"]


async def test_a_damaged_time_is_noticed(memory: SqliteSaver) -> None:
    view = memory.messages("thread")
    view.append(chat(4))
    with memory.cursor() as cursor:
        cursor.execute("UPDATE dual_items SET added_at = added_at + 60000000")
    with pytest.raises(DecodeError, match="damaged"):
        view.page()


# --- Times ---


async def test_times_are_those_of_the_checkpoints_that_added_the_messages(talk: Callable[..., Talk]) -> None:
    view = talk()
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    parent = config()
    for day in range(3):
        messages = chat(2 * day + 2)
        made = checkpoint({"messages": messages}, ts=(start + timedelta(days=day)).isoformat())
        parent = await view.saver.aput(parent, made, metadata(step=day), made["channel_versions"])
    wanted = [start + timedelta(days=day) for day in (0, 0, 1, 1, 2, 2)]
    assert [one.added_at for one in await view("page")] == wanted
    stats = await view("stats")
    assert (stats.started_at, stats.last_at) == (wanted[0], wanted[-1])
    await view.saver.acopy_thread("thread", "copy")
    await view.saver.aprune(["thread", "copy"])
    for thread in ("thread", "copy"):
        assert [one.added_at for one in await talk(thread)("page")] == wanted
    await view("append", HumanMessage("changed", id="m0"))
    assert [one.added_at for one in await view("page")][1:] == wanted[1:]


@pytest.mark.parametrize(
    ("ts", "wanted"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=timezone.utc)),
        ("2026-01-01T02:00:00.000001+02:00", datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc)),
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=timezone.utc)),
        ("yesterday", None),
        (None, None),
    ],
)
async def test_times_as_checkpoints_may_have_them(memory: SqliteSaver, ts: Any, wanted: datetime | None) -> None:
    made = checkpoint({"messages": chat(2)}, ts=ts)
    memory.put(config(), made, metadata(), made["channel_versions"])
    view = memory.messages("thread")
    assert [one.added_at for one in view.page()] == [wanted, wanted]
    assert view.stats()[5:7] == (wanted, wanted)


async def test_a_first_short_message_has_its_own_time(memory: SqliteSaver) -> None:
    view = memory.messages("thread")
    view.append("hi")
    first = view.page()[0].added_at
    view.append("hello")
    assert view.page()[0].added_at == first


# --- Figures ---


async def test_stats(talk: Callable[..., Talk]) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    call = {"name": "look", "args": {}, "id": "c", "type": "tool_call"}
    await talk()(
        "append",
        [
            SystemMessage("be brief"),
            *(AIMessage("yes", usage_metadata=usage) for _ in range(600)),
            AIMessage("", tool_calls=[call]),
            ToolMessage("seen", tool_call_id="c"),
            ChatMessage("aside", role="critic"),
        ],
    )
    stats = await talk()("stats")
    assert stats[:5] == (604, {"system": 1, "ai": 601, "tool": 1, "critic": 1}, 6000, 3000, 9000)
    assert stats.started_at == stats.last_at
    assert abs(stats.last_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert 604 * 50 < stats.bytes < 604 * 300


# --- Token windows ---


def counted(messages: list[BaseMessage]) -> int:
    """One token for each character, and three for the whole."""
    return 3 + sum(len(message.text) for message in messages) if messages else 0


def is_whole(messages: list[BaseMessage]) -> bool:
    """Whether each result of a tool is after its call."""
    called: set[Any] = set()
    for message in messages:
        if isinstance(message, AIMessage):
            called |= {call["id"] for call in message.tool_calls}
        elif isinstance(message, ToolMessage) and message.tool_call_id not in called:
            return False
    return True


@st.composite
def transcripts(draw: st.DrawFn) -> list[BaseMessage]:
    messages: list[BaseMessage] = [SystemMessage("s" * draw(st.integers(0, 9)))] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(0, 25))):
        messages.append(HumanMessage("h" * draw(st.integers(0, 12))))
        if draw(st.booleans()):
            ids = [f"{turn} {n}" for n in range(draw(st.integers(1, 3)))]
            calls = [{"name": "look", "args": {}, "id": one, "type": "tool_call"} for one in ids]
            if draw(st.integers(0, 9)):  # or it was removed
                messages.append(AIMessage("c", tool_calls=calls))
            messages += [ToolMessage("t" * draw(st.integers(0, 9)), tool_call_id=one) for one in ids]
        messages.append(AIMessage("a" * draw(st.integers(0, 9))))
    for at, message in enumerate(messages):
        message.id = str(at)
    return messages


@settings(max_examples=150)
@given(transcripts(), st.integers(0, 250), st.booleans(), st.sampled_from([None, "human"]))
def test_a_window_is_the_longest_end_that_fits(
    messages: list[BaseMessage], budget: int, keep_system: bool, start_on: str | None
) -> None:
    with SqliteSaver(":memory:") as saver:
        view = saver.messages("thread")
        if messages:
            view.append(messages)
        system = messages[:1] if keep_system and messages and messages[0].type == "system" else []
        try:
            found = view.window(budget, count_tokens=counted, keep_system=keep_system, start_on=start_on)
        except ConfigError:
            assert counted(system) > budget
            return
        rest = messages[len(system) :]
        ends = [rest[at:] for at in range(len(rest) + 1)]
        fitting = [
            system + end
            for end in ends
            if counted(system + end) <= budget
            and is_whole(end)
            and (not end or start_on is None or end[0].type == start_on)
        ]
        assert found == max(fitting, key=len)


async def test_a_window_counts_as_langchain_does_unless_told_otherwise(talk: Callable[..., Talk]) -> None:
    view = talk()
    messages = chat(300, "some words that take tokens")
    await view("append", [SystemMessage("be brief", id="system"), *messages])
    found = await view("window", 500)
    assert found == messages[-len(found) :]
    assert count_tokens_approximately(found) <= 500 < count_tokens_approximately(messages[-len(found) - 1 :])
    kept = await view("window", 500, keep_system=True)
    assert kept[0].text == "be brief"
    assert kept[1:] == messages[-len(kept) + 1 :]
    assert await view("window", 10**9) == await view("last", 301)
    assert await view("window", 10**9, keep_system=True) == await view("last", 301)
    assert await view("window", 0) == []


async def test_an_error_of_the_counter_reaches_the_caller(talk: Callable[..., Talk]) -> None:
    def broken(messages: list[BaseMessage]) -> int:
        raise RuntimeError("no such model")

    await talk()("append", "hi")
    with pytest.raises(RuntimeError, match="no such model"):
        await talk()("window", 10, count_tokens=broken)


async def test_the_counter_may_use_the_saver(saver: Any) -> None:
    """Nothing of the saver is held while it runs."""
    view = saver.messages("thread")
    view.append(chat(100))

    def counting(messages: list[BaseMessage]) -> int:
        return view.count() and len(messages)

    assert len(view.window(40, count_tokens=counting)) == 40


# --- Append ---


async def test_all_forms_of_a_message_can_be_appended(talk: Callable[..., Talk]) -> None:
    view = talk()
    mine = HumanMessage("an object")
    forms: list[Any] = [
        mine,
        ("ai", "a pair"),
        {"role": "user", "content": "a dict"},
        "a text",
        [AIMessageChunk("a chunk"), ("system", "in a list")],
    ]
    for form in forms:
        await view("append", form)
    found = await view("last", 10)
    kinds = [HumanMessage, AIMessage, HumanMessage, HumanMessage, AIMessage, SystemMessage]
    assert list(map(type, found)) == kinds
    assert [message.text for message in found] == ["an object", "a pair", "a dict", "a text", "a chunk", "in a list"]
    assert all(UUID(message.id) for message in found)
    assert len({message.id for message in found}) == 6
    assert found[0] == mine


async def test_a_message_that_cannot_be_stored(talk: Callable[..., Talk]) -> None:
    view = talk()
    await view("append", "before")
    with pytest.raises(EncodeError, match="channel 'messages'"):
        await view("append", HumanMessage("bad", additional_kwargs={"f": lambda: None}))
    assert await view.texts() == ["before"]


async def test_each_append_is_a_checkpoint(talk: Callable[..., Talk]) -> None:
    view = talk({"configurable": {"thread_id": "thread", "user_id": "ann"}, "metadata": {"topic": "tea"}})
    first = await view("append", "one")
    second = await view("append", "two")
    found = await view.saver.aget_tuple(config())
    assert found.config == second
    assert found.parent_config == first
    assert {key: found.metadata[key] for key in ("source", "step", "parents", "user_id", "topic")} == {
        "source": "update", "step": 1, "parents": {}, "user_id": "ann", "topic": "tea",
    }  # fmt: skip
    known = view.saver.threads.get("thread")
    assert (known.user_id, known.checkpoints, known.metadata, known.status) == ("ann", 2, {"topic": "tea"}, "idle")


few_ids = st.sampled_from(["a", "b", "c", "d", "é", "\x00", "'\"", "e" * 50])
messages_with_few_ids = st.lists(
    st.one_of(
        st.tuples(st.text(max_size=5), st.none() | few_ids).map(lambda made: HumanMessage(made[0], id=made[1])),
        st.tuples(st.text(max_size=5), few_ids).map(lambda made: AIMessage(made[0], id=made[1])),
        (few_ids | st.just(REMOVE_ALL_MESSAGES)).map(RemoveMessage),
    ),
    min_size=1,
    max_size=6,
)


def plain(messages: list[Any]) -> list[Any]:
    """Messages without the ids that were made up."""
    return [
        (message.type, message.text, message.id if len(message.id) < 36 else "-" * (len(message.id) > 36))
        for message in messages
    ]


@settings(max_examples=100)
@given(st.lists(messages_with_few_ids, max_size=12), st.booleans())
def test_append_means_what_add_messages_means(appends: list[list[Any]], encrypted: bool) -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"sixteen byte key") if encrypted else None
    with SqliteSaver(":memory:", serde=serde, cache=Cache(0)) as saver:
        view = saver.messages("thread")
        wanted: list[Any] = []
        for some in appends:
            try:
                wanted = add_messages(wanted, [message.model_copy() for message in some])  # type: ignore[assignment]
            except ValueError:
                with pytest.raises(ConfigError, match="doesn't exist"):
                    view.append([message.model_copy() for message in some])
            else:
                view.append([message.model_copy() for message in some])
            assert plain(view.last(100)) == plain(wanted)
            stored = saver.get_tuple(config())
            assert not wanted or plain(stored.checkpoint["channel_values"]["messages"]) == plain(wanted)


async def test_edits_of_a_long_list_keep_its_order(talk: Callable[..., Talk]) -> None:
    messages = chat(200)
    view = talk()
    await view("append", messages)
    edits = [
        RemoveMessage("m0"),
        AIMessage("changed", id="m100"),
        RemoveMessage("m199"),
        RemoveMessage("m50"),
        HumanMessage("new", id="n"),
    ]
    await view("append", edits)
    assert await view("last", 1000) == add_messages(messages, edits)
    again = [HumanMessage("again", id="m101"), AIMessage("once more", id="m100"), RemoveMessage("n")]
    await view("append", again)
    assert await view("last", 1000) == add_messages(add_messages(messages, edits), again)


async def test_of_messages_that_are_appended_at_once_none_is_lost(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as one, opened(kind.ours, database) as other:
        views = [one.messages("thread"), other.messages("thread")]
        with ThreadPoolExecutor(4) as pool:
            loop = asyncio.get_running_loop()
            blocking = [loop.run_in_executor(pool, views[n % 2].append, f"blocking {n}") for n in range(4)]
            awaited = [views[n % 2].aappend(f"awaited {n}") for n in range(4)]
            await asyncio.gather(*blocking, *awaited)
        wanted = {f"{how} {n}" for how in ("blocking", "awaited") for n in range(4)}
        assert {message.text for message in views[0].last(100)} == wanted
        assert views[0].count() == 8


def test_ids_grow_even_where_clocks_do_not(memory: SqliteSaver) -> None:
    ahead = "3fffffff-ffff-6fff-8000-00000000000f"
    made = checkpoint({"messages": chat(2)}, id=ahead)
    memory.put(config(), made, metadata(), made["channel_versions"])
    view = memory.messages("thread")
    stored = [view.append(f"more {n}")["configurable"]["checkpoint_id"] for n in range(3)]
    assert [ahead, *stored] == sorted([ahead, *stored])
    assert view.count() == 5
    assert stored[0] == "40000000-0000-6000-8000-00000000000f"


async def test_a_thread_that_was_deleted_begins_anew(talk: Callable[..., Talk]) -> None:
    view = talk()
    await view("append", "old")
    await view.saver.adelete_thread("thread")
    assert await view("count") == 0
    await view("append", "new")
    assert await view.texts() == ["new"]


async def test_append_while_a_thread_is_pruned(saver: Any) -> None:
    view = saver.messages("thread")
    await view.aappend(chat(50))

    async def prune() -> None:
        for _ in range(10):
            await saver.aprune(["thread"])

    await asyncio.gather(prune(), *(view.aappend(f"more {n}") for n in range(10)))
    assert view.count() == 60
    assert (await saver.aget_tuple(config())).checkpoint["channel_values"]["messages"][:50] == chat(50)


async def test_append_to_a_saver_that_keeps_only_the_latest(kind: Kind, database: str, face: str) -> None:
    async with opened(kind.ours, database, history="latest") as saver:
        view = Talk(saver, face)
        for turn in range(5):
            await view("append", chat(2, f"turn {turn}"))
            await view("append", HumanMessage("new", id=f"new {turn}"))
        assert saver.threads.get("thread").checkpoints == 1
        assert counts(database)["dual_items"] == 7
        times = [one.added_at for one in await view("page")]
        assert len(set(times)) == 6
        graph = two_nodes(saver, DeltaState)
        await asyncio.to_thread(graph.invoke, said("hello"), config())
        await view("append", HumanMessage("after", id="after"))
        wanted = graph.get_state(config()).values["messages"]
        assert await view("last", 100) == wanted
        assert [message.id for message in wanted[-3:]] == ["hello", "a8", "after"]


async def test_a_thread_that_the_official_saver_left(kind: Kind, database: str, face: str) -> None:
    for schema, name in ((State, "plain"), (DeltaState, "delta")):
        async with opened(kind.official, database) as theirs:
            graph = two_nodes(theirs, schema)
            for turn in range(3):
                await graph.ainvoke(said(f"turn {turn}"), config(name)) if kind.face == "async" else graph.invoke(
                    said(f"turn {turn}"), config(name)
                )
        async with opened(kind.ours, database) as saver:
            graph = two_nodes(saver, schema)
            view = Talk(saver, face, name)
            before = graph.get_state(config(name)).values
            assert [one.message for one in await view("page")] == before["messages"]
            assert await view("count") == 6
            await view("append", HumanMessage("by hand", id="by hand"))
            await asyncio.to_thread(graph.invoke, said("and on"), config(name))
            after = graph.get_state(config(name)).values
            assert after["turns"] == before["turns"] + 1 == 4
            texts = [message.text for message in after["messages"]]
            assert texts == [*(one.text for one in before["messages"]), "by hand", "and on", "8 so far"]
            assert await view.texts() == texts


# --- Going on with a graph ---


class State(MessagesState, total=False):
    turns: int


class DeltaState(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)]
    turns: int


def two_nodes(saver: Any, schema: Any = State) -> Any:
    def think(state: Any) -> Any:
        return {"turns": state.get("turns", 0) + 1}

    def answer(state: Any) -> Any:
        return {"messages": [AIMessage(f"{len(state['messages'])} so far", id=f"a{len(state['messages'])}")]}

    builder = StateGraph(schema).add_node(think).add_node(answer)
    builder.add_edge(START, "think").add_edge("think", "answer").add_edge("answer", END)
    return builder.compile(checkpointer=saver)


def asking(saver: Any, schema: Any = State) -> Any:
    def ask(state: Any) -> Any:
        return {"messages": [AIMessage(f"you said {interrupt('well?')} after {len(state['messages'])}", id="asked")]}

    builder = StateGraph(schema).add_node(ask).add_edge(START, "ask").add_edge("ask", END)
    return builder.compile(checkpointer=saver)


def snapshot(graph: Any, thread: Any) -> Any:
    """What a user sees of a thread's latest state."""
    state = graph.get_state(thread)
    counters = state.metadata.get("counters_since_delta_snapshot") if state.metadata else None
    step = state.metadata["step"] if state.metadata else None
    values = {**state.values, "messages": [(one.type, one.text, one.id) for one in state.values.get("messages", [])]}
    return values, state.next, step, counters, [(task.name, task.interrupts) for task in state.tasks]


Run = Callable[[Any, Any], Any]


def said(text: str) -> Any:
    return {"messages": [HumanMessage(text, id=text)]}


@pytest.mark.parametrize("schema", [State, DeltaState])
@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_graph_goes_on_as_after_update_state(saver: Any, schema: Any, turns: int) -> None:
    graph = two_nodes(saver, schema)
    added = HumanMessage("by hand", id="by hand")
    seen: list[Any] = []
    for how in ("append", "update_state"):
        thread = config(how)
        await asyncio.to_thread(play, graph, thread, turns)
        if how == "append":
            saver.messages(how).append(added)
        else:
            graph.update_state(thread, {"messages": [added]}, as_node="answer")
        records = [snapshot(graph, thread)]
        for text in ("and then", "and at last"):
            await asyncio.to_thread(graph.invoke, said(text), thread)
            records.append(snapshot(graph, thread))
        records.append([message.text for message in saver.messages(how).last(100)])
        history = list(graph.get_state_history(thread))
        records.append([[m.text for m in one.values.get("messages", [])] for one in history])
        seen.append(records)
    assert seen[0] == seen[1]
    assert "by hand" in seen[0][-2]


def play(graph: Any, thread: Any, turns: int) -> None:
    for turn in range(turns):
        graph.invoke(said(f"turn {turn}"), thread)


@pytest.mark.parametrize("schema", [State, DeltaState])
async def test_a_graph_that_waits_still_waits_after_append(saver: Any, schema: Any) -> None:
    graph = asking(saver, schema)
    seen = []
    for how in ("append", "update_state"):
        thread = config(how)
        graph.invoke(said("hello"), thread)
        if how == "append":
            saver.messages(how).append(HumanMessage("wait", id="wait"))
        else:
            graph.update_state(thread, said("wait"), as_node=START)
        assert graph.get_state(thread).next == ("ask",)
        graph.invoke(Command(resume="yes"), thread)
        seen.append([message.text for message in graph.get_state(thread).values["messages"]])
    assert seen[0] == seen[1] == ["hello", "wait", "you said yes after 2"]


async def test_a_graph_with_a_delta_channel_takes_over_a_conversation_without_one(saver: Any) -> None:
    view = saver.messages("thread")
    view.append(chat(6))
    graph = two_nodes(saver, DeltaState)
    for turn in range(3):
        await asyncio.to_thread(graph.invoke, said(f"turn {turn}"), config())
        view.append(HumanMessage("between", id=f"between {turn}"))
        wanted = graph.get_state(config()).values["messages"]
        assert view.last(100) == wanted
        assert len(wanted) == 6 + 3 * (turn + 1)


# --- Delta channels ---


async def test_the_messages_of_a_delta_channel(saver: Any, face: str) -> None:
    graph = two_nodes(saver, DeltaState)
    for turn in range(7):
        await asyncio.to_thread(graph.invoke, said(f"turn {turn}"), config())
        wanted = graph.get_state(config()).values["messages"]
        view = Talk(saver, face)
        page = await view("page", 100)
        assert [one.message for one in page] == wanted
        times = [one.added_at for one in page]
        assert None not in times
        assert times == sorted(times)
        assert len(set(times)) == len(times)
        assert await view("last", 3) == wanted[-3:]
        assert (await view("stats")).by_role == {"human": turn + 1, "ai": turn + 1}
    for snapshot_ in list(graph.get_state_history(config()))[::3]:
        assert await Talk(saver, face, snapshot_.config)("last", 100) == snapshot_.values.get("messages", [])


async def test_append_to_a_delta_channel_beside_other_children(saver: Any) -> None:
    graph = two_nodes(saver, DeltaState)
    for turn in range(3):
        await asyncio.to_thread(graph.invoke, said(f"turn {turn}"), config())
    for at, old in enumerate(list(graph.get_state_history(config()))):
        before = old.values.get("messages", [])
        fork = saver.messages(old.config).append(HumanMessage("fork", id=f"fork {at}"))
        assert graph.get_state(fork).values["messages"] == [*before, HumanMessage("fork", id=f"fork {at}")]
        assert graph.get_state(old.config).values.get("messages", []) == before


async def test_append_refuses_to_guess_what_other_delta_channels_hold(saver: Any) -> None:
    class Two(DeltaState, total=False):
        files: Annotated[list[str], DeltaChannel(lambda state, writes: [*state, *chain(*writes)])]

    def work(state: Any) -> Any:
        return {"files": ["done"]}

    def wait(state: Any) -> Any:
        interrupt("well?")

    builder = StateGraph(Two).add_node(work).add_node(wait)
    builder.add_edge(START, "work").add_edge(START, "wait")
    graph = builder.compile(checkpointer=saver)
    await asyncio.to_thread(graph.invoke, {**said("hello"), "files": ["first"]}, config())
    view = saver.messages("thread")
    with pytest.raises(ConfigError, match="in the middle of a step that changed files"):
        view.append("meanwhile")
    await asyncio.to_thread(graph.invoke, Command(resume="yes"), config())
    view.append("afterwards")
    assert graph.get_state(config()).values["files"] == ["first", "done"]
    assert [message.text for message in graph.get_state(config()).values["messages"]] == ["hello", "afterwards"]


def newest_first(state: Any, writes: Any) -> Any:
    for write in writes:
        state = [*(write if isinstance(write, list) else [write]), *state]
    return state


class Turned(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], DeltaChannel(newest_first)]


async def test_a_delta_channel_with_a_reducer_of_its_own(saver: Any) -> None:
    builder = StateGraph(Turned).add_node("answer", lambda state: {"messages": [AIMessage("yes", id="yes")]})
    graph = builder.add_edge(START, "answer").compile(checkpointer=saver)
    await asyncio.to_thread(graph.invoke, said("hello"), config())
    view = saver.messages("thread", reducer=newest_first)
    assert [message.text for message in view.last(10)] == ["yes", "hello"]
    view.append("more")
    assert [message.text for message in view.last(10)] == ["more", "yes", "hello"]
    assert [message.text for message in graph.get_state(config()).values["messages"]] == ["more", "yes", "hello"]


def test_each_method_has_its_other_face() -> None:
    from langgraph_checkpoint_dual.conversation import Conversation

    methods = {name: one for name, one in inspect.getmembers(Conversation, inspect.isfunction) if name[0] != "_"}
    blocking = {name for name, one in methods.items() if not inspect.iscoroutinefunction(one)}
    assert {f"a{name}" for name in blocking} == methods.keys() - blocking
    for name in blocking:
        assert str(inspect.signature(methods[name])) == str(inspect.signature(methods[f"a{name}"]))
