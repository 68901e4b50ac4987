"""What is wrong in a test itself is said at once, or at its end."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from awakeables import App, Context, ObjectContext, Service, Task, VirtualObject
from awakeables.errors import InvalidInput
from awakeables.testing import (
    Answer,
    AsyncHarness,
    Endless,
    Harness,
    Paused,
    Stuck,
    WrongAnswer,
    run,
    usercode,
)
from awakeables.testing.loop import Deadlock, SeededLoop

service = Service("orders")
carts = VirtualObject("carts")
ITEMS = carts.state("items", list[str], default=list)
others = VirtualObject("others")
OTHER = others.state("other", int)


@service.handler()
async def asks(ctx: Context) -> str:
    answer = ctx.awakeable(str)
    ctx.publish("tasks", 1, awakeable=answer, task="do")
    return await answer


@service.handler()
async def acts(ctx: Context) -> Any:
    return await ctx.run("act", lambda: 1)


@service.handler(topic="records")
async def reads(ctx: Context, record: dict[str, int]) -> None: ...


@service.handler()
async def ping(ctx: Context) -> None:
    ctx.send(pong)


@service.handler()
async def pong(ctx: Context) -> None:
    ctx.send(ping)


@service.handler()
async def ticks(ctx: Context) -> None:
    ctx.send(ticks, delay=timedelta(days=1))


@service.handler()
async def calls_the_stuck(ctx: Context) -> str:
    return await ctx.call(asks)


@service.handler()
async def never(ctx: Context) -> None:
    await asyncio.Event().wait()


@service.handler()
async def calls_the_never(ctx: Context) -> None:
    await ctx.call(never)


@carts.handler()
async def hold(ctx: ObjectContext) -> str:
    return await ctx.awakeable(str)


@carts.handler()
async def broken(ctx: ObjectContext) -> None:
    raise LookupError("no such cart")


@carts.handler()
async def add(ctx: ObjectContext) -> int:
    return 1


app = App("shop", services=[service, carts])


# ── Endless activity ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usercode, "MOST_EVENTS", 200)


@pytest.mark.usefixtures("few")
def test_handlers_that_begin_each_other_for_ever_are_named() -> None:
    with Harness(app) as harness:
        with pytest.raises(
            Endless, match=r"200 events .*orders/p[io]ng began 10\d times, orders/p[io]ng began 100"
        ):
            harness.send(ping)
        with pytest.raises(Endless):
            harness.advance(timedelta(hours=1))
    with pytest.raises(Endless, match="testing/ping began"):
        run(ping)


@pytest.mark.usefixtures("few")
def test_waiting_for_a_result_while_a_handler_ticks_is_endless_and_advancing_is_not() -> None:
    with Harness(app) as harness:
        stuck = harness.send(asks)
        harness.send(ticks)
        harness.advance(timedelta(days=300))
        assert len(harness.invocations(ticks)) == 302
        with pytest.raises(Endless, match="orders/ticks began"):
            stuck.result()


@pytest.mark.usefixtures("few")
def test_an_action_that_sleeps_again_and_again_is_endless() -> None:
    async def sleeps() -> None:
        while True:  # noqa: ASYNC110 - that is the mistake
            await asyncio.sleep(1)

    with Harness(app) as harness:
        harness.replace("act", sleeps)
        running = harness.send(acts)
        with pytest.raises(Endless, match="time passed 201 times"):
            running.result()


def test_a_loop_in_which_nothing_can_happen_says_so() -> None:
    loop = SeededLoop()
    with pytest.raises(Deadlock, match="no timer is set"):
        loop.run_until_complete(loop.create_future())
    loop.close()


# ── Calls from within ───────────────────────────────────────────────────────────────────────────────


def act_of(harness: Harness) -> list[Callable[[], object]]:
    def in_a_thread_of_its_own() -> object:
        raised: list[BaseException] = []

        def call() -> None:
            try:
                harness.send(asks)
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        raise raised[0]

    async def is_async() -> None:
        harness.crash()

    return [lambda: harness.send(asks), lambda: harness.close(), in_a_thread_of_its_own, is_async]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("within", ["action", "answer"])
def test_the_code_of_the_test_can_not_call_the_harness(within: str, number: int) -> None:
    with Harness(app) as harness:
        act = act_of(harness)[number]
        if within == "answer":
            harness.on_task("do", (lambda task: act()))
            with pytest.raises(RuntimeError, match="in the middle of a call"):
                harness.call(asks)
        else:
            harness.replace("act", act)
            with pytest.raises(Paused, match="in the middle of a call") as caught:
                harness.call(acts)
            assert isinstance(caught.value.__cause__, RuntimeError)
        assert harness.call(add, key="k") == 1


async def test_nor_can_it_call_the_harness_of_an_async_test() -> None:
    async with AsyncHarness(app) as harness:

        async def is_async() -> object:
            return await harness.send(asks)

        for act in (is_async, lambda: asyncio.run(is_async()), lambda: harness.blocking.send(asks)):
            harness.replace("act", act)
            with pytest.raises(Paused, match="in the middle of a call"):
                await harness.call(acts)

        async def answer(task: Task[int]) -> None:
            await harness.close()

        harness.on_task("do", answer)
        with pytest.raises(RuntimeError, match="in the middle of a call"):
            await harness.call(asks)
        assert await harness.call(add, key="k") == 1


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()]
)
def test_whatever_an_answer_raises_fails_the_call_and_not_the_harness(error: BaseException) -> None:
    def answer(task: Task[int]) -> None:
        raise error

    with Harness(app) as harness:
        harness.on_task("do", answer)
        with pytest.raises((SystemExit, KeyboardInterrupt, RuntimeError, Stuck)):
            harness.call(asks)
        assert harness.call(add, key="k") == 1


# ── Names that nothing has ──────────────────────────────────────────────────────────────────────────


def _fail(harness: Harness) -> None:
    harness.fail("atc", ConnectionError())


def _replace(harness: Harness) -> None:
    harness.replace("atc", int)


def _on_task(harness: Harness) -> None:
    harness.on_task("taks", "done")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            _fail,
            "fail() or replace() was called for 'atc', and no such action was executed; "
            "the executed actions are: 'act'",
        ),
        (_replace, "the executed actions are: 'act'"),
        (_on_task, "no task has asked for the answers to 'taks'; published to: 'tasks' (task 'do')"),
    ],
)
def test_a_name_that_nothing_has_fails_the_test_at_its_end(
    prepare: Callable[[Harness], None], message: str
) -> None:
    def test(error: BaseException | None = None) -> None:
        with Harness(app) as harness:
            prepare(harness)
            harness.call(acts)
            harness.send(asks)
            if error is not None:
                raise error

    with pytest.raises((AssertionError, WrongAnswer), match=re.escape(message)):
        test()
    with pytest.raises(ZeroDivisionError):
        test(ZeroDivisionError())
    closed = Harness(app)
    prepare(closed)
    closed.close()


async def test_in_an_async_test_too() -> None:
    async def test(error: BaseException | None = None) -> None:
        async with AsyncHarness(app) as harness:
            harness.replace("atc", int)
            if error is not None:
                raise error

    with pytest.raises(AssertionError, match="the executed actions are: none"):
        await test()
    with pytest.raises(ZeroDivisionError):
        await test(ZeroDivisionError())


def test_what_was_asked_for_under_either_name_is_used() -> None:
    with Harness(app) as harness:
        harness.on_task("tasks", "by the topic")
        harness.on_task("do", "by the name")
        harness.fail("act", ConnectionError(), times=1)
        harness.replace("act", lambda: 2)
        assert (harness.call(asks), harness.call(acts)) == ("by the name", 2)
        harness.on_task("do", "never asked again")


# ── Stuck ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_stuck_invocation_names_what_it_waits_for_and_nothing_else() -> None:
    with Harness(app) as harness:
        other, stuck = harness.send(asks), harness.send(calls_the_stuck)
        harness.send(never)
        (theirs,) = other.waits
        (own,) = [each for each in harness.waiting() if each.id != theirs.id]
        with pytest.raises(
            Stuck, match=rf"^calls_the_stuck waits for {own.id} \(published to 'tasks'\) and nobody"
        ):
            stuck.result()
        with pytest.raises(
            Stuck, match=rf"^asks waits for {theirs.id} .*`on_task` before they are published"
        ):
            other.result()
        with pytest.raises(Stuck, match=r"^calls_the_never waits for orders/never, which awaits something"):
            harness.call(calls_the_never)


def test_a_queued_invocation_waits_for_what_holds_its_key() -> None:
    with Harness(app) as harness:
        held, behind = harness.send(hold, key="a"), harness.send(add, key="a")
        with pytest.raises(Stuck, match=rf"^add waits for {held.waits[0].id} and nobody answers"):
            behind.result()
        harness.send(broken, key="b")
        with pytest.raises(Paused, match=r"^add waits for carts/broken, which is paused: LookupError"):
            harness.call(add, key="b")


# ── Values that can't be used ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("times", [0, -1])
def test_a_failure_is_an_exception_that_is_raised_at_least_once(times: int) -> None:
    with Harness(app) as harness:
        with pytest.raises(ValueError, match="at least 1"):
            harness.fail("act", ConnectionError(), times=times)
        with pytest.raises(TypeError, match="must be an exception"):
            harness.fail("act", "down")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800", {"at": object()}])
def test_what_json_can_not_express_is_refused(value: Any) -> None:
    with Harness(app) as harness:
        harness.send(asks)
        with pytest.raises(WrongAnswer, match="can't be expressed as JSON"):
            harness.next_task("do").resolve(value)
        with pytest.raises(InvalidInput, match="can't be written"):
            harness.produce("records", value)
        assert (harness.invocations(reads), harness.dead_letters) == ([], [])


def test_keys_and_headers_are_text() -> None:
    with Harness(app) as harness:
        for headers in ({"a": b"x"}, {1: "x"}, [("a", "b")]):
            with pytest.raises(TypeError, match="headers"):
                harness.produce("records", {}, headers=headers)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="headers"):
                harness.send(acts, headers=headers)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="key must be str or bytes"):
            harness.produce("records", {}, key=5)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="can't be written"):
            harness.produce("records", {}, key="\ud800")
        assert harness.invocations() == []


def test_state_and_queues_are_those_of_the_app() -> None:
    with Harness(app) as harness:
        for refused in (
            lambda: harness.state(OTHER, "k"),
            lambda: harness.set_state(OTHER, "k", 1),
            lambda: harness.queue(others, "k"),
            lambda: harness.queue(service, "k"),  # type: ignore[arg-type]
            lambda: harness.state(ITEMS, ""),
            lambda: harness.set_state(ITEMS, "\ud800", []),
            lambda: harness.queue(carts, 7),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidInput):
                refused()
        harness.set_state(ITEMS["x"], "k", ["a"])
        assert (harness.state(ITEMS["x"], "k"), harness.state(ITEMS, "k")) == (["a"], None)


def test_arguments_of_another_type_are_refused_and_leave_nothing_open() -> None:
    with pytest.raises(TypeError, match="app must be an App"):
        Harness(carts)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="retry must be a RetryPolicy"):
        AsyncHarness(app, retry=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Harness(app, seed=[])  # type: ignore[arg-type]
    for key in ("\ud800", 7, None):
        with pytest.raises(InvalidInput, match="key"):
            run(add, key=key, state={ITEMS: []})  # type: ignore[arg-type]


def test_tasks_are_found_by_their_name_as_by_their_topic() -> None:
    with Harness(app) as harness:
        harness.send(asks), harness.send(asks)
        assert len(harness.tasks("do")) == len(harness.tasks("tasks")) == 2
        assert harness.next_task("do").awakeable_id != harness.next_task("tasks").awakeable_id
        with pytest.raises(AssertionError, match="no further task waits on 'do'"):
            harness.next_task("do")
        harness.on_task("do", Answer("done", after=timedelta(hours=1)))
        assert harness.call(asks) == "done"
