"""The embedded broker, as the demo and the tests use it: through aiokafka and over its pipe."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from awakeables.devbroker import EmbeddedBroker, EmbeddedBrokerError, find_library
from awakeables.errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiokafka import ConsumerRecord

BOUND = 20.0  # seconds; the end of every wait here, far above what any of them takes
DELAY = timedelta(milliseconds=300)

PARENT = """
import asyncio
from awakeables.devbroker import EmbeddedBroker

async def main():
    async with EmbeddedBroker() as broker:
        print(broker.bootstrap, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

WITHOUT_THE_EXTRA = """
import sys
sys.modules["confluent_kafka"] = None
from awakeables.devbroker import main
sys.exit(main([]))
"""


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


async def read(broker: EmbeddedBroker, partition: TopicPartition, count: int) -> list[ConsumerRecord]:
    # The mock does not wake a waiting fetch when a record comes: a short wait is the latency.
    async with (
        asyncio.timeout(BOUND),
        AIOKafkaConsumer(
            bootstrap_servers=broker.bootstrap, auto_offset_reset="none", fetch_max_wait_ms=5
        ) as consumer,
    ):
        consumer.assign([partition])
        consumer.seek(partition, 0)
        records: list[ConsumerRecord] = []
        while len(records) < count:
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                records += batch
        return records


async def command(process: asyncio.subprocess.Process, line: str) -> object:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line.encode() + b"\n")
    return json.loads(await process.stdout.readline())


async def test_a_record_comes_back_with_its_key_value_and_headers(broker: EmbeddedBroker) -> None:
    await broker.create_topic("orders", partitions=1)
    headers = [("traceparent", b"00-1"), ("again", b"1"), ("again", b"2"), ("empty", b"")]
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait("orders", b"value", key=b"key", headers=headers)
        await producer.send_and_wait("orders", None, key=b"tombstone")

    first, second = await read(broker, TopicPartition("orders", 0), 2)

    assert (first.key, first.value, list(first.headers)) == (b"key", b"value", headers)
    assert (second.key, second.value, list(second.headers)) == (b"tombstone", None, [])


async def test_a_topic_has_the_partitions_it_was_created_with(broker: EmbeddedBroker) -> None:
    await broker.create_topic("narrow", partitions=1)
    await broker.create_topic("wide", partitions=7)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        assert await producer.partitions_for("narrow") == {0}
        assert await producer.partitions_for("wide") == set(range(7))


async def test_creating_a_topic_that_exists_changes_nothing(broker: EmbeddedBroker) -> None:
    await broker.create_topic("orders", partitions=2)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait("orders", b"kept", partition=1)
        await broker.create_topic("orders", partitions=5)
        assert await producer.partitions_for("orders") == {0, 1}

    [record] = await read(broker, TopicPartition("orders", 1), 1)
    assert record.value == b"kept"


async def test_a_send_fails_while_the_broker_is_down_and_succeeds_once_it_is_up(
    broker: EmbeddedBroker,
) -> None:
    await broker.create_topic("orders", partitions=1)
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, request_timeout_ms=300, retry_backoff_ms=20
    ) as producer:
        await producer.send_and_wait("orders", b"before")
        await broker.down()
        with pytest.raises(KafkaError):
            await asyncio.wait_for(producer.send_and_wait("orders", b"lost"), BOUND)
        await broker.up()
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    await producer.send_and_wait("orders", b"after")
                except KafkaError:
                    continue
                break

    records = await read(broker, TopicPartition("orders", 0), 2)
    assert [record.value for record in records] == [b"before", b"after"]


async def test_the_round_trip_time_delays_answers_until_it_is_taken_back(
    broker: EmbeddedBroker,
) -> None:
    await broker.create_topic("orders", partitions=1)
    clock = asyncio.get_running_loop().time
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait("orders", b"connects")
        await broker.round_trip_time(DELAY)
        start = clock()
        await producer.send_and_wait("orders", b"slow")
        slow = clock() - start
        await broker.round_trip_time(timedelta())
        start = clock()
        await producer.send_and_wait("orders", b"fast")
        fast = clock() - start
    assert slow > fast
    assert slow > DELAY.total_seconds() * 0.9


