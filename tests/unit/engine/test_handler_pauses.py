"""Pausing a handler, or a whole service: calls wait, what runs goes on, nothing is claimed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from awakeables import App, Context, ObjectContext, Service, VirtualObject
from awakeables.errors import NotFound, NotPossible, StoreUnavailable
from awakeables.testing.bench import Bench, Process, pass_time, quick, until
from unit.engine.harness import value

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))

service = Service("orders")
other = Service("other")
counters = VirtualObject("counters")
COUNT = counters.state("count", int, default=0)
app = App("shop", services=[service, other, counters])


@service.handler()
async def fulfil(ctx: Context) -> int:
    return await ctx.awakeable(int)


@service.handler("fulfil_again")
async def old(ctx: Context) -> str:
    return "old"


@service.handler("fulfil_again", version=2)
async def new(ctx: Context) -> str:
    return "new"


@other.handler()
async def at_once(ctx: Context) -> str:
    return "done"


@other.handler()
async def sleeps(ctx: Context) -> None:
    await ctx.sleep(timedelta(hours=1))


@counters.handler()
async def add(ctx: ObjectContext) -> int:
    ctx.set(COUNT, await ctx.get(COUNT) + 1)
    return await ctx.get(COUNT)


@other.handler()
async def calls_paused(ctx: Context) -> str:
    return await ctx.call(new)


async def begun(process: Process, name: str, of: str = "orders", **given: Any) -> str:
    return (await process.api.begin(app.handler(of, name), None, **given)).id


async def stays_pending(bench: Bench, invocation_id: str) -> None:
    await pass_time(60)
    assert bench.row(invocation_id).status == "pending"
    assert bench.row(invocation_id).epoch == 0 or bench.row(invocation_id).owner is None


async def test_calls_of_a_paused_handler_wait_until_it_is_resumed() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        row = await process.api.pause_handlers("orders", "fulfil_again", by="ann")
        assert (row.target, row.by) == ("orders/fulfil_again", "ann")
        waits, goes_on = await begun(process, "fulfil_again"), await begun(process, "at_once", "other")
        assert value(await bench.status(goes_on, "completed")) == "done"
        await stays_pending(bench, waits)
        [told] = await process.api.why(waits)
        assert told.pause == row
        assert list(await process.api.resume_handlers("orders", "fulfil_again")) == ["orders/fulfil_again"]
        assert value(await bench.status(waits, "completed")) == "new"
        assert await process.api.pauses() == []


async def test_one_whose_sleep_is_over_waits_too_and_why_says_so() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        sleeper = await begun(process, "sleeps", "other")
        await bench.status(sleeper, "suspended")
        row = await process.api.pause_handlers("other", "sleeps")
        await pass_time(7200)
        [told] = await process.api.why(sleeper)
        assert (told.row.status, told.pause) == ("suspended", row)
        await process.api.resume_handlers("other", "sleeps")
        await bench.status(sleeper, "completed")


async def test_one_that_was_called_waits_too_and_its_caller_for_it() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        await process.api.pause_handlers("orders", None)
        caller = await begun(process, "calls_paused", "other")
        await bench.status(caller, "suspended")
        await process.api.resume_handlers("orders", None)
        assert value(await bench.status(caller, "completed")) == "new"


@pytest.mark.parametrize("settings", [SUSPENDED, LIVE], ids=["suspended", "live"])
async def test_what_runs_goes_on_and_what_is_suspended_does_not(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await begun(process, "fulfil")
        awakeable = await bench.awakeable(invocation_id)
        if settings is SUSPENDED:
            await bench.status(invocation_id, "suspended")
        await process.api.pause_handlers("orders", "fulfil")
        await bench.settle(process, awakeable.id, 7)
        if settings is SUSPENDED:
            await stays_pending(bench, invocation_id)
            await process.api.resume_handlers("orders", "fulfil")
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_a_paused_object_keeps_its_order() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        await process.api.pause_handlers("counters", None)
        ids = [await begun(process, "add", "counters", key="k") for _ in range(3)]
        await pass_time(10)
        assert [bench.row(each).status for each in ids] == ["pending", "queued", "queued"]
        await process.api.resume_handlers("counters", None)
        assert [value(await bench.status(each, "completed")) for each in ids] == [1, 2, 3]


async def test_a_pause_holds_after_a_restart_before_anything_is_claimed() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        await process.api.pause_handlers("orders", None)
        waits = await begun(process, "fulfil_again")
    async with bench.running(app, SUSPENDED) as process:
        await stays_pending(bench, waits)
        await process.api.resume_handlers("orders", None)
        await bench.status(waits, "completed")


async def test_the_other_instances_know_with_their_next_heartbeat() -> None:
    bench = Bench(shared=True)
    async with bench.running(app, SUSPENDED) as one, bench.running(app, SUSPENDED) as two:
        await one.api.pause_handlers("orders", None)
        await pass_time(3)
        waits = await begun(two, "fulfil_again")
        await stays_pending(bench, waits)
        await two.api.resume_handlers("orders", None)
        await bench.status(waits, "completed")
        await pass_time(3)
        assert one.engine.pauses.rows == ()


async def test_a_service_is_resumed_with_its_handlers_and_a_handler_not_without_its_service() -> None:
    async with Bench().running(app, SUSPENDED) as process:
        api = process.api
        for handler in ("fulfil", None, "fulfil_again"):
            await api.pause_handlers("orders", handler)
        await api.pause_handlers("other", "at_once")
        with pytest.raises(NotPossible, match="the whole service orders is paused: resume that"):
            await api.resume_handlers("orders", "fulfil")
        resumed = await api.resume_handlers("orders", None)
        assert list(resumed) == ["orders", "orders/fulfil", "orders/fulfil_again"]
        assert [row.target for row in await api.pauses()] == ["other/at_once"]
        assert list(await api.resume_handlers("orders", "fulfil")) == []


async def test_a_typo_is_refused_with_what_there_is() -> None:
    async with Bench().running(app, SUSPENDED) as process:
        for act in (process.api.pause_handlers, process.api.resume_handlers):
            with pytest.raises(NotFound, match="there are: counters, orders, other"):
                await act("order", None)
            with pytest.raises(NotFound, match="it has: fulfil, fulfil_again"):
                await act("orders", "fulfill")
        assert await process.api.pauses() == []


async def test_what_is_not_in_the_code_any_more_can_still_be_resumed() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        await process.api.pause_handlers("other", None)
    async with bench.running(App("shop", services=[service]), SUSPENDED) as process:
        assert list(await process.api.resume_handlers("other", None)) == ["other"]


async def test_the_service_starts_once_the_store_can_tell_what_is_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        await process.api.pause_handlers("orders", None)
        waits = await begun(process, "fulfil_again")
    read, failures = bench.store.pauses, [StoreUnavailable("down")] * 3

    async def fails_at_first() -> Any:
        if failures:
            raise failures.pop()
        return await read()

    monkeypatch.setattr(bench.store, "pauses", fails_at_first)
    async with bench.running(app, SUSPENDED) as process:
        await until(lambda: process.engine.pauses.rows, "they are read")
        await stays_pending(bench, waits)


async def test_a_gauge_says_which_handlers_are_paused() -> None:
    bench = Bench()

    def shown(process: Process) -> list[float | None]:
        read = process.engine.metrics.registry.get_sample_value
        labels = [("orders", "fulfil"), ("orders", "fulfil_again"), ("other", "at_once")]
        return [read("awakeables_handler_paused", {"service": of, "handler": name}) for of, name in labels]

    async with bench.running(app, SUSPENDED) as process:
        assert shown(process) == [0, 0, 0]
        await process.api.pause_handlers("orders", "fulfil_again")
        assert shown(process) == [0, 1, 0]
        await process.api.pause_handlers("orders", None)
        assert shown(process) == [1, 1, 0]
    async with bench.running(app, SUSPENDED) as process:
        assert shown(process) == [1, 1, 0]
        await process.api.resume_handlers("orders", None)
        assert shown(process) == [0, 0, 0]
