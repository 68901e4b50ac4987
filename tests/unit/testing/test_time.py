"""Time jumps: what lasts for months takes as many steps as what lasts for a moment."""

from __future__ import annotations

from datetime import timedelta

import pytest

from awakeables import Context, TimedOut
from awakeables.handlers.context import MAX_WAIT
from awakeables.testing import loop, run


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times of the loop's steps."""
    counted: list[float] = []
    step = loop.SeededLoop._run_once

    def count(self: loop.SeededLoop) -> None:
        counted.append(self.time())
        step(self)

    monkeypatch.setattr(loop.SeededLoop, "_run_once", count)
    return counted


@pytest.mark.parametrize("suspend", [True, False])
def test_a_month_takes_as_many_steps_as_a_minute(steps: list[float], suspend: bool) -> None:
    async def handler(ctx: Context, lasts: timedelta) -> str:
        await ctx.sleep(lasts)
        try:
            await ctx.awakeable(timeout=lasts)
        except TimedOut:
            return "timed out"
        return "never"

    taken = set()
    for lasts in (timedelta(minutes=1), timedelta(days=30), MAX_WAIT):
        steps.clear()
        told = run(handler, lasts, suspend=suspend)
        assert told.value == "timed out"
        assert lasts * 2 <= told.duration < lasts * 2 + timedelta(seconds=3)
        taken.add(len(steps))
    assert len(taken) == 1


def test_the_caller_s_headers_are_the_request_s() -> None:
    async def handler(ctx: Context) -> dict[str, str]:
        return dict(ctx.request.headers)

    assert run(handler, headers={"X-Tenant": "ann"}).value == {"x-tenant": "ann"}
