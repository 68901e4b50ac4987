"""docs/workers.md, run: workers that know nothing of this project but its records."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord

from awakeables.core.awakeables import Completion
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.kafka.connection import Connection
from awakeables.kafka.topics import create_topics
from awakeables.wire.completions import decode_completion
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock
from support.real_kafka import TopicFactory
from support.tasks import answers_in, awakeable_id, process, task_effect, task_headers, working

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "workers"

TRACEPARENT = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
EXPECTED = {
    0: Resolution.of_json(b'{"parcel":"parcel of o-17"}'),
    1: (409, "out of stock"),
    3: Resolution.of_json(b'{"parcel":"parcel of \xc3\xa4 \\"quoted\\"\\nline"}'),
}


class Topics:
    """A task topic, where its answers go, and its dead letters."""

    def __init__(self, tasks: str, answers: str) -> None:
        self.tasks = tasks
        self.answers = answers


@pytest.fixture
async def topics(topic: TopicFactory, bootstrap: str) -> Topics:
    """A task for each case: done, rejected, past its deadline, odd text, and what is no task."""
    tasks = await topic("pack-requests", partitions=1)
    answers = await topic("shop.completions", partitions=2)
    await create_topics(Connection(bootstrap=bootstrap), {f"{tasks}.dlq": 1})
    cases: list[tuple[int, Any, int | None]] = [
        (0, {"order": "o-17"}, None),
        (1, {"order": "sold-out"}, SystemClock().now_ms() + 60_000),
        (2, {"order": "too late"}, SystemClock().now_ms() - 60_000),
    ]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number, payload, deadline_ms in cases:
            await _publish(producer, tasks, answers, number, payload, deadline_ms)
        await producer.send_and_wait(tasks, b"no task\xff", key=b"k")
        await _publish(producer, tasks, answers, 3, {"order": 'ä "quoted"\nline'}, None)
    return Topics(tasks, answers)


async def _publish(
    producer: AIOKafkaProducer, tasks: str, answers: str, number: int, payload: Any, deadline_ms: int | None
) -> None:
    effect = task_effect(payload, number=number, topic=tasks, reply_to=answers, deadline_ms=deadline_ms)
    value, headers = task_headers(effect, TRACEPARENT)
    await producer.send_and_wait(tasks, value, key=effect.key, headers=headers)


def by_number(records: list[ConsumerRecord]) -> dict[int, Completion]:
    numbers = {awakeable_id(number): number for number in range(10)}
    read = [decode_completion(record.value, source="test") for record in records]
    return {numbers[completion.awakeable_id]: completion for completion in read}


async def check_answers(bootstrap: str, topics: Topics, worker: str) -> None:
    async with answers_in(bootstrap, topics.answers) as answers:
        records = await answers.at_least(3, timeout=60)
    completions = by_number(records)
    assert sorted(completions) == [0, 1, 3]
    for number, completion in completions.items():
        body = completion.body
        if isinstance(body, Rejection):
            assert (body.code, body.reason) == EXPECTED[number]
        else:
            assert isinstance(body, Resolution)
            expected = EXPECTED[number]
            assert isinstance(expected, Resolution)
            assert msgspec.json.decode(body.content) == msgspec.json.decode(expected.content)
        assert completion.worker == worker
        assert completion.event_id == f"{completion.awakeable_id}:1"
    assert {record.key for record in records} == {awakeable_id(number).encode() for number in EXPECTED}
    async with answers_in(bootstrap, f"{topics.tasks}.dlq") as letters:
        (letter,) = await letters.at_least(1)
    assert b"no task" in (letter.value or b"")


async def test_the_worker_in_plain_aiokafka_answers(bootstrap: str, topics: Topics) -> None:
    program = str(EXAMPLES / "plain_worker.py")
    async with process(sys.executable, program, bootstrap, topics.tasks, f"group-{topics.tasks}"):
        await check_answers(bootstrap, topics, "plain")


def kcat_or_skip() -> None:
    missing = [tool for tool in ("kcat", "jq") if shutil.which(tool) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} not installed; on Debian: apt-get install kcat jq"
    if os.environ.get("REQUIRE_REAL_KAFKA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


async def test_the_worker_in_kcat_and_shell_answers(bootstrap: str, topics: Topics, tmp_path: Path) -> None:
    kcat_or_skip()
    program = str(EXAMPLES / "worker.sh")
    async with process(program, bootstrap, topics.tasks, "0", PLACES=str(tmp_path)):
        await check_answers(bootstrap, topics, "shell")


async def test_the_worker_in_kcat_and_shell_goes_on_where_it_was(
    bootstrap: str, topics: Topics, tmp_path: Path
) -> None:
    kcat_or_skip()
    program = str(EXAMPLES / "worker.sh")
    (tmp_path / f"{topics.tasks}-0.next").write_text("4\n")
    async with (
        process(program, bootstrap, topics.tasks, "0", PLACES=str(tmp_path)),
        answers_in(bootstrap, topics.answers) as answers,
    ):
        records = await answers.at_least(1, timeout=60)
    assert list(by_number(records)) == [3]


async def test_the_worker_in_kcat_and_shell_stays_where_it_was_if_it_can_not_answer(
    bootstrap: str, topics: Topics, tmp_path: Path
) -> None:
    kcat_or_skip()
    broken = tmp_path / "kcat"
    broken.write_text(f'#!/bin/sh\n[ "$1" != -P ] && exec {shutil.which("kcat")} "$@"\nexit 1\n')
    broken.chmod(0o755)
    program = str(EXAMPLES / "worker.sh")
    path = f"{tmp_path}:{os.environ['PATH']}"
    async with process(program, bootstrap, topics.tasks, "0", PLACES=str(tmp_path), PATH=path) as worker:
        assert await asyncio.wait_for(worker.wait(), 60) != 0
    assert [name for name in os.listdir(tmp_path) if ".next" in name] == []


async def test_the_worker_with_the_sdk_answers(bootstrap: str, topics: Topics) -> None:
    spec = importlib.util.spec_from_file_location("sdk_worker", EXAMPLES / "sdk_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sdk_worker"] = module
    spec.loader.exec_module(module)
    # The same function, on a topic of this test's own.
    worker = Worker(f"packer-{topics.tasks}")
    worker.task(topics.tasks)(module.pack)
    async with working(worker, Connection(bootstrap=bootstrap)):
        await check_answers(bootstrap, topics, worker.name)


@pytest.mark.parametrize("name", ["sdk_worker.py", "plain_worker.py", "worker.sh"])
def test_the_document_shows_the_very_files(name: str) -> None:
    assert (EXAMPLES / name).read_text() in (ROOT / "docs" / "workers.md").read_text()
