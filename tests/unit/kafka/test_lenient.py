"""Where the batch behind one that can't be opened begins."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka import TopicPartition

from awakeables.kafka import lenient
from awakeables.kafka.connection import KafkaConnection


def batch(first: int, last: int) -> bytes:
    """The head of a batch of version 2, and nothing in it."""
    rest = struct.pack(">ibIhi", 0, 2, 0, 0, last - first)
    return struct.pack(">qi", first, len(rest)) + rest


CUT = struct.pack(">qi", 5, 3) + b"\x00" * 3


@pytest.mark.parametrize(
    ("data", "following"),
    [
        (batch(5, 7) + batch(8, 8), 8),
        (batch(3, 4) + batch(5, 5), 6),
        (batch(3, 4), None),
        (b"", None),
        (batch(5, 7)[:20], None),
        pytest.param(CUT, None, id="a head that says it is shorter than a head"),
    ],
)
async def test_the_next_batch_is_found_by_the_header_of_the_one_before_if_that_can_be_read(
    monkeypatch: pytest.MonkeyPatch, data: bytes, following: int | None
) -> None:
    async def fetched(*_: Any) -> tuple[bytes, Any]:
        return data, None

    monkeypatch.setattr(lenient, "_fetch", fetched)
    connection = KafkaConnection(bootstrap="127.0.0.1:1")
    assert await lenient.next_batch(connection, TopicPartition("t", 0), 5) == following
