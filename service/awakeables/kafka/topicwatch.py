"""Checks periodically whether the topics that the service itself publishes to exist."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from datetime import timedelta

import structlog

from awakeables.errors import BrokerUnavailable
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.problemboard import ProblemBoard
from awakeables.kafka.topics import missing_topics, no_topic
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)


class TopicWatch:
    """Reports missing topics as problems.

    Otherwise they would be noticed only when something is published to them, and then for each record.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topics: Mapping[str, str],
        *,
        problems: MutableMapping[str, str],
        interval: timedelta = timedelta(seconds=10),
    ) -> None:
        """Prepare; `run` does the rest.

        Args:
            connection: Where Kafka is.
            topics: The topics, by the names of their problems.
            problems: The current problems, for readiness.
            interval: How often to check.
        """
        self._connection = connection
        self._topics = topics
        self._board = ProblemBoard(problems)
        self._interval_s = interval.total_seconds()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                missing = await missing_topics(self._connection, self._topics.values())
            except BrokerUnavailable:
                # The broker is down: another problem, which the consumer reports.
                pass
            except Exception as error:
                # The supervisor of this check: the service goes on without it.
                log.error(events.BACKGROUND_ERROR, exc_info=error)
            else:
                self._report(missing)
            await asyncio.sleep(self._interval_s)

    def _report(self, missing: list[str]) -> None:
        for name, topic in self._topics.items():
            if topic in missing:
                self._board.report(
                    name, events.TOPIC_MISSING, str(no_topic(topic, self._connection)), topic=topic
                )
            else:
                self._board.clear(name, events.TOPIC_FOUND, topic=topic)
