"""Checks of an invocation: its row, its journal, and the awakeables that it created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import msgspec

from awakeables.core.awakeables import AwakeableRow, AwakeableState
from awakeables.core.instances import Instance
from awakeables.core.invariants.findings import Violation
from awakeables.core.invocations import STATUSES, Invocation
from awakeables.core.journal import (
    AwakeableCreated,
    CancellationRaised,
    Entry,
    Input,
    OutcomeDelivered,
    ProgressRead,
    PromisePeeked,
    PublishRequested,
    RunAttemptFailed,
    RunEnded,
    RunRequested,
    SettleRequested,
    SleepRequested,
    StateNamesRead,
    StateRead,
    TimeoutRequested,
    decode_chunks,
    wait_of,
    waits_created,
)
from awakeables.core.outcomes import Outcome, encode_outcome
from awakeables.core.replay import markers_in
from awakeables.core.versions import Versions

ENDING = (
    RunRequested,
    SleepRequested,
    SettleRequested,
    TimeoutRequested,
    ProgressRead,
    PromisePeeked,
    StateRead,
    StateNamesRead,
)
"""Operations other than waits that have an outcome."""

GRACE_MS = 60_000
"""Who was silent for so long is certain to be declared dead, and to have been replaced by one that lives."""


class Story(msgspec.Struct):
    """An invocation, and what its journal has about awakeables; small, whatever the outcomes' size.

    Attributes:
        row: Without its result.
        created: The awakeables that it created, and its waits for calls.
        delivered: Digests of the outcomes that its handler got, by awakeable.
        events: How many entries the journal has.
        deliveries: How many outcomes it has.
        runs: How many runs it has.
    """

    row: Invocation
    created: dict[str, int] = {}
    delivered: dict[str, bytes] = {}
    events: int = 0
    deliveries: int = 0
    runs: int = 0


class Awaited(msgspec.Struct):
    """What an awakeable's row says to its invocation.

    Attributes:
        digest: That of its outcome, if it has one.
        is_call: It is a wait for a call.
    """

    id: str
    invocation_id: str
    state: AwakeableState
    digest: bytes | None
    is_call: bool

    @classmethod
    def of(cls, row: AwakeableRow) -> Awaited:
        try:
            outcome = row.outcome
        except (msgspec.MsgspecError, UnicodeDecodeError):
            outcome = None  # A1 reports it
        told = None if outcome is None else digest(outcome)
        return cls(row.id, row.invocation_id, row.state, told, row.source_utf8 is not None)


def digest(outcome: Outcome) -> bytes:
    """Equal for equal outcomes; a few bytes for a large one."""
    return blake2b(encode_outcome(outcome), digest_size=16).digest()


def invocation_violations(row: Invocation) -> Iterator[Violation]:
    """What is wrong with a row by itself: O1, O3."""
    if (row.status == "running") != (row.owner is not None):
        yield Violation(invariant="O1", id=row.id, text=f"is {row.status}, and its owner is {row.owner}")
    if row.status == "running" and row.epoch < 1:
        yield Violation(invariant="O1", id=row.id, text=f"runs in epoch {row.epoch}")
    for text in _rests_rightly(row):
        yield Violation(invariant="O3", id=row.id, text=text)


def _rests_rightly(row: Invocation) -> Iterator[str]:
    ended = row.status == "completed"
    if row.status not in STATUSES:
        yield f"is in the unknown status {row.status!r}"
    if row.status in ("pending", "backing-off") and row.due_ms is None:
        yield f"is {row.status}, and never due"
    if row.status in ("queued", "running", "paused", "completed") and row.due_ms is not None:
        yield f"is {row.status}, and due"
    if row.status == "paused" and row.failure_json is None:
        yield "is paused without a reason"
    if ended != (row.result_json is not None) or ended != (row.ended_ms is not None):
        result, end = _with(row.result_json, "result"), _with(row.ended_ms, "time of its end")
        yield f"is {row.status}, {result} and {end}"
    try:
        _ = row.result, row.failure
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        yield f"has a result or failure that can't be read: {error}"


def _with(value: object, name: str) -> str:
    return f"{'without' if value is None else 'with'} a {name}"


def owner_violations(row: Invocation, instances: Mapping[str, Instance], now_ms: int) -> Iterator[Violation]:
    """Does its owner live, where instances are known (O1)?

    An owner that is not among them has just left, and the others are about to take over. So is one that was
    just declared dead. If nobody has lived for long, there is nobody yet who could.
    """
    owner = None if row.owner is None else instances.get(row.owner)
    if owner is None or owner.state != "dead" or now_ms - owner.beat_ms < GRACE_MS:
        return
    others = [each for each in instances.values() if each.state == "alive"]
    if any(now_ms - each.started_ms > GRACE_MS > now_ms - each.beat_ms for each in others):
        silent_s = (now_ms - owner.beat_ms) // 1000
        text = f"runs, and its owner {owner.id} has been dead for {silent_s} s"
        yield Violation(invariant="O1", id=row.id, text=text)


def journal_violations(story: Story, chunks: Sequence[tuple[int, bytes]]) -> Iterator[Violation]:
    """What is wrong with a journal by itself: J1, J2, J3, case 12; notes in `story` what it has.

    Args:
        story: The invocation, nothing noted yet.
        chunks: The journal's chunks with their versions, in order.
    """
    row = story.row
    versions = [version for version, _ in chunks]
    if versions != list(range(1, row.version + 1)):
        text = f"is at version {row.version}, its journal has {_ranges(versions)}"
        yield Violation(invariant="J1", id=row.id, text=text)
    try:
        entries = decode_chunks(chunk for _, chunk in chunks)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        yield Violation(invariant="J1", id=row.id, text=f"has a journal that can't be read: {error}")
        return
    story.events = len(entries)
    yield from _begins_with_input(row, entries)
    ended: set[int] = set()
    for index, entry in enumerate(entries):
        yield from _follows(story, entries, index, entry, ended)
    raised = sum(isinstance(entry, CancellationRaised) for entry in entries)
    if raised > 1 or (raised and row.cancelled_ms is None):
        marked = "not cancelled" if row.cancelled_ms is None else "cancelled"
        text = f"is {marked}, and its handler got the cancellation {raised} times"
        yield Violation(invariant="case 12", id=row.id, text=text)


def _begins_with_input(row: Invocation, entries: Sequence[Entry]) -> Iterator[Violation]:
    inputs = [(index, entry) for index, entry in enumerate(entries) if isinstance(entry, Input)]
    if [index for index, _ in inputs] != [0]:
        text = f"has its input at {[index for index, _ in inputs]} of its journal, not at 0 alone"
        yield Violation(invariant="J1", id=row.id, text=text)
    elif (inputs[0][1].service, inputs[0][1].handler) != (row.service, row.handler):
        text = f"is of {row.service}/{row.handler}, its journal of another handler"
        yield Violation(invariant="J1", id=row.id, text=text)
    elif row.versions != Versions(handler=inputs[0][1].version, markers=markers_in(entries)):
        yield Violation(invariant="J1", id=row.id, text="has other versions than its journal records")


def _follows(
    story: Story, entries: Sequence[Entry], index: int, entry: Entry, ended: set[int]
) -> Iterator[Violation]:
    """Check that an entry fits those before it; `ended` are the operations that have an outcome by then."""
    wait = wait_of(entry)
    first = entries[0]
    if wait is not None and not (isinstance(first, Input) and index <= first.kept):
        story.created[wait] = index
    match entry:
        case RunRequested():
            story.runs += 1
        case PublishRequested(of=int() as of):
            if not isinstance(_before(entries, of, index), AwakeableCreated):
                yield _misfit(story, index, f"publishes entry {of}, which is no awakeable before it")
        case RunAttemptFailed():
            if not isinstance(_before(entries, entry.of, index), RunRequested) or entry.of in ended:
                yield _misfit(story, index, f"is a failure of entry {entry.of}, no run under way", "J3")
        case RunEnded():
            if not isinstance(_before(entries, entry.of, index), RunRequested) or entry.of in ended:
                yield _misfit(story, index, f"is the end of entry {entry.of}, no run under way", "J3")
        case OutcomeDelivered():
            story.deliveries += 1
            yield from _delivers(story, entries, index, entry, ended)
        case _:
            pass


def _delivers(
    story: Story, entries: Sequence[Entry], index: int, entry: OutcomeDelivered, ended: set[int]
) -> Iterator[Violation]:
    operation = _before(entries, entry.of, index)
    wait = None if operation is None else wait_of(operation)
    if wait is None and not isinstance(operation, ENDING):
        yield _misfit(story, index, f"is an outcome of entry {entry.of}, which has none")
    elif entry.of in ended:
        number = "J3" if isinstance(operation, RunRequested) else "J2"
        yield _misfit(story, index, f"is another outcome of entry {entry.of}", number)
    elif wait is not None:
        story.delivered[wait] = digest(entry.outcome)
    ended.add(entry.of)


def _before(entries: Sequence[Entry], of: int, index: int) -> Entry | None:
    return entries[of] if 0 <= of < index else None


def _misfit(story: Story, index: int, text: str, number: str = "J2") -> Violation:
    return Violation(invariant=number, id=story.row.id, text=f"has a journal whose entry {index} {text}")


def _ranges(versions: Sequence[int]) -> str:
    if not versions:
        return "no chunks"
    return f"{len(versions)} chunks, {versions[0]} to {versions[-1]}"


def awakeables_violations(story: Story, rows: Mapping[str, Awaited]) -> Iterator[Violation]:
    """Does an invocation agree with its awakeables' rows: A3, J2, O3, cases 1 and 4?

    Args:
        story: The invocation.
        rows: The rows that exist of the awakeables that it created.
    """
    row = story.row
    own = [each for each in map(rows.get, story.created) if each is not None and each.invocation_id == row.id]
    for awakeable_id in story.created.keys() - {each.id for each in own}:
        found = rows.get(awakeable_id)
        whose = "which has no row" if found is None else f"whose row is of {found.invocation_id}"
        yield Violation(invariant="A3", id=row.id, text=f"created {awakeable_id}, {whose}")
    for each in own:
        if story.delivered.get(each.id, each.digest) != each.digest:
            text = f"has delivered an outcome of {each.id}, which is {each.state}, that its row has not"
            yield Violation(invariant="J2", id=row.id, text=text)
    # Who waits for a call that has ended already is not woken.
    woke = [each for each in own if not each.is_call]
    counted = sum(each.state in ("resolved", "rejected", "timed-out") for each in woke)
    counted += row.cancelled_ms is not None
    if row.wake < counted:
        text = f"was woken {row.wake} times, by {counted} outcomes and cancellations"
        yield Violation(invariant="case 1", id=row.id, text=text)
    pending = [each.id for each in own if each.state == "pending"]
    if row.status == "completed" and pending:
        yield Violation(invariant="case 4", id=row.id, text=f"has ended, and {pending[0]} is pending")
    if row.status == "suspended" and row.due_ms is None and not pending:
        text = "is suspended, and waits for no time and no pending awakeable"
        yield Violation(invariant="O3", id=row.id, text=text)


def call_violations(wait: AwakeableRow, call: Invocation | None) -> Iterator[Violation]:
    """Does a wait for a call fit the call: O3, case 4?"""
    if wait.state == "pending":
        if call is None or call.status == "completed":
            ended = "does not exist" if call is None else "has ended"
            yield Violation(invariant="O3", id=wait.id, text=f"waits for {wait.source}, which {ended}")
        elif not call.awaited:
            text = f"waits for {wait.source}, whose end will tell nobody"
            yield Violation(invariant="O3", id=wait.id, text=text)
        return
    goes_on = call is not None and call.status != "completed" and call.cancelled_ms is None
    if wait.owned and wait.state == "cancelled" and goes_on:
        text = f"is of an invocation that has ended, and its call {wait.source} goes on"
        yield Violation(invariant="case 4", id=wait.id, text=text)


def orphan_violations(row: AwakeableRow, journal: Sequence[bytes] | None) -> Iterator[Violation]:
    """Has an awakeable's invocation created it (A3)? Without a journal it does not exist (case 8)."""
    if journal is None:
        text = f"is an awakeable of {row.invocation_id}, which does not exist"
        yield Violation(invariant="case 8", id=row.id, text=text)
        return
    try:
        created = waits_created(journal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return  # J1 reports it
    if row.id not in created:
        text = f"is an awakeable of {row.invocation_id}, whose journal does not have it"
        yield Violation(invariant="A3", id=row.id, text=text)
