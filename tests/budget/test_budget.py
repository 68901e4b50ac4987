"""What a callback cycle may cost, counted instead of timed: the same on a slow machine and on a busy one.

A cycle is a call, its handler's awakeable and task, the worker's answer, and the result. All that runs in
the service is counted but HTTP and Kafka's client: engine, handler, SQLite, both threads. The bounds are
what was reached: whoever makes a cycle dearer sees it here, and lowers them when it gets cheaper.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
import structlog
from pydantic import BaseModel

import awakeables
from awakeables import App, Context, Service
from awakeables.api import WaitingCall
from awakeables.core.effects import Effect
from awakeables.engine.engine import EngineSettings
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.sinks import CompletionSink
from awakeables.ports import PublishReport
from awakeables.store.sqlite.store import SqliteStore
from awakeables.testing.bench import Process, new_process, serving
from awakeables.wire.tasks import encode_effect
from awakeables.world import SystemClock

CYCLES = 4
"""Rounds that are counted, after one that warms up."""

OURS = str(Path(awakeables.__file__).parent)
ROOT = Path(__file__).parents[2]


class Order(BaseModel):
    id: str


class Parcel(BaseModel):
    parcel: str


orders = Service("orders")


@orders.handler()
async def fulfil(ctx: Context, order: Order) -> Parcel:
    packed = ctx.awakeable(Parcel, timeout=timedelta(hours=4))
    ctx.publish("pack-requests", order, awakeable=packed)
    return await packed


app = App("shop", services=[orders])


class Broker:
    """Takes what is published, and lets a worker answer once all of a round is there."""

    def __init__(self) -> None:
        self.tasks: list[Effect] = []
        self.offset = 0
        self.published = asyncio.Condition()

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        for effect in effects:
            encode_effect(effect)
        report(effects, None)
        async with self.published:
            self.tasks += effects
            self.published.notify_all()

    async def answers(self, count: int) -> list[ConsumedRecord]:
        async with self.published:
            await self.published.wait_for(lambda: len(self.tasks) == count)
        tasks, self.tasks = self.tasks, []
        return [self._answer(effect) for effect in tasks]

    def _answer(self, effect: Effect) -> ConsumedRecord:
        assert effect.task is not None
        said = {"awakeable_id": effect.task.awakeable_id, "status": "resolved", "value": {"parcel": "p-9"}}
        self.offset += 1
        return ConsumedRecord(
            offset=self.offset - 1, timestamp_ms=1, key=None, value=msgspec.json.encode(said)
        )


class Counted:
    """What happens between `begin` and `end`, on the loop and in the writer's thread."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.counts: Counter[str] = Counter()
        self._changes = 0

    def _profile(self, frame: FrameType, event: str, _arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename != __file__:
            self.counts["calls"] += 1

    def _statement(self, statement: str) -> None:
        self.counts["statements"] += 1
        verb = statement.split(maxsplit=1)[0].upper()
        if verb in ("SELECT", "COMMIT"):
            self.counts[verb.lower()] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within the block; the store is at rest where it begins and ends."""
        loop = asyncio.get_running_loop()
        patched = {"create_future": "futures", "call_soon": "callbacks", "call_soon_threadsafe": "callbacks"}
        patched |= {"call_at": "timers"}
        originals = {name: getattr(loop, name) for name in patched}
        factory = loop.get_task_factory()
        for name, what in patched.items():
            setattr(loop, name, self._counted(originals[name], what))
        loop.set_task_factory(self._new_task)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            loop.set_task_factory(factory)
            for name in patched:
                delattr(loop, name)

    def _counted(self, original: Callable[..., Any], what: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.counts[what] += 1
            return original(*args, **kwargs)

        return counted

    def _new_task(self, loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
        self.counts["tasks"] += 1
        return asyncio.Task(work, loop=loop, **kwargs)

    def in_writer(self, connection: sqlite3.Connection, begins: bool) -> None:
        """To be run by the writer's thread."""
        connection.set_trace_callback(self._statement if begins else None)
        changes, self._changes = self._changes, connection.total_changes
        if not begins:
            self.counts["rows"] += self._changes - changes
        sys.setprofile(self._profile if begins else None)


class Shop:
    """A service with its store and broker, and what reads the answers."""

    def __init__(self, process: Process, store: SqliteStore, broker: Broker) -> None:
        self.process = process
        self.store = store
        self.broker = broker
        self.sink = CompletionSink(process.engine.completions, 0)

    def call(self) -> WaitingCall:
        return self.process.api.call(app.handler("orders", "fulfil"), b'{"id":"o-17"}', headers={})

    async def cycles(self, in_flight: int, rounds: int = 1) -> None:
        for _ in range(rounds):
            calls = [self.call() for _ in range(in_flight)]
            await self.sink.take(await self.broker.answers(in_flight))
            for call in calls:
                await call.end
        await self.process.engine.settled_down()


@asynccontextmanager
async def shop(folder: Path) -> AsyncIterator[Shop]:
    clock, broker = SystemClock(), Broker()
    store = SqliteStore(folder / "s.db", clock=clock, retention_ms=86_400_000)
    await store.open()
    settings = EngineSettings(horizon=timedelta(0), sweep_interval=timedelta(days=1))
    async with serving(new_process(app, store, broker, clock=clock, settings=settings)) as process:
        shop = Shop(process, store, broker)
        await shop.sink.open()
        yield shop
    await store.close()


async def cost_of_a_cycle(folder: Path, in_flight: int) -> dict[str, float]:
    async with shop(folder) as served:
        counted = Counted(served.store)
        await served.cycles(in_flight)
        await served.store._writer.run(counted.in_writer, True)
        with counted.counting():
            await served.cycles(in_flight, CYCLES)
        await served.store._writer.run(counted.in_writer, False)
    return {what: round(count / CYCLES / in_flight, 2) for what, count in counted.counts.items()}


BOUNDS: dict[int, dict[str, float]] = {
    64: {
        "calls": 173,
        "tasks": 0.05,
        "futures": 2.2,
        "callbacks": 1.5,
        "timers": 0.1,
        "statements": 9.2,
        "select": 0,
        "commit": 0.1,
        "rows": 9.1,
    },
    1: {
        "calls": 605,
        "tasks": 1,
        "futures": 10,
        "callbacks": 18.2,
        "timers": 3,
        "statements": 16,
        "select": 0,
        "commit": 3,
        "rows": 10,
    },
}


@pytest.fixture(autouse=True)
def logs_as_the_service_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines below the level are dropped by a logger that is made once."""
    quiet = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    monkeypatch.setattr("awakeables.engine.invocationlog.log", quiet.bind())


@pytest.fixture(autouse=True)
def lazy_commands_wait_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ride with the next group, however long a slow machine takes to get there."""
    monkeypatch.setattr("awakeables.engine.committer.LAZY_S", 60.0)


@pytest.mark.parametrize("in_flight", BOUNDS)
async def test_a_cycle_costs_no_more_than_it_did(
    tmp_path_factory: pytest.TempPathFactory, in_flight: int
) -> None:
    # A machine under load can only add to what a cycle costs: a group that is split, a timer that is due.
    for _ in range(3):
        cost = await cost_of_a_cycle(tmp_path_factory.mktemp("budget"), in_flight)
        dearer = {
            what: (n, most) for what, most in BOUNDS[in_flight].items() if (n := cost.get(what, 0)) > most
        }
        if not dearer:
            return
    pytest.fail(f"a cycle costs more than it may: {dearer} in {cost}")


class Way:
    """The functions of the service that are called, in order, on the loop and in the writer's thread.

    Attributes:
        steps: The file, below the package, and the function.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []

    def profile(self, frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OURS):
            self.steps.append((str(Path(code.co_filename).relative_to(OURS)), code.co_qualname))

    def in_writer(self, _connection: sqlite3.Connection, begins: bool) -> None:
        """To be run by the writer's thread."""
        sys.setprofile(self.profile if begins else None)


async def way_of_one_completion(folder: Path) -> list[tuple[str, str]]:
    """From the batch that has it to the end of its call."""
    way = Way()
    async with shop(folder) as served:
        await served.cycles(1)
        call = served.call()
        records = await served.broker.answers(1)
        await served.process.engine.committer.drained()  # that its task is published
        await served.store._writer.run(way.in_writer, True)
        sys.setprofile(way.profile)
        try:
            await served.sink.take(records)
            await call.end
        finally:
            sys.setprofile(None)
        await served.store._writer.run(way.in_writer, False)
    return way.steps


NOT_TRACED = {
    *("kafka/partitions.py", "kafka/tolerant.py", "kafka/unpacking.py", "kafka/limiter.py"),
    *("wire/traces.py", "wire/cloudevents.py"),
}
"""What comes before the sink, and what only a record with headers needs."""

MOST_FILES, MOST_FUNCTIONS, MOST_CHANGES_OF_FILE = 27, 92, 67


async def test_a_completion_s_way_is_short_and_told_file_by_file(tmp_path: Path) -> None:
    steps = await way_of_one_completion(tmp_path)
    files = [file for file, _ in steps]
    assert len(set(files)) <= MOST_FILES
    assert len(set(steps)) <= MOST_FUNCTIONS
    assert sum(here != there for here, there in pairwise(files)) <= MOST_CHANGES_OF_FILE
    document = (ROOT / "docs/architecture.md").read_text()
    [told] = re.findall(
        r"## One completion's way through the code\n(.*?)\nIf the handler was", document, re.DOTALL
    )
    named = set(re.findall(r"`([\w/]+\.py)`", told))
    whole = {name for name in named if (Path(OURS) / name).is_file()}
    assert whole - NOT_TRACED == set(files)
    assert {Path(name).name for name in named} == {Path(name).name for name in whole}


async def test_a_finished_cycle_leaves_nothing_that_only_the_collector_frees(tmp_path: Path) -> None:
    left = []
    async with shop(tmp_path) as served:
        await served.cycles(1)
        gc.collect()
        gc.disable()
        try:
            for rounds in (1, 20):
                await served.cycles(1, rounds)
                left.append(gc.collect())
        finally:
            gc.enable()
    assert left[1] == left[0], "each cycle leaves objects that refer to each other"
