"""How clients connect to Kafka: the options that all of them share."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from aiokafka import errors as kafka

SecurityProtocol: TypeAlias = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

NO_CONNECTION = (kafka.KafkaError, OSError, TimeoutError, ValueError)
"""What an aiokafka client raises when it can't be started; a ValueError when the broker fails to prove
that it knows the user's SCRAM password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How brokers and we authenticate each other; its `repr` never shows the password.

    Attributes:
        protocol: The protocol of the brokers' port, by Kafka's names.
        tls: The authorities to trust, and our own certificate if there is one; only with TLS.
        mechanism: How the user authenticates; only with SASL, like the following.
        username: The user.
        password: The user's password.
    """

    protocol: SecurityProtocol = "PLAINTEXT"
    tls: ssl.SSLContext | None = None
    mechanism: SaslMechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def who(self) -> str:
        """Who we are to a broker, for messages."""
        return "us" if self.username is None else f"user {self.username!r}"

    def client_options(self) -> dict[str, Any]:
        """The arguments of every aiokafka client, including the password."""
        options: dict[str, Any] = {"security_protocol": self.protocol, "ssl_context": self.tls}
        if self.mechanism is not None:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """Where the brokers are and how long to wait for them.

    Attributes:
        bootstrap: One or more brokers, `host:port,host:port`.
        client_id: The name in the brokers' logs and quotas.
        security: TLS and credentials; by default neither.
        request_timeout: How long to wait for a broker's response. An idempotent producer ignores it
            (it goes on until the broker is back), so callers limit their sends.
        metadata_max_age: New topics and partitions are seen after this long at the latest.
        fetch_max_wait_ms: How long a broker holds back an empty response. A real broker responds
            when a record arrives, the embedded broker doesn't: there this is the latency.
        session_timeout: A group member that sends no heartbeat for this long loses its partitions.
        embedded: It is the broker of `awakeables dev`, which creates topics only when it starts.
    """

    bootstrap: str
    client_id: str = "awakeables"
    security: Security = field(default_factory=Security)
    request_timeout: timedelta = timedelta(seconds=20)
    metadata_max_age: timedelta = timedelta(minutes=1)
    fetch_max_wait_ms: int = 100
    session_timeout: timedelta = timedelta(seconds=10)
    embedded: bool = False

    def client_options(self) -> dict[str, Any]:
        """The common arguments of aiokafka's consumers, producers and admin clients."""
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client_id,
            "request_timeout_ms": _ms(self.request_timeout),
            "metadata_max_age_ms": _ms(self.metadata_max_age),
        } | self.security.client_options()

    def consumer_options(self) -> dict[str, Any]:
        """The arguments of all our consumers: raw bytes, and no automatic commits.

        There is no deserializer: one that raises would make `getmany` raise at that offset again and again.
        """
        return self.client_options() | {
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
        }

    @property
    def heartbeat_interval(self) -> timedelta:
        """How often a member of a group says that it is alive, and learns of a rebalance."""
        return max(self.session_timeout / 5, timedelta(milliseconds=100))

    def group_options(self) -> dict[str, Any]:
        """The additional arguments of a consumer in a group."""
        return {
            "session_timeout_ms": _ms(self.session_timeout),
            "heartbeat_interval_ms": _ms(self.heartbeat_interval),
        }

    def producer_options(self) -> dict[str, Any]:
        """The arguments of all our producers.

        A batch has 256 KiB rather than 16: aiokafka wakes every waiting send for each batch that is
        sent, so many small ones take quadratic time (aiokafka #528).
        """
        return self.client_options() | {
            "enable_idempotence": True,
            "max_batch_size": 256 * 1024,
            "linger_ms": 0,
        }


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
