"""Instances that share a store: wake-ups and answers across them, take-overs, and frozen ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from awakeables import Cancelled, Context
from awakeables.core.instances import Hint
from awakeables.core.invocations import SUSPECT_STARTS
from awakeables.core.outcomes import Resolution
from awakeables.errors import StoreUnavailable
from awakeables.store.membership import LocalHints
from awakeables.telemetry import events
from awakeables.testing.bench import Bench, Process, quick, until
from support.logs import heard
from unit.engine.harness import heartbeats_unanswered

LINGERS = quick(linger=timedelta(seconds=1))


@pytest.fixture
async def bench() -> Bench:
    return Bench(shared=True)


@asynccontextmanager
async def instances(bench: Bench, count: int = 2, **handlers: Any) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(bench.serving(LINGERS, **handlers)) for _ in range(count)]


async def wait(ctx: Context) -> int:
    return await ctx.awakeable(int)


def lose_hints(monkeypatch: pytest.MonkeyPatch) -> list[Hint]:
    lost: list[Hint] = []
    monkeypatch.setattr(LocalHints, "send", lambda _self, _to, hint: lost.append(hint))
    return lost


async def elapsed(bench: Bench, work: Any) -> float:
    began_s = bench.clock.monotonic()
    await work
    return bench.clock.monotonic() - began_s


async def test_a_completion_that_lands_elsewhere_reaches_the_owner_at_once(bench: Bench) -> None:
    async with instances(bench, wait=wait) as (one, two):
        invocation_id = await bench.begin(one, "wait")
        key = (await bench.awakeable(invocation_id)).id
        await bench.settle(two, key, 7)
        assert await elapsed(bench, bench.status(invocation_id, "completed")) < 0.1
        assert bench.row(invocation_id).result == Resolution.of_json(b"7")
        assert bench.row(invocation_id).epoch == 1


async def test_without_any_hint_everything_ends_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_hints(monkeypatch)
    async with instances(bench, wait=wait) as (one, two):
        invocation_id = await bench.begin(one, "wait")
        key = (await bench.awakeable(invocation_id)).id
        await bench.settle(two, key, 7)
        answered = asyncio.ensure_future(two.api.result(invocation_id))
        took_s = await elapsed(bench, bench.status(invocation_id, "completed"))
        assert took_s < 1 + 2.5  # the linger, and the sweep of an instance that is not the first
        assert await answered == Resolution.of_json(b"7")
        assert lost


async def test_a_call_is_answered_whichever_instance_finishes_it(bench: Bench) -> None:
    async with instances(bench, wait=wait) as (one, two):
        call = one.api.call(one.api.app.handler("orders", "wait"), b"null", headers={})
        await call.begun
        key = (await bench.awakeable(call.id)).id
        await bench.status(call.id, "suspended")
        one.engine.pool.stop_claiming()  # it claims nothing more
        await bench.settle(two, key, 8)
        assert await call.end == Resolution.of_json(b"8")
        assert bench.row(call.id).committed_by == two.engine.member.id
        attached = await two.api.result(call.id)
        assert attached == Resolution.of_json(b"8")


async def test_a_cancellation_reaches_the_owner_at_once(bench: Bench) -> None:
    async with instances(bench, wait=wait) as (one, two):
        invocation_id = await bench.begin(one, "wait")
        await bench.awakeable(invocation_id)
        await two.api.cancel(invocation_id)
        assert await elapsed(bench, bench.status(invocation_id, "completed")) < 0.1


async def test_what_a_killed_instance_ran_is_taken_over_within_the_time_out(bench: Bench) -> None:
    async with instances(bench, 1, wait=wait) as (survivor,):
        async with instances(bench, 1, wait=wait) as (victim,):
            invocation_id = await bench.begin(victim, "wait")
            key = (await bench.awakeable(invocation_id)).id
            assert bench.row(invocation_id).owner == victim.engine.member.id
        took_s = await elapsed(bench, bench.status(invocation_id, "pending", "running", "suspended"))
        await until(lambda: bench.row(invocation_id).owner != victim.engine.member.id, "it is taken over")
        assert took_s < 13
        await bench.settle(survivor, key, 9)
        await bench.status(invocation_id, "completed")


async def test_an_instance_that_stops_leaves_nothing_to_wait_for(bench: Bench) -> None:
    async with instances(bench, 1, wait=wait) as (survivor,):
        async with instances(bench, 1, wait=wait) as (leaver,):
            invocation_id = await bench.begin(leaver, "wait")
            await bench.awakeable(invocation_id)
            await leaver.engine.drain(timedelta(seconds=5))
        living = await survivor.engine.store.membership.instances()
        assert [each.id for each in living] == [survivor.engine.member.id]
        assert bench.row(invocation_id).status == "suspended"


async def test_who_was_declared_dead_while_alive_is_fenced_and_goes_on_as_a_new_instance(
    bench: Bench,
) -> None:
    async with instances(bench, wait=wait) as (one, two):
        invocation_id = await bench.begin(one, "wait")
        key = (await bench.awakeable(invocation_id)).id
        before = one.engine.member.id
        _miss_heartbeats(bench, one)
        await two.engine.member.beat()
        await two.engine.member.take_over()
        assert bench.row(invocation_id).owner != before
        await until(lambda: one.engine.member.id != before, "it registers anew")
        assert before not in {each.id for each in one.engine.member.living}
        again = await bench.begin(one, "wait")
        await bench.awakeable(again)
        assert bench.row(again).owner == one.engine.member.id
        await bench.settle(one, key, 1)
        await bench.status(invocation_id, "completed")


def _miss_heartbeats(bench: Bench, process: Process) -> None:
    """As if it had been frozen: its last heartbeat is older than the time-out."""
    membership: Any = bench.store.membership
    owner = process.engine.member.id
    frozen = membership._instances[owner]
    membership._instances[owner] = replace(frozen, beat_ms=frozen.beat_ms - 11_000)


async def test_an_instance_without_an_acknowledged_heartbeat_begins_nothing(bench: Bench) -> None:
    async with instances(bench, 1, wait=wait) as (one,):

        async def refuse(*_args: Any, **_kwargs: Any) -> None:
            await asyncio.Event().wait()

        membership: Any = bench.store.membership
        membership.beat = refuse
        await asyncio.sleep(8)
        assert not one.engine.member.is_sure()
        invocation_id = await bench.begin(one, "wait")
        assert bench.row(invocation_id).owner is None


async def test_an_action_is_not_begun_by_an_instance_that_may_be_dead(bench: Bench) -> None:
    begun: list[float] = []

    async def act() -> int:
        begun.append(bench.clock.monotonic())
        return 1

    async def acts(ctx: Context) -> int:
        await ctx.awakeable(int)
        return await ctx.run("act", act)

    async with bench.serving(quick(linger=timedelta(minutes=5)), acts=acts) as one:
        invocation_id = await bench.begin(one, "acts")
        key = (await bench.awakeable(invocation_id)).id
        acknowledged = await heartbeats_unanswered(bench, one)
        await bench.settle(one, key, 1)
        await asyncio.sleep(1)
        assert bench.row(invocation_id).version == 2, "the request for the action is journaled"
        assert begun == []
        acknowledged.set()
        await bench.status(invocation_id, "completed")
        assert len(begun) == 1


async def test_heartbeats_go_on_while_commits_hang(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that waits for a lock, or for an answer that was lost, does not make others take over."""
    async with instances(bench, wait=wait) as (one, two):
        invocation_id = await bench.begin(one, "wait")
        await bench.awakeable(invocation_id)
        owner = bench.row(invocation_id).owner

        async def hang(_commands: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(one.engine.committer, "_timed", hang)
        await asyncio.sleep(30)
        assert owner in {each.id for each in two.engine.member.living}
        assert one.engine.member.is_sure()
        assert bench.row(invocation_id).owner == owner


async def test_an_instance_that_was_declared_dead_does_nothing_under_an_id_that_nobody_knows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it did under such an ID would be taken over from it at once."""
    async with instances(bench, wait=wait) as (one, two):
        membership: Any = bench.store.membership
        before, register, allowed = one.engine.member.id, membership.register, asyncio.Event()

        async def register_later(instance: Any) -> None:
            await allowed.wait()
            await register(instance)

        monkeypatch.setattr(membership, "register", register_later)
        _miss_heartbeats(bench, one)
        await two.engine.member.beat()
        await asyncio.sleep(5)
        assert one.engine.member.id == before
        allowed.set()
        await until(lambda: one.engine.member.id != before, "it registers anew")
        assert one.engine.member.id in {each.id for each in await membership.instances()}


async def test_an_outage_of_reading_makes_no_handler_seem_to_crash_its_owner(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads have a connection of their own, which can fail while commits go on."""
    async with bench.serving(quick(linger=timedelta(0)), wait=wait) as one:
        invocation_id = await bench.begin(one, "wait")
        key = (await bench.awakeable(invocation_id)).id
        await bench.status(invocation_id, "suspended")

        async def refuse(*_args: Any) -> Any:
            raise StoreUnavailable("cut off")

        with monkeypatch.context() as outage:
            outage.setattr(bench.store, "history", refuse)
            await bench.settle(one, key, 7)
            await asyncio.sleep(60)
            assert (bench.row(invocation_id).status, bench.row(invocation_id).starts) == ("running", 1)
        await bench.status(invocation_id, "completed")


async def test_what_is_put_off_while_a_heartbeat_is_under_way_goes_on_once_it_is_acknowledged(
    bench: Bench,
) -> None:
    """It was sent in time, and is answered after the instance may have been dead for a moment."""

    async def tells(ctx: Context) -> int:
        answer = await ctx.awakeable(int)
        ctx.publish("told", answer)
        return answer

    async with bench.serving(quick(linger=timedelta(minutes=5)), tells=tells) as one:
        invocation_id = await bench.begin(one, "tells")
        key = (await bench.awakeable(invocation_id)).id
        acknowledged = await heartbeats_unanswered(bench, one)
        await bench.settle(one, key, 1)
        await bench.status(invocation_id, "completed")
        assert bench.broker.values("told") == []
        acknowledged.set()
        await until(lambda: bench.broker.values("told"), "it is published", within_s=1)


async def test_journals_that_can_t_be_read_hold_up_no_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serving(quick(), wait=wait) as one:
        ids = [await bench.begin(one, "wait") for _ in range(8)]
        for invocation_id in ids:
            await bench.status(invocation_id, "suspended")
        history, lost = bench.store.history, {ids[2], ids[5]}
        bench.store.tables.invocations[ids[2]] = replace(bench.row(ids[2]), starts=SUSPECT_STARTS)

        async def partly(invocation_ids: Any) -> Any:
            if lost & set(invocation_ids):
                raise StoreUnavailable("a page is damaged")
            return await history(invocation_ids)

        monkeypatch.setattr(bench.store, "history", partly)
        with heard() as logs:
            for invocation_id in ids:
                await bench.settle(one, (await bench.awakeable(invocation_id)).id, 7)
            for invocation_id in set(ids) - lost:
                await bench.status(invocation_id, "completed")
            await asyncio.sleep(20)
        assert [bench.row(each).status for each in lost] == ["running", "running"]
        assert bench.row(ids[2]).starts == SUSPECT_STARTS + 1, "it has not proved that it survives"
        told = [line for line in logs if line["event"] == events.JOURNALS_UNREAD]
        assert 1 <= len(told) < 5
        assert told[0]["error"] == "a page is damaged"
        lost.clear()
        for invocation_id in ids:
            await bench.status(invocation_id, "completed")


async def test_what_was_claimed_under_the_id_of_before_is_not_run_under_the_new_one(bench: Bench) -> None:
    """Its claim was sent again for as long as it took to be declared dead: its rows are taken over."""
    async with instances(bench, wait=wait) as (one, two):
        invocation_id = await bench.begin(one, "wait")
        await bench.status(invocation_id, "suspended")
        one.engine.pool.stopping = two.engine.pool.stopping = True
        await bench.settle(one, (await bench.awakeable(invocation_id)).id, 1)
        before = one.engine.member.id
        bench.store.gate.clear()
        one.engine.pool.stopping = False
        one.engine.pool.look_again()
        await asyncio.sleep(0.1)
        _miss_heartbeats(bench, one)
        await two.engine.member.beat()
        await until(lambda: one.engine.member.id != before, "it registers anew")
        with heard() as logs:
            bench.store.gate.set()
            await bench.status(invocation_id, "completed")
        assert events.OWNERSHIP_LOST not in {line["event"] for line in logs}


async def test_an_outcome_whose_hint_was_lost_is_not_slept_through_whatever_is_cancelled_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tidies(ctx: Context) -> int:
        try:
            return await ctx.awakeable(int)
        except Cancelled:
            return await ctx.awakeable(int)

    async with instances(bench, tidies=tidies) as (one, two):
        invocation_id = await bench.begin(one, "tidies")
        await bench.awakeable(invocation_id)
        await one.api.cancel(invocation_id)
        await until(lambda: len(bench.awakeables(invocation_id)) == 2, "it tidies up")
        await asyncio.sleep(0.1)
        lose_hints(monkeypatch)
        await bench.settle(two, bench.awakeables(invocation_id)[1].id, 7)
        for process in (one, two):
            await process.api.cancel(invocation_id)
        await until(lambda: bench.row(invocation_id).status == "completed", "it ends", within_s=10)
        assert bench.row(invocation_id).result == Resolution.of_json(b"7")


async def test_what_only_an_instance_can_run_that_starts_again_is_not_paused_by_the_others(
    bench: Bench,
) -> None:
    async with bench.serving(quick(), other=wait):
        async with bench.serving(quick(), wait=wait) as restarts:
            invocation_id = await bench.begin(restarts, "wait")
            await bench.status(invocation_id, "suspended")
            await bench.settle(restarts, (await bench.awakeable(invocation_id)).id, 7)
            restarts.engine.pool.stop_claiming()
            await restarts.engine.drain(timedelta(seconds=1))
        row = await bench.status(invocation_id, "backing-off", "completed")
        if row.failure is not None:
            assert "wait" in row.failure.message
        async with bench.serving(quick(), wait=wait):
            await bench.status(invocation_id, "completed")


async def test_who_waits_at_the_owner_is_told_of_a_kill_elsewhere(bench: Bench) -> None:
    async def act() -> None:
        await asyncio.sleep(3000)

    async def acts(ctx: Context) -> None:
        await ctx.run("act", act)

    async with instances(bench, acts=acts) as (one, two):
        call = one.api.call(one.api.app.handler("orders", "acts"), b"null", headers={})
        await call.begun
        await asyncio.sleep(1)
        assert bench.row(call.id).owner == one.engine.member.id
        await two.api.kill(call.id)
        assert await elapsed(bench, call.end) < 10
        await until(lambda: one.engine.live == 0, "its place is free", within_s=1)
