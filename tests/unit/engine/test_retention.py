"""What ended long ago is forgotten; what waits never is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context
from awakeables.core.commands import Purge
from awakeables.engine import retention
from awakeables.engine.engine import EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.retention import RetentionSettings
from awakeables.testing.bench import Bench, quick

HOUR = timedelta(hours=1)
DAY_S = 86_400


def settings() -> EngineSettings:
    """Looks at rows once an hour, so that a month passes quickly."""
    kept = RetentionSettings(ended=timedelta(days=7), dead_letters=timedelta(days=30), interval=HOUR)
    relay = RelaySettings(sweep_interval=HOUR)
    return replace(quick(), retention=kept, relay=relay, sweep_interval=HOUR)


async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()


async def test_an_ended_invocation_is_kept_for_its_time_and_then_gone_with_all_that_is_its_own() -> None:
    bench = Bench()
    async with bench.serving(settings(), wait=wait) as process:
        ended, waits = await bench.begin(process, "wait"), await bench.begin(process, "wait")
        awakeable = await bench.awakeable(ended)
        await bench.settle(process, awakeable.id, 1)
        await bench.status(ended, "completed")
        await asyncio.sleep(6.9 * DAY_S)
        assert ended in bench.store.tables.invocations
        await asyncio.sleep(0.2 * DAY_S)
        tables = bench.store.tables
        assert list(tables.invocations) == list(tables.journals) == [waits]
        assert [row.invocation_id for row in tables.awakeables.values()] == [waits]
        assert (await bench.settle(process, awakeable.id, 1, source="http:2")).kind == "unknown"


async def test_dead_letters_have_a_time_of_their_own() -> None:
    bench = Bench()
    async with bench.serving(settings(), wait=wait) as process:
        await bench.records(process, b"{broken")
        await asyncio.sleep(29 * DAY_S)
        assert len(bench.store.tables.dead_letters) == 1
        await asyncio.sleep(1.1 * DAY_S)
        assert bench.store.tables.dead_letters == {}


async def test_many_go_in_several_small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def quickly(ctx: Context) -> int:
        return 1

    monkeypatch.setattr(retention, "BATCH", 5)
    bench = Bench()
    async with bench.serving(settings(), quickly=quickly) as process:
        for _ in range(12):
            await bench.status(await bench.begin(process, "quickly"), "completed")
        await asyncio.sleep(8 * DAY_S)
        assert bench.store.tables.invocations == {}
        assert [len(purge.ended) for purge in bench.store.members(Purge)] == [5, 5, 2]
