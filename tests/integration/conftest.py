"""Tests that need a real Kafka. Skipped without one, unless REQUIRE_REAL_KAFKA=1."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from support.real_kafka import RealKafka, reason_real_kafka_is_missing
from support.shared_kafka import shared_kafka

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.real_kafka import TopicFactory

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The hook is handed every item of the run, not only those below this folder.
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real_kafka)


@pytest.fixture(scope="session")
def engine_and_image() -> None:
    """For tests that start a broker of their own: skipped, or failed, where none can be had."""
    if reason := reason_real_kafka_is_missing():
        if os.environ.get("REQUIRE_REAL_KAFKA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def steady_kafka(engine_and_image: None) -> Iterator[RealKafka]:
    """One broker for all processes of the run."""
    kafka = shared_kafka()
    yield kafka
    kafka.detach()


@pytest.fixture(scope="session")
def unsteady_kafka(engine_and_image: None) -> Iterator[RealKafka]:
    """One of this process alone; whoever takes it down brings it up again."""
    with RealKafka() as kafka:
        yield kafka


@pytest.fixture
def real_kafka(request: pytest.FixtureRequest) -> RealKafka:
    """The shared broker; one that may be taken down for a test that is marked so."""
    unsteady = request.node.get_closest_marker("takes_kafka_down")
    kafka: RealKafka = request.getfixturevalue("unsteady_kafka" if unsteady else "steady_kafka")
    return kafka


@pytest.fixture
def bootstrap(real_kafka: RealKafka) -> str:
    return real_kafka.bootstrap


@pytest.fixture
def topic(bootstrap: str) -> TopicFactory:
    """Create topics: `name = await topic("completions", partitions=4, retention_ms=1000)`."""

    async def create(name: str, *, partitions: int = 4, **configs: object) -> str:
        unique = f"{name}-{secrets.token_hex(4)}"
        settings = {key.replace("_", "."): _spelled(value) for key, value in configs.items()}
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            async with asyncio.timeout(15):
                await _create(admin, NewTopic(unique, partitions, 1, topic_configs=settings))
                await _wait_for_leaders(admin, unique, partitions)
        finally:
            await admin.close()
        return unique

    return create


async def _create(admin: AIOKafkaAdminClient, new: NewTopic) -> None:
    # aiokafka returns the broker's refusal instead of raising it.
    response = await admin.create_topics([new])
    for name, code, *message in response.topic_errors:
        if code:
            raise for_code(code)(name, *message)


async def _wait_for_leaders(admin: AIOKafkaAdminClient, name: str, partitions: int) -> None:
    """The controller answers before the broker's own metadata show the topic."""
    while True:
        (described,) = await admin.describe_topics([name])
        led = [part for part in described["partitions"] if part["leader"] >= 0]
        if not described["error_code"] and len(led) == partitions:
            return
        await asyncio.sleep(0.02)


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
