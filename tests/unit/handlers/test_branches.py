"""Branches: coroutines in combinators, which run beside the handler within its invocation."""

from __future__ import annotations

import asyncio
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
    Service,
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


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (begun_elsewhere, "a coroutine that has begun: it was awaited"),
        (handed_in_again, "a coroutine that has begun: it was awaited"),
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


def test_the_same_coroutine_twice_is_one_branch(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        work = acted(ctx, "once")
        return [list(await ctx.gather(work, work)), list(executed)]

    assert run(handler).value[0] == ["once", "once"]
    assert executed == ["once"]
