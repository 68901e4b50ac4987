"""The promises, held against the store, the topics and the ledgers after a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from awakeables.core.journal import (
    AwakeableCreated,
    CallRequested,
    Input,
    OutcomeDelivered,
    PublishRequested,
    RunRequested,
    SendRequested,
)
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.sources import kind_of, partition_sources
from e2e.chaos import flowaudit, functionaudit, operated, subscribed
from e2e.chaos.evidence import Evidence, Kind, Violation, gather
from e2e.chaos.ledger import Line

__all__ = ["gather", "violations"]

EFFECTS = {"charge": 1, "prepaid": 1, "takes_late": 1, "shielded": 1, "branches": 4, "deposit": 2}
"""How many side effects these handlers record."""

UNCALLED = ("tick", "takes_late")
"""Begun neither by a client nor by a handler; `flowaudit` has what begins them."""


def violations(evidence: Evidence) -> list[Violation]:
    return [
        *_every_call_is_one_invocation(evidence),
        *_clients_were_told_what_is_stored(evidence),
        *_everything_is_done(evidence),
        *_journals_are_whole(evidence),
        *_one_outcome_which_somebody_sent(evidence),
        *_handlers_saw_what_the_rows_say(evidence),
        *_every_answer_in_the_topic_has_one_verdict(evidence),
        *_workers_were_told_what_is_stored(evidence),
        *_every_task_was_published(evidence),
        *_effects_are_recorded_once(evidence),
        *_every_key_is_held_by_one_at_a_time(evidence),
        *subscribed.violations(evidence),
        *flowaudit.violations(evidence),
        *operated.violations(evidence),
        *functionaudit.violations(evidence),
    ]


def _every_call_is_one_invocation(evidence: Evidence) -> Iterator[Violation]:
    """O3: by its number, which is in the input."""
    found: dict[int, list[str]] = {}
    called: Counter[str] = Counter()
    for invocation_id, journal in evidence.journals.items():
        entry = journal[0]
        if not isinstance(entry, Input):
            yield Violation(kind="told wrongly", what=f"J1: {invocation_id} begins with {entry}")
            continue
        if entry.caller is None and evidence.invocations[invocation_id].handler in UNCALLED:
            continue
        if entry.record is not None or entry.restart_of is not None:
            continue
        if entry.caller is not None:
            called[entry.caller] += 1
            continue
        assert isinstance(entry.value, Raw), entry
        found.setdefault(json.loads(bytes(entry.value))["n"], []).append(invocation_id)
    for invocation_id, journal in evidence.journals.items():
        asked = sum(isinstance(entry, CallRequested | SendRequested) for entry in journal)
        if asked != called[invocation_id]:
            kind: Kind = "lost" if asked > called[invocation_id] else "settled twice"
            yield Violation(
                kind=kind, what=f"{invocation_id} made {asked} calls, {called[invocation_id]} exist"
            )
    for call in evidence.calls:
        own = found.pop(call.question.n, [])
        if not own and not call.lost:
            yield Violation(kind="lost", what=f"{call.key} has no invocation")
        if len(own) > 1:
            yield Violation(kind="settled twice", what=f"{call.key} has the invocations {own}")
        if call.invocations != set(own) and not call.lost:
            yield Violation(kind="told wrongly", what=f"{call.key} is {own}, told were {call.invocations}")
    for n, own in found.items():
        yield Violation(kind="settled twice", what=f"nobody called {own} with {n}")


def _clients_were_told_what_is_stored(evidence: Evidence) -> Iterator[Violation]:
    for call in evidence.calls:
        if call.status is None:
            if not call.lost:
                yield Violation(kind="lost", what=f"{call.key} was never answered")
            continue
        for invocation_id in call.invocations & evidence.invocations.keys():
            stored = evidence.invocations[invocation_id].result
            match stored:
                case Resolution():
                    same = call.status == 200 and call.body == json.loads(stored.content)
                case Rejection():
                    same = (call.status, call.body.get("reason")) == (stored.code, stored.reason)
                case _:
                    same = False
            if not same or (call.shape == "shapes/doomed") != isinstance(stored, Rejection):
                yield Violation(
                    kind="told wrongly",
                    what=f"{call.shape} {call.key} was told {call.status} {call.body}, stored is {stored}",
                )


def _everything_is_done(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.invocations.values():
        if row.status != "completed":
            yield Violation(kind="lost", what=f"{row.handler} {row.id} is {row.status}: {row.failure}")
    if evidence.unsent:
        yield Violation(kind="lost", what=f"K3: {evidence.unsent} effects were not sent")
    reached = {partition: evidence.positions.get(partition, 0) for partition in evidence.ends}
    if reached != evidence.ends:
        yield Violation(kind="lost", what=f"K1: read to {reached} of {evidence.ends}")


def _journals_are_whole(evidence: Evidence) -> Iterator[Violation]:
    """J1: chunks without gaps, every awakeable a row, every outcome delivered once."""
    rows: dict[str, list[str]] = {}
    for each in evidence.awakeables.values():
        rows.setdefault(each.invocation_id, []).append(each.id)
    for row in evidence.invocations.values():
        if list(evidence.versions.get(row.id, ())) != list(range(1, row.version + 1)):
            yield Violation(
                kind="lost", what=f"J1: {row.id} is at {row.version}, has {evidence.versions.get(row.id)}"
            )
        journal = evidence.journals[row.id]
        asked = sorted(entry.id for entry in journal if isinstance(entry, AwakeableCreated))
        own = sorted(rows.get(row.id, ()))
        if asked != own:
            yield Violation(kind="lost", what=f"A3: {row.id} asked for {asked}, its rows are {own}")
        told = Counter(entry.of for entry in journal if isinstance(entry, OutcomeDelivered))
        for index, count in told.items():
            if count > 1:
                yield Violation(kind="settled twice", what=f"J1: {row.id} was told {count} times of {index}")


def _one_outcome_which_somebody_sent(evidence: Evidence) -> Iterator[Violation]:
    """A1: at most one was accepted, and the outcome is one that a worker was about to send."""
    sent: dict[str, list[Any]] = {}
    for line in evidence.lines("sent"):
        sent.setdefault(line["id"], []).append(line.get("answer") or line["reason"])
    for row in evidence.awakeables.values():
        accepted = row.verdicts.counts.get("accepted", 0)
        if accepted > 1:
            yield Violation(kind="settled twice", what=f"A1: {row.id} was settled {accepted} times")
        if (row.state in ("resolved", "rejected")) != (accepted == 1):
            yield Violation(kind="told wrongly", what=f"A1: {row.id} is {row.state}, accepted {accepted}")
        if isinstance(row.outcome, Expiry | Cancellation):
            continue
        content = _content(row.outcome)
        if content not in sent.get(row.id, []):
            yield Violation(
                kind="told wrongly", what=f"A1: {row.id} is {content}, sent was {sent.get(row.id)}"
            )


def _handlers_saw_what_the_rows_say(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.invocations.values():
        if not isinstance(row.result, Resolution):
            continue
        told = json.loads(row.result.content)
        n = told["n"]
        for seen in told["seen"]:
            settled = evidence.awakeables[seen["id"]]
            content = seen["answer"] or seen["reason"]
            if (seen["state"], content) != (settled.state, _content(settled.outcome)):
                yield Violation(kind="told wrongly", what=f"A1: {row.id} saw {seen}, stored is {settled}")
            if seen["answer"]:
                if seen["answer"]["double"] != 2 * n:
                    yield Violation(kind="told wrongly", what=f"{row.handler} {row.id}: {seen} for {n}")
                n = 2 * n if row.handler == "chain" else n
        if row.handler == "unanswered" and [seen["state"] for seen in told["seen"]] != ["timed-out"]:
            yield Violation(kind="told wrongly", what=f"{row.id} was answered by nobody: {told}")


def _every_answer_in_the_topic_has_one_verdict(evidence: Evidence) -> Iterator[Violation]:
    """A2, K1: each record is in its awakeable's book exactly once; a heartbeat only if it is late."""
    in_topic: dict[str, set[str]] = {}
    beats: set[str] = set()
    for record in evidence.answers:
        answer = json.loads(record.value)
        source = partition_sources(record.topic, record.partition)(record.offset, record.timestamp)
        if answer["status"] == "heartbeat":
            beats.add(source)
        else:
            in_topic.setdefault(answer["awakeable_id"], set()).add(source)
    for row in evidence.awakeables.values():
        booked = [*row.verdicts.first, *row.verdicts.last]
        if sum(row.verdicts.counts.values()) != len(booked):
            yield Violation(
                kind="told wrongly", what=f"the book of {row.id} is not long, yet cut: {row.verdicts}"
            )
        sources = Counter(entry.source for entry in booked if kind_of(entry.source) == "kafka")
        expected = in_topic.pop(row.id, set())
        for source in expected - sources.keys():
            yield Violation(kind="lost", what=f"A2: {source} for {row.id} has no verdict")
        for source in sources.keys() - expected - beats:
            yield Violation(
                kind="told wrongly", what=f"A2: {row.id} has a verdict for {source}, not in Kafka"
            )
        for source, count in sources.items():
            if count > 1:
                yield Violation(kind="settled twice", what=f"K1: {source} has {count} verdicts")
    for awakeable_id in in_topic:
        yield Violation(kind="lost", what=f"A3: somebody answered {awakeable_id}, which has no row")


