"""Timers that are due: invocations that sleep in the store, and whose time came while the service was down.

The service starts on a copy of the same store each time. Its clock begins when the first one has ended.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import disk, pairs
from benchmarks.backlog import Open, wait_until
from benchmarks.pairs import Entrant, Plan
from benchmarks.processes import wait_until_ready
from benchmarks.stage import Ground, Stage, staged


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """How fast they were replayed and ended.

    Attributes:
        server_cpu_us: The processor time of each, in microseconds.
    """

    per_second: float
    server_cpu_us: float


def measure(ground: Ground, plan: Plan, *, count: int) -> dict[str, Any]:
    """Let so many timers fire, in turn with drives of the cycle.

    Raises:
        disk.Broken: Not every invocation ended with its value.
        Failed: A process ended, or they did not.
    """
    [in_flight] = plan.in_flight
    fired: list[Fired] = []
    cycles: list[float] = []
    with staged(ground) as stage, staged(ground) as beside:
        seeded = stage.folder / "seeded.db"
        stage.run(
            *("seed", "-m", "benchmarks.seed", "--store", str(seeded)),
            *("--count", str(count), "--handler", "nap"),
        )
        cycle = Entrant("cycle", beside.serve(beside.folder / "bench.db"), beside.plain_worker())
        pairs.warm_up(cycle, in_flight)
        for _ in range(plan.rounds):
            fired.append(_fire(stage, seeded, count))
            cycles.append(pairs.drive(cycle, in_flight, plan.seconds).measured.per_second)
        cycle.check()
        disk.audit(beside.folder / "bench.db", answered=cycle.answered)
    return {
        "count": count,
        "in_flight": in_flight,
        "cycles_per_second": statistics.median(cycles),
        "per_second": statistics.median(each.per_second for each in fired),
        "server_cpu_us": statistics.median(each.server_cpu_us for each in fired),
        "ratio_cycle": statistics.median(
            each.per_second / rate for each, rate in zip(fired, cycles, strict=True)
        ),
    }


def _fire(stage: Stage, seeded: Path, count: int) -> Fired:
    store = disk.copied(seeded, stage.folder / "naps.db")
    server = stage.serve(store)
    process = server.process
    try:
        with closing(disk.looking(store)) as connection:
            still = Open(connection)
            asleep = still.first()
            wait_until_ready(process, server.port)
            wait_until(process, lambda: still.first() != asleep)
            first_s, first_cpu_s = time.perf_counter(), process.cpu_s()
            (ended,) = connection.execute(
                "SELECT count(*) FROM invocations WHERE result IS NOT NULL"
            ).fetchone()
            wait_until(process, lambda: still.first() is None)
            left, took_s = count - ended, time.perf_counter() - first_s
        fired = Fired(per_second=left / took_s, server_cpu_us=(process.cpu_s() - first_cpu_s) * 1e6 / left)
        disk.audit(store, answered=count)
    finally:
        process.stop()
    for file in (store, *store.parent.glob(store.name + "-*")):
        file.unlink(missing_ok=True)
    return fired
