"""Runners as objects with events: none is left waiting for an event that never comes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context
from awakeables.core.commands import Advance, Begin
from awakeables.core.outcomes import Cancellation, Outcome, Resolution
from awakeables.engine.engine import EngineSettings, HandlersRun
from awakeables.engine.waits import Waits
from awakeables.handlers.attempt import AwakeableWait
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.testing.bench import Bench, quick, until
from unit.engine.harness import BOTH, failed, value


class NoThread(Executor):
    """Can't start a thread, once."""

    def __init__(self) -> None:
        self.fails = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("can't start new thread")
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


async def any_of(ctx: Context, *awakeables: Any) -> int:
    """The place of the first of these that is answered."""
    return awakeables.index(await ctx.select(*awakeables))


async def test_an_action_that_could_not_be_executed_is_tried_again() -> None:
    bench = Bench()

    async def act(ctx: Context) -> int:
        return await ctx.run("act", lambda: 7)

    async with bench.serving(act=act) as process:
        process.engine.pool.attempts.executor = NoThread()  # type: ignore[attr-defined]
        row = await bench.status(await bench.begin(process, "act"), "completed")
        assert value(row) == 7


async def test_a_handler_whose_task_was_cancelled_by_other_code_is_run_again() -> None:
    bench = Bench()
    tries: list[int] = []

    async def handler(ctx: Context) -> int:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(1000)
        return len(tries)

    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        [task] = [task for task in asyncio.all_tasks() if task.get_name() == invocation_id]
        task.cancel()
        assert value(await bench.status(invocation_id, "completed")) == 2
        assert [type(error) for error in process.engine.errors] == [asyncio.CancelledError]
        process.engine.errors.clear()


@BOTH
async def test_a_first_step_that_the_store_refuses_fails_the_invocation_and_not_its_caller(
    settings: EngineSettings,
) -> None:
    bench = Bench()

    async def poison(ctx: Context) -> None:
        ctx.publish("poison", 1)
        await ctx.awakeable()

    def refused(member: Any) -> bool:
        return isinstance(member, Begin | Advance) and b'"topic":"poison"' in (member.chunk or b"")

    async with bench.serving(settings, poison=poison) as process:
        bench.store.refuses = refused
        row = await bench.status(await bench.begin(process, "poison"), "completed")
        assert "the store refuses" in failed(row).reason
        assert bench.awakeables(row.id) == []
        assert bench.broker.published == []
        assert process.engine.live == 0


async def test_the_waiters_of_a_cancelled_invocation_are_answered_although_its_canceller_has_gone() -> None:
    bench = Bench()

    async def handler(ctx: Context) -> None:
        await ctx.awakeable()

    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler", delay=timedelta(hours=1))
        result = asyncio.ensure_future(process.api.result(invocation_id))
        await asyncio.sleep(0.1)
        bench.store.gate.clear()
        cancelling = asyncio.ensure_future(process.api.cancel(invocation_id))
        await asyncio.sleep(0.1)
        cancelling.cancel()
        bench.store.gate.set()
        async with asyncio.timeout(1):
            assert isinstance(await result, Cancellation)


async def test_what_was_settled_before_the_claim_has_arrived_before_what_was_settled_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    read, go_on = asyncio.Event(), asyncio.Event()
    outcomes = bench.store.outcomes

    async def slowly(awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        found = await outcomes(awakeable_ids)
        read.set()
        await go_on.wait()
        return found

    async def first(ctx: Context) -> int:
        return await any_of(ctx, ctx.awakeable(int), ctx.awakeable(int))

    async with bench.serving(first=first) as process:
        invocation_id = await bench.begin(process, "first")
        await bench.status(invocation_id, "suspended")
        monkeypatch.setattr(bench.store, "outcomes", slowly)
        one, other = bench.awakeables(invocation_id)
        await bench.settle(process, other.id, 2, "http:2")
        await read.wait()
        await bench.settle(process, one.id, 1, "http:1")
        go_on.set()
        assert value(await bench.status(invocation_id, "completed")) == 1


async def test_a_search_of_arrivals_by_what_is_awaited_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutation: the order of arrival is that of the inbox, not that in which the handler asked."""

    def careless(waits: Waits, inbox: Mapping[str, Outcome], *_: object) -> list[tuple[int, Outcome]]:
        return [(index, inbox[key]) for key, index in waits.answers.items() if key in inbox]

    with monkeypatch.context() as patched:
        patched.setattr(Waits, "arrived", careless)
        with pytest.raises(AssertionError):
            await test_what_was_settled_before_the_claim_has_arrived_before_what_was_settled_after_it(patched)


@pytest.mark.parametrize("adapter", [LocalAttempts, StatelessAttempts])
async def test_a_process_that_stops_leaves_no_task_behind(adapter: HandlersRun) -> None:
    bench = Bench(handlers=adapter)

    async def act(ctx: Context) -> None:
        await ctx.run("act", functools.partial(asyncio.sleep, 1000))

    async with bench.serving(act=act) as process:
        await bench.begin(process, "act")
        await asyncio.sleep(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_the_answer_to_a_single_wait_is_found_without_a_search() -> None:
    class Inbox(dict[str, Any]):
        def items(self) -> Any:
            raise AssertionError("a handler of many answers would go through all of them at each step")

    one, two = Resolution.of_json(b"1"), Resolution.of_json(b"2")
    inbox = Inbox(a=one, b=two)
    assert Waits([AwakeableWait(index=3, awakeable_id="b")]).arrived(inbox, {}, 0) == [(3, two)]
    assert Waits([AwakeableWait(index=3, awakeable_id="c")]).arrived(inbox, {}, 0) == []


async def test_a_timer_is_not_called_in_the_context_of_the_request_that_set_it() -> None:
    bench = Bench()
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    async def sleeps(ctx: Context, s: float) -> None:
        await ctx.sleep(timedelta(seconds=s))
        if s > 1:
            raise ValueError

    async with bench.serving(quick(linger=timedelta(seconds=5)), sleeps=sleeps) as process:
        process.engine.pool.on_failure = lambda _error: seen.append(request.get())
        for name, content in (("one", b"1"), ("other", b"2")):
            request.set(name)
            await bench.begin(process, "sleeps", content)
        await until(lambda: seen)
        assert seen == ["none"]


async def test_a_handler_that_finds_many_answers_at_hand_makes_few_commits() -> None:
    bench = Bench()

    async def sums(ctx: Context) -> int:
        answers = [ctx.awakeable(int) for _ in range(100)]
        return sum([await answer for answer in answers])

    async with bench.serving(sums=sums) as process:
        invocation_id = await bench.begin(process, "sums")
        await bench.status(invocation_id, "suspended")
        process.engine.pool.stop_claiming()  # nothing goes on before all answers are there
        for number, awakeable in enumerate(bench.awakeables(invocation_id)):
            await bench.settle(process, awakeable.id, number, f"http:{number}")
    before = len(bench.store.members(Advance))
    async with bench.serving(sums=sums):
        await bench.status(invocation_id, "completed")
    assert bench.row(invocation_id).result == Resolution.of_json(b"4950")
    assert len(bench.store.members(Advance)) == before + 1