@pytest.mark.parametrize(
    ("topic", "partitions"),
    [("", 1), ("no blanks", 1), ("x" * 250, 1), ("x", 0), ("x", -1), ("x", 10**9)],
)
async def test_a_refused_topic_is_an_error_and_the_broker_goes_on(
    broker: EmbeddedBroker, topic: str, partitions: int
) -> None:
    with pytest.raises(EmbeddedBrokerError, match="topic"):
        await broker.create_topic(topic, partitions=partitions)
    await broker.create_topic("fine", partitions=1)


async def test_a_cancelled_command_does_not_shift_the_answers_of_the_next(
    broker: EmbeddedBroker,
) -> None:
    async with asyncio.timeout(BOUND):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await broker.create_topic("not a topic", partitions=1)
        await broker.create_topic("fine", partitions=1)
        with pytest.raises(EmbeddedBrokerError):
            await broker.create_topic("not a topic", partitions=1)


async def test_commands_from_many_tasks_each_get_their_own_answer(broker: EmbeddedBroker) -> None:
    names = ["fine", "not fine"] * 10
    outcomes = await asyncio.gather(
        *(broker.create_topic(name, partitions=1) for name in names), return_exceptions=True
    )
    assert [outcome is None for outcome in outcomes] == [name == "fine" for name in names]


async def test_by_hand_a_bad_command_is_answered_with_an_error_and_the_process_goes_on() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "awakeables.devbroker", "--topic", "orders:3"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(BOUND):
            hello = json.loads(await process.stdout.readline())
            async with AIOKafkaProducer(bootstrap_servers=hello["bootstrap"]) as producer:
                assert await producer.partitions_for("orders") == {0, 1, 2}
            for bad in ('{"explode": true}', "{", "", "[]", '{"down": false}', '{"rtt_ms": -1}'):
                answer = await command(process, bad)
                assert isinstance(answer, dict)
                assert list(answer) == ["error"], bad
            for good in (
                '{"create": "more", "partitions": 2}',
                '{"rtt_ms": 0}',
                '{"down": true}',
                '{"up": true}',
            ):
                assert await command(process, good) == {"ok": True}, good
            process.stdin.close()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
async def test_ctrl_c_leaves_it_running_and_sigterm_ends_it() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "awakeables.devbroker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert await command(process, '{"rtt_ms": 0}') == {"ok": True}
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0


async def test_the_broker_ends_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    async with asyncio.timeout(BOUND):
        host, port = (await parent.stdout.readline()).decode().strip().split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()

        parent.kill()
        # The broker inherited this stderr, which reaches its end when the last holder is gone.
        assert await parent.stderr.read() == b""
        await parent.communicate()

        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))


async def test_leaving_the_block_ends_the_broker() -> None:
    async with EmbeddedBroker() as broker:
        host, port = broker.bootstrap.split(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    with pytest.raises(EmbeddedBrokerError, match="not running"):
        _ = broker.bootstrap
    with pytest.raises(EmbeddedBrokerError, match="not running"):
        await broker.up()


async def test_a_start_that_takes_too_long_says_so() -> None:
    with pytest.raises(EmbeddedBrokerError, match="not ready within"):
        async with EmbeddedBroker(start_timeout=timedelta()):
            pytest.fail("started in no time")


async def test_without_confluent_kafka_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(MissingDependency, match=r"extra `dev`, .* install awakeables\[dev\]"):
        find_library()
    with pytest.raises(MissingDependency, match="extra `dev`"):
        async with EmbeddedBroker():
            pytest.fail("started without a library")


async def test_by_hand_without_confluent_kafka_the_error_names_the_extra() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_THE_EXTRA),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(BOUND):
        said, _ = await process.communicate()
    assert "install awakeables[dev]" in json.loads(said)["error"]
    assert process.returncode == 1
