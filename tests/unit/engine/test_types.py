"""The type of an answer is its name and its schema (hard case 7): each wait is checked by its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel

from awakeables import Context
from awakeables.core.awakeables import Completion, VerdictKind
from awakeables.core.commands import ReplayDry
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import DryReplayed
from awakeables.engine.engine import EngineSettings
from awakeables.handlers import serde
from awakeables.testing.bench import Bench, Process, quick, until
from unit.engine.harness import BOTH, LIVE, resolution, value


def german(text: str) -> str:
    if not text.startswith("DE"):
        raise ValueError("no German IBAN")
    return text


def anything(text: str) -> str:
    return text


Iban = Annotated[str, AfterValidator(german)]
Lax = Annotated[str, AfterValidator(anything)]


async def ask(ctx: Context) -> str:
    """Awaits a text of any kind."""
    return await ctx.awakeable(str)


async def ask_iban(ctx: Context) -> Any:
    return await ctx.awakeable(Iban)


async def ask_unnamed(ctx: Context) -> Any:
    """Awaits a type that has no stable name: a validator that is made in the handler."""
    return await ctx.awakeable(Annotated[str, AfterValidator(lambda text: german(text))])


async def pay(ctx: Context, to: Iban) -> str:
    return to


async def store(ctx: Context, to: Lax) -> str:
    return to


def forget_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process: it knows the types of the signatures that it declares from here on."""
    monkeypatch.setattr(serde, "_by_type", {})
    monkeypatch.setattr(serde, "_by_name", {})


async def answered(process: Process, awakeable_id: str, text: bytes) -> VerdictKind:
    body = Resolution.of_json(text)
    verdict = await process.api.settle(
        Completion(awakeable_id=awakeable_id, body=body, source=f"http:{text!r}")
    )
    assert verdict is not None
    return verdict.kind


@BOTH
@pytest.mark.parametrize("other", [pay, store])
async def test_case_t1_types_with_one_schema_do_not_share_a_validator(
    settings: EngineSettings, other: Callable[..., Any]
) -> None:
    bench = Bench()
    async with bench.serving(settings, ask=ask, ask_iban=ask_iban, other=other) as process:
        free, strict = [await bench.begin(process, name) for name in ("ask", "ask_iban")]
        assert await answered(process, (await bench.awakeable(free)).id, b'"Ann"') == "accepted"
        row = await bench.awakeable(strict)
        assert await answered(process, row.id, b'"Ann"') == "invalid"
        assert await answered(process, row.id, b'"DE12"') == "accepted"
        assert value(await bench.status(free, "completed")) == "Ann"
        assert value(await bench.status(strict, "completed")) == "DE12"


async def ask_day(ctx: Context) -> str:
    return repr(await ctx.awakeable(date | datetime))


async def ask_instant(ctx: Context) -> str:
    return repr(await ctx.awakeable(datetime | date))


@BOTH
async def test_case_t1_types_that_python_calls_equal_do_not_share_a_validator(
    settings: EngineSettings,
) -> None:
    bench = Bench()
    async with bench.serving(settings, day=ask_day, instant=ask_instant) as process:
        day, instant = [await bench.begin(process, name) for name in ("day", "instant")]
        for invocation_id in (day, instant):
            awakeable_id = (await bench.awakeable(invocation_id)).id
            assert await answered(process, awakeable_id, b"1767225600") == "accepted"
        told = [value(await bench.status(invocation_id, "completed")) for invocation_id in (day, instant)]
        assert told[0].startswith("datetime.date(")
        assert told[1].startswith("datetime.datetime(")


