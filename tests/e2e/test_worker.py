"""A worker on the embedded broker: from the task's record to the completion's."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from structlog.typing import EventDict

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.devbroker import EmbeddedBroker
from awakeables.kafka.connection import KafkaConnection
from awakeables.telemetry import events
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import Worker
from support.eventually import eventually
from support.logs import heard
from support.raw_kafka import raw_producing
from support.tasks import (
    QUICK,
    answers_in,
    awakeable_id,
    committed,
    process,
    publish_tasks,
    task_effect,
    task_headers,
    working,
)

TESTS = Path(__file__).parents[1]
TASKS, ANSWERS = "pack-requests", "shop.completions"
GZIP, UNKNOWN_CODEC = 1, 7


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        await broker.create_topic(TASKS, partitions=3)
        await broker.create_topic(ANSWERS, partitions=2)
        yield broker


@pytest.fixture
def connection(broker: EmbeddedBroker) -> KafkaConnection:
    return KafkaConnection(bootstrap=broker.bootstrap, fetch_max_wait_ms=5)


def packer(**options: Any) -> Worker:
    worker = Worker("packer", **options)

    @worker.task(TASKS)
    async def pack(task: Task[dict[str, int]]) -> int:
        if task.payload["number"] < 0:
            raise Reject("out of stock", code=409)
        return task.payload["number"]

    return worker


async def test_every_task_is_answered_once_and_the_offsets_follow(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    async with working(packer(), connection), answers_in(broker.bootstrap, ANSWERS) as answers:
        await publish_tasks(broker.bootstrap, TASKS, ANSWERS, range(500))
        completions = await answers.of_all(range(500))

        async def all_committed() -> bool:
            offsets = await committed(broker.bootstrap, "packer", TASKS, partitions=3)
            return sum(offsets.values()) == 500

        await eventually(all_committed)
    for number in range(500):
        (completion,) = completions[awakeable_id(number)]
        assert completion.body == Resolution.of_json(str(number).encode())
        assert (completion.worker, completion.attempt) == ("packer", 1)


async def test_the_completion_record_is_what_the_service_reads(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    effect = task_effect({"number": -1}, number=7, topic=TASKS, reply_to=ANSWERS)
    value, headers = task_headers(effect, trace)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait(TASKS, value, key=effect.key, headers=headers)
    async with working(packer(), connection), answers_in(broker.bootstrap, ANSWERS) as answers:
        (record,) = await answers.at_least(1)
        ((completion,),) = (await answers.completions()).values()
    assert record.key == awakeable_id(7).encode()
    assert list(record.headers) == [
        ("awakeable-event-id", f"{awakeable_id(7)}:1".encode()),
        ("content-type", b"application/json"),
        trace,
    ]
    assert completion.body == Rejection(reason="out of stock", code=409)


async def test_a_record_that_is_not_a_task_is_a_dead_letter_and_the_others_are_done(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    odd: list[tuple[str, bytes]] = [("seen", b"1"), ("seen", b"\xff")]
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait(TASKS, b"\xff", key=b"k", headers=odd, partition=0)
        batch = producer.create_batch()
        batch.append(timestamp=None, key=None, value=None)
        await (await producer.send_batch(batch, TASKS, partition=0))
    async with (
        working(packer(), connection),
        answers_in(broker.bootstrap, ANSWERS) as answers,
        answers_in(broker.bootstrap, f"{TASKS}.dlq") as letters,
    ):
        await publish_tasks(broker.bootstrap, TASKS, ANSWERS, range(10))
        await answers.of_all(range(10))
        records = await letters.at_least(2)
    assert {(record.key, record.value) for record in records} == {(b"k", b"\xff"), (None, None)}
    (bad,) = [record for record in records if record.value]
    assert list(bad.headers[:2]) == odd
    assert dict(bad.headers)["awakeable-error-code"] == b"unreadable"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"wrong_checksum": True}, id="checksum"),
        pytest.param({"codec": UNKNOWN_CODEC}, id="unknown codec"),
        pytest.param({"codec": GZIP}, id="gzip"),
    ],
)
async def test_a_batch_that_can_not_be_opened_stops_its_partition_and_no_other(
    broker: EmbeddedBroker, connection: KafkaConnection, damage: dict[str, Any]
) -> None:
    def value(number: int) -> bytes:
        encoded, _ = task_headers(
            task_effect({"number": number}, number=number, topic=TASKS, reply_to=ANSWERS)
        )
        return encoded or b""

    async with raw_producing(broker.bootstrap) as raw:
        await raw.write(TASKS, 0, [value(0), value(1)])
        await raw.write(TASKS, 0, [b"{}"], **damage)
        await raw.write(TASKS, 0, [value(99)])
        for number in range(2, 40):
            await raw.write(TASKS, 1 + number % 2, [value(number)])
    async with working(packer(), connection), answers_in(broker.bootstrap, ANSWERS) as answers:
        await answers.of_all(range(40))
        async with raw_producing(broker.bootstrap) as raw:
            for number in range(40, 60):
                await raw.write(TASKS, 1 + number % 2, [value(number)])
        completions = await answers.of_all(range(60))
    assert awakeable_id(99) not in completions
    assert {len(found) for found in completions.values()} == {1}
    assert (await committed(broker.bootstrap, "packer", TASKS, partitions=3))[0] == 2


async def test_a_header_whose_name_is_not_text_stops_nothing(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    value, _ = task_headers(task_effect({"number": 1}, number=1, topic=TASKS, reply_to=ANSWERS))
    async with raw_producing(broker.bootstrap) as raw:
        await raw.write(TASKS, 0, [value or b""], header_name=b"\xff\xfe")
    async with working(packer(), connection), answers_in(broker.bootstrap, ANSWERS) as answers:
        await publish_tasks(broker.bootstrap, TASKS, ANSWERS, range(2, 20))
        await answers.of_all(range(1, 20))


async def test_no_answer_is_lost_while_the_broker_is_away(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    worker, gate, inside, returned = Worker("packer"), asyncio.Event(), list[int](), list[int]()

    @worker.task(TASKS)
    async def wait(task: Task[dict[str, int]]) -> int:
        inside.append(task.payload["number"])
        await gate.wait()
        returned.append(task.payload["number"])
        return task.payload["number"]

    async with working(worker, connection):
        await publish_tasks(broker.bootstrap, TASKS, ANSWERS, range(40))
        await eventually(lambda: len(inside) == worker.concurrency, 20)
        await broker.down()
        gate.set()
        await eventually(lambda: len(returned) == worker.concurrency)
        await broker.up()
        async with answers_in(broker.bootstrap, ANSWERS) as answers:
            await answers.of_all(range(40))


async def test_a_worker_waits_for_a_broker_that_is_not_there_yet(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    await publish_tasks(broker.bootstrap, TASKS, ANSWERS, range(3))
    await broker.down()
    async with working(packer(), connection):
        await broker.up()
        async with answers_in(broker.bootstrap, ANSWERS) as answers:
            await answers.of_all(range(3))


async def test_topics_that_are_missing_are_reported_with_what_creates_them(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    worker = packer()
    worker.task("late-requests")(pack_late)
    with heard() as logs:
        async with working(worker, connection):
            await publish_tasks(broker.bootstrap, TASKS, "no-answers", range(1))
            await eventually(lambda: len(missing_in(logs)) == 2)
    assert all("`awakeables topics create`" in line["error"] for line in missing_in(logs))


def missing_in(logs: list[EventDict]) -> list[EventDict]:
    return [line for line in logs if line["event"] == events.TOPIC_MISSING]


async def pack_late(task: Task[dict[str, int]]) -> int:
    return 0


async def test_a_stop_ends_a_worker_whose_broker_is_away(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    async with asyncio.timeout(60), working(packer(), connection):
        async with answers_in(broker.bootstrap, ANSWERS) as answers:
            await publish_tasks(broker.bootstrap, TASKS, ANSWERS, range(3))
            await answers.of_all(range(3))
        await broker.down()


async def test_a_slow_task_holds_its_offset_back_while_others_are_answered(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    worker, gate = Worker("packer"), asyncio.Event()
    await broker.create_topic("narrow", partitions=1)

    @worker.task("narrow")
    async def first_waits(task: Task[dict[str, int]]) -> int:
        if task.payload["number"] == 2:
            await gate.wait()
        return task.payload["number"]

    async with working(worker, connection), answers_in(broker.bootstrap, ANSWERS) as answers:
        await publish_tasks(broker.bootstrap, "narrow", ANSWERS, range(20))
        await answers.of_all([number for number in range(20) if number != 2])

        async def offset() -> int | None:
            return (await committed(broker.bootstrap, "packer", "narrow")).get(0)

        async def is_at(expected: int) -> bool:
            return await offset() == expected

        await eventually(lambda: is_at(2))
        gate.set()
        await eventually(lambda: is_at(20))


async def test_a_partition_is_not_read_far_past_its_first_unfinished_task(
    broker: EmbeddedBroker, connection: KafkaConnection
) -> None:
    worker, gate, begun = Worker("packer", concurrency=4), asyncio.Event(), list[int]()
    await broker.create_topic("narrow", partitions=1)

    @worker.task("narrow")
    async def first_waits(task: Task[dict[str, int]]) -> int:
        begun.append(task.payload["number"])
        if task.payload["number"] == 0:
            await gate.wait()
        return task.payload["number"]

    await publish_tasks(broker.bootstrap, "narrow", ANSWERS, range(100))
    settings = replace(QUICK, most_open=10)
    async with (
        working(worker, connection, settings=settings),
        answers_in(broker.bootstrap, ANSWERS) as answers,
    ):
        await eventually(lambda: len(begun) >= settings.most_open)
        await answers.of_all(range(1, settings.most_open))
        assert len(begun) < settings.most_open + worker.concurrency
        gate.set()
        await answers.of_all(range(100))


async def test_sigterm_drains(broker: EmbeddedBroker) -> None:
    await publish_tasks(broker.bootstrap, TASKS, ANSWERS, [0])
    command = [sys.executable, "-m", "support.worker_process", broker.bootstrap, TASKS, "packer", "gated"]
    async with process(*command, pipes=True, PYTHONPATH=str(TESTS)) as running, asyncio.timeout(60):
        assert running.stdout is not None
        assert running.stdin is not None
        assert await running.stdout.readline() == b"begun\n"
        running.send_signal(signal.SIGTERM)
        assert await running.stdout.readline() == b"draining\n"
        running.stdin.write(b"go on\n")
        assert await running.wait() == 0
    async with answers_in(broker.bootstrap, ANSWERS) as answers:
        await answers.of_all([0])
    assert sum((await committed(broker.bootstrap, "packer", TASKS, partitions=3)).values()) == 1
