"""Looking into the outbox, and sending what Kafka has refused again (hard case 9)."""

from __future__ import annotations

from awakeables.core.brief import brief_effect
from awakeables.core.commands import (
    ClaimEffects,
    Command,
    MarkPublished,
    MarkRefused,
    NewAwakeable,
    PurgeDeadLetters,
    Republish,
    Settle,
)
from awakeables.core.effects import EFFECT_STATES, Effect, EffectState, QueuedEffect
from awakeables.core.replies import Acknowledged, Advanced, ClaimedEffects, Purged, Republished, SettledAll
from awakeables.ports import Page
from contract.driver import DLQ, Driver

REASON = "too \x00 large \ud800"


async def queued(driver: Driver, count: int = 1) -> list[Effect]:
    """So many effects of one invocation, claimed by "me"."""
    row = await driver.begin(owner="me")
    effects = [driver.an_effect(row.id) for _ in range(count)]
    await driver.do(Advanced, driver.an_advance(row, effects=effects))
    return effects


async def refuse(driver: Driver, *effects: Effect) -> None:
    for effect in effects:
        await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason=REASON))


async def refused(driver: Driver, count: int = 1) -> list[Effect]:
    effects = await queued(driver, count)
    await refuse(driver, *effects)
    return effects


async def refused_task(driver: Driver) -> Effect:
    row = await driver.begin(owner="me")
    awakeable = NewAwakeable(id=driver.id("prom"))
    effect = driver.an_effect(row.id, task_for=awakeable.id)
    await driver.do(Advanced, driver.an_advance(row, awakeables=[awakeable], effects=[effect]))
    await refuse(driver, effect)
    return effect


async def copied(driver: Driver, offset: int = 1) -> str:
    """The ID of a dead letter whose copy is in the outbox."""
    letter = driver.a_letter(offset=offset)
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    return letter.id


async def republish(driver: Driver, event_id: str) -> Republished:
    return await driver.do(Republished, Republish(event_id=event_id))


async def listed(
    driver: Driver, state: EffectState, *, limit: int = 50, before: str | None = None
) -> list[str]:
    rows = await driver.store.queued_effects(Page(limit=limit, before=before), state=state)
    assert {row.state for row in rows} <= {state}
    return [row.id for row in rows]


# ── looking ─────────────────────────────────────────────────────────────────────────────────


async def test_what_is_queued_is_shown_with_its_state_and_why_it_was_refused(driver: Driver) -> None:
    bad, good = await queued(driver, 2)
    await refuse(driver, bad)
    failed = QueuedEffect(effect=bad, state="failed", reason=REASON)
    unsent = QueuedEffect(effect=good, state="unsent")
    assert await driver.store.queued_effect(bad.event_id) == failed
    assert await driver.store.queued_effect(good.event_id) == unsent
    assert await driver.store.queued_effects(Page(), state="failed") == [brief_effect(failed)]
    assert await driver.store.queued_effects(Page(), state="unsent") == [brief_effect(unsent)]


async def test_what_is_sent_or_never_was_is_not_shown(driver: Driver) -> None:
    [effect] = await queued(driver)
    await driver.do(Acknowledged, MarkPublished(event_ids=(effect.event_id,)))
    assert await driver.store.queued_effect(effect.event_id) is None
    assert await driver.store.queued_effect(driver.id("evt")) is None
    assert [await listed(driver, state) for state in EFFECT_STATES] == [[], []]


async def test_both_kinds_of_ids_are_listed_together_newest_first_in_pages(driver: Driver) -> None:
    """By the text of their IDs all copies of dead letters would stand behind all others."""
    ids: list[str] = []
    for offset in range(3):
        ids += [(await queued(driver))[0].event_id, await copied(driver, offset)]
        driver.clock.ms += 1
    newest = sorted(ids, key=lambda id_: id_.partition("_")[2], reverse=True)
    assert [id_[:3] for id_ in newest] == ["dlq", "evt"] * 3
    for state in EFFECT_STATES:
        if state == "failed":
            for id_ in ids:
                await driver.do(Acknowledged, MarkRefused(event_id=id_, reason=REASON))
        assert await listed(driver, state) == newest
        assert await listed(driver, state, limit=6) == newest
        for limit in (1, 2, 4):
            assert await listed(driver, state, limit=limit) == newest[:limit]
        for place, id_ in enumerate(newest, start=1):
            assert await listed(driver, state, limit=2, before=id_) == newest[place : place + 2]


