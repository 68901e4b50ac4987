"""Calls while processes run them: callers and callees, live and suspended, cancelled, killed and apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from awakeables import App, Cancelled, Context, Service, TerminalError
from awakeables.core.invocations import KILLED, Invocation
from awakeables.core.outcomes import Cancellation, Resolution
from awakeables.engine import invocationlog
from awakeables.errors import NotFound, NotPossible
from awakeables.store.membership import LocalHints
from awakeables.telemetry import events
from awakeables.testing.bench import Bench, Process, quick, until
from unit.engine.harness import failed, value

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)
ALL = pytest.mark.parametrize("settings", [SUSPENDED, LIVE, REPLAYED], ids=["suspended", "live", "replayed"])

service = Service("orders")
app = App("shop", services=[service])
undone: list[str] = []


@service.handler()
async def callee(ctx: Context) -> int:
    return await ctx.awakeable(int)


@service.handler()
async def caller(ctx: Context) -> int:
    return 2 * await ctx.call(callee)


@service.handler()
async def grandcaller(ctx: Context) -> int:
    return 2 * await ctx.call(caller)


@service.handler()
async def sender(ctx: Context) -> str:
    return ctx.send(callee, idempotency_key="one").id


@service.handler()
async def echo(ctx: Context, number: int) -> int:
    return number


@service.handler()
async def sends_twice(ctx: Context) -> None:
    for number in (1, 1, 2):
        ctx.send(echo, number, idempotency_key="sends_twice")


@service.handler()
async def sends_later(ctx: Context) -> None:
    ctx.send(echo, 1, idempotency_key="sends_later")
    await ctx.sleep(timedelta(seconds=5))
    ctx.send(echo, 2, idempotency_key="sends_later")


@service.handler()
async def calls_twice(ctx: Context) -> int:
    await ctx.call(echo, 1, idempotency_key="calls_twice")
    try:
        return await ctx.call(echo, 2, idempotency_key="calls_twice")
    except TerminalError as error:
        return error.code


@service.handler()
async def careful(ctx: Context) -> int:
    try:
        return await ctx.awakeable(int)
    except Cancelled as error:
        await ctx.sleep(timedelta(seconds=5))
        undone.append(f"callee, own: {error.own}")
        raise


@service.handler()
async def waits_for_the_undoing(ctx: Context) -> int:
    call = ctx.call(careful)
    try:
        return await call
    except Cancelled as error:
        try:
            await call
        except Cancelled as end:
            undone.append(f"caller, own: {error.own} then {end.own}")
        raise


@service.handler()
async def leaves(ctx: Context) -> None:
    ctx.call(callee)
    await ctx.sleep(timedelta(seconds=1))
    raise TerminalError("given up", code=418)


@service.handler()
async def delayed(ctx: Context) -> str:
    return ctx.send(callee, delay=timedelta(days=1)).id


def calls_of(bench: Bench, *handlers: str) -> list[Invocation]:
    rows = bench.store.tables.invocations.values()
    return [row for handler in handlers for row in rows if row.handler == handler]


def claims_nothing(process: Process) -> None:
    async def nothing(_limit: int) -> bool:
        return False

    process.engine.pool._claim = nothing  # type: ignore[assignment,method-assign]


async def the_call(bench: Bench, handler: str = "callee") -> Invocation:
    await until(lambda: calls_of(bench, handler), f"{handler} is called")
    return calls_of(bench, handler)[0]


@ALL
async def test_an_answer_goes_up_the_tree(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "grandcaller")
        call = await the_call(bench)
        awakeable = await bench.awakeable(call.id)
        await bench.settle(process, awakeable.id, 3)
        assert value(await bench.status(invocation_id, "completed")) == 12


async def test_a_call_begins_at_once_and_its_end_resumes_a_live_caller() -> None:
    """Neither waits for a sweep."""
    bench = Bench()
    async with bench.running(app, LIVE) as process:
        began_ms = bench.clock.now_ms()
        invocation_id = await bench.begin(process, "grandcaller")
        awakeable = await bench.awakeable((await the_call(bench)).id)
        await bench.settle(process, awakeable.id, 3)
        await bench.status(invocation_id, "completed")
        assert bench.clock.now_ms() - began_ms < 100
        assert {row.epoch for row in bench.store.tables.invocations.values()} == {1}


async def test_a_call_that_ended_before_the_attachment_is_known_at_once() -> None:
    bench = Bench()

    async def attach(ctx: Context) -> Any:
        return await ctx.attach(ended)

    async with bench.running(app, LIVE) as process:
        ended = await bench.begin(process, "callee")
        await bench.settle(process, (await bench.awakeable(ended)).id, 3)
        await bench.status(ended, "completed")
    async with bench.serving(LIVE, attach=attach) as process:
        began_ms = bench.clock.now_ms()
        invocation_id = await bench.begin(process, "attach")
        assert value(await bench.status(invocation_id, "completed")) == 3
        assert bench.clock.now_ms() - began_ms < 100


@ALL
async def test_a_process_dies_between_the_call_and_its_begin(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        claims_nothing(process)  # it calls, and nobody begins it
        invocation_id = await bench.begin(process, "grandcaller")
        await the_call(bench, "caller")
    async with bench.running(app, settings) as process:
        awakeable = await bench.awakeable((await the_call(bench)).id)
        await bench.settle(process, awakeable.id, 3)
        assert value(await bench.status(invocation_id, "completed")) == 12
    assert len(bench.store.tables.invocations) == 3


@ALL
async def test_a_call_is_made_once_whatever_the_store_forgets_to_say(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        bench.store.lose_after = 1
        invocation_id = await bench.begin(process, "caller")
        bench.store.lose_after = 2
        awakeable = await bench.awakeable((await the_call(bench)).id)
        await bench.settle(process, awakeable.id, 3)
        assert value(await bench.status(invocation_id, "completed")) == 6
    assert len(bench.store.tables.invocations) == 2


@ALL
async def test_cancelling_a_caller_cancels_down_the_tree(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "grandcaller")
        awakeable = await bench.awakeable((await the_call(bench)).id)
        await process.api.cancel(invocation_id)
        await bench.status(invocation_id, "completed")
        for row in calls_of(bench, "caller", "callee"):
            await bench.status(row.id, "completed")
            assert isinstance(bench.row(row.id).result, Cancellation)
        assert (await bench.settle(process, awakeable.id, 1)).kind == "late"


@ALL
async def test_a_cancelled_caller_may_wait_until_its_call_has_undone_its_work(settings: Any) -> None:
    undone.clear()
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "waits_for_the_undoing")
        await bench.awakeable((await the_call(bench, "careful")).id)
        began_ms = bench.clock.now_ms()
        await process.api.cancel(invocation_id)
        row = await bench.status(invocation_id, "completed")
        assert isinstance(row.result, Cancellation)
        assert row.updated_ms - began_ms >= 5000
    assert list(dict.fromkeys(undone)) == ["callee, own: True", "caller, own: True then False"]


@ALL
async def test_a_caller_that_ends_cancels_what_it_has_not_awaited(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "leaves")
        await bench.awakeable((await the_call(bench)).id)
        assert failed(await bench.status(invocation_id, "completed")).code == 418
        row = await bench.status((await the_call(bench)).id, "completed")
        assert isinstance(row.result, Cancellation)


@ALL
async def test_a_kill_takes_down_the_tree_and_frees_its_handlers(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "grandcaller")
        await bench.awakeable((await the_call(bench)).id)
        waiting = asyncio.ensure_future(process.api.result((await the_call(bench)).id))
        await asyncio.sleep(0.01)
        await process.api.kill(invocation_id)
        assert await waiting == KILLED
        assert {row.result for row in bench.store.tables.invocations.values()} == {KILLED}
        await until(lambda: process.engine.live == 0, "nothing is in memory")


async def test_a_killed_call_fails_its_caller_and_leaves_it_to_it() -> None:
    bench = Bench()
    async with bench.running(app, LIVE) as process:
        invocation_id = await bench.begin(process, "caller")
        call = await the_call(bench)
        await bench.awakeable(call.id)
        await process.api.kill(call.id)
        rejection = failed(await bench.status(invocation_id, "completed"))
        assert (rejection.code, call.id in rejection.reason) == (409, True)


async def test_a_send_that_has_not_begun_can_be_cancelled() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        invocation_id = value(await bench.status(await bench.begin(process, "delayed"), "completed"))
        row = await process.api.cancel(invocation_id)
        assert isinstance(row.result, Cancellation)
        with pytest.raises(NotPossible):
            await process.api.kill(invocation_id)


async def test_an_id_of_a_call_that_was_joined_stands_for_the_older_one() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        first = value(await bench.status(await bench.begin(process, "sender"), "completed"))
        second = value(await bench.status(await bench.begin(process, "sender"), "completed"))
        assert first != second
        assert (await process.api.invocation(second)).id == first
        waiting = [asyncio.ensure_future(process.api.result(key)) for key in (first, second)]
        await asyncio.sleep(0.01)
        with pytest.raises(NotPossible):
            await process.api.resume(second)
        assert (await process.api.cancel(second)).id == first
        assert all(isinstance(outcome, Cancellation) for outcome in await asyncio.gather(*waiting))
        with pytest.raises(NotPossible):
            await process.api.kill(second)
        with pytest.raises(NotFound):
            await process.api.kill(f"{second[:-1]}0")


@ALL
async def test_a_send_that_begins_nothing_is_logged_and_counted(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first step as in a later one, and whatever the store forgets to say."""
    bench, log = Bench(), CapturingLogger()
    monkeypatch.setattr(invocationlog, "log", log)
    async with bench.running(app, settings) as process:
        for handler in ("sends_twice", "sends_later"):
            bench.store.lose_after = 1
            invocation_id = await bench.begin(process, handler)
            await bench.status(invocation_id, "completed")
            [call] = [call for call in log.calls if call.args[0] == events.SEND_CONFLICT]
            assert call.method_name == "warning"
            assert call.kwargs == {
                "invocation_id": invocation_id,
                "service": "orders",
                "handler": handler,
                "callee": "orders/echo",
                "key": None,
                "idempotency_key": handler,
            }
            log.calls.clear()
        registry = process.engine.metrics.registry
        of = {"service": "orders", "handler": "echo"}
        assert registry.get_sample_value("awakeables_send_conflicts_total", of) == 2
        assert registry.get_sample_value("awakeables_send_conflicts_total", of | {"handler": "callee"}) == 0


