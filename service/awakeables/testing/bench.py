"""What tests of the service share: processes made in one place, a store and a broker that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow, Completion, Verdict
from awakeables.core.commands import Command
from awakeables.core.effects import Effect
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Reply, SettledAll
from awakeables.core.rows import Changes
from awakeables.core.sources import source_of
from awakeables.engine.engine import Engine, EngineSettings, HandlersRun
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.sinks import CompletionSink
from awakeables.errors import StoreRefused, StoreUnavailable, TopicMissing
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.service import App, Service
from awakeables.ports import (
    Clock,
    Entropy,
    Expectation,
    Publisher,
    PublishReport,
    Store,
    TopicOffsets,
    Where,
)
from awakeables.store.memory import MemoryStore
from awakeables.testing.loop import InlineExecutor, SeededEntropy, SeededLoop, VirtualClock

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

RETENTION = timedelta(days=30)
INLINE = InlineExecutor()


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the service."""

    engine: Engine
    api: Api


def new_process(  # noqa: PLR0913 - keyword-only
    app: App,
    store: Store,
    publisher: Publisher,
    *,
    clock: Clock,
    settings: EngineSettings,
    entropy: Entropy | None = None,
    executor: Executor | None = None,
    build: str = "0",
    on_failure: Callable[[BaseException], None] = lambda _error: None,
    handlers: HandlersRun = LocalAttempts,
    on_time: Callable[[int, float], None] | None = None,
    offsets: TopicOffsets | None = None,
    spans: Spans | None = None,
) -> Process:
    """Make a process as the service does; its IDs are the same in each run unless `entropy` decides."""
    engine = Engine(
        app,
        store,
        publisher,
        clock=clock,
        entropy=entropy or SeededEntropy(),
        settings=settings,
        executor=executor,
        build=build,
        on_failure=on_failure,
        on_time=on_time,
        handlers=handlers,
        offsets=offsets,
        spans=spans,
    )
    return Process(engine, Api(engine))


@asynccontextmanager
async def serving(process: Process) -> AsyncIterator[Process]:
    """Run a process within the block, which is entered once it accepts calls; it is killed at the end.

    Raises:
        BaseException: The first error of its background work, unless the block itself failed.
    """
    engine = process.engine
    running = asyncio.ensure_future(engine.run())
    try:
        await engine.serving.wait()
        yield process
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    if engine.errors:
        raise engine.errors[0]


