"""Every transition of an invocation.

    begin ─▶ pending ──claim──▶ running ──Suspend──▶ suspended ──wake, due──▶ (claim)
                ▲                  ├──────BackOff──▶ backing-off ──due──────▶ (claim)
                │                  ├──────Pause────▶ paused ──resume──▶ pending
                └─────release──────┤
                                   └──────End──────▶ completed

    exclusive, and its key is held: begin ─▶ queued ──its turn──▶ pending (core/objects.py)

    cancel: pending, suspended, backing-off, paused ─▶ pending, marked; running: stays running, marked;
            never claimed, queued ─▶ completed
    pause:  pending, suspended, backing-off ─▶ paused; running, queued: marked, until the next wait or turn
    kill:   any state but completed ─▶ completed

Only the owner, under the epoch of its claim and the version that it saw, appends to the journal (J1).
Others call `wake`, which increments the row's wake counter and makes a suspended invocation pending. An
owner can suspend only if it has seen every wake; otherwise the row becomes pending, so that no wake-up
is lost (O3).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from awakeables.core.acts import Acts, acts_from
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, decode_outcome, encode_outcome
from awakeables.core.records import Record, Row, text_from
from awakeables.core.sealed import Unopened, raise_if_unopened, rejection_of
from awakeables.core.versions import Versions, versions_from

Status: TypeAlias = Literal["queued", "pending", "running", "suspended", "backing-off", "paused", "completed"]

STATUSES: tuple[Status, ...] = (
    "queued",
    "pending",
    "running",
    "suspended",
    "backing-off",
    "paused",
    "completed",
)

MAX_STARTS = 5
"""After this many starts without a commit, an invocation is assumed to crash its process, and is paused."""

SUSPECT_STARTS = 2
"""After this many starts without a commit, an invocation runs only while no other such one does.

A handler that crashes its process takes down every other handler in it. These would be paused with
it, unless each of them gets a chance to commit without it (hard case 11).
"""

NO_INSTANT_MS = 10**15
"""`at_once` subtracts this from the current instant, which makes the due time negative."""

CRASHED = "crashed its owner"
BY_OPERATOR = "by an operator"
CANCELLED = "the invocation was cancelled"
CANCELLED_OUTCOME = Cancellation(reason=CANCELLED)
CALLED_OFF = Cancellation(reason="the handler cancelled it")
KILLED = Cancellation(reason="the invocation was killed")


class Failure(Record):
    """Why an attempt failed or an invocation was paused; no stack trace, since clients may see it.

    Attributes:
        tries: How often the actions that still fail have failed, by their places in the journal.
    """

    kind: str
    message: str
    at_ms: int
    tries: dict[int, int] = {}


_encode_failure = msgspec.json.Encoder().encode
_decode_failure = msgspec.json.Decoder(Failure).decode

_CANCELLED_JSON = encode_outcome(CANCELLED_OUTCOME)
_KILLED_JSON = encode_outcome(KILLED)


class Invocation(Row):
    """The row of an invocation.

    Attributes:
        epoch: Counts claims; with `owner` the fence of each of the owner's commits.
        version: Counts the chunks of the journal.
        wake: Counts wake-ups: outcomes and cancellations.
        starts: Claims since the last commit of any owner.
        attempts: Failed attempts since the journal last grew; or of the action that has failed most often, if
            it only grew beside actions that still fail.
        due_ms: The earliest instant to claim it (`at_once`: immediately); None: not before it is woken.
        committed_by: The owner of the last commit; with `epoch` and `commits` it identifies a commit that
            is sent again after a lost acknowledgement.
        commits: The number of the last commit of this epoch.
        build: The build of the code that last wrote it.
        cancelled_ms: When it was cancelled; `Cancelled` is raised at the handler's next await.
        origin: The instance whose caller waits for the result.
        awaited: Whether an invocation waits, or has waited, for the end of this one.
        ticket: Its place among the exclusive invocations of its key; `DELAYED`: it has none yet; `RUN`: it is
            the run of a workflow, the only one of its key; None: it is not exclusive.
        pausing_ms: When an operator asked for a pause that has not come yet.
        subscription: The name of the subscription whose record it is for.
        versions_json: The versions of the code that its journal records; None: version 1 of its handler.
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
    awaited: bool = False
    ticket: int | None = None
    pausing_ms: int | None = None
    subscription: str | None = None
    versions_json: bytes | None = None

    @property
    def key(self) -> str | None:
        return None if self.key_utf8 is None else text_from(self.key_utf8)

    @property
    def failure(self) -> Failure | None:
        """Why its last attempt failed, or why it was paused."""
        content = self.failure_json
        if isinstance(content, Unopened):
            kind = type(content.error).__name__
            return Failure(kind=kind, message=str(content.error), at_ms=self.updated_ms)
        return None if content is None else _decode_failure(content)

    @property
    def result(self) -> Outcome | None:
        """How it ended; a rejection that says so if that can't be read."""
        content = self.result_json
        if content is None:
            return None
        return rejection_of(content) if isinstance(content, Unopened) else decode_outcome(content)

    @property
    def known_result(self) -> Outcome | None:
        """How it ended.

        Raises:
            ValueSealed: That can't be read.
        """
        raise_if_unopened(self.result_json)
        return self.result

    @property
    def versions(self) -> Versions:
        """Which versions of the code it has."""
        return versions_from(self.versions_json)

    @property
    def acts(self) -> Acts:
        """Which token began it, and what operators did to it."""
        return acts_from(self.acts_json)


