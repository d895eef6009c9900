"""Spans and metrics of OpenTelemetry for every operation. Needs `opentelemetry-api`, the extra `otel`."""

from __future__ import annotations

from contextvars import Token
from typing import Any

from langgraph_checkpoint_dual.observing import Observer, Operation

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as exc:
    raise ImportError(
        f"OpenTelemetry needs opentelemetry-api ({exc}): pip install 'langgraph-checkpoint-dual[otel]'"
    ) from exc

_SCOPE = "langgraph_checkpoint_dual"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BYTES = tuple(256 * 4**power for power in range(11))


class OpenTelemetry(Observer):
    """An `Observer` that also makes a span of each operation, and measures all of them.

    A span is named after the saver's method, and is current while the operation runs, so that the spans of an
    instrumented driver lie within it. Neither spans nor metrics carry ids, values or statements.

    Args:
        tracer_provider, meter_provider: where to; the global ones unless given.
        thresholds: `slow_seconds` and `large_bytes` of the `Observer`.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        **thresholds: Any,
    ) -> None:
        super().__init__(**thresholds)
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            f"{_SCOPE}.duration", "s", "How long operations take", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._bytes = meter.create_histogram(
            f"{_SCOPE}.bytes", "By", "What operations store or read", explicit_bucket_boundaries_advisory=_BYTES
        )
        self._wait = meter.create_histogram(
            f"{_SCOPE}.pool.wait",
            "s",
            "How long operations wait for a connection of the pool",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._retries = meter.create_counter(f"{_SCOPE}.retries", "{retry}", "Attempts at operations after the first")
        self._dropped = meter.create_counter(f"{_SCOPE}.dropped", "{write}", "Writes that came too late")

    def begin(self, operation: Operation) -> tuple[trace.Span, Token[context.Context]]:
        attributes = {"db.system.name": operation.system, "db.operation.name": operation.name}
        span = self._tracer.start_span(operation.name, kind=SpanKind.CLIENT, attributes=attributes)
        return span, context.attach(trace.set_span_in_context(span))

    def end(self, operation: Operation, noted: tuple[trace.Span, Token[context.Context]]) -> None:
        span, token = noted
        context.detach(token)
        self._measure(operation)
        if span.is_recording():
            span.set_attribute(f"{_SCOPE}.bytes", operation.bytes)
            span.set_attribute(f"{_SCOPE}.retries", operation.retries)
            if operation.wait is not None:
                span.set_attribute(f"{_SCOPE}.pool.wait", operation.wait)
            if operation.dropped:
                span.set_attribute(f"{_SCOPE}.dropped", True)
            if operation.error is not None:
                kind = type(operation.error).__qualname__
                span.set_attribute("error.type", kind)
                span.set_status(Status(StatusCode.ERROR, kind))
        span.end()

    def _measure(self, operation: Operation) -> None:
        attributes = {"db.system.name": operation.system, "db.operation.name": operation.name}
        if operation.wait is not None:
            self._wait.record(operation.wait, attributes)
        if operation.retries:
            self._retries.add(operation.retries, attributes)
        if operation.dropped:
            self._dropped.add(1, attributes)
        if operation.error is not None:
            attributes["error.type"] = type(operation.error).__qualname__
        elif operation.bytes:
            self._bytes.record(operation.bytes, attributes)
        self._duration.record(operation.seconds, attributes)
