"""docs/workers.md, run: workers that know nothing of this project but its records."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from msgspec.structs import replace

from awakeables.core.awakeables import Completion
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import TopicPlan, create_topics, missing_topics
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
    await create_topics(KafkaConnection(bootstrap=bootstrap), {f"{tasks}.dlq": 1})
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


@asynccontextmanager
async def documented(name: str, bootstrap: str, tasks: str, folder: Path) -> AsyncIterator[Path]:
    """A worker of the page on a task topic; the file has what it says on stderr."""
    said = folder / "stderr"
    command = [str(EXAMPLES / "worker.sh"), bootstrap, tasks, "0"]
    if name == "plain":
        command = [sys.executable, str(EXAMPLES / "plain_worker.py"), bootstrap, tasks, f"group-{tasks}"]
    else:
        kcat_or_skip()
    with said.open("wb") as stderr:
        async with process(*command, stderr=stderr, PLACES=str(folder)):
            yield said


ODD = {
    "foreign": (b"foreign", ()),
    "another team's JSON": (b'{"order": "o-1"}', ()),
    "a tombstone": (None, ()),
    "headers of others": (b'"x"', (("n", None), ("u", b"\xff"))),
    "a deadline that is none": (
        b'{"awakeable_id": "p", "reply_to": "t", "payload": {"order": "o"}, "deadline": "x"}',
        (),
    ),
    "published without an awakeable": (
        b'{"awakeable_id": "p", "reply_to": "t", "payload": {"order": "o"}}',
        (("awakeable-event-id", b"evt_1"),),
    ),
}
"""Records that are no task."""


@pytest.mark.parametrize("name", ["plain", "shell"])
async def test_case_w3_a_documented_worker_dead_letters_what_it_can_not_do_and_does_the_next_task(
    bootstrap: str, topic: TopicFactory, tmp_path: Path, name: str
) -> None:
    tasks, replies = await topic("pack-requests", partitions=1), await topic("shop.completions", partitions=1)
    await create_topics(KafkaConnection(bootstrap=bootstrap), {f"{tasks}.dlq": 1})
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value, headers in ODD.values():
            await producer.send_and_wait(tasks, value, key=b"k", headers=list(headers))
        await _publish(producer, tasks, replies, 1, {"x": 1}, None)
        await _publish(producer, tasks, replies, 2, None, None)
        await _publish(producer, tasks, "no-such-topic", 3, {"order": "lost"}, None)
        await _publish(producer, tasks, replies, 4, {"order": "next"}, None)
    async with (
        documented(name, bootstrap, tasks, tmp_path) as said,
        answers_in(bootstrap, replies) as answers,
    ):
        assert list(by_number(await answers.at_least(1, timeout=60))) == [4]
    async with answers_in(bootstrap, f"{tasks}.dlq") as letters:
        records = await letters.at_least(len(ODD) + 3)
    found = [{name: (value or b"").decode("utf-8", "replace") for name, value in r.headers} for r in records]
    assert [letter["__connect.errors.offset"] for letter in found] == [str(n) for n in range(len(ODD) + 3)]
    codes = [letter["awakeable-error-code"] for letter in found]
    assert codes == ["unreadable"] * (len(ODD) + 2) + ["unanswerable"]
    schema = json.loads((ROOT / "schemas/dead-letter.schema.json").read_text())
    for letter in found:
        jsonschema_rs.validate(schema, letter)
    lines = [line for line in said.read_text().splitlines() if "un" in line and tasks in line]
    assert len(lines) == len(found)


@pytest.mark.parametrize("name", ["plain", "shell"])
async def test_case_w3_a_documented_worker_does_large_tasks_and_dead_letters_those_too_large_to_answer(
    bootstrap: str, topic: TopicFactory, tmp_path: Path, name: str
) -> None:
    tasks, replies = await topic("pack-requests", partitions=1), await topic("shop.completions", partitions=1)
    await create_topics(
        KafkaConnection(bootstrap=bootstrap),
        {
            f"{tasks}.dlq": 1,
            f"small-{tasks}": TopicPlan(partitions=1, settings={"max.message.bytes": "200"}),
        },
    )
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await _publish(producer, tasks, replies, 1, {"order": "z" * 300_000}, None)
        await _publish(producer, tasks, f"small-{tasks}", 2, {"order": "z" * 300}, None)
        await _publish(producer, tasks, replies, 3, {"order": "next"}, None)
    async with documented(name, bootstrap, tasks, tmp_path), answers_in(bootstrap, replies) as answers:
        found = by_number(await answers.at_least(2, timeout=60))
    assert {number: type(completion.body) for number, completion in found.items()} == {
        1: Resolution,
        3: Resolution,
    }
    async with answers_in(bootstrap, f"{tasks}.dlq") as letters:
        [letter] = await letters.at_least(1)
    assert ("awakeable-error-code", b"unanswerable") in letter.headers


@pytest.mark.parametrize("name", ["plain", "shell"])
async def test_case_w2_a_documented_worker_goes_on_without_its_dead_letter_topic_and_says_so(
    bootstrap: str, topic: TopicFactory, tmp_path: Path, name: str
) -> None:
    tasks, replies = await topic("pack-requests", partitions=1), await topic("shop.completions", partitions=1)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(tasks, b"foreign")
        await _publish(producer, tasks, replies, 4, {"order": "next"}, None)
    async with (
        documented(name, bootstrap, tasks, tmp_path) as said,
        answers_in(bootstrap, replies) as answers,
    ):
        assert list(by_number(await answers.at_least(1, timeout=60))) == [4]
    assert f"{tasks}.dlq" in said.read_text()
    assert await missing_topics(KafkaConnection(bootstrap=bootstrap), [f"{tasks}.dlq"]) == [f"{tasks}.dlq"]


@pytest.mark.parametrize("name", ["plain", "shell"])
async def test_case_w3_a_documented_worker_answers_as_the_headers_say(
    bootstrap: str, topic: TopicFactory, tmp_path: Path, name: str
) -> None:
    """A bare payload that looks like a task of somebody else's is a payload."""
    tasks, replies = await topic("pack-requests", partitions=1), await topic("shop.completions", partitions=1)
    forged = {
        "awakeable_id": awakeable_id(9),
        "event_id": "e",
        "reply_to": "other",
        "payload": {"order": "no"},
    }
    bare = task_effect(forged | {"order": "yes"}, number=4, topic=tasks, reply_to=replies)
    assert bare.task is not None
    bare = replace(bare, task=replace(bare.task, envelope="none"))
    value, headers = task_headers(bare)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(tasks, value, headers=headers)
    async with documented(name, bootstrap, tasks, tmp_path), answers_in(bootstrap, replies) as answers:
        [(number, completion)] = by_number(await answers.at_least(1, timeout=60)).items()
    assert number == 4
    assert isinstance(completion.body, Resolution)
    assert msgspec.json.decode(completion.body.content) == {"parcel": "parcel of yes"}


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
    async with working(worker, KafkaConnection(bootstrap=bootstrap)):
        await check_answers(bootstrap, topics, worker.name)


@pytest.mark.parametrize("name", ["sdk_worker.py", "plain_worker.py", "worker.sh"])
def test_the_document_shows_the_very_files(name: str) -> None:
    assert (EXAMPLES / name).read_text() in (ROOT / "docs" / "workers.md").read_text()
