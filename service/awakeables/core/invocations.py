"""Every transition of an invocation.

    begin ─▶ pending ──claim──▶ running ──Suspend──▶ suspended ──wake, due──▶ (claim)
                ▲                  ├──────BackOff──▶ backing-off ──due──────▶ (claim)
                │                  ├──────Pause────▶ paused ──resume──▶ pending
                └─────release──────┤
                                   └──────End──────▶ completed

    cancel: pending, suspended, backing-off, paused ─▶ pending, marked; running stays, marked;
            what never ran ─▶ completed
    kill:   whatever has not ended ─▶ completed

Only the owner, under the epoch of its claim and the version that it saw, appends to the journal
(J1). Everybody else says `wake`: they count on the row, and what was suspended becomes pending.
An owner suspends only if it has seen every wake; otherwise the row stays runnable, so that no
wake-up is lost (O3).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from awakeables.core.acts import Acts, acts_from
from awakeables.core.outcomes import Cancellation, Outcome, decode_outcome, encode_outcome
from awakeables.core.records import Record, Row, text_from

Status: TypeAlias = Literal["pending", "running", "suspended", "backing-off", "paused", "completed"]

STATUSES: tuple[Status, ...] = ("pending", "running", "suspended", "backing-off", "paused", "completed")

MAX_STARTS = 5
"""Starts without one commit after which an invocation is taken for one that kills its process."""

SUSPECT_STARTS = 2
"""Starts without one commit after which an invocation is run without another such one beside it.

