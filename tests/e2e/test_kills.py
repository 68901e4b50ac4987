"""`kill -9` of real processes on the embedded broker, and an order to stop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from awakeables.devbroker import EmbeddedBroker
from e2e.chaos import fates
from e2e.chaos.kills import survive_kills
from e2e.chaos.world import CreateTopics, world
from support.effort import CHAOS_KILLS

SESSION_S = 2.0
"""The embedded broker lets a worker that was killed join again when its former session is over."""

SEED = int(os.environ.get("CHAOS_SEED", "1"))

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def create_topics(broker: EmbeddedBroker) -> CreateTopics:
    async def create(topics: dict[str, int]) -> None:
        for topic, partitions in topics.items():
            await broker.create_topic(topic, partitions=partitions)

    return create


async def test_fault_18_kills_under_load_lose_repeat_and_misstate_nothing(
    tmp_path: Path, broker: EmbeddedBroker, create_topics: CreateTopics
) -> None:
    # Room for kills between a record and its acknowledgement.
    await broker.round_trip_time(timedelta(milliseconds=20))
    await survive_kills(
        tmp_path, broker.bootstrap, create_topics, seed=SEED, kills=CHAOS_KILLS, session_s=SESSION_S
    )


async def test_sigterm_drains_and_exits_with_0(
    tmp_path: Path, broker: EmbeddedBroker, create_topics: CreateTopics
) -> None:
    async with world(tmp_path, broker.bootstrap, create_topics) as here:
        await fates.drains(here)


async def test_sigterm_ends_the_process_though_an_action_runs_for_longer_than_the_drain(
    tmp_path: Path, broker: EmbeddedBroker, create_topics: CreateTopics
) -> None:
    async with world(tmp_path, broker.bootstrap, create_topics, AWAKEABLES_DRAIN_TIMEOUT="PT1S") as here:
        await fates.stops_in_time(here)


async def test_a_service_that_was_killed_needs_no_repair(
    tmp_path: Path, broker: EmbeddedBroker, create_topics: CreateTopics
) -> None:
    async with world(tmp_path, broker.bootstrap, create_topics) as here:
        await fates.needs_no_repair(here)


async def test_a_handler_that_kills_its_process_is_parked_and_others_go_on(
    tmp_path: Path, broker: EmbeddedBroker, create_topics: CreateTopics
) -> None:
    # Others wait live, so that each kill hits them as well.
    async with world(tmp_path, broker.bootstrap, create_topics, AWAKEABLES_LINGER="PT60S") as here:
        await fates.parks_who_kills_it(here, killers=2)
