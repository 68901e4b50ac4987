"""Are the settings safe and free of contradictions? That they can be read is known by then."""

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
    """One finding on all of them."""
    faults = list(_faults(loaded.settings, clock))
    if faults:
        return Finding("settings", "FAULT", "; ".join(faults))
    doubts = [*_doubts(loaded.settings), *_secrets_in_the_open(loaded)]
    if doubts:
        return Finding("settings", "warn", "; ".join(doubts))
    changed = sum(source.kind != "default" for source in loaded.sources.values())
    return Finding("settings", "ok", f"{changed} set, the others have their defaults")


def _faults(settings: Settings, clock: Clock) -> Iterator[str]:
    """Why `serve` would refuse to start."""
    try:
        exposed = is_exposed(settings.host)
    except OperatorError as error:
        yield str(error)
    else:
        if exposed and settings.tokens_file is None and not settings.insecure:
            yield (
                f"HTTP is to listen on {settings.host} for anybody, without tokens: serve refuses that;"
                " set AWAKEABLES_TOKENS_FILE, or AWAKEABLES_HOST=127.0.0.1"
            )
    if settings.tokens_file is not None:
        try:
            Tokens(settings.tokens_file, clock=clock, problems={})
        except TokensRefused as error:
            yield str(error)


def _doubts(settings: Settings) -> Iterator[str]:
    if settings.always_suspend:
        yield "always_suspend is a test mode, and slow"
    if settings.insecure and settings.tokens_file is None:
        yield "insecure is set: whoever reaches the port may do everything"
    if settings.kafka_security_protocol == "SASL_PLAINTEXT":
        yield "SASL_PLAINTEXT: credentials and records travel in the clear"


def _secrets_in_the_open(loaded: SourcedSettings) -> Iterator[str]:
    """Files that hold secrets and that others can read."""
    files = {
        source.name
        for name, source in loaded.sources.items()
        if source.kind == "file" and isinstance(getattr(loaded.settings, name), SecretStr)
    }
    for file in sorted(files):
        if Path(file).stat().st_mode & READABLE_BY_OTHERS:
            yield f"{file} holds secrets and can be read by others: chmod 600"
