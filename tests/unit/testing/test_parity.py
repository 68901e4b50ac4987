"""The kit is no kinder than the service, and no harsher: one corpus, run by both, has the same ends.

The service is the engine over SQLite behind its HTTP interface, on asyncio's own loop with real
threads; only its clock is moved by hand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import msgspec
import pytest

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.effects import Effect
from awakeables.core.invocations import Invocation
from awakeables.core.journal import AwakeableCreated
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution
from awakeables.core.replay import describe
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import InvalidInput, TerminalError
from awakeables.handlers.service import App, Handler
from awakeables.ports import Clock, Page, Store
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.store import SqliteStore
from awakeables.testing import Paused, PendingAwakeable, Stuck, run
from awakeables.testing.bench import FakeBroker, new_process, serving
from awakeables.testing.loop import STARTED_MS
from awakeables.testing.outside import Published, readable
from awakeables.testing.simulated import FEW_TRIES
from awakeables.wire.tasks import encode_effect
from golden import handlers as golden
from simulation import corpus
from support.web import new_web_app
from unit.testing import shapes

EVERYTHING = Page(limit=1000)
RETENTION_MS = 10**15
YES = (Resolution.of_json(b'{"n":7}'),) * 10


@dataclass(frozen=True)
class Case:
    app: App
    handler: Handler
    input: bytes
    answers: Sequence[Outcome]
    key: str | None = None


BY_CHANCE = (
    "combines",
    "calls_off_the_rest",
    "races_an_action",
    "noted_and_marked",
    "in_branches",
    "in_branches_that_lose",
    "cancels_what_acts",
    "cancels_what_is_tried",
)
"""Their journals depend on real time, or on which of two calls, actions, branches or reads ends first."""


BY_COUNT = ("golden:retries", "corpus:retried_effect:0", "corpus:retried_effect:10")
"""Their actions fail when they are executed for the first time; after a crash it is another execution that is
journaled."""


def cases() -> Iterator[tuple[str, Case]]:
    for name, script in shapes.SCRIPTS.items():
        handler = shapes.app.handler("shapes", name.split(":")[0])
        yield name, Case(shapes.app, handler, script.input, script.answers)
    for name, recorded in golden.SCRIPTS.items():
        if name in BY_CHANCE:
            continue
        if not recorded.cancelled and not any(isinstance(a, Cancellation) for a in recorded.answers):
            usual = golden.service if recorded.key is None else golden.thing
            of = golden.flow if recorded.of == golden.flow.name else usual
            handler = of.handlers[name]
            given = recorded.input if handler.takes_input else b""
            yield f"golden:{name}", Case(golden.app, handler, given, recorded.answers, recorded.key)
    for name, handler in (*corpus.service.handlers.items(), *corpus.counters.handlers.items()):
        if name in BY_CHANCE:
            continue
        key = "k1" if handler.keyed else None
        for answers in (YES, ()):
            yield f"corpus:{name}:{len(answers)}", Case(corpus.app, handler, b"3", answers, key)


CASES = dict(cases())


@dataclass
class End:
    """What became of a handler, without what is another each time: IDs, instants."""

    status: str
    result: Any
    journal: list[str]
    published: list[Any]

    def __post_init__(self) -> None:
        self.result, self.journal, self.published = _plain([self.result, self.journal, self.published])


def _plain(value: Any) -> Any:
    text = msgspec.json.encode(value).decode()
    text = re.sub(r"(inv|prom|evt)_1[0-9a-z]+", r"\1", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "uuid", text)
    text = re.sub(r"00-[0-9a-f]{32}-[0-9a-f]{16}-\d\d", "traceparent", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "instant", text)
    text = re.sub(r"\w+\.(completions|revocations)", r"\1", text)
    return msgspec.json.decode(re.sub(r"input of \w+/", "input of ", text))


def _forget() -> None:
    """What handlers of the corpora remember from one run to the next."""
    shapes.drift.clear()
    golden.failures["flaky"] = 0
    corpus.ledger.flaky.clear()


@pytest.mark.parametrize("name", CASES)
async def test_the_kit_and_the_service_agree(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    in_service = await _in_service(case, _sqlite(tmp_path))
    for suspend, thorough in ((False, False), (True, False), (True, True)):
        if thorough and name in BY_COUNT:
            continue
        assert _in_kit(case, suspend=suspend, thorough=thorough) == in_service


@pytest.mark.parametrize("name", CASES)
async def test_a_service_that_suspends_at_every_await_agrees(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    in_service = await _in_service(case, _sqlite(tmp_path), suspend=True)
    assert in_service == _in_kit(case, suspend=True, thorough=False)


@pytest.mark.real_postgres
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("corpus")])
async def test_pg4_it_agrees_over_postgres(name: str, postgres_url: str) -> None:
    case = CASES[name]
    in_service = await _in_service(case, _postgres(postgres_url), suspend=True)
    assert in_service == _in_kit(case, suspend=True, thorough=False)


# ── the kit ─────────────────────────────────────────────────────────────────────────────────


def _in_kit(case: Case, *, suspend: bool, thorough: bool) -> End:
    _forget()
    left = list(case.answers)

    def answer(wait: PendingAwakeable) -> None:
        match left.pop(0) if left else None:
            case Resolution() as resolution:
                wait.resolve(readable(resolution.content) if resolution.is_json else resolution.content)
            case Rejection() as rejection:
                details = readable(bytes(rejection.details)) if rejection.details else None
                wait.reject(rejection.reason, code=rejection.code, details=details)

    args = [readable(case.input)] if case.input else []
    try:
        told = run(
            case.handler.function, *args, on_wait=answer, suspend=suspend, thorough=thorough, key=case.key
        )
    except InvalidInput as error:
        return End("refused", str(error).partition(": ")[2], [], [])
    try:
        result = told.value
    except TerminalError as error:
        result = [error.reason, error.code, error.details]
    except (Paused, Stuck) as error:
        result = str(error) if isinstance(error, Paused) else "stuck"
    return End(told.status, _shown(result), list(told.journal), list(map(_record, told.published)))


def _record(record: Published) -> Any:
    return [record.topic, repr(record.key), repr(record.payload), record.task, record.headers]


def _shown(result: Any) -> Any:
    return repr(result) if isinstance(result, bytes) else result


# ── the service ─────────────────────────────────────────────────────────────────────────────


class HandClock:
    """Stands still until it is moved; no heartbeat of the instance is late, however far it is."""

    def __init__(self) -> None:
        self.ms = STARTED_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return 0.0


NewStore: TypeAlias = Callable[[Clock], Store]


def _sqlite(folder: Path) -> NewStore:
    return lambda clock: SqliteStore(folder / "service.db", clock=clock, retention_ms=RETENTION_MS)


def _postgres(url: str) -> NewStore:
    return lambda clock: PostgresStore(url, clock=clock, retention_ms=RETENTION_MS)


async def _in_service(case: Case, new_store: NewStore, *, suspend: bool = False) -> End:
    _forget()
    clock, broker = HandClock(), FakeBroker()
    store = new_store(clock)
    await store.open()
    process = new_process(
        case.app,
        store,
        broker,
        clock=clock,
        settings=EngineSettings(
            runner=RunnerSettings(linger=timedelta(0), retry=FEW_TRIES, always_suspend=suspend),
            horizon=timedelta(0),
            threads=1,
            schedules=None,
        ),
    )
    transport = httpx.ASGITransport(new_web_app(process))
    try:
        async with (
            serving(process),
            httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client,
        ):
            return await _served(case, process.engine, clock, broker, client)
    finally:
        await store.close()


async def _served(
    case: Case, engine: Engine, clock: HandClock, broker: FakeBroker, client: httpx.AsyncClient
) -> End:
    is_bytes = case.handler.input.kind == "bytes"
    media_type = "application/octet-stream" if is_bytes else "application/json"
    begun = await client.post(
        "/".join(["", case.handler.service, *([case.key] if case.key else []), case.handler.name, "send"]),
        content=case.input,
        headers={"content-type": media_type} if case.input else {},
    )
    if begun.status_code == 422:
        return End("refused", begun.json()["detail"].partition(": ")[2], [], [])
    invocation_id = begun.json()["invocation_id"]
    row = await _until_it_rests(case, engine, clock, client, invocation_id)
    output = await client.get(f"/invocations/{invocation_id}/output")
    result: Any = "stuck"
    if output.status_code == 200:
        is_json = output.headers["content-type"] == "application/json"
        result = output.json() if is_json else repr(output.content)
    elif row.status == "completed":
        problem = output.json()
        result = [problem["reason"], problem["code"], problem.get("details")]
    elif row.failure is not None:
        result = f"{row.failure.kind}: {row.failure.message}"
    journal = (await engine.store.history([invocation_id]))[invocation_id]
    return End(
        row.status, result, [describe(entry) for entry in journal], list(map(_effect, broker.published))
    )


async def _until_it_rests(
    case: Case, engine: Engine, clock: HandClock, client: httpx.AsyncClient, invocation_id: str
) -> Invocation:
    left = list(case.answers)
    while True:
        await engine.settled_down()
        row = await engine.store.invocation(invocation_id)
        assert row is not None
        if row.status in ("completed", "paused"):
            return row
        if row.status not in ("suspended", "backing-off"):
            await asyncio.sleep(0)  # it is on its way from the store's thread
            continue
        calls = [r for r in await engine.store.invocations(EVERYTHING) if r.id != row.id]
        if any(r.status == "running" or (r.due_ms or 1) < 0 for r in calls):
            await asyncio.sleep(0)
            continue
        pending = [a for a in await engine.store.awakeables(EVERYTHING) if a.state == "pending"]
        if pending and left:
            await _answer(client, await _oldest(engine, invocation_id, pending), left.pop(0))
            continue
        due = [a.deadline_ms for a in pending if a.deadline_ms is not None]
        due += [each.due_ms for each in (row, *calls) if each.due_ms is not None]
        if not due:
            return row
        clock.ms = max(clock.ms, min(due))
        await engine.sweep()


async def _oldest(engine: Engine, invocation_id: str, pending: Sequence[AwakeableRow]) -> AwakeableRow:
    """Of these, the one that was asked for first; those of calls after its own."""
    journal = (await engine.store.history([invocation_id]))[invocation_id]
    order = [entry.id for entry in journal if isinstance(entry, AwakeableCreated)]
    return min(pending, key=lambda row: order.index(row.id) if row.id in order else len(order))


async def _answer(client: httpx.AsyncClient, row: AwakeableRow, outcome: Outcome) -> None:
    if isinstance(outcome, Resolution):
        verb, content = "resolve", outcome.content
        media_type = "application/json" if outcome.is_json else "application/octet-stream"
    else:
        assert isinstance(outcome, Rejection)
        refusal = {"reason": outcome.reason, "code": outcome.code, "details": outcome.details}
        verb, content, media_type = "reject", msgspec.json.encode(refusal), "application/json"
    answered = await client.post(
        f"/awakeables/{row.id}/{verb}", content=content, headers={"content-type": media_type}
    )
    assert answered.status_code == 200, answered.text


def _effect(effect: Effect) -> Any:
    _, headers = encode_effect(effect)
    texts = {name: (content or b"").decode("utf-8", "surrogateescape") for name, content in headers}
    task = effect.task.task if effect.task else None
    return [effect.topic, repr(effect.key), repr(readable(effect.value)), task, texts]
