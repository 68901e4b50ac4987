"""Every transition of an awakeable: pending → resolved | rejected | timed-out | cancelled.

    pending ──accepted──▶ resolved | rejected      settle()
       │ ────deadline──▶ timed-out                 expire()
       └─────end, cancel▶ cancelled                cancel()

A wait for a call is a row, too; only the end of the call settles it, by `ended()`.

An awakeable settles once (A1): a completion that comes afterwards gets a verdict, which is recorded in the
row and changes nothing else. `invalid` leaves it pending (A4).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from awakeables.core.outcomes import (
    Cancellation,
    Expiry,
    ExpiryKind,
    Outcome,
    Rejection,
    Resolution,
    decode_outcome,
    encode_outcome,
)
from awakeables.core.records import Record, Row, text_from
from awakeables.core.sameness import same_answer
from awakeables.core.sealed import Unopened, raise_if_unopened, rejection_of
from awakeables.core.sources import same_source
from awakeables.core.texts import shortened

AwakeableState: TypeAlias = Literal["pending", "resolved", "rejected", "timed-out", "cancelled"]
VerdictKind: TypeAlias = Literal["accepted", "duplicate", "conflict", "late", "unknown", "invalid"]
CodecKind: TypeAlias = Literal["json", "bytes", "custom"]

KEPT_AT_EACH_END = 10
"""The first and the last ten verdicts of an awakeable are kept, the others only counted."""

STATES: tuple[AwakeableState, ...] = ("pending", "resolved", "rejected", "timed-out", "cancelled")
VERDICTS: tuple[VerdictKind, ...] = ("accepted", "duplicate", "conflict", "late", "unknown", "invalid")


MAX_PROGRESS_BYTES = 64 * 1024


class Heartbeat(Record):
    """A worker's sign of life; `progress` is JSON text, of at most `MAX_PROGRESS_BYTES`."""

    progress: Raw = Raw(b"null")


def checked_progress(progress: Raw) -> Raw:
    """The progress of a heartbeat.

    Raises:
        ValueError: It is too large.
    """
    size = len(bytes(progress))
    if size > MAX_PROGRESS_BYTES:
        raise ValueError(f"the progress has {size:,} bytes; at most {MAX_PROGRESS_BYTES:,} are kept")
    return progress


class DeadTask(Record):
    """A worker's report that the awakeable's task has become a dead letter.

    Attributes:
        code: The worker's error code, as in the header `awakeable-error-code` of the copy on `<topic>.dlq`.
        topic: The task's topic; `partition`, `offset` and `timestamp_ms` locate it there.
        whole: Key, value and headers are included, byte for byte; False: they were too large.
    """

    code: str
    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    whole: bool = True


class Completion(Record):
    """A completion of an awakeable, from Kafka, HTTP or a handler.

    Attributes:
        body: The answer, or a worker's heartbeat or report, which settles nothing; None if it could not
            be read: `refusal` says why.
        source: Where it came from (`core/sources.py`). Another from the same source is a repeat: a lost
            acknowledgement, a replay.
        trace: Its `traceparent`, if that is well-formed.
        checked: The hash of the schema that the value was checked against and conforms to.
        refusal: Why it can't be accepted, if that is known before it reaches the store.
        of_promise: A handler settles a promise of its workflow; nobody else can.
    """

    awakeable_id: str
    body: Resolution | Rejection | Heartbeat | DeadTask | None
    source: str
    event_id: str | None = None
    worker: str | None = None
    attempt: int | None = None
    trace: str | None = None
    checked: str | None = None
    refusal: str | None = None
    of_promise: bool = False


MAX_OUTCOME_BYTES = 64 * 1024
"""Maximum size of the outcome in a published verdict. The verdict must fit its topic, whose limit is not
known, and every repeat of an answer publishes one, which must not copy a megabyte each time."""

MAX_CHARACTERS = 1000
"""Maximum length of a text from the completion's producer; a longer one is cut and ends in `…`."""


