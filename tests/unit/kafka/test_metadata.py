"""Metadata with the IDs of topics, in bytes."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from awakeables.kafka.metadata import MetadataRequestWithIds, MetadataWithIds, TopicId, TopicsRequest


def test_a_broker_that_knows_no_ids_is_asked_in_the_version_that_it_knows() -> None:
    request = TopicsRequest(["shop.completions"])
    assert request.prepare({3: (0, 13)}).API_VERSION == 12
    assert request.prepare({3: (0, 9)}).API_VERSION == 5
    assert request.prepare({3: (0, 4)}).API_VERSION == 4


def test_the_request_names_topics_and_creates_none() -> None:
    content = TopicsRequest(["abc"]).prepare({3: (0, 13)}).encode()
    # One topic: no ID, its name, no tags. Don't create it, no authorized operations, no tags.
    assert content == b"\x02" + bytes(16) + b"\x04abc\x00" + b"\x00\x00\x00"
    [topic] = MetadataRequestWithIds.decode(content).to_object()["topics"]
    assert topic == {"topic_id": None, "topic": "abc", "tags": {}}


def test_an_answer_has_the_topics_with_their_ids() -> None:
    rows: list[Any] = [(0, 0, 1, 5, [1, 2], [1], [2], {}), (0, 1, 2, 5, [2, 1], [2], [], {})]
    topics: list[Any] = [
        (0, "abc", "5L6g3nShT-eMCtK--X86sw", False, rows, -2147483648, {}),
        (3, "no", None, False, [], 0, {}),
    ]
    answer = MetadataWithIds(0, [(1, "h", 9092, None, {})], "cluster", 1, topics, {})
    there, missing = MetadataWithIds.decode(answer.encode()).to_object()["topics"]
    assert (there["topic"], there["topic_id"]) == ("abc", "5L6g3nShT-eMCtK--X86sw")
    assert [(row["partition"], row["leader"], row["replicas"]) for row in there["partitions"]] == [
        (0, 1, [1, 2]),
        (1, 2, [2, 1]),
    ]
    assert (missing["error_code"], missing["topic_id"], missing["partitions"]) == (3, None, [])


@pytest.mark.parametrize("topic_id", [None, "5L6g3nShT-eMCtK--X86sw", "AAAAAAAAAAAAAAAAAAAAAQ"])
def test_ids_are_written_as_kafka_s_tools_write_them(topic_id: str | None) -> None:
    assert TopicId.decode(BytesIO(TopicId.encode(topic_id))) == topic_id
