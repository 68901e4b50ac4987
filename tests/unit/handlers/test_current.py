"""The context of the handler that is being executed, and what a handler leaves behind."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from awakeables import (
    Context,
    ObjectContext,
    Service,
    TerminalError,
    TimedOut,
    VirtualObject,
    current_context,
)
from awakeables.testing import Paused, run

SECOND = timedelta(seconds=1)
DROPPED = r"the coroutine .*ship\(…\) was never awaited, so nothing of it happens; put `await` before it"

service = Service("orders")
carts = VirtualObject("carts")


async def ship(parcels: int) -> int:
    """A step that gets its context from nobody."""
    ctx = current_context()
    await ctx.sleep(SECOND)
    return parcels


def in_an_action() -> str:
    try:
        current_context()
    except LookupError as error:
        return str(error)
    return "a context"


@service.handler()
async def finds_it(ctx: Context) -> list[Any]:
    found = [current_context() is ctx, await ship(1)]
    found += await ctx.gather(ship(2), ship(3))
    return [*found, current_context() is ctx, await ctx.run("act", in_an_action)]


@service.handler()
async def drops(ctx: Context) -> None:
    ship(1)  # type: ignore[unused-coroutine]
    await ctx.sleep(SECOND)


@service.handler()
async def drops_at_its_end(ctx: Context) -> None:
    shipped = ship(1)  # noqa: F841
    await ctx.sleep(SECOND)


@service.handler()
async def drops_in_a_branch(ctx: Context) -> None:
    async def branch() -> None:
        await ctx.sleep(SECOND)
        ship(1)  # type: ignore[unused-coroutine]

    await ctx.gather(branch())


@service.handler()
async def passes_them_on_later(ctx: Context) -> int:
    async def branch(number: int) -> int:
        shipped = ship(number)
        await ctx.sleep(SECOND)
        return await shipped

    async def fails() -> int:
        shipped = ship(1)
        await ctx.sleep(SECOND)
        if len(branches) == 3:
            raise TerminalError("too late")
        return await shipped

    branches = [branch(number) for number in range(3)]
    shipped = ship(7)
    await ctx.sleep(SECOND)
    parts = await ctx.gather(shipped, fails(), *branches, return_exceptions=True)
    shipped = ship(8)
    if str(parts[1]) == "too late":
        raise TerminalError("failed")
    return await shipped


@service.handler()
async def fails_before_it_passes_them_on(ctx: Context) -> list[Any]:
    """What a time limit, a failed action or a failed branch leaves behind is no mistake."""
    found: list[Any] = []

    async def helper() -> int:
        later = ship(1)
        await ctx.sleep(timedelta(hours=1))
        return await later

    def refuses() -> None:
        raise TerminalError("no")

    async def refused() -> int:
        later = [ship(2), ship(3)]
        await ctx.run("refuses", refuses)
        return sum(await ctx.gather(*later))

    async def fails(given: Any, combined: list[Any]) -> int:
        combined.append(ctx.race(*[each for each in given[:1]]))
        await ctx.sleep(SECOND)
        raise TerminalError(str(fallback is given))

    fallback = ship(4)
    given = [ship(5), ship(6)]
    combined: list[Any] = []
    try:
        async with ctx.timeout(SECOND):
            await helper()
    except TimedOut:
        found.append("timed out")
    try:
        await refused()
    except TerminalError as error:
        found.append(str(error))
    try:
        await ctx.gather(fails(given, combined))
    except TerminalError as error:
        found.append(str(error))
    return [*found, *await ctx.gather(*combined, given[1]), await fallback]


@carts.handler()
async def of_an_object(ctx: ObjectContext) -> bool:
    return current_context() is ctx


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What Python has warned of, collected after the test's last reference."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        texts: list[str] = []
        yield texts
        gc.collect()
        texts += [str(each.message) for each in found]


MODES: list[dict[str, Any]] = [{}, {"suspend": False}, {"thorough": True}]


@pytest.mark.parametrize("mode", MODES)
def test_code_below_a_handler_finds_its_context_also_in_branches(mode: dict[str, Any]) -> None:
    *found, in_action = run(finds_it, **mode).value
    assert found == [True, 1, 2, 3, True]
    assert in_action == "the action 'act' has no context; pass what it needs as arguments"
    assert run(of_an_object, key="c", **mode).value is True


def test_there_is_none_elsewhere() -> None:
    with pytest.raises(LookupError, match="no handler is being executed here"):
        current_context()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("handler", [drops, drops_at_its_end, drops_in_a_branch])
def test_a_coroutine_that_a_handler_drops_pauses_it_in_the_kit(
    handler: Any, mode: dict[str, Any], warned: list[str]
) -> None:
    for _ in range(2):  # Python would warn once for each line
        with pytest.raises(Paused, match=DROPPED):
            _ = run(handler, **mode).value
    assert warned == []


@pytest.mark.parametrize("mode", MODES)
def test_one_that_is_passed_on_later_is_not_dropped_when_the_handler_is_suspended(
    mode: dict[str, Any], warned: list[str]
) -> None:
    with pytest.raises(TerminalError, match="failed"):
        _ = run(passes_them_on_later, **mode).value
    gc.collect()
    assert warned == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_what_an_error_leaves_behind_is_neither_dropped_nor_ended(mode: dict[str, Any]) -> None:
    assert run(fails_before_it_passes_them_on, **mode).value == ["timed out", "no", "False", 5, 6, 4]


def test_a_drop_that_is_not_the_handler_s_is_shown_as_before() -> None:
    def drops_it() -> None:
        ship(1)  # type: ignore[unused-coroutine]

    async def acts(ctx: Context) -> str:
        await ctx.run("drops", drops_it)
        return "done"

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert run(acts).value == "done"
    assert ["never awaited" in str(each.message) for each in found] == [True]
    raised: list[object] = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("error")
        patched.setattr(sys, "unraisablehook", lambda told: raised.append(type(told.exc_value)))
        assert run(acts).value == "done"
    assert raised == [RuntimeWarning]


def test_a_suspended_attempt_leaves_nothing_to_the_garbage_collector() -> None:
    class Held:
        """In the variables of each attempt."""

    seen: list[weakref.ref[Held]] = []

    async def waits(ctx: Context) -> None:
        held = Held()
        seen.append(weakref.ref(held))
        await ctx.sleep(SECOND)

    gc.disable()
    try:
        assert run(waits).value is None
        assert len(seen) > 1
        assert [each() for each in seen] == [None] * len(seen)
    finally:
        gc.enable()
