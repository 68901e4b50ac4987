"""The harness is no kinder than the service, and no harsher: one script, played to both, has the same ends.

What `run` can't be asked for alone: calls of a workflow, records, schedules, heartbeats and late answers. The
service is that of `parity`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest

from awakeables.core.invocations import Invocation
from awakeables.core.replay import describe
from awakeables.engine.readtopic import ConsumedRecord, ReadTopic
from awakeables.engine.schedules import ScheduleSettings
from awakeables.engine.sinks import PartitionSink
from awakeables.handlers.service import App, Handler
from awakeables.ports import Store
from awakeables.testing import Harness
from awakeables.worker.heartbeats import TaskOver
from simulation import corpus
from unit.testing.parity import (
    EVERYTHING,
    NewStore,
    Served,
    effect_of,
    forget,
    plain,
    postgres,
    record_of,
    served,
    sqlite,
)


@dataclass(frozen=True)
class Call:
    handler: Handler
    n: int
    key: str | None = None


@dataclass(frozen=True)
class Produce:
    """A record; the topics of the harness have one partition, so it is the first one's for both."""

    n: int


@dataclass(frozen=True)
class Beat:
    """A heartbeat for a task, by its number; it may come too late."""

    task: int
    progress: float | None = None


@dataclass(frozen=True)
class Answer:
    """An answer to a task, by its number; without one it is a rejection. It may come too late."""

    task: int
    n: int | None = 1


@dataclass(frozen=True)
class Pass:
    seconds: float


Step: TypeAlias = Call | Produce | Beat | Answer | Pass


@dataclass(frozen=True)
class Script:
    app: App
    steps: Sequence[Step]


def _handler(of: Any, name: str) -> Handler:
    found: Handler = of.handlers[name]
    return found


FLOWS = App("flows", services=[corpus.flows])
QUEUES = App("queues", services=[corpus.service, corpus.only_called, corpus.counters, corpus.queues])
SCHEDULED = App("scheduled", services=[corpus.scheduled])
LATERS = App("laters", services=[corpus.service, corpus.only_called, corpus.counters, corpus.laters])
SIGNALLED, SIGNALS, WAITS = (
    _handler(corpus.flows, name) for name in ("run", "signals", "waits_beside_the_run")
)
GIVEN_UP = _handler(corpus.service, "given_up")
BEATS: list[Step] = [Beat(1, 0.1), Pass(0.8)] * 4

