"""An embedded Kafka broker, for development and tests only.

It is librdkafka's mock cluster, from the `confluent-kafka` wheel (the `dev` extra), run in a separate
process so that a crash in C code, or an injected fault, does not take the service down. It has one broker
and keeps everything in memory; all data is lost at exit. Differences from Kafka:

- A partition keeps its newest 5 MiB (or 100,000 batches); older records are dropped silently.
- A topic that a client names is created, with 4 partitions.
- A new record does not wake a waiting fetch: `fetch_max_wait_ms` is the latency, so keep it at 5.
- No admin protocol (CreateTopics and so on), no offsets by timestamp.
- No transactions for aiokafka: uncommitted and aborted records are visible under `read_committed`, and
  transaction markers fail their CRC check.
- Consumer groups work for one aiokafka member; rejoining takes the rest of the old member's session.

`EmbeddedBroker` starts this process and controls it. To run it by hand:
`python -m awakeables.devbroker --topic NAME:PARTITIONS`. The first line on stdout is
`{"bootstrap": "127.0.0.1:PORT"}`; each JSON line on stdin is answered with `{"ok": true}` or
`{"error": "..."}`; end of file on stdin stops it.

| command | effect |
|---|---|
| `{"create": "orders", "partitions": 4}` | creates the topic, unless it exists |
| `{"down": true}` | closes all connections and refuses new ones; the data stays |
| `{"up": true}` | accepts connections again, on the same port |
| `{"rtt_ms": 20}` | delays every response of the broker |
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
    "the embedded broker needs the extra `dev`, which is not installed: install awakeables[dev] (see "
    "README.md), or use your own Kafka with --kafka HOST:PORT"
)
_NOT_RUNNING = "the embedded broker is not running; use `async with`"

# The wheel repair tools (auditwheel, delocate, delvewheel) each use their own folder and add a hash to
# the name. Last comes the extension module itself: symbols are also looked up in the libraries that it
# links to, which finds a system-wide librdkafka.
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
_MOST_PARTITIONS = 1000  # far above any use here, so that a typo can't exhaust the machine's memory
_LONGEST_RTT_MS = 600_000  # C takes an int; no client waits this long
_QUIET = b"3"  # syslog "error": the rest is the idle client handle complaining about brokers that are down
_ANSWER_TIMEOUT = timedelta(seconds=10)
_END_TIMEOUT = timedelta(seconds=5)


class EmbeddedBrokerError(OperatorError):
    """The embedded broker did not start, has exited, or rejected a command."""


def find_library() -> Path:
    """Find the shared library with the mock cluster, without loading anything.

    Raises:
        MissingDependency: `confluent-kafka` is not installed.
        EmbeddedBrokerError: The package has no library in the expected places.
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
    raise EmbeddedBrokerError(f"no librdkafka in or next to {package}; reinstall confluent-kafka")


class _MockCluster:
    """A mock cluster of one broker, running in this process until it exits.

    Raises:
        EmbeddedBrokerError: The library is missing, has no mock cluster, or rejected a call.
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
        # By default, every first join waits three seconds for more members.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        # Without a controller, some clients (kafkajs, aiokafka's admin) reject the cluster.
        self._library.rd_kafka_mock_set_controller_id(self._cluster, _BROKER)

    @property
    def bootstrap(self) -> str:
        """The address that clients connect to, `127.0.0.1:PORT`."""
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create the topic, unless it exists."""
        if not _TOPIC_NAME.fullmatch(topic):
            raise EmbeddedBrokerError(f"not a topic name: {topic!r}")
        if not 1 <= partitions <= _MOST_PARTITIONS:
            raise EmbeddedBrokerError(
                f"topic {topic!r} can't have {partitions} partitions, only 1 to {_MOST_PARTITIONS}"
            )
        code = self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        if code != _TOPIC_ALREADY_EXISTS:
            self._check(code)

    def down(self) -> None:
        """Close all connections and refuse new ones."""
        self._check(self._library.rd_kafka_mock_broker_set_down(self._cluster, _BROKER))

    def up(self) -> None:
        """Accept connections again."""
        self._check(self._library.rd_kafka_mock_broker_set_up(self._cluster, _BROKER))

    def round_trip_time(self, rtt_ms: int) -> None:
        """Delay every response."""
        if not 0 <= rtt_ms <= _LONGEST_RTT_MS:
            raise EmbeddedBrokerError(f"not a round-trip time: {rtt_ms} ms")
        self._check(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, _BROKER, rtt_ms))

    def _check(self, code: int) -> None:
        if code:
            text: bytes = self._library.rd_kafka_err2str(code)
            raise EmbeddedBrokerError(f"librdkafka reported an error: {text.decode()} ({code})")


