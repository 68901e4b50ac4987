"""The promises, held against the rows after a run. Numbers as in docs/architecture.md."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

from awakeables.core.awakeables import PROMISE, AwakeableRow
from awakeables.core.deadletters import SKIPPED
from awakeables.core.decide.calling import ALIAS, CONFLICT
from awakeables.core.invocations import KILLED, Invocation
from awakeables.core.journal import (
    CallRequested,
    CancellationRaised,
    Entry,
    Input,
    OutcomeDelivered,
    PublishRequested,
    RunRequested,
    SendRequested,
    StateSet,
    VersionChosen,
    decode_chunks,
)
from awakeables.core.outcomes import Cancellation, Expiry, Rejection, Resolution, as_resolution
from awakeables.doctor.verification import verify
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.wire.completions import Unreadable, decode_completion
from simulation import corpus
from simulation.world import RETENTION_MS, World


def violations(world: World) -> list[str]:
    """Everything that a run has broken; empty when all promises were kept."""
    return [
        *violations_of_any_app(world),
        *_misfits_are_never_accepted(world),
        *_in_time_counts(world),
        *_handlers_saw_what_the_rows_say(world),
        *_what_is_shielded_is_not_interrupted(world),
        *_what_fails_is_undone(world),
        *_an_invocation_has_one_version(world),
        *_a_key_has_one_run(world),
        *_nothing_is_lost_from_the_state_of_a_key(world),
        *_every_record_begins_one_invocation(world),
        *_records_of_a_key_are_in_order(world),
        *_every_tick_begins_one_invocation(world),
        *_ticks_wait_for_the_one_before(world),
        *_late_answers_begin_once(world),
        *_silence_is_measured(world),
        *_whoever_works_is_told(world),
    ]


def violations_of_any_app(world: World) -> list[str]:
    """What a run has broken that is promised whatever the handlers do."""
    return [
        *world.violations,
        *_what_a_store_promises(world),
        *_everything_ends(world),
        *_every_completion_has_its_verdict(world),
        *_cancelled_once_and_told(world),
        *_killed_is_left_as_it_was(world),
        *_every_call_is_made_once(world),
        *_offsets_are_at_the_end(world),
        *_effects_are_out_in_order(world),
    ]


def _what_a_store_promises(world: World) -> list[str]:
    """A1 to O3 as far as the rows show it: what `awakeables verify` checks."""
    audit = MemoryAudit(world.store.tables, clock=world.clock)
    findings = asyncio.run(verify(audit, retention_ms=RETENTION_MS))
    return [str(violation) for violation in findings.violations]


def journal_of(world: World, invocation_id: str) -> list[Entry]:
    chunks = world.store.tables.journals[invocation_id]
    return decode_chunks(chunk for _, chunk in sorted(chunks.items()))


def _own(journal: list[Entry]) -> list[Entry]:
    """A journal without the entries whose rows and records are those of the invocation that it restarted."""
    first = journal[0]
    assert isinstance(first, Input)
    return journal[1 + first.kept :]


def _everything_ends(world: World) -> Iterator[str]:
    rows = world.store.tables.invocations
    for invocation_id in world.begun:
        if invocation_id not in rows:
            yield f"O3: {invocation_id} was begun and is lost"
    for row in rows.values():
        if row.status != "completed":
            yield f"O3/J2: {row.handler} {row.id} is {row.status}: {row.failure}"


def _every_completion_has_its_verdict(world: World) -> Iterator[str]:
    """A2, K1, K2: each record is in one book, or is one dead letter, exactly once."""
    topic = world.app.completions_topic
    letters = {key: row for key, row in world.store.tables.dead_letters.items() if row.topic == topic}
    expected: Counter[str] = Counter()
    buried = set()
    for partition, log in enumerate(world.broker.completions):
        for record in log:
            source = f"{topic}:{partition}:{record.offset}@{record.timestamp_ms}"
            try:
                completion = decode_completion(record.value, source="")
            except Unreadable:
                buried.add(source)
                continue
            if completion.awakeable_id in world.store.tables.awakeables:
                expected[completion.awakeable_id] += 1
            else:
                buried.add(source)
    sources = {x.source for x in letters.values() if x.code != SKIPPED}
    invalid = {x.source for x in letters.values() if x.code == "invalid"}
    if not buried <= sources or not sources - buried <= invalid:
        yield f"K2: dead letters {sorted(sources)}, expected {sorted(buried)} and misfits"
    if len({x.source for x in letters.values()}) != len(letters):
        yield "K2: a record was buried twice"
    for row in world.store.tables.awakeables.values():
        beats = sum(1 for log in world.broker.completions for r in log if _is_beat_of(row, r.value))
        own = sum(e.source.startswith("handler:") for e in (*row.verdicts.first, *row.verdicts.last))
        told = sum(row.verdicts.counts.values()) - own
        if not expected[row.id] - beats <= told <= expected[row.id]:
            yield f"A2: {row.id} got {expected[row.id]} completions ({beats} heartbeats), {told} verdicts"
    relayed = {effect.event_id for effect in world.broker.published}
    for letter in world.store.tables.dead_letters.values():
        if letter.id not in relayed:
            yield f"K2: dead letter {letter.id} was not relayed"


def _is_beat_of(row: AwakeableRow, value: bytes | None) -> bool:
    return value is not None and b"heartbeat" in value and row.id.encode() in value


def _misfits_are_never_accepted(world: World) -> Iterator[str]:
    for row in world.store.tables.awakeables.values():
        if row.schema_hash and isinstance(row.outcome, Resolution):
            value = msgspec.json.decode(row.outcome.content)
            if not isinstance(value, dict) or not isinstance(value.get("n"), int):
                yield f"A4: {row.id} was resolved with {value!r}"


def _in_time_counts(world: World) -> Iterator[str]:
    """Hard case 5: what was in the topic before the deadline settles, however late it is read."""
    longest_ms = world.settings.horizon.total_seconds() * 1000
    for log in world.broker.completions:
        for record in log:
            try:
                completion = decode_completion(record.value, source="")
            except Unreadable:
                continue
            row = world.store.tables.awakeables.get(completion.awakeable_id)
            if row is None or not isinstance(row.outcome, Expiry) or not _settles(completion.body):
                continue
            deadline_ms = row.outcome.deadline_ms
            if record.timestamp_ms < deadline_ms and (row.settled_ms or 0) < deadline_ms + longest_ms:
                yield f"5: {row.id} timed out at {deadline_ms}, answered at {record.timestamp_ms}"


def _late_answers_begin_once(world: World) -> Iterator[str]:
    """L1: the first late answer that fits begins its handler, in the commit that books it; no other does."""
    begun: Counter[str] = Counter()
    for invocation in world.store.tables.invocations.values():
        if invocation.handler == "taken_late":
            given = journal_of(world, invocation.id)[0]
            assert isinstance(given, Input)
            if given.restart_of is None:
                begun[msgspec.json.decode(bytes(given.value))["awakeable_id"]] += 1  # type: ignore[arg-type]
    for row in world.store.tables.awakeables.values():
        if row.watch.on_late is None:
            continue
        if begun[row.id] != (row.watch.late_id is not None):
            yield f"L1: {row.id} has begun {begun[row.id]} handlers, and notes {row.watch.late_id}"
        late = row.verdicts.counts.get("late", 0)
        if late and row.watch.late_id is None and not _others_than_good(world, row):
            yield f"L1: {row.id} had {late} late answers and has begun nothing"


def _others_than_good(world: World, row: AwakeableRow) -> bool:
    """Whether it was sent anything but answers that fit; its handler may have, too."""
    for log in world.broker.completions:
        for record in log:
            try:
                completion = decode_completion(record.value, source="")
            except Unreadable:
                continue
            if completion.awakeable_id == row.id and not (
                isinstance(completion.body, Resolution) and _settles(completion.body)
            ):
                return True
    return False


def _silence_is_measured(world: World) -> Iterator[str]:
    """L2: who is given up for silence has sent a heartbeat, and none for as long as was allowed."""
    for row in world.store.tables.awakeables.values():
        if isinstance(row.outcome, Expiry) and row.outcome.kind == "heartbeat":
            beat, allowed_ms = row.heartbeat, row.watch.heartbeat_ms or 0
            if beat is None or beat.at_ms + allowed_ms != row.outcome.deadline_ms:
                yield f"L2: {row.id} was silent from {beat} on, and given up at {row.outcome.deadline_ms}"


def _whoever_works_is_told(world: World) -> Iterator[str]:
    """L3: a revocation for each awakeable that is timed out or cancelled, and for no other."""
    told = {effect.stream for effect in world.broker.published if effect.kind == "revocation"}
    for row in world.store.tables.awakeables.values():
        wanted = row.watch.revoke_to is not None and row.state in ("timed-out", "cancelled")
        if wanted != (row.id in told):
            yield f"L3: {row.id} is {row.state}, and workers were {'' if row.id in told else 'not '}told"


def _settles(body: object) -> bool:
    """Would any awakeable of the corpus take it?"""
    return isinstance(body, Rejection) or (isinstance(body, Resolution) and body.content.startswith(b'{"n":'))


def _handlers_saw_what_the_rows_say(world: World) -> Iterator[str]:
    """Nobody was told wrongly: the results of the handlers are made of the rows' outcomes."""
    for row in world.store.tables.invocations.values():
        match row.result:
            case Resolution() as result:
                told: list[Any] = msgspec.json.decode(result.content)
            case Rejection(reason="as planned") as result:
                told = msgspec.json.decode(bytes(result.details))  # type: ignore[arg-type]
            case Cancellation() if row.cancelled_ms is not None or row.result == KILLED:
                continue
            case None:
                continue
            case other:
                yield f"O1: {row.handler} {row.id} ended with {other}"
                continue
        for awakeable_id, state, *value in told:
            settled = world.store.tables.awakeables[awakeable_id]
            if settled.state != state:
                yield f"O1: {row.id} saw {awakeable_id} {state}, it is {settled.state}"
            if settled.source_utf8 == PROMISE and isinstance(settled.outcome, Resolution):
                expected = msgspec.json.decode(settled.outcome.content)
                if value != [expected]:
                    yield f"A1: {row.id} saw the promise {awakeable_id} with {value}, it has {expected}"