async def test_unsent_ones_are_listed_whoever_has_claimed_them(driver: Driver) -> None:
    ids = [await copied(driver)]
    for owner in ("you", "me"):
        row = await driver.begin(owner=owner)
        effects = [driver.an_effect(row.id) for _ in range(2)]
        await driver.do(Advanced, driver.an_advance(row, effects=effects))
        ids += [effect.event_id for effect in effects]
    newest = sorted(ids, key=lambda id_: id_.partition("_")[2], reverse=True)
    assert await listed(driver, "unsent") == newest
    assert await listed(driver, "unsent", limit=3) == newest[:3]
    assert await listed(driver, "unsent", limit=3, before=newest[2]) == newest[3:]


# ── sending again ───────────────────────────────────────────────────────────────────────────


async def test_a_refused_record_is_unsent_and_unclaimed_again_as_it_was(driver: Driver) -> None:
    [effect] = await refused(driver)
    answer = await republish(driver, effect.event_id)
    unsent = QueuedEffect(effect=effect, state="unsent")
    assert answer == Republished(queued=unsent, accepted=True)
    assert await driver.store.queued_effect(effect.event_id) == unsent
    assert await driver.effects("failed", 10) == []
    counts = await driver.store.counts()
    assert (counts["effects_unsent"], counts["effects_failed"]) == (1, 0)
    assert await driver.claim_effects("me") == [effect]
    await driver.do(Acknowledged, MarkPublished(event_ids=(effect.event_id,)))
    assert await driver.store.queued_effect(effect.event_id) is None


async def test_the_copy_of_a_dead_letter_is_sent_again_too(driver: Driver) -> None:
    letter_id = await copied(driver)
    await driver.do(Acknowledged, MarkRefused(event_id=letter_id, reason=REASON))
    assert (await republish(driver, letter_id)).accepted
    assert [effect.event_id for effect in await driver.claim_effects("me")] == [letter_id]


async def test_one_that_is_refused_again_is_failed_with_the_new_reason_and_can_go_again(
    driver: Driver,
) -> None:
    [effect] = await refused(driver)
    for reason in ("forbidden", "no such topic"):
        assert (await republish(driver, effect.event_id)).accepted
        await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason=reason))
        expected = QueuedEffect(effect=effect, state="failed", reason=reason)
        assert await driver.store.queued_effect(effect.event_id) == expected


async def test_one_that_carries_an_awakeable_stays_failed(driver: Driver) -> None:
    """Its awakeable was rejected with publish-failed: nobody waits for the answer."""
    effect = await refused_task(driver)
    failed = QueuedEffect(effect=effect, state="failed", reason=REASON)
    assert await republish(driver, effect.event_id) == Republished(queued=failed, accepted=False)
    assert await driver.store.queued_effect(effect.event_id) == failed
    assert await driver.claim_effects("heir") == []


async def test_one_that_is_on_its_way_stays_its_owner_s(driver: Driver) -> None:
    [effect] = await queued(driver)
    unsent = QueuedEffect(effect=effect, state="unsent")
    assert await republish(driver, effect.event_id) == Republished(queued=unsent, accepted=True)
    assert await driver.claim_effects("me") == []


async def test_one_that_does_not_exist_gets_that_reply(driver: Driver) -> None:
    assert await republish(driver, driver.id("evt")) == Republished(queued=None, accepted=False)


async def test_the_same_command_again_gets_the_same_reply_and_changes_nothing(
    driver: Driver,
) -> None:
    [effect] = await refused(driver)
    first = await republish(driver, effect.event_id)
    assert await republish(driver, effect.event_id) == first
    assert await driver.claim_effects("me") == [effect]
    await republish(driver, effect.event_id)
    assert await driver.claim_effects("me") == [], "whoever has it keeps it"
    await driver.do(Acknowledged, MarkPublished(event_ids=(effect.event_id,)))
    assert await republish(driver, effect.event_id) == Republished(queued=None, accepted=False)


async def test_a_group_in_which_it_is_refused_sent_again_and_claimed_can_be_repeated(driver: Driver) -> None:
    [effect] = await queued(driver)
    group: list[Command] = [
        MarkRefused(event_id=effect.event_id, reason=REASON),
        Republish(event_id=effect.event_id),
        ClaimEffects(owner="heir", limit=10),
    ]
    unsent = QueuedEffect(effect=effect, state="unsent")
    for _ in range(2):
        assert await driver.store.commit(group) == [
            Acknowledged(),
            Republished(queued=unsent, accepted=True),
            ClaimedEffects(effect_ids=(effect.event_id,)),
        ]
    assert await listed(driver, "unsent") == [effect.event_id]


async def test_what_is_sent_again_is_not_purged_with_the_refused(driver: Driver) -> None:
    gone, sent_again = await refused(driver, 2)
    await republish(driver, sent_again.event_id)
    driver.clock.ms += 10
    order = PurgeDeadLetters(before_ms=driver.clock.ms, limit=10)
    assert await driver.do(Purged, order) == Purged(count=1)
    assert await driver.store.queued_effect(gone.event_id) is None
    assert await listed(driver, "unsent") == [sent_again.event_id]
