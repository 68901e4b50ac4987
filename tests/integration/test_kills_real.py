"""`kill -9` of real processes on a real Kafka."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from e2e.chaos.kills import survive_kills
from support.effort import CHAOS_KILLS

SESSION_S = 6.0
"""The shortest that a broker allows by default; a worker that was killed is missed for so long."""

SEED = int(os.environ.get("CHAOS_SEED", "2"))

pytestmark = [pytest.mark.timeout(900)]


async def test_fault_18_kills_under_load_lose_repeat_and_misstate_nothing(
    tmp_path: Path, bootstrap: str
) -> None:
    async def create(topics: dict[str, int]) -> None:
        await create_topics(KafkaConnection(bootstrap=bootstrap), topics)

    await survive_kills(tmp_path, bootstrap, create, seed=SEED, kills=CHAOS_KILLS, session_s=SESSION_S)
