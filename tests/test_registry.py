"""The registry of threads: kept by puts, listed by index, never at odds with the checkpoints."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_checkpoint_dual import AsyncPostgresSaver, PostgresSaver
from langgraph_checkpoint_dual.errors import ConfigError, ThreadNotFoundError
from tests.support.checkpoints import config, put
from tests.support.savers import KINDS, Kind, Registry, settle
from tests.support.tables import is_postgres, rows

HOSTILE = ['it\'s 100% "odd"; --', "nul \0 and \ud800 surrogate", "ünï-😀", "a" * 2000, "\\0"]


@pytest.fixture
def threads(saver: Any, face: str) -> Registry:
    return Registry(saver, face)


def of(thread_id: Any, **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}, **more}


class TestKeptByPuts:
    async def test_a_checkpoint_makes_and_touches_its_thread(self, saver: Any, threads: Registry) -> None:
        before = datetime.now(timezone.utc)
        first = await put(saver, of("t"), {"x": [1]})
        made = await threads.get("t")
        assert before <= made.created_at == made.updated_at <= datetime.now(timezone.utc)
        second = await put(saver, first, {"x": [1, 2]})
        await put(saver, config("t", "child:1"), {"x": [1]}, parents={"": second["configurable"]["checkpoint_id"]})
        touched = await threads.get("t")
        assert touched.created_at == made.created_at < touched.updated_at
        assert touched.checkpoints == 3
        assert touched.checkpoint_id == second["configurable"]["checkpoint_id"]
        assert (touched.user_id, touched.title, touched.metadata, touched.status) == (None, None, {}, "idle")

    async def test_user_title_and_metadata_come_from_the_config(self, saver: Any, threads: Registry) -> None:
        into = of("t", metadata={"user_id": "ada", "title": "Hello", "team": "blue", "langgraph_step": 3})
        first = await put(saver, into, run_id="r1", nested={"deep": [1, None]})
        found = await threads.get("t")
        assert (found.user_id, found.title) == ("ada", "Hello")
        assert found.metadata == {"team": "blue", "nested": {"deep": [1, None]}}
        await put(saver, {**first, "metadata": {"title": "Hello again"}})
        found = await threads.get("t")
        assert (found.user_id, found.title, found.metadata) == ("ada", "Hello again", {})

    async def test_an_int_user_is_its_text(self, saver: Any, threads: Registry) -> None:
        await put(saver, {"configurable": {"thread_id": "t", "user_id": 7}})
        assert (await threads.get("t")).user_id == "7"
        assert [one.thread_id for one in (await threads.list(user_id=7)).threads] == ["t"]

    async def test_a_subgraph_does_not_touch_the_thread(self, saver: Any, threads: Registry) -> None:
        await put(saver, config("t", "child:1"))
        assert await threads.get("t") is None

    async def test_status_is_that_of_the_latest_checkpoint(self, saver: Any, threads: Registry) -> None:
        first = await put(saver, of("t"))
        await saver.aput_writes(first, [(INTERRUPT, "?")], "task")
        assert (await threads.get("t")).status == "interrupted"
        await saver.aput_writes(first, [(ERROR, "boom")], "other")
        assert (await threads.get("t")).status == "error"
        await put(saver, first)
        assert (await threads.get("t")).status == "idle"

    async def test_writes_that_come_before_their_checkpoint_count(self, saver: Any, threads: Registry) -> None:
        made = await put(saver, of("other"))
        at = config("t", "", made["configurable"]["checkpoint_id"])
        await saver.aput_writes(at, [(INTERRUPT, "?"), (RESUME, "!")], "task")
        assert await threads.get("t") is None
        tuple_ = await saver.aget_tuple(made)
        await saver.aput(of("t"), tuple_.checkpoint, tuple_.metadata, {})
        assert (await threads.get("t")).status == "interrupted"

    @pytest.mark.parametrize("saver_class", [PostgresSaver, AsyncPostgresSaver])
    async def test_a_checkpoint_of_the_root_takes_no_further_round_trip(
        self, saver_class: Any, postgres_uri: str, tmp_path: Path
    ) -> None:
        """libpq writes down what goes over the wire: the registry's row goes with the checkpoint's statement."""
        is_async = saver_class is AsyncPostgresSaver
        conn: Any = (psycopg.AsyncConnection if is_async else psycopg.Connection).connect(postgres_uri, autocommit=True)
        conn = await settle(conn)
        saver = saver_class(conn)
        sent = {}
        for ns in ("", "child:1"):
            first = await put(saver, config("t", ns))
            with (tmp_path / f"wire{ns[:1]}").open("w+") as file:
                conn.pgconn.trace(file.fileno())
                await put(saver, first, {"n": 1})
                conn.pgconn.untrace()
                file.seek(0)
                sent[ns] = [
                    line for line in file if line.split("\t")[1:2] == ["F"] and ("Sync" in line or "Query" in line)
                ]
        await settle(conn.close())
        assert len(sent[""]) == len(sent["child:1"]) == 1, sent

    async def test_of_a_real_graph_with_an_interrupt(self, saver: Any, threads: Registry) -> None:
        class State(TypedDict, total=False):
            answer: str

        async def ask(state: State) -> State:
            return {"answer": interrupt("really?")}

        graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END)
        app = graph.compile(checkpointer=saver)
        run: Any = {"configurable": {"thread_id": "t"}, "metadata": {"user_id": "ada"}}
        await app.ainvoke({}, run)
        assert [one.thread_id for one in (await threads.list(status="interrupted", user_id="ada")).threads] == ["t"]
        await app.ainvoke(Command(resume="yes"), run)
        found = await threads.get("t")
        assert found.status == "idle"
        assert found.checkpoints == len([one async for one in saver.alist({"configurable": {"thread_id": "t"}})])
        assert await threads.count(status="interrupted") == 0

    @pytest.mark.parametrize("thread_id", HOSTILE)
    async def test_hostile_ids_and_texts_come_back(self, saver: Any, threads: Registry, thread_id: str) -> None:
        await put(saver, of(thread_id, metadata={"user_id": thread_id, "title": thread_id, thread_id: thread_id}))
        found = await threads.get(thread_id)
        assert (found.thread_id, found.user_id, found.title) == (thread_id,) * 3
        assert found.metadata == {thread_id: thread_id}
        assert (await threads.list(user_id=thread_id, metadata={thread_id: thread_id})).threads == [found]
        await threads.set_current(thread_id, thread_id, thread_id)
        assert await threads.current(thread_id, thread_id) == thread_id
        await threads.delete(thread_id)
        assert (await threads.get(thread_id), await threads.current(thread_id, thread_id)) == (None, None)


class TestSetExplicitly:
    async def test_before_the_first_run(self, saver: Any, threads: Registry) -> None:
        made = await threads.register("t", user_id="ada", title="Plans", metadata={"pinned": True})
        assert (made.checkpoints, made.checkpoint_id, made.status) == (0, None, "idle")
        assert await threads.get("t") == made
        assert await threads.register("t", user_id="ada") == made
        await put(saver, of("t", metadata={"pinned": False, "team": "blue"}))
        found = await threads.get("t")
        assert (found.user_id, found.title) == ("ada", "Plans")
        assert found.metadata == {"pinned": True, "team": "blue"}, "what was set explicitly wins"
        assert found.created_at == made.created_at

    async def test_update_sets_what_is_given(self, saver: Any, threads: Registry) -> None:
        await put(saver, of("t"))
        updated_at = (await threads.get("t")).updated_at
        assert (await threads.update("t", title="New")).title == "New"
        assert (await threads.update("t", metadata={"a": 1, "b": {"c": [2]}})).metadata == {"a": 1, "b": {"c": [2]}}
        found = await threads.update("t", metadata={"a": None, "d": "e"}, user_id="bob")
        assert (found.title, found.user_id, found.metadata) == ("New", "bob", {"b": {"c": [2]}, "d": "e"})
        assert (await threads.update("t", title="")).title is None
        assert (await threads.get("t")).updated_at == updated_at, "naming a chat does not move it to the top"

    async def test_update_of_nothing(self, threads: Registry) -> None:
        with pytest.raises(ThreadNotFoundError, match=r"no thread 'none'.*register"):
            await threads.update("none", title="x")
        assert await threads.count() == 0

    async def test_current(self, saver: Any, threads: Registry) -> None:
        assert await threads.current("ada") is None
        await threads.set_current("ada", "t1")
        await threads.set_current("ada", "t2", "coder")
        assert [await threads.current("ada"), await threads.current("ada", "coder")] == ["t1", "t2"]
        await threads.set_current("ada", "t3")
        assert await threads.current("ada") == "t3"
        await threads.set_current("ada", None)
        assert [await threads.current("ada"), await threads.current("ada", "coder")] == [None, "t2"]

    async def test_copy_and_delete(self, saver: Any, threads: Registry) -> None:
        await put(saver, of("t", metadata={"user_id": "ada", "title": "Plans", "team": "blue"}))
        await threads.update("t", metadata={"pinned": True})
        await saver.acopy_thread("t", "copy")
        source, copy = await threads.get("t"), await threads.get("copy")
        assert copy._replace(thread_id="t", created_at=source.created_at) == source
        await threads.delete("t")
        assert await saver.aget_tuple(of("t")) is None
        assert [one.thread_id for one in (await threads.list()).threads] == ["copy"]

    async def test_two_at_once_lose_nothing(self, saver: Any) -> None:
        await asyncio.gather(*(saver.threads.aregister("t", metadata={f"k{at}": at}) for at in range(16)))
        assert (await saver.threads.aget("t")).metadata == {f"k{at}": at for at in range(16)}


class TestListed:
    async def test_in_pages_latest_first(self, saver: Any, threads: Registry) -> None:
        for at in range(7):
            await put(saver, of(f"t{at}", metadata={"user_id": "ada" if at % 2 else "bob"}))
        await put(saver, of("t2"))  # touched last
        seen, cursor, pages = [], None, 0
        while True:
            page = await threads.list(limit=3, cursor=cursor)
            seen += [one.thread_id for one in page.threads]
            pages, cursor = pages + 1, page.cursor
            if cursor is None:
                break
        assert (seen, pages) == (["t2", "t6", "t5", "t4", "t3", "t1", "t0"], 3)
        created = (await threads.list(order="created")).threads
        assert [one.thread_id for one in created] == [f"t{at}" for at in reversed(range(7))]
        assert [one.thread_id for one in (await threads.list(user_id="ada")).threads] == ["t5", "t3", "t1"]
        assert [await threads.count(), await threads.count(user_id="bob")] == [7, 4]
        assert (await threads.list(limit=0)) == ([], None)

    async def test_equal_times_are_paged_too(self, saver: Any, database: str, threads: Registry) -> None:
        for at in range(5):
            await put(saver, of(f"t{at}"))
        rows(database, "UPDATE dual_threads SET updated_at = 5, created_at = 7")
        for order in ("updated", "created"):
            first = await threads.list(limit=2, order=order)
            second = await threads.list(limit=9, order=order, cursor=first.cursor)
            assert [one.thread_id for one in first.threads + second.threads] == ["t4", "t3", "t2", "t1", "t0"]

    async def test_by_time(self, saver: Any, threads: Registry) -> None:
        await put(saver, of("old"))
        between = (await threads.get("old")).updated_at
        await put(saver, of("new"))
        assert [one.thread_id for one in (await threads.list(updated_after=between)).threads] == ["new"]
        elsewhere = between.astimezone(timezone(timedelta(hours=5)))
        assert await threads.count(updated_after=elsewhere) == 1
        assert await threads.count(updated_before=(await threads.get("new")).updated_at) == 1

    async def test_by_metadata(self, saver: Any, threads: Registry) -> None:
        await put(saver, of("a", metadata={"team": "blue", "level": 1}))
        await put(saver, of("b", metadata={"team": "blue"}), tags={"x": [1, 2]})
        await threads.register("b", metadata={"level": True})
        for wanted, expected in [
            ({"team": "blue"}, ["b", "a"]),
            ({"level": 1}, ["a"]),
            ({"level": True}, ["b"]),
            ({"tags": {"x": [2]}}, ["b"]),
            ({"tags": None}, ["a"]),
            ({"team": "red"}, []),
            ({}, ["b", "a"]),
        ]:
            assert [one.thread_id for one in (await threads.list(metadata=wanted)).threads] == expected, wanted
            assert await threads.count(metadata=wanted) == len(expected)

    async def test_by_status(self, saver: Any, threads: Registry) -> None:
        for name, writes in {"a": [], "b": [(INTERRUPT, 1)], "c": [(ERROR, 1)], "d": [("x", 1)]}.items():
            made = await put(saver, of(name))
            await saver.aput_writes(made, [*writes, ("y", 2)], "task")
        old = await put(saver, of("e"))
        await saver.aput_writes(old, [(INTERRUPT, 1)], "task")
        await put(saver, old)
        found = {
            status: [one.thread_id for one in (await threads.list(status=status)).threads]
            for status in ("idle", "interrupted", "error")
        }
        assert found == {"idle": ["e", "d", "a"], "interrupted": ["b"], "error": ["c"]}

    @pytest.mark.parametrize(
        "options",
        [
            {"limit": -1},
            {"limit": True},
            {"limit": 10**6},
            {"order": "name"},
            {"order": "updated; DROP TABLE dual_threads"},
            {"status": "busy"},
            {"status": ["idle"]},
            {"order": ["updated"]},
            {"updated_after": datetime.min},
            {"cursor": "nonsense"},
            {"cursor": ""},
            {"cursor": 5},
            {"cursor": "WzEsMiwzXQ=="},
            {"updated_after": "yesterday"},
            {"user_id": ""},
            {"metadata": "x"},
            {"metadata": {1: 2}},
        ],
    )
    async def test_what_cannot_be_used(self, threads: Registry, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            await threads.list(**options)

    async def test_a_cursor_belongs_to_its_order(self, saver: Any, threads: Registry) -> None:
        await put(saver, of("a"))
        cursor = (await threads.list(limit=1)).cursor
        with pytest.raises(ConfigError, match="created"):
            await threads.list(limit=1, order="created", cursor=cursor)


@pytest.mark.parametrize("kind", [one for one in KINDS if one.face == "blocking"], ids=str, indirect=True)
class TestByIndex:
    """What the databases' planners say: no listing reads more than its page, and no thread's state."""

    @pytest.fixture
    def kind(self, request: pytest.FixtureRequest) -> Kind:
        found: Kind = request.param
        return found

    @pytest.fixture
    def plan(self, saver: Any, kind: Kind, database: str) -> Any:
        numbers = (
            "SELECT n FROM generate_series(1, 20000) AS n"
            if is_postgres(database)
            else "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000) SELECT n FROM s"
        )
        rows(
            database,
            "INSERT INTO dual_threads (thread_id, created_at, updated_at, user_id) "
            f"SELECT 'thread ' || n, n, n, 'user ' || (n % 500) FROM ({numbers}) AS s",
        )
        rows(
            database,
            "INSERT INTO dual_checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, slots, metadata) "
            f"SELECT 'thread ' || n, '', 'id', '', '', '{{}}' FROM ({numbers}) AS s",
        )
        rows(
            database,
            "INSERT INTO dual_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, data) "
            f"SELECT 'thread ' || n, '', 'id', 'task', 0, '', 'x', '' FROM ({numbers}) AS s",
        )
        rows(database, "ANALYZE")
        queries = saver._engine._dialect if kind.backend == "postgres" else saver._backend._queries

        def explain(name: str, **args: Any) -> str:
            statement = queries[name]
            if is_postgres(database):
                text = statement.decode()
                found = rows(database, f"EXPLAIN {_inlined(text, args, '%({})s')}")
                return "\n".join(line for (line,) in found)
            found = rows(database, f"EXPLAIN QUERY PLAN {_inlined(statement, args, ':{}')}")
            return "\n".join(str(row[3]) for row in found)

        return explain

    async def test_every_listing(self, plan: Any) -> None:
        for name, args, index in [
            ("threads by updated", {}, "dual_threads_updated"),
            ("threads by created", {}, "dual_threads_created"),
            ("threads by updated where after_updated", {"after_at": 99, "after_thread": "x"}, "dual_threads_updated"),
            ("threads by updated where updated_after", {"updated_after": 19_000}, "dual_threads_updated"),
            ("threads by updated where user_id", {"user_id": "user 7"}, "dual_threads_user"),
            (
                "threads by updated where user_id and after_updated",
                {"user_id": "user 7", "after_at": 99, "after_thread": "x"},
                "dual_threads_user",
            ),
            ("threads by updated where is_idle", {}, "dual_threads_updated"),
            ("threads by created where after_created", {"after_at": 99, "after_thread": "x"}, "dual_threads_created"),
        ]:
            found = plan(name, limit=20, **args)
            assert index in found, name
            assert "Seq Scan" not in found, name
            assert "TEMP B-TREE" not in found, name
            assert "Sort Key" not in found, name
            scans = [line for line in found.split("\n") if line.startswith("SCAN ") and "INDEX" not in line]
            assert set(scans) <= {"SCAN page"}, name

    async def test_the_few_that_wait_are_found_without_a_look_at_the_others(self, plan: Any) -> None:
        found = plan("threads by updated where status", limit=20, status="__interrupt__")
        assert "dual_writes_status" in found
        assert "Seq Scan" not in found
        assert not [line for line in found.split("\n") if line.startswith("SCAN t")]


def _inlined(statement: str, args: dict[str, Any], style: str) -> str:
    for name, value in args.items():
        statement = statement.replace(style.format(name), f"'{value}'" if isinstance(value, str) else str(value))
    return statement
