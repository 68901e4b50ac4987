"""Commands to a store, the members of a group commit; `core/replies.py` has the replies.

`Store.commit` applies a list of them in order. Each command is atomic by itself:
one whose fence fails replies `Fenced` and changes nothing, while the others are applied (hard case 2).
Every command can be sent again after a lost acknowledgement: the second time it changes nothing, and
the reply is the first one's, or `Fenced`.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from awakeables.core.awakeables import CodecKind, Completion
from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.effects import Effect
from awakeables.core.invocations import Next
from awakeables.core.objects import StateWrite
from awakeables.core.records import Record
from awakeables.core.schedules import Declaration, Overlap
from awakeables.core.versions import Versions

UNREAD: Final = ""
"""A fingerprint that can't be opened."""


class Idempotency(Record):
    """The caller's key, and the fingerprint of its request."""

    scope: str
    key: str
    fingerprint: str

    def is_of(self, stored: str) -> bool:
        """Whether a stored fingerprint is of the same request: as far as it can be read, and so compared."""
        return stored in (self.fingerprint, UNREAD)


class NewAwakeable(Record):
    """An awakeable to insert; the store computes the deadline from its clock.

    Attributes:
        source: The invocation whose end settles it: it is a wait for a call; or the promise whose outcome
            does. None: completions do.
        owned: That invocation is cancelled with the one that waits.
        title: What people know it by: the name of a promise.
        heartbeat_ms: After the first heartbeat, the longest time to the next one; None: any.
        on_late: As of `Watch`.
        revoke_to: As of `Watch`.
    """

    id: str
    codec: CodecKind = "json"
    title: str | None = None
    type_name: str | None = None
    schema_hash: str | None = None
    timeout_ms: int | None = None
    source: str | None = None
    owned: bool = False
    heartbeat_ms: int | None = None
    on_late: str | None = None
    revoke_to: str | None = None


class Queue(Record):
    """How an exclusive invocation takes its place among those of its key.

    Attributes:
        most: How many may be open before it; with more it is refused. None: it is always taken.
        callers: Exclusive invocations that wait for it. It is refused if it would wait for one of these,
            or for its own caller.
    """

    most: int | None = None
    callers: tuple[str, ...] = ()


class OfWorkflow(Record):
    """What makes an invocation one of a workflow's key.

    Attributes:
        is_run: It is the run; otherwise the key must have one, or it is refused.
        scope: With the key, the idempotency key of the run.
        promises: The promises that the run is begun with, which are in its journal.
    """

    is_run: bool
    scope: str
    promises: tuple[NewAwakeable, ...] = ()


class NewCall(Record):
    """An invocation that a handler calls or sends: created pending or queued, for any instance to claim.

    Attributes:
        chunk: The beginning of the journal.
        idempotency: A key that stands for an older invocation gives that one instead.
        key: The object's key.
        queue: Its handler is exclusive.
        workflow: Its handler is one of a workflow.
        versions: As in `Begin`.
    """

    id: str
    service: str
    handler: str
    chunk: bytes
    delay_ms: int = 0
    idempotency: Idempotency | None = None
    key: str | None = None
    queue: Queue | None = None
    workflow: OfWorkflow | None = None
    versions: Versions | None = None


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
    calls: tuple[NewCall, ...] = ()
    called_off: tuple[str, ...] = ()


