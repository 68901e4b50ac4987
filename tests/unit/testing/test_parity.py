"""The kit is no kinder than the service, and no harsher: one corpus, run by both, has the same ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.invocations import Invocation
from awakeables.core.journal import AwakeableCreated
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution
from awakeables.core.replay import describe
from awakeables.engine.engine import Engine
from awakeables.errors import InvalidInput, TerminalError
from awakeables.handlers.service import App, Handler
from awakeables.testing import Paused, PendingAwakeable, Stuck, run
from awakeables.testing.outside import readable
from golden import handlers as golden
from simulation import corpus
from unit.testing import shapes
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
        self.result, self.journal, self.published = plain([self.result, self.journal, self.published])


@pytest.mark.parametrize("name", CASES)
async def test_the_kit_and_the_service_agree(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    in_service = await _in_service(case, sqlite(tmp_path))
    for suspend, thorough in ((False, False), (True, False), (True, True)):
        if thorough and name in BY_COUNT:
            continue
        assert _in_kit(case, suspend=suspend, thorough=thorough) == in_service


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
async def test_a_service_that_suspends_at_every_await_agrees(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    in_service = await _in_service(case, sqlite(tmp_path), suspend=True)
    assert in_service == _in_kit(case, suspend=True, thorough=False)


@pytest.mark.real_postgres
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("corpus")])
async def test_pg4_it_agrees_over_postgres(name: str, postgres_url: str) -> None:
    case = CASES[name]
    in_service = await _in_service(case, postgres(postgres_url), suspend=True)
    assert in_service == _in_kit(case, suspend=True, thorough=False)


# ── the kit ─────────────────────────────────────────────────────────────────────────────────


def _in_kit(case: Case, *, suspend: bool, thorough: bool) -> End:
    forget()
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
    return End(told.status, _shown(result), list(told.journal), list(map(record_of, told.published)))


def _shown(result: Any) -> Any:
    return repr(result) if isinstance(result, bytes) else result


# ── the service ─────────────────────────────────────────────────────────────────────────────


async def _in_service(case: Case, new_store: NewStore, *, suspend: bool = False) -> End:
    async with served(case.app, new_store, suspend=suspend) as up:
        return await _served(case, up)


async def _served(case: Case, up: Served) -> End:
    client = up.client
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
    row = await _until_it_rests(case, up, invocation_id)
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
    journal = (await up.store.history([invocation_id]))[invocation_id]
    return End(
        row.status, result, [describe(entry) for entry in journal], list(map(effect_of, up.broker.published))
    )


async def _until_it_rests(case: Case, up: Served, invocation_id: str) -> Invocation:
    engine, clock = up.engine, up.clock
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
            await _answer(up.client, await _oldest(engine, invocation_id, pending), left.pop(0))
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
