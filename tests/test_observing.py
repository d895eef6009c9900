"""What can be seen of a saver from outside: log records, and spans and metrics in a real OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langgraph_checkpoint_dual import Observer, Serializer
from langgraph_checkpoint_dual.errors import ConfigError, DeletedError, EncodeError, UnavailableError
from langgraph_checkpoint_dual.otel import OpenTelemetry
from tests.faults.postgres_servers import free_port, terminate, until_one_waits
from tests.support.checkpoints import config, listed, put
from tests.support.savers import KINDS, Kind, Registry, faced, opened

SYSTEMS = {"sqlite": "sqlite", "postgres": "postgresql"}
SCOPE = "langgraph_checkpoint_dual"
POSTGRES = KINDS[2:]


class Telemetry:
    """An SDK that keeps what it is given."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self._reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.observer = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def points(self, metric: str) -> dict[str, Any]:
        """The data points of a metric, by operation."""
        data = self._reader.get_metrics_data()
        found = [
            one
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == f"{SCOPE}.{metric}"
        ]
        return {str(point.attributes["db.operation.name"]): point for one in found for point in one.data.data_points}


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@asynccontextmanager
async def subject_of(kind: Kind, face: str, database: str, **options: Any) -> Any:
    async with opened(kind.ours, database, **options) as saver:
        yield faced(saver, face)


async def use_everything(subject: Any) -> None:
    stored = await put(subject, values={"log": ["x" * 300] * 10})
    await subject.aput_writes(stored, [("log", "y" * 100)], "task")
    assert await subject.aget_tuple(config()) is not None
    assert len(await listed(subject, config())) == 1
    await subject.aget_delta_channel_history(config=stored, channels=["log"])
    await subject.acopy_thread("thread", "copy")
    await subject.aprune(["copy"])
    await subject.adelete_for_runs(["run"])
    await subject.adelete_thread("copy")


async def use_the_registry(saver: Any, face: str) -> None:
    threads = Registry(saver, face)
    await threads.register("thread", user_id="ada")
    await threads.update("thread", title="Plans")
    await threads.set_current("ada", "thread")
    assert await threads.current("ada") == "thread"
    assert [await threads.get("thread")] == (await threads.list()).threads
    assert await threads.count() == 1
    await threads.delete("thread")


USED = ("put", "put_writes", "get_tuple", "list", "list", "get_delta_channel_history", "copy_thread", "prune",
        "delete_for_runs", "delete_thread")  # fmt: skip


async def test_every_operation_is_a_span_and_is_measured(
    kind: Kind, face: str, database: str, telemetry: Telemetry
) -> None:
    async with subject_of(kind, face, database, observer=telemetry.observer) as subject:
        await use_everything(subject)
    assert [span.name for span in telemetry.spans] == list(USED)
    for span in telemetry.spans:
        assert span.attributes is not None
        assert span.attributes["db.system.name"] == SYSTEMS[kind.backend]
        assert span.attributes["db.operation.name"] == span.name
        assert span.attributes[f"{SCOPE}.retries"] == 0
        assert (f"{SCOPE}.pool.wait" in span.attributes) == (kind.backend == "postgres")
        assert span.status.is_ok
    assert {name: point.count for name, point in telemetry.points("duration").items()} == {
        name: USED.count(name) for name in USED
    }
    sizes = {name: point.sum for name, point in telemetry.points("bytes").items()}
    assert 300 < sizes["put"] < 5000
    assert sizes["get_tuple"] >= 300
    assert sizes["list"] >= 300
    assert 100 <= sizes["put_writes"] < 200
    assert telemetry.points("retries") == {}
    waits = {name: point.count for name, point in telemetry.points("pool.wait").items()}
    assert waits == ({name: USED.count(name) for name in USED} if kind.backend == "postgres" else {})


async def test_the_registry_is_observed_too(kind: Kind, face: str, database: str, telemetry: Telemetry) -> None:
    async with opened(kind.ours, database, observer=telemetry.observer) as saver:
        await use_the_registry(saver, face)
    names = ["register", "update", "set_current", "current", "get", "list", "count"]
    assert [span.name for span in telemetry.spans] == [*(f"threads_{name}" for name in names), "delete_thread"]