def _workers_were_told_what_is_stored(evidence: Evidence) -> Iterator[Violation]:
    """A2: over HTTP nobody is told success for a result that was discarded."""
    for line in evidence.lines("told"):
        row = evidence.awakeables[line["id"]]
        same = _content(row.outcome) == line["answer"]
        match line["verdict"]:
            case "accepted" | "duplicate":
                true = same
            case "conflict":
                true = row.state in ("resolved", "rejected") and not same
            case "late":
                true = row.state in ("timed-out", "cancelled")
            case _:
                true = False
        if not true:
            yield Violation(kind="told wrongly", what=f"A2: {line}, but stored is {row.outcome}")


def _every_task_was_published(evidence: Evidence) -> Iterator[Violation]:
    """K3: at least once, under one event ID, and only those that a journal tells of."""
    published: dict[str, set[str]] = {}
    for record in evidence.tasks:
        task = json.loads(record.value)
        published.setdefault(task["awakeable_id"], set()).add(task["event_id"])
    for row in evidence.invocations.values():
        journal = evidence.journals[row.id]
        for entry in journal:
            if isinstance(entry, PublishRequested) and entry.of is not None:
                asked = journal[entry.of]
                assert isinstance(asked, AwakeableCreated), asked
                awakeable_id = asked.id
                events = published.pop(awakeable_id, set())
                if not events:
                    yield Violation(kind="lost", what=f"K3: the task of {awakeable_id} was not published")
                if len(events) > 1:
                    yield Violation(kind="settled twice", what=f"K3: {awakeable_id} has the tasks {events}")
    for awakeable_id in published:
        yield Violation(
            kind="told wrongly", what=f"A3: a task was published for {awakeable_id}, not journaled"
        )


