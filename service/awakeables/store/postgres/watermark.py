"""Up to when the instances have read the completions topic, in the rows of its partitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from awakeables.core.instances import PartitionRead
from awakeables.store.postgres.connection import Connection
from awakeables.store.postgres.queries import QUERIES


async def read_up_to(
    connection: Connection,
    topic: str,
    partitions: int,
    mine: Sequence[PartitionRead],
    *,
    clock_ms: Callable[[], int] | None,
) -> int | None:
    """As `ports.Watermark` says; `clock_ms` is for tests."""
    if mine:
        parts, epochs = [each.partition for each in mine], [each.epoch for each in mine]
        up_to_ms = [each.up_to_ms for each in mine]
        now_ms = None if clock_ms is None else clock_ms()
        await connection.execute(QUERIES["note_read"], topic, parts, epochs, up_to_ms, now_ms)
    known: int = await connection.fetchval(QUERIES["partitions_known"], topic) or 0
    if partitions > known:
        await connection.execute(QUERIES["note_partitions"], topic, partitions)
    count = max(partitions, known)
    if count == 0:
        return None
    read: int | None = await connection.fetchval(QUERIES["read_up_to"], topic, count)
    return read
