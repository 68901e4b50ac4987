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
    topic_id: str | None,
    clock_ms: Callable[[], int] | None,
) -> int | None:
    """As `ports.Watermark` says; `clock_ms` is for tests."""
    # Before the moments: with both, and with the earlier number of partitions, more would seem to be read.
    row = await connection.fetchrow(QUERIES["partitions_known"], topic)
    known, known_id = (0, None) if row is None else row
    is_new = topic_id is not None and topic_id != known_id
    if partitions and (is_new or partitions > known):
        known = await connection.fetchval(QUERIES["note_partitions"], topic, partitions, topic_id)
    now_ms = None if clock_ms is None else clock_ms()
    if mine:
        parts, epochs = [each.partition for each in mine], [each.epoch for each in mine]
        up_to_ms = [each.up_to_ms for each in mine]
        await connection.execute(QUERIES["note_read"], topic, parts, epochs, up_to_ms, now_ms)
    if known == 0:
        return None
    read: int | None = await connection.fetchval(QUERIES["read_up_to"], topic, known, now_ms)
    return read
