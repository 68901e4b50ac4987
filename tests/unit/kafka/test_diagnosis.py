"""What is told of a broker that can't be used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import errors as kafka

from awakeables.errors import BrokerRefused, BrokerUnavailable
from awakeables.kafka.connection import KafkaConnection, Security
from awakeables.kafka.diagnosis import diagnose, problem_of
from awakeables.kafka.problemboard import ProblemBoard
from awakeables.telemetry import events
from support.logs import heard

SECURITY = Security(protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-512", username="shop", password="secret")


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[str]:
    """Somebody who answers each connection so and hangs up; or, without an answer, says nothing."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            await reader.read(1)
            writer.write(answer)
            await writer.drain()
        else:
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        served.set()

    served = asyncio.Event()
    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
        await served.wait()


async def told_of(bootstrap: str, security: Security = SECURITY) -> str:
    problem = await diagnose(
        KafkaConnection(bootstrap=bootstrap, security=security), kafka.KafkaError("gave up")
    )
    return f"{type(problem).__name__}: {problem}"


async def test_a_port_without_tls_is_reported() -> None:
    tls = Security(protocol="SSL", tls=ssl.create_default_context())
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        told = await told_of(address, tls)
    assert told.startswith(f"BrokerRefused: Kafka at {address} has no TLS at this port")


async def test_a_caller_that_disconnects_is_reported() -> None:
    async with listening(b"\0") as address:
        told = await told_of(address)
    assert told.startswith(f"BrokerUnavailable: Kafka at {address} closes the connection")


async def test_a_silent_client_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awakeables.kafka.diagnosis.BROKER_PATIENCE_S", 0.05)
    async with listening(b"") as address:
        told = await told_of(address)
    assert told.startswith(f"BrokerUnavailable: no answer from {address} within")


async def test_the_whole_diagnosis_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awakeables.kafka.diagnosis.PATIENCE_S", 0.05)
    async with listening(b"") as address:
        told = await told_of(address)
    assert told == f"BrokerUnavailable: Kafka at {address}: KafkaError: gave up"


async def test_an_invalid_address_is_reported_in_the_clients_own_words() -> None:
    assert await told_of("kafka:many") == "BrokerUnavailable: Kafka at kafka:many: KafkaError: gave up"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (kafka.TopicAuthorizationFailedError({"b", "a"}), "use topic 'a', 'b'; grant it by an ACL"),
        (kafka.GroupAuthorizationFailedError("packer"), "use group 'packer'; grant it by an ACL"),
        (kafka.ClusterAuthorizationFailedError(), "use the cluster; grant it by an ACL"),
    ],
)
async def test_what_the_broker_forbids_is_reported_without_asking_again(error: Exception, told: str) -> None:
    problem = await diagnose(KafkaConnection(bootstrap="nobody.invalid:9092", security=SECURITY), error)
    assert isinstance(problem, BrokerRefused)
    assert str(problem) == f"Kafka does not let user 'shop' {told}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (kafka.UnsupportedSaslMechanismError(), "does not offer SCRAM-SHA-512; choose another"),
        (ValueError("Server sent wrong signature!"), "can't prove that it knows the password of user 'shop'"),
        (ssl.SSLError(1, "[SSL: NO_CIPHERS] none"), "don't agree on TLS"),
    ],
)
def test_a_refusal_is_reported_with_what_to_check(error: Exception, told: str) -> None:
    problem = problem_of("kafka:9092", SECURITY, error)
    assert isinstance(problem, BrokerRefused)
    assert told in str(problem)


def test_any_other_error_is_reported_in_its_own_words() -> None:
    problem = problem_of("kafka:9092", SECURITY, OSError("no route to host"))
    assert type(problem) is BrokerUnavailable
    assert str(problem) == "Kafka at kafka:9092: no route to host"


def test_an_alarm_is_logged_again_when_it_becomes_another_one() -> None:
    shown: dict[str, str] = {}
    board = ProblemBoard(shown)
    with heard() as logs:
        for event, text in [
            (events.BROKER_DOWN, "nothing listens"),
            (events.BROKER_DOWN, "no answer"),
            (events.BROKER_REFUSED, "wrong password"),
            (events.BROKER_REFUSED, "wrong password"),
        ]:
            board.report("broker", event, text)
    assert shown == {"broker": "wrong password"}
    assert [(line["event"], line["problem"]) for line in logs] == [
        (events.BROKER_DOWN, "nothing listens"),
        (events.BROKER_REFUSED, "wrong password"),
    ]
