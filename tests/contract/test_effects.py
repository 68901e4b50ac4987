"""The outbox: what is claimed by whom, what is sent, what Kafka refuses (K3, hard case 9)."""

from __future__ import annotations

from typing import get_args

import pytest
from msgspec.structs import replace

from awakeables.core.commands import ClaimEffects, MarkPublished, MarkRefused, NewAwakeable
from awakeables.core.effects import Effect, Envelope
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Rejection
from awakeables.core.replies import Acknowledged, Advanced, ClaimedEffects
from contract.driver import Driver, resolved


async def queued(driver: Driver, row: Invocation, count: int) -> tuple[Invocation, list[Effect]]:
    effects = [driver.an_effect(row.id, value=b"%d" % number) for number in range(count)]
    answer = await driver.do(Advanced, driver.an_advance(row, effects=effects))
    return answer.invocation, effects


async def refused_task(driver: Driver) -> tuple[Invocation, str, Effect]:
    """An invocation that waits for the awakeable of a task that is still in the outbox."""
    row = await driver.begin(owner="me")
    awakeable = NewAwakeable(id=driver.id("prom"))
    effect = driver.an_effect(row.id, task_for=awakeable.id)
    answer = await driver.do(Advanced, driver.an_advance(row, awakeables=[awakeable], effects=[effect]))
    return answer.invocation, awakeable.id, effect


async def test_effects_are_unsent_until_they_are_sent(driver: Driver) -> None:
    _, effects = await queued(driver, await driver.begin(owner="me"), 3)
    assert await driver.effects("unsent", 10) == effects
    assert await driver.effects("unsent", 2) == effects[:2]
    assert await driver.effects("failed", 10) == []
    assert (
        await driver.do(Acknowledged, MarkPublished(event_ids=(effects[0].event_id, effects[2].event_id)))
        == Acknowledged()
    )
    assert await driver.effects("unsent", 10) == [effects[1]]


async def test_the_oldest_unsent_are_found_whoever_holds_them_and_whatever_has_failed(driver: Driver) -> None:
    rows = [await driver.begin(owner=owner) for owner in ("me", "you", "another")]
    effects: list[Effect] = []
    for number in range(12):
        rows[number % 3], new = await queued(driver, rows[number % 3], 1)
        effects += new
        driver.clock.ms += 1
    for effect in effects[::2]:
        await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason="too large"))
    for limit in range(8):
        assert await driver.effects("unsent", limit) == effects[1::2][:limit]


@pytest.mark.parametrize("form", get_args(Envelope))
@pytest.mark.impossible_rows
async def test_the_form_of_a_task_is_kept(driver: Driver, form: Envelope) -> None:
    row = await driver.begin(owner="me")
    effect = driver.an_effect(row.id, task_for=driver.id("prom"))
    assert effect.task is not None
    effect = replace(effect, task=replace(effect.task, envelope=form, source="/apps/shop"))
    await driver.do(Advanced, driver.an_advance(row, effects=[effect]))
    assert await driver.effects("unsent", 10) == [effect]


async def test_acknowledging_a_resend_again_changes_nothing(driver: Driver) -> None:
    _, (effect, other) = await queued(driver, await driver.begin(owner="me"), 2)
    order = MarkPublished(event_ids=(effect.event_id, driver.id("evt")))
    assert await driver.do(Acknowledged, order) == await driver.do(Acknowledged, order)
    assert await driver.effects("unsent", 10) == [other]


