"""Where a completion came from, as text; only the first completion from a source counts.

A source is `<kind>:<identity>`; it is written and read here alone. A Kafka record's is
`kafka:<topic>:<partition>:<offset>@<timestamp>`: a topic that is deleted and created again reuses its
offsets, and only the timestamp distinguishes the records. Rows of earlier releases have no timestamp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

SourceKind: TypeAlias = Literal["kafka", "http", "handler", "effect", "worker", "testing"]

_KAFKA = "kafka:"


def source_of(kind: SourceKind, identity: str) -> str:
    """The source with this identity among those of its kind."""
    return f"{kind}:{identity}"


def kind_of(source: str) -> str:
    """The kind of a source: a `SourceKind`, or what another release wrote."""
    return source.partition(":")[0]


def partition_sources(topic: str, partition: int) -> Callable[[int, int], str]:
    """Return the function that makes the source of a partition's record, of its offset and timestamp."""
    # A method of str, because each record needs one. Kafka allows no braces in a topic's name.
    return f"{_KAFKA}{topic}:{partition}:{{}}@{{}}".format


def kafka_position(source: str) -> tuple[str, int, int] | None:
    """Topic, partition and offset of a source, of this or an earlier release; None: it is no Kafka record."""
    if not source.startswith(_KAFKA):
        return None
    topic, partition, place = source.removeprefix(_KAFKA).rsplit(":", 2)
    return topic, int(partition), int(place.partition("@")[0])


def same_source(kept: str, given: str) -> bool:
    """Whether `given` is the source `kept` in a row, which this or an earlier release wrote."""
    return given == kept or (
        given.startswith(_KAFKA) and "@" not in kept and given.rpartition("@")[0] == kept
    )
