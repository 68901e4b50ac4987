"""An app on a Kafka: topics of a name of its own, and the processes around it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from benchmarks.processes import Process, free_port, running

PARTITIONS = 4
RUN_CLI = ("-c", "from awakeables.cli import main; main()")
TOOL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where it is measured.

    Attributes:
        bootstrap: A Kafka; topics are made there.
        folder: On the disk that counts.
    """

    bootstrap: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process that answers on a port."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A private key in a file, and its public key; in PEM."""

    private: Path
    public: str


class Stage:
    """What one measurement starts; `staged` ends it.

    Attributes:
        name: The app's; its topics begin with it.
        folder: For databases and logs.
    """

    def __init__(self, ground: Ground, folder: Path, name: str, stack: ExitStack) -> None:
        self.name = name
        self.folder = folder
        self.kafka = ground.bootstrap
        self._stack = stack

    @property
    def floor_topic(self) -> str:
        return f"{self.name}.floor"

    @property
    def completions_topic(self) -> str:
        return f"{self.name}.completions"

    def serve(
        self,
        store: Path | str,
        settings: Mapping[str, str] | None = None,
        *,
        checkout: Path | None = None,
        app: str = "benchmarks.cycle:app",
    ) -> Server:
        """Start `awakeables serve` on this database; returns at once.

        Args:
            store: The SQLite file, or a database's URL.
            settings: More of the service's settings, by their variables.
            checkout: Another checkout whose service it is, installed in its `.venv`; None: this one.
            app: What is served.
        """
        port, program = free_port(), None
        if checkout is not None:
            checkout = checkout.absolute()
            program = str(checkout / ".venv/bin/python")
            settings = {"PYTHONPATH": str(checkout)} | dict(settings or {})
        process = self.start(
            "ours",
            *(*RUN_CLI, "serve", app, "--kafka", self.kafka),
            *("--port", str(port), "--store", str(store)),
            environment=settings,
            program=program,
            starts_in=checkout,  # it has an app of its own
        )
        return Server(process=process, port=port)

    def floor(self) -> Server:
        """Start the floor; returns at once."""
        port = free_port()
        at = ("--kafka", self.kafka, "--port", str(port))
        return Server(process=self.start("floor", "-m", "benchmarks.floor", *at), port=port)

    def plain_worker(self, answer_at: Mapping[str, str] | None = None) -> Process:
        """Start the lightest worker; it answers over HTTP where `answer_at` has a task's `reply_to`."""
        answers = (word for pair in (answer_at or {}).items() for word in ("--answer", *pair))
        return self.start("worker", "-m", "benchmarks.plain_worker", "--kafka", self.kafka, *answers)

    def sdk_worker(self) -> Process:
        """Start a worker of the SDK."""
        return self.start("worker", *RUN_CLI, "worker", "benchmarks.cycle:worker", "--kafka", self.kafka)

    def key_pair(self) -> KeyPair:
        """A new pair of keys for a function."""
        key = Ed25519PrivateKey.generate()
        pem, private = Encoding.PEM, self.folder / "private.pem"
        private.write_bytes(key.private_bytes(pem, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo)
        return KeyPair(private=private, public=public.decode())

    def run(self, what: str, *arguments: str) -> str:
        """Run a tool of ours to its end; what it said.

        Raises:
            Failed: It failed or took too long.
        """
        return self.start(what, *arguments).finish(TOOL_TIMEOUT_S)

    def start(
        self,
        what: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        program: str | None = None,
        starts_in: Path | None = None,
    ) -> Process:
        """Start a process that is ended with the stage."""
        variables = {"BENCH_NAME": self.name} | dict(environment or {})
        of = {} if program is None else {"program": program}
        return self._stack.enter_context(
            running(what, arguments, folder=self.folder, environment=variables, starts_in=starts_in, **of)
        )


@contextmanager
def staged(ground: Ground) -> Iterator[Stage]:
    """A stage with its topics; its processes are ended when the block is left."""
    name = f"bench-{secrets.token_hex(3)}"
    topics = {f"{name}.{what}": PARTITIONS for what in ("tasks", "floor", "completions")}
    connection = KafkaConnection(bootstrap=ground.bootstrap)
    asyncio.run(create_topics(connection, topics | {f"{name}.completions.dlq": 1}))
    folder = ground.folder / name
    folder.mkdir()
    with ExitStack() as stack:
        yield Stage(ground, folder, name, stack)
