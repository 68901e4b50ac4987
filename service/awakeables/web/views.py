"""What clients of the HTTP interface see, as types.

A test compares the fields with `schemas/openapi.json`, which describes them. A field whose default is
UNSET may be absent; all others are always present.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from awakeables.core.acts import ActKind
from awakeables.core.awakeables import AwakeableState, CodecKind, VerdictKind
from awakeables.core.effects import EffectState
from awakeables.core.instances import InstanceState
from awakeables.core.invocations import Status
from awakeables.core.outcomes import ExpiryKind
from awakeables.core.schedules import Overlap
from awakeables.core.versions import VersionState
from awakeables.handlers.schedule import Missed

_SYMBOLS = "[0-9a-hjkmnp-tv-z]{33}$"

Instant: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
AwakeableId: TypeAlias = Annotated[str, Meta(pattern=f"^prom_1{_SYMBOLS}")]
InvocationId: TypeAlias = Annotated[str, Meta(pattern=f"^inv_1{_SYMBOLS}")]
DeadLetterId: TypeAlias = Annotated[str, Meta(pattern=f"^dlq_1{_SYMBOLS}")]
EventId: TypeAlias = Annotated[str, Meta(pattern=f"^evt_1{_SYMBOLS}")]
RecordId: TypeAlias = Annotated[str, Meta(pattern=f"^(evt|dlq)_1{_SYMBOLS}")]
Natural: TypeAlias = Annotated[int, Meta(ge=0)]
Version: TypeAlias = Annotated[int, Meta(ge=1)]
EndedAs: TypeAlias = Literal["succeeded", "failed", "cancelled"]


class View(msgspec.Struct):
    """A JSON object in a request or response."""


class ResolvedView(View, tag_field="status", tag="resolved"):
    """It succeeded, with a JSON value as written or with bytes."""

    value: Raw | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET


class RejectedView(View, tag_field="status", tag="rejected"):
    """It failed permanently."""

    reason: str
    code: int
    details: Raw


class TimedOutView(View, tag_field="status", tag="timed-out"):
    """Its deadline passed first."""

    deadline: Instant
    kind: ExpiryKind


class CancelledView(View, tag_field="status", tag="cancelled"):
    """It was cancelled."""

    reason: str


OutcomeView: TypeAlias = ResolvedView | RejectedView | TimedOutView | CancelledView


class VerdictView(View):
    """What was decided about a completion."""

    verdict: VerdictKind
    awakeable_id: AwakeableId
    event_id: str | None
    at: Instant


class BookEntryView(View):
    """A verdict in an awakeable's history, and where its completion came from."""

    verdict: VerdictKind
    source: str
    at: Instant
    event_id: str | None
    traceparent: str | None
    reason: str | None


class BeatView(View):
    """A worker's last heartbeat."""

    progress: Raw
    at: Instant
    worker: str | None


class WatchView(View):
    """What an awakeable is watched for, beyond a deadline."""

    heartbeat_timeout_ms: Natural | None
    on_late: str | None
    late_invocation: InvocationId | None


class HeartbeatView(View):
    """The answer to a heartbeat that was kept."""

    awakeable_id: AwakeableId
    state: Literal["pending"]


class AwakeableView(View):
    """An awakeable in a list; `verdicts` counts them by kind."""

    id: AwakeableId
    invocation: InvocationId
    state: AwakeableState
    codec: CodecKind
    deadline: Instant | None
    created: Instant
    settled: Instant | None
    settled_by: str | None
    verdicts: dict[VerdictKind, Natural]


class DeadTaskView(View):
    """The dead letter that the task became, because a worker could not process it."""

    id: DeadLetterId
    code: str
    reason: str
    worker: str | None
    at: Instant


class AwakeableInFullView(AwakeableView):
    """An awakeable, its first and last ten verdicts, and the schema that its value must match."""

    schema: Raw
    outcome: OutcomeView | None
    first: list[BookEntryView]
    last: list[BookEntryView]
    heartbeat: BeatView | None
    dead_task: DeadTaskView | None
    watch: WatchView | None


class AwakeablesView(View):
    """A page, newest first; `next` is the `before` of the next one, null if there is none."""

    items: list[AwakeableView]
    next: AwakeableId | None


class RefusalView(View):
    """The JSON body of a reject."""

    reason: str | None = None
    code: int | None = None
    details: Raw | UnsetType = UNSET


class ActView(View):
    """An operation by a client: with which token, or from where if no token was needed."""

    act: ActKind
    by: str
    at: Instant
    into: InvocationId | UnsetType = UNSET


ActViews: TypeAlias = list[ActView]


class FailureView(View):
    """Why the last attempt failed, or the invocation was paused."""

    kind: str
    message: str
    at: Instant


class InvocationView(View):
    """An invocation in a list."""

    id: InvocationId
    service: str
    handler: str
    key: str | None
    status: Status
    ended: EndedAs | None
    attempts: Natural
    due: Instant | None
    cancelled: Instant | None
    pausing: Instant | None
    failure: FailureView | None
    reason: str | None
    build: str | None
    version: Version
    subscription: str | None
    created: Instant
    updated: Instant


