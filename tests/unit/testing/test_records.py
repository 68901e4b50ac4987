"""The kit and subscriptions: a handler is run with a record, as its subscription would begin it."""

from __future__ import annotations

from typing import Any

import pytest

from awakeables import (
    Context,
    KafkaRecord,
    ObjectContext,
    Service,
    Subscription,
    TerminalError,
    VirtualObject,
)
from awakeables.errors import InvalidInput
from awakeables.testing import run

orders = Service("orders")
carts = VirtualObject("carts")
TOTAL = carts.state("total", int, default=0)


def by_cart(record: KafkaRecord) -> str:
    return dict(record.headers)["cart"].decode()  # type: ignore[union-attr]


@orders.handler(topic="new-orders")
async def fulfil(ctx: Context, order: dict[str, Any]) -> list[Any]:
    record = ctx.request.record
    assert record is not None
    assert record.key is not None
    parcel = ctx.awakeable(str)
    ctx.publish("tasks", order, awakeable=parcel)
    return [await parcel, record.topic, record.key.decode(), ctx.request.headers]


@orders.handler("raw-orders", topic="raw")
async def raw(ctx: Context, value: bytes) -> int:
    if not value:
        raise TerminalError("empty", code=400)
    return len(value)


@carts.handler(topic=Subscription("cart-events", key=by_cart))
async def add(ctx: ObjectContext, amount: int) -> str:
    ctx.set(TOTAL, await ctx.get(TOTAL) + amount)
    return ctx.key


@orders.handler()
async def plain(ctx: Context, order: int) -> int:
    return order


def test_a_handler_is_run_with_a_record() -> None:
    record = KafkaRecord(topic="new-orders", value=b'{"id": 1}', key=b"o-1", headers=[("H", b"x")])
    done = run(fulfil, record=record, answers={"tasks": "p-1"})
    assert done.value == ["p-1", "new-orders", "o-1", {"h": "x"}]
    assert [record.topic for record in done.published] == ["tasks"]


def test_a_record_names_the_key_of_an_object() -> None:
    record = KafkaRecord(topic="cart-events", value=b"3", headers=[("cart", b"c-1")])
    done = run(add, record=record, state={TOTAL: 4})
    assert (done.value, done.state) == ("c-1", {"total": 7})


def test_a_record_that_would_be_a_dead_letter_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="the value does not fit the input of carts/add"):
        run(add, record=KafkaRecord(topic="cart-events", value=b'"x"', headers=[("cart", b"c-1")]))
    with pytest.raises(InvalidInput, match="key function raised KeyError: 'cart'"):
        run(add, record=KafkaRecord(topic="cart-events", value=b"1"))


def test_a_failure_is_what_its_caller_would_see() -> None:
    with pytest.raises(TerminalError, match="empty"):
        assert run(raw, record=KafkaRecord(topic="raw", value=b"")).value


def test_a_record_is_given_alone_and_only_to_a_handler_with_a_topic() -> None:
    record = KafkaRecord(topic="x", value=b"1")
    with pytest.raises(InvalidInput, match="was declared without topic="):
        run(plain, record=record)
    with pytest.raises(InvalidInput, match="give it alone"):
        run(raw, b"x", record=record)
    with pytest.raises(InvalidInput, match="give it alone"):
        run(raw, record=record, headers={"a": "b"})
    assert run(plain, 3).value == 3
    assert run(raw, b"abc").value == 3
