"""Every setting, with its meaning and default: the only reader of the environment.

A setting comes from a flag of the CLI, else from its `AWAKEABLES_…` variable, else from a TOML
file (`--config` or `AWAKEABLES_CONFIG`), else it has its default. `core/durations.py`
has the forms of durations.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

from awakeables.core.bounds import MAX_JSON_VALUES, MAX_UNPACKED_BYTES
from awakeables.core.durations import FORMS, parse_duration
from awakeables.core.texts import excerpt
from awakeables.errors import OperatorError
from awakeables.worker.replies import COMPLETIONS, ReplyTopics

PREFIX = "AWAKEABLES_"
CONFIG = "config"
"""`AWAKEABLES_CONFIG` names the file; it is no setting itself."""


def _duration(value: object) -> object:
    """Numbers, which TOML has, are seconds."""
    if isinstance(value, float):
        value = f"{value:f}"
    return parse_duration(str(value).strip()) if isinstance(value, str | int) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]


def _none_if_empty(value: object) -> object:
    """An empty variable, as compose files leave it, is none."""
    return None if value == "" else value


NoneIfEmpty = BeforeValidator(_none_if_empty)


def _brokers(text: str) -> str:
    """Addresses are shown in logs: one with a user and a password in it must not get so far."""
    for broker in text.split(","):
        host, colon, port = broker.strip().rpartition(":")
        incomplete = not port or (colon and not host)
        if incomplete or "@" in broker or "/" in broker or (host and not port.isdecimal()):
            raise ValueError("not host:port[,host:port…]; credentials have settings of their own")
        if host and not 0 < int(port[:6]) < 65_536:
            raise ValueError(f"there is no port {excerpt(port)}")
    return text


def _reply_topics(text: str) -> str:
    ReplyTopics(text)
    return text


class SettingsRefused(OperatorError):
    """A setting that is misspelled or can't be what it is."""


