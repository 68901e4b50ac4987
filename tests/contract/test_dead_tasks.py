"""What every store keeps of a task that a worker could not use (row W14)."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.awakeables import Completion, DeadTask
from awakeables.core.commands import Resend, Settle
from awakeables.core.deadletters import Folding, dead_letter_of_task
from awakeables.core.replies import Resent, SettledAll
from awakeables.ports import Page
from contract.driver import DLQ, TOPIC, Driver, resolved

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
    letter = dead_letter_of_task(
        TASK, letter_id=driver.id("dlq"), awakeable_id=awakeable_id, worker="packer", now_ms=driver.clock.ms
    )
    return Settle(completions=(completion,), dead_tasks={0: letter}, relay_to=DLQ)


async def test_case_w14_a_dead_task_is_kept_and_noted_with_its_awakeable(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    order = reported(driver, awakeable_id)
    settled = await driver.do(SettledAll, order)
    assert settled == SettledAll(verdicts=(None,), dead_letters=(order.dead_tasks[0],))
    assert await driver.store.dead_letter(order.dead_tasks[0].id) == order.dead_tasks[0]
    assert await driver.effects("unsent", 10) == []
    row = await driver.awakeable(awakeable_id)
    assert row.state == "pending"
    assert row.verdicts.dead_task is not None
    assert row.verdicts.dead_task.dead_letter_id == order.dead_tasks[0].id
    await driver.settle(resolved(awakeable_id))
    assert (await driver.awakeable(awakeable_id)).verdicts.dead_task == row.verdicts.dead_task


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
    assert await driver.effects("unsent", 10) == []


async def test_case_o4_of_many_reports_of_one_wait_s_task_the_first_are_filed_and_the_others_folded(
    driver: Driver,
) -> None:
    _, awakeable_id = await driver.waiting()
    tasks = [replace(TASK, offset=n) for n in range(5)]
    completions = [
        Completion(awakeable_id=awakeable_id, body=t, source=f"kafka:t:0:{t.offset}") for t in tasks
    ]
    filed = {
        n: dead_letter_of_task(t, letter_id=driver.id("dlq"), awakeable_id=awakeable_id, worker="w", now_ms=0)
        for n, t in enumerate(tasks)
    }
    originals = {n: driver.a_letter(offset=100 + n, code="unusable-task") for n in filed}
    folding = Folding(into=driver.id("dlq"), keep=2, keep_bytes=10_000, reason="too many", max_verdicts=9)
    order = Settle(
        completions=tuple(completions),
        dead_letters=(driver.a_letter(offset=107),),
        dead_tasks=filed,
        originals=originals,
        relay_to=DLQ,
        folding=folding,
    )
    answer = await driver.do(SettledAll, order)
    assert answer.verdicts == (None,) * 5
    assert answer.folded == {"unusable-task": 3, "unreadable": 1}
    letters = {letter.id: letter for letter in await driver.store.dead_letters(Page())}
    assert letters.keys() == {filed[0].id, filed[1].id, folding.into}
    folded = letters[folding.into]
    assert (folded.topic, folded.offset, folded.last_offset, folded.count) == (TOPIC, 102, 107, 4)
    noted = (await driver.awakeable(awakeable_id)).verdicts.dead_task
    assert noted is not None
    assert noted.dead_letter_id == folding.into


async def test_case_o4_reports_and_records_that_can_t_be_used_share_what_is_kept(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    order = reported(driver, awakeable_id)
    folding = Folding(into=driver.id("dlq"), keep=2, keep_bytes=10_000, reason="too many", max_verdicts=9)
    letters = (driver.a_letter(offset=3), driver.a_letter(offset=4))
    answer = await driver.do(SettledAll, replace(order, dead_letters=letters, folding=folding))
    kept = [letter.id for letter in answer.dead_letters]
    assert kept == [letters[0].id, folding.into, order.dead_tasks[0].id]
    assert answer.folded == {"unreadable": 1}