class SourceRecordView(View):
    """The record of a topic that an invocation was begun for."""

    topic: str
    partition: Natural
    offset: Natural
    timestamp: Instant


class JournalEntryView(View):
    """A journal entry, as stored and in words."""

    index: Natural
    entry: Raw
    text: str


class JournalView(View):
    """The whole journal of an invocation; entries and result are as they are stored."""

    format: Natural
    app: str
    invocation_id: InvocationId
    service: str
    handler: str
    exclusive: bool
    status: Status
    result: Raw
    entries: list[Raw]


class InvocationInFullView(InvocationView):
    """An invocation, its result and its journal."""

    idempotency_key: str | None
    caller: InvocationId | None
    restart_of: InvocationId | None
    record: SourceRecordView | None
    scheduled: Instant | None
    result: OutcomeView | None
    journal: list[JournalEntryView]
    journal_problem: str | None
    acts: ActViews


class InvocationsView(View):
    """A page, newest first; `next` is the `before` of the next one, null if there is none."""

    items: list[InvocationView]
    next: InvocationId | None


class WaitView(View):
    """What an invocation waits for: an answer to an awakeable, the end of `invocation`, or a promise.

    Attributes:
        heartbeat: When the last one came. If it can't be opened, this and the time-out are null.
    """

    id: AwakeableId
    type: str | None
    topic: str | None
    invocation: InvocationId | None
    promise: str | None
    created: Instant
    deadline: Instant | None
    heartbeat_timeout_ms: Natural | None
    heartbeat: Instant | None


class WaitingInvocationView(View):
    """An invocation that has not ended, and what it waits for, the oldest first; at most 32.

    Attributes:
        pause: The pause of its handler or service, if that is why it is not claimed.
    """

    invocation: InvocationView
    waits: list[WaitView]
    pause: PauseView | None


class WhyView(View):
    """The invocation, and then the one that each waits for, if that is one alone; empty if it has ended."""

    items: list[WaitingInvocationView]


class ObjectKeyView(View, kw_only=True):
    """A key of an object in a list: its queue, if the list is of those that have one."""

    key: str
    head: InvocationId | UnsetType | None = UNSET
    since: Instant | UnsetType | None = UNSET
    length: Natural | UnsetType = UNSET
    paused: Instant | UnsetType | None = UNSET


class ObjectKeysView(View):
    """A page, by key; `next` is the `after` of the next one, null if there is none."""

    items: list[ObjectKeyView]
    next: str | None


class ObjectKeyInFullView(View):
    """The queue of a key: what holds it `since` then, and the first in line; at most 32 of each."""

    object: str
    key: str
    head: list[WaitingInvocationView]
    since: Instant | None
    length: Natural
    in_line: list[InvocationView]
    paused: Instant | None
    acts: ActViews


class StateEntryView(View, kw_only=True):
    """A value in the state of a key: JSON as written, or bytes."""

    name: str
    value: Raw | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    updated: Instant


class StateView(View):
    """A page, by name; `next` is the `after` of the next one, null if there is none."""

    items: list[StateEntryView]
    next: str | None


class NotYetView(View):
    """The invocation has not ended; `Location` says where to poll."""

    invocation_id: InvocationId
    status: Status
    reason: str | UnsetType = UNSET


class BegunView(View):
    """The invocation is committed; `created` is false if the idempotency key was used before."""

    invocation_id: InvocationId
    created: bool


class DeadLetterView(View):
    """A record that could not be processed, in a list."""

    id: DeadLetterId
    code: str
    reason: str
    topic: str
    partition: Natural
    offset: Natural
    last_offset: Natural | None
    count: Natural
    timestamp: Instant
    awakeable_id: str | None
    at: Instant
    resent: Natural


class HeaderView(View):
    """A record's header; the value is text if it is UTF-8."""

    name: str
    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET


class DeadLetterInFullView(DeadLetterView, kw_only=True):
    """A record that could not be processed; key and value are text if they are UTF-8."""

    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: list[HeaderView]
    acts: ActViews


class DeadLettersView(View):
    """A page, newest first; `next` is the `before` of the next one, null if there is none."""

    items: list[DeadLetterView]
    next: DeadLetterId | None


class ResentView(View):
    """The record is queued in the outbox, for its topic."""

    id: DeadLetterId
    event_id: EventId
    topic: str


class PurgedView(View):
    """How many were deleted."""

    count: Natural


class OutboxRecordView(View):
    """A record that is not in Kafka, in a list.

    `reason` says why Kafka rejected it, or what an unsent record waits for, if known.
    """

    id: RecordId
    state: EffectState
    topic: str
    invocation: InvocationId | None
    awakeable: AwakeableId | None
    reason: str | None
    created: Instant


