"""What a worker asks of Kafka: records in, answers out, and which records are done with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from awakeables.core.effects import Header
from awakeables.core.records import Record


class Incoming(Record):
    """A record of a task topic, as it lies there."""

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
    """Where tasks come from and answers go to."""

    async def receive(self, limit: int) -> Sequence[Incoming]:
        """Up to `limit` records; an empty list when none came for a moment.

        A record that was not acknowledged may come again: after a rebalance, after a restart.
        With a limit of 0 nothing is handed out, but the group sees that this member is alive; so
        call it at least every few seconds.
        """
        ...

    async def send(self, record: Outgoing) -> None:
        """Produce a record; returns when every in-sync replica has it, however long that takes.

        Raises:
            PublishRefused: Kafka will never take it: too large, or no name of a topic.
            TopicMissing: There was no such topic, and none came into being for a while.
            BrokerRefused: The topic was not ours to write to, for a while.
            BrokerUnavailable: It is one of the two, and the port drains.
        """
        ...

    def drain(self) -> None:
        """From now on wait for no topic that can't be had; the records are left to the next worker."""
        ...

    def acknowledge(self, record: Incoming) -> None:
        """The record is done with: its partition's offset may move past it, in time."""
        ...
