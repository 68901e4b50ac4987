"""Which functions are checked, what is silenced, and what is said of an app as a whole."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from awakeables.checking.check import check
from unit.checking.conftest import Checking, places, rules

PAGE = Path(__file__).parents[3] / "docs/handlers.md"
EXAMPLES = (
    *("agent", "approval", "demo.app", "enrichment", "fanout", "fulfilment"),
    *("payment", "shop", "signup", "training", "trip"),
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_pass(name: str) -> None:
    found = check(importlib.import_module(f"examples.{name}").app)
    assert found.findings == []
    assert found.without_source == []


def test_the_page_on_handlers_passes(checked_module: Checking) -> None:
    found = checked_module("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    assert found.findings == []
    assert found.handlers > 20


def test_all_handlers_are_checked_and_findings_are_in_the_order_of_the_lines(checked: Checking) -> None:
    found = checked(
        """
        @service.handler("second")
        async def one(ctx: Context) -> None:
            time.sleep(1)
            clock()

        @service.handler()
        async def two(given: Context, order: str) -> None:
            given.sleep(SECOND)
        """
    )
    assert found.handlers == 2
    assert places(found) == [(4, "sleep"), (5, "clock"), (9, "unawaited")]


def test_functions_of_the_module_that_get_the_context_are_checked(checked: Checking) -> None:
    found = checked(
        """
        @service.handler()
        async def handle(ctx: Context, order: str) -> None:
            await first(order, context=ctx)
            await ctx.gather(*ctx.map(functools.partial(mapped, ctx), order))
            unrelated(order)

        async def first(order: str, context: Context) -> None:
            await second(context)

        async def second(c: Context) -> None:
            c.sleep(SECOND)
            await first("again", c)

        def mapped(ctx: Context, item: str) -> object:
            return ctx.call(handle, item, idempotency_key=str(clock()))

        def unrelated(order: str) -> float:
            return clock()
        """
    )
    assert places(found) == [(12, "unawaited"), (16, "clock")]


def test_a_function_of_a_handler_and_of_an_action_is_checked_as_both(checked: Checking) -> None:
    found = checked(
        """
        @service.handler()
        async def handle(ctx: Context) -> None:
            helper(ctx)
            await ctx.run("help", helper, ctx)

        def helper(ctx: Context) -> str:
            return str((ctx.uuid(), clock()))
        """
    )
    assert places(found) == [(8, "clock"), (8, "ctx-in-action")]


@pytest.mark.parametrize("wraps", ["@functools.wraps(function)", ""])
def test_the_function_below_a_decorator_is_checked(checked: Checking, wraps: str) -> None:
    found = checked(
        f"""
        def logged(function):
            {wraps or "# without functools.wraps"}
            async def wrapper(ctx: Context, order: str) -> None:
                return await function(ctx, order)
            return wrapper

        @service.handler()
        @logged
        async def handle(ctx: Context, order: str) -> None:
            clock()
        """
    )
    assert places(found) == [(11, "clock")]


def test_methods_and_nested_functions_can_be_handlers(checked: Checking) -> None:
    found = checked(
        """
        class Orders:
            async def place(self, ctx: Context) -> None:
                ctx.sleep(SECOND)

        def declare() -> None:
            from time import perf_counter as tick

            @service.handler()
            async def nested(ctx: Context) -> None:
                tick()

        service.handler()(Orders().place)
        declare()
        """
    )
    assert places(found) == [(4, "unawaited"), (11, "clock")]


def test_methods_that_get_the_context_are_checked(checked: Checking) -> None:
    found = checked(
        """
        class Steps:
            async def one(self, ctx: Context) -> None:
                clock()

            @staticmethod
            async def two(ctx: Context) -> None:
                clock()

            @classmethod
            async def three(cls, order: str, *, ctx: Context) -> None:
                clock()

            @property
            def never(self) -> None:
                raise ValueError("the check executes nothing")

        steps = Steps()

        @service.handler()
        async def handle(ctx: Context, order: str) -> None:
            await steps.one(ctx)
            await Steps.two(ctx)
            await steps.three(order, ctx=ctx)
            steps.never.of(ctx), steps.missing(ctx), order.of(ctx), anyio.sleep(ctx)
        """
    )
    assert places(found) == [(4, "clock"), (8, "clock"), (12, "clock"), (25, "sleep")]


def test_a_line_that_ends_with_the_comment_is_silenced(checked: Checking) -> None:
    found = checked(
        """
        @service.handler()
        async def handle(ctx: Context, order: str) -> None:
            clock()  # awakeables: ok
            clock()  # noqa: S311  # awakeables: ok, only for the log
            clock(
            )  # awakeables: ok
            try:
                await ctx.sleep(SECOND)
            except:  # awakeables: ok
                clock()
            clock()  # awakeables is ok
        """
    )
    assert places(found) == [(11, "clock"), (12, "clock")]


def test_a_function_with_the_comment_in_its_signature_is_silenced_as_a_whole(checked: Checking) -> None:
    found = checked(
        """
        @service.handler()
        async def handle(
            ctx: Context,
        ) -> None:  # awakeables: ok
            clock()
            helper(ctx)

        def helper(ctx: Context) -> None:
            def inner() -> float:  # awakeables: ok
                return clock()

            clock()
        """
    )
    assert places(found) == [(13, "clock")]


def test_a_name_that_the_module_defines_itself_is_not_the_builtin(checked: Checking) -> None:
    found = checked(
        """
        def open(name: str) -> str:
            return name

        @service.handler()
        async def handle(ctx: Context, order: str) -> str:
            return open(order)
        """
    )
    assert rules(found) == []


def test_a_handler_without_source_is_named(checked: Checking) -> None:
    found = checked(
        """
        @service.handler()
        async def handle(ctx: Context) -> None: ...

        exec("async def built(ctx): clock()")
        service.handler()(built)
        """
    )
    assert (found.handlers, found.findings, found.without_source) == (1, [], ["orders/built"])
