"""Who did what is kept with the row, in the transaction of the act itself."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.acts import MAX_ACTS, Act
from awakeables.core.commands import Cancel, Kill, MarkRefused, Republish, Resend, Resume, Settle
from awakeables.core.invocations import Failure, Pause, Suspend
from awakeables.core.replies import (
    Acknowledged,
    Begun,
    CancelMarked,
    Killed,
    Republished,
    Resent,
    Resumed,
    SettledAll,
)
from contract.driver import DLQ, Driver
from contract.test_republish import queued

STRANGE = 'o"ps é \x00'
PAUSE = Pause(failure=Failure(kind="k", message="m", at_ms=1))


async def acts(driver: Driver, invocation_id: str) -> list[tuple[str, str]]:
    row = await driver.invocation(invocation_id)
    assert row is not None
    return [(act.act, act.by) for act in row.acts]


async def test_case_o6_who_began_and_who_acted_is_kept_through_all_that_follows(driver: Driver) -> None:
    order = replace(driver.a_begin(owner="me"), by="shop")
    await driver.do(Begun, order)
    row = await driver.invocation(order.id)
    assert row is not None
    await driver.advance(row, PAUSE)
    driver.clock.ms += 5
    resumed = await driver.do(Resumed, Resume(invocation_id=row.id, by=STRANGE))
    assert resumed.invocation is not None
    assert resumed.invocation.acts[1:] == (Act(act="resume", by=STRANGE, at_ms=driver.clock.ms),)
    (claimed,) = await driver.claim()
    await driver.advance(claimed, Suspend(wake=0))
    assert await acts(driver, row.id) == [("begin", "shop"), ("resume", STRANGE)]
    await driver.do(CancelMarked, Cancel(invocation_id=row.id, by="desk"))
    await driver.do(Killed, Kill(invocation_id=row.id, by="ops"))
    told = [("begin", "shop"), ("resume", STRANGE), ("cancel", "desk"), ("kill", "ops")]
    assert await acts(driver, row.id) == told


async def test_an_act_that_changes_nothing_or_is_nobody_s_is_not_noted(driver: Driver) -> None:
    row = await driver.begin()
    await driver.do(Resumed, Resume(invocation_id=row.id, by="ops"))
    await driver.do(CancelMarked, Cancel(invocation_id=row.id))
    await driver.do(CancelMarked, Cancel(invocation_id=row.id, by="ops"))
    assert await acts(driver, row.id) == []


async def test_of_many_acts_the_first_and_the_latest_are_kept(driver: Driver) -> None:
    order = replace(driver.a_begin(owner="me"), by="shop")
    await driver.do(Begun, order)
    for number in range(MAX_ACTS * 2):
        [row] = await driver.claim() if number else [await driver.invocation(order.id)]
        assert row is not None
        await driver.advance(row, PAUSE)
        await driver.do(Resumed, Resume(invocation_id=order.id, by=f"ops-{number}"))
    kept = await acts(driver, order.id)
    assert kept[0] == ("begin", "shop")
    assert [by for _, by in kept[1:]] == [f"ops-{n}" for n in range(MAX_ACTS + 1, MAX_ACTS * 2)]


async def test_case_o6_who_sent_a_record_again_is_kept_with_it(driver: Driver) -> None:
    letter = driver.a_letter(offset=1)
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    order = Resend(dead_letter_id=letter.id, event_id=driver.id("evt"), by=STRANGE)
    await driver.do(Resent, order)
    await driver.do(Resent, order)
    found = await driver.store.dead_letter(letter.id)
    assert found is not None
    assert [(act.act, act.by) for act in found.acts] == [("resend", STRANGE)]
    [effect] = await queued(driver)
    for by in ("ops", "desk"):
        await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason="too large"))
        await driver.do(Republished, Republish(event_id=effect.event_id, by=by))
    republished = await driver.store.queued_effect(effect.event_id)
    assert republished is not None
    assert [(act.act, act.by) for act in republished.acts] == [("resend", "ops"), ("resend", "desk")]
