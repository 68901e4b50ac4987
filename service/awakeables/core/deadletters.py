"""Dead letters: the rows of records that could not be used, and their copies for the dead-letter topic."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from awakeables.core.acts import Acts
from awakeables.core.awakeables import AwakeableRow, DeadTask
from awakeables.core.effects import Effect, Header
from awakeables.core.records import Record
from awakeables.core.sealed import Unopened

ERROR_PREFIX = "__connect.errors."
CODE_HEADER = "awakeable-error-code"
OMITTED_HEADER = "awakeable-value-omitted"

UNREADABLE = "unreadable"
UNSTORABLE = "unstorable"
SKIPPED = "skipped"
FOLDED = "folded"
WITHOUT_BYTES = (UNSTORABLE, SKIPPED)
"""Codes of dead letters that may lack the record's bytes."""

UNUSABLE_TASK = "unusable-task"
INVALID = "invalid"
FAILED = "failed"
LATE = "late"


class DeadLetter(Record):
    """A record that could not be used, byte for byte, and why.

    Attributes:
        source: topic:partition:offset@timestamp, unique: a record becomes a dead letter once. A task's
            has its awakeable's ID in front: a forged report can't take the place of a genuine one.
        code: `unreadable`: it names no awakeable; `unknown` or `invalid`, as the verdict; of a record that
            a subscription has read, `invalid`: it does not fit the handler, or `failed`: its invocation has;
            `late`: a late answer to an awakeable that keeps them (`on_late="dead-letter"`);
            `unstorable`: the store refuses the record, or it is too large;
            `folded`: it counts records that were not kept one by one;
            `skipped`: an operator moved the partition past records that can't be read;
            `unusable-task`: not a completion but a task that a worker could not use.
        resent: How often it was sent again.
        last_offset: The last offset, if it represents several records; their bytes are not kept.
        count: How many records it represents.
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
    """Limits on what a batch may add to the store; further dead letters are only counted, in one row.

    Attributes:
        into: The ID of that row; it is inserted, or its count is increased.
        keep: How many dead letters are kept one by one.
        keep_bytes: How many bytes these may have together.
        reason: The reason that the row gives.
        max_verdicts: How many verdicts other than `accepted` are published.
    """

    into: str
    keep: int
    keep_bytes: int
    reason: str
    max_verdicts: int


def error_headers(*, topic: str, partition: int, offset: int, code: str, reason: str) -> tuple[Header, ...]:
    """Headers of a dead letter's copy: where the record came from and what was wrong with it."""
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
    """The copy of a dead letter: key, value and headers byte for byte, then headers about the error.

    These have the names that Kafka Connect uses, so tools for its dead letters understand them.
    """
    why = error_headers(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        code=letter.code,
        reason=letter.reason,
    )
    omitted = ((OMITTED_HEADER, b"not kept"),) if _value_was_dropped(letter) else ()
    return Effect(
        event_id=letter.id,
        stream=letter.id,
        topic=to,
        key=letter.key,
        value=letter.value,
        headers=(*letter.headers, *why, *omitted),
        created_ms=now_ms,
        kind="dead-letter",
    )


def without_value(effect: Effect, reason: str) -> Effect | None:
    """The copy without its value, for a topic that refuses it as too large; a header says so.

    None if there is no value to leave out, or the effect does not copy a dead letter.
    """
    if effect.value is None or effect.kind != "dead-letter":
        return None
    return replace(effect, value=None, headers=(*effect.headers, (OMITTED_HEADER, reason.encode())))


def split(letters: Sequence[DeadLetter], folding: Folding) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Split dead letters into the first ones, as many as fit, and the rest."""
    room = folding.keep_bytes
    for place, letter in enumerate(letters):
        room -= letter.size
        if place >= folding.keep or room < 0:
            return list(letters[:place]), list(letters[place:])
    return list(letters), []


def remaining(folding: Folding, kept: Sequence[DeadLetter], *, used_up: bool) -> Folding:
    """The limits that remain after these are kept; `used_up`: nothing remains."""
    keep = 0 if used_up else folding.keep - len(kept)
    return replace(folding, keep=keep, keep_bytes=folding.keep_bytes - sum(letter.size for letter in kept))


def fold(letters: Sequence[DeadLetter], folding: Folding, *, now_ms: int) -> DeadLetter:
    """A row that counts dead letters of one partition that are not kept one by one."""
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
    """The row with these added to its count."""
    last = max(letter.last_offset or letter.offset for letter in letters)
    return replace(
        row,
        last_offset=max(row.last_offset or 0, last),
        count=row.count + sum(letter.count for letter in letters),
    )


def dead_letter_of_task(
    task: DeadTask, *, letter_id: str, awakeable_id: str, worker: str, now_ms: int
) -> DeadLetter:
    """The row of a task that a worker reported as a dead letter."""
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
    """Why a dead letter must not be sent back to its topic; None: it may be.

    A task's topic is named by a record on the completions topic, which may be forged. So the task is
    sent only if the awakeable's own task was published there.
    """
    if isinstance(letter.value, Unopened):
        return f"the bytes of dead letter {letter.id} can't be read: {letter.value.error}"
    if letter.value is None and _bytes_were_dropped(letter):
        return (
            f"the bytes of dead letter {letter.id} were not kept; until the topic deletes them they are at "
            f"offset {letter.offset} of partition {letter.partition} of {letter.topic}"
        )
    if letter.code != UNUSABLE_TASK:
        return None
    if awakeable is None or awakeable.state != "pending":
        state = "gone" if awakeable is None else awakeable.state
        return f"awakeable {letter.awakeable_id} is {state}: nothing waits for an answer to its task any more"
    if awakeable.topic != letter.topic:
        went = "is not known" if awakeable.topic is None else f"was topic {awakeable.topic!r}"
        return (
            f"dead letter {letter.id} is not sent to topic {letter.topic!r}: where the task of awakeable "
            f"{awakeable.id} went {went}; if you trust it, publish the copy on {letter.topic}.dlq yourself"
        )
    return None


def _value_was_dropped(letter: DeadLetter) -> bool:
    return letter.code == UNSTORABLE and letter.value is None


def _bytes_were_dropped(letter: DeadLetter) -> bool:
    """Were its bytes left out? A task without a value still has headers, which name its awakeable."""
    if letter.last_offset is not None:
        return True
    return letter.code in WITHOUT_BYTES or (letter.code == UNUSABLE_TASK and not letter.headers)


def resend_effect(letter: DeadLetter, *, event_id: str, now_ms: int) -> Effect:
    """The original record for the topic that it came from, without the headers about the error."""
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
