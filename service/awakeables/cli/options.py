"""Options shared by several commands, and the settings that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from awakeables.core.durations import parse_duration
from awakeables.core.topics import is_task_topic_name
from awakeables.settings import Settings, load_settings
from awakeables.telemetry.logs import configure_logs


def _here_or_before_the_command(context: typer.Context, value: Path | None) -> Path | None:
    """`awakeables --config F serve …` means the same as `awakeables serve … --config F`."""
    return value if value is not None else context.find_root().params.get("config")


def _checked_topics(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if not is_task_topic_name(name):
            raise typer.BadParameter(
                f"{name!r} can't be a task topic: a name has 1 to 245 letters, digits, '.', '_' or '-' "
                "(Kafka allows 249; `.dlq` is added for its dead letters)"
            )
    return names


def checked_duration(text: str | None) -> str | None:
    """Check a duration and return it as written; the service parses it with the same grammar."""
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
        help="A TOML file of settings; AWAKEABLES_CONFIG.",
        show_default=False,
        callback=_here_or_before_the_command,
    ),
]
Url = Annotated[str | None, typer.Option(help="The service's URL; AWAKEABLES_URL.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="All columns and one line per row, whatever the terminal's width.")
]
Kafka = Annotated[
    str | None,
    typer.Option(help="Kafka's bootstrap servers, HOST:PORT[,…]; AWAKEABLES_KAFKA.", show_default=False),
]
Port = Annotated[int | None, typer.Option(help="The HTTP port; AWAKEABLES_PORT.", show_default=False)]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="The SQLite file, or postgresql://user@host/database; AWAKEABLES_STORE.", show_default=False
    ),
]
SpansOption = Annotated[
    bool, typer.Option("--spans", help="Record OpenTelemetry spans; AWAKEABLES_SPANS.", show_default=False)
]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Maximum number of rows.")]
Before = Annotated[
    str | None, typer.Option(metavar="ID", help="Only rows older than this one.", show_default=False)
]
Workers = Annotated[
    list[str] | None,
    typer.Option(
        "--worker",
        metavar="MODULE:WORKER",
        help="Include this worker's task topics and their .dlq topics; repeatable.",
        show_default=False,
    ),
]
TaskTopics = Annotated[
    list[str] | None,
    typer.Option(
        "--task-topic",
        metavar="TOPIC",
        help="Include this task topic and its .dlq topic; repeatable.",
        show_default=False,
        callback=_checked_topics,
    ),
]
AppName = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The app; shop:app is `app` in shop.py.")]


def settings_for(config: Path | None, **flags: object) -> Settings:
    """Load the settings and configure logging accordingly.

    Raises:
        SettingsRefused: A setting is invalid.
    """
    settings = load_settings(config, **flags)
    configure_logs(format_=settings.log_format, level=settings.log_level)
    return settings
