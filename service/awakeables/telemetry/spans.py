"""Spans for OpenTelemetry: their closed vocabulary, and the only code that imports its library.

This module is imported only if spans are switched on: the library is the extra `otel`. The tracer provider,
with its sampler and exporter, is the user's.

A span is open only while something happens in this process: an attempt of a handler, not its invocation,
which may wait for months. Parents come as `traceparent`, from records and rows, so that a trace goes on in
other processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final, TypeAlias

from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    Link,
    ProxyTracerProvider,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from awakeables.core.awakeables import Completion, VerdictKind
from awakeables.core.effects import Effect
from awakeables.core.texts import described, loggable, message_of, stack_of, type_of
from awakeables.telemetry.vocabulary import FAILED_ENDS, AttemptEnd, CompletionOrigin, TaskEnd

Attributes: TypeAlias = Mapping[str, str | int | bool | None]
"""Those with the value None are left out."""

# Of OpenTelemetry's conventions for messaging.
SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
PARTITION: Final = "messaging.destination.partition.id"
OFFSET: Final = "messaging.kafka.offset"
GROUP: Final = "messaging.consumer.group.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

# Our own.
INVOCATION: Final = "awakeables.invocation.id"
SERVICE: Final = "awakeables.service"
HANDLER: Final = "awakeables.handler"
ATTEMPT: Final = "awakeables.attempt"
RESUMED: Final = "awakeables.resumed"
END: Final = "awakeables.end"
RUN: Final = "awakeables.run"
AWAKEABLE: Final = "awakeables.awakeable.id"
TASK: Final = "awakeables.task"
VERDICT: Final = "awakeables.verdict"

GOES_ON: Final = "resumed"
"""The event of an attempt whose handler gets an outcome and goes on."""

EXCEPTION: Final = "exception"
"""The event of an error, with the attributes that OpenTelemetry names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanShape:
    """A kind of span.

    Attributes:
        name: Its name; the words in capitals stand for declared names and topics.
        kind: Its kind.
        help: What it covers, in one line.
        parent: What it is a child of.
        attributes: The attributes that it may have.
    """

    name: str
    kind: SpanKind
    help: str
    parent: str
    attributes: tuple[str, ...]


OF_HANDLER: Final = SpanShape(
    name="SERVICE/HANDLER",
    kind=SpanKind.SERVER,
    help="An attempt of a handler, from its start until it is suspended or has ended.",
    parent="the caller's span, or the root of the invocation's own trace",
    attributes=(INVOCATION, SERVICE, HANDLER, ATTEMPT, RESUMED, END, ERROR_TYPE),
)
OF_RUN: Final = SpanShape(
    name="run NAME",
    kind=SpanKind.INTERNAL,
    help="An action of `ctx.run` while it is executed.",
    parent="the attempt",
    attributes=(INVOCATION, RUN, ERROR_TYPE),
)
CREATE: Final = SpanShape(
    name="create TOPIC",
    kind=SpanKind.PRODUCER,
    help="A record that `ctx.publish` makes; its context is the record's `traceparent`.",
    parent="the attempt",
    attributes=(SYSTEM, OPERATION_NAME, OPERATION_TYPE, DESTINATION, MESSAGE_ID, INVOCATION, AWAKEABLE, TASK),
)
SEND: Final = SpanShape(
    name="send TOPIC",
    kind=SpanKind.CLIENT,
    help="Records that are produced together, until Kafka has acknowledged them.",
    parent="none: it has links to the spans that created the records",
    attributes=(SYSTEM, OPERATION_NAME, OPERATION_TYPE, DESTINATION, BATCH, MESSAGE_ID, ERROR_TYPE),
)
PROCESS: Final = SpanShape(
    name="process TOPIC",
    kind=SpanKind.CONSUMER,
    help="A task in our worker, over all of its tries; the completion's `traceparent` is its context.",
    parent="the task's `traceparent`",
    attributes=(
        *(SYSTEM, OPERATION_NAME, OPERATION_TYPE, DESTINATION, PARTITION, OFFSET, GROUP, MESSAGE_ID),
        *(AWAKEABLE, TASK, END, ERROR_TYPE),
    ),
)
SETTLE: Final = SpanShape(
    name="settle TOPIC",
    kind=SpanKind.CONSUMER,
    help="A completion from Kafka, until its verdict is committed.",
    parent="the completion's `traceparent`",
    attributes=(
        *(SYSTEM, OPERATION_NAME, OPERATION_TYPE, DESTINATION, PARTITION, OFFSET, MESSAGE_ID),
        *(AWAKEABLE, VERDICT, ERROR_TYPE),
    ),
)
SETTLE_BY_HTTP: Final = SpanShape(
    name="settle by HTTP",
    kind=SpanKind.SERVER,
    help="A completion over HTTP, until its verdict is committed.",
    parent="the request's `traceparent`",
    attributes=(AWAKEABLE, VERDICT, ERROR_TYPE),
)
SETTLE_BY_HANDLER: Final = SpanShape(
    name="settle by handler",
    kind=SpanKind.INTERNAL,
    help="A completion that a handler makes, until its verdict is committed.",
    parent="the attempt",
    attributes=(AWAKEABLE, VERDICT, ERROR_TYPE),
)

