"""What is compared of the kit and of the service, and the service that is compared.

The service is the engine behind its HTTP interface, over a store of its own, on asyncio's own loop with real
threads; only its clock is moved by hand.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import msgspec

from awakeables.core.effects import Effect
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.schedules import ScheduleSettings
from awakeables.handlers.service import App
from awakeables.ports import Clock, Page, Store
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.store import SqliteStore
from awakeables.testing.bench import FakeBroker, FakeOffsets, new_process, serving
from awakeables.testing.loop import STARTED_MS
from awakeables.testing.outside import Published, readable
from awakeables.testing.simulated import FEW_TRIES
from awakeables.wire.tasks import encode_effect
from golden import handlers as golden
from simulation import corpus
from support.sqlite_file import empty_store
from support.web import new_web_app
from unit.testing import shapes

EVERYTHING = Page(limit=1000)
RETENTION_MS = 10**15


def plain(value: Any) -> Any:
    """The value without what is another each time: IDs, instants."""
    text = msgspec.json.encode(value).decode()
    text = re.sub(r"(inv|prom|evt)_1[0-9a-z]+", r"\1", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "uuid", text)
    text = re.sub(r"00-[0-9a-f]{32}-[0-9a-f]{16}-\d\d", "traceparent", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "instant", text)
    text = re.sub(r"\w+\.(completions|revocations)", r"\1", text)
    return msgspec.json.decode(re.sub(r"input of \w+/", "input of ", text))


def forget() -> None:
    """What handlers of the corpora remember from one run to the next."""
    shapes.drift.clear()
    golden.failures["flaky"] = 0
    corpus.ledger.flaky.clear()


def record_of(record: Published) -> Any:
    return [record.topic, repr(record.key), repr(record.payload), record.task, record.headers]


def effect_of(effect: Effect) -> Any:
    _, headers = encode_effect(effect)
    texts = {name: (content or b"").decode("utf-8", "surrogateescape") for name, content in headers}
    task = effect.task.task if effect.task else None
    return [effect.topic, repr(effect.key), repr(readable(effect.value)), task, texts]


class HandClock:
    """Stands still until it is moved; no heartbeat of the instance is late, however far it is."""

    def __init__(self) -> None:
        self.ms = STARTED_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return 0.0


NewStore: TypeAlias = Callable[[Clock], Store]


def sqlite(folder: Path) -> NewStore:
    file = empty_store(folder)
    return lambda clock: SqliteStore(file, clock=clock, retention_ms=RETENTION_MS)


def postgres(url: str) -> NewStore:
    return lambda clock: PostgresStore(url, clock=clock, retention_ms=RETENTION_MS)


@dataclass(frozen=True)
class Served:
    """A service that is up."""

    engine: Engine
    store: Store
    clock: HandClock
    broker: FakeBroker
    client: httpx.AsyncClient


@asynccontextmanager
async def served(
    app: App, new_store: NewStore, *, suspend: bool, schedules: ScheduleSettings | None = None
) -> AsyncIterator[Served]:
    """Serve an app; with `suspend`, a handler leaves the memory at every await."""
    forget()
    clock, broker = HandClock(), FakeBroker()
    store = new_store(clock)
    await store.open()
    process = new_process(
        app,
        store,
        broker,
        clock=clock,
        settings=EngineSettings(
            runner=RunnerSettings(linger=timedelta(0), retry=FEW_TRIES, always_suspend=suspend),
            horizon=timedelta(0),
            threads=1,
            schedules=schedules,
        ),
        offsets=FakeOffsets(),
    )
    transport = httpx.ASGITransport(new_web_app(process))
    try:
        async with (
            serving(process),
            httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client,
        ):
            yield Served(process.engine, store, clock, broker, client)
    finally:
        await store.close()
