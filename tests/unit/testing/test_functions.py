"""Handlers of remote services in the testing kit: they run in the test's process."""

from __future__ import annotations

from datetime import timedelta

import pytest

from awakeables import App, Context, RemoteService, Service, TerminalError
from awakeables.errors import DeclarationError
from awakeables.remote.described import FunctionMisfit
from awakeables.testing import Harness, Paused, run

remote = RemoteService("orders", url="http://127.0.0.1:9")
remote_fulfil = remote.named("fulfil", str, str)
baskets = Service("baskets")
orders = Service("orders")


@baskets.handler()
async def buy(ctx: Context, items: list[str]) -> list[str]:
    return list(await ctx.gather(*(ctx.call(remote_fulfil, item) for item in items)))


@baskets.handler()
async def dare(ctx: Context, item: str) -> str:
    try:
        return await ctx.call(remote_fulfil, item)
    except TerminalError as error:
        return error.reason


@orders.handler()
async def fulfil(ctx: Context, order: str) -> str:
    approved = ctx.awakeable(bool, timeout=timedelta(days=3))
    ctx.publish("approvals", order, awakeable=approved)
    checked = await ctx.call(check, order)
    return f"{checked}: {'approved' if await approved else 'refused'}"


@orders.handler()
async def check(ctx: Context, order: str) -> str:
    return await ctx.run("check", lambda: order.upper())


def stand_in(raises: bool = False) -> Service:
    """What a test declares where it does not have the function's code."""
    service = Service("orders")

    @service.handler("fulfil")
    async def handler(ctx: Context, order: str) -> str:
        if raises:
            raise TerminalError("no stock")
        return f"done {order}"

    return service


@pytest.mark.parametrize("thorough", [False, True])
def test_the_function_s_own_code_is_run(thorough: bool) -> None:
    ran = run(buy, ["a", "b"], answers={"approvals": True}, functions=[orders], thorough=thorough)
    assert ran.value == ["A: approved", "B: approved"]


def test_a_stand_in_answers_as_the_test_says() -> None:
    assert run(buy, ["a"], functions=[stand_in()]).value == ["done a"]
    assert run(dare, "a", functions=[stand_in(raises=True)]).value == "no stock"


def test_without_it_the_message_says_what_to_give() -> None:
    with pytest.raises(Paused, match=r"functions=\[…\]"):
        _ = run(buy, ["a"]).value


def test_a_harness_serves_the_handlers_of_functions_as_well() -> None:
    app = App("shop", services=[baskets, remote])
    with Harness(app, functions=[orders]) as harness:
        begun = harness.send(buy, ["a"])
        [task] = harness.tasks("approvals")
        task.resolve(True)
        assert begun.result() == ["A: approved"]
        later = harness.send(remote_fulfil, "b")
        harness.advance(timedelta(days=3))
        with pytest.raises(TerminalError, match="timed out"):
            later.result()


def test_a_service_in_the_place_of_none_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no remote service 'orders'"):
        Harness(App("shop", services=[baskets]), functions=[orders])
    with pytest.raises(TypeError, match="functions= has services"):
        run(buy, ["a"], functions=[App("shop", services=[orders])])  # type: ignore[list-item]


def test_a_stand_in_without_the_handler_is_refused() -> None:
    service = Service("orders")

    @service.handler()
    async def other(ctx: Context) -> None: ...

    with pytest.raises(FunctionMisfit, match="has no handler 'fulfil'"):
        Harness(App("shop", services=[baskets, remote]), functions=[service])
