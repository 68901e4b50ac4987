"""Subscriptions over a real Kafka: each record begins one invocation, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from awakeables import App, Context, ObjectContext, Service, Subscription, TerminalError, VirtualObject
from awakeables.core.deadletters import DeadLetter
from awakeables.core.invocations import Invocation
from awakeables.ports import Page, Store
from support.eventually import eventually
from support.service import (
    Running,
    create_app_topics,
    new_store,
    produce,
    producing,
    read_records,
    running,
)

if TYPE_CHECKING:
    from support.real_kafka import TopicFactory

EVERYTHING = Page(limit=10_000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store("sqlite", tmp_path)


def an_app(*services: Service | VirtualObject) -> App:
    return App(f"shop-{secrets.token_hex(4)}", services=list(services))


def orders_of(topic: str | Subscription) -> App:
    """Doubles a number; fails at a negative one."""
    orders = Service("orders")

    @orders.handler(topic=topic)
    async def double(ctx: Context, amount: int) -> list[Any]:
        if amount < 0:
            raise TerminalError("a negative amount", code=409)
        record = ctx.request.record
        assert record is not None
        return [2 * amount, record.partition, record.offset]

    return an_app(orders)


@asynccontextmanager
async def subscribed(bootstrap: str, app: App, store: Store) -> AsyncIterator[Running]:
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, store) as shop:
        yield shop


async def begun(store: Store, count: int, *, status: str | None = "completed") -> list[Invocation]:
    """So many invocations, the oldest first, once they have this status."""

    async def rows() -> list[Invocation]:
        found = await store.invocations(EVERYTHING)
        fit = [row for row in found if status is None or row.status == status]
        return sorted(fit, key=lambda row: row.id) if len(fit) >= count else []

    found = await eventually(rows, timeout=20)
    assert len(found) == count
    return found


async def results(store: Store, count: int) -> list[Any]:
    """What the handlers have returned."""
    rows = [await store.invocation(row.id) for row in await begun(store, count)]
    return sorted(json.loads(row.result.content) for row in rows if row and row.result)  # type: ignore[union-attr]


async def letters(store: Store, count: int) -> list[DeadLetter]:
    async def found() -> list[DeadLetter]:
        rows = await store.dead_letters(EVERYTHING)
        return rows if len(rows) >= count else []

    rows = [await store.dead_letter(row.id) for row in await eventually(found, timeout=20)]
    assert len(rows) == count
    return sorted((row for row in rows if row is not None), key=lambda row: row.offset)


async def positions(store: Store, app: App) -> dict[int, int]:
    [(name, handler)] = app.subscribed().items()
    assert handler.subscription is not None
    rows = await store.positions(handler.subscription.topic, name)
    return {row.partition: row.next for row in rows}


async def read_to(store: Store, app: App, **ends: int) -> None:
    """Wait until the subscription has read its partitions up to there."""
    wanted = {int(name[1:]): end for name, end in ends.items()}

    async def read() -> bool:
        return await positions(store, app) == wanted

    await eventually(read, timeout=20)


async def test_each_record_begins_one_invocation(bootstrap: str, topic: TopicFactory, store: Store) -> None:
    numbers = await topic("numbers", partitions=2)
    app = orders_of(numbers)
    await produce(bootstrap, numbers, [b"1", b"2"])
    async with subscribed(bootstrap, app, store) as shop:
        await produce(bootstrap, numbers, [b"3"], partition=1)
        assert await results(store, 3) == [[2, 0, 0], [4, 0, 1], [6, 1, 0]]
        [row, *_] = await begun(store, 3)
        assert row.subscription == "orders.double"
        await read_to(store, app, p0=2, p1=1)
        assert shop.problems == {}


async def test_a_restart_repeats_and_loses_nothing(
    bootstrap: str, topic: TopicFactory, tmp_path: Path
) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(numbers)
    for first in (0, 10, 20):
        store = new_store("sqlite", tmp_path)
        await produce(bootstrap, numbers, [str(first + n).encode() for n in range(10)])
        async with subscribed(bootstrap, app, store):
            assert [each[0] for each in await results(store, first + 10)] == list(range(0, 2 * first + 20, 2))


async def test_latest_begins_at_the_end_that_it_found_first(
    bootstrap: str, topic: TopicFactory, tmp_path: Path
) -> None:
    numbers = await topic("numbers", partitions=2)
    app = orders_of(Subscription(numbers, start="latest"))
    await produce(bootstrap, numbers, [b"1", b"2"])
    store = new_store("sqlite", tmp_path)
    async with subscribed(bootstrap, app, store):
        await read_to(store, app, p0=2, p1=0)
    await produce(bootstrap, numbers, [b"3"])  # while nobody reads
    store = new_store("sqlite", tmp_path)
    async with subscribed(bootstrap, app, store):
        assert await results(store, 1) == [[6, 0, 2]]


async def test_an_instant_begins_at_the_first_record_that_is_not_older(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=2)
    now = datetime.now(UTC)
    async with producing(bootstrap) as producer:
        for hours in (3, 2, 1):
            at_ms = round((now - timedelta(hours=hours)).timestamp() * 1000)
            await producer.send_and_wait(numbers, str(hours).encode(), partition=0, timestamp_ms=at_ms)
    app = orders_of(Subscription(numbers, start=now - timedelta(hours=2, minutes=1)))
    async with subscribed(bootstrap, app, store):
        assert await results(store, 2) == [[2, 0, 2], [4, 0, 1]]


async def test_an_instant_before_1970_is_the_beginning(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    await produce(bootstrap, numbers, [b"1", b"2"])
    long_ago = datetime(1960, 1, 1, tzinfo=UTC)
    async with subscribed(bootstrap, orders_of(Subscription(numbers, start=long_ago)), store) as shop:
        await results(store, 2)
        await shop.api.pause_subscription("orders.double")
        [move] = await shop.api.seek("orders.double", long_ago)
        assert (move.before, move.next) == (2, 0)


async def test_what_does_not_fit_is_a_dead_letter_and_the_next_one_is_read(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(numbers)
    poison = [b'"a word"', b"{", b"\xff\xfe", b"", None, b"[" * 500]
    await produce(bootstrap, numbers, [*poison, *poison, b"7"])
    async with subscribed(bootstrap, app, store):
        assert await results(store, 1) == [[14, 0, 12]]
        found = await letters(store, 12)
        assert [(letter.offset, letter.code, letter.value) for letter in found] == [
            (n, "invalid", value) for n, value in enumerate([*poison, *poison])
        ]
        copies = await read_records(bootstrap, app.dead_letter_topic, 12)
    assert sorted(record.value or b"" for record in copies) == sorted([value or b"" for value in poison] * 2)


async def test_a_failure_is_a_dead_letter_that_can_be_sent_again(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(numbers)
    async with subscribed(bootstrap, app, store) as shop:
        async with producing(bootstrap) as producer:
            headers = [("trace", b"\xff"), ("trace", b"2")]
            await producer.send_and_wait(numbers, b" -5", key=b"k", partition=0, headers=headers)
        [letter] = await letters(store, 1)
        [row] = await begun(store, 1)
        assert (letter.code, letter.key, letter.value) == ("failed", b"k", b" -5")
        assert letter.headers == (("trace", b"\xff"), ("trace", b"2"))
        assert letter.reason == f"orders/double failed, code 409: a negative amount ({row.id})"
        await shop.api.resend(letter.id)
        assert len(await letters(store, 2)) == 2
        await read_to(store, app, p0=2)


async def test_on_failure_keep_makes_no_dead_letter(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(Subscription(numbers, on_failure="keep"))
    await produce(bootstrap, numbers, [b"-1", b"2"])
    async with subscribed(bootstrap, app, store):
        await begun(store, 2)
        assert await store.dead_letters(EVERYTHING) == []


async def test_a_key_is_that_of_an_object_and_its_records_run_in_order(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    events = await topic("cart-events", partitions=2)
    carts, seen = VirtualObject("carts"), dict[str, list[int]]()

    @carts.handler(topic=events)
    async def add(ctx: ObjectContext, amount: int) -> None:
        await ctx.sleep(timedelta(milliseconds=1))
        await ctx.run("note", lambda: seen.setdefault(ctx.key, []).append(amount))

    app = an_app(carts)
    async with producing(bootstrap) as producer:
        for n in range(60):
            await producer.send(events, str(n).encode(), key=f"cart-{n % 3}".encode())
        await producer.send(events, b"1", key=None)
        await producer.send(events, b"1", key=b"")
        await producer.send(events, b"1", key=b"\xff")
    async with subscribed(bootstrap, app, store):
        await begun(store, 60)
        assert seen == {f"cart-{n}": list(range(n, 60, 3)) for n in range(3)}
        assert {letter.code for letter in await letters(store, 3)} == {"invalid"}


async def test_the_key_may_come_from_the_record(bootstrap: str, topic: TopicFactory, store: Store) -> None:
    events = await topic("cart-events", partitions=1)
    carts = VirtualObject("carts")

    @carts.handler(topic=Subscription(events, key=lambda record: json.loads(record.value or b"{}")["cart"]))
    async def add(ctx: ObjectContext, event: dict[str, str]) -> str:
        return ctx.key

    await produce(bootstrap, events, [b'{"cart": "c-1"}', b"{}"])
    async with subscribed(bootstrap, an_app(carts), store):
        assert await results(store, 1) == ["c-1"]
        [letter] = await letters(store, 1)
        assert letter.reason == "the subscription's key function raised KeyError: 'cart'"


async def test_two_handlers_read_one_topic_each_for_itself(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    orders = Service("orders")

    @orders.handler(topic=numbers)
    async def one(ctx: Context, amount: int) -> None:
        raise TerminalError("no")

    @orders.handler(topic=numbers)
    async def two(ctx: Context, amount: int) -> None:
        raise TerminalError("no")

    await produce(bootstrap, numbers, [b"1", b"2"])
    async with subscribed(bootstrap, an_app(orders), store):
        await begun(store, 4)
        assert [letter.offset for letter in await letters(store, 4)] == [0, 0, 1, 1]


async def test_no_more_is_open_than_max_open_says(bootstrap: str, topic: TopicFactory, store: Store) -> None:
    numbers = await topic("numbers", partitions=2)
    orders, gate = Service("orders"), asyncio.Event()

    @orders.handler(topic=Subscription(numbers, max_open=3))
    async def wait(ctx: Context, amount: int) -> None:
        await ctx.run("gate", gate.wait)

    app = an_app(orders)
    for partition in (0, 1):
        await produce(bootstrap, numbers, [b"1"] * 20, partition=partition)
    async with subscribed(bootstrap, app, store) as shop:
        await begun(store, 3, status="running")
        await asyncio.sleep(1.5)
        assert len(await store.invocations(EVERYTHING)) == 3
        [shown] = await shop.api.subscriptions()
        assert (shown.open, shown.max_open) == (3, 3)
        assert {each.waits for each in shown.partitions} == {"3 of its invocations are open"}
        assert shop.problems == {}
        gate.set()
        await begun(store, 40)


async def test_it_is_paused_moved_and_resumed(bootstrap: str, topic: TopicFactory, store: Store) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(numbers)
    name = "orders.double"
    async with subscribed(bootstrap, app, store) as shop:
        await produce(bootstrap, numbers, [b"1", b"2", b"3"])
        await begun(store, 3)
        paused = await shop.api.pause_subscription(name)
        assert paused.paused_ms is not None
        await produce(bootstrap, numbers, [b"4"])
        await asyncio.sleep(1)
        await begun(store, 3)
        [move] = await shop.api.seek(name, 1, by="ann")
        assert (move.partition, move.before, move.next) == (0, 3, 1)
        assert await shop.api.seek(name, 1) == []
        resumed = await shop.api.resume_subscription(name)
        assert resumed.paused_ms is None
        assert [each[0] for each in await results(store, 6)] == [2, 4, 4, 6, 6, 8]
        [shown] = await shop.api.subscriptions()
        assert [each.waits for each in shown.partitions] == [None]
        [letter] = await letters(store, 1)
        assert letter.code == "skipped"


async def test_records_of_a_transaction_that_is_aborted_are_not_read(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(numbers)
    async with producing(bootstrap, transactional_id=f"t-{secrets.token_hex(4)}") as producer:
        async with producer.transaction():
            await producer.send(numbers, b"1", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(numbers, b"2", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send(numbers, b"3", partition=0)
    async with subscribed(bootstrap, app, store):
        assert [each[0] for each in await results(store, 2)] == [2, 6]


async def test_a_missing_topic_is_a_problem_until_it_is_created(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    missing = f"missing-{secrets.token_hex(4)}"
    app = orders_of(missing)
    async with subscribed(bootstrap, app, store) as shop:
        await eventually(lambda: "subscription orders.double: topic" in shop.problems, timeout=20)
        problem = shop.problems["subscription orders.double: topic"]
        assert problem == f"there is no topic '{missing}'; who writes it creates it"
        [shown] = await shop.api.subscriptions()
        assert (shown.partitions, len(shown.problems)) == ([], 1)


async def test_a_partition_that_is_added_is_read_from_its_beginning(
    bootstrap: str, topic: TopicFactory, store: Store
) -> None:
    numbers = await topic("numbers", partitions=1)
    app = orders_of(Subscription(numbers, start="latest"))
    async with subscribed(bootstrap, app, store):
        await read_to(store, app, p0=0)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_partitions({numbers: NewPartitions(2)})
        await admin.close()
        await asyncio.sleep(0.5)
        await produce(bootstrap, numbers, [b"5"], partition=1)
        assert await results(store, 1) == [[10, 1, 0]]
