"""Combinators and time limits: decided by the order of what the handler has received, in replay as well."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from awakeables import (
    Awakeable,
    Cancelled,
    Context,
    Durable,
    QuorumFailed,
    Reject,
    Rejected,
    Service,
    TerminalError,
    TimedOut,
)
from awakeables.testing import Answer, Paused, PendingAwakeable, Run
from awakeables.testing import run as run_in_memory

Runs = Callable[..., Run]

service = Service("callees")
executed: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


@service.handler()
async def slow(ctx: Context, seconds: int) -> int:
    try:
        await ctx.sleep(timedelta(seconds=seconds))
    except Cancelled:
        await ctx.run("undo", functools.partial(executed.append, f"undone {seconds}"))
        raise
    executed.append(seconds)
    return seconds


@service.handler()
async def fails(ctx: Context, seconds: int) -> int:
    await ctx.sleep(timedelta(seconds=seconds))
    raise TerminalError(f"failed after {seconds}", code=418)


def asked(ctx: Context, *names: str) -> list[Awakeable[str]]:
    """Awakeables whose tasks have these names."""
    several = []
    for name in names:
        awakeable = ctx.awakeable(str)
        ctx.publish("tasks", name, awakeable=awakeable, task=name)
        several.append(awakeable)
    return several


def after(value: Any, seconds: float) -> Any:
    return Answer(value, after=timedelta(seconds=seconds))


def rejected(seconds: int) -> Any:
    return Answer(Reject(f"no after {seconds}"), after=timedelta(seconds=seconds))


A_FIRST = {"a": after("A", 1), "b": after("B", 2), "c": after("C", 3)}
A_LAST = {"a": after("A", 3), "b": after("B", 2), "c": after("C", 1)}


ONE = {"a": after("A", 1)}


def misuse(handler: Any) -> str:
    told = run_in_memory(handler)
    with pytest.raises(Paused) as caught:
        _ = told.value
    return str(caught.value)


# ── gather ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("answers", [A_FIRST, A_LAST])
def test_gather_gives_all_in_the_order_of_its_arguments(run: Runs, answers: Any) -> None:
    async def handler(ctx: Context) -> list[str]:
        return list(await ctx.gather(*asked(ctx, "a", "b", "c")))

    told = run(handler, answers=answers)
    assert (told.value, told.duration) == (["A", "B", "C"], timedelta(seconds=3))


def test_gather_raises_the_first_failure_and_leaves_the_others(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b, c = asked(ctx, "a", "b", "c")
        began = ctx.now()
        try:
            await ctx.gather(a, b, c)
        except Rejected as error:
            return [
                error.reason,
                (ctx.now() - began).total_seconds(),
                [each.done for each in (a, b, c)],
                await c,
            ]
        return []

    answers = {"a": rejected(5), "b": rejected(2), "c": after("C", 7)}
    assert run(handler, answers=answers).value == ["no after 2", 2.0, [False, True, False], "C"]


def test_gather_may_give_failures_in_their_places(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        results = await ctx.gather(*asked(ctx, "a", "b"), return_exceptions=True)
        return [each.reason if isinstance(each, TerminalError) else each for each in results]

    assert run(handler, answers={"a": rejected(2), "b": after("B", 3)}).value == ["no after 2", "B"]


def test_gather_of_nothing_and_of_one_twice(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        [a] = asked(ctx, "a")
        empty: tuple[Any, ...] = await ctx.gather()
        return [empty, await ctx.gather(a, a), await ctx.gather(a)]

    assert run(handler, answers=ONE).value == [[], ["A", "A"], ["A"]]


# ── race, any, quorum, select, as_completed ─────────────────────────────────────────────────


@pytest.mark.parametrize(("answers", "first"), [(A_FIRST, "A"), (A_LAST, "C")])
def test_race_gives_the_first_to_end(run: Runs, answers: Any, first: str) -> None:
    async def handler(ctx: Context) -> list[Any]:
        parts = asked(ctx, "a", "b", "c")
        winner = await ctx.race(*parts)
        return [winner, *await ctx.gather(*parts)]

    assert run(handler, answers=answers).value == [first, "A", "B", "C"]


def test_a_race_that_a_failure_wins_fails(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        return await ctx.race(*asked(ctx, "a", "b"))

    with pytest.raises(TerminalError, match="no after 1"):
        _ = run(handler, answers={"a": rejected(1), "b": after("B", 2)}).value


def test_the_earlier_answer_wins_even_if_the_handler_comes_for_both_much_later(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        a, b, c = asked(ctx, "a", "b", "c")
        await ctx.sleep(timedelta(days=1))
        order = [each.id async for each in ctx.as_completed([a, b, c])]
        return ["abc"[[a.id, b.id, c.id].index(key)] for key in order]

    assert run(handler, answers=A_LAST).value == ["c", "b", "a"]
    assert run(handler, answers=A_FIRST).value == ["a", "b", "c"]


def test_any_skips_failures(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        return await ctx.any(*asked(ctx, "a", "b", "c"))

    answers = {"a": rejected(1), "b": rejected(2), "c": after("C", 3)}
    assert run(handler, answers=answers).value == "C"


def test_any_fails_if_all_fail_with_all_their_errors(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        try:
            await ctx.any(*asked(ctx, "a", "b"))
        except QuorumFailed as error:
            return [error.code, [each.reason for each in error.errors], "2 failed" in error.reason]
        return []

    answers = {"a": rejected(2), "b": rejected(1)}
    assert run(handler, answers=answers).value == [424, ["no after 1", "no after 2"], True]


def test_quorum_gives_the_first_successes_in_their_order(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        parts = asked(ctx, "a", "b", "c")
        return [*await ctx.quorum(2, parts), [part.done for part in parts]]

    assert run(handler, answers=A_LAST).value == ["C", "B", [False, True, True]]


def test_quorum_fails_as_soon_as_it_can_t_be_reached(run: Runs) -> None:
    async def handler(ctx: Context) -> float:
        began = ctx.now()
        with contextlib.suppress(QuorumFailed):
            await ctx.quorum(2, asked(ctx, "a", "b", "c"))
        return (ctx.now() - began).total_seconds()

    assert run(handler, answers={"a": rejected(1), "b": rejected(2), "c": after("C", 9)}).value == 2.0


def test_select_gives_the_future_itself_and_never_its_failure(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b = asked(ctx, "a", "b")
        done = await ctx.select(a, b)
        assert done is b
        assert done.done
        assert isinstance(done.exception(), Rejected)
        again = await ctx.select(a, b)  # it is over, so at once
        return [again is b, a.done, await a, a.exception()]

    assert run(handler, answers={"a": after("A", 3), "b": rejected(1)}).value == [True, False, "A", None]


def test_as_completed_may_be_left_early(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        parts = asked(ctx, "a", "b", "c")
        seen = []
        async for part in ctx.as_completed(parts):
            seen.append(await part)
            if len(seen) == 2:
                break
        nothing = [each async for each in ctx.as_completed(list[Durable[int]]())]
        return [seen, nothing, [part.done for part in parts]]

    assert run(handler, answers=A_LAST).value == [["C", "B"], [], [False, True, True]]


def test_combinators_nest(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b, c = asked(ctx, "a", "b", "c")
        inner = ctx.race(a, b)
        outer = ctx.gather(inner, ctx.any(b, c), ctx.quorum(1, [ctx.gather(a, c)]))
        return [await outer, inner.done, outer.done, outer.exception()]

    assert run(handler, answers=A_LAST).value == [["B", "C", [["A", "C"]]], True, True, None]


def test_parts_of_all_kinds(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        [a] = asked(ctx, "a")
        call, sent = ctx.call(slow, 2), ctx.send(slow, 3)
        ran = ctx.run("act", lambda: "ran")
        nap = ctx.sleep(timedelta(seconds=9))
        verdict = ctx.resolve_awakeable(a.id, "B")
        first = await ctx.gather(a, call, sent, ran)
        told, _ = await ctx.gather(verdict, nap)
        return [*first, told.kind]

    assert run(handler, answers=ONE).value == ["A", 2, 3, "ran", "conflict"]


def test_a_thousand(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        naps = [ctx.sleep(timedelta(seconds=n % 7)) for n in range(1000)]
        await ctx.quorum(900, naps)
        return len(await ctx.gather(*naps))

    assert run(handler).value == 1000


# ── map ─────────────────────────────────────────────────────────────────────────────────────


def test_map_begins_so_many_at_once_and_waits_for_nothing(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        begun: list[int] = []

        def begin(n: int) -> Durable[int]:
            begun.append(n)
            return ctx.call(slow, 10)

        parts = ctx.map(begin, range(5), concurrency=2)
        at_first = list(begun)
        began = ctx.now()
        results = await ctx.gather(*parts)
        return [at_first, begun, results, (ctx.now() - began).total_seconds()]

    value = run(handler).value
    assert value[:3] == [[0, 1], [0, 1, 2, 3, 4], [10] * 5]
    assert 30 <= value[3] < 33


def test_map_goes_on_while_the_handler_waits_for_one_of_the_last(run: Runs) -> None:
    async def handler(ctx: Context) -> list[int]:
        parts = ctx.map(lambda n: ctx.call(slow, n), [3, 2, 1], concurrency=1)
        return [await parts[2], await parts[0]]

    assert run(handler).value == [1, 3]
    assert executed[-3:] == [3, 2, 1]


def test_a_quorum_of_a_map_lets_the_rest_never_begin(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        parts = ctx.map(lambda n: ctx.call(slow, n), [1, 2, 30, 4, 5], concurrency=2)
        first = await ctx.quorum(2, parts, cancel_losers=True)
        return [first, [part.done for part in parts]]

    told = run(handler)
    assert told.value[0] == [1, 2]
    assert sum("call callees/slow" in line for line in told.journal) == 4  # the fourth in place of the second
    assert 5 not in executed


def test_map_without_a_limit_begins_all(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        parts = ctx.map(lambda name: asked(ctx, name)[0], "abc")
        return list(await ctx.gather(*parts))

    assert run(handler, answers=A_FIRST).value == ["A", "B", "C"]


# ── cancelling ──────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_awakeable_takes_no_answer_any_more(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b = asked(ctx, "a", "b")
        a.cancel()
        try:
            await a
        except Cancelled as error:
            verdict = await ctx.resolve_awakeable(a.id, "A")
            return [error.own, "the handler cancelled it" in error.reason, verdict.kind, await b]
        return []

    assert run(handler, answers={"b": after("B", 2)}).value == [False, True, "late", "B"]


def test_what_was_answered_before_it_was_cancelled_stays_answered(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        [a] = asked(ctx, "a")
        await ctx.sleep(timedelta(seconds=5))
        a.cancel()
        return await a

    assert run(handler, answers=ONE).value == "A"


def test_a_cancelled_call_cleans_up_and_is_waited_for(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        call, sent = ctx.call(slow, 100), ctx.send(slow, 200)
        await ctx.sleep(timedelta(seconds=1))
        call.cancel()
        sent.cancel()
        ended = []
        for each in (call, sent):
            try:
                await each
            except Cancelled as error:
                ended.append(error.own)
        return ended

    assert run(handler).value == [False, False]
    assert sorted(executed) == ["undone 100", "undone 200"]


def test_a_cancelled_sleep_and_a_run_that_has_not_begun_are_dropped(run: Runs) -> None:
    async def handler(ctx: Context) -> list[bool]:
        nap = ctx.sleep(timedelta(days=1))
        act = ctx.run("act", lambda: executed.append("acted"))
        nap.cancel()
        act.cancel()
        dropped = []
        for each in (nap, act):
            try:
                await each
            except Cancelled:
                dropped.append(each.done)
        return dropped

    told = run(handler)
    assert (told.value, told.duration, executed) == ([True, True], timedelta(0), [])


def test_losers_are_cancelled_if_you_say_so(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        calls = [ctx.call(slow, n) for n in (3, 60, 90)]
        winner = await ctx.race(*calls, cancel_losers=True)
        again = await ctx.gather(*calls, return_exceptions=True)
        return [winner, [isinstance(each, Cancelled) for each in again]]

    told = run(handler)
    assert (told.value, sorted(map(str, executed))) == (
        [3, [False, True, True]],
        sorted(["3", "undone 60", "undone 90"]),
    )


def test_losers_of_a_nested_combinator_are_cancelled_too(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b, c = asked(ctx, "a", "b", "c")
        result = await ctx.gather(ctx.race(a, b, cancel_losers=True), c)
        try:
            await b
        except Cancelled:
            return [result, (await ctx.resolve_awakeable(b.id, "B")).kind]
        return []

    answers = {"a": after("A", 1), "c": after("C", 3)}
    assert run(handler, answers=answers).value == [["A", "C"], "late"]


def test_without_that_losers_go_on_and_end_with_the_handler(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        return await ctx.race(ctx.call(slow, 1), ctx.call(slow, 50))

    assert run(handler).value == 1


# ── runs in a set ───────────────────────────────────────────────────────────────────────────


def test_runs_are_executed_at_once(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        met = asyncio.Barrier(2)

        async def act(name: str) -> str:
            await met.wait()  # neither ends without the other
            return name

        return await ctx.gather(ctx.run("a", act, "a"), ctx.run("b", act, "b"))

    assert run(handler).value == ["a", "b"]


SUSPENDED_OR_NOT = pytest.mark.parametrize("suspend", [False, True], ids=["live", "always-suspend"])
"""An attempt without state executes an action within one call, which no outcome can interrupt."""


@SUSPENDED_OR_NOT
def test_a_run_that_lost_is_not_executed_again_when_it_is_awaited_later(*, suspend: bool) -> None:
    async def handler(ctx: Context) -> list[Any]:
        ended = asyncio.Event()

        async def act() -> str:
            executed.append("acted")
            await asyncio.sleep(5)
            ended.set()
            return "ran"

        nap, ran = ctx.sleep(timedelta(seconds=1)), ctx.run("act", act)
        first = await ctx.select(nap, ran)
        await ctx.sleep(timedelta(seconds=30))
        return [first is nap, ran.done, await ran, ran.done]

    told = run_in_memory(handler, suspend=suspend)
    assert (told.value, executed) == ([True, False, "ran", True], ["acted"])
    assert "ended, unawaited" in " ".join(told.journal)


def test_a_run_that_fails_in_a_set_is_tried_again_with_the_attempt(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        def act() -> int:
            executed.append("try")
            if len(executed) < 3:
                raise ConnectionError("not yet")
            return len(executed)

        [a] = asked(ctx, "a")
        return list(await ctx.gather(a, ctx.run("act", act)))

    assert run(handler, answers=ONE).value == ["A", 3]


# ── time limits ─────────────────────────────────────────────────────────────────────────────


def test_a_block_s_time_limit_raises_at_the_await_and_cancels_nothing(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        [a] = asked(ctx, "a")
        began = ctx.now()
        try:
            async with ctx.timeout(timedelta(seconds=10)):
                await a
        except TimeoutError as error:
            kind = error.kind if isinstance(error, TimedOut) else ""
        return [kind, (ctx.now() - began).total_seconds(), await a]

    assert run(handler, answers={"a": after("A", 25)}).value == ["block", 10.0, "A"]


def test_what_ends_in_time_leaves_no_timer(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        async with ctx.timeout(timedelta(days=365)):
            [a] = asked(ctx, "a")
            first = await a
        await ctx.sleep(timedelta(seconds=1))
        return first

    told = run(handler, answers=ONE)
    assert (told.value, told.duration) == ("A", timedelta(seconds=2))


def test_every_later_await_in_the_block_is_refused_until_it_is_left(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        raised = 0
        [a] = asked(ctx, "a")
        try:
            async with ctx.timeout(timedelta(seconds=1)):
                for _ in range(3):
                    try:
                        await ctx.gather(a, ctx.sleep(timedelta(seconds=5)))
                    except TimedOut:
                        raised += 1
                await a
        except TimedOut:
            raised += 1
        return [raised, await a]

    assert run(handler, answers={"a": after("A", 9)}).value == [4, "A"]


def test_blocks_nest_and_the_outer_one_wins_if_both_are_over(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        told = []
        for outer, inner in ((1, 9), (9, 1), (2, 2)):
            try:
                async with ctx.timeout(timedelta(seconds=outer)):
                    try:
                        async with ctx.timeout(timedelta(seconds=inner)):
                            await ctx.sleep(timedelta(days=1))
                    except TimedOut:
                        told.append("inner")
                        await ctx.sleep(timedelta(0))
                    told.append("after it")
            except TimedOut:
                told.append("outer")
        return told

    assert run(handler).value == ["inner", "outer", "inner", "after it", "inner", "outer"]


def test_no_time_at_all_is_over_at_the_first_await(run: Runs) -> None:
    async def handler(ctx: Context) -> bool:
        async with ctx.timeout(timedelta(seconds=-5)):
            ctx.publish("notices", 1)  # is no await
            try:
                await ctx.sleep(timedelta(seconds=1))
            except TimedOut:
                return True
        return False

    assert run(handler).value is True


def test_an_awakeable_s_own_time_out_says_so(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        try:
            async with ctx.timeout(timedelta(seconds=9)):
                await ctx.awakeable(timeout=timedelta(seconds=1))
        except TimedOut as error:
            return error.kind
        return ""

    assert run(handler).value == "deadline"


def test_a_reminder_each_day_and_the_same_approval(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        [approval] = asked(ctx, "a")
        while not approval.done:
            try:
                async with ctx.timeout(timedelta(days=1)):
                    await approval
            except TimedOut:
                ctx.publish("reminders", approval.id)
        return [await approval]

    told = run(handler, answers={"a": Answer("yes", after=timedelta(days=30, hours=1))})
    assert told.value == ["yes"]
    assert sum(record.topic == "reminders" for record in told.published) == 30


@SUSPENDED_OR_NOT
def test_an_action_goes_on_when_the_time_is_up(*, suspend: bool) -> None:
    async def handler(ctx: Context) -> list[Any]:
        async def act() -> str:
            executed.append("acted")
            await asyncio.sleep(5)
            return "ran"

        ran = ctx.run("act", act)
        try:
            async with ctx.timeout(timedelta(seconds=1)):
                await ran
        except TimedOut:
            return [await ran]
        return []

    assert (run_in_memory(handler, suspend=suspend).value, executed) == (["ran"], ["acted"])


# ── what combinations leave alone, and in which order ───────────────────────────────────────


@SUSPENDED_OR_NOT
def test_an_action_that_ends_as_a_timer_is_due_is_not_forgotten(*, suspend: bool) -> None:
    async def handler(ctx: Context) -> list[Any]:
        async def act() -> str:
            await asyncio.sleep(0.4998)
            return "ran"

        nap, ran = ctx.sleep(timedelta(seconds=0.5)), ctx.run("act", act)
        await ctx.select(nap, ran)
        return [await ran]

    assert run_in_memory(handler, suspend=suspend).value == ["ran"]


@SUSPENDED_OR_NOT
def test_an_action_that_ends_while_the_handler_awaits_asyncio_is_not_forgotten(*, suspend: bool) -> None:
    async def handler(ctx: Context) -> list[Any]:
        async def act() -> str:
            await asyncio.sleep(0.05)
            return "ran"

        nap, ran = ctx.sleep(timedelta(seconds=0.01)), ctx.run("act", act)
        await ctx.select(nap, ran)
        await asyncio.sleep(0.2)
        return [await ran]

    assert run_in_memory(handler, suspend=suspend).value == ["ran"]


def test_a_sleep_that_is_dropped_within_a_wait_is_waited_for_no_more(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b = asked(ctx, "a", "b")
        nap = ctx.sleep(timedelta(seconds=5))
        return list(await ctx.gather(ctx.race(a, nap, cancel_losers=True), b))

    told = run(handler, answers={"a": after("A", 1), "b": after("B", 20)})
    assert (told.value, told.duration) == (["A", "B"], timedelta(seconds=20))


@SUSPENDED_OR_NOT
def test_a_nested_loser_that_fails_harms_nobody(*, suspend: bool) -> None:
    async def handler(ctx: Context) -> list[Any]:
        async def bad() -> None:
            await asyncio.sleep(2)
            raise ConnectionError("nobody waits for this")

        a, c = asked(ctx, "a", "c")
        return list(await ctx.gather(ctx.race(a, ctx.run("bad", bad)), c))

    answers = {"a": after("A", 1), "c": after("C", 50)}
    assert run_in_memory(handler, answers=answers, suspend=suspend).value == ["A", "C"]


def test_a_run_that_wins_a_nested_race_leaves_the_rest_waited_for(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b, c = asked(ctx, "a", "b", "c")
        inner = ctx.race(ctx.run("act", lambda: "ran"), a, cancel_losers=True)
        return list(await ctx.gather(inner, b, ctx.race(b, c)))

    answers = {"a": after("A", 9), "b": after("B", 2), "c": after("C", 3)}
    assert run(handler, answers=answers).value == ["ran", "B", "B"]


def test_what_was_due_first_is_received_first(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        [a] = asked(ctx, "a")
        ten, five = ctx.sleep(timedelta(seconds=10)), ctx.sleep(timedelta(seconds=5))
        one = ctx.sleep(timedelta(seconds=1))
        async with ctx.timeout(timedelta(seconds=8)):
            await a
        await ctx.sleep(timedelta(seconds=20))
        first = await ctx.select(ten, five)
        async with ctx.timeout(timedelta(seconds=0)):
            await one  # it was over long before the block's time was up
        return [first is five]

    assert run(handler, answers=ONE).value == [True]


def test_a_map_gives_up_no_place_that_was_not_held(run: Runs) -> None:
    async def handler(ctx: Context) -> list[int]:
        begun: list[int] = []

        def begin(n: int) -> Durable[None]:
            begun.append(n)
            return ctx.sleep(timedelta(seconds=60))

        parts = ctx.map(begin, range(6), concurrency=1)
        parts[5].cancel()
        parts[4].cancel()
        await ctx.sleep(timedelta(seconds=1))
        return begun

    assert run(handler).value == [0]


def test_a_part_of_a_map_that_can_t_begin_has_failed(run: Runs) -> None:
    async def handler(ctx: Context) -> list[Any]:
        def begin(n: int) -> Durable[None]:
            if n == 1:
                raise TerminalError("unfit", code=422)
            return ctx.sleep(timedelta(seconds=n))

        parts = ctx.map(begin, range(4), concurrency=1)
        results = await ctx.gather(*parts, return_exceptions=True)
        return [each.reason if isinstance(each, TerminalError) else each for each in results]

    assert run(handler).value == [None, "unfit", None, None]


@SUSPENDED_OR_NOT
def test_a_value_that_no_longer_fits_pauses_whatever_awaits_it(*, suspend: bool) -> None:
    accepted: list[int] = []

    class Narrowing(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def once(cls, x: int) -> int:
            accepted.append(x)
            assert len(accepted) <= 1
            return x

    async def handler(ctx: Context) -> Any:
        answer = ctx.awakeable(Narrowing)
        ctx.publish("tasks", 1, awakeable=answer, task="a")
        return await ctx.any(answer, ctx.sleep(timedelta(seconds=100)))

    with pytest.raises(Paused, match="ValueRefused"):
        _ = run_in_memory(handler, answers={"a": {"x": 1}}, suspend=suspend).value


def test_a_hundred_levels_of_nesting(run: Runs) -> None:
    async def handler(ctx: Context) -> list[str]:
        [a] = asked(ctx, "a")
        future: Durable[Any] = a.promise
        for _ in range(100):
            future = ctx.any(future, ctx.sleep(timedelta(seconds=90)))
        return [await future]

    assert run(handler, answers=ONE).value == ["A"]


# ── misuse ──────────────────────────────────────────────────────────────────────────────────


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("combine", "says"),
    [
        (lambda ctx: ctx.select(coroutine()), "begin it with ctx.map"),
        (lambda ctx: ctx.race(1), "takes durable futures"),
        (lambda ctx: ctx.race(), "ctx.race needs at least one"),
        (lambda ctx: ctx.any(), "ctx.any needs at least one"),
        (lambda ctx: ctx.select(), "ctx.select needs at least one"),
        (lambda ctx: ctx.quorum(1, []), "ctx.quorum needs at least one"),
        (lambda ctx: ctx.quorum(2, [ctx.sleep(timedelta(0))] * 2), "2 are needed, of 1 different"),
        (lambda ctx: ctx.quorum(0, [ctx.sleep(timedelta(0))]), "must be positive"),
        (
            lambda ctx: ctx.gather(ctx.as_completed([ctx.sleep(timedelta(0))])),
            "iterated over with `async for`",
        ),
        (lambda ctx: ctx.resolve_awakeable(ctx.awakeable().id).cancel(), "can't be cancelled: await it"),
        (lambda ctx: ctx.map(lambda n: n, [1]), "ctx.map: its function takes durable futures"),
        (lambda ctx: ctx.map(lambda n: n, [1], concurrency=0), "concurrency must be positive"),
        (lambda ctx: ctx.timeout(5), "must be a timedelta"),
        (lambda ctx: ctx.sleep(timedelta(1)).exception(), "of a future that is not done"),
    ],
)
def test_misuse_is_said_by_name(combine: Any, says: str) -> None:
    async def handler(ctx: Context) -> None:
        combined = combine(ctx)
        if isinstance(combined, Durable):
            await combined

    assert says in misuse(handler)


def test_a_combinator_must_be_awaited_and_its_parts_need_not() -> None:
    async def forgets(ctx: Context) -> None:
        ctx.gather(ctx.sleep(timedelta(0)), ctx.race(ctx.sleep(timedelta(0))))

    assert "never awaited: ctx.gather;" in misuse(forgets)


def test_a_future_of_another_handler_is_refused() -> None:
    kept: list[Durable[None]] = []

    async def first(ctx: Context) -> None:
        kept.append(ctx.sleep(timedelta(0)))
        await kept[0]

    async def second(ctx: Context) -> None:
        await ctx.gather(kept[0], ctx.sleep(timedelta(0)))

    run_in_memory(first)
    assert "is of another handler's context" in misuse(second)


def test_code_that_combines_what_was_awaited_one_by_one_replays(run: Runs) -> None:
    """A combinator has no entries of its own."""
    new_code: list[bool] = []

    async def handler(ctx: Context) -> list[str]:
        a, b, c = asked(ctx, "a", "b", "c")
        if new_code:
            return [*await ctx.gather(a, b), await c]
        first = [await a, await b]
        new_code.append(True)
        return [*first, await c]

    assert run(handler, answers=A_FIRST).value == ["A", "B", "C"]


def test_waits_of_the_kit_see_all_that_is_waited_for() -> None:
    async def handler(ctx: Context) -> list[str]:
        return list(await ctx.gather(ctx.awakeable(str), ctx.awakeable(str)))

    def answer(wait: PendingAwakeable) -> None:
        wait.resolve("x")

    assert run_in_memory(handler, on_wait=answer).value == ["x", "x"]
