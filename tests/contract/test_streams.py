"""The order of effects: their positions in their streams, whatever their IDs say (K3)."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.commands import MarkRefused, Republish, Settle
from awakeables.core.replies import Acknowledged, Advanced, Republished, SettledAll
from contract.driver import DLQ, Driver, unreadable


async def queued(driver: Driver, *counts: int, owner: str = "me") -> list[str]:
    """The IDs of the effects of one invocation's commits, in their order."""
    row = await driver.begin(owner=owner)
    ids: list[str] = []
    for count in counts:
        effects = [driver.an_effect(row.id) for _ in range(count)]
        row = (await driver.do(Advanced, driver.an_advance(row, effects=effects))).invocation
        ids += [effect.event_id for effect in effects]
        driver.clock.ms -= 5  # somebody sets it back: later effects get IDs that sort before
    return ids


async def test_a_clock_that_is_set_back_turns_no_stream_round(driver: Driver) -> None:
    ids = await queued(driver, 2, 1, 2)
    assert ids != sorted(ids)
    assert [effect.event_id for effect in await driver.store.effects("me", 10)] == ids


async def test_a_limit_leaves_out_only_what_comes_later_in_its_stream(driver: Driver) -> None:
    streams = [await queued(driver, 1, 1, 1) for _ in range(3)]
    for limit in range(1, 10):
        found = [effect.event_id for effect in await driver.store.effects("me", limit)]
        assert len(found) == limit
        for ids in streams:
            mine = [event_id for event_id in found if event_id in ids]
            assert mine == ids[: len(mine)]


async def test_a_relay_reads_what_it_has_claimed_and_nothing_else(driver: Driver) -> None:
    mine, theirs = await queued(driver, 1), await queued(driver, 1, owner="you")
    assert [effect.event_id for effect in await driver.store.effects("me", 10)] == mine
    assert [effect.event_id for effect in await driver.store.effects("you", 10)] == theirs
    assert await driver.store.effects("heir", 10) == []
    await driver.claim_effects("heir")
    assert {effect.event_id for effect in await driver.store.effects("heir", 10)} == {*mine, *theirs}


async def test_the_next_owner_of_a_stream_claims_it_in_order(driver: Driver) -> None:
    ids = await queued(driver, 2, 1, 2)
    assert [effect.event_id for effect in await driver.claim_effects("heir", limit=1)] == ids


async def test_one_that_is_sent_again_comes_after_those_that_are_there(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    effects = [driver.an_effect(row.id) for _ in range(3)]
    row = (await driver.do(Advanced, driver.an_advance(row, effects=effects))).invocation
    first, *rest = [effect.event_id for effect in effects]
    await driver.do(Acknowledged, MarkRefused(event_id=first, reason="too large"))
    assert (await driver.do(Republished, Republish(event_id=first))).accepted
    later = driver.an_effect(row.id)
    await driver.do(Advanced, driver.an_advance(row, effects=[later]))
    claimed = [effect.event_id for effect in await driver.claim_effects("heir")]
    assert claimed == [*rest, first, later.event_id]


async def test_verdicts_on_one_awakeable_are_published_in_the_order_of_its_history(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    ids = []
    for number in range(3):
        event_id = driver.id("evt")
        settle = Settle(
            completions=(unreadable(awakeable_id, source=f"t:0:{number}"),),
            verdicts_to="shop.verdicts",
            verdict_ids=(event_id,),
            relay_to=DLQ,
        )
        await driver.do(SettledAll, replace(settle))
        ids.append(event_id)
        driver.clock.ms -= 5
    effects = await driver.claim_effects()
    assert [effect.event_id for effect in effects] == ids
    assert {effect.kind for effect in effects} == {"verdict"}
