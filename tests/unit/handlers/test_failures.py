"""How an attempt fails: terminal, retried with back-off and at last paused, or found out."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Awakeable, Context, RetryPolicy, Suspended, TerminalError
from awakeables.testing import Paused
from unit.handlers.conftest import Runs

ONCE = RetryPolicy(max_attempts=1)


def test_a_terminal_error_ends_the_invocation_without_a_retry(run: Runs) -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> None:
        calls.append(1)
        raise TerminalError("out of stock", code=409, details={"sku": "x"})

    result = run(handler)
    assert (result.status, len(calls)) == ("completed", 1)
    with pytest.raises(TerminalError) as caught:
        _ = result.value
    error = caught.value
    assert (error.reason, error.code, error.details) == ("out of stock", 409, {"sku": "x"})


def test_a_terminal_error_has_code_500_unless_it_says_another() -> None:
    error = TerminalError("no")
    assert (str(error), error.code, error.details) == ("no", 500, None)


def test_any_other_error_is_retried_with_growing_pauses(run: Runs) -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> str:
        calls.append(1)
        if len(calls) < 4:
            raise ConnectionError("down")
        return "up again"

    result = run(handler, retry=RetryPolicy())
    assert result.value == "up again"
    assert len(calls) == 4
    assert timedelta(seconds=3.5) <= result.duration < timedelta(seconds=4)


def test_after_seventy_attempts_the_invocation_is_paused(run: Runs) -> None:
    """0.5 s, doubled up to 60 s: 69 pauses of a little more than an hour in all."""
    calls: list[int] = []

    async def handler(ctx: Context) -> None:
        calls.append(1)
        raise ConnectionError("down")

    result = run(handler, retry=RetryPolicy())
    assert (result.status, len(calls)) == ("paused", 70)
    pauses = timedelta(seconds=0.5 * (2**7 - 1) + 62 * 60)
    assert pauses <= result.duration < pauses + timedelta(seconds=2)
    with pytest.raises(Paused, match="ConnectionError: down"):
        _ = result.value


def test_a_step_that_was_journaled_restarts_the_count(run: Runs) -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> str:
        for _ in range(3):
            await ctx.sleep(timedelta(hours=1))
            calls.append(1)
        if len(calls) < 12:
            raise ConnectionError("down")
        return "done"

    assert run(handler, retry=RetryPolicy(max_attempts=12)).value == "done"


def test_the_retry_can_be_set(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        raise ConnectionError("down")

    policy = RetryPolicy(
        initial_interval=timedelta(hours=1), factor=10, max_interval=timedelta(hours=5), max_attempts=4
    )
    result = run(handler, retry=policy)
    assert timedelta(hours=11) <= result.duration < timedelta(hours=11, seconds=2)


@pytest.mark.parametrize("result", [object(), float("nan"), "\ud800"], ids=["object", "nan", "surrogate"])
def test_a_result_that_can_t_be_serialised_pauses_the_invocation(run: Runs, result: Any) -> None:
    async def handler(ctx: Context) -> Any:
        return result

    with pytest.raises(Paused, match=r"ResultMisfit: handler handler returned"):
        _ = run(handler).value


@pytest.mark.parametrize("verb", ["run", "task"])
def test_a_name_that_the_journal_can_t_hold_is_a_misuse(run: Runs, verb: str) -> None:
    async def handler(ctx: Context) -> None:
        if verb == "run":
            await ctx.run("\ud800", lambda: None)
        else:
            ctx.publish("pack", 1, awakeable=ctx.awakeable(), task="\ud800")

    with pytest.raises(Paused, match="a name that can't be encoded as UTF-8 can't be journaled"):
        _ = run(handler).value


@pytest.mark.parametrize("verb", ["awakeable", "sleep"])
def test_a_wait_beyond_all_dates_is_a_misuse(run: Runs, verb: str) -> None:
    async def handler(ctx: Context) -> None:
        if verb == "sleep":
            await ctx.sleep(timedelta.max)
        else:
            await ctx.awakeable(timeout=timedelta.max)

    with pytest.raises(Paused, match="is too long"):
        _ = run(handler).value


# ── suspending ──────────────────────────────────────────────────────────────────────────────


def test_except_exception_never_swallows_a_suspension(run: Runs) -> None:
    """House rule 7: Suspended is a BaseException."""
    swallowed: list[Exception] = []

    async def handler(ctx: Context) -> str:
        for _ in range(3):
            try:
                await ctx.sleep(timedelta(hours=1))
            except Exception as error:
                swallowed.append(error)
        return "done"

    assert run(handler).value == "done"
    assert swallowed == []
    assert not issubclass(Suspended, Exception)


def test_catching_base_exception_is_detected(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        try:
            await ctx.sleep(timedelta(hours=1))
        except BaseException:
            return "swallowed"
        return "done"

    with pytest.raises(Paused, match=r"caught Suspended.* catch Exception, not BaseException"):
        _ = run(handler).value


def test_catching_base_exception_and_awaiting_again_is_detected(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                await ctx.sleep(timedelta(hours=1))
            await asyncio.sleep(0)
            with contextlib.suppress(BaseException):
                ctx.publish("notices", "still here")

    result = run(handler)
    assert result.published == []
    with pytest.raises(Paused, match="Suspended"):
        _ = result.value


def test_turning_a_suspension_into_another_error_is_detected(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        try:
            await ctx.sleep(timedelta(hours=1))
        except BaseException as error:
            raise RuntimeError("wrapped") from error

    with pytest.raises(Paused, match="caught Suspended"):
        _ = run(handler).value


def test_turning_a_suspension_into_a_terminal_error_is_detected(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        try:
            await ctx.sleep(timedelta(hours=1))
        except BaseException as error:
            raise TerminalError("wrapped") from error

    with pytest.raises(Paused, match="caught Suspended"):
        _ = run(handler).value


def test_a_handler_that_raises_suspended_itself_is_detected(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        raise Suspended

    with pytest.raises(Paused, match="raised Suspended itself"):
        _ = run(handler).value


def test_finally_blocks_run_when_a_suspension_passes_and_their_durable_steps_don_t(run: Runs) -> None:
    passed: list[str] = []
    cleaned: list[str] = []

    async def handler(ctx: Context) -> str:
        try:
            await ctx.sleep(timedelta(hours=1))
            return "done"
        finally:
            passed.append("by")
            await ctx.run("clean", lambda: cleaned.append("up"))

    result = run(handler)
    assert result.value == "done"
    assert cleaned == ["up"]
    assert len(passed) >= 2


def test_a_finally_block_that_publishes_publishes_once(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        try:
            await ctx.sleep(timedelta(hours=1))
            return "done"
        finally:
            ctx.publish("notices", "over")

    assert len(run(handler).published) == 1


def test_a_context_manager_is_left_at_each_suspension(run: Runs) -> None:
    entered: list[str] = []

    @contextlib.asynccontextmanager
    async def connection() -> Any:
        entered.append("in")
        try:
            yield
        finally:
            entered.append("out")

    async def handler(ctx: Context) -> str:
        async with connection():
            await ctx.sleep(timedelta(hours=1))
        return "done"

    assert run(handler).value == "done"
    assert entered == ["in", "out"] * (len(entered) // 2)


def test_a_handler_may_await_asyncio_in_its_bare_code(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        await asyncio.sleep(0.25)
        await ctx.sleep(timedelta(hours=1))
        return sum(await asyncio.gather(*[asyncio.sleep(0, 1), asyncio.sleep(0.1, 2)]))

    assert run(handler).value == 3


def test_a_handler_that_cancels_itself_fails_the_attempt(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        raise asyncio.CancelledError

    with pytest.raises(Paused, match="CancelledError: the handler cancelled itself"):
        _ = run(handler, retry=ONCE).value


class Odd(BaseException):
    """What some libraries raise past `except Exception`."""


def test_an_error_past_exception_fails_the_attempt_and_nothing_else(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        raise Odd("strange")

    with pytest.raises(Paused, match="Odd: strange"):
        _ = run(handler, retry=ONCE).value


def test_a_task_group_of_bare_tasks_may_enclose_a_durable_wait(run: Runs) -> None:
    """Suspended leaves it as a group, and is Suspended all the same."""

    async def handler(ctx: Context) -> str:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(0.1))
            await ctx.sleep(timedelta(hours=1))
        return "done"

    assert run(handler).value == "done"


def test_errors_of_a_task_group_fail_the_attempt(run: Runs) -> None:
    async def fail() -> None:
        raise ConnectionError("down")

    async def handler(ctx: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    with pytest.raises(Paused, match="ExceptionGroup"):
        _ = run(handler, retry=ONCE).value


# ── asyncio's own combinators ───────────────────────────────────────────────────────────────


async def gather(one: Awakeable[int], other: Awakeable[int]) -> Any:
    return await asyncio.gather(one, other)


async def gather_promises(one: Awakeable[int], other: Awakeable[int]) -> Any:
    return await asyncio.gather(one.promise, other.promise)


async def gather_coroutines(one: Awakeable[int], other: Awakeable[int]) -> Any:
    async def wrapped(awakeable: Awakeable[int]) -> int:
        return await awakeable

    return await asyncio.gather(wrapped(one), wrapped(other))


async def gather_with_errors_returned(one: Awakeable[int], other: Awakeable[int]) -> Any:
    return await asyncio.gather(one, other, return_exceptions=True)


async def wait_for(one: Awakeable[int], other: Awakeable[int]) -> Any:
    return await asyncio.wait_for(one, 0.5)


async def shield(one: Awakeable[int], other: Awakeable[int]) -> Any:
    return await asyncio.shield(one)


async def ensure_future(one: Awakeable[int], other: Awakeable[int]) -> Any:
    return await asyncio.ensure_future(one)


async def task(one: Awakeable[int], other: Awakeable[int]) -> Any:
    async def wrapped() -> int:
        return await one

    return await asyncio.get_running_loop().create_task(wrapped())


async def task_group(one: Awakeable[int], other: Awakeable[int]) -> Any:
    async def wrapped(awakeable: Awakeable[int]) -> int:
        return await awakeable

    async with asyncio.TaskGroup() as tasks:
        first, second = tasks.create_task(wrapped(one)), tasks.create_task(wrapped(other))
    return [first.result(), second.result()]


async def wait(one: Awakeable[int], other: Awakeable[int]) -> Any:
    done, _ = await asyncio.wait([asyncio.ensure_future(one), asyncio.ensure_future(other)])
    raise next(error for error in [future.exception() for future in done] if error)


async def as_completed(one: Awakeable[int], other: Awakeable[int]) -> Any:
    errors: list[BaseException] = []
    for future in asyncio.as_completed([one, other]):
        try:
            await future
        except BaseException as error:
            errors.append(error)
    raise errors[0]


@pytest.mark.parametrize(
    "combine",
    [
        gather,
        gather_promises,
        gather_coroutines,
        gather_with_errors_returned,
        wait_for,
        shield,
        ensure_future,
        task,
        task_group,
        wait,
        as_completed,
    ],
)
@pytest.mark.parametrize("careless", [False, True], ids=["raised", "swallowed"])
def test_asyncio_s_combinators_over_durable_futures_are_refused_with_what_to_do(
    run: Runs, combine: Any, careless: bool
) -> None:
    """Even a handler that swallows the error does not go on."""

    async def handler(ctx: Context) -> Any:
        one, other = ctx.awakeable(int), ctx.awakeable(int)
        for awakeable in (one, other):
            ctx.publish("pack", 1, awakeable=awakeable)
        if not careless:
            return await combine(one, other)
        with contextlib.suppress(Exception):
            await combine(one, other)
        return "went on"

    result = run(handler, answers={"pack": lambda task: 1})
    assert result.status == "paused"
    with pytest.raises(Paused, match=r"HandlerMisuse: .*async with ctx\.timeout\(\.\.\.\)"):
        _ = result.value


def test_the_context_is_refused_to_another_task(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        async def elsewhere() -> None:
            ctx.publish("notices", 1)

        await asyncio.get_running_loop().create_task(elsewhere())

    result = run(handler)
    assert result.published == []
    with pytest.raises(Paused, match="the context was used from another asyncio task"):
        _ = result.value


def test_a_timeout_of_asyncio_around_a_durable_wait_is_a_misuse(run: Runs) -> None:
    async def handler(ctx: Context) -> Any:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                return await ctx.awakeable()
        return "timed out"

    with pytest.raises(Paused, match=r"asyncio\.timeout .* use async with ctx\.timeout\(\.\.\.\)"):
        _ = run(handler).value


def test_a_timeout_of_asyncio_around_bare_code_belongs_into_an_action(run: Runs) -> None:
    """Whether it fires is chance, which a replay would not repeat."""

    async def handler(ctx: Context) -> str:
        await ctx.sleep(timedelta(hours=1))
        try:
            async with asyncio.timeout(0.5):
                await asyncio.sleep(5)
        except TimeoutError:
            return "timed out"
        return "slept"

    with pytest.raises(Paused, match=r"asyncio\.timeout .* put code that needs them into ctx\.run"):
        _ = run(handler).value


def test_a_handler_that_awaits_a_future_of_asyncio_s_own_is_driven_on(run: Runs) -> None:
    async def handler(ctx: Context) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.1, future.set_result, 7)
        return await future

    assert run(handler).value == 7