class Verdict(Record):
    """What became of a completion (A2).

    Attributes:
        source: The text of the completion's source; it is in the journals of handlers.
        outcome: The outcome that is stored.
        omitted_bytes: The size of an outcome whose value or details are left out; 0: it is complete.
    """

    kind: VerdictKind
    awakeable_id: str
    source: str
    at_ms: int
    event_id: str | None = None
    reason: str | None = None
    outcome: Outcome | None = None
    omitted_bytes: int = 0


class VerdictEntry(Record):
    """A verdict as it is kept in the awakeable's row, with the `traceparent` of its completion."""

    kind: VerdictKind
    source: str
    at_ms: int
    event_id: str | None = None
    reason: str | None = None
    trace: str | None = None


class DeadTaskEntry(Record):
    """A report that the task is a dead letter, as it is kept in the awakeable's row."""

    dead_letter_id: str
    code: str
    reason: str
    at_ms: int
    worker: str | None = None


class VerdictHistory(Record):
    """The verdicts on one awakeable: a counter per kind, the first and the last ten.

    Long event IDs and reasons are cut, since the history is rewritten with each verdict.

    Attributes:
        dead_task: The last report that its task is a dead letter.
    """

    counts: dict[str, int] = {}
    first: tuple[VerdictEntry, ...] = ()
    last: tuple[VerdictEntry, ...] = ()
    dead_task: DeadTaskEntry | None = None

    def add(self, verdict: Verdict, trace: str | None = None) -> VerdictHistory:
        entry = VerdictEntry(
            kind=verdict.kind,
            source=verdict.source,
            at_ms=verdict.at_ms,
            event_id=verdict.event_id and shortened(verdict.event_id),
            reason=verdict.reason and shortened(verdict.reason),
            trace=trace,
        )
        counts = self.counts | {verdict.kind: self.counts.get(verdict.kind, 0) + 1}
        if len(self.first) < KEPT_AT_EACH_END:
            return replace(self, counts=counts, first=(*self.first, entry))
        return replace(self, counts=counts, last=(*self.last, entry)[-KEPT_AT_EACH_END:])


class LastHeartbeat(Record):
    """The last heartbeat of an awakeable."""

    progress: Raw
    at_ms: int
    worker: str | None = None


LATE_LETTER = "dead-letter"
"""What becomes of a late answer, instead of a handler: a dead letter."""


class Watch(Record):
    """What an awakeable is watched for, beyond a deadline.

    Attributes:
        heartbeat_ms: After the first heartbeat, the longest time to the next one; None: any.
        final_ms: The deadline that heartbeats don't move; None: there is none.
        on_late: What else comes of a late answer: `LATE_LETTER`, or a handler is begun, as `versions.target`
            writes it. None: nothing.
        revoke_to: The topic for the record that says that nobody waits any more; None: it is not said.
        late_id: The invocation that a late answer has begun.
    """

    heartbeat_ms: int | None = None
    final_ms: int | None = None
    on_late: str | None = None
    revoke_to: str | None = None
    late_id: str | None = None


_NO_VERDICTS = VerdictHistory()
_UNWATCHED = Watch()
_encode = msgspec.json.Encoder().encode
_decode_verdicts = msgspec.json.Decoder(VerdictHistory).decode
_decode_heartbeat = msgspec.json.Decoder(LastHeartbeat).decode
_decode_watch = msgspec.json.Decoder(Watch).decode


PROMISE = b"promise"
"""The source of a workflow's promise."""