class Settings(BaseSettings):
    """How the service runs. Field names are the variables' names without the prefix."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    kafka: Annotated[str, AfterValidator(_brokers)] = Field(
        "127.0.0.1:9092", description="Kafka's bootstrap servers, host:port[,host:port…]."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="What Kafka's port speaks; SASL_PLAINTEXT sends credentials unencrypted."
    )
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, NoneIfEmpty
    ] = Field(None, description="How we prove to Kafka who we are; with SASL.")
    kafka_sasl_username: Annotated[str | None, NoneIfEmpty] = Field(
        None, description="Who we are to Kafka; with SASL."
    )
    kafka_sasl_password: Annotated[SecretStr | None, NoneIfEmpty] = Field(
        None, description="The password of that user."
    )
    kafka_ssl_ca: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="Whose certificates of brokers we trust, PEM; the system's authorities if not set."
    )
    kafka_ssl_cert: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="Our own certificate, PEM, for brokers that want one (mTLS)."
    )
    kafka_ssl_key: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="The private key of our certificate, PEM."
    )
    kafka_ssl_key_password: Annotated[SecretStr | None, NoneIfEmpty] = Field(
        None, description="What opens that key, if it is encrypted."
    )
    store: str = Field("awakeables.db", description="The SQLite file, or `memory:` for a store that forgets.")
    host: str = Field("127.0.0.1", description="Where HTTP listens.")
    port: int = Field(8080, ge=0, le=65535, description="HTTP's port; 0 takes a free one.")
    tokens_file: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="Who may use HTTP (docs/security.md); without it, everybody who can reach it."
    )
    insecure: bool = Field(False, description="Serve beyond this machine without a tokens file, too.")
    allowed_hosts: str = Field(
        "", description="More host names that HTTP answers to without a tokens file, name[,name…]."
    )
    url: str = Field("http://127.0.0.1:8080", description="The service that the CLI's commands talk to.")
    token: Annotated[SecretStr | None, NoneIfEmpty] = Field(
        None, description="The bearer token that the CLI's commands send."
    )

    linger: Duration = Field(
        timedelta(seconds=1), description="How long a waiting handler stays in memory before it is suspended."
    )
    always_suspend: bool = Field(False, description="Suspend at every await: a test mode.")
    retry_initial: Duration = Field(
        timedelta(milliseconds=500), description="Pause after the first failed attempt."
    )
    retry_factor: float = Field(
        2.0, ge=1, allow_inf_nan=False, description="By how much each pause is longer than the last."
    )
    retry_max_interval: Duration = Field(timedelta(seconds=60), description="Longest pause between attempts.")
    retry_max_attempts: int = Field(70, ge=1, description="After so many failures an invocation is paused.")
    max_running: int = Field(1000, ge=1, description="How many handlers run at once; the rest wait as rows.")
    max_backlog: int = Field(
        10_000, ge=0, description="How many calls may wait for a place; more are answered 503."
    )
    threads: int = Field(16, ge=1, description="Threads for actions of `ctx.run` that are not async.")

    publish_timeout: Duration = Field(
        timedelta(seconds=60),
        description="A topic that is missing for this long is taken for one that never comes.",
    )
    horizon: Duration = Field(
        timedelta(minutes=15),
        description="How long deadlines are held back at most while completions can't be read.",
    )
    retention: Duration = Field(
        timedelta(days=7),
        ge=timedelta(0),
        description="How long what has ended is kept; an older ID without a row is answered late.",
    )
    dead_letter_retention: Duration = Field(
        timedelta(days=30),
        ge=timedelta(0),
        description="How long dead letters and records that Kafka refused are kept.",
    )
    dead_letters_per_minute: int = Field(
        1000,
        ge=1,
        description="How many dead letters of a partition are kept in a minute; the others are only counted.",
    )
    dead_letter_bytes_per_minute: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="How many bytes these may have; a dead letter that does not fit is only counted.",
    )
    max_unpacked_bytes: int = Field(
        MAX_UNPACKED_BYTES,
        ge=1024 * 1024,
        description="A batch of completions or tasks that unpacks to more is left out, as one dead letter.",
    )
    purge_interval: Duration = Field(
        timedelta(minutes=1), gt=timedelta(0), description="How often it is looked for what may be forgotten."
    )
    verdicts: bool = Field(False, description="Publish what became of each completion to `<app>.verdicts`.")
    verdicts_per_minute: int = Field(
        1000,
        ge=0,
        description="How many verdicts of a partition that settle nothing are published in a minute.",
    )
    max_journal_entries: int = Field(
        100_000, ge=10, description="An invocation whose journal is this long is paused."
    )
    completions_partitions: int = Field(4, ge=1, description="Partitions of the topics that `dev` makes.")

    call_timeout: Duration = Field(timedelta(seconds=60), description="How long an HTTP call waits at most.")
    commit_timeout: Duration = Field(
        timedelta(seconds=10), gt=timedelta(0), description="How long HTTP waits for the store."
    )
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1, description="A longer body is answered 413.")
    max_bodies_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="All bodies above 64 KiB that HTTP holds at a time; beyond, they are answered 503.",
    )
    max_json_values: int = Field(
        MAX_JSON_VALUES,
        ge=1000,
        description="JSON with more values is refused unread: reading 250,000 blocks the service for 0.1 s.",
    )
    max_header_bytes: int = Field(
        64 * 1024, ge=1024, description="A request with more in its path and headers is answered 431."
    )
    max_connections: int = Field(
        900, ge=1, description="HTTP connections, idle ones too; on more, requests are answered 503."
    )
    request_timeout: Duration = Field(
        timedelta(seconds=30),
        gt=timedelta(0),
        description="How long a request may take to come in; what keeps coming earns more.",
    )
    drain_timeout: Duration = Field(timedelta(seconds=30), description="What SIGTERM leaves for finishing.")

    stall_threshold: Duration = Field(
        timedelta(milliseconds=100),
        description="Code that blocks the event loop for longer is logged with its stack.",
    )
    metrics_port: Annotated[int | None, NoneIfEmpty] = Field(
        None, ge=0, le=65535, description="Port for a worker's `/metrics` and `/health/…`; not set: none."
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Where it listens; beyond loopback only with `AWAKEABLES_INSECURE`: it asks no token.",
    )

    worker_reply_topics: Annotated[str, AfterValidator(_reply_topics)] = Field(
        COMPLETIONS, description="Topics that a worker answers to, name[,name…], `*` for any characters."
    )

    log_format: Literal["console", "json"] = Field("console", description="Logs for people or for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines that are logged."
    )
    log_invocations: Literal["debug", "info"] = Field(
        "debug",
        description="The level of the lines on begin and end of invocations; a failure is always a warning.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingSource:
    """Where a setting comes from: a kind, and the name that it has there."""

    kind: Literal["default", "file", "environment", "flag"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()

    def place_of(self, setting: str) -> str:
        """How an error names it: as the user has written it."""
        match self.kind:
            case "default":
                return setting
            case "file":
                return f"{setting} in {self.name}"
            case _:
                return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedSettings:
    """All settings, and where each comes from."""

    settings: Settings
    sources: Mapping[str, SettingSource]


def load_settings(config: Path | None = None, **flags: object) -> Settings:
    """The settings: flags that are not None win over the environment, that over the file.

    Raises:
        SettingsRefused: See `read_settings`.
    """
    return read_settings(config, **flags).settings


def read_settings(config: Path | None = None, **flags: object) -> SourcedSettings:
    """Read flags, environment and file, and remember what came from where.

    Raises:
        SettingsRefused: A variable of our prefix or a key of the file that is no setting (with the
            nearest name), a value that can't be (with its place), a file that can't be read.
    """
    variables = _variables()
    named = variables.pop(CONFIG, None)
    if config is None and named is not None and os.environ[named]:  # noqa: TID251 - the one place
        config = Path(os.environ[named])  # noqa: TID251 - the one place
    in_file = {} if config is None else _read_file(config)
    given = {name: value for name, value in flags.items() if value is not None}
    sources = (
        {name: SettingSource(kind="default") for name in Settings.model_fields}
        | {name: SettingSource(kind="file", name=str(config)) for name in in_file}
        | {name: SettingSource(kind="environment", name=variable) for name, variable in variables.items()}
        | {name: SettingSource(kind="flag", name=f"--{name.replace('_', '-')}") for name in given}
    )
    # What is handed in wins over the environment, which pydantic reads by itself.
    values = {name: value for name, value in in_file.items() if name not in variables} | given
    try:
        return SourcedSettings(settings=Settings(**values), sources=sources)
    except ValidationError as error:
        raise SettingsRefused("; ".join(_told(problem, sources) for problem in error.errors())) from None
    except SettingsError as error:
        raise SettingsRefused(str(error)) from None


def _variables() -> dict[str, str]:
    """The variables of our prefix, as they are spelled, by the setting that they mean."""
    known = [*Settings.model_fields, CONFIG]
    found = {}
    for variable in os.environ:  # noqa: TID251 - the one place
        if variable.upper().startswith(PREFIX):
            name = variable[len(PREFIX) :].lower()
            if name not in known:
                near = _nearest(name, known)
                hint = f"; did you mean {PREFIX}{near.upper()}?" if near else ""
                raise SettingsRefused(f"{variable} is no setting{hint}")
            found[name] = variable
    return found


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsRefused(f"there is no file {path} to read settings from")
    try:
        found = TomlConfigSettingsSource(Settings, toml_file=path)()
    except (OSError, ValueError) as error:
        raise SettingsRefused(f"{path} can't be read as TOML: {error}") from None
    for name in found:
        if name not in Settings.model_fields:
            near = _nearest(name.lower().replace("-", "_"), list(Settings.model_fields))
            hint = f"; did you mean {near}?" if near else ""
            raise SettingsRefused(f"{name} in {path} is no setting{hint}")
    return found


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.removeprefix(PREFIX.lower()), known, n=1)), None)


def _told(problem: ErrorDetails, sources: Mapping[str, SettingSource]) -> str:
    """One problem with its place; the value isn't told, it may be a secret."""
    words = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "time_delta_type":  # a date, a list, …
        words = f"not a duration; {FORMS}"
    words = words.replace("datetime.timedelta(0)", "0 seconds")
    if not problem["loc"]:
        return words
    name, *inner = map(str, problem["loc"])
    place = sources.get(name, SettingSource(kind="default")).place_of(name)
    return f"{'.'.join((place, *inner))}: {words}"
