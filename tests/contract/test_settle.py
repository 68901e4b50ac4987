"""Completions and their verdicts (A1, A2, A4)."""

from __future__ import annotations

import pytest
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import KEPT_AT_EACH_END, Completion, LastHeartbeat, abridged
from awakeables.core.commands import MarkPublished, MarkRefused, NewAwakeable, Settle
from awakeables.core.deadletters import Folding
from awakeables.core.outcomes import Expiry, Rejection, Resolution
from awakeables.core.replies import Acknowledged, SettledAll, Unchecked
from awakeables.errors import MalformedId
from awakeables.ports import Expectation
from contract.driver import (
    RETENTION_MS,
    START_MS,
    Driver,
    beating,
    rejected,
    resolved,
    unreadable,
)


async def test_the_first_completion_is_accepted_and_kept(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    driver.clock.ms += 5
    answer = await driver.settle(resolved(awakeable_id, b'{"a": 1}', source="t:0:7"))
    (verdict,) = answer.verdicts
    assert verdict is not None
    assert (verdict.kind, verdict.source, verdict.at_ms, verdict.event_id) == (
        "accepted",
        "t:0:7",
        START_MS + 5,
        "e1",
    )
    found = await driver.awakeable(awakeable_id)
    assert (found.state, found.settled_ms, found.settled_by) == ("resolved", START_MS + 5, "t:0:7")
    assert found.outcome == Resolution.of_json(b'{"a": 1}') == verdict.outcome
    (wake,) = answer.wakes
    assert (wake.invocation_id, wake.wake, wake.outcome) == (row.id, 1, found.outcome)
    assert await driver.store.outcomes([awakeable_id]) == {awakeable_id: found.outcome}


async def test_a_rejection_settles_too(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    assert (await driver.verdict(rejected(awakeable_id, "out of stock"))).kind == "accepted"
    found = await driver.awakeable(awakeable_id)
    assert (found.state, found.outcome) == ("rejected", Rejection(reason="out of stock", code=409))


async def test_a_completion_that_arrives_before_its_invocation_suspends_is_kept(driver: Driver) -> None:
    _, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    assert (await driver.verdict(resolved(awakeable_id))).kind == "accepted"
    assert awakeable_id in await driver.store.outcomes([awakeable_id, driver.id("prom")])


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (b'{"a":1,"b":[1,2]}', b'{"a":1,"b":[1,2]}', "duplicate"),
        (b'{"a":1,"b":[1,2]}', b' { "b" : [1, 2] ,\n"a":1} ', "duplicate"),
        (b"1", b"1.0", "conflict"),
        (b'{"a":1,"b":[1,2]}', b'{"a":1,"b":[2,1]}', "conflict"),
        (b"18446744073709551617", b"18446744073709551616", "conflict"),
        (b"1", b'"1"', "conflict"),
        (b"null", b"false", "conflict"),
    ],
)
async def test_a_repeat_from_another_source_is_a_duplicate_another_answer_a_conflict(
    driver: Driver, first: bytes, second: bytes, kind: str
) -> None:
    row, awakeable_id = await driver.waiting()
    await driver.settle(resolved(awakeable_id, first))
    before = await driver.awakeable(awakeable_id)
    answer = await driver.settle(resolved(awakeable_id, second, source="t:0:2"))
    (verdict,) = answer.verdicts
    assert verdict is not None
    assert (verdict.kind, verdict.outcome) == (kind, before.outcome)
    assert answer.wakes == ()
    after = await driver.awakeable(awakeable_id)
    assert replace(after, verdicts_json=before.verdicts_json) == before
    assert (await driver.invocation(row.id)).wake == 1


