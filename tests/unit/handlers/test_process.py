"""What a handler or an action can't do to the process: hang it, spin it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NoReturn

import anyio
import pytest
from pydantic import BaseModel, field_serializer, field_validator

from awakeables import Context, RetryPolicy, Service, TerminalError
from awakeables.errors import InvalidInput
from awakeables.testing import Paused, WrongAnswer
from awakeables.testing import run as run_in_memory
from unit.handlers.conftest import Runs

ONCE = RetryPolicy(max_attempts=1)
CAUGHT = r"^HandlerMisuse: the handler caught Suspended"
HOUR = timedelta(hours=1)

Handler = Callable[[Context], Awaitable[Any]]


# ── a handler that swallows its end ─────────────────────────────────────────────────────────


async def loops(ctx: Context) -> Any:
    answer = ctx.awakeable()
    while True:
        try:
            return await answer
        except:  # noqa: E722
            pass


async def loops_over_base_exception(ctx: Context) -> Any:
    answer = ctx.awakeable()
    while True:
        with contextlib.suppress(BaseException):
            return await answer


async def asks_again(ctx: Context) -> Any:
    """What is asked for raises, too: the loop never comes by its await."""
    while True:
        with contextlib.suppress(BaseException):
            answer = ctx.awakeable()
            ctx.publish("asked", str(ctx.uuid()), awakeable=answer)
            await ctx.run("note", print)
            await ctx.sleep(HOUR)
            return await answer


async def awaits_again_at_the_end(ctx: Context) -> Any:
    answer = ctx.awakeable()
    try:
        return await answer
    finally:
        while True:
            with contextlib.suppress(BaseException):
                await answer


async def pauses_between(ctx: Context) -> Any:
    answer = ctx.awakeable()
    while True:
        try:
            return await answer
        except BaseException:
            await asyncio.sleep(0.1)


async def never_comes_back(ctx: Context) -> Any:
    with contextlib.suppress(BaseException):
        await ctx.awakeable()
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(0.001)


class Suppresses:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: object) -> bool:
        return True


async def loops_in_a_context(ctx: Context) -> Any:
    answer = ctx.awakeable()
    while True:
        async with Suppresses():
            return await answer


async def loops_in_a_generator(ctx: Context) -> Any:
    answer = ctx.awakeable()

    async def answers() -> AsyncIterator[Any]:
        while True:
            with contextlib.suppress(BaseException):
                yield await answer

    async for value in answers():
        return value


@pytest.mark.parametrize(
    "handler",
    [
        loops,
        loops_over_base_exception,
        asks_again,
        awaits_again_at_the_end,
        pauses_between,
        never_comes_back,
        loops_in_a_context,
        loops_in_a_generator,
    ],
)
def test_case_p1_a_handler_that_swallows_its_end_is_paused_by_name(run: Runs, handler: Handler) -> None:
    with pytest.raises(Paused, match=CAUGHT):
        _ = run(handler).value


def test_case_p1_a_handler_that_swallows_a_misuse_again_and_again_is_paused_by_name(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        answer = ctx.awakeable()
        while True:
            with contextlib.suppress(BaseException):
                return await asyncio.wait_for(answer, 5)

    with pytest.raises(Paused, match=r"^HandlerMisuse: .*asyncio"):
        _ = run(handler).value


def test_case_p1_a_task_that_swallows_its_misuse_leaves_the_loop_free(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        answer = ctx.awakeable()

        async def ask() -> None:
            for _ in range(50):
                with contextlib.suppress(BaseException):
                    await answer

        began = asyncio.get_running_loop().time()
        await asyncio.get_running_loop().create_task(ask())
        took.append(asyncio.get_running_loop().time() - began)
        await answer

    took: list[float] = []

    with pytest.raises(Paused, match=r"^HandlerMisuse: the context was used from another asyncio task"):
        _ = run(handler).value
    assert took
    assert all(seconds > 30 for seconds in took)


def test_case_p1_finally_blocks_that_await_are_passed_by_a_suspension(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        undone = [ctx.run(f"undo {number}", print) for number in range(5)]
        try:
            try:
                await ctx.sleep(HOUR)
            finally:
                await undone[0]
                await undone[1]
        finally:
            for each in undone[2:]:
                await each
        return "done"

    assert run(handler).value == "done"


# ── asyncio's own tools ─────────────────────────────────────────────────────────────────────


async def timeout(ctx: Context) -> Any:
    async with asyncio.timeout(4):
        return await ctx.awakeable()


async def timeout_at(ctx: Context) -> Any:
    async with asyncio.timeout_at(asyncio.get_running_loop().time() + 4):
        return await ctx.sleep(HOUR)


async def fail_after(ctx: Context) -> Any:
    with anyio.fail_after(4):
        return await ctx.awakeable()


async def move_on_after(ctx: Context) -> Any:
    with anyio.move_on_after(4):
        return await ctx.run("act", print)


async def anyio_group(ctx: Context) -> Any:
    async with anyio.create_task_group():
        return await ctx.awakeable()


async def wait_for(ctx: Context) -> Any:
    return await asyncio.wait_for(ctx.run("act", print), 4)


async def wait(ctx: Context) -> Any:
    return await asyncio.wait([ctx.awakeable(), ctx.sleep(HOUR)])


async def shield(ctx: Context) -> Any:
    return await asyncio.shield(ctx.sleep(HOUR))


async def create_task(ctx: Context) -> Any:
    return await asyncio.get_running_loop().create_task(ctx.awakeable())


async def task_that_nobody_awaits(ctx: Context) -> Any:
    asked = asyncio.get_running_loop().create_task(ctx.awakeable().promise)
    asked.add_done_callback(lambda task: task.exception())
    await asyncio.sleep(0.01)
    await ctx.sleep(HOUR)


async def group(ctx: Context) -> Any:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ctx.sleep(HOUR))


async def uses_a_thread(ctx: Context) -> Any:
    """A thread of the handler's own."""
    return await asyncio.to_thread(lambda: ctx.publish("notices", 1))