def _cancelled_once_and_told(world: World) -> Iterator[str]:
    """Hard case 12: who waited gets the cancellation, and ends by it."""
    for row in world.store.tables.invocations.values():
        raised = sum(isinstance(entry, CancellationRaised) for entry in journal_of(world, row.id))
        # After a handler has returned, only its branches wait, which have been told that they have lost.
        returned = row.handler in corpus.LEAVES_BRANCHES and isinstance(row.result, Resolution)
        if not raised and row.id in world.cancelled_waiting and row.result != KILLED and not returned:
            yield f"12: {row.id} waited when it was cancelled, and was never told"
        if raised and not isinstance(row.result, Cancellation) and row.handler not in corpus.UNDO:
            yield f"12: {row.id} was cancelled, and ended with {row.result}"


def _killed_is_left_as_it_was(world: World) -> Iterator[str]:
    """Hard case 4: whoever was told that it is killed finds it so, whatever still runs it."""
    for invocation_id, version in world.killed.items():
        row = world.store.tables.invocations[invocation_id]
        if (row.status, row.result, row.version) != ("completed", KILLED, version):
            yield f"4: {row.id}, killed at version {version}, is {row.status} at {row.version}: {row.result}"


def _what_is_shielded_is_not_interrupted(world: World) -> Iterator[str]:
    """Hard case 12: the cancellation is raised after the block, so after the answer that it waits for."""
    for row in world.store.tables.invocations.values():
        kinds = [type(entry) for entry in journal_of(world, row.id)]
        if row.handler != "shielded" or CancellationRaised not in kinds:
            continue
        if OutcomeDelivered not in kinds[: kinds.index(CancellationRaised)]:
            yield f"12: {row.id} was cancelled in a shield"


