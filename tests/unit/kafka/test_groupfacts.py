"""What is read out of a broker's answer on a consumer group."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.protocol.admin import DescribeGroupsResponse_v3

from awakeables.kafka.groupfacts import describe_group

TOPIC = "shop.completions"


class Client(AIOKafkaClient):  # type: ignore[misc]  # aiokafka is not typed
    """Gives one answer."""

    def __init__(self, state: str, members: list[tuple[Any, ...]], *, error: int = 0) -> None:
        row = (error, "shop", state, "consumer", "roundrobin", members, 0)
        self._answer = DescribeGroupsResponse_v3(0, [row])

    def __del__(self, *_: object) -> None:
        pass

    async def coordinator_lookup(self, _kind: object, _group: object) -> int:
        return 1

    async def send(self, _node: object, _request: object) -> object:
        return self._answer


def member(name: str, topics: list[str], assigned: dict[str, list[int]]) -> tuple[Any, ...]:
    metadata = ConsumerProtocol.METADATA(0, topics, b"").encode()
    assignment = ConsumerProtocol.ASSIGNMENT(0, list(assigned.items()), b"").encode()
    return (f"{name}-1", name, "/10.0.0.1", metadata, assignment)


async def test_who_reads_what_and_what_nobody_reads() -> None:
    ours = member("ours", [TOPIC], {TOPIC: [0, 2]})
    idle = member("idle", [TOPIC], {})
    other = member("other", ["billing.completions"], {"billing.completions": [1]})
    facts = await describe_group(Client("Stable", [ours, idle, other]), "shop")
    assert facts.unread(TOPIC, range(4)) == {1, 3}
    [found] = facts.others(TOPIC)
    assert (found.client_id, found.host) == ("other", "/10.0.0.1")
    assert found.topics == {"billing.completions"}


async def test_nothing_is_said_of_a_group_that_rebalances() -> None:
    facts = await describe_group(Client("PreparingRebalance", [member("ours", [], {})]), "shop")
    assert not facts.at_rest
    assert facts.members == ()


async def test_a_member_that_is_no_consumer_reads_something_else() -> None:
    stranger = ("connect-1", "connect", "/10.0.0.2", b"\x00", b"\x00")
    facts = await describe_group(Client("Stable", [stranger]), "shop")
    [found] = facts.others(TOPIC)
    assert found.client_id == "connect"
    assert not found.topics
    assert found.assigned == {}


async def test_a_refusal_is_raised() -> None:
    with pytest.raises(kafka.GroupAuthorizationFailedError):
        await describe_group(Client("", [], error=30), "shop")
