"""A store's replies, one kind per command, or `Fenced` for a command that came too late."""

from __future__ import annotations

from typing import TypeAlias

from awakeables.core.awakeables import Verdict
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, QueuedEffect
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectRow
from awakeables.core.outcomes import Outcome
from awakeables.core.pauses import PauseRow
from awakeables.core.records import Record
from awakeables.core.schedules import ScheduleRow


class Begun(Record):
    """The invocation exists; `created` is False if the idempotency key identifies an older one.

    Attributes:
        effects: The unsent ones of its first step, with their deadlines.
        settled: As in `Advanced`; so are `wakes`, `stopped` and `conflicts`.
    """

    id: str
    created: bool
    effects: tuple[Effect, ...] = ()
    settled: tuple[tuple[str, Outcome], ...] = ()
    wakes: tuple[Wake, ...] = ()
    stopped: tuple[Invocation, ...] = ()
    conflicts: tuple[str, ...] = ()


class KeyConflict(Record):
    """The idempotency key was used for a different request: nothing was created."""

    id: str


class NotBegun(Record):
    """The workflow has no run of this key, which its other handlers are for."""


class QueueFull(Record):
    """The key has too many exclusive invocations already: nothing was created."""

    length: int


class Claimed(Record):
    """The rows after the claim: running under the owner, or just paused; and their effects, now its own.

    Attributes:
        arrived: Exclusive invocations whose time has come, and which have no places in their queues yet.
    """

    invocations: tuple[Invocation, ...]
    effect_ids: tuple[str, ...] = ()
    arrived: tuple[str, ...] = ()


class Advanced(Record):
    """The row after the commit, and what else it has changed.

    Attributes:
        effects: The queued effects with their deadlines; for a commit that was applied before, those that
            are still unsent.
        settled: The awakeables of this invocation that the commit has settled, with their outcomes: those
            that it cancelled, and waits for calls that had ended already or can't be made.
        wakes: The invocations that waited for the end of this one, or of one that was cancelled with it.
        stopped: The invocations that were cancelled with this one.
        filed: Whether the record that it was begun for has become a dead letter.
        conflicts: The IDs of those of its calls and sends that were not created, because their idempotency
            keys had been used with other inputs.
    """

    invocation: Invocation
    effects: tuple[Effect, ...] = ()
    settled: tuple[tuple[str, Outcome], ...] = ()
    wakes: tuple[Wake, ...] = ()
    stopped: tuple[Invocation, ...] = ()
    filed: bool = False
    conflicts: tuple[str, ...] = ()


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
        begun: The invocations that late answers have begun.
    """

    verdicts: tuple[Verdict | None, ...]
    wakes: tuple[Wake, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    folded: dict[str, int] = {}
    unpublished: int = 0
    again: frozenset[int] = frozenset()
    begun: tuple[str, ...] = ()


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


class PauseMarked(Record):
    """The row after the command, None if there is none; `accepted`: it had not ended before."""

    invocation: Invocation | None
    accepted: bool


class Restarted(Record):
    """The older row after the command, None if there is none.

    Attributes:
        done: It was begun again; otherwise it is still open, or has changed since it was read.
        stopped: The invocations that were killed with it.
        wakes: As in `Killed`.
    """

    invocation: Invocation | None
    done: bool
    stopped: tuple[Invocation, ...] = ()
    wakes: tuple[Wake, ...] = ()


class CancelMarked(Record):
    """The row after the command, None if there is none; `accepted`: it had not ended before.

    `wakes` are the invocations that waited for its end, if it has ended by this.
    """

    invocation: Invocation | None
    accepted: bool
    wakes: tuple[Wake, ...] = ()


class Killed(Record):
    """The row after the command, None if there is none; `done`: it had not ended in another way.

    Attributes:
        stopped: The invocations that were killed with it: those that it had called, and so on.
        wakes: The other invocations that waited for the end of one of them.
    """

    invocation: Invocation | None
    done: bool
    stopped: tuple[Invocation, ...] = ()
    wakes: tuple[Wake, ...] = ()


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
    instance that reads it. `paused_ms` is when an operator paused the subscription that it belongs to.
    """

    partition: int
    next: int
    epoch: int
    again_before: int = 0
    topic_id: str | None = None
    owner: str | None = None
    paused_ms: int | None = None


class PartitionsTaken(Record):
    """Where to read each partition from."""

    positions: tuple[Position, ...]


class BatchBegun(Record):
    """The invocations for a batch of records exist.

    Attributes:
        ids: Their IDs.
        next: The position of the partition: what comes from there on was not used, because a queue is full.
        full: The key, and the length of its queue; None: everything was used.
        joined: How many records were for workflows whose key has a run already.
        dead_letters: The records that became dead letters, one by one.
        folded: How many more were only counted, by code.
    """

    ids: tuple[str, ...]
    next: int
    full: tuple[str, int] | None = None
    joined: int = 0
    dead_letters: tuple[DeadLetter, ...] = ()
    folded: dict[str, int] = {}


class Fired(Record):
    """What became of a schedule's ticks.

    Attributes:
        begun: The invocations that exist now, or did before.
        skipped: How many ticks were skipped because the last invocation is open.
        queued: Whether one waits for its end.
        skipped_queue: How many were skipped because one waits already.
    """

    begun: tuple[str, ...] = ()
    skipped: int = 0
    queued: bool = False
    skipped_queue: int = 0


class PauseChanged(Record):
    """The pause after the command; None: there is none.

    Attributes:
        changed: Whether it was not so before.
    """

    row: PauseRow | None
    changed: bool


class ScheduleChanged(Record):
    """The schedule after the command; None: there is none."""

    row: ScheduleRow | None


class ClaimedEffects(Record):
    """The effects that are this owner's now."""

    effect_ids: tuple[str, ...]


class KeyChanged(Record):
    """The queue of a key after the command; None: it has none.

    Attributes:
        accepted: Whether the command was applied, now or before. Only an edit may be refused.
    """

    queue: ObjectRow | None
    accepted: bool = True


class StateExpired(Record):
    """The state of `count` keys was deleted; `last` is the last one looked at, None if no more follow."""

    count: int
    last: bytes | None


class Acknowledged(Record):
    """The command was applied, now or before."""

    wakes: tuple[Wake, ...] = ()


Reply: TypeAlias = (
    Begun
    | KeyConflict
    | QueueFull
    | NotBegun
    | Claimed
    | Advanced
    | Fenced
    | SettledAll
    | Unchecked
    | Expired
    | Released
    | DryReplayed
    | Resumed
    | PauseMarked
    | Restarted
    | CancelMarked
    | Killed
    | Purged
    | Resent
    | Republished
    | Skipped
    | PartitionsTaken
    | BatchBegun
    | Fired
    | ScheduleChanged
    | PauseChanged
    | ClaimedEffects
    | KeyChanged
    | StateExpired
    | Acknowledged
)  # fmt: skip