@ALL
async def test_a_call_whose_key_is_refused_fails_in_its_handler_and_is_not_logged(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, log = Bench(), CapturingLogger()
    monkeypatch.setattr(invocationlog, "log", log)
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "calls_twice")
        assert value(await bench.status(invocation_id, "completed")) == 422
    assert [call for call in log.calls if call.args[0] == events.SEND_CONFLICT] == []


@ALL
async def test_a_cancelled_caller_need_not_await_its_calls(settings: Any) -> None:
    async def gives_up(ctx: Context) -> str:
        call = ctx.call(callee)
        try:
            await ctx.sleep(timedelta(days=1))
        except Cancelled:
            return "undone"
        return str(await call)

    local = Service("local")
    local.handler()(gives_up)
    bench = Bench(service="local")
    async with bench.running(App("shop", services=[local, service]), settings) as process:
        invocation_id = await bench.begin(process, "gives_up")
        await bench.awakeable((await the_call(bench)).id)
        await process.api.cancel(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == "undone"
        await bench.status((await the_call(bench)).id, "completed")


@ALL
async def test_a_call_that_is_made_while_a_cancellation_waits_is_cancelled_and_over(settings: Any) -> None:
    acting, go = asyncio.Event(), asyncio.Event()

    async def acts(ctx: Context) -> str:
        async def act() -> None:
            acting.set()
            await go.wait()

        await ctx.run("act", act)
        call = ctx.call(callee)
        try:
            await call
        except Cancelled as error:
            try:
                await call
            except Cancelled as end:
                return f"{error.own} {end.own}"
        return ""

    local = Service("local")
    local.handler()(acts)
    bench = Bench(service="local")
    async with bench.running(App("shop", services=[local, service]), settings) as process:
        invocation_id = await bench.begin(process, "acts")
        await acting.wait()
        await process.api.cancel(invocation_id)
        go.set()
        assert value(await bench.status(invocation_id, "completed")) == "True False"


@ALL
async def test_a_cancellation_at_an_await_of_one_part_of_a_combination(settings: Any) -> None:
    async def parts(ctx: Context) -> list[Any]:
        first, second = ctx.awakeable(int), ctx.awakeable(int)
        both = ctx.gather(first, second)
        told = []
        try:
            await first
        except Cancelled as error:
            told.append(error.own)
        try:
            await both
        except Cancelled as error:
            told.append(error.own)
        await ctx.sleep(timedelta(seconds=1))
        return [*told, first.done, second.done]

    local = Service("local")
    local.handler()(parts)
    bench = Bench(service="local")
    async with bench.running(App("shop", services=[local]), settings) as process:
        invocation_id = await bench.begin(process, "parts")
        await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == [True, False, True, False]


@ALL
async def test_a_cancelled_handler_begins_nothing_new_of_a_map(settings: Any) -> None:
    async def maps(ctx: Context) -> int:
        begun: list[int] = []

        def begin(n: int) -> Any:
            begun.append(n)
            return ctx.call(careful)

        parts = ctx.map(begin, range(10), concurrency=2)
        try:
            await ctx.gather(*parts)
        except Cancelled:
            await ctx.sleep(timedelta(seconds=30))
            await ctx.sleep(timedelta(seconds=30))
            assert isinstance((await ctx.gather(parts[9], return_exceptions=True))[0], Cancelled)
        return len(begun)

    local = Service("local")
    local.handler()(maps)
    bench = Bench(service="local")
    async with bench.running(App("shop", services=[local, service]), settings) as process:
        invocation_id = await bench.begin(process, "maps")
        await bench.awakeable((await the_call(bench, "careful")).id)
        await process.api.cancel(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 2


async def test_a_call_that_is_cancelled_in_the_first_step_is_over_at_once() -> None:
    async def hasty(ctx: Context) -> bool:
        call = ctx.call(callee)
        call.cancel()
        try:
            await call
        except Cancelled as error:
            return error.own
        return True

    local = Service("local")
    local.handler()(hasty)
    bench = Bench(service="local")
    async with bench.running(App("shop", services=[local, service]), LIVE) as process:
        began_ms = bench.clock.now_ms()
        begun = process.api.call(process.api.app.handler("local", "hasty"), None, headers={})
        assert await begun.end == Resolution.of_json(b"false")
        assert bench.clock.now_ms() - began_ms < 100


# ── several instances ───────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def two_instances(bench: Bench) -> AsyncIterator[list[Process]]:
    lingers = quick(linger=timedelta(seconds=10))
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(bench.running(app, lingers)) for _ in range(2)]


async def apart(bench: Bench, one: Process, two: Process) -> tuple[str, str]:
    """A caller in one instance, and its call in the other."""
    claims_nothing(one)
    invocation_id = await bench.begin(one, "caller")
    call = await the_call(bench)
    await bench.awakeable(call.id)
    assert (bench.row(invocation_id).owner, bench.row(call.id).owner) == (
        one.engine.member.id,
        two.engine.member.id,
    )
    return invocation_id, call.id


async def test_a_caller_is_told_of_an_end_in_another_instance_at_once() -> None:
    bench = Bench(shared=True)
    async with two_instances(bench) as (one, two):
        invocation_id, call_id = await apart(bench, one, two)
        began_ms = bench.clock.now_ms()
        await bench.settle(two, bench.awakeables(call_id)[0].id, 3)
        assert value(await bench.status(invocation_id, "completed")) == 6
        assert bench.clock.now_ms() - began_ms < 100
        assert bench.row(invocation_id).epoch == 1


async def test_without_any_hint_it_learns_of_it_when_it_suspends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalHints, "send", lambda *_: None)
    bench = Bench(shared=True)
    async with two_instances(bench) as (one, two):
        invocation_id, call_id = await apart(bench, one, two)
        await bench.settle(two, bench.awakeables(call_id)[0].id, 3)
        assert value(await bench.status(invocation_id, "completed")) == 6