class OutboxRecordInFullView(OutboxRecordView, kw_only=True):
    """A record that is not in Kafka, a task without its envelope; key and value are text if UTF-8."""

    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: list[HeaderView]
    acts: ActViews


class OutboxView(View):
    """A page, newest first; `next` is the `before` of the next one, null if there is none."""

    items: list[OutboxRecordView]
    next: RecordId | None


class RepublishedView(View):
    """The record is queued for its topic again, with the same ID."""

    id: RecordId
    topic: str


class PartitionView(View):
    """A partition's position in the completions topic; `end` and `lag` are null until they are known."""

    topic: str
    partition: Natural
    next: Natural
    end: Natural | None
    lag: Natural | None
    epoch: Natural
    problem: str | None


class PartitionsView(View):
    """All partitions that have ever been read."""

    items: list[PartitionView]


class SubscribedPartitionView(View):
    """A partition as a subscription reads it; `end` and `lag` are null until they are known."""

    partition: Natural
    next: Natural
    end: Natural | None
    lag: Natural | None
    problem: str | None
    waits: str | None


class SubscriptionView(View):
    """A subscription; `handler` is null if this app has none of that name any more."""

    name: str
    topic: str
    handler: str | None
    paused: Instant | None
    open: Natural
    max_open: Natural | None
    problems: list[str]
    partitions: list[SubscribedPartitionView]


class SubscriptionsView(View):
    """All subscriptions, by name."""

    items: list[SubscriptionView]


class ScheduleView(View):
    """A schedule, and its next ticks.

    What it is made of is null if a newer release wrote it. `is_declared`: the code of the instance that
    answers declares it like this. `queued` is the tick that waits for the end of the last invocation.
    """

    name: str
    handler: str
    cron: str | None
    timezone: str | None
    interval_seconds: float | None
    overlap: Overlap | None
    missed: Missed | None
    is_declared: bool
    paused: Instant | None
    next: list[Instant]
    last_invocation: InvocationId | None
    last_status: Status | None
    queued: Instant | None
    is_blocked: bool


class SchedulesView(View):
    """All schedules, by name."""

    items: list[ScheduleView]


class PauseView(View):
    """A service, or a handler as `service/handler`, of which nothing is claimed until it is resumed.

    Attributes:
        by: The name of the token with which it was paused.
    """

    target: str
    since: Instant
    by: str | None


class PausesView(View):
    """What is paused, by name."""

    items: list[PauseView]


class ResumedView(View):
    """What was paused, and is not any more."""

    resumed: list[str]


class FunctionView(View):
    """What this instance knows of the function of a remote service.

    Attributes:
        handlers: As `service/handler`, and `service/handler@2` for a version other than the first.
        requests: How many are under way.
        problem: Why it gets no requests; null: it gets them.
    """

    service: str
    url: str
    build: str
    handlers: list[str]
    requests: Natural
    problem: str | None


class FunctionsView(View):
    """The functions of remote services, by service."""

    items: list[FunctionView]


class TriggeredView(View):
    """What was begun; null: it begins when the last invocation has ended."""

    invocation_id: InvocationId | None


class MoveView(View):
    """A partition that was moved from an offset to the next one to read."""

    partition: Natural
    before: Natural
    next: Natural


class MovesView(View):
    """The partitions that were moved; none, if each was there already."""

    items: list[MoveView]


class InstanceView(View):
    """An instance of the service, and what it owns; `is_this` is the one that answers."""

    id: str
    state: InstanceState
    is_this: bool
    host: str
    build: str
    handlers: list[str]
    started: Instant
    heartbeat: Instant
    invocations: Natural
    partitions: list[Natural]


class InstancesView(View):
    """The instances that share the store."""

    items: list[InstanceView]


class VersionUseView(View):
    """How many open invocations have a version of a handler, or of a part of its code."""

    service: str
    handler: str
    version: Version
    marker: str | None
    marker_version: Version | None
    open: Natural
    oldest: Instant | None
    state: VersionState


class VersionsView(View):
    """The versions of handlers, and of parts of their code, that open invocations have."""

    items: list[VersionUseView]


class LiveView(View):
    """The process is alive."""

    live: Literal[True] = True


Degraded: TypeAlias = Mapping[str, str] | UnsetType


class ReadyView(View):
    """The service accepts work."""

    ready: Literal[True] = True
    degraded: Degraded = UNSET


class NotReadyView(View, kw_only=True):
    """The service accepts no work; the problems say why."""

    ready: Literal[False] = False
    problems: Mapping[str, str]
    degraded: Degraded = UNSET


class ProblemView(View):
    """What went wrong: `type` is for programs, `detail` is for people."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    request_id: str


class RefusedCompletionView(ProblemView):
    """A completion that was not accepted; the type is the verdict."""

    verdict: VerdictKind
    awakeable_id: AwakeableId
    event_id: str | None
    at: Instant
    outcome: OutcomeView | None


class HandlerFailedView(ProblemView):
    """The handler's own failure, with its code."""

    reason: str
    code: int
    details: Any
    invocation_id: InvocationId