class Begin(Record):
    """Create an invocation: running if it has an owner, otherwise pending until it is claimed.

    Attributes:
        chunk: The beginning of the journal.
        key: The object's key.
        queue: Its handler is exclusive; it has no owner then.
        origin: The instance whose caller waits for the result.
        first: The owner's first step, written with the row.
        subscription: The name of the subscription whose record it is for.
        workflow: Its handler is one of a workflow.
        versions: The versions of the code that its journal records; None: version 1 of its handler.
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
    queue: Queue | None = None
    subscription: str | None = None
    workflow: OfWorkflow | None = None
    versions: Versions | None = None


class Claim(Record):
    """Take up to `limit` runnable invocations, the longest due first; pause those that crash their owners.

    At most one suspect (`invocations.is_suspect`) is taken, and only if `suspect` is set. The unsent effects
    of what is taken become the owner's, too, so that one relay publishes a stream in order.

    Attributes:
        not_builds: What one of these builds wrote last is left alone (hard case 13).
        not_handlers: Handlers, as `versions.target` names them, whose invocations are left alone.
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
        cancels: Awakeables to cancel if they are pending, because the invocation was cancelled; a wait for
            a call stays pending, and the call is cancelled.
        calls: Invocations that the handler calls or sends.
        called_off: Awakeables to cancel if they are pending, and invocations to cancel, because the handler
            says so.
        writes: Changes to the state of its key, in order.
        dead_letter: The record that the invocation was begun for, which its end makes a dead letter.
        relay_to: With a dead letter, the dead-letter topic.
        markers: The versions of parts of the code that the chunk records, by name.
        attempts: With a chunk, how many failed attempts still count: what it has went on beside actions that
            have failed, and are still to be executed.
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
    calls: tuple[NewCall, ...] = ()
    called_off: tuple[str, ...] = ()
    writes: tuple[StateWrite, ...] = ()
    dead_letter: DeadLetter | None = None
    relay_to: str = ""
    markers: dict[str, int] = {}
    attempts: int = 0


class PartitionFence(Record):
    """The position of a batch in its partition: offsets from `first` up to `next` (exclusive).

    `owner` took the partition under `epoch`. Both are compared, since a failover that lost commits can
    issue an epoch twice.

    Attributes:
        subscription: The subscription that reads it; empty: it is of the completions topic.
    """

    topic: str
    partition: int
    epoch: int
    first: int
    next: int
    owner: str
    subscription: str = ""


