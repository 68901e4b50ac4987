"""What a store can be told to do: the members of a group commit; `core/replies.py` has the answers.

`Store.commit` takes a list of them and applies it in order in ONE transaction. Each member is
all or nothing by itself: one whose fence fails answers so and changes nothing, the others are
applied (hard case 2). Every member can be sent again after a lost acknowledgement: the second
time it changes nothing and answers as the first time, or that it was fenced.
"""

from __future__ import annotations

from typing import TypeAlias

from awakeables.core.awakeables import Codec, Completion
from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.effects import Effect
from awakeables.core.invocations import Next
from awakeables.core.records import Record


class Idempotency(Record):
    """The caller's key, and the fingerprint of the request that it stands for."""

    scope: str
    key: str
    fingerprint: str


class NewAwakeable(Record):
    """A pending row; the store computes the deadline from its clock."""

    id: str
    codec: Codec = "json"
    type_name: str | None = None
    schema_hash: str | None = None
    timeout_ms: int | None = None


class FirstStep(Record):
    """What a new invocation's owner has decided before the commit that creates the invocation.

    Its journal entries stand in `Begin.chunk`, after the input.

    Attributes:
        number: Of this commit, as in `Advance`.
    """

    number: int
    next: Next
    awakeables: tuple[NewAwakeable, ...] = ()
    schemas: tuple[tuple[str, bytes], ...] = ()
    effects: tuple[Effect, ...] = ()


class Begin(Record):
    """Create an invocation; with an owner it is running at once, else it waits to be claimed.

    Attributes:
        chunk: The beginning of the journal.
        origin: The instance whose caller waits for the result.
        first: The owner's first step, written with the row.
    """

    id: str
    service: str
    handler: str
    chunk: bytes
    key: str | None = None
    owner: str | None = None
    delay_ms: int = 0
    idempotency: Idempotency | None = None
    build: str | None = None
    by: str | None = None
    origin: str | None = None
    first: FirstStep | None = None


class Claim(Record):
    """Take up to `limit` runnable invocations, the longest due first; park crashers.

    Of the suspects (`invocations.is_suspect`) at most one is taken, and only with `suspect`.
    """

    owner: str
    limit: int
    suspect: bool = False


class Advance(Record):
    """An owner's commit: journal, awakeables, effects and what comes next, or nothing of it.

    Attributes:
        number: Counts the owner's commits under this epoch; one that is sent again keeps its number.
        cancels: Awakeables to cancel if they are pending, because the invocation is cancelled.
    """

    invocation_id: str
    owner: str
    epoch: int
    version: int
    number: int
    build: str
    next: Next
    chunk: bytes | None = None
    awakeables: tuple[NewAwakeable, ...] = ()
    schemas: tuple[tuple[str, bytes], ...] = ()
    effects: tuple[Effect, ...] = ()
    cancels: tuple[str, ...] = ()


class PartitionFence(Record):
    """A batch's place in its partition: offsets `first` up to `next` (exclusive).

    It is `owner`'s, who has taken the partition under `epoch`: after a failover that lost commits an epoch
    can be given out twice.
    """

    topic: str
    partition: int
    epoch: int
    first: int
    next: int
    owner: str


class Settle(Record):
    """Apply completions in order, with the offsets that they come from (K1).

    Attributes:
        held_back_to_ms: The horizon for deadlines when the completions topic is read late; None:
            the store's clock (hard case 5).
        offsets: With a fence, the offset of each completion.
        dead_letters: Records that could not be read at all.
        dead_tasks: For a completion that reports a dead task, by its place in `completions`, the
            dead letter to file if the awakeable waits. It is not relayed: the worker has made the copy.
        originals: For a completion that may turn out unknown or invalid, or reports a dead task, by
            its place in `completions`, the record to keep or fold then.
        relay_to: The dead-letter topic; the effects that relay dead letters to it have the
            dead letter's ID as stream and as event ID.
        folding: How many dead letters are kept, and verdicts told; None: all.
        verdicts_to: The verdicts topic; empty: verdicts are not published.
        verdict_ids: With `verdicts_to`, an event ID for the verdict of each completion.
    """

    completions: tuple[Completion, ...]
    fence: PartitionFence | None = None
    offsets: tuple[int, ...] = ()
    held_back_to_ms: int | None = None
    originals: dict[int, DeadLetter] = {}
    dead_letters: tuple[DeadLetter, ...] = ()
    dead_tasks: dict[int, DeadLetter] = {}
    relay_to: str = ""
    folding: Folding | None = None
    verdicts_to: str = ""
    verdict_ids: tuple[str, ...] = ()


