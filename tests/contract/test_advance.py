"""The owner's commit, its fences, and what suspending and ending mean."""

from __future__ import annotations

import msgspec
import pytest

from awakeables.core.commands import Advance, NewAwakeable, Release, TakeOver
from awakeables.core.invocations import BackOff, Continue, End, Failure, Pause, Suspend, at_once
from awakeables.core.journal import ClockRead, encode_chunk
from awakeables.core.outcomes import Cancellation, Resolution
from awakeables.core.replies import Advanced, Begun, Fenced, Released
from contract.driver import START_MS, Driver, resolved


async def test_an_advance_appends_to_the_journal_and_moves_the_row(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    driver.clock.ms += 7
    after = await driver.advance(row)
    assert (after.version, after.build, after.updated_ms) == (2, "b2", START_MS + 7)
    assert await driver.invocation(row.id) == after


async def test_history_is_the_entries_of_all_chunks_in_order(driver: Driver) -> None:
    rows = [await driver.begin(owner="me") for _ in range(2)]
    for at_ms in range(12):
        for place, row in enumerate(rows):
            order = driver.an_advance(
                row, chunk=encode_chunk([ClockRead(at_ms=at_ms), ClockRead(at_ms=-place)])
            )
            rows[place] = (await driver.do(Advanced, order)).invocation
    histories = await driver.store.history([rows[1].id, driver.id("inv"), rows[0].id])
    assert histories.keys() == {row.id for row in rows}
    for place, row in enumerate(rows):
        told = [entry.at_ms for entry in histories[row.id][1:] if isinstance(entry, ClockRead)]
        assert told == [number for at_ms in range(12) for number in (at_ms, -place)]


@pytest.mark.impossible_rows
async def test_an_advance_without_a_chunk_leaves_the_version(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    after = (await driver.do(Advanced, driver.an_advance(row, Suspend(wake=0), chunk=None))).invocation
    assert after.version == row.version
    assert len((await driver.store.history([row.id]))[row.id]) == 1


@pytest.mark.parametrize(
    "stale", [{"owner": "you"}, {"epoch": 0}, {"epoch": 2}, {"version": 0}, {"version": 2}]
)
async def test_a_stale_owner_changes_nothing(driver: Driver, stale: dict[str, object]) -> None:
    row = await driver.begin(owner="me")
    order = driver.an_advance(
        row, awakeables=[NewAwakeable(id=driver.id("prom"))], effects=[driver.an_effect(row.id)]
    )
    await driver.do(Fenced, msgspec.structs.replace(order, **stale))
    assert await driver.invocation(row.id) == row
    assert await driver.store.awakeable(order.awakeables[0].id) is None
    assert await driver.effects("unsent", 10) == []
    assert len((await driver.store.history([row.id]))[row.id]) == 1


async def test_an_owner_that_was_released_is_fenced(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    await driver.do(Released, Release(owner="me", ids=(row.id,)))
    await driver.do(Fenced, driver.an_advance(row))
    (again,) = await driver.claim("me")
    await driver.do(Fenced, driver.an_advance(row))
    await driver.do(Advanced, driver.an_advance(again))


@pytest.mark.parametrize("counts", [0, 1])
async def test_a_commit_that_grows_the_journal_resets_the_count_of_attempts_unless_it_says_so(
    driver: Driver, counts: int
) -> None:
    failure = Failure(kind="k", message="m", at_ms=1, tries={3: 1})
    row = await driver.begin(owner="me")
    await driver.do(Advanced, driver.an_advance(row, BackOff(due_ms=1, failure=failure), chunk=None))
    (row,) = await driver.claim("me")
    assert (row.attempts, row.failure) == (1, failure)
    grows = msgspec.structs.replace(driver.an_advance(row), attempts=counts)
    after = (await driver.do(Advanced, grows)).invocation
    assert (after.attempts, after.version) == (counts, row.version + 1)


async def test_an_advance_of_an_invocation_that_is_not_there_is_fenced(driver: Driver) -> None:
    row = msgspec.structs.replace(await driver.begin(owner="me"), id=driver.id("inv"))
    await driver.do(Fenced, driver.an_advance(row))


async def test_a_fenced_member_leaves_the_others_of_its_commit(driver: Driver) -> None:
    one, other = await driver.begin(owner="me"), await driver.begin(owner="me")
    await driver.advance(one)
    stale, good, new = driver.an_advance(one), driver.an_advance(other), driver.a_begin()
    answers = await driver.store.commit([stale, good, new])
    assert [type(answer) for answer in answers] == [Fenced, Advanced, Begun]
    assert (await driver.invocation(other.id)).version == 2
    assert await driver.store.invocation(new.id) is not None


@pytest.mark.parametrize(
    "step",
    [
        Continue(),
        Suspend(wake=0),
        BackOff(due_ms=1, failure=Failure(kind="k", message="m", at_ms=1)),
        Pause(failure=Failure(kind="k", message="m", at_ms=1)),
        End(result=Resolution.of_json(b"2")),
    ],
)
@pytest.mark.parametrize("chunk", [b"[]", None])
@pytest.mark.impossible_rows
async def test_a_commit_whose_acknowledgement_was_lost_is_answered_as_the_first_time(
    driver: Driver, step: Continue | Suspend | BackOff | Pause | End, chunk: bytes | None
) -> None:
    row = await driver.begin(owner="me")
    awakeable = NewAwakeable(id=driver.id("prom"), timeout_ms=500)
    order = driver.an_advance(
        row,
        step,
        chunk=chunk,
        awakeables=[awakeable],
        effects=[driver.an_effect(row.id, task_for=awakeable.id)],
    )
    first = await driver.do(Advanced, order)
    assert await driver.do(Advanced, order) == first
    assert await driver.invocation(row.id) == first.invocation
    assert len(await driver.effects("unsent", 10)) == 1


@pytest.mark.impossible_rows
async def test_a_repeated_commit_does_not_reset_what_was_settled_since(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    order = driver.an_advance(row, chunk=None, awakeables=[NewAwakeable(id=driver.id("prom"))])
    await driver.do(Advanced, order)
    await driver.settle(resolved(order.awakeables[0].id))
    await driver.do(Advanced, order)
    assert (await driver.awakeable(order.awakeables[0].id)).state == "resolved"


async def test_a_repeated_commit_after_another_owners_is_fenced(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    order = driver.an_advance(row)
    await driver.do(Advanced, order)
    await driver.do(Released, TakeOver(owner="you"))
    (theirs,) = await driver.claim("you")
    await driver.advance(theirs)
    await driver.do(Fenced, order)


@pytest.mark.impossible_rows
async def test_begin_and_advance_go_together_in_one_commit(driver: Driver) -> None:
    begin = driver.a_begin(owner="me")
    advance = Advance(
        invocation_id=begin.id,
        owner="me",
        epoch=1,
        version=1,
        number=1,
        build="b",
        next=Suspend(wake=0),
        chunk=encode_chunk([ClockRead(at_ms=1)]),
    )
    _, answer = await driver.store.commit([begin, advance])
    assert isinstance(answer, Advanced)
    assert await driver.invocation(begin.id) == answer.invocation
    assert len((await driver.store.history([begin.id]))[begin.id]) == 2


async def test_an_awakeables_deadline_is_the_stores_clock_and_its_time_out(driver: Driver) -> None:
    driver.clock.ms += 3
    with_end, without = NewAwakeable(id=driver.id("prom"), timeout_ms=100), NewAwakeable(id=driver.id("prom"))
    row, _ = await driver.running_with(with_end, without)
    found = await driver.awakeable(with_end.id)
    assert (found.deadline_ms, found.created_ms, found.invocation_id, found.state) == (
        driver.clock.ms + 100,
        driver.clock.ms,
        row.id,
        "pending",
    )
    assert (await driver.awakeable(without.id)).deadline_ms is None


async def test_a_task_has_the_deadline_of_its_awakeable(driver: Driver) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom"), timeout_ms=100))
    answer = await driver.do(
        Advanced, driver.an_advance(row, effects=[driver.an_effect(row.id, task_for=awakeable_id)])
    )
    (effect,) = await driver.effects("unsent", 10)
    assert answer.effects == (effect,)
    assert effect.task is not None
    assert effect.task.deadline_ms == START_MS + 100


async def test_a_suspended_invocation_is_not_claimed(driver: Driver) -> None:
    row, _ = await driver.waiting()
    assert (row.status, row.owner, row.due_ms) == ("suspended", None, None)
    assert await driver.claim() == []


async def test_a_wake_makes_a_suspended_invocation_runnable(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    answer = await driver.settle(resolved(awakeable_id))
    assert [(wake.invocation_id, wake.wake, wake.awakeable_id) for wake in answer.wakes] == [
        (row.id, 1, awakeable_id)
    ]
    woken = await driver.invocation(row.id)
    assert (woken.status, woken.wake, woken.due_ms) == ("pending", 1, at_once(START_MS))
    assert [claimed.id for claimed in await driver.claim()] == [row.id]


async def test_suspending_with_an_unseen_wake_stays_runnable(driver: Driver) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.settle(resolved(awakeable_id))
    after = await driver.advance(row, Suspend(wake=0))
    assert (after.status, after.wake, after.due_ms) == ("pending", 1, at_once(START_MS))
    assert len(await driver.claim()) == 1


@pytest.mark.impossible_rows
async def test_suspending_with_every_wake_seen_suspends(driver: Driver) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.settle(resolved(awakeable_id))
    assert (await driver.advance(row, Suspend(wake=1))).status == "suspended"


async def test_a_wake_does_not_make_the_owners_commit_stale(driver: Driver) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.settle(resolved(awakeable_id))
    after = await driver.advance(row)
    assert (after.status, after.wake) == ("running", 1)


async def test_ending_cancels_abandoned_awakeables_and_later_completions_are_late(driver: Driver) -> None:
    row, (done, pending) = await driver.running_with(*(NewAwakeable(id=driver.id("prom")) for _ in range(2)))
    await driver.settle(resolved(done))
    ended = await driver.end(row, done, pending, driver.id("prom"))
    assert (ended.status, ended.owner, ended.result) == ("completed", None, Resolution.of_json(b"1"))
    assert (await driver.awakeable(done)).state == "resolved"
    cancelled = await driver.awakeable(pending)
    assert (cancelled.state, cancelled.settled_ms) == ("cancelled", START_MS)
    assert isinstance(cancelled.outcome, Cancellation)
    verdict = await driver.verdict(resolved(pending, source="t:0:2"))
    assert (verdict.kind, verdict.outcome) == ("late", cancelled.outcome)
    assert await driver.claim() == []


async def test_a_completed_invocation_is_not_woken(driver: Driver) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.end(row)
    await driver.settle(resolved(awakeable_id))
    after = await driver.invocation(row.id)
    assert (after.status, after.wake, after.due_ms) == ("completed", 1, None)


async def test_an_ending_in_the_commit_that_created_its_awakeable_cancels_it(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    awakeable = NewAwakeable(id=driver.id("prom"))
    step = End(result=Resolution.of_json(b"1"), abandoned=(awakeable.id,))
    await driver.do(Advanced, driver.an_advance(row, step, awakeables=[awakeable]))
    assert (await driver.awakeable(awakeable.id)).state == "cancelled"
