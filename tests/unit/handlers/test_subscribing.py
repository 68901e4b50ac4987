"""Subscriptions as they are declared: what can't be one says why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from awakeables import App, Context, KafkaRecord, ObjectContext, Service, Subscription, VirtualObject
from awakeables.errors import DeclarationError


async def take(ctx: Context, order: int) -> int:
    return order


def declared(topic: Any, function: Any = take, name: str | None = None) -> Service:
    service = Service("orders")
    service.handler(name, topic=topic)(function)
    return service


def test_a_subscription_is_named_after_its_handler() -> None:
    app = App("shop", services=[declared("new-orders")])
    ((name, handler),) = app.subscribed().items()
    assert (name, handler.subscription) == ("orders.take", Subscription("new-orders", name="orders.take"))


def test_a_name_keeps_its_place_when_its_handler_is_renamed() -> None:
    subscription = Subscription("new-orders", name="orders.fulfil")
    for name in ("fulfil", "ship"):
        assert list(App("shop", services=[declared(subscription, name=name)]).subscribed()) == [
            "orders.fulfil"
        ]


def test_a_handler_without_a_topic_has_none() -> None:
    service = Service("orders")
    service.handler()(take)
    assert App("shop", services=[service]).subscribed() == {}
    assert service.handlers["take"].subscription is None


async def a_coroutine(record: KafkaRecord) -> str:
    return "k"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"topic": ""}, "a topic is a string that is not empty"),
        ({"topic": "a topic"}, "249 letters, digits"),
        ({"topic": "x" * 250}, "249 letters, digits"),
        ({"start": "first"}, "start= is 'earliest', 'latest' or a datetime, not 'first'"),
        ({"start": datetime(2026, 1, 1)}, "start= has no time zone"),  # noqa: DTZ001
        ({"on_failure": "drop"}, "on_failure= is 'dead-letter' or 'keep', not 'drop'"),
        ({"topic": ".."}, "249 letters, digits"),
        ({"max_open": 0}, "max_open= is a whole number from 1 to 1,000,000,000, not 0"),
        ({"max_open": "5"}, "max_open= is a whole number .* not '5'"),
        ({"max_open": True}, "max_open= is a whole number .* not True"),
        ({"max_open": 1.5}, "max_open= is a whole number .* not 1.5"),
        ({"max_open": 2**70}, "max_open= is a whole number"),
        ({"name": 5}, "name= is a string that is not empty, not 5"),
        ({"name": ""}, "name= is a string that is not empty, not ''"),
        ({"key": a_coroutine}, "key= must not be an `async` function"),
        ({"key": "id"}, "key= is a function of the record, not 'id'"),
    ],
)
def test_a_value_that_can_not_be_used_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        Subscription(**{"topic": "new-orders", **options})


def test_an_instant_with_a_time_zone_is_a_start() -> None:
    assert Subscription("t", start=datetime(2026, 1, 1, tzinfo=UTC)).max_open == 10_000


async def nothing(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("topic", "function", "why"),
    [
        (3, take, "topic= is the name of a topic or a Subscription, not 3"),
        ("t", nothing, r"it takes \(ctx, input\); bytes are the values as they are"),
        (Subscription("t", key=lambda record: record.topic), take, "a service has no keys"),
        (Subscription("t", name="a b"), take, "subscription 'a b': a name has letters"),
    ],
)
def test_a_handler_that_can_not_take_records_is_refused(topic: Any, function: Any, why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        declared(topic, function)


@pytest.mark.parametrize("topic", ["shop.completions", "shop.completions.dlq", "shop.verdicts"])
def test_a_topic_of_the_app_s_own_is_refused(topic: str) -> None:
    with pytest.raises(DeclarationError, match="is one of the app's own topics"):
        App("shop", services=[declared(topic)])


def test_two_subscriptions_of_one_name_are_refused() -> None:
    service, carts = declared(Subscription("one", name="same")), VirtualObject("carts")

    @carts.handler(topic=Subscription("two", name="same"))
    async def add(ctx: ObjectContext, item: str) -> None: ...

    with pytest.raises(DeclarationError, match="the subscription 'same' is that of orders/take"):
        App("shop", services=[service, carts])
