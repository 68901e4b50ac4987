"""`ctx.run`: executed once, its result as the journal tells it (J3, hard case 15)."""

from __future__ import annotations

import functools
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context, RetryPolicy, TerminalError
from awakeables.testing import Paused
from unit.handlers.conftest import Runs
from unit.handlers.shapes import Box, Parcel


class Calls:
    """Notes each execution of a side effect."""

    def __init__(self, *failures: Exception) -> None:
        self.count = 0
        self._failures = list(failures)

    def sync(self, *args: Any) -> str:
        self.count += 1
        if self._failures:
            raise self._failures.pop(0)
        return "/".join(map(str, ("done", *args)))

    async def coroutine(self, *args: Any) -> str:
        return self.sync(*args)

    async def __call__(self) -> str:
        return self.sync()


@dataclass
class Odd:
    """Comes back from the journal as something else than it went in."""

    n: int


async def load(order: str) -> Box:
    return Box(width=len(order))


def unannotated(order):  # type: ignore[no-untyped-def]
    return Odd(n=len(order))


@pytest.mark.parametrize("kind", ["sync", "coroutine", "object", "lambda", "lambda-coroutine", "partial"])
def test_an_action_is_executed_once_however_it_is_written(run: Runs, kind: str) -> None:
    """J3."""
    calls = Calls()
    actions: dict[str, Any] = {
        "sync": calls.sync,
        "coroutine": calls.coroutine,
        "object": calls,
        "lambda": lambda: calls.sync(),
        "lambda-coroutine": lambda: calls.coroutine(),
        "partial": functools.partial(calls.coroutine),
    }

    async def handler(ctx: Context) -> str:
        result: str = await ctx.run("act", actions[kind])
        await ctx.sleep(timedelta(days=1))
        return result

    assert run(handler).value == "done"
    assert calls.count == 1


def test_arguments_are_handed_on(run: Runs) -> None:
    calls = Calls()

    async def handler(ctx: Context) -> list[str]:
        one = await ctx.run("one", calls.sync, 1, "two")
        return [one, await ctx.run("other", functools.partial(calls.coroutine, 3), 4)]

    assert run(handler).value == ["done/1/two", "done/3/4"]


@pytest.mark.parametrize(
    ("action", "type_", "expected"),
    [
        (load, None, Box(width=3)),
        (unannotated, None, {"n": 3}),
        (unannotated, Odd, Odd(n=3)),
        (lambda order: {"id": order}, Parcel, Parcel(id="o-1")),
        (lambda order: order.encode(), bytes, b"o-1"),
        (lambda order: (order, 1), None, ["o-1", 1]),
    ],
    ids=["annotation", "none", "type", "type-of-a-lambda", "bytes", "tuple"],
)
def test_the_live_result_is_what_the_journal_has(run: Runs, action: Any, type_: Any, expected: Any) -> None:
    """Hard case 15: so that a replay can't differ."""
    seen: list[Any] = []

    async def handler(ctx: Context) -> None:
        seen.append(await ctx.run("load", action, "o-1", type=type_))

    run(handler)
    assert seen
    assert all(value == expected and type(value) is type(expected) for value in seen)


def test_an_action_that_returns_nothing_returns_none(run: Runs) -> None:
    async def handler(ctx: Context) -> bool:
        done = ctx.run("act", [].clear)
        results: list[Any] = [await done]  # type: ignore[func-returns-value]
        return results == [None]

    assert run(handler).value is True


def test_a_terminal_error_of_an_action_is_journaled_and_can_be_caught(run: Runs) -> None:
    calls = Calls(TerminalError("no funds", code=402, details={"left": 3}))

    async def handler(ctx: Context) -> list[Any]:
        try:
            await ctx.run("charge", calls.sync)
        except TerminalError as error:
            await ctx.sleep(timedelta(days=1))
            return [error.reason, error.code, error.details]
        return []

    assert run(handler).value == ["no funds", 402, {"left": 3}]
    assert calls.count == 1


def test_a_terminal_error_of_an_action_is_not_retried_by_a_policy_either(run: Runs) -> None:
    calls = Calls(TerminalError("no funds", code=402))

    async def handler(ctx: Context) -> None:
        await ctx.run("charge", calls.sync, retry=RetryPolicy())

    with pytest.raises(TerminalError, match="no funds"):
        _ = run(handler).value
    assert calls.count == 1


def test_any_other_failure_fails_the_attempt_and_is_not_seen_by_the_handler(run: Runs) -> None:
    """Hard case 15: what the handler can't catch can't make a replay differ."""
    calls = Calls(ConnectionError("down"), ConnectionError("down"))
    caught: list[Exception] = []

    async def handler(ctx: Context) -> str:
        try:
            return await ctx.run("charge", calls.coroutine)
        except Exception as error:
            caught.append(error)
            return "caught"

    result = run(handler, retry=RetryPolicy())
    assert result.value == "done"
    assert (calls.count, caught) == (3, [])
    assert timedelta(seconds=1.5) <= result.duration < timedelta(seconds=2)


def test_with_a_policy_it_is_tried_again_by_itself(run: Runs) -> None:
    calls = Calls(ConnectionError("down"), ConnectionError("down"))
    attempts: list[int] = []

    async def handler(ctx: Context) -> str:
        attempts.append(ctx.request.attempt)
        policy = RetryPolicy(initial_interval=timedelta(hours=1), factor=3, max_interval=timedelta(hours=9))
        return await ctx.run("charge", calls.sync, retry=policy)

    result = run(handler)
    assert result.value == "done"
    assert calls.count == 3
    assert set(attempts) == {1}
    assert timedelta(hours=4) <= result.duration < timedelta(hours=4, seconds=2)
    assert sum("failed: ConnectionError: down" in line for line in result.journal) == 2


