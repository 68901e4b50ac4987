"""Branches: coroutines in combinators, which run beside the handler within its invocation."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from awakeables import (
    Cancelled,
    Context,
    ObjectContext,
    Reject,
    Rejected,
    RetryPolicy,
    Service,
    Suspended,
    TerminalError,
    TimedOut,
    VirtualObject,
)
from awakeables.testing import Answer, Paused, Run
from awakeables.testing import run as run_in_memory

Runs = Callable[..., Run]
Work = Coroutine[Any, Any, Any]

service = Service("branches")
executed: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


def after(value: Any, seconds: float) -> Any:
    return Answer(value, after=timedelta(seconds=seconds))


async def answered(ctx: Context, name: str) -> str:
    awakeable = ctx.awakeable(str)
    ctx.publish("tasks", name, awakeable=awakeable, task=name)
    return await awakeable


async def acted(ctx: Context, name: str) -> str:
    def act() -> str:
        executed.append(name)
        return name

    return await ctx.run(name, act)


async def nap(ctx: Context, seconds: float) -> float:
    await ctx.sleep(timedelta(seconds=seconds))
    return seconds


async def cleaning_up(ctx: Context, name: str, seconds: float = 60) -> str:
    """Waits, and if it is cancelled does something about it that takes a second."""
    try:
        await nap(ctx, seconds)
    except Cancelled as error:
        await acted(ctx, f"{name}: {error.reason}")
        await nap(ctx, 1)
        raise
    return name


# ── running ─────────────────────────────────────────────────────────────────────────────────


def test_branches_wait_at_the_same_time(run: Runs) -> None:
    async def ship(ctx: Context, box: str) -> str:
        label = await answered(ctx, box)
        await nap(ctx, 2)
        return await acted(ctx, label)

    async def handler(ctx: Context) -> list[str]:
        return list(await ctx.gather(ship(ctx, "a"), ship(ctx, "b"), ship(ctx, "c")))

    told = run(handler, answers={"a": after("A", 3), "b": after("B", 1), "c": after("C", 2)})
    assert (told.value, told.duration) == (["A", "B", "C"], timedelta(seconds=5))
    assert executed == ["B", "C", "A"]


def test_branches_begin_in_the_order_of_the_arguments_when_the_handler_waits(run: Runs) -> None:
    async def branch(ctx: Context, name: str) -> None:
        ctx.publish("notices", f"{name} begins")
        await nap(ctx, 1)
        ctx.publish("notices", f"{name} goes on")

    async def handler(ctx: Context) -> None:
        both = ctx.gather(branch(ctx, "a"), branch(ctx, "b"))
        ctx.publish("notices", "the handler has asked")
        await both
        ctx.publish("notices", "the handler goes on")

    told = run(handler)
    assert [each.payload for each in told.published] == [
        "the handler has asked",
        "a begins",
        "b begins",
        "a goes on",
        "b goes on",
        "the handler goes on",
    ]


def test_combinators_take_branches_and_futures_together(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        call = ctx.call(adds_one, 1)
        first = await ctx.race(nap(ctx, 9), answered(ctx, "a"))
        two = await ctx.quorum(2, [nap(ctx, 4), nap(ctx, 2), nap(ctx, 3)])
        return [first, two, list(await ctx.gather(call, nap(ctx, 0), return_exceptions=True))]

    told = run(handler, answers={"a": after("A", 1)})
    assert (told.value, told.duration) == (["A", [2, 3], [2, 0]], timedelta(seconds=4))


@service.handler()
async def adds_one(ctx: Context, n: int) -> int:
    await ctx.sleep(timedelta(seconds=n))
    return n + 1


def test_branches_have_branches(run: Runs) -> None:
    async def twice(ctx: Context, seconds: float) -> list[float]:
        return list(await ctx.gather(nap(ctx, seconds), nap(ctx, seconds * 2)))

    async def handler(ctx: Context) -> list[Any]:
        return [list(await ctx.gather(twice(ctx, 1), twice(ctx, 2))), await ctx.any(twice(ctx, 3))]

    told = run(handler)
    assert (told.value, told.duration) == ([[[1, 2], [2, 4]], [3, 6]], timedelta(seconds=10))


def test_branches_may_wait_for_the_same_future(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        shared = ctx.awakeable(str)
        ctx.publish("tasks", "a", awakeable=shared, task="a")

        async def waits(name: str) -> str:
            answer = await shared
            await nap(ctx, 1)
            return f"{name} {answer} {await shared}"

        return [*await ctx.gather(waits("x"), waits("y")), await shared]

    assert run(handler, answers={"a": after("A", 1)}).value == ["x A A", "y A A", "A"]


def test_actions_of_branches_run_at_the_same_time_each_once(run: Runs) -> None:
    met = {"n": 0}

    async def meets(name: str) -> str:
        met["n"] += 1
        while met["n"] % 3:  # noqa: ASYNC110 - in whichever loop a test runs
            await asyncio.sleep(0.1)
        executed.append(name)
        return name

    async def branch(ctx: Context, name: str) -> str:
        return await ctx.run(name, meets, name)

    async def handler(ctx: Context) -> list[str]:
        return list(await ctx.gather(*[branch(ctx, name) for name in "abc"]))

    assert run(handler).value == ["a", "b", "c"]
    assert sorted(executed) == ["a", "b", "c"]


def test_map_begins_the_next_branch_when_one_has_ended(run: Runs) -> None:
    under_way: list[int] = []

    async def handler(ctx: Context) -> list[int]:
        under_way.clear()

        async def takes(n: int) -> int:
            under_way.append(n)
            assert len(under_way) <= 2
            await nap(ctx, 4 - n)
            under_way.remove(n)
            return n * 10

        results = ctx.map(takes, range(4), concurrency=2)
        return list(await ctx.gather(*results))

    told = run(handler)
    assert (told.value, told.duration) == ([0, 10, 20, 30], timedelta(seconds=5))


def test_what_map_began_can_be_iterated_over_as_it_ends(run: Runs) -> None:
    async def handler(ctx: Context) -> list[float]:
        ended = []
        async for each in ctx.as_completed(ctx.map(lambda seconds: nap(ctx, seconds), [3, 1, 2])):
            ended.append(await each)
            ended.append(await nap(ctx, 0))
        first = await ctx.select(*ctx.map(lambda seconds: nap(ctx, seconds), [2, 1]))
        return [*ended, await first]

    assert run(handler).value == [1, 0, 2, 0, 3, 0, 1]


def test_a_branch_that_awaits_nothing(run: Runs) -> None:
    async def at_once() -> int:
        return 7

    async def handler(ctx: Context) -> list[int]:
        return list(await ctx.gather(at_once(), at_once()))

    assert run(handler).value == [7, 7]


def test_what_a_branch_awaits_from_asyncio_holds_the_others(run: Runs) -> None:
    async def branch(ctx: Context, name: str) -> None:
        ctx.publish("notices", f"{name}1")
        await asyncio.sleep(0.01)
        ctx.publish("notices", f"{name}2")
        await nap(ctx, 1)

    async def handler(ctx: Context) -> None:
        await ctx.gather(branch(ctx, "a"), branch(ctx, "b"))

    assert [each.payload for each in run(handler).published] == ["a1", "a2", "b1", "b2"]


def test_state_is_read_and_written_by_branches(run: Runs) -> None:
    async def handler(ctx: ObjectContext) -> int:
        async def adds(n: int) -> None:
            await nap(ctx, n)
            ctx.set(COUNT, await ctx.get(COUNT) + n)

        await ctx.gather(adds(1), adds(2), adds(3))
        return await ctx.get(COUNT)

    assert run(counters.handler(f"h{id(handler)}")(handler), key="k").value == 6


counters = VirtualObject("branch-counters")
COUNT = counters.state("count", int, default=0)


SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


def test_each_branch_has_its_own_context_variables_and_so_have_its_actions(run: Runs) -> None:
    async def branch(ctx: Context, name: str) -> list[str]:
        before = SEEN.get()
        SEEN.set(name)
        await nap(ctx, 1)
        return [before, SEEN.get(), await ctx.run("see", SEEN.get)]

    async def handler(ctx: Context) -> list[Any]:
        SEEN.set("handler")
        branches = await ctx.gather(branch(ctx, "a"), branch(ctx, "b"))
        return [*branches, SEEN.get(), await ctx.run("see", SEEN.get)]

    assert run(handler).value == [["handler", "a", "a"], ["handler", "b", "b"], "handler", "handler"]


# ── failures ────────────────────────────────────────────────────────────────────────────────


async def refused(ctx: Context, seconds: float) -> None:
    await nap(ctx, seconds)
    raise TerminalError(f"refused after {seconds}", code=418)


def test_a_terminal_error_is_the_outcome_of_its_branch(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        slow = ctx.race(cleaning_up(ctx, "slow", 5))
        try:
            await ctx.gather(slow, refused(ctx, 1), refused(ctx, 2))
        except TerminalError as error:
            first = [error.reason, slow.done]
        in_place = await ctx.gather(refused(ctx, 1), nap(ctx, 1), return_exceptions=True)
        shown = [each.reason if isinstance(each, TerminalError) else each for each in in_place]
        return [first, shown, await slow]

    assert run(handler).value == [["refused after 1", False], ["refused after 1", 1], "slow"]


def test_any_other_error_fails_the_attempt_at_once(run: Runs) -> None:
    async def fails_first(ctx: Context) -> str:
        await nap(ctx, 1)
        executed.append("tried")
        if executed.count("tried") == 1:
            raise ConnectionError("at first")
        return await acted(ctx, "done")

    async def handler(ctx: Context) -> list[Any]:
        return list(await ctx.gather(cleaning_up(ctx, "other", 3), fails_first(ctx)))

    told = run(handler)
    assert (told.value, told.duration) == (["other", "done"], timedelta(seconds=3))
    assert "done" in executed
    assert not [name for name in executed if "other" in name]  # it was not told of it


def test_an_error_of_the_handler_unwinds_its_branches(run: Runs) -> None:
    unwound = []

    async def branch(ctx: Context, name: str) -> None:
        try:
            await nap(ctx, 60)
        finally:
            unwound.append(name)
            await nap(ctx, 1)  # which has no effect

    async def handler(ctx: Context) -> None:
        ctx.map(lambda name: branch(ctx, name), "ab")
        await nap(ctx, 1)
        raise ConnectionError("always")

    with pytest.raises(Paused, match="always"):
        _ = run(handler).value
    assert unwound[-2:] == ["a", "b"]


def test_what_a_failed_branch_would_have_awaited_is_forgotten(run: Runs) -> None:
    async def branch(ctx: Context) -> None:
        later = ctx.sleep(timedelta(seconds=3))
        await refused(ctx, 1)
        await later

    async def handler(ctx: Context) -> str:
        with pytest.raises(TerminalError):
            await ctx.gather(branch(ctx))
        return "fine"

    assert run(handler).value == "fine"


def test_what_a_branch_forgets_to_await_is_said(run: Runs) -> None:
    async def branch(ctx: Context) -> None:
        ctx.sleep(timedelta(seconds=3))

    async def handler(ctx: Context) -> None:
        await ctx.gather(branch(ctx))

    with pytest.raises(Paused, match=r"never awaited: ctx\.sleep"):
        _ = run(handler).value


# ── the end of the handler ──────────────────────────────────────────────────────────────────


def test_branches_that_live_when_the_handler_returns_are_cancelled_and_waited_for(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        return await ctx.race(cleaning_up(ctx, "a"), answered(ctx, "x"), cleaning_up(ctx, "b"))

    told = run(handler, answers={"x": after("X", 1)})
    assert (told.value, told.duration) == ("X", timedelta(seconds=2))
    assert sorted(executed) == ["a: the handler has ended", "b: the handler has ended"]


def test_branches_that_live_when_the_handler_fails_are_cancelled_too(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.gather(refused(ctx, 1), cleaning_up(ctx, "a"))

    told = run(handler)
    with pytest.raises(TerminalError, match="refused after 1"):
        _ = told.value
    assert (executed, told.duration) == (["a: the handler has ended"], timedelta(seconds=2))


def test_a_branch_that_does_not_end_when_it_is_told_is_waited_for(run: Runs) -> None:
    async def stubborn(ctx: Context) -> None:
        try:
            await nap(ctx, 60)
        except Cancelled:
            await nap(ctx, 5)
            await acted(ctx, "ended by itself")

    async def handler(ctx: Context) -> float | None:
        return await ctx.race(stubborn(ctx), nap(ctx, 1))

    told = run(handler)
    assert (told.value, told.duration, executed) == (1, timedelta(seconds=6), ["ended by itself"])


def test_a_branch_that_has_not_begun_when_the_handler_ends_never_does(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        ctx.map(lambda name: acted(ctx, name), "ab")
        return "fine"

    assert (run(handler).value, executed) == ("fine", [])


# ── cancelling ──────────────────────────────────────────────────────────────────────────────


def test_losers_go_on_unless_they_are_cancelled(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        loser = ctx.race(cleaning_up(ctx, "loser", 5))
        first = await ctx.race(loser, nap(ctx, 1))
        second = await ctx.race(cleaning_up(ctx, "cancelled"), nap(ctx, 1), cancel_losers=True)
        return [first, second, await loser]

    told = run(handler)
    assert (told.value, told.duration) == ([1, 1, "loser"], timedelta(seconds=5))
    assert executed == ["cancelled: the branch was cancelled"]


def test_a_cancelled_branch_leaves_alone_what_it_waited_for(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        approval = ctx.awakeable(str)
        ctx.publish("tasks", "a", awakeable=approval, task="a")

        async def waits() -> str:
            return await approval

        waiting = ctx.race(waits())
        await nap(ctx, 1)
        waiting.cancel()
        with pytest.raises(Cancelled) as caught:
            await waiting
        return [caught.value.reason, caught.value.own, await approval]

    told = run(handler, answers={"a": after("A", 3)})
    assert told.value == ["the branch was cancelled", False, "A"]


def test_a_branch_that_is_cancelled_before_it_begins_never_begins(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        parts = ctx.map(lambda name: acted(ctx, name), ["a", "b"], concurrency=1)
        parts[0].cancel()
        parts[1].cancel()
        results = await ctx.gather(*parts, return_exceptions=True)
        return [each.reason for each in results if isinstance(each, Cancelled)]

    told = run(handler)
    assert told.value == ["it was cancelled before it began"] * 2
    assert executed == []


def test_a_shield_holds_off_the_cancellation_of_a_branch(run: Runs) -> None:
    async def branch(ctx: Context) -> None:
        async with ctx.shield():
            await nap(ctx, 5)
            await acted(ctx, "shielded")
        await nap(ctx, 60)

    async def handler(ctx: Context) -> str:
        shielded = ctx.race(branch(ctx))
        await nap(ctx, 1)
        shielded.cancel()
        with pytest.raises(Cancelled):
            await shielded
        return await acted(ctx, "cancelled")

    told = run(handler)
    assert (told.value, told.duration) == ("cancelled", timedelta(seconds=5))
    assert executed == ["shielded", "cancelled"]


def test_map_goes_on_within_a_shield(run: Runs) -> None:
    async def branch(ctx: Context) -> None:
        async with ctx.shield():
            await ctx.gather(*ctx.map(lambda name: acted(ctx, name), "abc", concurrency=1))
            await nap(ctx, 5)
            await ctx.gather(*ctx.map(lambda name: acted(ctx, name), "def", concurrency=1))
        await nap(ctx, 60)

    async def handler(ctx: Context) -> None:
        shielded = ctx.race(branch(ctx))
        await nap(ctx, 1)
        shielded.cancel()
        with pytest.raises(Cancelled):
            await shielded

    told = run(handler)
    assert (told.value, told.duration, "".join(executed)) == (None, timedelta(seconds=5), "abcdef")


@service.handler()
async def cancels_itself_late(ctx: Context, how: str) -> list[Any]:
    async def steadfast(name: str) -> str:
        """Ends normally, whatever happens."""
        try:
            await nap(ctx, 60)
        except Cancelled as error:
            await acted(ctx, f"{name} {error.own}")
        return name

    async def shielded() -> str:
        async with ctx.shield():
            await nap(ctx, 5)
        await nap(ctx, 60)
        return "never"

    others = [shielded()] if how == "shielded" else []
    try:
        await ctx.gather(steadfast("a"), steadfast("b"), *others, return_exceptions=True)
    finally:
        await acted(ctx, "handler")
    return ["not reached"]


def test_a_cancellation_is_raised_in_each_branch_and_then_in_the_handler(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        call = ctx.call(cancels_itself_late, "plain")
        await nap(ctx, 1)
        call.cancel()
        with pytest.raises(Cancelled):
            await call
        return list(executed)

    run(handler)
    assert sorted(executed) == ["a True", "b True", "handler"]


def test_a_cancellation_waits_until_no_branch_is_shielded(run: Runs) -> None:
    async def handler(ctx: Context) -> float:
        call, began = ctx.call(cancels_itself_late, "shielded"), ctx.now()
        await nap(ctx, 1)
        call.cancel()
        with pytest.raises(Cancelled):
            await call
        return (ctx.now() - began).total_seconds()

    assert run(handler).value == 5
    assert sorted(executed) == ["a True", "b True", "handler"]


# ── cancelled while something goes on ───────────────────────────────────────────────────────


def slowly(name: str, seconds: float = 5, fails: int = 0) -> Callable[[], Coroutine[Any, Any, str]]:
    """An action that takes some time, and fails some times."""

    async def act() -> str:
        executed.append(f"{name} begins")
        await asyncio.sleep(seconds)
        if executed.count(f"{name} begins") <= fails:
            raise ConnectionError(name)
        executed.append(f"{name} ends")
        return name

    return act


SOON = RetryPolicy(initial_interval=timedelta(seconds=20), max_attempts=50)


async def booked(ctx: Context, name: str, fails: int = 0) -> None:
    """A step of a saga, and a long wait."""
    async with ctx.saga() as saga:
        saga.undo(f"undo {name}", executed.append, f"{name} undone")
        await ctx.run(name, slowly(name, fails=fails), retry=SOON if fails else None)
        await nap(ctx, 600)


def test_an_action_that_a_cancelled_branch_awaits_is_not_interrupted() -> None:
    async def handler(ctx: Context) -> float:
        booking = ctx.race(booked(ctx, "a"))
        await ctx.race(booking, nap(ctx, 1), cancel_losers=True)
        began = ctx.now()
        with pytest.raises(Cancelled, match="the branch was cancelled"):
            await booking
        return (ctx.now() - began).total_seconds()

    told = run_in_memory(handler)
    assert (told.value, executed) == (4, ["a begins", "a ends", "a undone"])


def test_nor_is_one_that_runs_when_the_handler_has_ended() -> None:
    async def handler(ctx: Context) -> str | None:
        return await ctx.race(booked(ctx, "a"), answered(ctx, "x"))

    told = run_in_memory(handler, answers={"x": after("X", 1)})
    assert (told.value, executed) == ("X", ["a begins", "a ends", "a undone"])


def test_a_cancelled_branch_whose_action_fails_does_not_wait_for_the_next_try() -> None:
    async def handler(ctx: Context) -> float:
        began = ctx.now()
        booking = ctx.race(booked(ctx, "a", fails=10))
        await nap(ctx, 1)
        booking.cancel()
        with pytest.raises(Cancelled):
            await booking
        return (ctx.now() - began).total_seconds()

    told = run_in_memory(handler)
    assert (told.value, executed) == (5, ["a begins", "a undone"])


def test_a_cancelled_branch_whose_action_is_to_be_tried_again_is_interrupted_at_once(run: Runs) -> None:
    async def handler(ctx: Context) -> float:
        began = ctx.now()
        booking = ctx.race(booked(ctx, "a", fails=10))
        await nap(ctx, 10)
        booking.cancel()
        with pytest.raises(Cancelled):
            await booking
        return (ctx.now() - began).total_seconds()

    told = run(handler)
    assert told.value == 10
    assert executed[-1] == "a undone"


def test_what_a_cancelled_branch_awaits_beside_an_action_may_let_it_go_on() -> None:
    async def branch(ctx: Context) -> None:
        executed.append(await ctx.race(ctx.run("slow", slowly("slow", 60)), nap(ctx, 5)))
        await nap(ctx, 600)

    async def handler(ctx: Context) -> float:
        began = ctx.now()
        part = ctx.race(branch(ctx))
        await nap(ctx, 1)
        part.cancel()
        with pytest.raises(Cancelled):
            await part
        return (ctx.now() - began).total_seconds()

    told = run_in_memory(handler)
    assert (told.value, executed[:2]) == (5, ["slow begins", 5])


@service.handler()
async def is_cancelled_while_it_acts(ctx: Context, how: str) -> str:
    match how:
        case "gather":
            await ctx.gather(booked(ctx, "a"), booked(ctx, "b"), booked(ctx, "c", fails=10))
        case "overlapping":  # at each moment the action of one of them is being executed

            async def again(name: str) -> None:
                for n in range(20):
                    await ctx.run(f"{name}-{n}", slowly(f"{name}-{n}", 4))

            async def later() -> None:
                await nap(ctx, 2)
                await again("b")

            await ctx.gather(again("a"), later())
        case _:

            async def undoing() -> None:
                try:
                    await nap(ctx, 600)
                except Cancelled:
                    await ctx.run("undo", slowly("undo"))

            await ctx.race(undoing(), nap(ctx, 1))
    return "ended"


def cancelled_after(run: Runs, how: str, seconds: float) -> tuple[Any, float]:
    """How it ends if it is cancelled after some time, and after how many seconds."""

    async def handler(ctx: Context) -> tuple[Any, float]:
        call, began = ctx.call(is_cancelled_while_it_acts, how), ctx.now()
        await nap(ctx, seconds)
        call.cancel()
        [result] = await ctx.gather(call, return_exceptions=True)
        took_s = (ctx.now() - began).total_seconds()
        return (type(result).__name__ if isinstance(result, Exception) else result, took_s)

    result, took_s = run(handler).value
    return result, took_s


def test_a_cancellation_lets_actions_of_branches_end_and_undoes_them() -> None:
    result, took_s = cancelled_after(run_in_memory, "gather", 1)
    assert (result, took_s) == ("Cancelled", 5)
    assert sorted(executed[3:]) == ["a ends", "a undone", "b ends", "b undone", "c undone"]


def test_a_cancellation_comes_through_although_some_branch_always_acts() -> None:
    result, took_s = cancelled_after(run_in_memory, "overlapping", 9)
    assert (result, took_s < 20) == ("Cancelled", True)


def test_branches_that_clean_up_after_the_handler_has_returned_are_not_cancelled_again() -> None:
    result, took_s = cancelled_after(run_in_memory, "returned", 3)
    assert (result, took_s, executed) == ("ended", 6, ["undo begins", "undo ends"])


@service.handler()
async def asked(ctx: Context) -> str:
    return await answered(ctx, "never")


@service.handler()
async def acts_beside(ctx: Context, what: str) -> str:
    """Cleans up once, after its action, whatever the cancellation ends beside that."""

    async def beside() -> Any:
        acting = ctx.run("act", slowly("act"))
        others: dict[str, Callable[[], Any]] = {
            "awakeable": lambda: ctx.awakeable(str),
            "call": lambda: ctx.call(asked),
            "branch": lambda: nap(ctx, 600),
            "branch of a branch": lambda: ctx.race(ctx.race(nap(ctx, 600)), nap(ctx, 900)),
            "action of a branch": lambda: acts_first(),
            "awakeable of a branch": lambda: answered(ctx, "never"),
            "call of a branch": lambda: calls(),
            "branch of a branch's": lambda: gathers(),
        }
        try:
            await ctx.gather(acting, others[what]())
        except Cancelled as error:
            executed.append(f"own: {error.own}")
            await ctx.run("undo", slowly("undo"))
            raise

    async def calls() -> str:
        return await ctx.call(asked)

    async def gathers() -> None:
        await ctx.gather(nap(ctx, 600), answered(ctx, "never"))

    async def acts_first() -> None:
        await ctx.run("first", slowly("first", 2))
        await nap(ctx, 600)

    await ctx.gather(beside(), nap(ctx, 700))
    return "ended"


@pytest.mark.parametrize(
    "what",
    [
        "awakeable",
        "call",
        "branch",
        "branch of a branch",
        "action of a branch",
        "awakeable of a branch",
        "call of a branch",
        "branch of a branch's",
    ],
)
def test_a_cancellation_does_not_cut_a_branch_off_by_ending_what_it_awaits_beside_an_action(
    what: str,
) -> None:
    async def handler(ctx: Context) -> str:
        call = ctx.call(acts_beside, what)
        await nap(ctx, 1)
        call.cancel()
        with pytest.raises(Cancelled):
            await call
        return "cancelled"

    assert run_in_memory(handler).value == "cancelled"
    order = [each for each in executed if each.startswith(("act", "undo"))]
    assert order == ["act begins", "act ends", "undo begins", "undo ends"]
    assert {each for each in executed if each.startswith("own")} == {"own: True"}


def test_nor_does_the_end_of_the_handler() -> None:
    async def saga(ctx: Context) -> None:
        async with ctx.saga() as undoing:
            undoing.undo("undo", slowly("undo"))
            await ctx.gather(ctx.run("act", slowly("act")), nap(ctx, 600))

    async def handler(ctx: Context) -> None:
        undone = ctx.race(saga(ctx))
        await ctx.race(undone, ctx.sleep(timedelta(seconds=1)))

    assert run_in_memory(handler).value is None
    assert executed == ["act begins", "act ends", "undo begins", "undo ends"]


@pytest.mark.parametrize("of", ["branch", "handler"])
def test_a_map_goes_on_in_a_shield_with_places_that_were_free_before(of: str) -> None:
    async def work(ctx: Context) -> list[Any]:
        parts = ctx.map(lambda seconds: nap(ctx, seconds), [3, 1, 2], concurrency=1)
        await ctx.run("act", slowly("act", 10))
        async with ctx.shield():
            return [*await ctx.gather(*parts)]

    async def in_a_branch(ctx: Context) -> list[Any]:
        working = ctx.race(work(ctx))
        await ctx.race(working, nap(ctx, 1))
        working.cancel()
        return await working

    async def handler(ctx: Context) -> Any:
        if of == "branch":
            return await in_a_branch(ctx)
        call = ctx.call(maps_in_a_shield)
        await nap(ctx, 1)
        call.cancel()
        [ended] = await ctx.gather(call, return_exceptions=True)
        return type(ended).__name__ if isinstance(ended, Exception) else ended

    assert len(run_in_memory(handler, suspend=False).value) == 3


@service.handler()
async def maps_in_a_shield(ctx: Context) -> list[None]:
    other = ctx.race(nap(ctx, 2))
    parts = ctx.map(lambda seconds: ctx.sleep(timedelta(seconds=seconds)), [3, 1, 2], concurrency=1)
    await ctx.run("act", slowly("act", 10))
    async with ctx.shield():
        with suppress(Cancelled):
            await other
        return [*await ctx.gather(*parts)]


@pytest.mark.parametrize("limit", ["timeout", "cancel"])
def test_an_action_that_was_left_while_it_would_be_tried_again_holds_nothing(run: Runs, limit: str) -> None:
    async def branch(ctx: Context) -> str:
        trying = ctx.run("tries", slowly("tries", 0.1, fails=100), retry=SOON)
        if limit == "cancel":
            await ctx.race(trying, nap(ctx, 1))
            trying.cancel()
        else:
            with suppress(TimedOut):
                async with ctx.timeout(timedelta(seconds=1)):
                    await trying
        return await answered(ctx, "x")

    async def handler(ctx: Context) -> list[str]:
        return [*await ctx.gather(branch(ctx))]

    told = run(handler, answers={"x": after("X", 60)})
    assert (told.value, executed.count("tries begins")) == (["X"], 1)


@service.handler()
async def maps_slow_things(ctx: Context, what: str) -> None:
    if what == "branches":
        await ctx.gather(*ctx.map(lambda name: nap(ctx, 60), "abc", concurrency=2))
    else:
        parts = ctx.map(lambda name: ctx.run(name, slowly(name)), "abc", concurrency=2)
        other = ctx.race(nap(ctx, 60))
        await ctx.gather(*parts)
        await other


@pytest.mark.parametrize(("what", "ends_after_s"), [("branches", 1), ("actions", 5)])
def test_a_cancellation_is_the_invocation_s_although_map_had_more_to_begin(
    what: str, ends_after_s: float
) -> None:
    async def handler(ctx: Context) -> tuple[Any, float]:
        call, began = ctx.call(maps_slow_things, what), ctx.now()
        await nap(ctx, 1)
        call.cancel()
        [error] = await ctx.gather(call, return_exceptions=True)
        return repr(error), (ctx.now() - began).total_seconds()

    (error, after_s) = run_in_memory(handler).value
    assert ("Cancelled" in error, after_s) == (True, ends_after_s)
    assert executed == ([] if what == "branches" else ["a begins", "b begins", "a ends", "b ends"])


@service.handler()
async def waits_after_it_left_an_action(ctx: Context) -> str:
    async def branch() -> str:
        with suppress(TimedOut):
            async with ctx.timeout(timedelta(seconds=1)):
                await ctx.run("slow", slowly("slow", 30))
        return await answered(ctx, "never")

    return (await ctx.gather(branch()))[0]


def test_a_cancellation_does_not_wait_for_an_action_that_was_left() -> None:
    async def handler(ctx: Context) -> float:
        call, began = ctx.call(waits_after_it_left_an_action), ctx.now()
        await nap(ctx, 5)
        call.cancel()
        with pytest.raises(Cancelled):
            await call
        return (ctx.now() - began).total_seconds()

    assert run_in_memory(handler, answers={"never": after("X", 6000)}).value == 5


@pytest.mark.parametrize("twice", ["combinators", "handler", "sibling"])
def test_a_branch_is_told_once_so_that_it_can_clean_up(run: Runs, twice: str) -> None:
    async def handler(ctx: Context) -> str:
        part = ctx.race(cleaning_up(ctx, "a"))
        if twice == "combinators":
            one = ctx.race(part, nap(ctx, 1), cancel_losers=True)
            two = ctx.race(part, nap(ctx, 1.5), cancel_losers=True)
            await ctx.gather(one, two)
        elif twice == "sibling":

            async def cancels() -> None:
                await nap(ctx, 1)
                part.cancel()
                await nap(ctx, 0.5)
                part.cancel()

            await ctx.gather(cancels(), cancels())
        else:
            await nap(ctx, 1)
            part.cancel()
            await nap(ctx, 0.5)
            part.cancel()
        with pytest.raises(Cancelled):
            await part
        return "ended"

    told = run(handler)
    assert (told.value, executed) == ("ended", ["a: the branch was cancelled"])


def test_a_cancelled_branch_that_ends_normally_need_not_await_what_it_had_asked_for(run: Runs) -> None:
    async def branch(ctx: Context) -> str:
        left = ctx.sleep(timedelta(seconds=9))
        try:
            await nap(ctx, 60)
        except Cancelled:
            return "fine"
        await left
        return "never"

    async def handler(ctx: Context) -> str:
        part = ctx.race(branch(ctx))
        await nap(ctx, 1)
        part.cancel()
        return await part

    assert run(handler).value == "fine"


@service.handler()
async def awaits_a_branch_that_is_cancelled(ctx: Context) -> None:
    part = ctx.race(nap(ctx, 60))
    try:
        await nap(ctx, 60)
    finally:
        await part  # raises the branch's own cancellation


def test_an_invocation_is_cancelled_whichever_of_its_coroutines_says_so(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        call = ctx.call(awaits_a_branch_that_is_cancelled)
        await nap(ctx, 1)
        call.cancel()
        [error] = await ctx.gather(call, return_exceptions=True)
        return type(error).__name__

    assert run(handler).value == "Cancelled"


# ── what begins later ───────────────────────────────────────────────────────────────────────


def test_map_begins_nothing_once_the_handler_has_ended(run: Runs) -> None:
    async def item(ctx: Context, name: str) -> str:
        try:
            await nap(ctx, 2)
        except Cancelled:
            await acted(ctx, f"{name} cancelled")
            raise
        return await acted(ctx, name)

    async def handler(ctx: Context) -> str:
        ctx.map(lambda name: item(ctx, name), "abcdef", concurrency=2)
        await nap(ctx, 1)
        return "ended"

    told = run(handler)
    assert (told.value, sorted(executed)) == ("ended", ["a cancelled", "b cancelled"])


def test_map_begins_nothing_once_the_branch_that_called_it_is_cancelled(run: Runs) -> None:
    async def branch(ctx: Context) -> None:
        await ctx.gather(*ctx.map(lambda name: item(ctx, name), "abcdef", concurrency=2))

    async def item(ctx: Context, name: str) -> str:
        await nap(ctx, 2)
        return await acted(ctx, name)

    async def handler(ctx: Context) -> str:
        await ctx.race(branch(ctx), nap(ctx, 3), cancel_losers=True)
        await nap(ctx, 60)
        return "ended"

    told = run(handler)
    assert (told.value, sorted(executed)) == ("ended", ["a", "b", "c", "d"])


def test_what_map_begins_later_has_the_context_variables_of_its_caller(run: Runs) -> None:
    tenant = ContextVar("tenant", default="nobody")

    async def item(ctx: Context, name: str) -> str:
        await nap(ctx, 1)
        return await ctx.run(name, lambda: f"{name} of {tenant.get()}")

    async def branch(ctx: Context, owner: str) -> list[str]:
        tenant.set(owner)
        return [*await ctx.gather(*ctx.map(lambda n: item(ctx, f"{owner}-{n}"), "123", concurrency=1))]

    async def handler(ctx: Context) -> list[str]:
        futures = ctx.map(lambda n: ctx.run(f"root-{n}", tenant.get), "12", concurrency=1)
        of_branches = await ctx.gather(branch(ctx, "ada"), branch(ctx, "bob"))
        return [*of_branches[0], *of_branches[1], *await ctx.gather(*futures)]

    told = run(handler)
    owners = [f"{owner}-{n} of {owner}" for owner in ("ada", "bob") for n in "123"]
    assert told.value == [*owners, "nobody", "nobody"]


# ── side by side ────────────────────────────────────────────────────────────────────────────


def test_a_branch_sees_what_another_has_set_while_both_waited_to_read(run: Runs) -> None:
    async def adds(ctx: ObjectContext, n: int) -> None:
        ctx.set(COUNT, await ctx.get(COUNT) + n)

    async def handler(ctx: ObjectContext) -> int:
        await ctx.gather(*(adds(ctx, n) for n in (1, 10, 100)))
        return await ctx.get(COUNT)

    assert run(counters.handler(f"h{id(handler)}")(handler), key="k").value == 111


def test_two_branches_share_an_iteration(run: Runs) -> None:
    async def takes(ctx: Context, ends: Any, name: str) -> list[float]:
        return [await each async for each in ends]

    async def handler(ctx: Context) -> list[float]:
        ends = ctx.as_completed([ctx.sleep(timedelta(seconds=n)) for n in (1, 2, 3)])
        parts = await ctx.gather(takes(ctx, ends, "a"), takes(ctx, ends, "b"))
        return [len(part) for part in parts]

    assert sum(run(handler).value) == 3


def test_a_task_group_in_a_branch_does_not_swallow_that_the_attempt_ends(run: Runs) -> None:
    async def branch(ctx: Context) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            return await answered(ctx, "x")
        return "never"

    async def handler(ctx: Context) -> list[str]:
        return [*await ctx.gather(branch(ctx), branch(ctx))]

    assert run(handler, answers={"x": after("X", 60)}).value == ["X", "X"]


def test_many_branches_may_clean_up_with_asyncio(run: Runs) -> None:
    async def branch(ctx: Context) -> str:
        try:
            return await answered(ctx, "x")
        finally:
            await asyncio.sleep(0)

    async def handler(ctx: Context) -> int:
        return len(await ctx.gather(*(branch(ctx) for _ in range(150))))

    assert run(handler, answers={"x": after("X", 60)}).value == 150


# ── time limits ─────────────────────────────────────────────────────────────────────────────


def test_a_time_limit_holds_in_the_branch_that_set_it(run: Runs) -> None:
    async def limited(ctx: Context, seconds: float) -> str:
        try:
            async with ctx.timeout(timedelta(seconds=seconds)):
                return await answered(ctx, "a")
        except TimedOut as error:
            return error.kind

    async def handler(ctx: Context) -> list[str]:
        return list(await ctx.gather(limited(ctx, 1), limited(ctx, 5)))

    told = run(handler, answers={"a": after("A", 3)})
    assert (told.value, told.duration) == (["block", "A"], timedelta(seconds=3))


def test_a_time_limit_of_the_handler_leaves_its_branches_alone(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        reminders, work = 0, ctx.race(cleaning_up(ctx, "work", 5))
        while not work.done:
            try:
                async with ctx.timeout(timedelta(seconds=2)):
                    await work
            except TimedOut:
                reminders += 1
        return [reminders, await work]

    assert run(handler).value == [2, "work"]


def test_a_saga_within_a_branch_is_undone(run: Runs) -> None:
    async def book(ctx: Context, name: str, fails: bool) -> None:
        async with ctx.saga() as saga:
            saga.undo(f"undo {name}", executed.append, f"undo {name}")
            await acted(ctx, f"book {name}")
            await nap(ctx, 1)
            if fails:
                raise TerminalError("sold out")

    async def handler(ctx: Context) -> str:
        results = await ctx.gather(book(ctx, "a", False), book(ctx, "b", True), return_exceptions=True)
        return str(results[1])

    assert run(handler).value == "sold out"
    assert executed[2:] == ["undo b"]


def test_a_rejection_is_raised_in_the_branch_that_awaits_it(run: Runs) -> None:
    async def tolerant(ctx: Context) -> str:
        try:
            return await answered(ctx, "a")
        except Rejected as error:
            return f"caught {error.reason}"

    async def handler(ctx: Context) -> list[Any]:
        return list(await ctx.gather(tolerant(ctx), nap(ctx, 1)))

    assert run(handler, answers={"a": Reject("no")}).value == ["caught no", 1]


# ── misuse ──────────────────────────────────────────────────────────────────────────────────


async def begun_elsewhere(ctx: Context) -> None:
    work = nap(ctx, 1)
    await work
    await ctx.gather(work)


async def handed_in_again(ctx: Context) -> None:
    work = nap(ctx, 2)
    await ctx.race(work, nap(ctx, 1))
    await ctx.gather(work)


async def awaits_it_too(ctx: Context) -> None:
    work = nap(ctx, 2)
    both = ctx.race(work)
    await work
    await both


async def awaits_it_later(ctx: Context) -> None:
    work = nap(ctx, 2)
    await ctx.race(work)
    await work


async def forgets_the_star(ctx: Context) -> None:
    await ctx.gather([nap(ctx, 1), nap(ctx, 2)])  # type: ignore[call-overload]


async def forgets_to_call(ctx: Context) -> None:
    await ctx.gather(nap)  # type: ignore[call-overload]


async def waits_for_itself(ctx: Context) -> None:
    futures: list[Any] = []

    async def waits() -> None:
        await futures[0]

    futures.append(ctx.gather(waits()))
    await futures[0]


async def swallows(ctx: Context) -> None:
    async def keeps_on() -> None:
        while True:
            with suppress(BaseException):
                await nap(ctx, 1)

    await ctx.gather(keeps_on(), nap(ctx, 3))


async def uses_asyncio(ctx: Context) -> None:
    async def branch() -> None:
        await asyncio.gather(nap(ctx, 1))

    await ctx.gather(branch())


async def raises_suspended(ctx: Context) -> None:
    async def branch() -> None:
        await nap(ctx, 1)
        raise Suspended

    await ctx.gather(branch(), nap(ctx, 60))


async def gathers_a_number(ctx: Context) -> None:
    await ctx.gather(5, nap(ctx, 1), nap(ctx, 2))  # type: ignore[call-overload]


async def selects_coroutines(ctx: Context) -> None:
    await ctx.select(nap(ctx, 1), nap(ctx, 2))  # type: ignore[type-var, unused-coroutine]


async def combines_when_it_ends(ctx: Context) -> None:
    try:
        await ctx.gather(nap(ctx, 60), gathers_a_number(ctx))
    finally:
        await ctx.gather(nap(ctx, 1), nap(ctx, 2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (raises_suspended, "the handler raised Suspended itself"),
        (gathers_a_number, "takes durable futures"),
        (selects_coroutines, "was given a coroutine"),
        (combines_when_it_ends, "takes durable futures"),
        (begun_elsewhere, "a coroutine that has begun: it was awaited"),
        (handed_in_again, "a coroutine that has begun: it was awaited"),
        (awaits_it_too, "the coroutine nap(…) was passed to a combinator, and awaited as well"),
        (awaits_it_later, "a coroutine was awaited twice, or passed to a combinator and awaited as well"),
        (forgets_the_star, "…; put `*` before it"),
        (forgets_to_call, "; call it"),
        (waits_for_itself, "wait for nothing but each other"),
        (swallows, "caught Suspended"),
        (uses_asyncio, "from another asyncio task or thread"),
    ],
)
def test_misuse_is_said_by_name(handler: Any, says: str) -> None:
    told = run_in_memory(handler)
    with pytest.raises(Paused) as caught:
        _ = told.value
    assert says in str(caught.value)
    gc.collect()  # a coroutine that was never awaited warns now


def test_the_same_coroutine_twice_is_one_branch(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        work = acted(ctx, "once")
        return [list(await ctx.gather(work, work)), list(executed)]

    assert run(handler).value[0] == ["once", "once"]
    assert executed == ["once"]
