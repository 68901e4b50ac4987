"""One store and one broker in memory; processes of the service come and go, with this code or that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from pydantic import BaseModel

from awakeables import Context
from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow, Completion, Verdict
from awakeables.core.commands import Command
from awakeables.core.effects import Effect
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import Reply, SettledAll
from awakeables.core.rows import Changes
from awakeables.core.sources import parse_source
from awakeables.engine.completionsink import CompletionSink
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.recordsink import ConsumedRecord
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import StoreRefused, StoreUnavailable
from awakeables.handlers.service import App, Service
from awakeables.ports import PublishReport
from awakeables.store.memory import MemoryStore
from awakeables.testing.bench import new_engine, serving
from awakeables.testing.loop import InlineExecutor, SeededEntropy, VirtualClock
from awakeables.wire.completions import encode_completion

RETENTION_MS = 30 * 86_400_000
TOPIC = "shop.completions"


class Store(MemoryStore):
    """The memory store; notes every commit, and fails as it is told.

    Attributes:
        commits: The members of each commit that was applied.
        answers: What each was answered with.
        lose_before: So many commits fail before they are applied.
        lose_after: So many are applied and their acknowledgement is lost.
        refuses: A group with such a member is refused.
        lose_hints: Settlements are answered without what they have woken.
        full: A commit that has something to write fails, as on a full disk.
        gate: Closed, every commit waits.
    """

    def __init__(self, clock: Any) -> None:
        super().__init__(clock=clock, retention_ms=RETENTION_MS)
        self.commits: list[list[Command]] = []
        self.answers: list[list[Reply]] = []
        self.tries = 0
        self.lose_before = 0
        self.lose_after = 0
        self.refuses: Callable[[Command], bool] = lambda _member: False
        self.full = False
        self.lose_hints = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, members: Sequence[Command]) -> list[Reply]:
        self.tries += 1
        await self.gate.wait()
        if self.lose_before:
            self.lose_before -= 1
            raise StoreUnavailable("lost before the commit")
        if any(self.refuses(member) for member in members):
            raise StoreRefused("this data can't be kept")
        answers = await super().commit(members)
        self.commits.append(list(members))
        self.answers.append(answers)
        if self.lose_hints:
            answers = [replace(each, wakes=()) if isinstance(each, SettledAll) else each for each in answers]
        if self.lose_after:
            self.lose_after -= 1
            raise StoreUnavailable("the acknowledgement was lost")
        return answers

    def keep(self, changes: Changes) -> None:
        if self.full and any(value for name, value in vars(changes).items() if name != "rows"):
            raise StoreUnavailable("the disk is full")
        super().keep(changes)

    def members(self, kind: type[Command]) -> list[Any]:
        """The members of this kind that were committed."""
        return [member for group in self.commits for member in group if isinstance(member, kind)]


class Broker:
    """Takes what is published; `fail` says with which error a record is not taken."""

    def __init__(self) -> None:
        self.published: list[Effect] = []
        self.tries: list[Effect] = []
        self.batches: list[int] = []
        self.fail: Callable[[Effect], Exception | None] = lambda _effect: None
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        self.tries += effects
        self.batches.append(len(effects))
        await self.gate.wait()
        taken: list[Effect] = []
        for effect in effects:
            error = self.fail(effect)
            if error is None:
                taken.append(effect)
            else:
                report([effect], error)
        if taken:
            self.published += taken
            report(taken, None)

    def values(self, topic: str) -> list[Any]:
        return [msgspec.json.decode(e.value or b"null") for e in self.published if e.topic == topic]


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the service."""

    engine: Engine
    api: Api


