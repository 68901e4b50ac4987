"""Workflows while processes run them: once per key, with promises that its handlers settle and await."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from awakeables import (
    App,
    Cancelled,
    Context,
    ObjectContext,
    Rejected,
    Service,
    SharedContext,
    TerminalError,
    Workflow,
)
from awakeables.core.outcomes import Cancellation, Rejection, Resolution
from awakeables.core.sources import source_of
from awakeables.errors import IdempotencyConflict, InvalidInput, NotFound, NotPossible
from awakeables.testing.bench import Bench, Process, pass_time, quick, until

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)
ALL = pytest.mark.parametrize("settings", [SUSPENDED, LIVE, REPLAYED], ids=["suspended", "live", "replayed"])

signups = Workflow("signups")
VERIFIED = signups.promise("verified", bool)
NOTE = signups.promise("note", str)
STEP = signups.state("step", str, default="new")

callers = Service("callers")


@signups.run()
async def signup(ctx: ObjectContext, email: str) -> list[Any]:
    ctx.set(STEP, "mailed")
    if email == "fail":
        raise TerminalError("no such address", code=422)
    try:
        verified = await ctx.promise(VERIFIED)
    except Rejected as error:
        return [ctx.key, error.reason, error.code]
    return [ctx.key, verified, await ctx.promise(VERIFIED)]


@signups.handler()
async def clicked(ctx: SharedContext, value: bool) -> str:
    return (await ctx.promise(VERIFIED).resolve(value)).kind


@signups.handler()
async def refused(ctx: SharedContext) -> str:
    return (await ctx.promise(VERIFIED).reject("unknown", code=404)).kind


@signups.handler()
async def awaited(ctx: SharedContext) -> Any:
    try:
        return await ctx.promise(VERIFIED)
    except Rejected as error:
        return [error.reason, error.code]


@signups.handler()
async def looked(ctx: SharedContext) -> list[Any]:
    return [await ctx.promise(VERIFIED).peek(), await ctx.get(STEP)]


@signups.handler()
async def raced(ctx: SharedContext) -> str:
    async with ctx.timeout(timedelta(seconds=5)):
        first = await ctx.race(ctx.promise(VERIFIED), ctx.promise(NOTE))
    return str(first)


@signups.handler()
async def noted(ctx: SharedContext, note: str) -> str:
    return (await ctx.promise(NOTE).resolve(note)).kind


@callers.handler()
async def begins(ctx: Context, key: str) -> list[Any]:
    run = ctx.send(signup, "a@b", key=key)
    kind = await ctx.call(clicked, True, key=key)
    return [kind, await run]


@callers.handler()
async def joins(ctx: Context, email: str) -> Any:
    return await ctx.call(signup, email, key="k")


@callers.handler()
async def calls_too_early(ctx: Context, key: str) -> Any:
    sent = ctx.send(clicked, True, key=key)
    try:
        await ctx.call(clicked, True, key=key)
    except TerminalError as error:
        try:
            await sent
        except TerminalError as other:
            return [error.reason, error.code, other.code]
    return None


@callers.handler()
async def misuses(ctx: Context, key: str) -> Any:
    return await ctx.call(signup, "a@b", key=key, idempotency_key="x")


@callers.handler()
async def cancels_the_run(ctx: Context, verb: str) -> str:
    run = (ctx.call if verb == "call" else ctx.send)(signup, "a@b", key="k")
    await ctx.sleep(timedelta(seconds=10))
    run.cancel()
    try:
        await run
    except Cancelled as error:
        return f"cancelled, {'own' if error.own else 'of the run'}"
    return "ended"


app = App("shop", services=[signups, callers])


def shop() -> Bench:
    return Bench(service="signups")


async def begin(bench: Bench, process: Process, handler: str, value: Any = None, key: str = "k") -> str:
    return await bench.begin(process, handler, msgspec.json.encode(value), key=key)


async def result(bench: Bench, invocation_id: str) -> Any:
    row = await bench.status(invocation_id, "completed")
    return msgspec.json.decode(row.result.content) if isinstance(row.result, Resolution) else row.result


async def called(bench: Bench, process: Process, handler: str, value: Any = None, key: str = "k") -> Any:
    return await result(bench, await begin(bench, process, handler, value, key))


async def called_by(bench: Bench, process: Process, handler: str, value: Any) -> Any:
    target = process.api.app.handler("callers", handler)
    begun = await process.api.begin(target, msgspec.json.encode(value))
    return await result(bench, begun.id)


@ALL
async def test_a_promise_blocks_until_a_handler_resolves_it(settings: Any) -> None:
    bench = shop()
    async with bench.running(app, settings) as process:
        run = await begin(bench, process, "run", "a@b")
        waiting = await begin(bench, process, "awaited")
        await pass_time(5)
        assert bench.row(run).status in ("suspended", "running")
        assert await called(bench, process, "looked") == [None, "mailed"]
        assert await called(bench, process, "clicked", True) == "accepted"
        assert await result(bench, run) == ["k", True, True]
        assert await result(bench, waiting) is True
        assert await called(bench, process, "looked") == [True, "mailed"]
        assert await called(bench, process, "awaited") is True


@ALL
async def test_the_first_one_settles_it(settings: Any) -> None:
    bench = shop()
    async with bench.running(app, settings) as process:
        run = await begin(bench, process, "run", "a@b")
        assert await called(bench, process, "refused") == "accepted"
        assert await called(bench, process, "clicked", True) == "conflict"
        assert await called(bench, process, "refused") == "duplicate"
        assert await result(bench, run) == ["k", "unknown", 404]
        assert await called(bench, process, "awaited") == ["unknown", 404]


async def test_a_run_is_begun_once_per_key() -> None:
    bench = shop()
    async with bench.running(app) as process:
        handler = process.api.app.handler("signups", "run")
        one = await process.api.begin(handler, b'"a@b"', key="k")
        again = await process.api.begin(handler, b'"a@b"', key="k")
        assert (again.id, again.created) == (one.id, False)
        with pytest.raises(IdempotencyConflict, match=f"signups/k has a run with another input, {one.id}"):
            await process.api.begin(handler, b'"c@d"', key="k")
        other = await process.api.begin(handler, b'"c@d"', key="other")
        assert other.id != one.id
        await called(bench, process, "clicked", True)
        assert await result(bench, one.id) == ["k", True, True]
        assert (await process.api.begin(handler, b'"a@b"', key="k")).id == one.id


async def test_a_run_takes_no_idempotency_key() -> None:
    bench = shop()
    async with bench.running(app) as process:
        handler = process.api.app.handler("signups", "run")
        key = process.api.app.handler("signups", "clicked")
        from awakeables.core.commands import Idempotency

        with pytest.raises(InvalidInput, match="is begun once per key"):
            await process.api.begin(
                handler, b'"a@b"', key="k", idempotency=Idempotency(scope="s", key="k", fingerprint="f")
            )
        assert key.kind == "signal"


async def test_other_handlers_are_refused_before_the_run_and_leave_nothing() -> None:
    bench = shop()
    async with bench.running(app) as process:
        with pytest.raises(NotFound, match="signups/k has not begun: call its run first"):
            await begin(bench, process, "clicked", True)
        handler = process.api.app.handler("signups", "clicked")
        call = process.api.call(handler, b"true", key="k", headers={})
        with pytest.raises(NotFound, match="has not begun"):
            await call.end
        assert bench.store.tables.invocations == {}
        assert bench.store.tables.awakeables == {}


@ALL
async def test_a_handler_begins_a_run_and_signals_it_in_one_commit(settings: Any) -> None:
    bench = shop()
    async with bench.running(app, settings) as process:
        assert await called_by(bench, process, "begins", "k") == ["accepted", ["k", True, True]]


@ALL
async def test_a_call_of_a_run_joins_it(settings: Any) -> None:
    bench = shop()
    async with bench.running(app, settings) as process:
        run = await begin(bench, process, "run", "a@b")
        target = process.api.app.handler("callers", "joins")
        joined = await process.api.begin(target, b'"a@b"')
        other = await process.api.begin(target, b'"c@d"')
        row = await bench.status(other.id, "completed")
        assert isinstance(row.result, Rejection)
        assert row.result.code == 422
        await called(bench, process, "clicked", False)
        assert await result(bench, run) == ["k", False, False] == await result(bench, joined.id)


async def test_a_call_before_the_run_fails_and_so_does_what_is_sent() -> None:
    bench = shop()
    async with bench.running(app) as process:
        found = await called_by(bench, process, "calls_too_early", "k")
        assert found == ["signups/k has not begun: call its run first", 404, 404]


@pytest.mark.parametrize("how", ["fail", "cancel", "kill"])
async def test_the_end_of_a_run_ends_its_promises(how: str) -> None:
    bench = shop()
    async with bench.running(app) as process:
        run = await begin(bench, process, "run", "a@b" if how != "fail" else "slow")
        waiting = await begin(bench, process, "awaited")
        await until(lambda: len(bench.store.tables.awakeables) >= 4)
        if how == "fail":
            await called(bench, process, "refused")
            assert await result(bench, waiting) == ["unknown", 404]
        else:
            await (process.api.cancel(run) if how == "cancel" else process.api.kill(run))
            row = await bench.status(run, "completed")
            assert isinstance(row.result, Cancellation)
            reason = "the run ended and had not settled this promise"
            assert await result(bench, waiting) == [reason, 410]
            assert await called(bench, process, "clicked", True) == "late"
            assert await called(bench, process, "looked") == [None, "mailed"]
            assert await called(bench, process, "awaited") == [reason, 410]


@ALL
@pytest.mark.parametrize("verb", ["call", "send"])
async def test_a_run_that_another_handler_cancels_at_its_promise_ends_cancelled(
    settings: Any, verb: str
) -> None:
    bench = shop()
    async with bench.running(app, settings) as process:
        assert await called_by(bench, process, "cancels_the_run", verb) == "cancelled, of the run"
        [run] = [row for row in bench.store.tables.invocations.values() if row.handler == "run"]
        assert isinstance(run.result, Cancellation)
        reason = "the run ended and had not settled this promise"
        assert await called(bench, process, "awaited") == [reason, 410]
        assert await called(bench, process, "looked") == [None, "mailed"]


async def test_a_failed_run_keeps_its_key_until_it_is_purged() -> None:
    bench = shop()
    async with bench.running(app) as process:
        run = await begin(bench, process, "run", "fail")
        await bench.status(run, "completed")
        handler = process.api.app.handler("signups", "run")
        with pytest.raises(IdempotencyConflict):
            await process.api.begin(handler, b'"a@b"', key="k")
        with pytest.raises(NotPossible, match=f"delete it with `awakeables purge {run}`"):
            await process.api.restart(run)
        await process.api.purge(run)
        tables = bench.store.tables
        assert (tables.invocations, tables.awakeables, tables.states, tables.keys) == ({}, {}, {}, {})
        again = await begin(bench, process, "run", "a@b")
        assert await called(bench, process, "looked") == [None, "mailed"]
        with pytest.raises(NotPossible, match="cancel or kill it first"):
            await process.api.purge(again)


async def test_retention_frees_everything_of_a_key() -> None:
    bench = shop()
    async with bench.running(app) as process:
        await begin(bench, process, "run", "a@b")
        await called(bench, process, "clicked", True)
        await called(bench, process, "awaited")
    async with bench.running(app) as process:
        await pass_time(60 * 60 * 24 * 32)
        await until(lambda: not bench.store.tables.invocations)
        tables = bench.store.tables
        assert (tables.awakeables, tables.states, tables.keys) == ({}, {}, {})


async def test_nobody_settles_a_promise_from_outside() -> None:
    bench = shop()
    async with bench.running(app) as process:
        await begin(bench, process, "run", "a@b")
        await until(lambda: bench.store.tables.awakeables)
        for awakeable_id in list(bench.store.tables.awakeables):
            verdict = await bench.settle(process, awakeable_id, True, source_of("http", "1"))
            assert verdict.kind == "unknown"
        assert await called(bench, process, "looked") == [None, "mailed"]


@ALL
async def test_a_promise_is_combined(settings: Any) -> None:
    bench = shop()
    async with bench.running(app, settings) as process:
        await begin(bench, process, "run", "a@b")
        racing = await begin(bench, process, "raced")
        await pass_time(3)
        assert await called(bench, process, "noted", "hello") == "accepted"
        assert await result(bench, racing) == "hello"


async def test_a_promise_that_was_declared_after_the_run_began_is_missed_by_name() -> None:
    bench = shop()
    older = Workflow("signups")

    @older.run()
    async def run(ctx: ObjectContext, email: str) -> None:
        await ctx.awakeable()

    async with bench.running(App("shop", services=[older])) as process:
        await begin(bench, process, "run", "a@b")
        await until(lambda: bench.store.tables.awakeables)
    async with bench.running(app) as process:
        reason = "the run has no such promise: it was begun before the promise was declared"
        assert await called(bench, process, "awaited") == [reason, 404]
        assert await called(bench, process, "clicked", True) == "unknown"


async def test_what_a_run_waits_for_is_shown() -> None:
    bench = shop()
    async with bench.running(app) as process:
        run = await begin(bench, process, "run", "a@b")
        waiting = await begin(bench, process, "awaited")
        await bench.status(run, "suspended")
        await bench.status(waiting, "suspended")
        [mine] = await process.api.why(run)
        assert len(mine.waits) == 1
        [first, second] = await process.api.why(waiting)
        assert (first.row.id, second.row.id) == (waiting, run)
        assert [entry.name for entry in await process.api.state("signups", "k", 10)] == ["step"]


async def test_misuse_is_named() -> None:
    bench = shop()
    async with bench.running(app) as process:
        target = process.api.app.handler("callers", "misuses")
        begun = await process.api.begin(target, b'"k"')
        row = await bench.status(begun.id, "paused")
        assert row.failure is not None
        assert "a run is begun once per key; leave out idempotency_key=" in row.failure.message
