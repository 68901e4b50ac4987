"""Calling an invocation off: the mark, its awakeables, and who runs it next (hard case 12)."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.commands import Cancel, Claim, NewAwakeable
from awakeables.core.invocations import CANCELLED, BackOff, End, Failure, Invocation, Pause, at_once
from awakeables.core.journal import AwakeableCreated, encode_chunk
from awakeables.core.outcomes import Cancellation, Resolution
from awakeables.core.replies import Advanced, Begun, CancelMarked, Claimed, Fenced
from contract.driver import Driver, resolved

CANCELLED_OUTCOME = Cancellation(reason=CANCELLED)


async def cancel(driver: Driver, invocation_id: str) -> CancelMarked:
    return await driver.do(CancelMarked, Cancel(invocation_id=invocation_id))


async def running_with(driver: Driver, *ids: str) -> Invocation:
    """A running invocation whose journal tells of these awakeables, as a real one's does."""
    order = driver.a_begin(owner="me")
    await driver.do(Begun, order)
    row = await driver.invocation(order.id)
    chunk = encode_chunk([AwakeableCreated(id=key) for key in ids])
    advance = driver.an_advance(row, chunk=chunk, awakeables=[NewAwakeable(id=key) for key in ids])
    return (await driver.do(Advanced, advance)).invocation


async def test_a_running_invocation_is_marked_and_woken(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    asked = await cancel(driver, row.id)
    assert asked.accepted
    assert asked.invocation == await driver.invocation(row.id)
    found = await driver.invocation(row.id)
    assert (found.status, found.owner, found.wake, found.cancelled_ms) == (
        "running",
        "me",
        1,
        driver.clock.ms,
    )


async def test_the_mark_leaves_its_awakeables_alone(driver: Driver) -> None:
    """Only the owner knows what its handler still waits for, and journals the cancellation with it."""
    row = await running_with(driver, pending := driver.id("prom"))
    await cancel(driver, row.id)
    assert (await driver.awakeable(pending)).state == "pending"
    assert (await driver.verdict(resolved(pending))).kind == "accepted"


async def test_the_owner_cancels_what_is_pending_in_the_commit_that_journals_it(driver: Driver) -> None:
    pending, settled = driver.id("prom"), driver.id("prom")
    row = await running_with(driver, pending, settled)
    await cancel(driver, row.id)
    await driver.settle(resolved(settled))
    row = await driver.invocation(row.id)
    order = replace(driver.an_advance(row), cancels=(pending, settled, driver.id("prom")))
    for _ in range(2):  # the second time its acknowledgement was lost
        assert (await driver.do(Advanced, order)).settled == ((pending, CANCELLED_OUTCOME),)
    assert (await driver.awakeable(pending)).outcome == CANCELLED_OUTCOME
    assert (await driver.awakeable(settled)).state == "resolved"
    verdict = await driver.verdict(resolved(pending, source="t:0:9"))
    assert verdict.kind == "late"


async def test_what_is_created_in_that_commit_or_afterwards_is_not_touched(driver: Driver) -> None:
    row = await running_with(driver, first := driver.id("prom"))
    await cancel(driver, row.id)
    later = driver.id("prom")
    order = replace(driver.an_advance(row, awakeables=[NewAwakeable(id=later)]), cancels=(first,))
    assert (await driver.do(Advanced, order)).settled == ((first, CANCELLED_OUTCOME),)
    await cancel(driver, row.id)
    assert (await driver.awakeable(later)).state == "pending"


async def test_a_stale_owner_calls_nothing_off(driver: Driver) -> None:
    row = await running_with(driver, pending := driver.id("prom"))
    await driver.do(Fenced, replace(driver.an_advance(row), cancels=(pending,), epoch=0))
    assert (await driver.awakeable(pending)).state == "pending"


async def test_a_suspended_invocation_becomes_runnable(driver: Driver) -> None:
    row, _ = await driver.waiting()
    driver.clock.ms += 5
    asked = (await cancel(driver, row.id)).invocation
    assert asked is not None
    assert (asked.status, asked.due_ms, asked.wake) == ("pending", at_once(driver.clock.ms), row.wake + 1)
    [claimed] = (await driver.do(Claimed, Claim(owner="me", limit=1))).invocations
    assert claimed.cancelled_ms == driver.clock.ms


async def test_what_backs_off_or_is_paused_runs_again_to_get_the_cancellation(driver: Driver) -> None:
    failure = Failure(kind="k", message="m", at_ms=1)
    for step in (BackOff(due_ms=driver.clock.ms + 10**6, failure=failure), Pause(failure=failure)):
        row = await driver.begin(owner="me")
        await driver.advance(row, step)
        asked = (await cancel(driver, row.id)).invocation
        assert asked is not None
        assert (asked.status, asked.due_ms, asked.starts) == ("pending", at_once(driver.clock.ms), 0)


async def test_what_never_ran_ends_at_once(driver: Driver) -> None:
    row = await driver.begin(delay_ms=10**6)
    asked = (await cancel(driver, row.id)).invocation
    assert asked is not None
    assert (asked.status, asked.result, asked.due_ms) == ("completed", CANCELLED_OUTCOME, None)
    driver.clock.ms += 10**7
    assert await driver.claim() == []


async def test_a_second_cancel_changes_nothing(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    first = await cancel(driver, row.id)
    driver.clock.ms += 5
    assert await cancel(driver, row.id) == first


async def test_a_second_cancel_lets_run_what_was_paused_since_and_marks_nothing_again(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    marked = (await cancel(driver, row.id)).invocation
    await driver.advance(row, Pause(failure=Failure(kind="k", message="m", at_ms=1)))
    driver.clock.ms += 5
    asked = (await cancel(driver, row.id)).invocation
    assert asked is not None
    assert marked is not None
    assert (asked.status, asked.due_ms) == ("pending", at_once(driver.clock.ms))
    assert (asked.cancelled_ms, asked.wake) == (marked.cancelled_ms, marked.wake)
    assert (await cancel(driver, row.id)).invocation == asked


async def test_what_ended_by_its_cancellation_gets_the_same_reply_again(driver: Driver) -> None:
    row = await driver.begin(delay_ms=10**6)
    first = await cancel(driver, row.id)
    driver.clock.ms += 5
    assert await cancel(driver, row.id) == first


async def test_what_has_ended_can_not_be_cancelled(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me"))
    assert await cancel(driver, row.id) == CancelMarked(invocation=row, accepted=False)
    assert await driver.invocation(row.id) == row


async def test_one_that_does_not_exist_gets_that_reply(driver: Driver) -> None:
    assert await cancel(driver, driver.id("inv")) == CancelMarked(invocation=None, accepted=False)


async def test_the_owner_goes_on_and_ends_it(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    await cancel(driver, row.id)
    ended = await driver.advance(row, End(result=CANCELLED_OUTCOME))
    assert (ended.status, ended.result) == ("completed", CANCELLED_OUTCOME)
    assert ended.cancelled_ms is not None


async def test_a_result_that_is_not_a_cancellation_is_kept(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    await cancel(driver, row.id)
    assert (await driver.end(row)).result == Resolution.of_json(b"1")
