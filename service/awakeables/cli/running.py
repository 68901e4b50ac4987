"""`dev`, `serve`, `worker`: the commands that run until they are told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.options import AppName, Config, Kafka, Port, Store, TaskTopics, settings_for
from awakeables.cli.process import run_until_told
from awakeables.cli.terminal import tell
from awakeables.handlers.sample import sample_input
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.worker.worker import Worker


def dev(
    app: AppName,
    worker: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:WORKER", help="Also run this worker; can be given again."),
    ] = None,
    task_topic: TaskTopics = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Use this Kafka, and keep the store, instead of an embedded broker."
        ),
    ] = None,
    port: Port = None,
    config: Config = None,
) -> None:
    """Try an app: an embedded broker, SQLite, the service and workers in one terminal.

    The broker is librdkafka's mock: real TCP, in memory, for development only. It begins empty
    each time, and so does the store, except with --kafka. It has the topics of the workers; those
    that somebody else reads are named with --task-topic.
    """
    from awakeables.runtime import develop

    settings = settings_for(config, port=port)
    loaded, workers = load(app, App, "app"), [load(w, Worker, "worker") for w in worker or []]

    def ready(url: str) -> None:
        _print_what_to_try(
            loaded, workers, url, embedded=kafka is None, guarded=settings.tokens_file is not None
        )
        if kafka is None and not workers and not task_topic:
            tell(
                "no worker runs here, so there is no task topic either: --worker MODULE:WORKER runs one, "
                "--task-topic NAME makes the topic of one that runs elsewhere"
            )
            tell()

    if kafka is not None and task_topic:
        tell(f"--task-topic is for the embedded broker; on {kafka}: `awakeables topics create {app}` with it")
    run_until_told(
        lambda stop: develop(
            loaded, workers, settings, task_topics=task_topic or (), kafka=kafka, stop=stop, ready=ready
        )
    )


def serve(
    app: AppName,
    kafka: Kafka = None,
    store: Store = None,
    host: Annotated[
        str | None, typer.Option(help="Where HTTP listens; AWAKEABLES_HOST.", show_default=False)
    ] = None,
    port: Port = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Serve other machines without tokens, too; AWAKEABLES_INSECURE."),
    ] = False,
    config: Config = None,
) -> None:
    """Serve an app: HTTP, its handlers, the completions topic. SIGTERM drains."""
    from awakeables.runtime import serve as serve_app

    settings = settings_for(config, kafka=kafka, store=store, host=host, port=port, insecure=insecure or None)
    loaded = load(app, App, "app")
    run_until_told(lambda stop: serve_app(loaded, settings, stop=stop))


def worker(
    worker: Annotated[
        str, typer.Argument(metavar="MODULE:WORKER", help="The worker; shop:packer is `packer` in shop.py.")
    ],
    kafka: Kafka = None,
    config: Config = None,
) -> None:
    """Do a worker's tasks. SIGTERM drains."""
    from awakeables.runtime import work

    settings = settings_for(config, kafka=kafka)
    loaded = load(worker, Worker, "worker")
    run_until_told(lambda stop: work(loaded, settings, stop=stop))


def _print_what_to_try(app: App, workers: list[Worker], url: str, *, embedded: bool, guarded: bool) -> None:
    tell()
    tell(f"{app.name} is served at {url}; what it can do is told at {url}/docs")
    if embedded:
        tell("on an embedded broker: in memory, for development only; it begins empty each time")
    if workers:
        tell("workers: " + ", ".join(f"{w.name} ({', '.join(sorted(w.topics))})" for w in workers))
    token = ' -H "authorization: Bearer $AWAKEABLES_TOKEN"' if guarded else ""
    tell()
    tell("try:")
    for service in app.services.values():
        for handler in service.handlers.values():
            sample = sample_input(handler)
            body = "" if sample is None else f" -H 'content-type: application/json' -d '{sample}'"
            tell(f"  curl {url}/{service.name}/{handler.name}{token}{body} -X POST")
    flag = "" if url.endswith(":8080") else f" --url {url}"
    tell(f"  awakeables list{flag}")
    tell(f"  awakeables resolve{flag} prom_1… VALUE")
    tell()
