"""What a service makes of the description of a function."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from awakeables import App, Context, RemoteService, Service
from awakeables.errors import DeclarationError, InvalidInput, NotFound
from awakeables.handlers.service import Handler
from awakeables.remote.described import FunctionMisfit, learn
from support.functions import responder_of


class Order(BaseModel):
    item: str
    count: int = Field(ge=1)


orders = Service("orders")


@orders.handler()
async def fulfil(ctx: Context, order: Order) -> list[Order]:
    """Fulfil an order.

    As often as it says.
    """
    return [order]


@orders.handler()
async def count(ctx: Context, most: int = 7) -> int:
    return most


@orders.handler()
async def nothing(ctx: Context) -> None: ...


@orders.handler(private=True)
async def raw(ctx: Context, content: bytes) -> bytes:
    return content


old, new = Service("editions"), RemoteService("editions", url="http://function.test")
old.handler("h")(nothing)
old.handler("h", version=2)(count)

DESCRIPTION = responder_of(App("shop", services=[orders, old])).function.description


def remote(**options: Any) -> RemoteService:
    return RemoteService("orders", **{"url": "http://function.test"} | options)


@pytest.fixture
def handlers() -> dict[str, Handler]:
    service = remote()
    learn(service, DESCRIPTION)
    return service.handlers


def refused(service: RemoteService, content: bytes) -> str:
    with pytest.raises(FunctionMisfit) as misfit:
        learn(service, content)
    return str(misfit.value)


def test_it_has_what_the_function_has_under_its_name(handlers: dict[str, Handler]) -> None:
    assert handlers.keys() == {"fulfil", "count", "nothing", "raw"}
    assert (handlers["raw"].private, handlers["fulfil"].private) == (True, False)


def test_inputs_are_validated_by_their_schemas(handlers: dict[str, Handler]) -> None:
    assert handlers["fulfil"].accept(b'{"item": "book", "count": 1}') == b'{"item": "book", "count": 1}'
    with pytest.raises(InvalidInput, match=r"orders/fulfil: count: .*less than"):
        handlers["fulfil"].accept(b'{"item": "book", "count": 0}')
    with pytest.raises(InvalidInput, match="a body is required"):
        handlers["fulfil"].accept(None)
    with pytest.raises(InvalidInput, match="orders/fulfil"):
        handlers["fulfil"].accept(b"{")


def test_an_input_with_a_default_may_be_left_out(handlers: dict[str, Handler]) -> None:
    assert handlers["count"].accept(None) is None
    assert handlers["count"].default == 7


def test_bytes_and_no_input_are_as_here(handlers: dict[str, Handler]) -> None:
    assert handlers["raw"].accept(b"\xff") == b"\xff"
    assert handlers["nothing"].accept(None) is None
    with pytest.raises(InvalidInput, match="takes no input"):
        handlers["nothing"].accept(b"1")


def test_schemas_and_texts_are_the_functions(handlers: dict[str, Handler]) -> None:
    given, here = handlers["fulfil"], orders.handlers["fulfil"]
    assert json.loads(given.input.schema or b"") == json.loads(here.input.schema or b"")
    assert json.loads(given.output.written or b"") == json.loads(here.output.written or b"")
    assert given.function.__doc__ == "Fulfil an order.\n\nAs often as it says."


def test_versions_are_kept_apart() -> None:
    learn(new, DESCRIPTION)
    assert {version: each.takes_input for version, each in new.versions["h"].items()} == {1: False, 2: True}
    assert new.handlers["h"].version == 2


def test_what_it_learns_replaces_what_it_knew() -> None:
    service = remote()
    learn(service, DESCRIPTION)
    learn(service, DESCRIPTION)
    changed = json.loads(DESCRIPTION)
    changed["handlers"] = [each for each in changed["handlers"] if each["name"] == "raw"]
    learn(service, json.dumps(changed).encode())
    assert service.handlers.keys() == {"raw"}


def test_a_look_later_keeps_what_open_invocations_may_need() -> None:
    service = remote()
    learn(service, DESCRIPTION)
    other = json.loads(DESCRIPTION)
    other["handlers"] = [each for each in other["handlers"] if each["name"] == "raw"]
    learn(service, json.dumps(other).encode(), keeps=True)
    assert service.handlers.keys() == {"fulfil", "count", "nothing", "raw"}


def test_what_can_not_be_served_leaves_what_was_there() -> None:
    service = remote()
    learn(service, DESCRIPTION)
    twice = json.loads(DESCRIPTION)
    twice["handlers"] = [each for each in twice["handlers"] if each["name"] == "raw"] * 2
    assert "two handlers called 'raw'" in refused(service, json.dumps(twice).encode())
    assert service.handlers.keys() == {"fulfil", "count", "nothing", "raw"}


def test_a_reference_follows_to_another_version() -> None:
    service = remote()
    referred = service.named("fulfil", Order, list[Order])
    app = App("shop", services=[service])
    learn(service, DESCRIPTION)
    assert app.find(referred).version == 1
    learn(service, changed(version=2), keeps=True)
    assert app.find(referred).version == 2


DEEP = b'{"handlers": [{"service": "orders", "name": "h", "input": {"schema": ' + b'{"items": ' * 100_000


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"handlers": []}', b'{"app": "\xe9"}', DEEP])
def test_something_else_at_that_address_is_named(content: bytes) -> None:
    assert "what answers at http://function.test is not a function" in refused(remote(), content)


def test_a_function_without_the_service_lists_those_that_it_has() -> None:
    other = RemoteService("other", url="http://function.test")
    assert "has no service 'other'; it has: editions, orders" in refused(other, DESCRIPTION)


def test_a_limit_that_is_not_below_the_time_out_is_refused() -> None:
    message = refused(remote(timeout=timedelta(seconds=50)), DESCRIPTION)
    assert "may work 50 s on a request, but the timeout= of orders is 50 s" in message


def changed(**fields: Any) -> bytes:
    description = json.loads(DESCRIPTION)
    description["handlers"] = [description["handlers"][0] | fields]
    return json.dumps(description).encode()


@pytest.mark.parametrize("kind", ["exclusive", "shared", "run", "signal"])
def test_objects_and_workflows_are_refused(kind: Literal["exclusive", "shared", "run", "signal"]) -> None:
    assert "a remote service is neither" in refused(remote(), changed(kind=kind))


def test_another_protocol_is_refused() -> None:
    content = json.dumps(json.loads(DESCRIPTION) | {"protocol": 2}).encode()
    assert "speaks protocol 2, this service 1" in refused(remote(), content)


@pytest.mark.parametrize(
    "fields", [{"name": "send"}, {"name": "a b"}, {"version": 0}, {"input": {"schema": {"type": 1}}}]
)
def test_what_can_not_be_served_is_refused(fields: dict[str, Any]) -> None:
    assert "http://function.test" in refused(remote(), changed(**fields))


def test_fields_of_later_releases_are_ignored() -> None:
    service = remote()
    learn(service, changed(of_the_future=1))
    assert service.handlers.keys() == {"fulfil"}


def test_before_it_is_read_a_handler_is_said_to_be_unknown_so_far() -> None:
    app = App("shop", services=[remote()])
    with pytest.raises(NotFound, match=r"which it has is read from http://function\.test when the service"):
        app.handler("orders", "fulfil")


def test_a_handler_that_is_referred_to_must_be_there() -> None:
    service = remote()
    service.named("fulfill", Order, list[Order])
    message = refused(service, DESCRIPTION)
    assert "orders has no handler 'fulfill'; it has: count, fulfil, nothing, raw" in message


def test_a_handler_that_is_referred_to_is_found_by_its_function() -> None:
    service = remote()
    referred = service.named("fulfil", Order, list[Order])
    app = App("shop", services=[service])
    learn(service, DESCRIPTION)
    handler = app.find(referred)
    assert handler is service.handlers["fulfil"]
    assert handler.output.load_written(b'[{"item": "book", "count": 1}]') == [Order(item="book", count=1)]


def test_a_handler_is_referred_to_once() -> None:
    service = remote()
    service.named("fulfil", Order, list[Order])
    with pytest.raises(DeclarationError, match="twice"):
        service.named("fulfil", Order, list[Order])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "function.test"}, "url="),
        ({"url": "ftp://function.test"}, "url="),
        ({"url": "http://"}, "url="),
        ({"url": "http://[x/"}, "url="),
        ({"url": "http://function.test#x"}, "url="),
        ({"url": None}, "url="),
        ({"url": "http://host:abc/"}, "url="),
        ({"url": "http://host:99999/"}, "url="),
        ({"url": "http://host/\n"}, "url="),
        ({"url": "http://ho st/"}, "url="),
        ({"timeout": timedelta()}, "timeout="),
        ({"timeout": 3}, "timeout="),
        ({"max_concurrent": 0}, "max_concurrent="),
        ({"max_request_bytes": "1"}, "max_request_bytes="),
    ],
)
def test_a_declaration_is_checked(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError, match=rf"service 'orders': {told}"):
        remote(**options)
