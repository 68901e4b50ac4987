"""Processes one record: finds its function, runs it with retries, and decides the answer.

record ──unreadable, nobody's, misfit──▶ DeadLettered
   │
   ▼ ◀──────────── back-off ─────────────┐
deadline passed? ──▶ PastDeadline        │
   │                                     │
function ──returns──▶ Answered: resolved │
   ├─────raise Reject──▶ Answered: rejected
   ├─────TaskOver──▶ PastDeadline
   ├─────any other error─────────────────┤
   │                                     └──no more tries──▶ Answered: rejected, 500
   └─────the worker drains meanwhile──▶ Unfinished
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

import structlog
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, DeadTask, Heartbeat
from awakeables.core.effects import Header
from awakeables.core.ids import parse_id
from awakeables.core.jsontext import TOO_MANY_VALUES, has_too_many_values
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.records import Record
from awakeables.core.sources import source_of
from awakeables.core.texts import described, excerpt, writable
from awakeables.core.topics import is_topic_name
from awakeables.errors import ResultMisfit, TerminalError
from awakeables.handlers.calls import Raised, call
from awakeables.handlers.rejections import FAILED, rejection, rejection_of
from awakeables.handlers.serde import explain, result_of
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.telemetry.vocabulary import TaskEnd
from awakeables.wire.completions import encode_completion
from awakeables.wire.tasks import (
    EVENT_ID,
    JSON_TYPE,
    Address,
    TaskRecord,
    UnreadableTask,
    decode_task,
    find_address,
)
from awakeables.wire.traces import TRACEPARENT, TRACESTATE
from awakeables.worker.deadletters import DeadLetterCode, dead_letter
from awakeables.worker.heartbeats import (
    Heart,
    OverReason,
    TaskOver,
    is_late,
    revocations_of,
    timeout_of,
)
from awakeables.worker.port import Incoming, Outgoing, TaskPort
from awakeables.worker.replies import ANY_COMPLETIONS, ReplyTopics
from awakeables.worker.task import Reject, Task
from awakeables.worker.threads import Threads
from awakeables.worker.worker import TaskFunction, Worker

if TYPE_CHECKING:
    from awakeables.telemetry.spans import OpenSpan, Spans

log = structlog.stdlib.get_logger(__name__)

_TRACING = {TRACEPARENT, TRACESTATE}

Sleep: TypeAlias = Callable[[float], Awaitable[bool]]
"""Waits for that many seconds; False if the worker drains, so that there is no further attempt."""


class Answered(Record):
    """The completion to send, its attempt number, and whether it resolves the awakeable."""

    message: Outgoing
    task: TaskRecord
    attempt: int
    resolved: bool


class DeadLettered(Record):
    """The copy for the dead-letter topic, and the report to the service whose handler waits.

    Attributes:
        reports: The report with the task, and without it for a topic that refuses it as too large. Empty:
            the record does not say where to report, or that topic is not allowed.
    """

    message: Outgoing
    reports: tuple[Outgoing, ...] = ()


class PastDeadline(Record):
    """Nobody waits for the awakeable any more: there is nothing to send, and the record is done."""


class Unfinished(Record):
    """The worker drains before the task's next attempt: the record is left to the next worker."""


Fate: TypeAlias = Answered | DeadLettered | PastDeadline | Unfinished
PAST_DEADLINE = PastDeadline()
UNFINISHED = Unfinished()


def end_of(fate: Fate) -> TaskEnd:
    """What became of a record, in the vocabulary of metrics and spans."""
    match fate:
        case Answered():
            return "resolved" if fate.resolved else "rejected"
        case DeadLettered():
            return "dead-letter"
        case PastDeadline():
            return "expired"
        case Unfinished():
            return "left"
        case _:
            assert_never(fate)


