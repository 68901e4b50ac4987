"""Schedules in the kit: they begin handlers as virtual time passes, and only in a harness."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from awakeables import App, Context, ObjectContext, Schedule, Service, VirtualObject, Workflow
from awakeables.errors import InvalidInput
from awakeables.testing import AsyncHarness, Harness, Stuck, run

reports = Service("reports")
carts = VirtualObject("carts")
nightly = Workflow("nightly")
DAY = timedelta(days=1)


@reports.handler(schedule=Schedule("0 6 * * *", timezone="Europe/Berlin", input={"of": "all"}))
async def daily(ctx: Context, wanted: dict[str, str]) -> list[Any]:
    assert ctx.request.scheduled_at is not None
    return [wanted["of"], ctx.request.scheduled_at.isoformat()]


@reports.handler(schedule=Schedule.every(timedelta(hours=1), overlap="queue"))
async def slow(ctx: Context) -> datetime | None:
    done = ctx.awakeable(str)
    ctx.publish("reports", None, awakeable=done)
    await done
    return ctx.request.scheduled_at


@reports.handler()
async def waits(ctx: Context) -> str:
    return await ctx.awakeable(str)


@carts.handler(schedule=Schedule("0 0 * * *", key="all"))
async def clean(ctx: ObjectContext) -> str:
    return ctx.key


@nightly.run(schedule=Schedule("0 1 * * *", key="all"))
async def night(ctx: ObjectContext) -> str:
    return ctx.key


@reports.handler()
async def plain(ctx: Context) -> list[Any]:
    at = ctx.request.scheduled_at
    await ctx.sleep(DAY)
    return [None if each is None else each.isoformat() for each in (at, ctx.request.scheduled_at)]


app = App("reports", services=[reports, carts, nightly])


@pytest.fixture(params=[{}, {"thorough": True}, {"suspend": False}], ids=str)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with Harness(app, **request.param) as opened:
        yield opened


def test_time_begins_what_is_scheduled_at_its_tick(harness: Harness) -> None:
    assert harness.invocations(daily) == []
    begin = harness.now
    first = begin.replace(hour=5, minute=0, second=0, microsecond=0)
    first += DAY if first <= begin else timedelta(0)
    harness.advance_to(first - timedelta(seconds=1))
    assert harness.invocations(daily) == []
    harness.advance(timedelta(seconds=1))
    (one,) = harness.invocations(daily)
    assert one.result() == ["all", first.isoformat()]
    harness.advance(2 * DAY)
    ticks = [first + n * DAY for n in range(3)]
    assert [each.result()[1] for each in harness.invocations(daily)] == [tick.isoformat() for tick in ticks]
    assert [each.result() for each in harness.invocations(clean)] == ["all"] * len(harness.invocations(clean))
    nights = [each.result() for each in harness.invocations(night)]
    assert len(set(nights)) == len(nights) >= 2
    assert nights[0].startswith("all/2026-01-0")


def test_one_tick_waits_until_the_task_of_the_one_before_is_answered(harness: Harness) -> None:
    harness.advance(timedelta(hours=3))
    (first,) = harness.invocations(slow)
    harness.next_task("reports").resolve("done")
    assert first.status == "completed"
    _, second = harness.invocations(slow)
    assert second.status in ("suspended", "running")
    harness.next_task("reports").resolve("done")
    began = [each.result() for each in harness.invocations(slow)]
    assert all(tick is not None for tick in began)
    assert len(harness.invocations(slow)) == 2


def test_ticks_go_on_after_a_crash(harness: Harness) -> None:
    harness.advance(DAY)
    count = len(harness.invocations(daily))
    harness.crash()
    harness.advance(DAY)
    assert len(harness.invocations(daily)) == count + 1


def test_a_schedule_may_bring_about_what_a_result_depends_on() -> None:
    service = Service("s")

    @service.handler()
    async def waits_for_the_night(ctx: Context) -> str:
        done = ctx.awakeable(str)
        ctx.publish("nightly-work", None, awakeable=done)
        return await done

    collected: list[str] = []

    @service.handler(schedule=Schedule("0 3 * * *"))
    async def answers(ctx: Context) -> None:
        for each in list(collected):
            await ctx.resolve_awakeable(each, "done")

    with Harness(App("s", services=[service])) as harness:
        running = harness.send(waits_for_the_night)
        collected.append(harness.next_task("nightly-work").awakeable_id)
        assert running.result() == "done"
        assert harness.now.hour == 3


def test_what_waits_for_nothing_is_stuck_although_ticks_go_on(harness: Harness) -> None:
    running = harness.send(waits)
    with pytest.raises(Stuck, match="nobody answers"):
        running.result()


def test_without_schedules_time_begins_nothing() -> None:
    with Harness(app, schedules=False) as harness:
        harness.advance(30 * DAY)
        assert harness.invocations() == []


async def test_an_async_harness_has_schedules_too() -> None:
    async with AsyncHarness(app) as harness:
        await harness.advance(DAY)
        assert len(harness.invocations(daily)) == 1
    async with AsyncHarness(app, schedules=False) as harness:
        await harness.advance(DAY)
        assert harness.invocations() == []


def test_run_begins_no_schedule_of_its_handler_or_object() -> None:
    assert run(plain).value == [None, None]
    assert run(clean, key="k").value == "k"
    done = run(slow, answers={"reports": lambda _: "done"})
    assert (done.value, len(done.published)) == (None, 1)


@pytest.mark.parametrize("thorough", [False, True])
def test_run_sets_the_tick(thorough: bool) -> None:
    tick = datetime(2026, 5, 4, 6, tzinfo=timezone(timedelta(hours=2)))
    text = "2026-05-04T04:00:00+00:00"
    assert run(plain, scheduled_at=tick, thorough=thorough).value == [text, text]
    assert run(daily, {"of": "one"}, scheduled_at=tick).value == ["one", text]
    assert (
        run(daily, {"of": "one"}, scheduled_at=tick)
        .journal[0]
        .endswith("at the tick 2026-05-04T04:00:00.000Z")
    )


def test_a_tick_has_a_time_zone() -> None:
    with pytest.raises(InvalidInput, match=r"scheduled_at: .* has no time zone"):
        run(plain, scheduled_at=datetime(2026, 5, 4))  # noqa: DTZ001
