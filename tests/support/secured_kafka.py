"""A real Apache Kafka that lets nobody in without TLS, and the certificates for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from support.real_kafka import CLIENT_PORT, LOOPBACK, RealKafka, free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

SECRETS = "/etc/kafka/secrets"
MUTUAL_PORT = 9095
ASTRAY_PORT = 9096
TIMEOUT_S = 20.0
USER = "shop"
PASSWORD = "right-horse-battery-staple"
SECURITY = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """PEM files of one certificate authority; the broker's certificate is for 127.0.0.1 alone.

    Attributes:
        folder: Where they all are; `broker.pem` (key and certificate) among them.
        ca: The authority's certificate.
        cert: A client's certificate.
        key: Its key.
        locked_key: The same key, encrypted with `PASSWORD`.
    """

    folder: Path
    ca: Path
    cert: Path
    key: Path
    locked_key: Path


def issue_papers(folder: Path) -> Papers:
    """Make an authority, and certificates of it for the broker and for a client."""
    authority = trustme.CA()
    broker = authority.issue_cert(LOOPBACK)
    client = authority.issue_cert("shop@example.com", common_name=USER)
    papers = Papers(
        folder=folder,
        ca=folder / "ca.pem",
        cert=folder / "client.pem",
        key=folder / "client.key",
        locked_key=folder / "client.locked.key",
    )
    authority.cert_pem.write_to_path(str(papers.ca))
    client.private_key_pem.write_to_path(str(papers.key))
    for blob in client.cert_chain_pems:
        blob.write_to_path(str(papers.cert), append=True)
    locked = serialization.BestAvailableEncryption(PASSWORD.encode())
    papers.locked_key.write_bytes(_encoded(client.private_key_pem, locked))
    # One file, and the key as PKCS#8: the only form that Kafka reads.
    (folder / "broker.pem").write_bytes(_encoded(broker.private_key_pem, serialization.NoEncryption()))
    for blob in broker.cert_chain_pems:
        blob.write_to_path(str(folder / "broker.pem"), append=True)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)  # the broker runs as a user of its own
    return papers


def _encoded(key: trustme.Blob, encryption: serialization.KeySerializationEncryption) -> bytes:
    loaded = serialization.load_pem_private_key(key.bytes(), None)
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class SecuredKafka(RealKafka):
    """One node with three ways in: SASL over TLS, mutual TLS, and one that leads astray.

    User `shop` may come in by PLAIN and by both kinds of SCRAM. Who comes in astray is told to go
    on at a host name that the broker's certificate is not for. Whatever no ACL forbids is allowed.
    """

    def __init__(self, papers: Papers) -> None:
        super().__init__()
        self._papers = papers
        self._mutual, self._astray = free_port(), free_port()

    @property
    def mutual_bootstrap(self) -> str:
        return f"{LOOPBACK}:{self._mutual}"

    @property
    def astray_bootstrap(self) -> str:
        return f"{LOOPBACK}:{self._astray}"

    def start(self) -> None:
        """Start it, with user `shop`."""
        super().start()
        self.let_in(USER, ScramMechanism.SCRAM_SHA_256)
        self.let_in(USER)

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(
            {
                "bootstrap.servers": self.mutual_bootstrap,
                "security.protocol": "SSL",
                "ssl.ca.location": str(self._papers.ca),
                "ssl.certificate.location": str(self._papers.cert),
                "ssl.key.location": str(self._papers.key),
                "log_level": 0,  # that the broker is gone in the end is no news
            }
        )

    def let_in(self, user: str, mechanism: ScramMechanism = ScramMechanism.SCRAM_SHA_512) -> None:
        """Let a user in by SCRAM from now on, with `PASSWORD`."""
        credentials = ScramCredentialInfo(mechanism, iterations=4096)
        wanted = UserScramCredentialUpsertion(user, credentials, PASSWORD.encode())
        self._admin.alter_user_scram_credentials([wanted])[user].result(TIMEOUT_S)
        self._wait_until(lambda: mechanism in self._mechanisms_of(user))

    def _mechanisms_of(self, user: str) -> list[ScramMechanism]:
        try:
            answers = self._admin.describe_user_scram_credentials([user])
            described = answers[user].result(TIMEOUT_S)  # type: ignore[index]
        except KafkaException:
            return []  # there is no such user yet
        return [info.mechanism for info in described.scram_credential_infos]

    def deny(self, user: str, kind: str, name: str, *, but: str | None = None) -> None:
        """Keep a user from every `topic` or `group` whose name begins so, but for one operation.

        What an ACL allows is all that is allowed, as soon as there is one.
        """
        operation = AclOperation.ALL if but is None else AclOperation[but.upper()]
        permission = AclPermissionType.DENY if but is None else AclPermissionType.ALLOW
        what, whom = ResourceType[kind.upper()], f"User:{user}"
        prefixed = ResourcePatternType.PREFIXED
        rule = AclBinding(what, name, prefixed, whom, "*", operation, permission)
        self._admin.create_acls([rule])[rule].result(TIMEOUT_S)
        same = AclBindingFilter(what, name, prefixed, whom, "*", operation, permission)
        self._wait_until(lambda: self._admin.describe_acls(same).result(TIMEOUT_S))

    def _wait_until(self, is_known: Callable[[], object]) -> None:
        """The controller answers before the broker itself has heard of it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not is_known():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _described_container(self) -> DockerContainer:
        container = super()._described_container()
        container.ports[f"{MUTUAL_PORT}/tcp"] = cast("int", (LOOPBACK, self._mutual))
        container.ports[f"{ASTRAY_PORT}/tcp"] = cast("int", (LOOPBACK, self._astray))
        return container.with_volume_mapping(str(self._papers.folder), SECRETS, "ro")

    def _environment(self) -> dict[str, str]:
        plain = f'{SECURITY}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        scram = f"{SECURITY}.scram.ScramLoginModule required;"
        return super()._environment() | {
            "KAFKA_LISTENERS": (
                f"EXTERNAL://:{CLIENT_PORT},MUTUAL://:{MUTUAL_PORT},ASTRAY://:{ASTRAY_PORT},"
                "CONTROLLER://:9093,BROKER://:9094"
            ),
            "KAFKA_ADVERTISED_LISTENERS": (
                f"EXTERNAL://{LOOPBACK}:{self._port},MUTUAL://{self.mutual_bootstrap},"
                f"ASTRAY://localhost:{self._astray},BROKER://localhost:9094"
            ),
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": (
                "EXTERNAL:SASL_SSL,MUTUAL:SSL,ASTRAY:SSL,CONTROLLER:PLAINTEXT,BROKER:PLAINTEXT"
            ),
            "KAFKA_SASL_ENABLED_MECHANISMS": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "KAFKA_LISTENER_NAME_EXTERNAL_PLAIN_SASL_JAAS_CONFIG": plain,
            "KAFKA_LISTENER_NAME_EXTERNAL_SCRAM___SHA___256_SASL_JAAS_CONFIG": scram,
            "KAFKA_LISTENER_NAME_EXTERNAL_SCRAM___SHA___512_SASL_JAAS_CONFIG": scram,
            "KAFKA_LISTENER_NAME_MUTUAL_SSL_CLIENT_AUTH": "required",
            "KAFKA_SSL_KEYSTORE_TYPE": "PEM",
            "KAFKA_SSL_KEYSTORE_LOCATION": f"{SECRETS}/broker.pem",
            "KAFKA_SSL_TRUSTSTORE_TYPE": "PEM",
            "KAFKA_SSL_TRUSTSTORE_LOCATION": f"{SECRETS}/ca.pem",
            "KAFKA_AUTHORIZER_CLASS_NAME": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "KAFKA_SUPER_USERS": "User:ANONYMOUS",  # the inner listeners: the broker itself, its tools
            "KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND": "true",
        }
