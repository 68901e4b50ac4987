"""All settings, with their meanings and defaults. Only this module reads the environment.

A setting comes from a CLI flag, else from its `AWAKEABLES_…` variable, else from a TOML file (`--config`
or `AWAKEABLES_CONFIG`), else it has its default. `core/durations.py` defines how durations are written.
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
from awakeables.store.urls import checked_store
from awakeables.worker.replies import COMPLETIONS, ReplyTopics

PREFIX = "AWAKEABLES_"
CONFIG = "config"
"""`AWAKEABLES_CONFIG` names the file; it is not a setting itself."""


def _duration(value: object) -> object:
    """Parse a duration; TOML's numbers are seconds."""
    if isinstance(value, float):
        value = f"{value:f}"
    return parse_duration(str(value).strip()) if isinstance(value, str | int) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]


def _none_if_empty(value: object) -> object:
    """Treat an empty variable, which Compose files produce, as unset."""
    return None if value == "" else value


NoneIfEmpty = BeforeValidator(_none_if_empty)


def _brokers(text: str) -> str:
    """Check addresses. They appear in logs, so an address with credentials must be rejected here."""
    for broker in text.split(","):
        host, colon, port = broker.strip().rpartition(":")
        incomplete = not port or (colon and not host)
        if incomplete or "@" in broker or "/" in broker or (host and not port.isdecimal()):
            raise ValueError("not host:port[,host:port…]; credentials have their own settings")
        if host and not 0 < int(port[:6]) < 65_536:
            raise ValueError(f"{excerpt(port)} is not a port number")
    return text


def _reply_topics(text: str) -> str:
    ReplyTopics(text)
    return text


class SettingsRefused(OperatorError):
    """A setting is misspelled or has an invalid value."""


