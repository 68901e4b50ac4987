"""Spans kept in memory, by a tracer provider that is not the global one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

from awakeables.telemetry.spans import SHAPES, Spans


class Recorder:
    """Records spans.

    Attributes:
        spans: What the service and the worker are given.
        tracer: For spans of the user's own code.
    """

    def __init__(self) -> None:
        self._exporter, self._open = InMemorySpanExporter(), _Open()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        provider.add_span_processor(self._open)
        self.spans = Spans(provider)
        self.tracer: Tracer = provider.get_tracer("user")

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        """The spans that have ended, in that order."""
        return self._exporter.get_finished_spans()

    @property
    def open(self) -> list[str]:
        """The names of those that have not."""
        return list(self._open.names.values())

    def named(self, name: str) -> list[ReadableSpan]:
        """Those with this name, in the order of their begin."""
        return sorted(
            (span for span in self.ended if span.name == name), key=lambda span: span.start_time or 0
        )

    def one(self, name: str) -> ReadableSpan:
        """The only one with this name."""
        [span] = self.named(name)
        return span

    def tree(self, under: str | None = None, *, indent: int = 0) -> list[str]:
        """The names of the spans below one, each indented below its parent; None: of those without one.

        A parent that was not recorded here counts as none.
        """
        known = {id_of(span) for span in self.ended}
        lines = []
        for span in sorted(self.ended, key=lambda span: span.start_time or 0):
            parent = parent_of(span)
            if (parent if parent in known else None) == under:
                lines += ["  " * indent + span.name, *self.tree(id_of(span), indent=indent + 1)]
        return lines


class _Open(SpanProcessor):
    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def on_start(self, span: SdkSpan, parent_context: object = None) -> None:
        self.names[id_of(span)] = span.name

    def on_end(self, span: ReadableSpan) -> None:
        del self.names[id_of(span)]


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def links_of(span: ReadableSpan) -> list[str]:
    return [f"{link.context.span_id:016x}" for link in span.links]


def is_error(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def facts(span: ReadableSpan, *names: str) -> list[object]:
    """The values of some of its attributes."""
    return [(span.attributes or {}).get(name) for name in names]


def check_vocabulary(spans: Sequence[ReadableSpan]) -> None:
    """Each of ours has a name, a kind and attributes that are declared."""
    for span in spans:
        if span.instrumentation_scope is None or span.instrumentation_scope.name != "awakeables":
            continue
        patterns = {shape: re.sub("(?<!by )[A-Z]{4,}", ".+", shape.name) for shape in SHAPES}
        shape = next(shape for shape in reversed(SHAPES) if re.fullmatch(patterns[shape], span.name))
        assert span.kind is shape.kind
        assert set(span.attributes or {}) <= set(shape.attributes)
