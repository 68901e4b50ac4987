"""Commands to a store, the members of a group commit; `core/replies.py` has the replies.

`Store.commit` applies a list of them in order. Each command is atomic by itself:
one whose fence fails replies `Fenced` and changes nothing, while the others are applied (hard case 2).
Every command can be sent again after a lost acknowledgement: the second time it changes nothing, and
the reply is the first one's, or `Fenced`.
"""

from __future__ import annotations

from typing import TypeAlias

from awakeables.core.awakeables import CodecKind, Completion
from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.effects import Effect
from awakeables.core.invocations import Next
from awakeables.core.records import Record


class Idempotency(Record):
    """The caller's key, and the fingerprint of its request."""

    scope: str
    key: str
    fingerprint: str


class NewAwakeable(Record):
    """An awakeable to insert; the store computes the deadline from its clock."""

    id: str
    codec: CodecKind = "json"
    type_name: str | None = None
    schema_hash: str | None = None
    timeout_ms: int | None = None


class FirstStep(Record):
    """The first step of a new invocation, taken before the commit that creates the invocation.

    Its journal entries are in `Begin.chunk`, after the input.

    Attributes:
        number: The number of this commit, as in `Advance`.
    """

    number: int
    next: Next
    awakeables: tuple[NewAwakeable, ...] = ()
    schemas: tuple[tuple[str, bytes], ...] = ()
    effects: tuple[Effect, ...] = ()


class Begin(Record):
    """Create an invocation: running if it has an owner, otherwise pending until it is claimed.

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
    """Take up to `limit` runnable invocations, the longest due first; pause those that crash their owners.

    At most one suspect (`invocations.is_suspect`) is taken, and only if `suspect` is set. The unsent effects
    of what is taken become the owner's, too, so that one relay publishes a stream in order.

    Attributes:
        not_builds: What one of these builds wrote last is left alone (hard case 13).
        not_handlers: Handlers, as `service/handler`, whose invocations are left alone.
    """

    owner: str
    limit: int
    suspect: bool = False
    not_builds: tuple[str, ...] = ()
    not_handlers: tuple[str, ...] = ()


class Advance(Record):
    """An owner's commit: journal, awakeables, effects and what comes next; all of it or nothing.

    Attributes:
        number: Counts the owner's commits under this epoch; a commit that is sent again keeps its number.
        cancels: Awakeables to cancel if they are pending, because the invocation was cancelled.
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
    """The position of a batch in its partition: offsets from `first` up to `next` (exclusive).

    `owner` took the partition under `epoch`. Both are compared, since a failover that lost commits can
    issue an epoch twice.
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
        held_back_to_ms: The instant that deadlines are compared with while the completions topic is
            read late; None: the store's clock (hard case 5).
        offsets: With a fence, the offset of each completion.
        dead_letters: Records that could not be read at all.
        dead_tasks: For a completion that reports a dead task, by its index in `completions`: the dead
            letter to keep if the awakeable is pending. The worker has already published the copy.
        originals: For a completion that may turn out unknown or invalid, or that reports a dead task,
            by its index in `completions`: the record to keep or count in that case.
        relay_to: The dead-letter topic. The effect that copies a dead letter to it has the dead
            letter's ID as its stream and event ID.
        folding: How many dead letters are kept and verdicts published; None: all.
        verdicts_to: The verdicts topic; empty: verdicts are not published.
        verdict_ids: With `verdicts_to`, the event ID for each completion's verdict.
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
    """Time out up to `limit` pending awakeables whose deadlines have passed."""

    limit: int
    held_back_to_ms: int | None = None


class Release(Record):
    """Make these running invocations pending again, if this owner holds them."""

    owner: str
    ids: tuple[str, ...]


class TakeOver(Record):
    """Make up to `limit` running invocations pending whose owners are not among the living instances.

    Attributes:
        owner: This instance, which counts as living.
    """

    owner: str
    limit: int = 1000


class ReplayDry(Record):
    """Count the start, or take back the count, of a replay that does not own its invocation.

    While it runs it counts as one more start, like a claim, so that a handler that kills its process
    is detected.
    """

    invocation_id: str
    ends: bool


class Resume(Record):
    """Let a paused invocation run again."""

    invocation_id: str
    by: str | None = None


class Cancel(Record):
    """Mark an invocation as cancelled; its owner cancels its awakeables (hard case 12)."""

    invocation_id: str
    by: str | None = None


class Kill(Record):
    """End an invocation without running its handler, and cancel its pending awakeables (hard case 4)."""

    invocation_id: str
    by: str | None = None


class Ended(Record):
    """An invocation to purge, and the awakeables in its journal."""

    id: str
    awakeables: tuple[str, ...] = ()


class Purge(Record):
    """Delete these if they ended at or before `before_ms`: row, journal, awakeables, idempotency keys."""

    ended: tuple[Ended, ...]
    before_ms: int


class PurgeDeadLetters(Record):
    """Delete up to `limit` dead letters, of one code or all, created before `before_ms`.

    Unless `dead_letters_only` is set, as many refused effects are deleted, too.
    """

    before_ms: int
    limit: int
    code: str | None = None
    dead_letters_only: bool = False


class Resend(Record):
    """Send a dead letter back to the topic that it came from, under this event ID."""

    dead_letter_id: str
    event_id: str
    by: str | None = None


class Republish(Record):
    """Send a record again that Kafka refused.

    Later records of its stream have overtaken it, so it is published after them.
    """

    event_id: str
    by: str | None = None


class Skip(Record):
    """Move a partition's position from `before` to `next`, and fence its reader.

    Attributes:
        before: The expected position; if it has changed, nothing is done.
        dead_letter: A record of the skip: which offsets, and that an operator skipped them.
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
    """Become the only reader of partitions: increment their epochs.

    Attributes:
        topic_id: The ID of the topic in the broker. A partition that was read under another one keeps its
            own, and the reply has it: the topic was deleted and created again. None: the broker has no IDs.
    """

    owner: str
    topic: str
    partitions: tuple[int, ...]
    topic_id: str | None = None


class ClaimEffects(Record):
    """Take the unsent effects that no living instance has claimed, the oldest first, in whole streams.

    A stream of which a living instance has claimed an effect is left to that instance.
    """

    owner: str
    limit: int


class MarkPublished(Record):
    """Delete effects that Kafka has acknowledged."""

    event_ids: tuple[str, ...]


class MarkRefused(Record):
    """Mark an effect as failed, because Kafka refuses it permanently, and reject its awakeable.

    A verdict is deleted instead.
    """

    event_id: str
    reason: str


class Probe(Record):
    """Write to the disk without changing a row, to find out whether the store works."""


Operating: TypeAlias = Resume | Cancel | Kill | Purge | PurgeDeadLetters | Resend | Republish | Skip | Probe
"""Commands of operators, retention and recovery, rather than of the work itself."""

Command: TypeAlias = (
    Begin
    | Claim
    | Advance
    | Settle
    | Expire
    | Release
    | TakeOver
    | ReplayDry
    | Operating
    | TakePartitions
    | ClaimEffects
    | MarkPublished
    | MarkRefused
)  # fmt: skip
