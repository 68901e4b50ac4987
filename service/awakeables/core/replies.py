"""A store's replies, one kind per command, or `Fenced` for a command that came too late."""

from __future__ import annotations

from typing import TypeAlias

from awakeables.core.awakeables import Verdict
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, QueuedEffect
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record


class Begun(Record):
    """The invocation exists; `created` is False if the idempotency key identifies an older one.

    `effects` are the unsent ones of its first step, with their deadlines.
    """

    id: str
    created: bool
    effects: tuple[Effect, ...] = ()


class KeyConflict(Record):
    """The idempotency key was used for a different request: nothing was created."""

    id: str


class Claimed(Record):
    """The rows after the claim: running under the owner, or just paused; and their effects, now its own."""

    invocations: tuple[Invocation, ...]
    effect_ids: tuple[str, ...] = ()


class Advanced(Record):
    """The row after the commit, the queued effects with their deadlines, and the awakeables it cancelled.

    For a commit that was applied before, `effects` are those that are still unsent.
    """

    invocation: Invocation
    effects: tuple[Effect, ...] = ()
    cancelled_ids: tuple[str, ...] = ()


class Fenced(Record):
    """The fence failed: another owner has the invocation or partition. Nothing was changed."""


class Wake(Record):
    """An invocation was woken by an outcome; `wake` counts its wake-ups, `owner` runs it (None: nobody)."""

    invocation_id: str
    wake: int
    awakeable_id: str
    outcome: Outcome
    owner: str | None = None


class SettledAll(Record):
    """A verdict per completion (None: a recorded heartbeat or dead task), and the wake-ups.

    Attributes:
        dead_letters: Those that were added, the row that counts others included. Copies of all but
            dead tasks are in the outbox, unclaimed.
        folded: How many dead letters were counted instead of kept, by code.
        unpublished: How many verdicts are not published.
        again: Indices of completions that had their verdict before; they are not counted again.
    """

    verdicts: tuple[Verdict | None, ...]
    wakes: tuple[Wake, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    folded: dict[str, int] = {}
    unpublished: int = 0
    again: frozenset[int] = frozenset()


class Unchecked(Record):
    """Nothing was done: values must be checked against the schema of their row first; then send again."""

    awakeable_ids: tuple[str, ...]


class Expired(Record):
    """The invocations whose awakeables were timed out."""

    wakes: tuple[Wake, ...]


class Released(Record):
    """How many invocations were released."""

    count: int


class DryReplayed(Record):
    """The invocation; None: it must not be replayed, has ended, or does not exist."""

    invocation: Invocation | None


class Resumed(Record):
    """The row after the command, None if there is none; `accepted`: it is due now."""

    invocation: Invocation | None
    accepted: bool


class CancelMarked(Record):
    """The row after the command, None if there is none; `accepted`: it had not ended before."""

    invocation: Invocation | None
    accepted: bool


class Killed(Record):
    """The row after the command, None if there is none; `done`: it had not ended in another way."""

    invocation: Invocation | None
    done: bool


class Purged(Record):
    """How many invocations, or dead letters and refused effects, were deleted."""

    count: int


class Resent(Record):
    """The dead letter, None if there is none; the effect, None if it is not sent (`refusal` says why)."""

    dead_letter: DeadLetter | None
    effect: Effect | None
    refusal: str | None = None


class Republished(Record):
    """The effect after the command, None if there is none; `accepted`: it is queued (again).

    `accepted` is False for a failed task: its awakeable was rejected when the publish failed.
    """

    queued: QueuedEffect | None
    accepted: bool


class Skipped(Record):
    """Whether the position was moved; False if it had changed meanwhile."""

    done: bool


class Position(Record):
    """The next offset to read, and the epoch to read under; `next` is 0 for a partition never read.

    Offsets below `again_before` were read once already, before an operator moved the position back.
    `topic_id` is the broker's ID of the topic that was read; None if it is not known. `owner` is the
    instance that reads it.
    """

    partition: int
    next: int
    epoch: int
    again_before: int = 0
    topic_id: str | None = None
    owner: str | None = None


class PartitionsTaken(Record):
    """Where to read each partition from."""

    positions: tuple[Position, ...]


class ClaimedEffects(Record):
    """The effects that are this owner's now."""

    effect_ids: tuple[str, ...]


class Acknowledged(Record):
    """The command was applied, now or before."""

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
