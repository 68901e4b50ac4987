"""An embedded Kafka broker, for development and tests only.

It is the mock cluster of librdkafka, taken from the `confluent-kafka` wheel (the `dev` extra) and
run in a process of its own: a crash in C code, or a fault injected on purpose, does not take the
service along. One broker, memory only: what it holds is lost at exit. How it differs from Kafka:

- A partition keeps its newest 5 MiB (or 100 000 batches); older records are dropped without a word.
- A topic that a client names comes into being with 4 partitions.
- A record does not wake a fetch that waits: `fetch_max_wait_ms` is the latency, so keep it at 5.
- No admin protocol (CreateTopics and its kin), no offsets by timestamp.
- No transactions for aiokafka: uncommitted and aborted records are seen under `read_committed`, and
  the markers fail the check of their CRC.
- Groups are for one aiokafka member; to join again takes the rest of the old member's session.

`EmbeddedBroker` starts that process and talks to it. By hand it is
`python -m awakeables.devbroker --topic NAME:PARTITIONS`: the first line on stdout is
`{"bootstrap": "127.0.0.1:PORT"}`; each JSON line on stdin is then answered with `{"ok": true}` or
`{"error": "..."}`; the end of stdin ends it.

| command | effect |
|---|---|
| `{"create": "orders", "partitions": 4}` | the topic exists; nothing happens if it did before |
| `{"down": true}` | connections are cut, new ones refused; what is stored stays |
| `{"up": true}` | connections are accepted again, on the same port |
| `{"rtt_ms": 20}` | every answer of the broker takes that long |
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib.util
import json
import re
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from awakeables.errors import MissingDependency, OperatorError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType, TracebackType

_MISSING = (
    "the embedded broker needs the extra `dev`, which is not installed: install awakeables[dev] (README.md "
    "says from where), or use a Kafka of your own with --kafka HOST:PORT"
)
_NOT_RUNNING = "the embedded broker is not running; use `async with`"

# The wheels' repair tools (auditwheel, delocate, delvewheel) each have their own place and hash the
# name. Last, the extension module itself: a symbol is looked up in the libraries it links to as
# well, which finds a librdkafka that came with the system.
_LIBRARIES = (
    "../confluent_kafka.libs/librdkafka-*.so*",
    ".dylibs/librdkafka*.dylib",
    "../confluent_kafka.libs/librdkafka*.dll",
    "cimpl*",
)

_PRODUCER = 0  # RD_KAFKA_PRODUCER: the mock hangs on a client handle, which is never used as a client
_BROKER = 1  # the brokers of a mock cluster are numbered from 1
_TOPIC_ALREADY_EXISTS = 36  # Kafka's error code
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MOST_PARTITIONS = 1000  # far above any use here; a slip must not eat the machine's memory
_LONGEST_RTT_MS = 600_000  # C takes an int; no client waits this long
_QUIET = b"3"  # syslog "error": the rest is the idle client handle complaining of brokers set down
_ANSWER_TIMEOUT = timedelta(seconds=10)
_END_TIMEOUT = timedelta(seconds=5)


class EmbeddedBrokerError(OperatorError):
    """The embedded broker could not be started, has ended, or refused a command."""


def find_library() -> Path:
    """Find the shared library that carries the mock cluster, without loading anything.

    Raises:
        MissingDependency: `confluent-kafka` is not installed.
        EmbeddedBrokerError: It has no library where we look.
    """
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        raise MissingDependency(_MISSING)
    package = Path(spec.origin).parent
    for pattern in _LIBRARIES:
        folder, _, name = pattern.rpartition("/")
        for path in sorted((package / folder).glob(name)):
            if not path.name.endswith((".py", ".pyi")):
                return path
    raise EmbeddedBrokerError(f"no librdkafka in or beside {package}; reinstall confluent-kafka")


class _MockCluster:
    """A running mock cluster of one broker, in this process; it ends with the process.

    Raises:
        EmbeddedBrokerError: the library is missing, has no mock cluster, or refused a call.
    """

    def __init__(self) -> None:
        self._library = _load(find_library())
        reason = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", _QUIET, reason, len(reason))
        client = self._library.rd_kafka_new(_PRODUCER, settings, reason, len(reason))
        if not client:
            raise EmbeddedBrokerError(f"librdkafka did not start: {reason.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(client, 1)
        if not self._cluster:
            raise EmbeddedBrokerError("librdkafka did not start its mock cluster")
        # Three seconds of waiting for more members, by default, at every first join.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        # Without a controller some clients (kafkajs, aiokafka's admin) refuse the cluster.
        self._library.rd_kafka_mock_set_controller_id(self._cluster, _BROKER)

    @property
    def bootstrap(self) -> str:
        """The address that clients connect to, `127.0.0.1:PORT`."""
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def create_topic(self, topic: str, partitions: int) -> None:
        """Make the topic exist; one that exists is left as it is."""
        if not _TOPIC_NAME.fullmatch(topic):
            raise EmbeddedBrokerError(f"not a topic name: {topic!r}")
        if not 1 <= partitions <= _MOST_PARTITIONS:
            raise EmbeddedBrokerError(
                f"topic {topic!r} wants {partitions} partitions; 1 to {_MOST_PARTITIONS} will do"
            )
        code = self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        if code != _TOPIC_ALREADY_EXISTS:
            self._check(code)

    def down(self) -> None:
        """Cut all connections and refuse new ones."""
        self._check(self._library.rd_kafka_mock_broker_set_down(self._cluster, _BROKER))

    def up(self) -> None:
        """Accept connections again."""
        self._check(self._library.rd_kafka_mock_broker_set_up(self._cluster, _BROKER))

    def round_trip_time(self, rtt_ms: int) -> None:
        """Delay every answer."""
        if not 0 <= rtt_ms <= _LONGEST_RTT_MS:
            raise EmbeddedBrokerError(f"not a round-trip time: {rtt_ms} ms")
        self._check(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, _BROKER, rtt_ms))

    def _check(self, code: int) -> None:
        if code:
            text: bytes = self._library.rd_kafka_err2str(code)
            raise EmbeddedBrokerError(f"librdkafka refused: {text.decode()} ({code})")


def _load(path: Path) -> ctypes.CDLL:
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    # Undeclared, ctypes would cut the 64-bit handles down to an int.
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "rd_kafka_conf_new": (handle, []),
        "rd_kafka_conf_set": (ctypes.c_int, [handle, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (handle, [ctypes.c_int, handle, text, ctypes.c_size_t]),
        "rd_kafka_err2str": (text, [ctypes.c_int]),
        "rd_kafka_mock_cluster_new": (handle, [handle, ctypes.c_int]),
        "rd_kafka_mock_cluster_bootstraps": (text, [handle]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [handle, number]),
        "rd_kafka_mock_set_controller_id": (None, [handle, number]),
        "rd_kafka_mock_topic_create": (ctypes.c_int, [handle, text, ctypes.c_int, ctypes.c_int]),
        "rd_kafka_mock_broker_set_down": (ctypes.c_int, [handle, number]),
        "rd_kafka_mock_broker_set_up": (ctypes.c_int, [handle, number]),
        "rd_kafka_mock_broker_set_rtt": (ctypes.c_int, [handle, number, ctypes.c_int]),
    }
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        # librdkafka does not promise a stable interface of its mock; the extra pins the version.
        raise MissingDependency(f"{_MISSING} (found, but not usable: {error})") from error
    return library


def _execute(cluster: _MockCluster, command: object) -> None:
    match command:
        case {"create": str() as topic, "partitions": int() as partitions}:
            cluster.create_topic(topic, partitions)
        case {"down": True}:
            cluster.down()
        case {"up": True}:
            cluster.up()
        case {"rtt_ms": int() as rtt_ms}:
            cluster.round_trip_time(rtt_ms)
        case _:
            raise EmbeddedBrokerError(f"unknown command {command!r}; there are create, down, up and rtt_ms")


def _answer(cluster: _MockCluster, line: bytes) -> Mapping[str, object]:
    try:
        _execute(cluster, json.loads(line))
    except ValueError as error:
        return {"error": f"not a JSON line: {error}"}
    except EmbeddedBrokerError as error:
        return {"error": str(error)}
    return {"ok": True}


def _say(message: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _topic_option(text: str) -> tuple[str, int]:
    topic, _, partitions = text.rpartition(":")
    return topic, int(partitions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker until stdin ends or SIGTERM comes; return the exit status.

    SIGINT is ignored: Ctrl-C reaches every process of a terminal, and the parent wants its broker
    while it stops in order.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    parser = argparse.ArgumentParser(
        prog="python -m awakeables.devbroker",
        description="A Kafka broker in memory, for development only. Ends with its stdin (Ctrl-D).",
    )
    parser.add_argument("--topic", type=_topic_option, action="append", default=[], metavar="NAME:PARTITIONS")
    topics: list[tuple[str, int]] = parser.parse_args(arguments).topic
    try:
        cluster = _MockCluster()
        for topic, partitions in topics:
            cluster.create_topic(topic, partitions)
    except OperatorError as error:
        _say({"error": str(error)})
        return 1
    _say({"bootstrap": cluster.bootstrap})
    for line in sys.stdin.buffer:
        _say(_answer(cluster, line))
    return 0


class EmbeddedBroker:
    """A Kafka broker in a child process: for development and tests only.

    Memory only; it keeps 5 MiB per partition, and all of it is lost at exit. Use it as an async
    context manager, once. The process ends on leaving the block, and by itself when this process
    dies, even by SIGKILL. Commands may be given from several tasks; they are obeyed one by one.

    Args:
        start_timeout: how long the child may take until it is ready (0.3 s is usual).

    Raises:
        MissingDependency: on entry, if the `dev` extra is missing.
        EmbeddedBrokerError: on entry, if the child did not get ready in time; from every method,
            if the broker refuses or is not running.
    """

    def __init__(self, *, start_timeout: timedelta = timedelta(seconds=15)) -> None:
        self._start_timeout = start_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._bootstrap: str | None = None
        self._turn = asyncio.Lock()
        self._answers_due = 1  # the address comes unasked

    async def __aenter__(self) -> Self:
        """Start the child and wait until it has said its address."""
        find_library()  # says what is missing before a process is spent on finding out
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "awakeables.devbroker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._start_timeout.total_seconds()):
                self._bootstrap = str((await self._hear())["bootstrap"])
        except TimeoutError as error:
            await self._end()
            raise EmbeddedBrokerError(
                f"the embedded broker was not ready within {self._start_timeout}"
            ) from error
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the child; kill it if it does not obey."""
        await self._end()

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap_servers`, `127.0.0.1:PORT`; the port is new at each start."""
        if self._bootstrap is None:
            raise EmbeddedBrokerError(_NOT_RUNNING)
        return self._bootstrap

    async def create_topic(self, topic: str, *, partitions: int) -> None:
        """Make the topic exist; one that exists keeps the number of partitions that it has.

        Do it before any client names the topic, or the broker makes it up with 4 partitions.
        """
        await self._ask({"create": topic, "partitions": partitions})

    async def down(self) -> None:
        """Cut all connections and refuse new ones until `up`. Topics and records stay."""
        await self._ask({"down": True})

    async def up(self) -> None:
        """Accept connections again, on the same port."""
        await self._ask({"up": True})

    async def round_trip_time(self, delay: timedelta) -> None:
        """Delay every answer of the broker, in whole milliseconds; zero ends it."""
        await self._ask({"rtt_ms": delay // timedelta(milliseconds=1)})

    async def _ask(self, command: Mapping[str, object]) -> None:
        async with self._turn:
            stdin, _ = self._pipes()
            stdin.write(json.dumps(command).encode() + b"\n")
            self._answers_due += 1
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT.total_seconds()):
                    # An earlier caller may have been cancelled before its answer came.
                    while self._answers_due > 1:
                        await self._read()
                    await self._hear()
            except TimeoutError as error:
                raise EmbeddedBrokerError(
                    f"the embedded broker did not answer {command!r} within {_ANSWER_TIMEOUT}"
                ) from error

    async def _hear(self) -> Mapping[str, object]:
        message: Mapping[str, object] = json.loads(await self._read())
        if "error" in message:
            raise EmbeddedBrokerError(str(message["error"]))
        return message

    async def _read(self) -> bytes:
        _, stdout = self._pipes()
        line = await stdout.readline()
        if not line:
            raise EmbeddedBrokerError("the embedded broker ended unexpectedly; see its stderr")
        self._answers_due -= 1
        return line

    def _pipes(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EmbeddedBrokerError(_NOT_RUNNING)
        return process.stdin, process.stdout

    async def _end(self) -> None:
        process, self._process, self._bootstrap = self._process, None, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()  # the order to end
        try:
            async with asyncio.timeout(_END_TIMEOUT.total_seconds()):
                await process.communicate()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    sys.exit(main())
