"""Kafka's credentials from the settings: read, held against one another, refused if they can't be.

They are read once, at the start. Errors name the variables and never what is in them.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr

from awakeables.kafka.connection import Security
from awakeables.settings import PREFIX, Settings, SettingsRefused

PROTOCOL = "kafka_security_protocol"
SASL = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
TLS = ("kafka_ssl_ca", "kafka_ssl_cert", "kafka_ssl_key", "kafka_ssl_key_password")


def security_of(settings: Settings) -> Security:
    """How Kafka's brokers know us, and we them.

    Raises:
        SettingsRefused: Settings that contradict one another or are incomplete, a file that is
            not there or holds something else; the message names the variable.
    """
    protocol = settings.kafka_security_protocol
    sasl, tls = protocol.startswith("SASL_"), protocol.endswith("SSL")
    for name in (*(() if sasl else SASL), *(() if tls else TLS)):
        if getattr(settings, name) is not None:
            wanted = "SASL_SSL" if name in SASL or sasl else "SSL"
            _refuse(name, f"of no use with {_variable(PROTOCOL)}={protocol}; set that to {wanted}")
    for name in SASL if sasl else ():
        if getattr(settings, name) is None:
            _refuse(name, f"needed with {_variable(PROTOCOL)}={protocol}")
    return Security(
        protocol=protocol,
        tls=_tls(settings) if tls else None,
        mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_sasl_username,
        password=_secret(settings.kafka_sasl_password),
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    """A context that checks the broker's certificate and host name, always."""
    ca = settings.kafka_ssl_ca
    if ca is not None:
        _require_file("kafka_ssl_ca", ca)
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError) as error:
        _refuse("kafka_ssl_ca", f"{ca} holds no certificate in PEM form ({_reason(error)})")
    _present_certificate(context, settings)
    return context


def _present_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    cert, key = settings.kafka_ssl_cert, settings.kafka_ssl_key
    if cert is None and key is None:
        if settings.kafka_ssl_key_password is not None:
            _refuse("kafka_ssl_key_password", f"of no use without {_variable('kafka_ssl_key')}")
        return
    if cert is None:
        _refuse("kafka_ssl_cert", f"needed with {_variable('kafka_ssl_key')}")
    if key is None:
        _refuse("kafka_ssl_key", f"needed with {_variable('kafka_ssl_cert')}; one file may hold both")
    _require_file("kafka_ssl_cert", cert)
    _require_file("kafka_ssl_key", key)
    _require_certificate(cert)
    _load_key(context, cert, key, _secret(settings.kafka_ssl_key_password))


def _require_certificate(cert: Path) -> None:
    """OpenSSL does not tell which of the two files is wrong, so this one is tried alone first."""
    try:
        ssl.create_default_context(cafile=cert)
    except (ssl.SSLError, OSError) as error:
        _refuse("kafka_ssl_cert", f"{cert} holds no certificate in PEM form ({_reason(error)})")


def _load_key(context: ssl.SSLContext, cert: Path, key: Path, password: str | None) -> None:
    asked = False

    def tell_password() -> str:
        # Called for an encrypted key alone; without it OpenSSL would ask at the terminal.
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(cert, key, tell_password)
    except (ssl.SSLError, OSError) as error:
        if asked and password is None:
            _refuse("kafka_ssl_key_password", f"needed: {key} is encrypted")
        if asked:
            _refuse("kafka_ssl_key_password", f"doesn't open {key}")
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            _refuse("kafka_ssl_key", f"{key} is not the key of the certificate {cert}")
        _refuse("kafka_ssl_key", f"{key} holds no private key in PEM form ({_reason(error)})")


def _require_file(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        _refuse(name, f"{path} can't be read: {error.strerror}")


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _refuse(name: str, why: str) -> NoReturn:
    raise SettingsRefused(f"{_variable(name)}: {why}") from None
