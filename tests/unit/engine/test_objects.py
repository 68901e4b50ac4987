"""Virtual objects while processes run them: one at a time per key, in order, with state that lasts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from awakeables import (
    App,
    Cancelled,
    Context,
    Durable,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedContext,
    Subscription,
    TerminalError,
    VirtualObject,
)
from awakeables.core.invocations import CANCELLED
from awakeables.core.outcomes import Cancellation, Rejection, Resolution
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.errors import InvalidInput, NotFound, NotPossible, QueueIsFull
from awakeables.testing.bench import Bench, Process, pass_time, quick, until

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)
ALL = pytest.mark.parametrize("settings", [SUSPENDED, LIVE, REPLAYED], ids=["suspended", "live", "replayed"])

carts = VirtualObject("carts")
small = VirtualObject("small", max_queue=2)
fading = VirtualObject("fading", expire_after=timedelta(days=2))
orders = Service("orders")

ITEMS = carts.state("items", list[str], default=list)
TOTAL = carts.state("total", int)
SEEN = carts.state("seen", bool, default=False)
MARK = fading.state("mark", int)


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> int:
    have = [*await ctx.get(ITEMS), item]
    ctx.set(ITEMS, have)
    return len(have)


@carts.handler()
async def add_slowly(ctx: ObjectContext, item: str) -> int:
    have = await ctx.get(ITEMS)
    await ctx.awakeable()
    ctx.set(ITEMS, [*have, item])
    await ctx.sleep(timedelta(seconds=1))
    return len(have) + 1


@carts.handler()
async def add_then_fail(ctx: ObjectContext, item: str) -> None:
    ctx.set(ITEMS, [*await ctx.get(ITEMS), item])
    raise TerminalError("sold out", code=418)


@carts.handler()
async def set_and_read(ctx: ObjectContext) -> list[Any]:
    first = [ctx.key, await ctx.get(TOTAL), list(await ctx.keys())]
    ctx.set(TOTAL, 7)
    ctx.set(SEEN["o-1"], True)
    await ctx.sleep(timedelta(seconds=1))
    second = [
        await ctx.get(TOTAL),
        await ctx.get(SEEN["o-1"]),
        await ctx.get(SEEN["o-2"]),
        list(await ctx.keys()),
    ]
    ctx.clear(TOTAL)
    third = [await ctx.get(TOTAL), list(await ctx.keys())]
    await ctx.sleep(timedelta(seconds=1))
    return [first, second, third, list(await ctx.keys())]


@carts.handler()
async def empty(ctx: ObjectContext) -> list[str]:
    pending = ctx.get(ITEMS)
    ctx.clear()
    ctx.set(TOTAL, 1)
    return [*await pending, *await ctx.keys()]


@carts.shared()
async def size(ctx: SharedContext) -> int:
    return len(await ctx.get(ITEMS))


@carts.handler()
async def call_itself(ctx: ObjectContext) -> int:
    return await ctx.call(add, "x", key=ctx.key)


@carts.handler()
async def call_through(ctx: ObjectContext) -> str:
    try:
        return await ctx.call(relay, ctx.key)
    except TerminalError as error:
        return f"{error.code} {error.reason}"


@orders.handler()
async def relay(ctx: Context, key: str) -> str:
    return str(await ctx.call(add, "x", key=key))


@carts.handler()
async def call_other(ctx: ObjectContext, other: str) -> str:
    await ctx.sleep(timedelta(seconds=1))
    try:
        return str(await ctx.call(call_back, ctx.key, key=other))
    except TerminalError as error:
        return f"{error.code} {error.reason}"


@carts.handler()
async def call_back(ctx: ObjectContext, other: str) -> str:
    return f"{ctx.key} was called by {other}"


@carts.handler()
async def give_up(ctx: ObjectContext) -> str:
    try:
        async with ctx.timeout(timedelta(seconds=5)):
            await ctx.call(clean_up, ctx.key)
    except TimeoutError:
        return "gave up"
    return "unreachable"


@orders.handler()
async def clean_up(ctx: Context, key: str) -> int:
    try:
        await ctx.awakeable()
    except TerminalError:
        async with ctx.shield():
            await ctx.sleep(timedelta(seconds=1))  # the caller has ended, and its key is free
            return await ctx.call(add, "undone", key=key)
    return 0


@carts.handler()
async def pending_reads(ctx: ObjectContext) -> list[Any]:
    first, second, names = ctx.get(TOTAL), ctx.get(TOTAL), ctx.keys()
    ctx.set(TOTAL, 42)
    await ctx.sleep(timedelta(seconds=1))
    return [await first, await second, await ctx.get(TOTAL), list(await names)]


@carts.handler()
async def read_and_call_off(ctx: ObjectContext) -> list[str]:
    first, second = ctx.get(ITEMS), ctx.get(ITEMS)
    first.cancel()
    return await second


@carts.handler()
async def name_badly(ctx: ObjectContext, coupon: str) -> None:
    ctx.set(SEEN[coupon], True)


@orders.handler()
async def in_order(ctx: Context, key: str) -> list[int]:
    calls = [ctx.call(add, "a", key=key)]
    ctx.send(add, "b", key=key)
    calls.append(ctx.call(add, "c", key=key))
    return list(await ctx.gather(*calls))


@carts.handler()
async def add_in_a_second(ctx: ObjectContext, item: str) -> None:
    have = await ctx.get(ITEMS)
    await ctx.sleep(timedelta(seconds=1))
    ctx.set(ITEMS, [*have, item])


@orders.handler()
async def one_at_a_time(ctx: Context, pattern: str) -> None:
    for n, verb in enumerate(pattern):
        if verb == "T":
            ctx.send(add_in_a_second, f"{verb}{n}", key="c-9")
        else:
            await ctx.call(add_in_a_second, f"{verb}{n}", key="c-9")


@orders.handler()
async def all_at_once(ctx: Context, pattern: str) -> None:
    calls = []
    for n, verb in enumerate(pattern):
        begin = ctx.send if verb == "T" else ctx.call
        call = begin(add_in_a_second, f"{verb}{n}", key="c-9")
        if verb == "F":
            calls.append(call)
    await ctx.gather(*calls)


@orders.handler()
async def in_branches(ctx: Context, pattern: str) -> None:
    async def branch(n: int) -> None:
        begin = ctx.send if pattern[n] == "T" else ctx.call
        call = begin(add_in_a_second, f"{pattern[n]}{n}", key="c-9")
        if pattern[n] == "F":
            await call

    await ctx.gather(*ctx.map(branch, range(len(pattern))))


entered: list[str] = []


@carts.handler(topic=Subscription("additions", name="additions"))
async def add_from_anywhere(ctx: ObjectContext, item: str) -> None:
    have = await ctx.get(ITEMS)
    await ctx.run("enter", entered.append, f"enter {item}")
    await ctx.sleep(timedelta(seconds=1))
    ctx.set(ITEMS, [*have, item])
    await ctx.run("leave", entered.append, f"leave {item}")


@orders.handler()
async def call_several(ctx: Context) -> None:
    await ctx.gather(*[ctx.call(add_from_anywhere, f"called {n}", key="c-7") for n in range(3)])


@orders.handler()
async def send_several(ctx: Context) -> None:
    for n in range(3):
        ctx.send(add_from_anywhere, f"sent {n}", key="c-7")


@orders.handler()
async def wait(ctx: Context) -> None:
    await ctx.awakeable()


@carts.handler()
async def wait_here(ctx: ObjectContext) -> None:
    await ctx.awakeable()


@carts.handler()
async def blocked(ctx: ObjectContext, on: str) -> None:
    ctx.set(TOTAL, 1)
    match on:
        case "call":
            await ctx.call(wait)
        case "call of a key":
            await ctx.call(wait_here, key="c-8")
        case "queued call":
            ctx.send(wait_here, key="c-8")
            await ctx.call(wait_here, key="c-8")
        case "attached":
            await ctx.attach(ctx.send(wait).id)
        case "sleep":
            await ctx.sleep(timedelta(days=30))
        case "awakeable":
            await ctx.awakeable()
        case "failing action":
            await ctx.run("fail", fail, retry=RetryPolicy(initial_interval=timedelta(hours=1)))
        case "long action":
            await ctx.run("act", asyncio.sleep, 20)
            await ctx.get(ITEMS)  # a read that asks the store is an await, too
        case "branches":
            await ctx.gather(wait_in_a_branch(ctx), ctx.call(wait))
        case "race":
            await ctx.race(ctx.awakeable(), ctx.sleep(timedelta(days=30)))
        case _:
            raise AssertionError(on)


async def wait_in_a_branch(ctx: ObjectContext) -> None:
    await ctx.awakeable()


def fail() -> None:
    raise ConnectionError("down")


async def end_of(call: Durable[None]) -> str:
    try:
        await call
    except Cancelled as error:
        return f"cancelled, {'own' if error.own else 'of the call'}"
    return "ended"


@orders.handler()
async def cancel_sent(ctx: Context, on: str) -> str:
    sent = ctx.send(blocked, on, key="c-7")
    await ctx.sleep(timedelta(seconds=10))
    sent.cancel()
    return await end_of(sent)


@orders.handler()
async def cancel_called(ctx: Context, on: str) -> str:
    called = ctx.call(blocked, on, key="c-7")
    await ctx.sleep(timedelta(seconds=10))
    called.cancel()
    return await end_of(called)


@orders.handler()
async def cancel_attached(ctx: Context, invocation_id: str) -> str:
    attached = ctx.attach(invocation_id, None)
    await ctx.sleep(timedelta(seconds=10))
    attached.cancel()
    return await end_of(attached)


@orders.handler()
async def later(ctx: Context, key: str) -> None:
    ctx.send(add, "late", key=key, delay=timedelta(days=7))


@small.handler()
async def hold(ctx: ObjectContext) -> None:
    await ctx.awakeable()


@orders.handler()
async def call_full(ctx: Context) -> str:
    try:
        await ctx.call(hold, key="k")
    except TerminalError as error:
        return f"{error.code} {error.reason}"
    return "held"


@orders.handler()
async def send_full(ctx: Context) -> None:
    ctx.send(hold, key="k")


@fading.handler()
async def mark(ctx: ObjectContext, number: int) -> None:
    ctx.set(MARK, number)


app = App("shop", services=[carts, small, fading, orders])


async def begin(
    process: Process, name: str, given: Any = None, *, key: str | None = "c-7", of: str = "carts"
) -> str:
    content = None if given is None else msgspec.json.encode(given)
    return (await process.api.begin(app.handler(of, name), content, key=key)).id


async def result(process: Process, invocation_id: str) -> Any:
    outcome = await process.api.result(invocation_id)
    assert isinstance(outcome, Resolution), outcome
    return msgspec.json.decode(outcome.content)


def queues(bench: Bench) -> int:
    return len(bench.store.tables.rows.objects)


async def answer(bench: Bench, process: Process, invocation_id: str) -> None:
    await bench.settle(process, (await bench.awakeable(invocation_id)).id, 1)


@ALL
async def test_calls_of_a_key_run_one_after_the_other_and_each_sees_what_the_one_before_has_set(
    settings: Any,
) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        ids = [await begin(process, "add_slowly", str(n)) for n in range(3)]
        other = await begin(process, "add", "x", key="c-8")
        assert await result(process, other) == 1
        rows = bench.store.tables.invocations
        for n, key in enumerate(ids):
            await bench.awakeable(key)
            assert [rows[each].status == "queued" for each in ids[n + 1 :]] == [True] * (2 - n)
            await answer(bench, process, key)
            assert await result(process, key) == n + 1
        assert await result(process, await begin(process, "size")) == 3
        assert queues(bench) == 0


@ALL
async def test_reads_see_what_was_set_and_cleared_before_them(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        first = await result(process, await begin(process, "set_and_read"))
        assert first == [
            ["c-7", None, []],
            [7, True, False, ["seen/o-1", "total"]],
            [None, ["seen/o-1"]],
            ["seen/o-1"],
        ]
        await result(process, await begin(process, "add", "x"))
        assert await result(process, await begin(process, "empty")) == ["total"]
        assert [entry.name for entry in await process.api.state("carts", "c-7", 9)] == ["total"]


@ALL
async def test_what_was_set_stays_when_the_handler_fails(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        outcome = await process.api.result(await begin(process, "add_then_fail", "x"))
        assert isinstance(outcome, Rejection)
        assert outcome.code == 418
        assert await result(process, await begin(process, "size")) == 1


@ALL
async def test_a_shared_handler_runs_beside_the_one_that_holds_the_key(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        holder = await begin(process, "add_slowly", "x")
        await bench.awakeable(holder)
        assert await result(process, await begin(process, "size")) == 0
        await answer(bench, process, holder)
        await result(process, holder)
        assert await result(process, await begin(process, "size")) == 1


@ALL
async def test_calls_and_sends_of_one_handler_keep_their_order(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        assert await result(process, await begin(process, "in_order", "c-9", key=None, of="orders")) == [1, 3]
        stored = await process.api.state("carts", "c-9", 9)
        assert [msgspec.json.decode(entry.value)["value"] for entry in stored] == [["a", "b", "c"]]


@ALL
@pytest.mark.parametrize("handler", ["one_at_a_time", "all_at_once", "in_branches"])
@pytest.mark.parametrize("pattern", ["TFF", "FTF", "TTF"])
async def test_a_key_sees_sends_and_calls_of_one_handler_in_the_order_made(
    settings: Any, handler: str, pattern: str
) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        await result(process, await begin(process, handler, pattern, key=None, of="orders"))
        await until(lambda: queues(bench) == 0, "what was sent has ended")
        stored = await process.api.state("carts", "c-9", 9)
        expected = [f"{verb}{n}" for n, verb in enumerate(pattern)]
        assert [msgspec.json.decode(entry.value)["value"] for entry in stored] == [expected]


@ALL
async def test_calls_of_a_key_from_several_origins_run_one_by_one_each_origin_s_in_order(
    settings: Any,
) -> None:
    async def over_http() -> None:
        for n in range(3):
            await begin(process, "add_from_anywhere", f"http {n}")

    async def from_kafka() -> None:
        sink = process.engine.subscriptions.topics["additions"].sink(0)
        await sink.open()
        values = [msgspec.json.encode(f"record {n}") for n in range(3)]
        batch = [
            ConsumedRecord(offset=n, timestamp_ms=0, key=b"c-7", value=value)
            for n, value in enumerate(values)
        ]
        assert await sink.take(batch[:2]) == 2
        assert await sink.take(batch[2:]) == 3

    entered.clear()
    bench = Bench()
    async with bench.running(app, settings) as process:
        await asyncio.gather(
            over_http(),
            begin(process, "call_several", key=None, of="orders"),
            from_kafka(),
            begin(process, "send_several", key=None, of="orders"),
        )
        await until(lambda: len(entered) == 24 and queues(bench) == 0, "all have run")
        [entry] = await process.api.state("carts", "c-7", 9)
        items = msgspec.json.decode(entry.value)["value"]
        assert entered == [f"{verb} {item}" for item in items for verb in ("enter", "leave")]
        for origin in ("http", "record", "called", "sent"):
            assert [item for item in items if item.startswith(origin)] == [f"{origin} {n}" for n in range(3)]


BLOCKED_ON = (
    "call",
    "call of a key",
    "queued call",
    "attached",
    "sleep",
    "awakeable",
    "failing action",
    "long action",
    "branches",
    "race",
)


@ALL
@pytest.mark.parametrize("how", ["from outside", "sent", "called", "attached"])
@pytest.mark.parametrize("on", BLOCKED_ON)
async def test_a_holder_that_is_cancelled_while_it_is_blocked_ends_cancelled_and_frees_its_key(
    settings: Any, how: str, on: str
) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        canceller = None
        if how in ("sent", "called"):
            canceller = await begin(process, f"cancel_{how}", on, key=None, of="orders")
        else:
            await begin(process, "blocked", on)
        rows = bench.store.tables.invocations
        await until(lambda: any(row.handler == "blocked" for row in rows.values()), "it is begun")
        [holder] = [row.id for row in rows.values() if row.handler == "blocked"]
        if how == "attached":
            canceller = await begin(process, "cancel_attached", holder, key=None, of="orders")
        behind = await begin(process, "add", "behind")
        await asyncio.sleep(5)
        assert (rows[holder].result, rows[behind].status) == (None, "queued")
        queue = (await process.api.key_status("carts", "c-7")).queue
        assert queue is not None
        assert queue.head == holder
        if canceller is None:
            await process.api.cancel(holder)
        else:
            assert await result(process, canceller) == "cancelled, of the call"
        await bench.status(holder, "completed")
        assert rows[holder].result == Cancellation(reason=CANCELLED)
        assert await result(process, behind) == 1
        assert await result(process, await begin(process, "add", "next")) == 2
        assert ("carts", b"c-7") not in bench.store.tables.rows.objects
        stored = {entry.name for entry in await process.api.state("carts", "c-7", 9)}
        assert stored == {"items", "total"}, "what it had set before stays"


@ALL
async def test_a_call_that_would_wait_for_its_caller_s_key_is_refused(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        outcome = await process.api.result(await begin(process, "call_itself"))
        assert isinstance(outcome, Rejection)
        assert (outcome.code, outcome.reason) == (409, "deadlock: carts/c-7 would wait for itself")
        through = await result(process, await begin(process, "call_through"))
        assert through == "409 deadlock: carts/c-7 would wait for itself"


@ALL
async def test_what_cleans_up_after_a_caller_that_has_ended_may_call_its_key(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        assert await result(process, await begin(process, "give_up")) == "gave up"
        await pass_time(60)
        assert await result(process, await begin(process, "size")) == 1
        assert queues(bench) == 0


@ALL
async def test_each_read_that_is_pending_ends_by_itself(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        found = await result(process, await begin(process, "pending_reads"))
        assert found == [42, 42, 42, ["total"]]
        assert await result(process, await begin(process, "read_and_call_off")) == []


@pytest.mark.parametrize("coupon", ["", "é" * 200])
async def test_a_text_that_makes_no_name_fails_the_handler_and_frees_the_key(coupon: str) -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        outcome = await process.api.result(await begin(process, "name_badly", coupon))
        assert isinstance(outcome, Rejection)
        assert outcome.code == 422
        assert await result(process, await begin(process, "add", "next")) == 1


@ALL
async def test_two_keys_that_call_each_other_don_t_wait_for_ever(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        ids = [
            await begin(process, "call_other", "b", key="a"),
            await begin(process, "call_other", "a", key="b"),
        ]
        ends = [await result(process, key) for key in ids]
        refused = [end for end in ends if end.startswith("409 deadlock")]
        assert len(refused) == 1, ends
        assert any("was called by" in end for end in ends)
        assert queues(bench) == 0


@ALL
async def test_a_delayed_call_takes_its_place_when_its_time_has_come(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        await result(process, await begin(process, "later", "c-7", key=None, of="orders"))
        assert await result(process, await begin(process, "add", "now")) == 1
        holder = await begin(process, "add_slowly", "held")
        await bench.awakeable(holder)
        await pass_time(timedelta(days=8).total_seconds())
        [late] = [row for row in bench.store.tables.invocations.values() if row.status == "queued"]
        await answer(bench, process, holder)
        assert await result(process, holder) == 2
        assert await result(process, late.id) == 3


async def test_a_full_queue_refuses_calls_but_takes_what_is_sent() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        held = [await begin(process, "hold", key="k", of="small") for _ in range(2)]
        with pytest.raises(QueueIsFull, match="small/k has 2 calls in its queue already"):
            await begin(process, "hold", key="k", of="small")
        waiting = process.api.call(app.handler("small", "hold"), None, key="k", headers={})
        with pytest.raises(QueueIsFull):
            await waiting.end
        called = await result(process, await begin(process, "call_full", key=None, of="orders"))
        assert called == "429 small/k has 2 calls in its queue already"
        await result(process, await begin(process, "send_full", key=None, of="orders"))
        status = await process.api.key_status("small", "k")
        assert status.queue is not None
        assert (status.queue.head, status.queue.length) == (held[0], 3)


@pytest.mark.parametrize("verb", ["cancel", "kill"])
async def test_one_that_is_cancelled_or_killed_passes_the_key_on(verb: str) -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        ids = [await begin(process, "add_slowly", str(n)) for n in range(4)]
        await bench.awakeable(ids[0])
        end = getattr(process.api, verb)
        await end(ids[1])  # queued: it ends at once, and the ones behind don't see it
        assert bench.store.tables.invocations[ids[1]].status == "completed"
        await end(ids[0])
        await bench.awakeable(ids[2])
        assert bench.store.tables.invocations[ids[3]].status == "queued"
        await end(ids[3])
        await end(ids[2])
        await until(lambda: queues(bench) == 0, "the key is free")
        assert await result(process, await begin(process, "add", "x")) == 1


async def test_a_paused_key_begins_nothing_and_its_state_can_be_edited() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        with pytest.raises(NotPossible, match="carts/c-7 is not paused"):
            await process.api.edit_state("carts", "c-7", {"items": b'["a"]'})
        holder = await begin(process, "add_slowly", "x")
        await bench.awakeable(holder)
        await process.api.pause_key("carts", "c-7")
        queued = await begin(process, "add", "y")
        with pytest.raises(NotPossible, match=f"is held by {holder}, which has begun"):
            await process.api.edit_state("carts", "c-7", {"items": b'["a"]'})
        await answer(bench, process, holder)
        await result(process, holder)
        assert bench.store.tables.invocations[queued].status == "queued"
        with pytest.raises(InvalidInput, match="does not fit the state 'items'"):
            await process.api.edit_state("carts", "c-7", {"items": b"1"})
        await process.api.edit_state("carts", "c-7", {"items": b'["a","b"]', "other": b"{}"})
        status = await process.api.resume_key("carts", "c-7")
        assert status.queue is not None
        assert status.queue.head == queued
        assert await result(process, queued) == 3
        assert queues(bench) == 0
        await process.api.pause_key("carts", "c-7")
        await process.api.edit_state("carts", "c-7", {"other": None})
        await process.api.resume_key("carts", "c-7")
        assert queues(bench) == 0
        assert [entry.name for entry in await process.api.state("carts", "c-7", 9)] == ["items"]


async def test_why_follows_a_key_along_calls_to_what_holds_it_up() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        holder = await begin(process, "add_slowly", "x", key="b")
        awakeable = await bench.awakeable(holder)
        caller = await begin(process, "call_other", "b", key="a")
        behind = await begin(process, "add", "y", key="a")
        rows = bench.store.tables.invocations
        await until(lambda: [row for row in rows.values() if row.handler == "call_back"], "it is called")
        [call] = [row for row in rows.values() if row.handler == "call_back"]
        found = await process.api.why(behind)
        assert [each.row.id for each in found] == [behind, caller, call.id, holder]
        assert [wait.id for wait in found[-1].waits] == [awakeable.id]
        status = await process.api.key_status("carts", "a")
        assert [row.id for row in status.in_line] == [behind]
        assert [each.row.id for each in status.head] == [caller, call.id, holder]
        with pytest.raises(NotFound, match="no object 'cart'; there are these objects: carts, fading, small"):
            await process.api.key_status("cart", "a")


async def test_state_expires_when_it_was_not_written_to_for_long() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        await result(process, await begin(process, "mark", 1, key="old", of="fading"))
        await pass_time(timedelta(days=1).total_seconds())
        await result(process, await begin(process, "mark", 1, key="new", of="fading"))
        await pass_time(timedelta(days=1, hours=1).total_seconds())
        await process.engine.retention.purge()
        assert await process.api.keys_with_state("fading", 9) == ["new"]


async def test_a_handler_needs_its_key() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        with pytest.raises(InvalidInput, match="carts/size is a handler of an object"):
            await begin(process, "size", key=None)
        with pytest.raises(InvalidInput, match="has 1 to 1,024 bytes of UTF-8, not 0"):
            await begin(process, "size", key="")
        with pytest.raises(InvalidInput, match="a handler of a service, which has no keys"):
            await begin(process, "relay", "x", key="k", of="orders")


async def test_a_process_that_dies_while_it_holds_a_key_passes_it_on_after_its_end() -> None:
    bench = Bench()
    async with bench.running(app, LIVE) as process:
        ids = [await begin(process, "add_slowly", str(n)) for n in range(2)]
        await bench.awakeable(ids[0])
    async with bench.running(app, LIVE) as process:
        for n, key in enumerate(ids):
            await answer(bench, process, key)
            assert await result(process, key) == n + 1
