"""`ctx.call`, `ctx.send` and `ctx.attach`: one handler begins another, and may wait for its end."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from awakeables import Call, Cancelled, Context, RetryPolicy, Service, TerminalError
from awakeables.handlers import invoking
from awakeables.testing import Paused, Run, Stuck
from awakeables.testing import run as run_in_memory
from support.ids import new_id

Runs = Callable[..., Run]

parcels = Service("parcels")
executed: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


class Box(BaseModel):
    id: str
    weight: int = Field(default=1, ge=0)


@parcels.handler()
async def pack(ctx: Context, box: Box) -> Box:
    await ctx.run("pack", functools.partial(executed.append, box.id))
    return Box(id=box.id.upper(), weight=box.weight + 1)


@parcels.handler("renamed")
async def count(ctx: Context, most: int = 10) -> int:
    return most


@parcels.handler()
async def ping(ctx: Context) -> str:
    return "pong"


@parcels.handler()
async def raw(ctx: Context, content: bytes) -> bytes:
    return content[::-1]


@parcels.handler()
async def fail(ctx: Context, depth: int) -> None:
    if depth:
        await ctx.call(fail, depth - 1)
    raise TerminalError("sold out", code=418, details={"left": 0})


@parcels.handler()
async def answered(ctx: Context, box: Box) -> str:
    callback = ctx.awakeable(str)
    ctx.publish("pack", box, awakeable=callback)
    return await callback


@parcels.handler()
async def recurse(ctx: Context) -> None:
    await ctx.call(recurse)


@parcels.handler()
async def shown(ctx: Context) -> list[Any]:
    return [dict(ctx.request.headers), ctx.request.invocation_id]


@parcels.handler()
async def crash(ctx: Context) -> int:
    executed.append("crash")
    if len(executed) < 3:
        raise ConnectionError("not yet")
    return len(executed)


def misuse(run: Runs, handler: Any, *args: Any) -> str:
    with pytest.raises(Paused) as caught:
        _ = run(handler, *args).value
    return str(caught.value)


# ── results ─────────────────────────────────────────────────────────────────────────────────


def test_the_result_has_the_callee_s_type(run: Runs) -> None:
    async def caller(ctx: Context) -> Any:
        box = await ctx.call(pack, Box(id="a"))
        assert isinstance(box, Box)
        return [box, await ctx.call(count), await ctx.call(count, 3), await ctx.call(ping)]

    told = run(caller)
    assert told.value == [{"id": "A", "weight": 2}, 10, 3, "pong"]
    assert executed == ["a"]


def test_bytes_go_there_and_back(run: Runs) -> None:
    async def caller(ctx: Context) -> bytes:
        return await ctx.call(raw, b"\x00\xff")

    assert run(caller).value == b"\xff\x00"


def test_a_call_can_be_awaited_again_and_calls_in_any_order(run: Runs) -> None:
    async def caller(ctx: Context) -> list[int]:
        calls = [ctx.call(count, n) for n in range(5)]
        first = [await call for call in reversed(calls)]
        return first + [await call for call in calls]

    assert run(caller).value == [4, 3, 2, 1, 0, 0, 1, 2, 3, 4]


def test_a_callee_waits_for_its_own_answers(run: Runs) -> None:
    async def caller(ctx: Context) -> list[str]:
        calls = [ctx.call(answered, Box(id=name)) for name in "ab"]
        return [await call for call in calls]

    told = run(caller, answers={"pack": lambda task: task.payload["id"] * 2})
    assert told.value == ["aa", "bb"]


def test_failures_come_over_with_code_reason_and_details_through_three_levels(run: Runs) -> None:
    async def caller(ctx: Context) -> list[Any]:
        try:
            await ctx.call(fail, 2)
        except TerminalError as error:
            return [error.reason, error.code, error.details]
        return []

    assert run(caller).value == ["sold out", 418, {"left": 0}]


def test_an_uncaught_failure_of_a_call_is_the_caller_s_own(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        await ctx.call(fail, 1)

    with pytest.raises(TerminalError) as caught:
        _ = run(caller).value
    assert (caught.value.reason, caught.value.code) == ("sold out", 418)


def test_a_callee_that_crashes_is_tried_again_by_itself(run: Runs) -> None:
    async def caller(ctx: Context) -> int:
        executed.append("caller") if not executed else None
        return await ctx.call(crash)

    assert run(caller, retry=RetryPolicy(max_attempts=5)).value == 3


def test_a_paused_callee_is_named_where_the_caller_waits(run: Runs) -> None:
    async def caller(ctx: Context) -> int:
        return await ctx.call(crash)

    with pytest.raises(Paused, match="parcels/crash, which is paused: ConnectionError: not yet"):
        _ = run(caller, retry=RetryPolicy(max_attempts=1)).value


# ── inputs ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("handler", "given", "says"),
    [
        (pack, ({"id": "a", "weight": -1},), "does not fit"),
        (pack, (Box.model_construct(id="a", weight=-1),), "does not fit"),
        (pack, (), "a body is required"),
        (ping, (1,), "takes no input"),
        (count, ("many",), "does not fit"),
    ],
)
def test_an_input_that_does_not_fit_is_a_failure_and_nothing_is_begun(
    run: Runs, handler: Any, given: Any, says: str
) -> None:
    async def caller(ctx: Context) -> list[Any]:
        failures = []
        for verb in (ctx.call, ctx.send):
            try:
                verb(handler, *given)
            except TerminalError as error:
                failures.append([error.code, says in error.reason])
            await ctx.sleep(timedelta(seconds=1))
        return failures

    told = run(caller)
    assert told.value == [[422, True], [422, True]]
    assert [line.partition(",")[2][:9] for line in told.journal if "parcels" in line] == [" refused:"] * 2


def test_what_was_begun_is_not_checked_again_in_replay(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    async def caller(ctx: Context) -> Any:
        call = ctx.call(pack, Box(id="a"))
        await ctx.sleep(timedelta(seconds=1))
        # From now on, every replay passes an input that its type no longer takes.
        monkeypatch.setattr(Box, "model_dump_json", None)
        return (await call).id

    assert run(caller).value == "A"


def test_an_input_is_limited(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoking, "MAX_INPUT_BYTES", 10)

    async def caller(ctx: Context) -> list[Any]:
        try:
            await ctx.call(raw, b"12345678901")
        except TerminalError as error:
            return [error.code, error.reason]
        return []

    assert run(caller).value == [413, "the input of parcels/raw has 11 bytes; at most 10"]


def test_headers_are_those_that_are_given_and_the_trace_goes_on(run: Runs) -> None:
    async def caller(ctx: Context) -> list[Any]:
        headers, callee = await ctx.call(shown, headers={"X-Tenant": "t"})
        return [headers, ctx.request.traceparent, callee != ctx.request.invocation_id]

    headers, traceparent, another = run(caller, headers={"authorization": "secret"}).value
    assert headers.keys() == {"x-tenant", "traceparent"}
    assert headers["x-tenant"] == "t"
    assert headers["traceparent"].split("-")[1] == traceparent.split("-")[1]
    assert another


# ── sends, attaching, keys ──────────────────────────────────────────────────────────────────


def test_a_send_goes_its_own_way_and_may_be_awaited(run: Runs) -> None:
    async def caller(ctx: Context) -> list[Any]:
        ctx.send(pack, Box(id="unseen"))
        sent = ctx.send(pack, Box(id="a"), delay=timedelta(hours=1))
        attached = ctx.attach(sent.id, Box)
        began = ctx.now()
        box = await sent
        return [
            box.id,
            (await attached).weight,
            (ctx.now() - began).total_seconds(),
            await ctx.attach(sent.id),
        ]

    told = run(caller)
    assert told.value == ["A", 2, 3600.0, {"id": "A", "weight": 2}]
    assert sorted(executed) == ["a", "unseen"]


def test_sends_with_a_delay_end_in_their_time(run: Runs) -> None:
    async def caller(ctx: Context) -> float:
        began = ctx.now()
        sent = [ctx.send(count, n, delay=timedelta(seconds=n)) for n in range(10)]
        assert [await each for each in sent] == list(range(10))
        return (ctx.now() - began).total_seconds()

    assert run(caller).value == 9.0


def test_calls_with_one_key_are_one_invocation(run: Runs) -> None:
    async def caller(ctx: Context) -> list[Any]:
        sent = ctx.send(pack, Box(id="a"), idempotency_key="k")
        called = ctx.call(pack, Box(id="a"), idempotency_key="k")
        assert called.id != sent.id
        results = [await called, await sent, await ctx.attach(called.id, Box)]
        try:
            await ctx.call(pack, Box(id="b"), idempotency_key="k")
        except TerminalError as error:
            results.append(error.code)  # type: ignore[arg-type]
        other = ctx.send(pack, Box(id="c"), idempotency_key="k")
        try:
            await other
        except TerminalError as error:
            results.append(error.code)  # type: ignore[arg-type]
        return results

    box = {"id": "A", "weight": 2}
    assert run(caller).value == [box, box, box, 422, 422]
    assert executed == ["a"]


def test_attaching_to_nothing(run: Runs) -> None:
    unknown = new_id("inv", at_ms=1_767_225_600_000, entropy=bytes(10))

    async def caller(ctx: Context) -> list[int]:
        codes = []
        for invocation_id in (unknown, unknown[:-1], "prom_1x"):
            try:
                await ctx.attach(invocation_id)
            except TerminalError as error:
                codes.append(error.code)
        return codes

    assert run(caller).value == [404, 400, 400]


def test_ids_are_known_at_once_and_stay(run: Runs) -> None:
    async def caller(ctx: Context) -> bool:
        call, sent = ctx.call(shown), ctx.send(shown)
        before = await ctx.run("ids", lambda: [call.id, sent.id])
        return before == [call.id, sent.id] == [(await call)[1], (await sent)[1]]

    assert run(caller).value is True


# ── misuse ──────────────────────────────────────────────────────────────────────────────────


def test_a_call_must_be_awaited(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        ctx.call(ping)

    assert "never awaited: ctx.call(ping)" in misuse(run, caller)


async def no_handler(ctx: Context) -> None: ...


@pytest.mark.parametrize("verb", ["call", "send"])
@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((no_handler,), {}, "pass the function itself, as it was declared"),
        (("parcels/ping",), {}, "pass the function itself"),
        (([],), {}, "pass the function itself"),
        ((ping,), {"idempotency_key": ""}, "an idempotency key is a string of 1 to 255"),
        ((ping,), {"idempotency_key": 7}, "an idempotency key is a string of 1 to 255"),
        ((ping,), {"idempotency_key": "\ud800"}, "can't be journaled"),
        ((ping,), {"headers": {"a": 1}}, "headers are a mapping of strings"),
        ((ping,), {"headers": {"a": "\ud800"}}, "can't be journaled"),
    ],
)
def test_misuse_is_said_by_name(run: Runs, verb: str, args: Any, kwargs: Any, says: str) -> None:
    async def caller(ctx: Context) -> None:
        await getattr(ctx, verb)(*args, **kwargs)

    assert says in misuse(run, caller)


def test_a_delay_must_be_a_timedelta(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        ctx.send(ping, delay=5)  # type: ignore[call-overload]

    assert "ctx.send: delay must be a timedelta" in misuse(run, caller)


def test_nobody_attaches_to_itself(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        await ctx.attach(ctx.request.invocation_id)

    assert "can't wait for its own end" in misuse(run, caller)


def test_not_in_an_action(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        await ctx.run("inside", lambda: ctx.call(ping))

    assert "inside an action" in misuse(run, caller)


def test_asyncio_s_tools_are_refused_for_calls_too(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        await asyncio.gather(ctx.call(ping), ctx.send(ping))

    assert "a durable future was handed to asyncio" in misuse(run, caller)


def test_a_recursion_without_an_end_is_ended(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoking, "MAX_DEPTH", 5)

    async def caller(ctx: Context) -> None:
        await ctx.call(recurse)

    with pytest.raises(TerminalError) as caught:
        _ = run(caller).value
    assert (caught.value.code, caught.value.reason) == (
        508,
        "parcels/recurse is not called: calls are nested 5 deep",
    )


def test_changed_code_is_told_which_call_its_journal_has() -> None:
    seen: list[int] = []

    async def caller(ctx: Context) -> Any:
        seen.append(1)
        call: Call[Any] = ctx.call(ping) if len(seen) == 1 else ctx.call(count)
        await ctx.sleep(timedelta(seconds=1))
        return await call

    assert "call parcels/ping" in misuse(run_in_memory, caller)


def test_the_kit_calls_handlers_of_any_service_and_keeps_its_own(run: Runs) -> None:
    async def caller(ctx: Context) -> str:
        assert not isinstance(await ctx.call(ping), Cancelled)
        return await ctx.call(ping)

    assert run_in_memory(caller).value == "pong"


def test_a_refused_call_is_refused_in_replay_and_the_next_one_is_not(run: Runs) -> None:
    async def caller(ctx: Context) -> list[Any]:
        told: list[Any] = []
        calls: list[Call[Any]] = []
        for given in (Box.model_construct(id="a", weight=-1), Box(id="b")):
            for verb in (ctx.call, ctx.send):
                try:
                    calls.append(verb(pack, given))
                except TerminalError as error:
                    told.append(error.code)
        await ctx.sleep(timedelta(seconds=1))
        return [*told, *[(await call).id for call in calls]]

    assert run(caller).value == [422, 422, "B", "B"]
    assert executed == ["b", "b"]


def test_a_chain_of_sends_may_be_as_long_as_it_likes(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoking, "MAX_DEPTH", 3)

    async def caller(ctx: Context) -> None:
        await ctx.call(daily, 10)
        await ctx.sleep(timedelta(days=30))

    run(caller)
    assert executed == list(range(10, -1, -1))


@parcels.handler()
async def daily(ctx: Context, left: int) -> None:
    await ctx.run("note", functools.partial(executed.append, left))
    if left:
        ctx.send(daily, left - 1, delay=timedelta(days=1))


@parcels.handler()
async def nested(ctx: Context, n: int) -> int:
    if n == 0:
        return 0
    below, other = ctx.call(nested, n - 1), ctx.call(count)
    return await below + await other


def test_a_recursive_handler_is_the_same_one_throughout(run: Runs) -> None:
    assert run(nested, 3).value == 30


def test_a_paused_invocation_that_was_only_sent_is_not_blamed(run: Runs) -> None:
    async def caller(ctx: Context) -> None:
        ctx.send(crash)
        await ctx.awakeable()

    with pytest.raises(Stuck, match="waits for prom_1"):
        _ = run(caller, retry=RetryPolicy(max_attempts=1)).value


@parcels.handler()
async def waits_for(ctx: Context, who: str) -> int:
    return await ctx.attach(who, int)


def test_a_circle_of_waits_is_stuck_and_the_kit_says_so(run: Runs) -> None:
    async def caller(ctx: Context) -> int:
        return await ctx.call(waits_for, ctx.request.invocation_id)

    with pytest.raises(Stuck):
        _ = run(caller).value
