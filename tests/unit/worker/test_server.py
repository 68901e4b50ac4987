"""What a worker answers over HTTP: its metrics, and whether it can do its tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry

from awakeables.errors import OperatorError
from awakeables.runtime import work
from awakeables.settings import load_settings
from awakeables.telemetry import server
from awakeables.telemetry.metrics import WorkerMetrics
from awakeables.telemetry.server import served
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker


class Process:
    """What is served, and a client of it."""

    def __init__(self, port: int, problems: dict[str, str]) -> None:
        self.port = port
        self.problems = problems
        self.url = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return await client.get(path)


@contextmanager
def a_process(metrics: WorkerMetrics | None = None) -> Iterator[Process]:
    problems: dict[str, str] = {}
    registry = metrics.registry if metrics else CollectorRegistry()
    with served(registry, lambda: problems, port=0) as port:
        yield Process(port, problems)


async def test_a_worker_serves_its_metrics_on_a_port_of_its_own() -> None:
    metrics = WorkerMetrics()
    metrics.task("pack-requests", "resolved", 0.1)
    with a_process(metrics) as process:
        told = (await process.get("/metrics")).text
        with (
            pytest.raises(OperatorError, match=f"port {process.port} .*AWAKEABLES_METRICS_PORT"),
            served(CollectorRegistry(), dict, port=process.port),
        ):
            pass
    assert 'awakeables_worker_tasks_total{fate="resolved",topic="pack-requests"} 1.0' in told


async def test_case_o9_a_worker_says_whether_it_is_ready_and_what_keeps_it() -> None:
    with a_process() as process:
        answer = await process.get("/health/ready")
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
        process.problems["topic quotes"] = "there is no such topic"
        answer = await process.get("/health/ready")
        problems = {"topic quotes": "there is no such topic"}
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": problems})
        answer = await process.get("/health/live")
        assert (answer.status_code, answer.json()) == (200, {"live": True})
        assert (await process.get("/")).status_code == 404


def test_case_o9_a_worker_whose_event_loop_is_blocked_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_TIMEOUT_S", 0.05)

    async def blocked() -> None:
        with a_process() as process:
            answers: list[httpx.Response] = []
            asking = threading.Thread(
                target=lambda: answers.append(httpx.get(f"{process.url}/health/live", timeout=30))
            )
            asking.start()
            asking.join()  # holds the event loop until it is answered
            [answer] = answers
            assert (answer.status_code, answer.json()["live"]) == (503, False)
            assert "blocked" in answer.json()["problems"]["loop"]

    asyncio.run(blocked())


def packer() -> Worker:
    worker = Worker("packer")

    @worker.task("pack-requests")
    async def pack(task: Task[None]) -> None: ...

    return worker


async def test_case_o9_a_worker_is_open_to_other_machines_only_if_that_is_said() -> None:
    settings = load_settings(metrics_port=0, metrics_host="0.0.0.0")
    with pytest.raises(OperatorError, match=r"0\.0\.0\.0 can be reached .*AWAKEABLES_INSECURE"):
        await work(packer(), settings, stop=asyncio.Event())
