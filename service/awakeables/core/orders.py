"""What a store can be told to do: the members of a group commit, and what each answers.

`Store.commit` takes a list of them and applies it in order in ONE transaction. Each member is
all or nothing by itself: one whose fence fails answers so and changes nothing, the others are
applied (hard case 2). Every member can be sent again after a lost acknowledgement: the second
time it changes nothing and answers as the first time, or that it was fenced.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Codec, Completion, Verdict
from awakeables.core.invocations import Invocation, Next
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record

Header: TypeAlias = tuple[str, bytes | None]
CloudEventMode: TypeAlias = Literal["structured", "binary"]
EffectState: TypeAlias = Literal["unsent", "failed"]
EffectKind: TypeAlias = Literal["task", "event", "dead-letter", "verdict", "resend"]
"""What an effect is: a task of an awakeable, another record of a handler, the copy of a dead letter, a
verdict, or a dead letter that goes to the topic that it came from once more."""

EFFECT_STATES: tuple[EffectState, ...] = ("unsent", "failed")


class TaskFacts(Record):
    """What a task tells its worker beside the payload.

    Attributes:
        enveloped: True: in an envelope of our own; False: the bare payload; else a CloudEvent.
        deadline_ms: Filled in by the store, whose clock decides it, when it inserts the row.
        source: Of a CloudEvent: who publishes it.
    """

    awakeable_id: str
    reply_to: str
    task: str | None = None
    enveloped: bool | CloudEventMode = True
    deadline_ms: int | None = None
    source: str | None = None


class Effect(Record):
    """A record to be published once its commit is done (K3).

    Attributes:
        event_id: Stable over resends.
        stream: Effects of one stream are published in order: an invocation's ID, the ID of a
            dead letter, or, for verdicts, of an awakeable.
        value: The payload; the envelope of a task is put around it when it is published.
        task: Of a task. Its awakeable is rejected with `publish-failed` if Kafka refuses the record.
        verdict: Of a verdict, which is encoded when it is published; None in rows of older releases,
            whose value it is.
    """

    event_id: str
    stream: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    task: TaskFacts | None = None
    created_ms: int = 0
    kind: EffectKind = "event"
    verdict: Verdict | None = None


class QueuedEffect(Record):
    """An effect as it stands in the outbox: unsent, or failed with the reason of Kafka's refusal."""

    effect: Effect
    state: EffectState
    reason: str | None = None
    acts: Acts = ()

    @property
    def id(self) -> str:
        return self.effect.event_id


class DeadLetter(Record):
    """A record that could not be used, byte for byte, and why.

    Attributes:
        source: topic:partition:offset@timestamp, unique: a record becomes a dead letter once. Of a
            task with its awakeable's ID before it: what a report says can keep out no other's.
        code: `unreadable`: it says of no awakeable that it is about it; `unknown` or `invalid`, as the
            verdict; `unstorable`: the store refuses the record;
            `folded`: it counts many that were not kept one by one;
            `skipped`: an operator has moved the partition past records that can't be read;
            `unusable-task`: not a completion but a task that a worker could not use.
        resent: How often it was sent again.
        last_offset: Where it stands for several records, whose bytes are not kept: the last of them.
        count: How many records it stands for.
    """

    id: str
    source: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    code: str
    reason: str
    at_ms: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()
    awakeable_id: str | None = None
    resent: int = 0
    last_offset: int | None = None
    count: int = 1
    acts: Acts = ()

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


# ── members ─────────────────────────────────────────────────────────────────────────────────


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


class Claim(Record):
    """Take up to `limit` runnable invocations, the longest due first; park crashers.

    Of the suspects (`invocations.is_suspect`) at most one is taken, and only with `suspect`.
    """

    owner: str
    limit: int
    suspect: bool = False


class Claimed(Record):
    """The rows as they are now: running under the owner, or just parked."""

    invocations: tuple[Invocation, ...]