A handler that kills its process takes every handler down that is live beside it. Those would be
parked with it, if each were not given a chance to commit by itself (hard case 11).
"""

NO_INSTANT_MS = 10**15
"""What a due time that is no instant lies below the instant at which it was set: it is negative."""

CRASHED = "crashed its owner"
CANCELLED = "the invocation was cancelled"
CANCELLED_OUTCOME = Cancellation(reason=CANCELLED)
KILLED = Cancellation(reason="the invocation was killed")


class Failure(Record):
    """Why an attempt failed or an invocation was paused; no stack, it may leave the service."""

    kind: str
    message: str
    at_ms: int


_encode_failure = msgspec.json.Encoder().encode
_decode_failure = msgspec.json.Decoder(Failure).decode

_CANCELLED_JSON = encode_outcome(CANCELLED_OUTCOME)
_KILLED_JSON = encode_outcome(KILLED)


class Invocation(Row):
    """The row of an invocation.

    Attributes:
        epoch: Counts claims; with `owner` the fence of every commit of an owner.
        version: Counts the chunks of the journal.
        wake: Counts what the outside has told it.
        starts: Claims since the owner's last commit.
        attempts: Failed attempts since the journal last grew.
        due_ms: When it is to be claimed at the earliest (`at_once`: now, whenever that is); None: when
            something wakes it.
        committed_by: The owner of the last commit; with `epoch` and `commits` a commit that is sent
            again after a lost acknowledgement is recognised.
        commits: The number of the last commit of this epoch.
        build: The build of the code that last wrote it.
        cancelled_ms: When it was told to be cancelled; the handler is told at its next await.
        origin: The instance whose caller waits for the result.
    """

    id: str
    service: str
    handler: str
    created_ms: int
    updated_ms: int
    key_utf8: bytes | None = None
    status: Status = "pending"
    owner: str | None = None
    epoch: int = 0
    version: int = 1
    wake: int = 0
    starts: int = 0
    attempts: int = 0
    due_ms: int | None = None
    committed_by: str | None = None
    build: str | None = None
    failure_json: bytes | None = None
    result_json: bytes | None = None
    cancelled_ms: int | None = None
    ended_ms: int | None = None
    acts_json: bytes | None = None
    commits: int = 0
    origin: str | None = None

    @property
    def key(self) -> str | None:
        return None if self.key_utf8 is None else text_from(self.key_utf8)

    @property
    def failure(self) -> Failure | None:
        """Why its last attempt failed, or why it was paused."""
        return None if self.failure_json is None else _decode_failure(self.failure_json)

    @property
    def result(self) -> Outcome | None:
        """How it ended."""
        return None if self.result_json is None else decode_outcome(self.result_json)

    @property
    def acts(self) -> Acts:
        """Who began it, by which token, and what operators did to it."""
        return acts_from(self.acts_json)


class Continue(Record):
    """The owner goes on."""


class Suspend(Record):
    """The owner lets go until something wakes the invocation or `due_ms` comes.

    `wake` is the last wake that the owner has handed to the handler or knows to be in the rows
    that it read.
    """

    wake: int
    due_ms: int | None = None


class BackOff(Record):
    """The attempt failed; try again at `due_ms`."""

    due_ms: int
    failure: Failure


class Pause(Record):
    """Park it: visible, resumable, nothing lost."""

    failure: Failure


class End(Record):
    """It is done; `abandoned` are its awakeables that may still be pending (hard case 4)."""

    result: Outcome
    abandoned: tuple[str, ...] = ()


Next: TypeAlias = Continue | Suspend | BackOff | Pause | End


def stalled_reason(row: Invocation) -> str | None:
    """Why an invocation does not proceed, and what to do; the text is the same wherever it is shown.

    None: its last attempt has not failed, or it has ended.
    """
    if row.failure is None:
        return None
    failure = f"{row.failure.kind}: {row.failure.message}"
    if row.status == "paused":
        return f"paused, {failure}; see `awakeables show {row.id}`, then `awakeables resume` or `kill` it"
    if row.attempts and row.status != "completed":
        return f"attempt {row.attempts} failed, {failure}; it is tried again by itself"
    return None


def at_once(now_ms: int) -> int:
    """A due time that has come, whatever the clock is set to.

    Written as the instant it would lie in the future as soon as the clock is set back. It keeps the
    instant all the same, so that who has waited longest is claimed first.
    """
    return now_ms - NO_INSTANT_MS


def due_since_ms(due_ms: int) -> int:
    """The instant from which on it waits to be claimed."""
    return due_ms + NO_INSTANT_MS if due_ms < 0 else due_ms


def owns(row: Invocation, *, owner: str, epoch: int, version: int) -> bool:
    """The fence (J1): may this owner commit what it decided on that version?"""
    return row.status == "running" and row.owner == owner and row.epoch == epoch and row.version == version


def is_suspect(row: Invocation) -> bool:
    """Was it live at each of the last crashes of its owners?"""
    return row.starts >= SUSPECT_STARTS


def is_repeat(row: Invocation, *, owner: str, epoch: int) -> bool:
    """Was a commit of this owner whose number the row has applied, and only its acknowledgement lost?

    An owner's commits under one epoch are applied in the order of their numbers (hard case 3).
    """
    return row.epoch == epoch and row.committed_by == owner


def claim(row: Invocation, *, owner: str, now_ms: int) -> Invocation:
    """Give a runnable invocation to an owner, or park it if it keeps killing its owners."""
    if row.starts >= MAX_STARTS:
        message = f"{row.starts} starts without a commit; fix the handler, then resume"
        return _parked(row, Failure(kind=CRASHED, message=message, at_ms=now_ms), now_ms)
    row = replace(row, status="running", owner=owner, due_ms=None, updated_ms=now_ms, commits=0)
    row.epoch += 1
    row.starts += 1
    return row


def advance(
    row: Invocation, step: Next, *, grows: bool, owner: str, number: int, build: str, now_ms: int
) -> Invocation:
    """Apply an owner's commit, its `number`th of this epoch; `grows`: it appends a chunk to the journal."""
    row = replace(row, updated_ms=now_ms)
    if grows:
        row.version += 1
        row.attempts = 0
    row.starts = 0
    row.committed_by = owner
    row.commits = number
    row.build = build
    if type(step) is Continue:
        return row
    row.owner = None
    match step:
        case Suspend():
            seen = step.wake == row.wake
            row.status = "suspended" if seen else "pending"
            row.due_ms = step.due_ms if seen else at_once(now_ms)
        case BackOff():
            row.status = "backing-off"
            row.due_ms = step.due_ms
            row.attempts += 1
            row.failure_json = _encode_failure(step.failure)
        case Pause():
            return _parked(row, step.failure, now_ms)
        case End():
            row.status = "completed"
            row.due_ms = None
            row.result_json = encode_outcome(step.result)
            row.ended_ms = now_ms
        case _:
            pass
    return row