class Processor:
    """Decides on records, one by one; it sends nothing and moves no offset."""

    def __init__(
        self,
        worker: Worker,
        *,
        clock: Clock,
        threads: Threads,
        pause: Sleep,
        port: TaskPort,
        reply_topics: ReplyTopics = ANY_COMPLETIONS,
        spans: Spans | None = None,
    ) -> None:
        self._worker = worker
        self._spans = spans
        self._port = port
        self._reply_topics = reply_topics
        self._clock = clock
        self._threads = threads
        self._pause = pause
        # Bound once: binding at each call, as the module's logger does, costs more than everything else.
        self._log = log.bind(worker=worker.name)

    async def process(self, record: Incoming) -> Fate:
        """Run the task in a record, and decide what to send."""
        if self._spans is None:
            return await self._process(record, None)
        headers = {name: (content or b"").decode("latin-1") for name, content in record.headers}
        span = self._spans.process(
            record.topic, record.partition, record.offset, group=self._worker.name, headers=headers
        )
        end: TaskEnd = "left"
        try:
            fate = await self._process(record, span)
            end = end_of(fate)
        finally:
            span.ended(end)
        return fate

    async def _process(self, record: Incoming, span: OpenSpan | None) -> Fate:
        try:
            task = decode_task(record.value, record.headers)
        except (UnreadableTask, ValueError) as error:  # a string that is no UTF-8 is a ValueError
            return self.give_up(record, "unreadable", str(error))
        if span is not None:
            span.is_of_task(task.awakeable_id, task.task, task.event_id)
        if not is_topic_name(task.reply_to):
            return self.give_up(
                record, "unreadable", f"reply_to {excerpt(task.reply_to)} is not a topic name"
            )
        if not self._reply_topics.allow(task.reply_to):
            return self.give_up(record, "unanswerable", self._reply_topics.refusal(task.reply_to))
        function = self._worker.function_for(record.topic, task.task)
        if function is None:
            return self.give_up(record, "unknown-task", self._nobody_takes(record.topic, task.task))
        if function.payload.kind == "json" and has_too_many_values(bytes(task.payload)):
            return self.give_up(record, "invalid", f"the payload does not fit: {TOO_MANY_VALUES}")
        try:
            payload = function.payload.decode(bytes(task.payload))
        except BaseException as error:  # validators are the author's code and raise what they like
            return self.give_up(record, "invalid", f"the payload does not fit: {explain(error)}")
        job = _Job(record, task, function, payload, span)
        if job.revocations is not None:
            # A revocation is later than the awakeable, but not than every copy of its task.
            self._port.watch(job.revocations, parse_id(task.awakeable_id, "prom") or record.timestamp_ms)
        job.heart = Heart(
            lambda progress: self._send_heartbeat(job, progress),
            lambda: self._is_over(job),
            timeout_s=job.heartbeat_s,
            keepalive=function.keepalive,
        )
        job.heart.open()
        try:
            return await self._try(job)
        finally:
            await job.heart.close()

    async def _send_heartbeat(self, job: _Job, progress: bytes) -> None:
        completion = Completion(
            awakeable_id=job.task.awakeable_id,
            body=Heartbeat(progress=Raw(progress)),
            source=source_of("worker", self._worker.name),
            worker=self._worker.name,
            attempt=job.attempt,
        )
        await self._port.send(_message(job.trace, job.task.reply_to, completion))

    def _is_over(self, job: _Job) -> OverReason | None:
        if job.is_late(self._clock.now_ms()):
            return "timed-out"
        return self._port.why_over(job.task.awakeable_id) if job.revocations is not None else None

    def give_up(self, record: Incoming, code: DeadLetterCode, reason: str) -> DeadLettered:
        """Make a record a dead letter, log it, and report it to the service whose handler waits."""
        address = find_address(record.value, record.headers)
        self._log.error(
            events.TASK_UNREADABLE,
            **({} if address is None else {"awakeable_id": address.awakeable_id}),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            code=code,
            reason=reason,
        )
        copy = dead_letter(record, code, reason)
        if address is None or code == "unanswerable" or not self._reply_topics.allow(address.reply_to):
            return DeadLettered(message=copy)
        return DeadLettered(message=copy, reports=self._reports(record, address, code, reason))

    def _reports(
        self, record: Incoming, address: Address, code: DeadLetterCode, reason: str
    ) -> tuple[Outgoing, ...]:
        task = DeadTask(
            code=code,
            reason=writable(reason),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            key=record.key,
            value=record.value,
            headers=record.headers,
        )
        event_id = f"{record.topic}:{record.partition}:{record.offset}"
        return tuple(
            _message(
                record.headers,
                address.reply_to,
                Completion(
                    awakeable_id=address.awakeable_id,
                    body=body,
                    source=source_of("worker", self._worker.name),
                    event_id=event_id,
                    worker=self._worker.name,
                ),
            )
            for body in (task, replace(task, whole=False))
        )

    def too_large(self, answered: Answered, problem: str) -> Answered:
        """The answer to send instead of one that Kafka refused."""
        size = len(answered.message.value or b"")
        return self._answered(
            answered.message.headers,
            answered.task,
            answered.attempt,
            rejection(f"the result can't be sent: {problem} (a completion of {size} bytes)", FAILED, None),
        )

    async def _try(self, job: _Job) -> Fate:
        began_ms = self._clock.now_ms()
        failures = 0
        while True:
            over = self._is_over(job)
            if over is not None:
                return self._skip(job, over)
            job.attempt = job.task.attempt + failures
            ended = await self._call(job)
            match ended:
                case Raised(error=Reject() | TerminalError() as error):
                    return self._rejected(job, error)
                case Raised(error=TaskOver() as over_error):
                    return self._skip(job, over_error.reason)
                case Raised(error=ResultMisfit() as misfit):
                    # A retry would only repeat the side effects.
                    return self._failed(job, failures + 1, misfit)
                case Raised(error=problem):
                    pass
                case Resolution():
                    return self._resolved(job, ended)
            failures += 1
            pause_ms = job.function.retry.pause_ms(failures)
            now_ms = self._clock.now_ms()
            if (
                pause_ms is None
                or job.function.retry.is_over(began_ms, now_ms + pause_ms)
                or job.is_late(now_ms + pause_ms)
            ):
                return self._failed(job, failures, problem)
            if job.span is not None:
                job.span.raised(problem)
            self._log.warning(
                events.TASK_RETRIED, **self._log_fields(job), pause_ms=pause_ms, error=described(problem)
            )
            if not await self._pause(pause_ms / 1000):
                return UNFINISHED

    async def _call(self, job: _Job) -> Resolution | Raised:
        function = job.function
        calling = call(function.function, job.as_task(), executor=self._threads)
        if job.span is None:
            ended = await calling
        else:
            ended = await asyncio.get_running_loop().create_task(calling, context=job.span.entered())
        if isinstance(ended, Raised):
            return ended
        try:
            return result_of(function.result, ended, by=repr(function), as_answer=True)
        except ResultMisfit as misfit:
            return Raised(misfit)

    def _resolved(self, job: _Job, resolution: Resolution) -> Answered:
        self._log.debug(events.TASK_DONE, **self._log_fields(job))
        return self._answered(job.trace, job.task, job.attempt, resolution)

    def _rejected(self, job: _Job, error: Reject | TerminalError) -> Answered:
        outcome = rejection_of(error)
        self._log.info(
            events.TASK_REJECTED, **self._log_fields(job), code=outcome.code, reason=outcome.reason
        )
        return self._answered(job.trace, job.task, job.attempt, outcome)

    def _failed(self, job: _Job, failures: int, problem: BaseException) -> Answered:
        reason = described(problem)
        if job.span is not None:
            job.span.failed(problem)
        self._log.error(
            events.TASK_REJECTED, **self._log_fields(job), code=FAILED, reason=reason, exc_info=problem
        )
        tries = "once" if failures == 1 else f"{failures} times"
        outcome = rejection(f"failed {tries}, last with {reason}", FAILED, None)
        return self._answered(job.trace, job.task, job.attempt, outcome)

    def _skip(self, job: _Job, over: OverReason) -> PastDeadline:
        if over == "timed-out":
            self._log.warning(events.TASK_EXPIRED, **self._log_fields(job), deadline=str(job.deadline))
        else:
            self._log.info(events.TASK_REVOKED, **self._log_fields(job), reason=over)
        return PAST_DEADLINE

    def _answered(
        self, trace: Sequence[Header], task: TaskRecord, attempt: int, outcome: Resolution | Rejection
    ) -> Answered:
        completion = Completion(
            awakeable_id=task.awakeable_id,
            body=outcome,
            source=source_of("worker", self._worker.name),
            event_id=f"{task.awakeable_id}:{attempt}",
            worker=self._worker.name,
            attempt=attempt,
        )
        return Answered(
            message=_message(trace, task.reply_to, completion),
            task=task,
            attempt=attempt,
            resolved=isinstance(outcome, Resolution),
        )

    def _nobody_takes(self, topic: str, name: str | None) -> str:
        there = sorted(str(known) for of, known in self._worker.functions if of == topic)
        return f"worker {self._worker.name!r} has no function for task {name!r} of {topic}, only for {there}"

    def _log_fields(self, job: _Job) -> dict[str, Any]:
        return {
            "awakeable_id": job.task.awakeable_id,
            "task": job.task.task,
            "attempt": job.attempt,
            "topic": job.record.topic,
            "partition": job.record.partition,
            "offset": job.record.offset,
        }


