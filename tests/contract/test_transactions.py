"""All or nothing, and what readers see meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from awakeables.core.commands import Command, NewAwakeable, Settle
from awakeables.core.effects import EFFECT_STATES
from awakeables.core.replies import Begun, Reply
from awakeables.core.rows import Changes
from awakeables.errors import MalformedId, StoreRefused
from awakeables.ports import Page, Store
from awakeables.store.memory import MemoryStore
from contract.driver import DLQ, Driver, resolved


async def everything(store: Store) -> list[object]:
    """What readers can see of a store."""
    everything = Page(limit=1000)
    invocations = [row.id for row in await store.invocations(everything)]
    return [
        [await store.invocation(id_) for id_ in invocations],
        await store.history(invocations),
        [await store.awakeable(row.id) for row in await store.awakeables(everything)],
        [
            await store.queued_effect(row.id)
            for state in EFFECT_STATES
            for row in await store.queued_effects(everything, state=state)
        ],
        [await store.dead_letter(row.id) for row in await store.dead_letters(everything)],
        await store.positions("shop.completions"),
        await store.counts(),
    ]


def beyond_64_bits(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A member that the store refuses when it is written."""
    if isinstance(driver.store, MemoryStore):

        def refuse(store: MemoryStore, changes: Changes) -> None:
            raise StoreRefused("as a database does")

        monkeypatch.setattr(MemoryStore, "keep", refuse)
    return driver.a_begin(delay_ms=2**63)


async def busy_members(driver: Driver) -> list[Command]:
    """Some of everything."""
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.take(0)
    return [
        Settle(
            completions=(resolved(awakeable_id),), dead_letters=(driver.a_letter(offset=1),), relay_to=DLQ
        ),
        driver.an_advance(
            row,
            awakeables=[NewAwakeable(id=driver.id("prom"))],
            effects=[driver.an_effect(row.id)],
            schemas=[("h", b"{}")],
        ),
    ]


async def test_data_that_cant_be_stored_is_refused_and_rolls_everything_back(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = await busy_members(driver)
    before = await everything(driver.store)
    with monkeypatch.context() as patch:
        bad = beyond_64_bits(driver, patch)
        with pytest.raises(StoreRefused):
            await driver.store.commit([*members, bad])
    assert await everything(driver.store) == before
    await driver.store.commit(members)
    assert await everything(driver.store) != before


async def test_an_error_between_members_rolls_everything_back(driver: Driver) -> None:
    members = await busy_members(driver)
    before = await everything(driver.store)
    with pytest.raises(MalformedId):
        await driver.store.commit([*members, Settle(completions=(resolved("prom_1nonsense"),))])
    assert await everything(driver.store) == before


async def test_an_empty_commit_is_nothing(driver: Driver) -> None:
    assert await driver.store.commit([]) == []


async def test_commits_that_are_asked_for_together_all_happen_in_order(driver: Driver) -> None:
    orders = [driver.a_begin() for _ in range(50)]
    answers: Sequence[list[Reply]] = await asyncio.gather(*(driver.store.commit([order]) for order in orders))
    assert [answer for (answer,) in answers] == [Begun(id=order.id, created=True) for order in orders]
    assert (await driver.store.counts())["invocations_open"] == 50


async def test_readers_see_whole_commits_only(driver: Driver) -> None:
    async def read() -> None:
        while True:
            counts = await driver.store.counts()
            assert counts["invocations_open"] % 20 == 0
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    for _ in range(20):
        await driver.store.commit([driver.a_begin() for _ in range(20)])
    assert not reader.done()
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()


async def test_what_a_commit_has_answered_readers_see(driver: Driver) -> None:
    for _ in range(20):
        row = await driver.begin(owner="me")
        assert (await driver.invocation(row.id)).status == "running"
        assert row.id in await driver.store.history([row.id])


async def test_a_wait_for_a_commit_that_is_cancelled_leaves_the_store_whole(driver: Driver) -> None:
    members = [driver.a_begin() for _ in range(200)]
    wait = asyncio.ensure_future(driver.store.commit(members))
    await asyncio.sleep(0)
    wait.cancel()
    await asyncio.wait([wait])
    await driver.begin()
    assert (await driver.store.counts())["invocations_open"] in (1, 201)


async def test_closing_waits_for_what_was_begun(driver: Driver) -> None:
    waits = [asyncio.ensure_future(driver.store.commit([driver.a_begin()])) for _ in range(10)]
    await asyncio.sleep(0)
    await driver.store.close()
    assert len(await asyncio.gather(*waits)) == 10
