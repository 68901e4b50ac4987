"""Subscriptions: records become invocations together with their offset; where reading begins; pauses."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from awakeables.core.commands import (
    Begin,
    BeginBatch,
    Cancel,
    PartitionFence,
    PausePartitions,
    PlacePartitions,
    Queue,
    Settle,
    Skip,
    TakePartitions,
)
from awakeables.core.deadletters import SKIPPED, Folding, relay_copy
from awakeables.core.invocations import End
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import (
    Advanced,
    BatchBegun,
    CancelMarked,
    Fenced,
    PartitionsTaken,
    Position,
    SettledAll,
    Skipped,
)
from awakeables.ports import InvocationFilter, Page
from contract.driver import DLQ, TOPIC, Driver, resolved

NAME = "orders/fulfil"


def fence(first: int, next_: int, *, epoch: int = 1, owner: str = "me", name: str = NAME) -> PartitionFence:
    return PartitionFence(
        topic=TOPIC, partition=0, epoch=epoch, first=first, next=next_, owner=owner, subscription=name
    )


async def take(driver: Driver, *, owner: str = "me", name: str = NAME) -> Position:
    command = TakePartitions(owner=owner, topic=TOPIC, partitions=(0,), subscription=name)
    (position,) = (await driver.do(PartitionsTaken, command)).positions
    return position


async def next_of(driver: Driver, name: str = NAME) -> int:
    (position,) = await driver.store.positions(TOPIC, name)
    return position.next


def a_record(driver: Driver, *, key: str | None = None, most: int | None = None) -> Begin:
    queue = None if key is None else Queue(most=most)
    return replace(driver.a_begin(key=key, queue=queue), subscription=NAME)


def a_batch(driver: Driver, *begins: Begin, first: int = 0, **more: object) -> BeginBatch:
    offsets = tuple(range(first, first + len(begins)))
    where = fence(first, first + max(1, len(begins)))
    return replace(BeginBatch(fence=where, begins=begins, offsets=offsets, relay_to=DLQ), **more)


async def test_records_become_invocations_with_their_offset(driver: Driver) -> None:
    await take(driver)
    begins = [a_record(driver) for _ in range(3)]
    begun = await driver.do(BatchBegun, a_batch(driver, *begins, first=4))
    assert begun == BatchBegun(ids=tuple(each.id for each in begins), next=7)
    assert await next_of(driver) == 7
    rows = [await driver.invocation(key) for key in begun.ids]
    assert {(row.status, row.owner, row.subscription) for row in rows} == {("pending", None, NAME)}
    assert {row.id for row in await driver.claim()} == set(begun.ids)


async def test_a_batch_that_was_stored_before_is_fenced(driver: Driver) -> None:
    await take(driver)
    batch = a_batch(driver, a_record(driver))
    await driver.do(BatchBegun, batch)
    await driver.do(Fenced, batch)
    await driver.do(Fenced, a_batch(driver, a_record(driver)))
    assert await driver.store.count_open(NAME, 10) == 1


async def test_a_batch_of_a_reader_that_was_replaced_is_fenced(driver: Driver) -> None:
    await take(driver)
    await take(driver, owner="you")
    await driver.do(Fenced, a_batch(driver, a_record(driver)))
    assert await driver.store.invocations(Page()) == []
    assert await next_of(driver) == 0


async def test_a_partition_that_was_never_taken_is_fenced(driver: Driver) -> None:
    await driver.do(Fenced, a_batch(driver, a_record(driver)))


async def test_subscriptions_and_completions_of_one_topic_have_positions_of_their_own(driver: Driver) -> None:
    await driver.take(0)
    await take(driver)
    await take(driver, name="other")
    await driver.do(BatchBegun, a_batch(driver, a_record(driver), a_record(driver)))
    assert [await next_of(driver, name) for name in ("", NAME, "other")] == [0, 2, 0]
    assert await driver.store.subscribed() == [(NAME, TOPIC), ("other", TOPIC)]
    _, awakeable_id = await driver.waiting()
    where = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=0, next=5, owner="me")
    await driver.do(SettledAll, Settle(completions=(resolved(awakeable_id),), fence=where))
    assert [await next_of(driver, name) for name in ("", NAME, "other")] == [5, 2, 0]


async def test_records_of_a_key_take_their_places_in_the_order_of_their_offsets(driver: Driver) -> None:
    await take(driver)
    begins = [a_record(driver, key=key) for key in ("a", "b", "a", "a")]
    await driver.do(BatchBegun, a_batch(driver, *begins))
    rows = [await driver.invocation(each.id) for each in begins]
    assert [(row.status, row.ticket) for row in rows] == [
        ("pending", 1),
        ("pending", 1),
        ("queued", 2),
        ("queued", 3),
    ]


async def test_a_full_queue_stops_the_batch_before_its_record(driver: Driver) -> None:
    await take(driver)
    begins = [a_record(driver, key="a", most=2) for _ in range(3)] + [a_record(driver, key="b", most=2)]
    letters = (driver.a_letter(offset=4), driver.a_letter(offset=1))
    begins_at = (0, 2, 3, 5)
    batch = BeginBatch(
        fence=fence(0, 6), begins=tuple(begins), offsets=begins_at, dead_letters=letters, relay_to=DLQ
    )
    begun = await driver.do(BatchBegun, batch)
    assert (begun.ids, begun.next) == ((begins[0].id, begins[1].id), 3)
    assert begun.full == ("orders/a", 2)
    assert begun.dead_letters == (letters[1],)
    assert await next_of(driver) == 3
    # What was left is read again, once there is room.
    (row,) = await driver.claim()
    await driver.advance(row, End(result=Resolution.of_json(b"1")))
    rest = BeginBatch(fence=fence(3, 6), begins=tuple(begins[2:]), offsets=(3, 5), relay_to=DLQ)
    assert (await driver.do(BatchBegun, rest)).ids == (begins[2].id, begins[3].id)


async def test_what_can_not_be_used_is_a_dead_letter_in_the_same_commit(driver: Driver) -> None:
    await take(driver)
    letter = driver.a_letter(offset=1)
    batch = a_batch(driver, a_record(driver), dead_letters=(letter,))
    begun = await driver.do(BatchBegun, replace(batch, fence=fence(0, 2)))
    assert begun.dead_letters == (letter,)
    assert await driver.store.dead_letter(letter.id) == letter
    (copy,) = await driver.effects("unsent", 10)
    assert copy == relay_copy(letter, to=DLQ, now_ms=driver.clock.ms)


async def test_dead_letters_beyond_the_limit_are_counted(driver: Driver) -> None:
    await take(driver)
    folding = Folding(into=driver.id("dlq"), keep=1, keep_bytes=10**6, reason="too many", max_verdicts=0)
    letters = tuple(driver.a_letter(offset=offset) for offset in range(3))
    batch = BeginBatch(fence=fence(0, 3), dead_letters=letters, relay_to=DLQ, folding=folding)
    begun = await driver.do(BatchBegun, batch)
    assert [letter.code for letter in begun.dead_letters] == ["unreadable", "folded"]
    assert begun.folded == {"unreadable": 2}


async def test_only_open_invocations_of_the_subscription_are_counted(driver: Driver) -> None:
    await take(driver)
    await driver.do(BatchBegun, a_batch(driver, *[a_record(driver) for _ in range(4)]))
    await driver.begin()
    counts = [await driver.store.count_open(name, most) for name, most in ((NAME, 10), (NAME, 3), ("x", 3))]
    assert counts == [4, 3, 0]
    row, *_ = await driver.claim(limit=1)
    await driver.advance(row, End(result=Resolution.of_json(b"1")))
    assert await driver.store.count_open(NAME, 10) == 3
    left = await driver.store.invocations(Page(), InvocationFilter(status="pending"))
    await driver.do(CancelMarked, Cancel(invocation_id=next(each.id for each in left if each.subscription)))
    assert await driver.store.count_open(NAME, 10) == 2


async def test_a_failure_makes_a_dead_letter_with_the_end(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    letter = driver.a_letter(offset=7, code="failed")
    end = End(result=Rejection(reason="no stock", code=500))
    command = replace(driver.an_advance(row, end), dead_letter=letter, relay_to=DLQ)
    await driver.do(Advanced, command)
    assert await driver.store.dead_letter(letter.id) == letter
    assert [effect.event_id for effect in await driver.effects("unsent", 10)] == [letter.id]
    # Sent again after a lost acknowledgement, it changes nothing.
    await driver.do(Advanced, command)
    assert len(await driver.store.dead_letters(Page())) == 1


async def test_a_record_that_is_a_dead_letter_already_stays_one(driver: Driver) -> None:
    letter = driver.a_letter(offset=7, code="failed")
    for _ in range(2):
        row = await driver.begin(owner="me")
        end = End(result=Rejection(reason="no stock", code=500))
        again = replace(letter, id=driver.id("dlq"))
        await driver.do(Advanced, replace(driver.an_advance(row, end), dead_letter=again, relay_to=DLQ))
    assert len(await driver.store.dead_letters(Page())) == 1


async def test_a_fenced_failure_makes_no_dead_letter(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    end = End(result=Rejection(reason="no stock", code=500))
    command = replace(driver.an_advance(row, end), owner="you", dead_letter=driver.a_letter(offset=7))
    await driver.do(Fenced, command)
    assert await driver.store.dead_letters(Page()) == []


async def test_where_a_subscription_begins_is_set_once(driver: Driver) -> None:
    place = PlacePartitions(subscription=NAME, topic=TOPIC, offsets=((0, 40), (1, 7)), topic_id="first")
    placed = await driver.do(PartitionsTaken, place)
    assert [position.next for position in placed.positions] == [40, 7]
    later = replace(place, offsets=((0, 90), (1, 90), (2, 0)))
    placed = await driver.do(PartitionsTaken, later)
    assert [position.next for position in placed.positions] == [40, 7, 0]
    assert await take(driver) == Position(partition=0, next=40, epoch=2, owner="me", topic_id="first")


async def test_a_pause_fences_the_reader_and_stays_until_it_is_resumed(driver: Driver) -> None:
    await take(driver)
    pause = PausePartitions(subscription=NAME, topic=TOPIC, partitions=(0, 5), paused=True)
    assert await driver.acknowledged(pause)
    paused_ms = driver.clock.ms
    await driver.do(Fenced, a_batch(driver, a_record(driver)))
    driver.clock.ms += 5
    assert await driver.acknowledged(pause)  # which changes nothing
    position = await take(driver)
    assert (position.epoch, position.paused_ms) == (3, paused_ms)
    assert await driver.acknowledged(replace(pause, paused=False))
    (position,) = await driver.store.positions(TOPIC, NAME)
    assert position.paused_ms is None
    await driver.do(BatchBegun, replace(a_batch(driver, a_record(driver)), fence=fence(0, 1, epoch=3)))


@pytest.mark.parametrize(("before", "done"), [(0, True), (3, False)])
async def test_a_subscription_is_moved_without_the_completions(
    driver: Driver, before: int, done: bool
) -> None:
    await driver.take(0)
    await take(driver)
    letter = driver.a_letter(offset=before, code=SKIPPED)
    skip = Skip(
        topic=TOPIC,
        partition=0,
        before=before,
        next=9,
        dead_letter=letter,
        relay_to=DLQ,
        subscription=NAME,
    )
    assert await driver.do(Skipped, skip) == Skipped(done=done)
    assert [await next_of(driver, name) for name in ("", NAME)] == [0, 9 if done else 0]
