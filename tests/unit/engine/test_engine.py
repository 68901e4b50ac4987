"""The engine over the memory store: what survives what (the promises, and the hard cases by number)."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta
from typing import Annotated, Any

import msgspec
import pytest
from msgspec.structs import replace
from pydantic import BaseModel, Field

from awakeables import Context, Rejected, TerminalError, TimedOut
from awakeables.core.awakeables import Completion
from awakeables.core.ids import new_id
from awakeables.core.invocations import CRASHED, Suspend
from awakeables.core.journal import AwakeableAsked, Delivered, RunAsked
from awakeables.core.orders import Advance, Begin, Claim, Idempotency, Release, Settle
from awakeables.core.outcomes import Cancellation, Expiry, Rejection, Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import (
    IdempotencyConflict,
    NotFound,
    NotPossible,
    Overloaded,
    OwnershipLost,
    PublishRefused,
    StoreRefused,
)
from awakeables.testing.loop import STARTED_MS
from awakeables.wire.completions import encode_completion
from unit.engine.harness import TOPIC, Bench, failed, quick, until, value


class Wide(BaseModel):
    weight: int


class Narrow(BaseModel):
    weight: Annotated[int, Field(le=10)]


async def wait(ctx: Context) -> Any:
    awakeable = ctx.awakeable(Wide)
    ctx.publish("pack", 1, awakeable=awakeable)
    return (await awakeable).weight


LIVE = quick(linger=timedelta(seconds=30))
BOTH = pytest.mark.parametrize("settings", [quick(), LIVE], ids=["suspended", "live"])


def resolution(awakeable_id: str, text: bytes = b'{"weight":7}') -> bytes:
    body = Resolution.of_json(text)
    return encode_completion(Completion(awakeable_id=awakeable_id, body=body, source=""))


# ── calls ───────────────────────────────────────────────────────────────────────────────────


async def test_a_call_is_durable_before_it_is_answered_and_its_first_steps_ride_along() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        bench.store.commits.clear()
        invocation_id = await bench.begin(engine, "wait")
        assert invocation_id in bench.store.tables.invocations
        await bench.status(invocation_id, "suspended")
        own = [g for g in bench.store.commits if any(isinstance(m, Begin | Advance) for m in g)]
        assert len(own) <= 3, "an invocation needs few commits"


async def test_the_request_s_headers_reach_the_handler() -> None:
    async def headers(ctx: Context) -> dict[str, str]:
        await ctx.sleep(timedelta(hours=1))
        return dict(ctx.request.headers)

    bench = Bench()
    async with bench.serving(headers=headers) as engine:
        invocation_id = await bench.begin(engine, "headers", headers={"traceparent": "00-1"})
        await asyncio.sleep(4000)
        assert value(await bench.status(invocation_id, "completed")) == {"traceparent": "00-1"}


async def test_a_result_is_waited_for_and_asked_for_later() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        waiting = asyncio.ensure_future(engine.result(invocation_id))
        await bench.settle(engine, (await bench.awakeable(invocation_id)).id, {"weight": 7})
        assert await waiting == Resolution.of_json(b"7")
        assert await engine.result(invocation_id) == Resolution.of_json(b"7")
        with pytest.raises(NotFound, match="no invocation inv_1x"):
            await engine.result("inv_1x")


async def test_an_idempotency_key_stands_for_one_invocation() -> None:
    async def echo(ctx: Context, n: int) -> int:
        return n

    bench = Bench()
    async with bench.serving(echo=echo) as engine:
        key = Idempotency(scope="orders/echo", key="k", fingerprint="f")
        handler = engine.app.handler("orders", "echo")
        first = await engine.begin(handler, b"1", idempotency=key)
        second = await engine.begin(handler, b"1", idempotency=key)
        assert (first.created, second.created, first.id) == (True, False, second.id)
        with pytest.raises(IdempotencyConflict, match="'k' was used for another request"):
            await engine.begin(handler, b"2", idempotency=replace(key, fingerprint="g"))
        assert value(await bench.status(first.id, "completed")) == 1


async def test_a_delayed_call_begins_then() -> None:
    async def now(ctx: Context) -> float:
        return ctx.now().timestamp()

    bench = Bench()
    async with bench.serving(now=now) as engine:
        invocation_id = await bench.begin(engine, "now", delay=timedelta(hours=1))
        await asyncio.sleep(3590)
        assert bench.row(invocation_id).status == "pending"
        await asyncio.sleep(15)
        at = value(await bench.status(invocation_id, "completed"))
        assert 3600 <= at - STARTED_MS / 1000 < 3605


async def test_an_engine_that_stops_takes_no_calls() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        engine.stopping = True
        with pytest.raises(Overloaded, match="starting or stopping"):
            await bench.begin(engine, "wait")
        engine.stopping = False


# ── A: awakeables ───────────────────────────────────────────────────────────────────────────


@BOTH
async def test_a1_the_first_committed_outcome_wins(settings: EngineSettings) -> None:
    bench = Bench()
    async with bench.serving(settings, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        key = (await bench.awakeable(invocation_id)).id
        verdicts = await asyncio.gather(
            *[bench.settle(engine, key, {"weight": n % 2}, f"http:{n}") for n in range(6)]
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
    async with bench.serving(wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        never = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10))
        invalid = await bench.settle(engine, key, {"weight": "heavy"}, "http:1")
        accepted = await bench.settle(engine, key, {"weight": 1}, "http:2")
        duplicate = await bench.settle(engine, key, {"weight": 1}, "http:3")
        conflict = await bench.settle(engine, key, {"weight": 2}, "http:4")
        unknown = await bench.settle(engine, never, 1, "http:5")
        told = [v.kind for v in (invalid, accepted, duplicate, conflict, unknown)]
        assert told == ["invalid", "accepted", "duplicate", "conflict", "unknown"]
        row = await bench.store.awakeable(key)
        assert row is not None
        assert row.book.counts == {"invalid": 1, "accepted": 1, "duplicate": 1, "conflict": 1}
        assert [entry.source for entry in row.book.first] == ["http:1", "http:2", "http:3", "http:4"]


@BOTH
async def test_a3_the_row_is_committed_before_its_task_is_visible(settings: EngineSettings) -> None:
    bench = Bench()
    early: list[str] = []

    def look(effect: Any) -> None:
        if effect.task.awakeable_id not in bench.store.tables.awakeables:
            early.append(effect.task.awakeable_id)

    bench.broker.fail = look
    async with bench.serving(settings, wait=wait) as engine:
        bench.store.lose_before = 3
        invocation_id = await bench.begin(engine, "wait")
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

    async with bench.serving(settings, submit=submit) as engine:
        bench.store.lose_before = 2
        await bench.begin(engine, "submit")
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

    async with bench.serving(handler=handler) as engine:
        invocation_id = await bench.begin(engine, "handler")
        key = (await bench.awakeable(invocation_id)).id
        if when != "running":
            await bench.status(invocation_id, "suspended")
        if when != "down":
            assert (await bench.settle(engine, key, {"weight": 7})).kind == "accepted"
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
    async with bench.serving(settings, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        key = (await bench.awakeable(invocation_id)).id
        await bench.records(engine, resolution(key, wrong), resolution(key))
        assert value(await bench.status(invocation_id, "completed")) == 7
        assert bench.store.tables.awakeables[key].book.counts == {"invalid": 1, "accepted": 1}
        assert [x.code for x in bench.store.tables.letters.values()] == ["invalid"]


@BOTH
async def test_a4_bytes_for_an_awakeable_of_json_don_t_wedge_the_partition(settings: EngineSettings) -> None:
    """They can't be checked against a schema: they are refused for their form."""
    bench = Bench()
    async with bench.serving(settings, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        key = (await bench.awakeable(invocation_id)).id
        raw = Completion(awakeable_id=key, body=Resolution.of_bytes(b"\xff"), source="")
        async with asyncio.timeout(10):
            await bench.records(engine, encode_completion(raw), resolution(key))
        assert value(await bench.status(invocation_id, "completed")) == 7
        assert bench.store.tables.awakeables[key].book.counts == {"invalid": 1, "accepted": 1}


# ── J: journals ─────────────────────────────────────────────────────────────────────────────


async def test_j1_a_stale_owner_s_commit_changes_nothing() -> None:
    bench = Bench()
    held, ended = asyncio.Event(), []

    async def slow(ctx: Context) -> str:
        await ctx.run("act", held.wait, type=bool)
        ended.append(ctx.request.invocation_id)
        ctx.publish("notices", "done")
        return "mine"

    async def fast(ctx: Context) -> str:
        await ctx.run("act", lambda: True)
        ctx.publish("notices", "done")
        return "theirs"

    async with bench.serving(act=slow) as old:
        invocation_id = await bench.begin(old, "act")
        await asyncio.sleep(1)
        old.stopping = True  # it would claim the row again itself
        async with bench.serving(act=fast) as new:
            await bench.status(invocation_id, "completed")
            assert new.live == 0
            chunks = dict(bench.store.tables.journals[invocation_id])
            held.set()
            await until(lambda: old.live == 0)
        assert value(bench.row(invocation_id)) == "theirs"
        assert bench.store.tables.journals[invocation_id] == chunks
        await until(lambda: bench.broker.published)
        await asyncio.sleep(5)
        assert len({effect.event_id for effect in bench.broker.published}) == 1, "the stale one's is not out"


async def v1(ctx: Context) -> str:
    await ctx.run("reserve", lambda: "a")
    awakeable = ctx.awakeable(int)
    await awakeable
    await ctx.run("charge", lambda: "b")
    return "v1"


async def v2(ctx: Context) -> str:
    await ctx.run("reserve", lambda: "a")
    await ctx.run("check", lambda: "new")
    await ctx.awakeable(int)
    return "v2"


async def test_j2_code_that_does_something_else_is_parked_with_a_diff_and_goes_on_under_the_old_code() -> (
    None
):
    bench = Bench()
    async with bench.serving(fulfil=v1) as engine:
        invocation_id = await bench.begin(engine, "fulfil")
        await bench.status(invocation_id, "suspended")
        key = (await bench.awakeable(invocation_id)).id
    before = await bench.journal(invocation_id)
    async with bench.serving(fulfil=v2) as engine:
        await bench.settle(engine, key, 1)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == "ReplayMismatch"
        assert row.failure.message.splitlines() == [
            "the handler's code no longer does what its journal tells.",
            "       0  input of orders/fulfil",
            "       1  run 'reserve'",
            "       2  outcome of entry 1",
            f"  -    3  awakeable {key}",
            "  +       the handler asks for: run 'check'",
            "Deploy code that repeats the journal (the line marked -) and resume the invocation.",
        ]
        assert await bench.journal(invocation_id) == before, "it never runs on"
        assert (await engine.resume(invocation_id)).status == "pending"
        await bench.status(invocation_id, "paused")
    async with bench.serving(fulfil=v1) as engine:
        await engine.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == "v1"


async def test_j2_a_handler_that_is_gone_or_a_journal_that_can_t_be_read_parks_the_invocation() -> None:
    bench = Bench()
    async with bench.serving(one=wait, other=wait) as engine:
        gone, unreadable = await bench.begin(engine, "one"), await bench.begin(engine, "other")
        for key in (gone, unreadable):
            await bench.status(key, "suspended")
            assert await bench.awakeable(key)
    bench.store.tables.journals[unreadable][9] = b'[{"k":"telepathy"}]'
    async with bench.serving(other=wait) as engine:
        for key in (gone, unreadable):
            await bench.settle(engine, (await bench.awakeable(key)).id, {"weight": 1})
        first, second = await bench.status(gone, "paused"), await bench.status(unreadable, "paused")
        assert first.failure is not None
        assert "has no handler 'one'; it has: other" in first.failure.message
        assert second.failure is not None
        assert "'telepathy'" in second.failure.message
        fine = await bench.begin(engine, "other")
        await bench.settle(engine, (await bench.awakeable(fine)).id, {"weight": 3}, "http:9")
        assert value(await bench.status(fine, "completed")) == 3
    async with bench.serving(one=wait) as engine:
        await engine.resume(gone)
        assert value(await bench.status(gone, "completed")) == 1


@BOTH
async def test_j3_a_run_that_is_recorded_is_never_executed_again(settings: EngineSettings) -> None:
    bench = Bench()
    executed: list[str] = []

    async def act(ctx: Context) -> int:
        await ctx.run("once", lambda: executed.append("x"))
        return (await ctx.awakeable(Wide)).weight

    for _ in range(3):
        async with bench.serving(settings, act=act) as engine:
            if not bench.store.tables.invocations:
                invocation_id = await bench.begin(engine, "act")
            key = (await bench.awakeable(invocation_id)).id
            await asyncio.sleep(1)
    async with bench.serving(settings, act=act) as engine:
        await bench.settle(engine, key, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7
    assert executed == ["x"]


async def test_j3_a_run_starts_only_after_what_it_was_decided_on_is_committed() -> None:
    bench = Bench()
    recorded: list[int] = []

    async def act(ctx: Context) -> None:
        ctx.now()
        ctx.awakeable()
        ctx.publish("notices", 1)

        def look() -> None:
            chunks = bench.store.tables.journals[ctx.request.invocation_id]
            recorded.append(sum(len(msgspec.json.decode(chunk)) for chunk in chunks.values()))

        await ctx.run("act", look)

    async with bench.serving(act=act) as engine:
        bench.store.lose_before = 2
        await bench.status(await bench.begin(engine, "act"), "completed")
    assert recorded == [5], "input, now, awakeable, publish, run"


async def test_j3_a_crash_between_the_side_effect_and_the_journal_executes_it_again_under_one_key() -> None:
    bench = Bench()
    keys: list[str] = []

    async def charge(ctx: Context) -> str:
        key = ctx.uuid()

        def act() -> str:
            keys.append(str(key))
            if len(keys) == 1:
                bench.store.gate.clear()
            return "charged"

        return await ctx.run("charge", act)

    async with bench.serving(charge=charge) as engine:
        invocation_id = await bench.begin(engine, "charge")
        await until(lambda: keys)
        await asyncio.sleep(1)
    bench.store.gate.set()
    async with bench.serving(charge=charge):
        assert value(await bench.status(invocation_id, "completed")) == "charged"
    assert len(keys) == 2
    assert len(set(keys)) == 1


# ── K: Kafka ────────────────────────────────────────────────────────────────────────────────


async def test_k1_completions_verdicts_wake_ups_and_offsets_commit_together_or_not_at_all() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        key = (await bench.awakeable(invocation_id)).id
        bench.store.lose_before = 1
        bench.store.lose_after = 1
        await bench.records(engine, resolution(key), resolution(key), resolution(key, b'{"weight":8}'))
        row = await bench.store.awakeable(key)
        assert row is not None
        assert row.book.counts == {"accepted": 1, "duplicate": 1, "conflict": 1}
        assert bench.store.tables.positions[TOPIC, 0].next == 3
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_k1_rewinding_the_topic_is_a_no_op() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        await bench.records(engine, resolution(key), b"{", resolution(key, b"{}"))
        await until(lambda: engine.relay.idle and not bench.store.tables.effects)
        before = bench.store.tables.awakeables[key], dict(bench.store.tables.letters)
        published = len(bench.broker.published)
        for first in (0, 1, 2):
            with pytest.raises(OwnershipLost):
                await bench.records(engine, resolution(key), b"{", resolution(key, b"{}"), first=first)
        await asyncio.sleep(10)
        assert (bench.store.tables.awakeables[key], dict(bench.store.tables.letters)) == before
        assert len(bench.broker.published) == published


async def test_k1_a_batch_of_a_reader_that_lost_its_partition_changes_nothing() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        taken = await engine.intake.take_partitions(engine.owner, TOPIC, (0,))
        await engine.intake.take_partitions("another", TOPIC, (0,))
        from awakeables.engine.intake import Record

        record = Record(offset=0, timestamp_ms=0, key=None, value=resolution(key))
        with pytest.raises(OwnershipLost, match="another reader"):
            await engine.intake.take(TOPIC, 0, taken[0].epoch, [record])
        assert bench.store.tables.awakeables[key].state == "pending"


async def test_k2_a_bad_record_becomes_a_dead_letter_and_the_offset_moves_on_in_the_same_transaction() -> (
    None
):
    bench = Bench()
    never = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10))
    bad: list[bytes | None] = [b"{broken \xff", None, b"[]", resolution(never), b"9" * 5000, b"[" * 100_000]
    async with bench.serving(wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        await bench.records(engine, *bad, resolution(key))
        letters = sorted(bench.store.tables.letters.values(), key=lambda x: x.offset)
        assert [x.code for x in letters] == [
            "invalid",
            "invalid",
            "invalid",
            "unknown",
            "invalid",
            "invalid",
        ]
        assert [x.value for x in letters] == bad
        assert bench.store.tables.positions[TOPIC, 0].next == 7
        assert bench.store.tables.awakeables[key].state == "resolved"
        await until(lambda: len([e for e in bench.broker.published if e.topic == f"{TOPIC}.dlq"]) == 6)
        copies = {e.event_id: e.value for e in bench.broker.published if e.topic == f"{TOPIC}.dlq"}
        assert copies == {letter.id: letter.value for letter in letters}


async def test_k3_what_was_committed_is_published_though_the_process_died_at_once() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        bench.broker.gate.clear()
        invocation_id = await bench.begin(engine, "wait")
        await bench.status(invocation_id, "suspended")
    bench.broker.gate.set()
    async with bench.serving(wait=wait):
        await until(lambda: bench.broker.published)
    tries = {e.event_id for e in bench.broker.tries}
    assert len(tries) == 1, "the event ID is stable over resends"


# ── O: owners ───────────────────────────────────────────────────────────────────────────────


async def test_o2_a_suspended_invocation_holds_nothing_in_memory() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        before = len(asyncio.all_tasks())
        ids = [await bench.begin(engine, "wait") for _ in range(50)]
        for invocation_id in ids:
            await bench.status(invocation_id, "suspended")
        await until(lambda: engine.live == 0 and len(asyncio.all_tasks()) <= before)


async def test_o3_timers_time_outs_and_retries_survive_restarts() -> None:
    bench = Bench()
    fails = iter([True, False])

    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(timedelta(hours=1))
        return "woken"

    async def timer(ctx: Context) -> str:
        try:
            await ctx.awakeable(timeout=timedelta(hours=1))
        except TimedOut:
            return "timed out"
        return ""

    async def flaky(ctx: Context) -> str:
        if next(fails):
            raise ConnectionError("down")
        return "retried"

    handlers: dict[str, Any] = {"sleeper": sleeper, "timer": timer, "flaky": flaky}
    async with bench.serving(**handlers) as engine:
        ids = [await bench.begin(engine, name) for name in handlers]
        await bench.status(ids[0], "suspended")
        await bench.status(ids[1], "suspended")
        await bench.status(ids[2], "backing-off")
    await asyncio.sleep(4000)
    async with bench.serving(**handlers):
        rows = [await bench.status(key, "completed") for key in ids]
    assert [value(row) for row in rows] == ["woken", "timed out", "retried"]


async def test_o3_a_wake_up_whose_hint_is_lost_is_found_by_the_sweep() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        await bench.status(invocation_id, "suspended")
        engine.intake.on_wakes = lambda _wakes: None
        await bench.settle(engine, bench.awakeables(invocation_id)[0].id, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_o3_a_hint_that_is_lost_while_the_handler_lingers_does_not_suspend_it_for_ever() -> None:
    """Hard case 1: suspending is conditional on the wake that the owner has seen."""
    bench = Bench()
    async with bench.serving(quick(linger=timedelta(seconds=5)), wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        key = (await bench.awakeable(invocation_id)).id
        hint, engine.intake.on_wakes = engine.intake.on_wakes, lambda _wakes: None
        await bench.settle(engine, key, {"weight": 7})
        engine.intake.on_wakes = hint
        assert value(await bench.status(invocation_id, "completed")) == 7


# ── the hard cases ──────────────────────────────────────────────────────────────────────────


async def test_hard_case_1_outcomes_are_journaled_where_they_are_handed_out_not_when_they_came() -> None:
    bench = Bench()

    async def both(ctx: Context) -> list[int]:
        one, other = ctx.awakeable(int), ctx.awakeable(int)
        await ctx.run("between", lambda: None)
        return [await one, await other]

    async with bench.serving(both=both) as engine:
        invocation_id = await bench.begin(engine, "both")
        await bench.status(invocation_id, "suspended")
        asked = [e.id for e in await bench.journal(invocation_id) if isinstance(e, AwakeableAsked)]
        await bench.settle(engine, asked[1], 2, "http:2")
        await bench.settle(engine, asked[0], 1, "http:1")
        assert value(await bench.status(invocation_id, "completed")) == [1, 2]
        delivered = [e.of for e in await bench.journal(invocation_id) if isinstance(e, Delivered)]
        assert delivered == [3, 1, 2]


async def test_hard_case_2_an_invocation_whose_data_the_store_refuses_fails_alone() -> None:
    bench = Bench()

    async def keep(ctx: Context, text: str) -> str:
        await ctx.run("keep", lambda: text)
        return text

    def refused(member: Any) -> bool:
        return isinstance(member, Advance) and member.chunk is not None and b"poison" in member.chunk

    async with bench.serving(keep=keep) as engine:
        bench.store.refuses = refused
        ids = [await bench.begin(engine, "keep", text) for text in (b'"a"', b'"poison"', b'"b"')]
        rows = [await bench.status(key, "completed") for key in ids]
        assert [value(rows[0]), value(rows[2])] == ["a", "b"]
        assert failed(rows[1]).reason == (
            "the store refuses what the handler wants to keep: this data can't be kept"
        )


async def test_hard_case_2_a_settlement_that_the_store_refuses_is_told_so() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        bench.store.refuses = lambda member: type(member).__name__ == "Settle"
        with pytest.raises(StoreRefused):
            await bench.settle(engine, key, {"weight": 1})


@pytest.mark.parametrize("losses", [1, 2, 5])
@BOTH
async def test_hard_case_3_lost_acknowledgements_are_not_taken_for_another_owner(
    settings: EngineSettings, losses: int
) -> None:
    bench = Bench()
    executed: list[int] = []

    async def steps(ctx: Context) -> int:
        for number in range(4):
            await ctx.run(f"step-{number}", executed.append, number)
            ctx.publish("notices", number)
        return (await ctx.awakeable(Wide)).weight

    async with bench.serving(settings, steps=steps) as engine:
        bench.store.lose_after = losses
        invocation_id = await bench.begin(engine, "steps")
        key = (await bench.awakeable(invocation_id)).id
        bench.store.lose_after = losses
        await bench.settle(engine, key, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7
        await until(lambda: bench.broker.values("notices") == [0, 1, 2, 3])
        assert engine.live == 0
    assert executed == [0, 1, 2, 3]
    assert bench.row(invocation_id).attempts == 0


async def test_hard_case_3_a_row_that_its_owner_does_not_hold_is_let_go() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        order = Begin(
            id=engine.new_id("inv"),
            service="orders",
            handler="wait",
            chunk=b'[{"k":"input","service":"orders","handler":"wait","seed":"s","at_ms":1}]',
            owner=engine.owner,
        )
        await engine.committer.submit(order)
        assert bench.row(order.id).status == "running"
        await bench.status(order.id, "suspended")


async def test_hard_case_3_an_owner_s_name_is_new_for_each_start() -> None:
    bench = Bench()
    owners = set()
    for _ in range(3):
        async with bench.serving(wait=wait) as engine:
            owners.add(engine.owner)
    assert len(owners) == 3
    assert {order.owner for order in bench.store.members(Release)} == owners


@pytest.mark.parametrize("end", ["returns", "fails", "rejected"])
async def test_hard_case_4_an_ended_invocation_cancels_its_pending_awakeables_in_the_same_commit(
    end: str,
) -> None:
    bench = Bench()

    async def handler(ctx: Context) -> None:
        ctx.awakeable(Wide)
        other = ctx.awakeable(Wide)
        if end == "fails":
            raise TerminalError("no")
        if end == "rejected":
            await ctx.reject_awakeable(other.id, "no")
            await other

    async with bench.serving(handler=handler) as engine:
        invocation_id = await bench.begin(engine, "handler")
        await bench.status(invocation_id, "completed")
        rows = bench.awakeables(invocation_id)
        abandoned = [row for row in rows if row.state == "cancelled"]
        assert len(abandoned) == (1 if end == "rejected" else 2)
        for row in abandoned:
            assert row.outcome == Cancellation(reason="its invocation ended")
            assert (await bench.settle(engine, row.id, {"weight": 1})).kind == "late"
        assert isinstance(bench.row(invocation_id).result, Resolution if end == "returns" else Rejection)


async def test_hard_case_5_an_answer_that_came_to_the_topic_in_time_counts_after_an_outage() -> None:
    bench = Bench()
    settings = EngineSettings(runner=RunnerSettings(linger=timedelta(0)), horizon=timedelta(minutes=15))

    async def timed(ctx: Context) -> Any:
        awakeables = [ctx.awakeable(Wide, timeout=timedelta(minutes=5)) for _ in range(2)]
        ends: list[Any] = []
        for awakeable in awakeables:
            try:
                ends.append((await awakeable).weight)
            except TimedOut:
                ends.append("timed out")
        return ends

    async with bench.serving(settings, timed=timed) as engine:
        engine.intake.horizon.expect((0,))
        engine.intake.horizon.read_to_end(0, bench.clock.now_ms())
        invocation_id = await bench.begin(engine, "timed")
        await bench.status(invocation_id, "suspended")
        key = bench.awakeables(invocation_id)[0].id
    await asyncio.sleep(600)
    async with bench.serving(settings, timed=timed) as engine:
        engine.intake.horizon.expect((0,))
        await asyncio.sleep(30)
        assert {row.state for row in bench.awakeables(invocation_id)} == {"pending"}, (
            "nobody is timed out yet"
        )
        await bench.records(engine, resolution(key))
        for _ in range(20):
            engine.intake.horizon.read_to_end(0, bench.clock.now_ms())
            await asyncio.sleep(0.25)
        assert value(await bench.status(invocation_id, "completed")) == [7, "timed out"]


async def test_hard_case_5_deadlines_are_held_back_for_so_long_and_no_longer() -> None:
    bench = Bench()
    settings = EngineSettings(runner=RunnerSettings(linger=timedelta(0)), horizon=timedelta(minutes=15))

    async def timed(ctx: Context) -> str:
        try:
            await ctx.awakeable(timeout=timedelta(minutes=5))
        except TimedOut:
            return "timed out"
        return ""

    async with bench.serving(settings, timed=timed) as engine:
        engine.intake.horizon.expect((0,))
        invocation_id = await bench.begin(engine, "timed")
        await asyncio.sleep(19 * 60)
        assert bench.awakeables(invocation_id)[0].state == "pending"
        await asyncio.sleep(2 * 60)
        assert value(bench.row(invocation_id)) == "timed out"
        outcome = bench.awakeables(invocation_id)[0].outcome
        assert outcome == Expiry(deadline_ms=STARTED_MS + 300_000)


async def test_hard_case_6_the_same_status_and_value_are_a_duplicate_whatever_the_event_id() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id

        def said(text: bytes | None, source: str) -> Completion:
            body = Rejection(reason="no") if text is None else Resolution.of_json(text)
            return Completion(awakeable_id=key, body=body, source=source, event_id="e1")

        kinds = [
            await engine.settle(said(b'{"weight":7}', "1")),
            await engine.settle(said(b'{ "weight": 7 }', "2")),
            await engine.settle(said(b'{"weight":8}', "3")),
            await engine.settle(said(None, "4")),
        ]
        assert [v.kind for v in kinds if v] == ["accepted", "duplicate", "conflict", "conflict"]


def narrowed(type_: Any) -> Any:
    async def fulfil(ctx: Context) -> int:
        awakeable = ctx.awakeable(type_)
        ctx.publish("pack", 1, awakeable=awakeable)
        parcel = await awakeable
        return int(parcel.weight)

    return fulfil


@pytest.mark.parametrize("mode", ["suspended", "live", "always-suspend"])
async def test_hard_case_7_an_accepted_value_that_newer_code_refuses_pauses_the_invocation_and_is_kept(
    mode: str,
) -> None:
    settings = {"suspended": quick(), "live": LIVE, "always-suspend": quick(always_suspend=True)}[mode]
    bench = Bench()
    async with bench.serving(settings, fulfil=narrowed(Wide)) as engine:
        invocation_id = await bench.begin(engine, "fulfil")
        key = (await bench.awakeable(invocation_id)).id
        await until(lambda: bench.broker.published)
    async with bench.serving(settings, fulfil=narrowed(Narrow)) as engine:
        assert (await bench.settle(engine, key, {"weight": 50})).kind == "accepted", (
            "the pinned schema decides"
        )
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == "ValueRefused"
        assert f"the answer to awakeable {key} does not fit today's type (weight: " in row.failure.message
        assert "it is kept: deploy code that takes it, then resume" in row.failure.message
        await engine.resume(invocation_id)
        await bench.status(invocation_id, "paused")
        kept = bench.store.tables.awakeables[key].outcome
        assert kept == Resolution.of_json(b'{"weight":50}')
    async with bench.serving(settings, fulfil=narrowed(Wide)) as engine:
        await engine.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 50


async def test_hard_case_7_an_input_that_newer_code_refuses_pauses_the_invocation_too() -> None:
    async def old(ctx: Context, order: Wide) -> int:
        await ctx.awakeable()
        return order.weight

    async def new(ctx: Context, order: Narrow) -> int:
        await ctx.awakeable()
        return order.weight

    bench = Bench()
    async with bench.serving(fulfil=old) as engine:
        invocation_id = await bench.begin(engine, "fulfil", b'{"weight":50}')
        await bench.status(invocation_id, "suspended")
        key = (await bench.awakeable(invocation_id)).id
    async with bench.serving(fulfil=new) as engine:
        await bench.settle(engine, key, 1)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == "ValueRefused"
        assert row.failure.message.startswith("the input does not fit today's type (weight: ")
    async with bench.serving(fulfil=old) as engine:
        await engine.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 50


async def test_hard_case_7_a_run_s_result_that_newer_code_refuses_pauses_the_invocation_too() -> None:
    def loading(type_: Any) -> Any:
        async def fulfil(ctx: Context) -> int:
            loaded: Any = await ctx.run("load", lambda: {"weight": 50}, type=type_)
            await ctx.awakeable()
            return int(loaded.weight)

        return fulfil

    bench = Bench()
    async with bench.serving(fulfil=loading(Wide)) as engine:
        invocation_id = await bench.begin(engine, "fulfil")
        key = (await bench.awakeable(invocation_id)).id
        await bench.status(invocation_id, "suspended")
    async with bench.serving(fulfil=loading(Narrow)) as engine:
        await bench.settle(engine, key, 1)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.message.startswith("the result of run 'load' does not fit today's type")
    async with bench.serving(fulfil=loading(Wide)) as engine:
        await engine.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 50


async def test_hard_case_8_a_thousand_answers_leave_twenty_verdicts_and_their_counts() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        await bench.records(engine, *[resolution(key, b'{"weight":%d}' % (n % 3)) for n in range(1000)])
        book = bench.store.tables.awakeables[key].book
        assert book.counts == {"accepted": 1, "duplicate": 333, "conflict": 666}
        assert (len(book.first), len(book.last)) == (10, 10)
        assert bench.store.tables.letters == {}


async def test_hard_case_8_heartbeats_overwrite_one_row() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as engine:
        key = (await bench.awakeable(await bench.begin(engine, "wait"))).id
        beats = [
            f'{{"awakeable_id":"{key}","status":"heartbeat","progress":{n}}}'.encode() for n in range(100)
        ]
        await bench.records(engine, *beats)
        row = bench.store.tables.awakeables[key]
        assert row.beat is not None
        assert bytes(row.beat.progress) == b"99"
        assert row.book.counts == {}


async def test_hard_case_9_an_awakeable_whose_task_kafka_refuses_is_rejected_with_publish_failed() -> None:
    bench = Bench()
    bench.broker.fail = lambda e: PublishRefused("too large") if e.topic == "pack" else None

    async def fulfil(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable(Wide)
        ctx.publish("pack", 1, awakeable=awakeable)
        ctx.publish("notices", "passes")
        try:
            await awakeable
        except Rejected as error:
            return [error.reason, error.code]
        return []

    for settings in (quick(), LIVE):
        async with bench.serving(settings, fulfil=fulfil) as engine:
            invocation_id = await bench.begin(engine, "fulfil")
            assert value(await bench.status(invocation_id, "completed")) == ["publish-failed", 502]
            await until(lambda: "passes" in bench.broker.values("notices"))


async def test_hard_case_11_a_handler_that_kills_its_process_is_parked_after_five_starts() -> None:
    bench = Bench()
    starts: list[int] = []

    async def deadly(ctx: Context) -> None:
        starts.append(1)
        await asyncio.Event().wait()

    async with bench.serving(deadly=deadly, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "deadly")
        await until(lambda: starts)

    def started_or_parked(known: int) -> bool:
        return len(starts) > known or bench.row(invocation_id).status == "paused"

    for _ in range(8):
        known = len(starts)
        async with bench.serving(deadly=deadly, wait=wait):
            await until(functools.partial(started_or_parked, known))
    row = bench.row(invocation_id)
    assert row.status == "paused"
    assert row.failure is not None
    assert row.failure.kind == CRASHED
    assert 4 <= len(starts) <= 6
    assert bench.store.members(Claim)


async def test_hard_case_15_a_run_is_journaled_as_soon_as_it_is_known_not_only_at_the_next_wait() -> None:
    bench = Bench()
    held = asyncio.Event()

    async def handler(ctx: Context) -> str:
        await ctx.run("act", lambda: "x")
        await held.wait()
        return "done"

    async with bench.serving(LIVE, handler=handler) as engine:
        invocation_id = await bench.begin(engine, "handler")
        await asyncio.sleep(0.5)
        journal = await bench.journal(invocation_id)
        assert [type(entry) for entry in journal[1:]] == [RunAsked, Delivered]
        held.set()
        assert value(await bench.status(invocation_id, "completed")) == "done"


# ── failures ────────────────────────────────────────────────────────────────────────────────


async def test_a_paused_invocation_goes_on_when_it_is_resumed_with_its_attempts_counted_anew() -> None:
    bench = Bench()
    broken = True
    calls: list[int] = []

    async def flaky(ctx: Context) -> str:
        calls.append(ctx.request.attempt)
        if broken:
            raise ConnectionError("down")
        return "mended"

    async with bench.serving(flaky=flaky) as engine:
        invocation_id = await bench.begin(engine, "flaky")
        await asyncio.sleep(4500)
        row = await bench.status(invocation_id, "paused")
        assert (len(calls), calls[-1]) == (70, 70)
        assert row.failure is not None
        assert (row.failure.kind, row.failure.message) == ("ConnectionError", "down")
        broken = False
        await engine.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == "mended"
        assert calls[-1] == 1
        with pytest.raises(NotPossible, match="is completed, not paused"):
            await engine.resume(invocation_id)
        with pytest.raises(NotFound):
            await engine.resume("inv_1x")


async def test_a_back_off_can_be_cut_short() -> None:
    bench = Bench()
    fails = iter([True, False])

    async def flaky(ctx: Context) -> str:
        if next(fails):
            raise ConnectionError("down")
        return "mended"

    async with bench.serving(flaky=flaky) as engine:
        invocation_id = await bench.begin(engine, "flaky")
        await bench.status(invocation_id, "backing-off")
        began = bench.clock.monotonic()
        await engine.resume(invocation_id)
        await bench.status(invocation_id, "completed")
        assert bench.clock.monotonic() - began < 0.2


async def test_an_error_whose_message_is_no_utf_8_is_kept_with_the_row() -> None:
    bench = Bench()

    async def read(ctx: Context) -> None:
        raise OSError("no such file: \udcff")

    async with bench.serving(read=read) as engine:
        row = await bench.status(await bench.begin(engine, "read"), "backing-off")
        assert row.failure is not None
        assert row.failure.message == "no such file: ?"


async def test_one_handler_s_odd_error_harms_no_other_invocation() -> None:
    class Odd(BaseException):
        pass

    async def odd(ctx: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(5))
            raise Odd

    bench = Bench()
    async with bench.serving(odd=odd, wait=wait) as engine:
        other = await bench.begin(engine, "wait")
        await bench.status(await bench.begin(engine, "odd"), "backing-off")
        await bench.settle(engine, (await bench.awakeable(other)).id, {"weight": 7})
        assert value(await bench.status(other, "completed")) == 7


async def test_a_drained_engine_has_suspended_what_could_be_suspended() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        key = (await bench.awakeable(invocation_id)).id
        assert engine.live == 1
        assert await engine.drain(timedelta(seconds=5))
        assert (engine.live, bench.row(invocation_id).status) == (0, "suspended")
    async with bench.serving(LIVE, wait=wait) as engine:
        await bench.settle(engine, key, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_more_calls_than_places_wait_as_rows_and_all_are_done() -> None:
    bench = Bench()
    settings = EngineSettings(
        runner=RunnerSettings(linger=timedelta(seconds=30)), max_running=3, horizon=timedelta(0)
    )
    live: list[int] = []

    async def act(ctx: Context) -> int:
        live.append(engine.live)
        await ctx.run("act", asyncio.sleep, 0.1)
        return (await ctx.awakeable(Wide, timeout=timedelta(days=1))).weight

    async with bench.serving(settings, act=act) as engine:
        ids = [await bench.begin(engine, "act") for _ in range(10)]
        for number, invocation_id in enumerate(ids):
            key = (await bench.awakeable(invocation_id)).id
            await bench.settle(engine, key, {"weight": number}, f"http:{number}")
        assert [value(await bench.status(key, "completed")) for key in ids] == list(range(10))
    assert max(live) <= 3


async def test_suspending_tells_the_wake_that_was_seen() -> None:
    """Hard case 1, in the order itself."""
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        await bench.status(await bench.begin(engine, "wait"), "suspended")
        steps = [m.next for m in bench.store.members(Advance)]
        assert steps[-1] == Suspend(wake=0)