async def pass_time(seconds: float) -> None:
    """Let virtual time pass: all but the last two seconds at once, as if the process were stopped.

    What became due meanwhile happens within those two seconds, in order.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SeededLoop)
    loop.freeze(seconds - 2)
    await asyncio.sleep(2)


async def until(condition: Callable[[], object], what: str = "it happens", *, within_s: float = 600) -> None:
    """Wait for a condition that nothing signals.

    Raises:
        AssertionError: It did not become true in time.
    """
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {within_s} s until {what}") from None


def quick(*, linger: timedelta = timedelta(0), **runner: Any) -> EngineSettings:
    """Settings to suspend at once, and to wait for nothing from Kafka."""
    return EngineSettings(
        runner=RunnerSettings(linger=linger, **runner),
        relay=RelaySettings(publish_timeout=timedelta(seconds=60)),
        horizon=timedelta(0),
    )


class FragileStore(MemoryStore):
    """The memory store; it notes every commit, and fails as a test asks for.

    Attributes:
        commits: The commands of each group that was applied.
        answers: The replies to each.
        tries: How many groups were submitted.
        lose_before: How many commits fail before they are applied.
        lose_after: How many are applied while their acknowledgement is lost.
        refuses: A group with such a command is refused.
        lose_hints: Settlements are answered without the invocations that they woke.
        full: A commit with anything to write fails, as on a full disk.
        down: Everything fails, reads too.
        slow_s: How long a commit takes.
        gate: While it is closed, every commit waits.
    """

    def __init__(self, *, clock: Clock, retention: timedelta = RETENTION, shared: bool = False) -> None:
        super().__init__(clock=clock, retention_ms=retention // timedelta(milliseconds=1), shared=shared)
        self.commits: list[list[Command]] = []
        self.answers: list[list[Reply]] = []
        self.tries = 0
        self.lose_before = 0
        self.lose_after = 0
        self.refuses: Callable[[Command], bool] = lambda _command: False
        self.lose_hints = False
        self.full = False
        self.down = False
        self.slow_s = 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, members: Sequence[Command]) -> list[Reply]:
        self.tries += 1
        await self.gate.wait()
        self._check()
        if self.lose_before:
            self.lose_before -= 1
            raise StoreUnavailable("lost before the commit")
        if any(self.refuses(member) for member in members):
            raise StoreRefused("this data can't be kept")
        answers = await super().commit(members)
        self.commits.append(list(members))
        self.answers.append(answers)
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
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

    async def invocation(self, invocation_id: str) -> Invocation | None:
        self._check()
        return await super().invocation(invocation_id)

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        self._check()
        return await super().awakeable(awakeable_id)

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        self._check()
        return await super().expectations(awakeable_ids)

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the disk is gone")

    def members(self, kind: type[Command]) -> list[Any]:
        """The commands of this kind that were committed."""
        return [member for group in self.commits for member in group if isinstance(member, kind)]


class FakeBroker:
    """Takes what is published.

    Attributes:
        published: What it took.
        tries: What it was given.
        batches: How many records it was given at once, each time.
        missing: Topics that do not exist.
        fail: The error with which a record is not taken, or None.
        gate: While it is closed, every publish waits.
    """

    def __init__(self) -> None:
        self.published: list[Effect] = []
        self.tries: list[Effect] = []
        self.batches: list[int] = []
        self.missing: set[str] = set()
        self.fail: Callable[[Effect], Exception | None] = lambda _effect: None
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        self.tries += effects
        self.batches.append(len(effects))
        await self.gate.wait()
        taken: list[Effect] = []
        for effect in effects:
            error = self._error(effect)
            if error is None:
                taken.append(effect)
            else:
                report([effect], error)
        if taken:
            self.published += taken
            report(taken, None)

    def _error(self, effect: Effect) -> Exception | None:
        if effect.topic in self.missing:
            return TopicMissing(f"there is no topic {effect.topic!r}")
        return self.fail(effect)

    def values(self, topic: str) -> list[Any]:
        """What was published to a topic, as JSON."""
        return [msgspec.json.decode(e.value or b"null") for e in self.published if e.topic == topic]


class FakeOffsets:
    """`ports.TopicOffsets` of topics that a test describes.

    Attributes:
        begins: Where a partition begins, by topic and partition; 0 without an entry.
        ends: Where it ends.
        later: The offset of the first record of an instant or later; without an entry its end.
        asked: What was asked for.
    """

    def __init__(self) -> None:
        self.begins: dict[tuple[str, int], int] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self.later: dict[tuple[str, int], int] = {}
        self.asked: list[Where] = []

    async def offsets_at(self, topic: str, partitions: Collection[int], where: Where) -> dict[int, int]:
        self.asked.append(where)
        known = self.begins if where == "earliest" else self.ends
        found = {number: known.get((topic, number), 0) for number in partitions}
        if isinstance(where, int):
            found |= {number: self.later[topic, number] for number in found if (topic, number) in self.later}
        return found


class Bench:
    """What outlives the processes of a service: its store, its broker, and time."""

    def __init__(
        self,
        *,
        service: str = "orders",
        clock: Clock | None = None,
        retention: timedelta = RETENTION,
        handlers: HandlersRun = LocalAttempts,
        shared: bool = False,
        spans: Spans | None = None,
    ) -> None:
        """Prepare store and broker; time is virtual unless a clock is given, and `shared` as of a store."""
        self._service = service
        self.clock = clock or VirtualClock(asyncio.get_running_loop())
        self.store = FragileStore(clock=self.clock, retention=retention, shared=shared)
        self.broker = FakeBroker()
        self.offsets = FakeOffsets()
        self._handlers = handlers
        self._spans = spans
        self._processes = 0

    @asynccontextmanager
    async def running(
        self, app: App, settings: EngineSettings | None = None, *, executor: Executor | None = INLINE
    ) -> AsyncIterator[Process]:
        """One process of an app, killed at the end of the block; `executor=None` is threads."""
        self._processes += 1
        process = new_process(
            app,
            self.store,
            self.broker,
            clock=self.clock,
            entropy=SeededEntropy(self._processes),
            settings=settings or quick(),
            executor=executor,
            build=str(self._processes),
            handlers=self._handlers,
            offsets=self.offsets,
            spans=self._spans,
        )
        async with serving(process):
            yield process

    @asynccontextmanager
    async def serving(
        self, settings: EngineSettings | None = None, /, **handlers: Any
    ) -> AsyncIterator[Process]:
        """One process whose service has these handlers by name, killed at the end of the block."""
        service = Service(self._service)
        for name, function in handlers.items():
            service.handler(name)(function)
        async with self.running(App("shop", services=[service]), settings) as process:
            yield process

    async def begin(self, process: Process, handler: str, content: bytes = b"null", **kwargs: Any) -> str:
        """Begin an invocation of a handler by name; its ID."""
        target = process.api.app.handler(self._service, handler)
        begun = await process.api.begin(target, content, **kwargs)
        return begun.id

    async def status(self, invocation_id: str, *wanted: str) -> Invocation:
        """The row, once it has one of these statuses."""
        await until(lambda: self.row(invocation_id).status in wanted, f"{invocation_id} is {wanted}")
        return self.row(invocation_id)

    def row(self, invocation_id: str) -> Invocation:
        return self.store.tables.invocations[invocation_id]

    def awakeables(self, invocation_id: str) -> list[AwakeableRow]:
        """Its awakeables, in the order of their creation."""
        rows = self.store.tables.awakeables.values()
        return sorted((r for r in rows if r.invocation_id == invocation_id), key=lambda row: row.created_ms)

    async def awakeable(self, invocation_id: str) -> AwakeableRow:
        """Its first awakeable, once there is one."""
        await until(lambda: self.awakeables(invocation_id), f"{invocation_id} has an awakeable")
        return self.awakeables(invocation_id)[0]

    async def journal(self, invocation_id: str) -> list[Entry]:
        return (await self.store.history([invocation_id]))[invocation_id]

    async def settle(
        self, process: Process, awakeable_id: str, value: Any, source: str = source_of("http", "1")
    ) -> Verdict:
        """Resolve an awakeable with a value."""
        body = Resolution.of_json(msgspec.json.encode(value))
        verdict = await process.api.settle(Completion(awakeable_id=awakeable_id, body=body, source=source))
        assert verdict is not None
        return verdict

    async def records(self, process: Process, *values: bytes | None, first: int | None = None) -> None:
        """Let it read a batch of the completions topic, from the offset that was reached or from `first`."""
        sink = CompletionSink(process.engine.completions, 0)
        reached = await sink.open()
        start = reached if first is None else first
        batch = [
            ConsumedRecord(offset=start + n, timestamp_ms=0, key=None, value=value)
            for n, value in enumerate(values)
        ]
        await sink.take(batch)
