"""Where a completion came from: of one source only the first completion counts.

A source is kept as text, `<kind>:<its identity>`. That of a Kafka record is
`kafka:<topic>:<partition>:<offset>@<timestamp>`: a topic that was deleted and created again gives
the same offsets to other records, which only the timestamp distinguishes. Rows of earlier releases have
the text without it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

from awakeables.core.records import Record

SourceKind: TypeAlias = Literal["kafka", "http", "handler", "effect", "worker"]

_KAFKA = "kafka:"


class Source(Record):
    """A source taken apart; all but the kind only of a Kafka record.

    Attributes:
        timestamp_ms: The record's; None in a text of an earlier release.
    """

    kind: SourceKind
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None


def kafka_source(topic: str, partition: int, offset: int, timestamp_ms: int) -> str:
    """The source of a completion that is a Kafka record."""
    return f"{_KAFKA}{topic}:{partition}:{offset}@{timestamp_ms}"


def parse_source(text: str) -> Source:
    """Take the text of a source apart."""
    if not text.startswith(_KAFKA):
        return Source(kind=cast("SourceKind", text.partition(":")[0]))
    topic, partition, place = text.removeprefix(_KAFKA).rsplit(":", 2)
    offset, _, timestamp_ms = place.partition("@")
    return Source(
        kind="kafka",
        topic=topic,
        partition=int(partition),
        offset=int(offset),
        timestamp_ms=int(timestamp_ms) if timestamp_ms else None,
    )


def same_source(kept: str, given: str) -> bool:
    """Is it the source that is kept in a row, by this or by an earlier release?"""
    return given == kept or (
        given.startswith(_KAFKA) and "@" not in kept and given.rpartition("@")[0] == kept
    )