class Expire(Record):
    """Time out up to `limit` pending awakeables whose deadline has come."""

    limit: int
    held_back_to_ms: int | None = None


class Release(Record):
    """Make running invocations runnable again: these, or all that are not `owner`'s."""

    owner: str
    ids: tuple[str, ...] | None = None


class ReplayDry(Record):
    """A process begins, or has ended, running an invocation's handler without owning the invocation.

    While it runs one more start is counted, as with a claim: a handler that kills its process is found.
    """

    invocation_id: str
    ends: bool


class Resume(Record):
    """Let a paused invocation run again."""

    invocation_id: str
    by: str | None = None


class Cancel(Record):
    """Mark an invocation as cancelled; its owner calls its awakeables off (hard case 12)."""

    invocation_id: str
    by: str | None = None


class Kill(Record):
    """End an invocation as it stands, and call its pending awakeables off (hard case 4)."""

    invocation_id: str
    by: str | None = None


class Ended(Record):
    """An invocation to be purged, and the awakeables that its journal tells of."""

    id: str
    awakeables: tuple[str, ...] = ()


class Purge(Record):
    """Forget these if they ended at or before `before_ms`: row, journal, awakeables, keys."""

    ended: tuple[Ended, ...]
    before_ms: int


class PurgeDeadLetters(Record):
    """Delete up to `limit` dead letters, of a code or all, made before `before_ms`.

    And as many refused effects, unless it is about dead letters only.
    """

    before_ms: int
    limit: int
    code: str | None = None
    dead_letters_only: bool = False


class Resend(Record):
    """Send a dead letter to the topic that it came from again, under this event ID."""

    dead_letter_id: str
    event_id: str
    by: str | None = None


class Republish(Record):
    """Send a record that Kafka has refused again.

    It had a place in its stream; later ones have passed it by now, so it comes after them.
    """

    event_id: str
    by: str | None = None


class Skip(Record):
    """Read a partition on from `next` rather than `before`; its reader is fenced.

    Attributes:
        before: Where it is to be read on now; if that is no longer so, nothing is done.
        dead_letter: What is kept of it: where it was, and that an operator has skipped it.
        recreated: The topic was deleted and created again: none of it has been read before.
    """

    topic: str
    partition: int
    before: int
    next: int
    dead_letter: DeadLetter
    relay_to: str
    recreated: bool = False


class TakePartitions(Record):
    """Become the one reader of partitions: count their epochs up."""

    owner: str
    topic: str
    partitions: tuple[int, ...]


class ClaimEffects(Record):
    """Take the unsent effects that are not this owner's, oldest first, whole streams."""

    owner: str
    limit: int


class MarkPublished(Record):
    """These effects are acknowledged by Kafka."""

    event_ids: tuple[str, ...]


class MarkRefused(Record):
    """Kafka will never take this effect: keep it, failed, and reject its awakeable; drop a verdict."""

    event_id: str
    reason: str


class Probe(Record):
    """Write to the disk and change no row: once it is done, the store is known to work."""


Operating: TypeAlias = Resume | Cancel | Kill | Purge | PurgeDeadLetters | Resend | Republish | Skip | Probe
"""What people ask for, the passing of time or an outage, rather than the work itself."""

Command: TypeAlias = (
    Begin
    | Claim
    | Advance
    | Settle
    | Expire
    | Release
    | ReplayDry
    | Operating
    | TakePartitions
    | ClaimEffects
    | MarkPublished
    | MarkRefused
)  # fmt: skip