class AwakeableRow(Row):
    """The row of a durable callback, or of a wait for a call.

    Attributes:
        schema_hash: The hash of its type's JSON Schema; None: any value.
        settled_by: The source of the completion that settled it.
        type_name: The stable name of the type that a JSON value must have; None: the type has no such
            name, or the row is from a release without names.
        topic: Where its first task was published.
        title: What people know it by: the name of a promise, also in the rows of waits for it.
        about: Not used yet.
        source_utf8: The invocation whose end settles it, or the promise whose outcome does; `PROMISE`: it
            is a promise itself, which handlers of its workflow settle; None: completions do.
        owned: That invocation is cancelled with the one that waits.
        deadline_ms: When it times out if nothing comes: the time-out, or when the next heartbeat is overdue,
            if that is earlier.
        watch_json: None: it has no more than a deadline.
    """

    id: str
    invocation_id: str
    created_ms: int
    codec: CodecKind = "json"
    schema_hash: str | None = None
    deadline_ms: int | None = None
    state: AwakeableState = "pending"
    settled_ms: int | None = None
    settled_by: str | None = None
    outcome_json: bytes | None = None
    verdicts_json: bytes | None = None
    heartbeat_json: bytes | None = None
    type_name: str | None = None
    topic: str | None = None
    title: bytes | None = None
    about: bytes | None = None
    source_utf8: bytes | None = None
    owned: bool = False
    watch_json: bytes | None = None

    @property
    def source(self) -> str | None:
        return None if self.source_utf8 is None else text_from(self.source_utf8)

    @property
    def outcome(self) -> Outcome | None:
        """How it was settled; a rejection that says so if that can't be read."""
        content = self.outcome_json
        if content is None:
            return None
        return rejection_of(content) if isinstance(content, Unopened) else decode_outcome(content)

    @property
    def known_outcome(self) -> Outcome | None:
        """How it was settled.

        Raises:
            ValueSealed: That can't be read.
        """
        raise_if_unopened(self.outcome_json)
        return self.outcome

    @property
    def verdicts(self) -> VerdictHistory:
        """The verdicts on its completions; none if they can't be read."""
        content = self.verdicts_json
        if content is None or isinstance(content, Unopened):
            return _NO_VERDICTS
        return _decode_verdicts(content)

    @property
    def watch(self) -> Watch:
        """What it is watched for."""
        return _UNWATCHED if self.watch_json is None else _decode_watch(self.watch_json)

    @property
    def heartbeat(self) -> LastHeartbeat | None:
        """Its last heartbeat; None also if that can't be read."""
        content = self.heartbeat_json
        return None if content is None or isinstance(content, Unopened) else _decode_heartbeat(content)


class Settled(Record):
    """The effect of one completion: the row afterwards, and the verdict.

    Attributes:
        settled: This settled the row, so its invocation must be woken.
        again: The completion had its verdict before and is not counted again.
        count: How many verdicts the row has now.
        late: The first answer that came late and fits, and what else comes of it (`Watch.on_late`).
    """

    awakeable: AwakeableRow
    verdict: Verdict | None
    settled: bool = False
    again: bool = False
    count: int = 0
    late: str | None = None


def keeps_late(watch_json: bytes) -> bool:
    """Whether a record with a late answer becomes a dead letter."""
    return _decode_watch(watch_json).on_late == LATE_LETTER


def watched(created: AwakeableRow, watch: Watch) -> AwakeableRow:
    """A new row that is watched; its deadline is the final one."""
    created.watch_json = _encode(replace(watch, final_ms=created.deadline_ms))
    return created


def needs_check(awakeable: AwakeableRow, completion: Completion) -> bool:
    """Whether the value must be checked against this row's schema before it can be settled.

    Raw bytes need no check: `settle` refuses them, because they are not JSON.
    """
    return (
        (awakeable.state == "pending" or _takes_late(awakeable))
        and completion.refusal is None
        and isinstance(completion.body, Resolution)
        and completion.body.is_json
        and awakeable.schema_hash != completion.checked
    )


def _takes_late(row: AwakeableRow) -> bool:
    """Whether something else comes of an answer that is late."""
    if row.watch_json is None or row.state not in ("timed-out", "cancelled"):
        return False
    watch = row.watch
    return watch.on_late is not None and watch.late_id is None