def _what_fails_is_undone(world: World) -> Iterator[str]:
    """J3: of a saga, all that was announced is undone in its order if it fails, and else nothing."""
    for row in world.store.tables.invocations.values():
        if row.handler != "saga" or row.result == KILLED:
            continue
        names = [entry.name for entry in journal_of(world, row.id) if isinstance(entry, RunRequested)]
        expected = ["done-1", "flaky-2"]
        if not isinstance(row.result, Resolution):  # cancelled before the second, it has but one to undo
            expected = ["done-1", "undo-1"] if "flaky-2" not in names else [*expected, "undo-2", "undo-1"]
            if not names:
                continue
        if names != expected:
            yield f"J3: {row.id} ended with {row.result} and did {names}"


def _an_invocation_has_one_version(world: World) -> Iterator[str]:
    """J2: whichever builds have run it, what it did was of one version, which its marker names."""
    executed: dict[str, set[str]] = {}
    for invocation_id, name in corpus.ledger.executed:
        executed.setdefault(invocation_id, set()).add(name)
    for row in world.store.tables.invocations.values():
        if row.handler != "changed":
            continue
        journal = journal_of(world, row.id)
        asked = {entry.name for entry in journal if isinstance(entry, RunRequested)}
        routes = {int(name.rpartition("-")[2]) for name in asked | executed.get(row.id, set())}
        chosen = [entry.version for entry in journal if isinstance(entry, VersionChosen)]
        if len(routes) > 1 or len(chosen) > 1 or (routes and chosen and routes != set(chosen)):
            yield f"J2: {row.id} had the versions {sorted(routes)}, its markers are {chosen}"


