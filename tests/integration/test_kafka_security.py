"""Kafka over TLS and SASL: whole callbacks, and what is said when one refuses the other."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.typing import EventDict

from awakeables.errors import BrokerUnavailable
from awakeables.handlers.service import App
from awakeables.kafka import answers
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics, missing_topics
from awakeables.runtime import connection_of, serve, work
from awakeables.settings import Settings, load_settings
from awakeables.telemetry import events
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker
from support.eventually import eventually
from support.logs import heard
from support.real_kafka import free_port
from support.secured_kafka import PASSWORD, USER, Papers, SecuredKafka, issue_papers
from support.service import new_app
from support.tasks import answers_in, publish_tasks, working

WRONG = "wrong-" + PASSWORD
EXAMPLES = Path(__file__).parents[2] / "examples"
AWAKEABLES = str(Path(sys.executable).parent / "awakeables")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue_papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Those of an authority that the broker knows nothing of."""
    return issue_papers(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def broker(engine_and_image: None, papers: Papers) -> Iterator[SecuredKafka]:
    with SecuredKafka(papers) as kafka:
        yield kafka


@pytest.fixture
def sasl(broker: SecuredKafka, papers: Papers) -> Callable[..., Settings]:
    """Settings that let user `shop` in by SASL over TLS, but for what is given."""

    def settings(**others: Any) -> Settings:
        right: dict[str, Any] = {
            "kafka": broker.bootstrap,
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_sasl_username": USER,
            "kafka_sasl_password": PASSWORD,
            "kafka_ssl_ca": papers.ca,
            "store": "memory:",
            "port": 0,
        }
        return load_settings(**right | others)

    return settings


@pytest.fixture
def mutual(broker: SecuredKafka, papers: Papers) -> Callable[..., Settings]:
    """Settings that let our certificate in, but for what is given."""

    def settings(**others: Any) -> Settings:
        right: dict[str, Any] = {
            "kafka": broker.mutual_bootstrap,
            "kafka_security_protocol": "SSL",
            "kafka_ssl_ca": papers.ca,
            "kafka_ssl_cert": papers.cert,
            "kafka_ssl_key": papers.key,
            "store": "memory:",
            "port": 0,
        }
        return load_settings(**right | others)

    return settings


@pytest.fixture
def said() -> Iterator[list[EventDict]]:
    """What is logged meanwhile."""
    with heard() as logs:
        yield logs


def new_worker() -> Worker:
    """A worker of a task topic of its own, which resolves with the order's number."""
    unique = secrets.token_hex(4)
    worker = Worker(f"packer-{unique}")

    @worker.task(f"pack-requests-{unique}")
    async def pack(task: Task[dict[str, Any]]) -> int:
        return int(task.payload["number"])

    return worker


@asynccontextmanager
async def serving(app: App, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The service as `awakeables serve` runs it."""
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, settings, stop=stop, ready=url.set_result))
        try:
            async with httpx.AsyncClient(base_url=await url, timeout=30) as http:
                yield http
        finally:
            stop.set()


@asynccontextmanager
async def performing(worker: Worker, settings: Settings) -> AsyncIterator[None]:
    """The worker as `awakeables worker` runs it."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work(worker, settings, stop=stop))
        try:
            yield
        finally:
            stop.set()


async def create_all(settings: Settings, app: App, worker: Worker) -> None:
    """The topics of both, made over the same way in."""
    names = (app.completions_topic, app.dead_letter_topic, *worker.topics)
    await create_topics(connection_of(settings, "test"), dict.fromkeys(names, 1))


async def problem_of(http: httpx.AsyncClient, name: str = "broker") -> str:
    async def problem() -> str | None:
        found: str | None = (await http.get("/health/ready")).json().get("degraded", {}).get(name)
        return found

    return str(await eventually(problem, 20))


async def is_ready(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/health/ready")).json() == {"ready": True})


async def has_done_a_callback(settings: Settings) -> None:
    app, worker = new_app(), new_worker()
    await create_all(settings, app, worker)
    async with serving(app, settings) as http, performing(worker, settings):
        answer = await http.post("/orders/fulfil", json={"topic": next(iter(worker.topics)), "number": 7})
    assert answer.status_code == 200, answer.text
    assert answer.json() == 7


# ── what works ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_callback_is_done_by_service_and_worker_over_sasl_and_tls(
    sasl: Callable[..., Settings], mechanism: str
) -> None:
    await has_done_a_callback(sasl(kafka_sasl_mechanism=mechanism))


async def test_a_callback_is_done_with_certificates_on_both_sides(mutual: Callable[..., Settings]) -> None:
    await has_done_a_callback(mutual())


async def test_an_encrypted_key_is_opened_with_its_password(
    mutual: Callable[..., Settings], papers: Papers
) -> None:
    settings = mutual(kafka_ssl_key=papers.locked_key, kafka_ssl_key_password=PASSWORD)
    assert await missing_topics(connection_of(settings, "test"), ["none"]) == ["none"]


# ── what is refused ────────────────────────────────────────────────────────────────────────────


async def refusal(connection: KafkaConnection) -> str:
    """What a client says; never the password."""
    with pytest.raises(BrokerUnavailable) as caught:
        await missing_topics(connection, ["some-topic"])
    told = str(caught.value)
    assert PASSWORD not in told + repr(caught.value.__cause__)
    return f"{type(caught.value).__name__}: {told}"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_reported_with_the_users_name(
    sasl: Callable[..., Settings], mechanism: str
) -> None:
    settings = sasl(kafka_sasl_mechanism=mechanism, kafka_sasl_password=WRONG)
    told = await refusal(connection_of(settings, "test"))
    assert told == (
        f"BrokerRefused: Kafka at {settings.kafka} refuses the credentials of user 'shop' ({mechanism}); "
        "check AWAKEABLES_KAFKA_SASL_USERNAME and AWAKEABLES_KAFKA_SASL_PASSWORD"
    )


async def test_a_broker_of_another_authority_is_not_trusted(
    sasl: Callable[..., Settings], strangers: Papers
) -> None:
    told = await refusal(connection_of(sasl(kafka_ssl_ca=strangers.ca), "test"))
    assert told.startswith("BrokerRefused: the certificate of Kafka at 127.0.0.1:")
    assert "is not trusted (unable to get local issuer certificate); check AWAKEABLES_KAFKA_SSL_CA" in told


async def test_the_systems_authorities_are_trusted_when_none_is_named(sasl: Callable[..., Settings]) -> None:
    told = await refusal(connection_of(sasl(kafka_ssl_ca=""), "test"))
    assert "is not trusted" in told or "self-signed" in told


async def test_a_broker_under_another_host_name_is_refused(
    sasl: Callable[..., Settings], broker: SecuredKafka
) -> None:
    elsewhere = broker.bootstrap.replace("127.0.0.1", "localhost")
    told = await refusal(connection_of(sasl(kafka=elsewhere), "test"))
    assert told.startswith(f"BrokerRefused: the certificate of Kafka at {elsewhere} is for another name (")
    assert "not valid for 'localhost'" in told


async def test_a_broker_that_leads_to_another_host_name_is_refused_there(
    broker: SecuredKafka, papers: Papers
) -> None:
    settings = load_settings(
        kafka=broker.astray_bootstrap, kafka_security_protocol="SSL", kafka_ssl_ca=papers.ca
    )
    told = await refusal(connection_of(settings, "test"))
    assert told.startswith("BrokerRefused: the certificate of Kafka at localhost:")


async def test_a_broker_that_requires_our_certificate_is_reported(mutual: Callable[..., Settings]) -> None:
    told = await refusal(connection_of(mutual(kafka_ssl_cert=None, kafka_ssl_key=None), "test"))
    assert "requires a client certificate; set AWAKEABLES_KAFKA_SSL_CERT" in told


async def test_a_certificate_that_the_broker_does_not_trust_is_reported(
    mutual: Callable[..., Settings], strangers: Papers
) -> None:
    settings = mutual(kafka_ssl_cert=strangers.cert, kafka_ssl_key=strangers.key)
    assert "refuses our certificate" in await refusal(connection_of(settings, "test"))


async def test_credentials_at_a_port_that_takes_none_are_reported(
    sasl: Callable[..., Settings], broker: SecuredKafka
) -> None:
    told = await refusal(connection_of(sasl(kafka=broker.astray_bootstrap), "test"))
    assert "takes no credentials at this port" in told


async def test_a_port_that_speaks_something_else_is_reported(broker: SecuredKafka, papers: Papers) -> None:
    told = await refusal(connection_of(load_settings(kafka=broker.bootstrap), "test"))
    assert "AWAKEABLES_KAFKA_SECURITY_PROTOCOL=PLAINTEXT is not the protocol of this port" in told
    no_user = load_settings(kafka=broker.bootstrap, kafka_security_protocol="SSL", kafka_ssl_ca=papers.ca)
    told = await refusal(connection_of(no_user, "test"))
    assert "AWAKEABLES_KAFKA_SECURITY_PROTOCOL=SSL is not the protocol of this port" in told


async def test_a_broker_that_is_not_there_is_reported(sasl: Callable[..., Settings]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    told = await refusal(connection_of(sasl(kafka=nobody), "test"))
    assert told == (f"BrokerUnavailable: nothing listens at {nobody}; start Kafka, or check AWAKEABLES_KAFKA")
    told = await refusal(connection_of(sasl(kafka="kafka.invalid:9092"), "test"))
    assert "the host of kafka.invalid:9092 can't be resolved" in told


async def test_one_broker_of_several_is_enough_to_know_why(
    sasl: Callable[..., Settings], broker: SecuredKafka
) -> None:
    both = f"127.0.0.1:{free_port()},{broker.bootstrap}"
    told = await refusal(connection_of(sasl(kafka=both, kafka_sasl_password=WRONG), "test"))
    assert "refuses the credentials of user 'shop'" in told


async def test_topics_that_an_acl_forbids_are_reported(
    sasl: Callable[..., Settings], broker: SecuredKafka, said: list[EventDict]
) -> None:
    app = new_app("forbidden")
    await asyncio.to_thread(broker.deny, USER, "topic", "forbidden-")
    async with serving(app, sasl()) as http:
        told = await problem_of(http)
        failed = await http.post("/orders/fulfil", json={"topic": "forbidden-tasks"})
    assert told == f"Kafka does not let user 'shop' use topic '{app.completions_topic}'; grant it by an ACL"
    assert failed.json()["detail"] == (
        "publish-failed: Kafka does not let user 'shop' use topic 'forbidden-tasks'; grant it by an ACL"
    )
    [publish] = [line for line in said if line["event"] == events.EFFECT_REFUSED]
    assert "Kafka does not let user 'shop' use topic 'forbidden-tasks'" in repr(publish)


async def test_a_topic_that_an_acl_lets_us_see_and_not_read_is_reported(
    sasl: Callable[..., Settings], broker: SecuredKafka
) -> None:
    app = new_app("unread")
    await create_topics(connection_of(sasl(), "test"), {app.completions_topic: 1})
    await asyncio.to_thread(broker.deny, USER, "topic", "unread-", but="Describe")
    async with serving(app, sasl()) as http:
        told = await problem_of(http, "partition 0")
    assert told == f"Kafka does not let us read topic '{app.completions_topic}'; grant it by an ACL"


async def test_a_group_that_an_acl_forbids_is_logged_by_the_worker_once(
    sasl: Callable[..., Settings], broker: SecuredKafka, said: list[EventDict]
) -> None:
    await asyncio.to_thread(broker.deny, USER, "group", "barred-")
    worker = Worker(f"barred-{secrets.token_hex(4)}")

    @worker.task("barred-tasks")
    async def pack(task: Task[int]) -> int:
        return task.payload

    await create_topics(connection_of(sasl(), "test"), {"barred-tasks": 1})
    async with performing(worker, sasl()):
        [told] = await eventually(lambda: refusals(said), 20)
    assert told["error"] == f"Kafka does not let user 'shop' use group '{worker.name}'; grant it by an ACL"


@pytest.mark.parametrize("but", [None, "Read"], ids=["unseen", "unwritten"])
async def test_a_topic_that_the_worker_may_not_answer_to_is_reported(
    sasl: Callable[..., Settings], broker: SecuredKafka, said: list[EventDict], but: str | None
) -> None:
    worker, replies = new_worker(), f"mute-{but}-replies"
    connection, [tasks] = connection_of(sasl(), "test"), list(worker.topics)
    await create_topics(connection, {tasks: 1, replies: 1})
    await asyncio.to_thread(broker.deny, USER, "topic", replies, but=but)
    await publish_tasks(broker.bootstrap, tasks, replies, [1], **connection.security.client_options())
    async with working(worker, connection, drain_timeout=timedelta(0)):  # it never could answer
        await eventually(lambda: [line for line in said if replies in str(line.get("error"))], 20)
    [told, *_] = [line["error"] for line in said if replies in str(line.get("error"))]
    assert told == f"Kafka does not let user 'shop' use topic '{replies}'; grant it by an ACL"


@pytest.mark.parametrize("but", [None, "Read"], ids=["unseen", "unwritten"])
async def test_case_o15_a_task_to_answer_where_the_worker_may_not_write_is_a_dead_letter_and_the_next_is_done(
    sasl: Callable[..., Settings],
    broker: SecuredKafka,
    monkeypatch: pytest.MonkeyPatch,
    but: str | None,
) -> None:
    monkeypatch.setattr(answers, "TOPIC_TIMEOUT_S", 2.0)
    unique = secrets.token_hex(4)
    worker, forbidden, replies = new_worker(), f"shut-{unique}-replies", f"open-{unique}-replies"
    connection, [tasks] = connection_of(sasl(), "test"), list(worker.topics)
    await create_topics(connection, {tasks: 1, f"{tasks}.dlq": 1, forbidden: 1, replies: 1})
    await asyncio.to_thread(broker.deny, USER, "topic", forbidden, but=but)
    options = connection.security.client_options()
    await publish_tasks(broker.bootstrap, tasks, forbidden, [1, 2], **options)
    await publish_tasks(broker.bootstrap, tasks, replies, [3], **options)
    async with (
        answers_in(broker.bootstrap, f"{tasks}.dlq", **options) as letters,
        answers_in(broker.bootstrap, replies, **options) as done,
        working(worker, connection),
    ):
        for letter in await letters.at_least(2):
            assert ("awakeable-error-code", b"unanswerable") in letter.headers
            assert "does not let user 'shop' use topic" in repr(letter.headers)
        assert len(await done.at_least(1)) == 1


# ── going on ───────────────────────────────────────────────────────────────────────────────────


async def test_a_service_and_a_worker_that_are_refused_say_so_once_and_go_on_once_let_in(
    sasl: Callable[..., Settings], broker: SecuredKafka, said: list[EventDict]
) -> None:
    app, worker, user = new_app(), new_worker(), f"late-{secrets.token_hex(4)}"
    await create_all(sasl(), app, worker)
    settings = sasl(kafka_sasl_username=user)
    async with serving(app, settings) as http, performing(worker, settings):
        told = await problem_of(http)
        assert f"refuses the credentials of user '{user}'" in told
        assert (await http.get("/health/live")).status_code == 200
        begun = await http.post("/orders/fulfil/send", json={"topic": next(iter(worker.topics)), "number": 7})
        await eventually(lambda: len(refusals(said)) == 3, 20)

        await asyncio.to_thread(broker.let_in, user)

        await eventually(lambda: is_ready(http), 20)
        output = await http.get(f"/invocations/{begun.json()['invocation_id']}/attach")
    assert output.json() == 7, output.text
    # The service's, the worker's consumer's and its producer's: each once, whatever they try.
    assert len(refusals(said)) == 3
    assert PASSWORD not in repr(said)


def refusals(said: list[EventDict]) -> list[EventDict]:
    return [line for line in said if line["event"] == events.BROKER_REFUSED]


# ── secrets ────────────────────────────────────────────────────────────────────────────────────


async def test_no_process_shows_a_secret_at_any_log_level(broker: SecuredKafka, papers: Papers) -> None:
    port = free_port()
    environment = os.environ | {
        "AWAKEABLES_KAFKA": broker.bootstrap,
        "AWAKEABLES_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "AWAKEABLES_KAFKA_SASL_MECHANISM": "PLAIN",
        "AWAKEABLES_KAFKA_SASL_USERNAME": USER,
        "AWAKEABLES_KAFKA_SASL_PASSWORD": WRONG,
        "AWAKEABLES_KAFKA_SSL_CA": str(papers.ca),
        "AWAKEABLES_STORE": "memory:",
        "AWAKEABLES_PORT": str(port),
        "AWAKEABLES_LOG_LEVEL": "debug",
    }
    shown = b""
    for words in (("serve", "shop:app"), ("worker", "shop:packer")):
        process = await asyncio.create_subprocess_exec(
            AWAKEABLES, *words, cwd=EXAMPLES, env=environment, stdout=-1, stderr=asyncio.subprocess.STDOUT
        )
        assert process.stdout is not None
        async with asyncio.timeout(40):
            async for line in process.stdout:
                shown += line
                if b"refuses the credentials of user 'shop'" in line:
                    break
            else:
                pytest.fail(f"{words} ended: {shown.decode()}")
            if "serve" in words:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                    for path in ("/health/ready", "/health/live", "/metrics", "/invocations"):
                        shown += (await http.get(path)).content
            process.send_signal(signal.SIGTERM)
            shown += (await process.communicate())[0]
        assert process.returncode == 0, shown.decode()
    assert PASSWORD.encode() not in shown
