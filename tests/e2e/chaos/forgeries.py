"""Evidence with one thing changed: an audit that does not notice is worth nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from awakeables.core.awakeables import AwakeableRow, VerdictHistory
from awakeables.core.deadletters import DeadLetter
from awakeables.core.journal import OutcomeDelivered
from awakeables.core.outcomes import Resolution, encode_outcome
from e2e.chaos.audit import Evidence


def forgeries(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """Each names what was done to it."""
    rows = dict(evidence.awakeables)
    answered = next(row for row in rows.values() if isinstance(row.outcome, Resolution))
    expired = next(row for row in rows.values() if row.state == "timed-out")
    charged = next(row for row in evidence.invocations.values() if row.handler == "charge")
    alone = next(row for row in evidence.invocations.values() if row.handler == "one")
    journal = evidence.journals[charged.id]
    delivered = next(entry for entry in journal if isinstance(entry, OutcomeDelivered))
    told = next(line for line in evidence.lines("told") if line["verdict"] in ("accepted", "duplicate"))

    yield "a call that is not there", _without(evidence, alone.id)
    yield (
        "an outcome that nobody sent",
        _with(evidence, answered, outcome_json=encode_outcome(Resolution.of_json(b"1"))),
    )
    yield (
        "a time-out over an answer",
        _with(evidence, answered, state="timed-out", outcome_json=expired.outcome_json),
    )
    yield (
        "an answer that is accepted twice",
        _with(evidence, answered, verdicts_json=msgspec.json.encode(_twice(answered.verdicts))),
    )
    yield "an answer without a verdict", _with(evidence, answered, verdicts_json=None)
    yield "a row that is not there", replace(evidence, awakeables=rows | {"": answered})
    yield (
        "an outcome told twice",
        replace(evidence, journals=dict(evidence.journals) | {charged.id: [*journal, delivered]}),
    )
    yield "a chunk that is missing", replace(evidence, versions=dict(evidence.versions) | {alone.id: [2]})
    yield (
        "offsets short of the end",
        replace(evidence, positions={partition: end - 1 for partition, end in evidence.ends.items()}),
    )
    yield "an effect that is not sent", replace(evidence, unsent=1)
    missed = evidence.tasks[0].value  # its record may be there twice
    yield (
        "a task that is not there",
        replace(evidence, tasks=[record for record in evidence.tasks if record.value != missed]),
    )
    yield (
        "a side effect that never happened",
        replace(evidence, ledger=[line for line in evidence.ledger if line["kind"] != "effect"]),
    )
    lie = told | {"verdict": "conflict" if told["verdict"] == "accepted" else "late"}
    yield "a worker that was lied to", replace(evidence, ledger=[*evidence.ledger, lie])
    yield "a dead letter", replace(evidence, dead_letters=[_letter(answered)])
    call = next(call for call in evidence.calls if call.status == 200)
    yield (
        "a client that was lied to",
        replace(evidence, calls=[*evidence.calls, replace(call, body={"n": 0})]),
    )


def _with(evidence: Evidence, row: AwakeableRow, **changes: Any) -> Evidence:
    forged = msgspec.structs.replace(row, **changes)
    return replace(evidence, awakeables=dict(evidence.awakeables) | {row.id: forged})


def _without(evidence: Evidence, invocation_id: str) -> Evidence:
    return replace(
        evidence,
        invocations={key: row for key, row in evidence.invocations.items() if key != invocation_id},
        journals={key: entries for key, entries in evidence.journals.items() if key != invocation_id},
    )


def _letter(row: AwakeableRow) -> DeadLetter:
    return DeadLetter(
        id="dlq_1",
        source="completions:0:1@1",
        topic="completions",
        partition=0,
        offset=1,
        timestamp_ms=1,
        code="unknown",
        reason="nobody knows it",
        at_ms=1,
        key=None,
        value=None,
        headers=(),
        awakeable_id=row.id,
    )


def _twice(book: VerdictHistory) -> VerdictHistory:
    return msgspec.structs.replace(book, counts=book.counts | {"accepted": 2})
