"""What the worker's tests put in the place of Kafka, of time and of chance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from awakeables.core.awakeables import Completion
from awakeables.core.effects import Effect, Header, TaskFacts
from awakeables.telemetry.spans import Spans
from awakeables.wire.completions import decode_completion
from awakeables.wire.tasks import encode_effect
from awakeables.worker.heartbeats import OverReason
from awakeables.worker.port import Incoming, Outgoing
from awakeables.worker.process import Fate, Processor
from awakeables.worker.replies import ANY_COMPLETIONS, ReplyTopics
from awakeables.worker.threads import Threads
from awakeables.worker.worker import Worker
from support.ids import new_id

NOW_MS = 1_790_000_000_000
TRACEPARENT: Header = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def awakeable_id(number: int = 0) -> str:
    return new_id("prom", at_ms=NOW_MS, entropy=number.to_bytes(10, "big"))


def task_record(
    payload: Any = None,
    *,
    number: int = 0,
    name: str | None = None,
    deadline_ms: int | None = None,
    reply_to: str = "shop.completions",
    enveloped: bool = True,
    topic: str = "tasks",
    offset: int = 0,
    headers: Sequence[Header] = (),
) -> Incoming:
    """A record as the service publishes it."""
    facts = TaskFacts(
        awakeable_id=awakeable_id(number),
        reply_to=reply_to,
        task=name,
        envelope="json" if enveloped else "none",
        deadline_ms=deadline_ms,
    )
    effect = Effect(
        event_id="evt_1",
        stream="inv_1",
        topic=topic,
        key=b"key",
        value=payload if isinstance(payload, bytes) else msgspec.json.encode(payload),
        headers=tuple(headers),
        task=facts,
    )
    value, all_headers = encode_effect(effect)
    return Incoming(
        topic=topic, partition=0, offset=offset, key=b"key", value=value, headers=tuple(all_headers)
    )


def completion(message: Outgoing) -> Completion:
    """What the service reads from an answer."""
    return decode_completion(message.value, source="test")


class MovedClock:
    """A clock that stands still until a test, or a pause, moves it."""

    def __init__(self) -> None:
        self.ms = NOW_MS
        self.pauses: list[float] = []
        self.drains_after: int | None = None

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def pause(self, seconds: float) -> bool:
        if self.drains_after is not None and len(self.pauses) >= self.drains_after:
            return False
        self.pauses.append(seconds)
        self.ms += round(seconds * 1000)
        return True


async def process(
    worker: Worker,
    record: Incoming,
    clock: MovedClock | None = None,
    *,
    replies: ReplyTopics = ANY_COMPLETIONS,
    port: FakePort | None = None,
    spans: Spans | None = None,
) -> Fate:
    """What becomes of one record."""
    clock = clock or MovedClock()
    threads = Threads(worker.name, 1)
    try:
        processor = Processor(
            worker,
            clock=clock,
            threads=threads,
            pause=clock.pause,
            port=port or FakePort(),
            reply_topics=replies,
            spans=spans,
        )
        return await processor.process(record)
    finally:
        threads.close()


class FakePort:
    """A topic in memory; it keeps the order of what the loop does."""

    def __init__(self, records: Sequence[Incoming] = ()) -> None:
        self.waiting = list(records)
        self.sent: list[Outgoing] = []
        self.acknowledged: list[int] = []
        self.did: list[str] = []
        self.limits: list[int] = []
        self.refuse: Callable[[Outgoing], Exception | None] = lambda _: None
        self.open = asyncio.Event()
        self.open.set()
        self.watched: dict[str, int] = {}
        self.over: dict[str, OverReason] = {}

    def watch(self, topic: str, since_ms: int) -> None:
        self.watched.setdefault(topic, since_ms)

    def why_over(self, awakeable_id: str) -> OverReason | None:
        return self.over.get(awakeable_id)

    async def receive(self, limit: int) -> Sequence[Incoming]:
        self.limits.append(limit)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        # As on Kafka: an empty answer takes a moment, and everybody else has a turn.
        await asyncio.sleep(0 if taken else 0.001)
        return taken

    async def send(self, record: Outgoing) -> None:
        await self.open.wait()
        if (refusal := self.refuse(record)) is not None:
            raise refusal
        self.sent.append(record)
        self.did.append(f"sent to {record.topic}")

    def drain(self) -> None:
        """It waits for no topic anyway."""

    def acknowledge(self, record: Incoming) -> None:
        self.acknowledged.append(record.offset)
        self.did.append(f"acknowledged {record.offset}")
