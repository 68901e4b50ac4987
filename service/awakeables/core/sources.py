"""Where a completion came from; only the first completion from a source counts.

A row keeps the source as text, `<kind>:<identity>`. A Kafka record's source is
`kafka:<topic>:<partition>:<offset>@<timestamp>`: a topic that is deleted and created again reuses its
offsets, and only the timestamp tells the records apart. Rows of earlier releases have no timestamp.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

from awakeables.core.records import Record

SourceKind: TypeAlias = Literal["kafka", "http", "handler", "effect", "worker", "testing"]

_KAFKA = "kafka:"


class Source(Record):
    """Where a completion came from.

    Attributes:
        id: Distinguishes it from others of its kind; None for a Kafka record, whose position does.
        timestamp_ms: The record's timestamp; None in rows of earlier releases.
    """

    kind: SourceKind
    id: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None

    @classmethod
    def kafka(cls, topic: str, partition: int, offset: int, timestamp_ms: int | None) -> Source:
        """The source of a completion that is a Kafka record."""
        return cls(kind="kafka", topic=topic, partition=partition, offset=offset, timestamp_ms=timestamp_ms)

    @property
    def text(self) -> str:
        """The text that rows keep; `parse_source` reads it."""
        if self.kind == "kafka":
            place = f"{_KAFKA}{self.topic}:{self.partition}:{self.offset}"
            return place if self.timestamp_ms is None else f"{place}@{self.timestamp_ms}"
        return self.kind if self.id is None else f"{self.kind}:{self.id}"


def parse_source(text: str) -> Source:
    """Parse the text of a source, as written by this or an earlier release."""
    if not text.startswith(_KAFKA):
        kind, colon, identity = text.partition(":")
        return Source(kind=cast("SourceKind", kind), id=identity if colon else None)
    topic, partition, place = text.removeprefix(_KAFKA).rsplit(":", 2)
    offset, _, timestamp_ms = place.partition("@")
    return Source.kafka(topic, int(partition), int(offset), int(timestamp_ms) if timestamp_ms else None)


def same_source(kept: str, given: str) -> bool:
    """Is `given` the source `kept` in a row, written by this or an earlier release?"""
    return given == kept or (
        given.startswith(_KAFKA) and "@" not in kept and given.rpartition("@")[0] == kept
    )
