"""A real Apache Kafka in a container, on a loopback port of its own."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import secrets
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from itertools import count, islice
from typing import TYPE_CHECKING, Protocol, Self, cast

# Read by testcontainers when it is imported. Without the first two it looks for the broker on
# the bridge's address; Ryuk's image cannot be had where no image registry is in reach.
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from testcontainers.core.container import DockerContainer

from support.this_run import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from docker.models.containers import Container

LOOPBACK = "127.0.0.1"
CLIENT_PORT = 9092
SECOND_PORT = 9095
START_TIMEOUT_S = 240.0
"""So long a broker may take at most, on a machine that is busy with everything else; it takes 5."""
STARTED = b"Kafka Server started"
OWNER_LABEL = "awakeables.test.owner"


class TopicFactory(Protocol):
    """What the fixture `topic` hands out."""

    async def __call__(self, name: str, *, partitions: int = 4, **configs: object) -> str:
        """Create a topic named after `name` and return its unique name.

        A config is spelled with underscores: `retention_ms=1000` sets `retention.ms`.
        """
        ...


class BrokerNotReadyError(Exception):
    """The broker did not come up; the message ends with its last log lines."""


def image() -> str:
    """The image that a broker is started from; honours the contract of apache/kafka."""
    return os.environ.get("TEST_KAFKA_IMAGE", "awakeables-test/kafka:4.3.1")


def reason_real_kafka_is_missing() -> str | None:
    """One sentence on why no broker can be started here, or None."""
    client = None
    with contextlib.suppress(DockerException):
        client = docker.from_env()
    if client is None:
        # Its socket is left to the collector, whose warning would hit whichever test comes next.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        return "No Docker engine answers; `.ci/engine` starts one."
    try:
        client.images.get(image())
    except ImageNotFound:
        return f"The image {image()} is not there; `.ci/engine` builds it."
    except DockerException as error:
        return f"The Docker engine does not answer properly: {error}"
    finally:
        client.close()
    return None


def run_in_container(container: Container, *command: str) -> tuple[int, bytes]:
    """The exit code of a command in a running container, and what it wrote to either output.

    By Docker's command line: `exec_run` of the SDK loses output that comes together with the head of the
    engine's answer (docker-py issue 3332), so on a busy machine.
    """
    done = subprocess.run(
        ["docker", "exec", str(container.id), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.returncode, done.stdout


class RealKafka:
    """One KRaft node; the port and the data stay the same over every restart.

    All methods block. In an async test: `await asyncio.to_thread(kafka.restart)`.
    """

    def __init__(
        self,
        *,
        auto_create_topics: bool = False,
        short_lived: bool = True,
        advertised_port: int | None = None,
    ) -> None:
        """Describe a broker; `start` starts it.

        Args:
            auto_create_topics: Whether a topic is made by asking for it.
            short_lived: Start with the least CPU time, rather than with a JVM that is fast after a minute.
            advertised_port: It has a second listener, at `second_port`, which tells its clients to come to
                this port of the loopback interface: there something is in between.
        """
        self._auto_create_topics = auto_create_topics
        self._short_lived = short_lived
        self._advertised_port = advertised_port
        self.second_port = 0
        self._broker: Container | None = None
        self._port = 0

    @classmethod
    def attached(cls, container_id: str, port: int) -> Self:
        """A broker that another process has started. Raises `docker.errors.NotFound`."""
        kafka = cls()
        kafka._broker, kafka._port = docker.from_env().containers.get(container_id), port
        return kafka

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients. Raises `RuntimeError` before `start`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        self._container()
        return self._port

    @property
    def container_id(self) -> str:
        return str(self._container().id)

    def start(self) -> None:
        """Start a broker with no data. Raises `BrokerNotReadyError`."""
        if self._broker is not None:
            raise RuntimeError("The broker is started already.")
        remove_orphans()
        self._port = free_port()
        described = self._described_container()
        described.start()
        self._broker = described.get_wrapped_container()
        atexit.register(self.stop)
        try:
            self._wait_until_started(times=1)
        except BaseException:
            self.stop()
            raise

    def leave_running(self) -> None:
        """The end of this process does not stop it."""
        atexit.unregister(self.stop)

    def detach(self) -> None:
        """Close what leads to it; it runs on."""
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.client.close()

    def stop(self) -> None:
        """Remove the container and its data. Does nothing when there is none."""
        broker, self._broker = self._broker, None
        atexit.unregister(self.stop)
        if broker is not None:
            with contextlib.suppress(NotFound):
                broker.remove(force=True, v=True)
            broker.client.close()

    def take_down(self, *, abruptly: bool = False) -> None:
        """Stop the broker and keep its data: cleanly, or `abruptly` as `kill -9` would.

        After an abrupt end `bring_up` takes about 10 s longer: the controller lets nobody
        register as this node until the dead one's session (9 s) is over.
        """
        container = self._container()
        if abruptly:
            container.kill()
            container.wait(timeout=START_TIMEOUT_S)
        else:
            container.stop(timeout=30)

    def bring_up(self) -> None:
        """Start the broker that `take_down` stopped. Raises `BrokerNotReadyError`."""
        starts = self._logs().count(STARTED)
        self._container().start()
        self._wait_until_started(times=starts + 1)

    def restart(self) -> None:
        """Stop the broker cleanly and start it again, on the same port, with its data."""
        self.take_down()
        self.bring_up()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block it takes what it is sent and answers nothing; for some seconds at most."""
        self._container().pause()
        try:
            yield
        finally:
            self._container().unpause()

    def read_log(self, topic: str, partition: int = 0) -> bytes:
        """The first segment of a partition, as it lies on the broker's disk."""
        return self._run("cat", _segment(topic, partition))

    def write_log(self, topic: str, at: int, content: bytes, partition: int = 0) -> None:
        """Overwrite some bytes of that segment, as a failing disk would."""
        digits = "".join(f"\\{byte:03o}" for byte in content)
        segment = _segment(topic, partition)
        command = f"printf '{digits}' | dd of={segment} bs=1 seek={at} conv=notrunc"
        self._run("sh", "-c", command)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, *command: str) -> bytes:
        code, output = run_in_container(self._container(), *command)
        assert code == 0, output
        return output

    def _container(self) -> Container:
        if self._broker is None:
            raise RuntimeError("The broker is not started: call start() first.")
        return self._broker

    def _described_container(self) -> DockerContainer:
        container = DockerContainer(image(), env=self._environment())
        # with_bind_ports can only bind every interface; docker itself takes (address, port).
        container.ports[f"{CLIENT_PORT}/tcp"] = cast("int", (LOOPBACK, self._port))
        if self._advertised_port is not None:
            self.second_port = free_port()
            container.ports[f"{SECOND_PORT}/tcp"] = cast("int", (LOOPBACK, self.second_port))
        owner = f"{socket.gethostname()}:{RUN}"
        return container.with_kwargs(labels={OWNER_LABEL: owner})

    def _environment(self) -> dict[str, str]:
        # What the second compiler and G1's threads save comes too late for tests.
        quick = {"KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"}
        listeners = {
            "EXTERNAL": (CLIENT_PORT, f"{LOOPBACK}:{self._port}"),
            "BROKER": (9094, "localhost:9094"),
        }
        if self._advertised_port is not None:
            listeners["SECOND"] = (SECOND_PORT, f"{LOOPBACK}:{self._advertised_port}")
        bound = [f"{name}://:{port}" for name, (port, _) in listeners.items()]
        advertised = [f"{name}://{address}" for name, (_, address) in listeners.items()]
        return (quick if self._short_lived else {}) | {
            "CLUSTER_ID": "5L6g3nShT-eMCtK--X86sw",
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            # BROKER is the broker's way to itself: the advertised port exists on the host only,
            # and a transactional produce asks the coordinator over the inter-broker listener.
            "KAFKA_LISTENERS": ",".join([*bound, "CONTROLLER://:9093"]),
            "KAFKA_ADVERTISED_LISTENERS": ",".join(advertised),
            "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": ",".join(
                f"{name}:PLAINTEXT" for name in (*listeners, "CONTROLLER")
            ),
            "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": str(self._auto_create_topics).lower(),
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            # 6 s by default; for tests of members that die.
            "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "500",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            # 50 by default, and each costs a directory on the first commit.
            "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
            "KAFKA_HEAP_OPTS": "-Xmx512m -Xms256m",
        }

    def _logs(self) -> bytes:
        return bytes(self._container().logs())

    def _wait_until_started(self, *, times: int) -> None:
        """Return once the log tells of the `times`-th start: it keeps the former ones."""
        container = self._container()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._logs().count(STARTED) < times:
            container.reload()
            if container.status not in {"created", "running"} or time.monotonic() > deadline:
                tail = self._logs()[-3000:].decode(errors="replace")
                raise BrokerNotReadyError(f"Kafka is {container.status}, not ready.\n{tail}")
            time.sleep(0.1)