@pytest.mark.parametrize(
    "handler",
    [
        timeout,
        timeout_at,
        fail_after,
        move_on_after,
        anyio_group,
        wait_for,
        wait,
        shield,
        create_task,
        task_that_nobody_awaits,
        group,
    ],
)
def test_case_p5_asyncio_s_tools_around_durable_futures_are_refused_at_once(
    run: Runs, handler: Handler
) -> None:
    result = run(handler)
    with pytest.raises(Paused, match=r"^HandlerMisuse: .*async with ctx\.timeout\(\.\.\.\).*into ctx\.run"):
        _ = result.value
    assert result.duration < timedelta(milliseconds=100)


def test_case_p5_a_task_group_that_fails_around_a_durable_wait_is_refused_at_once() -> None:
    """Live only: with a suspension at every await no task of its own has the time to fail."""

    async def fail() -> None:
        raise ConnectionError("down")

    async def handler(ctx: Context) -> Any:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            await ctx.awakeable()

    result = run_in_memory(handler, suspend=False)
    with pytest.raises(
        Paused, match=r"^HandlerMisuse: asyncio cancelled the handler .*async with ctx\.timeout"
    ):
        _ = result.value
    assert result.duration < timedelta(milliseconds=100)


def test_case_p5_scopes_may_enclose_asyncio_code_in_an_action(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        async def act() -> str:
            with anyio.fail_after(5):
                async with asyncio.timeout(5):
                    await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0.1):
                    await asyncio.sleep(1)
            except TimeoutError:
                return "timed out"
            return "slept"

        return await ctx.run("act", act)

    assert run(handler).value == "timed out"


def test_case_p5_a_task_group_in_bare_code_is_cancelled_as_ever(run: Runs) -> None:
    async def fail() -> None:
        raise ConnectionError("down")

    async def handler(ctx: Context) -> str:
        await ctx.sleep(HOUR)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())
                await asyncio.sleep(3600)
        except* ConnectionError:
            pass
        await ctx.sleep(HOUR)
        return "went on"

    result = run(handler)
    assert result.value == "went on"
    assert result.duration < 3 * HOUR


def test_case_p5_the_current_task_is_named(run: Runs) -> None:
    async def handler(ctx: Context) -> list[bool]:
        first, named = asyncio.current_task(), []
        await ctx.sleep(HOUR)
        task = asyncio.current_task()
        assert task is not None
        named.append(task.get_name() == ctx.request.invocation_id)
        await asyncio.sleep(0)
        return [*named, asyncio.current_task() is task, hash(first) is not None, task.done()]

    assert run(handler).value == [True, True, True, False]


def test_case_p5_the_context_is_refused_to_another_thread(run: Runs) -> None:
    with pytest.raises(Paused, match=r"^HandlerMisuse: the context was used from another asyncio task or"):
        _ = run(uses_a_thread).value


# ── what actions and handlers raise ─────────────────────────────────────────────────────────


class Odd(BaseException):
    """What some libraries raise past `except Exception`."""


