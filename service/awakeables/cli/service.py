"""`dev`, `serve`, `worker`: the commands that run until a signal."""

from __future__ import annotations

from typing import Annotated

import typer

from awakeables.cli.options import (
    AppName,
    Config,
    Kafka,
    Port,
    SpansOption,
    StoreOption,
    TaskTopics,
    settings_for,
)
from awakeables.cli.process import run_until_signalled
from awakeables.cli.terminal import print_note
from awakeables.handlers.sample import sample_input
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.worker.worker import Worker


def dev(
    app: AppName,
    worker: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:WORKER", help="Also run this worker; repeatable.", show_default=False),
    ] = None,
    task_topic: TaskTopics = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Use this Kafka instead of an embedded broker, and keep the store.",
            show_default=False,
        ),
    ] = None,
    port: Port = None,
    config: Config = None,
) -> None:
    """Try an app: an embedded broker, SQLite, the service and workers in one terminal.

    The broker is librdkafka's mock: real TCP, in memory, for development only. Broker and store
    start empty each time, unless you use --kafka. The workers' topics are created; name those that
    other consumers read with --task-topic.
    """
    from awakeables.runtime import develop

    settings = settings_for(config, port=port)
    loaded, workers = load(app, App, "app"), [load(w, Worker, "worker") for w in worker or []]

    def ready(url: str) -> None:
        _print_examples(
            loaded, workers, url, embedded=kafka is None, guarded=settings.tokens_file is not None
        )
        if kafka is None and not workers and not task_topic:
            print_note(
                "no worker runs here, so no task topic exists: --worker MODULE:WORKER runs a worker, "
                "--task-topic NAME creates the topic of a worker that runs elsewhere"
            )
            print_note()

    if kafka is not None and task_topic:
        print_note(
            f"--task-topic is for the embedded broker; on {kafka}, create the topics with "
            f"`awakeables topics create {app} --task-topic …`"
        )
    run_until_signalled(
        lambda stop: develop(
            loaded, workers, settings, task_topics=task_topic or (), kafka=kafka, stop=stop, ready=ready
        )
    )


def serve(
    app: AppName,
    kafka: Kafka = None,
    store: StoreOption = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address that HTTP listens on; AWAKEABLES_HOST.", show_default=False),
    ] = None,
    port: Port = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Serve other machines without tokens; AWAKEABLES_INSECURE."),
    ] = False,
    spans: SpansOption = False,
    config: Config = None,
) -> None:
    """Serve an app: HTTP, its handlers and its completions topic. SIGTERM drains and stops."""
    from awakeables.runtime import serve as serve_app

    settings = settings_for(
        config,
        kafka=kafka,
        store=store,
        host=host,
        port=port,
        insecure=insecure or None,
        spans=spans or None,
    )
    loaded = load(app, App, "app")
    run_until_signalled(lambda stop: serve_app(loaded, settings, stop=stop))


def worker(
    worker: Annotated[
        str, typer.Argument(metavar="MODULE:WORKER", help="The worker; shop:packer is `packer` in shop.py.")
    ],
    kafka: Kafka = None,
    spans: SpansOption = False,
    config: Config = None,
) -> None:
    """Run a worker. SIGTERM drains and stops."""
    from awakeables.runtime import work

    settings = settings_for(config, kafka=kafka, spans=spans or None)
    loaded = load(worker, Worker, "worker")
    run_until_signalled(lambda stop: work(loaded, settings, stop=stop))


def _print_examples(app: App, workers: list[Worker], url: str, *, embedded: bool, guarded: bool) -> None:
    print_note()
    print_note(f"{app.name} is served at {url}; its API is documented at {url}/docs")
    if embedded:
        print_note("on an embedded broker: in memory, for development only; it starts empty each time")
    if workers:
        print_note("workers: " + ", ".join(f"{w.name} ({', '.join(sorted(w.topics))})" for w in workers))
    token = ' -H "authorization: Bearer $AWAKEABLES_TOKEN"' if guarded else ""
    print_note()
    print_note("try:")
    for service in app.services.values():
        for handler in (each for each in service.handlers.values() if not each.private):
            sample = sample_input(handler)
            body = "" if sample is None else f" -H 'content-type: application/json' -d '{sample}'"
            path = "/".join([service.name, *(["k-1"] if handler.keyed else []), handler.name])
            print_note(f"  curl {url}/{path}{token}{body} -X POST")
    flag = "" if url.endswith(":8080") else f" --url {url}"
    print_note(f"  awakeables list{flag}")
    print_note(f"  awakeables resolve{flag} prom_1… VALUE")
    print_note()
