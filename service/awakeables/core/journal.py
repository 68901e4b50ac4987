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

from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record


class Input(Record, tag_field="k", tag="input"):
    """Entry 0: the handler and its input, if any. `seed` feeds `ctx.random()` and `ctx.uuid()`."""

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
        """Whether the handler was called without an input."""
        return self.value is UNSET and self.value_base64 is UNSET


class AwakeableCreated(Record, tag_field="k", tag="awakeable"):
    """An awakeable was created."""

    id: str
    timeout_ms: int | None = None


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


class ClockRead(Record, tag_field="k", tag="now"):
    """The handler read the clock."""

    at_ms: int


class RunAttemptFailed(Record, tag_field="k", tag="tried"):
    """A run with a retry policy failed and will be retried; `began_ms` is when its first attempt began."""

    of: int
    attempt: int
    began_ms: int
    error: str
    retry_at_ms: int


class OutcomeDelivered(Record, tag_field="k", tag="outcome"):
    """The outcome of an operation, at the point where the handler received it."""

    of: int
    outcome: Outcome


class CancellationRaised(Record, tag_field="k", tag="cancel"):
    """The invocation's cancellation was raised in the handler at this point; at most once in a journal."""

    reason: str


Operation: TypeAlias = (
    AwakeableCreated | PublishRequested | RunRequested | SleepRequested | SettleRequested | ClockRead
)
Entry: TypeAlias = Input | Operation | RunAttemptFailed | OutcomeDelivered | CancellationRaised

_decoder: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[Entry])

encode_chunk: Callable[[Sequence[Entry]], bytes] = msgspec.json.Encoder().encode
"""Encode the entries of one commit as one JSON array."""


def decode_chunks(chunks: Iterable[bytes]) -> list[Entry]:
    """Decode a whole journal from its chunks, in order.

    Raises:
        msgspec.ValidationError: A kind of entry that this release does not know.
    """
    return [entry for chunk in chunks for entry in _decoder.decode(chunk)]


class _Heading(Record):
    """The fields that identify an awakeable, in an entry of any kind, known to this release or not."""

    k: str
    id: Any = None


_headings: msgspec.json.Decoder[list[_Heading]] = msgspec.json.Decoder(list[_Heading])


def awakeables_created(chunks: Iterable[bytes]) -> list[str]:
    """The awakeables created in a journal, whichever release wrote it."""
    return [head.id for chunk in chunks for head in _headings.decode(chunk) if head.k == "awakeable"]
