"""Forgetting what ended long ago: rows, journals, awakeables, keys, dead letters."""

from __future__ import annotations

import pytest

from awakeables.core.commands import (
    Ended,
    Idempotency,
    MarkRefused,
    NewAwakeable,
    Purge,
    PurgeDeadLetters,
    Settle,
)
from awakeables.core.journal import AwakeableCreated, encode_chunk
from awakeables.core.replies import Acknowledged, Advanced, Begun, Purged, SettledAll
from awakeables.ports import Page
from contract.driver import DLQ, RETENTION_MS, Driver, resolved

KEY = Idempotency(scope="orders/fulfil", key="k", fingerprint="f")


async def ended_with(driver: Driver, awakeable_id: str) -> str:
    order = driver.a_begin(owner="me", idempotency=KEY)
    await driver.do(Begun, order)
    row = await driver.invocation(order.id)
    chunk = encode_chunk([AwakeableCreated(id=awakeable_id)])
    advance = driver.an_advance(row, chunk=chunk, awakeables=[NewAwakeable(id=awakeable_id)])
    row = (await driver.do(Advanced, advance)).invocation
    await driver.end(row, awakeable_id)
    return row.id


async def test_an_ended_invocation_goes_with_all_that_is_its_own(driver: Driver) -> None:
    awakeable_id = driver.id("prom")
    invocation_id = await ended_with(driver, awakeable_id)
    order = Purge(ended=(Ended(id=invocation_id, awakeables=(awakeable_id,)),), before_ms=driver.clock.ms)
    assert await driver.do(Purged, order) == Purged(count=1)
    assert await driver.store.invocation(invocation_id) is None
    assert await driver.store.awakeable(awakeable_id) is None
    assert await driver.store.history([invocation_id]) == {}
    again = driver.a_begin(idempotency=KEY)
    assert (await driver.do(Begun, again)).created
    assert await driver.do(Purged, order) == Purged(count=0)


async def test_what_has_not_ended_or_only_lately_stays(driver: Driver) -> None:
    waiting, awakeable_id = await driver.waiting()
    lately = await driver.end(await driver.begin(owner="me"))
    order = Purge(
        ended=(Ended(id=waiting.id, awakeables=(awakeable_id,)), Ended(id=lately.id)),
        before_ms=driver.clock.ms - 1,
    )
    assert await driver.do(Purged, order) == Purged(count=0)
    assert await driver.invocation(lately.id) == lately
    assert (await driver.awakeable(awakeable_id)).state == "pending"


async def test_the_longest_ended_are_found_first(driver: Driver) -> None:
    rows = []
    for _ in range(3):
        rows.append(await driver.end(await driver.begin(owner="me")))
        driver.clock.ms += 10
    await driver.begin(owner="me")
    assert await driver.store.ended(driver.clock.ms, 100) == [Ended(id=row.id) for row in rows]
    assert await driver.store.ended(rows[0].updated_ms, 100) == [Ended(id=rows[0].id)]
    assert await driver.store.ended(rows[0].updated_ms - 1, 100) == []


async def test_so_many_are_found_as_their_journals_are_long(driver: Driver) -> None:
    rows = [await driver.end(await driver.begin(owner="me")) for _ in range(3)]
    assert [row.version for row in rows] == [2, 2, 2]
    for limit, found in ((1, 1), (3, 1), (4, 2), (5, 2), (6, 3)):
        assert len(await driver.store.ended(driver.clock.ms, limit)) == found


@pytest.mark.impossible_rows
async def test_the_awakeables_of_one_are_found_whichever_release_has_written_its_journal(
    driver: Driver,
) -> None:
    awakeable_id = driver.id("prom")
    row = await driver.begin(owner="me")
    chunk = b'[{"k":"novel"},{"k":"awakeable","id":"' + awakeable_id.encode() + b'"},{"k":"settle","id":"x"}]'
    row = (await driver.do(Advanced, driver.an_advance(row, chunk=chunk))).invocation
    await driver.end(row)
    assert await driver.store.ended(driver.clock.ms, 100) == [Ended(id=row.id, awakeables=(awakeable_id,))]


async def test_a_completion_after_the_purge_is_late_not_unknown(driver: Driver) -> None:
    awakeable_id = driver.id("prom")
    invocation_id = await ended_with(driver, awakeable_id)
    driver.clock.ms += RETENTION_MS + 1
    order = Purge(ended=(Ended(id=invocation_id, awakeables=(awakeable_id,)),), before_ms=driver.clock.ms)
    await driver.do(Purged, order)
    assert (await driver.verdict(resolved(awakeable_id))).kind == "late"


@pytest.mark.impossible_rows
async def test_a_commit_that_forgets_and_writes_keeps_both_apart(driver: Driver) -> None:
    invocation_id = await ended_with(driver, driver.id("prom"))
    new = driver.a_begin()
    purge = Purge(ended=(Ended(id=invocation_id),), before_ms=driver.clock.ms)
    await driver.store.commit([new, purge])
    assert await driver.store.invocation(invocation_id) is None
    assert await driver.store.invocation(new.id) is not None


async def test_old_dead_letters_and_refused_effects_go_a_few_at_a_time(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    effects = [driver.an_effect(row.id) for _ in range(2)]
    await driver.do(Advanced, driver.an_advance(row, effects=effects))
    await driver.do(Acknowledged, MarkRefused(event_id=effects[0].event_id, reason="too large"))
    old = [driver.a_letter(offset=offset) for offset in range(3)]
    await driver.do(SettledAll, Settle(completions=(), dead_letters=tuple(old), relay_to=DLQ))
    driver.clock.ms += 10
    young = driver.a_letter(offset=9)
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(young,), relay_to=DLQ))
    order = PurgeDeadLetters(before_ms=driver.clock.ms, limit=2)
    assert await driver.do(Purged, order) == Purged(count=3)
    assert await driver.do(Purged, order) == Purged(count=1)
    assert await driver.do(Purged, order) == Purged(count=0)
    assert [letter.id for letter in await driver.store.dead_letters(Page())] == [young.id]
    assert await driver.effects("failed", 10) == []
    assert effects[1] in await driver.effects("unsent", 10)


async def test_refused_effects_of_every_kind_go_by_the_age_of_their_ids(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    ids: list[str] = []
    for offset in range(3):
        effect, letter = driver.an_effect(row.id), driver.a_letter(offset=offset)
        row = (await driver.do(Advanced, driver.an_advance(row, effects=[effect]))).invocation
        await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
        ids += [effect.event_id, letter.id]
        driver.clock.ms += 1
    for event_id in ids:
        await driver.do(Acknowledged, MarkRefused(event_id=event_id, reason="too large"))
    order = PurgeDeadLetters(before_ms=driver.clock.ms - 1, limit=1)
    for gone in (2, 4, 4):
        await driver.do(Purged, order)
        assert {effect.event_id for effect in await driver.effects("failed", 10)} == set(ids[gone:])
