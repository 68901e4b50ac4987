"""What the broker says of a consumer group: its members, what they read, and what is left."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.protocol.admin import DescribeGroupsRequest

RESTING = frozenset({"Stable", "Empty", "Dead"})
"""States of a group that doesn't rebalance; in other states it is not known what the members read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMemberFacts:
    """A member of a group.

    Attributes:
        client_id: The client ID that it gives.
        host: Where it runs, as the broker sees it.
        topics: What it is subscribed to.
        assigned: The partitions that it is assigned, by topic.
    """

    client_id: str
    host: str
    topics: frozenset[str]
    assigned: dict[str, frozenset[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A consumer group at rest, with its members, or one that rebalances, without."""

    state: str
    members: tuple[GroupMemberFacts, ...]

    @property
    def at_rest(self) -> bool:
        return self.state in RESTING

    def unread(self, topic: str, partitions: Collection[int]) -> frozenset[int]:
        """Those of the topic's partitions that no member is assigned."""
        none: frozenset[int] = frozenset()
        return frozenset(partitions).difference(
            *(member.assigned.get(topic, none) for member in self.members)
        )

    def others(self, topic: str) -> list[GroupMemberFacts]:
        """The members that don't read this topic alone."""
        return [member for member in self.members if member.topics != {topic}]


async def describe_group(client: AIOKafkaClient, group: str) -> GroupFacts:
    """Ask the group's coordinator.

    Raises:
        KafkaError: It did not answer, or refused.
    """
    node = await client.coordinator_lookup(CoordinationType.GROUP, group)
    response = await client.send(node, DescribeGroupsRequest([group]))
    [described] = response.to_object()["groups"]
    if described["error_code"]:
        raise kafka.for_code(described["error_code"])(group)
    state = described["state"]
    members = [_member(row) for row in described["members"]] if state in RESTING else []
    return GroupFacts(state=state, members=tuple(members))


def _member(row: dict[str, object]) -> GroupMemberFacts:
    topics: frozenset[str] = frozenset()
    assigned: dict[str, frozenset[int]] = {}
    # A member that isn't a consumer (as in groups of Kafka Connect) has these fields in a format of its own.
    try:
        if row["member_metadata"]:
            topics = frozenset(ConsumerProtocol.METADATA.decode(row["member_metadata"]).subscription)
        if row["member_assignment"]:
            parts = ConsumerProtocol.ASSIGNMENT.decode(row["member_assignment"]).assignment
            assigned = {topic: frozenset(numbers) for topic, numbers in parts}
    except ValueError:
        pass
    return GroupMemberFacts(
        client_id=str(row["client_id"]), host=str(row["client_host"]), topics=topics, assigned=assigned
    )
