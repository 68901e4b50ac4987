"""Pausing an invocation, or marking one that can't be paused yet; beginning one again under another ID."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from awakeables.core.acts import Act
from awakeables.core.commands import (
    Cancel,
    Kill,
    NewAwakeable,
    PauseInvocation,
    PauseKey,
    Queue,
    Release,
    ReplayDry,
    Restart,
    Resume,
    ResumeKey,
    TakeOver,
    TakeTickets,
)
from awakeables.core.invocations import (
    BY_OPERATOR,
    CANCELLED_OUTCOME,
    KILLED,
    BackOff,
    Continue,
    End,
    Failure,
    Invocation,
    Next,
    Pause,
    Suspend,
    at_once,
)
from awakeables.core.journal import Input, encode_chunk
from awakeables.core.objects import DELAYED
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import (
    Advanced,
    Begun,
    CancelMarked,
    DryReplayed,
    Fenced,
    KeyChanged,
    Killed,
    PauseMarked,
    Released,
    Restarted,
    Resumed,
)
from contract.driver import START_MS, Driver, resolved

FAILURE = Failure(kind="k", message="m", at_ms=1)
CART = ("orders", b"c-7")


async def pause(driver: Driver, invocation_id: str, *, by: str | None = None) -> Invocation:
    """Ask for a pause that is accepted; return the row, which is as the reply says."""
    reply = await driver.do(PauseMarked, PauseInvocation(invocation_id=invocation_id, by=by))
    row = await driver.invocation(invocation_id)
    assert reply == PauseMarked(invocation=row, accepted=True)
    return row


async def resume(driver: Driver, invocation_id: str) -> Invocation:
    reply = await driver.do(Resumed, Resume(invocation_id=invocation_id))
    row = await driver.invocation(invocation_id)
    assert reply == Resumed(invocation=row, accepted=True)
    return row


async def cancel(driver: Driver, invocation_id: str) -> Invocation:
    reply = await driver.do(CancelMarked, Cancel(invocation_id=invocation_id))
    row = await driver.invocation(invocation_id)
    assert (reply.invocation, reply.accepted) == (row, True)
    return row


async def marked(driver: Driver) -> Invocation:
    """A running invocation that is to be paused."""
    return await pause(driver, (await driver.begin(owner="me")).id)


async def is_paused(driver: Driver, invocation_id: str) -> Invocation:
    """By an operator, just now: nobody has it, it isn't due, and its mark is gone."""
    row = await driver.invocation(invocation_id)
    assert row.failure is not None
    assert (row.status, row.failure.kind, row.failure.at_ms) == ("paused", BY_OPERATOR, driver.clock.ms)
    assert (row.owner, row.due_ms, row.pausing_ms) == (None, None, None)
    assert row.updated_ms == driver.clock.ms
    assert await driver.claim("nobody") == []
    return row


async def enter(driver: Driver, **options: Any) -> Invocation:
    return await driver.begin(key="c-7", queue=Queue(), **options)


async def run(driver: Driver, expected: str) -> Invocation:
    """Claim all that may run, which is one."""
    [row] = await driver.claim()
    assert row.id == expected
    return row


def a_restart(driver: Driver, row: Invocation, *, by: str | None = None) -> Restart:
    given = Input(
        service=row.service, handler=row.handler, seed="5eed", at_ms=START_MS, restart_of=row.id, kept=0
    )
    chunk = encode_chunk([given])
    id_ = driver.id("inv")
    return Restart(invocation_id=row.id, id=id_, chunk=chunk, version=row.version, build="b9", by=by)


# ── pausing ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("delay_ms", [0, 10**6])
async def test_one_that_never_ran_is_paused_at_once_until_it_is_resumed(
    driver: Driver, delay_ms: int
) -> None:
    row = await driver.begin(delay_ms=delay_ms)
    driver.clock.ms += 5
    assert await pause(driver, row.id) == await is_paused(driver, row.id)
    driver.clock.ms += 10**7
    assert await driver.claim() == []
    assert (await resume(driver, row.id)).due_ms == at_once(driver.clock.ms)
    assert (await run(driver, row.id)).epoch == 1


