"""Searching messages: what a query means, who sees what, and an index that never disagrees with the checkpoints."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg.conninfo import make_conninfo

from langgraph_checkpoint_dual import Cache, PostgresSaver, SqliteSaver
from langgraph_checkpoint_dual.core.conversations.searching import SearchHit, SearchPage
from langgraph_checkpoint_dual.core.conversations.words import Term, indexed, snippet, terms_of, words_of
from langgraph_checkpoint_dual.core.cursors import cursor_of
from langgraph_checkpoint_dual.core.text import escape
from langgraph_checkpoint_dual.errors import ConfigError, SchemaError
from langgraph_checkpoint_dual.transfer import atransfer
from tests.support.checkpoints import checkpoint, config, metadata, put
from tests.support.savers import Kind, opened, settle
from tests.support.tables import named_rows, rows, tables

AES = EncryptedSerializer.from_pycryptodome_aes(key=b"sixteen byte key")


@pytest.fixture
def face(kind: Kind) -> str:
    """Each class through its own face; one test below drives each through the other."""
    return kind.face


@pytest.fixture
async def saver(kind: Kind, database: str) -> AsyncIterator[Any]:
    async with opened(kind.ours, database, search=True) as found:
        yield found


@pytest.fixture
def find(saver: Any, face: str) -> Callable[..., Any]:
    """`search` through the face under test."""
    return saver.asearch if face == "async" else lambda *args, **options: settle(saver.search(*args, **options))


def places(page: SearchPage) -> list[tuple[str, int]]:
    return [(hit.thread_id, hit.idx) for hit in page.hits]


def say(saver: Any, thread: str, *texts: str, user: str | None = None) -> None:
    known = {"user_id": user} if user else {}
    saver.messages({"configurable": {"thread_id": thread, **known}}).append([HumanMessage(text) for text in texts])


def indexed_items(database: str) -> set[tuple[str, int]]:
    return {(row["thread_id"], row["seq"]) for row in named_rows(database, "dual_search")}


def stored_items(database: str) -> set[tuple[str, int]]:
    """The items that are messages of the root."""
    return {
        (row["thread_id"], row["seq"])
        for row in named_rows(database, "dual_items")
        if row["channel"] == "messages" and not row["checkpoint_ns"]
    }


# --- Words and queries ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The QUICK, brown fox!", "the quick brown fox"),
        ("naïve Café ÉCOLE", "naive cafe ecole"),
        ("cafe\u0301 Straße ﬁne", "cafe strasse fine"),
        ("example.com/a_b?x=1 well-known", "example com a b x 1 well known"),
        ("東京は日本", "東 京 は 日 本"),
        ("iPhone15を買う now", "iphone15 を 買 う now"),
        ("Привет, МИР", "привет мир"),
        ("\x00\ud800 \ue000 🎉 '\"", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_words(text: str, words: str) -> None:
    assert indexed(text) == words


def test_what_is_indexed_of_a_text_is_bounded() -> None:
    assert len(indexed("word " * 100_000).split()) == 16_000
    assert len(indexed(" ".join(f"{n:064}" for n in range(20_000)))) < 400_000


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("two Words", [Term(("two",), False, False), Term(("words",), False, False)]),
        (
            '"a phrase" be* -not',
            [Term(("a", "phrase"), False, False), Term(("be",), True, False), Term(("not",), False, True)],
        ),
        (
            'well-known -"no no" "open',
            [Term(("well", "known"), False, False), Term(("no", "no"), False, True), Term(("open",), False, False)],
        ),
        ("-only -excluded", []),
        ("* - \" ' ( ) : & | ! <->", []),
        ("", []),
    ],
)
def test_queries(query: str, terms: list[Term]) -> None:
    assert terms_of(query) == terms


def test_of_a_query_the_first_words_count(both: list[Any]) -> None:
    numbers = [f"w{number}" for number in range(50_000)]
    for query in (*(between.join(numbers) for between in (" ", " -", "* ", ".")), f'"{" ".join(numbers)}"'):
        assert sum(len(term.words) for term in terms_of(query)) == 100
        for saver in both:
            assert saver.search(query).hits == []
    text = " ".join(numbers[:100])
    for saver in both:
        saver.messages("long").append(text)
        assert [hit.thread_id for hit in saver.search(f"{text} and more").hits] == ["long"]
        saver.threads.delete("long")


def test_snippets_show_where_the_words_are() -> None:
    text = " ".join(f"w{n}" for n in range(100)) + "\n\n the needle is\there " + " ".join(f"v{n}" for n in range(100))
    found = snippet(text, terms_of("needle here"), ("[", "]"))
    assert "the [needle] is [here] v0" in found
    assert found.startswith("…w")
    assert found.endswith("…")
    assert len(found) < 150
    assert snippet("東京は日本", terms_of("東京"), ("[", "]")) == "[東京]は日本"
    assert snippet("", terms_of("x"), ("[", "]")) == ""
    assert snippet("!" * 1000, terms_of("x"), ("[", "]")) == "!" * 192 + "…"


def matches(text: str, query: str) -> bool:
    """What a query means, written down another way."""
    words = [word.text for word in words_of(text)]

    def occurs(term: Term) -> bool:
        for at in range(len(words) - len(term.words) + 1):
            part = words[at : at + len(term.words)]
            last = part[-1][: len(term.words[-1])] if term.is_prefix else part[-1]
            if (*part[:-1], last) == term.words:
                return True
        return False

    terms = terms_of(query)
    return bool(terms) and all(occurs(term) != term.is_excluded for term in terms)


TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "the fox, the FOX and another fox",
    "Café déjà vu: naïve école",
    "東京は日本の首都です。東京タワー",
    "see https://example.com/a_b?x=1&y='2' or well-known \"quotes\"",
    "NOT and OR near AND not or 1e5 0012 3.14 -5",
    "x" * 100 + " " + "ab " * 300,
    "\x00 nul \ud800 surrogate \ue000 private",
    "",
]
pieces = st.sampled_from(
    [
        *(
            "fox",
            "quick",
            '"the fox"',
            '"brown quick"',
            "lazy*",
            "caf*",
            "CAFÉ",
            "ecole",
            "東京",
            "東",
            "首都です",
            "xxx",
        ),
        *("example.com", "well-known", '"well known"', "-fox", '-"the fox"', "1e5", "0012", "3", "x*", "ab*", "^the"),
        *("not", "or", "NEAR", "AND", "OR", "NOT", "(", ")", "*", '"', "'", ":", ";", "--", "%", "_", "\\", "\x00"),
        *("\ud800", "&", "|", "!", "<->", ":*", "{words}", "words:fox", "%s", ":query"),
    ]
)
queries = st.one_of(
    st.text(max_size=30), st.lists(pieces, max_size=5).map(" ".join), st.lists(pieces, max_size=4).map("".join)
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgres_server: Any) -> Iterator[list[Any]]:
    """A saver on each database, with the same messages."""
    with (
        postgres_server.database() as uri,
        SqliteSaver(tmp_path_factory.mktemp("search") / "a.db", search=True) as one,
        PostgresSaver.from_conn_string(uri, search=True) as other,
    ):
        for saver in (one, other):
            say(saver, "thread", *TEXTS)
        yield [one, other]


@settings(max_examples=150)
@given(query=queries)
@example(query="' OR 1=1 --")
@example(query='"')
@example(query='fox" OR words:"x')
@example(query="'fox':* & !'x'")
@example(query="%s %(query)s :query {search} ?")
def test_any_query_means_the_same_on_both_databases(both: list[Any], query: str) -> None:
    wanted = {idx for idx, text in enumerate(TEXTS) if matches(text, query)}
    for saver in both:
        hits = saver.search(query, limit=100).hits
        assert {hit.idx for hit in hits} == wanted
        assert len(hits) == len(wanted)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.message.text == TEXTS[hit.idx]
            assert "**" in hit.snippet


# --- Who sees what ---


async def test_search_in_a_thread_of_a_user_and_of_all(saver: Any, find: Any, face: str) -> None:
    say(saver, "a", "a fox", "no animal", user="ann")
    say(saver, "b", "another fox", user="bob")
    say(saver, "c", "fox fox fox", user="ann")
    assert set(places(await find("fox"))) == {("a", 0), ("b", 0), ("c", 0)}
    assert set(places(await find("fox", user_id="ann"))) == {("a", 0), ("c", 0)}
    assert places(await find("fox", user_id="bob")) == [("b", 0)]
    assert places(await find("fox", thread_id="a")) == [("a", 0)]
    assert places(await find("fox", thread_id="a", user_id="ann")) == [("a", 0)]
    assert places(await find("fox", thread_id="a", user_id="bob")) == []
    assert places(await find("fox", user_id="nobody")) == []
    assert places(await find("fox", user_id=7)) == []
    view = saver.messages("a")
    within = await (view.asearch("fox") if face == "async" else settle(view.search("fox")))
    assert places(within) == [("a", 0)]
    [hit] = within.hits
    assert isinstance(hit, SearchHit)
    assert (hit.message, hit.snippet) == (view.page(1)[0].message, "a **fox**")
    assert hit.added_at == view.page(1)[0].added_at


async def test_each_class_through_its_other_face(kind: Kind, saver: Any) -> None:
    say(saver, "a", "a fox")
    if kind.face == "blocking":
        assert places(await saver.asearch("fox")) == [("a", 0)]
        assert places(await saver.messages("a").asearch("fox")) == [("a", 0)]
        assert await saver.arebuild_search(clear=True) == 1
    else:
        assert places(saver.search("fox")) == [("a", 0)]
        assert places(saver.messages("a").search("fox")) == [("a", 0)]
        assert saver.rebuild_search(clear=True) == 1


async def test_of_a_user_with_very_many_threads(saver: Any, find: Any) -> None:
    for number in range(320):
        saver.threads.register(f"empty {number}", user_id="ann")
    say(saver, "a", "a fox", user="ann")
    say(saver, "b", "a fox", user="bob")
    assert places(await find("fox", user_id="ann")) == [("a", 0)]


async def test_pages_of_hits(saver: Any, find: Any) -> None:
    for thread in range(3):
        say(saver, f"thread {thread}", *(f"fox {n}" for n in range(50)))
    seen: list[tuple[str, int]] = []
    cursor = None
    while True:
        page = await find("fox", limit=40, cursor=cursor)
        seen += places(page)
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == [(f"thread {thread}", n) for thread in range(3) for n in range(50)]
    assert await find("fox", limit=0) == ([], None)
    assert len((await find("fox", limit=150)).hits) == 150


@pytest.mark.parametrize(
    ("query", "options"),
    [
        (3, {}),
        (None, {}),
        ("fox", {"limit": -1}),
        ("fox", {"cursor": "nonsense"}),
        ("fox", {"cursor": "WyJhIl0="}),
        ("fox", {"cursor": cursor_of("search", 2**63)}),
        ("fox", {"cursor": cursor_of("search", -1)}),
        ("fox", {"cursor": cursor_of("updated", 0)}),
        ("fox", {"thread_id": ""}),
        ("fox", {"marks": ("<b>",)}),
        ("fox", {"marks": None}),
        ("fox", {"user_id": 1.5}),
    ],
)
def test_what_cannot_be_used_is_refused(query: Any, options: Any) -> None:
    with SqliteSaver(":memory:", search=True) as saver, pytest.raises(ConfigError):
        saver.search(query, **options)


async def test_found_is_what_the_latest_checkpoint_holds(saver: Any, find: Any) -> None:
    view = saver.messages("thread")
    first = view.append([HumanMessage("a fox", id="1"), HumanMessage("a dog", id="2")])
    view.append([RemoveMessage("1"), HumanMessage("a changed cat", id="2"), HumanMessage("a fox again", id="3")])
    assert places(await find("fox")) == [("thread", 1)]
    assert places(await find("dog")) == []
    assert places(await find("cat")) == [("thread", 0)]
    early = saver.messages(first)
    assert [hit.message.id for hit in early.search("fox").hits] == ["1"]
    assert early.search("cat").hits == []
    fork = early.append(HumanMessage("a bird", id="4"))
    assert places(await find("dog")) == [("thread", 1)]
    assert saver.messages(fork).search("bird").hits[0].idx == 2


async def test_only_the_named_channel_of_the_root_is_indexed(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, search="chat") as saver:
        values = {
            "chat": [HumanMessage("a fox")],
            "messages": [HumanMessage("another fox")],
            "files": {"fox": "fox " * 100},
        }
        await put(saver, values=values)
        await put(saver, config(checkpoint_ns="inner"), values)
        assert [hit.message.text for hit in saver.search("fox").hits] == ["a fox"]
        assert len(saver.messages("thread", channel="chat").search("fox").hits) == 1
        for view in (saver.messages("thread"), saver.messages(config(checkpoint_ns="inner"), channel="chat")):
            with pytest.raises(ConfigError, match="only the messages of channel 'chat'"):
                view.search("fox")


async def test_messages_of_every_kind_are_found(saver: Any, find: Any) -> None:
    blocks: Any = [{"type": "text", "text": "blue whale"}, {"type": "image_url", "image_url": {"url": "data:whale"}}]
    messages: list[BaseMessage] = [
        SystemMessage("be a whale"),
        HumanMessage(blocks),
        AIMessage(""),
        HumanMessage("\x00 whale"),
    ]
    saver.messages("odd \x00 \ud800 thread").append(messages)
    assert set(places(await find("whale"))) == {("odd \x00 \ud800 thread", n) for n in (0, 1, 3)}
    assert len((await find("whale", thread_id="odd \x00 \ud800 thread")).hits) == 3


# --- The index and the checkpoints ---


async def test_a_graphs_messages_are_indexed_as_they_are_stored(saver: Any, find: Any, database: str) -> None:
    parent = config()
    for turn in range(4):
        made = checkpoint({"messages": [HumanMessage(f"fox {n}", id=str(n)) for n in range(2 * turn + 1)]})
        parent = await saver.aput(parent, made, metadata(step=turn), made["channel_versions"])
    assert len((await find("fox")).hits) == 7
    assert indexed_items(database) == stored_items(database)
    assert len(indexed_items(database)) == 7


async def test_the_index_goes_and_comes_with_the_items(saver: Any, find: Any, database: str) -> None:
    say(saver, "thread", "a fox", "a dog")
    saver.messages("thread").append([RemoveMessage(saver.messages("thread").last(2)[0].id), HumanMessage("a cat")])
    await saver.acopy_thread("thread", "copy")
    assert len(indexed_items(database)) == 6
    assert set(places(await find("cat"))) == {("thread", 1), ("copy", 1)}
    await saver.aprune(["thread"])
    assert indexed_items(database) == stored_items(database)
    assert len(indexed_items(database)) == 5
    await saver.adelete_thread("copy")
    assert len(indexed_items(database)) == 2
    assert places(await find("cat")) == [("thread", 1)]
    assert places(await find("fox")) == []


async def test_a_put_that_fails_leaves_no_words(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, search=True, fence=True) as saver:
        first = await put(saver, values={"messages": [HumanMessage("fox", id="1")]})
        await put(saver, first, {"messages": [HumanMessage("fox", id="1"), HumanMessage("cat", id="2")]})
        with pytest.raises(Exception, match="latest checkpoint"):
            await put(saver, first, {"messages": [HumanMessage("fox", id="1"), HumanMessage("dog", id="3")]})
        assert saver.search("dog").hits == []
        assert indexed_items(database) == stored_items(database)


async def test_many_at_once(saver: Any, database: str) -> None:
    await asyncio.gather(
        *(put(saver, config(f"thread {n % 5}"), {"messages": [HumanMessage(f"fox {n}")]}) for n in range(25))
    )
    await asyncio.gather(*(saver.messages(f"thread {n % 5}").aappend(f"cat {n}") for n in range(10)))
    assert indexed_items(database) == stored_items(database)
    assert len((await saver.asearch("cat", limit=100)).hits) == 10


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "append", "remove", "fork", "copy", "prune", "delete"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["fox", "dog and cat", "!", "bird"]),
    ),
    max_size=14,
)


@settings(max_examples=25)
@given(steps=steps)
def test_the_index_never_disagrees_with_the_items(tmp_path_factory: Any, steps: list[tuple[str, str, str]]) -> None:
    database = str(tmp_path_factory.mktemp("search") / "a.db")
    with SqliteSaver(database, search=True, cache=Cache(0)) as saver:
        for name, thread, text in steps:
            step(saver, name, thread, text)
            wanted = {one for one in stored_items(database) if one[0] in ("a", "b", "copy")}
            silent = {
                (row["thread_id"], row["seq"]) for row in named_rows(database, "dual_items") if b"\xa1!" in row["data"]
            }
            if "dual_search" in tables(database):
                assert indexed_items(database) == wanted - silent
                assert (
                    rows(
                        database,
                        "INSERT INTO dual_search_index (dual_search_index, rank) VALUES ('integrity-check', 1)",
                    )
                    == []
                )


def step(saver: SqliteSaver, name: str, thread: str, text: str) -> None:
    view = saver.messages(thread)
    if name == "put":
        made = checkpoint({"messages": [*view.last(100), HumanMessage(text, id=str(uuid4()))]})
        saver.put(config(thread), made, metadata(), made["channel_versions"])
    elif name == "append":
        view.append(HumanMessage(text))
    elif name == "remove" and view.count():
        view.append(RemoveMessage(view.last(1)[0].id or ""))
    elif name == "fork":
        for old in list(saver.list(config(thread), limit=3))[-1:]:
            saver.messages(old.config).append(HumanMessage(text))
    elif name == "copy":
        saver.delete_thread("copy")
        saver.copy_thread(thread, "copy")
    elif name == "prune":
        saver.prune([thread])
    elif name == "delete":
        saver.delete_thread(thread)


async def test_what_is_transferred_is_indexed(kind: Kind, database: str, tmp_path: Any) -> None:
    with SqliteSaver(tmp_path / "source.db") as source:
        say(source, "thread", "a fox", "a dog")
        async with opened(kind.ours, database, search=True) as saver:
            await atransfer(source, saver)
            assert places(saver.search("fox")) == [("thread", 0)]
            assert indexed_items(database) == stored_items(database)


# --- On, off, and anew ---


async def test_it_is_off_unless_asked_for(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        say(saver, "thread", "a fox")
        assert "dual_search" not in tables(database)
        for call in (saver.search, saver.messages("thread").search, lambda _: saver.rebuild_search()):
            with pytest.raises(ConfigError, match="search=True"):
                call("fox")


@pytest.mark.parametrize("serde", [AES, object()], ids=["encrypted", "unknown"])
def test_it_is_refused_where_words_would_be_stored_in_the_clear(serde: Any) -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        SqliteSaver(":memory:", serde=serde, search=True)
    with pytest.raises(ConfigError, match="search must be"):
        SqliteSaver(":memory:", search=3)  # type: ignore[arg-type]
    with SqliteSaver(":memory:", search=True) as saver:
        saver.serde = serde
        with pytest.raises(ConfigError, match="in the clear"):
            saver.messages("thread").append("a fox")


async def test_rebuild_finds_what_was_stored_before(
    kind: Kind, database: str, face: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind.ours, database, serde=JsonPlusSerializer()) as saver:
        for number in range(3):
            say(saver, f"thread {number}", *(f"fox {n}" for n in range(400)), "!")
    async with opened(kind.ours, database, search=True, serde=JsonPlusSerializer()) as saver:
        assert (await saver.asearch("fox")).hits == []
        assert "rebuild_search()" in caplog.text
        say(saver, "new", "fox")
        assert places(saver.search("fox")) == [("new", 0)]
        seen: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            saver.threads.count()  # nothing of the saver is held meanwhile
            seen.append((done, total))

        async def rebuild(**options: Any) -> int:
            if face == "async":
                return int(await saver.arebuild_search(**options))
            return int(saver.rebuild_search(**options))

        assert await rebuild(on_progress=progress) == 1200
        assert seen == [(500, 1204), (1000, 1204), (1204, 1204)]
        assert len(saver.search("fox", limit=2000).hits) == 1201
        assert await rebuild() == 0
        assert await rebuild(clear=True) == 1201
        assert len(saver.search("fox", limit=2000).hits) == 1201


async def test_rebuild_while_threads_go(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database) as saver:
        for number in range(20):
            say(saver, f"thread {number}", *(f"fox {n}" for n in range(60)))
    async with opened(kind.ours, database, search=True) as saver:
        await asyncio.gather(saver.arebuild_search(), *(saver.adelete_thread(f"thread {n}") for n in range(0, 20, 2)))
        await saver.arebuild_search()
        assert indexed_items(database) == stored_items(database)
        assert len(indexed_items(database)) == 600


async def test_names_with_a_prefix_and_a_schema(kind: Kind, database: str) -> None:
    where = {"schema": 'odd "schema'} if kind.backend == "postgres" else {}
    async with opened(kind.ours, database, search=True, prefix='p"%s', **where) as saver:
        say(saver, "thread", "a fox")
        assert places(saver.search("fox")) == [("thread", 0)]
    async with opened(kind.ours, database, search=True, prefix='p"%s', **where) as saver:
        assert places(saver.search("fox")) == [("thread", 0)]


async def test_the_tables_may_be_made_by_someone_else(kind: Kind, database: str) -> None:
    script = kind.ours.ddl(prefix='p"%s', search=True)
    if kind.backend == "sqlite":
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(script)
        await _searches_as(kind, database)
        return
    role = f"role_{uuid4().hex}"
    grants = f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    rows(database, script)
    rows(database, f'{grants}; REVOKE UPDATE ON "p""%sitems" FROM {role}')
    try:
        await _searches_as(kind, make_conninfo(database, options=f"-c role={role}"))
    finally:
        rows(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _searches_as(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database, search=True, prefix='p"%s') as saver:
        say(saver, "thread", "a fox")
        assert places(saver.search("fox")) == [("thread", 0)]
        assert saver.rebuild_search(clear=True) == 1
        saver.delete_thread("thread")
        assert places(saver.search("fox")) == []


def test_ids_are_found_as_they_are_stored(both: list[Any]) -> None:
    for saver in both:
        say(saver, "\ue000 \x00", "unheard")
        assert places(saver.search("unheard")) == [("\ue000 \x00", 0)]
        assert escape("\x00") != "\x00"
        saver.delete_thread("\ue000 \x00")
        assert saver.search("unheard").hits == []


def test_times_are_of_the_messages(both: list[Any]) -> None:
    for saver in both:
        [hit] = saver.search("lazy").hits
        assert abs(hit.added_at - saver.messages("thread").stats().started_at) < timedelta(seconds=1)


async def test_setup_makes_the_index_too(kind: Kind, database: str) -> None:
    async with opened(kind.ours, database):
        assert "dual_search" not in tables(database)
    saver = kind.ours(database, search=True)
    try:
        with pytest.raises(SchemaError, match="search=True"):
            await settle(saver.setup(create=False))
        assert "dual_search" not in tables(database)
        await settle(saver.setup())
        await settle(saver.setup(create=False))
        assert "dual_search" in tables(database)
    finally:
        await saver.aclose()
