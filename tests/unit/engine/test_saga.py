"""Blocks that a cancellation does not interrupt, and undoing what was done."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from awakeables import App, Cancelled, Context, RetryPolicy, Service, TerminalError
from awakeables.core.invocations import CANCELLED_OUTCOME
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.testing import Paused, run
from awakeables.testing.bench import Bench, quick, until
from unit.engine.harness import failed, value

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)
ALL = pytest.mark.parametrize("settings", [SUSPENDED, LIVE, REPLAYED], ids=["suspended", "live", "replayed"])

service = Service("orders")
app = App("shop", services=[service])
done: list[str] = []
failures: dict[str, list[Exception]] = {}


def act(name: str) -> str:
    done.append(name)
    if failures.get(name):
        raise failures[name].pop(0)
    return name


@pytest.fixture(autouse=True)
def clean() -> None:
    done.clear()
    failures.clear()


@service.handler()
async def shielded(ctx: Context) -> list[Any]:
    seen: list[Any] = []
    async with ctx.shield():
        seen.append(await ctx.awakeable(int))
        await ctx.sleep(timedelta(seconds=30))
    try:
        seen.append(await ctx.awakeable(int))
    except Cancelled as error:
        seen.append(f"own: {error.own}")
    return seen


@service.handler()
async def nested(ctx: Context) -> str:
    async with ctx.shield():
        async with ctx.shield():
            await ctx.awakeable()
        await ctx.awakeable()
    await ctx.sleep(timedelta(seconds=1))
    return "not cancelled"


@service.handler()
async def books(ctx: Context, fails_at: int = 9) -> str:
    async with ctx.saga() as saga:
        for step in range(3):
            saga.undo(f"undo {step}", act, f"undo {step}")
            await ctx.run(f"do {step}", act, f"do {step}")
            if step == fails_at:
                raise TerminalError("full", code=409, details={"seats": 0})
        await ctx.awakeable()
    return "booked"


@service.handler()
async def undoes_with_patience(ctx: Context) -> None:
    policy = RetryPolicy(initial_interval=timedelta(seconds=1), max_attempts=2)
    async with ctx.saga() as saga:
        saga.undo("first", act, "first", retry=policy)
        saga.undo("second", act, "second")
        raise TerminalError("full", details="none")


@service.handler()
async def misuses(ctx: Context) -> None:
    saga = ctx.saga()
    saga.undo("late", act, "late")
    await ctx.sleep(timedelta(seconds=1))


@ALL
async def test_a_shield_holds_a_cancellation_back_until_the_first_await_after_it(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "shielded")
        awakeable = await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        await until(lambda: bench.row(invocation_id).cancelled_ms, "it is cancelled")
        await bench.settle(process, awakeable.id, 7)
        assert value(await bench.status(invocation_id, "completed")) == [7, "own: True"]
        assert len(bench.awakeables(invocation_id)) == 2


@ALL
async def test_shields_nest_and_what_is_not_caught_ends_the_handler(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "nested")
        await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        for number in range(2):
            await until(lambda n=number: len(bench.awakeables(invocation_id)) > n, "it asks")  # type: ignore[misc]
            await bench.settle(process, bench.awakeables(invocation_id)[number].id, number)
        assert (await bench.status(invocation_id, "completed")).result == CANCELLED_OUTCOME


async def test_a_shield_holds_with_attempts_that_are_rebuilt_for_each_step() -> None:
    bench = Bench(handlers=StatelessAttempts)
    async with bench.running(app, SUSPENDED) as process:
        invocation_id = await bench.begin(process, "shielded")
        awakeable = await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        await bench.settle(process, awakeable.id, 7)
        assert value(await bench.status(invocation_id, "completed")) == [7, "own: True"]


async def test_a_kill_does_not_wait_for_a_shield() -> None:
    bench = Bench()
    async with bench.running(app, LIVE) as process:
        invocation_id = await bench.begin(process, "shielded")
        await bench.awakeable(invocation_id)
        await process.api.kill(invocation_id)
        assert bench.row(invocation_id).status == "completed"


@pytest.mark.parametrize("suspend", [True, False])
@pytest.mark.parametrize("step", range(3))
def test_what_was_done_is_undone_in_reverse_and_the_error_is_raised_again(step: int, suspend: bool) -> None:
    ran = run(books, step, suspend=suspend)
    with pytest.raises(TerminalError) as raised:
        _ = ran.value
    assert (raised.value.reason, raised.value.code, raised.value.details) == ("full", 409, {"seats": 0})
    undone = [f"undo {number}" for number in range(step, -1, -1)]
    assert done == [*(f"do {number}" for number in range(step + 1)), *undone]


@ALL
async def test_a_cancellation_undoes_what_was_done(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "books", b"9")
        await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        assert (await bench.status(invocation_id, "completed")).result == CANCELLED_OUTCOME
    assert done[3:] == ["undo 2", "undo 1", "undo 0"]


def test_nothing_is_undone_if_all_went_well_or_the_attempt_is_tried_again() -> None:
    failures["do 1"] = [ConnectionError("once")]
    ran = run(books, on_wait=lambda wait: wait.resolve(1))
    assert ran.value == "booked"
    assert done == ["do 0", "do 1", "do 1", "do 2"]


def test_an_undo_that_fails_is_tried_again_and_one_that_can_t_be_undone_is_noted() -> None:
    failures["second"] = [ConnectionError("once"), TerminalError("gone", code=410)]
    failures["first"] = [ConnectionError("once"), ConnectionError("twice")]
    ran = run(undoes_with_patience)
    with pytest.raises(TerminalError, match="full") as raised:
        _ = ran.value
    assert done == ["second", "second", "first", "first"]
    details = raised.value.details
    assert details["details"] == "none"
    assert [(each["name"], each["code"]) for each in details["not_undone"]] == [
        ("second", 410),
        ("first", 500),
    ]


async def test_an_undo_that_keeps_failing_pauses_and_goes_on_when_it_is_resumed() -> None:
    failures["undo 0"] = [ConnectionError("down")] * 30
    bench = Bench()
    few = quick(retry=RetryPolicy(initial_interval=timedelta(0), max_attempts=2))
    async with bench.running(app, few) as process:
        invocation_id = await bench.begin(process, "books", b"0")
        await bench.status(invocation_id, "paused")
        failures.clear()
        await process.api.resume(invocation_id)
        assert failed(await bench.status(invocation_id, "completed")).code == 409


@service.handler()
async def undoes_in_time(ctx: Context, fails: bool) -> None:
    async with ctx.timeout(timedelta(seconds=5)), ctx.saga() as saga:
        saga.undo("last", act, "last")
        saga.undo("slow", act_slowly, "slow")
        await ctx.sleep(timedelta(seconds=2))
        if fails:
            raise TerminalError("full", code=409)
        await ctx.awakeable()


async def act_slowly(name: str) -> None:
    await asyncio.sleep(4)
    act(name)


@ALL
@pytest.mark.parametrize("fails", [True, False], ids=["it comes while undoing", "it is what fails"])
async def test_a_time_limit_around_a_saga_does_not_limit_the_undos(settings: Any, fails: bool) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "undoes_in_time", b"true" if fails else b"false")
        ended = failed(await bench.status(invocation_id, "completed"))
        assert (ended.code, bytes(ended.details or b"")) == (409 if fails else 408, b"")
        assert done[-2:] == ["slow", "last"]


FULL = TerminalError("full", code=409)


@service.handler()
async def nests_sagas(ctx: Context, gone: bool) -> None:
    async with ctx.saga() as outer:
        outer.undo("outer", cannot if gone else act, "outer")
        async with ctx.saga() as inner:
            inner.undo("inner", cannot if gone else act, "inner")
            raise FULL


def cannot(name: str) -> None:
    raise TerminalError(f"{name} is gone")


async def test_what_was_not_undone_is_told_of_nested_blocks_and_of_this_invocation_alone() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        first = failed(await bench.status(await bench.begin(process, "nests_sagas", b"true"), "completed"))
        assert [each["name"] for each in json.loads(bytes(first.details or b""))["not_undone"]] == [
            "inner",
            "outer",
        ]
        second = failed(await bench.status(await bench.begin(process, "nests_sagas", b"false"), "completed"))
        assert not second.details


def test_an_undo_outside_the_block_is_a_misuse() -> None:
    with pytest.raises(Paused, match=r"saga.undo\('late'\) outside `async with ctx.saga\(\)`"):
        _ = run(misuses).value