def _every_call_is_made_once(world: World) -> Iterator[str]:
    """What a journal calls exists, and nothing else was called."""
    tables = world.store.tables
    asked: Counter[str] = Counter()
    for invocation_id in tables.invocations:
        for entry in _own(journal_of(world, invocation_id)):
            if isinstance(entry, CallRequested | SendRequested):
                stands_for = [scope for scope in (ALIAS, CONFLICT) if (scope, entry.id) in tables.keys]
                if entry.id not in tables.invocations and _was_refused(world, entry):
                    continue
                if len(stands_for) != (entry.id not in tables.invocations):
                    yield f"calls: {invocation_id} called {entry.id}, which is {stands_for or 'nothing'}"
                if entry.id in tables.invocations:
                    asked[entry.id] += 1
    for invocation_id in tables.invocations:
        first = journal_of(world, invocation_id)[0]
        assert isinstance(first, Input)
        if asked[invocation_id] != (first.caller is not None):
            yield f"calls: {invocation_id} of {first.caller} was called {asked[invocation_id]} times"


def _was_refused(world: World, entry: CallRequested | SendRequested) -> bool:
    """Is it a call that the queue of its key has refused?"""
    if not isinstance(entry, CallRequested) or entry.key is None:
        return False
    outcome = world.store.tables.awakeables[entry.wait].outcome
    return isinstance(outcome, Rejection) and outcome.code in (409, 429)


def _a_key_has_one_run(world: World) -> Iterator[str]:
    """O1: whoever begins a run, and however often it is asked for."""
    runs: dict[str | None, list[str]] = {}
    for row in world.store.tables.invocations.values():
        if (row.service, row.handler) == (corpus.flows.name, "run"):
            runs.setdefault(row.key, []).append(row.id)
    for key, ids in runs.items():
        if len(ids) > 1:
            yield f"O1: the runs of {key} are {ids}"


def _nothing_is_lost_from_the_state_of_a_key(world: World) -> Iterator[str]:
    """O1: one at a time per key, each after what the one before it has set."""
    tables = world.store.tables
    noted: dict[tuple[str, str], list[str]] = {}
    for row in tables.invocations.values():
        if row.key is None:
            continue
        for entry in journal_of(world, row.id):
            if isinstance(entry, StateSet) and entry.name == "log":
                noted.setdefault((row.service, row.key), []).append(row.id)
    for (service, key), ids in noted.items():
        value, _ = tables.states[(service, key.encode()), "log"]
        log = msgspec.json.decode(as_resolution(value).content)
        if sorted(log) != sorted(ids):
            yield f"O1: {sorted(set(ids) - set(log))} are lost from the log of {key}: {log}"


def _offsets_are_at_the_end(world: World) -> Iterator[str]:
    for partition, log in enumerate(world.broker.completions):
        position = world.store.tables.positions["", world.app.completions_topic, partition]
        if position.next != len(log):
            yield f"K1: partition {partition} is at {position.next}, its end is {len(log)}"

    for name in world.app.subscribed():
        for partition, log in enumerate(world.broker.records):
            held = world.store.tables.positions.get((name, corpus.RECORDS, partition))
            if log and (held is None or held.next != len(log)):
                yield f"K1: {name} is at {held and held.next} of partition {partition}, its end is {len(log)}"


