"""Writes batches that no client library writes: foreign bytes, wrong checksums, unknown codecs."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

CRC_AT = 17
ATTRIBUTES_AT = 21
HEADER_NAME = b"~~"
RETRY_S = 0.05


class RawProducer:
    """Hands batches to the broker as they are."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def write(
        self,
        topic: str,
        partition: int,
        values: Sequence[bytes],
        *,
        header_name: bytes | None = None,
        codec: int = 0,
        wrong_checksum: bool = False,
    ) -> int:
        """Write one batch; its first offset.

        Args:
            header_name: Two bytes; every record has a header of that name.
            codec: What the batch says that it is compressed with; it isn't.
            wrong_checksum: A real broker refuses that; the embedded one doesn't.
        """
        batch = _batch(values, header_name)
        struct.pack_into(">h", batch, ATTRIBUTES_AT, codec)
        checksum = calc_crc32c(bytes(batch[ATTRIBUTES_AT:]))
        struct.pack_into(">I", batch, CRC_AT, checksum ^ (1 if wrong_checksum else 0))
        await self._client.add_topic(topic)
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=5000,
            topics=[(topic, [(partition, bytes(batch))])],
        )
        while True:
            response = await self._client.send(self._client.get_random_node(), request)
            [(_, [(_, code, offset, *_)])] = response.topics
            if code == 0:
                return int(offset)
            if not for_code(code).retriable:
                raise for_code(code)()
            # The topic is new: its broker does not know yet that it leads it.
            await asyncio.sleep(RETRY_S)


def _batch(values: Sequence[bytes], header_name: bytes | None) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    headers = [(HEADER_NAME.decode(), b"1")] if header_name is not None else []
    for number, value in enumerate(values):
        builder.append(number, None, b"key", value, headers)
    return bytearray(bytes(builder.build()).replace(HEADER_NAME, header_name or HEADER_NAME))


@asynccontextmanager
async def raw_producing(bootstrap: str) -> AsyncIterator[RawProducer]:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        yield RawProducer(client)
    finally:
        await client.close()