async def test_what_fails_is_a_failed_span(kind: Kind, face: str, database: str, telemetry: Telemetry) -> None:
    async with subject_of(kind, face, database, observer=telemetry.observer) as subject:
        with pytest.raises(EncodeError):
            await put(subject, values={"bad": print})
    [span] = telemetry.spans
    assert span.attributes is not None
    assert span.attributes["error.type"] == "EncodeError"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.events == ()  # the text of an error may hold what was to be stored


async def test_no_span_tells_ids_or_values(kind: Kind, database: str, telemetry: Telemetry) -> None:
    async with opened(kind.ours, database, observer=telemetry.observer) as saver:
        stored = await put(saver, config("secret-thread"), {"secret-channel": "secret-value"})
        await saver.aget_tuple(stored)
        with pytest.raises(EncodeError):
            await put(saver, stored, {"secret-channel": print})
    assert len(telemetry.spans) == 3
    assert "secret" not in "".join(span.to_json() for span in telemetry.spans)


async def test_a_copy_with_an_allowlist_is_observed_too(kind: Kind, database: str, telemetry: Telemetry) -> None:
    async with opened(kind.ours, database, observer=telemetry.observer) as saver:
        await put(saver.with_allowlist([]))
    assert [span.name for span in telemetry.spans] == ["put"]


class Watching(Serializer):
    """Notes what it sees of its caller's context."""

    mark: ContextVar[str] = ContextVar("mark", default="")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        self.seen.append((self.mark.get(), trace.get_current_span().is_recording()))
        return super().dumps_typed(obj)


async def test_a_serializer_sees_the_context_of_its_caller(
    kind: Kind, face: str, database: str, telemetry: Telemetry
) -> None:
    """Also where the value is so large that it is encoded on another thread."""
    serde = Watching()
    async with subject_of(kind, face, database, observer=telemetry.observer, serde=serde) as subject:
        Watching.mark.set("tenant")
        await put(subject, values={"large": {"text": "x" * 100_000}})
    assert set(serde.seen) == {("tenant", True)}


