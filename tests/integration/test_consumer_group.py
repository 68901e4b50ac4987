"""Several instances read the completions topic together; faults by their numbers (hard cases 5 and 10).

`docs/architecture.md`, *Several instances*, says what must hold.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from awakeables.kafka import assignment, lag
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics, missing_topics
from awakeables.ports import Page, Store
from support.eventually import eventually
from support.members import HORIZON_MS, SESSION, Member, Members, grouped
from support.proxy import Proxy
from support.real_kafka import RealKafka, free_port
from support.real_postgres import EmptyDatabase
from support.service import create_app_topics, new_app, new_store, produce, producing, resolved, running

if TYPE_CHECKING:
    from awakeables.handlers.service import App


@pytest.fixture
def app() -> App:
    return new_app()


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    kind = getattr(request, "param", "memory")
    if kind != "postgres":
        return new_store(kind, tmp_path)
    emptied: EmptyDatabase = request.getfixturevalue("empty_database")
    return new_store(kind, tmp_path, url=await emptied())


each_store = pytest.mark.parametrize(
    "store", ["memory", pytest.param("postgres", marks=pytest.mark.real_postgres)], indirect=True
)
"""In the store that several instances share in production, too; not what would take long there."""


@pytest.fixture
def partitions() -> int:
    return 4


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is looked at more often than in production."""
    monkeypatch.setattr(assignment, "GROUP_CHECK_S", 0.2)
    monkeypatch.setattr(assignment, "POLL_S", 0.1)
    monkeypatch.setattr(lag, "INTERVAL_S", 0.2)


@pytest.fixture
async def members(
    bootstrap: str, app: App, store: Store, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Members]:
    await create_app_topics(bootstrap, app, partitions=partitions)
    async with (
        running(bootstrap, app, store, consumes=False) as shop,
        grouped(shop, bootstrap, monkeypatch) as members,
    ):
        yield members


# ── joining and leaving ─────────────────────────────────────────────────────────────────────


async def test_fault_3_joining_leaving_and_crashing_without_end_loses_and_repeats_nothing(
    bootstrap: str, members: Members
) -> None:
    shop, chance = members.shop, random.Random(3)
    ids = await shop.pending(count=1500)
    members.join()
    await members.share(range(4))
    async with _flowing(bootstrap, members, ids) as sent:
        for _ in range(20):
            alive = members.alive
            if len(alive) == 1 or (len(alive) < 3 and chance.random() < 0.5):
                members.join()
            elif chance.random() < 0.5:
                await chance.choice(alive).leave()
            else:
                await chance.choice(alive).crash()
            await _progress(shop.store)
    produced = len(sent)
    await eventually(lambda: _all_settled(shop.store, produced), timeout=20)
    for awakeable_id in sent:
        assert await shop.counts(awakeable_id) == {"accepted": 1}
    assert sum((await shop.positions()).values()) == produced
    assert await shop.store.dead_letters(Page(limit=10)) == []
    assert all(member.problems == {} for member in members.alive)


@pytest.mark.parametrize("partitions", [1])
async def test_a_member_without_partitions_is_healthy_and_takes_over(
    bootstrap: str, members: Members
) -> None:
    [first, second] = await members.shop.pending(count=2)
    topic = members.shop.app.completions_topic
    active = members.join()
    await members.share([0])
    idle = members.join()
    await eventually(lambda: _is_member(idle))
    await members.share([0])
    active, idle = (active, idle) if active.reading else (idle, active)
    await produce(bootstrap, topic, [resolved(first)])
    await members.shop.settled(first)
    # It is polled, or its group would take it for dead after a while.
    polled = idle.clients[-1]._subscription._last_fetch_ended
    await eventually(lambda: idle.clients[-1]._subscription._last_fetch_ended > polled)
    assert (active.problems, idle.problems, idle.horizon.read) == ({}, {}, {})
    await active.crash()
    await produce(bootstrap, topic, [resolved(second)])
    await members.shop.settled(second)
    assert idle.reading == {0}
    assert len(idle.clients) == 1


