"""Every transition of an awakeable: pending → resolved | rejected | timed-out | cancelled.

    pending ──accepted──▶ resolved | rejected      settle()
       │ ────deadline──▶ timed-out                 expire()
       └─────end, cancel▶ cancelled                cancel()

An awakeable settles once (A1): whatever comes afterwards gets a verdict and changes nothing but
the book. `invalid` leaves it pending (A4).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from awakeables.core.outcomes import (
    Cancellation,
    Expiry,
    Outcome,
    Rejection,
    Resolution,
    decode_outcome,
    encode_outcome,
)
from awakeables.core.records import Record, Row
from awakeables.core.sameness import same_answer
from awakeables.core.sources import Source, same_source
from awakeables.core.texts import shortened

State: TypeAlias = Literal["pending", "resolved", "rejected", "timed-out", "cancelled"]
VerdictKind: TypeAlias = Literal["accepted", "duplicate", "conflict", "late", "unknown", "invalid"]
Codec: TypeAlias = Literal["json", "bytes", "custom"]

KEPT_AT_EACH_END = 10
"""The first and the last ten verdicts of an awakeable are kept, the rest is counted."""

STATES: tuple[State, ...] = ("pending", "resolved", "rejected", "timed-out", "cancelled")
VERDICTS: tuple[VerdictKind, ...] = ("accepted", "duplicate", "conflict", "late", "unknown", "invalid")


class Heartbeat(Record):
    """A worker's sign of life; `progress` is JSON text."""

    progress: Raw = Raw(b"null")


class DeadTask(Record):
    """A worker's report that it has made a dead letter of the awakeable's task.

    Attributes:
        code: The worker's, as in the header `awakeable-error-code` of the copy on `<topic>.dlq`.
        topic: Where the task lies, with its partition, offset and timestamp.
        whole: Its key, value and headers are here, byte for byte; False: they were too large.
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
    """What the outside says about an awakeable.

    Attributes:
        body: The answer, or a worker's word about its task, which settles nothing; None when it
            could not be read, then `refusal` says why.
        source: A repeat from the same source is the same completion again (a lost acknowledgement, a
            replay).
        trace: The `traceparent` that it came with, if that is well-formed.
        checked: The hash of the schema that the value was checked against and fits.
        refusal: Why it can't be accepted, when the edge already knows.
    """

    awakeable_id: str
    body: Resolution | Rejection | Heartbeat | DeadTask | None
    source: Source
    event_id: str | None = None
    worker: str | None = None
    attempt: int | None = None
    trace: str | None = None
    checked: str | None = None
    refusal: str | None = None


MAX_OUTCOME_BYTES = 64 * 1024
"""A verdict that is published has no larger outcome. It has to fit its topic, whose limit the service
does not know, and each repeat of an answer has one: it must not copy a megabyte."""

MAX_CHARACTERS = 1000
"""Of a text that the completion's producer chose; the rest is left out, and `…` says so."""


class Verdict(Record):
    """What became of a completion (A2).

    Attributes:
        source: The text of the completion's source: handlers have it in their journals.
        outcome: What is stored.
        omitted_bytes: How large the outcome is whose value or details are left out; 0: it is whole.
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
    """One verdict as the awakeable remembers it, and the `traceparent` of its completion."""

    kind: VerdictKind
    source: str
    at_ms: int
    event_id: str | None = None
    reason: str | None = None
    trace: str | None = None


class DeadTaskEntry(Record):
    """That a worker could not use the task, and the ID of the dead letter that was filed for it."""

    dead_letter_id: str
    code: str
    reason: str
    at_ms: int
    worker: str | None = None


class VerdictHistory(Record):
    """The verdicts over one awakeable: a counter per kind, the first and the last ten.

    Long event IDs and reasons are shortened: it is written anew with each verdict.

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


_NO_VERDICTS = VerdictHistory()
_encode = msgspec.json.Encoder().encode
_decode_verdicts = msgspec.json.Decoder(VerdictHistory).decode
_decode_heartbeat = msgspec.json.Decoder(LastHeartbeat).decode