class _Job:
    """A readable task, over all of its attempts."""

    __slots__ = (
        *("attempt", "deadline", "function", "headers", "heart", "heartbeat_s"),
        *("payload", "record", "revocations", "span", "task", "trace"),
    )

    def __init__(
        self,
        record: Incoming,
        task: TaskRecord,
        function: TaskFunction,
        payload: Any,
        span: OpenSpan | None,
    ) -> None:
        self.record = record
        self.span = span
        self.trace: tuple[Header, ...] = record.headers
        if span is not None and span.has_context:
            state = [header for header in record.headers if header[0] == TRACESTATE]
            self.trace = ((TRACEPARENT, span.traceparent.encode()), *state)
        self.task = task
        self.function = function
        self.payload = payload
        self.attempt = task.attempt
        self.deadline = task.deadline
        self.headers = {
            name: (content or b"").decode("utf-8", "surrogateescape") for name, content in record.headers
        }
        self.heart: Heart | None = None
        self.heartbeat_s = timeout_of(self.headers)
        self.revocations = revocations_of(self.headers)

    def is_late(self, at_ms: int) -> bool:
        return is_late(self.deadline, at_ms)

    def as_task(self) -> Task[Any]:
        return Task(
            payload=self.payload,
            awakeable_id=self.task.awakeable_id,
            attempt=self.attempt,
            deadline=self.deadline,
            headers=self.headers,
            name=self.task.task,
            topic=self.record.topic,
            event_id=self.task.event_id,
            _beat=None if self.heart is None else self.heart.beat,
        )


def _message(trace: Sequence[Header], reply_to: str, completion: Completion) -> Outgoing:
    """The record of a completion, in the trace that is among these headers."""
    headers: tuple[Header, ...] = (
        (EVENT_ID, (completion.event_id or "").encode()),
        ("content-type", JSON_TYPE),
        *(header for header in trace if header[0] in _TRACING),
    )
    return Outgoing(
        topic=reply_to,
        key=completion.awakeable_id.encode(),
        value=encode_completion(completion),
        headers=headers,
    )
