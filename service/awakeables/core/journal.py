"""The journal, format 1: what an invocation did and learned, in order.

A journal is a sequence of entries, written in chunks (one per commit), each chunk a JSON array.
An entry's `index` is its place in the whole sequence, counted from 0; entry 0 is the input.
*Operations* are what the handler asked for; *reports* tell what became of one (`of` is the
operation's index). New kinds may be added; what is written here never changes its meaning
(tests/golden/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record


class Input(Record, tag_field="k", tag="input"):
    """Entry 0: who was called, with what, if anything. `seed` feeds `ctx.random()` and `ctx.uuid()`."""

    service: str
    handler: str
    seed: str
    at_ms: int
    key: str | None = None
    value: Raw | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: dict[str, str] = {}

    @property
    def is_absent(self) -> bool:
        """Was the handler called without an input?"""
        return self.value is UNSET and self.value_base64 is UNSET


class AwakeableCreated(Record, tag_field="k", tag="awakeable"):
    """An awakeable was created."""

    id: str
    timeout_ms: int | None = None


class PublishRequested(Record, tag_field="k", tag="publish"):
    """A record was handed to the outbox; `of` is the index of the awakeable that it carries."""

    topic: str
    of: int | None = None
    task: str | None = None


class RunRequested(Record, tag_field="k", tag="run"):
    """A side effect was asked for."""

    name: str


class SleepRequested(Record, tag_field="k", tag="sleep"):
    """A durable sleep was asked for."""

    until_ms: int


class SettleRequested(Record, tag_field="k", tag="settle"):
    """The handler completes an awakeable, its own or another's."""

    id: str
    status: str


class ClockRead(Record, tag_field="k", tag="now"):
    """The handler read the clock."""

    at_ms: int


class RunAttemptFailed(Record, tag_field="k", tag="tried"):
    """A run with a retry policy failed and is to be tried again; `began_ms`: its first try."""

    of: int
    attempt: int
    began_ms: int
    error: str
    retry_at_ms: int


class OutcomeDelivered(Record, tag_field="k", tag="outcome"):
    """The outcome of an operation, at the place where the handler was given it."""

    of: int
    outcome: Outcome


class CancellationRaised(Record, tag_field="k", tag="cancel"):
    """The invocation's cancellation was raised in the handler, here; at most once in a journal."""

    reason: str


Operation: TypeAlias = (
    AwakeableCreated | PublishRequested | RunRequested | SleepRequested | SettleRequested | ClockRead
)
Entry: TypeAlias = Input | Operation | RunAttemptFailed | OutcomeDelivered | CancellationRaised

_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[Entry])


def encode_chunk(entries: Sequence[Entry]) -> bytes:
    """Write the entries of one commit as one JSON array."""
    return _encode(entries)


def decode_chunks(chunks: Iterable[bytes]) -> list[Entry]:
    """Read a whole journal from its chunks, in order.

    Raises:
        msgspec.ValidationError: A kind of entry that this release does not know.
    """
    return [entry for chunk in chunks for entry in _decoder.decode(chunk)]


class _Heading(Record):
    """Of an entry of any kind, also of one that this release does not know, what tells an awakeable."""

    k: str
    id: Any = None


_headings: msgspec.json.Decoder[list[_Heading]] = msgspec.json.Decoder(list[_Heading])


def awakeables_created(chunks: Iterable[bytes]) -> list[str]:
    """The awakeables that a journal tells of, whichever release has written it."""
    return [head.id for chunk in chunks for head in _headings.decode(chunk) if head.k == "awakeable"]
