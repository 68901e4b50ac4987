"""J2 over releases: journals of format 1 are understood for ever (README.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Raw

from awakeables.core import journal, outcomes
from awakeables.core.awakeables import PROMISE, AwakeableRow, Completion, cancel, ended, settle
from awakeables.core.decide.calling import ABANDONED
from awakeables.core.ids import Ids
from awakeables.core.invocations import Invocation
from awakeables.core.journal import (
    AttachRequested,
    AwakeableCreated,
    CallRequested,
    CancellationRaised,
    Entry,
    Input,
    OutcomeDelivered,
    PromiseCreated,
    SleepRequested,
    decode_chunks,
    encode_chunk,
    wait_of,
)
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution, encode_outcome
from awakeables.core.replay import markers_in
from awakeables.core.versions import first_versions, versions_bytes
from awakeables.doctor.verification import verify
from awakeables.handlers.attempt import Attempt, Finished, News, Origin, Progress
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts
from awakeables.store.memory import MemoryTables
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.testing.loop import InlineExecutor
from golden.handlers import SCRIPTS, app

V1 = Path(__file__).with_name("v1")
FILES = sorted(V1.glob("*.json"))


class Recorded(msgspec.Struct):
    """One file; `end` is None where the recording ends in a wait."""

    handler: str
    invocation_id: str
    chunks: list[Raw]
    end: Outcome | None

    @property
    def service(self) -> str:
        given = self.entries[0]
        assert isinstance(given, Input)
        return given.service

    @property
    def entries(self) -> list[Entry]:
        return decode_chunks(map(bytes, self.chunks))


def read(path: Path) -> Recorded:
    return msgspec.json.decode(path.read_bytes(), type=Recorded)


class Later:
    """Long after the recording."""

    def now_ms(self) -> int:
        return 4_000_000_000_000

    def monotonic(self) -> float:
        return 4e9


def no_chance(count: int) -> Any:
    pytest.fail("a replay asked for something new")


def attempt_of(recorded: Recorded, entropy: Callable[[int], Any]) -> Attempt:
    clock = Later()
    ids = Ids(clock.now_ms, entropy)
    world = World(clock=clock, ids=ids, app="golden", reply_to="golden.completions")
    origin = Origin(
        invocation_id=recorded.invocation_id,
        service=recorded.service,
        handler=recorded.handler,
        exclusive=recorded.service != "golden",
    )
    return LocalAttempts(app, world, InlineExecutor()).open(origin, recorded.entries, lambda: None)


def progress_of(attempt: Attempt) -> Progress:
    """As far as the journal goes: nothing is durable, so no action starts."""
    progress = attempt.advance(News(now_ms=Later().now_ms()))
    assert isinstance(progress, Progress)
    attempt.close()
    return progress


files = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


@files
async def test_a_journal_replays_to_its_recorded_end_and_asks_for_nothing_new(path: Path) -> None:
    """J2, J3: no operation, no side effect, no ID, no instant is new."""
    recorded = read(path)
    progress = progress_of(attempt_of(recorded, no_chance))
    assert not progress.entries, "something new was asked for"
    if recorded.end is not None:
        assert progress.ended == Finished(result=recorded.end)  # type: ignore[arg-type]
        return
    entries = recorded.entries
    delivered = {entry.of for entry in entries if isinstance(entry, OutcomeDelivered)}
    waitable = {i for i, entry in enumerate(entries) if isinstance(entry, AwakeableCreated | SleepRequested)}
    assert {wait.index for wait in progress.blocked_on} == waitable - delivered


@files
async def test_a_journal_that_was_cut_anywhere_goes_on_with_what_comes_next(path: Path) -> None:
    """A crash between any two commits: what is there is repeated, the rest is asked for again."""
    recorded = read(path)
    for length in range(1, len(recorded.chunks)):
        part = msgspec.structs.replace(recorded, chunks=recorded.chunks[:length])
        progress = progress_of(attempt_of(part, bytes))
        if isinstance(progress.ended, Finished):
            assert progress.ended.result == recorded.end
        again = progress.entries
        following = recorded.entries[len(part.entries) : len(part.entries) + len(again)]
        assert [type(entry) for entry in again] == [type(entry) for entry in following]


@files
async def test_a_store_that_has_the_journal_is_verified(path: Path) -> None:
    """The rows are those that were written with it."""
    recorded = read(path)
    tables = MemoryTables(retention_ms=0)
    delivered = {entry.of: entry.outcome for entry in recorded.entries if isinstance(entry, OutcomeDelivered)}
    left = None if recorded.end is None else Cancellation(reason=ABANDONED)
    for index, entry in enumerate(recorded.entries):
        wait = wait_of(entry)
        if isinstance(entry, PromiseCreated):
            promise = AwakeableRow(entry.id, recorded.invocation_id, 1, source_utf8=PROMISE)
            tables.awakeables[entry.id] = cancel(promise, now_ms=1, reason=ABANDONED) or promise
        if wait is not None:
            outcome = delivered.get(index, left)
            if isinstance(entry, CallRequested | AttachRequested):
                row = AwakeableRow(wait, recorded.invocation_id, 1, source_utf8=entry.id.encode())
                tables.awakeables[wait] = row if outcome is None else ended(row, outcome, now_ms=1)
            else:
                tables.awakeables[wait] = awakeable_row(wait, recorded.invocation_id, outcome)
    raised = any(isinstance(entry, CancellationRaised) for entry in recorded.entries)
    invocation = Invocation(
        recorded.invocation_id, recorded.service, recorded.handler, 1, 1, version=len(recorded.chunks)
    )
    invocation.cancelled_ms = 1 if raised else None
    invocation.versions_json = versions_bytes(first_versions(1, markers_in(recorded.entries)))
    invocation.wake = len(tables.awakeables) + raised
    invocation.due_ms = 1
    if recorded.end is not None:
        invocation.status, invocation.due_ms, invocation.ended_ms, invocation.result_json = (
            "completed",
            None,
            1,
            encode_outcome(recorded.end),
        )
    tables.invocations[invocation.id] = invocation
    tables.journals[invocation.id] = dict(enumerate(map(bytes, recorded.chunks), 1))
    findings = await verify(MemoryAudit(tables, clock=Later()), retention_ms=0)
    assert [str(violation) for violation in findings.violations] == []
    assert findings.looked_at["J2"] == len(delivered)


def awakeable_row(awakeable_id: str, invocation_id: str, outcome: Outcome | None) -> AwakeableRow:
    """The row of an awakeable whose handler got this outcome."""
    row = AwakeableRow(awakeable_id, invocation_id, 1)
    if outcome is None:
        return row
    if isinstance(outcome, Resolution) and not outcome.is_json:
        row.codec = "bytes"
    if isinstance(outcome, Resolution | Rejection):
        completion = Completion(awakeable_id=awakeable_id, body=outcome, source="t:0:1")
        return settle(row, completion, now_ms=1, horizon_ms=0).awakeable
    row.state = "timed-out" if isinstance(outcome, Expiry) else "cancelled"
    row.settled_ms, row.outcome_json = 1, encode_outcome(outcome)
    return row


@files
def test_a_journal_is_written_today_as_it_was_then(path: Path) -> None:
    for chunk in map(bytes, read(path).chunks):
        assert encode_chunk(decode_chunks([chunk])) == chunk


def test_every_kind_of_entry_and_of_outcome_occurs() -> None:
    entries = [entry for path in FILES for entry in read(path).entries]
    assert {type(entry) for entry in entries} == set(get_args(journal.Entry))
    delivered = {type(entry.outcome) for entry in entries if isinstance(entry, OutcomeDelivered)}
    assert delivered == set(get_args(outcomes.Outcome))


def test_every_recorded_handler_has_its_journal() -> None:
    assert {path.stem for path in FILES} == set(SCRIPTS)
    assert all(read(path).handler == path.stem for path in FILES)


def test_no_journal_was_ever_edited() -> None:
    recorded = (V1 / "SHA256SUMS").read_text().splitlines()
    assert sorted(recorded) == sorted(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in FILES
    )


def test_an_entry_of_a_newer_release_is_refused_by_name_not_skipped() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'telepathy'"):
        decode_chunks([b'[{"k":"input","service":"s","handler":"h","seed":"","at_ms":1},{"k":"telepathy"}]'])


def test_an_outcome_of_a_newer_release_is_refused_by_name() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'forgotten'"):
        decode_chunks([b'[{"k":"outcome","of":1,"outcome":{"status":"forgotten"}}]'])