class BeginBatch(Record):
    """Create the invocations for records of a subscription, with the offset that they come from (K1).

    The queue of an object's key may be full. Then the records before that one are used, and the position
    moves to it.

    Attributes:
        begins: In the order of the records.
        offsets: The offset of each of these.
        dead_letters: Records that no invocation can be created for.
        relay_to: The dead-letter topic.
        folding: How many dead letters are kept.
    """

    fence: PartitionFence
    begins: tuple[Begin, ...] = ()
    offsets: tuple[int, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    relay_to: str = ""
    folding: Folding | None = None


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


class TakeTickets(Record):
    """Let delayed exclusive invocations whose time has come take their places."""

    ids: tuple[str, ...]


class PauseKey(Record):
    """Let no further invocation of a key of an object begin; the one that holds it goes on."""

    service: str
    key: str
    by: str | None = None


class ResumeKey(Record):
    """Take back a pause."""

    service: str
    key: str
    by: str | None = None


class EditState(Record):
    """Change the state of a key that is paused, while no invocation that has begun holds it."""

    service: str
    key: str
    writes: tuple[StateWrite, ...]
    by: str | None = None


class ExpireState(Record):
    """Look at the next `limit` keys of an object that have state, and delete the state of some.

    Of those to which nothing was written since `before_ms` and which have no queue.

    Attributes:
        after: The last key that was looked at.
    """

    service: str
    before_ms: int
    limit: int
    after: bytes = b""


class Resume(Record):
    """Let a paused invocation run again."""

    invocation_id: str
    by: str | None = None


class PauseInvocation(Record):
    """Pause an invocation until it is resumed; one that runs is paused at its next wait."""

    invocation_id: str
    by: str | None = None


class Restart(Record):
    """Begin an invocation again under another ID, once it has ended; a paused one is killed.

    Attributes:
        chunk: The beginning of its journal: the input, and what is to be kept of the older one's.
        version: The older one's, which the chunk was made from.
        build: The code that restarts it.
        versions: As in `Begin`.
    """

    invocation_id: str
    id: str
    chunk: bytes
    version: int
    build: str
    by: str | None = None
    versions: Versions | None = None


class Cancel(Record):
    """Mark an invocation as cancelled; its owner cancels its awakeables (hard case 12)."""

    invocation_id: str
    by: str | None = None


class Kill(Record):
    """End an invocation without running its handler, cancel its pending awakeables, and kill its calls.

    Hard case 4.
    """

    invocation_id: str
    by: str | None = None


class Ended(Record):
    """An invocation to purge, and the awakeables and waits for calls in its journal."""

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
    subscription: str = ""


class TakePartitions(Record):
    """Become the only reader of partitions: increment their epochs.

    Attributes:
        topic_id: The ID of the topic in the broker. A partition that was read under another one keeps its
            own, and the reply has it: the topic was deleted and created again. None: the broker has no IDs.
        subscription: The subscription that reads them; empty: they are of the completions topic.
    """

    owner: str
    topic: str
    partitions: tuple[int, ...]
    topic_id: str | None = None
    subscription: str = ""


class PlacePartitions(Record):
    """Set where a subscription begins to read partitions; those that have a position keep it.

    Attributes:
        offsets: By partition.
        topic_id: The ID of the topic in the broker.
    """

    subscription: str
    topic: str
    offsets: tuple[tuple[int, int], ...]
    topic_id: str | None = None


class PausePartitions(Record):
    """Pause or resume a subscription: these are its partitions. A pause fences their readers.

    Attributes:
        paused: False: they are read again.
    """

    subscription: str
    topic: str
    partitions: tuple[int, ...]
    paused: bool


class PauseHandlers(Record):
    """Claim nothing of a handler or a service until it is resumed; or resume it.

    Attributes:
        target: As `PauseRow.target`.
    """

    target: str
    paused: bool
    by: str | None = None


class NewSchedule(Record):
    """A schedule that the code declares.

    Attributes:
        next_ms: Its first tick from now on.
        read_ms: The next tick of the row that was read before; None: there was no row. If the row has moved
            since, that tick may have begun, so the row is left alone.
    """

    name: str
    declared: Declaration
    next_ms: int
    read_ms: int | None


class PlaceSchedules(Record):
    """Write what the code declares, and delete what it does not declare any more.

    A schedule that is there as it is declared keeps its next tick.

    Attributes:
        removed: The names of schedules that are not declared any more.
        since_ms: Since when this build has been there: what a newer one wrote is left alone.
        newest: No instance of a newer build lives, so what one wrote is replaced, too.
    """

    schedules: tuple[NewSchedule, ...]
    removed: tuple[str, ...]
    since_ms: int
    newest: bool = False


class Tick(Record):
    """A time of a schedule, and what to begin for it."""

    at_ms: int
    begin: Begin


class Fire(Record):
    """Evaluate a schedule: move it to the tick that follows, and begin what is due by its overlap.

    Attributes:
        declared: The schedule that the ticks are of; if the row has another one, nothing is done.
        next_ms: The tick that was expected; if the row has another one, nothing is done.
        following_ms: The tick that follows all of these.
        ticks: What is to be begun, the oldest first.
    """

    schedule: str
    declared: Declaration
    overlap: Overlap
    next_ms: int
    following_ms: int
    ticks: tuple[Tick, ...]


class BeginQueued(Record):
    """Begin the tick that waits for the end of a schedule's last invocation, once that has ended."""

    schedule: str
    declared: Declaration
    tick: Tick


class Trigger(Record):
    """Begin a schedule's handler now, as for a tick; its next tick stays as it is."""

    schedule: str
    declared: Declaration
    overlap: Overlap
    tick: Tick


class PauseSchedule(Record):
    """Pause or resume a schedule.

    Attributes:
        next_ms: With a resumption: its first tick from now on; those before it are skipped.
    """

    schedule: str
    paused: bool
    next_ms: int = 0


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


Operating: TypeAlias = (
    Resume
    | PauseInvocation
    | Restart
    | Cancel
    | Kill
    | PauseKey
    | PauseHandlers
    | ResumeKey
    | EditState
    | ExpireState
    | Purge
    | PurgeDeadLetters
    | Resend
    | Republish
    | Skip
    | PausePartitions
    | PauseSchedule
    | Trigger
    | Probe
)  # fmt: skip
"""Commands of operators, retention and recovery, rather than of the work itself."""

Command: TypeAlias = (
    Begin
    | Claim
    | Advance
    | Settle
    | BeginBatch
    | Expire
    | Release
    | TakeOver
    | ReplayDry
    | TakeTickets
    | Operating
    | TakePartitions
    | PlacePartitions
    | PlaceSchedules
    | Fire
    | BeginQueued
    | ClaimEffects
    | MarkPublished
    | MarkRefused
)  # fmt: skip