SHAPES: Final = (OF_HANDLER, OF_RUN, CREATE, SEND, PROCESS, SETTLE, SETTLE_BY_HTTP, SETTLE_BY_HANDLER)

_OPERATIONS: Final[dict[SpanShape, tuple[str, str]]] = {
    CREATE: ("create", "create"),
    SEND: ("send", "send"),
    PROCESS: ("process", "process"),
    SETTLE: ("settle", "process"),  # the type `settle` is of acknowledgements to the broker
}
"""The name and the type of the operation, of the spans of records."""

_propagator = TraceContextTextMapPropagator()


class Spans:
    """Begins the spans of this process."""

    def __init__(self, provider: TracerProvider | None = None, *, version: str = "") -> None:
        """Record spans with a tracer provider; by default the global one, also if it is set later."""
        self._provider = provider
        self._tracer = (provider or get_tracer_provider()).get_tracer("awakeables", version)

    @property
    def has_provider(self) -> bool:
        """Whether a tracer provider is set up by now; without one nothing is recorded."""
        return not isinstance(self._provider or get_tracer_provider(), ProxyTracerProvider)

    def attempt(
        self,
        parent: Mapping[str, str],
        *,
        invocation_id: str,
        service: str,
        handler: str,
        number: int,
        resumed: bool,
    ) -> AttemptSpan:
        """Begin the span of an attempt.

        Args:
            parent: The headers with the `traceparent` of its parent.
            invocation_id: The invocation.
            service: Its service.
            handler: Its handler.
            number: The number of the attempt.
            resumed: Whether it goes on from the journal of an earlier attempt, or repeats one that failed.
        """
        attributes: Attributes = {
            INVOCATION: invocation_id,
            SERVICE: service,
            HANDLER: handler,
            ATTEMPT: number,
            RESUMED: resumed,
        }
        span = _begin(self._tracer, OF_HANDLER, f"{service}/{handler}", attributes, context_of(parent))
        return AttemptSpan(self._tracer, span, invocation_id)

    def send(self, effects: Sequence[Effect]) -> Sending:
        """Begin the spans of records that are produced together, one for each topic."""
        return Sending(self._tracer, effects)

    def process(
        self, topic: str, partition: int, offset: int, *, group: str, headers: Mapping[str, str]
    ) -> OpenSpan:
        """Begin the span of a task's record in a worker, whose name is that of its group."""
        attributes = {
            **_of_record(PROCESS, topic),
            PARTITION: str(partition),
            OFFSET: offset,
            GROUP: group,
        }
        return OpenSpan(_begin(self._tracer, PROCESS, f"process {topic}", attributes, context_of(headers)))

    def settle_record(self, completion: Completion, topic: str, partition: int, offset: int) -> OpenSpan:
        """Begin the span of a completion from Kafka."""
        attributes = {
            **_of_record(SETTLE, topic),
            PARTITION: str(partition),
            OFFSET: offset,
            MESSAGE_ID: completion.event_id,
            AWAKEABLE: completion.awakeable_id,
        }
        parent = _context_of_trace(completion.trace)
        return OpenSpan(_begin(self._tracer, SETTLE, f"settle {topic}", attributes, parent))

    def settle(self, completion: Completion, origin: CompletionOrigin) -> OpenSpan:
        """Begin the span of a completion that does not come from Kafka."""
        shape = SETTLE_BY_HANDLER if origin == "handler" else SETTLE_BY_HTTP
        attributes = {AWAKEABLE: completion.awakeable_id}
        return OpenSpan(
            _begin(self._tracer, shape, shape.name, attributes, _context_of_trace(completion.trace))
        )


class OpenSpan:
    """A span that has begun; exactly one call of `ended` ends it."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def has_context(self) -> bool:
        """Whether it can be a parent; not if it has none itself and nothing is recorded."""
        return self._span.get_span_context().is_valid

    @property
    def traceparent(self) -> str:
        """Its context, for others to be its children."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def enter(self, variables: Variables) -> None:
        """Make it the current span of code that runs under these context variables.

        It stays so for as long as they exist: nothing is restored, which only the same context could do.
        """
        variables.run(_attach, self._span)

    def entered(self) -> Variables:
        """A copy of the context variables in which it is the current span."""
        variables = copy_context()
        self.enter(variables)
        return variables

    def is_of_task(self, awakeable_id: str, name: str | None, event_id: str | None) -> None:
        """Add which task the record has, once it was read."""
        self._set({AWAKEABLE: awakeable_id, TASK: name, MESSAGE_ID: event_id})

    def failed(self, error: BaseException) -> None:
        """Add the error that it ends with; its status is an error."""
        self.raised(error)
        self._set({ERROR_TYPE: type_of(error)})
        self._span.set_status(StatusCode.ERROR, described(error))

    def raised(self, error: BaseException) -> None:
        """Add an error after which it goes on."""
        error = loggable(error)
        self._span.add_event(
            EXCEPTION,
            {
                "exception.type": type_of(error),
                "exception.message": message_of(error),
                "exception.stacktrace": stack_of(error),
            },
        )

    def ended(
        self,
        end: AttemptEnd | TaskEnd | None = None,
        *,
        verdict: VerdictKind | None = None,
        error: BaseException | None = None,
    ) -> None:
        """End it, with what became of it; its status is an error if there is one, or the end is a failure."""
        self._set({END: end, VERDICT: verdict})
        if error is not None:
            self.failed(error)
        elif end in FAILED_ENDS:
            self._set({ERROR_TYPE: end})
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _set(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)