def settle(
    awakeable: AwakeableRow, completion: Completion, *, now_ms: int, horizon_ms: int, again: bool = False
) -> Settled:
    """Apply one completion to a row.

    A deadline at or before the horizon wins over the completion, however late the sweeper is. A repeat
    from a source in the row's history gets the same verdict as before. The caller has made sure that the
    value was checked (`needs_check`).

    Args:
        awakeable: The row.
        completion: The completion to apply.
        now_ms: The store's clock.
        horizon_ms: The instant that the deadline is compared with.
        again: The record was read before, and its verdict may have dropped out of the history, which
            keeps the first and the last ten. It settles a pending row, and otherwise is not counted.
    """
    row = awakeable
    if row.deadline_ms is not None and row.deadline_ms <= horizon_ms:
        row = expire(awakeable, now_ms=now_ms, horizon_ms=horizon_ms) or awakeable
    expired = row is not awakeable
    known = None if row.verdicts_json is None else _verdict_before(row, completion, now_ms)
    if known is not None:
        return Settled(awakeable=row, verdict=known, settled=expired, again=True)
    result = _settle(row, completion, expired=expired, now_ms=now_ms)
    if again and (result.verdict is None or result.verdict.kind != "accepted"):
        return replace(result, awakeable=row, again=True)
    return result


def _verdict_before(row: AwakeableRow, completion: Completion, now_ms: int) -> Verdict | None:
    """The verdict that this source got before, if the row still has it."""
    source = completion.source
    if row.settled_by is not None and same_source(row.settled_by, source):
        return _verdict(row, completion, "accepted", now_ms, None)
    for entry in (*row.verdicts.first, *row.verdicts.last):
        if same_source(entry.source, source):
            return _verdict(row, completion, entry.kind, now_ms, entry.reason)
    return None


def _settle(row: AwakeableRow, completion: Completion, *, expired: bool, now_ms: int) -> Settled:
    body = completion.body
    if row.state == "pending":
        if completion.refusal is not None or body is None:
            return _with_verdict(row, completion, "invalid", now_ms, completion.refusal)
        if isinstance(body, Heartbeat):
            return _with_heartbeat(row, body, completion.worker, now_ms)
        if isinstance(body, DeadTask):
            return Settled(awakeable=row, verdict=None)
        if isinstance(body, Resolution) and (body.value is UNSET) == (row.codec == "json"):
            return _with_verdict(row, completion, "invalid", now_ms, codec_misfit(row.codec, body))
        result = _with_verdict(row, completion, "accepted", now_ms, None, settled=True, outcome=body)
        assert result.verdict is not None
        after = result.awakeable  # a copy
        after.state = "resolved" if isinstance(body, Resolution) else "rejected"
        after.settled_ms = now_ms
        after.settled_by = result.verdict.source
        after.outcome_json = encode_outcome(body)
        return result
    if body is None:
        return _with_verdict(row, completion, "invalid", now_ms, completion.refusal, settled=expired)
    if row.state in ("timed-out", "cancelled"):
        late = None
        if isinstance(body, Resolution) and _takes_late(row):
            misfit = completion.refusal or codec_misfit(row.codec, body)
            if misfit is not None:
                return _with_verdict(row, completion, "invalid", now_ms, misfit, settled=expired)
            late = row.watch.on_late
        result = _with_verdict(
            row, completion, "late", now_ms, f"the awakeable is {row.state}", settled=expired
        )
        return result if late is None else replace(result, late=late)
    if isinstance(body, Heartbeat):
        # The answer overtook it on another partition, or the worker goes on sending them: no contradiction.
        return _with_heartbeat(row, body, completion.worker, now_ms)
    if isinstance(body, DeadTask):
        return _with_verdict(row, completion, "late", now_ms, f"the awakeable is {row.state} already")
    return _compared(row, completion, body, now_ms)


