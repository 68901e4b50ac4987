"""Which partitions of a topic this instance reads: all, or those that its group gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import DENIED, denied
from awakeables.kafka.groupfacts import GroupMemberFacts, describe_group
from awakeables.kafka.lag import commit_lag, report_lag
from awakeables.kafka.problemboard import ProblemBoard
from awakeables.kafka.readers import Readers
from awakeables.kafka.tolerant import NOWHERE
from awakeables.ports import Clock
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

POLL_S = 0.5
"""How often the consumer is polled for errors of its group, which also shows that the member is alive."""

GROUP_CHECK_S = 5.0
"""How often the broker is asked who is in the group."""

MOST_NAMED = 3
"""How many members a message names."""


class GroupShared(Exception):
    """The group has members that we can't share it with; the message names them."""


class Assignment(Protocol):
    """Decides which partitions a consumer reads, for as long as it is in use."""

    follows_topic: bool
    """Whether partitions that are added are assigned without a new consumer."""

    def begin(self, partitions: Collection[int]) -> None:
        """Have partitions, of all that the topic has, assigned to the consumer, at once or later."""
        ...

    def expect(self, partitions: Collection[int]) -> None:
        """The topic has these partitions now."""
        ...

    async def run(self) -> None:
        """Do what belongs to the assignment, until cancelled."""
        ...

    def reason_to_replace(self) -> str | None:
        """Why the consumer must be replaced, if it must."""
        ...


