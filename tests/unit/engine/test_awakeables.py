"""A1 to A4: one outcome, a verdict for each completion, nothing lost, nothing wedged."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from awakeables import Context
from awakeables.core.awakeables import Completion
from awakeables.core.commands import Settle
from awakeables.core.outcomes import Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.testing.bench import Bench, until
from awakeables.testing.loop import STARTED_MS
from awakeables.wire.completions import encode_completion
from support.ids import new_id
from unit.engine.harness import BOTH, Wide, resolution, value, wait


@BOTH
async def test_a1_the_first_committed_outcome_wins(settings: EngineSettings) -> None:
    bench = Bench()
    async with bench.serving(settings, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        key = (await bench.awakeable(invocation_id)).id
        verdicts = await asyncio.gather(
            *[bench.settle(process, key, {"weight": n % 2}, f"http:{n}") for n in range(6)]
        )
        kinds = sorted(verdict.kind for verdict in verdicts)
        assert kinds == ["accepted", "conflict", "conflict", "conflict", "duplicate", "duplicate"]
        (winner,) = [v.outcome for v in verdicts if v.kind == "accepted"]
        assert all(v.outcome == winner for v in verdicts)
        row = await bench.status(invocation_id, "completed")
        assert isinstance(winner, Resolution)
        assert value(row) == msgspec.json.decode(winner.content)["weight"]


async def test_a2_every_completion_gets_a_verdict_that_can_be_looked_up() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        never = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10))
        invalid = await bench.settle(process, key, {"weight": "heavy"}, "http:1")
        accepted = await bench.settle(process, key, {"weight": 1}, "http:2")
        duplicate = await bench.settle(process, key, {"weight": 1}, "http:3")
        conflict = await bench.settle(process, key, {"weight": 2}, "http:4")
        unknown = await bench.settle(process, never, 1, "http:5")
        told = [v.kind for v in (invalid, accepted, duplicate, conflict, unknown)]
        assert told == ["invalid", "accepted", "duplicate", "conflict", "unknown"]
        row = await bench.store.awakeable(key)
        assert row is not None
        assert row.verdicts.counts == {"invalid": 1, "accepted": 1, "duplicate": 1, "conflict": 1}
        assert [entry.source for entry in row.verdicts.first] == ["http:1", "http:2", "http:3", "http:4"]


@BOTH
async def test_fault_26_a3_the_row_is_committed_before_its_task_is_visible(settings: EngineSettings) -> None:
    bench = Bench()
    early: list[str] = []

    def look(effect: Any) -> None:
        if effect.task.awakeable_id not in bench.store.tables.awakeables:
            early.append(effect.task.awakeable_id)

    bench.broker.fail = look
    async with bench.serving(settings, wait=wait) as process:
        bench.store.lose_before = 3
        invocation_id = await bench.begin(process, "wait")
        await until(lambda: bench.broker.published)
        await bench.awakeable(invocation_id)
    assert early == []


@BOTH
async def test_a3_the_row_is_committed_before_a_run_that_was_asked_for_after_it(
    settings: EngineSettings,
) -> None:
    bench = Bench()
    seen: list[bool] = []

    async def submit(ctx: Context) -> Any:
        awakeable = ctx.awakeable(int)
        await ctx.run("submit", lambda: seen.append(awakeable.id in bench.store.tables.awakeables))
        return await awakeable

    async with bench.serving(settings, submit=submit) as process:
        bench.store.lose_before = 2
        await bench.begin(process, "submit")
        await until(lambda: seen)
    assert seen == [True]


@pytest.mark.parametrize("when", ["running", "suspended", "down"])
async def test_a3_an_answer_is_kept_and_delivered_whatever_the_handler_does_meanwhile(when: str) -> None:
    """Hard case 1 too: who settles writes the row and the wake, never the journal."""
    bench = Bench()
    busy = asyncio.Event()

    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable(Wide)
        ctx.publish("pack", 1, awakeable=awakeable)
        if when == "running":
            await ctx.run("act", busy.wait, type=bool)
        return (await awakeable).weight

    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        key = (await bench.awakeable(invocation_id)).id
        if when != "running":
            await bench.status(invocation_id, "suspended")
        if when != "down":
            assert (await bench.settle(process, key, {"weight": 7})).kind == "accepted"
        busy.set()
        if when != "down":
            assert value(await bench.status(invocation_id, "completed")) == 7
    if when == "down":
        answer = Completion(awakeable_id=key, body=Resolution.of_json(b'{"weight":7}'), source="another:1")
        schema_hash = bench.store.tables.awakeables[key].schema_hash
        await bench.store.commit([Settle(completions=(replace(answer, checked=schema_hash),))])
        async with bench.serving(handler=handler):
            assert value(await bench.status(invocation_id, "completed")) == 7


@BOTH
@pytest.mark.parametrize("wrong", [b'"x"', b"{}", b'{"weight":1.5}', b"null", b"[[[]]]", b'{"weight":1e400}'])
async def test_a4_a_payload_that_does_not_fit_is_refused_and_the_next_one_settles(
    settings: EngineSettings, wrong: bytes
) -> None:
    bench = Bench()
    async with bench.serving(settings, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        key = (await bench.awakeable(invocation_id)).id
        await bench.records(process, resolution(key, wrong), resolution(key))
        assert value(await bench.status(invocation_id, "completed")) == 7
        assert bench.store.tables.awakeables[key].verdicts.counts == {"invalid": 1, "accepted": 1}
        assert [x.code for x in bench.store.tables.dead_letters.values()] == ["invalid"]


@BOTH
async def test_a4_bytes_for_an_awakeable_of_json_don_t_wedge_the_partition(settings: EngineSettings) -> None:
    """They can't be checked against a schema: they are refused for their form."""
    bench = Bench()
    async with bench.serving(settings, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        key = (await bench.awakeable(invocation_id)).id
        raw = Completion(awakeable_id=key, body=Resolution.of_bytes(b"\xff"), source="")
        async with asyncio.timeout(10):
            await bench.records(process, encode_completion(raw), resolution(key))
        assert value(await bench.status(invocation_id, "completed")) == 7
        assert bench.store.tables.awakeables[key].verdicts.counts == {"invalid": 1, "accepted": 1}
