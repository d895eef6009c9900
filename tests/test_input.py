"""Bad input stops before anything is written; odd input comes back exactly."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from langgraph_checkpoint_dual.errors import ConfigError, EncodeError
from tests.support import tables
from tests.support.checkpoints import checkpoint, config, listed, metadata, put

BAD_CONFIGS: dict[str, Any] = {
    "no config": None,
    "a list": [],
    "no configurable": {},
    "configurable None": {"configurable": None},
    "no thread_id": {"configurable": {"checkpoint_ns": ""}},
    "thread_id None": config(None),
    "thread_id empty": config(""),
    "thread_id a dict": config({"a": 1}),
    "thread_id a list": config(["a"]),
    "thread_id True": config(True),
    "thread_id bytes": config(b"a"),
    "namespace a number": config("thread", 5),  # type: ignore[arg-type]
    "checkpoint_id a number": config("thread", "", 5),  # type: ignore[arg-type]
}

BAD_CHECKPOINTS: dict[str, Any] = {
    "None": None,
    "a list": [1],
    "empty": {},
    "id a number": checkpoint(id=5),
    "v a str": checkpoint(v="4"),
    "v None": checkpoint(v=None),
    "values a list": checkpoint(channel_values=[1]),
    "channel a number": checkpoint(channel_values={5: 1}),
    "versions a str": checkpoint(channel_versions="1"),
    "versions of a number": checkpoint(channel_versions={5: "1"}),
    "seen a number": checkpoint(versions_seen=5),
}

HOSTILE = {
    "quotes": 'it\'s "quoted" `x` [y] $$z$$ \\',
    "statement": "'; DROP TABLE checkpoints; --",
    "placeholders": "%s %(a)s %% ? ?1 :name {x} {0}",
    "like": "_%a\\_",
    "nul": "a\0b\0",
    "surrogates": "\ud800 and \udfff",
    "escape-like": "\ue000 \\u0000 \\ud800",
    "emoji": "👩‍👩‍👧 é é",
    "controls": "\n\r\t\x01\x7f\u2028\ufeff",
    "blank": " ",
    "long": "x" * 10_000,
    "numeric": "007",
    "json": '{"a": [1, null]}',
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


class TestBadInput:
    @pytest.mark.parametrize("bad", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
    async def test_config(self, subject: Any, database: str, bad: Any) -> None:
        await put(subject, values={"total": 1})
        before = tables.contents(database)
        with pytest.raises(ConfigError):
            await subject.aput(bad, checkpoint({"total": 1}), metadata(), {})
        with pytest.raises(ConfigError):
            await subject.aput_writes(bad, [("total", 1)], "task")
        with pytest.raises(ConfigError):
            await subject.aget_tuple(bad)
        with pytest.raises(ConfigError):
            await subject.aget_delta_channel_history(config=bad, channels=["total"])
        if bad is not None:  # a listing without a config is one of everything
            with pytest.raises(ConfigError):
                await listed(subject, bad)
        assert tables.contents(database) == before

    @pytest.mark.parametrize("bad", [None, "", {}, ["a"], True, b"a"], ids=repr)
    async def test_thread_id(self, subject: Any, database: str, bad: Any) -> None:
        await put(subject, values={"total": 1})
        before = tables.contents(database)
        for call in (
            subject.adelete_thread(bad),
            subject.acopy_thread("thread", bad),
            subject.acopy_thread(bad, "other"),
            subject.aprune(["thread", bad]),
            subject.aprune([bad], strategy="delete"),
        ):
            with pytest.raises(ConfigError):
                await call
        assert tables.contents(database) == before

    async def test_arguments(self, subject: Any, database: str) -> None:
        stored = await put(subject, values={"total": 1})
        before = tables.contents(database)
        for limit in (-1, "3", 2.5, True):
            with pytest.raises(ConfigError, match="limit"):
                await listed(subject, config(), limit=limit)
        with pytest.raises(ConfigError):
            await listed(subject, config(), before={"configurable": {"checkpoint_id": 5}})
        with pytest.raises(ConfigError):
            await listed(subject, config(), filter={1: 2})
        with pytest.raises(ConfigError):
            await subject.aput_writes(config(), [("total", 1)], "task")  # of which checkpoint?
        with pytest.raises(ConfigError):
            await subject.aput_writes(stored, [("total", 1)], None)
        with pytest.raises(ConfigError):
            await subject.aput(config(), checkpoint(id=""), metadata(), {})
        with pytest.raises(ConfigError, match="strategy"):
            await subject.aprune(["thread"], strategy="keep_all")
        with pytest.raises((ConfigError, TypeError)):
            await subject.aprune("thread")  # a string is not a sequence of thread ids
        with pytest.raises((ConfigError, TypeError)):
            await subject.adelete_for_runs("run")
        assert tables.contents(database) == before

    @pytest.mark.parametrize("bad", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
    async def test_checkpoint(self, subject: Any, database: str, bad: Any) -> None:
        """One that could not be read again would hide the others of its thread."""
        stored = await put(subject, values={"total": 1})
        before = tables.contents(database)
        with pytest.raises(ConfigError, match="checkpoint"):
            await subject.aput(stored, bad, metadata(), {})
        assert tables.contents(database) == before
        assert (await subject.aget_tuple(config())).config == stored

    async def test_errors_are_value_errors_too(self, subject: Any) -> None:
        with pytest.raises(ValueError):
            await listed(subject, config(), limit=-1)

    async def test_a_value_that_cannot_be_stored(self, subject: Any, database: str) -> None:
        stored = await put(subject, values={"total": 1})
        before = tables.contents(database)
        bad = [{"fine": 1}, {"deep": [0, lambda: None]}]
        for values in ({"total": 1, "log": bad}, {"log": [{"n": n} for n in range(40)] + bad}):
            with pytest.raises(EncodeError, match=r"channel 'log'.*\['deep'\]\[1\]"):
                await put(subject, values=values)
        with pytest.raises(EncodeError, match=r"channel 'log'.*\['deep'\]\[1\]"):
            await subject.aput_writes(stored, [("total", 1), ("log", bad)], "task")
        assert tables.contents(database) == before


class TestThreadIds:
    @pytest.mark.parametrize("thread_id", [7, 0, -1, UUID(int=7)], ids=repr)
    async def test_numbers_and_uuids_are_the_same_everywhere(self, subject: Any, thread_id: Any) -> None:
        stored = await put(subject, config(thread_id), {"total": 1})
        await subject.aput_writes(stored, [("total", 2)], "task")
        for same in (thread_id, str(thread_id)):
            found = await subject.aget_tuple(config(same))
            assert found.config["configurable"]["thread_id"] == str(thread_id)
            assert found.pending_writes == [("task", "total", 2)]
            assert len(await listed(subject, config(same))) == 1
        await subject.acopy_thread(thread_id, "copy")
        assert await subject.aget_tuple(config("copy")) is not None
        await subject.aprune([thread_id])
        await subject.adelete_thread(thread_id)
        assert await subject.aget_tuple(config(str(thread_id))) is None


class TestOddStrings:
    async def test_everywhere_at_once(self, subject: Any, hostile: str) -> None:
        values = {hostile: hostile, "log": [hostile, {hostile: [hostile]}] * 30, "files": {hostile: hostile}}
        extra = {"tag": hostile, "nested": {hostile: [hostile, {"k": hostile}]}, hostile: 1}
        other = config("other", hostile)
        stored = await put(subject, config(hostile, hostile), values, **extra)
        await put(subject, other, {"total": 1})
        await subject.aput_writes(stored, [(hostile, hostile), ("total", {hostile: hostile})], hostile, hostile)

        assert stored["configurable"]["thread_id"] == hostile
        for found in (await subject.aget_tuple(stored), *await listed(subject, config(hostile, hostile))):
            assert found.config == stored
            assert found.checkpoint["channel_values"] == values
            assert found.checkpoint["channel_versions"].keys() == values.keys()
            assert found.metadata == metadata(**extra)
            assert found.pending_writes == [(hostile, hostile, hostile), (hostile, "total", {hostile: hostile})]

    async def test_as_parts_of_a_filter(self, subject: Any, hostile: str) -> None:
        stored = await put(subject, values={}, **{"tag": hostile, "nested": {hostile: [hostile]}, hostile: 1})
        await put(subject, stored, {}, tag="another", nested={"other": 1})
        for wanted in ({"tag": hostile}, {hostile: 1}, {"nested": {hostile: [hostile]}}, {"nested": {hostile: []}}):
            assert [found.config for found in await listed(subject, None, filter=wanted)] == [stored]
        for unwanted in ({"tag": hostile + "."}, {hostile: 2}, {hostile + ".": 1}, {"nested": {hostile: ["x"]}}):
            assert await listed(subject, None, filter=unwanted) == []

    async def test_as_names_in_threads_and_runs(self, subject: Any, hostile: str) -> None:
        stored = await put(subject, config(hostile, hostile), {hostile: [hostile] * 40}, run_id=hostile)
        await subject.aput_writes(stored, [(hostile, 1)], hostile)
        head = await put(subject, stored, {hostile: [hostile] * 41}, run_id="other")
        history = await subject.aget_delta_channel_history(config=head, channels=[hostile])
        assert history == {hostile: {"seed": [hostile] * 40, "writes": [(hostile, hostile, 1)]}}
        await subject.acopy_thread(hostile, hostile + " copy")
        await subject.adelete_for_runs([hostile])
        for thread in (hostile, hostile + " copy"):
            found = await listed(subject, {"configurable": {"thread_id": thread}})
            assert [one.config["configurable"] for one in found] == [{**head["configurable"], "thread_id": thread}]
        await subject.aprune([hostile])
        await subject.adelete_thread(hostile)
        assert await listed(subject, {"configurable": {"thread_id": hostile}}) == []
        assert len(await listed(subject, None)) == 1

    async def test_different_ids_stay_different(self, subject: Any) -> None:
        for thread in HOSTILE.values():
            await put(subject, config(thread), {"total": thread})
        for thread in HOSTILE.values():
            assert (await subject.aget_tuple(config(thread))).checkpoint["channel_values"] == {"total": thread}
        assert len(await listed(subject, None)) == len(HOSTILE)
