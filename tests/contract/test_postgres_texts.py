"""Text from outside that PostgreSQL's `text` can't hold: NUL, and half a surrogate pair."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from awakeables.core.commands import Begin, Cancel, Idempotency, MarkRefused, NewAwakeable, Settle
from awakeables.core.replies import Advanced, Begun, CancelMarked, SettledAll
from awakeables.errors import MalformedId
from awakeables.ports import InvocationFilter, Page
from contract.driver import DLQ, Driver, rejected, resolved

pytestmark = pytest.mark.parametrize(
    "store", ["memory", pytest.param("postgres", marks=pytest.mark.real_postgres)], indirect=True
)

ODD = ["a\x00b", "\ud800", "ö \udfff"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.impossible_rows
async def test_pg21_odd_text_is_kept(driver: Driver, odd: str) -> None:
    begin = driver.a_begin(owner="me", idempotency=Idempotency(scope=odd, key=odd, fingerprint="f"))
    begin = Begin(
        id=begin.id,
        service="s",
        handler="h",
        chunk=begin.chunk,
        key=odd,
        owner="me",
        idempotency=begin.idempotency,
    )
    await driver.do(Begun, begin)
    row = await driver.invocation(begin.id)
    assert row.key == odd
    assert await driver.store.idempotency_key(row.id) == odd
    assert [each.id for each in await driver.store.keyed([odd], odd)] == [row.id]
    key, effect = driver.id("prom"), driver.an_effect(row.id)
    await driver.do(Advanced, driver.an_advance(row, awakeables=[NewAwakeable(id=key)], effects=[effect]))
    await driver.settle(rejected(key, "no"))
    await driver.acknowledged(MarkRefused(event_id=effect.event_id, reason=odd))
    queued = await driver.store.queued_effect(effect.event_id)
    assert queued is not None
    assert queued.reason == odd


@pytest.mark.parametrize("odd", ODD)
async def test_pg21_odd_text_finds_nothing(driver: Driver, odd: str) -> None:
    store = driver.store
    await driver.begin()
    assert await store.invocation(odd) is None
    assert await store.awakeable(odd) is None
    assert await store.dead_letter(odd) is None
    assert await store.queued_effect(odd) is None
    assert await store.idempotency_key(odd) is None
    assert await store.journal(odd, 10) == ([], True)
    assert await store.history([odd]) == {}
    assert await store.outcomes([odd]) == {}
    assert await store.expectations([odd]) == {}
    assert await store.ends([odd]) == {}
    assert await store.invocations(Page(), InvocationFilter(service=odd)) == []
    assert await store.invocations(Page(), InvocationFilter(handler=odd)) == []
    assert await store.invocations(Page(), InvocationFilter(status="open", subscription=odd)) == []
    assert await store.keyed([odd], odd) == []
    assert not (await driver.do(CancelMarked, Cancel(invocation_id=odd))).accepted
    with pytest.raises(MalformedId):
        await store.commit([Settle(completions=(resolved(odd),))])


@pytest.mark.parametrize("odd", ODD)
async def test_pg21_a_dead_letter_may_name_an_odd_awakeable(driver: Driver, odd: str) -> None:
    letter = replace(driver.a_letter(offset=1), awakeable_id=odd)
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    assert await driver.store.dead_letter(letter.id) == letter