@each_store
async def test_fault_28_a_batch_under_way_when_its_instance_stops_is_applied_once(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=10)
    first = members.join()
    await members.share(range(4))
    first.store.open.clear()
    await produce(bootstrap, members.shop.app.completions_topic, [resolved(key) for key in ids])
    await eventually(lambda: _is_taking(first))
    leaving = asyncio.create_task(first.leave())
    members.join()
    for key in ids:
        await members.shop.settled(key)
    first.store.open.set()
    await leaving
    for key in ids:
        assert await members.shop.counts(key) == {"accepted": 1}


@pytest.mark.takes_kafka_down
async def test_fault_1_members_go_on_after_a_restart_of_the_broker(
    real_kafka: RealKafka, bootstrap: str, members: Members
) -> None:
    topic = members.shop.app.completions_topic
    ids = await members.shop.pending(count=8)
    one, two = members.join(), members.join()
    await members.share(range(4))
    for n, key in enumerate(ids[:4]):
        await produce(bootstrap, topic, [resolved(key)], partition=n)
    await asyncio.to_thread(real_kafka.restart)
    for n, key in enumerate(ids[4:]):
        await eventually(functools.partial(_produced, bootstrap, topic, key, n), timeout=20)
    for key in ids:
        await members.shop.settled(key, timeout=30)
        assert await members.shop.counts(key) == {"accepted": 1}
    await members.share(range(4))
    await eventually(lambda: one.problems == two.problems == {})


# ── zombies, and the store ──────────────────────────────────────────────────────────────────


@each_store
async def test_fault_19_a_zombie_s_batch_is_fenced_and_it_joins_again(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=5)
    zombie = members.join()
    await members.share(range(4))
    zombie.store.open.clear()
    await produce(bootstrap, members.shop.app.completions_topic, [resolved(key, 1) for key in ids])
    await eventually(lambda: _is_taking(zombie))
    zombie.freeze()
    successor = members.join()
    await eventually(lambda: successor.reading == {0, 1, 2, 3}, timeout=15)
    for key in ids:
        await members.shop.settled(key)
    zombie.store.open.set()
    await eventually(lambda: not _is_taking(zombie))
    fenced_s = zombie.store.fenced_s
    assert zombie.store.fenced == 1
    for key in ids:
        assert await members.shop.counts(key) == {"accepted": 1}
    # It takes the partition back, but not before the group could tell it that it has lost it.
    await eventually(lambda: zombie.store.claimed_s[-1] > fenced_s, timeout=15)
    connection = KafkaConnection(bootstrap=bootstrap, session_timeout=SESSION)
    earliest_s = fenced_s + connection.heartbeat_interval.total_seconds()
    assert all(at_s >= earliest_s for at_s in zombie.store.claimed_s if at_s > fenced_s)
    zombie.thaw()
    await members.share(range(4))
    assert len(zombie.reading) == 2
    await eventually(lambda: zombie.problems == {})


@each_store
async def test_fault_23_partitions_are_let_go_while_the_store_is_down_and_taken_once_it_is_back(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=8)
    first = members.join()
    await members.share(range(4))
    first.store.down = True
    await _answer(members, ids)
    await eventually(lambda: _is_taking(first))
    second = members.join()
    # It has let all of them go in time to stay in the group, and was given back some.
    await members.share(range(4), to_end=False)
    assert len(first.clients) == 1
    # The first can claim nothing, so whatever the second was given, even for a moment, stays claimed by it,
    # once its readers have started.
    claimed = await eventually(functools.partial(_claimed, members, second))
    for n, key in enumerate(ids):
        if n % 4 in second.reading:
            await members.shop.settled(key)
        elif n % 4 not in claimed:
            assert (await members.shop.row(key)).state == "pending"
    first.store.down = False
    for key in ids:
        await members.shop.settled(key)
        assert await members.shop.counts(key) == {"accepted": 1}


