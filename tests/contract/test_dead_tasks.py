"""What every store keeps of a task that a worker could not use (row W14)."""

from __future__ import annotations

from awakeables.core.awakeables import Completion, DeadTask
from awakeables.core.deadletters import file_task
from awakeables.core.orders import Resend, Resent, Settle, SettledAll
from awakeables.ports import Page
from contract.driver import DLQ, Driver, resolved

TASK = DeadTask(
    code="invalid",
    reason="the payload does not fit: \x00",
    topic="pack-requests",
    partition=0,
    offset=2**40,
    timestamp_ms=7,
    value=b"\x00\xff",
    headers=(("h", None), ("h", b"\x80")),
)


def reported(driver: Driver, awakeable_id: str) -> Settle:
    completion = Completion(awakeable_id=awakeable_id, body=TASK, source="kafka:t:0:1", worker="packer")
    letter = file_task(
        TASK, letter_id=driver.id("dlq"), awakeable_id=awakeable_id, worker="packer", now_ms=driver.clock.ms
    )
    return Settle(completions=(completion,), dead_tasks={0: letter}, relay_to=DLQ)


async def test_case_w14_a_dead_task_is_kept_and_noted_with_its_awakeable(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    order = reported(driver, awakeable_id)
    settled = await driver.do(SettledAll, order)
    assert settled == SettledAll(verdicts=(None,), dead_letters=(order.dead_tasks[0],))
    assert await driver.store.dead_letter(order.dead_tasks[0].id) == order.dead_tasks[0]
    assert await driver.store.effects("unsent", 10) == []
    row = await driver.awakeable(awakeable_id)
    assert row.state == "pending"
    assert row.book.dead_task is not None
    assert row.book.dead_task.dead_letter_id == order.dead_tasks[0].id
    await driver.settle(resolved(awakeable_id))
    assert (await driver.awakeable(awakeable_id)).book.dead_task == row.book.dead_task


async def test_case_w14_the_same_task_again_changes_nothing(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    await driver.do(SettledAll, reported(driver, awakeable_id))
    before = await driver.awakeable(awakeable_id), await driver.store.dead_letters(Page())
    driver.clock.ms += 1000
    settled = await driver.do(SettledAll, reported(driver, awakeable_id))
    assert settled == SettledAll(verdicts=(None,))
    assert (await driver.awakeable(awakeable_id), await driver.store.dead_letters(Page())) == before


async def test_case_w14_where_it_is_not_known_where_the_task_went_nothing_is_sent(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    order = reported(driver, awakeable_id)
    await driver.do(SettledAll, order)
    letter = order.dead_tasks[0]
    resent = await driver.do(Resent, Resend(dead_letter_id=letter.id, event_id=driver.id("evt")))
    assert (resent.dead_letter, resent.effect) == (letter, None)
    assert "where the task of awakeable" in (resent.refusal or "")
    assert await driver.store.effects("unsent", 10) == []