def _segment(topic: str, partition: int) -> str:
    return f"/var/lib/kafka/data/{topic}-{partition}/{0:020}.log"


PORTS_OF_A_PROCESS = 600
"""Of those from 20000 to 29599; sixteen processes of a test run have ports of their own."""


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw15").removeprefix("gw")) % 16
    start = secrets.randbelow(PORTS_OF_A_PROCESS)
    for number in count(start):
        yield 20_000 + worker * PORTS_OF_A_PROCESS + number % PORTS_OF_A_PROCESS


_PORTS = _ports()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on, and that no other test is about to.

    Taken from below the range of ephemeral ports: while the broker is down, a client that
    reconnects to a port in that range can be given the same port as its source, connect to
    itself, and keep the broker from coming back.
    """
    for port in islice(_PORTS, PORTS_OF_A_PROCESS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise OSError("All ports of this process, between 20000 and 29599, are in use.")


def remove_orphans() -> None:
    """Remove brokers whose test run ended without its exit handlers: SIGTERM, SIGKILL."""
    client = docker.from_env()
    try:
        for container in client.containers.list(
            all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
        ):
            host, _, pid = container.labels[OWNER_LABEL].rpartition(":")
            if host == socket.gethostname() and not _is_alive(int(pid)):
                # Another run may be removing it at this moment.
                with contextlib.suppress(APIError):
                    container.remove(force=True, v=True)
    finally:
        client.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