async def test_fault_15_members_stay_in_their_group_while_the_store_is_down_for_long(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=8)
    both = [members.join(), members.join()]
    await members.share(range(4))
    for member in both:
        member.store.down = True
    async with _undisturbed(both):
        await _answer(members, ids)
        await asyncio.sleep(4 * SESSION.total_seconds())
        for member in both:
            member.store.down = False
        await _settled_once(members, ids)


async def test_fault_16_members_stay_in_their_group_while_a_commit_takes_longer_than_the_session(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=8)
    both = [members.join(), members.join()]
    await members.share(range(4))
    for member in both:
        member.store.open.clear()
    async with _undisturbed(both):
        await _answer(members, ids)
        await eventually(lambda: all(_is_taking(member) for member in both))
        await asyncio.sleep(4 * SESSION.total_seconds())
        for member in both:
            member.store.open.set()
        await _settled_once(members, ids)


@each_store
async def test_fault_22_a_commit_to_kafka_that_hangs_holds_up_nobody(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=4)
    both = [members.join(), members.join()]
    await members.share(range(4))
    hung: list[object] = []

    async def hang(offsets: object) -> None:
        hung.append(offsets)
        await asyncio.Event().wait()

    for member in both:
        member.clients[-1].commit = hang
    async with _undisturbed(both):
        await _answer(members, ids)
        await _settled_once(members, ids)
        await eventually(lambda: len(hung) >= 2)


