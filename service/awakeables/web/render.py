"""Converts rows to the views that clients of the HTTP interface see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.api import InstanceStatus, Move, PartitionProgress, ScheduleStatus, SubscriptionProgress
from awakeables.core.acts import Acts
from awakeables.core.awakeables import (
    VERDICTS,
    AwakeableRow,
    DeadTaskEntry,
    LastHeartbeat,
    Verdict,
    VerdictEntry,
    Watch,
)
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, QueuedEffect
from awakeables.core.ids import is_invocation
from awakeables.core.invocations import Failure, Invocation, due_since_ms, stalled_reason
from awakeables.core.journal import Entry, Input, SourceRecord
from awakeables.core.objects import ObjectRow, StateEntry
from awakeables.core.outcomes import (
    NULL,
    Cancellation,
    Expiry,
    Outcome,
    Rejection,
    Resolution,
    as_resolution,
)
from awakeables.core.pauses import PauseRow
from awakeables.core.records import rfc3339, text_from
from awakeables.core.replay import describe
from awakeables.core.sealed import Unopened
from awakeables.core.versions import VersionUse
from awakeables.ports import Expectation, FunctionStatus
from awakeables.queries import KeyStatus, WaitingInvocation
from awakeables.web import views
from awakeables.wire.journals import FORMAT

_LATEST_MS = 253_402_300_799_999
"""The end of the year 9999: RFC 3339 can't express later instants."""


