"""Outcomes of an awaited operation: resolved, rejected, timed out, cancelled.

The same four are used in the journal, in an awakeable's row and as an invocation's result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.records import Record
from awakeables.core.texts import shortened, writable

NULL = b"null"
NO_REASON = "rejected without a reason"
PUBLISH_FAILED = "publish-failed"


class Resolution(Record, tag_field="status", tag="resolved"):
    """It succeeded with a value: JSON text exactly as it was written, or raw bytes."""

    value: Raw | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET

    @classmethod
    def of_json(cls, text: bytes) -> Resolution:
        return cls(value=Raw(text))

    @classmethod
    def of_bytes(cls, content: bytes) -> Resolution:
        return cls(value_base64=content)

    @property
    def is_json(self) -> bool:
        return self.value is not UNSET

    @property
    def content(self) -> bytes:
        """The JSON text or the raw bytes."""
        if isinstance(self.value, Raw):
            return bytes(self.value)
        return self.value_base64 if isinstance(self.value_base64, bytes) else NULL

    @property
    def is_absent(self) -> bool:
        """Whether it has no value: a name in the state of an object that stands for nothing."""
        return self.value is UNSET and self.value_base64 is UNSET


class Rejection(Record, tag_field="status", tag="rejected"):
    """It failed permanently. `details` is JSON text exactly as it was written."""

    reason: str
    code: int = 500
    details: Raw | UnsetType = UNSET


ExpiryKind: TypeAlias = Literal["deadline", "heartbeat"]


class Expiry(Record, tag_field="status", tag="timed-out"):
    """Its deadline passed first.

    Attributes:
        kind: `heartbeat`: there was no heartbeat for too long.
        progress: JSON text: that of the last heartbeat, as it was written.
    """

    deadline_ms: int
    kind: ExpiryKind = "deadline"
    progress: Raw | UnsetType = UNSET


class Cancellation(Record, tag_field="status", tag="cancelled"):
    """It was cancelled."""

    reason: str


ABSENT = Resolution()
"""The value of a name in the state of an object that has none."""


def publish_failed(topic: str, reason: str) -> Rejection:
    """The rejection of an awakeable whose task Kafka permanently refused."""
    shown = shortened(writable(reason))
    if repr(topic) not in shown:
        shown = f"topic {topic!r}: {shown}"
    return Rejection(reason=f"{PUBLISH_FAILED}: {shown}", code=502)


Outcome: TypeAlias = Resolution | Rejection | Expiry | Cancellation

_decoder: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)

encode_outcome: Callable[[Outcome], bytes] = msgspec.json.Encoder().encode
"""Encode an outcome as JSON; `decode_outcome` gives it back with every value exactly as written."""


def as_resolution(content: bytes) -> Resolution:
    """Decode a `Resolution` that `encode_outcome` wrote.

    Raises:
        TypeError: It is another outcome.
    """
    outcome = decode_outcome(content)
    if not isinstance(outcome, Resolution):
        raise TypeError(f"{type(outcome).__name__} is not a Resolution")
    return outcome


decode_outcome: Callable[[bytes], Outcome] = _decoder.decode
"""Decode what `encode_outcome` wrote."""
