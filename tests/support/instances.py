"""Instances of an app in one process that share a database, each with its own store, broker and clock.

They run in real time. What they publish comes to one list, in the order in which it reached the topics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec

from awakeables.core.awakeables import AwakeableRow, AwakeableState, Completion, Verdict
from awakeables.core.effects import Effect
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.engine.horizon import Moment
from awakeables.engine.member import MemberSettings
from awakeables.engine.sinks import CompletionSink
from awakeables.handlers.service import App, Service
from awakeables.ports import Page
from awakeables.store.postgres.store import PostgresStore
from awakeables.testing.bench import INLINE, FakeBroker, Process, new_process, quick, serving
from awakeables.testing.loop import SeededEntropy
from awakeables.world import FollowingClock
from support.eventually import eventually

MEMBER = MemberSettings(timeout=timedelta(seconds=3), margin=timedelta(seconds=1))
"""Instances miss each other after three seconds; a loop that others hold up is not missed at once."""

SOON = replace(quick(linger=timedelta(milliseconds=300)), member=MEMBER)
TAKEN_OVER_S = 20.0
"""More than the time-out and what comes after it, on a machine that does other things, too."""

RETENTION_MS = 30 * 24 * 3600 * 1000


class WrongClock:
    """A machine's clock that is wrong by so much; the monotonic clocks of machines have different origins."""

    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead // timedelta(milliseconds=1)

    def monotonic(self) -> float:
        return time.monotonic() + abs(self.ahead.total_seconds())


@dataclass(kw_only=True, eq=False)
class Instance:
    """One instance.

    Attributes:
        broker: Its way to the broker, which can be closed.
        partitions: How many the completions topic has, as far as it knows.
    """

    process: Process
    store: PostgresStore
    broker: FakeBroker
    partitions: int = 0
    readers: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    held: list[asyncio.Lock] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.process.engine.member.id

    async def freeze(self) -> None:
        """Stop it: it neither reads nor writes the store, nor publishes, until `thaw`."""
        self.broker.gate.clear()
        store = self.store
        for session in (store._beater, store._writer, store._reader, store._lister, store.hints._sender):
            await session._turn.acquire()
            self.held.append(session._turn)

    def thaw(self) -> None:
        self.broker.gate.set()
        self.let_go()

    def let_go(self) -> None:
        """Let its store be used again."""
        while self.held:
            self.held.pop().release()

    async def read(self, partition: int, *, of: int) -> CompletionSink:
        """Read a partition of the completions topic, which has so many, and is empty."""
        self.partitions = of
        sink = CompletionSink(self.process.engine.completions, partition)
        await sink.open()
        self.readers[partition] = asyncio.create_task(self._read(sink))
        return sink

    async def _read(self, sink: CompletionSink) -> None:
        engine = self.process.engine
        while True:
            now = Moment.now(engine.clock)
            engine.horizon.expect(range(self.partitions), now)
            sink.read_up_to(now)
            await asyncio.sleep(0.05)


class Instances:
    """What the instances of the app `shop` share: a database and topics."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.published: list[Effect] = []
        self.all: list[Instance] = []

    @asynccontextmanager
    async def serving(
        self,
        settings: EngineSettings = SOON,
        /,
        *,
        build: str = "1",
        ahead: timedelta = timedelta(0),
        **handlers: Any,
    ) -> AsyncIterator[Instance]:
        """One instance that has these handlers by name, killed at the end of the block.

        Args:
            settings: Of its engine.
            build: The version of its code.
            ahead: By how much its machine's clock is wrong.
            handlers: Those of its service `orders`.
        """
        service = Service("orders")
        for name, function in handlers.items():
            service.handler(name)(function)
        app = App("shop", services=[service])
        store = PostgresStore(self.url, retention_ms=RETENTION_MS, app="shop")
        clock = FollowingClock(WrongClock(ahead))
        broker = FakeBroker()
        broker.published = self.published
        process = new_process(
            app,
            store,
            broker,
            clock=clock,
            entropy=SeededEntropy(len(self.all)),
            settings=settings,
            executor=INLINE,
            build=build,
            on_time=clock.follow,
        )
        instance = Instance(process=process, store=store, broker=broker)
        self.all.append(instance)
        await store.open()
        try:
            async with serving(process):
                yield instance
        finally:
            await _cancelled(*instance.readers.values())
            instance.let_go()
            await store.close()

    async def begin(self, instance: Instance, handler: str, content: bytes = b"null", **kwargs: Any) -> str:
        """Begin an invocation of a handler by name; its ID."""
        target = instance.process.api.app.handler("orders", handler)
        return (await instance.process.api.begin(target, content, **kwargs)).id

    async def settle(
        self, instance: Instance, awakeable_id: str, value: Any, source: str = "http:1"
    ) -> Verdict:
        """Resolve an awakeable with a value."""
        body = Resolution.of_json(msgspec.json.encode(value))
        verdict = await instance.process.api.settle(
            Completion(awakeable_id=awakeable_id, body=body, source=source)
        )
        assert verdict is not None
        return verdict

    async def row(self, invocation_id: str) -> Invocation:
        row = await self._any_store().invocation(invocation_id)
        assert row is not None
        return row

    async def status(self, invocation_id: str, *wanted: str, timeout: float = TAKEN_OVER_S) -> Invocation:
        """The row, once it has one of these statuses."""

        async def has_it() -> Invocation | None:
            row = await self.row(invocation_id)
            return row if row.status in wanted else None

        row = await eventually(has_it, timeout)
        assert row is not None
        return row

    async def awakeables(
        self, invocation_id: str, *, state: AwakeableState | None = None
    ) -> list[AwakeableRow]:
        """Its awakeables, in the order of their creation."""
        rows = await self._any_store().awakeables(Page(limit=1000), state=state)
        return sorted((row for row in rows if row.invocation_id == invocation_id), key=lambda row: row.id)

    async def awakeable(self, invocation_id: str, number: int = 0) -> AwakeableRow:
        """Its awakeable of this number, once there is one, by the order of their creation."""

        async def made() -> list[AwakeableRow]:
            rows = await self.awakeables(invocation_id)
            return rows[number : number + 1]

        return (await eventually(made, TAKEN_OVER_S))[0]

    async def sql(self, text: str, *values: object) -> Any:
        """The first value of a statement's first row."""
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(text, *values)
        finally:
            await connection.close()

    def values(self, topic: str) -> list[Any]:
        """What was published to a topic, as JSON, repeats included."""
        return [msgspec.json.decode(e.value or b"null") for e in self.published if e.topic == topic]

    def _any_store(self) -> PostgresStore:
        return next(
            each.store for each in reversed(self.all) if not each.held and each.store._reader._is_open
        )


def first_occurrences(values: list[Any]) -> list[Any]:
    """Without what was published before: a late repeat may come at any time (K3)."""
    return list(dict.fromkeys(values))


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
