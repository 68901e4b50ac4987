"""`doctor`, `settings`: is what the service stands on in order?"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer
from pydantic import SecretStr

from awakeables.cli.options import Config, Json, Kafka, Store, Url, Wide, Workers
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import out, print_json, print_table, say
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.settings import Settings, SourcedSettings, read_settings
from awakeables.telemetry.logs import configure_logs
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock

MASK = "********"
_TABLE = TableLayout(names=("setting", "value", "source", "meaning"), prose="meaning")
_COLOURS = {"ok": "green", "warn": "yellow", "FAULT": "red"}


def doctor(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]",
            help="Look at its topics, and whether the store is its own, too.",
            show_default=False,
        ),
    ] = None,
    worker: Workers = None,
    kafka: Kafka = None,
    store: Store = None,
    url: Url = None,
    json_: Json = False,
    config: Config = None,
) -> None:
    """Look at broker, topics, store, clock, disk and settings. Exits with 1 on a fault.

    It asks Kafka and reads the store itself: it is needed when the service is down.
    """
    from awakeables.doctor.examination import examine
    from awakeables.kafka.survey import topics_of

    loaded = read_settings(config, kafka=kafka, store=store, url=url)
    configure_logs(format_=loaded.settings.log_format, level="error")
    roles, name = None, ""
    if app is not None:
        workers, served = [load(w, Worker, "worker") for w in worker or []], load(app, App, "app")
        roles, name = topics_of(served, workers, verdicts=loaded.settings.verdicts), served.name
    findings = asyncio.run(examine(loaded, roles, clock=SystemClock(), app=name))
    if json_:
        print_json(
            msgspec.json.encode([{"subject": f.subject, "level": f.level, "text": f.text} for f in findings])
        )
    else:
        for finding in findings:
            out.print(f"[{_COLOURS[finding.level]}]{finding.level:<6}[/]", end="")
            say(f"{finding.subject:<9} {finding.text}")
    if any(finding.level == "FAULT" for finding in findings):
        raise typer.Exit(1)


def settings(wide: Wide = False, json_: Json = False, config: Config = None) -> None:
    """Show every setting, its value and where it comes from; secrets are masked."""
    loaded = read_settings(config)
    rows = [
        {
            "setting": name,
            "value": _shown(loaded, name),
            "source": str(loaded.sources[name]),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if json_:
        print_json(msgspec.json.encode(rows))
    else:
        print_table(_TABLE, rows, none="", wide=wide)


def _shown(loaded: SourcedSettings, name: str) -> object:
    """The value as a file or a variable would have it; of a secret, that there is one."""
    value = getattr(loaded.settings, name)
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    plain = loaded.settings.model_dump(mode="json", include={name})[name]
    return str(plain).lower() if isinstance(plain, bool) else plain
