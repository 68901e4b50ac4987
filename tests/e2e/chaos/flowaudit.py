"""What must hold for the handlers of `flows`, beyond what holds for all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Raw

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.invocations import Invocation
from awakeables.core.journal import (
    AwakeableCreated,
    CancellationRaised,
    Input,
    OutcomeDelivered,
    RunEnded,
    RunRequested,
    SendRequested,
    VersionChosen,
)
from awakeables.core.outcomes import Cancellation, Expiry, Resolution
from e2e.chaos.evidence import Evidence, Violation
from e2e.chaos.flows import DELAY, STEPS, TICK, WORDING

TICK_MS = TICK // timedelta(milliseconds=1)


def violations(evidence: Evidence) -> Iterator[Violation]:
    yield from _one_signal_settled_each_promise(evidence)
    yield from _every_tick_began_once(evidence)
    yield from _silent_workers_were_given_up(evidence)
    yield from _late_answers_began_one_handler(evidence)
    yield from _versions_were_chosen_once(evidence)
    yield from _what_failed_was_undone(evidence)
    yield from _shields_held_cancellations_up(evidence)
    yield from _what_was_sent_began_after_its_delay(evidence)


def _one_signal_settled_each_promise(evidence: Evidence) -> Iterator[Violation]:
    """Whoever settled it was told so, the run got that one's value, and the other was refused."""
    signals: dict[str | None, list[Invocation]] = {}
    for signal in _rows(evidence, "approve"):
        signals.setdefault(signal.key, []).append(signal)
    for run in (row for row in _rows(evidence, "run") if row.service == "approvals"):
        of = [_told(signal) for signal in signals.pop(run.key, [])]
        winners = [told["seen"] for told in of if told["said"] == ["accepted"]]
        losers = [told["said"] for told in of if told["said"] in (["conflict"], ["late"])]
        if len(winners) > 1:
            yield Violation(kind="settled twice", what=f"the promise of {run.key} was settled by {winners}")
        if len(winners) + len(losers) != 2 or not winners:
            yield Violation(kind="lost", what=f"the promise of {run.key} was settled by {of}")
        elif _told(run)["seen"] != winners[0]:
            yield Violation(kind="told wrongly", what=f"{run.id} got {_told(run)}, settled by {winners}")
        if evidence.stages.get(str(run.key)) != ["asked", "approved"]:
            yield Violation(
                kind="lost", what=f"the state of {run.key} is {evidence.stages.get(str(run.key))}"
            )
    for key in signals:
        yield Violation(kind="lost", what=f"{key} has signals, and no run")


def _every_tick_began_once(evidence: Evidence) -> Iterator[Violation]:
    """From the first to the one that would have been next, for which the schedule was paused."""
    begun = Counter[int]()
    for row in _rows(evidence, "tick"):
        tick_ms = _input(evidence, row).scheduled_ms or 0
        begun[tick_ms] += 1
        if _told(row)["said"] != [_iso(tick_ms)]:
            yield Violation(kind="told wrongly", what=f"{row.id} is for {_iso(tick_ms)}, told {_told(row)}")
    if not begun or evidence.next_tick_ms is None:
        yield Violation(kind="lost", what="the schedule has begun nothing")
        return
    for tick_ms in range(min(begun), evidence.next_tick_ms, TICK_MS):
        count = begun.pop(tick_ms, 0)
        if count == 0:
            yield Violation(kind="lost", what=f"the tick {_iso(tick_ms)} has begun nothing")
        if count > 1:
            yield Violation(kind="settled twice", what=f"the tick {_iso(tick_ms)} began {count} times")
    for tick_ms in begun:
        yield Violation(kind="told wrongly", what=f"{_iso(tick_ms)} has begun and is no tick")


def _silent_workers_were_given_up(evidence: Evidence) -> Iterator[Violation]:
    """Not before they were silent for long enough, and with the last that they had reported."""
    reported: dict[str, list[Any]] = {}
    for line in evidence.lines("beat"):
        reported.setdefault(line["id"], []).append(line["progress"])
    for row in _rows(evidence, "watched"):
        seen = _told(row)["seen"]
        states = [each["state"] == "timed-out" for each in seen]
        if not states[0] or states[-1]:
            yield Violation(kind="lost", what=f"{row.id} did not give its silent worker up: {seen}")
        for each in seen:
            awakeable = evidence.awakeables[each["id"]]
            if isinstance(awakeable.outcome, Expiry):
                problem = _given_up_wrongly(awakeable, each, reported.get(awakeable.id, []))
                if problem:
                    yield Violation(kind="told wrongly", what=f"{awakeable.id} of {row.id}: {problem}")


