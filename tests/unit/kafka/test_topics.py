"""What a broker says of topics some of whose partitions can't be used at the moment."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import errors as kafka

from awakeables.kafka.topics import describe


class Client:
    """Answers with one topic, whose partitions have these leaders."""

    def __init__(self, *leaders: int) -> None:
        self._leaders = leaders

    def get_random_node(self) -> int:
        return 1

    async def send(self, _node: int, _request: Any) -> Client:
        return self

    def to_object(self) -> Any:
        partitions = [
            {"partition": number, "leader": leader, "replicas": [1]}
            for number, leader in enumerate(self._leaders)
        ]
        return {"topics": [{"topic": "t", "error_code": 0, "partitions": partitions}]}


@pytest.mark.parametrize(
    ("leaders", "problem", "leaderless"),
    [
        ((1, 2), None, False),
        ((1, -1), None, True),
        ((-1, -1), kafka.LeaderNotAvailableError, True),
        ((), kafka.LeaderNotAvailableError, False),
    ],
)
async def test_a_topic_can_be_used_while_any_of_its_partitions_can(
    leaders: tuple[int, ...], problem: Any, leaderless: bool
) -> None:
    client: Any = Client(*leaders)
    facts = (await describe(client, ["t"]))["t"]
    assert (facts.problem, facts.leaderless) == (problem, leaderless)
    assert len(facts.partitions) == len(leaders)