def _compared(
    row: AwakeableRow, completion: Completion, body: Resolution | Rejection, now_ms: int
) -> Settled:
    """Another answer to an awakeable that has one."""
    if isinstance(row.outcome_json, Unopened):
        # Most likely it is the same answer again, and there is nothing to compare it with.
        reason = f"it is not compared with the answer that was accepted: {row.outcome_json.error}"
        return _with_verdict(row, completion, "duplicate", now_ms, reason)
    outcome = row.outcome
    assert outcome is not None
    if same_answer(outcome, body):
        return _with_verdict(row, completion, "duplicate", now_ms, None)
    return _with_verdict(
        row, completion, "conflict", now_ms, f"the awakeable is {row.state} with another answer"
    )


def _with_heartbeat(row: AwakeableRow, heartbeat: Heartbeat, worker: str | None, now_ms: int) -> Settled:
    """Keep the last heartbeat, which puts off when the next is overdue; without progress, the former stays.

    It is not an answer, so it gets no verdict.
    """
    progress, former = heartbeat.progress, row.heartbeat
    if former is not None and bytes(progress) == b"null":
        progress = former.progress  # the first heartbeat of a task that is delivered again has none
    beat = LastHeartbeat(progress=progress, at_ms=now_ms, worker=worker)
    unread = bytes(progress) == b"null" and isinstance(row.heartbeat_json, Unopened)
    after = replace(row, heartbeat_json=row.heartbeat_json if unread else _encode(beat))
    if row.watch_json is not None and row.state == "pending":
        watch = row.watch
        if watch.heartbeat_ms is not None:
            due_ms = now_ms + watch.heartbeat_ms
            after.deadline_ms = due_ms if watch.final_ms is None else min(due_ms, watch.final_ms)
    return Settled(awakeable=after, verdict=None)


def without_progress(heartbeat_json: bytes) -> bytes:
    """The last heartbeat of a row, for lists, which show no values."""
    return _encode(replace(_decode_heartbeat(heartbeat_json), progress=Raw(b"null")))


def with_late_invocation(row: AwakeableRow, invocation_id: str) -> AwakeableRow:
    """Note the invocation that a late answer begins: it is the only one."""
    return replace(row, watch_json=_encode(replace(row.watch, late_id=invocation_id)))


def note_dead_task(
    awakeable: AwakeableRow, task: DeadTask, *, dead_letter_id: str, worker: str | None, now_ms: int
) -> AwakeableRow:
    """Record in the row that its task is this dead letter; the row stays pending."""
    entry = DeadTaskEntry(
        dead_letter_id=dead_letter_id,
        code=task.code,
        reason=shortened(task.reason),
        at_ms=now_ms,
        worker=worker and shortened(worker),
    )
    if isinstance(awakeable.verdicts_json, Unopened):
        return awakeable
    return replace(awakeable, verdicts_json=_encode(replace(awakeable.verdicts, dead_task=entry)))


def codec_misfit(codec: CodecKind, body: Resolution) -> str | None:
    """Why a value does not match the codec: JSON for an awakeable of bytes, or the reverse; None: it does."""
    if body.is_json == (codec == "json"):
        return None
    if codec == "json":
        return (
            "this awakeable takes a JSON value: send it as `value`, not as `value_base64`; "
            "in a binary CloudEvent with the content-type application/json"
        )
    return (
        "this awakeable takes bytes: send them as `value_base64`; "
        "in a binary CloudEvent with the content-type application/octet-stream"
    )


def expire(awakeable: AwakeableRow, *, now_ms: int, horizon_ms: int) -> AwakeableRow | None:
    """Time out a pending row whose deadline is at or before the horizon; None: nothing to do."""
    deadline_ms = awakeable.deadline_ms
    if awakeable.state != "pending" or deadline_ms is None or deadline_ms > horizon_ms:
        return None
    expiry = Expiry(deadline_ms=deadline_ms)
    if awakeable.heartbeat_json is not None:
        beat, watch = awakeable.heartbeat, awakeable.watch
        is_silent = watch.heartbeat_ms is not None and deadline_ms != watch.final_ms
        kind: ExpiryKind = "heartbeat" if is_silent else "deadline"
        expiry = Expiry(deadline_ms=deadline_ms, kind=kind, progress=UNSET if beat is None else beat.progress)
    outcome = encode_outcome(expiry)
    return replace(awakeable, state="timed-out", outcome_json=outcome, settled_ms=now_ms)


