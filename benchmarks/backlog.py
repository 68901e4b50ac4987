"""A backlog: completions that wait in the topic for invocations that wait in the store.

The service starts on a copy of the same store each time and works the same topic off; beside it a
client that only reads. Neither clock counts a start: its begins when it may read, ours when the
first batch is persisted.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aiokafka import AIOKafkaProducer

from awakeables.kafka.connection import KafkaConnection
from benchmarks import disk
from benchmarks.plain_worker import completion_of
from benchmarks.processes import Failed, Process, wait_until_ready
from benchmarks.stage import PARTITIONS, Ground, Stage, staged

PATIENCE_S = 600.0
LOOK_S = 0.02

Written: TypeAlias = tuple[bytes, bytes, Sequence[tuple[str, bytes]]]
"""The value, key and headers of a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How fast the service has worked the backlog off."""

    persisted_per_second: float
    finished_per_second: float
    ready_s: float
    all_s: float
    peak_memory_mb: float


def measure(ground: Ground, *, count: int, rounds: int) -> dict[str, Any]:
    """Work the backlog off so many times, in turn with the client that only reads.

    Raises:
        disk.Broken: Not every invocation ended with its value.
        Failed: A process ended, or the backlog did not.
    """
    bare: list[float] = []
    ours: list[Drain] = []
    with staged(ground) as stage:
        seeded, ids = stage.folder / "seeded.db", stage.folder / "ids"
        stage.run(
            *("seed", "-m", "benchmarks.seed", "--store", str(seeded)),
            *("--count", str(count), "--ids", str(ids)),
        )
        asyncio.run(fill(stage.kafka, stage.completions_topic, ids.read_text().split()))
        for _ in range(rounds):
            bare.append(bare_rate(stage, stage.completions_topic, count))
            ours.append(_drain(stage, seeded, count))
    pairs = list(zip(bare, ours, strict=True))
    return {
        "count": count,
        "getmany_per_second": statistics.median(bare),
        "ratio": statistics.median(drain.persisted_per_second / floor for floor, drain in pairs),
        **{
            name: statistics.median(getattr(drain, name) for drain in ours)
            for name in Drain.__dataclass_fields__
        },
    }


async def fill(bootstrap: str, topic: str, ids: Sequence[str]) -> None:
    """Produce the completion of each awakeable, in their order, to the partitions in turn."""
    await produce(bootstrap, topic, [completion_of(awakeable_id, "o-17") for awakeable_id in ids])


async def produce(bootstrap: str, topic: str, records: Sequence[Written]) -> None:
    """Produce records, in their order, to the partitions in turn."""
    producer = AIOKafkaProducer(**KafkaConnection(bootstrap=bootstrap).producer_options())
    await producer.start()
    try:
        sent = [
            future
            for partition in range(PARTITIONS)
            for future in await _fill_partition(producer, topic, partition, records[partition::PARTITIONS])
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def _fill_partition(
    producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[Written]
) -> list[asyncio.Future[Any]]:
    sent = []
    batch = producer.create_batch()
    for value, key, headers in records:
        if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value, headers=headers)
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent


def bare_rate(stage: Stage, topic: str, count: int) -> float:
    """Records a second of a client that only reads the topic to its end."""
    said = stage.run(
        *("reader", "-m", "benchmarks.bare_reader", "--kafka", stage.kafka),
        *("--topic", topic, "--count", str(count)),
    )
    per_second: float = json.loads(said.splitlines()[-1])["per_second"]
    return per_second


def _drain(stage: Stage, seeded: Path, count: int) -> Drain:
    store = disk.copied(seeded, stage.folder / "drained.db")
    began = time.perf_counter()
    server = stage.serve(store)
    process = server.process
    try:
        wait_until_ready(process, server.port)
        ready_s = time.perf_counter() - began
        with closing(disk.looking(store)) as connection:
            wait_until(process, lambda: _persisted(connection) > 0)
            first, first_s = _persisted(connection), time.perf_counter()
            wait_until(process, lambda: _persisted(connection) >= count)
            persisted_s = time.perf_counter()
            opened = Open(connection)
            wait_until(process, lambda: opened.first() is None)
            finished_s = time.perf_counter()
        disk.audit(store, answered=count)
        drain = Drain(
            persisted_per_second=(count - first) / (persisted_s - first_s),
            finished_per_second=count / (finished_s - first_s),
            ready_s=ready_s,
            all_s=finished_s - began,
            peak_memory_mb=process.peak_memory_mb(),
        )
    finally:
        process.stop()
    for file in (store, *store.parent.glob(store.name + "-*")):
        file.unlink(missing_ok=True)
    return drain


def _persisted(connection: sqlite3.Connection) -> int:
    settled: int = connection.execute("SELECT coalesce(sum(next), 0) FROM offsets").fetchone()[0]
    return settled


class Open:
    """Which invocation is the first that has not ended.

    They end in about the order of their IDs. Each look goes on from the last one's: if each began at the
    first row, looking would take as much of the processor as the service.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._first = ""

    def first(self) -> str | None:
        """Its ID; None: all have ended."""
        found = self._connection.execute(
            "SELECT id FROM invocations WHERE id >= ? AND result IS NULL ORDER BY id LIMIT 1", (self._first,)
        ).fetchone()
        if found is None:
            return None
        self._first = found[0]
        return self._first


def wait_until(process: Process, done: Callable[[], bool]) -> None:
    """Return once it is done.

    Raises:
        Failed: The process ended, or it took too long.
    """
    until = time.monotonic() + PATIENCE_S
    while not done():
        process.check()
        if time.monotonic() > until:
            raise Failed(f"the backlog is not worked off after {PATIENCE_S:.0f} s:\n{process.last_words()}")
        time.sleep(LOOK_S)