@pytest.mark.parametrize("step", [Suspend(wake=0, due_ms=START_MS + 50), BackOff(START_MS + 50, FAILURE)])
async def test_one_that_waits_or_backs_off_is_paused_at_once(driver: Driver, step: Next) -> None:
    row = await driver.advance(await driver.begin(owner="me"), step)
    driver.clock.ms += 5
    await pause(driver, row.id)
    assert (await is_paused(driver, row.id)).attempts == row.attempts
    driver.clock.ms += 100
    assert await driver.claim() == []
    assert (await resume(driver, row.id)).attempts == 0
    await run(driver, row.id)


async def test_what_comes_for_a_paused_one_is_kept_until_it_is_resumed(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    await pause(driver, row.id)
    assert (await driver.verdict(resolved(awakeable_id))).kind == "accepted"
    assert (await is_paused(driver, row.id)).wake == row.wake + 1
    await resume(driver, row.id)
    assert (await run(driver, row.id)).wake == row.wake + 1
    assert (await driver.awakeable(awakeable_id)).state == "resolved"


async def test_one_that_was_woken_and_not_claimed_yet_is_paused(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    await driver.settle(resolved(awakeable_id))
    await pause(driver, row.id)
    await is_paused(driver, row.id)


async def test_one_that_runs_is_marked_and_paused_where_it_would_wait(driver: Driver) -> None:
    before = await driver.begin(owner="me")
    driver.clock.ms += 5
    row = await pause(driver, before.id)
    assert row == replace(before, pausing_ms=driver.clock.ms, updated_ms=driver.clock.ms)
    driver.clock.ms += 5
    row = await driver.advance(row, Continue())
    assert (row.status, row.owner, row.pausing_ms) == ("running", "me", driver.clock.ms - 5)
    await driver.advance(row, Suspend(wake=0, due_ms=driver.clock.ms + 5))
    paused = await is_paused(driver, row.id)
    assert (paused.version, paused.epoch) == (row.version + 1, 1)
    driver.clock.ms += 5
    await resume(driver, row.id)
    assert (await run(driver, row.id)).epoch == 2


@pytest.mark.parametrize("step", [Suspend(wake=0), BackOff(10**15, FAILURE)])
async def test_a_marked_one_is_paused_by_a_failure_and_although_it_was_woken(
    driver: Driver, step: Next
) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await pause(driver, row.id)
    await driver.settle(resolved(awakeable_id))
    advanced = await driver.do(Advanced, driver.an_advance(row, step, chunk=None))
    assert advanced.invocation == await is_paused(driver, row.id)
    assert (advanced.invocation.wake, advanced.invocation.attempts) == (1, 0)


async def test_a_marked_one_that_ends_first_has_ended(driver: Driver) -> None:
    row = await driver.end(await marked(driver))
    assert (row.status, row.result, row.pausing_ms) == ("completed", Resolution.of_json(b"1"), None)


async def test_a_marked_one_that_is_paused_by_its_owner_keeps_the_owner_s_reason(driver: Driver) -> None:
    row = await driver.advance(await marked(driver), Pause(failure=FAILURE))
    assert (row.status, row.failure, row.pausing_ms) == ("paused", FAILURE, None)


async def test_a_second_pause_gets_the_same_reply_and_changes_nothing(driver: Driver) -> None:
    for row in (await driver.begin(), await driver.begin(owner="me")):
        first = await pause(driver, row.id, by="ann")
        driver.clock.ms += 5
        assert await pause(driver, row.id, by="bob") == first
        assert first.acts == (Act(act="pause", by="ann", at_ms=driver.clock.ms - 5),)


async def test_one_that_was_paused_otherwise_is_left_as_it_is(driver: Driver) -> None:
    row = await driver.advance(await driver.begin(owner="me"), Pause(failure=FAILURE))
    assert await pause(driver, row.id) == row


async def test_one_that_has_ended_or_does_not_exist_gets_that_reply(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me"))
    command = PauseInvocation(invocation_id=row.id, by="ann")
    assert await driver.do(PauseMarked, command) == PauseMarked(invocation=row, accepted=False)
    assert await driver.invocation(row.id) == row
    nobody = PauseInvocation(invocation_id=driver.id("inv"))
    assert await driver.do(PauseMarked, nobody) == PauseMarked(invocation=None, accepted=False)


async def test_a_mark_is_taken_back_by_a_resume(driver: Driver) -> None:
    row = await marked(driver)
    driver.clock.ms += 5
    resumed = await resume(driver, row.id)
    assert resumed == replace(row, pausing_ms=None, updated_ms=driver.clock.ms)
    again = await driver.do(Resumed, Resume(invocation_id=row.id))
    assert again == Resumed(invocation=resumed, accepted=False)
    step = Suspend(wake=0, due_ms=driver.clock.ms + 5)
    assert (await driver.advance(resumed, step)).status == "suspended"


async def test_a_marked_one_that_is_released_is_paused(driver: Driver) -> None:
    row, other = await marked(driver), await driver.begin(owner="me")
    driver.clock.ms += 5
    release = Release(owner="me", ids=(row.id, other.id))
    assert await driver.do(Released, release) == Released(count=2)
    assert (await driver.invocation(other.id)).status == "pending"
    await run(driver, other.id)
    await is_paused(driver, row.id)
    await driver.do(Fenced, driver.an_advance(row))


async def test_a_marked_one_whose_owner_is_dead_is_paused(driver: Driver) -> None:
    row, other = await marked(driver), await driver.begin(owner="me")
    driver.clock.ms += 5
    assert await driver.do(Released, TakeOver(owner="you")) == Released(count=2)
    await run(driver, other.id)
    assert (await is_paused(driver, row.id)).starts == row.starts
    await resume(driver, row.id)
    assert (await run(driver, row.id)).starts == 1


async def test_a_dry_replay_leaves_the_mark_and_the_pause(driver: Driver) -> None:
    running, waiting = await marked(driver), await pause(driver, (await driver.begin()).id)
    for row in (running, waiting):
        await driver.do(DryReplayed, ReplayDry(invocation_id=row.id, ends=False))
        await driver.do(DryReplayed, ReplayDry(invocation_id=row.id, ends=True))
        assert await driver.invocation(row.id) == row


async def test_a_cancel_of_a_marked_one_takes_the_mark_back_and_may_be_followed_by_another(
    driver: Driver,
) -> None:
    row = await marked(driver)
    driver.clock.ms += 5
    cancelled = await cancel(driver, row.id)
    assert (cancelled.status, cancelled.pausing_ms) == ("running", None)
    assert (cancelled.cancelled_ms, cancelled.wake) == (driver.clock.ms, 1)
    again = await pause(driver, row.id)
    assert await cancel(driver, row.id) == again
    await driver.advance(again, Suspend(wake=1))
    await is_paused(driver, row.id)
    assert (await cancel(driver, row.id)).status == "pending"
    assert (await run(driver, row.id)).cancelled_ms == driver.clock.ms


async def test_a_cancel_of_a_paused_one_lets_it_run_or_ends_it_if_it_never_ran(driver: Driver) -> None:
    row, _ = await driver.waiting()
    await pause(driver, row.id)
    assert (await cancel(driver, row.id)).status == "pending"
    never = await pause(driver, (await driver.begin()).id)
    assert (await cancel(driver, never.id)).result == CANCELLED_OUTCOME
    await run(driver, row.id)


async def test_a_kill_of_a_marked_one_ends_it(driver: Driver) -> None:
    row = await marked(driver)
    killed = await driver.do(Killed, Kill(invocation_id=row.id))
    assert killed.invocation is not None
    assert (killed.invocation.result, killed.invocation.pausing_ms) == (KILLED, None)
    assert await driver.invocation(row.id) == killed.invocation


# ── exclusive ones ──────────────────────────────────────────────────────────────────────────


async def test_a_queued_one_is_marked_and_paused_when_its_turn_comes(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(3)]
    waits = await pause(driver, rows[1].id)
    assert (waits.status, waits.pausing_ms) == ("queued", driver.clock.ms)
    driver.clock.ms += 5
    await driver.end(await run(driver, rows[0].id))
    await is_paused(driver, rows[1].id)
    held = await driver.store.queue(CART)
    assert held is not None
    assert (held.head, held.length) == (rows[1].id, 2)
    await resume(driver, rows[1].id)
    await driver.end(await run(driver, rows[1].id))
    await run(driver, rows[2].id)


async def test_a_queued_one_that_is_resumed_or_cancelled_has_no_mark_any_more(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(3)]
    for row in rows[1:]:
        await pause(driver, row.id)
    resumed = await resume(driver, rows[1].id)
    assert (resumed.status, resumed.pausing_ms, resumed.due_ms) == ("queued", None, None)
    cancelled = await cancel(driver, rows[2].id)
    assert (cancelled.result, cancelled.pausing_ms) == (CANCELLED_OUTCOME, None)
    await driver.end(await run(driver, rows[0].id))
    await driver.end(await run(driver, rows[1].id))
    assert await driver.store.queue(CART) is None


async def test_the_pause_of_one_that_has_the_turn_outlives_a_pause_of_its_key(driver: Driver) -> None:
    row = await enter(driver)
    await pause(driver, row.id)
    await driver.do(KeyChanged, PauseKey(service="orders", key="c-7"))
    queued = await driver.invocation(row.id)
    assert (queued.status, queued.pausing_ms) == ("queued", driver.clock.ms)
    driver.clock.ms += 5
    await driver.do(KeyChanged, ResumeKey(service="orders", key="c-7"))
    await is_paused(driver, row.id)
    await resume(driver, row.id)
    await run(driver, row.id)


async def test_a_delayed_one_that_is_paused_takes_its_place_once_it_is_resumed(driver: Driver) -> None:
    late = await enter(driver, delay_ms=100)
    await pause(driver, late.id)
    driver.clock.ms += 200
    head = await enter(driver)
    await driver.store.commit([TakeTickets(ids=(late.id,))])
    assert (await driver.invocation(late.id)).ticket == DELAYED
    await resume(driver, late.id)
    await driver.store.commit([TakeTickets(ids=(late.id,))])
    row = await driver.invocation(late.id)
    assert (row.status, row.ticket) == ("queued", 2)
    await driver.end(await run(driver, head.id))
    await run(driver, late.id)


# ── restarting ──────────────────────────────────────────────────────────────────────────────


async def test_one_that_has_ended_begins_again_under_another_id(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me", key="ß\x00"))
    driver.clock.ms += 5
    command = a_restart(driver, row, by="ann")
    reply = await driver.do(Restarted, command)
    old, new = await driver.invocation(row.id), await driver.invocation(command.id)
    assert reply == Restarted(invocation=old, done=True)
    act = Act(act="restart", by="ann", at_ms=driver.clock.ms, into=new.id)
    assert old.acts == (act,)
    assert replace(old, acts_json=None) == row
    assert new == Invocation(
        command.id,
        row.service,
        row.handler,
        driver.clock.ms,
        driver.clock.ms,
        key_utf8=row.key_utf8,
        due_ms=at_once(driver.clock.ms),
        build="b9",
        acts_json=new.acts_json,
    )
    assert new.acts == (Act(act="restart", by="ann", at_ms=driver.clock.ms),)
    [given] = (await driver.store.history([new.id]))[new.id]
    assert isinstance(given, Input)
    assert given.restart_of == row.id
    assert (await driver.end(await run(driver, new.id))).status == "completed"


async def test_it_belongs_to_whom_the_older_one_belongs_to(driver: Driver) -> None:
    begin = replace(driver.a_begin(), by="shop")
    await driver.do(Begun, begin)
    row = await pause(driver, begin.id, by="ann")
    driver.clock.ms += 5
    command = a_restart(driver, row, by="bob")
    await driver.do(Restarted, command)
    new = await driver.invocation(command.id)
    assert new.acts == (row.acts[0], Act(act="restart", by="bob", at_ms=driver.clock.ms))
    assert (row.acts[0].act, row.acts[0].by) == ("begin", "shop")


async def test_who_restarts_without_a_name_is_noted_since_it_says_into_what(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me"))
    command = a_restart(driver, row)
    await driver.do(Restarted, command)
    [act] = (await driver.invocation(row.id)).acts
    assert (act.act, act.by, act.into) == ("restart", "unknown", command.id)
    assert (await driver.invocation(command.id)).acts == ()


async def test_the_same_restart_again_gets_that_it_is_done_and_does_nothing(driver: Driver) -> None:
    ended = await driver.end(await driver.begin(owner="me"))
    for row in (ended, await pause(driver, (await driver.begin()).id)):
        command = a_restart(driver, row, by="ann")
        first, second = await driver.store.commit([command, command])
        assert isinstance(first, Restarted)
        assert second == Restarted(invocation=first.invocation, done=True)
        new = await run(driver, command.id)
        driver.clock.ms += 5
        assert await driver.do(Restarted, command) == second
        assert await driver.invocation(row.id) == first.invocation
        assert await driver.invocation(new.id) == new
        assert len((await driver.store.history([new.id]))[new.id]) == 1
        await driver.end(new)
        assert await driver.do(Restarted, command) == second
        assert await driver.claim() == []


async def test_one_that_has_ended_may_be_restarted_more_than_once(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me"))
    commands = [a_restart(driver, row) for _ in range(2)]
    for reply in await driver.store.commit(commands):
        assert isinstance(reply, Restarted)
        assert reply.done
    acts = (await driver.invocation(row.id)).acts
    assert [act.into for act in acts] == [command.id for command in commands]
    assert {each.id for each in await driver.claim()} == {command.id for command in commands}


async def test_an_open_one_is_not_restarted(driver: Driver) -> None:
    suspended, _ = await driver.waiting()
    backing_off = await driver.advance(await driver.begin(owner="me"), BackOff(10**15, FAILURE))
    queued = [await enter(driver) for _ in range(2)][1]
    others = (await driver.begin(), await driver.begin(owner="me"), await marked(driver))
    for row in (suspended, backing_off, queued, *others):
        command = a_restart(driver, row, by="ann")
        assert await driver.do(Restarted, command) == Restarted(invocation=row, done=False)
        assert await driver.invocation(row.id) == row
        assert await driver.store.invocation(command.id) is None
        assert await driver.store.history([command.id]) == {}


async def test_one_that_has_changed_or_does_not_exist_is_not_restarted(driver: Driver) -> None:
    paused = await driver.advance(await driver.begin(owner="me"), Pause(failure=FAILURE))
    for row in (paused, await driver.end(await driver.begin(owner="me"))):
        command = replace(a_restart(driver, row, by="ann"), version=row.version - 1)
        assert await driver.do(Restarted, command) == Restarted(invocation=row, done=False)
        assert await driver.invocation(row.id) == row
        assert await driver.store.invocation(command.id) is None
    nobody = replace(a_restart(driver, paused), invocation_id=driver.id("inv"))
    assert await driver.do(Restarted, nobody) == Restarted(invocation=None, done=False)
    assert await driver.store.invocation(nobody.id) is None


async def test_a_paused_one_is_killed_with_its_calls_and_who_waits_for_it_is_told(driver: Driver) -> None:
    onlooker = await driver.begin(owner="onlooker")
    call = driver.a_call(onlooker)
    looks = driver.a_wait(call.id)
    await driver.do(Advanced, driver.an_advance(onlooker, awakeables=[looks], calls=[call]))
    [row] = await driver.claim()
    below = [driver.a_call(row) for _ in range(2)]
    sent = driver.a_call(row)
    waits = [driver.a_wait(each.id) for each in below]
    pending, settled = (NewAwakeable(id=driver.id("prom")) for _ in range(2))
    step = driver.an_advance(row, awakeables=[*waits, pending, settled], calls=[*below, sent])
    row = (await driver.do(Advanced, step)).invocation
    await driver.settle(resolved(settled.id))
    callees = {each.id: each for each in await driver.claim("callee")}
    await pause(driver, row.id)
    row = await driver.advance(await driver.invocation(row.id), Suspend(wake=1))
    await is_paused(driver, row.id)
    driver.clock.ms += 5
    command = a_restart(driver, row, by="ann")
    reply = await driver.do(Restarted, command)
    old = await driver.invocation(row.id)
    assert (reply.invocation, reply.done) == (old, True)
    assert (old.status, old.result, old.ended_ms) == ("completed", KILLED, driver.clock.ms)
    assert [(act.act, act.into) for act in old.acts] == [("restart", command.id)]
    assert sorted(each.id for each in reply.stopped) == sorted(each.id for each in below)
    for each in below:
        assert (await driver.invocation(each.id)).result == KILLED
        await driver.do(Fenced, driver.an_advance(callees[each.id], chunk=None))
    assert (await driver.invocation(sent.id)).status == "running"
    states = [(await driver.awakeable(key.id)).state for key in (*waits, pending, settled)]
    assert states == ["cancelled", "cancelled", "cancelled", "resolved"]
    [wake] = reply.wakes
    assert (wake.invocation_id, wake.awakeable_id, wake.outcome) == (onlooker.id, looks.id, KILLED)
    assert (await driver.invocation(onlooker.id)).wake == 1
    new = await run(driver, command.id)
    assert (new.service, new.awaited) == (row.service, False)
    again = await driver.do(Restarted, command)
    assert (again.done, again.stopped, again.wakes) == (True, (), ())
    assert (await driver.invocation(onlooker.id)).wake == 1


async def test_an_exclusive_one_that_has_ended_takes_a_new_ticket(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(3)]
    row = await driver.end(await run(driver, rows[0].id))
    command = a_restart(driver, row)
    assert (await driver.do(Restarted, command)).done
    new = await driver.invocation(command.id)
    assert (new.key, new.status, new.ticket, new.due_ms) == ("c-7", "queued", 4, None)
    for each in (rows[1], rows[2], new):
        await driver.end(await run(driver, each.id))
    assert await driver.store.queue(CART) is None
    # Nobody holds the key any more.
    alone = a_restart(driver, await driver.invocation(new.id))
    await driver.do(Restarted, alone)
    assert (await run(driver, alone.id)).ticket == 1
    held = await driver.store.queue(CART)
    assert held is not None
    assert (held.head, held.length) == (alone.id, 1)


@pytest.mark.parametrize("behind", [0, 1, 2])
async def test_a_paused_one_passes_its_key_on_and_waits_at_the_end_of_its_queue(
    driver: Driver, behind: int
) -> None:
    head, *others = [await enter(driver) for _ in range(1 + behind)]
    row = await driver.advance(await run(driver, head.id), Pause(failure=FAILURE))
    command = a_restart(driver, row)
    await driver.do(Restarted, command)
    for each in (*others, await driver.invocation(command.id)):
        held = await driver.store.queue(CART)
        assert held is not None
        assert held.head == each.id
        await driver.end(await run(driver, each.id))
    assert await driver.store.queue(CART) is None


async def test_a_restart_of_one_of_a_paused_key_waits_for_it(driver: Driver) -> None:
    row = await driver.end(await run(driver, (await enter(driver)).id))
    await driver.do(KeyChanged, PauseKey(service="orders", key="c-7"))
    command = a_restart(driver, row)
    await driver.do(Restarted, command)
    assert (await driver.invocation(command.id)).status == "queued"
    assert await driver.claim() == []
    await driver.do(KeyChanged, ResumeKey(service="orders", key="c-7"))
    await run(driver, command.id)


async def test_a_delayed_one_that_was_paused_is_restarted_without_its_delay(driver: Driver) -> None:
    late = await pause(driver, (await enter(driver, delay_ms=10**6)).id)
    command = a_restart(driver, late)
    await driver.do(Restarted, command)
    assert (await run(driver, command.id)).ticket == 1
    held = await driver.store.queue(CART)
    assert held is not None
    assert held.length == 1


async def test_a_group_pauses_restarts_and_ends_what_it_has_begun(driver: Driver) -> None:
    """Each decision sees what those before it have changed and not written yet."""
    begins = [driver.a_begin(key="c-7", queue=Queue()) for _ in range(3)]
    first, second, third = begins
    command = a_restart(driver, Invocation(first.id, "orders", "fulfil", START_MS, START_MS))
    replies = await driver.store.commit(
        [
            *begins,
            PauseInvocation(invocation_id=first.id),
            PauseInvocation(invocation_id=second.id),
            command,
            Kill(invocation_id=second.id),
            Kill(invocation_id=third.id),
        ]
    )
    assert isinstance(replies[5], Restarted)
    assert replies[5].done
    assert (await driver.invocation(second.id)).result == KILLED
    new = await run(driver, command.id)
    assert new.ticket == 4
    end = driver.an_advance(new, End(result=Resolution.of_json(b"1")), chunk=None)
    *_, restarted = await driver.store.commit([end, a_restart(driver, new)])
    assert isinstance(restarted, Restarted)
    assert restarted.done
    held = await driver.store.queue(CART)
    assert held is not None
    assert held.length == 1