async def test_a_cancellation_reaches_a_call_in_another_instance_at_once() -> None:
    bench = Bench(shared=True)
    async with two_instances(bench) as (one, two):
        invocation_id, call_id = await apart(bench, one, two)
        began_ms = bench.clock.now_ms()
        await one.api.cancel(invocation_id)
        await bench.status(call_id, "completed")
        assert bench.clock.now_ms() - began_ms < 100


async def test_a_kill_reaches_a_call_in_another_instance() -> None:
    bench = Bench(shared=True)
    async with two_instances(bench) as (one, two):
        invocation_id, call_id = await apart(bench, one, two)
        await one.api.kill(invocation_id)
        assert bench.row(call_id).result == KILLED
        assert await two.api.result(call_id) == KILLED
        await until(lambda: two.engine.live == 0, "it has let go of it")


async def test_a_caller_in_another_instance_is_told_of_a_joined_call() -> None:
    bench = Bench(shared=True)
    async with two_instances(bench) as (one, two):
        ids = [value(await bench.status(await bench.begin(p, "sender"), "completed")) for p in (one, two)]
        await bench.settle(one, (await bench.awakeable(ids[0])).id, 4)
        for process in (one, two):
            for key in ids:
                assert await process.api.result(key) == Resolution.of_json(b"4")