class TestRetries:
    """A session is lost while several writes wait on it, which share a statement."""

    @pytest.fixture(params=POSTGRES, ids=str)
    def kind(self, request: pytest.FixtureRequest) -> Kind:
        found: Kind = request.param
        return found

    async def test_are_logged_and_measured_for_each(
        self, kind: Kind, database: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened(kind.ours, database, observer=telemetry.observer, max_size=1) as saver:
            stored = await put(saver, values={"total": 0})
            async with await psycopg.AsyncConnection.connect(database) as holder:
                await holder.execute("LOCK TABLE dual_checkpoints IN ACCESS EXCLUSIVE MODE")
                work = asyncio.gather(*(_put_on_a_thread(kind, saver, stored) for _ in range(3)))
                await until_one_waits(database)
                terminate(database, "wait_event_type = 'Lock'")
                await holder.rollback()
            await work
        lines = [one.getMessage() for one in caplog.records if one.name == f"{SCOPE}.retrying"]
        assert len(lines) >= 1
        assert all(line.startswith("attempt 1 at put failed") for line in lines)
        assert telemetry.points("retries")["put"].value >= 1
        waits = [span.attributes[f"{SCOPE}.pool.wait"] for span in telemetry.spans if span.attributes]
        assert len(waits) == 4

    async def test_their_end_says_how_many(self, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, SCOPE)
        nowhere = f"host=127.0.0.1 port={free_port()} dbname=postgres user=somebody password=hunter2"
        saver = kind.ours(nowhere, retry_for=0.3)
        with pytest.raises(UnavailableError):
            await saver.aget_tuple(config())
        await saver.aclose()
        [line] = [one.getMessage() for one in caplog.records if one.name == f"{SCOPE}.retrying"]
        assert line.startswith("get_tuple is given up: the database could not be used (1 attempt in ")
        assert "hunter2" not in caplog.text


async def _put_on_a_thread(kind: Kind, saver: Any, stored: Any) -> None:
    if kind.face == "async":
        await put(saver, stored, {"total": 1})
    else:
        await asyncio.to_thread(lambda: asyncio.run(put(faced(saver, "blocking"), stored, {"total": 1})))


class TestLog:
    """What goes to the standard log."""

    async def logged(
        self, kind: Kind, face: str, database: str, caplog: pytest.LogCaptureFixture, observer: Observer | None
    ) -> list[str]:
        async with subject_of(kind, face, database, observer=observer) as subject:
            await put(subject, config("secret-thread"), {"text": "secret-value" * 100})
            await subject.aget_tuple(config("secret-thread"))
            with pytest.raises(EncodeError):
                await put(subject, config("secret-thread"), {"text": "secret-value", "bad": print})
            with pytest.raises(ConfigError):
                await subject.acopy_thread("secret-thread", "")
            with pytest.raises(ConfigError):
                await subject.aget_tuple({"configurable": {}})
        return [one.getMessage() for one in caplog.records if one.name.startswith(SCOPE)]

    async def test_refused_writes(self, kind: Kind, face: str, database: str, caplog: pytest.LogCaptureFixture) -> None:
        found = await self.logged(kind, face, database, caplog, None)
        assert found == [
            "refused: put, with EncodeError in channel 'bad'",
            "refused: copy_thread, with ConfigError",
        ]

    async def test_slow_and_large(self, kind: Kind, face: str, database: str, caplog: pytest.LogCaptureFixture) -> None:
        found = await self.logged(kind, face, database, caplog, Observer(slow_seconds=0, large_bytes=1000))
        kinds = [" ".join(line.split()[:2]) for line in found]
        assert kinds[:4] == ["slow: put", "large: put", "slow: get_tuple", "large: get_tuple"]
        assert "secret" not in " ".join(found)

    async def test_threads_are_named_at_the_level_debug_only(
        self, kind: Kind, face: str, database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, SCOPE)
        found = await self.logged(kind, face, database, caplog, Observer(slow_seconds=None, large_bytes=None))
        assert any(line.startswith("put of thread 'secret-thread': ") for line in found)
        assert "secret-value" not in " ".join(found)
        levels = {one.levelname for one in caplog.records if "secret-thread" in one.getMessage()}
        assert levels == {"DEBUG"}


def test_nothing_of_opentelemetry_is_imported_by_itself() -> None:
    modules = ", ".join(f"{SCOPE}.{name}" for name in ("sqlite.aio", "postgres.aio"))
    code = f"import sys, {modules}; sys.exit('{SCOPE}.otel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_abandoned_operation_ends(sqlite_path: str, telemetry: Telemetry) -> None:
    """A coroutine that is dropped half way ends its span, in whatever context that happens."""
    from langgraph_checkpoint_dual import AsyncSqliteSaver

    with AsyncSqliteSaver(sqlite_path, observer=telemetry.observer) as saver:

        async def begin() -> Callable[[], None]:
            coroutine = saver.aget_tuple(config())
            coroutine.send(None)
            return coroutine.close

        asyncio.run(begin())()
    [span] = telemetry.spans
    assert span.attributes is not None
    assert span.attributes["error.type"] == "GeneratorExit"


@pytest.mark.parametrize("late", ["drop", "raise"])
async def test_late_writes(
    kind: Kind, face: str, database: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, late: str
) -> None:
    async with subject_of(kind, face, database, observer=telemetry.observer, late=late) as subject:
        stored = await put(subject, config("secret-thread"))
        await subject.adelete_thread("secret-thread")
        with suppress(DeletedError):
            await subject.aput_writes(stored, [("log", 1)], "task")
    lines = [one.getMessage() for one in caplog.records if one.name == f"{SCOPE}.operations"]
    if late == "drop":
        assert lines == ["not stored: a late put_writes, whose thread was deleted since its run began"]
        assert telemetry.points("dropped")["put_writes"].value == 1
    else:
        assert lines == ["refused: put_writes, with DeletedError"]
        assert telemetry.points("dropped") == {}


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "observability.md"
    examples = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len(examples) == 2
    for example in examples:
        subprocess.run([sys.executable, "-Werror", "-c", example], cwd=tmp_path, check=True)
