"""The world of the simulation: the unmodified engine over ports that fail as the seed decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

import msgspec

from awakeables.core.awakeables import PROMISE, AwakeableRow, Completion, Verdict
from awakeables.core.commands import Command
from awakeables.core.effects import Effect
from awakeables.core.instances import HeartbeatReply, Hint, Instance, PartitionRead
from awakeables.core.invocations import BY_OPERATOR, Invocation
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import Reply
from awakeables.engine.engine import EngineSettings, HandlersRun
from awakeables.engine.horizon import Moment
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.sinks import CompletionSink, PartitionSink
from awakeables.engine.subscriptions import SubscribedTopic
from awakeables.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    NotFound,
    NotPossible,
    Overloaded,
    OwnershipLost,
    QueueIsFull,
    StoreUnavailable,
    UnsupportedVersion,
)
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.ports import PublishReport
from awakeables.store.memory import MemoryStore
from awakeables.testing.bench import new_process
from awakeables.testing.loop import (
    InlineExecutor,
    SeededEntropy,
    SeededLoop,
    VirtualClock,
    end_stray_tasks,
)
from awakeables.wire.completions import encode_completion
from awakeables.wire.tasks import decode_task, encode_effect
from awakeables.world import FollowingClock
from simulation import corpus
from support.functions import EverythingElsewhere
from support.ids import new_id

RETENTION_MS = 7 * 86_400_000
PARTITIONS = 3
MOST_RECORDS = 12
"""For the subscriptions, in all partitions together."""

FAULTS_S = 30
"""So long everything goes wrong, in virtual time: all calls have begun after some six seconds."""

MOST_S = 600
"""So long everything may take to end without faults, in virtual time: ten times what it takes."""


def settings_of(seed: int) -> EngineSettings:
    """Every third seed suspends at every await, so that each step of a handler is a replay.

    Another third runs handlers by attempts that are rebuilt from JSON for each step (`Process`).
    """
    return EngineSettings(
        runner=RunnerSettings(
            linger=timedelta(seconds=1),
            retry=RetryPolicy(max_interval=timedelta(seconds=5)),
            always_suspend=seed % 3 == 2,
        ),
        relay=RelaySettings(sweep_interval=timedelta(seconds=1)),
        horizon=timedelta(minutes=2),
        max_running=8,
    )


@dataclass
class Faults:
    """How likely things go wrong: each guard that is taken away is missed by one seed in twenty at least."""

    before_commit: float = 0.05
    after_commit: float = 0.05
    publish: float = 0.1
    crash_every_s: float = 12.0
    rewind: float = 0.1
    cancel: float = 0.15
    kill: float = 0.06
    freeze: float = 0.4
    skip: float = 0.05
    hint: float = 0.3
    pause: float = 0.1
    restart: float = 0.05
    hold: float = 0.05
    stand_still: float = 0.05


W = TypeVar("W", bound="World")


class FaultyStore:
    """Delegates to the truth; loses commits, acknowledgements and hints, and can be frozen."""

    def __init__(self, truth: MemoryStore, chance: Random, faults: Faults) -> None:
        self._truth = truth
        self._chance = chance
        self._faults = faults
        self._thawed = asyncio.Event()
        self._thawed.set()
        self.shared = truth.membership.shared

    # Membership and hints of this process, which are cut off with it.

    @property
    def membership(self) -> FaultyStore:
        return self

    @property
    def hints(self) -> FaultyStore:
        return self

    async def register(self, instance: Instance) -> None:
        await self._thawed.wait()
        await self._truth.membership.register(instance)

    async def beat(self, instance_id: str, *, timeout_ms: int) -> HeartbeatReply | None:
        await self._thawed.wait()
        if self._chance.random() < self._faults.before_commit:
            raise StoreUnavailable("the heartbeat was lost")
        return await self._truth.membership.beat(instance_id, timeout_ms=timeout_ms)

    async def leave(self, instance_id: str, *, gone: bool) -> None:
        await self._truth.membership.leave(instance_id, gone=gone)

    async def instances(self) -> list[Instance]:
        return await self._truth.membership.instances()

    def send(self, instance_id: str, hint: Hint) -> None:
        if self._thawed.is_set() and self._chance.random() >= self._faults.hint:
            self._truth.hints.send(instance_id, hint)

    def listen(self, instance_id: str, on_hints: Callable[[Sequence[Hint]], None]) -> None:
        self._truth.hints.listen(instance_id, on_hints)

    async def read_up_to(
        self, topic: str, partitions: int, mine: Sequence[PartitionRead], *, topic_id: str | None = None
    ) -> int | None:
        await self._thawed.wait()
        return await self._truth.read_up_to(topic, partitions, mine, topic_id=topic_id)

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    async def commit(self, members: Sequence[Command]) -> list[Reply]:
        await asyncio.sleep(self._chance.random() * 0.01)
        await self._thawed.wait()
        if self._chance.random() < self._faults.before_commit:
            raise StoreUnavailable("lost before the commit")
        answers = await self._truth.commit(members)
        if self._chance.random() < self._faults.after_commit:
            raise StoreUnavailable("the acknowledgement was lost")
        await asyncio.sleep(self._chance.random() * 0.01)
        return answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._truth, name)


class Broker:
    """Topics as lists."""

    def __init__(self) -> None:
        self.completions: list[list[ConsumedRecord]] = [[] for _ in range(PARTITIONS)]
        self.records: list[list[ConsumedRecord]] = [[] for _ in range(PARTITIONS)]
        self.tasks: list[tuple[bytes | None, tuple[tuple[str, bytes | None], ...]]] = []
        self.published: list[Effect] = []

    def complete(self, value: bytes | None, partition: int, now_ms: int) -> None:
        _append(self.completions[partition], value, now_ms)

    def record(self, value: bytes | None, partition: int, now_ms: int) -> None:
        _append(self.records[partition], value, now_ms)


def _append(log: list[ConsumedRecord], value: bytes | None, now_ms: int) -> None:
    log.append(ConsumedRecord(offset=len(log), timestamp_ms=now_ms, key=None, value=value))


class FaultyPublisher:
    """Publishes late, not at all, or without saying so; checks that the row came before the ID."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        await asyncio.gather(*(self._publish(effect, report) for effect in effects))

    async def _publish(self, effect: Effect, report: PublishReport) -> None:
        try:
            await self._write(effect)
        except BrokerUnavailable as error:
            report([effect], error)
        else:
            report([effect], None)

    async def _write(self, effect: Effect) -> None:
        chance, faults = self._world.chance, self._world.faults
        await asyncio.sleep(chance.random() * 0.02)
        if chance.random() < faults.publish:
            raise BrokerUnavailable("lost before it was sent")
        if effect.task is not None and effect.task.awakeable_id not in self._world.store.tables.awakeables:
            self._world.violations.append(f"A3: {effect.task.awakeable_id} left before its row")
        value, headers = encode_effect(effect)
        self._world.broker.published.append(effect)
        if effect.topic == corpus.TASKS:
            self._world.broker.tasks.append((value, tuple(headers)))
        if chance.random() < faults.publish:
            raise BrokerUnavailable("sent, but the acknowledgement was lost")


