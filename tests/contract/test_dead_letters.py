"""Sending dead letters again, and skipping what can't be read (K2)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from awakeables.core.commands import MarkRefused, PartitionFence, PurgeDeadLetters, Resend, Settle, Skip
from awakeables.core.deadletters import DeadLetter, Folding, error_headers
from awakeables.core.replies import Acknowledged, Fenced, Position, Purged, Resent, SettledAll, Skipped
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
    assert resent.effect == (await driver.effects("unsent", 10))[-1]
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
    assert len(await driver.effects("unsent", 10)) == 2


@pytest.mark.parametrize("code", ["unstorable", "skipped"])
async def test_one_whose_bytes_were_not_kept_can_not_be_sent(driver: Driver, code: str) -> None:
    letter = await bury(driver, replace(driver.a_letter(offset=1, code=code), value=None))
    unsent = await driver.effects("unsent", 10)
    resent = await driver.do(Resent, Resend(dead_letter_id=letter.id, event_id=driver.id("evt")))
    assert (resent.dead_letter, resent.effect) == (letter, None)
    assert f"the bytes of dead letter {letter.id} were not kept" in (resent.refusal or "")
    assert await driver.effects("unsent", 10) == unsent


async def test_one_that_does_not_exist_gets_that_reply(driver: Driver) -> None:
    order = Resend(dead_letter_id=driver.id("dlq"), event_id=driver.id("evt"))
    assert await driver.do(Resent, order) == Resent(dead_letter=None, effect=None)


def a_skip(driver: Driver, before: int, next_: int) -> Skip:
    letter = replace(driver.a_letter(offset=0, code="skipped"), key=None, value=None, headers=())
    return Skip(topic=TOPIC, partition=0, before=before, next=next_, dead_letter=letter, relay_to=DLQ)


async def test_a_skip_moves_the_partition_fences_its_reader_and_leaves_a_dead_letter(driver: Driver) -> None:
    [epoch] = await driver.take(0)
    order = a_skip(driver, 0, 7)
    assert await driver.do(Skipped, order) == Skipped(done=True)
    assert await driver.store.positions(TOPIC) == [Position(partition=0, next=7, epoch=epoch + 1, owner="me")]
    assert await driver.store.dead_letter(order.dead_letter.id) is not None
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=epoch, first=0, next=3, owner="me")
    await driver.do(Fenced, Settle(completions=(), fence=fence))


async def test_a_skip_that_was_overtaken_changes_nothing(driver: Driver) -> None:
    await driver.take(0)
    await driver.do(Skipped, a_skip(driver, 0, 7))
    before = await driver.store.positions(TOPIC)
    letters = await driver.store.dead_letters(Page())
    assert await driver.do(Skipped, a_skip(driver, 0, 9)) == Skipped(done=False)
    assert await driver.store.positions(TOPIC) == before
    assert await driver.store.dead_letters(Page()) == letters


async def test_a_skip_whose_acknowledgement_was_lost_is_acknowledged_again(driver: Driver) -> None:
    await driver.take(0)
    order = a_skip(driver, 0, 7)
    await driver.do(Skipped, order)
    before = await driver.store.positions(TOPIC)
    assert await driver.do(Skipped, order) == Skipped(done=True)
    assert await driver.store.positions(TOPIC) == before
    assert len(await driver.store.dead_letters(Page())) == 1


async def test_a_partition_of_a_recreated_topic_goes_back(driver: Driver) -> None:
    await driver.take(0)
    await driver.do(Skipped, a_skip(driver, 0, 7))
    assert await driver.do(Skipped, a_skip(driver, 7, 2)) == Skipped(done=True)
    [position] = await driver.store.positions(TOPIC)
    assert position.next == 2


async def test_a_partition_that_was_never_read_is_not_skipped(driver: Driver) -> None:
    assert await driver.do(Skipped, a_skip(driver, 0, 7)) == Skipped(done=False)


def folding(driver: Driver, *, keep: int, keep_bytes: int = 10_000) -> Folding:
    return Folding(into=driver.id("dlq"), keep=keep, keep_bytes=keep_bytes, reason="too many", max_verdicts=9)


async def test_case_o4_the_first_dead_letters_are_kept_and_the_others_folded_into_one_row(
    driver: Driver,
) -> None:
    into = folding(driver, keep=2)
    letters = tuple(driver.a_letter(offset=n, code="unknown" if n % 2 else "invalid") for n in range(5))
    order = Settle(completions=(), dead_letters=letters[::-1], relay_to=DLQ, folding=into)
    answer = await driver.do(SettledAll, order)
    assert [letter.offset for letter in answer.dead_letters] == [0, 1, 2]
    assert answer.folded == {"invalid": 2, "unknown": 1}
    row = await driver.store.dead_letter(into.into)
    assert row is not None
    assert (row.code, row.offset, row.last_offset, row.count) == ("folded", 2, 4, 3)
    assert (row.key, row.value, row.headers, row.reason) == (None, None, (), "too many")

    more = tuple(driver.a_letter(offset=n) for n in range(5, 9))
    order = Settle(completions=(), dead_letters=more, relay_to=DLQ, folding=replace(into, keep=0))
    answer = await driver.do(SettledAll, order)
    assert (answer.dead_letters, answer.folded) == ((), {"unreadable": 4})
    row = await driver.store.dead_letter(into.into)
    assert row is not None
    assert (row.offset, row.last_offset, row.count) == (2, 8, 7)
    assert len(await driver.store.dead_letters(Page())) == 3
    copies = await driver.claim_effects()
    assert {effect.event_id for effect in copies} == {letters[0].id, letters[1].id, into.into}


async def test_case_o4_dead_letters_are_kept_by_their_bytes_too(driver: Driver) -> None:
    letters = tuple(driver.a_letter(offset=n) for n in range(4))
    into = folding(driver, keep=9, keep_bytes=2 * letters[0].size)
    order = Settle(completions=(), dead_letters=letters, relay_to=DLQ, folding=into)
    assert (await driver.do(SettledAll, order)).folded == {"unreadable": 2}


async def test_case_o4_what_is_known_already_is_neither_kept_nor_folded_again(driver: Driver) -> None:
    letter = driver.a_letter(offset=1)
    await bury(driver, letter)
    again = replace(letter, id=driver.id("dlq"))
    order = Settle(completions=(), dead_letters=(again,), relay_to=DLQ, folding=folding(driver, keep=0))
    answer = await driver.do(SettledAll, order)
    assert (answer.dead_letters, answer.folded) == ((), {})


async def test_case_o4_a_folded_row_is_not_sent_again(driver: Driver) -> None:
    into = folding(driver, keep=0)
    order = Settle(completions=(), dead_letters=(driver.a_letter(offset=7),), relay_to=DLQ, folding=into)
    await driver.do(SettledAll, order)
    resent = await driver.do(Resent, Resend(dead_letter_id=into.into, event_id=driver.id("evt")))
    assert resent.effect is None
    assert "offset 7 of partition 0" in (resent.refusal or "")


async def test_case_o4_dead_letters_of_a_code_are_purged_and_refused_records_stay(driver: Driver) -> None:
    letters = [driver.a_letter(offset=n, code="unreadable" if n % 2 else "invalid") for n in range(6)]
    for letter in letters:
        await bury(driver, letter)
    await driver.do(Acknowledged, MarkRefused(event_id=letters[0].id, reason="too large"))
    driver.clock.ms += 1
    order = PurgeDeadLetters(before_ms=driver.clock.ms, limit=2, code="unreadable", dead_letters_only=True)
    assert [await driver.do(Purged, order) for _ in range(3)] == [Purged(count=n) for n in (2, 1, 0)]
    assert {letter.code for letter in await driver.store.dead_letters(Page())} == {"invalid"}
    everything = PurgeDeadLetters(before_ms=driver.clock.ms, limit=9, dead_letters_only=True)
    assert await driver.do(Purged, everything) == Purged(count=3)
    assert [effect.event_id for effect in await driver.effects("failed", 9)] == [letters[0].id]
    assert (await driver.store.counts())["dead_letters"] == 0


async def test_case_o4_records_that_are_folded_again_after_a_rewind_have_a_row_again(driver: Driver) -> None:
    for _ in range(2):
        into = folding(driver, keep=0)
        order = Settle(completions=(), dead_letters=(driver.a_letter(offset=7),), relay_to=DLQ, folding=into)
        answer = await driver.do(SettledAll, order)
        assert [letter.id for letter in answer.dead_letters] == [into.into]
        assert await driver.store.dead_letter(into.into) == answer.dead_letters[0]
    assert len(await driver.store.dead_letters(Page())) == 2
