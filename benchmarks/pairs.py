"""Two servers under one driver, in turn: what counts is the ratio within a pair of drives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import disk, wrk
from benchmarks.processes import Process, wait_for_port
from benchmarks.stage import Server

PATH = "/bench/cycle"
WARM_UP_S = 3

WORKER_START_S = 15.0
"""A worker of the SDK joins a group first; until then the first call waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How it is driven.

    Attributes:
        in_flight: How many calls at once; a row of the table each.
        seconds: How long one drive takes.
        rounds: Pairs of drives per row: the base, then ours.
    """

    in_flight: Sequence[int]
    seconds: int
    rounds: int


@dataclass(slots=True, eq=False)
class Entrant:
    """A server, its worker, and how many calls it has answered.

    Attributes:
        helpers: Processes whose time counts as the server's.
        path: What is called.
    """

    what: str
    server: Server
    worker: Process
    helpers: tuple[Process, ...] = ()
    answered: int = 0
    path: str = PATH

    def cpu_s(self) -> float:
        return sum(process.cpu_s() for process in (self.server.process, *self.helpers))

    def check(self) -> None:
        """Raise `Failed` if one of its processes has ended."""
        for process in (self.server.process, self.worker, *self.helpers):
            process.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """What `wrk` saw, and the processor time of server and worker, in microseconds per cycle."""

    measured: wrk.Measured
    server_us: float
    worker_us: float


@dataclass(frozen=True, slots=True)
class Row:
    """The drives of one number in flight; a base and an ours of one index are a pair."""

    in_flight: int
    base: list[Drive] = field(default_factory=list)
    ours: list[Drive] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Medians; the ratios are medians over the pairs."""
        pairs = [(ours.measured, base.measured) for base, ours in zip(self.base, self.ours, strict=True)]
        return {
            "in_flight": self.in_flight,
            "base": _medians(self.base),
            "ours": _medians(self.ours),
            "ratio_per_second": statistics.median(ours.per_second / base.per_second for ours, base in pairs),
            "ratio_p50": statistics.median(ours.p50_us / base.p50_us for ours, base in pairs),
            "ratio_p99": statistics.median(ours.p99_us / base.p99_us for ours, base in pairs),
        }


def _medians(drives: Sequence[Drive]) -> dict[str, float]:
    return {
        "per_second": statistics.median(drive.measured.per_second for drive in drives),
        "p50_ms": statistics.median(drive.measured.p50_us for drive in drives) / 1000,
        "p99_ms": statistics.median(drive.measured.p99_us for drive in drives) / 1000,
        "server_cpu_us": statistics.median(drive.server_us for drive in drives),
        "worker_cpu_us": statistics.median(drive.worker_us for drive in drives),
    }


def compare(base: Entrant, ours: Entrant, plan: Plan) -> dict[str, Any]:
    """Drive both in turn.

    Raises:
        disk.Broken: Not every call was answered with success.
        Failed: A process ended.
    """
    for entrant in (base, ours):
        warm_up(entrant, max(plan.in_flight))
    rows = [Row(in_flight) for in_flight in plan.in_flight]
    for row in rows:
        for _ in range(plan.rounds):
            row.base.append(drive(base, row.in_flight, plan.seconds))
            row.ours.append(drive(ours, row.in_flight, plan.seconds))
    for entrant in (base, ours):
        entrant.check()
    return {"base": base.what, "ours": ours.what, "rows": [row.summary() for row in rows]}


def warm_up(entrant: Entrant, in_flight: int) -> None:
    """Wait until a call goes all the way round, then drive.

    Raises:
        disk.Broken: None does.
    """
    process = entrant.server.process
    wait_for_port(process, entrant.server.port)
    until = time.monotonic() + WORKER_START_S
    while not drive(entrant, 1, 1).measured.requests:
        entrant.check()
        if time.monotonic() > until:
            raise disk.Broken(f"{process.name} answers nothing:\n{process.last_words()}")
    drive(entrant, in_flight, WARM_UP_S)


def drive(entrant: Entrant, in_flight: int, seconds: int) -> Drive:
    """Drive one of them.

    Raises:
        disk.Broken: Not every call was answered with success.
    """
    process, worker = entrant.server.process, entrant.worker
    server_s, worker_s = entrant.cpu_s(), worker.cpu_s()
    measured = wrk.drive(entrant.server.url + entrant.path, in_flight=in_flight, seconds=seconds)
    if measured.refused or measured.broken:
        raise disk.Broken(
            f"{process.name}: {measured.refused} answers above 399, {measured.broken} broken "
            f"connections:\n{process.last_words()}"
        )
    entrant.answered += measured.requests
    each_us = 1e6 / max(measured.requests, 1)
    return Drive(
        measured=measured,
        server_us=(entrant.cpu_s() - server_s) * each_us,
        worker_us=(worker.cpu_s() - worker_s) * each_us,
    )
