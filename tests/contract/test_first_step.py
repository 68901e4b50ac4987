"""The first step of a new invocation, in the commit and the rows that create it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from awakeables.core.commands import Idempotency, MarkPublished
from awakeables.core.invocations import Continue, End
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Acknowledged, Advanced, Begun, KeyConflict
from contract.driver import START_MS, Driver, resolved


async def test_it_is_written_with_the_row_as_version_1(driver: Driver) -> None:
    order = driver.a_begin(owner="me", first=True)
    assert order.first is not None
    answer = await driver.do(Begun, order)
    row = await driver.invocation(order.id)
    assert (row.status, row.version, row.epoch, row.commits) == ("suspended", 1, 1, order.first.number)
    assert len(await driver.store.history([order.id])) == 1
    awakeable = await driver.awakeable(order.first.awakeables[0].id)
    assert (awakeable.invocation_id, awakeable.topic) == (row.id, "pack-requests")
    [effect] = answer.effects
    assert effect.task is not None
    assert effect.task.deadline_ms == START_MS + 500
    assert await driver.store.effects("me", 10) == [effect]


@pytest.mark.impossible_rows
async def test_one_that_goes_on_is_its_owner_s_and_goes_on_from_version_1(driver: Driver) -> None:
    order = driver.a_begin(owner="me")
    order = replace(order, first=driver.a_first_step(order.id, Continue()))
    await driver.do(Begun, order)
    row = await driver.invocation(order.id)
    assert (row.status, row.owner, row.starts) == ("running", "me", 0)
    assert (await driver.advance(row)).version == 2


@pytest.mark.impossible_rows
async def test_one_that_is_answered_at_once_ends_at_once(driver: Driver) -> None:
    order = driver.a_begin(owner="me")
    step = driver.a_first_step(order.id)
    end = End(result=Resolution.of_json(b"1"), abandoned=(step.awakeables[0].id,))
    await driver.do(Begun, replace(order, first=replace(step, next=end)))
    assert (await driver.invocation(order.id)).status == "completed"
    assert (await driver.awakeable(step.awakeables[0].id)).state == "cancelled"


async def test_it_is_woken_by_an_answer_as_after_any_other_commit(driver: Driver) -> None:
    order = driver.a_begin(owner="me", first=True)
    assert order.first is not None
    await driver.do(Begun, order)
    assert (await driver.verdict(resolved(order.first.awakeables[0].id, checked="h1"))).kind == "accepted"
    assert (await driver.invocation(order.id)).status == "pending"


async def test_sent_again_it_answers_with_what_is_not_sent_yet(driver: Driver) -> None:
    order = driver.a_begin(owner="me", first=True)
    first = await driver.do(Begun, order)
    assert await driver.do(Begun, order) == first
    await driver.do(Acknowledged, MarkPublished(event_ids=(first.effects[0].event_id,)))
    assert await driver.do(Begun, order) == replace(first, effects=())


async def test_the_key_of_an_older_invocation_leaves_nothing_of_it(driver: Driver) -> None:
    key = Idempotency(scope="s", key="k", fingerprint="f")
    older = driver.a_begin(idempotency=key)
    await driver.do(Begun, older)
    order = driver.a_begin(owner="me", idempotency=key, first=True)
    assert order.first is not None
    assert await driver.do(Begun, order) == Begun(id=older.id, created=False)
    other = replace(order, idempotency=replace(key, fingerprint="g"))
    assert await driver.do(KeyConflict, other) == KeyConflict(id=older.id)
    assert await driver.store.awakeable(order.first.awakeables[0].id) is None
    assert await driver.store.effects("me", 10) == []


@pytest.mark.impossible_rows
async def test_the_same_step_in_a_commit_of_its_own_is_a_repeat(driver: Driver) -> None:
    """The engine sends what its owner does next with the next number, never with that of the first step."""
    order = driver.a_begin(owner="me")
    step = driver.a_first_step(order.id, Continue())
    await driver.do(Begun, replace(order, first=step))
    row = await driver.invocation(order.id)
    again = replace(driver.an_advance(row), number=step.number)
    assert (await driver.do(Advanced, again)).invocation == row