class AwakeableRow(Row):
    """The row of a durable callback.

    Attributes:
        schema_hash: The hash of its type's JSON Schema; None: any value.
        settled_by: The source of the completion that settled it.
        type_name: The stable name of the type that a JSON value must have; None: it has none, or the
            row is older than names.
        topic: Where its task was published, the first if there are several.
        title: What its handler calls it; not used yet.
        about: What its handler shows of it; not used yet.
    """

    id: str
    invocation_id: str
    created_ms: int
    codec: Codec = "json"
    schema_hash: str | None = None
    deadline_ms: int | None = None
    state: State = "pending"
    settled_ms: int | None = None
    settled_by: str | None = None
    outcome_json: bytes | None = None
    verdicts_json: bytes | None = None
    heartbeat_json: bytes | None = None
    type_name: str | None = None
    topic: str | None = None
    title: bytes | None = None
    about: bytes | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it was settled."""
        return None if self.outcome_json is None else decode_outcome(self.outcome_json)

    @property
    def verdicts(self) -> VerdictHistory:
        """The verdicts over it."""
        return _NO_VERDICTS if self.verdicts_json is None else _decode_verdicts(self.verdicts_json)

    @property
    def heartbeat(self) -> LastHeartbeat | None:
        """Its last heartbeat."""
        return None if self.heartbeat_json is None else _decode_heartbeat(self.heartbeat_json)


class Settled(Record):
    """The result of one completion: the row as it is now, and the verdict.

    Attributes:
        settled: Its outcome was decided by this, so its invocation is to be woken.
        again: It had its verdict before, and is counted nowhere.
        count: How many verdicts the row has by now.
    """

    awakeable: AwakeableRow
    verdict: Verdict | None
    settled: bool = False
    again: bool = False
    count: int = 0


def needs_check(awakeable: AwakeableRow, completion: Completion) -> bool:
    """Must the value be checked against this row's schema before it can be settled?

    Raw bytes never fit a schema: `settle` refuses them by their form.
    """
    return (
        awakeable.state == "pending"
        and completion.refusal is None
        and isinstance(completion.body, Resolution)
        and completion.body.is_json
        and awakeable.schema_hash != completion.checked
    )


def settle(
    awakeable: AwakeableRow, completion: Completion, *, now_ms: int, horizon_ms: int, again: bool = False
) -> Settled:
    """Apply one completion to a row.

    A deadline at or before the horizon wins over the completion, so that a sweeper that is late
    can't be overtaken. A repeat from a source that the book knows has the same verdict as before. The
    caller has seen to it that the value is checked (`needs_check`).

    Args:
        awakeable: The row.
        completion: What is said about it.
        now_ms: The store's clock.
        horizon_ms: What the deadline is held against.
        again: Its record was read before; the book may have forgotten, as it keeps the first and the
            last ten. It settles what waits, as it did or would have, and is not counted otherwise.
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
    """What this source was told before, if the row knows it."""
    source = completion.source.text
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
        row = replace(row, settled_ms=now_ms, settled_by=completion.source.text)
        row.state = "resolved" if isinstance(body, Resolution) else "rejected"
        row.outcome_json = encode_outcome(body)
        return _with_verdict(row, completion, "accepted", now_ms, None, settled=True, outcome=body)
    if body is None:
        return _with_verdict(row, completion, "invalid", now_ms, completion.refusal, settled=expired)
    if row.state in ("timed-out", "cancelled"):
        return _with_verdict(
            row, completion, "late", now_ms, f"the awakeable is {row.state}", settled=expired
        )
    if isinstance(body, Heartbeat):
        # It overtook the answer on another partition, or the worker still sends them: it contradicts nothing.
        return _with_heartbeat(row, body, completion.worker, now_ms)
    if isinstance(body, DeadTask):
        return _with_verdict(row, completion, "late", now_ms, f"the awakeable is {row.state} already")
    outcome = row.outcome
    assert outcome is not None
    if same_answer(outcome, body):
        return _with_verdict(row, completion, "duplicate", now_ms, None)
    return _with_verdict(
        row, completion, "conflict", now_ms, f"the awakeable is {row.state} with another answer"
    )


def _with_heartbeat(row: AwakeableRow, heartbeat: Heartbeat, worker: str | None, now_ms: int) -> Settled:
    """The last sign of life is kept; it is no answer, so it gets no verdict."""
    beat = LastHeartbeat(progress=heartbeat.progress, at_ms=now_ms, worker=worker)
    return Settled(awakeable=replace(row, heartbeat_json=_encode(beat)), verdict=None)


def note_dead_task(
    awakeable: AwakeableRow, task: DeadTask, *, dead_letter_id: str, worker: str | None, now_ms: int
) -> AwakeableRow:
    """Note in the book of a row that its task is this dead letter; the row waits on."""
    entry = DeadTaskEntry(
        dead_letter_id=dead_letter_id,
        code=task.code,
        reason=shortened(task.reason),
        at_ms=now_ms,
        worker=worker and shortened(worker),
    )
    return replace(awakeable, verdicts_json=_encode(replace(awakeable.verdicts, dead_task=entry)))


def codec_misfit(codec: Codec, body: Resolution) -> str | None:
    """JSON for an awakeable of bytes, or bytes for one of JSON: what is wrong, in words."""
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
    """Time a pending row out if its deadline is at or before the horizon; None: nothing to do."""
    deadline_ms = awakeable.deadline_ms
    if awakeable.state != "pending" or deadline_ms is None or deadline_ms > horizon_ms:
        return None
    outcome = encode_outcome(Expiry(deadline_ms=deadline_ms))
    return replace(awakeable, state="timed-out", outcome_json=outcome, settled_ms=now_ms)


def cancel(awakeable: AwakeableRow, *, now_ms: int, reason: str) -> AwakeableRow | None:
    """Call a pending row off; None: it is settled, nothing to do."""
    if awakeable.state != "pending":
        return None
    outcome = encode_outcome(Cancellation(reason=reason))
    return replace(awakeable, state="cancelled", outcome_json=outcome, settled_ms=now_ms)


def verdict_without_row(completion: Completion, *, issued_ms: int, now_ms: int, retention_ms: int) -> Verdict:
    """The verdict over a well-formed ID that has no row: purged (late) or never issued (unknown)."""
    if now_ms - issued_ms > retention_ms:
        return _verdict(None, completion, "late", now_ms, "the awakeable was purged after its retention")
    return _verdict(None, completion, "unknown", now_ms, "no awakeable was issued with this ID")


def abridged(verdict: Verdict) -> Verdict:
    """The verdict as it is published: small, however large the completion or the outcome is."""
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
    return Settled(
        awakeable=replace(row, verdicts_json=_encode(book)),
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
        source=completion.source.text,
        at_ms=now_ms,
        event_id=completion.event_id,
        reason=reason,
        outcome=row.outcome if outcome is None and row is not None else outcome,
    )