def test_a_policy_that_is_used_up_is_a_terminal_error(run: Runs) -> None:
    calls = Calls(*[ConnectionError(f"down {n}") for n in range(9)])

    async def handler(ctx: Context) -> str:
        try:
            return await ctx.run("charge", calls.sync, retry=RetryPolicy(max_attempts=3))
        except TerminalError as error:
            await ctx.sleep(timedelta(days=1))
            return error.reason

    assert run(handler).value == "run 'charge' failed 3 times, last with ConnectionError: down 2"
    assert calls.count == 3


def test_a_policy_ends_with_its_duration_too(run: Runs) -> None:
    calls = Calls(*[ConnectionError("down")] * 99)

    async def handler(ctx: Context) -> None:
        policy = RetryPolicy(
            initial_interval=timedelta(minutes=1),
            factor=1,
            max_duration=timedelta(minutes=3),
            max_attempts=None,
        )
        await ctx.run("charge", calls.sync, retry=policy)

    result = run(handler)
    with pytest.raises(TerminalError, match="run 'charge' failed 4 times"):
        _ = result.value
    assert calls.count == 4
    assert timedelta(minutes=3) <= result.duration < timedelta(minutes=3, seconds=2)


def test_a_run_that_is_never_awaited_fails_the_attempt_by_name(run: Runs) -> None:
    """Hard case 15."""
    calls = Calls()

    async def handler(ctx: Context) -> str:
        ctx.run("refund", calls.sync)
        ctx.sleep(timedelta(seconds=1))
        return "done"

    with pytest.raises(
        Paused, match=r"never awaited: ctx\.run\('refund'\), ctx\.sleep; put `await` before it"
    ):
        _ = run(handler, retry=RetryPolicy(max_attempts=2)).value
    assert calls.count == 0


def test_a_run_that_is_awaited_later_starts_then(run: Runs) -> None:
    order: list[str] = []

    async def handler(ctx: Context) -> list[str]:
        late = ctx.run("late", order.append, "late")
        await ctx.run("early", order.append, "early")
        await late
        return order

    assert run(handler).value == ["early", "late"]


def test_the_uuid_for_a_side_effect_is_the_same_when_it_is_executed_again(run: Runs) -> None:
    keys: list[uuid.UUID] = []

    async def handler(ctx: Context) -> None:
        def charge(key: uuid.UUID) -> None:
            keys.append(key)
            if len(keys) < 3:
                raise ConnectionError("did it go through?")

        await ctx.run("charge", charge, ctx.uuid())

    run(handler)
    assert len(keys) == 3
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    "result",
    [float("nan"), object(), "\ud800", {"a": [float("inf")]}],
    ids=["nan", "object", "surrogate", "inf"],
)
def test_a_result_that_json_can_t_say_fails_the_attempt_and_never_gets_into_the_journal(
    run: Runs, result: Any
) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.run("measure", lambda: result)

    done = run(handler, retry=RetryPolicy(max_attempts=3))
    with pytest.raises(Paused):
        _ = done.value
    assert [line for line in done.journal if line.startswith("outcome")] == []


def test_an_error_whose_message_is_not_utf_8_is_kept_all_the_same(run: Runs) -> None:
    calls = Calls(*[OSError("no such file: \udcff")] * 5)

    async def handler(ctx: Context) -> None:
        await ctx.run("read", calls.sync, retry=RetryPolicy(max_attempts=2))

    with pytest.raises(TerminalError, match=r"no such file: \?"):
        _ = run(handler).value


def test_a_terminal_error_is_kept_whatever_its_details_are(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        raise TerminalError("no \udcff", details={"a": object(), "b": float("nan"), "c": b"\xff"})

    with pytest.raises(TerminalError, match=r"no \?") as caught:
        _ = run(handler).value
    assert "object object" in caught.value.details["a"]
    assert caught.value.details["b"] is None


def test_details_that_no_json_can_hold_are_shown_as_text(run: Runs) -> None:
    circle: list[Any] = ["\ud800"]
    circle.append(circle)

    async def handler(ctx: Context) -> None:
        raise TerminalError("no", details=circle)

    with pytest.raises(TerminalError) as caught:
        _ = run(handler).value
    assert caught.value.details == r"['\ud800', [...]]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_interval": timedelta(seconds=-1)},
        {"max_interval": timedelta(seconds=-1)},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"max_attempts": 0},
    ],
)
def test_an_invalid_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="RetryPolicy"):
        RetryPolicy(**wrong)


def test_the_pauses_grow_to_their_bound() -> None:
    policy = RetryPolicy()
    pauses = [policy.pause_ms(n) for n in range(1, 71)]
    assert pauses[:8] == [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]
    assert set(pauses[8:69]) == {60_000}
    assert pauses[69] is None


@pytest.mark.parametrize(
    "factor", [65_536, 1e300, 10**400, float("inf")], ids=["2^16", "1e300", "10^400", "inf"]
)
@pytest.mark.parametrize("initial", [timedelta(0), timedelta(seconds=1), timedelta.max], ids=str)
def test_no_factor_is_too_large(factor: float, initial: timedelta) -> None:
    policy = RetryPolicy(initial_interval=initial, factor=factor, max_attempts=None)
    first, longest = min(60_000, round(initial.total_seconds() * 1000)), 60_000 if initial else 0
    assert [policy.pause_ms(n) for n in (1, 2, 70, 10**9)] == [first, longest, longest, longest]


def test_a_small_factor_reaches_the_bound_too() -> None:
    assert RetryPolicy(factor=1.01, max_attempts=None).pause_ms(1000) == 60_000