async def test_fault_20_a_member_that_is_cut_off_from_the_broker_alone_is_replaced_and_comes_back(
    engine_and_image: None, app: App, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cable is pulled: no connection ends, and nothing comes through."""
    to_kafka = Proxy(free_port(), 0)
    kafka = RealKafka(advertised_port=to_kafka.port)
    await asyncio.to_thread(kafka.start)
    to_kafka.server_port = kafka.second_port
    try:
        await create_app_topics(kafka.bootstrap, app, partitions=4)
        async with (
            to_kafka,
            running(kafka.bootstrap, app, store, consumes=False) as shop,
            grouped(shop, kafka.bootstrap, monkeypatch) as members,
        ):
            ids = await shop.pending(count=8)
            direct, behind = members.join(), members.join(bootstrap=f"127.0.0.1:{to_kafka.port}")
            await members.share(range(4))
            await to_kafka.become("stalled")
            await _answer(members, ids)
            await _settled_once(members, ids)
            assert direct.reading == {0, 1, 2, 3}
            await to_kafka.become("passes")
            await members.share(range(4))
            assert len(behind.reading) == 2
            await eventually(lambda: direct.problems == behind.problems == {})
            later = await shop.pending(count=4)
            await _answer(members, later)
            await _settled_once(members, later)
    finally:
        await asyncio.to_thread(kafka.stop)


@asynccontextmanager
async def _undisturbed(members: Sequence[Member]) -> AsyncIterator[None]:
    """Their group does not change meanwhile, nor do their clients and partitions."""

    def facts() -> list[object]:
        return [
            (member.clients[-1]._coordinator.generation, len(member.clients), member.reading)
            for member in members
        ]

    before = facts()
    yield
    assert facts() == before


async def _answer(members: Members, ids: Sequence[str]) -> None:
    """Resolve them by the four partitions in turn."""
    topic = members.shop.app.completions_topic
    for n, key in enumerate(ids):
        await produce(members.bootstrap, topic, [resolved(key)], partition=n % 4)


async def _settled_once(members: Members, ids: Sequence[str]) -> None:
    for key in ids:
        await members.shop.settled(key, timeout=30)
        assert await members.shop.counts(key) == {"accepted": 1}


@each_store
async def test_fault_21_members_whose_loop_was_blocked_for_longer_than_the_session_join_again(
    bootstrap: str, members: Members
) -> None:
    ids = await members.shop.pending(count=8)
    one, two = members.join(), members.join()
    await members.share(range(4))
    generation = one.clients[-1]._coordinator.generation
    await _answer(members, ids)
    asyncio.get_running_loop().call_soon(time.sleep, 2 * SESSION.total_seconds())
    for key in ids:
        await members.shop.settled(key)
    await eventually(lambda: one.clients[-1]._coordinator.generation > generation)
    await members.share(range(4))
    for key in ids:
        assert await members.shop.counts(key) == {"accepted": 1}
    await eventually(lambda: one.problems == two.problems == {})


async def test_hard_case_10_a_reader_that_is_fenced_claims_again_as_long_as_it_is_assigned(
    bootstrap: str, members: Members
) -> None:
    [first, second] = await members.shop.pending(count=2)
    topic = members.shop.app.completions_topic
    member = members.join()
    await members.share(range(4))
    await produce(bootstrap, topic, [resolved(first)])
    await members.shop.settled(first)
    await member.topic.claim(0)
    await produce(bootstrap, topic, [resolved(second)])
    await members.shop.settled(second)
    assert await members.shop.counts(second) == {"accepted": 1}


# ── the horizon ─────────────────────────────────────────────────────────────────────────────


async def test_hard_case_5_a_member_believes_in_what_it_reads_and_in_nothing_else(members: Members) -> None:
    alone = members.join()
    await members.share(range(4))
    await eventually(lambda: alone.horizon.read.keys() == {0, 1, 2, 3})
    await eventually(lambda: members.shop.engine.clock.now_ms() - alone.horizon.held_back_to_ms() < 1000)
    other = members.join()
    await members.share(range(4))
    for member in (alone, other):
        await eventually(functools.partial(_reads_what_it_believes_in, member))
        assert member.horizon.partitions == {0, 1, 2, 3}
        assert member.horizon.asked is not None
        assert members.shop.engine.clock.now_ms() - member.horizon.held_back_to_ms() >= HORIZON_MS
    epochs = await _epochs(members)
    marks = {**alone.horizon.read, **other.horizon.read}
    assert {partition: mark.epoch for partition, mark in marks.items()} == epochs
    await other.leave()
    assert other.horizon.read == {}
    await members.share(range(4))
    await eventually(lambda: alone.horizon.read.keys() == {0, 1, 2, 3})


# ── topics that change ──────────────────────────────────────────────────────────────────────


@each_store
@pytest.mark.parametrize("partitions", [2])
async def test_fault_10_partitions_that_are_added_are_shared_and_read_from_their_beginning(
    bootstrap: str, members: Members
) -> None:
    topic = members.shop.app.completions_topic
    ids = await members.shop.pending(count=5)
    one, two = members.join(), members.join()
    await members.share([0, 1])
    async with _admin(bootstrap) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=5)})
    for n, key in enumerate(ids):
        await eventually(functools.partial(_produced, bootstrap, topic, key, n))
    # Deadlines wait from the moment at which the partitions are known, not when they are assigned.
    for member in (one, two):
        await eventually(functools.partial(_knows, member, 5))
    for key in ids:
        await members.shop.settled(key)
    await members.share(range(5))
    assert [len(member.clients) for member in (one, two)] == [1, 1]


@each_store
@pytest.mark.parametrize("partitions", [2])
async def test_fault_11_a_recreated_topic_is_read_by_no_member_until_an_operator_says_so_to_any(
    bootstrap: str, members: Members
) -> None:
    shop = members.shop
    topic = shop.app.completions_topic
    read, new = await shop.pending(count=2)
    one, two = members.join(), members.join()
    await members.share([0, 1])
    await produce(bootstrap, topic, [resolved(read)])
    await shop.settled(read)
    async with _admin(bootstrap) as admin:
        await admin.delete_topics([topic])
    await eventually(lambda: missing_topics(KafkaConnection(bootstrap=bootstrap), [topic]))
    await create_topics(KafkaConnection(bootstrap=bootstrap), {topic: 2})
    await produce(bootstrap, topic, [resolved(new)] + [b"{}"] * 4)

    def alarms() -> list[Member]:
        return [
            member for member in (one, two) if "an earlier topic" in member.problems.get("partition 0", "")
        ]

    [reader] = await eventually(alarms, timeout=20)
    assert (await shop.row(new)).state == "pending"
    [elsewhere] = {one, two} - {reader}
    await eventually(lambda: elsewhere.topic.topic_id == reader.topic.topic_id)
    # The operator asks an instance that doesn't read the partition.
    shop.engine.completions.note_topic_id(elsewhere.topic.topic_id)
    await shop.api.skip(0, 0)
    await shop.settled(new)
    await eventually(lambda: one.problems == two.problems == {})


# ── the group ───────────────────────────────────────────────────────────────────────────────


@each_store
async def test_fault_27_members_that_read_another_topic_are_named_as_long_as_they_are_there(
    bootstrap: str, members: Members
) -> None:
    other_app = new_app("billing")
    await create_app_topics(bootstrap, other_app)
    [key] = await members.shop.pending()
    member = members.join()
    await members.share(range(4))
    async with _stranger(bootstrap, members, other_app.completions_topic, RoundRobinPartitionAssignor):
        text = await eventually(lambda: member.problems.get("consumer group", ""))
        assert "'billing-service' at " in text
        assert repr(other_app.completions_topic) in text
        await produce(bootstrap, members.shop.app.completions_topic, [resolved(key)])
        await members.shop.settled(key)
    await eventually(lambda: member.problems == {})


@each_store
async def test_fault_27_members_that_a_group_can_t_be_shared_with_are_named(
    bootstrap: str, members: Members
) -> None:
    other_app = new_app("billing")
    await create_app_topics(bootstrap, other_app)
    async with _stranger(bootstrap, members, other_app.completions_topic, RangePartitionAssignor):
        member = members.join()

        def told() -> str:  # before, it may have seen the stranger alone in its group
            text = member.problems.get("consumer group", "")
            return text if "can't share" in text else ""

        text = await eventually(told, timeout=15)
        assert "'billing-service' at " in text
        assert repr(other_app.completions_topic) in text
    await members.share(range(4))
    await eventually(lambda: member.problems == {})


async def test_lag_is_committed_by_the_members_through_rebalances(bootstrap: str, members: Members) -> None:
    topic = members.shop.app.completions_topic
    ids = await members.shop.pending(count=8)
    for n, key in enumerate(ids):
        await produce(bootstrap, topic, [resolved(key)], partition=n % 4)
        if n in (0, 3):
            members.join()
    await members.share(range(4))
    places = [TopicPartition(topic, partition) for partition in range(4)]
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=members.shop.app.name) as consumer:

        async def committed() -> bool:
            return [await consumer.committed(place) for place in places] == [2] * 4

        await eventually(committed, timeout=15)
    assert [len(member.clients) for member in members.alive] == [1, 1]


# ── the watchdog ────────────────────────────────────────────────────────────────────────────


async def test_a_consumer_whose_group_makes_no_progress_is_replaced(
    bootstrap: str, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    [key] = await members.shop.pending()
    member = members.join(stuck=timedelta(seconds=2))
    await members.share(range(4))

    async def never(_subscription: object) -> bool:
        await asyncio.sleep(0.1)
        return False

    coordinator = member.clients[-1]._coordinator
    monkeypatch.setattr(coordinator, "_do_rejoin_group", never)
    coordinator.request_rejoin()
    await eventually(lambda: member.reading == frozenset())
    await eventually(lambda: len(member.clients) == 2)
    await produce(bootstrap, members.shop.app.completions_topic, [resolved(key)])
    await members.shop.settled(key)


async def test_a_member_that_is_left_out_of_its_group_is_replaced(
    bootstrap: str, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    [key] = await members.shop.pending()
    assign = RoundRobinPartitionAssignor.assign

    def nothing(cluster: Any, _members: Any) -> Any:
        return {name: row for name, row in assign(_NoPartitions(), _members).items()}

    monkeypatch.setattr(RoundRobinPartitionAssignor, "assign", nothing)
    member = members.join()
    await eventually(lambda: _is_member(member))
    assert member.problems == {}
    await eventually(lambda: len(member.clients) == 2)
    monkeypatch.setattr(RoundRobinPartitionAssignor, "assign", assign)
    await members.share(range(4))
    await produce(bootstrap, members.shop.app.completions_topic, [resolved(key)])
    await members.shop.settled(key)


# ── helpers ─────────────────────────────────────────────────────────────────────────────────


class _NoPartitions:
    """What a broker says of a cluster whose topics have none."""

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return set()


@asynccontextmanager
async def _flowing(bootstrap: str, members: Members, ids: list[str]) -> AsyncIterator[list[str]]:
    """Within the block completions of these awakeables are produced, one after the other."""
    sent: list[str] = []
    topic = members.shop.app.completions_topic
    enough = asyncio.Event()

    async def flow() -> None:
        async with producing(bootstrap) as producer:
            for n, key in enumerate(ids):
                if enough.is_set():
                    return
                await producer.send_and_wait(topic, resolved(key, n), partition=n % 4)
                sent.append(key)
                await asyncio.sleep(0.015)

    flowing = asyncio.create_task(flow())
    try:
        yield sent
    finally:
        enough.set()
        await flowing


@asynccontextmanager
async def _stranger(bootstrap: str, members: Members, topic: str, assignor: Any) -> AsyncIterator[None]:
    """Within the block a consumer of something else is in the group."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=members.shop.app.name,
        client_id="billing-service",
        session_timeout_ms=1000,
        heartbeat_interval_ms=200,
        partition_assignment_strategy=(assignor,),
    )
    await consumer.start()
    polling = asyncio.create_task(_poll(consumer))
    try:
        yield
    finally:
        polling.cancel()
        await asyncio.wait([polling])
        await consumer.stop()