@pytest.mark.parametrize("handler", [ask_iban, ask_unnamed])
@pytest.mark.parametrize("over", ["http", "kafka"])
async def test_case_t1_after_a_restart_the_type_is_learnt_from_the_line_that_asks_for_it(
    handler: Callable[..., Any], over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    handlers = {"strict": handler, "ask": ask, "store": store}
    async with bench.serving(quick(), **handlers) as process:
        strict, free = [await bench.begin(process, name) for name in ("strict", "ask")]
        for invocation_id in (strict, free):
            await bench.status(invocation_id, "suspended")
    ids = [(await bench.awakeable(invocation_id)).id for invocation_id in (strict, free)]
    forget_types(monkeypatch)
    async with bench.serving(quick(), **handlers) as process:
        if over == "kafka":
            await bench.records(process, *(resolution(awakeable_id, b'"Ann"') for awakeable_id in ids))
            await bench.records(process, resolution(ids[0], b'"DE12"'))
        else:
            assert await answered(process, ids[0], b'"Ann"') == "invalid"
            assert await answered(process, ids[1], b'"Ann"') == "accepted"
            assert await answered(process, ids[0], b'"DE12"') == "accepted"
        assert value(await bench.status(strict, "completed")) == "DE12"
        assert value(await bench.status(free, "completed")) == "Ann"
        assert bench.awakeables(strict)[0].verdicts.counts == {"invalid": 1, "accepted": 1}


async def test_case_t1_a_dry_replay_does_nothing_and_is_made_once_for_each_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executed: list[str] = []

    async def handler(ctx: Context) -> Any:
        await ctx.run("first", executed.append, "first")
        ctx.publish("tasks", 1)
        answer = await ctx.awakeable(Iban)
        await ctx.run("second", executed.append, "second")
        return answer

    bench = Bench()
    async with bench.serving(quick(), handler=handler) as process:
        one, two = [await bench.begin(process, "handler") for _ in range(2)]
        for invocation_id in (one, two):
            await bench.status(invocation_id, "suspended")
        await until(lambda: len(bench.broker.published) == 2, "both have published")
    forget_types(monkeypatch)
    journals = [await bench.journal(one), await bench.journal(two)]
    published, executed[:] = list(bench.broker.published), []
    async with bench.serving(quick(), handler=handler) as process:
        process.engine.pool.stop_claiming()  # nobody goes on
        for invocation_id in (one, two, one):
            awakeable_id = (await bench.awakeable(invocation_id)).id
            assert await answered(process, awakeable_id, b'"Ann"') == "invalid"
        assert [await bench.journal(one), await bench.journal(two)] == journals
        assert (bench.broker.published, executed) == (published, [])
        assert bench.store.members(ReplayDry) == [
            ReplayDry(invocation_id=one, ends=False),
            ReplayDry(invocation_id=one, ends=True),
        ]
        assert bench.row(one).starts == 0


async def test_case_t1_a_handler_that_kills_its_process_is_not_replayed_dry_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hard case 11: what was begun and not ended counts as a start."""
    bench = Bench()
    async with bench.serving(quick(), ask_iban=ask_iban) as process:
        invocation_id = await bench.begin(process, "ask_iban")
        await bench.status(invocation_id, "suspended")
    awakeable_id = (await bench.awakeable(invocation_id)).id
    forget_types(monkeypatch)
    async with bench.serving(quick(), ask_iban=ask_iban) as process:
        process.engine.pool.stop_claiming()
        for _ in range(2):  # so often its process died
            order = ReplayDry(invocation_id=invocation_id, ends=False)
            await process.engine.committer.commit(order, DryReplayed)
        assert await answered(process, awakeable_id, b"1") == "invalid"  # by the schema
        assert await answered(process, awakeable_id, b'"Ann"') == "accepted"
        assert bench.row(invocation_id).starts == 2


async def test_a_type_that_is_served_nowhere_is_checked_by_its_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its formats are annotations: pydantic's are wider than those of JSON Schema."""

    async def ask_when(ctx: Context) -> str:
        return str(await ctx.awakeable(datetime))

    bench = Bench()
    async with bench.serving(quick(), handler=ask_when) as process:
        invocation_id = await bench.begin(process, "handler")
        await bench.status(invocation_id, "suspended")
    awakeable_id = (await bench.awakeable(invocation_id)).id
    forget_types(monkeypatch)
    async with bench.serving(quick(), another=ask) as process:
        process.engine.pool.stop_claiming()
        assert await answered(process, awakeable_id, b"7") == "invalid"
        assert await answered(process, awakeable_id, b'"2026-01-02T03:04:05"') == "accepted"


@BOTH
async def test_case_t3_what_a_type_takes_as_an_input_it_takes_as_an_answer(settings: EngineSettings) -> None:
    class Meeting(BaseModel):
        at: datetime

    async def handler(ctx: Context) -> Any:
        return (await ctx.awakeable(datetime)).isoformat(), (await ctx.awakeable(Meeting)).at.isoformat()

    bench = Bench()
    async with bench.serving(settings, handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        first = await bench.awakeable(invocation_id)
        assert await answered(process, first.id, b'"2026-01-02T03:04:05"') == "accepted"
        await until(lambda: len(bench.awakeables(invocation_id)) == 2)
        second = next(row for row in bench.awakeables(invocation_id) if row.id != first.id)
        assert await answered(process, second.id, b'{"at":1767323045}') == "accepted"
        ended = await bench.status(invocation_id, "completed")
        assert value(ended) == ["2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00"]


async def test_a_type_that_a_handler_declares_is_known_while_the_handler_waits() -> None:
    """Its own codec judges a live wait, whatever other types are called."""
    bench = Bench()
    async with bench.serving(LIVE, handler=ask_unnamed) as process:
        invocation_id = await bench.begin(process, "handler")
        row = await bench.awakeable(invocation_id)
        assert await answered(process, row.id, b'"Ann"') == "invalid"
        assert bench.store.members(ReplayDry) == []
        assert await answered(process, row.id, b'"DE1"') == "accepted"
