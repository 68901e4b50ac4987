"""`kill -9` of real processes on the embedded broker, and an order to stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from awakeables.devbroker import EmbeddedBroker
from e2e.chaos.kills import survive_kills

SESSION_S = 2.0
"""The embedded broker lets a worker that was killed join again when its former session is over."""

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("kills")]


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def create_topics(broker: EmbeddedBroker) -> Callable[[dict[str, int]], Awaitable[None]]:
    async def create(topics: dict[str, int]) -> None:
        for topic, partitions in topics.items():
            await broker.create_topic(topic, partitions=partitions)

    return create


async def test_twenty_kills_under_load_lose_repeat_and_misstate_nothing(
    tmp_path: Path, broker: EmbeddedBroker, create_topics: Callable[[dict[str, int]], Awaitable[None]]
) -> None:
    await survive_kills(tmp_path, broker.bootstrap, create_topics, seed=1, kills=20, session_s=SESSION_S)
