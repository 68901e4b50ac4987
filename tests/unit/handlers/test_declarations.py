"""What can't be served is refused when it is declared, and says why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from awakeables import App, Context, Service
from awakeables.errors import DeclarationError, NotFound
from awakeables.testing import run
from unit.handlers.shapes import Parcel

if TYPE_CHECKING:
    from decimal import Decimal


class Opaque:
    pass


async def fine(ctx: Context, parcel: Parcel) -> Parcel:
    return parcel


def declare(function: Any, name: str | None = None) -> Service:
    service = Service("orders")
    service.handler(name)(function)
    return service


def test_a_handler_is_returned_unchanged_and_found_by_name_and_by_function() -> None:
    service = declare(fine)
    app = App("shop", services=[service])
    handler = app.handler("orders", "fine")
    assert handler.function is fine
    assert app.find(fine) is handler
    assert (handler.takes_input, repr(handler)) == (True, "<handler orders/fine>")
    assert (app.completions_topic, app.dead_letter_topic) == ("shop.completions", "shop.completions.dlq")


def test_a_handler_may_have_another_name_than_its_function() -> None:
    assert set(declare(fine, "full-fill").handlers) == {"full-fill"}


def sync(ctx: Context) -> None: ...


async def nothing() -> None: ...


async def three(ctx: Context, one: int, two: int) -> None: ...


async def star(ctx: Context, *rest: int) -> None: ...


async def keyword(ctx: Context, *, order: int) -> None: ...


async def without_context(n: int) -> None: ...


async def swapped(order: str, ctx: Context) -> None: ...


async def unfindable(ctx: Context, price: Decimal) -> None: ...


async def opaque_input(ctx: Context, value: Opaque) -> None: ...


async def opaque_result(ctx: Context) -> Opaque: ...  # type: ignore[empty-body]


async def no_schema(ctx: Context) -> Callable[[int], int]: ...  # type: ignore[empty-body]


async def generator(ctx: Context) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (sync, "handler orders/sync: declare it with `async def`"),
        (generator, "handler orders/generator: declare it with `async def`"),
        (nothing, r"handler orders/nothing: it takes a Context and at most one input, \(ctx\) or"),
        (three, "at most one input"),
        (star, "at most one input"),
        (keyword, "at most one input"),
        (
            without_context,
            r"orders/without_context: its first parameter must be the Context, not .*int.*\(ctx: Con",
        ),
        (swapped, "orders/swapped: its first parameter must be the Context, not .*str"),
        (unfindable, "orders/unfindable: a type in its signature can't be resolved: .*Decimal"),
        (opaque_input, "orders/opaque_input: .*Opaque.* is not a type that pydantic can validate"),
        (opaque_result, "orders/opaque_result: .*Opaque.* is not a type that pydantic can validate"),
        (no_schema, "orders/no_schema: .*has no JSON Schema"),
    ],
)
def test_a_function_that_can_t_be_a_handler_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        declare(function)


@pytest.mark.parametrize("name", ["ä", "a b", "a/b", "-a", ".", "x" * 101])
def test_a_name_that_can_t_be_part_of_a_url_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="a name has letters, digits"):
        Service(name)
    with pytest.raises(DeclarationError, match="a name has letters, digits"):
        declare(fine, name)
    with pytest.raises(DeclarationError, match="a name has letters, digits"):
        App(name, services=[Service("orders")])


def test_a_handler_called_send_would_be_ambiguous() -> None:
    with pytest.raises(DeclarationError, match="the name 'send' is reserved"):
        declare(fine, "send")


def test_a_handler_that_is_declared_without_parentheses_is_refused() -> None:
    with pytest.raises(
        DeclarationError, match=r"service 'orders': .* not <function fine.*@service\.handler\(\)"
    ):
        Service("orders").handler(fine)  # type: ignore[arg-type]


def test_two_handlers_of_one_name_are_refused() -> None:
    service = declare(fine)
    with pytest.raises(DeclarationError, match="service 'orders' has two handlers called 'fine'"):
        service.handler()(fine)


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(DeclarationError, match="app 'shop' has two services called 'orders'"):
        App("shop", services=[Service("orders"), Service("orders")])


def test_an_app_without_services_is_refused() -> None:
    with pytest.raises(DeclarationError, match="app 'shop' has no services"):
        App("shop", services=[])


def test_the_error_for_what_is_not_found_lists_what_there_is() -> None:
    app = App("shop", services=[declare(fine), Service("billing")])
    with pytest.raises(NotFound, match="no service 'order'; there are: billing, orders"):
        app.handler("order", "fine")
    with pytest.raises(NotFound, match="service 'orders' has no handler 'find'; it has: fine"):
        app.handler("orders", "find")
    with pytest.raises(NotFound, match="is not a handler of app 'shop'"):
        app.find(sync)


def test_a_handler_s_input_and_result_are_read_by_their_annotations() -> None:
    async def untyped(ctx, value):  # type: ignore[no-untyped-def]
        return value

    async def raw(ctx: Context, value: bytes) -> bytes:
        return value + b"\xff"

    async def no_input(ctx: Context) -> Awaitable[int] | None:
        return None

    assert run(fine, Parcel(id="a")).value == {"id": "a", "weight": 1}
    assert run(untyped, {"a": [2**70]}).value == {"a": [2**70]}
    assert run(raw, b"\x00").value == b"\x00\xff"
