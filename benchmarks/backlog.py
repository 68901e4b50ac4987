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
from typing import Any

from aiokafka import AIOKafkaProducer

from awakeables.kafka.connection import KafkaConnection
from benchmarks import disk
from benchmarks.plain_worker import completion_of
from benchmarks.processes import Failed, Process, wait_until_ready
from benchmarks.stage import PARTITIONS, Ground, Stage, staged

PATIENCE_S = 600.0
LOOK_S = 0.02


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
            bare.append(_read(stage, count))
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
    producer = AIOKafkaProducer(**KafkaConnection(bootstrap=bootstrap).producer_options())
    await producer.start()
    try:
        sent = [
            future
            for partition in range(PARTITIONS)
            for future in await _fill_partition(producer, topic, partition, ids[partition::PARTITIONS])
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def _fill_partition(
    producer: AIOKafkaProducer, topic: str, partition: int, ids: Sequence[str]
) -> list[asyncio.Future[Any]]:
    sent = []
    batch = producer.create_batch()
    for awakeable_id in ids:
        value, key, headers = completion_of(awakeable_id, "o-17")
        if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value, headers=headers)
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent


def _read(stage: Stage, count: int) -> float:
    said = stage.run(
        *("reader", "-m", "benchmarks.bare_reader", "--kafka", stage.kafka),
        *("--topic", stage.completions_topic, "--count", str(count)),
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
            _wait(process, lambda: _persisted(connection) > 0)
            first, first_s = _persisted(connection), time.perf_counter()
            _wait(process, lambda: _persisted(connection) >= count)
            persisted_s = time.perf_counter()
            _wait(process, lambda: not _is_any_open(connection))
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


def _is_any_open(connection: sqlite3.Connection) -> bool:
    return bool(
        connection.execute("SELECT EXISTS (SELECT 1 FROM invocations WHERE result IS NULL)").fetchone()[0]
    )


def _wait(process: Process, done: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not done():
        process.check()
        if time.monotonic() > until:
            raise Failed(f"the backlog is not worked off after {PATIENCE_S:.0f} s:\n{process.last_words()}")
        time.sleep(LOOK_S)