def hold(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
    """Pause partitions at a placeholder until their readers know where to begin.

    Without a position, even a paused partition would be looked up, in vain.
    """
    consumer.pause(*partitions)
    for partition in partitions:
        consumer.seek(partition, 0)


class AllPartitions:
    """The only instance reads all partitions, assigned by hand in milliseconds."""

    follows_topic = False

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        consumer: AIOKafkaConsumer,
        readers: Readers,
        *,
        group: str,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer = consumer
        self._readers = readers
        self._group = group

    def begin(self, partitions: Collection[int]) -> None:
        """As `Assignment.begin`: at once."""
        assigned = [TopicPartition(self._topic, number) for number in sorted(partitions)]
        self._consumer.assign(assigned)
        hold(self._consumer, assigned)
        self._readers.assign(assigned)

    def expect(self, partitions: Collection[int]) -> None:
        """As `Assignment.expect`."""

    async def run(self) -> None:
        """Report lag under the group's name."""
        await report_lag(self._connection, self._group, lambda: self._readers.offsets)

    def reason_to_replace(self) -> str | None:
        """As `Assignment.reason_to_replace`: there is none."""
        return None


class GroupMember(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """One of several instances reads what the app's consumer group gives it.

    The group decides who reads; what is read is decided by the partitions' epochs in the store. aiokafka
    logs and swallows what a callback of a rebalance raises, and the member sends no heartbeats while that
    callback runs: so it only holds the new partitions, and the readers do the rest.
    """

    follows_topic = True

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        connection: KafkaConnection,
        topic: str,
        consumer: AIOKafkaConsumer,
        readers: Readers,
        *,
        group: str,
        problem: str,
        clock: Clock,
        board: ProblemBoard,
        stuck: timedelta,
    ) -> None:
        """Prepare for one consumer.

        Args:
            connection: Where Kafka is.
            topic: The topic.
            consumer: It joins the group.
            readers: They read what the group gives it.
            group: The group's name.
            problem: The name of a problem with the group, on the board.
            clock: Time.
            board: Where members that read other topics are reported.
            stuck: After this long without progress of the group the consumer is replaced.
        """
        self._connection = connection
        self._topic = topic
        self._consumer = consumer
        self._readers = readers
        self._group = group
        self._problem = problem
        self._clock = clock
        self._board = board
        self._stuck_s = stuck.total_seconds()
        self._partitions: frozenset[int] = frozenset()
        self._polled_s = clock.monotonic()
        self._left_out_since_s: float | None = None

    @staticmethod
    def consumer_options(connection: KafkaConnection, group: str) -> dict[str, Any]:
        """Further options of the consumer.

        With several assignors aiokafka would send a request to join for each. The sticky one keeps its
        state in the class, shared by all consumers of the process, and saves nothing, since every rebalance
        revokes all partitions.
        """
        return connection.group_options() | {
            "group_id": group,
            "partition_assignment_strategy": (RoundRobinPartitionAssignor,),
        }

    def begin(self, partitions: Collection[int]) -> None:
        """As `Assignment.begin`: joins the group, which takes seconds."""
        self._partitions = frozenset(partitions)
        self._polled_s = self._clock.monotonic()
        self._consumer.subscribe([self._topic], listener=self)

    def expect(self, partitions: Collection[int]) -> None:
        """As `Assignment.expect`."""
        self._partitions = frozenset(partitions)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Called by aiokafka, after each rebalance: a new assignment has no pauses and no positions."""
        hold(self._consumer, assigned)
        self._readers.assign(assigned)
        log.info(
            events.PARTITIONS_ASSIGNED,
            group=self._group,
            partitions=sorted(partition.partition for partition in assigned),
        )

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        """Called by aiokafka with all partitions, before each rebalance; not when the consumer stops."""
        await self._readers.revoke()

    async def run(self) -> None:
        """Keep the membership, watch the group, and report lag."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll(), name=f"{self._topic}-group-poll")
            tasks.create_task(self._watch(), name=f"{self._topic}-group-watch")
            lag = commit_lag(self._consumer, lambda: self._readers.offsets)
            tasks.create_task(lag, name=f"{self._topic}-lag")

    def reason_to_replace(self) -> str | None:
        """As `Assignment.reason_to_replace`."""
        now_s = self._clock.monotonic()
        if max(now_s - self._polled_s, self._readers.held_up_s) > self._stuck_s:
            return f"its group has made no progress for {self._stuck_s:.0f} s"
        patience_s = 2 * self._connection.session_timeout.total_seconds()
        if self._left_out_since_s is not None and now_s - self._left_out_since_s > patience_s:
            return "it is assigned nothing although its group leaves partitions unread"
        return None

    async def _poll(self) -> None:
        """Show aiokafka that the consumer is in use, even without a partition; raise the group's errors."""
        while True:
            try:
                # Waits while the group rebalances.
                await self._consumer.getmany(NOWHERE)
            except kafka.InconsistentGroupProtocolError as error:
                facts = await describe_group(self._consumer._client, self._group)
                named = _named(facts.others(self._topic) or facts.members)
                raise GroupShared(
                    f"consumer group {self._group!r} has members that we can't share it with: {named}. "
                    "It belongs to the instances of this app alone; give the others another group"
                ) from error
            except DENIED as error:
                what = f"group {self._group!r}"
                if isinstance(error, kafka.TopicAuthorizationFailedError):
                    what = f"topic {self._topic!r}"
                raise denied(self._connection.security, what) from error
            self._polled_s = self._clock.monotonic()
            await asyncio.sleep(POLL_S)

    async def _watch(self) -> None:
        """Watch for members that read other topics, and for partitions that this instance should have."""
        while True:
            await asyncio.sleep(GROUP_CHECK_S)
            try:
                facts = await describe_group(self._consumer._client, self._group)
            except NO_CONNECTION as error:
                log.debug(events.BROKER_DOWN, group=self._group, error=repr(error))
            else:
                if facts.at_rest:
                    self._report_others(facts.others(self._topic))
                    left_out = not self._readers.current and facts.unread(self._topic, self._partitions)
                    self._note_left_out(bool(left_out))

    def _report_others(self, others: Iterable[GroupMemberFacts]) -> None:
        named = _named(others)
        if not named:
            self._board.clear(self._problem, events.GROUP_UNSHARED, group=self._group)
            return
        text = (
            f"consumer group {self._group!r} is shared with {named}. It belongs to the instances of this app "
            "alone; give the others another group"
        )
        self._board.report(self._problem, events.GROUP_SHARED, text, group=self._group)

    def _note_left_out(self, left_out: bool) -> None:
        if not left_out:
            self._left_out_since_s = None
        elif self._left_out_since_s is None:
            self._left_out_since_s = self._clock.monotonic()


def _named(members: Iterable[GroupMemberFacts]) -> str:
    """The members as a message names them: who, where, and what they read."""
    all_members = list(members)
    shown = [
        f"{member.client_id!r} at {member.host.lstrip('/')}, which reads "
        f"{', '.join(map(repr, sorted(member.topics))) or 'something else'}"
        for member in all_members[:MOST_NAMED]
    ]
    more = len(all_members) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
