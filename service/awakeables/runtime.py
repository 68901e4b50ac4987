"""The composition root: the only module that knows every adapter."""

from __future__ import annotations

import asyncio
import logging
import math
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import ProcessCollector

from awakeables import __version__
from awakeables.api import Api
from awakeables.core.ids import Ids
from awakeables.credentials import security_of, signer_of
from awakeables.devbroker import EmbeddedBroker
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.member import MemberSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.readtopic import FoldingSettings, ReadTopic
from awakeables.engine.retention import RetentionSettings
from awakeables.engine.rowgauges import RowGauges, show_readiness
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import OperatorError
from awakeables.extras import extra
from awakeables.forks import close_in_children
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.partitions import ReadingSettings
from awakeables.kafka.producer import Producer
from awakeables.kafka.publisher import KafkaPublisher
from awakeables.kafka.topicconsumer import TopicConsumer
from awakeables.kafka.topicoffsets import KafkaOffsets
from awakeables.kafka.topicwatch import TopicWatch
from awakeables.kafka.worker import WorkerRunner, WorkerSettings
from awakeables.ports import Audit, Clock, Store
from awakeables.remote.attempts import RemoteAttempts
from awakeables.remote.client import FunctionClient
from awakeables.remote.functions import Functions
from awakeables.remote.transport import AiohttpTransport
from awakeables.settings import Settings, SettingsRefused
from awakeables.store.memory import MemoryStore
from awakeables.store.rekeying import Rekeyed
from awakeables.store.sqlite.audit import SqliteAudit
from awakeables.store.sqlite.store import SqliteStore
from awakeables.store.urls import is_postgres, shown_store
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics, WorkerMetrics
from awakeables.telemetry.server import served
from awakeables.telemetry.stalls import Stalls
from awakeables.web.app import WebSettings, create_app
from awakeables.web.bodies import UNCOUNTED_BYTES
from awakeables.web.framing import host_name
from awakeables.web.server import WebServer, is_exposed
from awakeables.web.settings import ConnectionLimits
from awakeables.web.tokens import Tokens
from awakeables.worker.deadletters import dead_letter_topic
from awakeables.worker.loop import LoopSettings
from awakeables.worker.replies import ReplyTopics
from awakeables.worker.worker import Worker
from awakeables.world import FollowingClock, SystemClock, SystemEntropy

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)

MEMORY = "memory:"
PLAIN = {
    name: field.get_default() for name, field in Settings.model_fields.items() if name.startswith("kafka_")
}
"""The embedded broker supports neither TLS nor users."""

OnReady = Callable[[str], None]