SCRIPTS = {
    "a run is signalled": Script(
        FLOWS, [Call(SIGNALLED, 2, "k1"), Pass(3), Call(WAITS, 1, "k1"), Call(SIGNALS, 5, "k1"), Pass(1)]
    ),
    "a run is signalled before it waits": Script(
        FLOWS, [Call(SIGNALLED, 3, "k1"), Call(SIGNALS, 7, "k1"), Call(SIGNALS, 8, "k1"), Pass(9)]
    ),
    "a run is called twice, and others of its key look": Script(
        FLOWS,
        [*[Call(SIGNALLED, 1, "k1")] * 2, Call(WAITS, 1, "k1"), Call(WAITS, 2, "k1"), Pass(60)],
    ),
    "runs of two keys": Script(
        FLOWS, [Call(SIGNALLED, 1, "k1"), Call(SIGNALLED, 1, "k2"), Call(SIGNALS, 2, "k2"), Pass(9)]
    ),
    "records are taken, and time out": Script(QUEUES, [Produce(1), Produce(2), Answer(1), Pass(60)]),
    "failed records become dead letters": Script(QUEUES, [Produce(3), Answer(0), Produce(6), Pass(60)]),
    "no more records are taken than may be open": Script(QUEUES, [*map(Produce, range(9)), Pass(300)]),
    "an unusable record": Script(QUEUES, [Produce(-1), Pass(60)]),
    "ticks begin, and wait": Script(SCHEDULED, [Pass(15), Answer(0), Pass(30), Pass(60)]),
    "a worker falls silent, and another is late": Script(
        LATERS, [Call(GIVEN_UP, 1), Beat(1, 0.5), Pass(0.9), Beat(1), Pass(20), Beat(1), Answer(1), Answer(0)]
    ),
    "late answers of both kinds": Script(
        LATERS, [Call(GIVEN_UP, 2), Pass(60), Answer(0, None), Answer(1), Answer(1, 2), Answer(0), Pass(1)]
    ),
    "heartbeats, and then an answer": Script(
        LATERS, [Call(GIVEN_UP, 0), Answer(0), *BEATS, Answer(1), Answer(1)]
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_harness_and_the_service_agree(name: str, tmp_path: Path) -> None:
    script = SCRIPTS[name]
    in_service = await _in_service(script, sqlite(tmp_path))
    for options in ({"suspend": False}, {"suspend": True}, {"thorough": True}):
        assert await _in_harness(script, **options) == in_service


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_service_that_suspends_at_every_await_agrees(name: str, tmp_path: Path) -> None:
    script = SCRIPTS[name]
    assert await _in_service(script, sqlite(tmp_path), suspend=True) == await _in_harness(script)


@pytest.mark.real_postgres
@pytest.mark.parametrize("name", SCRIPTS)
async def test_pg4_it_agrees_over_postgres(name: str, postgres_url: str) -> None:
    script = SCRIPTS[name]
    assert await _in_service(script, postgres(postgres_url), suspend=True) == await _in_harness(script)


async def test_the_scripts_play_what_run_is_not_asked_for_to_its_end() -> None:
    groups = (corpus.flows, corpus.queues, corpus.scheduled, corpus.laters)
    wanted = {(of.name, name) for of in groups for name in of.handlers}
    played: set[tuple[str, str]] = set()
    for script in SCRIPTS.values():
        with Harness(script.app, suspend=False) as harness:
            for step in script.steps:
                _play(harness, step)
            rows = harness._service.store.tables.invocations.values()
            played |= {(row.service, row.handler) for row in rows if row.status == "completed"}
    assert wanted <= played


async def _ends(store: Store, published: Sequence[Any]) -> Any:
    """What a store has in the end, and what was published, each in an order of its own."""
    rows = [await store.invocation(row.id) for row in await store.invocations(EVERYTHING)]
    known = [row for row in rows if row is not None]
    history = await store.history([row.id for row in known])
    letters = await store.dead_letters(EVERYTHING)
    ends = [_end(row, [describe(entry) for entry in history[row.id]]) for row in known]
    waits = [[row.state, row.watch.on_late] for row in await store.awakeables(EVERYTHING)]
    found = {
        "invocations": ends,
        "awakeables": waits,
        "dead letters": [[letter.code, letter.offset] for letter in letters],
        "published": list(published),
    }
    return {name: Counter(repr(plain(each)) for each in some) for name, some in found.items()}


def _end(row: Invocation, journal: Sequence[str]) -> Any:
    result = None if row.result_json is None else msgspec.json.decode(row.result_json)
    return [row.service, row.handler, row.key, row.status, row.subscription, result, list(journal)]


# ── the harness ─────────────────────────────────────────────────────────────────────────────


async def _in_harness(script: Script, **options: Any) -> Any:
    forget()
    with Harness(script.app, **options) as harness:
        for step in script.steps:
            _play(harness, step)
        published = [record_of(record) for record in harness.published]
        return await _ends(harness._service.store, published)


def _play(harness: Harness, step: Step) -> None:
    tasks = harness._service.outside.tasks
    match step:
        case Call():
            key: dict[str, Any] = {} if step.key is None else {"key": step.key}
            harness.send(step.handler.function, step.n, **key)
        case Produce():
            harness.produce(corpus.RECORDS, _written(step))
        case Beat():
            with suppress(TaskOver):
                harness._heartbeat(tasks[step.task], step.progress)
        case Answer(n=None):
            harness.reject(tasks[step.task].awakeable_id, "no")
        case Answer():
            harness.resolve(tasks[step.task].awakeable_id, {"n": step.n})
        case Pass():
            harness.advance(timedelta(seconds=step.seconds))


def _written(step: Produce) -> bytes:
    """The value of a record; a negative number stands for one that can't be used."""
    return b"%d" % step.n if step.n >= 0 else b"-"


# ── the service ─────────────────────────────────────────────────────────────────────────────


async def _in_service(script: Script, new_store: NewStore, *, suspend: bool = False) -> Any:
    schedules = ScheduleSettings(timers=False)
    async with served(script.app, new_store, suspend=suspend, schedules=schedules) as up:
        service = Service(up)
        for step in script.steps:
            await service.play(step)
            await service.rest()
        published = [effect for effect in up.broker.published if effect.kind in ("task", "event")]
        return await _ends(up.store, list(map(effect_of, published)))


class Service:
    """The service, as a script uses it."""

    def __init__(self, up: Served) -> None:
        self._engine = up.engine
        self._store = up.store
        self._clock = up.clock
        self._broker = up.broker
        self._client = up.client
        self._log: list[ConsumedRecord] = []
        self._positions: dict[str, tuple[PartitionSink, int]] = {}

    async def play(self, step: Step) -> None:
        match step:
            case Call():
                path = [step.handler.service, *([step.key] if step.key else []), step.handler.name, "send"]
                sent = await self._client.post("/" + "/".join(path), json=step.n)
                assert sent.status_code == 202, sent.text
            case Produce():
                offset, now_ms = len(self._log), self._clock.ms
                value = _written(step)
                record = ConsumedRecord(offset=offset, timestamp_ms=now_ms, key=None, value=value, headers=())
                self._log.append(record)
            case Beat():
                await self._client.post(f"{self._task(step)}/heartbeat", json=step.progress)
            case Answer(n=None):
                await self._client.post(f"{self._task(step)}/reject", json={"reason": "no", "code": 400})
            case Answer():
                await self._client.post(f"{self._task(step)}/resolve", json={"n": step.n})
            case Pass():
                await self._pass(step.seconds)

    def _task(self, step: Beat | Answer) -> str:
        tasks = [effect.task for effect in self._broker.published if effect.task is not None]
        return f"/awakeables/{tasks[step.task].awakeable_id}"

    async def _pass(self, seconds: float) -> None:
        until_ms = self._clock.ms + round(seconds * 1000)
        while True:
            await self.rest()
            due = [ms for ms in await self._due() if self._clock.ms < ms <= until_ms]
            self._clock.ms = min(due, default=until_ms)
            await self._engine.sweep()
            if not due:
                return

    async def _due(self) -> list[int]:
        """When something becomes due."""
        rows = await self._store.invocations(EVERYTHING)
        waits = await self._store.awakeables(EVERYTHING, state="pending")
        instants = [row.due_ms for row in rows] + [wait.deadline_ms for wait in waits]
        schedules = [each.row.next_ms for each in await self._store.schedules()]
        return [each for each in (*instants, *schedules) if each is not None]

    async def rest(self) -> None:
        """Wait until nothing more happens before time passes."""
        while True:
            await self._engine.settled_down()
            rows = await self._store.invocations(EVERYTHING)
            due = [row for row in rows if row.due_ms is not None and row.due_ms <= self._clock.ms]
            if due or any(row.status == "running" for row in rows):
                await asyncio.sleep(0)
                continue
            waits = [each for each in await self._store.schedules() if each.row.queued_ms and each.is_free]
            if waits:
                await self._engine.sweep()
            elif not await self._read():
                return

    async def _read(self) -> bool:
        """Have the subscriptions take what is new; whether they took anything."""
        took = False
        topics: dict[str, ReadTopic] = {**self._engine.subscriptions.topics}
        for name, topic in topics.items():
            if name not in self._positions:
                await topic.prepare([0])
                sink = topic.sink(0)
                self._positions[name] = sink, await sink.open()
            sink, first = self._positions[name]
            await sink.look()
            if sink.full is None and first < len(self._log):
                next_ = await sink.take(self._log[first : first + sink.most])
                self._positions[name] = sink, next_
                took = took or next_ > first
        return took
