"""Checks that the settings are safe and consistent. They have already been parsed."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from awakeables.doctor.findings import Finding
from awakeables.errors import OperatorError
from awakeables.ports import Clock
from awakeables.settings import Settings, SourcedSettings
from awakeables.web.server import is_exposed
from awakeables.web.tokenfile import TokensRefused
from awakeables.web.tokens import Tokens

READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH


def examine_settings(loaded: SourcedSettings, *, clock: Clock) -> Finding:
    """Check all settings; return one finding."""
    faults = list(_faults(loaded.settings, clock))
    if faults:
        return Finding("settings", "FAULT", "; ".join(faults))
    doubts = [*_doubts(loaded.settings), *_readable_secrets(loaded)]
    if doubts:
        return Finding("settings", "warn", "; ".join(doubts))
    changed = sum(source.kind != "default" for source in loaded.sources.values())
    return Finding("settings", "ok", f"{changed} set, all others at their defaults")


def _faults(settings: Settings, clock: Clock) -> Iterator[str]:
    """Reasons why `serve` would refuse to start."""
    try:
        exposed = is_exposed(settings.host)
    except OperatorError as error:
        yield str(error)
    else:
        if exposed and settings.tokens_file is None and not settings.insecure:
            yield (
                f"HTTP would listen on {settings.host} without tokens, open to anyone, which `serve` refuses:"
                " set AWAKEABLES_TOKENS_FILE, or AWAKEABLES_HOST=127.0.0.1"
            )
    if settings.tokens_file is not None:
        try:
            Tokens(settings.tokens_file, clock=clock, problems={})
        except TokensRefused as error:
            yield str(error)


def _doubts(settings: Settings) -> Iterator[str]:
    if settings.always_suspend:
        yield "always_suspend is set: it is for tests, and slow"
    if settings.insecure and settings.tokens_file is None:
        yield "insecure is set: anyone who reaches the port may do anything"
    if settings.kafka_security_protocol == "SASL_PLAINTEXT":
        yield "SASL_PLAINTEXT: credentials and records are sent unencrypted"


def _readable_secrets(loaded: SourcedSettings) -> Iterator[str]:
    """Files that contain secrets and are readable by others."""
    files = {
        source.name
        for name, source in loaded.sources.items()
        if source.kind == "file" and isinstance(getattr(loaded.settings, name), SecretStr)
    }
    for file in sorted(files):
        if Path(file).stat().st_mode & READABLE_BY_OTHERS:
            yield f"{file} contains secrets and is readable by others: chmod 600"
