"""Where a completion came from: of one source only the first completion counts.

A row keeps it as text, `<kind>:<its identity>`. That of a Kafka record is
`kafka:<topic>:<partition>:<offset>@<timestamp>`: a topic that was deleted and created again gives
the same offsets to other records, which only the timestamp distinguishes. Rows of earlier releases have
the text without it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

from awakeables.core.records import Record

SourceKind: TypeAlias = Literal["kafka", "http", "handler", "effect", "worker", "testing"]

_KAFKA = "kafka:"


class Source(Record):
    """Where a completion came from.

    Attributes:
        id: What distinguishes it from others of its kind; of a Kafka record its place does.
        timestamp_ms: The record's; None if it is from a row of an earlier release.
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
        """As rows keep it; `parse_source` reads it."""
        if self.kind == "kafka":
            place = f"{_KAFKA}{self.topic}:{self.partition}:{self.offset}"
            return place if self.timestamp_ms is None else f"{place}@{self.timestamp_ms}"
        return self.kind if self.id is None else f"{self.kind}:{self.id}"


def parse_source(text: str) -> Source:
    """Read the text of a source, also one of an earlier release."""
    if not text.startswith(_KAFKA):
        kind, colon, identity = text.partition(":")
        return Source(kind=cast("SourceKind", kind), id=identity if colon else None)
    topic, partition, place = text.removeprefix(_KAFKA).rsplit(":", 2)
    offset, _, timestamp_ms = place.partition("@")
    return Source.kafka(topic, int(partition), int(offset), int(timestamp_ms) if timestamp_ms else None)


def same_source(kept: str, given: str) -> bool:
    """Is it the source that is kept in a row, by this or by an earlier release?"""
    return given == kept or (
        given.startswith(_KAFKA) and "@" not in kept and given.rpartition("@")[0] == kept
    )
