"""`doctor`: check everything that the service depends on."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from awakeables.cli.options import AsJson, Config, Kafka, StoreOption, Url, Workers
from awakeables.cli.terminal import print_json, print_line, stdout
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.settings import read_settings
from awakeables.telemetry.logs import configure_logs
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock

_COLOURS = {"ok": "green", "warn": "yellow", "FAULT": "red"}


def doctor(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]",
            help="Also check this app's topics and functions, whether the store is its own, and whether "
            "its code has what the store needs.",
            show_default=False,
        ),
    ] = None,
    worker: Workers = None,
    kafka: Kafka = None,
    store: StoreOption = None,
    url: Url = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Check broker, topics, store, disk, clock and settings. Exits with 1 if there is a fault.

    Talks to Kafka and reads the store directly, so it works while the service is down.
    """
    from awakeables.doctor.examination import examine
    from awakeables.kafka.survey import topics_of

    loaded = read_settings(config, kafka=kafka, store=store, url=url)
    configure_logs(format_=loaded.settings.log_format, level="error")
    roles, served = None, None
    if app is not None:
        workers, served = [load(w, Worker, "worker") for w in worker or []], load(app, App, "app")
        roles = topics_of(served, workers, verdicts=loaded.settings.verdicts)
    findings = asyncio.run(examine(loaded, roles, clock=SystemClock(), app=served))
    if json_:
        print_json(
            msgspec.json.encode([{"subject": f.subject, "level": f.level, "text": f.text} for f in findings])
        )
    else:
        for finding in findings:
            stdout.print(f"[{_COLOURS[finding.level]}]{finding.level:<6}[/]", end="")
            print_line(f"{finding.subject:<9} {finding.text}")
    if any(finding.level == "FAULT" for finding in findings):
        raise typer.Exit(1)