async def test_an_effect_that_is_queued_and_sent_in_one_commit_is_gone(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    effect = driver.an_effect(row.id)
    await driver.store.commit(
        [driver.an_advance(row, effects=[effect]), MarkPublished(event_ids=(effect.event_id,))]
    )
    assert await driver.effects("unsent", 10) == []


async def test_an_effect_is_its_committers_from_the_start(driver: Driver) -> None:
    await queued(driver, await driver.begin(owner="me"), 2)
    assert await driver.claim_effects("me") == []


async def test_another_owner_takes_them_oldest_first(driver: Driver) -> None:
    first, second = await driver.begin(owner="me"), await driver.begin(owner="you")
    _, one = await queued(driver, first, 1)
    _, two = await queued(driver, second, 1)
    _, three = await queued(driver, await driver.begin(owner="me"), 1)
    assert await driver.claim_effects("heir") == one + two + three
    assert await driver.claim_effects("heir") == []
    assert await driver.claim_effects("me") == one + two + three


async def test_a_claim_takes_whole_streams_of_the_oldest_effects(driver: Driver) -> None:
    row, other = await driver.begin(owner="me"), await driver.begin(owner="me")
    row, first = await queued(driver, row, 1)
    _, second = await queued(driver, other, 1)
    _, third = await queued(driver, row, 2)
    assert await driver.claim_effects("heir", limit=1) == first + third
    assert await driver.claim_effects("heir", limit=1) == second
    assert await driver.claim_effects("heir", limit=1) == []


async def test_a_claim_sees_what_was_queued_in_the_same_commit(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    effect = driver.an_effect(row.id)
    _, claimed = await driver.store.commit(
        [driver.an_advance(row, effects=[effect]), ClaimEffects(owner="heir", limit=1)]
    )
    assert claimed == ClaimedEffects(effect_ids=(effect.event_id,))


async def test_an_effect_that_kafka_refuses_is_kept_as_failed(driver: Driver) -> None:
    _, (bad, good) = await queued(driver, await driver.begin(owner="me"), 2)
    assert (
        await driver.do(Acknowledged, MarkRefused(event_id=bad.event_id, reason="too \x00 large"))
        == Acknowledged()
    )
    assert await driver.effects("failed", 10) == [bad]
    assert await driver.effects("unsent", 10) == [good]
    assert await driver.claim_effects("heir") == [good]


async def test_a_refused_task_rejects_its_awakeable_and_wakes(driver: Driver) -> None:
    row, awakeable_id, effect = await refused_task(driver)
    answer = await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason="no such topic"))
    (wake,) = answer.wakes
    assert (wake.invocation_id, wake.wake, wake.awakeable_id) == (row.id, 1, awakeable_id)
    found = await driver.awakeable(awakeable_id)
    reason = f"publish-failed: topic {effect.topic!r}: no such topic"
    assert found.outcome == wake.outcome == Rejection(reason=reason, code=502)
    assert (await driver.verdict(resolved(awakeable_id))).kind == "conflict"


async def test_a_refusal_that_is_reported_again_changes_nothing(driver: Driver) -> None:
    row, _, effect = await refused_task(driver)
    order = MarkRefused(event_id=effect.event_id, reason="no such topic")
    await driver.do(Acknowledged, order)
    assert await driver.do(Acknowledged, order) == Acknowledged()
    assert (await driver.invocation(row.id)).wake == 1


async def test_a_refused_task_whose_awakeable_is_settled_wakes_nobody(driver: Driver) -> None:
    row, awakeable_id, effect = await refused_task(driver)
    await driver.settle(resolved(awakeable_id))
    assert (
        await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason="gone")) == Acknowledged()
    )
    assert (await driver.awakeable(awakeable_id)).state == "resolved"
    assert (await driver.invocation(row.id)).wake == 1


async def test_a_refusal_of_what_is_not_there_changes_nothing(driver: Driver) -> None:
    assert await driver.acknowledged(MarkRefused(event_id=driver.id("evt"), reason="x"))
    assert await driver.effects("failed", 10) == []


async def test_a_failed_effect_that_was_sent_after_all_is_gone(driver: Driver) -> None:
    _, (effect,) = await queued(driver, await driver.begin(owner="me"), 1)
    await driver.do(Acknowledged, MarkRefused(event_id=effect.event_id, reason="x"))
    await driver.do(Acknowledged, MarkPublished(event_ids=(effect.event_id,)))
    assert await driver.effects("failed", 10) == []
    counts = await driver.store.counts()
    assert (counts["effects_unsent"], counts["effects_failed"]) == (0, 0)


async def test_an_awakeable_knows_the_topic_that_its_task_went_to_first(driver: Driver) -> None:
    row, (first, later) = await driver.running_with(
        NewAwakeable(id=driver.id("prom")), NewAwakeable(id=driver.id("prom"))
    )
    assert (await driver.awakeable(first)).topic is None
    task = driver.an_effect(row.id, task_for=first)
    effects = [task, replace(task, event_id=driver.id("evt"), topic="other")]
    await driver.store.commit([driver.an_advance(row, effects=effects)])
    assert (await driver.awakeable(first)).topic == "pack-requests"
    assert (await driver.awakeable(later)).topic is None
