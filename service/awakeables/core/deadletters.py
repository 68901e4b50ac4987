"""Dead letters: what is kept of a record that could not be used, and how its copy is made."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from awakeables.core.acts import Acts
from awakeables.core.awakeables import AwakeableRow, DeadTask
from awakeables.core.effects import Effect, Header
from awakeables.core.records import Record

ERROR_PREFIX = "__connect.errors."
CODE_HEADER = "awakeable-error-code"
OMITTED_HEADER = "awakeable-value-omitted"

UNREADABLE = "unreadable"
UNSTORABLE = "unstorable"
SKIPPED = "skipped"
FOLDED = "folded"
WITHOUT_BYTES = (UNSTORABLE, SKIPPED)
"""Codes of dead letters whose bytes may not have been kept."""

UNUSABLE_TASK = "unusable-task"


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
    max_verdicts: int


def error_headers(*, topic: str, partition: int, offset: int, code: str, reason: str) -> tuple[Header, ...]:
    """What a dead letter's copy says of itself: where the record came from, and what was wrong."""
    facts = (
        ("topic", topic),
        ("partition", str(partition)),
        ("offset", str(offset)),
        ("class.name", code),
        ("exception.message", reason),
    )
    return (
        *((ERROR_PREFIX + name, text.encode("utf-8", "replace")) for name, text in facts),
        (CODE_HEADER, code.encode()),
    )


def relay_copy(letter: DeadLetter, *, to: str, now_ms: int) -> Effect:
    """The dead letter's copy: key, value and headers byte for byte, then why and from where.

    The names are Kafka Connect's, so that tools which know its dead letters know these.
    """
    why = error_headers(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        code=letter.code,
        reason=letter.reason,
    )
    return Effect(
        event_id=letter.id,
        stream=letter.id,
        topic=to,
        key=letter.key,
        value=letter.value,
        headers=(*letter.headers, *why),
        created_ms=now_ms,
        kind="dead-letter",
    )


def without_value(effect: Effect, reason: str) -> Effect | None:
    """The same copy for a topic that finds it too large: no value, and a header that says so.

    None when there is no value to leave out, or the effect is no dead letter's copy.
    """
    if effect.value is None or effect.kind != "dead-letter":
        return None
    return replace(effect, value=None, headers=(*effect.headers, (OMITTED_HEADER, reason.encode())))


def split(letters: Sequence[DeadLetter], folding: Folding) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """The first ones, as many as there is room for, and the rest."""
    room = folding.keep_bytes
    for place, letter in enumerate(letters):
        room -= letter.size
        if place >= folding.keep or room < 0:
            return list(letters[:place]), list(letters[place:])
    return list(letters), []


def remaining(folding: Folding, kept: Sequence[DeadLetter], *, used_up: bool) -> Folding:
    """What is left of the room once these are kept; `used_up`: nothing, for there were more."""
    keep = 0 if used_up else folding.keep - len(kept)
    return replace(folding, keep=keep, keep_bytes=folding.keep_bytes - sum(letter.size for letter in kept))


def fold(letters: Sequence[DeadLetter], folding: Folding, *, now_ms: int) -> DeadLetter:
    """The row that counts the dead letters of one partition that are not kept one by one."""
    first = letters[0]
    row = DeadLetter(
        id=folding.into,
        source=f"{FOLDED}:{folding.into}",
        topic=first.topic,
        partition=first.partition,
        offset=first.offset,
        timestamp_ms=first.timestamp_ms,
        code=FOLDED,
        reason=folding.reason,
        at_ms=now_ms,
        count=0,
    )
    return counted_up(row, letters)


def counted_up(row: DeadLetter, letters: Sequence[DeadLetter]) -> DeadLetter:
    """The same row with these counted as well."""
    last = max(letter.last_offset or letter.offset for letter in letters)
    return replace(
        row,
        last_offset=max(row.last_offset or 0, last),
        count=row.count + sum(letter.count for letter in letters),
    )


def dead_letter_of_task(
    task: DeadTask, *, letter_id: str, awakeable_id: str, worker: str, now_ms: int
) -> DeadLetter:
    """The row of a task that a worker has reported to be a dead letter."""
    return DeadLetter(
        id=letter_id,
        source=f"{awakeable_id}:{task.topic}:{task.partition}:{task.offset}@{task.timestamp_ms}",
        topic=task.topic,
        partition=task.partition,
        offset=task.offset,
        timestamp_ms=task.timestamp_ms,
        code=UNUSABLE_TASK,
        reason=f"worker {worker!r}: {task.code}: {task.reason}",
        at_ms=now_ms,
        key=task.key,
        value=task.value,
        headers=task.headers,
        awakeable_id=awakeable_id,
    )


def refusal_to_resend(letter: DeadLetter, awakeable: AwakeableRow | None) -> str | None:
    """Why a dead letter must not be sent to its topic again; None: it may be.

    The topic of a task is what a record on the completions topic says. Only if the awakeable's own
    task went there does an operator publish there by it.
    """
    if letter.value is None and _bytes_were_dropped(letter):
        return (
            f"the bytes of dead letter {letter.id} were not kept; while the topic has them they are at "
            f"offset {letter.offset} of partition {letter.partition} of {letter.topic}"
        )
    if letter.code != UNUSABLE_TASK:
        return None
    if awakeable is None or awakeable.state != "pending":
        state = "gone" if awakeable is None else awakeable.state
        return f"awakeable {letter.awakeable_id} is {state}: nobody waits for an answer to its task any more"
    if awakeable.topic != letter.topic:
        went = "is not known" if awakeable.topic is None else f"was topic {awakeable.topic!r}"
        return (
            f"dead letter {letter.id} is not sent to topic {letter.topic!r}: where the task of awakeable "
            f"{awakeable.id} went {went}; if you trust it, publish the copy on {letter.topic}.dlq yourself"
        )
    return None


def _bytes_were_dropped(letter: DeadLetter) -> bool:
    """Were its bytes left out? A task without a value has headers, which say whose it is."""
    if letter.last_offset is not None:
        return True
    return letter.code in WITHOUT_BYTES or (letter.code == UNUSABLE_TASK and not letter.headers)


def resend_effect(letter: DeadLetter, *, event_id: str, now_ms: int) -> Effect:
    """The record as it was, for the topic that it came from; without what a dead letter adds."""
    return Effect(
        event_id=event_id,
        stream=letter.id,
        topic=letter.topic,
        key=letter.key,
        value=letter.value,
        headers=tuple((name, value) for name, value in letter.headers if not _is_error_header(name)),
        created_ms=now_ms,
        kind="resend",
    )


def _is_error_header(name: str) -> bool:
    return name.startswith(ERROR_PREFIX) or name in (CODE_HEADER, OMITTED_HEADER)
