"""`ctx.version` and `version=`: what is refused, and tests of handlers that have versions (H11)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from awakeables import App, Context, Service, Subscription, VirtualObject, Workflow
from awakeables.errors import DeclarationError, HandlerMisuse, NotFound
from awakeables.testing import Harness, Paused
from awakeables.testing import run as run_in_memory
from unit.handlers.conftest import Runs


def test_a_handler_runs_todays_code_in_each_replay(run: Runs) -> None:
    async def handler(ctx: Context) -> list[int]:
        seen = []
        for _ in range(3):
            seen.append(ctx.version("route", 3, oldest=2))
            await ctx.sleep(timedelta(hours=1))
        return seen

    told = run(handler)
    assert told.value == [3, 3, 3]
    assert [line for line in told.journal if "version" in line] == ["version of 'route': 3"]


def test_a_handler_with_versions_survives_a_crash_at_each_commit() -> None:
    async def handler(ctx: Context) -> list[int]:
        first = ctx.version("a", 2)
        await ctx.awakeable(int, timeout=timedelta(days=1)) if first > 2 else await ctx.sleep(
            timedelta(days=1)
        )
        return [first, ctx.version("b", 1), ctx.version("a", 2)]

    assert run_in_memory(handler, thorough=True).value == [2, 1, 2]


@pytest.mark.parametrize(
    ("name", "current", "oldest", "why"),
    [
        ("", 1, 1, "a name is a string of 1 to 100 printable characters, not ''"),
        ("n" * 101, 1, 1, "a name is a string of 1 to 100 printable characters"),
        (7, 1, 1, "a name is a string of 1 to 100 printable characters, not 7"),
        ("a\0b", 1, 1, "a name is a string of 1 to 100 printable characters"),
        ("\ud800", 1, 1, "a name is a string of 1 to 100 printable characters"),
        ("a", 0, 1, "versions are whole numbers from 1 on, .* given were 0 and oldest=1"),
        ("a", -1, 1, "versions are whole numbers"),
        ("a", 1.0, 1, "versions are whole numbers"),
        ("a", True, 1, "versions are whole numbers"),
        ("a", "2", 1, "versions are whole numbers"),
        ("a", None, 1, "versions are whole numbers"),
        ("a", 2**53 + 1, 1, "versions are whole numbers"),
        ("a", 2, 3, "oldest= is not above the current one"),
        ("a", 2, 0, "versions are whole numbers"),
    ],
)
def test_h11_4_what_is_no_name_and_no_version_is_a_misuse(
    run: Runs, name: Any, current: Any, oldest: Any, why: str
) -> None:
    async def handler(ctx: Context) -> None:
        ctx.version(name, current, oldest)

    with pytest.raises(Paused, match=rf"HandlerMisuse: ctx\.version.*{why}"):
        _ = run(handler).value


def test_a_version_can_t_be_asked_for_in_an_action(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        await ctx.run("act", lambda: ctx.version("route", 2))

    with pytest.raises(Paused, match="the context was used inside an action"):
        _ = run(handler).value


def test_a_journal_that_is_full_takes_no_marker(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(ctx: Context) -> None:
        for number in range(100_001):
            ctx.version(f"part {number}", 1)

    with pytest.raises(Paused, match="the journal has 100,000 entries"):
        _ = run(handler).value


async def at_first(ctx: Context, n: int) -> str:
    return f"first {n}"


async def today(ctx: Context, n: int) -> str:
    return f"second {n}"


def declared(*versions: int) -> Service:
    orders = Service("orders")
    for version in versions:
        orders.handler("fulfil", version=version)(at_first if version == 1 else today)
    return orders


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_highest_version_is_what_is_found_in_whichever_order_they_are_declared(
    order: tuple[int, int],
) -> None:
    app = App("shop", services=[declared(*order)])
    assert app.handler("orders", "fulfil").function is today
    assert app.handler("orders", "fulfil", 1).function is at_first
    assert app.find(at_first) is app.find(today) is app.handler("orders", "fulfil", 2)
    assert app.declared(at_first).version == 1
    assert repr(app.declared(today)) == "<handler orders/fulfil version 2>"
    assert sorted(app.targets) == ["orders/fulfil", "orders/fulfil@2"]


def test_a_version_that_is_not_there_is_not_found() -> None:
    app = App("shop", services=[declared(2, 3)])
    with pytest.raises(NotFound, match="orders/fulfil has no version 1 any more, only 2, 3: deploy code"):
        app.handler("orders", "fulfil", 1)
    with pytest.raises(NotFound, match="orders/fulfil has no version 4 yet, only 2, 3"):
        app.handler("orders", "fulfil", 4)


def test_two_functions_of_one_name_need_two_versions() -> None:
    with pytest.raises(DeclarationError, match="two handlers called 'fulfil' of version 1: give the new one"):
        declared(1).handler("fulfil")(today)


@pytest.mark.parametrize("version", [0, -1, True, 1.5, "2", None])
def test_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(DeclarationError, match="orders/fulfil: a version is a whole number from 1 on, not"):
        Service("orders").handler("fulfil", version=version)(today)


def test_versions_of_two_kinds_are_refused() -> None:
    carts = VirtualObject("carts")

    async def add(ctx: Any) -> None: ...

    carts.handler("add")(add)
    with pytest.raises(DeclarationError, match="version 2 of 'add' is shared, version 1 is exclusive"):
        carts.shared("add", version=2)(add)


def test_a_topic_belongs_to_the_highest_version() -> None:
    orders = Service("orders")
    orders.handler("fulfil", topic=Subscription("new-orders"))(at_first)
    orders.handler("fulfil", version=2)(today)
    with pytest.raises(DeclarationError, match=r"version 1 has a topic=, .* version 2: move topic= there"):
        App("shop", services=[orders])
    moved = declared(1)
    moved.handler("fulfil", version=2, topic="new-orders")(today)
    assert App("shop", services=[moved]).subscribed()["orders.fulfil"].version == 2


def test_run_runs_the_function_that_it_is_given() -> None:
    orders = declared(1, 2)
    assert [run_in_memory(each, 7).value for each in (at_first, today)] == ["first 7", "second 7"]
    assert orders.handlers["fulfil"].version == 2


def test_a_harness_begins_the_version_that_it_is_given_and_handlers_begin_the_highest() -> None:
    outer = Service("outer")

    @outer.handler()
    async def calls(ctx: Context, n: int) -> list[str]:
        return [await ctx.call(today, n), await ctx.call(at_first, n)]

    with Harness(App("shop", services=[declared(1, 2), outer])) as harness:
        assert harness.call(at_first, 7) == "first 7"
        assert harness.call(today, 7) == "second 7"
        assert harness.call(calls, 7) == ["second 7", "second 7"]
        found = harness.invocations(at_first)
        assert [each.result() for each in found] == ["first 7"]
        assert len(harness.invocations(today)) == 3


def test_a_run_of_a_workflow_has_versions() -> None:
    flows = Workflow("flows")

    @flows.run(version=2)
    async def again(ctx: Any) -> str:
        return "second"

    @flows.run(version=1)
    async def once(ctx: Any) -> str:
        return "first"

    assert [run_in_memory(each, key="k").value for each in (once, again)] == ["first", "second"]


def test_a_misuse_is_an_error_of_the_author() -> None:
    async def handler(ctx: Context) -> int:
        try:
            return ctx.version("route", 0)
        except HandlerMisuse:
            return -1

    with pytest.raises(Paused, match="HandlerMisuse"):
        _ = run_in_memory(handler).value