class OwnClock:
    """The clock of a machine, which is minutes off; the engine corrects it by the store's."""

    def __init__(self, clock: VirtualClock, off_ms: int) -> None:
        self._clock = clock
        self._off_ms = off_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._off_ms

    def monotonic(self) -> float:
        return self._clock.monotonic()


class Process:
    """One process of the service: engine, and reader of the completions topic."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = FaultyStore(world.store, world.chance, world.faults)
        off_ms = world.chance.randrange(-600_000, 600_000) if self.store.shared else 0
        self.clock = FollowingClock(OwnClock(world.clock, off_ms))
        if self.store.shared:
            # Its first heartbeat does so: what it makes up before then is dated by its own clock.
            self.clock.follow(world.clock.now_ms(), 0)
        corpus.builds[self.clock] = world.next_build()
        process = new_process(
            world.app,
            self.store,
            FaultyPublisher(world),
            clock=self.clock,
            entropy=world.entropy,
            settings=world.settings,
            executor=InlineExecutor(),
            handlers=world.handlers,
            on_time=self.clock.follow,
        )
        self.engine, self.api = process.engine, process.api
        self.tasks = [asyncio.ensure_future(self.engine.run()), asyncio.ensure_future(self._read())]
        for topic in self.engine.subscriptions.topics.values():
            self.tasks.append(asyncio.ensure_future(self._take(topic)))

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for error in self.engine.errors:
            self.world.violations.append(f"background error: {error!r}")

    async def _read(self) -> None:
        """What the Kafka adapter does: claim what is assigned, read in batches, settle, claim when fenced."""
        world, horizon = self.world, self.engine.horizon
        sinks: dict[int, CompletionSink] = {}
        offsets: dict[int, int] = {}
        while True:
            assigned = world.assigned(self)
            for partition in sorted(sinks.keys() - assigned):
                sinks.pop(partition).close()
            for partition in sorted(assigned - sinks.keys()):
                sinks[partition] = CompletionSink(self.engine.completions, partition)
                offsets[partition] = await sinks[partition].open()
            horizon.expect(range(PARTITIONS), Moment.now(self.clock))
            for partition in sorted(sinks):
                looked = Moment.now(self.clock)
                start = 0 if world.chance.random() < world.faults.rewind else offsets[partition]
                log = world.broker.completions[partition]
                batch = log[start : start + world.chance.randrange(1, 8)]
                if not batch:
                    sinks[partition].read_up_to(looked)
                    continue
                try:
                    await sinks[partition].take(batch)
                except OwnershipLost:
                    sinks.pop(partition).close()
                    break
                offsets[partition] = batch[-1].offset + 1
            await asyncio.sleep(world.chance.random() * 0.2)

    async def _take(self, topic: SubscribedTopic) -> None:
        """The same for a subscription."""
        world, sinks, offsets = self.world, dict[int, PartitionSink](), dict[int, int]()
        while True:
            assigned = world.assigned(self)
            for partition in sorted(sinks.keys() - assigned):
                sinks.pop(partition).close()
            for partition in sorted(assigned - sinks.keys()):
                sinks[partition] = topic.sink(partition)
                offsets[partition] = await sinks[partition].open()
            for partition, sink in sorted(sinks.items()):
                if sink.full is not None:
                    await sink.look()
                    continue
                start = 0 if world.chance.random() < world.faults.rewind else offsets[partition]
                batch = world.broker.records[partition][start : start + world.chance.randrange(1, 6)]
                if not batch:
                    continue
                try:
                    offsets[partition] = await sink.take(batch)
                except OwnershipLost:
                    sinks.pop(partition).close()
                    break
            await asyncio.sleep(world.chance.random() * 0.2)


def handlers_of(seed: int) -> HandlersRun:
    """Where the handlers of a run are: mostly live in memory, else rebuilt for each step, some over HTTP."""
    if seed % 3 != 1:
        return LocalAttempts
    return EverythingElsewhere if seed % 9 == 4 else StatelessAttempts


class World:
    """Everything of one run.

    Attributes:
        app: The handlers that are called.
    """

    app: App = corpus.app

    def __init__(self, seed: int, loop: SeededLoop, faults: Faults, instances: int) -> None:
        self.chance = Random(seed)
        self.processes: list[Process] = []
        self._instances = instances
        self._loop = loop
        self.settings = settings_of(seed)
        self.handlers = handlers_of(seed)
        self.faults = faults
        self.clock = VirtualClock(loop)
        self.entropy = SeededEntropy(seed)
        self.store = MemoryStore(clock=self.clock, retention_ms=RETENTION_MS, shared=instances > 1)
        self.broker = Broker()
        self.violations: list[str] = []
        self.told: list[tuple[Completion, Verdict]] = []
        self.begun: list[str] = []
        self.cancelled_waiting: set[str] = set()
        self.killed: dict[str, int] = {}
        self.paused = 0
        self.stood_still = 0
        self.restarted = 0
        self.held = 0
        self._begun = 0
        self._workers_done = 0
        corpus.ledger.executed.clear()
        corpus.ledger.flaky.clear()
        self._watch_executions()

    def _watch_executions(self) -> None:
        """J3: nothing is executed whose result is recorded."""
        world = self

        class Watched(list[tuple[str, str]]):
            def append(self, execution: tuple[str, str]) -> None:
                invocation_id, name = execution
                if name in recorded_runs(world.store, invocation_id):
                    world.violations.append(f"J3: run {name} of {invocation_id} again, though recorded")
                super().append(execution)

        corpus.ledger.executed = Watched()

    async def live(self, calls: int) -> None:
        """Begin calls, let everything go wrong for a while, then let everything finish."""
        self.processes = [Process(self) for _ in range(self._instances)]
        worker = asyncio.ensure_future(self._work())
        freezer = asyncio.ensure_future(self._freeze())
        zombies: list[Process] = []
        ends = self.clock.monotonic() + FAULTS_S
        next_crash = self.faults.crash_every_s * self.chance.random()
        while self.clock.monotonic() < ends or calls:
            process = self._one_of_them()
            calls -= await self._call(process, calls)
            await asyncio.sleep(self.chance.random())
            if self.begun:
                await self._operate(process)
            self._produce()
            if self.chance.random() < self.faults.skip:
                await self._skip_back(process, self.chance.randrange(PARTITIONS))
            next_crash -= 0.5
            if next_crash < 0:
                next_crash = self.faults.crash_every_s * self.chance.random() * 2
                self.processes.remove(process)
                if self.chance.random() < 0.5:
                    process.store.freeze()
                    zombies.append(process)
                else:
                    await process.kill()
                self.processes.append(Process(self))
            elif zombies and self.chance.random() < 0.2:
                zombies[-1].store.thaw()  # when another has had time to take over what it runs
        self.faults = Faults(0, 0, 0, 0, 0, 0, 0, self.faults.freeze, 0, 0, 0, 0, 0)
        for zombie in zombies:
            zombie.store.thaw()
        await asyncio.sleep(5)
        for zombie in zombies:
            await zombie.kill()
        for process in self.processes:
            await process.kill()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await self._finish()
        freezer.cancel()
        await asyncio.gather(freezer, return_exceptions=True)

    async def _call(self, process: Process, calls: int) -> int:
        """Begin one of the calls that are still to be made, and some that are not counted."""
        begun = False
        if calls:
            groups = (corpus.service, corpus.counters)
            names = [(of.name, name) for of in groups for name in sorted(of.handlers)]
            begun = await self._begin(process, *self.chance.choice(names))
        if self.chance.random() < 0.1:
            await self._begin(process, corpus.flows.name, self.chance.choice(sorted(corpus.flows.handlers)))
        if self.chance.random() < 0.05:
            await self._begin(process, corpus.service.name, corpus.changed.__name__)
        return int(begun)

    async def _finish(self) -> None:
        """No faults but freezes from here on: everything must come to its end."""
        process = Process(self)
        self.processes = [process]
        worker = asyncio.ensure_future(self._work(honest=True))
        for _ in range(MOST_S):
            await asyncio.sleep(1)
            await self._resume_all(process)
            await self._signal_all(process)
            if self._all_ended() and self._all_read() and not self.store.tables.effects:
                if all(row.paused_ms is not None for row in self.store.tables.schedules.values()):
                    break
                for name in self.store.tables.schedules:
                    await process.api.pause_schedule(name)
        await asyncio.sleep(3)
        if process.engine.live:
            self.violations.append(f"O2: {process.engine.live} handlers are held though all ended")
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await process.kill()

    def next_build(self) -> int:
        """The number of the next process's build; those that begin together have the first."""
        self._begun += 1
        return max(0, self._begun - self._instances)

    def _any_of_all(self) -> str:
        return self.chance.choice(list(self.store.tables.invocations))

    def assigned(self, process: Process) -> set[int]:
        """The partitions that the consumer group gives a process; a frozen one is no member any more."""
        if self._instances == 1:
            return set(range(PARTITIONS))
        if process not in self.processes:
            return set()
        place = self.processes.index(process)
        return {number for number in range(PARTITIONS) if number % len(self.processes) == place}

    def _one_of_them(self) -> Process:
        return self.processes[0] if self._instances == 1 else self.chance.choice(self.processes)

    def _all_ended(self) -> bool:
        rows = self.store.tables.invocations.values()
        return all(row.status == "completed" or (row.status == "paused" and not _wanted(row)) for row in rows)

    def _all_read(self) -> bool:
        positions = self.store.tables.positions
        topic = self.app.completions_topic
        return (
            self._workers_done >= len(self.broker.tasks)
            and all(
                positions["", topic, n].next == len(log)
                for n, log in enumerate(self.broker.completions)
                if log
            )
            and all(
                (held := positions.get((name, corpus.RECORDS, n))) is not None and held.next == len(log)
                for name in self.app.subscribed()
                for n, log in enumerate(self.broker.records)
                if log
            )
        )

    async def _begin(self, process: Process, of: str, name: str) -> bool:
        """Begin an invocation, if that is possible."""
        handler = self.app.handler(of, name)
        number = self.chance.randrange(100)
        key = f"k{number % 4}" if handler.keyed else None
        if handler.kind == "run":
            number %= 8  # so that half of those of a key are the same request
        try:
            async with asyncio.timeout(2):
                begun = await process.api.begin(handler, str(number).encode(), key=key)
        except (TimeoutError, asyncio.CancelledError, Overloaded, QueueIsFull, NotFound, IdempotencyConflict):
            return False
        self.begun.append(begun.id)
        return True

    def _produce(self) -> None:
        """Records for the subscriptions, a few of which don't fit."""
        if sum(map(len, self.broker.records)) < MOST_RECORDS and self.chance.random() < 0.3:
            value = self.chance.choice([b"{", None, b'"x"']) if self.chance.random() < 0.2 else None
            value = value or str(self.chance.randrange(100)).encode()
            for _ in range(self.chance.randrange(1, 4)):
                self.broker.record(value, self.chance.randrange(PARTITIONS), self.clock.now_ms())

    async def _hold(self, process: Process) -> None:
        """An operator pauses a subscription, or resumes it."""
        name = self.chance.choice(list(process.engine.subscriptions.topics))
        with suppress(TimeoutError, NotPossible):
            async with asyncio.timeout(2):
                if self.chance.random() < 0.5:
                    await process.api.pause_subscription(name)
                    self.held += 1
                else:
                    await process.api.resume_subscription(name)

    async def _stand_still(self, process: Process) -> None:
        """An operator pauses a service or one of its handlers, or resumes it."""
        service = self.chance.choice(list(self.app.services.values()))
        handler = self.chance.choice([None, *service.handlers])
        with suppress(TimeoutError, NotPossible):
            async with asyncio.timeout(2):
                if self.chance.random() < 0.5:
                    await process.api.pause_handlers(service.name, handler)
                    self.stood_still += 1
                else:
                    await process.api.resume_handlers(service.name, handler)

    async def _operate(self, process: Process) -> None:
        """What operators do to invocations."""
        faults = self.faults
        for likely, act in (
            (faults.cancel, self._cancel),
            (faults.kill, self._kill),
            (faults.pause, self._pause),
            (faults.restart, self._restart),
        ):
            if self.chance.random() < likely:
                await act(process, self._any_of_all())
        if self.chance.random() < 0.1:
            await self._resume_all(process)
        if self.chance.random() < faults.hold:
            await self._hold(process)
        if self.chance.random() < faults.stand_still:
            await self._stand_still(process)

    async def _cancel(self, process: Process, invocation_id: str) -> None:
        before = self.store.tables.invocations[invocation_id]
        with suppress(TimeoutError, NotPossible):
            async with asyncio.timeout(2):
                row = await process.api.cancel(invocation_id)
                if before.status == "suspended" and (row.status, row.wake) == ("pending", before.wake + 1):
                    self.cancelled_waiting.add(invocation_id)

    async def _kill(self, process: Process, invocation_id: str) -> None:
        with suppress(TimeoutError, NotPossible):
            async with asyncio.timeout(2):
                row = await process.api.kill(invocation_id)
                self.killed[invocation_id] = row.version

    async def _pause(self, process: Process, invocation_id: str) -> None:
        with suppress(TimeoutError, NotPossible):
            async with asyncio.timeout(2):
                await process.api.pause(invocation_id)
                self.paused += 1

    async def _resume_all(self, process: Process) -> None:
        """What an operator has paused: handlers, subscriptions, and invocations."""
        for target in sorted(self.store.tables.pauses):
            service, _, handler = target.partition("/")
            with suppress(TimeoutError, NotPossible):
                async with asyncio.timeout(2):
                    await process.api.resume_handlers(service, handler or None)
        for held in list(self.store.tables.positions.values()):
            if held.paused_ms is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await process.api.resume_subscription(held.subscription)
        for row in [row for row in self.store.tables.invocations.values() if _wanted(row)]:
            with suppress(TimeoutError, NotPossible):
                async with asyncio.timeout(2):
                    await process.api.resume(row.id)

    async def _signal_all(self, process: Process) -> None:
        """The runs of the workflow that nobody has signalled."""
        for row in list(self.store.tables.awakeables.values()):
            if row.source_utf8 == PROMISE and row.state == "pending":
                run = self.store.tables.invocations[row.invocation_id]
                with suppress(TimeoutError, Overloaded):
                    async with asyncio.timeout(2):
                        await process.api.begin(corpus.flows.handlers["signals"], b"1", key=run.key)

    async def _restart(self, process: Process, invocation_id: str) -> None:
        """From an entry, which is often impossible; what an object does depends on its state, so not that."""
        row, chunks = self.store.tables.invocations[invocation_id], self.store.tables.journals[invocation_id]
        if row.handler == corpus.until_cancelled.__name__:
            return  # nobody would cancel it
        most = 0 if row.key is not None else 3 * len(chunks)
        with suppress(TimeoutError, NotPossible):
            async with asyncio.timeout(2):
                await process.api.restart(invocation_id, from_entry=self.chance.randrange(most + 1))
                self.restarted += 1

    async def _skip_back(self, process: Process, partition: int) -> None:
        """An operator has a partition read again; of what is settled nothing changes (K1)."""
        topic = self.app.completions_topic
        held = self.store.tables.positions.get(("", topic, partition))
        if held is not None and held.next:
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    to = self.chance.randrange(held.next)
                    await process.engine.completions.skip(partition, held.next, to)

    async def _freeze(self) -> None:
        """Stop the world over a deadline, with an answer in the topic that came before it."""
        spared: set[str] = set()
        while True:
            await asyncio.sleep(self.chance.random())
            now_ms = self.clock.now_ms()
            coming = [row for row in self._pending() if 500 < (row.deadline_ms or 0) - now_ms < 2_500]
            coming = [row for row in coming if row.id not in spared]
            if not coming:
                continue
            row = self.chance.choice(coming)
            if self.chance.random() >= self.faults.freeze:
                spared.add(row.id)  # it may time out
                continue
            deadline_ms = row.deadline_ms or 0
            await asyncio.sleep((deadline_ms - now_ms) / 1000 - 0.3 * self.chance.random())
            if self.clock.now_ms() < deadline_ms:
                partition = self.chance.randrange(PARTITIONS)
                self.broker.complete(self._resolve(row.id), partition, deadline_ms - 1)
                self._loop.freeze(self.chance.choice([0.4, 0.9, 10.0]))

    def _pending(self) -> list[AwakeableRow]:
        rows = self.store.tables.awakeables.values()
        return [row for row in rows if row.state == "pending" and row.source is None]

    async def _work(self, *, honest: bool = False) -> None:
        """Workers: answer each task some time, mostly; and send all kinds of nonsense."""
        while True:
            while self._workers_done < len(self.broker.tasks):
                value, headers = self.broker.tasks[self._workers_done]
                self._workers_done += 1
                task = decode_task(value, headers)
                for answer in self._answers(task.awakeable_id, honest=honest):
                    partition = self.chance.randrange(PARTITIONS)
                    self.broker.complete(answer, partition, self.clock.now_ms())
            if honest:
                self._answer_what_still_waits()
            await asyncio.sleep(self.chance.random() * 3)

    def _answer_what_still_waits(self) -> None:
        """But for what has a deadline: that times out."""
        for row in self._pending():
            if row.deadline_ms is None:
                self.broker.complete(self._resolve(row.id), 0, self.clock.now_ms())

    def _answers(self, awakeable_id: str, *, honest: bool) -> list[bytes | None]:
        good = self._resolve(awakeable_id)
        if honest:
            return [good]
        reject = Rejection(reason="no", code=409)
        rejection = encode_completion(Completion(awakeable_id=awakeable_id, body=reject, source=""))
        misfit = msgspec.json.encode({"awakeable_id": awakeable_id, "status": "resolved", "value": "x"})
        beat = msgspec.json.encode({"awakeable_id": awakeable_id, "status": "heartbeat", "progress": 1})
        stranger = new_id("prom", at_ms=self.clock.now_ms(), entropy=self.entropy.bytes(10))
        nonsense: list[bytes | None] = [
            b"{",
            None,
            b"[]",
            b'{"awakeable_id": "prom_1x", "status": "resolved"}',
        ]
        roll = self.chance.random()
        if roll < 0.15:
            return []
        menu: list[list[bytes | None]] = [
            [good],
            [good, good],
            [good, rejection],
            [rejection],
            [misfit, good],
            [beat, good, beat],
            [beat],
            [good, self._resolve(stranger)],
            [self.chance.choice(nonsense), good],
            [self._resolve(awakeable_id), self._resolve(awakeable_id)],
        ]
        return self.chance.choice(menu)

    def _resolve(self, awakeable_id: str) -> bytes:
        answer = Resolution.of_json(msgspec.json.encode({"n": self.chance.randrange(1000)}))
        return encode_completion(Completion(awakeable_id=awakeable_id, body=answer, source=""))