def ended(wait: AwakeableRow, result: Outcome, *, now_ms: int) -> AwakeableRow:
    """Settle a pending wait for a call by the call's end."""
    outcome = encode_outcome(result)
    state = _STATE_OF[type(result)]
    return replace(wait, state=state, outcome_json=outcome, settled_ms=now_ms)


_STATE_OF: dict[type[Outcome], AwakeableState] = {
    Resolution: "resolved",
    Rejection: "rejected",
    Expiry: "timed-out",
    Cancellation: "cancelled",
}


def cancel(awakeable: AwakeableRow, *, now_ms: int, reason: str) -> AwakeableRow | None:
    """Cancel a pending row; None: it is settled, nothing to do."""
    if awakeable.state != "pending":
        return None
    outcome = encode_outcome(Cancellation(reason=reason))
    return replace(awakeable, state="cancelled", outcome_json=outcome, settled_ms=now_ms)


def verdict_without_row(completion: Completion, *, issued_ms: int, now_ms: int, retention_ms: int) -> Verdict:
    """The verdict on a well-formed ID without a row: purged (late) or never issued (unknown)."""
    if now_ms - issued_ms > retention_ms:
        return _verdict(None, completion, "late", now_ms, "the awakeable was purged after its retention")
    return _verdict(None, completion, "unknown", now_ms, "no awakeable was issued with this ID")


def abridged(verdict: Verdict) -> Verdict:
    """The verdict for publishing: small, however large the completion or the outcome is."""
    outcome, omitted_bytes = verdict.outcome, 0
    if isinstance(outcome, Resolution | Rejection):
        size = len(encode_outcome(outcome))
        if size > MAX_OUTCOME_BYTES:
            outcome, omitted_bytes = _without_contents(outcome), size
    return replace(
        verdict,
        event_id=verdict.event_id and shortened(verdict.event_id, MAX_CHARACTERS),
        reason=verdict.reason and shortened(verdict.reason, MAX_CHARACTERS),
        outcome=outcome,
        omitted_bytes=omitted_bytes,
    )


def _without_contents(outcome: Resolution | Rejection) -> Resolution | Rejection:
    if isinstance(outcome, Resolution):
        return Resolution()
    return replace(outcome, reason=shortened(outcome.reason, MAX_CHARACTERS), details=UNSET)


def _with_verdict(
    row: AwakeableRow,
    completion: Completion,
    kind: VerdictKind,
    now_ms: int,
    reason: str | None,
    *,
    settled: bool = False,
    outcome: Outcome | None = None,
) -> Settled:
    verdict = _verdict(row, completion, kind, now_ms, reason, outcome)
    book = (_NO_VERDICTS if row.verdicts_json is None else row.verdicts).add(verdict, completion.trace)
    # One that can't be read stays, to be read once its key is back; only an acceptance must not be missed.
    unread = kind != "accepted" and isinstance(row.verdicts_json, Unopened)
    return Settled(
        awakeable=replace(row, verdicts_json=row.verdicts_json if unread else _encode(book)),
        verdict=verdict,
        settled=settled,
        count=sum(book.counts.values()),
    )


def _verdict(
    row: AwakeableRow | None,
    completion: Completion,
    kind: VerdictKind,
    now_ms: int,
    reason: str | None,
    outcome: Outcome | None = None,
) -> Verdict:
    return Verdict(
        kind=kind,
        awakeable_id=completion.awakeable_id,
        source=completion.source,
        at_ms=now_ms,
        event_id=completion.event_id,
        reason=reason,
        outcome=_outcome_to_show(row) if outcome is None else outcome,
    )


def _outcome_to_show(row: AwakeableRow | None) -> Outcome | None:
    return None if row is None or isinstance(row.outcome_json, Unopened) else row.outcome
