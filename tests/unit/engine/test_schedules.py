"""Schedules while processes evaluate them: each tick once, whatever sleeps, crashes or is deployed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from awakeables import (
    App,
    Context,
    ObjectContext,
    Schedule,
    Service,
    VirtualObject,
    Workflow,
)
from awakeables.core.commands import Fire, PlaceSchedules
from awakeables.core.instances import Instance
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Input
from awakeables.core.schedules import ScheduleRow
from awakeables.engine.dueticks import MOST_MISSED, DueTicks, due_ticks
from awakeables.errors import NotFound, NotPossible
from awakeables.testing.bench import Bench, Process, pass_time, until

NAME = "reports.run"
MINUTE_MS = 60_000
MINUTE = timedelta(minutes=1)

Ran = list[datetime | None]


def an_app(*schedules: Schedule, ran: Ran | None = None, wait_s: float = 0.0, **others: Schedule) -> App:
    """An app whose handler notes its ticks, and then waits."""
    service = Service("reports")

    async def run(ctx: Context) -> None:
        if ran is not None:
            ran.append(ctx.request.scheduled_at)
        if wait_s:
            await ctx.sleep(timedelta(seconds=wait_s))

    if schedules:
        service.handler("run", schedule=schedules)(run)
    for name, schedule in others.items():
        service.handler(name, schedule=schedule)(run)
    if not service.handlers:
        service.handler("run")(run)
    return App("shop", services=[service])


def rows(bench: Bench) -> list[Invocation]:
    return sorted(bench.store.tables.invocations.values(), key=lambda row: row.id)


def row(bench: Bench, name: str = NAME) -> ScheduleRow:
    return bench.store.tables.schedules[name]


async def placed(bench: Bench, name: str = NAME) -> ScheduleRow:
    await until(lambda: name in bench.store.tables.schedules, "it is placed")
    return row(bench, name)


async def ticks_of(bench: Bench) -> list[int]:
    """The ticks that have begun something, in order."""
    inputs = [(await bench.journal(each.id))[0] for each in rows(bench)]
    assert all(isinstance(each, Input) for each in inputs)
    return sorted(each.scheduled_ms or 0 for each in inputs if isinstance(each, Input))


def counted(process: Process, outcome: str, name: str = NAME) -> float:
    found = process.engine.metrics.registry.get_sample_value(
        "awakeables_schedule_total", {"schedule": name, "outcome": outcome}
    )
    return found or 0.0


def blocked(process: Process, name: str = NAME) -> float | None:
    return process.engine.metrics.registry.get_sample_value("awakeables_schedule_blocked", {"schedule": name})


async def test_each_tick_begins_the_handler_once() -> None:
    bench, ran = Bench(), Ran()
    async with bench.running(an_app(Schedule.every(MINUTE), ran=ran)) as process:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep(600)
        ticks = [first_ms + n * MINUTE_MS for n in range(10)]
        assert await ticks_of(bench) == ticks
        assert ran == [datetime.fromtimestamp(tick / 1000, UTC) for tick in ticks]
        assert counted(process, "begun") == 10
        late = [each.created_ms - tick for each, tick in zip(rows(bench), ticks, strict=True)]
        assert max(late) < 100, "there is a timer at the tick"
        assert {each.status for each in rows(bench)} == {"completed"}


async def test_a_new_schedule_begins_with_the_first_tick_after_the_start() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule("0 6 * * *", timezone="Europe/Berlin"))):
        tick = datetime.fromtimestamp((await placed(bench)).next_ms / 1000, UTC)
        assert tick > datetime.fromtimestamp(bench.clock.now_ms() / 1000, UTC)
        assert rows(bench) == []


async def test_it_goes_on_after_a_restart_where_it_was() -> None:
    bench = Bench()
    app = an_app(Schedule.every(MINUTE))
    async with bench.running(app):
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep(150)
    async with bench.running(app):
        await asyncio.sleep(150)
    ticks = await ticks_of(bench)
    assert ticks == [first_ms + n * MINUTE_MS for n in range(len(ticks))]
    assert len(ticks) in (4, 5)


@pytest.mark.parametrize(
    ("missed", "begun", "counted_missed"), [("once", 1, 14), ("skip", 0, 15), ("all", 15, 0)]
)
async def test_what_was_missed_while_the_host_slept(missed: Any, begun: int, counted_missed: int) -> None:
    """78 minutes; ticks each five minutes, the last one 3 minutes before it wakes up."""
    bench = Bench()
    schedule = Schedule.every(5 * MINUTE, missed=missed, overlap="allow")
    async with bench.running(an_app(schedule)) as process:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep((first_ms - bench.clock.now_ms()) / 1000 + 1)
        assert await ticks_of(bench) == [first_ms]
        await pass_time(78 * 60 - 2)
        await asyncio.sleep(1)
        slept_over = [first_ms + n * 5 * MINUTE_MS for n in range(1, 16)]
        assert await ticks_of(bench) == [first_ms, *(slept_over[-begun:] if begun else [])]
        assert counted(process, "missed") == counted_missed
        assert row(bench).next_ms == first_ms + 16 * 5 * MINUTE_MS
        await asyncio.sleep(300)
        assert (await ticks_of(bench))[-1] == first_ms + 16 * 5 * MINUTE_MS, "and it goes on"


async def test_what_was_missed_while_no_instance_ran() -> None:
    bench = Bench()
    app = an_app(Schedule.every(5 * MINUTE))
    async with bench.running(app):
        first_ms = (await placed(bench)).next_ms
    await pass_time((first_ms - bench.clock.now_ms()) / 1000 + 78 * 60)
    async with bench.running(app) as process:
        await asyncio.sleep(1)
        assert await ticks_of(bench) == [first_ms + 15 * 5 * MINUTE_MS]
        assert counted(process, "missed") == 15


async def test_with_skip_a_tick_is_left_out_while_the_last_one_runs() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE), wait_s=150)) as process:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep(10 * 60)
        ticks = await ticks_of(bench)
        assert [(tick - first_ms) // MINUTE_MS for tick in ticks] == [0, 3, 6, 9][: len(ticks)]
        assert counted(process, "begun") == len(ticks)
        assert counted(process, "skipped_overlap") == 10 - len(ticks)


async def test_with_queue_one_tick_waits_and_begins_when_the_last_one_ends() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE, overlap="queue"), wait_s=130)) as process:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep((first_ms - bench.clock.now_ms()) / 1000 + 9 * 60 + 1)
        ticks = await ticks_of(bench)
        # The first tick after each beginning waits; the second one is skipped.
        assert [(tick - first_ms) // MINUTE_MS for tick in ticks] == [0, 1, 3, 5, 7]
        began = [(each.created_ms - first_ms) / 1000 for each in rows(bench)]
        assert began == pytest.approx([0, 130, 260, 390, 520], abs=1)
        assert counted(process, "begun") == 5
        assert counted(process, "queued") == 5
        assert counted(process, "skipped_queue") == 4


async def test_with_allow_ticks_run_beside_each_other() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE, overlap="allow"), wait_s=150)):
        await placed(bench)
        await asyncio.sleep(5 * 60 + 1)
        assert len(rows(bench)) == 5
        assert sum(each.status != "completed" for each in rows(bench)) == 3


async def test_an_instance_that_drains_leaves_ticks_to_the_next_one() -> None:
    bench = Bench()
    app = an_app(Schedule.every(timedelta(seconds=10)))
    async with bench.running(app) as process:
        await placed(bench)
        await process.engine.drain(timedelta(seconds=1))
        next_ms = row(bench).next_ms
        await asyncio.sleep(25)
        assert row(bench).next_ms == next_ms
    count = len(rows(bench))
    async with bench.running(app):
        await asyncio.sleep(1)
        assert len(rows(bench)) > count


@pytest.mark.parametrize("lost", ["lose_before", "lose_after"])
async def test_a_commit_that_fails_or_whose_answer_is_lost_begins_once(lost: str) -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE))) as process:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep((first_ms - bench.clock.now_ms()) / 1000 - 0.3)
        await until(lambda: process.engine.committer.idle)
        await asyncio.sleep((first_ms - bench.clock.now_ms()) / 1000 - 0.001)
        setattr(bench.store, lost, 2)
        await asyncio.sleep(121)
        assert await ticks_of(bench) == [first_ms + n * MINUTE_MS for n in range(3)]
        assert counted(process, "begun") == 3


async def test_a_crash_between_the_mark_and_the_begin_loses_nothing() -> None:
    """Both are one commit: what was not committed is evaluated by the next process."""
    bench = Bench()
    app = an_app(Schedule.every(MINUTE))
    async with bench.running(app):
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep((first_ms - bench.clock.now_ms()) / 1000 - 0.5)
        bench.store.gate.clear()
        await asyncio.sleep(1)
        assert row(bench).next_ms == first_ms
    bench.store.gate.set()
    async with bench.running(app):
        await asyncio.sleep(1)
        assert await ticks_of(bench) == [first_ms]
        assert row(bench).next_ms == first_ms + MINUTE_MS


async def test_two_instances_begin_each_tick_once() -> None:
    bench = Bench(shared=True)
    app = an_app(Schedule.every(timedelta(seconds=1)))
    async with bench.running(app) as one, bench.running(app) as other:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep(300)
        ticks = await ticks_of(bench)
        assert ticks == [first_ms + n * 1000 for n in range(len(ticks))]
        assert len(ticks) >= 299
        assert counted(one, "begun") + counted(other, "begun") == len(ticks)


async def test_one_instance_goes_on_when_the_other_one_dies() -> None:
    bench = Bench(shared=True)
    app = an_app(Schedule.every(MINUTE))
    async with bench.running(app):
        async with bench.running(app):
            first_ms = (await placed(bench)).next_ms
            await asyncio.sleep(61)
        await asyncio.sleep(300)
        ticks = await ticks_of(bench)
        assert ticks == [first_ms + n * MINUTE_MS for n in range(len(ticks))]
        assert len(ticks) >= 5


async def test_h8_1_a_clock_that_goes_back_repeats_no_tick() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE))) as process:
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep((first_ms - bench.clock.now_ms()) / 1000 + 1)
        clock: Any = process.engine.schedules
        real = clock._clock

        class SetBack:
            def now_ms(self) -> int:
                return int(real.now_ms()) - 10 * MINUTE_MS

            def monotonic(self) -> float:
                return float(real.monotonic())

        clock._clock = SetBack()
        await asyncio.sleep(9 * 60)
        assert await ticks_of(bench) == [first_ms]
        await asyncio.sleep(3 * 60)
        assert await ticks_of(bench) == [first_ms, first_ms + MINUTE_MS, first_ms + 2 * MINUTE_MS]


async def test_h8_2_several_schedules_of_a_handler_go_their_own_ways() -> None:
    bench = Bench()
    app = an_app(Schedule.every(MINUTE), Schedule.every(5 * MINUTE, name="slow"))
    async with bench.running(app):
        await placed(bench, "slow")
        await asyncio.sleep(600)
        assert len(rows(bench)) == 12
        assert row(bench, "slow").last_invocation != row(bench).last_invocation


async def test_a_changed_schedule_begins_from_now_on() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(timedelta(days=30)))):
        first_ms = (await placed(bench)).next_ms
    await pass_time(2 * 86_400)
    async with bench.running(an_app(Schedule.every(5 * MINUTE))):
        await until(lambda: row(bench).next_ms != first_ms)
        assert row(bench).next_ms - bench.clock.now_ms() <= 5 * MINUTE_MS
        assert rows(bench) == []


async def test_a_schedule_that_is_removed_from_the_code_is_deleted() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE), Schedule.every(MINUTE, name="other"))):
        await placed(bench, "other")
        await asyncio.sleep(61)
    assert len(rows(bench)) == 2
    async with bench.running(an_app(Schedule.every(MINUTE))):
        await until(lambda: "other" not in bench.store.tables.schedules)
    async with bench.running(an_app()):
        await until(lambda: not bench.store.tables.schedules)
    assert len(rows(bench)) == 2


async def test_an_app_without_schedules_writes_and_reads_nothing_of_them() -> None:
    bench = Bench()
    reads = []
    schedules = bench.store.schedules

    async def noted() -> Any:
        reads.append(1)
        return await schedules()

    bench.store.schedules = noted  # type: ignore[method-assign]
    async with bench.running(an_app()):
        await asyncio.sleep(600)
    assert bench.store.members(PlaceSchedules) == []
    assert len(reads) == 1, "at the start"


async def test_h8_3_while_a_newer_build_lives_its_schedule_holds() -> None:
    bench = Bench(shared=True)
    older, newer = an_app(Schedule.every(MINUTE)), an_app(Schedule.every(2 * MINUTE))
    async with bench.running(older):
        spec = (await placed(bench)).spec_json
        await asyncio.sleep(1)
        async with bench.running(newer):
            await until(lambda: row(bench).spec_json != spec, "the newer one has written it")
            written = row(bench)
            count = len(rows(bench))
            await asyncio.sleep(600)
            assert row(bench).declared == written.declared
            assert len(rows(bench)) - count == 5, "only the newer one evaluates it"
        await until(lambda: row(bench).spec_json == spec, "the newer one is gone: a rollback")
        count = len(rows(bench))
        await asyncio.sleep(300)
        assert len(rows(bench)) - count == 5


async def test_h8_3_an_older_build_that_starts_later_writes_nothing() -> None:
    bench = Bench(shared=True)
    older, newer = an_app(Schedule.every(MINUTE)), an_app(Schedule.every(2 * MINUTE, name="new"))
    membership: Any = bench.store.membership
    async with bench.running(older):
        await placed(bench)
    await membership.register(Instance(id="own_old", build="1"))
    await asyncio.sleep(5)
    async with bench.running(newer):
        await until(lambda: list(bench.store.tables.schedules) == ["new"])
        bench._processes = 0  # the same build as the first one, which was there before
        await membership.beat("own_old", timeout_ms=10**9)
        async with bench.running(older):
            await asyncio.sleep(60)
            assert list(bench.store.tables.schedules) == ["new"]


async def test_h8_3_a_late_write_of_an_older_build_is_put_right() -> None:
    bench = Bench(shared=True)
    app = an_app(Schedule.every(MINUTE))
    async with bench.running(app):
        declared = (await placed(bench)).declared
        await bench.store.commit([PlaceSchedules(schedules=(), removed=(NAME,), since_ms=0, newest=True)])
        await placed(bench)
        assert row(bench).declared == declared


async def test_h8_4_each_tick_of_a_workflow_has_a_run_of_its_own() -> None:
    nightly = Workflow("nightly")
    keys: list[str] = []

    @nightly.run(schedule=Schedule.every(MINUTE, key="all"))
    async def run(ctx: ObjectContext) -> None:
        keys.append(ctx.key)

    bench = Bench()
    async with bench.running(App("shop", services=[nightly])):
        first_ms = (await placed(bench, "nightly.run")).next_ms
        await asyncio.sleep(121)
        first = datetime.fromtimestamp(first_ms / 1000, UTC)
        assert keys == [f"all/{first + n * MINUTE:%Y-%m-%dT%H:%M:%SZ}" for n in range(2)]


async def test_ticks_of_an_object_run_one_after_the_other() -> None:
    carts = VirtualObject("carts")
    at_work: list[int] = []

    @carts.handler(schedule=Schedule.every(MINUTE, key="all", overlap="allow", missed="all"))
    async def clean(ctx: ObjectContext) -> None:
        at_work.append(len([each for each in rows(bench) if each.status == "running"]))
        await ctx.sleep(timedelta(seconds=100))

    bench = Bench()
    async with bench.running(App("shop", services=[carts])):
        await placed(bench, "carts.clean")
        await asyncio.sleep(10 * 60)
        assert at_work == [1] * len(at_work)
        assert {each.key for each in rows(bench)} == {"all"}
        assert len(rows(bench)) == 10


async def test_h8_6_a_schedule_whose_last_invocation_is_paused_is_blocked() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE), wait_s=5)) as process:
        await placed(bench)
        assert blocked(process) == 0
        await until(lambda: rows(bench))
        await process.api.pause(rows(bench)[0].id)
        await until(lambda: rows(bench)[0].status == "paused")
        await asyncio.sleep(180)
        assert len(rows(bench)) == 1
        assert blocked(process) == 1
        (shown,) = await process.api.schedules()
        assert (shown.is_blocked, shown.last_status) == (True, "paused")
        await process.api.kill(rows(bench)[0].id)
        await asyncio.sleep(61)
        assert blocked(process) == 0
        assert len(rows(bench)) == 2


async def test_a_pause_by_another_instance_is_seen_soon() -> None:
    bench = Bench(shared=True)
    app = an_app(Schedule.every(timedelta(seconds=10)))
    async with bench.running(app) as one, bench.running(app) as other:
        await placed(bench)
        await asyncio.sleep(25)
        shown = await one.api.pause_schedule(NAME)
        assert shown.paused_ms is not None
        count = len(rows(bench))
        await asyncio.sleep(60)
        assert len(rows(bench)) == count
        shown = await other.api.resume_schedule(NAME)
        assert shown.paused_ms is None
        assert shown.next_ms[0] - bench.clock.now_ms() <= 10_000
        await asyncio.sleep(30)
        assert len(rows(bench)) == count + 3
        assert counted(one, "missed") == counted(other, "missed") == 0


async def test_a_schedule_is_triggered_by_hand() -> None:
    bench, ran = Bench(), Ran()
    async with bench.running(an_app(Schedule("0 6 1 1 *"), ran=ran, wait_s=30)) as process:
        next_ms = (await placed(bench)).next_ms
        began = await process.api.trigger_schedule(NAME, by="ann")
        assert began == rows(bench)[0].id
        await until(lambda: ran)
        assert ran[0] is not None
        assert abs(ran[0].timestamp() * 1000 - bench.clock.now_ms()) < 1000
        assert row(bench).next_ms == next_ms
        assert [(act.act, act.by) for act in rows(bench)[0].acts] == [("begin", "ann")]
        with pytest.raises(NotPossible, match=rf"the last invocation of '{NAME}', {began}, is open"):
            await process.api.trigger_schedule(NAME)
        assert len(rows(bench)) == 1


async def test_what_is_triggered_waits_if_the_schedule_queues() -> None:
    bench = Bench()
    app = an_app(Schedule("0 6 1 1 *", overlap="queue"), wait_s=30)
    async with bench.running(app) as process:
        await placed(bench)
        assert await process.api.trigger_schedule(NAME) is not None
        assert await process.api.trigger_schedule(NAME) is None
        await asyncio.sleep(1)
        with pytest.raises(NotPossible, match="a tick waits for its end already"):
            await process.api.trigger_schedule(NAME)
        await asyncio.sleep(31)
        assert [each.status for each in rows(bench)] == ["completed", "suspended"]


async def test_what_the_code_does_not_declare_is_shown_and_not_triggered() -> None:
    bench = Bench(shared=True)
    async with bench.running(an_app(Schedule.every(MINUTE))) as older:
        await placed(bench)
        await asyncio.sleep(1)
        async with bench.running(an_app(Schedule("0 6 * * *", name="new"))) as newer:
            await until(lambda: list(bench.store.tables.schedules) == ["new"])
            for process, declared in ((older, False), (newer, True)):
                (shown,) = await process.api.schedules()
                assert (shown.name, shown.is_declared) == ("new", declared)
                assert shown.schedule == Schedule("0 6 * * *")
                assert len(shown.next_ms) == 3
            with pytest.raises(NotPossible, match="does not declare the schedule 'new'"):
                await older.api.trigger_schedule("new")
            assert (await older.api.pause_schedule("new")).paused_ms is not None
            assert (await older.api.resume_schedule("new")).paused_ms is None


async def test_a_name_that_is_no_schedule_is_not_found() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE))) as process:
        await placed(bench)
        acts: list[Callable[[str], Awaitable[object]]] = [
            process.api.pause_schedule,
            process.api.resume_schedule,
            process.api.trigger_schedule,
        ]
        for act in acts:
            with pytest.raises(NotFound, match=r"no schedule 'reports/run'; there are: reports\.run"):
                await act("reports/run")


async def test_a_spec_that_this_release_can_not_read_is_shown() -> None:
    bench = Bench()
    async with bench.running(an_app(Schedule.every(MINUTE))) as process:
        await placed(bench)
        bench.store.tables.schedules["odd"] = ScheduleRow("odd", "s", "h", b"?", 0, 1)
        shown = {each.name: each for each in await process.api.schedules()}["odd"]
        assert (shown.schedule, shown.is_declared, list(shown.next_ms)) == (None, False, [1])
        with pytest.raises(NotPossible, match="a newer release wrote the schedule 'odd'"):
            await process.api.resume_schedule("odd")


async def test_a_schedule_that_can_not_be_written_does_not_stop_the_others() -> None:
    bench = Bench()
    app = an_app(a=Schedule.every(MINUTE), b=Schedule.every(MINUTE))
    async with bench.running(app):
        await placed(bench, "reports.b")
        bench.store.refuses = lambda member: isinstance(member, Fire) and member.schedule == "reports.a"
        await asyncio.sleep(121)
        assert {each.handler for each in rows(bench)} == {"b"}
        assert len(rows(bench)) == 2
        bench.store.refuses = lambda _member: False
        await asyncio.sleep(61)
        assert {each.handler for each in rows(bench)} == {"a", "b"}


async def test_an_outage_of_the_store_delays_ticks_and_loses_none() -> None:
    bench = Bench()
    schedule = Schedule.every(timedelta(seconds=20), overlap="allow")
    async with bench.running(an_app(schedule)):
        first_ms = (await placed(bench)).next_ms
        await asyncio.sleep(21)
        bench.store.down = True
        await asyncio.sleep(45)
        bench.store.down = False
        await asyncio.sleep(60)
        ticks = await ticks_of(bench)
        assert ticks == [first_ms + n * 20_000 for n in range(len(ticks))]
        assert len(ticks) >= 5


# Which ticks are due, by themselves.

NOON_MS = round(datetime(2026, 5, 4, 12, tzinfo=UTC).timestamp() * 1000)


def due(schedule: Schedule, next_ms: int, late_s: float) -> DueTicks:
    return due_ticks(schedule, next_ms, next_ms + round(late_s * 1000))


@pytest.mark.parametrize("missed", ["once", "skip"])
def test_a_tick_is_missed_after_a_minute(missed: Any) -> None:
    schedule = Schedule("0 12 * * *", missed=missed)
    in_time = due(schedule, NOON_MS, 60)
    assert (in_time.ticks, in_time.missed) == ([NOON_MS], 0)
    late = due(schedule, NOON_MS, 60.001)
    assert (list(late.ticks), late.missed) == (([NOON_MS], 0) if missed == "once" else ([], 1))
    assert in_time.following_ms == late.following_ms == NOON_MS + 86_400_000


def test_a_tick_in_time_stands_for_those_before_it() -> None:
    schedule = Schedule.every(5 * MINUTE)
    found = due(schedule, NOON_MS, 78 * 60 + 130)
    assert (found.ticks, found.missed) == ([NOON_MS + 16 * 5 * MINUTE_MS], 16)


def test_what_is_too_old_is_not_begun() -> None:
    schedule = Schedule.every(MINUTE, missed="all", overlap="allow", within=timedelta(minutes=10))
    found = due(schedule, NOON_MS, 60 * 60)
    assert found.ticks == [NOON_MS + n * MINUTE_MS for n in range(50, 61)]
    assert found.missed == 50


@pytest.mark.parametrize("cron", ["* * * * *", "*/10 1-4 * * *"])
def test_of_very_many_missed_ticks_the_last_thousand_are_begun(cron: str) -> None:
    schedule = Schedule(
        cron, timezone="Europe/Berlin", missed="all", overlap="allow", within=timedelta(days=10_000)
    )
    first_ms = schedule.following(NOON_MS)
    late_s = 400 * 86_400
    found = due(schedule, first_ms, late_s)
    late = [tick for tick in found.ticks if tick < first_ms + late_s * 1000 - MINUTE_MS]
    assert len(late) == MOST_MISSED
    assert [schedule.following(tick) for tick in late[:-1]] == late[1:], "without a hole"
    assert schedule.following(found.ticks[-1]) == found.following_ms
    once = due(Schedule(cron, timezone="Europe/Berlin"), first_ms, late_s)
    assert once.ticks[-1] == found.ticks[-1]


def test_of_an_interval_of_a_second_each_of_the_last_minute_is_in_time() -> None:
    found = due(Schedule.every(timedelta(seconds=1)), NOON_MS, 3600)
    assert len(found.ticks) == 61
    assert found.missed == MOST_MISSED
    assert found.following_ms == NOON_MS + 3_601_000