def _effects_are_recorded_once(evidence: Evidence) -> Iterator[Violation]:
    """J3: executed at least once, always under one key, and what is recorded is one of them."""
    executed: dict[str, list[Line]] = {}
    for line in evidence.lines("effect"):
        executed.setdefault(line["invocation"], []).append(line)
    for row in evidence.invocations.values():
        runs = sum(isinstance(entry, RunRequested) for entry in evidence.journals[row.id])
        if row.handler not in EFFECTS:
            continue
        done = executed.pop(row.id, [])
        if isinstance(row.result, Cancellation) and not done:
            continue  # before it began
        effects = json.loads(row.result.content)["effects"] if isinstance(row.result, Resolution) else []
        keys = {line["nonce"]: line["key"] for line in done}
        wanted = EFFECTS[row.handler]
        if len({keys.get(effect) for effect in effects} - {None}) != wanted or len(effects) != wanted:
            yield Violation(
                kind="told wrongly", what=f"J3: {row.id} recorded {effects}, executed were {done}"
            )
        if runs != wanted:
            yield Violation(kind="settled twice", what=f"J3: {row.id} recorded {runs} runs")
        if len(set(keys.values())) > wanted:
            yield Violation(kind="settled twice", what=f"J3: {row.id} had several keys: {done}")
    for invocation_id in executed:
        yield Violation(kind="lost", what=f"an effect of {invocation_id}, which is not there")


def _every_key_is_held_by_one_at_a_time(evidence: Evidence) -> Iterator[Violation]:
    """O1: what one has booked is there for the next, which adds to it; and no key is held in the end."""
    if evidence.queues:
        yield Violation(kind="lost", what=f"O1: {evidence.queues} keys still have queues")
    booked: dict[str, list[str]] = {key: [] for key in evidence.booked}
    for row in evidence.invocations.values():
        if row.handler == "book" and row.key is not None:
            booked.setdefault(row.key, []).append(row.id)
    for key, ids in booked.items():
        found = Counter(evidence.booked.get(key, ()))
        for invocation_id in ids:
            if found[invocation_id] == 0:
                yield Violation(kind="lost", what=f"O1: {invocation_id} is not in the state of {key}")
        for invocation_id, count in found.items():
            if count > 1 or invocation_id not in ids:
                yield Violation(
                    kind="settled twice", what=f"O1: {invocation_id} is {count} times in the state of {key}"
                )


def _content(outcome: Outcome | None) -> Any:
    match outcome:
        case Resolution():
            return json.loads(outcome.content)
        case Rejection():
            return outcome.reason
        case _:
            return None
