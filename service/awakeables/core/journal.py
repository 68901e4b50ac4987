"""The journal, format 1: what an invocation did and learned, in order.

A journal is a sequence of entries, written in chunks (one per commit), each chunk a JSON array.
An entry's index is its position in the whole sequence; entry 0 is the input. *Operations* are what the
handler asked for; *reports* say what became of one (`of` is the operation's index). Kinds may be added;
the tag and meaning of an existing kind never change (tests/golden/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.effects import Header
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record


class SourceRecord(Record):
    """The record of a topic that an invocation was begun for; its value is the input.

    Attributes:
        subscription: The name of the subscription that read it.
        tombstone: It had no value.
        written: Its value, if the input is not it byte for byte: the space around JSON is left out there.
    """

    subscription: str
    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    tombstone: bool = False
    written: bytes | None = None


class Input(Record, tag_field="k", tag="input"):
    """Entry 0: the handler and its input, if any. `seed` feeds `ctx.random()` and `ctx.uuid()`.

    Attributes:
        caller: The invocation whose handler called this one; None: it was begun from outside.
        depth: How many callers wait for it, one above the other.
        callers: Those of these callers that are exclusive, the outermost first.
        restart_of: The invocation that was begun again by this one.
        kept: How many of that one's entries follow this one; their rows and records are that one's.
        record: The record that it was begun for, if it was begun by a subscription.
        scheduled_ms: The tick that it was begun for, if it was begun by a schedule.
        version: Which of the functions of its name the handler is: the highest when it began.
    """

    service: str
    handler: str
    seed: str
    at_ms: int
    key: str | None = None
    value: Raw | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: dict[str, str] = {}
    caller: str | None = None
    depth: int = 0
    callers: tuple[str, ...] = ()
    restart_of: str | None = None
    kept: int = 0
    record: SourceRecord | None = None
    scheduled_ms: int | None = None
    version: int = 1

    @property
    def is_absent(self) -> bool:
        """Whether the handler was called without an input."""
        return self.value is UNSET and self.value_base64 is UNSET


class AwakeableCreated(Record, tag_field="k", tag="awakeable"):
    """An awakeable was created."""

    id: str
    timeout_ms: int | None = None


class PromiseCreated(Record, tag_field="k", tag="promised"):
    """A promise of a workflow was created with its run; `id` is its row. It stands behind the input."""

    id: str
    name: str


class PublishRequested(Record, tag_field="k", tag="publish"):
    """A record was added to the outbox; `of` is the index of the awakeable that it carries."""

    topic: str
    of: int | None = None
    task: str | None = None


class RunRequested(Record, tag_field="k", tag="run"):
    """The handler called `ctx.run`."""

    name: str


class SleepRequested(Record, tag_field="k", tag="sleep"):
    """The handler called `ctx.sleep`."""

    until_ms: int


class SettleRequested(Record, tag_field="k", tag="settle"):
    """The handler completes an awakeable, of its own or another invocation."""

    id: str
    status: str


class CallRequested(Record, tag_field="k", tag="call"):
    """The handler called another handler; `wait` is the row that the end of the callee, `id`, settles."""

    id: str
    wait: str
    service: str
    handler: str
    idempotency_key: str | None = None
    key: str | None = None


class SendRequested(Record, tag_field="k", tag="send"):
    """The handler began another invocation, without waiting for it."""

    id: str
    service: str
    handler: str
    idempotency_key: str | None = None
    delay_ms: int | None = None
    key: str | None = None


class CallRefused(Record, tag_field="k", tag="refused"):
    """The handler tried to call or send, and what was wrong was raised at once: nothing was begun."""

    service: str
    handler: str
    reason: str
    code: int


class AttachRequested(Record, tag_field="k", tag="attach"):
    """The handler waits for the end of an invocation that it did not call."""

    id: str
    wait: str


class TimeoutRequested(Record, tag_field="k", tag="timeout"):
    """The handler entered a block with a time limit; its outcome is that the time is up."""

    until_ms: int


class CallOffRequested(Record, tag_field="k", tag="call-off"):
    """The handler cancelled what it may wait for: an operation, or an invocation that it attached to.

    Attributes:
        dropped: The operation was a sleep, or a run that had not begun: awaiting it raises `Cancelled`.
    """

    of: int | None = None
    id: str | None = None
    dropped: bool = False


class PromisePeeked(Record, tag_field="k", tag="peek"):
    """The handler looked at a promise; its outcome is the promise's, or absent."""

    name: str


