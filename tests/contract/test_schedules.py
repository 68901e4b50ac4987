"""Schedules: ticks move a row and begin invocations in one commit; overlaps; builds; pauses."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from awakeables.core.commands import (
    BeginQueued,
    Cancel,
    Fire,
    Idempotency,
    NewAwakeable,
    NewSchedule,
    OfWorkflow,
    PauseSchedule,
    PlaceSchedules,
    Purge,
    Queue,
    Tick,
    Trigger,
)
from awakeables.core.commands import Ended as EndedInvocation
from awakeables.core.ids import promise_id
from awakeables.core.invocations import Failure, Pause
from awakeables.core.journal import PromiseCreated, encode_chunk
from awakeables.core.replies import Acknowledged, CancelMarked, Fenced, Fired, Purged, ScheduleChanged
from awakeables.core.schedules import Declaration, ListedSchedule, Overlap, ScheduleRow
from awakeables.ports import Page
from contract.driver import START_MS, Driver

NAME = "orders.fulfil"
SPEC: Declaration = ("orders", "fulfil", b'{"cron":"* * * * *","input":"\\u0000"}')
NEWER: Declaration = ("orders", "fulfil", b"{}")
MINUTE_MS = 60_000
FIRST_MS = START_MS + MINUTE_MS


def new(
    name: str = NAME, declared: Declaration = SPEC, next_ms: int = FIRST_MS, read_ms: int | None = None
) -> NewSchedule:
    return NewSchedule(name=name, declared=declared, next_ms=next_ms, read_ms=read_ms)


async def place(
    driver: Driver,
    *schedules: NewSchedule,
    since_ms: int = 1,
    removed: tuple[str, ...] = (),
    newest: bool = False,
) -> None:
    command = PlaceSchedules(
        schedules=schedules or (new(),), removed=removed, since_ms=since_ms, newest=newest
    )
    await driver.do(Acknowledged, command)


async def row_of(driver: Driver, name: str = NAME) -> ScheduleRow:
    return (await listed(driver, name)).row


async def listed(driver: Driver, name: str = NAME) -> ListedSchedule:
    (found,) = [each for each in await driver.store.schedules() if each.row.name == name]
    return found


def a_tick(driver: Driver, number: int = 0, *, key: str | None = None) -> Tick:
    queue = None if key is None else Queue()
    return Tick(at_ms=FIRST_MS + number * MINUTE_MS, begin=driver.a_begin(key=key, queue=queue))


def a_fire(
    driver: Driver, number: int = 0, *ticks: Tick, overlap: Overlap = "skip", declared: Declaration = SPEC
) -> Fire:
    """Evaluate the tick of this number, and those after it that are given."""
    some = ticks or (a_tick(driver, number),)
    return Fire(
        schedule=NAME,
        declared=declared,
        overlap=overlap,
        next_ms=FIRST_MS + number * MINUTE_MS,
        following_ms=FIRST_MS + (number + len(some)) * MINUTE_MS,
        ticks=some,
    )


async def end(driver: Driver, invocation_id: str) -> None:
    """Run an invocation to its end."""
    (row,) = [row for row in await driver.claim() if row.id == invocation_id]
    await driver.end(row)


async def test_a_tick_begins_an_invocation_and_moves_the_schedule(driver: Driver) -> None:
    await place(driver)
    fire = a_fire(driver)
    fired = await driver.do(Fired, fire)
    assert fired == Fired(begun=(fire.ticks[0].begin.id,))
    found = await listed(driver)
    assert found.row == ScheduleRow(
        NAME, *SPEC, since_ms=1, next_ms=FIRST_MS + MINUTE_MS, last_invocation=fired.begun[0]
    )
    assert found.last_status == "pending"
    assert [row.id for row in await driver.claim()] == list(fired.begun)


async def test_a_tick_is_evaluated_once(driver: Driver) -> None:
    await place(driver)
    await driver.do(Fired, a_fire(driver))
    await driver.do(Fenced, a_fire(driver))
    assert len(await driver.store.invocations(Page())) == 1


async def test_a_command_that_is_sent_again_has_its_first_reply(driver: Driver) -> None:
    await place(driver)
    fire = a_fire(driver)
    assert await driver.do(Fired, fire) == await driver.do(Fired, fire)
    assert len(await driver.store.invocations(Page())) == 1
    await driver.do(Fired, a_fire(driver, 1, overlap="allow"))
    await driver.do(Fenced, fire)


async def test_two_evaluations_in_one_commit_begin_once(driver: Driver) -> None:
    await place(driver)
    first, second = await driver.store.commit([a_fire(driver), a_fire(driver)])
    assert isinstance(first, Fired)
    assert second == Fenced()


async def test_a_tick_may_begin_nothing(driver: Driver) -> None:
    """All that was missed is skipped."""
    await place(driver)
    command = replace(a_fire(driver), ticks=(), following_ms=FIRST_MS + 78 * MINUTE_MS)
    assert await driver.do(Fired, command) == Fired()
    assert (await row_of(driver)).next_ms == FIRST_MS + 78 * MINUTE_MS
    assert await driver.store.invocations(Page()) == []


async def test_several_ticks_begin_in_order(driver: Driver) -> None:
    await place(driver)
    ticks = [a_tick(driver, number) for number in range(3)]
    fired = await driver.do(Fired, a_fire(driver, 0, *ticks, overlap="allow"))
    assert fired.begun == tuple(tick.begin.id for tick in ticks)
    assert (await row_of(driver)).last_invocation == fired.begun[-1]


async def test_of_several_ticks_the_first_one_is_open_for_the_others(driver: Driver) -> None:
    await place(driver)
    ticks = [a_tick(driver, number) for number in range(4)]
    fired = await driver.do(Fired, a_fire(driver, 0, *ticks, overlap="queue"))
    assert fired == Fired(begun=(ticks[0].begin.id,), queued=True, skipped_queue=2)
    assert (await row_of(driver)).queued_ms == ticks[1].at_ms


async def test_while_the_last_one_is_open_a_tick_is_skipped(driver: Driver) -> None:
    await place(driver)
    (first,) = (await driver.do(Fired, a_fire(driver))).begun
    assert await driver.do(Fired, a_fire(driver, 1)) == Fired(skipped=1)
    await end(driver, first)
    assert (await listed(driver)).is_free
    (third,) = (await driver.do(Fired, a_fire(driver, 2))).begun
    assert (await row_of(driver)).last_invocation == third


async def test_h8_6_a_paused_invocation_counts_as_open(driver: Driver) -> None:
    await place(driver)
    await driver.do(Fired, a_fire(driver))
    (row,) = await driver.claim()
    await driver.advance(row, Pause(failure=Failure(kind="E", message="m", at_ms=START_MS)))
    assert await driver.do(Fired, a_fire(driver, 1)) == Fired(skipped=1)
    found = await listed(driver)
    assert (found.last_status, found.is_free) == ("paused", False)
    await driver.do(CancelMarked, Cancel(invocation_id=row.id))
    assert not (await listed(driver)).is_free


async def test_an_invocation_that_was_deleted_is_not_open(driver: Driver) -> None:
    await place(driver)
    (first,) = (await driver.do(Fired, a_fire(driver))).begun
    await end(driver, first)
    purge = Purge(ended=(EndedInvocation(id=first),), before_ms=driver.clock.ms)
    assert (await driver.do(Purged, purge)).count == 1
    assert await listed(driver) == ListedSchedule(row=await row_of(driver), last_status=None)
    assert (await driver.do(Fired, a_fire(driver, 1))).begun


async def test_one_tick_waits_for_the_end_of_the_last_one(driver: Driver) -> None:
    await place(driver)
    (first,) = (await driver.do(Fired, a_fire(driver, overlap="queue"))).begun
    assert await driver.do(Fired, a_fire(driver, 1, overlap="queue")) == Fired(queued=True)
    assert await driver.do(Fired, a_fire(driver, 2, overlap="queue")) == Fired(skipped_queue=1)
    tick = a_tick(driver, 1)
    begin = BeginQueued(schedule=NAME, declared=SPEC, tick=tick)
    await driver.do(Fenced, begin)
    await end(driver, first)
    await driver.do(Fenced, replace(begin, tick=a_tick(driver, 2)))
    await driver.do(Fenced, replace(begin, declared=NEWER))
    assert await driver.do(Fired, begin) == Fired(begun=(tick.begin.id,))
    await driver.do(Fenced, begin)
    row = await row_of(driver)
    assert (row.last_invocation, row.queued_ms) == (tick.begin.id, None)


async def test_what_waits_begins_before_later_ticks(driver: Driver) -> None:
    await place(driver)
    (first,) = (await driver.do(Fired, a_fire(driver, overlap="queue"))).begun
    await driver.do(Fired, a_fire(driver, 1, overlap="queue"))
    await end(driver, first)
    assert await driver.do(Fired, a_fire(driver, 2, overlap="queue")) == Fired(skipped_queue=1)
    assert (await row_of(driver)).queued_ms == FIRST_MS + MINUTE_MS


async def test_ticks_may_overlap(driver: Driver) -> None:
    await place(driver)
    for number in range(3):
        assert (await driver.do(Fired, a_fire(driver, number, overlap="allow"))).begun
    assert len(await driver.claim()) == 3


async def test_a_tick_of_an_exclusive_handler_takes_its_place_in_the_queue_of_the_key(driver: Driver) -> None:
    await place(driver)
    ticks = [a_tick(driver, number, key="a") for number in range(2)]
    fired = await driver.do(Fired, a_fire(driver, 0, *ticks, overlap="allow"))
    rows = [await driver.invocation(key) for key in fired.begun]
    assert [(row.status, row.ticket) for row in rows] == [("pending", 1), ("queued", 2)]


async def test_a_tick_of_a_run_joins_the_run_that_its_key_has(driver: Driver) -> None:
    await place(driver)

    def of_run(number: int) -> Tick:
        tick, promise = a_tick(driver, number), promise_id("orders", "k", "done")
        begin = replace(
            tick.begin,
            key="k",
            chunk=encode_chunk([driver.an_input(), PromiseCreated(id=promise, name="done")]),
            idempotency=Idempotency(scope="run", key="k", fingerprint="f"),
            workflow=OfWorkflow(is_run=True, scope="run", promises=(NewAwakeable(id=promise),)),
        )
        return replace(tick, begin=begin)

    first = await driver.do(Fired, a_fire(driver, 0, of_run(0), overlap="allow"))
    second = await driver.do(Fired, a_fire(driver, 1, of_run(1), overlap="allow"))
    assert first.begun == second.begun
    assert len(await driver.store.invocations(Page())) == 1
    assert (await driver.awakeable(promise_id("orders", "k", "done"))).state == "pending"


async def test_a_schedule_that_is_there_keeps_its_next_tick(driver: Driver) -> None:
    await place(driver)
    await driver.do(Fired, a_fire(driver))
    before = await row_of(driver)
    await place(driver, new(next_ms=START_MS + 1), since_ms=5)
    assert await row_of(driver) == replace(before, since_ms=5)


async def test_a_changed_schedule_begins_anew_and_knows_its_last_invocation(driver: Driver) -> None:
    await place(driver)
    await driver.do(Fired, a_fire(driver, overlap="queue"))
    await driver.do(Fired, a_fire(driver, 1, overlap="queue"))
    before = await row_of(driver)
    assert before.queued_ms is not None
    await place(driver, new(declared=NEWER, next_ms=START_MS + 7, read_ms=before.next_ms), since_ms=1)
    after = await row_of(driver)
    assert after == replace(before, spec_json=NEWER[2], next_ms=START_MS + 7, queued_ms=None)
    await driver.do(Fenced, a_fire(driver, 2))


async def test_a_schedule_that_has_moved_since_it_was_read_is_left_alone(driver: Driver) -> None:
    """The tick that the new one would begin with may be the one that has just begun."""
    await place(driver)
    await driver.do(Fired, a_fire(driver))
    before = await row_of(driver)
    changed = new(declared=NEWER, next_ms=FIRST_MS, read_ms=FIRST_MS)
    await place(driver, changed, since_ms=2)
    assert await row_of(driver) == before
    await place(driver, replace(changed, read_ms=None), since_ms=2)
    assert await row_of(driver) == before
    await place(driver, replace(changed, next_ms=before.next_ms, read_ms=before.next_ms), since_ms=2)
    assert (await row_of(driver)).declared == NEWER
    await place(driver, new("gone", read_ms=FIRST_MS))
    assert [each.row.name for each in await driver.store.schedules()] == [NAME]


async def test_h8_3_the_schedule_of_the_newer_build_wins(driver: Driver) -> None:
    await place(driver, new(declared=NEWER), since_ms=10)
    await place(driver, new(), new("other"), since_ms=9, removed=(NAME,))
    assert (await row_of(driver)).declared == NEWER
    await driver.do(Fenced, a_fire(driver))
    assert (await driver.do(Fired, a_fire(driver, declared=NEWER))).begun
    # Once the newer one has gone for good, the older one is the newest.
    await place(driver, new(read_ms=(await row_of(driver)).next_ms), since_ms=9, newest=True)
    row = await row_of(driver)
    assert (row.declared, row.since_ms) == (SPEC, 9)


async def test_what_is_not_declared_any_more_is_deleted_and_its_invocations_stay(driver: Driver) -> None:
    await place(driver, new(), new("other"))
    (first,) = (await driver.do(Fired, a_fire(driver))).begun
    await place(driver, new("other"), removed=(NAME, "unknown"))
    assert [each.row.name for each in await driver.store.schedules()] == ["other"]
    assert (await driver.invocation(first)).status == "pending"
    await driver.do(Fenced, a_fire(driver, 1))
    await place(driver)
    assert (await row_of(driver)).last_invocation is None


async def test_a_paused_schedule_begins_nothing(driver: Driver) -> None:
    await place(driver)
    (first,) = (await driver.do(Fired, a_fire(driver, overlap="queue"))).begun
    await driver.do(Fired, a_fire(driver, 1, overlap="queue"))
    changed = await driver.do(ScheduleChanged, PauseSchedule(schedule=NAME, paused=True))
    assert changed.row is not None
    assert changed.row.paused_ms == driver.clock.ms
    driver.clock.ms += 1
    assert await driver.do(ScheduleChanged, PauseSchedule(schedule=NAME, paused=True)) == changed
    await driver.do(Fenced, a_fire(driver, 2, overlap="queue"))
    await end(driver, first)
    begin = BeginQueued(schedule=NAME, declared=SPEC, tick=a_tick(driver, 1))
    await driver.do(Fenced, begin)
    resume = PauseSchedule(schedule=NAME, paused=False, next_ms=FIRST_MS + 9 * MINUTE_MS)
    row = (await driver.do(ScheduleChanged, resume)).row
    assert row is not None
    assert (row.paused_ms, row.next_ms) == (None, FIRST_MS + 9 * MINUTE_MS)
    assert (await driver.do(Fired, begin)).begun
    later = replace(resume, next_ms=FIRST_MS + 12 * MINUTE_MS)
    assert (await driver.do(ScheduleChanged, later)).row == await row_of(driver)


async def test_h8_1_a_schedule_never_goes_back(driver: Driver) -> None:
    """The clock was set back before it was resumed."""
    await place(driver)
    await driver.do(Fired, a_fire(driver))
    await driver.do(ScheduleChanged, PauseSchedule(schedule=NAME, paused=True))
    resumed = await driver.do(ScheduleChanged, PauseSchedule(schedule=NAME, paused=False, next_ms=START_MS))
    assert resumed.row is not None
    assert resumed.row.next_ms == FIRST_MS + MINUTE_MS


async def test_what_is_not_there_can_not_be_paused_or_begun(driver: Driver) -> None:
    assert await driver.do(ScheduleChanged, PauseSchedule(schedule=NAME, paused=True)) == ScheduleChanged(
        row=None
    )
    await driver.do(Fenced, a_fire(driver))
    await driver.do(Fenced, BeginQueued(schedule=NAME, declared=SPEC, tick=a_tick(driver)))
    await driver.do(Fenced, Trigger(schedule=NAME, declared=SPEC, overlap="skip", tick=a_tick(driver)))
    assert await driver.store.schedules() == []


@pytest.mark.parametrize("paused", [False, True])
async def test_a_triggered_one_begins_at_once_and_moves_nothing(driver: Driver, paused: bool) -> None:
    await place(driver)
    if paused:
        await driver.do(ScheduleChanged, PauseSchedule(schedule=NAME, paused=True))
    trigger = Trigger(schedule=NAME, declared=SPEC, overlap="skip", tick=a_tick(driver))
    fired = await driver.do(Fired, trigger)
    assert fired.begun == (trigger.tick.begin.id,)
    assert await driver.do(Fired, trigger) == fired
    row = await row_of(driver)
    assert (row.next_ms, row.last_invocation) == (FIRST_MS, fired.begun[0])
    again = replace(trigger, tick=a_tick(driver))
    assert await driver.do(Fired, again) == Fired(skipped=1)
    queued = replace(trigger, overlap="queue", tick=a_tick(driver, 5))
    assert await driver.do(Fired, queued) == await driver.do(Fired, queued) == Fired(queued=True)
    await driver.do(Fenced, replace(trigger, declared=NEWER, tick=a_tick(driver)))


async def test_a_trigger_that_is_sent_again_after_another_gets_its_answer(driver: Driver) -> None:
    await place(driver)
    first, second = (
        Trigger(schedule=NAME, declared=SPEC, overlap="allow", tick=a_tick(driver)) for _ in range(2)
    )
    fired = await driver.do(Fired, first)
    await driver.do(Fired, second)
    for overlap in ("allow", "skip", "queue"):
        assert await driver.do(Fired, replace(first, overlap=overlap)) == fired
    assert (await row_of(driver)).last_invocation == second.tick.begin.id


async def test_schedules_are_listed_by_name(driver: Driver) -> None:
    await place(driver, new("b"), new("a"), new("c-é"))
    assert [each.row.name for each in await driver.store.schedules()] == ["a", "b", "c-é"]


async def test_two_instances_evaluate_thousands_of_ticks_once_each(driver: Driver) -> None:
    """Each of them tries each tick, at the same time."""
    await place(driver)
    count, begun = 2000, 0
    for number in range(0, count, 20):

        async def instance() -> list[str]:
            ids: list[str] = []
            for each in range(number, number + 20):  # noqa: B023
                (reply,) = await driver.store.commit([a_fire(driver, each, overlap="allow")])
                ids += reply.begun if isinstance(reply, Fired) else ()
            return ids

        found = await asyncio.gather(instance(), instance())
        begun += len({key for ids in found for key in ids})
    assert begun == count
    assert len(await driver.store.invocations(Page(limit=count + 1))) == count
    assert (await row_of(driver)).next_ms == FIRST_MS + count * MINUTE_MS