RAISED = [
    StopIteration("over"),
    StopAsyncIteration("over"),
    GeneratorExit("over"),
    asyncio.CancelledError("over"),
    KeyboardInterrupt("over"),
    SystemExit("over"),
    Odd("over"),
]


def raising(kind: str, error: BaseException) -> Any:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        await asyncio.sleep(0)
        raise error

    return {"plain": plain, "coroutine": coroutine, "lambda": lambda: coroutine()}[kind]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["plain", "coroutine", "lambda"])
def test_case_p3_whatever_an_action_raises_is_a_failure_of_the_action(
    run: Runs, kind: str, error: BaseException
) -> None:
    async def handler(ctx: Context) -> str:
        try:
            await ctx.run("act", raising(kind, error), retry=RetryPolicy(max_attempts=2))
        except TerminalError as failure:
            return failure.reason
        return "done"

    # Python itself makes a RuntimeError of a StopIteration that leaves a coroutine.
    told = r"RuntimeError" if isinstance(error, StopIteration) and kind != "plain" else type(error).__name__
    assert run(handler).value.startswith(f"run 'act' failed 2 times, last with {told}: ")


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_case_p3_without_a_policy_it_fails_the_attempt(run: Runs, error: BaseException) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.run("act", raising("plain", error))

    result = run(handler, retry=RetryPolicy(max_attempts=2))
    with pytest.raises(Paused, match=f"^{type(error).__name__}: over"):
        _ = result.value
    assert result.duration >= timedelta(seconds=0.5)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_case_p2_whatever_a_handler_raises_is_a_failure_of_the_attempt(
    run: Runs, error: BaseException
) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.sleep(HOUR)
        raise error

    with pytest.raises(Paused, match=r"over|StopIteration|the handler cancelled itself"):
        _ = run(handler, retry=ONCE).value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_case_p2_a_thread_of_an_action_that_fails_is_nobody_else_s_affair(run: Runs) -> None:
    def act() -> str:
        thread = threading.Thread(target=sys.exit)
        thread.start()
        thread.join()
        return "done"

    async def handler(ctx: Context) -> str:
        return await ctx.run("act", act)

    assert run(handler).value == "done"


@pytest.mark.parametrize(
    "how", ["raises", "cancels itself", "cancels itself at the end", "a task of its own"]
)
def test_case_p4_an_action_that_is_cancelled_by_itself_has_failed_and_is_retried(run: Runs, how: str) -> None:
    calls: list[int] = []

    async def act() -> str:
        calls.append(1)
        task = asyncio.current_task()
        assert task is not None
        if len(calls) < 3:
            if how == "raises":
                raise asyncio.CancelledError
            if how == "a task of its own":
                inner = asyncio.get_running_loop().create_task(asyncio.sleep(60))
                asyncio.get_running_loop().call_soon(inner.cancel)
                await inner
            task.cancel()
            if how == "cancels itself":
                await asyncio.sleep(60)
        return "done"

    async def handler(ctx: Context) -> str:
        return await ctx.run("act", act, retry=RetryPolicy(max_attempts=5))

    result = run(handler)
    assert result.value == "done"
    assert len(calls) == 3
    assert sum("failed: CancelledError" in line for line in result.journal) == 2


def test_case_p6_what_is_never_awaited_is_paused_at_once(run: Runs) -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> str:
        calls.append(1)
        ctx.run("refund", print)
        ctx.sleep(HOUR)
        ctx.reject_awakeable(ctx.awakeable().id, "no")
        return "done"

    result = run(handler)
    told = r"^HandlerMisuse: never awaited: ctx\.run\('refund'\), ctx\.sleep, ctx\.reject_awakeable; put"
    with pytest.raises(Paused, match=told):
        _ = result.value
    assert len(calls) == 1


# ── generators ──────────────────────────────────────────────────────────────────────────────


def test_case_p3_what_a_generator_raises_is_a_failure_of_the_action_in_its_thread(run: Runs) -> None:
    threads: list[str] = []

    def rows(last: int) -> Iterable[int]:
        threads.append(threading.current_thread().name)
        yield 1
        yield 1 // last

    async def handler(ctx: Context) -> list[int]:
        await ctx.run("rows", rows, 1)
        return list(await ctx.run("rows", rows, 0, retry=RetryPolicy(max_attempts=2)))

    with pytest.raises(TerminalError, match="run 'rows' failed 2 times, last with ZeroDivisionError"):
        _ = run(handler).value
    assert threading.main_thread().name not in threads


