"""A service and two workers as processes, on one folder and one Kafka."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx

from e2e.chaos.app import NOBODY, SIDES
from e2e.chaos.ledger import Ledger
from e2e.chaos.processes import CLI, Victim, ended
from support.eventually import eventually
from support.real_kafka import free_port

PARTITIONS = 4
START_S = 30.0
JSON = {"content-type": "application/json"}

CreateTopics = Callable[[dict[str, int]], Awaitable[None]]


class World:
    """Everything that one run has."""

    def __init__(
        self, folder: Path, bootstrap: str, *, session_s: float, settings: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.name = f"chaos-{secrets.token_hex(4)}"
        self.database = folder / "chaos.db"
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            "AWAKEABLES_KAFKA": bootstrap,
            "AWAKEABLES_STORE": str(self.database),
            "AWAKEABLES_PORT": str(self.port),
            "AWAKEABLES_LINGER": "PT0.3S",
            "CHAOS_NAME": self.name,
            "CHAOS_LEDGER": str(folder / "ledger.jsonl"),
            "CHAOS_SESSION_S": str(session_s),
            "CHAOS_URL": self.url,
            **settings,
        }
        self.service = Victim(
            "service",
            *(CLI, "serve", "e2e.chaos.app:app"),
            log=folder / "service.log",
            environment=environment,
        )
        self.workers = {
            side: Victim(
                side,
                *(sys.executable, "-m", "e2e.chaos.worker", side),
                log=folder / f"{side}.log",
                environment=environment,
            )
            for side in SIDES
        }
        self.http = httpx.AsyncClient(
            base_url=self.url,
            timeout=30,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=50),
        )

    @property
    def completions(self) -> str:
        return f"{self.name}.completions"

    @property
    def task_topics(self) -> list[str]:
        return [f"{self.name}-{side}" for side in (*SIDES, NOBODY)]

    @property
    def topics(self) -> dict[str, int]:
        """Those that must exist, with their partitions."""
        return {
            self.completions: PARTITIONS,
            f"{self.completions}.dlq": 1,
            **dict.fromkeys(self.task_topics, PARTITIONS),
        }

    async def started(self) -> None:
        """Wait until the service takes calls."""
        async with asyncio.timeout(START_S):
            while not await self.is_up():
                assert self.service.process.returncode is None, self.service.last_words()
                await asyncio.sleep(0.02)

    async def is_up(self) -> bool:
        try:
            return (await self.http.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def send(self, path: str, body: Any = None) -> str:
        """Begin an invocation; its ID."""
        answer = await self.http.post(f"/{path}/send", content=json.dumps(body), headers=JSON)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["invocation_id"])

    async def invocation(self, invocation_id: str) -> dict[str, Any]:
        """Its row; empty while the service is down."""
        try:
            answer = await self.http.get(f"/invocations/{invocation_id}")
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.status_code == 200 else {}

    async def value_of(self, invocation_id: str) -> Any:
        """What it returned, once it has."""

        async def row() -> dict[str, Any]:
            found = await self.invocation(invocation_id)
            assert found.get("status") == "completed", found
            return found

        return (await eventually(row, timeout=30))["result"]["value"]

    async def awakeable_of(self, invocation_id: str) -> str:
        """The awakeable that it waits for."""

        async def asked() -> str:
            journal = (await self.invocation(invocation_id)).get("journal", [])
            return next((each["entry"]["id"] for each in journal if each["entry"]["k"] == "awakeable"), "")

        return await eventually(asked)

    async def resolve(self, awakeable_id: str, value: Any) -> None:
        answer = await self.http.post(f"/awakeables/{awakeable_id}/resolve", json=value)
        assert answer.json()["verdict"] == "accepted", answer.text

    async def worker_works(self, side: str) -> None:
        """Wait until this start of a worker has taken a task."""
        pid = self.workers[side].process.pid
        await eventually(lambda: any(line["pid"] == pid for line in self.ledger.lines("sent")), timeout=20)

    def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Look into the file beside the running service."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(sql, arguments).fetchall()


@asynccontextmanager
async def world(
    folder: Path, bootstrap: str, create_topics: CreateTopics, *, session_s: float = 10, **settings: str
) -> AsyncIterator[World]:
    """Topics, and nothing started yet; afterwards nothing runs any more.

    Settings are variables of the processes' environment.
    """
    made = World(folder, bootstrap, session_s=session_s, settings=settings)
    await create_topics(made.topics)
    async with made.http, ended(made.service, *made.workers.values()):
        yield made
