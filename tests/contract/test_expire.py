"""Deadlines that come: the sweeper's side (O3, hard case 5)."""

from __future__ import annotations

from awakeables.core.commands import Expire
from awakeables.core.outcomes import Expiry
from awakeables.core.replies import Expired
from contract.driver import START_MS, Driver, resolved


async def test_what_is_overdue_times_out_and_wakes(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 99
    assert await driver.do(Expired, Expire(limit=10)) == Expired(wakes=())
    driver.clock.ms += 1
    (wake,) = (await driver.do(Expired, Expire(limit=10))).wakes
    assert (wake.invocation_id, wake.wake, wake.awakeable_id) == (row.id, 1, awakeable_id)
    assert wake.outcome == Expiry(deadline_ms=START_MS + 100)
    found = await driver.awakeable(awakeable_id)
    assert (found.state, found.outcome, found.settled_ms) == ("timed-out", wake.outcome, driver.clock.ms)
    assert (await driver.invocation(row.id)).status == "pending"


async def test_it_times_out_once(driver: Driver) -> None:
    await driver.waiting(timeout_ms=100)
    driver.clock.ms += 200
    assert len((await driver.do(Expired, Expire(limit=10))).wakes) == 1
    assert await driver.do(Expired, Expire(limit=10)) == Expired(wakes=())


async def test_the_oldest_deadlines_go_first_and_no_more_than_the_limit(driver: Driver) -> None:
    waiting = {timeout_ms: (await driver.waiting(timeout_ms=timeout_ms))[1] for timeout_ms in (300, 100, 200)}
    driver.clock.ms += 1000
    first = await driver.do(Expired, Expire(limit=2))
    assert [wake.awakeable_id for wake in first.wakes] == [waiting[100], waiting[200]]
    rest = await driver.do(Expired, Expire(limit=2))
    assert [wake.awakeable_id for wake in rest.wakes] == [waiting[300]]


async def test_a_horizon_that_is_held_back_expires_nothing_after_it(driver: Driver) -> None:
    _, early = await driver.waiting(timeout_ms=100)
    await driver.waiting(timeout_ms=101)
    driver.clock.ms += 5000
    answer = await driver.do(Expired, Expire(limit=10, held_back_to_ms=START_MS + 100))
    assert [wake.awakeable_id for wake in answer.wakes] == [early]


async def test_settled_and_endless_awakeables_do_not_expire(driver: Driver) -> None:
    await driver.waiting()
    _, settled = await driver.waiting(timeout_ms=100)
    await driver.settle(resolved(settled))
    driver.clock.ms += 10**9
    assert await driver.do(Expired, Expire(limit=10)) == Expired(wakes=())


async def test_a_settlement_earlier_in_the_same_commit_is_seen(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 100
    late = await driver.settle(resolved(awakeable_id))
    assert len(late.wakes) == 1
    answers = await driver.store.commit([Expire(limit=10), Expire(limit=10)])
    assert answers == [Expired(wakes=()), Expired(wakes=())]


async def test_several_awakeables_of_one_invocation_wake_it_several_times(driver: Driver) -> None:
    rows = [await driver.waiting(timeout_ms=10) for _ in range(3)]
    driver.clock.ms += 10
    answer = await driver.do(Expired, Expire(limit=10))
    assert sorted(wake.invocation_id for wake in answer.wakes) == sorted(row.id for row, _ in rows)


async def test_a_completion_after_the_time_out_is_late(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 100
    await driver.do(Expired, Expire(limit=10))
    verdict = await driver.verdict(resolved(awakeable_id))
    assert (verdict.kind, verdict.outcome) == ("late", Expiry(deadline_ms=START_MS + 100))
