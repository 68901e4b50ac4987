"""A topic that the service publishes to and that is missing is a problem, said once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import pytest

from awakeables.errors import BrokerUnavailable
from awakeables.kafka import topicwatch
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topicwatch import TopicWatch
from awakeables.telemetry import events
from support.logs import heard

TOPICS = {"dead-letter topic": "shop.completions.dlq", "verdicts topic": "shop.verdicts"}


async def test_case_w9_a_topic_that_is_missing_is_a_problem_until_it_is_there_and_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[list[str] | None] = [["shop.verdicts"], None, ["shop.verdicts"], ["shop.verdicts"], []]
    boards: list[dict[str, str]] = []
    problems: dict[str, str] = {}
    done = asyncio.Event()

    async def look(_: KafkaConnection, names: Iterable[str]) -> list[str]:
        boards.append(dict(problems))
        assert set(names) == set(TOPICS.values())
        if not looks:
            done.set()
            return []
        found = looks.pop(0)
        if found is None:
            raise BrokerUnavailable("nobody listens")
        return found

    monkeypatch.setattr(topicwatch, "missing_topics", look)
    watch = TopicWatch(KafkaConnection(bootstrap="?"), TOPICS, problems=problems, interval=timedelta(0))
    with heard() as logs:
        running = asyncio.ensure_future(watch.run())
        await done.wait()
        running.cancel()
    assert [list(board) for board in boards] == [[], *[["verdicts topic"]] * 4, []]
    assert "shop.verdicts" in boards[1]["verdicts topic"]
    assert [(line["event"], line["topic"]) for line in logs] == [
        (events.TOPIC_MISSING, "shop.verdicts"),
        (events.TOPIC_FOUND, "shop.verdicts"),
    ]
