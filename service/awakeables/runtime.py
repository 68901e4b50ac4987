"""The composition root: the only module that knows every adapter."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import structlog

from awakeables import __version__
from awakeables.devbroker import EmbeddedBroker
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.runner import RunnerSettings
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App
from awakeables.kafka.completions import CompletionsConsumer
from awakeables.kafka.connection import Connection
from awakeables.kafka.publisher import KafkaPublisher
from awakeables.kafka.worker import WorkerRunner
from awakeables.ports import Store
from awakeables.settings import Settings
from awakeables.store.memory import MemoryStore
from awakeables.store.sqlite.store import SqliteStore
from awakeables.telemetry import events
from awakeables.web.app import WebSettings, create_app
from awakeables.web.server import WebServer
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock, SystemEntropy

log = structlog.stdlib.get_logger(__name__)

MEMORY = "memory:"
Ready = Callable[[str], None]


async def serve(app: App, settings: Settings, *, stop: asyncio.Event, ready: Ready | None = None) -> None:
    """Serve an app until `stop` is set, then drain.

    Args:
        app: What is served.
        settings: How.
        stop: Set it to drain and return.
        ready: Told the service's URL once HTTP is answered.

    Raises:
        OperatorError: It can't start: port in use, store locked or too new.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    connection = Connection(bootstrap=settings.kafka, client_id=f"awakeables-{app.name}")
    async with AsyncExitStack() as stack:
        store = _store(settings, clock)
        await store.open()
        stack.push_async_callback(store.close)
        publisher = KafkaPublisher(connection, clock)
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        engine = Engine(
            app,
            store,
            publisher,
            clock=clock,
            entropy=entropy,
            settings=engine_settings(settings),
            build=__version__,
        )
        consumer = CompletionsConsumer(
            connection,
            engine.intake,
            owner=engine.owner,
            topic=app.completions_topic,
            group=app.name,
            clock=clock,
            problems=engine.problems,
        )
        server = WebServer(
            create_app(engine, settings=_web_settings(settings)),
            host=settings.host,
            port=settings.port,
            grace=settings.drain_timeout,
        )
        await _run(engine, consumer, server, settings, stop=stop, ready=ready)


async def _run(
    engine: Engine,
    consumer: CompletionsConsumer,
    server: WebServer,
    settings: Settings,
    *,
    stop: asyncio.Event,
    ready: Ready | None,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(engine.run(), name="engine")
        await engine.serving.wait()
        reading = tasks.create_task(consumer.run(), name="completions")
        web = tasks.create_task(server.run(), name="web")
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        log.info(
            events.STARTED, app=engine.app.name, url=server.url, kafka=settings.kafka, store=settings.store
        )
        if ready is not None:
            ready(server.url)
        await stop.wait()
        log.info(events.DRAINING, app=engine.app.name)
        server.stop()
        await engine.drain(settings.drain_timeout)
        await web
        reading.cancel()
        serving.cancel()
    log.info(events.STOPPED, app=engine.app.name)


async def work(worker: Worker, settings: Settings, *, stop: asyncio.Event) -> None:
    """Do a worker's tasks until `stop` is set, then drain."""
    connection = Connection(bootstrap=settings.kafka, client_id=f"awakeables-worker-{worker.name}")
    runner = WorkerRunner(worker, connection, clock=SystemClock())
    await runner.run(stop)


async def develop(
    app: App,
    workers: Sequence[Worker],
    settings: Settings,
    *,
    kafka: str | None,
    stop: asyncio.Event,
    ready: Ready | None = None,
) -> None:
    """Everything in one process: a broker of its own (unless `kafka` is given), service, workers.

    The embedded broker's log dies with it, so it gets an empty store each time: a store that
    remembers offsets of a topic that is gone would wait for records that never come.
    """
    async with _development_broker(app, workers, settings, kafka) as (bootstrap, store):
        local = settings.model_copy(update={"kafka": bootstrap, "store": store})
        working = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for worker in workers:
                tasks.create_task(work(worker, local, stop=working), name=f"worker-{worker.name}")
            try:
                await serve(app, local, stop=stop, ready=ready)
            finally:
                working.set()


@asynccontextmanager
async def _development_broker(
    app: App, workers: Sequence[Worker], settings: Settings, kafka: str | None
) -> AsyncIterator[tuple[str, str]]:
    if kafka is not None:
        yield kafka, settings.store
        return
    topics = {app.completions_topic: settings.completions_partitions, app.dead_letter_topic: 1}
    topics |= {topic: settings.completions_partitions for worker in workers for topic in worker.topics}
    with tempfile.TemporaryDirectory(prefix="awakeables-dev-") as folder:
        async with EmbeddedBroker() as broker:
            for topic, partitions in topics.items():
                await broker.create_topic(topic, partitions=partitions)
            yield broker.bootstrap, str(Path(folder) / "awakeables.db")


def engine_settings(settings: Settings) -> EngineSettings:
    """What of the settings the engine is told."""
    return EngineSettings(
        runner=RunnerSettings(
            linger=settings.linger,
            retry=RetryPolicy(
                initial_interval=settings.retry_initial,
                factor=settings.retry_factor,
                max_interval=settings.retry_max_interval,
                max_attempts=settings.retry_max_attempts,
            ),
            always_suspend=settings.always_suspend,
        ),
        relay=RelaySettings(publish_timeout=settings.publish_timeout),
        max_running=settings.max_running,
        max_backlog=settings.max_backlog,
        horizon=settings.horizon,
        threads=settings.threads,
    )


def _web_settings(settings: Settings) -> WebSettings:
    return WebSettings(
        call_timeout=settings.call_timeout,
        commit_timeout=settings.commit_timeout,
        max_body_bytes=settings.max_body_bytes,
    )


def _store(settings: Settings, clock: SystemClock) -> Store:
    retention_ms = round(settings.retention / timedelta(milliseconds=1))
    if settings.store == MEMORY:
        return MemoryStore(clock=clock, retention_ms=retention_ms)
    return SqliteStore(Path(settings.store), clock=clock, retention_ms=retention_ms)