def _every_record_begins_one_invocation(world: World) -> Iterator[str]:
    """K1, K2: of each subscription one, or a dead letter; and one more if that invocation fails."""
    tables = world.store.tables
    begun: dict[tuple[str, int, int], list[str]] = {}
    for row in tables.invocations.values():
        first = journal_of(world, row.id)[0]
        assert isinstance(first, Input)
        if first.record is not None and first.restart_of is None:
            source = (first.record.subscription, first.record.partition, first.record.offset)
            begun.setdefault(source, []).append(row.id)
    letters = {row.source: row.code for row in tables.dead_letters.values()}
    for name, handler in corpus.app.subscribed().items():
        for partition, log in enumerate(world.broker.records):
            for record in log:
                ids = begun.pop((name, partition, record.offset), [])
                fits = record.value is not None and record.value.isdigit()
                if len(ids) != fits:
                    yield f"K1: {name} has begun {ids} for {record}"
                place = f"{name}:{corpus.RECORDS}:{partition}:{record.offset}@{record.timestamp_ms}"
                rows = [tables.invocations[key] for key in ids]
                failed = [row for row in rows if isinstance(row.result, Rejection)]
                codes: set[str | None] = {"invalid" if not fits else "failed" if failed else None}
                if any(row.cancelled_ms is not None for row in failed):
                    # What an operator has called off is no dead letter; its end may have been under way.
                    codes.add(None)
                again = any(key.into for row in rows for key in row.acts)
                if letters.get(place) not in codes and not again:
                    yield f"K2: {record} of {handler} is the dead letter {letters.get(place)}, not of {codes}"
    if begun:
        yield f"K1: nobody has produced {begun}"


def _records_of_a_key_are_in_order(world: World) -> Iterator[str]:
    """O1: those of one partition are in the log of their key in the order of their offsets."""
    tables = world.store.tables
    offsets: dict[str, tuple[int, int]] = {}
    for row in tables.invocations.values():
        first = journal_of(world, row.id)[0]
        assert isinstance(first, Input)
        if first.record is not None and first.restart_of is None:
            offsets[row.id] = (first.record.partition, first.record.offset)
    for ((service, key), name), (value, _) in tables.states.items():
        if (service, name) != ("queues", "log"):
            continue
        logged: dict[int, list[int]] = {}
        for invocation_id in msgspec.json.decode(as_resolution(value).content):
            if invocation_id in offsets:
                partition, offset = offsets[invocation_id]
                logged.setdefault(partition, []).append(offset)
        for partition, seen in logged.items():
            if seen != sorted(seen):
                yield f"O1: {key!r} has seen the offsets {seen} of partition {partition}"


def _begun_by_ticks(world: World, handler: str) -> list[tuple[int, Invocation]]:
    """The invocations of a schedule with their ticks, in the order of the ticks."""
    found = []
    for row in world.store.tables.invocations.values():
        first = journal_of(world, row.id)[0]
        assert isinstance(first, Input)
        if row.handler == handler and first.scheduled_ms is not None and first.restart_of is None:
            found.append((first.scheduled_ms, row))
    return sorted(found, key=lambda each: each[0])


def _every_tick_begins_one_invocation(world: World) -> Iterator[str]:
    """H8: none is lost, and none begins twice, up to the one that is next."""
    next_ms = world.store.tables.schedules["scheduled.each_tick"].next_ms
    begun = [tick for tick, _ in _begun_by_ticks(world, "each_tick")]
    wanted = list(range(begun[0], next_ms, corpus.EACH_MS)) if begun else []
    if begun != wanted or not begun:
        yield f"H8: the ticks {begun} have begun something, it should be {wanted}"


def _ticks_wait_for_the_one_before(world: World) -> Iterator[str]:
    """H8: of a schedule that queues no two overlap, and none waits for ever."""
    row = world.store.tables.schedules["scheduled.one_tick_at_a_time"]
    begun = _begun_by_ticks(world, "one_tick_at_a_time")
    if len({tick for tick, _ in begun}) != len(begun):
        yield f"H8: a tick has begun twice: {begun}"
    if row.queued_ms is not None:
        yield f"H8: the tick {row.queued_ms} still waits"
    for (_, one), (tick, other) in pairwise(begun):
        if one.ended_ms is None or other.created_ms < one.ended_ms:
            yield f"H8: {other.id} of {tick} began before {one.id} had ended"


def _effects_are_out_in_order(world: World) -> Iterator[str]:
    """K3: everything that a journal tells was published, each stream in order, and nothing else."""
    if world.store.tables.effects:
        yield f"K3: {len(world.store.tables.effects)} effects are still in the outbox"
    first_seen: dict[str, list[str]] = {}
    for effect in world.broker.published:
        stream = first_seen.setdefault(effect.stream, [])
        if effect.event_id not in stream:
            stream.append(effect.event_id)
    for invocation_id in world.store.tables.invocations:
        asked = sum(isinstance(e, PublishRequested) for e in _own(journal_of(world, invocation_id)))
        seen = first_seen.get(invocation_id, [])
        if len(seen) != asked:
            yield f"K3: {invocation_id} asked for {asked} records, {len(seen)} were published"
        if seen != sorted(seen):
            yield f"K3: {invocation_id} published out of order"