class ProgressRead(Record, tag_field="k", tag="progress"):
    """The handler looked at the last heartbeat of an awakeable; its outcome is the progress, or absent."""

    of: int


class StateRead(Record, tag_field="k", tag="read"):
    """The handler read a name of its key's state; its outcome is the value, without one if there was none."""

    name: str


class StateNamesRead(Record, tag_field="k", tag="keys"):
    """The handler read the names of its key's state; its outcome is a list of those that were stored."""


class StateSet(Record, tag_field="k", tag="set"):
    """The handler set a name of its key's state; in replay it is this value, whatever the code sets then."""

    name: str
    value: Raw | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET


class StateCleared(Record, tag_field="k", tag="unset"):
    """The handler cleared a name of its key's state; None: all of it."""

    name: str | None = None


class ClockRead(Record, tag_field="k", tag="now"):
    """The handler read the clock."""

    at_ms: int


class VersionChosen(Record, tag_field="k", tag="version"):
    """The handler asked for the version of a part of its code, and the invocation has this one.

    It holds for the whole journal, wherever it stands in it. Code that does not ask passes over it.
    """

    name: str
    version: int


class RunAttemptFailed(Record, tag_field="k", tag="tried"):
    """A run with a retry policy failed and will be retried; `began_ms` is when its first attempt began."""

    of: int
    attempt: int
    began_ms: int
    error: str
    retry_at_ms: int


class RunEnded(Record, tag_field="k", tag="ran"):
    """A run ended while the handler did not wait for it; it gets the outcome when it does."""

    of: int
    outcome: Outcome


class OutcomeDelivered(Record, tag_field="k", tag="outcome"):
    """The outcome of an operation, at the point where the handler received it."""

    of: int
    outcome: Outcome


class CancellationRaised(Record, tag_field="k", tag="cancel"):
    """The invocation's cancellation was raised in the handler at this point; at most once in a journal."""

    reason: str


class BranchInterrupted(Record, tag_field="k", tag="interrupted"):
    """At this point a cancelled branch was interrupted, although it awaited an action without an outcome.

    It had been cancelled before, and was not interrupted while the action was being executed, which only the
    attempt knows that executes it.

    Attributes:
        branch: Its number; None: the handler itself.
    """

    branch: int | None = None


Operation: TypeAlias = (
    AwakeableCreated
    | PromisePeeked
    | ProgressRead
    | PublishRequested
    | RunRequested
    | SleepRequested
    | SettleRequested
    | CallRequested
    | SendRequested
    | CallRefused
    | AttachRequested
    | TimeoutRequested
    | CallOffRequested
    | StateRead
    | StateNamesRead
    | StateSet
    | StateCleared
    | ClockRead
)  # fmt: skip
Entry: TypeAlias = (
    Input
    | PromiseCreated
    | Operation
    | VersionChosen
    | RunAttemptFailed
    | RunEnded
    | OutcomeDelivered
    | CancellationRaised
    | BranchInterrupted
)

_decoder: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[Entry])

encode_chunk: Callable[[Sequence[Entry]], bytes] = msgspec.json.Encoder().encode
"""Encode the entries of one commit as one JSON array."""


def decode_chunks(chunks: Iterable[bytes]) -> list[Entry]:
    """Decode a whole journal from its chunks, in order.

    Raises:
        msgspec.ValidationError: A kind of entry that this release does not know.
    """
    return [entry for chunk in chunks for entry in _decoder.decode(chunk)]


WAITS = frozenset({AwakeableCreated, CallRequested, AttachRequested})
"""Operations that have a row, which the handler waits for if it awaits them."""


def wait_of(entry: Entry) -> str | None:
    """The row that the handler waits for if it awaits this operation; None: it is no awakeable or call."""
    if isinstance(entry, AwakeableCreated):
        return entry.id
    return entry.wait if isinstance(entry, CallRequested | AttachRequested) else None


class _Heading(Record):
    """The fields that identify a wait's row, in an entry of any kind, known to this release or not."""

    k: str
    id: Any = None
    wait: Any = None


_headings: msgspec.json.Decoder[list[_Heading]] = msgspec.json.Decoder(list[_Heading])


def waits_created(chunks: Iterable[bytes]) -> list[str]:
    """The rows of the awakeables, and of the waits for calls, of a journal, whichever release wrote it."""
    heads = [head for chunk in chunks for head in _headings.decode(chunk)]
    return [
        head.id if head.k in ("awakeable", "promised") else head.wait
        for head in heads
        if head.k in ("awakeable", "promised") or head.wait
    ]
