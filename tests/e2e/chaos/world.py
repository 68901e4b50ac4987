"""Instances of a service, two workers and perhaps a function as processes, on one store and one Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from e2e.chaos.books import Books, SqliteBooks
from e2e.chaos.flows import TICKS
from e2e.chaos.ledger import Ledger
from e2e.chaos.processes import CLI, TESTS, Victim, ended
from e2e.chaos.questions import NOBODY, SIDES
from support.eventually import eventually
from support.functions import PRIVATE, PUBLIC
from support.real_kafka import free_port

PARTITIONS = 4
START_S = 120.0
"""So long an instance may take at most, while what it needs is away besides."""

JSON = {"content-type": "application/json"}

CreateTopics = Callable[[dict[str, int]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an instance finds its store and Kafka."""

    store: str
    kafka: str


class World:
    """Everything that one run has.

    Attributes:
        instances: The service's processes.
        function: The process of the handlers that run elsewhere; None: there are none.
        clients: A client of each instance.
    """

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        books: Books,
        places: Sequence[Place],
        *,
        session_s: float,
        settings: Mapping[str, str],
        with_function: bool = False,
    ) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.books = books
        self.places = places
        self.name = f"chaos-{secrets.token_hex(4)}"
        self.ledger = Ledger(folder / "ledger.jsonl")
        ports = [free_port() for _ in places]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        environment = {
            "AWAKEABLES_LINGER": "PT0.3S",
            "CHAOS_NAME": self.name,
            "CHAOS_LEDGER": str(folder / "ledger.jsonl"),
            "CHAOS_SESSION_S": str(session_s),
            "CHAOS_URLS": ",".join(urls),
            **settings,
        }
        self.function = self._function(environment) if with_function else None
        self.instances = [
            Victim(
                f"instance-{number}",
                *(CLI, "serve", "e2e.chaos.app:app"),
                log=folder / f"instance-{number}.log",
                environment={
                    "AWAKEABLES_KAFKA": place.kafka,
                    "AWAKEABLES_STORE": place.store,
                    "AWAKEABLES_PORT": str(port),
                    **environment,
                },
            )
            for number, (place, port) in enumerate(zip(places, ports, strict=True), 1)
        ]
        self.workers = {
            side: Victim(
                side,
                *(sys.executable, "-m", "e2e.chaos.worker", side),
                log=folder / f"{side}.log",
                environment={"AWAKEABLES_KAFKA": bootstrap, **environment},
            )
            for side in SIDES
        }
        self.clients = [
            httpx.AsyncClient(
                base_url=url,
                timeout=30,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=50),
            )
            for url in urls
        ]

    def _function(self, environment: dict[str, str]) -> Victim:
        """The function's process; the instances know it by their environment."""
        private, public, port = self.folder / "private.pem", self.folder / "public.pem", free_port()
        private.write_bytes(PRIVATE)
        public.write_text(PUBLIC)
        environment |= {
            "AWAKEABLES_FUNCTION_KEY": str(private),
            "CHAOS_FUNCTION": f"http://127.0.0.1:{port}",
        }
        serve = (sys.executable, "-m", "uvicorn", "--log-level", "warning", "--port", str(port), "--factory")
        return Victim(
            "function",
            *(*serve, "e2e.chaos.functions:function"),
            log=self.folder / "function.log",
            environment={**environment, "CHAOS_FUNCTION_KEY": str(public)},
        )

    @property
    def service(self) -> Victim:
        """The first instance, or the only one."""
        return self.instances[0]

    @property
    def http(self) -> httpx.AsyncClient:
        """Its client."""
        return self.clients[0]

    @property
    def victims(self) -> list[Victim]:
        return [*self.instances, *self.workers.values(), *filter(None, [self.function])]

    @property
    def completions(self) -> str:
        return f"{self.name}.completions"

    @property
    def task_topics(self) -> list[str]:
        return [f"{self.name}-{side}" for side in (*SIDES, NOBODY)]

    @property
    def events(self) -> str:
        """The topic that handlers subscribe to."""
        return f"{self.name}-events"

    @property
    def dead_letters(self) -> str:
        return f"{self.completions}.dlq"

    @property
    def revocations(self) -> str:
        """The topic that workers learn from that nobody waits any more."""
        return f"{self.name}.revocations"

    @property
    def topics(self) -> dict[str, int]:
        """Those that must exist, with their partitions."""
        return {
            self.completions: PARTITIONS,
            self.dead_letters: 1,
            self.revocations: 1,
            self.events: PARTITIONS,
            **dict.fromkeys(self.task_topics, PARTITIONS),
        }

    async def started(self, number: int = 0) -> None:
        """Wait until an instance takes calls."""
        async with asyncio.timeout(START_S):
            while not await self.is_up(number):
                assert self.instances[number].process.returncode is None, self.instances[number].last_words()
                await asyncio.sleep(0.02)

    async def all_started(self) -> None:
        """The same of all instances, while somebody keeps them running."""
        for number in range(len(self.instances)):
            await eventually(partial(self.is_up, number), timeout=START_S)

    async def is_up(self, number: int = 0) -> bool:
        try:
            return (await self.clients[number].get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def waiting(self, count: int) -> None:
        """Wait until there are so many awakeables."""

        async def are_there() -> bool:
            return len(await self.books.rows("SELECT 1 FROM awakeables")) == count

        await eventually(are_there)

    async def send(self, path: str, body: Any = None, *, at: int = 0) -> str:
        """Begin an invocation at an instance; its ID."""
        answer = await self.clients[at].post(f"/{path}/send", content=json.dumps(body), headers=JSON)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["invocation_id"])

    async def invocation(self, invocation_id: str, *, at: int = 0) -> dict[str, Any]:
        """Its row; empty while the service is down."""
        try:
            answer = await self.clients[at].get(f"/invocations/{invocation_id}")
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.status_code == 200 else {}

    async def value_of(self, invocation_id: str, *, at: int = 0) -> Any:
        """What it returned, once it has."""

        async def row() -> dict[str, Any]:
            found = await self.invocation(invocation_id, at=at)
            assert found.get("status") == "completed", found
            return found

        return (await eventually(row, timeout=30))["result"]["value"]

    async def awakeable_of(self, invocation_id: str, *, at: int = 0) -> str:
        """The awakeable that it waits for."""

        async def asked() -> str:
            journal = (await self.invocation(invocation_id, at=at)).get("journal", [])
            return next((each["entry"]["id"] for each in journal if each["entry"]["k"] == "awakeable"), "")

        return await eventually(asked)

    async def resolve(self, awakeable_id: str, value: Any, *, at: int = 0) -> None:
        answer = await self.clients[at].post(f"/awakeables/{awakeable_id}/resolve", json=value)
        assert answer.json()["verdict"] == "accepted", answer.text

    async def stops_ticking(self) -> bool:
        """Whether the schedule is paused; to be asked until it is."""
        try:
            return (await self.http.post(f"/schedules/{TICKS}/pause")).status_code == 200
        except httpx.TransportError:
            return False

    async def verify(self) -> None:
        """Hold the product's own invariants against the rows."""
        process = await asyncio.create_subprocess_exec(
            *(CLI, "verify", "e2e.chaos.app:app"),
            cwd=TESTS,
            env=os.environ | {"CHAOS_NAME": self.name, "AWAKEABLES_STORE": self.places[0].store},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0, told.decode()

    async def function_works(self, within_s: float) -> bool:
        """Wait until the function executes an action; whether it has, in time."""
        assert self.function is not None
        pid, since = self.function.process.pid, self.ledger.size
        try:
            await eventually(
                lambda: any(line["pid"] == pid for line in self.ledger.lines("effect", since=since)),
                timeout=within_s,
            )
        except AssertionError:
            return False
        return True

    async def function_is_down(self) -> bool:
        """Whether an instance has found so, as it tells."""
        for client in self.clients:
            try:
                listed = (await client.get("/functions", timeout=2)).json()["items"]
            except (httpx.HTTPError, ValueError, KeyError):
                continue
            if any(each["problem"] is not None for each in listed):
                return True
        return False

    def logged(self, event: str) -> int:
        """How often the instances have logged this."""
        return sum(instance.log().count(event) for instance in self.instances)

    async def worker_works(self, side: str) -> None:
        """Wait until this start of a worker has taken a task."""
        pid = self.workers[side].process.pid
        await eventually(lambda: any(line["pid"] == pid for line in self.ledger.lines("sent")), timeout=20)


@asynccontextmanager
async def world(
    folder: Path, bootstrap: str, create_topics: CreateTopics, *, session_s: float = 10, **settings: str
) -> AsyncIterator[World]:
    """One instance on a file, topics, and nothing started yet; afterwards nothing runs any more.

    Settings are variables of the processes' environment.
    """
    path = folder / "chaos.db"
    place = Place(store=str(path), kafka=bootstrap)
    made = World(folder, bootstrap, SqliteBooks(path), [place], session_s=session_s, settings=settings)
    await create_topics(made.topics)
    async with populated(made):
        yield made


@asynccontextmanager
async def populated(made: World) -> AsyncIterator[None]:
    """Clients, and processes that may be started; afterwards none of them runs any more."""
    async with AsyncExitStack() as stack:
        for client in made.clients:
            await stack.enter_async_context(client)
        await stack.enter_async_context(ended(*made.victims))
        yield