class Settings(BaseSettings):
    """The settings. A field's name is that of its variable without the prefix."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    kafka: Annotated[str, AfterValidator(_brokers)] = Field(
        "127.0.0.1:9092", description="Kafka's bootstrap servers, host:port[,host:port…]."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="The protocol of Kafka's port; SASL_PLAINTEXT sends credentials unencrypted.",
    )
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, NoneIfEmpty
    ] = Field(None, description="The SASL mechanism for Kafka.")
    kafka_sasl_username: Annotated[str | None, NoneIfEmpty] = Field(
        None, description="The SASL user name for Kafka."
    )
    kafka_sasl_password: Annotated[SecretStr | None, NoneIfEmpty] = Field(
        None, description="The SASL password for Kafka."
    )
    kafka_ssl_ca: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="The CA certificates that we trust for brokers, PEM; by default the system's."
    )
    kafka_ssl_cert: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="Our client certificate, PEM, for brokers that require one (mTLS)."
    )
    kafka_ssl_key: Annotated[Path | None, NoneIfEmpty] = Field(
        None, description="The private key of our client certificate, PEM."
    )
    kafka_ssl_key_password: Annotated[SecretStr | None, NoneIfEmpty] = Field(
        None, description="The passphrase of that key, if it is encrypted."
    )
    store: Annotated[str, AfterValidator(checked_store)] = Field(
        "awakeables.db",
        description="The SQLite file, postgresql://user:password@host:port/database, or `memory:`.",
    )
    host: str = Field("127.0.0.1", description="The address that HTTP listens on.")
    port: int = Field(8080, ge=0, le=65535, description="The HTTP port; 0 picks a free one.")
    tokens_file: Annotated[Path | None, NoneIfEmpty] = Field(
        None,
        description="The tokens for HTTP (docs/security.md); without it, anyone who can reach it may use it.",
    )
    function_key: Annotated[Path | None, NoneIfEmpty] = Field(
        None,
        description="The private key, Ed25519 in PEM, with which requests to remote services are signed "
        "(docs/functions.md).",
    )
    insecure: bool = Field(False, description="Allow serving other machines without a tokens file.")
    allowed_hosts: str = Field(
        "", description="Additional host names that HTTP accepts without a tokens file, name[,name…]."
    )
    url: str = Field("http://127.0.0.1:8080", description="The URL of the service that CLI commands use.")
    token: Annotated[SecretStr | None, NoneIfEmpty] = Field(
        None, description="The bearer token that CLI commands send."
    )

    build: str = Field(
        "",
        max_length=100,
        description="The version of the app's code; what a newer one has written, an older one leaves alone.",
    )
    instance_timeout: Duration = Field(
        timedelta(seconds=10),
        ge=timedelta(seconds=5),
        description="How long an instance may be silent before others take over its work (PostgreSQL).",
    )

    linger: Duration = Field(
        timedelta(seconds=1), description="How long a waiting handler stays in memory before it is suspended."
    )
    always_suspend: bool = Field(False, description="Suspend at every await; for tests.")
    retry_initial: Duration = Field(timedelta(milliseconds=500), description="Delay before the first retry.")
    retry_factor: float = Field(
        2.0, ge=1, allow_inf_nan=False, description="Factor by which each delay is longer than the last."
    )
    retry_max_interval: Duration = Field(timedelta(seconds=60), description="Maximum delay between attempts.")
    retry_max_attempts: int = Field(
        70, ge=1, description="Number of failed attempts after which an invocation is paused."
    )
    max_running: int = Field(
        1000, ge=1, description="Maximum number of handlers in memory; the others wait in the store."
    )
    max_backlog: int = Field(
        10_000, ge=0, description="Maximum number of calls that wait to run; further calls are answered 503."
    )
    threads: int = Field(16, ge=1, description="Number of threads for `ctx.run` actions that are not async.")

    publish_timeout: Duration = Field(
        timedelta(seconds=60),
        description="How long to wait for a missing topic before its records are given up as failed.",
    )
    horizon: Duration = Field(
        timedelta(minutes=15),
        description="Maximum delay of time-outs while completions can't be read.",
    )
    retention: Duration = Field(
        timedelta(days=7),
        ge=timedelta(0),
        description="How long ended invocations are kept; completions for older IDs get the verdict late.",
    )
    dead_letter_retention: Duration = Field(
        timedelta(days=30),
        ge=timedelta(0),
        description="How long dead letters and records that Kafka rejected are kept.",
    )
    dead_letters_per_minute: int = Field(
        1000,
        ge=1,
        description="Maximum dead letters kept per partition and minute; the others are only counted.",
    )
    dead_letter_bytes_per_minute: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="Their maximum total size; a dead letter that does not fit is only counted.",
    )
    max_unpacked_bytes: int = Field(
        MAX_UNPACKED_BYTES,
        ge=1024 * 1024,
        description="Maximum decompressed size of a batch; a larger one is skipped, as one dead letter.",
    )
    purge_interval: Duration = Field(
        timedelta(minutes=1), gt=timedelta(0), description="How often rows past their retention are deleted."
    )
    verdicts: bool = Field(False, description="Publish the verdict on each completion to `<app>.verdicts`.")
    verdicts_per_minute: int = Field(
        1000,
        ge=0,
        description="Maximum verdicts published per partition and minute, not counting `accepted`.",
    )
    max_journal_entries: int = Field(
        100_000, ge=10, description="Journal length at which an invocation is paused."
    )
    max_actions: int = Field(
        32,
        ge=1,
        description="Maximum actions (`ctx.run`) of one invocation that are executed at the same time.",
    )
    completions_partitions: int = Field(4, ge=1, description="Partitions of the topics that `dev` creates.")

    call_timeout: Duration = Field(timedelta(seconds=60), description="Maximum wait of an HTTP call.")
    commit_timeout: Duration = Field(
        timedelta(seconds=10), gt=timedelta(0), description="How long an HTTP request waits for the store."
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="Maximum size of a body; a larger one is answered 413."
    )
    max_bodies_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="Maximum total size of bodies above 64 KiB in memory; beyond it they are answered 503.",
    )
    max_json_values: int = Field(
        MAX_JSON_VALUES,
        ge=1000,
        description="Maximum number of values in JSON; parsing 250,000 blocks the service for 0.1 s.",
    )
    max_header_bytes: int = Field(
        64 * 1024,
        ge=1024,
        description="Maximum size of a request's path and headers; a larger one is answered 431.",
    )
    max_connections: int = Field(
        900, ge=1, description="Maximum HTTP connections, idle ones included; beyond it requests get 503."
    )
    request_timeout: Duration = Field(
        timedelta(seconds=30),
        gt=timedelta(0),
        description="How long a request may take to arrive; extended while data keeps arriving.",
    )
    drain_timeout: Duration = Field(
        timedelta(seconds=30), description="How long work in progress may take to finish after SIGTERM."
    )

    stall_threshold: Duration = Field(
        timedelta(milliseconds=100),
        description="Code that blocks the event loop for longer is logged with its stack.",
    )
    metrics_port: Annotated[int | None, NoneIfEmpty] = Field(
        None, ge=0, le=65535, description="Port of a worker's `/metrics` and `/health/…`; none if unset."
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="The address it listens on; other than loopback needs `AWAKEABLES_INSECURE` (no tokens).",
    )

    spans: bool = Field(
        False, description="Record spans with OpenTelemetry's global tracer provider; needs the extra `otel`."
    )

    worker_reply_topics: Annotated[str, AfterValidator(_reply_topics)] = Field(
        COMPLETIONS,
        description="Topics that a worker may reply to, name[,name…]; `*` matches any characters.",
    )

    log_format: Literal["console", "json"] = Field(
        "console", description="Log format, for people or for machines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum level of the lines that are logged."
    )
    log_invocations: Literal["debug", "info"] = Field(
        "debug",
        description="Level of the lines on the begin and end of invocations; failures are warnings.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingSource:
    """Where a setting comes from: the kind of source, and the setting's name there."""

    kind: Literal["default", "file", "environment", "flag"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()

    def place_of(self, setting: str) -> str:
        """The setting's name for an error message, as the user wrote it."""
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
    """Load the settings. Flags that are not None override the environment, which overrides the file.

    Raises:
        SettingsRefused: See `read_settings`.
    """
    return read_settings(config, **flags).settings


def read_settings(config: Path | None = None, **flags: object) -> SourcedSettings:
    """Read flags, environment and file, and record the source of each setting.

    Raises:
        SettingsRefused: A variable with our prefix or a key of the file is not a setting (the message
            has the closest name), a value is invalid (it has its source), or the file can't be read.
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
    # Arguments override the environment, which pydantic reads by itself.
    values = {name: value for name, value in in_file.items() if name not in variables} | given
    try:
        return SourcedSettings(settings=Settings(**values), sources=sources)
    except ValidationError as error:
        raise SettingsRefused("; ".join(_describe(problem, sources) for problem in error.errors())) from None
    except SettingsError as error:
        raise SettingsRefused(str(error)) from None


def environment_with(**variables: str) -> dict[str, str]:
    """The environment of a child process: this process's, with other values of these variables."""
    return os.environ | variables  # noqa: TID251 - the one place


def _variables() -> dict[str, str]:
    """The variables with our prefix, as spelled, by the setting that they mean."""
    known = [*Settings.model_fields, CONFIG]
    found = {}
    for variable in os.environ:  # noqa: TID251 - the one place
        if variable.upper().startswith(PREFIX):
            name = variable[len(PREFIX) :].lower()
            if name not in known:
                near = _nearest(name, known)
                hint = f"; did you mean {PREFIX}{near.upper()}?" if near else ""
                raise SettingsRefused(f"{variable} is not a setting{hint}")
            found[name] = variable
    return found


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsRefused(f"the settings file {path} does not exist")
    try:
        found = TomlConfigSettingsSource(Settings, toml_file=path)()
    except (OSError, ValueError) as error:
        raise SettingsRefused(f"{path} can't be read as TOML: {error}") from None
    for name in found:
        if name not in Settings.model_fields:
            near = _nearest(name.lower().replace("-", "_"), list(Settings.model_fields))
            hint = f"; did you mean {near}?" if near else ""
            raise SettingsRefused(f"{name} in {path} is not a setting{hint}")
    return found


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.removeprefix(PREFIX.lower()), known, n=1)), None)


def _describe(problem: ErrorDetails, sources: Mapping[str, SettingSource]) -> str:
    """Describe a problem and its source, without the value, which may be a secret."""
    words = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "time_delta_type":  # a date, a list, …
        words = f"not a duration; {FORMS}"
    words = words.replace("datetime.timedelta(0)", "0 seconds")
    if not problem["loc"]:
        return words
    name, *inner = map(str, problem["loc"])
    place = sources.get(name, SettingSource(kind="default")).place_of(name)
    return f"{'.'.join((place, *inner))}: {words}"