async def test_a_rejection_of_what_was_resolved_is_a_conflict(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    await driver.settle(resolved(awakeable_id))
    assert (await driver.verdict(rejected(awakeable_id, source="t:0:2"))).kind == "conflict"


async def test_the_same_rejection_is_a_duplicate_another_reason_a_conflict(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    await driver.settle(rejected(awakeable_id, "a"))
    assert (await driver.verdict(rejected(awakeable_id, "a", source="t:0:2"))).kind == "duplicate"
    assert (await driver.verdict(rejected(awakeable_id, "b", source="t:0:3"))).kind == "conflict"


async def test_the_source_that_settled_it_gets_accepted_again(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    first = await driver.verdict(resolved(awakeable_id))
    again = await driver.settle(resolved(awakeable_id))
    assert again.verdicts == (first,)
    assert again.wakes == ()
    assert (await driver.awakeable(awakeable_id)).verdicts.counts == {"accepted": 1}
    assert (await driver.invocation(row.id)).wake == 1


async def test_two_answers_in_one_commit_are_decided_in_their_order(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    answer = await driver.settle(
        resolved(awakeable_id, b"1"),
        resolved(awakeable_id, b"2", source="t:0:2"),
        resolved(awakeable_id, b"1", source="t:0:3"),
    )
    assert [verdict and verdict.kind for verdict in answer.verdicts] == ["accepted", "conflict", "duplicate"]
    assert len(answer.wakes) == 1
    assert (await driver.invocation(row.id)).wake == 1
    assert (await driver.awakeable(awakeable_id)).outcome == Resolution.of_json(b"1")


async def test_many_completions_settle_in_one_commit(driver: Driver) -> None:
    row, ids = await driver.running_with(*(NewAwakeable(id=driver.id("prom")) for _ in range(300)))
    answer = await driver.settle(*(resolved(key, b"%d" % n, source=f"t:0:{n}") for n, key in enumerate(ids)))
    assert [wake.wake for wake in answer.wakes] == list(range(1, 301))
    assert (await driver.invocation(row.id)).wake == 300
    outcomes = await driver.store.outcomes(ids)
    assert outcomes == {key: Resolution.of_json(b"%d" % n) for n, key in enumerate(ids)}


async def test_what_cant_be_read_is_invalid_and_leaves_it_pending(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    verdict = await driver.verdict(unreadable(awakeable_id))
    assert (verdict.kind, verdict.reason) == ("invalid", "status is missing")
    assert (await driver.awakeable(awakeable_id)).state == "pending"
    assert (await driver.invocation(row.id)).wake == 0
    assert (await driver.verdict(resolved(awakeable_id, source="t:0:2"))).kind == "accepted"


async def test_a_value_that_its_type_refuses_is_invalid_though_it_could_be_decoded(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    verdict = await driver.verdict(replace(resolved(awakeable_id), refusal="the parcel is not a number"))
    assert (verdict.kind, verdict.reason) == ("invalid", "the parcel is not a number")


async def test_bytes_for_json_and_json_for_bytes_are_invalid(driver: Driver) -> None:
    _, (of_json, of_bytes) = await driver.running_with(
        NewAwakeable(id=driver.id("prom")), NewAwakeable(id=driver.id("prom"), codec="bytes")
    )
    raw = Completion(awakeable_id=of_json, body=Resolution.of_bytes(b"\xff"), source="t:0:1")
    assert (await driver.verdict(raw)).kind == "invalid"
    assert (await driver.verdict(resolved(of_bytes))).kind == "invalid"
    raw = replace(raw, awakeable_id=of_bytes, source="t:0:2")
    assert (await driver.verdict(raw)).kind == "accepted"


async def test_a_young_id_without_a_row_is_unknown_an_old_one_was_purged(driver: Driver) -> None:
    young = driver.id("prom", at_ms=START_MS - RETENTION_MS)
    old = driver.id("prom", at_ms=START_MS - RETENTION_MS - 1)
    assert (await driver.verdict(resolved(young))).kind == "unknown"
    assert (await driver.verdict(resolved(old))).kind == "late"


async def test_a_mistyped_id_is_refused_and_nothing_is_written(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    order = Settle(completions=(resolved(awakeable_id), resolved(awakeable_id[:-1] + "!")))
    with pytest.raises(MalformedId):
        await driver.store.commit([order])
    assert (await driver.awakeable(awakeable_id)).state == "pending"


async def test_a_heartbeat_is_kept_and_has_no_verdict(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    answer = await driver.settle(beating(awakeable_id, b"0.40"))
    assert answer == SettledAll(verdicts=(None,))
    driver.clock.ms += 9
    await driver.settle(beating(awakeable_id, b'{"step": 2}', source="t:0:2"))
    found = await driver.awakeable(awakeable_id)
    assert found.heartbeat == LastHeartbeat(progress=Raw(b'{"step": 2}'), at_ms=START_MS + 9, worker="w1")
    assert (found.state, found.verdicts.counts) == ("pending", {})
    assert (await driver.invocation(row.id)).wake == 0


async def test_the_last_heartbeat_outlives_the_settlement(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    await driver.settle(beating(awakeable_id))
    await driver.settle(resolved(awakeable_id, source="t:0:2"))
    assert (await driver.awakeable(awakeable_id)).heartbeat is not None


async def test_case_w7_a_heartbeat_after_the_answer_is_kept_and_has_no_verdict(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    await driver.settle(resolved(awakeable_id))
    assert (await driver.settle(beating(awakeable_id, source="t:0:2"))).verdicts == (None,)
    found = await driver.awakeable(awakeable_id)
    assert found.heartbeat is not None
    assert (found.state, found.verdicts.counts) == ("resolved", {"accepted": 1})


async def test_the_verdict_history_counts_all_and_keeps_the_first_and_the_last_ten(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    total = 3 * KEPT_AT_EACH_END
    for number in range(total):
        await driver.settle(resolved(awakeable_id, b"%d" % number, source=f"t:0:{number}"))
    book = (await driver.awakeable(awakeable_id)).verdicts
    assert book.counts == {"accepted": 1, "conflict": total - 1}
    assert [entry.source for entry in book.first] == [f"t:0:{n}" for n in range(KEPT_AT_EACH_END)]
    assert [entry.source for entry in book.last] == [
        f"t:0:{n}" for n in range(total - KEPT_AT_EACH_END, total)
    ]


async def test_a_value_that_was_not_checked_is_sent_back_and_nothing_is_written(driver: Driver) -> None:
    schema = ("h1", b'{"type":"object"}')
    owned, (checked, free) = await driver.running_with(
        NewAwakeable(id=driver.id("prom"), schema_hash="h1"),
        NewAwakeable(id=driver.id("prom")),
        schemas=[schema],
    )
    order = Settle(completions=(resolved(checked), resolved(free)))
    assert await driver.do(Unchecked, order) == Unchecked(awakeable_ids=(checked,))
    assert (await driver.awakeable(free)).state == "pending"
    assert await driver.store.expectations([checked, free, driver.id("prom")]) == {
        checked: Expectation(
            invocation_id=owned.id, codec="json", type_name=None, schema_hash="h1", schema=schema[1]
        ),
        free: Expectation(
            invocation_id=owned.id, codec="json", type_name=None, schema_hash=None, schema=None
        ),
    }
    answer = await driver.settle(resolved(checked, checked="h1"), resolved(free))
    assert [verdict and verdict.kind for verdict in answer.verdicts] == ["accepted", "accepted"]


async def test_a_value_that_was_checked_against_another_schema_is_sent_back(driver: Driver) -> None:
    _, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.do(Unchecked, Settle(completions=(resolved(awakeable_id, checked="h2"),)))


async def test_rejections_heartbeats_and_refused_values_need_no_check(driver: Driver) -> None:
    new = [NewAwakeable(id=driver.id("prom"), schema_hash="h1") for _ in range(2)]
    _, (one, other) = await driver.running_with(*new, schemas=[("h1", b"{}")])
    await driver.settle(
        beating(one), unreadable(one), replace(resolved(other), refusal="no"), rejected(one, source="t:0:9")
    )
    assert (await driver.awakeable(one)).state == "rejected"


async def test_a_schema_is_kept_once(driver: Driver) -> None:
    for _ in range(2):
        new = [NewAwakeable(id=driver.id("prom"), schema_hash="h1") for _ in range(2)]
        _, ids = await driver.running_with(*new, schemas=[("h1", b"{}"), ("h1", b"{}")])
        found = await driver.store.expectations(ids)
        assert {expectation.schema for expectation in found.values()} == {b"{}"}


# ── deadlines ───────────────────────────────────────────────────────────────────────────────


async def test_a_deadline_at_the_horizon_beats_a_completion(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 100
    answer = await driver.settle(resolved(awakeable_id))
    (verdict,) = answer.verdicts
    assert verdict is not None
    assert verdict.kind == "late"
    assert [wake.outcome for wake in answer.wakes] == [Expiry(deadline_ms=START_MS + 100)]
    assert (await driver.awakeable(awakeable_id)).state == "timed-out"
    assert (await driver.invocation(row.id)).status == "pending"


async def test_a_completion_a_moment_before_the_deadline_is_accepted(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 99
    assert (await driver.verdict(resolved(awakeable_id))).kind == "accepted"


async def test_a_completion_that_was_in_the_topic_in_time_counts_after_an_outage(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 5000
    answer = await driver.settle(resolved(awakeable_id), held_back_to_ms=START_MS + 99)
    assert [verdict and verdict.kind for verdict in answer.verdicts] == ["accepted"]


async def test_a_horizon_is_never_ahead_of_the_clock(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting(timeout_ms=100)
    answer = await driver.settle(resolved(awakeable_id), held_back_to_ms=START_MS + 10**6)
    assert [verdict and verdict.kind for verdict in answer.verdicts] == ["accepted"]


async def test_something_unreadable_for_an_overdue_awakeable_is_invalid_and_times_it_out(
    driver: Driver,
) -> None:
    row, awakeable_id = await driver.waiting(timeout_ms=100)
    driver.clock.ms += 100
    answer = await driver.settle(unreadable(awakeable_id))
    assert [verdict and verdict.kind for verdict in answer.verdicts] == ["invalid"]
    assert [wake.invocation_id for wake in answer.wakes] == [row.id]


async def test_verdicts_are_queued_for_their_topic_with_the_settlement(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    ids = (driver.id("evt"), driver.id("evt"), driver.id("evt"))
    completions = (
        beating(awakeable_id, source="kafka:t:0:1"),
        resolved(awakeable_id, b"0.10", source="kafka:a:b:3:7"),
        resolved(awakeable_id, b"2", source="http:evt_1"),
    )
    order = Settle(completions=completions, verdicts_to="shop.verdicts", verdict_ids=ids)
    settled = await driver.do(SettledAll, order)
    told = await driver.claim_effects()
    assert [effect.event_id for effect in told] == [ids[1], ids[2]]
    assert {(e.topic, e.stream, e.key) for e in told} == {
        ("shop.verdicts", awakeable_id, awakeable_id.encode())
    }
    assert [effect.verdict for effect in told] == [abridged(v) for v in settled.verdicts if v]


async def test_a_verdict_that_kafka_refuses_is_not_kept(driver: Driver) -> None:
    """It can be looked up (A2); a topic that is missing must not fill the store."""
    _, awakeable_id = await driver.waiting()
    event_id = driver.id("evt")
    completions = (resolved(awakeable_id),)
    await driver.do(
        SettledAll, Settle(completions=completions, verdicts_to="shop.verdicts", verdict_ids=(event_id,))
    )
    assert (
        await driver.do(Acknowledged, MarkRefused(event_id=event_id, reason="no such topic"))
        == Acknowledged()
    )
    assert await driver.effects("failed", 10) == await driver.effects("unsent", 10) == []
    assert (await driver.awakeable(awakeable_id)).state == "resolved"


async def test_a_verdict_that_is_queued_again_and_sent_in_one_commit_is_gone(driver: Driver) -> None:
    """The acknowledgement of the settlement was lost, but not what it had queued."""
    event_id = driver.id("evt")
    completions = (resolved(driver.id("prom")),)
    order = Settle(completions=completions, verdicts_to="shop.verdicts", verdict_ids=(event_id,))
    await driver.do(SettledAll, order)
    assert [effect.event_id for effect in await driver.claim_effects()] == [event_id]
    await driver.store.commit([order, MarkPublished(event_ids=(event_id,))])
    assert await driver.effects("unsent", 10) == []
    assert (await driver.store.counts())["effects_unsent"] == 0


async def test_no_verdict_is_queued_unless_it_is_asked_for(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    await driver.settle(resolved(awakeable_id))
    assert await driver.claim_effects() == []


async def test_case_o4_of_verdicts_that_settle_nothing_so_many_are_published(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting()
    never = [resolved(driver.id("prom"), source=f"t:0:{n}") for n in range(3)]
    completions = (*never, resolved(awakeable_id), resolved(awakeable_id, source="t:0:9"))
    order = Settle(
        completions=completions,
        folding=Folding(into=driver.id("dlq"), keep=9, keep_bytes=9, reason="too many", max_verdicts=2),
        verdicts_to="shop.verdicts",
        verdict_ids=tuple(driver.id("evt") for _ in completions),
    )
    answer = await driver.do(SettledAll, order)
    assert answer.unpublished == 2
    told = [effect.stream for effect in await driver.effects("unsent", 9)]
    assert told == [never[0].awakeable_id, never[1].awakeable_id, awakeable_id]
