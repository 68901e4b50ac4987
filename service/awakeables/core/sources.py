"""Where a completion came from, as text; only the first completion from a source counts.

A source is `<kind>:<identity>`, of the kind `kafka`, `http`, `handler`, `effect`, `worker` or `testing`. A
Kafka record's is `kafka:<topic>:<partition>:<offset>@<timestamp>`: a topic that is deleted and created
again reuses its offsets, and only the timestamp distinguishes the records. Rows of earlier releases have no
timestamp.
"""

from __future__ import annotations

_KAFKA = "kafka:"


def partition_source(topic: str, partition: int) -> str:
    """What the sources of a partition's records begin with; each goes on with `<offset>@<timestamp>`."""
    return f"{_KAFKA}{topic}:{partition}:"


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
