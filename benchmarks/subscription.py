"""A subscription: records that wait in a topic, each of which begins an invocation that returns at once.

The service starts on a new store each time and reads the same topic to its end, in turn with a client that
only reads, and with the callback cycle on a server of its own. Neither clock counts a start: the client's
begins when it may read, ours when the first batch is stored.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from benchmarks import disk, pairs
from benchmarks.backlog import Open, Written, bare_rate, produce, wait_until
from benchmarks.pairs import Entrant, Plan
from benchmarks.processes import wait_until_ready
from benchmarks.stage import PARTITIONS, Ground, Stage, staged

APP = "benchmarks.subscribed:app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How fast the service has read the topic to its end.

    Attributes:
        begun_per_second: Records whose invocation and offset are stored.
        finished_per_second: Invocations that have ended.
        server_cpu_us: The processor time of a record, in microseconds.
    """

    begun_per_second: float
    finished_per_second: float
    server_cpu_us: float
    peak_memory_mb: float


def measure(ground: Ground, plan: Plan, *, count: int) -> dict[str, Any]:
    """Read the topic to its end so many times: with the default of `max_open`, and without a limit.

    Raises:
        disk.Broken: Not every record became an invocation that ended with its value.
        Failed: A process ended, or the topic was not read to its end.
    """
    [in_flight] = plan.in_flight
    bare: list[float] = []
    cycles: list[float] = []
    limited: list[Drain] = []
    unlimited: list[Drain] = []
    with staged(ground) as stage, staged(ground) as beside:
        topic = f"{stage.name}.records"
        asyncio.run(_fill(stage, topic, count))
        cycle = Entrant("cycle", beside.serve(beside.folder / "bench.db"), beside.plain_worker())
        pairs.warm_up(cycle, in_flight)
        for _ in range(plan.rounds):
            bare.append(bare_rate(stage, topic, count))
            limited.append(_drain(stage, count))
            unlimited.append(_drain(stage, count, max_open=2 * count))
            cycles.append(pairs.drive(cycle, in_flight, plan.seconds).measured.per_second)
        cycle.check()
        disk.audit(beside.folder / "bench.db", answered=cycle.answered)
    return {
        "count": count,
        "partitions": PARTITIONS,
        "in_flight": in_flight,
        "getmany_per_second": statistics.median(bare),
        "cycles_per_second": statistics.median(cycles),
        "rows": [_summary(drains, bare, cycles) for drains in (limited, unlimited)],
    }


def _summary(drains: list[Drain], bare: list[float], cycles: list[float]) -> dict[str, float]:
    medians = {
        name: statistics.median(getattr(drain, name) for drain in drains)
        for name in Drain.__dataclass_fields__
    }
    return medians | {
        "ratio_getmany": statistics.median(
            drain.begun_per_second / floor for drain, floor in zip(drains, bare, strict=True)
        ),
        "ratio_cycle": statistics.median(
            drain.finished_per_second / cycle for drain, cycle in zip(drains, cycles, strict=True)
        ),
    }


async def _fill(stage: Stage, topic: str, count: int) -> None:
    await create_topics(KafkaConnection(bootstrap=stage.kafka), {topic: PARTITIONS})
    records: list[Written] = [(b'{"id": "o-%d"}' % number, b"o-%d" % number, []) for number in range(count)]
    await produce(stage.kafka, topic, records)


def _drain(stage: Stage, count: int, *, max_open: int | None = None) -> Drain:
    store = stage.folder / "subscribed.db"
    settings = {} if max_open is None else {"BENCH_MAX_OPEN": str(max_open)}
    server = stage.serve(store, settings, app=APP)
    process = server.process
    try:
        wait_until_ready(process, server.port)
        with closing(disk.looking(store)) as connection:
            wait_until(process, lambda: _begun(connection) > 0)
            first, first_s, first_cpu_s = _begun(connection), time.perf_counter(), process.cpu_s()
            wait_until(process, lambda: _begun(connection) >= count)
            begun_s = time.perf_counter()
            still = Open(connection)
            wait_until(process, lambda: still.first() is None)
            finished_s = time.perf_counter()
        drain = Drain(
            begun_per_second=(count - first) / (begun_s - first_s),
            finished_per_second=count / (finished_s - first_s),
            server_cpu_us=(process.cpu_s() - first_cpu_s) * 1e6 / count,
            peak_memory_mb=process.peak_memory_mb(),
        )
        kept = disk.audit(store, answered=count)
        if kept != count:
            raise disk.Broken(f"{count} records have begun {kept} invocations")
    finally:
        process.stop()
    for file in (store, *store.parent.glob(store.name + "-*")):
        file.unlink(missing_ok=True)
    return drain


def _begun(connection: sqlite3.Connection) -> int:
    read: int = connection.execute(
        "SELECT coalesce(sum(next), 0) FROM offsets WHERE subscription <> ''"
    ).fetchone()[0]
    return read
