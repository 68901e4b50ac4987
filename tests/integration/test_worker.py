"""A worker on a real Kafka: groups, crashes, codecs, limits, restarts."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics, missing_topics
from awakeables.wire.tasks import decode_task
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker
from support.eventually import eventually
from support.real_kafka import RealKafka, TopicFactory
from support.tasks import (
    QUICK,
    Answers,
    answers_in,
    awakeable_id,
    committed,
    process,
    publish_tasks,
    working,
)

TESTS = Path(__file__).parents[1]


class Bench:
    """A task topic, a worker for it, and where its answers go."""

    def __init__(self, bootstrap: str, tasks: str, replies: str, partitions: int) -> None:
        self.bootstrap = bootstrap
        self.tasks = tasks
        self.replies = replies
        self.partitions = partitions
        self.group = f"group-{tasks}"
        self.connection = KafkaConnection(
            bootstrap=bootstrap, fetch_max_wait_ms=50, session_timeout=timedelta(seconds=6)
        )

    async def publish(self, numbers: range, **options: Any) -> None:
        await publish_tasks(self.bootstrap, self.tasks, self.replies, numbers, **options)

    def worker(self, note: Callable[[int], object] = lambda _: None) -> Worker:
        worker = Worker(self.group)

        @worker.task(self.tasks)
        async def pack(task: Task[dict[str, int]]) -> int:
            note(task.payload["number"])
            return task.payload["number"]

        return worker

    async def committed(self) -> dict[int, int]:
        return await committed(self.bootstrap, self.group, self.tasks, self.partitions)

    async def published(self) -> dict[int, list[str]]:
        """The awakeable IDs of all tasks, by partition, in order."""
        ids: dict[int, list[str]] = {number: [] for number in range(self.partitions)}
        places = [TopicPartition(self.tasks, number) for number in range(self.partitions)]
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, auto_offset_reset="earliest"
        ) as consumer:
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            while sum(map(len, ids.values())) < sum(ends.values()):
                for place, records in (await consumer.getmany(timeout_ms=500)).items():
                    for record in records:
                        task = decode_task(record.value, record.headers)
                        ids[place.partition].append(task.awakeable_id)
        return ids


@pytest.fixture
async def bench(bootstrap: str, topic: TopicFactory) -> Bench:
    return Bench(bootstrap, await topic("tasks", partitions=4), await topic("replies", partitions=2), 4)


@asynccontextmanager
async def answered(bench: Bench) -> AsyncIterator[Answers]:
    async with answers_in(bench.bootstrap, bench.replies) as answers:
        yield answers


async def test_a_new_worker_begins_at_the_earliest_task(bench: Bench) -> None:
    await bench.publish(range(50))
    async with working(bench.worker(), bench.connection), answered(bench) as answers:
        await answers.of_all(range(50))


async def test_a_worker_goes_on_where_it_stopped(bench: Bench) -> None:
    done: list[int] = []
    for begin in (0, 30):
        await bench.publish(range(begin, begin + 30))
        async with working(bench.worker(done.append), bench.connection), answered(bench) as answers:
            await answers.of_all(range(begin + 30))
    assert sorted(done) == list(range(60))
    assert sum((await bench.committed()).values()) == 60


async def test_kill_9_loses_no_task_and_offsets_stay_behind_the_answers(bench: Bench) -> None:
    """Again and again, at moments that nobody chose: what is committed was answered."""
    count, kills = 3000, 2
    await bench.publish(range(count))
    command = [sys.executable, "-m", "support.worker_process", bench.bootstrap, bench.tasks, bench.group]
    async with answered(bench) as answers, asyncio.timeout(110):
        for kill in range(1, kills + 1):
            async with process(*command, PYTHONPATH=str(TESTS)) as running:
                await answers.at_least(kill * count // (kills + 1), timeout=60)
                running.send_signal(signal.SIGKILL)
                await running.wait()
            await check_offsets(bench, answers)
        async with process(*command, PYTHONPATH=str(TESTS)) as running:
            await answers.of_all(range(count), timeout=60)
            running.send_signal(signal.SIGTERM)
            assert await running.wait() == 0
    assert sum((await bench.committed()).values()) == count


async def check_offsets(bench: Bench, answers: Answers) -> None:
    published = await bench.published()
    offsets = await bench.committed()
    below = [task for partition, offset in offsets.items() for task in published[partition][:offset]]

    async def all_answered() -> bool:
        # What was produced just before the kill may not have been read yet.
        told = await answers.completions()
        return all(task in told for task in below)

    assert below
    await eventually(all_answered)


async def test_two_workers_share_a_group_and_one_takes_over_from_the_other(bench: Bench) -> None:
    first: list[int] = []
    second: list[int] = []
    async with AsyncExitStack() as stack, asyncio.timeout(100):
        answers = await stack.enter_async_context(answered(bench))
        stop_first = await stack.enter_async_context(working(bench.worker(first.append), bench.connection))
        await bench.publish(range(20))
        await answers.of_all(range(20))
        await stack.enter_async_context(working(bench.worker(second.append), bench.connection))

        published = 20

        async def both_work() -> bool:
            nonlocal published
            await bench.publish(range(published, published + 20))
            published += 20
            await answers.of_all(range(published))
            return bool(second)

        await eventually(both_work, 40)
        stop_first.set()
        await bench.publish(range(published, published + 100))
        await answers.of_all(range(published + 100))
    assert set(first) | set(second) == set(range(published + 100))


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_tasks_may_be_compressed_in_any_way(bench: Bench, codec: str) -> None:
    await bench.publish(range(200), compression_type=codec)
    async with working(bench.worker(), bench.connection), answered(bench) as answers:
        await answers.of_all(range(200))


async def test_dead_letters_go_to_a_topic_that_is_made_when_it_is_needed(bench: Bench) -> None:
    letters = f"{bench.tasks}.dlq"
    assert await missing_topics(bench.connection, [letters]) == [letters]
    async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap) as producer:
        headers = [("a", b"1"), ("a", b"\xff"), ("empty", b"")]
        await producer.send_and_wait(bench.tasks, b"\xff\x00", key=b"\xfe", headers=headers, partition=2)
    await bench.publish(range(20))
    async with working(bench.worker(), bench.connection), answered(bench) as answers:
        await answers.of_all(range(20))
        await eventually(lambda: exists(bench, letters))
        async with answers_in(bench.bootstrap, letters) as dead:
            (letter,) = await dead.at_least(1)

        async def all_passed() -> bool:
            return sum((await bench.committed()).values()) == 21

        await eventually(all_passed)
    assert (letter.key, letter.value, list(letter.headers[:3])) == (b"\xfe", b"\xff\x00", headers)
    said = dict(letter.headers[3:])
    assert said["__connect.errors.topic"] == bench.tasks.encode()
    assert (said["__connect.errors.partition"], said["__connect.errors.offset"]) == (b"2", b"0")


async def test_case_w11_tasks_that_unpack_to_forty_megabytes_are_left_out_and_the_next_are_done(
    bench: Bench,
) -> None:
    large = {"compression_type": "gzip", "max_request_size": 50 * 1024 * 1024}
    async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap, **large) as producer:
        await producer.send_and_wait(bench.tasks, b"a" * 40 * 1024 * 1024, partition=0)
    await bench.publish(range(20))
    letters = f"{bench.tasks}.dlq"
    async with working(bench.worker(), bench.connection), answered(bench) as answers:
        await answers.of_all(range(20), timeout=40)
        await eventually(lambda: exists(bench, letters))
        async with answers_in(bench.bootstrap, letters) as dead:
            (letter,) = await dead.at_least(1)

        async def all_passed() -> bool:
            return sum((await bench.committed()).values()) == 21

        await eventually(all_passed)
    said = dict(letter.headers)
    assert (letter.value, said["awakeable-error-code"]) == (None, b"unreadable")
    assert b"offsets 0 to 0 is left out" in said["__connect.errors.exception.message"]


async def test_case_w11_what_tasks_may_unpack_to_is_a_setting(bench: Bench) -> None:
    large = {"compression_type": "gzip", "max_request_size": 50 * 1024 * 1024}
    settings = replace(QUICK, max_unpacked_bytes=1024 * 1024)
    async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap, **large) as producer:
        await producer.send_and_wait(bench.tasks, b"a" * 2 * 1024 * 1024, partition=0)
    async with working(bench.worker(), bench.connection, settings=settings):
        await eventually(lambda: exists(bench, f"{bench.tasks}.dlq"))
        async with answers_in(bench.bootstrap, f"{bench.tasks}.dlq") as dead:
            (letter,) = await dead.at_least(1)
    assert b"more than 1,048,576 bytes" in dict(letter.headers)["__connect.errors.exception.message"]


async def exists(bench: Bench, topic: str) -> bool:
    return await missing_topics(bench.connection, [topic]) == []


async def test_a_dead_letter_that_is_too_large_keeps_all_but_its_value(
    bench: Bench, topic: TopicFactory
) -> None:
    await create_topics(bench.connection, {f"{bench.tasks}.dlq": 1})
    big = b"?" * 1_048_000  # fits the task topic to the byte, but not with the headers of a dead letter
    async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap, max_request_size=2_000_000) as producer:
        await producer.send_and_wait(bench.tasks, big + b"?" * 400, key=b"k")
    async with (
        working(bench.worker(), bench.connection),
        answers_in(bench.bootstrap, f"{bench.tasks}.dlq") as dead,
    ):
        (letter,) = await dead.at_least(1)
    assert (letter.key, letter.value) == (b"k", None)
    assert "awakeable-value-omitted" in dict(letter.headers)


async def test_a_result_that_is_too_large_is_rejected_and_others_in_its_batch_are_not(
    bench: Bench, topic: TopicFactory
) -> None:
    bench.replies = await topic("narrow-replies", partitions=1, max_message_bytes=2000)
    worker = Worker(bench.group, concurrency=64)

    @worker.task(bench.tasks)
    async def pack(task: Task[dict[str, int]]) -> str:
        return "x" * 5000 if task.payload["number"] % 50 == 7 else "small"

    await bench.publish(range(200))
    async with working(worker, bench.connection), answered(bench) as answers:
        completions = await answers.of_all(range(200), timeout=60)
    for number in range(200):
        body = completions[awakeable_id(number)][0].body
        if number % 50 == 7:
            assert isinstance(body, Rejection)
            assert body.code == 500
            assert f"too large for topic {bench.replies} (a completion of 51" in body.reason
        else:
            assert body == Resolution.of_json(b'"small"')


@pytest.mark.takes_kafka_down
async def test_a_broker_that_restarts_in_the_middle_costs_no_answer(
    real_kafka: RealKafka, bench: Bench
) -> None:
    async with asyncio.timeout(110):
        async with working(bench.worker(), bench.connection):
            await bench.publish(range(500))
            async with answered(bench) as answers:
                await answers.at_least(1)
            await asyncio.to_thread(real_kafka.restart)
            await bench.publish(range(500, 700))
            async with answered(bench) as answers:
                await answers.of_all(range(700), timeout=60)


async def test_a_topic_that_comes_later_is_read_and_was_not_created_by_asking(engine_and_image: None) -> None:
    def broker() -> RealKafka:
        return RealKafka(auto_create_topics=True)

    kafka = await asyncio.to_thread(broker)
    await asyncio.to_thread(kafka.start)
    try:
        bench = Bench(kafka.bootstrap, "late", "replies", 3)
        worker = bench.worker()

        @worker.task("there")
        async def pack(task: Task[dict[str, int]]) -> int:
            return task.payload["number"]

        await create_topics(bench.connection, {"there": 1, "replies": 1})
        await publish_tasks(bench.bootstrap, "there", "replies", range(5))
        async with working(worker, bench.connection), answered(bench) as answers:
            await answers.of_all(range(5))
            assert await missing_topics(bench.connection, ["late"]) == ["late"]
            await create_topics(bench.connection, {"late": 3})
            await bench.publish(range(5, 30))
            await answers.of_all(range(30))
    finally:
        await asyncio.to_thread(kafka.stop)
