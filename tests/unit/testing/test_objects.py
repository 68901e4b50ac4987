"""The kit and virtual objects: a key, its state before and after, and calls of other keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context, ObjectContext, Service, SharedContext, TerminalError, VirtualObject
from awakeables.errors import InvalidInput
from awakeables.testing import Paused, run

stock = VirtualObject("stock")
LEFT = stock.state("left", int, default=0)
HELD = stock.state("held", int)
PICTURE = stock.state("picture", bytes)
other = VirtualObject("other")
ELSE = other.state("else", int)
orders = Service("orders")


@stock.handler()
async def reserve(ctx: ObjectContext, count: int) -> int:
    left = await ctx.get(LEFT)
    if left < count:
        raise TerminalError(f"only {left} of {ctx.key} left", code=409)
    ctx.set(LEFT, left - count)
    ctx.set(HELD["o-1"], count)
    await ctx.sleep(timedelta(days=30))
    return left - count


@stock.shared()
async def left(ctx: SharedContext) -> int:
    return await ctx.get(LEFT)


@stock.handler()
async def misuse(ctx: ObjectContext, what: str) -> Any:
    match what:
        case "large":
            ctx.set(PICTURE, b"x" * (1024 * 1024 + 1))
        case "misfit":
            ctx.set(LEFT, "many")  # type: ignore[misc]
        case "foreign":
            await ctx.get(ELSE)
        case "name":
            await ctx.get("left")  # type: ignore[arg-type]
        case "unawaited":
            ctx.get(LEFT)
        case "no key":
            await ctx.call(reserve, 1)  # type: ignore[arg-type]
        case "empty key":
            await ctx.call(reserve, 1, key="")
        case "service":
            await ctx.call(twice, "a", key="b")


@orders.handler()
async def twice(ctx: Context, sku: str) -> list[Any]:
    calls = [ctx.call(reserve, 2, key=sku) for _ in range(2)]
    return list(await ctx.gather(*calls, return_exceptions=True))


def test_a_handler_of_an_object_runs_for_a_key_on_the_state_that_it_is_given() -> None:
    ran = run(reserve, 2, key="sku-1", state={LEFT: 5, PICTURE: b"\x00"})
    assert ran.value == 3
    assert ran.state == {"held/o-1": 2, "left": 3, "picture": b"\x00"}
    assert ran.duration >= timedelta(days=30)
    assert run(left, key="sku-1", state={LEFT: 5}).value == 5
    assert run(left, key="sku-1").state == {}


def test_a_failure_keeps_the_state() -> None:
    ran = run(reserve, 2, key="sku-1", state={LEFT: 1})
    with pytest.raises(TerminalError, match="only 1 of sku-1 left"):
        _ = ran.value
    assert ran.state == {"left": 1}


def test_handlers_that_are_called_run_one_after_the_other() -> None:
    with pytest.raises(TerminalError, match="only 0 of sku-1 left"):
        _ = run(orders_twice_raises).value


@orders.handler()
async def orders_twice_raises(ctx: Context) -> None:
    await ctx.gather(ctx.call(reserve, 2, key="sku-1"), ctx.call(reserve, 2, key="sku-1"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("large", r"the value has 1,048,577 bytes; at most 1,048,576 can be kept under one name"),
        ("misfit", r"ctx.set\('left'\): the value does not fit its type"),
        ("foreign", r"the state 'else' was declared by 'other'; a handler of 'stock' can't use it"),
        ("name", r"ctx.get takes what stock.state\(…\) returned, not 'left'"),
        ("unawaited", r"never awaited: ctx.get\('left'\)"),
        ("no key", r"it is a handler of an object: pass key=…; a key is a string, not None"),
        ("empty key", r"a key has 1 to 1,024 bytes of UTF-8, not 0"),
        ("service", r"it is a handler of a service, which has no keys; leave out key="),
    ],
)
def test_misuses_pause_with_what_to_do(what: str, message: str) -> None:
    with pytest.raises(Paused, match=message):
        _ = run(misuse, what, key="sku-1").value


def test_a_key_is_needed_and_values_must_fit() -> None:
    with pytest.raises(InvalidInput, match="stock/left is a handler of an object"):
        run(left)
    with pytest.raises(InvalidInput, match="the value does not fit the state 'left'"):
        run(left, key="sku-1", state={LEFT: "many"})
    with pytest.raises(InvalidInput, match="a handler of a service, which has no keys"):
        run(twice, "a", key="b")