class Advance(Record):
    """An owner's commit: journal, awakeables, effects and what comes next, or nothing of it.

    Attributes:
        number: Counts the owner's commits under this epoch; one that is sent again keeps its number.
        calls_off: Awakeables to cancel if they are pending, because the invocation is cancelled.
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
    calls_off: tuple[str, ...] = ()


class Advanced(Record):
    """The row as it is now, the effects as they were queued, with their deadlines, and who was called off.

    Of a commit that was applied before: the effects that are not sent yet.
    """

    invocation: Invocation
    effects: tuple[Effect, ...] = ()
    called_off: tuple[str, ...] = ()


class Fenced(Record):
    """The fence failed: somebody else owns what the member was about. Nothing was changed."""


class PartitionFence(Record):
    """A batch's place in its partition: offsets `first` up to `next` (exclusive).

    `owner` has taken the partition; None: an older caller, which the epoch alone is held against.
    """

    topic: str
    partition: int
    epoch: int
    first: int
    next: int
    owner: str | None = None


class Folding(Record):
    """How much of a batch that settles nothing is kept; other dead letters are folded into one row.

    Attributes:
        into: The ID of that row: it is added, or counted up if it is there.
        keep: How many are kept.
        keep_bytes: How many bytes these may have together.
        reason: What that row says of itself.
        tell: So many verdicts other than `accepted` are published.
    """

    into: str
    keep: int
    keep_bytes: int
    reason: str
    tell: int


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
    `untold` the verdicts that are not published.
    `again` are the places of completions that had their verdict before: they are counted nowhere.
    """

    verdicts: tuple[Verdict | None, ...]
    wakes: tuple[Wake, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    folded: dict[str, int] = {}
    untold: int = 0
    again: frozenset[int] = frozenset()


class Unchecked(Record):
    """Some values were not checked against the schema of their row: check, and send again."""

    awakeable_ids: tuple[str, ...]


class Expire(Record):
    """Time out up to `limit` pending awakeables whose deadline has come."""

    limit: int
    held_back_to_ms: int | None = None


class Expired(Record):
    wakes: tuple[Wake, ...]


class Release(Record):
    """Make running invocations runnable again: these, or all that are not `owner`'s."""

    owner: str
    ids: tuple[str, ...] | None = None


class Released(Record):
    count: int


class ReplayDry(Record):
    """A process begins, or has ended, running an invocation's handler without owning the invocation.

    While it runs one more start is counted, as with a claim: a handler that kills its process is found.
    """

    invocation_id: str
    ends: bool


class DryReplayed(Record):
    """The invocation; None: it is not to be replayed, has ended, or is gone."""

    invocation: Invocation | None


class Resume(Record):
    """Let a paused invocation run again."""

    invocation_id: str
    by: str | None = None


class Resumed(Record):
    """`invocation` as it is now, None if there is none; `accepted`: it is to run now."""

    invocation: Invocation | None
    accepted: bool


class Cancel(Record):
    """Mark an invocation as cancelled; its owner calls its awakeables off (hard case 12)."""

    invocation_id: str
    by: str | None = None


class CancelAsked(Record):
    """`invocation` as it is now, None if there is none; `accepted`: it had not ended before."""

    invocation: Invocation | None
    accepted: bool


class Kill(Record):
    """End an invocation as it stands, and call its pending awakeables off (hard case 4)."""

    invocation_id: str
    by: str | None = None


class Killed(Record):
    """`invocation` as it is now, None if there is none; `done`: it had not ended otherwise."""

    invocation: Invocation | None
    done: bool


class Ended(Record):
    """An invocation to be purged, and the awakeables that its journal tells of."""

    id: str
    awakeables: tuple[str, ...] = ()


class Purge(Record):
    """Forget these if they ended at or before `before_ms`: row, journal, awakeables, keys."""

    ended: tuple[Ended, ...]
    before_ms: int


class PurgeLetters(Record):
    """Delete up to `limit` dead letters, of a code or all, made before `before_ms`.

    And as many refused effects, unless it is about dead letters only.
    """

    before_ms: int
    limit: int
    code: str | None = None
    letters_only: bool = False


class Purged(Record):
    """How many invocations, or dead letters and refused effects, are gone."""

    count: int


class Resend(Record):
    """Send a dead letter to the topic that it came from again, under this event ID."""

    dead_letter_id: str
    event_id: str
    by: str | None = None


class Resent(Record):
    """The dead letter, None if there is none; and the effect, None if it is not sent: see `refusal`."""

    dead_letter: DeadLetter | None
    effect: Effect | None
    refusal: str | None = None


class Republish(Record):
    """Send a record that Kafka has refused again.

    It had a place in its stream; later ones have passed it by now, so it comes after them.
    """

    event_id: str
    by: str | None = None


class Republished(Record):
    """The effect as it is now, None if there is none; `accepted`: it is unsent (again).

    Not accepted is a failed one that carries an awakeable: that was rejected when it failed.
    """

    queued: QueuedEffect | None
    accepted: bool


class Skip(Record):
    """Read a partition on from `next` rather than `before`; its reader is fenced.

    Attributes:
        before: Where it is to be read on now; if that is no longer so, nothing is done.
        dead_letter: What is kept of it: where it was, and that an operator has skipped it.
        anew: The topic was made anew: nothing of it has been read before.
    """

    topic: str
    partition: int
    before: int
    next: int
    dead_letter: DeadLetter
    relay_to: str
    anew: bool = False


class Skipped(Record):
    """Was it done? Not if the partition was read on, or moved, meanwhile."""

    done: bool


class TakePartitions(Record):
    """Become the one reader of partitions: count their epochs up."""

    owner: str
    topic: str
    partitions: tuple[int, ...]


class Position(Record):
    """Where to read on, and under which epoch. `next` is 0 for a partition never read.

    What is before `again_before` was read once already, before an operator has moved the partition.
    """

    partition: int
    next: int
    epoch: int
    again_before: int = 0


class Taken(Record):
    positions: tuple[Position, ...]


class ClaimEffects(Record):
    """Take the unsent effects that are not this owner's, oldest first, whole streams."""

    owner: str
    limit: int


class ClaimedEffects(Record):
    effects: tuple[Effect, ...]


class Sent(Record):
    """These effects are acknowledged by Kafka."""

    event_ids: tuple[str, ...]


class Refused(Record):
    """Kafka will never take this effect: keep it, failed, and reject its awakeable; drop a verdict."""

    event_id: str
    reason: str


class Probe(Record):
    """Write to the disk and change no row: once it is done, the store is known to work."""


class Noted(Record):
    wakes: tuple[Wake, ...] = ()


Operating: TypeAlias = Resume | Cancel | Kill | Purge | PurgeLetters | Resend | Republish | Skip | Probe
"""What people ask for, the passing of time or an outage, rather than the work itself."""

Member: TypeAlias = (
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
    | Sent
    | Refused
)  # fmt: skip
Answer: TypeAlias = (
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
    | CancelAsked
    | Killed
    | Purged
    | Resent
    | Republished
    | Skipped
    | Taken
    | ClaimedEffects
    | Noted
)  # fmt: skip
