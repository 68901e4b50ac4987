"""Sending dead letters again, and skipping what can't be read (K2)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from awakeables.core.deadletters import error_headers
from awakeables.core.orders import (
    DeadLetter,
    Fenced,
    PartitionFence,
    Position,
    Resend,
    Resent,
    Settle,
    SettledAll,
    Skip,
    Skipped,
)
from awakeables.ports import Page
from contract.driver import DLQ, TOPIC, Driver


async def bury(driver: Driver, letter: DeadLetter) -> DeadLetter:
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    return letter


async def test_a_record_goes_back_as_it_was_to_where_it_came_from(driver: Driver) -> None:
    why = error_headers(topic="t", partition=0, offset=1, code="invalid", reason="r")
    letter = driver.a_letter(offset=1)
    letter = await bury(driver, replace(letter, headers=(*letter.headers, *why)))
    event_id = driver.id("evt")
    resent = await driver.do(Resent, Resend(dead_letter_id=letter.id, event_id=event_id))
    assert resent.effect is not None
    assert resent.effect == (await driver.store.effects("unsent", 10))[-1]
    assert (resent.effect.event_id, resent.effect.topic) == (event_id, TOPIC)
    assert (resent.effect.key, resent.effect.value) == (letter.key, letter.value)
    assert resent.effect.headers == (("h", b"\x80"), ("h", None))
    assert resent.effect in await driver.claim_effects()


async def test_it_is_counted_how_often_one_was_sent_again(driver: Driver) -> None:
    letter = await bury(driver, driver.a_letter(offset=1))
    for _ in range(2):
        await driver.do(Resent, Resend(dead_letter_id=letter.id, event_id=driver.id("evt")))
    found = await driver.store.dead_letter(letter.id)
    assert found is not None
    assert found.resent == 2


async def test_sending_again_after_a_lost_acknowledgement_is_counted_once(driver: Driver) -> None:
    letter = await bury(driver, driver.a_letter(offset=1))
    order = Resend(dead_letter_id=letter.id, event_id=driver.id("evt"))
    first = await driver.do(Resent, order)
    assert await driver.do(Resent, order) == first
    assert first.dead_letter is not None
    assert first.dead_letter.resent == 1
    assert len(await driver.store.effects("unsent", 10)) == 2


@pytest.mark.parametrize("code", ["unstorable", "skipped"])
async def test_one_whose_bytes_were_not_kept_can_not_be_sent(driver: Driver, code: str) -> None:
    letter = await bury(driver, replace(driver.a_letter(offset=1, code=code), value=None))
    unsent = await driver.store.effects("unsent", 10)
    resent = await driver.do(Resent, Resend(dead_letter_id=letter.id, event_id=driver.id("evt")))
    assert (resent.dead_letter, resent.effect) == (letter, None)
    assert f"the bytes of dead letter {letter.id} were not kept" in (resent.refusal or "")
    assert await driver.store.effects("unsent", 10) == unsent


async def test_one_that_is_not_there_is_told_so(driver: Driver) -> None:
    order = Resend(dead_letter_id=driver.id("dlq"), event_id=driver.id("evt"))
    assert await driver.do(Resent, order) == Resent(dead_letter=None, effect=None)


def a_skip(driver: Driver, before: int, next_: int) -> Skip:
    letter = replace(driver.a_letter(offset=0, code="skipped"), key=None, value=None, headers=())
    return Skip(topic=TOPIC, partition=0, before=before, next=next_, dead_letter=letter, relay_to=DLQ)


async def test_a_skip_moves_the_partition_fences_its_reader_and_leaves_a_dead_letter(driver: Driver) -> None:
    [epoch] = await driver.take(0)
    order = a_skip(driver, 0, 7)
    assert await driver.do(Skipped, order) == Skipped(done=True)
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=7, epoch=epoch + 1)]
    assert await driver.store.dead_letter(order.dead_letter.id) is not None
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=epoch, first=0, next=3)
    await driver.do(Fenced, Settle(completions=(), fence=fence))


async def test_a_skip_that_was_overtaken_changes_nothing(driver: Driver) -> None:
    await driver.take(0)
    await driver.do(Skipped, a_skip(driver, 0, 7))
    before = await driver.store.positions(TOPIC)
    letters = await driver.store.dead_letters(Page())
    assert await driver.do(Skipped, a_skip(driver, 0, 9)) == Skipped(done=False)
    assert await driver.store.positions(TOPIC) == before
    assert await driver.store.dead_letters(Page()) == letters


async def test_a_skip_whose_acknowledgement_was_lost_is_told_again_that_it_was_done(driver: Driver) -> None:
    await driver.take(0)
    order = a_skip(driver, 0, 7)
    await driver.do(Skipped, order)
    before = await driver.store.positions(TOPIC)
    assert await driver.do(Skipped, order) == Skipped(done=True)
    assert await driver.store.positions(TOPIC) == before
    assert len(await driver.store.dead_letters(Page())) == 1


async def test_a_partition_of_a_topic_that_was_made_anew_goes_back(driver: Driver) -> None:
    await driver.take(0)
    await driver.do(Skipped, a_skip(driver, 0, 7))
    assert await driver.do(Skipped, a_skip(driver, 7, 2)) == Skipped(done=True)
    [position] = await driver.store.positions(TOPIC)
    assert position.next == 2


async def test_a_partition_that_was_never_read_is_not_skipped(driver: Driver) -> None:
    assert await driver.do(Skipped, a_skip(driver, 0, 7)) == Skipped(done=False)
