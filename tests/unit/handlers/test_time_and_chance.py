"""Time, chance, logs and the request: the same in every replay (J2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from structlog.testing import capture_logs

from awakeables import Context, RetryPolicy
from awakeables.core.ids import parse_id
from awakeables.testing import run as run_in_memory
from unit.handlers.conftest import Runs


def test_a_sleep_of_months_takes_months_and_costs_nothing(run: Runs) -> None:
    """O2."""

    async def handler(ctx: Context) -> list[str]:
        began = ctx.now()
        await ctx.sleep(timedelta(days=100))
        return [began.isoformat(), ctx.now().isoformat()]

    result = run(handler)
    assert result.value == ["2026-01-01T00:00:00+00:00", "2026-04-11T00:00:00+00:00"]
    assert timedelta(days=100) <= result.duration < timedelta(days=100, seconds=1)


def test_a_sleep_of_no_time_goes_on(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        await ctx.sleep(timedelta(0))
        await ctx.sleep(timedelta(days=-1))
        return "done"

    result = run(handler)
    assert result.value == "done"
    assert result.duration < timedelta(seconds=1)


def test_sleeps_that_are_asked_for_together_pass_together(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        short, long = ctx.sleep(timedelta(hours=1)), ctx.sleep(timedelta(hours=3))
        await long
        await short

    assert run(handler).duration < timedelta(hours=3, seconds=1)


def test_now_chance_and_uuids_repeat_in_every_replay(run: Runs) -> None:
    walks: list[list[Any]] = []

    async def handler(ctx: Context) -> None:
        seen: list[Any] = []
        walks.append(seen)
        for _ in range(4):
            seen += [ctx.now(), ctx.random().random(), ctx.uuid(), ctx.random().randint(0, 10**9)]
            await ctx.sleep(timedelta(hours=1))

    run(handler)
    longest = max(walks, key=len)
    assert len(longest) == 16
    assert len(set(longest)) == 16
    assert all(walk == longest[: len(walk)] for walk in walks)
    assert all(at.tzinfo is UTC for at in longest if isinstance(at, datetime))
    assert {key.version for key in longest[2::4]} == {4}


def test_two_invocations_have_chances_of_their_own() -> None:
    async def handler(ctx: Context) -> str:
        return str(ctx.uuid())

    assert run_in_memory(handler, seed=1).value != run_in_memory(handler, seed=2).value


def test_each_event_is_logged_once_with_the_invocation_s_id(run: Runs) -> None:
    ids: set[str] = set()

    async def handler(ctx: Context) -> None:
        ids.add(ctx.request.invocation_id)
        ctx.log.critical("one", n=1)
        await ctx.sleep(timedelta(days=1))
        ctx.log.critical("two")
        await ctx.run("act", lambda: None)
        ctx.log.critical("three")
        awakeable = ctx.awakeable(int)
        ctx.publish("pack", 1, awakeable=awakeable)
        await awakeable

    with capture_logs() as logs:
        run(handler, answers={"pack": lambda task: 1})
    own = [entry for entry in logs if entry["event"] in ("one", "two", "three")]
    (invocation_id,) = ids
    assert [entry["event"] for entry in own] == ["one", "two", "three"]
    assert {entry["invocation_id"] for entry in own} == {invocation_id}
    assert own[0]["n"] == 1


def test_the_request_has_the_invocation_and_the_attempt(run: Runs) -> None:
    """The attempt counts anew after each step that was journaled."""
    seen: list[tuple[str, int]] = []
    fails = iter([True, True, False, True, False])

    async def handler(ctx: Context) -> None:
        seen.append((ctx.request.invocation_id, ctx.request.attempt))
        assert ctx.request.headers == {}
        if len(seen) <= 3 and next(fails):
            raise ConnectionError("down")
        await ctx.sleep(timedelta(hours=1))
        if next(fails):
            raise ConnectionError("down")

    run(handler, retry=RetryPolicy())
    (invocation_id,) = {invocation_id for invocation_id, _ in seen}
    parse_id(invocation_id, "inv")
    attempts = [attempt for _, attempt in seen]
    assert attempts[:3] == [1, 2, 3]
    assert attempts[3] == 1
    assert attempts[-1] == 2
