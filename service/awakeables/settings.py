"""Every setting, with its meaning and default: the only reader of the environment.

A setting comes from its `AWAKEABLES_…` variable or, before that, from a flag of the CLI.
Durations are seconds or ISO 8601 (`30`, `PT15M`).
"""

from __future__ import annotations

import difflib
import os
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from awakeables.errors import OperatorError

PREFIX = "AWAKEABLES_"


def _seconds(text: object) -> object:
    """`30` and `0.5` are seconds; the rest is pydantic's to read."""
    try:
        return timedelta(seconds=float(text)) if isinstance(text, str) else text
    except ValueError:
        return text


Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class SettingsRefused(OperatorError):
    """A setting that is misspelled or can't be what it is."""


class Settings(BaseSettings):
    """How the service runs. Field names are the variables' names without the prefix."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    kafka: str = Field("127.0.0.1:9092", description="Kafka's bootstrap servers, host:port[,host:port…].")
    store: str = Field("awakeables.db", description="The SQLite file, or `memory:` for a store that forgets.")
    host: str = Field("127.0.0.1", description="Where HTTP listens.")
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    url: str = Field("http://127.0.0.1:8080", description="The service that the CLI's commands talk to.")

    linger: Duration = Field(
        timedelta(seconds=1), description="How long a waiting handler stays in memory before it is suspended."
    )
    always_suspend: bool = Field(False, description="Suspend at every await: a test mode.")
    retry_initial: Duration = Field(
        timedelta(milliseconds=500), description="Pause after the first failed attempt."
    )
    retry_factor: Annotated[float, Field(ge=1)] = 2.0
    retry_max_interval: Duration = Field(timedelta(seconds=60), description="Longest pause between attempts.")
    retry_max_attempts: Annotated[int, Field(ge=1)] = 70
    max_running: Annotated[int, Field(ge=1)] = 1000
    max_backlog: Annotated[int, Field(ge=0)] = 10_000
    threads: Annotated[int, Field(ge=1)] = 16

    publish_timeout: Duration = Field(
        timedelta(seconds=60),
        description="A topic that is missing for this long is taken for one that never comes.",
    )
    horizon: Duration = Field(
        timedelta(minutes=15),
        description="How long deadlines are held back at most while completions can't be read.",
    )
    retention: Duration = Field(
        timedelta(days=7), description="An ID older than this without a row counts as purged."
    )
    completions_partitions: Annotated[int, Field(ge=1)] = 4

    call_timeout: Duration = Field(timedelta(seconds=60), description="How long an HTTP call waits at most.")
    commit_timeout: Duration = Field(timedelta(seconds=10), description="How long HTTP waits for the store.")
    max_body_bytes: Annotated[int, Field(ge=1)] = 32 * 1024 * 1024
    drain_timeout: Duration = Field(timedelta(seconds=30), description="What SIGTERM leaves for finishing.")

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_settings(**flags: object) -> Settings:
    """Read the environment; flags that are not None win over it.

    Raises:
        SettingsRefused: A variable of our prefix that is no setting (with the nearest name), or
            a value that can't be.
    """
    known = set(Settings.model_fields)
    for variable in os.environ:  # noqa: TID251 - the one place
        if variable.upper().startswith(PREFIX):
            name = variable[len(PREFIX) :].lower()
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
                raise SettingsRefused(f"{variable} is no setting{hint}")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{'.'.join(map(str, p['loc'])).upper()}: {p['msg']}" for p in error.errors()
        )
        raise SettingsRefused(problems) from None