class AttemptSpan(OpenSpan):
    """The span of an attempt, which the spans of what its handler does are children of."""

    def __init__(self, tracer: Tracer, span: Span, invocation_id: str) -> None:
        super().__init__(span)
        self._tracer = tracer
        self._invocation_id = invocation_id

    def goes_on(self, awakeable_id: str | None) -> None:
        """Add that the handler gets an outcome, of an awakeable or of something else."""
        self._span.add_event(GOES_ON, {} if awakeable_id is None else {AWAKEABLE: awakeable_id})

    def run(self, name: str) -> OpenSpan:
        """Begin the span of an action, and make it the current one of the task that calls this."""
        attributes = {INVOCATION: self._invocation_id, RUN: name}
        span = _begin(self._tracer, OF_RUN, f"run {name}", attributes, self._context())
        _attach(span)
        return OpenSpan(span)

    def create(self, topic: str, event_id: str, *, awakeable_id: str | None, task: str | None) -> str:
        """Record that a record was made; return its `traceparent`."""
        attributes = {
            **_of_record(CREATE, topic),
            MESSAGE_ID: event_id,
            INVOCATION: self._invocation_id,
            AWAKEABLE: awakeable_id,
            TASK: task,
        }
        created = OpenSpan(_begin(self._tracer, CREATE, f"create {topic}", attributes, self._context()))
        created.ended()
        return created.traceparent

    def _context(self) -> Context:
        return set_span_in_context(self._span, Context())


class Sending:
    """The spans of records that are produced together, one for each topic."""

    def __init__(self, tracer: Tracer, effects: Sequence[Effect]) -> None:
        by_topic: dict[str, list[Effect]] = {}
        for effect in effects:
            by_topic.setdefault(effect.topic, []).append(effect)
        self._left = Counter({topic: len(some) for topic, some in by_topic.items()})
        self._open = {
            topic: OpenSpan(_begin_sending(tracer, topic, some)) for topic, some in by_topic.items()
        }
        self._errors: dict[str, Exception] = {}

    def reported(self, effects: Sequence[Effect], outcome: Exception | None) -> None:
        """Take what became of some of them; a span ends with the last record of its topic."""
        for effect in effects:
            topic = effect.topic
            if outcome is not None:
                self._errors.setdefault(topic, outcome)
            self._left[topic] -= 1
            if not self._left[topic]:
                self._open.pop(topic).ended(error=self._errors.get(topic))

    def abandoned(self) -> None:
        """End the spans of records that nothing is known of, because the process stops."""
        while self._open:
            topic, span = self._open.popitem()
            span.ended(error=self._errors.get(topic))


def context_of(headers: Mapping[str, str]) -> Context:
    """The context of a remote parent, from `traceparent` and `tracestate`; without them, that of a root."""
    return _propagator.extract(headers, Context())


def _context_of_trace(traceparent: str | None) -> Context:
    return Context() if traceparent is None else context_of({"traceparent": traceparent})


def _attach(span: Span) -> None:
    attach(set_span_in_context(span))


def _begin(
    tracer: Tracer,
    shape: SpanShape,
    name: str,
    attributes: Attributes,
    parent: Context,
    links: Sequence[Link] = (),
) -> Span:
    known = {key: value for key, value in attributes.items() if value is not None}
    return tracer.start_span(name, context=parent, kind=shape.kind, attributes=known, links=links)


def _begin_sending(tracer: Tracer, topic: str, effects: Sequence[Effect]) -> Span:
    is_batch = len(effects) > 1
    attributes = {
        **_of_record(SEND, topic),
        BATCH: len(effects) if is_batch else None,
        MESSAGE_ID: None if is_batch else effects[0].event_id,
    }
    return _begin(tracer, SEND, f"send {topic}", attributes, Context(), [*_links_to(effects)])


def _links_to(effects: Sequence[Effect]) -> Iterator[Link]:
    """Links to the spans that created records."""
    for effect in effects:
        headers = {name.lower(): (content or b"").decode("latin-1") for name, content in effect.headers}
        created = get_current_span(context_of(headers)).get_span_context()
        if created.is_valid:
            yield Link(created, {MESSAGE_ID: effect.event_id})


def _of_record(shape: SpanShape, topic: str) -> dict[str, str | int | bool | None]:
    name, type_ = _OPERATIONS[shape]
    return {SYSTEM: "kafka", OPERATION_NAME: name, OPERATION_TYPE: type_, DESTINATION: topic}
