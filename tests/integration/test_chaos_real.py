"""Two instances on a real PostgreSQL and a real Kafka, all of which are killed, frozen and cut off.

`make chaos` is the same at any length.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.chaos.instances import infrastructure, survive_faults
from support.effort import CHAOS_CALLS, CHAOS_FAULTS
from support.real_postgres import reason_real_postgres_is_missing
from support.this_run import RUN

SEED = int(os.environ.get("CHAOS_SEED", "3"))

pytestmark = [pytest.mark.real_postgres, pytest.mark.timeout(1200)]


@pytest.fixture
def both(engine_and_image: None) -> None:
    """Skipped, or failed, without PostgreSQL or Kafka."""
    if reason := reason_real_postgres_is_missing():
        if os.environ.get("REQUIRE_REAL_POSTGRES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


async def test_faults_of_all_kinds_under_load_lose_repeat_and_misstate_nothing(
    tmp_path: Path, both: None
) -> None:
    async with infrastructure(ends_with=RUN) as things:
        await survive_faults(tmp_path, things, seed=SEED, count=CHAOS_CALLS, faults=CHAOS_FAULTS)