def _load(path: Path) -> ctypes.CDLL:
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    # Without declarations, ctypes would truncate the 64-bit handles to an int.
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
        # librdkafka does not promise a stable interface for its mock; the extra pins the version.
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
            raise EmbeddedBrokerError(f"unknown command {command!r}; use create, down, up or rtt_ms")


def _reply(cluster: _MockCluster, line: bytes) -> Mapping[str, object]:
    try:
        _execute(cluster, json.loads(line))
    except ValueError as error:
        return {"error": f"not a JSON line: {error}"}
    except EmbeddedBrokerError as error:
        return {"error": str(error)}
    return {"ok": True}


def _write(message: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _topic_option(text: str) -> tuple[str, int]:
    topic, _, partitions = text.rpartition(":")
    return topic, int(partitions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker until end of file on stdin or SIGTERM; return the exit status.

    SIGINT is ignored: Ctrl-C reaches every process of the terminal, and the parent still needs its broker
    while it drains.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    parser = argparse.ArgumentParser(
        prog="python -m awakeables.devbroker",
        description="An in-memory Kafka broker, for development only. Stops at end of input (Ctrl-D).",
    )
    parser.add_argument("--topic", type=_topic_option, action="append", default=[], metavar="NAME:PARTITIONS")
    topics: list[tuple[str, int]] = parser.parse_args(arguments).topic
    try:
        cluster = _MockCluster()
        for topic, partitions in topics:
            cluster.create_topic(topic, partitions)
    except OperatorError as error:
        _write({"error": str(error)})
        return 1
    _write({"bootstrap": cluster.bootstrap})
    for line in sys.stdin.buffer:
        _write(_reply(cluster, line))
    return 0


class EmbeddedBroker:
    """A Kafka broker in a child process: for development and tests only.

    It keeps 5 MiB per partition in memory; all data is lost at exit. Use it once, as an async context
    manager. The process stops on leaving the block, and when this process dies, even by SIGKILL. Several
    tasks may issue commands; they are executed one at a time.

    Args:
        start_timeout: How long the child may take to become ready (usually 0.3 s).

    Raises:
        MissingDependency: On entry, if the `dev` extra is missing.
        EmbeddedBrokerError: On entry, if the child was not ready in time; from every method, if the
            broker rejects the command or is not running.
    """

    def __init__(self, *, start_timeout: timedelta = timedelta(seconds=15)) -> None:
        self._start_timeout = start_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._bootstrap: str | None = None
        self._turn = asyncio.Lock()
        self._replies_due = 1  # the address comes first, without a command

    async def __aenter__(self) -> Self:
        """Start the child and wait for its address."""
        find_library()  # reports a missing library without starting a process
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "awakeables.devbroker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._start_timeout.total_seconds()):
                self._bootstrap = str((await self._receive())["bootstrap"])
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
        """Stop the child; kill it if it does not exit."""
        await self._end()

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap_servers`, `127.0.0.1:PORT`; the port differs at each start."""
        if self._bootstrap is None:
            raise EmbeddedBrokerError(_NOT_RUNNING)
        return self._bootstrap

    async def create_topic(self, topic: str, *, partitions: int) -> None:
        """Create the topic, unless it exists; its number of partitions never changes.

        Create it before any client names it, or the broker creates it with 4 partitions.
        """
        await self._send({"create": topic, "partitions": partitions})

    async def down(self) -> None:
        """Close all connections and refuse new ones until `up`. Topics and records stay."""
        await self._send({"down": True})

    async def up(self) -> None:
        """Accept connections again, on the same port."""
        await self._send({"up": True})

    async def round_trip_time(self, delay: timedelta) -> None:
        """Delay every response of the broker, in whole milliseconds; zero removes the delay."""
        await self._send({"rtt_ms": delay // timedelta(milliseconds=1)})

    async def _send(self, command: Mapping[str, object]) -> None:
        async with self._turn:
            stdin, _ = self._pipes()
            stdin.write(json.dumps(command).encode() + b"\n")
            self._replies_due += 1
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT.total_seconds()):
                    # An earlier caller may have been cancelled before its reply arrived.
                    while self._replies_due > 1:
                        await self._read()
                    await self._receive()
            except TimeoutError as error:
                raise EmbeddedBrokerError(
                    f"the embedded broker did not answer {command!r} within {_ANSWER_TIMEOUT}"
                ) from error

    async def _receive(self) -> Mapping[str, object]:
        message: Mapping[str, object] = json.loads(await self._read())
        if "error" in message:
            raise EmbeddedBrokerError(str(message["error"]))
        return message

    async def _read(self) -> bytes:
        _, stdout = self._pipes()
        line = await stdout.readline()
        if not line:
            raise EmbeddedBrokerError("the embedded broker exited unexpectedly; see its stderr")
        self._replies_due -= 1
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
        process.stdin.close()  # end of file tells the child to exit
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