def wake(row: Invocation, *, now_ms: int) -> Invocation:
    """Count what the outside told; make a suspended invocation runnable."""
    row = replace(row, wake=row.wake + 1)
    if row.status == "suspended":
        row.status = "pending"
        row.due_ms = at_once(now_ms)
    return row


def release(row: Invocation, *, now_ms: int) -> Invocation:
    """Take a running invocation from an owner that does not hold it (any more)."""
    return replace(row, status="pending", owner=None, due_ms=at_once(now_ms))


def replay_dry(row: Invocation, *, ends: bool) -> Invocation | None:
    """Count a dry replay as a start while it runs; None: it has ended, or may kill its process."""
    if ends:
        return replace(row, starts=max(0, row.starts - 1))
    if row.status == "completed" or is_suspect(row):
        return None
    return replace(row, starts=row.starts + 1)


def resume(row: Invocation, *, now_ms: int) -> Invocation | None:
    """Let a paused or backing-off invocation run again now; None: it is neither.

    One that is to be claimed now anyhow stays as it is: what a first resume has made of it.
    """
    if row.status == "pending" and row.due_ms is not None and row.due_ms <= now_ms:
        return row
    if row.status not in ("paused", "backing-off"):
        return None
    return replace(row, status="pending", due_ms=at_once(now_ms), starts=0, attempts=0, updated_ms=now_ms)


def cancel(row: Invocation, *, now_ms: int) -> Invocation | None:
    """Mark it, so that its handler is told at its next await; None: it has ended.

    What can be run is made runnable: what is paused was parked for its code, and the code may
    still have something to undo. What never ran has nothing to undo and ends here. A second
    cancel marks nothing again; also of one that the first has ended, whose acknowledgement was
    lost. It lets run what has failed or was paused since.
    """
    if row.status == "completed":
        return row if row.epoch == 0 and row.result_json == _CANCELLED_JSON else None
    if row.cancelled_ms is None:
        row = replace(row, cancelled_ms=now_ms, wake=row.wake + 1, updated_ms=now_ms)
    elif row.status not in ("paused", "backing-off"):
        return row
    if row.status == "running":
        return row
    if row.epoch == 0:
        return _ended(row, _CANCELLED_JSON, now_ms)
    return replace(row, status="pending", due_ms=at_once(now_ms), starts=0, attempts=0)


def kill(row: Invocation, *, now_ms: int) -> Invocation | None:
    """End it as it stands, its handler is not asked; None: it has ended otherwise.

    An owner that runs it is fenced from now on. A second kill changes nothing.
    """
    if row.status == "completed":
        return row if row.result_json == _KILLED_JSON else None
    return _ended(replace(row, owner=None, updated_ms=now_ms), _KILLED_JSON, now_ms)


def _ended(row: Invocation, result: bytes, now_ms: int) -> Invocation:
    return replace(row, status="completed", due_ms=None, result_json=result, ended_ms=now_ms)


def _parked(row: Invocation, failure: Failure, now_ms: int) -> Invocation:
    return replace(
        row,
        status="paused",
        owner=None,
        due_ms=None,
        failure_json=_encode_failure(failure),
        updated_ms=now_ms,
    )