async def serve(
    app: App,
    settings: Settings,
    *,
    stop: asyncio.Event,
    ready: OnReady | None = None,
    embedded: bool = False,
) -> None:
    """Serve an app until `stop` is set, then drain.

    Args:
        app: The app to serve.
        settings: The settings.
        stop: Set it to drain and return.
        ready: Called with the service's URL once HTTP is served.
        embedded: Whether Kafka is the embedded broker of `develop`.

    Raises:
        OperatorError: It can't start: a setting is invalid, the port is in use, or the store is locked, too
            new or another app's; or something is not installed that the settings need.
    """
    system, entropy = SystemClock(), SystemEntropy()
    following = FollowingClock(system) if is_postgres(settings.store) else None
    clock: Clock = following or system
    connection = replace(connection_of(settings, f"awakeables-{app.name}"), embedded=embedded)
    exposed = is_exposed(settings.host)
    if exposed and settings.tokens_file is None:
        _accept_exposure(
            settings.host,
            settings,
            "set AWAKEABLES_TOKENS_FILE (docs/security.md), or listen on 127.0.0.1",
        )
    async with AsyncExitStack() as stack:
        store = _store(app, settings, clock)
        await store.open()
        stack.push_async_callback(store.close)
        metrics = Metrics()
        functions = Functions(app, FunctionClient(system, AiohttpTransport(), signer_of(settings)), metrics)
        stack.push_async_callback(functions.close)
        if not await _learned(functions, stop):
            return
        producer = await stack.enter_async_context(Producer(connection, clock).running())
        publisher = KafkaPublisher(producer, connection)
        engine = Engine(
            app,
            store,
            publisher,
            clock=clock,
            entropy=entropy,
            settings=engine_settings(settings),
            build=settings.build or __version__,
            metrics=metrics,
            on_time=None if following is None else following.follow,
            handlers=partial(RemoteAttempts, functions),
            offsets=KafkaOffsets(connection),
            spans=_spans(settings),
        )
        close_in_children(engine.ids, Ids.forget_entropy)

        def consumer_of(topic: ReadTopic, group: str) -> TopicConsumer:
            return TopicConsumer(
                connection,
                topic,
                group=group,
                clock=clock,
                problems=engine.problems,
                grouped=store.membership.shared,
                settings=ReadingSettings(max_unpacked_bytes=settings.max_unpacked_bytes),
            )

        consumers = {"completions": consumer_of(engine.completions, app.name)}
        for name, topic in engine.subscriptions.topics.items():
            consumers[f"subscription {name}"] = consumer_of(topic, f"{app.name}:{name}")
        api = Api(engine, functions)
        web = create_app(
            api,
            settings=_web_settings(settings, exposed=exposed),
            entropy=entropy,
            metrics=engine.metrics,
            tokens=_tokens(settings, clock, engine.problems),
        )
        server = WebServer(
            web,
            host=settings.host,
            port=settings.port,
            grace=settings.drain_timeout,
            limits=_connection_limits(settings),
            refuse=web.refuse,
        )
        destinations = TopicWatch(connection, _published_to(app, settings), problems=engine.problems)
        background = _telemetry(engine, api, settings, clock)
        background["functions"] = partial(functions.run, engine.problems)
        await _run(engine, consumers, destinations, server, background, settings, stop=stop, ready=ready)


