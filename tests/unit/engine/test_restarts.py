"""Restarts of each handler of the simulation's corpus, from each entry of its journal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Literal

import msgspec
import pytest

from awakeables import App
from awakeables.core.awakeables import Completion
from awakeables.core.journal import (
    Entry,
    Input,
    OutcomeDelivered,
    PublishRequested,
    RunEnded,
    RunRequested,
)
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.sources import source_of
from awakeables.doctor.verification import verify
from awakeables.errors import NotPossible
from awakeables.handlers.service import Handler, KeyedGroup, Service
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.testing.bench import Bench, Process, quick, until
from simulation import corpus

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)

Answering = Literal["resolve", "reject"]
"""What all workers do."""

GROUPS: list[Service | KeyedGroup] = [
    corpus.service,
    corpus.only_called,
    corpus.counters,
    corpus.flows,
    corpus.queues,
    corpus.laters,
]
app = App("sim", services=GROUPS)  # without the corpus's schedules, which begin handlers for ever

HANDLERS = [
    handler
    for group in GROUPS
    if group is not corpus.laters  # late answers alone begin its handler
    for handler in group.handlers.values()
    # Nobody would cancel the one, and the other is begun once.
    if handler.name != corpus.until_cancelled.__name__ and handler.kind != "run"
]
INPUT = 11
"""With it each of them does something."""

KEY = "k0"


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    """IDs come again in the next test."""
    corpus.ledger.executed.clear()
    corpus.ledger.flaky.clear()


@asynccontextmanager
async def answering(bench: Bench, process: Process, how: Answering) -> AsyncIterator[None]:
    """Answer each task within the block, a quarter of a second after it was published."""

    async def answer(awakeable_id: str, number: int, turn: int) -> None:
        body: Resolution | Rejection = Resolution.of_json(b'{"n":%d}' % number)
        if how == "reject":
            body = Rejection(reason="no", code=409)
        completion = Completion(awakeable_id=awakeable_id, body=body, source=source_of("http", str(turn)))
        await process.api.settle(completion)

    async def work() -> None:
        done = 0
        while True:
            await asyncio.sleep(0.25)
            tasks = [effect for effect in bench.broker.published if effect.task is not None]
            for turn, effect in enumerate(tasks[done:], done):
                assert effect.task is not None
                payload = msgspec.json.decode(effect.value or b"null")
                number = payload if isinstance(payload, int) else len(payload)
                await answer(effect.task.awakeable_id, number, turn)
            done = len(tasks)

    async with asyncio.TaskGroup() as tasks:
        worker = tasks.create_task(work())
        yield
        worker.cancel()


async def begin(process: Process, handler: Handler) -> str:
    """Begin a handler; of a workflow, after its run, which is signalled a while later."""
    content, key = msgspec.json.encode(INPUT), KEY if handler.keyed else None
    if handler.of_workflow:
        flows, later = corpus.flows.handlers, timedelta(seconds=5)
        await process.api.begin(flows["run"], content, key=KEY)
        await process.api.begin(flows["signals"], content, key=KEY, delay=later)
    return (await process.api.begin(handler, content, key=key)).id


async def end_of(process: Process, invocation_id: str) -> Any:
    """What it ends with, in which all IDs are the same."""

    def plain(text: bytes) -> Any:
        return msgspec.json.decode(re.sub(rb"(inv|prom)_1[0-9a-z]+", rb"\1", text))

    match await process.api.result(invocation_id):
        case Resolution() as given:
            return plain(given.content)
        case Rejection(reason="as planned") as rejected:
            return ["as planned", plain(msgspec.json.encode(rejected.details))]
        case other:
            raise AssertionError(f"it ended with {other}")


def last_possible(why: str) -> int:
    """The last entry that is possible instead, by what was said."""
    named = re.search(r"the last entry that is possible is (\d+)$", why)
    assert named is not None, why
    return int(named[1])


def results_kept(journal: list[Entry]) -> set[str]:
    """The actions whose results a part of a journal has."""
    ended = [entry.of for entry in journal if isinstance(entry, RunEnded | OutcomeDelivered)]
    return {run.name for run in (journal[of] for of in ended) if isinstance(run, RunRequested)}


async def goes_on_from(bench: Bench, new: str, old: str, kept: int) -> None:
    """A restarted invocation has done nothing again of what it kept of the older one."""
    before, journal = await bench.journal(old), await bench.journal(new)
    given = journal[0]
    assert isinstance(given, Input)
    assert (given.restart_of, given.kept) == (old, kept)
    assert journal[1 : kept + 1] == before[1 : kept + 1]
    executed = {name for of, name in corpus.ledger.executed if of == new}
    assert not executed & results_kept(journal[: kept + 1])
    await until(lambda: not bench.store.tables.effects, "all is published")
    published = [effect.topic for effect in bench.broker.published if effect.stream == new]
    asked = [entry.topic for entry in journal[kept + 1 :] if isinstance(entry, PublishRequested)]
    assert published == asked


async def is_sound(bench: Bench) -> None:
    """Once all that was begun has ended, the rows agree with each other."""
    await until(lambda: all(row.result for row in bench.store.tables.invocations.values()), "all have ended")
    findings = await verify(MemoryAudit(bench.store.tables, clock=bench.clock), retention_ms=10**12)
    assert [str(each) for each in findings.violations] == []


@pytest.mark.parametrize(
    ("settings", "how"),
    [(SUSPENDED, "resolve"), (LIVE, "resolve"), (REPLAYED, "resolve"), (SUSPENDED, "reject")],
    ids=["suspended", "live", "replayed", "rejected"],
)
@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
async def test_a_restart_from_any_entry_ends_as_the_first_one_did(
    settings: Any, handler: Handler, how: Answering
) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process, answering(bench, process, how):
        old = await begin(process, handler)
        end = await end_of(process, old)
        entries = len(await bench.journal(old))
        possible, refused = [], {}
        for kept in range(entries):
            try:
                new = await process.api.restart(old, from_entry=kept)
            except NotPossible as error:
                refused[kept] = str(error)
                continue
            possible.append(kept)
            assert await end_of(process, new) == end
            await goes_on_from(bench, new, old, kept)
        for kept, why in refused.items():
            assert last_possible(why) == max(each for each in possible if each < kept)
        await is_sound(bench)


@pytest.mark.parametrize("after_s", [0.1, 3])
@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
async def test_a_restart_from_where_one_was_paused_ends_as_if_it_had_not_been(
    handler: Handler, after_s: float
) -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process, answering(bench, process, "resolve"):
        end = await end_of(process, await begin(process, handler))
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process, answering(bench, process, "resolve"):
        old = await begin(process, handler)
        await asyncio.sleep(after_s)
        if bench.row(old).status != "completed":
            await process.api.pause(old)
            await bench.status(old, "paused", "completed")
        kept = len(await bench.journal(old)) - 1
        try:
            new = await process.api.restart(old, from_entry=kept)
        except NotPossible as error:
            kept = last_possible(str(error))
            new = await process.api.restart(old, from_entry=kept)
        assert await end_of(process, new) == end
        await goes_on_from(bench, new, old, kept)
        await is_sound(bench)
