"""The options that several commands take, and the settings that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from awakeables.core.durations import parse_duration
from awakeables.core.topics import is_task_topic_name
from awakeables.settings import Settings, load_settings
from awakeables.telemetry.logs import configure_logs


def _here_or_before_the_command(context: typer.Context, value: Path | None) -> Path | None:
    """`awakeables --config F serve …` says the same as `awakeables serve … --config F`."""
    return value if value is not None else context.find_root().params.get("config")


def _topics_names(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if not is_task_topic_name(name):
            raise typer.BadParameter(
                f"no topic can be called {name!r} and have one for its dead letters, `.dlq`: 1 to 245 "
                "letters, digits, '.', '_' and '-'"
            )
    return names


def checked_duration(text: str | None) -> str | None:
    """A duration as it was written, which the service reads in the same way."""
    try:
        if text is not None:
            parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Settings, as TOML; AWAKEABLES_CONFIG.",
        show_default=False,
        callback=_here_or_before_the_command,
    ),
]
Url = Annotated[str | None, typer.Option(help="The service; AWAKEABLES_URL.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="All columns, one line per row, however wide the terminal is.")
]
Kafka = Annotated[
    str | None, typer.Option(help="Kafka, HOST:PORT[,…]; AWAKEABLES_KAFKA.", show_default=False)
]
Port = Annotated[int | None, typer.Option(help="HTTP's port; AWAKEABLES_PORT.", show_default=False)]
Store = Annotated[str | None, typer.Option(help="The SQLite file; AWAKEABLES_STORE.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, max=500, help="So many at most.")]
Before = Annotated[str | None, typer.Option(metavar="ID", help="Older than this one.", show_default=False)]
Workers = Annotated[
    list[str] | None,
    typer.Option(
        "--worker",
        metavar="MODULE:WORKER",
        help="Also this worker's task topics, each with its .dlq; can be given again.",
        show_default=False,
    ),
]
TaskTopics = Annotated[
    list[str] | None,
    typer.Option(
        "--task-topic",
        metavar="TOPIC",
        help="Also this task topic and its .dlq; can be given again.",
        show_default=False,
        callback=_topics_names,
    ),
]
AppName = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The app; shop:app is `app` in shop.py.")]


def settings_for(config: Path | None, **flags: object) -> Settings:
    """The settings of a process that logs.

    Raises:
        SettingsRefused: One of them can't be.
    """
    settings = load_settings(config, **flags)
    configure_logs(format_=settings.log_format, level=settings.log_level)
    return settings