async def _poll(consumer: AIOKafkaConsumer) -> None:
    while True:
        await consumer.getmany(timeout_ms=100)


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _produced(bootstrap: str, topic: str, key: str, partition: int) -> bool:
    try:
        await produce(bootstrap, topic, [resolved(key)], partition=partition)
    except AssertionError:
        return False  # its broker doesn't show the new partition yet
    return True


def _is_taking(member: Member) -> bool:
    readers = member.consumer._readers
    return readers is not None and any(reader.taking_since_s is not None for reader in readers.current)


def _reads_what_it_believes_in(member: Member) -> bool:
    return member.horizon.read.keys() == member.reading


def _knows(member: Member, count: int) -> bool:
    return len(member.horizon.partitions) == count


def _is_member(member: Member) -> bool:
    coordinator = member.clients[-1]._coordinator if member.clients else None
    return coordinator is not None and coordinator.generation > 0


async def _claimed(members: Members, member: Member) -> set[int]:
    """What it has claimed, which is all that it was given."""
    rows = await members.shop.store.positions(member.topic.name)
    claimed = {row.partition for row in rows if row.owner == member.name}
    assert member.reading <= claimed
    return claimed


async def _epochs(members: Members) -> dict[int, int]:
    rows = await members.shop.store.positions(members.shop.app.completions_topic)
    return {row.partition: row.epoch for row in rows}


async def _settled(store: Store) -> int:
    rows = await store.awakeables(Page(limit=10_000))
    return sum(row.state != "pending" for row in rows)


async def _progress(store: Store) -> None:
    before = await _settled(store)

    async def more() -> bool:
        return await _settled(store) > before

    await eventually(more, timeout=15)


async def _all_settled(store: Store, count: int) -> bool:
    settled = await _settled(store)
    assert settled == count
    return True