async def _learned(functions: Functions, stop: asyncio.Event) -> bool:
    """Ask the functions what they have; False: it is to stop meanwhile."""
    learning, stopping = asyncio.ensure_future(functions.learn_all()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({learning, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not learning.done():
            return False
        await learning
        return True
    finally:
        learning.cancel()
        stopping.cancel()
        await asyncio.wait({learning, stopping})


def _published_to(app: App, settings: Settings) -> dict[str, str]:
    """The topics that the service itself publishes to, by their names on the readiness board."""
    topics = {"dead-letter topic": app.dead_letter_topic}
    return topics | {"verdicts topic": app.verdicts_topic} if settings.verdicts else topics


async def _run(
    engine: Engine,
    consumers: Mapping[str, TopicConsumer],
    destinations: TopicWatch,
    server: WebServer,
    others: Mapping[str, Callable[[], Coroutine[Any, Any, None]]],
    settings: Settings,
    *,
    stop: asyncio.Event,
    ready: OnReady | None,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(engine.run(), name="engine")
        await engine.serving.wait()
        background = [tasks.create_task(run(), name=name) for name, run in others.items()]
        reading = [tasks.create_task(each.run(), name=name) for name, each in consumers.items()]
        watching = tasks.create_task(destinations.run(), name="destinations")
        web = tasks.create_task(server.run(), name="web")
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        store = shown_store(settings.store)
        log.info(events.STARTED, app=engine.app.name, url=server.url, kafka=settings.kafka, store=store)
        if ready is not None:
            ready(server.url)
        await stop.wait()
        log.info(events.DRAINING, app=engine.app.name)
        server.stop()
        await engine.drain(settings.drain_timeout)
        await web
        for task in (watching, *reading, serving, *background):
            task.cancel()
    log.info(events.STOPPED, app=engine.app.name)


def _telemetry(
    engine: Engine, api: Api, settings: Settings, clock: Clock
) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    """Set up metrics; return the background tasks that update them, by name."""
    metrics = engine.metrics
    metrics.serves_app(api.app.name, version=__version__, python=platform.python_version())
    show_readiness(metrics, engine.problems, api.readiness)
    if settings.store != MEMORY and not is_postgres(settings.store):
        folder = Path(settings.store).parent
        metrics.disk_free_bytes.set_function(lambda: _space(folder)[0])
        metrics.disk_bytes.set_function(lambda: _space(folder)[1])
    ProcessCollector(registry=metrics.registry)
    stalls = Stalls(metrics.loop_stalls, monotonic=clock.monotonic, threshold=settings.stall_threshold)
    gauges = RowGauges(api.counts, metrics, clock=clock, objects=[each.name for each in api.app.objects])
    return {"row-gauges": gauges.run, "stalls": stalls.run}


def _space(folder: Path) -> tuple[float, float]:
    """Free and total bytes of a file system; NaN if it is gone, so that the other metrics are served."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return math.nan, math.nan
    return usage.free, usage.total


async def work(worker: Worker, settings: Settings, *, stop: asyncio.Event, embedded: bool = False) -> None:
    """Run a worker until `stop` is set, then drain.

    Raises:
        SettingsRefused: Kafka's settings contradict each other.
        OperatorError: The metrics port can't be bound, or would be open to other machines.
        MissingDependency: Spans are on, and OpenTelemetry is not installed.
    """
    connection = replace(connection_of(settings, f"awakeables-worker-{worker.name}"), embedded=embedded)
    clock, metrics = SystemClock(), WorkerMetrics()
    ProcessCollector(registry=metrics.registry)
    loop = LoopSettings(reply_topics=ReplyTopics(settings.worker_reply_topics))
    worker_settings = WorkerSettings(loop=loop, max_unpacked_bytes=settings.max_unpacked_bytes)
    runner = WorkerRunner(
        worker, connection, clock=clock, settings=worker_settings, metrics=metrics, spans=_spans(settings)
    )
    stalls = Stalls(metrics.loop_stalls, monotonic=clock.monotonic, threshold=settings.stall_threshold)
    async with AsyncExitStack() as stack:
        if settings.metrics_port is not None:
            if is_exposed(settings.metrics_host):
                _accept_exposure(settings.metrics_host, settings, "listen on 127.0.0.1")
            stack.enter_context(
                served(
                    metrics.registry, runner.problems, port=settings.metrics_port, host=settings.metrics_host
                )
            )
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(stalls.run(), name="stalls")
            await runner.run(stop)
            watching.cancel()


async def develop(
    app: App,
    workers: Sequence[Worker],
    settings: Settings,
    *,
    task_topics: Sequence[str] = (),
    kafka: str | None,
    stop: asyncio.Event,
    ready: OnReady | None = None,
) -> None:
    """Run an embedded broker (unless `kafka` is given), the service and workers in one process.

    The broker has the topics of app and workers, and `task_topics`, which other consumers read. Its
    records are lost when it exits, so the store starts empty each time: a store with offsets of a lost
    topic would wait for records that never come.
    """
    async with _development_broker(app, workers, settings, task_topics, kafka) as (bootstrap, store):
        # The service's own `/metrics` is enough, and several workers can't share the port.
        local = settings.model_copy(update={"kafka": bootstrap, "store": store, "metrics_port": None})
        if kafka is None:
            local = local.model_copy(update=PLAIN)
        if "log_invocations" not in settings.model_fields_set:
            # In development, it helps to see what the app does.
            local = local.model_copy(update={"log_invocations": "info"})
        working = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for worker in workers:
                doing = work(worker, local, stop=working, embedded=kafka is None)
                tasks.create_task(doing, name=f"worker-{worker.name}")
            try:
                await serve(app, local, stop=stop, ready=ready, embedded=kafka is None)
            finally:
                working.set()


@asynccontextmanager
async def _development_broker(
    app: App,
    workers: Sequence[Worker],
    settings: Settings,
    task_topics: Sequence[str],
    kafka: str | None,
) -> AsyncIterator[tuple[str, str]]:
    if kafka is not None:
        yield kafka, settings.store
        return
    tasks = [*task_topics, *(topic for worker in workers for topic in worker.topics)]
    subscribed = [each.subscription.topic for each in app.subscribed().values() if each.subscription]
    named = [app.completions_topic, *tasks, *subscribed, *([app.verdicts_topic] if settings.verdicts else [])]
    letters = [app.dead_letter_topic, app.revocations_topic, *map(dead_letter_topic, tasks)]
    topics = dict.fromkeys(letters, 1) | dict.fromkeys(named, settings.completions_partitions)
    with tempfile.TemporaryDirectory(prefix="awakeables-dev-") as folder:
        async with EmbeddedBroker() as broker:
            for topic, partitions in topics.items():
                await broker.create_topic(topic, partitions=partitions)
            yield broker.bootstrap, str(Path(folder) / "awakeables.db")


def connection_of(settings: Settings, client_id: str) -> KafkaConnection:
    """The connection to Kafka; `client_id` appears in the brokers' logs.

    Raises:
        SettingsRefused: Kafka's settings contradict each other, or one of their files is invalid.
    """
    return KafkaConnection(bootstrap=settings.kafka, client_id=client_id, security=security_of(settings))


def engine_settings(settings: Settings) -> EngineSettings:
    """The engine's part of the settings."""
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
            max_actions=settings.max_actions,
        ),
        member=MemberSettings(timeout=settings.instance_timeout),
        relay=RelaySettings(publish_timeout=settings.publish_timeout),
        max_running=settings.max_running,
        max_backlog=settings.max_backlog,
        horizon=settings.horizon,
        threads=settings.threads,
        max_journal_entries=settings.max_journal_entries,
        retention=RetentionSettings(
            ended=settings.retention,
            dead_letters=settings.dead_letter_retention,
            interval=settings.purge_interval,
        ),
        folding=FoldingSettings(
            letters=settings.dead_letters_per_minute,
            bytes=settings.dead_letter_bytes_per_minute,
            verdicts=settings.verdicts_per_minute,
        ),
        verdicts=settings.verdicts,
        log_invocations=logging.getLevelNamesMapping()[settings.log_invocations.upper()],
    )


def _tokens(settings: Settings, clock: Clock, problems: MutableMapping[str, str]) -> Tokens | None:
    if settings.tokens_file is None:
        return None
    return Tokens(settings.tokens_file, clock=clock, problems=problems)


def _accept_exposure(host: str, settings: Settings, instead: str) -> None:
    """Check that serving the network without tokens is allowed, and log it.

    Raises:
        OperatorError: `insecure` is not set; the message says what to do `instead`.
    """
    if not settings.insecure:
        raise OperatorError(
            f"{host} can be reached from other machines, and no token would be required: {instead}, or, "
            "if something else protects the port, set AWAKEABLES_INSECURE=1"
        )
    log.warning(events.UNGUARDED, host=host)


def _connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        request_timeout=settings.request_timeout,
        max_connections=settings.max_connections,
        max_header_bytes=settings.max_header_bytes,
    )


def _web_settings(settings: Settings, *, exposed: bool) -> WebSettings:
    named = frozenset(_host_named(name.strip()) for name in settings.allowed_hosts.split(",") if name.strip())
    # DNS rebinding: without tokens on loopback, a web page could point its own name at our address and
    # get in through the visitor's browser. Elsewhere, names are checked if some are given.
    anybody = settings.tokens_file is not None or (exposed and not named)
    return WebSettings(
        exposed=exposed,
        hosts=None if anybody else named | {settings.host},
        call_timeout=settings.call_timeout,
        commit_timeout=settings.commit_timeout,
        # A body that could never fit in memory is too large (413); retrying would not help.
        max_body_bytes=min(settings.max_body_bytes, max(settings.max_bodies_bytes, UNCOUNTED_BYTES)),
        max_bodies_bytes=settings.max_bodies_bytes,
        max_json_values=settings.max_json_values,
    )


def _host_named(text: str) -> str:
    """The host name without its port, as the guard compares it."""
    name = host_name(text) or host_name(f"[{text}]")
    if name is None:
        raise SettingsRefused(
            f"AWAKEABLES_ALLOWED_HOSTS: {text!r} is not a host name such as shop.example.com"
        )
    return name


def _store(app: App, settings: Settings, clock: Clock) -> Store:
    retention_ms = round(settings.retention / timedelta(milliseconds=1))
    if settings.store == MEMORY:
        return MemoryStore(clock=clock, retention_ms=retention_ms)
    if is_postgres(settings.store):
        return _postgres_store(settings.store, app, retention_ms)
    return SqliteStore(
        Path(settings.store), clock=clock, retention_ms=retention_ms, app=app.name, codec=app.codec
    )


def _postgres_store(url: str, app: App, retention_ms: int) -> Store:
    """Make a store in PostgreSQL.

    Raises:
        MissingDependency: The driver is not installed.
    """
    with extra("postgres", "a store in PostgreSQL needs"):
        from awakeables.store.postgres.store import PostgresStore
    return PostgresStore(url, retention_ms=retention_ms, app=app.name, codec=app.codec)


async def rekeyed(store: str, app: App, *, clear: bool) -> Rekeyed:
    """Seal the values of a store again with the current key of the app's codec, or store them in clear.

    Raises:
        OperatorError: There is no such store, it is in use, or it is in the memory of another process.
        MissingDependency: PostgreSQL's driver is not installed.
    """
    assert app.codec is not None
    if store == MEMORY:
        raise OperatorError("the store is in the memory of the service: nothing of it is at rest")
    if not is_postgres(store):
        from awakeables.store.sqlite.rekeying import rekey as rekey_file

        return await asyncio.to_thread(rekey_file, Path(store), app=app.name, codec=app.codec, clear=clear)
    with extra("postgres", "a store in PostgreSQL needs"):
        from awakeables.store.postgres.rekeying import rekey
    return await rekey(store, app=app.name, codec=app.codec, clear=clear)


def _spans(settings: Settings) -> Spans | None:
    """What begins the spans of this process; None: they are off, and OpenTelemetry is not imported.

    Raises:
        MissingDependency: They are on, and OpenTelemetry is not installed.
    """
    if not settings.spans:
        return None
    with extra("otel", "AWAKEABLES_SPANS needs"):
        from awakeables.telemetry.spans import Spans
    spans = Spans(version=__version__)
    if not spans.has_provider:
        log.warning(
            events.NO_TRACER_PROVIDER,
            todo="set up a tracer provider in the app's module, or start with `opentelemetry-instrument`",
        )
    return spans


def audit_of(settings: Settings, app: App | None, clock: SystemClock) -> Audit:
    """What reads the whole store of these settings, also while a service has it open.

    Args:
        settings: Where the store is.
        app: The app that it must belong to, and whose codec opens what is sealed; None: any.
        clock: This machine's clock.

    Raises:
        OperatorError: The store is in the memory of another process.
        MissingDependency: PostgreSQL's driver is not installed.
    """
    if settings.store == MEMORY:
        raise OperatorError("the store is in the memory of the service: there is nothing to read")
    name, codec = ("", None) if app is None else (app.name, app.codec)
    if not is_postgres(settings.store):
        return SqliteAudit(Path(settings.store), clock=clock, app=name, codec=codec)
    with extra("postgres", "a store in PostgreSQL needs"):
        from awakeables.store.postgres.audit import PostgresAudit
    return PostgresAudit(settings.store, app=name, codec=codec)
