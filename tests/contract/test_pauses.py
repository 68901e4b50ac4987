"""Pauses of handlers and services: rows that are added and deleted, and what is claimed meanwhile."""

from __future__ import annotations

from awakeables.core.commands import Claim, PauseHandlers
from awakeables.core.pauses import PauseRow
from awakeables.core.replies import Claimed, PauseChanged
from contract.driver import START_MS, Driver


async def pause(driver: Driver, target: str = "orders", *, by: str | None = None) -> PauseChanged:
    return await driver.do(PauseChanged, PauseHandlers(target=target, paused=True, by=by))


async def resume(driver: Driver, target: str = "orders") -> PauseChanged:
    return await driver.do(PauseChanged, PauseHandlers(target=target, paused=False))


async def test_a_pause_is_kept_until_it_is_taken_back(driver: Driver) -> None:
    assert await driver.store.pauses() == []
    paused = PauseRow(target="orders/fulfil", since_ms=START_MS, by="ann")
    assert await pause(driver, "orders/fulfil", by="ann") == PauseChanged(row=paused, changed=True)
    assert await driver.store.pauses() == [paused]
    assert await resume(driver, "orders/fulfil") == PauseChanged(row=None, changed=True)
    assert await driver.store.pauses() == []
    assert await resume(driver, "orders/fulfil") == PauseChanged(row=None, changed=False)


async def test_what_is_paused_already_stays_so_since_then(driver: Driver) -> None:
    first = await pause(driver, by="ann")
    driver.clock.ms += 1000
    again = await pause(driver, by="ben")
    assert again == PauseChanged(row=first.row, changed=False)
    assert await driver.store.pauses() == [first.row]


async def test_pauses_are_listed_by_name_and_resumed_one_by_one(driver: Driver) -> None:
    for target in ("orders/pack", "carts", "orders", "orders/fulfil"):
        await pause(driver, target)
    await resume(driver, "orders")
    assert [row.target for row in await driver.store.pauses()] == ["carts", "orders/fulfil", "orders/pack"]


async def test_one_of_a_commit_decides_for_those_after_it(driver: Driver) -> None:
    commands = [PauseHandlers(target="orders", paused=paused) for paused in (True, False, True, False)]
    replies = await driver.store.commit(commands)
    assert [reply.changed for reply in replies if isinstance(reply, PauseChanged)] == [True] * 4
    assert await driver.store.pauses() == []


async def test_what_a_claim_leaves_alone_is_claimed_later(driver: Driver) -> None:
    begun = await driver.begin()
    left = (f"{begun.service}/{begun.handler}",)
    assert (await driver.do(Claimed, Claim(owner="me", limit=10, not_handlers=left))).invocations == ()
    claimed = await driver.do(Claimed, Claim(owner="me", limit=10))
    assert [row.id for row in claimed.invocations] == [begun.id]
