"""What a store answers to its orders, one kind per order; `Fenced` where the member came too late."""

from __future__ import annotations

from typing import TypeAlias

from awakeables.core.awakeables import Verdict
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, QueuedEffect
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record


class Begun(Record):
    """`created` is False when the idempotency key stands for an older invocation.

    `effects` are those of its first step that are not sent, with their deadlines.
    """

    id: str
    created: bool
    effects: tuple[Effect, ...] = ()


class KeyConflict(Record):
    """The idempotency key stands for another request: nothing was created."""

    id: str


class Claimed(Record):
    """The rows as they are now: running under the owner, or just parked."""

    invocations: tuple[Invocation, ...]


class Advanced(Record):
    """The row as it is now, the effects as they were queued, with their deadlines, and who was called off.

    Of a commit that was applied before: the effects that are not sent yet.
    """

    invocation: Invocation
    effects: tuple[Effect, ...] = ()
    cancelled_ids: tuple[str, ...] = ()


class Fenced(Record):
    """The fence failed: somebody else owns what the member was about. Nothing was changed."""


class Wake(Record):
    """An invocation was told something: how often by now, and what; `owner` runs it, if anybody does."""

    invocation_id: str
    wake: int
    awakeable_id: str
    outcome: Outcome
    owner: str | None = None


class SettledAll(Record):
    """A verdict per completion (None: a heartbeat or a dead task that was noted), and who is to be woken.

    `dead_letters` are those that were added, with the row that stands for others; copies of all but
    dead tasks wait in the outbox, unclaimed. `folded` counts by code those that were not kept one by one,
    `unpublished` the verdicts that are not published.
    `again` are the places of completions that had their verdict before: they are counted nowhere.
    """

    verdicts: tuple[Verdict | None, ...]
    wakes: tuple[Wake, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    folded: dict[str, int] = {}
    unpublished: int = 0
    again: frozenset[int] = frozenset()


class Unchecked(Record):
    """Some values were not checked against the schema of their row: check, and send again."""

    awakeable_ids: tuple[str, ...]


class Expired(Record):
    wakes: tuple[Wake, ...]


class Released(Record):
    count: int


class DryReplayed(Record):
    """The invocation; None: it is not to be replayed, has ended, or is gone."""

    invocation: Invocation | None


class Resumed(Record):
    """`invocation` as it is now, None if there is none; `accepted`: it is to run now."""

    invocation: Invocation | None
    accepted: bool


class CancelMarked(Record):
    """`invocation` as it is now, None if there is none; `accepted`: it had not ended before."""

    invocation: Invocation | None
    accepted: bool


class Killed(Record):
    """`invocation` as it is now, None if there is none; `done`: it had not ended otherwise."""

    invocation: Invocation | None
    done: bool


class Purged(Record):
    """How many invocations, or dead letters and refused effects, are gone."""

    count: int


class Resent(Record):
    """The dead letter, None if there is none; and the effect, None if it is not sent: see `refusal`."""

    dead_letter: DeadLetter | None
    effect: Effect | None
    refusal: str | None = None


class Republished(Record):
    """The effect as it is now, None if there is none; `accepted`: it is unsent (again).

    Not accepted is a failed one that carries an awakeable: that was rejected when it failed.
    """

    queued: QueuedEffect | None
    accepted: bool


class Skipped(Record):
    """Was it done? Not if the partition was read on, or moved, meanwhile."""

    done: bool


class Position(Record):
    """Where to read on, and under which epoch. `next` is 0 for a partition never read.

    What is before `again_before` was read once already, before an operator has moved the partition.
    """

    partition: int
    next: int
    epoch: int
    again_before: int = 0


class PartitionsTaken(Record):
    positions: tuple[Position, ...]


class ClaimedEffects(Record):
    effects: tuple[Effect, ...]


class Acknowledged(Record):
    wakes: tuple[Wake, ...] = ()


Reply: TypeAlias = (
    Begun
    | KeyConflict
    | Claimed
    | Advanced
    | Fenced
    | SettledAll
    | Unchecked
    | Expired
    | Released
    | DryReplayed
    | Resumed
    | CancelMarked
    | Killed
    | Purged
    | Resent
    | Republished
    | Skipped
    | PartitionsTaken
    | ClaimedEffects
    | Acknowledged
)  # fmt: skip
