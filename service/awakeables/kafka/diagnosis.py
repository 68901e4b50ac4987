"""Finds out why Kafka can't be used.

An aiokafka client that can't connect logs the reason and raises another error; if it loses a broker
later, it reports nothing at all. So after a failure we connect to each broker once more, just to find
out why.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.protocol.metadata import MetadataRequest

from awakeables.errors import BrokerRefused, BrokerUnavailable
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection, Security

PATIENCE_S = 5.0
"""Limit of the whole diagnosis: a better message is not worth a longer wait."""

BROKER_PATIENCE_S = 2.0
CLOSE_S = 0.1

DENIED = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
)
"""The broker has authenticated us, but an ACL forbids the access."""

OTHER_NAME = frozenset({62, 64})
"""OpenSSL's codes for a certificate of another host name, and of another IP address."""


async def diagnose(connection: KafkaConnection, error: Exception) -> BrokerUnavailable:
    """Find out why Kafka can't be used, after a client has failed; takes at most 5 s.

    Args:
        connection: The client's connection options.
        error: What it raised; reported if no better reason is found.

    Returns:
        An error to raise or to log: `BrokerRefused` if a broker refuses us, or we refuse it.
    """
    if isinstance(error, DENIED):
        return denied(connection.security, _forbidden(error))
    problems: list[BrokerUnavailable] = []
    with suppress(TimeoutError, ValueError):
        async with asyncio.timeout(PATIENCE_S):
            await _visit(connection, problems)
    refused = [problem for problem in problems if isinstance(problem, BrokerRefused)]
    unexplained = BrokerUnavailable(f"Kafka at {connection.bootstrap}: {error_text(error)}")
    return next(iter(refused or problems), unexplained)


def error_text(error: BaseException) -> str:
    """An error's message, or its name if it has none."""
    return str(error) or type(error).__name__


def denied(security: Security, what: str) -> BrokerRefused:
    """The error for a resource that an ACL forbids."""
    return BrokerRefused(f"Kafka does not let {security.who} use {what}; grant it by an ACL")


def _forbidden(error: Exception) -> str:
    kind = "topic" if isinstance(error, kafka.TopicAuthorizationFailedError) else "group"
    if isinstance(error, kafka.ClusterAuthorizationFailedError):
        kind = "the cluster"
    named = error.args[0] if error.args else ()
    names = [named] if isinstance(named, str) else sorted(named)
    return f"{kind} {', '.join(map(repr, names))}".rstrip()


async def _visit(connection: KafkaConnection, problems: list[BrokerUnavailable]) -> None:
    """Connect to the bootstrap brokers until one responds, then to all that it lists."""
    for address in _addresses(connection.bootstrap):
        found = await _ask(connection, address, problems)
        if found is not None:
            for named in found - {address}:
                await _ask(connection, named, problems)
            return


def _addresses(bootstrap: str) -> list[tuple[str, int]]:
    return [(host, port) for host, port, _ in collect_hosts(bootstrap, randomize=False)]


async def _ask(
    connection: KafkaConnection, address: tuple[str, int], problems: list[BrokerUnavailable]
) -> frozenset[tuple[str, int]] | None:
    """The brokers that this one lists; None, and one more problem, if it can't be asked."""
    host, port = address
    asked = AIOKafkaConnection(
        host,
        port,
        client_id=connection.client_id,
        request_timeout_ms=round(BROKER_PATIENCE_S * 1000),
        **connection.security.client_options(),
    )
    try:
        await asked.connect()
        metadata = await asked.send(MetadataRequest([]))
    except NO_CONNECTION as error:
        problems.append(problem_of(f"{host}:{port}", connection.security, error))
        return None
    finally:
        # `close` never ends for a connection that was never open.
        await asyncio.wait({asked.close()}, timeout=CLOSE_S)
    return frozenset((broker[1], broker[2]) for broker in metadata.brokers)


def problem_of(address: str, security: Security, error: Exception) -> BrokerUnavailable:
    """Describe why one broker can't be connected to, and what to do."""
    broker = f"Kafka at {address}"
    for cause in _causes(error):
        match cause:
            case ssl.SSLError():
                return BrokerRefused(_tls_problem(broker, cause))
            case kafka.SaslAuthenticationFailed():
                return BrokerRefused(
                    f"{broker} refuses the credentials of {security.who} ({security.mechanism}); "
                    "check AWAKEABLES_KAFKA_SASL_USERNAME and AWAKEABLES_KAFKA_SASL_PASSWORD"
                )
            case kafka.UnsupportedSaslMechanismError():
                return BrokerRefused(
                    f"{broker} does not offer {security.mechanism}; "
                    "choose another AWAKEABLES_KAFKA_SASL_MECHANISM"
                )
            case kafka.IllegalSaslStateError():
                return BrokerRefused(
                    f"{broker} takes no credentials at this port; "
                    "check the port, or AWAKEABLES_KAFKA_SECURITY_PROTOCOL"
                )
            case ValueError() if str(cause).startswith("Server "):
                return BrokerRefused(
                    f"{broker} can't prove that it knows the password of {security.who}; "
                    "it may be another program: check AWAKEABLES_KAFKA"
                )
            case asyncio.IncompleteReadError() | ConnectionResetError():
                return BrokerUnavailable(
                    f"{broker} closes the connection; if this goes on, "
                    f"AWAKEABLES_KAFKA_SECURITY_PROTOCOL={security.protocol} is not the protocol of this port"
                )
            case ConnectionRefusedError():
                return BrokerUnavailable(
                    f"nothing listens at {address}; start Kafka, or check AWAKEABLES_KAFKA"
                )
            case socket.gaierror():
                return BrokerUnavailable(f"the host of {address} can't be resolved; check AWAKEABLES_KAFKA")
            case TimeoutError():
                return BrokerUnavailable(f"no answer from {address} within {BROKER_PATIENCE_S:.0f} s")
            case _:
                continue
    return BrokerUnavailable(f"{broker}: {error_text(error)}")


def _tls_problem(broker: str, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        if error.verify_code in OTHER_NAME:
            return f"the certificate of {broker} is for another name ({reason}); check AWAKEABLES_KAFKA"
        return f"the certificate of {broker} is not trusted ({reason}); check AWAKEABLES_KAFKA_SSL_CA"
    reason = getattr(error, "reason", None) or str(error)
    if reason == "WRONG_VERSION_NUMBER":
        return f"{broker} has no TLS at this port; check the port, or AWAKEABLES_KAFKA_SECURITY_PROTOCOL"
    if "CERTIFICATE_REQUIRED" in reason:
        return f"{broker} requires a client certificate; set AWAKEABLES_KAFKA_SSL_CERT and …_SSL_KEY"
    if "ALERT" in reason:
        return f"{broker} refuses our certificate or our TLS ({reason}); check AWAKEABLES_KAFKA_SSL_CERT"
    return f"{broker} and we don't agree on TLS ({reason})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes (`raise … from`), the outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