def instant(at_ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339."""
    return rfc3339(min(at_ms, _LATEST_MS))


def _instant(at_ms: int | None) -> str | None:
    return None if at_ms is None else instant(at_ms)


def outcome(ended: Outcome) -> views.OutcomeView:
    match ended:
        case Resolution():
            if ended.is_json:
                return views.ResolvedView(value=Raw(ended.content))
            return views.ResolvedView(value_base64=ended.content)
        case Rejection():
            details = Raw(NULL) if isinstance(ended.details, UnsetType) else ended.details
            return views.RejectedView(reason=ended.reason, code=ended.code, details=details)
        case Expiry():
            return views.TimedOutView(deadline=instant(ended.deadline_ms), kind=ended.kind)
        case Cancellation():
            return views.CancelledView(reason=ended.reason)


def verdict(given: Verdict) -> views.VerdictView:
    return views.VerdictView(
        verdict=given.kind,
        awakeable_id=given.awakeable_id,
        event_id=given.event_id,
        at=instant(given.at_ms),
    )


def invocation(row: Invocation) -> views.InvocationView:
    return views.InvocationView(**_invocation(row))


def invocation_in_full(
    row: Invocation, journal: Sequence[Entry], problem: str | None = None, *, key: str | None = None
) -> views.InvocationInFullView:
    given = journal[0] if journal else None
    return views.InvocationInFullView(
        **_invocation(row),
        acts=_acts(row.acts),
        idempotency_key=key,
        caller=given.caller if isinstance(given, Input) else None,
        restart_of=given.restart_of if isinstance(given, Input) else None,
        record=_source(given.record) if isinstance(given, Input) and given.record else None,
        scheduled=_instant(given.scheduled_ms) if isinstance(given, Input) else None,
        result=_outcome(row.result),
        journal=[_entry(index, entry) for index, entry in enumerate(journal)],
        journal_problem=problem,
    )


def journal(app: str, row: Invocation, entries: Sequence[Entry]) -> views.JournalView:
    """A journal to be stored in a file, with a line for each entry."""
    return views.JournalView(
        format=FORMAT,
        app=app,
        invocation_id=row.id,
        service=row.service,
        handler=row.handler,
        exclusive=row.ticket is not None,
        status=row.status,
        result=Raw(row.result_json or NULL),
        entries=[Raw(b"\n" + msgspec.json.encode(entry)) for entry in entries],
    )


def why(chain: Sequence[WaitingInvocation]) -> views.WhyView:
    return views.WhyView(items=_waiting(chain))


def queue(row: ObjectRow) -> views.ObjectKeyView:
    return views.ObjectKeyView(
        key=row.key,
        head=row.head,
        since=_held_since(row),
        length=row.length,
        paused=_instant(row.paused_ms),
    )


def key_alone(key: str) -> views.ObjectKeyView:
    return views.ObjectKeyView(key=key)


def key_status(status: KeyStatus) -> views.ObjectKeyInFullView:
    row = status.queue
    return views.ObjectKeyInFullView(
        object=status.service,
        key=status.key,
        head=_waiting(status.head),
        since=None if row is None else _held_since(row),
        length=0 if row is None else row.length,
        in_line=[invocation(each) for each in status.in_line],
        paused=None if row is None else _instant(row.paused_ms),
        acts=[] if row is None else _acts(row.acts),
    )


def state_entry(entry: StateEntry) -> views.StateEntryView:
    if isinstance(entry.value, Unopened):
        shown = msgspec.json.encode(f"(it can't be read: {entry.value.error})")
        return views.StateEntryView(name=entry.name, value=Raw(shown), updated=instant(entry.updated_ms))
    stored = as_resolution(entry.value)
    return views.StateEntryView(
        name=entry.name,
        value=stored.value,
        value_base64=stored.value_base64,
        updated=instant(entry.updated_ms),
    )


def awakeable(row: AwakeableRow) -> views.AwakeableView:
    return views.AwakeableView(**_awakeable(row))


def awakeable_in_full(row: AwakeableRow, expected: Expectation | None) -> views.AwakeableInFullView:
    schema = expected.schema if expected is not None else None
    return views.AwakeableInFullView(
        **_awakeable(row),
        schema=Raw(NULL if schema is None else schema),
        outcome=_outcome(row.outcome),
        first=[_book_entry(entry) for entry in row.verdicts.first],
        last=[_book_entry(entry) for entry in row.verdicts.last],
        heartbeat=None if row.heartbeat is None else _beat(row.heartbeat),
        dead_task=None if row.verdicts.dead_task is None else _dead_task(row.verdicts.dead_task),
        watch=None if row.watch_json is None else _watch(row.watch),
    )


def _watch(watch: Watch) -> views.WatchView:
    return views.WatchView(
        heartbeat_timeout_ms=watch.heartbeat_ms, on_late=watch.on_late, late_invocation=watch.late_id
    )


def dead_letter(row: DeadLetter) -> views.DeadLetterView:
    return views.DeadLetterView(**_dead_letter(row))


def dead_letter_in_full(row: DeadLetter) -> views.DeadLetterInFullView:
    return views.DeadLetterInFullView(**_dead_letter(row), **_contents(row), acts=_acts(row.acts))


def queued_effect(row: QueuedEffect) -> views.OutboxRecordView:
    return views.OutboxRecordView(**_queued_effect(row))


def queued_effect_in_full(row: QueuedEffect) -> views.OutboxRecordInFullView:
    return views.OutboxRecordInFullView(**_queued_effect(row), **_contents(row.effect), acts=_acts(row.acts))


def subscription(row: SubscriptionProgress) -> views.SubscriptionView:
    return views.SubscriptionView(
        name=row.name,
        topic=row.topic,
        handler=row.target,
        paused=_instant(row.paused_ms),
        open=row.open,
        max_open=row.max_open,
        problems=list(row.problems),
        partitions=[
            views.SubscribedPartitionView(
                partition=each.partition,
                next=each.next,
                end=each.end,
                lag=each.lag,
                problem=each.problem,
                waits=each.waits,
            )
            for each in row.partitions
        ],
    )


def move(made: Move) -> views.MoveView:
    return views.MoveView(partition=made.partition, before=made.before, next=made.next)


def schedule(row: ScheduleStatus) -> views.ScheduleView:
    found = row.schedule
    interval = None if found is None or found.interval is None else found.interval.total_seconds()
    return views.ScheduleView(
        name=row.name,
        handler=row.target,
        cron=None if found is None else found.cron,
        timezone=None if found is None or found.cron is None else found.timezone,
        interval_seconds=interval,
        overlap=None if found is None else found.overlap,
        missed=None if found is None else found.missed,
        is_declared=row.is_declared,
        paused=_instant(row.paused_ms),
        next=[instant(each) for each in row.next_ms],
        last_invocation=row.last_invocation,
        last_status=row.last_status,
        queued=_instant(row.queued_ms),
        is_blocked=row.is_blocked,
    )


def reading(row: PartitionProgress) -> views.PartitionView:
    return views.PartitionView(
        topic=row.topic,
        partition=row.partition,
        next=row.next,
        end=row.end,
        lag=row.lag,
        epoch=row.epoch,
        problem=row.problem,
    )


def instance(row: InstanceStatus) -> views.InstanceView:
    each = row.instance
    return views.InstanceView(
        id=each.id,
        state=each.state,
        is_this=row.is_this,
        host=each.host,
        build=each.build,
        handlers=list(each.handlers),
        started=instant(each.started_ms),
        heartbeat=instant(each.beat_ms),
        invocations=row.invocations,
        partitions=list(row.partitions),
    )


def version_use(row: VersionUse) -> views.VersionUseView:
    return views.VersionUseView(
        service=row.service,
        handler=row.handler,
        version=row.version,
        marker=row.marker,
        marker_version=row.marker_version,
        open=row.open,
        oldest=_instant(row.oldest_ms),
        state=row.state,
    )


def _invocation(row: Invocation) -> dict[str, Any]:
    return {
        "id": row.id,
        "service": row.service,
        "handler": row.handler,
        "key": row.key,
        "status": row.status,
        "ended": None if isinstance(row.result_json, Unopened) else _ended(row.result),
        "attempts": row.attempts,
        "due": _instant(None if row.due_ms is None else due_since_ms(row.due_ms)),
        "cancelled": _instant(row.cancelled_ms),
        "pausing": _instant(row.pausing_ms),
        "failure": _failure(row.failure),
        "reason": stalled_reason(row),
        "build": row.build,
        "version": row.versions.handler,
        "subscription": row.subscription,
        "created": instant(row.created_ms),
        "updated": instant(row.updated_ms),
    }


def _source(record: SourceRecord) -> views.SourceRecordView:
    return views.SourceRecordView(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=instant(record.at_ms),
    )


def _waiting(chain: Sequence[WaitingInvocation]) -> list[views.WaitingInvocationView]:
    return [
        views.WaitingInvocationView(
            invocation=invocation(each.row),
            waits=[_wait(wait) for wait in each.waits],
            pause=None if each.pause is None else pause(each.pause),
        )
        for each in chain
    ]


def pause(row: PauseRow) -> views.PauseView:
    return views.PauseView(target=row.target, since=instant(row.since_ms), by=row.by)


def function(status: FunctionStatus) -> views.FunctionView:
    return views.FunctionView(
        service=status.service,
        url=status.url,
        build=status.build,
        handlers=list(status.handlers),
        requests=status.requests,
        problem=status.problem,
    )


def _wait(row: AwakeableRow) -> views.WaitView:
    is_known = not isinstance(row.heartbeat_json, Unopened)
    return views.WaitView(
        id=row.id,
        type=row.type_name,
        topic=row.topic,
        invocation=row.source if is_invocation(row.source) else None,
        promise=None if row.title is None else text_from(row.title),
        created=instant(row.created_ms),
        deadline=_instant(row.deadline_ms),
        heartbeat_timeout_ms=row.watch.heartbeat_ms if is_known else None,
        heartbeat=None if row.heartbeat is None else instant(row.heartbeat.at_ms),
    )


def _held_since(row: ObjectRow) -> str | None:
    """Since when the head holds the key; None: nothing does."""
    return None if row.head is None else instant(row.since_ms)


def _awakeable(row: AwakeableRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "invocation": row.invocation_id,
        "state": row.state,
        "codec": row.codec,
        "deadline": _instant(row.deadline_ms),
        "created": instant(row.created_ms),
        "settled": _instant(row.settled_ms),
        "settled_by": row.settled_by,
        "verdicts": {kind: row.verdicts.counts.get(kind, 0) for kind in VERDICTS},
    }


def _dead_letter(row: DeadLetter) -> dict[str, Any]:
    return {
        "id": row.id,
        "code": row.code,
        "reason": row.reason,
        "topic": row.topic,
        "partition": row.partition,
        "offset": row.offset,
        "last_offset": row.last_offset,
        "count": row.count,
        "timestamp": instant(row.timestamp_ms),
        "awakeable_id": row.awakeable_id,
        "at": instant(row.at_ms),
        "resent": row.resent,
    }


def _queued_effect(row: QueuedEffect) -> dict[str, Any]:
    effect = row.effect
    return {
        "id": row.id,
        "state": row.state,
        "topic": effect.topic,
        "invocation": effect.invocation_id,
        "awakeable": None if effect.task is None else effect.task.awakeable_id,
        "reason": row.reason,
        "created": instant(effect.created_ms),
    }


def _contents(record: DeadLetter | Effect) -> dict[str, Any]:
    """Key, value and headers: as text when they are UTF-8, else in `…_base64`."""
    headers = [views.HeaderView(name=name, **_content("value", value)) for name, value in record.headers]
    return {**_content("key", record.key), **_content("value", record.value), "headers": headers}


def _content(name: str, content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {name: None}
    if isinstance(content, Unopened):
        return {name: f"(it can't be read: {content.error})"}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": content}


def _outcome(ended: Outcome | None) -> views.OutcomeView | None:
    return None if ended is None else outcome(ended)


def _ended(result: Outcome | None) -> views.EndedAs | None:
    match result:
        case None:
            return None
        case Resolution():
            return "succeeded"
        case Cancellation():
            return "cancelled"
        case _:
            return "failed"


def _failure(failure: Failure | None) -> views.FailureView | None:
    if failure is None:
        return None
    return views.FailureView(kind=failure.kind, message=failure.message, at=instant(failure.at_ms))


def _acts(acts: Acts) -> list[views.ActView]:
    return [
        views.ActView(act=act.act, by=act.by, at=instant(act.at_ms), into=act.into or UNSET) for act in acts
    ]


def _book_entry(entry: VerdictEntry) -> views.BookEntryView:
    return views.BookEntryView(
        verdict=entry.kind,
        source=entry.source,
        at=instant(entry.at_ms),
        event_id=entry.event_id,
        traceparent=entry.trace,
        reason=entry.reason,
    )


def _beat(beat: LastHeartbeat) -> views.BeatView:
    return views.BeatView(progress=beat.progress, at=instant(beat.at_ms), worker=beat.worker)


def _dead_task(entry: DeadTaskEntry) -> views.DeadTaskView:
    return views.DeadTaskView(
        id=entry.dead_letter_id,
        code=entry.code,
        reason=entry.reason,
        worker=entry.worker,
        at=instant(entry.at_ms),
    )


def _entry(index: int, entry: Entry) -> views.JournalEntryView:
    return views.JournalEntryView(index=index, entry=Raw(msgspec.json.encode(entry)), text=describe(entry))
