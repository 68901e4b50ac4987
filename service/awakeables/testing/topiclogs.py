"""The topics of a test, each with one partition."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from awakeables.core.effects import Header
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.ports import Clock, Where


class TopicLogs:
    """The records of each topic, in order; also the `ports.TopicOffsets` of these topics."""

    def __init__(self, clock: Clock) -> None:
        """Begin without records; their time is that of the clock."""
        self._clock = clock
        self._logs: dict[str, list[ConsumedRecord]] = {}

    def __bool__(self) -> bool:
        """Whether there are any records."""
        return bool(self._logs)

    def of(self, topic: str) -> Sequence[ConsumedRecord]:
        """The records of a topic."""
        return self._logs.get(topic, ())

    def write(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> None:
        """Add a record to a topic."""
        log = self._logs.setdefault(topic, [])
        record = ConsumedRecord(
            offset=len(log),
            timestamp_ms=self._clock.now_ms(),
            key=key,
            value=value,
            headers=tuple(headers),
        )
        log.append(record)

    async def offsets_at(self, topic: str, partitions: Collection[int], where: Where) -> dict[int, int]:
        """As the port says."""
        log = self.of(topic)
        offset = 0 if where == "earliest" else len(log)
        if isinstance(where, int):
            offset = next((each.offset for each in log if each.timestamp_ms >= where), offset)
        return dict.fromkeys(partitions, offset)