def _given_up_wrongly(row: AwakeableRow, seen: dict[str, Any], reported: list[Any]) -> str | None:
    """One whose heartbeats never came is given up at the last deadline."""
    beat, watch, outcome = row.heartbeat, row.watch, row.outcome
    assert isinstance(outcome, Expiry), row
    assert watch.heartbeat_ms is not None, row
    assert watch.final_ms is not None, row
    due_ms = watch.final_ms if beat is None else min(watch.final_ms, beat.at_ms + watch.heartbeat_ms)
    if outcome.deadline_ms != due_ms:
        return f"the last heartbeat was {beat}, the deadline was {outcome.deadline_ms}"
    progress = None if beat is None else json.loads(bytes(beat.progress))
    if progress is not None and progress not in reported:
        return f"its progress is {progress}, reported was {reported}"
    kind = "deadline" if due_ms == watch.final_ms else "heartbeat"
    if (seen["late"], seen["progress"]) != (kind, progress):
        return f"the handler was told {seen}, the last progress was {progress}"
    return None


def _late_answers_began_one_handler(evidence: Evidence) -> Iterator[Violation]:
    """Once for all answers that came too late; a rejection, and an answer in time, begin none."""
    sent = {(line["id"], line["answer"]["nonce"]) for line in evidence.lines("sent") if "answer" in line}
    begun: dict[str, list[Invocation]] = {}
    for row in _rows(evidence, "takes_late"):
        late = _value(evidence, row)
        begun.setdefault(late["awakeable_id"], []).append(row)
        nonce = late["value"]["nonce"]
        if (late["awakeable_id"], nonce) not in sent or _told(row)["said"] != [late["awakeable_id"], nonce]:
            yield Violation(kind="told wrongly", what=f"{row.id} was begun by {late}, told {_told(row)}")
    for row in _rows(evidence, "impatient"):
        refuses = _value(evidence, row)["manner"] == "refuses"
        for awakeable in _awakeables(evidence, row):
            came = awakeable.state in ("timed-out", "cancelled") and "late" in awakeable.verdicts.counts
            found = begun.pop(awakeable.id, [])
            if came and not refuses and not found:
                yield Violation(kind="lost", what=f"the late answer to {awakeable.id} has begun nothing")
            if len(found) > 1 or (found and (refuses or not came)):
                yield Violation(
                    kind="settled twice", what=f"{awakeable} has begun {[each.id for each in found]}"
                )
            if found and awakeable.watch.late_id != found[0].id:
                yield Violation(
                    kind="told wrongly", what=f"{awakeable.id} has begun {found[0].id}, knows {awakeable}"
                )
    for awakeable_id in begun:
        yield Violation(kind="settled twice", what=f"{awakeable_id} has begun a handler, and asked for none")


def _versions_were_chosen_once(evidence: Evidence) -> Iterator[Violation]:
    name, version = WORDING
    for row in _rows(evidence, "versioned"):
        markers = [entry for entry in evidence.journals[row.id] if isinstance(entry, VersionChosen)]
        if markers != [VersionChosen(name, version)]:
            yield Violation(kind="settled twice", what=f"{row.id} has chosen {markers}")
        said = _told(row)["said"]
        if said != [str(version), str(version)] or row.versions.markers != {name: version}:
            yield Violation(kind="told wrongly", what=f"{row.id} was told {said}, and needs {row.versions}")


