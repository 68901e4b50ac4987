"""Builds Kafka's security configuration and our signer from the settings, and refuses contradictory ones.

Files are read once, at the start. Errors name the variables and never their values.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr

from awakeables.errors import DeclarationError
from awakeables.kafka.connection import Security
from awakeables.remote.signing import Signer
from awakeables.settings import PREFIX, Settings, SettingsRefused

PROTOCOL = "kafka_security_protocol"
SASL = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
TLS = ("kafka_ssl_ca", "kafka_ssl_cert", "kafka_ssl_key", "kafka_ssl_key_password")


def security_of(settings: Settings) -> Security:
    """How we authenticate to Kafka's brokers, and they to us.

    Raises:
        SettingsRefused: Settings are contradictory or incomplete, or a file is missing or has the wrong
            content; the message names the variable.
    """
    protocol = settings.kafka_security_protocol
    sasl, tls = protocol.startswith("SASL_"), protocol.endswith("SSL")
    for name in (*(() if sasl else SASL), *(() if tls else TLS)):
        if getattr(settings, name) is not None:
            wanted = "SASL_SSL" if name in SASL or sasl else "SSL"
            _refuse(name, f"has no effect with {_variable(PROTOCOL)}={protocol}; set that to {wanted}")
    for name in SASL if sasl else ():
        if getattr(settings, name) is None:
            _refuse(name, f"required with {_variable(PROTOCOL)}={protocol}")
    return Security(
        protocol=protocol,
        tls=_tls(settings) if tls else None,
        mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_sasl_username,
        password=_secret(settings.kafka_sasl_password),
    )


def signer_of(settings: Settings) -> Signer | None:
    """What signs the requests to functions; None: there is no key.

    Raises:
        SettingsRefused: The file is missing or has the wrong content.
        MissingDependency: What signs is not installed.
    """
    path = settings.function_key
    if path is None:
        return None
    _require_file("function_key", path)
    try:
        return Signer(path.read_bytes())
    except DeclarationError as error:
        _refuse("function_key", f"{path}: {error}")


def _tls(settings: Settings) -> ssl.SSLContext:
    """A TLS context; it always checks the broker's certificate and host name."""
    ca = settings.kafka_ssl_ca
    if ca is not None:
        _require_file("kafka_ssl_ca", ca)
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError) as error:
        _refuse("kafka_ssl_ca", f"{ca} has no certificate in PEM format ({_reason(error)})")
    _present_certificate(context, settings)
    return context


def _present_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    cert, key = settings.kafka_ssl_cert, settings.kafka_ssl_key
    if cert is None and key is None:
        if settings.kafka_ssl_key_password is not None:
            _refuse("kafka_ssl_key_password", f"has no effect without {_variable('kafka_ssl_key')}")
        return
    if cert is None:
        _refuse("kafka_ssl_cert", f"required with {_variable('kafka_ssl_key')}")
    if key is None:
        _refuse("kafka_ssl_key", f"required with {_variable('kafka_ssl_cert')}; one file may contain both")
    _require_file("kafka_ssl_cert", cert)
    _require_file("kafka_ssl_key", key)
    _require_certificate(cert)
    _load_key(context, cert, key, _secret(settings.kafka_ssl_key_password))


def _require_certificate(cert: Path) -> None:
    """Check the certificate alone first, since OpenSSL does not say which of the two files is wrong."""
    try:
        ssl.create_default_context(cafile=cert)
    except (ssl.SSLError, OSError) as error:
        _refuse("kafka_ssl_cert", f"{cert} has no certificate in PEM format ({_reason(error)})")


def _load_key(context: ssl.SSLContext, cert: Path, key: Path, password: str | None) -> None:
    asked = False

    def give_password() -> str:
        # Called only if the key is encrypted; without a callback OpenSSL would prompt on the terminal.
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(cert, key, give_password)
    except (ssl.SSLError, OSError) as error:
        if asked and password is None:
            _refuse("kafka_ssl_key_password", f"required, because {key} is encrypted")
        if asked:
            _refuse("kafka_ssl_key_password", f"can't decrypt {key}")
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            _refuse("kafka_ssl_key", f"{key} is not the key of the certificate in {cert}")
        _refuse("kafka_ssl_key", f"{key} has no private key in PEM format ({_reason(error)})")


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
