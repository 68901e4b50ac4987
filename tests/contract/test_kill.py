"""Ending an invocation as it stands: its awakeables, its owner, its journal (hard case 4)."""

from __future__ import annotations

import pytest

from awakeables.core.commands import Kill, NewAwakeable
from awakeables.core.invocations import KILLED, BackOff, Continue, End, Failure, Next, Pause, Suspend
from awakeables.core.journal import AwakeableCreated, encode_chunk
from awakeables.core.outcomes import Cancellation, Resolution
from awakeables.core.replies import Advanced, Begun, Fenced, Killed
from contract.driver import Driver, resolved

FAILURE = Failure(kind="k", message="m", at_ms=1)


async def kill(driver: Driver, invocation_id: str) -> Killed:
    return await driver.do(Killed, Kill(invocation_id=invocation_id))


@pytest.mark.parametrize(
    "step",
    [Continue(), Suspend(wake=0), BackOff(due_ms=10**15, failure=FAILURE), Pause(failure=FAILURE)],
    ids=["running", "suspended", "backing-off", "paused"],
)
async def test_whatever_has_not_ended_ends(driver: Driver, step: Next) -> None:
    row = await driver.advance(await driver.begin(owner="me"), step)
    driver.clock.ms += 5
    killed = await kill(driver, row.id)
    assert killed.done
    assert killed.invocation == await driver.invocation(row.id)
    assert killed.invocation is not None
    assert (killed.invocation.status, killed.invocation.result) == ("completed", KILLED)
    assert (killed.invocation.owner, killed.invocation.due_ms) == (None, None)
    assert killed.invocation.updated_ms == driver.clock.ms
    driver.clock.ms += 10**15
    assert await driver.claim() == []


async def test_one_that_waits_for_its_time_never_begins(driver: Driver) -> None:
    row = await driver.begin(delay_ms=10**6)
    assert (await kill(driver, row.id)).done
    driver.clock.ms += 10**7
    assert await driver.claim() == []


async def test_its_owner_is_fenced(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    await kill(driver, row.id)
    ended = driver.an_advance(row, End(result=Resolution.of_json(b"1")))
    await driver.do(Fenced, ended)
    assert (await driver.invocation(row.id)).result == KILLED


@pytest.mark.impossible_rows
async def test_pending_awakeables_are_cancelled_whichever_release_wrote_the_journal(
    driver: Driver,
) -> None:
    order = driver.a_begin(owner="me")
    await driver.do(Begun, order)
    pending, settled = driver.id("prom"), driver.id("prom")
    row = await driver.invocation(order.id)
    chunk = encode_chunk([AwakeableCreated(id=settled)])
    row = (
        await driver.do(Advanced, driver.an_advance(row, chunk=chunk, awakeables=[NewAwakeable(id=settled)]))
    ).invocation
    novel = b'[{"k":"novel","id":7},{"k":"awakeable","id":"' + pending.encode() + b'","novel":true}]'
    await driver.do(Advanced, driver.an_advance(row, chunk=novel, awakeables=[NewAwakeable(id=pending)]))
    await driver.settle(resolved(settled))
    await kill(driver, row.id)
    assert (await driver.awakeable(pending)).outcome == Cancellation(reason="its invocation ended")
    assert (await driver.awakeable(settled)).state == "resolved"
    assert (await driver.verdict(resolved(pending, source="t:0:9"))).kind == "late"


async def test_a_second_kill_gets_the_same_reply_and_changes_nothing(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    first = await kill(driver, row.id)
    driver.clock.ms += 5
    assert await kill(driver, row.id) == first
    assert await driver.invocation(row.id) == first.invocation


async def test_what_has_ended_otherwise_is_left_alone(driver: Driver) -> None:
    row = await driver.end(await driver.begin(owner="me"))
    assert await kill(driver, row.id) == Killed(invocation=row, done=False)
    assert await driver.invocation(row.id) == row


async def test_one_that_does_not_exist_gets_that_reply(driver: Driver) -> None:
    assert await kill(driver, driver.id("inv")) == Killed(invocation=None, done=False)
