"""The producers of the subscribed topic: each record is produced until the broker has acknowledged it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Literal, Self, TypeAlias, get_args

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from e2e.chaos.app import Event
from e2e.chaos.questions import SIDES, Manner, Question
from e2e.chaos.world import PARTITIONS

RETRY_S = 0.2
STOP_S = 5.0
FIRST_N = 1_000_000
"""The numbers in records are above those in calls."""

ID_HEADER = "record-id"
KEYS = 3
"""So few that their queues are full at times, and that a key has several records in each partition."""

Fate: TypeAlias = Literal["fits", "fails", "does not fit", "has no key"]
"""`has no key`: it fits a handler of a service, but none of an object."""

FATES: tuple[Fate, ...] = (*("fits",) * 7, "fails", "does not fit", "has no key")
UNFIT = (b"{", b'"a word"', b"\xff\xfe", b"", None, b'{"id": 1}')
NO_KEYS = (None, b"", b"\xff")


@dataclass(kw_only=True)
class Produced:
    """A record that must be in the topic, from the moment when its producer began to insist on it.

    Its ID has the number of the try: a try that failed may have left a record in the topic.

    Attributes:
        at: Partition and offset of the try that was acknowledged.
    """

    n: int
    fate: Fate
    partition: int
    key: bytes | None
    question: Question
    unfit: bytes | None = None
    tries: int = 0
    at: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        return f"{self.n}-{self.tries}"

    @property
    def value(self) -> bytes | None:
        if self.fate == "does not fit":
            return self.unfit
        event = Event(id=self.id, question=self.question, fails=self.fate == "fails")
        return event.model_dump_json().encode()


def number_of(record_id: str) -> int:
    """Which of the planned records it is a try of."""
    return int(record_id.partition("-")[0])


def records(count: int, seed: int) -> list[Produced]:
    """Records of every fate, to partitions and keys that the seed decides; one key is in several partitions.

    Their chance is their own, so that a seed plans the same calls and faults with and without them.
    """
    chance = Random(f"{seed} records")
    return [
        Produced(
            n=FIRST_N + number,
            fate=(fate := FATES[number % len(FATES)]),
            partition=chance.randrange(PARTITIONS),
            key=chance.choice(NO_KEYS) if fate == "has no key" else b"k-%d" % chance.randrange(KEYS),
            question=Question(
                n=FIRST_N + number,
                to=chance.choice(SIDES),
                manner=chance.choice(get_args(Manner)),
                takes_s=chance.choice((0.0, 0.0, 0.05, 0.5)),
            ),
            unfit=chance.choice(UNFIT),
        )
        for number in range(count)
    ]


class RecordProducer:
    """Insists on records."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._lock = asyncio.Lock()
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._drop(self._producer)

    async def insist(self, record: Produced) -> None:
        """Produce the record until that is acknowledged."""
        while record.at is None:
            producer = None
            record.tries += 1
            try:
                producer = await self._started()
                sent = await producer.send_and_wait(
                    self._topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=[(ID_HEADER, record.id.encode())],
                )
                record.at = (sent.partition, sent.offset)
            except (KafkaError, OSError):
                # After a restart of the broker it may refuse all that this producer sends.
                await self._drop(producer)
                await asyncio.sleep(RETRY_S)

    async def _started(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._producer is None:
                made = AIOKafkaProducer(bootstrap_servers=self._bootstrap, enable_idempotence=True)
                try:
                    await made.start()
                except BaseException:
                    await _stop(made)
                    raise
                self._producer = made
            return self._producer

    async def _drop(self, producer: AIOKafkaProducer | None) -> None:
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        await _stop(producer)


async def _stop(producer: AIOKafkaProducer) -> None:
    with suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(STOP_S):
            await producer.stop()