class Continue(Record):
    """The owner keeps running it."""


class Suspend(Record):
    """The owner releases the invocation until it is woken or `due_ms` is reached.

    `wake` is the last wake-up that the owner has passed to the handler, or whose outcome is in the rows
    that it has read.
    """

    wake: int
    due_ms: int | None = None


class BackOff(Record):
    """The attempt failed; try again at `due_ms`."""

    due_ms: int
    failure: Failure


class Pause(Record):
    """Pause the invocation: nothing is lost, and an operator can resume it."""

    failure: Failure


class End(Record):
    """The invocation has ended; `abandoned` are awakeables that may still be pending (hard case 4)."""

    result: Outcome
    abandoned: tuple[str, ...] = ()


Next: TypeAlias = Continue | Suspend | BackOff | Pause | End


def stalled_reason(row: Invocation) -> str | None:
    """Why an invocation makes no progress, and what to do; the same text wherever it is shown.

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
    """A due time that has passed, even if the clock is set back later.

    It still encodes the current instant, so that the invocation that has waited longest is claimed first.
    """
    return now_ms - NO_INSTANT_MS


def first_due_ms(now_ms: int, delay_ms: int) -> int:
    """When a new invocation is due."""
    return now_ms + delay_ms if delay_ms else at_once(now_ms)


def due_since_ms(due_ms: int) -> int:
    """The instant since which an invocation has been due."""
    return due_ms + NO_INSTANT_MS if due_ms < 0 else due_ms


def queue(row: Invocation, *, now_ms: int) -> Invocation:
    """Let an invocation that has not begun wait until its key is its own; one that is paused is marked."""
    pausing_ms = now_ms if row.status == "paused" else row.pausing_ms
    return replace(row, status="queued", due_ms=None, updated_ms=now_ms, pausing_ms=pausing_ms)


def take_turn(row: Invocation, *, now_ms: int) -> Invocation:
    """Let a queued invocation run, or be paused as it was asked for: its key is its own now."""
    if row.pausing_ms is not None:
        return _paused_by_operator(row, now_ms)
    return replace(row, status="pending", due_ms=at_once(now_ms), updated_ms=now_ms)


def owns(row: Invocation, *, owner: str, epoch: int, version: int) -> bool:
    """The fence (J1): may this owner commit what it decided on this version?"""
    return row.status == "running" and row.owner == owner and row.epoch == epoch and row.version == version


def is_suspect(row: Invocation) -> bool:
    """Whether it was running at each of the last crashes of its owners."""
    return row.starts >= SUSPECT_STARTS


def is_repeat(row: Invocation, *, owner: str, epoch: int) -> bool:
    """Whether the row's last commit was this owner's, so that one with an old number is a repeat.

    An owner's commits under one epoch are applied in the order of their numbers (hard case 3), so a
    number that the row has reached was applied, and only its acknowledgement was lost.
    """
    return row.epoch == epoch and row.committed_by == owner


def claim(row: Invocation, *, owner: str, now_ms: int) -> Invocation:
    """Give a runnable invocation to an owner, or pause it if it keeps crashing its owners."""
    if row.starts >= MAX_STARTS:
        message = f"{row.starts} starts without a commit; fix the handler, then resume"
        return _parked(row, Failure(kind=CRASHED, message=message, at_ms=now_ms), now_ms)
    row = replace(row, status="running", owner=owner, due_ms=None, updated_ms=now_ms, commits=0)
    row.epoch += 1
    row.starts += 1
    return row


def advance(
    row: Invocation,
    step: Next,
    *,
    grows: bool,
    owner: str,
    number: int,
    build: str,
    now_ms: int,
    attempts: int = 0,
) -> Invocation:
    """Apply an owner's commit, number `number` of this epoch; `grows`: it appends to the journal.

    Then `attempts` have failed before.
    """
    row = replace(row, updated_ms=now_ms)
    if grows:
        row.version += 1
        row.attempts = attempts
    row.starts = 0
    row.committed_by = owner
    row.commits = number
    row.build = build
    if type(step) is Continue:
        return row
    row.owner = None
    if row.pausing_ms is not None and isinstance(step, Suspend | BackOff):
        return _paused_by_operator(row, now_ms)
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
            row.pausing_ms = None
        case _:
            pass
    return row


def wake(row: Invocation, *, now_ms: int) -> Invocation:
    """Count a wake-up; a suspended invocation becomes pending and due."""
    row = replace(row, wake=row.wake + 1)
    if row.status == "suspended":
        row.status = "pending"
        row.due_ms = at_once(now_ms)
    return row


def release(row: Invocation, *, now_ms: int) -> Invocation:
    """Make a running invocation pending, because its owner no longer runs it; or paused, if it is to be."""
    if row.pausing_ms is not None:
        return _paused_by_operator(replace(row, owner=None), now_ms)
    return replace(row, status="pending", owner=None, due_ms=at_once(now_ms))


def replay_dry(row: Invocation, *, ends: bool) -> Invocation | None:
    """Count a dry replay as a start while it runs; None: it has ended, or may crash its process."""
    if ends:
        return replace(row, starts=max(0, row.starts - 1))
    if row.status == "completed" or is_suspect(row):
        return None
    return replace(row, starts=row.starts + 1)


def resume(row: Invocation, *, now_ms: int) -> Invocation | None:
    """Make a paused or backing-off invocation due now; None: it is neither.

    A pending invocation that is already due is returned unchanged, so that a repeated resume succeeds. A
    pause that has not come yet is taken back.
    """
    if row.pausing_ms is not None:
        return replace(row, pausing_ms=None, updated_ms=now_ms)
    if row.status == "pending" and row.due_ms is not None and row.due_ms <= now_ms:
        return row
    if row.status not in ("paused", "backing-off"):
        return None
    return replace(row, status="pending", due_ms=at_once(now_ms), starts=0, attempts=0, updated_ms=now_ms)


def pause(row: Invocation, *, now_ms: int) -> Invocation | None:
    """Pause an invocation, or mark one that runs or is queued; None: it has ended.

    One that is paused or marked already is returned unchanged.
    """
    if row.status == "completed":
        return None
    if row.status == "paused" or row.pausing_ms is not None:
        return row
    if row.status in ("running", "queued"):
        return replace(row, pausing_ms=now_ms, updated_ms=now_ms)
    return _paused_by_operator(row, now_ms)


def _paused_by_operator(row: Invocation, now_ms: int) -> Invocation:
    failure = Failure(kind=BY_OPERATOR, message="it goes on when it is resumed", at_ms=now_ms)
    return _parked(row, failure, now_ms)


def cancel(row: Invocation, *, now_ms: int) -> Invocation | None:
    """Mark it, so that `Cancelled` is raised at its handler's next await; None: it has ended.

    It also becomes due, even if it was paused: its code may have something to undo. An invocation that
    was never claimed has nothing to undo and ends here. A repeated cancel changes nothing, except that an
    invocation that has failed or was paused since becomes due again; it also succeeds on one that the
    first cancel ended, since that acknowledgement may have been lost.
    """
    if row.status == "completed":
        return row if row.epoch == 0 and row.result_json == _CANCELLED_JSON else None
    if row.cancelled_ms is None:
        row = replace(row, cancelled_ms=now_ms, wake=row.wake + 1, updated_ms=now_ms, pausing_ms=None)
    elif row.status not in ("paused", "backing-off"):
        return row
    if row.status == "running":
        return row
    if row.epoch == 0:
        return _ended(row, _CANCELLED_JSON, now_ms)
    return replace(row, status="pending", due_ms=at_once(now_ms), starts=0, attempts=0)


def kill(row: Invocation, *, now_ms: int) -> Invocation | None:
    """End it without running its handler; None: it has ended in another way.

    Its owner is fenced from now on. A repeated kill changes nothing.
    """
    if row.status == "completed":
        return row if row.result_json == _KILLED_JSON else None
    return _ended(replace(row, owner=None, updated_ms=now_ms), _KILLED_JSON, now_ms)


def refuse(row: Invocation, result: Rejection, *, now_ms: int) -> Invocation:
    """A new invocation that fails before it has begun."""
    return _ended(row, encode_outcome(result), now_ms)


def _ended(row: Invocation, result: bytes, now_ms: int) -> Invocation:
    return replace(row, status="completed", due_ms=None, result_json=result, ended_ms=now_ms, pausing_ms=None)


def _parked(row: Invocation, failure: Failure, now_ms: int) -> Invocation:
    return replace(
        row,
        status="paused",
        owner=None,
        due_ms=None,
        failure_json=_encode_failure(failure),
        updated_ms=now_ms,
        pausing_ms=None,
    )