class Bench:
    """What outlives the processes: store, broker, clock."""

    def __init__(self, service: str = "orders") -> None:
        self.service = service
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.store = Store(self.clock)
        self.broker = Broker()
        self._processes = 0
        self._offset = 0

    @asynccontextmanager
    async def serving(
        self, settings: EngineSettings | None = None, /, **handlers: Any
    ) -> AsyncIterator[Process]:
        """One process of the service, with these handlers by name; killed at the end of the block."""
        self._processes += 1
        service = Service(self.service)
        for name, function in handlers.items():
            service.handler(name)(function)
        engine = new_engine(
            App("shop", services=[service]),
            self.store,
            self.broker,
            clock=self.clock,
            entropy=SeededEntropy(self._processes),
            settings=settings or quick(),
            executor=InlineExecutor(),
            build=str(self._processes),
        )
        async with serving(engine):
            yield Process(engine, Api(engine))

    async def begin(self, process: Process, handler: str, content: bytes = b"null", **kwargs: Any) -> str:
        begun = await process.api.begin(process.api.app.handler(self.service, handler), content, **kwargs)
        return begun.id

    async def status(self, invocation_id: str, *wanted: str) -> Invocation:
        """The row, once it has one of these statuses."""
        await until(lambda: self.row(invocation_id).status in wanted, f"{invocation_id} is {wanted}")
        return self.row(invocation_id)

    def row(self, invocation_id: str) -> Invocation:
        return self.store.tables.invocations[invocation_id]

    def awakeables(self, invocation_id: str) -> list[AwakeableRow]:
        rows = self.store.tables.awakeables.values()
        return sorted((r for r in rows if r.invocation_id == invocation_id), key=lambda row: row.created_ms)

    async def awakeable(self, invocation_id: str) -> AwakeableRow:
        """Its first awakeable, once there is one."""
        await until(lambda: self.awakeables(invocation_id), f"{invocation_id} has an awakeable")
        return self.awakeables(invocation_id)[0]

    async def journal(self, invocation_id: str) -> list[Entry]:
        return (await self.store.history([invocation_id]))[invocation_id]

    async def settle(
        self, process: Process, awakeable_id: str, value: Any, source: str = "http:1"
    ) -> Verdict:
        body = Resolution.of_json(msgspec.json.encode(value))
        verdict = await process.api.settle(
            Completion(awakeable_id=awakeable_id, body=body, source=parse_source(source))
        )
        assert verdict is not None
        return verdict

    async def records(self, process: Process, *values: bytes | None, first: int | None = None) -> None:
        """A batch of the completions topic, from the offset that was reached or from `first`."""
        sink = CompletionSink(process.engine.completions, 0)
        reached = await sink.open()
        start = reached if first is None else first
        batch = [
            ConsumedRecord(offset=start + n, timestamp_ms=0, key=None, value=value)
            for n, value in enumerate(values)
        ]
        await sink.take(batch)


def quick(*, linger: timedelta = timedelta(0), **runner: Any) -> EngineSettings:
    """Suspends at once; waits for nothing of Kafka."""
    return EngineSettings(
        runner=RunnerSettings(linger=linger, **runner),
        relay=RelaySettings(publish_timeout=timedelta(seconds=60)),
        horizon=timedelta(0),
    )


LIVE = quick(linger=timedelta(seconds=30))
BOTH = pytest.mark.parametrize("settings", [quick(), LIVE], ids=["suspended", "live"])
"""Whether the handler is still in memory when its answer comes, or not."""


class Wide(BaseModel):
    weight: int


async def wait(ctx: Context) -> Any:
    """A handler that has a parcel packed; its weight."""
    awakeable = ctx.awakeable(Wide)
    ctx.publish("pack", 1, awakeable=awakeable)
    return (await awakeable).weight


def resolution(awakeable_id: str, text: bytes = b'{"weight":7}') -> bytes:
    """A record that resolves an awakeable."""
    return encode_completion(
        Completion(awakeable_id=awakeable_id, body=Resolution.of_json(text), source=parse_source(""))
    )


def failed(row: Invocation) -> Rejection:
    assert isinstance(row.result, Rejection), row
    return row.result


def value(row: Invocation) -> Any:
    assert isinstance(row.result, Resolution), row
    return msgspec.json.decode(row.result.content)


async def until(condition: Callable[[], object], what: str = "it happens", *, within_s: float = 600) -> None:
    """Wait for a condition, in virtual time."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - whatever it is about tells nobody
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {within_s} s until {what}") from None
