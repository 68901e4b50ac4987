"""Real processes whose handlers, actions and tasks fork, exit, or hang on."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from awakeables.devbroker import EmbeddedBroker
from e2e.chaos.processes import CLI, Victim, ended
from support.eventually import eventually
from support.real_kafka import free_port

TOPICS = ("forking.completions", "forking.completions.dlq", "forking-requests")


class Forking:
    """A service that forks, on an embedded broker."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        port = free_port()
        environment = {
            "AWAKEABLES_KAFKA": bootstrap,
            "AWAKEABLES_STORE": str(folder / "forking.db"),
            "AWAKEABLES_PORT": str(port),
            "AWAKEABLES_LINGER": "PT60S",
        }
        self.service = Victim(
            "service",
            *(CLI, "serve", "e2e.forking:app"),
            log=folder / "service.log",
            environment=environment,
        )
        self.worker = Victim(
            "worker",
            *(CLI, "worker", "e2e.forking:worker"),
            log=folder / "worker.log",
            environment=environment,
        )
        # A connection that is open when a child is forked is open for as long as the child lives.
        once = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=once)

    async def start(self) -> None:
        await self.service.start()
        await eventually(self.is_up, timeout=60)

    async def is_up(self) -> bool:
        assert self.service.process.returncode is None, self.service.last_words()
        try:
            return (await self.http.get("/health/live")).status_code == 200
        except httpx.TransportError:
            return False

    async def call(self, handler: str, given: Any = None) -> Any:
        answer = await self.http.post(f"/forks/{handler}", json=given)
        assert answer.status_code == 200, (answer.text, self.service.last_words())
        return answer.json()


@asynccontextmanager
async def forking(folder: Path) -> AsyncIterator[Forking]:
    async with EmbeddedBroker() as broker:
        for topic in TOPICS:
            await broker.create_topic(topic, partitions=1)
        made = Forking(folder, broker.bootstrap)
        async with made.http, ended(made.service, made.worker):
            await made.start()
            yield made


async def test_case_p2_children_of_an_action_end_without_their_parent(tmp_path: Path) -> None:
    async with forking(tmp_path) as here:
        for _ in range(2):
            assert await here.call("act", "pooled") == [1, 2]
            assert await here.call("act", "forked") == 3
            assert await here.call("act", "forked_on_the_loop") == 1
        assert await here.is_up()
        assert await here.service.stop() == 0, here.service.last_words()


async def test_case_p2_children_of_a_task_end_without_their_parent(tmp_path: Path) -> None:
    async with forking(tmp_path) as here:
        await here.worker.start()
        for _ in range(2):
            assert await here.call("ask") == [[1, 2], 3]
        assert here.worker.process.returncode is None
        assert await here.worker.stop() == 0, here.worker.last_words()


async def test_case_p2_a_child_that_outlives_its_parent_keeps_neither_store_nor_port(tmp_path: Path) -> None:
    async with forking(tmp_path) as here:
        orphan = await here.call("act", "orphaned")
        try:
            await here.service.kill()
            await here.start()
            assert await here.call("act", "pooled") == [1, 2]
        finally:
            os.kill(orphan, signal.SIGKILL)


async def test_case_p1_sigterm_ends_a_service_whose_handler_swallows_its_end(tmp_path: Path) -> None:
    async with forking(tmp_path) as here:
        sent = await here.http.post("/forks/loop/send")
        assert sent.status_code == 202
        assert await here.service.stop() == 0, here.service.last_words()
        await here.start()
        row = (await here.http.get(f"/invocations/{sent.json()['invocation_id']}")).json()
        assert row["status"] == "paused"
        assert "caught Suspended" in row["failure"]["message"]
