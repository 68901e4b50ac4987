"""Killing an invocation: it ends as it stands, and whatever still runs it changes nothing (hard case 4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context
from awakeables.core.commands import Advance
from awakeables.core.invocations import KILLED
from awakeables.engine.engine import EngineSettings
from awakeables.engine.pool import ALIVE_S
from awakeables.errors import NotFound, NotPossible
from awakeables.testing.bench import Bench, quick, until
from support.ids import new_id
from unit.engine.harness import resolution

SUSPENDED = quick()
LIVE = quick(linger=timedelta(hours=1))
BOTH = pytest.mark.parametrize("settings", [SUSPENDED, LIVE], ids=["suspended", "live"])


async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()


@BOTH
async def test_callers_of_a_killed_invocation_are_answered_at_once_and_nothing_holds_it(
    settings: Any,
) -> None:
    bench = Bench()
    async with bench.serving(settings, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        awakeable = await bench.awakeable(invocation_id)
        waiting = asyncio.ensure_future(process.api.result(invocation_id))
        row = await process.api.kill(invocation_id)
        assert (row.status, row.result) == ("completed", KILLED)
        assert await waiting == KILLED
        assert (await bench.settle(process, awakeable.id, 1)).kind == "late"
        await until(lambda: process.engine.live == 0, "its handler has left", within_s=1)
        assert bench.row(invocation_id) == row


async def test_its_handler_gets_no_notice_and_can_commit_nothing() -> None:
    done: list[str] = []
    begun, finish = asyncio.Event(), asyncio.Event()

    async def charge() -> str:
        begun.set()
        await finish.wait()
        done.append("charged")
        return "charged"

    async def pay(ctx: Context) -> Any:
        await ctx.run("charge", charge)
        done.append("went on")
        return await ctx.run("ship", lambda: done.append("shipped"))

    bench = Bench()
    async with bench.serving(LIVE, pay=pay) as process:
        invocation_id = await bench.begin(process, "pay")
        await begun.wait()
        row = await process.api.kill(invocation_id)
        journal = await bench.journal(invocation_id)
        finish.set()
        await until(lambda: process.engine.live == 0, "its handler has left")
        assert "shipped" not in done
        assert bench.row(invocation_id) == row
        assert await bench.journal(invocation_id) == journal


async def test_one_whose_code_no_longer_fits_can_be_killed() -> None:
    async def other(ctx: Context) -> None:
        await ctx.sleep(timedelta(days=1))

    bench = Bench()
    async with bench.serving(work=wait) as process:
        invocation_id = await bench.begin(process, "work")
        awakeable = await bench.awakeable(invocation_id)
        await bench.status(invocation_id, "suspended")
    async with bench.serving(work=other) as process:
        await process.api.cancel(invocation_id)
        await bench.status(invocation_id, "paused")
        assert (await process.api.kill(invocation_id)).result == KILLED
        assert (await bench.settle(process, awakeable.id, 1)).kind == "late"
        with pytest.raises(NotPossible, match="not paused"):
            await process.api.resume(invocation_id)


async def test_a_lost_acknowledgement_gets_the_same_reply_again() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        await bench.status(invocation_id, "suspended")
        bench.store.lose_after = 1
        assert (await process.api.kill(invocation_id)).result == KILLED
        assert (await process.api.kill(invocation_id)).result == KILLED


async def test_the_last_commit_of_its_owner_that_came_first_is_kept() -> None:
    async def at_once(ctx: Context) -> int:
        return 7

    bench = Bench()
    async with bench.serving(work=at_once) as process:
        invocation_id = await bench.begin(process, "work")
        await bench.status(invocation_id, "completed")
        with pytest.raises(NotPossible, match="nothing to kill"):
            await process.api.kill(invocation_id)
        assert len(bench.store.members(Advance)) == 1


async def test_one_that_is_not_there_can_not_be_killed() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        with pytest.raises(NotFound):
            await process.api.kill(new_id("inv", at_ms=1, entropy=bytes(10)))


async def hang(ctx: Context) -> None:
    await asyncio.Event().wait()


async def test_a_caller_after_the_kill_is_answered_though_its_action_is_still_executed() -> None:
    finish = asyncio.Event()

    async def pay(ctx: Context) -> None:
        await ctx.run("charge", finish.wait)

    bench = Bench()
    async with bench.serving(LIVE, pay=pay) as process:
        invocation_id = await bench.begin(process, "pay")
        await asyncio.sleep(1)
        await process.api.kill(invocation_id)
        assert await process.api.result(invocation_id) == KILLED
        finish.set()


async def test_callers_are_answered_though_the_one_that_killed_it_gave_up_meanwhile() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        await bench.awakeable(invocation_id)
        waiting = asyncio.ensure_future(process.api.result(invocation_id))
        bench.store.gate.clear()
        killing = asyncio.ensure_future(process.api.kill(invocation_id))
        await asyncio.sleep(1)
        killing.cancel()
        await asyncio.sleep(1)
        bench.store.gate.set()
        async with asyncio.timeout(1):
            assert await waiting == KILLED
        await until(lambda: process.engine.live == 0, "its handler has left", within_s=1)


async def test_an_action_does_not_begin_that_was_to_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    async def pay(ctx: Context) -> None:
        def charge() -> None:
            begun.append("charge")
            raise ConnectionError("down")

        await ctx.run("charge", charge)

    bench = Bench()
    async with bench.serving(pay=pay) as process:
        invocation_id = await bench.begin(process, "pay")
        await bench.status(invocation_id, "backing-off")
        history, reading, go_on = bench.store.history, asyncio.Event(), asyncio.Event()

        async def slowly(ids: Any) -> Any:
            found = await history(ids)
            reading.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(bench.store, "history", slowly)
        await reading.wait()
        await process.api.kill(invocation_id)
        go_on.set()
        await asyncio.sleep(60)
        assert (begun, process.engine.live) == (["charge"], 0)


async def test_one_that_is_purged_before_its_journal_is_read_affects_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        doomed, other = await bench.begin(process, "wait"), await bench.begin(process, "wait")
        await bench.status(doomed, "suspended")
        await bench.status(other, "suspended")
        answer = await bench.awakeable(other)
        history = bench.store.history

        async def without_the_doomed(ids: Any) -> Any:
            return {key: journal for key, journal in (await history(ids)).items() if key != doomed}

        monkeypatch.setattr(bench.store, "history", without_the_doomed)
        await process.api.cancel(doomed)
        await bench.settle(process, answer.id, 7)
        await bench.status(other, "completed")
        assert process.engine.serving.is_set()


async def test_a_killed_suspect_lets_the_next_one_have_its_turn() -> None:
    bench = Bench()
    ids: list[str] = []
    for _ in range(2):
        async with bench.serving(hang=hang) as process:
            while len(ids) < 2:
                ids.append(await bench.begin(process, "hang"))
            await until(lambda: all(bench.row(key).status == "running" for key in ids))
    async with bench.serving(hang=hang) as process:
        await until(lambda: any(bench.row(key).status == "running" for key in ids))
        [first] = [key for key in ids if bench.row(key).status == "running"]
        [second] = [key for key in ids if key != first]
        await process.api.kill(first)
        await bench.status(second, "running")


async def test_a_suspect_that_survives_for_a_moment_lets_the_next_one_have_its_turn() -> None:
    bench = Bench()
    ids: list[str] = []
    for _ in range(2):
        async with bench.serving(hang=hang) as process:
            while len(ids) < 2:
                ids.append(await bench.begin(process, "hang"))
            await until(lambda: all(bench.row(key).status == "running" for key in ids))
    async with bench.serving(hang=hang) as process:
        await until(lambda: any(bench.row(key).status == "running" for key in ids))
        assert sorted(bench.row(key).status for key in ids) == ["pending", "running"]
        await asyncio.sleep(ALIVE_S / 2)
        assert sorted(bench.row(key).status for key in ids) == ["pending", "running"]
        await until(lambda: all(bench.row(key).status == "running" for key in ids))
        await until(lambda: all(bench.row(key).starts == 0 for key in ids))
        assert process.engine.live == 2


async def test_one_that_is_just_being_parked_is_killed_quietly() -> None:
    bench = Bench()
    async with bench.serving(gone=wait) as process:
        invocation_id = await bench.begin(process, "gone")
        awakeable = await bench.awakeable(invocation_id)
        await bench.status(invocation_id, "suspended")
        await bench.settle(process, awakeable.id, 1)
    async with bench.serving(other=wait) as process:
        bench.store.gate.clear()
        killing = asyncio.ensure_future(process.api.kill(invocation_id))
        await asyncio.sleep(1)
        bench.store.gate.set()
        await killing
        await asyncio.sleep(1)
        assert bench.row(invocation_id).result == KILLED


async def test_a_killed_handler_frees_its_slot_whatever_it_hangs_in() -> None:
    bench = Bench()
    async with bench.serving(EngineSettings(max_running=1), hang=hang, wait=wait) as process:
        await process.api.kill(await bench.begin(process, "hang"))
        assert process.engine.live == 0
        await bench.awakeable(await bench.begin(process, "wait"))


async def test_one_that_was_killed_before_it_ran_can_not_be_cancelled() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        invocation_id = await bench.begin(process, "wait", delay=timedelta(days=1))
        await process.api.kill(invocation_id)
        with pytest.raises(NotPossible):
            await process.api.cancel(invocation_id)


async def test_an_answer_to_an_awakeable_that_was_fenced_off_becomes_a_dead_letter() -> None:
    leaked: list[str] = []

    async def leak(ctx: Context) -> None:
        await ctx.sleep(timedelta(seconds=1))
        awakeable = ctx.awakeable()
        leaked.append(awakeable.id)
        await awakeable

    bench = Bench()
    async with bench.serving(LIVE, leak=leak) as process:
        invocation_id = await bench.begin(process, "leak")
        await asyncio.sleep(0.5)
        bench.store.gate.clear()
        killing = asyncio.ensure_future(process.api.kill(invocation_id))
        await until(lambda: leaked)
        bench.store.gate.set()
        await killing
        await bench.records(process, resolution(leaked[0], b"1"))
        [letter] = bench.store.tables.dead_letters.values()
        assert (letter.code, letter.awakeable_id) == ("unknown", leaked[0])
