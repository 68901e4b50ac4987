"""`topics` and `doctor` against a real broker: what they find, what they make, what they leave."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from awakeables.cli.main import cli
from awakeables.errors import BrokerUnavailable
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import TopicPlan, create_topics, missing_topics

APP = """
from awakeables import App, Context, Service, Task, Worker

service = Service("orders")

@service.handler()
async def fulfil(ctx: Context) -> None: ...

app = App("{name}", services=[service])
worker = Worker("{name}-worker")

@worker.task("{name}.tasks")
async def pack(task: Task[str]) -> None: ...
"""


class Bench:
    """An app of its own in a folder of its own, and the commands run there."""

    def __init__(self, bootstrap: str) -> None:
        self.connection = KafkaConnection(bootstrap=bootstrap)
        self.name = f"app{secrets.token_hex(4)}"
        own = ("completions", "completions.dlq"), ("revocations",), ("tasks", "tasks.dlq")
        self.topics = [f"{self.name}.{topic}" for topics in own for topic in topics]
        Path(f"{self.name}.py").write_text(APP.format(name=self.name))

    def run(self, *words: str) -> Result:
        module = self.name
        words = tuple(
            word.replace("APP", f"{module}:app").replace("WORKER", f"{module}:worker") for word in words
        )
        environment = {"AWAKEABLES_KAFKA": self.connection.bootstrap, "AWAKEABLES_URL": "http://127.0.0.1:9"}
        return CliRunner().invoke(cli, words, env=environment, catch_exceptions=False)

    def check(self) -> list[dict[str, str]]:
        told = self.run("topics", "check", "APP", "--worker", "WORKER", "--json")
        rows: list[dict[str, str]] = json.loads(told.stdout)
        assert told.exit_code == int(any(row["verdict"] == "must" for row in rows))
        return rows


@pytest.fixture
def bench(bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Bench(bootstrap)


def test_topics_that_are_missing_are_reported_and_not_created_by_asking(bench: Bench) -> None:
    for _ in range(2):
        rows = bench.check()
        assert [row["topic"] for row in rows] == bench.topics
        assert {row["verdict"] for row in rows} == {"must"}


def test_topics_are_created_as_recommended_and_pass(bench: Bench) -> None:
    created = bench.run("topics", "create", "APP", "--worker", "WORKER")
    assert created.exit_code == 0
    assert [line.split(": created")[0] for line in created.stdout.splitlines()] == bench.topics
    doubts = {(row["setting"], row["verdict"]) for row in bench.check() if row["verdict"] != "ok"}
    assert doubts == {("replication.factor", "advice"), ("min.insync.replicas", "advice")}
    doctored = bench.run("doctor", "APP", "--worker", "WORKER", "--json")
    levels = {row["subject"]: row["level"] for row in json.loads(doctored.stdout)}
    assert (levels["broker"], levels["topics"]) == ("ok", "warn")


async def test_a_topic_that_exists_is_never_changed(bench: Bench) -> None:
    odd = TopicPlan(partitions=2, replication=1, settings={"cleanup.policy": "compact"})
    await create_topics(bench.connection, {bench.topics[0]: odd})

    def create_and_check() -> tuple[str, list[dict[str, str]]]:
        told = bench.run("topics", "create", "APP", "--worker", "WORKER", "--partitions", "3")
        return told.stdout, bench.check()

    told, rows = await asyncio.to_thread(create_and_check)
    assert told.splitlines()[0] == f"{bench.topics[0]}: exists, left unchanged"
    found = {(row["topic"], row["setting"]): row for row in rows}
    assert found[bench.topics[0], "partitions"]["value"] == "2"
    assert found[bench.topics[0], "cleanup.policy"]["verdict"] == "must"
    assert found[bench.topics[3], "partitions"]["value"] == "3"
    assert found[bench.topics[1], "partitions"]["value"] == "1"
    assert await missing_topics(bench.connection, bench.topics) == []


def test_case_w2_task_topics_are_created_with_one_for_their_dead_letters(bench: Bench) -> None:
    bench.run("topics", "create", "APP", "--task-topic", f"{bench.name}.others")
    rows = json.loads(
        bench.run("topics", "check", "APP", "--task-topic", f"{bench.name}.others", "--json").stdout
    )
    assert f"{bench.name}.others.dlq" in {row["topic"] for row in rows if row["setting"] == "partitions"}


def test_what_the_broker_refuses_is_reported_in_its_words(bench: Bench) -> None:
    with pytest.raises(BrokerUnavailable, match=r"can't be created: .*replication factor"):
        bench.run("topics", "create", "APP", "--replication", "2")
