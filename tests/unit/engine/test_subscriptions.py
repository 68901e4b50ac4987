"""Subscriptions while processes read them: records become invocations, once, whatever is lost in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from awakeables import (
    App,
    Cancelled,
    Context,
    KafkaRecord,
    ObjectContext,
    Service,
    SharedContext,
    Subscription,
    TerminalError,
    VirtualObject,
    Workflow,
)
from awakeables.core.commands import BeginBatch, PausePartitions
from awakeables.core.deadletters import OMITTED_HEADER, DeadLetter
from awakeables.core.invocations import Invocation
from awakeables.engine.readerstate import ReaderState
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.subscriptions import SubscriptionSink
from awakeables.errors import (
    InvalidInput,
    NotFound,
    NotPossible,
    OwnershipLost,
    StoreRefused,
    StoreUnavailable,
)
from awakeables.handlers.invoking import MAX_INPUT_BYTES
from awakeables.handlers.subscription import Start
from awakeables.telemetry import events
from awakeables.testing.bench import Bench, Process, pass_time, until
from support.logs import heard

TOPIC = "numbers"
NAME = "orders.double"

orders = Service("orders")
carts = VirtualObject("carts", max_queue=3)
seen: list[KafkaRecord | None] = []


@orders.handler(topic=Subscription(TOPIC, max_open=4))
async def double(ctx: Context, amount: int) -> int:
    seen.append(ctx.request.record)
    if amount < 0:
        raise TerminalError("a negative amount", code=409)
    if amount == 13:
        await ctx.awakeable()
    if amount == 14:
        try:
            await ctx.awakeable()
        except Cancelled:
            raise TerminalError("could not clean up", code=500) from None
    if amount == 99:
        raise ZeroDivisionError
    return 2 * amount


@orders.handler(topic=Subscription("raw", on_failure="keep"))
async def raw(ctx: Context, value: bytes) -> str:
    seen.append(ctx.request.record)
    if value == b"fail":
        raise TerminalError("no")
    return ctx.request.headers.get("h", "")


@orders.handler(topic="optional")
async def optional(ctx: Context, amount: int | None) -> int | None:
    return amount


@orders.handler(topic="defaulted")
async def defaulted(ctx: Context, amount: int = 7) -> int:
    return amount


@carts.handler(topic=Subscription("events", name="cart-events"))
async def hold(ctx: ObjectContext, amount: int) -> str:
    await ctx.awakeable()
    return ctx.key


@carts.shared(topic="looks")
async def look(ctx: SharedContext, amount: int) -> str:
    return ctx.key


signups = Workflow("signups")


@signups.run(topic="sign-ups")
async def sign_up(ctx: ObjectContext, amount: int) -> int:
    return amount


app = App("shop", services=[orders, carts, signups])


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def a_sink(process: Process, name: str = NAME, partition: int = 0) -> SubscriptionSink:
    return process.engine.subscriptions.topics[name].sink(partition)


def records(*values: bytes | None, first: int = 0, key: bytes | None = b"k") -> list[ConsumedRecord]:
    return [
        ConsumedRecord(offset=first + n, timestamp_ms=1000 + n, key=key, value=value)
        for n, value in enumerate(values)
    ]


def rows(bench: Bench) -> list[Invocation]:
    return sorted(bench.store.tables.invocations.values(), key=lambda row: row.id)


def letters(bench: Bench) -> list[DeadLetter]:
    return sorted(bench.store.tables.dead_letters.values(), key=lambda letter: letter.offset)


async def ended(bench: Bench, count: int) -> list[Any]:
    """The results of so many invocations, once they have ended."""
    await until(lambda: sum(row.result is not None for row in rows(bench)) == count, f"{count} have ended")
    return [getattr(row.result, "content", row.result) for row in rows(bench)]


async def test_a_batch_begins_an_invocation_per_record_and_moves_the_offset() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        assert await sink.open() == 0
        assert await sink.take(records(b"1", b" 2 ", b"3")) == 3
        assert sorted(await ended(bench, 3)) == [b"2", b"4", b"6"]
        assert sorted((record.offset, record.value) for record in seen if record) == [
            (0, b"1"),
            (1, b" 2 "),
            (2, b"3"),
        ]
        assert await a_sink(process).open() == 3


async def test_a_record_of_a_key_that_has_a_run_begins_nothing_and_is_counted() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process, "signups.run")
        await sink.open()
        assert await sink.take(records(b"1", b"1")) == 2
        assert await ended(bench, 1) == [b"1"]
        assert await sink.take(records(b"2", first=2)) == 3
        assert letters(bench) == []
        registry, of = process.engine.metrics.registry, {"subscription": "signups.run"}
        assert registry.get_sample_value("awakeables_subscription_records_total", of) == 1
        assert registry.get_sample_value("awakeables_subscription_records_attached_total", of) == 2
    assert len(rows(bench)) == 1


async def test_a_handler_sees_the_record_and_its_headers_as_text() -> None:
    bench = Bench()
    headers = (("H", b"one"), ("h", b"two"), ("binary", b"\xff"), ("none", None))
    async with bench.running(app) as process:
        sink = a_sink(process, "orders.raw", 3)
        await sink.open()
        given = ConsumedRecord(offset=5, timestamp_ms=1500, key=b"\xff", value=b"\x00", headers=headers)
        await sink.take([given])
        assert await ended(bench, 1) == [b'"two"']
    assert seen == [
        KafkaRecord(
            topic="raw",
            partition=3,
            offset=5,
            timestamp=datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC),
            key=b"\xff",
            value=b"\x00",
            headers=headers,
        )
    ]


async def test_the_trace_of_a_record_goes_on() -> None:
    bench = Bench()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with bench.running(app) as process:
        sink = a_sink(process, "orders.raw")
        await sink.open()
        (record,) = records(b"x")
        await sink.take([replace(record, headers=(("traceparent", trace.encode()),))])
        await ended(bench, 1)
    (given, *_) = await bench.journal(rows(bench)[0].id)
    assert given.headers == {"traceparent": trace}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("orders.optional", None, b"null"),
        ("orders.defaulted", None, b"7"),
        ("orders.optional", b"null", b"null"),
    ],
)
async def test_a_tombstone_is_the_default_or_none(name: str, value: bytes | None, wanted: bytes) -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process, name)
        await sink.open()
        await sink.take(records(value))
        assert await ended(bench, 1) == [wanted]


@pytest.mark.parametrize(
    ("name", "key", "value", "reason"),
    [
        (NAME, b"k", None, "a value is required: the value does not fit the input of orders/double"),
        (NAME, b"k", b'"x"', "the value does not fit the input of orders/double"),
        (NAME, b"k", b"{", "the value is not JSON"),
        (NAME, b"k", b"", "the value is not JSON"),
        (NAME, b"k", b"NaN", "the value is not JSON"),
        ("cart-events", None, b"1", "the record has no key"),
        ("cart-events", b"", b"1", "1 to 1,024 bytes"),
        ("cart-events", b"\xff", b"1", "the record's key is not UTF-8"),
        ("cart-events", b"x" * 1025, b"1", "1 to 1,024 bytes"),
        ("carts.look", None, b"1", "the record has no key"),
    ],
)
async def test_a_record_that_does_not_fit_is_a_dead_letter_and_the_next_is_read(
    name: str, key: bytes | None, value: bytes | None, reason: str
) -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process, name)
        await sink.open()
        assert await sink.take([*records(value, key=key), *records(b"1", first=1)]) == 2
        (letter,) = letters(bench)
        assert (letter.code, letter.offset, letter.key, letter.value) == ("invalid", 0, key, value)
        assert reason in letter.reason
        assert len(rows(bench)) == 1
        await until(lambda: [e.key for e in bench.broker.published if e.kind == "dead-letter"] == [key])


async def test_forty_five_poisoned_records_stop_nothing() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        poison = [b"{", None, b'"x"'] * 15
        first = 0
        while first < 46:
            first = await sink.take(records(*[*poison, b"4"][first:], first=first))
        assert await ended(bench, 1) == [b"8"]
        assert len(letters(bench)) == 45


async def test_a_failure_is_a_dead_letter_with_the_record_as_it_was() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        (record,) = records(b" -1\n")
        record = replace(record, headers=(("h", b"\xff"),))
        await sink.take([record])
        await ended(bench, 1)
        await until(lambda: letters(bench))
        (letter,), (row,) = letters(bench), rows(bench)
        assert (letter.code, letter.key, letter.value, letter.headers) == (
            "failed",
            record.key,
            record.value,
            record.headers,
        )
        assert letter.reason == f"orders/double failed, code 409: a negative amount ({row.id})"
        await until(lambda: any(e.kind == "dead-letter" for e in bench.broker.published))
        again = await process.api.resend(letter.id)
        assert (again.topic, again.key, again.value, again.headers) == (
            TOPIC,
            record.key,
            record.value,
            record.headers,
        )


async def test_what_fails_otherwise_is_paused_and_makes_no_dead_letter() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        await sink.take(records(b"99", b"1"))
        await until(lambda: rows(bench)[1].status == "completed")
        assert rows(bench)[0].status == "backing-off"
        assert letters(bench) == []


async def test_no_dead_letter_if_it_is_kept_cancelled_or_killed() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process, "orders.raw")
        await sink.open()
        await sink.take(records(b"fail"))
        await ended(bench, 1)
        waiting = a_sink(process)
        await waiting.open()
        await waiting.take(records(b"13", b"13"))
        await until(lambda: len(bench.store.tables.awakeables) == 2)
        one, two = (row.id for row in rows(bench) if row.result is None)
        await process.api.cancel(one)
        await process.api.kill(two)
        await ended(bench, 3)
        assert letters(bench) == []


async def test_what_fails_after_it_was_cancelled_makes_no_dead_letter() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        await sink.take(records(b"14"))
        await until(lambda: len(bench.store.tables.awakeables) == 1)
        await process.api.cancel(rows(bench)[0].id)
        await ended(bench, 1)
        assert letters(bench) == []


async def test_a_commit_that_is_lost_is_made_again() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        bench.store.lose_before = 1
        assert await sink.take(records(b"1", b"2")) == 2
        assert sorted(await ended(bench, 2)) == [b"2", b"4"]


async def test_a_commit_whose_acknowledgement_is_lost_is_not_made_twice() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        bench.store.lose_after = 1
        with pytest.raises(OwnershipLost):
            await sink.take(records(b"1", b"2"))
        assert await sink.open() == 2
        assert sorted(await ended(bench, 2)) == [b"2", b"4"]


async def test_a_reader_that_was_replaced_begins_nothing() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        old, new = a_sink(process), a_sink(process)
        await old.open()
        await new.open()
        with pytest.raises(OwnershipLost):
            await old.take(records(b"1"))
        assert rows(bench) == []


async def test_a_batch_that_the_store_refuses_is_given_to_it_record_by_record() -> None:
    """`PartitionReader` halves it; what is left is a dead letter without what the store refuses."""
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        bench.store.refuses = lambda command: isinstance(command, BeginBatch) and bool(command.begins)
        with pytest.raises(StoreRefused):
            await sink.take(records(b"1"))
        (record,) = records(b"1")
        await sink.reject(record, "this data can't be kept")
        (letter,) = letters(bench)
        assert (letter.code, letter.value) == ("unstorable", b"1")
        assert await a_sink(process).open() == 1


async def test_one_record_that_the_store_refuses_does_not_stop_its_batch() -> None:
    """Its halves are taken at once, although what was open is not known after the refusal."""
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        bench.store.refuses = lambda command: (
            isinstance(command, BeginBatch) and any(b"777" in begin.chunk for begin in command.begins)
        )
        batch = records(b"1", b"777", b"3")
        with pytest.raises(StoreRefused):
            await sink.take(batch)
        assert await sink.take(batch[:1]) == 1
        with pytest.raises(StoreRefused):
            await sink.take(batch[1:2])
        await sink.reject(batch[1], "this data can't be kept")
        assert await sink.take(batch[2:]) == 3
        assert sorted(await ended(bench, 2)) == [b"2", b"6"]


async def test_a_value_that_is_too_large_is_not_kept_and_never_sent_again_as_a_tombstone() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        assert await sink.take(records(b" " * (MAX_INPUT_BYTES + 1), b"1")) == 2
        (letter,) = letters(bench)
        assert (letter.code, letter.key, letter.value) == ("unstorable", b"k", None)
        with pytest.raises(NotPossible, match="at offset 0 of partition 0 of numbers"):
            await process.api.resend(letter.id)
        await until(lambda: any(e.kind == "dead-letter" for e in bench.broker.published))
        (copy,) = (e for e in bench.broker.published if e.kind == "dead-letter")
        assert OMITTED_HEADER in dict(copy.headers)


@pytest.mark.parametrize(("at_ms", "year"), [(1_794_000_000_000_000_000, 9999), (-(2**62), 1), (-1, 1969)])
async def test_a_record_may_have_any_timestamp(at_ms: int, year: int) -> None:
    bench = Bench()
    async with bench.running(app) as process:
        for name, key in ((NAME, None), ("carts.look", b"c-1")):
            sink = a_sink(process, name)
            await sink.open()
            (record,) = records(b"1", key=key)
            await sink.take([replace(record, timestamp_ms=at_ms)])
        await ended(bench, 2)
        (record_seen,) = seen
        assert record_seen is not None
        assert record_seen.timestamp.year == year


class Unprintable(Exception):
    def __str__(self) -> str:
        raise OSError("no text")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ValueError("x \udcff"), "ValueError: x "),
        (asyncio.CancelledError(), "CancelledError"),
        (SystemExit(3), "SystemExit: 3"),
        (Unprintable(), "its __str__ raised OSError"),
    ],
)
async def test_a_key_function_may_raise_anything(raised: BaseException, reason: str) -> None:
    def key(record: KafkaRecord) -> str:
        if record.value == b"1":
            raise raised
        return "c-1"

    keyed = VirtualObject("keyed")

    @keyed.handler(topic=Subscription("events", key=key))
    async def take(ctx: ObjectContext, amount: int) -> int:
        return amount

    bench = Bench()
    async with bench.running(App("shop", services=[keyed])) as process:
        sink = a_sink(process, "keyed.take")
        await sink.open()
        assert await sink.take(records(b"1", b"2")) == 2
        (letter,) = letters(bench)
        assert letter.code == "invalid"
        assert letter.reason.startswith("the subscription's key function raised ")
        assert reason in letter.reason
        assert letter.reason.encode()


async def test_no_more_is_open_than_max_open() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        one, two = a_sink(process, partition=0), a_sink(process, partition=1)
        await one.open()
        await two.open()
        assert await one.take(records(*[b"13"] * 3)) == 3
        assert one.full is None
        assert await two.take(records(*[b"13"] * 3)) == 1
        assert two.full == "4 of its invocations are open"
        assert await one.take(records(b"1", first=3)) == 3
        assert one.full == "4 of its invocations are open"
        await two.look()
        assert two.full is not None
        await process.api.kill(rows(bench)[0].id)
        await two.look()
        assert two.full is None
        assert await two.take(records(b"13", b"13", first=1)) == 2
    assert len(rows(bench)) == 5


async def test_an_end_in_this_process_makes_room_at_once() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink, called = a_sink(process), list[bool]()
        await sink.open()
        await sink.take(records(*[b"13"] * 4))
        assert sink.full is not None
        sink.call_on_room(lambda: called.append(True))
        await until(lambda: len(bench.store.tables.awakeables) == 4)
        for awakeable in list(bench.store.tables.awakeables.values()):
            await bench.settle(process, awakeable.id, 1)
        await ended(bench, 4)
        assert called == [True]
        await sink.look()
        assert sink.full is None
        assert sink.most == 4


async def test_before_they_are_counted_an_end_makes_no_room() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        topic = process.engine.subscriptions.topics[NAME]
        topic.ended()
        assert topic.room == 0
        await topic.count_open(older_than_s=0)
        assert topic.room == 4


async def test_a_count_that_a_batch_of_unknown_outcome_overtakes_is_made_again() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        topic = process.engine.subscriptions.topics[NAME]
        counting = asyncio.create_task(topic.count_open(older_than_s=0))
        await asyncio.sleep(0)
        topic.answered(topic.reserve(1), None)
        await counting
        assert topic.room == 0
        await topic.count_open(older_than_s=5)
        assert topic.room == 4


async def test_a_reader_that_begins_anew_waits_for_nothing_that_is_over() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        first = a_sink(process)
        await first.open()
        await first.take(records(*[b"13"] * 4))
        gauge = process.engine.metrics.subscription_waiting.labels(NAME, "0")
        assert gauge._value.get() == 1
        for row in rows(bench):
            await process.api.kill(row.id)
        await a_sink(process).open()
        assert gauge._value.get() == 0


async def test_what_another_instance_begins_is_counted_now_and_then() -> None:
    bench = Bench(shared=True)
    async with bench.running(app) as one, bench.running(app) as two:
        here, there = a_sink(one), a_sink(two, partition=1)
        await here.open()
        await there.open()
        await here.take(records(*[b"13"] * 3))
        await pass_time(10)
        assert await there.take(records(b"13", b"13")) == 1
        assert there.full == "4 of its invocations are open"


async def test_what_was_open_before_a_restart_counts() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        await sink.take(records(*[b"13"] * 4))
    async with bench.running(app) as process:
        sink = a_sink(process)
        assert await sink.open() == 4
        assert sink.full == "4 of its invocations are open"


async def test_a_full_queue_stops_the_partition_before_its_record() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process, "cart-events")
        await sink.open()
        batch = [*records(*[b"1"] * 5, key=b"c-1"), *records(b"1", first=5, key=b"c-2")]
        assert await sink.take(batch) == 3
        assert sink.full == "carts/c-1 has 3 calls in its queue"
        await sink.look()
        assert sink.full is None  # it is tried again
        assert await sink.take(batch[3:]) == 3
        await process.api.kill(rows(bench)[0].id)
        await sink.look()
        assert await sink.take(batch[3:]) == 4
        assert [row.key for row in rows(bench)] == ["c-1"] * 4


async def test_while_a_queue_is_full_one_record_is_read_now_and_then() -> None:
    """What is behind it would be read, checked and dropped each time; then it is read faster and faster."""
    bench = Bench()
    async with bench.running(app) as process:
        sink, called = a_sink(process, "cart-events"), list[bool]()
        await sink.open()
        await sink.take(records(*[b"1"] * 4, key=b"c-1"))
        assert sink.full is not None
        assert sink.most == 1
        sink.call_on_room(lambda: called.append(True))
        await process.api.kill(rows(bench)[0].id)
        await until(lambda: sum(row.result is not None for row in rows(bench)) == 1)
        assert called == []  # there was always room for others
        await sink.look()
        for most in (2, 4, 8):
            await sink.take(records(b"1", first=1 + most, key=b"c-%d" % most))
            assert sink.most == most


async def test_a_partition_that_is_added_while_it_is_paused_is_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    async with bench.running(app) as process:
        await a_sink(process).open()
        added = a_sink(process, partition=1)
        committer = process.engine.subscriptions.topics[NAME].committer
        commit = committer.commit

        async def after_a_claim(command: Any, kind: Any) -> Any:
            if isinstance(command, PausePartitions) and command.partitions == (0,):
                await added.open()
            return await commit(command, kind)

        monkeypatch.setattr(committer, "commit", after_a_claim)
        await process.api.pause_subscription(NAME)
        with pytest.raises(OwnershipLost):
            await added.take(records(b"1"))
        await added.open()
        assert added.full == "it is paused"
        await process.api.resume_subscription(NAME)
        positions = await process.engine.subscriptions.topics[NAME].positions()
        assert [each.paused_ms for each in positions] == [None, None]


async def test_a_pause_lasts_over_a_restart_and_nothing_is_begun_meanwhile() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        paused = await process.api.pause_subscription(NAME)
        assert paused.paused_ms is not None
        with pytest.raises(OwnershipLost):
            await sink.take(records(b"1"))
    async with bench.running(app) as process:
        sink, added = a_sink(process), a_sink(process, partition=7)
        await sink.open()
        await added.open()
        assert (sink.full, added.full) == ("it is paused", "it is paused")
        resumed = await process.api.resume_subscription(NAME)
        assert resumed.paused_ms is None
        await sink.open()  # as its reader does
        assert sink.full is None
        assert await sink.take(records(b"1")) == 1


async def test_seeking_needs_a_pause_and_a_place_in_the_partition() -> None:
    bench = Bench()
    bench.offsets.begins[TOPIC, 0], bench.offsets.ends[TOPIC, 0] = 2, 10
    bench.offsets.later[TOPIC, 0] = 6
    async with bench.running(app) as process:
        api = process.api
        with pytest.raises(NotPossible, match="has not begun: is there a topic 'numbers'"):
            await api.pause_subscription(NAME)
        sink = a_sink(process)
        await sink.open()
        await sink.take(records(b"1", b"1", b"1"))
        with pytest.raises(
            NotPossible, match=r"is not paused: `awakeables subscriptions pause orders\.double`"
        ):
            await api.seek(NAME, "earliest")
        await api.pause_subscription(NAME)
        with pytest.raises(NotFound, match=r"no subscription 'x'; there are: cart-events, carts\.look"):
            await api.seek("x", "earliest")
        with pytest.raises(NotFound, match="has read no partition 5"):
            await api.seek(NAME, "earliest", partition=5)
        with pytest.raises(InvalidInput, match="has the offsets 2 to 10, not 11"):
            await api.seek(NAME, 11)
        moved = []
        for place in ("earliest", "latest", 4, datetime.now(UTC)):
            [move] = await api.seek(NAME, place)
            moved.append((move.before, move.next))
        assert moved == [(3, 2), (2, 10), (10, 4), (4, 6)]
        assert await api.seek(NAME, 6) == []
        assert [letter.code for letter in letters(bench)] == ["skipped"] * 4
        await api.resume_subscription(NAME)
        assert await a_sink(process).open() == 6


async def test_a_place_beyond_what_the_reader_has_seen_is_one() -> None:
    bench = Bench()
    bench.offsets.ends[TOPIC, 0] = 10
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        sink.observe(ReaderState(end=3, lag=3))
        await process.api.pause_subscription(NAME)
        [move] = await process.api.seek(NAME, "latest")
        assert (move.before, move.next) == (0, 10)


async def test_the_beginning_of_a_topic_that_was_recreated_is_another_place() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        topic = process.engine.subscriptions.topics[NAME]
        topic.note_topic_id("first")
        sink = topic.sink(0)
        await sink.open()
        await sink.expire(0, 4)
        topic.note_topic_id("second")
        assert sink.is_topic_recreated
        assert "subscriptions seek orders.double --to earliest --partition 0" in sink.how_to_begin_again
        await process.api.pause_subscription(NAME)
        [move] = await process.api.seek(NAME, "earliest")
        assert (move.before, move.next) == (4, 0)
        again = topic.sink(0)
        assert await again.open() == 0
        assert not again.is_topic_recreated


async def test_a_record_that_fails_again_when_it_is_restarted_is_one_dead_letter() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        await sink.take(records(b"-1"))
        await ended(bench, 1)
        await process.api.restart(rows(bench)[0].id, from_entry=0)
        await ended(bench, 2)
        assert [row.subscription for row in rows(bench)] == [NAME, NAME]
        assert len(letters(bench)) == 1
        sample = process.engine.metrics.registry.get_sample_value
        assert sample("awakeables_dead_letters_total", {"code": "failed"}) == 1


async def test_several_partitions_are_not_moved_to_one_offset() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        for partition in (0, 1):
            await a_sink(process, partition=partition).open()
        await process.api.pause_subscription(NAME)
        with pytest.raises(InvalidInput, match="has 2 partitions: give the one to move"):
            await process.api.seek(NAME, 0)


async def test_where_it_begins_is_found_out_once() -> None:
    bench = Bench()
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    late = Service("late")

    @late.handler(topic=Subscription(TOPIC, start=begin))
    async def take(ctx: Context, amount: int) -> int:
        return amount

    bench.offsets.ends[TOPIC, 0] = 40
    bench.offsets.later[TOPIC, 1] = 3
    for _ in range(2):
        async with bench.running(App("shop", services=[late])) as process:
            topic = process.engine.subscriptions.topics["late.take"]
            await topic.prepare({0, 1})
            assert [await topic.sink(partition).open() for partition in (0, 1, 2)] == [40, 3, 0]
        bench.offsets.ends[TOPIC, 0] = 90
    assert bench.offsets.asked == [round(begin.timestamp() * 1000)]


async def test_a_subscription_that_the_app_has_no_more_is_shown() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        await sink.take(records(b"13"))
        await until(lambda: rows(bench)[0].status == "suspended")
    other = Service("orders")

    @other.handler(topic=TOPIC)
    async def triple(ctx: Context, amount: int) -> int:
        return amount

    async with bench.running(App("shop", services=[other])) as process:
        gone, new = await process.api.subscriptions()
        assert (gone.name, gone.target, gone.open, gone.partitions[0].next) == (NAME, None, 1, 1)
        assert (new.name, new.target, new.open, new.partitions) == ("orders.triple", "orders/triple", 0, [])


def the_next(topic: str = TOPIC, start: Start = "earliest") -> App:
    """The app with another handler of the topic, instead of all that it had."""
    other = Service("orders")

    @other.handler(topic=Subscription(topic, start=start))
    async def triple(ctx: Context, amount: int) -> int:
        return amount

    return App("shop", services=[other])


async def told_of_undeclared(bench: Bench, served: App) -> list[dict[str, Any]]:
    """What the start of a process says of subscriptions that only the store knows."""
    with heard() as logs:
        async with bench.running(served):
            pass
    return [
        {name: value for name, value in line.items() if name != "event"}
        for line in logs
        if line["event"] == events.SUBSCRIPTION_UNDECLARED
    ]


async def test_a_subscription_that_the_app_has_no_more_is_logged_at_the_start() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        for partition in (0, 1):
            await a_sink(process, partition=partition).open()
    assert await told_of_undeclared(bench, app) == []
    line = {"log_level": "warning", "subscription": NAME, "topic": TOPIC, "partitions": 2}
    assert await told_of_undeclared(bench, the_next("others")) == [line]
    advice = (
        "orders.triple begins at its start (latest); "
        "declare it with name='orders.double' if it is to go on where that was"
    )
    assert await told_of_undeclared(bench, the_next(start="latest")) == [line | {"todo": advice}]
    async with bench.running(the_next()) as process:
        await a_sink(process, "orders.triple").open()
    assert await told_of_undeclared(bench, the_next()) == [line], "it has begun, and goes on where it is"


async def test_a_subscription_that_reads_another_topic_now_is_logged_with_the_old_one() -> None:
    bench = Bench()
    async with bench.running(the_next()) as process:
        await a_sink(process, "orders.triple").open()
    [line] = await told_of_undeclared(bench, the_next("others"))
    assert (line["subscription"], line["topic"], "todo" in line) == ("orders.triple", TOPIC, False)


async def test_a_start_waits_until_the_store_can_say_what_was_subscribed() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        await a_sink(process).open()
    subscribed, failures = bench.store.subscribed, 2

    async def unreadable() -> list[tuple[str, str]]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StoreUnavailable("it is down")
        return await subscribed()

    bench.store.subscribed = unreadable  # type: ignore[method-assign]
    assert len(await told_of_undeclared(bench, the_next())) == 1


async def test_deleted_records_are_counted() -> None:
    bench = Bench()
    async with bench.running(app) as process:
        sink = a_sink(process)
        await sink.open()
        await sink.expire(0, 5)
        assert await a_sink(process).open() == 5
        value = process.engine.metrics.registry.get_sample_value(
            "awakeables_subscription_records_expired_total", {"subscription": NAME}
        )
        assert value == 5
