"""Evidence with one thing changed: an audit that does not notice is worth nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Raw

from awakeables.core.awakeables import AwakeableRow, VerdictHistory
from awakeables.core.deadletters import DeadLetter
from awakeables.core.invocations import Invocation
from awakeables.core.journal import (
    CallRequested,
    CancellationRaised,
    ClockRead,
    Entry,
    Input,
    OutcomeDelivered,
    RunRequested,
    VersionChosen,
)
from awakeables.core.outcomes import Cancellation, Expiry, Rejection, Resolution, encode_outcome
from e2e.chaos.app import ADD, NOTE
from e2e.chaos.books import DAY_MS
from e2e.chaos.evidence import Evidence, Kind
from e2e.chaos.faults import AWAY, FUNCTION_FAULTS
from e2e.chaos.flows import STEPS, TICK
from e2e.chaos.functionaudit import CALLERS, remote
from e2e.chaos.operated import ENOUGH
from e2e.chaos.operators import Act


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
    for row in _some(evidence, "branches"):
        effect = json.loads(_content(row))["effects"][0]
        ledger = [line for line in evidence.ledger if line.get("nonce") != effect]
        yield "a branch that has done nothing", replace(evidence, ledger=ledger)
    lie = told | {"verdict": "conflict" if told["verdict"] == "accepted" else "late"}
    yield "a worker that was lied to", replace(evidence, ledger=[*evidence.ledger, lie])
    letters = [*evidence.dead_letters, _letter(answered)]
    yield "a dead letter without cause", replace(evidence, dead_letters=letters)
    key, ids = next(iter(evidence.booked.items()))
    yield "a booking that was lost", replace(evidence, booked=dict(evidence.booked) | {key: ids[1:]})
    yield "a key that is still held", replace(evidence, queues=1)
    call = next(call for call in evidence.calls if call.status == 200)
    yield (
        "a client that was lied to",
        replace(evidence, calls=[*evidence.calls, replace(call, body={"n": 0})]),
    )


def forged_records(evidence: Evidence) -> Iterator[tuple[str, Kind, Evidence]]:
    """What a subscription might do wrong to a record: each names it, and as what it must be found."""
    for name in (NOTE, ADD):
        rows = [row for row in evidence.invocations.values() if row.subscription == name]
        good = next(row for row in rows if isinstance(row.result, Resolution))
        failed = next(row for row in rows if isinstance(row.result, Rejection))
        for row, what in ((good, "a record"), (failed, "a record that fails")):
            yield f"{what} that {name} has lost", "lost", _without(evidence, row.id)
            yield f"{what} that {name} has begun twice", "settled twice", _doubled(evidence, row)
        yield f"a record that {name} has taken for another", "told wrongly", _moved(evidence, good)
        short = {partition: max(0, end - 1) for partition, end in evidence.record_ends.items()}
        read = dict(evidence.read) | {name: short}
        yield f"offsets of {name} short of the end", "lost", replace(evidence, read=read)
    for code, letter in {letter.code: letter for letter in evidence.dead_letters}.items():
        others = [each for each in evidence.dead_letters if each is not letter]
        again = msgspec.structs.replace(letter, id="dlq_doubled")
        yield f"a dead letter that is lost: {code}", "lost", replace(evidence, dead_letters=others)
        yield (
            f"a dead letter that is doubled: {code}",
            "settled twice",
            replace(evidence, dead_letters=[*evidence.dead_letters, again]),
        )
    missed = evidence.copies[0]
    copies = [each for each in evidence.copies if (each.key, each.value) != (missed.key, missed.value)]
    yield "a dead letter without a copy", "lost", replace(evidence, copies=copies)
    key, ids = max(evidence.added.items(), key=lambda each: len(each[1]))
    changes: list[tuple[str, Kind, Sequence[str]]] = [
        ("a record of a key that was lost", "lost", ids[1:]),
        ("a record of a key that ran twice", "settled twice", [ids[0], *ids]),
        ("records of a key in the wrong order", "told wrongly", ids[::-1]),
    ]
    for what, kind, changed in changes:
        yield what, kind, replace(evidence, added=dict(evidence.added) | {key: changed})
    gone = evidence.produced[0].at
    left = [record for record in evidence.records if (record.partition, record.offset) != gone]
    yield "a record that is not in the topic", "lost", replace(evidence, records=left)


def forged_flows(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """What might go wrong with the handlers of `flows`, as far as the run has something of the kind."""
    after = (evidence.next_tick_ms or 0) + TICK // timedelta(milliseconds=1)
    yield "a last tick that was lost", replace(evidence, next_tick_ms=after)
    for key, stages in list(evidence.stages.items())[:1]:
        yield "a promise that never came", replace(evidence, stages={**evidence.stages, key: stages[:1]})
    for what, handler, said in (
        ("a tick", "tick", None),
        ("a signal that settled a promise", "approve", "accepted"),
        ("a late answer", "takes_late", None),
        ("a send", "posted", None),
    ):
        for row in _some(evidence, handler, said):
            yield f"{what} that was lost", _without(evidence, row.id)
            if handler != "posted":
                yield f"{what} that has begun twice", _doubled(evidence, row)
    for row in _some(evidence, "posted"):
        yield (
            "an attached end of another",
            _with_row(evidence, row, result_json=_end(b'{"n":0,"seen":[],"said":["1970-01-01"]}')),
        )
        given, *rest = evidence.journals[row.id]
        assert isinstance(given, Input), given
        later = msgspec.structs.replace(given, at_ms=given.at_ms + DAY_MS)
        yield "a send before its time", _with_journal(evidence, row, [later, *rest])
    for row in _some(evidence, "versioned"):
        journal = evidence.journals[row.id]
        chosen = [entry for entry in journal if isinstance(entry, VersionChosen)]
        yield "a version that was chosen twice", _with_journal(evidence, row, [*journal, *chosen])
        yield "a version that was lost", _with_row(evidence, row, versions_json=None)
    yield from _forged_watches(evidence)
    yield from _forged_sagas(evidence)
    yield from _forged_shields(evidence)


def _forged_watches(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    for row in _some(evidence, "watched", where=_given_up_for_its_silence):
        silent = evidence.awakeables[json.loads(_content(row))["seen"][0]["id"]]
        beat, outcome = silent.heartbeat, silent.outcome
        assert isinstance(outcome, Expiry), outcome
        assert beat is not None, silent
        early = msgspec.structs.replace(outcome, deadline_ms=outcome.deadline_ms - 1)
        yield "a worker that was given up early", _with(evidence, silent, outcome_json=encode_outcome(early))
        other = msgspec.structs.replace(beat, progress=Raw(b'{"nonce": "another"}'))
        forged = _with(evidence, silent, heartbeat_json=msgspec.json.encode(other))
        yield "a progress that nobody reported", forged
        yield "a worker that was never there", _with(evidence, silent, heartbeat_json=None)
        answered = _content(row).replace(b'"late":"heartbeat"', b'"late":"deadline"')
        yield "a silence that nobody noticed", _with_row(evidence, row, result_json=_end(answered))


def _given_up_for_its_silence(row: Invocation) -> bool:
    """And not at its last deadline, as where faults kept its heartbeats back for as long."""
    return bool(json.loads(_content(row))["seen"][0]["late"] == "heartbeat")


def _forged_sagas(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    for row in _some(evidence, "travels", "undone"):
        journal = evidence.journals[row.id]
        last = [entry for entry in journal if isinstance(entry, RunRequested)][-1]
        left = [ClockRead(at_ms=0) if entry is last else entry for entry in journal]
        yield "an undo that is not in the journal", _with_journal(evidence, row, left)
        freed = ("freed", row.id)
        kept = [line for line in evidence.ledger if (line["kind"], line.get("invocation")) != freed]
        yield "a saga that was not undone", replace(evidence, ledger=kept)
    for row in _some(evidence, "travels", "done"):
        line = {"kind": "freed", "pid": 1, "invocation": row.id, "step": STEPS[0]}
        yield "a saga that was undone for nothing", replace(evidence, ledger=[*evidence.ledger, line])


def _forged_shields(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    for row in _some(evidence, "shielded", "cancelled"):
        journal = evidence.journals[row.id]
        lost = [ClockRead(at_ms=0) if isinstance(entry, CancellationRaised) else entry for entry in journal]
        yield "a cancellation that was lost", _with_journal(evidence, row, lost)
        early = [CancellationRaised(reason="") if entry == journal[1] else entry for entry in lost]
        yield "a shield that held nothing up", _with_journal(evidence, row, early)
        cut = encode_outcome(Cancellation(reason="it was cut off"))
        yield "a shield that was cut off", _with_row(evidence, row, result_json=cut)


def forged_acts(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """What might go wrong with what operators do."""
    done = {act.kind: act for act in evidence.acts if act.accepted}
    pause, handler, restart = done["pause"], done["pause a handler"], done["restart"]
    changes: list[tuple[str, Act, dict[str, Any]]] = [
        ("a pause in which it went on", pause, {"looks": [("paused", 3), ("running", 4)]}),
        ("a resume that did nothing", pause, {"resumes": pause.requests + 1}),
        ("a pause of a handler that was lost", handler, {"resumes": 0}),
        ("a restart that was lost", restart, {"into": "inv_lost"}),
        ("a restart of nobody", restart, {"accepted": False}),
        ("restarts that were too many", restart, {"requests": 0}),
    ]
    for what, act, change in changes:
        others = [each for each in evidence.acts if each is not act]
        yield what, replace(evidence, acts=[*others, replace(act, **change)])
    yield "a pause without an act", _with_row(evidence, evidence.invocations[pause.target], acts_json=None)
    restarted = evidence.invocations[restart.target]
    yield "a restart that nobody remembers", _with_row(evidence, restarted, acts_json=None)
    yield "a handler that is still paused", replace(evidence, pauses=["shapes/one"])
    claimed = [replace(handler, claims=1)] * ENOUGH
    others = [replace(act, claims=None) for act in evidence.acts]
    yield "pauses that hold nothing", replace(evidence, acts=[*others, *claimed])


def forged_functions(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """What might go wrong with handlers that run in a function, if there is one."""
    for handler in CALLERS:
        for row in _some(evidence, handler):
            other = json.loads(_content(row))
            other["effects"][0] = "another"
            yield (
                f"an end that {handler} was not told",
                _with_row(evidence, row, result_json=_end(json.dumps(other).encode())),
            )
            [callee, *_] = [e.id for e in evidence.journals[row.id] if isinstance(e, CallRequested)]
            yield f"a callee of {handler} that is not there", _without(evidence, callee)
    for row in _some(evidence, "deposit"):
        told = json.loads(_content(row))
        done = {line["nonce"]: line for line in evidence.lines("effect") if line["invocation"] == row.id}
        before, after = (done[effect] | {"nonce": "again"} for effect in told["effects"])
        late = [("before", before | {"at_ms": 0}), ("after", after | {"at_ms": after["at_ms"] + DAY_MS})]
        for what, again in late:
            yield (
                f"an action {what} a wait that is executed after its result",
                replace(evidence, ledger=[*evidence.ledger, again]),
            )
    moved = {
        row.id: msgspec.structs.replace(row, created_ms=row.created_ms + DAY_MS) for row in remote(evidence)
    }
    for harm in [harm for harm in evidence.harms if harm.name in FUNCTION_FAULTS][:1]:
        idle = replace(evidence, invocations=dict(evidence.invocations) | moved)
        yield f"nothing that went through the function in: {harm.name}", idle
    if any(harm.name == AWAY for harm in evidence.harms):
        yield "an outage of the function that nobody noticed", replace(evidence, outages=0)


def _some(
    evidence: Evidence,
    handler: str,
    said: str | None = None,
    where: Callable[[Invocation], bool] = lambda row: True,
) -> Iterator[Invocation]:
    """One invocation of a handler, from the middle of the run, if there is one that has said this."""
    rows = [
        row
        for row in evidence.invocations.values()
        if row.handler == handler and isinstance(row.result, Resolution) and where(row)
    ]
    rows = [row for row in rows if said in (None, *json.loads(_content(row))["said"])]
    yield from rows[len(rows) // 2 :][:1]


def _content(row: Invocation) -> bytes:
    assert isinstance(row.result, Resolution), row
    return row.result.content


def _end(content: bytes) -> bytes:
    return encode_outcome(Resolution.of_json(content))


def _with_row(evidence: Evidence, row: Invocation, **changes: Any) -> Evidence:
    forged = msgspec.structs.replace(row, **changes)
    return replace(evidence, invocations=dict(evidence.invocations) | {row.id: forged})


def _with_journal(evidence: Evidence, row: Invocation, journal: Sequence[Entry]) -> Evidence:
    return replace(evidence, journals=dict(evidence.journals) | {row.id: journal})


def _doubled(evidence: Evidence, row: Invocation) -> Evidence:
    as_id = "inv_doubled"
    return replace(
        evidence,
        invocations=dict(evidence.invocations) | {as_id: msgspec.structs.replace(row, id=as_id)},
        journals=dict(evidence.journals) | {as_id: evidence.journals[row.id]},
    )


def _moved(evidence: Evidence, row: Invocation) -> Evidence:
    """As if it had been begun for a record at another offset."""
    given, *rest = evidence.journals[row.id]
    assert isinstance(given, Input), given
    assert given.record is not None
    record = msgspec.structs.replace(given.record, offset=given.record.offset + 1)
    journal = [msgspec.structs.replace(given, record=record), *rest]
    return replace(evidence, journals=dict(evidence.journals) | {row.id: journal})


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
