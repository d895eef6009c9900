"""Values as items: whatever is done to a channel comes back exactly, and costs what was changed.

Every answer is compared with what langgraph's own serializer makes of the same values; what is stored is counted in the
tables themselves.
"""

from __future__ import annotations

import copy
import json
import re
import sqlite3
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from langgraph_checkpoint_dual import Serializer
from langgraph_checkpoint_dual.cache import Cache
from langgraph_checkpoint_dual.core.checkpoints import slots_of
from langgraph_checkpoint_dual.core.items import Manifest
from langgraph_checkpoint_dual.postgres import PostgresSaver
from langgraph_checkpoint_dual.sqlite import SqliteSaver
from tests.support.checkpoints import checkpoint, config, listed, metadata, put
from tests.support.exact import content, exact, keyed, messages, plain, text
from tests.support.savers import Kind, opened
from tests.support.tables import counts, named_rows


@dataclass
class Note:
    """A class of a user's own."""

    title: str
    tags: list[Any] = field(default_factory=list)


class Plan(BaseModel):
    """A model of a user's own."""

    title: str
    steps: list[Any] = []


class Zipped:
    """A user's own serializer, which knows nothing of ours."""

    def __init__(self) -> None:
        self._inner = JsonPlusSerializer()

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        name, data = self._inner.dumps_typed(obj)
        return f"zip-{name}", zlib.compress(data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return self._inner.loads_typed((data[0].removeprefix("zip-"), zlib.decompress(data[1])))


KEY = b"0123456789abcdef"
SERDES: dict[str, Callable[[], Any]] = {
    "default": Serializer,
    "langgraph": JsonPlusSerializer,
    "encrypted": lambda: EncryptedSerializer.from_pycryptodome_aes(serde=Serializer(), key=KEY),
    "encrypted langgraph": lambda: EncryptedSerializer.from_pycryptodome_aes(key=KEY),
    "custom": Zipped,
}
MIXED = ("messages", "list", "dict", "files")
official = JsonPlusSerializer()
thread_numbers = count()


def stored_officially(value: Any) -> Any:
    return official.loads_typed(official.dumps_typed(value))


short_list = st.lists(plain, max_size=2)
note = st.builds(Note, text, short_list) | st.builds(Plan, title=text, steps=short_list)
long_text = text.map(lambda one: f"{one}, and enough words to be worth an item of its own")
human = st.builds(HumanMessage, content | long_text, additional_kwargs=keyed, id=st.none() | text)
equals = st.sampled_from([1, True, 1.0, 0, False, 0.0, -0.0])


@st.composite
def elements(draw: Any) -> Any:
    """One element of a list; a function, because the text of all that it draws from is too long to show."""
    return draw(st.one_of(messages, human, plain, keyed, note, long_text, equals))


@st.composite
def plain_values(draw: Any) -> Any:
    return draw(plain)


element, extras = elements(), plain_values()
positions = st.integers(0, 10**6)


def at(position: int, values: list[Any]) -> int:
    return position % len(values)


def looks_the_same(value: Any) -> Any:
    """Another value that is `==` this one, or nearly: the type is all that tells them apart."""
    chain = {bool: int, int: float, float: bool}
    return chain[type(value)](value) if type(value) in chain and abs(value) < 2**52 else value


def changed(value: Any, extra: Any) -> Any:
    """Change a value in place, somewhere inside if it has an inside; a value that cannot change is replaced."""
    if isinstance(value, HumanMessage) and isinstance(value.content, list):
        value.content.append({"type": "text", "text": "more"})
    elif isinstance(value, AIMessage):
        value.response_metadata["more"] = extra
    elif isinstance(value, ToolMessage):
        value.artifact = extra
    elif isinstance(value, BaseMessage):
        value.additional_kwargs["deep"] = {"er": [extra, *value.additional_kwargs.get("deep", {}).get("er", [])]}
    elif isinstance(value, Note):
        value.tags.append(extra)
    elif isinstance(value, Plan):
        value.steps.append(extra)
    elif isinstance(value, dict):
        first = next(iter(value), "key")
        value[first] = changed(value.get(first), extra)
    elif isinstance(value, list) and value:
        value[-1] = changed(value[-1], extra)
    elif isinstance(value, list):
        value.append(extra)
    else:
        return looks_the_same(value)
    return value


class Branch:
    """One line of history: its latest checkpoint, and the values that a run holds and changes."""

    def __init__(self, latest: Any, values: dict[str, Any], versions: dict[str, str]) -> None:
        self.latest, self.values, self.versions = latest, values, versions


class Edits(RuleBasedStateMachine):
    """Runs that change their values in every way, over two savers that take turns and forget what they know."""

    savers: tuple[Any, Any]

    @initialize(first=st.lists(element, max_size=8))
    def begin(self, first: list[Any]) -> None:
        self.place = config(f"thread {next(thread_numbers)}")
        self.expected: dict[str, Any] = {}
        self.configs: dict[str, Any] = {}
        files = {f"file {number}.txt": f"what is in file {number}" for number in range(20)}
        values = {"messages": list(first), "list": [], "files": files, "dict": {}, "scalar": 1}
        self.branches = [Branch(self.place, values, {})]
        for branch in self.branches:
            for channel in values:
                self._touch(branch, channel)
            self._store(branch, 0)

    def _branch(self, which: int) -> Branch:
        return self.branches[at(which, self.branches)]

    def _touch(self, branch: Branch, channel: str) -> None:
        branch.versions[channel] = self.savers[0].get_next_version(branch.versions.get(channel), None)

    def _list(self, branch: Branch, channel: str) -> list[Any]:
        """The channel's list; it becomes one if it is none."""
        self._touch(branch, channel)
        if not isinstance(branch.values[channel], list):
            branch.values[channel] = list(branch.values.get(channel) or [])
        found: list[Any] = branch.values[channel]
        return found

    def _dict(self, branch: Branch, channel: str) -> dict[str, Any]:
        self._touch(branch, channel)
        if not isinstance(branch.values[channel], dict):
            branch.values[channel] = {str(place): one for place, one in enumerate(branch.values[channel])}
        found: dict[str, Any] = branch.values[channel]
        return found

    channels = st.sampled_from(MIXED)
    lists = st.sampled_from(["messages", "messages", "list", "dict"])

    @rule(which=positions, channel=lists, new=st.lists(element, max_size=5))
    def append(self, which: int, channel: str, new: list[Any]) -> None:
        self._list(self._branch(which), channel).extend(new)

    @rule(which=positions, channel=lists, place=positions, new=element)
    def replace(self, which: int, channel: str, place: int, new: Any) -> None:
        values = self._list(self._branch(which), channel)
        if values:
            values[at(place, values)] = new

    @rule(which=positions, channel=lists, place=positions, new=element)
    def insert(self, which: int, channel: str, place: int, new: Any) -> None:
        values = self._list(self._branch(which), channel)
        values.insert(place % (len(values) + 1), new)

    @rule(which=positions, channel=lists, place=positions)
    def remove(self, which: int, channel: str, place: int) -> None:
        values = self._list(self._branch(which), channel)
        if values:
            del values[at(place, values)]

    @rule(which=positions, channel=lists, left=st.integers(0, 4))
    def trim(self, which: int, channel: str, left: int) -> None:
        branch = self._branch(which)
        values = self._list(branch, channel)
        branch.values[channel] = values[max(0, len(values) - left) :]

    @rule(which=positions, channel=lists, random=st.randoms(use_true_random=False))
    def reorder(self, which: int, channel: str, random: Any) -> None:
        random.shuffle(self._list(self._branch(which), channel))

    @rule(which=positions, channel=lists, place=positions, times=st.integers(1, 3))
    def repeat(self, which: int, channel: str, place: int, times: int) -> None:
        """The very same object stands in the list several times."""
        values = self._list(self._branch(which), channel)
        if values:
            values.extend([values[at(place, values)]] * times)

    @rule(which=positions, source=lists, into=lists, place=positions)
    def share(self, which: int, source: str, into: str, place: int) -> None:
        """The very same object stands in two channels."""
        branch = self._branch(which)
        values = self._list(branch, source)
        if values:
            self._list(branch, into).append(values[at(place, values)])

    @rule(which=positions, channel=channels, place=positions, extra=extras)
    def mutate(self, which: int, channel: str, place: int, extra: Any) -> None:
        branch = self._branch(which)
        values = branch.values[channel]
        if isinstance(values, list) and values:
            values[at(place, values)] = changed(values[at(place, values)], copy.deepcopy(extra))
        elif isinstance(values, dict) and values:
            key = list(values)[at(place, list(values))]
            values[key] = changed(values[key], copy.deepcopy(extra))
        for one in branch.values:  # the object may stand in any of them
            self._touch(branch, one)

    @rule(which=positions, channel=st.sampled_from(["files", "dict", "list"]), key=text, new=element)
    def set_entry(self, which: int, channel: str, key: str, new: Any) -> None:
        self._dict(self._branch(which), channel)[key] = new

    @rule(which=positions, channel=st.sampled_from(["files", "dict"]), place=positions)
    def drop_entry(self, which: int, channel: str, place: int) -> None:
        values = self._dict(self._branch(which), channel)
        if values:
            del values[list(values)[at(place, list(values))]]

    @rule(which=positions, channel=st.sampled_from(["files", "dict"]))
    def turn_over(self, which: int, channel: str) -> None:
        branch = self._branch(which)
        branch.values[channel] = dict(reversed(self._dict(branch, channel).items()))

    @rule(which=positions, channel=st.sampled_from(["scalar", "list"]), new=element)
    def become(self, which: int, channel: str, new: Any) -> None:
        """A channel takes a value of any kind."""
        branch = self._branch(which)
        self._touch(branch, channel)
        branch.values[channel] = new if channel == "scalar" else [new]

    @rule(which=positions, saver=st.integers(0, 1))
    def store(self, which: int, saver: int) -> None:
        self._store(self._branch(which), saver)

    @rule(saver=st.integers(0, 1))
    def evict(self, saver: int) -> None:
        self.savers[saver]._cache.clear()

    @rule(which=positions, saver=st.integers(0, 1))
    def resume(self, which: int, saver: int) -> None:
        """A run begins: it holds what it has read."""
        branch = self._branch(which)
        found = self._found(branch.latest, saver)
        branch.values = found.checkpoint["channel_values"]
        branch.versions = dict(found.checkpoint["channel_versions"])

    @precondition(lambda self: len(self.branches) < 4)
    @rule(which=positions, saver=st.integers(0, 1))
    def fork(self, which: int, saver: int) -> None:
        start = self.configs[list(self.configs)[at(which, list(self.configs))]]
        found = self._found(start, saver).checkpoint
        self.branches.append(Branch(start, found["channel_values"], dict(found["channel_versions"])))

    @rule(which=positions, saver=st.integers(0, 1))
    def read_older(self, which: int, saver: int) -> None:
        ids = list(self.configs)
        self._found(self.configs[ids[at(which, ids)]], saver)

    def _store(self, branch: Branch, saver: int) -> None:
        made = checkpoint()
        made["channel_values"], made["channel_versions"] = branch.values, dict(branch.versions)
        now = exact(stored_officially(branch.values))
        branch.latest = self.savers[saver].put(branch.latest, made, metadata(), dict(branch.versions))
        self.expected[made["id"]], self.configs[made["id"]] = now, branch.latest
        self._found(branch.latest, saver)
        self._found(branch.latest, 1 - saver)

    def _found(self, where: Any, saver: int) -> Any:
        found = self.savers[saver].get_tuple(where)
        assert found is not None
        self._check(found)
        return found

    def _check(self, found: Any) -> None:
        values = dict(found.checkpoint["channel_values"])
        assert exact(values) == self.expected[found.checkpoint["id"]]

    def teardown(self) -> None:
        if not hasattr(self, "expected"):
            return
        for saver in self.savers:
            history = list(saver.list(self.place))
            assert [one.checkpoint["id"] for one in history] == sorted(self.expected, reverse=True)
            for found in history:
                self._check(found)


def run_edits(savers: tuple[Any, Any], *, examples: int, steps: int) -> None:
    machine = type("EditsOfTwo", (Edits,), {"savers": savers})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


@pytest.mark.parametrize("serde", SERDES)
def test_any_edit_is_stored_on_sqlite_as_langgraph_would(serde: str, sqlite_path: str) -> None:
    with (
        SqliteSaver(sqlite_path, serde=SERDES[serde](), synchronous="OFF") as one,
        SqliteSaver(sqlite_path, serde=SERDES[serde](), synchronous="OFF") as other,
    ):
        run_edits((one, other), examples=40 if serde == "default" else 15, steps=30)


@pytest.mark.parametrize("serde", ["default", "encrypted"])
def test_any_edit_is_stored_on_postgres_as_langgraph_would(serde: str, postgres_uri: str) -> None:
    with (
        PostgresSaver(postgres_uri, serde=SERDES[serde]()) as one,
        PostgresSaver(postgres_uri, serde=SERDES[serde]()) as other,
    ):
        run_edits((one, other), examples=6, steps=25)


# --- small, exact cases ---


def words(number: int | str) -> HumanMessage:
    return HumanMessage(f"message {number}, and enough words to be worth an item", id=str(number))


def chat(length: int) -> list[BaseMessage]:
    return [words(number) for number in range(length)]


async def values_of(saver: Any, where: Any) -> Any:
    found = await saver.aget_tuple(where)
    return found and found.checkpoint["channel_values"]


@pytest.mark.parametrize(
    "chain", [(1, True, 1.0, 1), (0.0, -0.0, 0, False), ("1", b"1", bytearray(b"1"), b"1", 1), (None, [], {}, "")]
)
async def test_a_value_that_only_changes_its_type_is_stored_anew(saver: Any, chain: tuple[Any, ...]) -> None:
    inner: dict[str, Any] = {"deep": [{"er": None}], "words": "x" * 300}
    where = config()
    for value in chain:
        inner["deep"][0]["er"] = value
        where = await put(saver, where, {"list": [inner, inner]})
        assert exact(await values_of(saver, where)) == exact({"list": [inner, inner]})


async def test_what_is_read_shares_nothing_with_what_is_read_next(saver: Any) -> None:
    where = await put(saver, config(), {"list": [{"a": ["x" * 300]}] * 2, "messages": chat(10)})
    for _ in range(3):
        values = await values_of(saver, where)
        assert values == {"list": [{"a": ["x" * 300]}] * 2, "messages": chat(10)}
        values["list"][0]["a"].append("spoiled")
        assert values["list"][1] == {"a": ["x" * 300]}
        values["messages"][0].content = "spoiled"
        values["messages"][1].additional_kwargs["spoiled"] = True
        values["messages"].clear()


async def test_a_channel_may_turn_from_list_to_dict_to_scalar_and_back(saver: Any) -> None:
    many = {f"key {number}": "x" * 40 for number in range(30)}
    kinds: list[Any] = [chat(20), many, "x" * 500, list(many.values()), many, None, chat(20), [], {}, 1, chat(20)]
    where, wheres = config(), []
    for value in kinds:
        where = await put(saver, where, {"channel": value})
        wheres.append(where)
    assert [(await values_of(saver, one))["channel"] for one in wheres] == kinds
    assert [one.checkpoint["channel_values"]["channel"] for one in await listed(saver, config())] == kinds[::-1]


async def test_forks_that_append_at_once_keep_their_own_ends(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as one, opened(kind.ours, database) as other:
        root = await put(one, config(), {"messages": chat(10)})
        await values_of(other, root)
        barrier = threading.Barrier(8)

        def grow(number: int) -> list[Any]:
            saver, where, mine, made = (one, other)[number % 2], root, chat(10), []
            barrier.wait()
            for step in range(6):
                mine.append(words(f"{number}-{step}"))
                point = checkpoint({"messages": mine})
                where = saver.put(where, point, metadata(), point["channel_versions"])
                made.append((where, [message.id for message in mine]))
            return made

        with ThreadPoolExecutor(8) as threads:
            grown = [point for line in threads.map(grow, range(8)) for point in line]
        for saver in (one, other):
            for where, ids in grown:
                assert [message.id for message in (await values_of(saver, where))["messages"]] == ids
        ends = 8 * 6
        assert counts(database)["dual_items"] <= 10 + ends + 8 * 10, "a fork stores its start anew once at most"


# --- what it costs ---


def manifest(database: str, where: Any, channel: str = "messages") -> Manifest:
    [row] = [
        row
        for row in named_rows(database, "dual_checkpoints")
        if row["checkpoint_id"] == where["configurable"]["checkpoint_id"]
        and row["thread_id"] == where["configurable"]["thread_id"]
    ]
    slot = slots_of(row["checkpoint_id"], bytes(row["slots"]))[channel]
    assert isinstance(slot, Manifest)
    return slot


def items(database: str, thread_id: str = "thread") -> dict[tuple[str, str, int], bytes]:
    return {
        (row["checkpoint_ns"], row["channel"], row["seq"]): bytes(row["data"])
        for row in named_rows(database, "dual_items")
        if row["thread_id"] == thread_id
    }


async def test_an_element_is_stored_once_and_an_appended_list_is_one_range(saver: Any, database: str) -> None:
    mine, where = chat(8), config()
    for number in range(8, 40):
        where = await put(saver, where, {"messages": mine})
        mine.append(words(number))
    where = await put(saver, where, {"messages": mine})
    assert len(items(database)) == 40
    assert [length for _, length in manifest(database, where).ranges] == [40]


async def test_two_savers_that_take_turns_keep_one_range(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as one, opened(kind.ours, database) as other:
        where = await put(one, config(), {"messages": chat(8)})
        for turn in range(12):
            saver = (one, other)[turn % 2]
            mine = (await values_of(saver, config()))["messages"]
            where = await put(saver, where, {"messages": [*mine, words(len(mine))]})
    assert len(items(database)) == 20
    assert [length for _, length in manifest(database, where).ranges] == [20]


@pytest.mark.parametrize(
    ("edit", "new"),
    [
        (lambda values: [*values[:20], words("new"), *values[21:]], 1),
        (lambda values: values[:20] + values[21:], 0),
        (lambda values: values[10:], 0),
        (lambda values: values[:30][::-1] + values[30:], 0),
        (lambda values: [*values, values[0], values[0]], 0),
        (lambda values: [*values, *[words("new")] * 5], 1),
        (lambda values: [words("new"), *values], 1),
    ],
    ids=["replace", "remove", "trim", "reorder", "repeat", "repeat new", "prepend"],
)
@pytest.mark.parametrize("length", [40, 140])
async def test_an_edit_stores_only_what_is_new(
    saver: Any, database: str, length: int, edit: Callable[[list[Any]], list[Any]], new: int
) -> None:
    where = await put(saver, config(), {"messages": chat(length)})
    edited = edit((await values_of(saver, where))["messages"])
    where = await put(saver, where, {"messages": edited})
    assert len(items(database)) == length + new
    assert (await values_of(saver, where))["messages"] == edited


def inner_of(part: Any) -> dict[str, Any]:
    inner: dict[str, Any] = part["inner"] if isinstance(part, dict) else part.additional_kwargs
    return inner


def turn(values: list[Any], at: int, one: Any) -> None:
    inner_of(values[at])["one"] = one


LONG_EDITS: dict[str, Callable[[list[Any]], None]] = {
    "nothing": lambda values: None,
    "1 to True": lambda values: turn(values, 0, True),
    "True to 1.0": lambda values: turn(values, 0, 1.0),
    "deep": lambda values: inner_of(values[63])["deep"].append({}),
    "deeper": lambda values: inner_of(values[63])["deep"][0].update(er=None),
    "another block": lambda values: turn(values, 70, "x"),
    "the last": lambda values: turn(values, -1, "y"),
    "an object of the user's": lambda values: turn(values, 100, Note("a", [1])),
    "another one": lambda values: turn(values, 100, Note("a", [True])),
    "none any more": lambda values: turn(values, 100, 1),
    "appended": lambda values: values.append(copy.deepcopy(values[5])),
    "many appended": lambda values: values.extend(copy.deepcopy(values[20:90])),
    "one object twice": lambda values: values.insert(10, values[90]),
    "changed through the other": lambda values: turn(values, 10, "both"),
    "swapped": lambda values: values.__setitem__(slice(30, 32), values[31:29:-1]),
    "removed": lambda values: values.__delitem__(slice(60, 70)),
    "at the head": lambda values: values.insert(0, copy.deepcopy(values[3])),
    "trimmed": lambda values: values.__delitem__(slice(0, 100)),
    "less than a block": lambda values: values.__delitem__(slice(20, None)),
}
PARTS: dict[str, Callable[[int], Any]] = {
    "messages": lambda n: HumanMessage(f"said {n} " * 20, id=str(n), additional_kwargs={"one": 1, "deep": [{"n": n}]}),
    "contents": lambda n: AIMessage(
        [{"type": "text", "text": f"{n}" * 40}], additional_kwargs={"one": 1, "deep": [{}]}
    ),
    "dicts": lambda n: {"words": f"written {n} " * 20, "inner": {"one": 1, "deep": [{"n": n}]}},
}


@pytest.mark.parametrize(
    ("serde", "parts"),
    [
        ("default", ["messages"]),
        ("default", ["dicts"]),
        ("default", ["messages", "contents"]),
        ("encrypted", ["messages", "contents", "dicts"]),
        ("custom", ["messages"]),
    ],
)
def test_a_long_list_that_is_read_again_and_again_is_stored_as_it_is(
    sqlite_path: str, serde: str, parts: list[str]
) -> None:
    alone = SERDES[serde]()
    with SqliteSaver(sqlite_path, serde=SERDES[serde](), synchronous="OFF") as saver:
        made = checkpoint({"list": [PARTS[parts[number % len(parts)]](number) for number in range(150)]})
        where = saver.put(config(), made, metadata(), made["channel_versions"])
        for edit in LONG_EDITS.values():
            values = saver.get_tuple(where).checkpoint["channel_values"]["list"]
            edit(values)
            made = checkpoint({"list": values})
            where = saver.put(where, made, metadata(), made["channel_versions"])
            expected = exact(alone.loads_typed(alone.dumps_typed(values)))
            assert exact(saver.get_tuple(where).checkpoint["channel_values"]["list"]) == expected
        saver._cache.clear()
        assert exact(saver.get_tuple(where).checkpoint["channel_values"]["list"]) == expected


async def test_an_entry_of_a_large_dict_is_stored_once(saver: Any, database: str) -> None:
    files = {f"{number}.txt": f"what is in file {number} " * 20 for number in range(30)}
    where = await put(saver, config(), {"files": files})
    for number in range(5):
        files[f"{number}.txt"] += "more"
        files[f"new {number}.txt"] = "new"
        where = await put(saver, where, {"files": files})
    assert len(items(database)) == 30 + 10
    assert list((await values_of(saver, where))["files"].items()) == list(files.items())


async def test_a_saver_that_knows_nothing_compares_before_it_stores(kind: Kind, database: str) -> None:
    long = [HumanMessage(f"message {number} " + "of many words " * 20, id=str(number)) for number in range(40)]
    async with opened(kind.ours, database) as one, opened(kind.ours, database) as other:
        where = await put(one, config(), {"messages": long})
        await put(other, where, {"messages": [*long, words("new")]})
    assert len(items(database)) == 41


async def test_a_copy_has_each_item_once_and_goes_on_by_itself(saver: Any, database: str) -> None:
    where, mine = config(), chat(20)
    for number in range(5):
        where = await put(saver, where, {"messages": mine})
        mine.append(words(f"more {number}"))
    await saver.acopy_thread("thread", "copy")
    assert items(database, "copy") == items(database)
    copied = await saver.aget_tuple(config("copy"))
    await put(saver, copied.config, {"messages": [*copied.checkpoint["channel_values"]["messages"], words("new")]})
    assert len(items(database, "copy")) == len(items(database)) + 1
    await saver.adelete_thread("thread")
    values = (await values_of(saver, config("copy")))["messages"]
    assert values == [*chat(20), *(words(f"more {number}") for number in range(4)), words("new")]


async def test_prune_leaves_the_items_in_use_and_no_other(saver: Any, database: str) -> None:
    where, mine = config(), chat(20)
    for number in range(10):
        mine = [*mine[2:], words(f"more {number}"), words(f"and {number}")]
        where = await put(
            saver, where, {"messages": mine, "files": {str(one): words(one) for one in range(number, 30)}}
        )
    before = items(database)
    await saver.aprune(["thread"])
    used = {("", channel, seq) for channel in ("messages", "files") for seq in manifest(database, where, channel).seqs}
    assert items(database) == {key: before[key] for key in used}
    assert used < before.keys()
    assert (await values_of(saver, config()))["messages"] == mine
    after = await put(saver, where, {"messages": [*mine, words("after")]})
    assert (await values_of(saver, after))["messages"] == [*mine, words("after")]


async def test_a_checkpoint_that_is_put_again_leaves_no_items_behind(saver: Any, database: str) -> None:
    root = await put(saver, config(), {"messages": chat(20)})
    other = await put(saver, config(), {"messages": chat(25)[10:]})
    made = checkpoint({"messages": [*chat(20), words("gone")], "files": "gone as well " * 40})
    where = await saver.aput(root, made, metadata(), made["channel_versions"])
    await saver.aput_writes(where, [("messages", "stays")], "task")
    for parent, values in [(root, [*chat(20), words("anew")]), (other, chat(26)[10:]), (config(), chat(5)[::-1])]:
        made["channel_values"] = {"messages": values}
        assert await saver.aput(parent, made, metadata(again=1), made["channel_versions"]) == where
        found = await saver.aget_tuple(where)
        assert found.checkpoint["channel_values"] == {"messages": values}
        assert found.metadata["again"] == 1
        assert [value for *_, value in found.pending_writes] == ["stays"]
        assert (found.parent_config or config()) == parent
        used = {("", "messages", seq) for one in (root, other, where) for seq in manifest(database, one).seqs}
        assert items(database).keys() == used
    child = await put(saver, where, {"messages": [*chat(5)[::-1], words("after")]})
    assert (await values_of(saver, child))["messages"] == [*chat(5)[::-1], words("after")]
    assert (await values_of(saver, root))["messages"] == chat(20)


async def test_what_a_child_uses_stays_when_its_parent_is_put_again(saver: Any, database: str) -> None:
    made = checkpoint({"messages": chat(20)})
    where = await saver.aput(config(), made, metadata(), made["channel_versions"])
    child = await put(saver, where, {"messages": chat(21)})
    made["channel_values"] = {"messages": [words("anew") for _ in range(9)], "small": 1}
    await saver.aput(config(), made, metadata(), made["channel_versions"])
    assert (await values_of(saver, child))["messages"] == chat(21)
    assert (await values_of(saver, where))["small"] == 1
    made["channel_values"] = {"small": 2}
    await saver.aput(config(), made, metadata(), made["channel_versions"])
    assert items(database).keys() == {("", "messages", seq) for seq in manifest(database, child).seqs}


async def test_a_put_that_is_repeated_changes_nothing(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as one, opened(kind.ours, database) as other:
        root = await put(one, config(), {"messages": chat(20)})
        made = checkpoint({"messages": chat(22), "small": 1})
        await one.aput(root, made, metadata(), made["channel_versions"])
        before = named_rows(database, "dual_checkpoints"), items(database)
        for saver in (one, other):
            await saver.aput(root, made, metadata(), made["channel_versions"])
            assert (named_rows(database, "dual_checkpoints"), items(database)) == before


# --- what is known, and how much of it ---


@contextmanager
def watched(path: str) -> Iterator[tuple[SqliteSaver, list[str]]]:
    """A saver on a connection of the test's own, and every statement that this runs."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        yield SqliteSaver(connection), statements


def fetched(statements: list[str]) -> list[tuple[int, int]]:
    """The first and last numbers of the ranges of items that were asked for."""
    reads = [one for one in statements if "dual_items" in one and one.lstrip().startswith("SELECT")]
    ranges = [match[1] for one in reads if (match := re.search(r"json_each\('(.*?)'\) AS r", one))]
    assert len(ranges) == len(reads), "every read of items names its ranges"
    return [(first, last) for part in ranges for *_, first, last in json.loads(part)]


def test_a_warm_read_fetches_no_items(sqlite_path: str) -> None:
    with watched(sqlite_path) as (saver, statements):
        made = checkpoint({"messages": chat(50)})
        saver.put(config(), made, metadata(), made["channel_versions"])
        for _ in range(3):
            found = saver.get_tuple(config())
            assert found is not None
            assert found.checkpoint["channel_values"]["messages"] == chat(50)
        assert fetched(statements) == []
        saver._cache.clear()
        saver.get_tuple(config())
        [(first, last)] = fetched(statements)
        assert last - first == 49
        saver.get_tuple(config())
        assert len(fetched(statements)) == 1


def test_a_read_fetches_only_what_others_have_added(sqlite_path: str) -> None:
    with watched(sqlite_path) as (saver, statements), SqliteSaver(sqlite_path) as other:
        made = checkpoint({"messages": chat(50)})
        where = other.put(config(), made, metadata(), made["channel_versions"])
        saver.get_tuple(config())
        made = checkpoint({"messages": chat(52)})
        other.put(where, made, metadata(), made["channel_versions"])
        statements.clear()
        found = saver.get_tuple(config())
        assert found is not None
        assert found.checkpoint["channel_values"]["messages"] == chat(52)
        end = manifest(sqlite_path, found.config).next
        assert fetched(statements) == [(end - 2, end - 1)]


@pytest.fixture
async def pair(kind: Kind, database: str) -> Any:
    """Two savers on one database, as two processes have them; the first is warm."""
    async with opened(kind.ours, database) as reader, opened(kind.ours, database) as writer:
        yield reader, writer


async def test_never_stale_after_another_wrote(pair: Any) -> None:
    reader, writer = pair
    where = await put(reader, config(), {"messages": chat(20), "small": 1})
    await put(writer, where, {"messages": [words("other"), *chat(20)[1:]], "small": True})
    assert exact(await values_of(reader, config())) == exact(await values_of(writer, config()))
    assert exact((await values_of(reader, config()))["small"]) == exact(True)
    assert (await values_of(reader, where))["messages"] == chat(20)


async def test_never_stale_after_another_deleted_and_made_anew(pair: Any) -> None:
    reader, writer = pair
    made = checkpoint({"messages": chat(20)})
    where = await reader.aput(config(), made, metadata(), made["channel_versions"])
    await values_of(reader, where)
    await writer.adelete_thread("thread")
    assert await values_of(reader, where) is None
    for length in (20, 21):  # the same id, with other values of the same and of another size
        anew = [words(f"anew {number}") for number in range(length)]
        made["channel_values"] = {"messages": anew}
        await writer.aput(config(), made, metadata(), made["channel_versions"])
        assert (await values_of(reader, where))["messages"] == anew
        after = await put(reader, where, {"messages": [*anew, words("after")]})
        assert (await values_of(writer, after))["messages"] == [*anew, words("after")]
        await writer.adelete_thread("thread")


async def test_never_stale_after_another_replaced_the_checkpoint(pair: Any) -> None:
    reader, writer = pair
    made = checkpoint({"messages": chat(20)})
    where = await reader.aput(config(), made, metadata(), made["channel_versions"])
    made["channel_values"] = {"messages": [words("replaced"), *chat(20)]}
    await writer.aput(config(), made, metadata(), made["channel_versions"])
    assert (await values_of(reader, where))["messages"] == [words("replaced"), *chat(20)]
    after = await put(reader, where, {"messages": chat(21)})
    assert (await values_of(writer, after))["messages"] == chat(21)


async def test_never_stale_after_another_pruned(pair: Any) -> None:
    reader, writer = pair
    first = await put(reader, config(), {"messages": chat(20)})
    last = await put(writer, first, {"messages": chat(22)[5:]})
    assert (await values_of(reader, first))["messages"] == chat(20)
    await writer.aprune(["thread"])
    assert await values_of(reader, first) is None
    assert (await values_of(reader, config()))["messages"] == chat(22)[5:]
    late = await put(reader, first, {"messages": chat(21)})  # its parent is gone, and with it the items
    assert (await values_of(writer, late))["messages"] == chat(21)
    assert (await values_of(writer, last))["messages"] == chat(22)[5:]


async def test_never_stale_after_item_numbers_were_used_again(pair: Any) -> None:
    reader, writer = pair
    root = await put(writer, config(), {"messages": chat(20)})
    gone = await put(writer, root, {"messages": [*chat(20), words("gone")]}, run_id="gone")
    assert (await values_of(reader, gone))["messages"][-1] == words("gone")
    await writer.adelete_for_runs(["gone"])
    await values_of(writer, root)
    kept = await put(writer, root, {"messages": [*chat(20), words("kept")]})
    assert (await values_of(reader, kept))["messages"][-1] == words("kept")
    assert (await values_of(reader, config()))["messages"][-1] == words("kept")
    assert await values_of(reader, gone) is None


async def test_never_stale_after_a_checkpoint_was_made_anew_on_used_numbers(pair: Any) -> None:
    reader, writer = pair
    root = await put(writer, config(), {"messages": chat(20)})
    made = checkpoint({"messages": [*chat(20), words("gone")]})
    where = await writer.aput(root, made, metadata(run_id="gone"), made["channel_versions"])
    assert (await values_of(reader, where))["messages"][-1] == words("gone")
    await writer.adelete_for_runs(["gone"])
    await values_of(writer, root)
    made["channel_values"] = {"messages": [*chat(20), words("anew")]}
    await writer.aput(root, made, metadata(), made["channel_versions"])
    assert (await values_of(reader, where))["messages"][-1] == words("anew")


async def test_what_was_removed_since_it_was_read_is_stored_again(pair: Any) -> None:
    reader, writer = pair
    first = await put(writer, config(), {"messages": chat(20)})
    await put(writer, first, {"messages": chat(22)[5:]})
    await values_of(reader, first)
    await writer.aprune(["thread"])
    late = await put(reader, first, {"messages": chat(21)})
    for saver in pair:
        assert (await values_of(saver, late))["messages"] == chat(21)


def passing_through(saver: SqliteSaver, threads: int) -> None:
    for number in range(threads):
        made = checkpoint({"messages": [words(f"{number} {place}") for place in range(50)]})
        saver.put(config(str(number)), made, metadata(), made["channel_versions"])


@pytest.mark.slow
def test_ten_thousand_threads_stay_within_the_bounds(sqlite_path: str) -> None:
    cache = Cache(max_bytes=4_000_000)
    with SqliteSaver(sqlite_path, cache=cache, synchronous="OFF") as saver:
        passing_through(saver, 10_000)
        assert 3_000_000 < cache.bytes <= 4_000_000
        with SqliteSaver(sqlite_path, cache=Cache(max_entries=100)) as reader:
            for number in range(0, 10_000, 20):
                reader.get_tuple(config(str(number)))
            assert len(reader._cache) == 100


@pytest.mark.parametrize("serde", ["default", "langgraph", "encrypted"])
def test_the_bytes_that_are_counted_are_those_in_memory(sqlite_path: str, serde: str) -> None:
    cache = Cache()
    with SqliteSaver(sqlite_path, serde=SERDES[serde](), cache=cache, synchronous="OFF") as saver:
        passing_through(saver, 1)
        tracemalloc.start()
        try:
            passing_through(saver, 60)
            counted, with_it = cache.bytes, tracemalloc.get_traced_memory()[0]
            cache.clear()
            held = with_it - tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert 0.7 < held / counted < 1.3, f"{counted:,} bytes counted, {held:,} held"