def _wanted(row: Invocation) -> bool:
    """Has an operator paused it, or an old build that does not know its version?"""
    kinds = (BY_OPERATOR, UnsupportedVersion.__name__)
    return row.status == "paused" and row.failure is not None and row.failure.kind in kinds


def recorded_runs(store: MemoryStore, invocation_id: str) -> set[str]:
    """The names of the runs whose outcome is in an invocation's journal."""
    from awakeables.core.journal import OutcomeDelivered, RunEnded, RunRequested, decode_chunks

    chunks = store.tables.journals.get(invocation_id, {})
    journal = decode_chunks(chunk for _, chunk in sorted(chunks.items()))
    ended = {entry.of for entry in journal if isinstance(entry, OutcomeDelivered | RunEnded)}
    return {e.name for i, e in enumerate(journal) if isinstance(e, RunRequested) and i in ended}


class Livelock(RuntimeError):
    """Callbacks go on for ever at one instant, so that time never passes."""


class WatchedLoop(SeededLoop):
    """Ends a world that spins: a guard that is taken away may have that effect, too."""

    most_iterations: int | None = 20_000
    _iterations = 0

    def _run_once(self) -> None:
        self._iterations += 1
        if self.most_iterations is not None and self._iterations > self.most_iterations:
            raise Livelock
        super()._run_once()

    def _jump_to(self, instant_s: float) -> None:
        self._iterations = 0
        super()._jump_to(instant_s)


def simulate(seed: int, *, calls: int = 12, faults: Faults | None = None, instances: int = 1) -> World:
    """Run the world of a seed to its end, with this many instances of the service at a time."""
    return live_to_the_end(seed, lambda loop: World(seed, loop, faults or Faults(), instances), calls=calls)


def live_to_the_end(seed: int, begin: Callable[[WatchedLoop], W], *, calls: int) -> W:
    """Run a world on a loop of its own."""
    loop = WatchedLoop(seed)
    try:
        world = begin(loop)
        loop.run_until_complete(world.live(calls))
        return world
    except Exception:
        loop.most_iterations = None
        loop.run_until_complete(end_stray_tasks())
        raise
    finally:
        asyncio.set_event_loop(None)
        loop.close()
