"""One run: two servers, one worker, one Kafka, driven in turn."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from awakeables.kafka.connection import Connection
from awakeables.kafka.topics import create_topics
from benchmarks import disk, wrk
from benchmarks.processes import Process, free_port, running, wait_for_port

PARTITIONS = 4
WARM_UP_S = 3

WORKER_START_S = 15.0
"""A worker of the SDK joins a group first; until then the first call waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured.

    Attributes:
        in_flight: How many calls at once; one row of the table each.
        rounds: Pairs of drives per row: the floor, then ours.
        worker: `plain` or `sdk`.
    """

    in_flight: Sequence[int]
    seconds: int
    rounds: int
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """What `wrk` saw, and the processor time of server and worker, in microseconds per cycle."""

    measured: wrk.Measured
    server_us: float
    worker_us: float


@dataclass(frozen=True, slots=True)
class Row:
    """The drives of one number in flight; a floor and an ours of one index are a pair."""

    in_flight: int
    floor: list[Drive] = field(default_factory=list)
    ours: list[Drive] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Medians; the ratios are medians over the pairs."""
        pairs = [(ours.measured, floor.measured) for floor, ours in zip(self.floor, self.ours, strict=True)]
        return {
            "in_flight": self.in_flight,
            "floor": _medians(self.floor),
            "ours": _medians(self.ours),
            "ratio_per_second": statistics.median(
                ours.per_second / floor.per_second for ours, floor in pairs
            ),
            "ratio_p50": statistics.median(ours.p50_us / floor.p50_us for ours, floor in pairs),
        }


def _medians(drives: Sequence[Drive]) -> dict[str, float]:
    return {
        "per_second": statistics.median(drive.measured.per_second for drive in drives),
        "p50_ms": statistics.median(drive.measured.p50_us for drive in drives) / 1000,
        "p99_ms": statistics.median(drive.measured.p99_us for drive in drives) / 1000,
        "server_cpu_us": statistics.median(drive.server_us for drive in drives),
        "worker_cpu_us": statistics.median(drive.worker_us for drive in drives),
    }


def measure(bootstrap: str, folder: Path, plan: Plan) -> dict[str, Any]:
    """Drive both servers in turn, and check that the answers were true.

    Args:
        bootstrap: A Kafka; topics of a name of their own are made there.
        folder: An empty folder on the disk that counts.
        plan: What to measure.

    Raises:
        disk.Broken: The store does not sync, or what it has kept does not fit the answers.
        Failed: A process ended.
    """
    name = f"bench-{secrets.token_hex(3)}"
    topics = {f"{name}.{what}": PARTITIONS for what in ("tasks", "floor", "completions")}
    asyncio.run(create_topics(Connection(bootstrap=bootstrap), topics | {f"{name}.completions.dlq": 1}))
    disk.check_durability(folder)
    fsync_ms = disk.fsync_ms(folder)
    store = folder / "bench.db"
    rows = [Row(in_flight) for in_flight in plan.in_flight]
    with ExitStack() as stack:

        def start(what: str, *arguments: str) -> Process:
            environment = {"BENCH_NAME": name}
            return stack.enter_context(running(what, arguments, folder=folder, environment=environment))

        run_cli = ("-c", "from awakeables.cli import main; main()")
        at = ("--kafka", bootstrap)
        port, floor_port = free_port(), free_port()
        floor = start("floor", "-m", "benchmarks.floor", *at, "--port", str(floor_port))
        ours = start(
            "ours",
            *(*run_cli, "serve", "benchmarks.cycle:app", *at),
            *("--port", str(port), "--store", str(store)),
        )
        if plan.worker == "sdk":
            worker = start("worker", *run_cli, "worker", "benchmarks.cycle:worker", *at)
        else:
            worker = start("worker", "-m", "benchmarks.plain_worker", *at)
        course = Course(floor, floor_port, ours, port, worker, plan.seconds)
        course.warm_up(max(plan.in_flight))
        for row in rows:
            for _ in range(plan.rounds):
                row.floor.append(course.drive(floor, row.in_flight))
                row.ours.append(course.drive(ours, row.in_flight))
        kept = disk.completed(store)
        for process in (floor, ours, worker):
            process.check()
    if kept < course.answered[ours]:
        raise disk.Broken(f"{course.answered[ours]} calls were answered, {kept} are in the store")
    return {
        "rows": [row.summary() for row in rows],
        "worker": plan.worker,
        "fsync_ms": fsync_ms,
        "answered": course.answered[ours],
        "kept": kept,
    }


class Course:
    """The two servers under one driver.

    Attributes:
        answered: How many calls each has answered so far.
    """

    def __init__(
        self, floor: Process, floor_port: int, ours: Process, port: int, worker: Process, seconds: int
    ) -> None:
        self._ports = {floor: floor_port, ours: port}
        self._worker = worker
        self._seconds = seconds
        self.answered = dict.fromkeys(self._ports, 0)

    def warm_up(self, in_flight: int) -> None:
        """Wait until a call goes all the way round, then drive each once."""
        for process, port in self._ports.items():
            wait_for_port(process, port)
            until = time.monotonic() + WORKER_START_S
            while not self._drive(process, 1, 1).measured.requests:
                process.check()
                self._worker.check()
                if time.monotonic() > until:
                    raise disk.Broken(f"{process.name} answers nothing:\n{process.last_words()}")
            self._drive(process, in_flight, WARM_UP_S)

    def drive(self, process: Process, in_flight: int) -> Drive:
        """Drive one of the servers.

        Raises:
            disk.Broken: Not every call was answered with success.
        """
        return self._drive(process, in_flight, self._seconds)

    def _drive(self, process: Process, in_flight: int, seconds: int) -> Drive:
        url = f"http://127.0.0.1:{self._ports[process]}/bench/cycle"
        server_s, worker_s = process.cpu_s(), self._worker.cpu_s()
        measured = wrk.drive(url, in_flight=in_flight, seconds=seconds)
        if measured.refused or measured.broken:
            raise disk.Broken(
                f"{process.name}: {measured.refused} answers above 399, {measured.broken} broken "
                f"connections:\n{process.last_words()}"
            )
        self.answered[process] += measured.requests
        each_us = 1e6 / max(measured.requests, 1)
        return Drive(
            measured=measured,
            server_us=(process.cpu_s() - server_s) * each_us,
            worker_us=(self._worker.cpu_s() - worker_s) * each_us,
        )
