"""The worker of docs/workers.md that sends heartbeats does the tasks of the handler of docs/handlers.md."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from awakeables import App, Service
from awakeables.core.revocations import OverState
from awakeables.testing import Harness, run

DOCS = Path(__file__).parents[3] / "docs"
SECTION = "\n### Heartbeats with the SDK\n"


def module_of(name: str, blocks: list[str]) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile("\n".join(blocks), name, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def handlers() -> Iterator[Any]:
    """The code of docs/handlers.md."""
    text = (DOCS / "handlers.md").read_text()
    yield module_of("handlers_of_workers", re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    del sys.modules["handlers_of_workers"]


@pytest.fixture
def workers() -> Iterator[Any]:
    """The code of the section on heartbeats."""
    section = (DOCS / "workers.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    yield module_of("workers_guide", re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    del sys.modules["workers_guide"]


def test_the_worker_does_the_task_of_the_guide(handlers: Any, workers: Any) -> None:
    claim = handlers.Claim(order="o-1", cents=1)
    told = run(handlers.scan_receipts, claim, workers=[workers.scanner])
    assert told.value == "40 pages of o-1"


def test_the_worker_goes_on_where_a_silent_one_was(handlers: Any, workers: Any) -> None:
    pages: list[int] = []

    async def read_page(_claim: Any, number: int) -> None:
        pages.append(number)

    workers.read_page = read_page
    with Harness(App("guide", services=[handlers.refunds])) as harness:
        running = harness.send(handlers.scan_receipts, handlers.Claim(order="o-1", cents=1))
        silent = harness.next_task("receipt-scans")
        silent.heartbeat(handlers.Page(done=37, of=40))
        harness.add_worker(workers.scanner)
        harness.advance(timedelta(minutes=3))
        assert running.result() == "40 pages of o-1"
    assert pages == [37, 38, 39]


@pytest.mark.parametrize("reason", ["cancelled", "timed-out"])
def test_the_worker_learns_that_it_was_given_up_and_why(
    reason: OverState, handlers: Any, workers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = iter([1])

    async def read_page(_claim: Any, number: int) -> None:
        if number == 1 and next(slow, None):
            await asyncio.sleep(180)

    workers.read_page = read_page
    with Harness(App("guide", services=[handlers.refunds])) as harness:
        harness.add_worker(workers.scanner)
        running = harness.send(handlers.scan_receipts, handlers.Claim(order="o-1", cents=1))
        (wait,) = harness.waiting()
        if reason == "cancelled":
            running.cancel()
        harness.advance(timedelta(minutes=5))
        assert running.status == "completed"
        assert [said["state"] for said in harness.revocations] == [reason]
    assert capsys.readouterr().out == f"given up, {reason}: {wait.id}\n"


def test_a_worker_is_not_notified_that_another_one_has_answered(handlers: Any) -> None:
    with Harness(App("guide", services=[handlers.refunds])) as harness:
        running = harness.send(handlers.scan_receipts, handlers.Claim(order="o-1", cents=1))
        task = harness.next_task("receipt-scans")
        task.heartbeat()
        assert task.resolve("one copy of the task").kind == "accepted"
        task.heartbeat()
        assert harness.revocations == []
        assert task.resolve("another one").kind == "conflict"
        assert running.result() == "one copy of the task"


def test_the_keepalive_is_the_worker_s_own(workers: Any) -> None:
    functions = workers.scanner.functions
    assert {topic: function.keepalive for (topic, _), function in functions.items()} == {
        "receipt-scans": False,
        "receipt-archives": True,
    }
    scenes = Service("scenes")

    @scenes.handler()
    async def archive(ctx: Any, claim: Any) -> str:
        archived = ctx.awakeable(str, heartbeat_timeout=timedelta(minutes=2))
        ctx.publish("receipt-archives", claim, awakeable=archived)
        result: str = await archived
        return result

    told = run(archive, {"order": "o-1", "cents": 1}, workers=[workers.scanner])
    assert told.value == "archive of o-1"
