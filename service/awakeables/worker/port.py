"""The port of a worker to Kafka: receive records, send answers, acknowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from awakeables.core.effects import Header
from awakeables.core.records import Record
from awakeables.worker.heartbeats import OverReason


class Incoming(Record):
    """A record of a task topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()


class Outgoing(Record):
    """A record to be produced: a completion or a dead letter."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class TaskPort(Protocol):
    """Receives tasks and sends answers."""

    async def receive(self, limit: int) -> Sequence[Incoming]:
        """Up to `limit` records; an empty list if none arrived for a moment.

        A record that was not acknowledged may arrive again, after a rebalance or a restart. With a limit
        of 0 nothing is returned, but the group sees that this member is alive: call it every few seconds
        at least.
        """
        ...

    async def send(self, record: Outgoing) -> None:
        """Produce a record; returns when every in-sync replica has it, however long that takes.

        Raises:
            PublishRefused: Kafka permanently refuses it: too large, or an invalid topic name.
            TopicMissing: The topic does not exist, and was not created for a while.
            BrokerRefused: We were not allowed to write to the topic for a while.
            BrokerUnavailable: As the previous two, while the port drains.
        """
        ...

    def watch(self, topic: str, since_ms: int) -> None:
        """Read a topic of revocations from an instant on, unless it is read already."""
        ...

    def why_over(self, awakeable_id: str) -> OverReason | None:
        """Why nobody waits for an awakeable any more, as far as is known; None: somebody may."""
        ...

    def drain(self) -> None:
        """Stop waiting for unavailable topics; their records are left to the next worker."""
        ...

    def acknowledge(self, record: Incoming) -> None:
        """Mark a record as done: its partition's committed offset may move past it."""
        ...