def test_case_p3_an_iterator_without_end_comes_to_an_end(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        return itertools.count()

    with pytest.raises(Paused, match="an iterator of more than 1,000,000 items"):
        _ = run(handler).value


# ── validators and serializers ──────────────────────────────────────────────────────────────


class Hostile(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _read(cls, n: int) -> int:
        raise LEAVES[n]

    @field_serializer("n")
    def _written(self, n: int) -> int:
        raise LEAVES[n]


LEAVES = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]


@pytest.mark.parametrize("n", range(len(LEAVES)), ids=lambda n: type(LEAVES[n]).__name__)
def test_case_p2_what_a_validator_or_serializer_raises_is_an_error_of_its_value(run: Runs, n: int) -> None:
    service = Service("s")

    @service.handler()
    async def take(ctx: Context, given: Hostile) -> None: ...

    @service.handler()
    async def wait(ctx: Context) -> None:
        awakeable = ctx.awakeable(Hostile)
        ctx.publish("tasks", None, awakeable=awakeable)
        await awakeable

    @service.handler()
    async def give(ctx: Context) -> Hostile:
        return Hostile.model_construct(n=n)

    name = type(LEAVES[n]).__name__
    with pytest.raises(InvalidInput, match=f"does not fit the input of s/take: .* raised {name}"):
        service.handlers["take"].accept(b'{"n":%d}' % n)
    with pytest.raises(WrongAnswer, match=f"is invalid: .* raised {name}"):
        run(wait, answers={"tasks": {"n": n}})
    with pytest.raises(Paused, match=f"ResultMisfit: .*{name}"):
        _ = run(give).value


# ── how errors are told ─────────────────────────────────────────────────────────────────────


class Mute(Exception):
    """A failure that can't be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Proxy(Exception):
    """Looks up what it doesn't have in the body of a response; whoever logs an error asks for `__notes__`."""

    def __getattr__(self, name: str) -> str:
        return {"status": "404"}[name]


class Shut(Exception):
    """Tells nothing about itself."""

    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


def noted(notes: Any) -> Exception:
    """An error with notes as anybody may set them."""
    error = ValueError("x")
    error.__notes__ = notes
    return error


class Unread(list[Any]):
    """Can't be looked through."""

    def __iter__(self) -> Any:
        raise LookupError


ODD: dict[str, tuple[Exception, str]] = {
    "a note that is no list": (noted(5), "ValueError: x"),
    "a note that can't be read": (noted([Mute()]), "ValueError: x"),
    "notes that can't be read": (
        noted(Unread([1])),
        r"RuntimeError: ValueError: x \(it can't be shown .* it raised LookupError when asked\)",
    ),
    "mute": (Mute(), r"Mute: \(its message can't be read: its __str__ raised ValueError\)"),
    "exits": (Exits(), r"Exits: \(its message can't be read: its __str__ raised SystemExit\)"),
    "long": (ValueError("x" * 10_000_000), r"ValueError: x{2000}… \(9,998,000 more characters\)"),
    "control": (ValueError("a\x00b\x1b[1mc\rd\ne"), r"ValueError: a\\u0000b\\u001b\[1mc\\rd\ne"),
    "surrogate": (ValueError("a\ud800b"), r"ValueError: a\?b"),
    "proxy": (Proxy("x"), r"RuntimeError: Proxy: x \(it can't be shown .* it raised KeyError when asked\)"),
    "shut": (Shut("x"), r"RuntimeError: Shut: x \(it can't be shown .* it raised LookupError when asked\)"),
}


@pytest.mark.parametrize(("error", "told"), ODD.values(), ids=ODD)
def test_case_p7_any_error_of_a_handler_is_reported_as_what_it_is(
    run: Runs, error: Exception, told: str
) -> None:
    async def handler(ctx: Context) -> None:
        raise error

    with pytest.raises(Paused, match=f"^{told}$"):
        _ = run(handler, retry=ONCE).value


@pytest.mark.parametrize(("error", "told"), ODD.values(), ids=ODD)
def test_case_p7_any_error_of_an_action_is_reported_as_what_it_is(
    run: Runs, error: Exception, told: str
) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.run("act", raising("plain", error), retry=RetryPolicy(max_attempts=2))

    result = run(handler)
    with pytest.raises(TerminalError, match=f"^run 'act' failed 2 times, last with {told}$"):
        _ = result.value
    assert all(len(line) < 3000 for line in result.journal)


class Bare(TerminalError):
    """Forgets `super().__init__`."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("where", ["handler", "action", "settling"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TerminalError("x" * 10_000_000), r"x{2000}… \(9,998,000 more characters\)"),
        (TerminalError(Mute()), r"\(its message can't be read: its __str__ raised ValueError\)"),  # type: ignore[arg-type]
        (
            TerminalError("no", details="x" * 10_000_000),
            r"no \(its details were left out: 10,000,002 byte.*",
        ),
        (TerminalError("no", details=Mute()), "no"),
        (TerminalError("no", code=Mute()), r"no \(its code .* is not an integer\)"),  # type: ignore[arg-type]
        (Bare(), ""),
    ],
    ids=["long", "mute", "long details", "mute details", "mute code", "bare"],
)
def test_case_p7_a_terminal_error_is_an_outcome_of_bounded_size(
    run: Runs, where: str, error: TerminalError, told: str
) -> None:
    async def handler(ctx: Context) -> None:
        if where == "handler":
            raise error
        if where == "action":
            await ctx.run("act", raising("plain", error))
        answer = ctx.awakeable()
        reason, code = getattr(error, "reason", ""), getattr(error, "code", 500)
        await ctx.reject_awakeable(answer.id, reason, code=code, details=getattr(error, "details", None))
        await answer

    with pytest.raises(TerminalError, match=f"^{told}$") as caught:
        _ = run(handler).value
    assert len(repr(caught.value.details)) < 3000


# ── results of actions ──────────────────────────────────────────────────────────────────────


class Charge:
    """Not a type that pydantic knows."""


@pytest.mark.parametrize("retry", [None, RetryPolicy()], ids=["plain", "with-a-policy"])
@pytest.mark.parametrize("given", ["annotation", "type"])
def test_case_t4_a_type_that_nobody_can_write_is_a_misuse_before_the_call(
    run: Runs, retry: RetryPolicy | None, given: str
) -> None:
    calls: list[int] = []

    def pay() -> Charge:
        calls.append(1)
        return Charge()

    async def handler(ctx: Context) -> None:
        if given == "annotation":
            await ctx.run("pay", pay, retry=retry)
        await ctx.run("pay", lambda: calls.append(1), type=Charge, retry=retry)

    result = run(handler)
    with pytest.raises(
        Paused,
        match=r"^HandlerMisuse: ctx\.run\('pay'\): .*Charge can't be journaled: .*or pass it as type= ",
    ):
        _ = result.value
    assert (calls, result.journal) == ([], ["input of testing/handler"])


@pytest.mark.parametrize("retry", [None, RetryPolicy()], ids=["plain", "with-a-policy"])
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_case_t4_a_result_that_can_t_be_written_is_executed_once_and_paused(
    run: Runs, retry: RetryPolicy | None, kind: str
) -> None:
    calls: list[int] = []

    def pay():  # type: ignore[no-untyped-def]
        calls.append(1)
        return Charge()

    async def pay_later() -> Any:
        return pay()  # type: ignore[no-untyped-call]

    async def handler(ctx: Context) -> None:
        await ctx.run("pay", pay if kind == "plain" else pay_later, retry=retry)

    told = (
        r"^ResultMisfit: run 'pay' returned an instance of Charge: .*executes it again, so guard "
        r"its side effects with an "
        r"idempotency key"
    )
    result = run(handler)
    with pytest.raises(Paused, match=told):
        _ = result.value
    assert len(calls) == 1
    assert result.duration < timedelta(milliseconds=100)


def test_case_t4_an_action_that_never_returns_needs_no_type(run: Runs) -> None:
    def refuse() -> NoReturn:
        raise TerminalError("no")

    async def handler(ctx: Context) -> None:
        await ctx.run("refuse", refuse)

    with pytest.raises(TerminalError, match="no"):
        _ = run(handler).value


WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.mark.parametrize("kind", ["plain", "coroutine", "lambda"])
def test_case_t9_context_variables_of_the_handler_are_there_in_an_action(run: Runs, kind: str) -> None:
    def plain() -> str:
        WHO.set(f"{WHO.get()}!")
        return WHO.get()

    async def coroutine() -> str:
        return plain()

    async def handler(ctx: Context) -> list[str]:
        WHO.set("ann")
        actions: dict[str, Any] = {"plain": plain, "coroutine": coroutine, "lambda": lambda: coroutine()}
        # What the action sets stays there: in replay it would not be set at all.
        return [await ctx.run("who", actions[kind]), WHO.get()]

    assert run(handler).value == ["ann!", "ann"]