def _what_failed_was_undone(evidence: Evidence) -> Iterator[Violation]:
    """All that it had done, the last step first; of what succeeded nothing was undone."""
    booked, freed = (_steps_of(evidence, kind) for kind in ("booked", "freed"))
    for row in _rows(evidence, "travels"):
        told, journal = _told(row), evidence.journals[row.id]
        undone = told["seen"][0]["state"] != "resolved"
        wanted = [f"book {step}" for step in STEPS]
        if undone:
            wanted += [f"free {step}" for step in reversed(STEPS)]
        runs = {place: entry.name for place, entry in enumerate(journal) if isinstance(entry, RunRequested)}
        ended = {entry.of for entry in journal if isinstance(entry, RunEnded | OutcomeDelivered)}
        done = [name for place, name in runs.items() if place in ended]
        if done != wanted or list(runs.values()) != wanted:
            yield Violation(kind="lost", what=f"{row.id} was to do {wanted}, recorded {runs}, ended {ended}")
        if told["said"] != ["undone" if undone else "done"]:
            yield Violation(kind="told wrongly", what=f"{row.id} was told {told}")
        if booked.get(row.id) != set(STEPS) or freed.get(row.id, set()) != (set(STEPS) if undone else set()):
            yield Violation(
                kind="lost", what=f"{row.id} booked {booked.get(row.id)}, freed {freed.get(row.id)}"
            )


def _steps_of(evidence: Evidence, kind: str) -> dict[str, set[str]]:
    steps: dict[str, set[str]] = {}
    for line in evidence.lines(kind):
        steps.setdefault(line["invocation"], set()).add(line["step"])
    return steps


def _shields_held_cancellations_up(evidence: Evidence) -> Iterator[Violation]:
    """What was in the shield went on to its end; then the cancellation was raised, once."""
    for row in _rows(evidence, "shielded"):
        journal = evidence.journals[row.id]
        raised = [place for place, entry in enumerate(journal) if isinstance(entry, CancellationRaised)]
        if isinstance(row.result, Cancellation):
            if len(journal) > 1:
                yield Violation(kind="lost", what=f"{row.id} was cut off: {journal}")
            continue
        runs = [place for place, entry in enumerate(journal) if isinstance(entry, RunRequested)]
        ends = [
            place
            for place, entry in enumerate(journal)
            if isinstance(entry, RunEnded | OutcomeDelivered) and entry.of in runs
        ]
        if len(raised) != 1 or not ends or raised[0] < max(ends) or _told(row)["said"] != ["cancelled"]:
            yield Violation(kind="told wrongly", what=f"{row.id} was cancelled at {raised}: {journal}")


def _what_was_sent_began_after_its_delay(evidence: Evidence) -> Iterator[Violation]:
    """And whoever had attached to it was told how it ended."""
    for row in _rows(evidence, "posts"):
        told = _told(row)
        sent = [entry.id for entry in evidence.journals[row.id] if isinstance(entry, SendRequested)]
        callee = evidence.invocations.get(told["said"][0])
        if sent != told["said"][:1] or callee is None:
            yield Violation(kind="lost", what=f"{row.id} has sent {sent}, attached to {told['said'][0]}")
            continue
        theirs = _told(callee)
        if (told["seen"], told["said"][1:]) != (theirs["seen"], theirs["said"]):
            yield Violation(kind="told wrongly", what=f"{row.id} was told {told}, {callee.id} ended {theirs}")
        due_ms = _input(evidence, callee).at_ms + DELAY // timedelta(milliseconds=1)
        if datetime.fromisoformat(theirs["said"][0]).timestamp() * 1000 < due_ms - 1:
            yield Violation(kind="told wrongly", what=f"{callee.id} was due at {due_ms}, began {theirs}")


def _rows(evidence: Evidence, handler: str) -> Iterator[Invocation]:
    return (row for row in evidence.invocations.values() if row.handler == handler)


def _awakeables(evidence: Evidence, row: Invocation) -> list[AwakeableRow]:
    created = (entry for entry in evidence.journals[row.id] if isinstance(entry, AwakeableCreated))
    return [evidence.awakeables[entry.id] for entry in created]


def _input(evidence: Evidence, row: Invocation) -> Input:
    entry = evidence.journals[row.id][0]
    assert isinstance(entry, Input), entry
    return entry


def _value(evidence: Evidence, row: Invocation) -> Any:
    value = _input(evidence, row).value
    assert isinstance(value, Raw), value
    return json.loads(bytes(value))


def _told(row: Invocation) -> dict[str, Any]:
    assert isinstance(row.result, Resolution), row
    return dict(json.loads(row.result.content))


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
