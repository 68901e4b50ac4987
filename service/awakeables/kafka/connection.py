"""How Kafka is reached: what every client of this project is made with."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from aiokafka import errors as kafka

SecurityProtocol: TypeAlias = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

NO_CONNECTION = (kafka.KafkaError, OSError, TimeoutError, ValueError)
"""What a client of aiokafka raises when it can't be started; a ValueError when a broker fails to
prove in turn that it knows the user's SCRAM password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How brokers know us, and we them; its `repr` never shows the password.

    Attributes:
        protocol: What a broker's port speaks, by Kafka's names.
        tls: Whom to trust, and our own certificate if there is one; with a protocol of TLS only.
        mechanism: How the user proves to be who they say; with a protocol of SASL only, as is
            what follows.
        username: The user.
        password: Their password.
    """

    protocol: SecurityProtocol = "PLAINTEXT"
    tls: ssl.SSLContext | None = None
    mechanism: SaslMechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def who(self) -> str:
        """Whom a broker deals with, for messages."""
        return "us" if self.username is None else f"user {self.username!r}"

    def client_options(self) -> dict[str, Any]:
        """What every client of aiokafka takes; the password is among it."""
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
        security: TLS and credentials; neither, unless said.
        request_timeout: The end of a wait for an answer of a broker. An idempotent producer
            knows no end (it goes on until the broker is back), so callers bound their sends.
        metadata_max_age: New topics and partitions are seen after this long at the latest.
        fetch_max_wait_ms: How long a broker holds back an empty answer. It wakes the fetch
            when a record comes, but the embedded broker doesn't: there this is the latency.
        session_timeout: A member of a group that is silent for so long loses its partitions.
        embedded: It is the broker of `awakeables dev`, which makes topics when it starts only.
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
        """What a consumer, a producer and an admin client of aiokafka all take."""
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client_id,
            "request_timeout_ms": _ms(self.request_timeout),
            "metadata_max_age_ms": _ms(self.metadata_max_age),
        } | self.security.client_options()

    def consumer_options(self) -> dict[str, Any]:
        """What every consumer of ours takes: bytes, no offsets moved behind our back.

        A deserializer that raises makes `getmany` raise at that offset without end, so there is none.
        """
        return self.client_options() | {
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
        }

    def group_options(self) -> dict[str, Any]:
        """What a consumer that is a member of a group takes besides."""
        session_ms = _ms(self.session_timeout)
        return {"session_timeout_ms": session_ms, "heartbeat_interval_ms": max(session_ms // 5, 100)}

    def producer_options(self) -> dict[str, Any]:
        """What every producer of ours takes.

        A batch of 256 KiB rather than 16: aiokafka wakes every waiting send for each batch
        that is taken away, so that many small ones cost quadratic time (aiokafka #528).
        """
        return self.client_options() | {
            "enable_idempotence": True,
            "max_batch_size": 256 * 1024,
            "linger_ms": 0,
        }


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
