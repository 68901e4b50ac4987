"""Awakeables that are watched for more than a deadline: heartbeats, revocations, late answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import LATE_LETTER, Completion
from awakeables.core.commands import Expire, Kill, MarkPublished, NewAwakeable, Settle
from awakeables.core.deadletters import LATE
from awakeables.core.invocations import CALLED_OFF, CANCELLED_OUTCOME, KILLED, End, Suspend
from awakeables.core.journal import Input
from awakeables.core.outcomes import Expiry, Resolution
from awakeables.core.records import rfc3339
from awakeables.core.replies import Advanced, Expired, Killed, SettledAll, Unchecked
from contract.driver import START_MS, Driver, beating, rejected, resolved

MINUTE = 60_000
REVOKE_TO = "shop.revocations"


async def watched(driver: Driver, **fields: Any) -> tuple[str, str]:
    """An invocation that waits for a watched awakeable; its ID, and the awakeable's."""
    awakeable_id = driver.id("prom")
    given: dict[str, Any] = {"timeout_ms": 60 * MINUTE, "revoke_to": REVOKE_TO} | fields
    new = NewAwakeable(id=awakeable_id, **given)
    schemas = () if new.schema_hash is None else ((new.schema_hash, b"{}"),)
    row, _ = await driver.running_with(new, schemas=schemas)
    suspended = await driver.advance(row, Suspend(wake=row.wake, due_ms=None))
    return suspended.id, awakeable_id


async def expire(driver: Driver) -> list[str]:
    expired = await driver.do(Expired, Expire(limit=10))
    return [wake.awakeable_id for wake in expired.wakes]


async def revoked(driver: Driver) -> list[Any]:
    """What is published on the revocations topic, once each."""
    effects = [each for each in await driver.claim_effects() if each.kind == "revocation"]
    await driver.acknowledged(MarkPublished(event_ids=tuple(each.event_id for each in effects)))
    assert {(each.topic, each.key) for each in effects} <= {
        (REVOKE_TO, msgspec.json.decode(each.value or b"")["awakeable_id"].encode()) for each in effects
    }
    return [msgspec.json.decode(each.value or b"") for each in effects]


async def test_before_the_first_heartbeat_only_the_deadline_counts(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, heartbeat_ms=MINUTE)
    driver.clock.ms += 59 * MINUTE
    assert await expire(driver) == []
    driver.clock.ms += MINUTE
    assert await expire(driver) == [awakeable_id]
    outcome = (await driver.awakeable(awakeable_id)).outcome
    assert outcome == Expiry(deadline_ms=START_MS + 60 * MINUTE)


async def test_silence_after_a_heartbeat_times_out_with_the_progress(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, heartbeat_ms=MINUTE, timeout_ms=None)
    for _ in range(3):
        driver.clock.ms += MINUTE - 1
        assert await expire(driver) == []
        await driver.settle(beating(awakeable_id, b'{"epoch": 7}'))
    last_ms = driver.clock.ms
    driver.clock.ms += MINUTE - 1
    assert await expire(driver) == []
    driver.clock.ms += 1
    assert await expire(driver) == [awakeable_id]
    outcome = (await driver.awakeable(awakeable_id)).outcome
    assert isinstance(outcome, Expiry)
    assert (outcome.kind, outcome.deadline_ms) == ("heartbeat", last_ms + MINUTE)
    assert bytes(outcome.progress) == b'{"epoch": 7}'  # type: ignore[arg-type]


async def test_heartbeats_don_t_move_the_deadline(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, heartbeat_ms=MINUTE, timeout_ms=MINUTE + 1)
    driver.clock.ms += MINUTE
    await driver.settle(beating(awakeable_id))
    driver.clock.ms += 1
    assert await expire(driver) == [awakeable_id]
    outcome = (await driver.awakeable(awakeable_id)).outcome
    assert isinstance(outcome, Expiry)
    assert (outcome.kind, bytes(outcome.progress)) == ("deadline", b"0.40")  # type: ignore[arg-type]


async def test_without_a_timeout_of_heartbeats_they_are_kept_and_move_nothing(
    driver: Driver,
) -> None:
    _, awakeable_id = await watched(driver)
    await driver.settle(beating(awakeable_id, b"0.5"))
    row = await driver.awakeable(awakeable_id)
    assert row.heartbeat is not None
    assert (bytes(row.heartbeat.progress), row.deadline_ms) == (b"0.5", START_MS + 60 * MINUTE)
    driver.clock.ms += 60 * MINUTE
    assert await expire(driver) == [awakeable_id]
    outcome = (await driver.awakeable(awakeable_id)).outcome
    assert isinstance(outcome, Expiry)
    assert outcome.kind == "deadline"


async def test_a_heartbeat_and_the_answer_in_one_batch_are_taken_in_order(driver: Driver) -> None:
    _, first = await watched(driver, heartbeat_ms=MINUTE)
    _, second = await watched(driver, heartbeat_ms=MINUTE)
    answer = await driver.settle(
        beating(first, b"1", source="t:0:1"),
        resolved(first, source="t:0:2"),
        resolved(second, source="t:0:3"),
        beating(second, b"2", source="t:0:4"),
    )
    assert [verdict and verdict.kind for verdict in answer.verdicts] == [None, "accepted", "accepted", None]
    rows = [await driver.awakeable(each) for each in (first, second)]
    assert {row.state for row in rows} == {"resolved"}
    driver.clock.ms += 2 * MINUTE
    assert await expire(driver) == []
    assert await revoked(driver) == []


async def test_of_many_heartbeats_in_a_batch_the_newest_is_kept(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, heartbeat_ms=MINUTE)
    beats = [beating(awakeable_id, b"%d" % n, source=f"t:0:{n}") for n in range(100)]
    await driver.settle(*beats)
    row = await driver.awakeable(awakeable_id)
    assert row.heartbeat is not None
    assert (bytes(row.heartbeat.progress), row.verdicts_json) == (b"99", None)


@pytest.mark.parametrize("how", ["time-out", "silence", "kill", "cancel", "call-off", "end"])
async def test_whoever_does_the_task_is_told_that_nobody_waits(driver: Driver, how: str) -> None:
    awakeable_id = driver.id("prom")
    new = NewAwakeable(id=awakeable_id, timeout_ms=60 * MINUTE, revoke_to=REVOKE_TO, heartbeat_ms=MINUTE)
    row, _ = await driver.running_with(new)
    if how != "time-out":
        await driver.settle(beating(awakeable_id))
    wanted = ("cancelled", "the invocation was cancelled")
    match how:
        case "time-out":
            driver.clock.ms += 60 * MINUTE
            await expire(driver)
            wanted = ("timed-out", "its deadline has passed")
        case "silence":
            driver.clock.ms += MINUTE
            await expire(driver)
            wanted = ("timed-out", "there was no heartbeat for too long")
        case "kill":
            await driver.do(Killed, Kill(invocation_id=row.id))
            wanted = ("cancelled", KILLED.reason)
        case "cancel":
            await driver.do(Advanced, replace(driver.an_advance(row), cancels=(awakeable_id,)))
            wanted = ("cancelled", CANCELLED_OUTCOME.reason)
        case "call-off":
            await driver.do(Advanced, replace(driver.an_advance(row), called_off=(awakeable_id,)))
            wanted = ("cancelled", CALLED_OFF.reason)
        case _:
            await driver.end(row, awakeable_id)
            wanted = ("cancelled", "the invocation has ended")
    (said,) = await revoked(driver)
    assert said["awakeable_id"] == awakeable_id
    assert said["state"] == wanted[0]
    if how not in ("kill", "end"):
        assert said["reason"] == wanted[1]
    assert await revoked(driver) == []


@pytest.mark.parametrize("how", ["cancel", "call-off", "end"])
async def test_also_if_it_is_over_in_the_commit_that_creates_it(driver: Driver, how: str) -> None:
    """Its task is published nevertheless."""
    new = NewAwakeable(id=driver.id("prom"), timeout_ms=60 * MINUTE, revoke_to=REVOKE_TO)
    row = await driver.begin(owner="me")
    step = End(result=Resolution(value=Raw(b"1")), abandoned=(new.id,)) if how == "end" else None
    order = driver.an_advance(row, step, awakeables=(new,))
    over = (new.id,)
    order = replace(
        order, cancels=over if how == "cancel" else (), called_off=over if how == "call-off" else ()
    )
    await driver.do(Advanced, order)
    (said,) = await revoked(driver)
    assert (said["awakeable_id"], said["state"]) == (new.id, "cancelled")


async def test_a_heartbeat_without_progress_keeps_the_former_one(driver: Driver) -> None:
    """A task that is delivered again begins with one."""
    _, awakeable_id = await watched(driver, heartbeat_ms=MINUTE)
    await driver.settle(beating(awakeable_id, b'{"epoch":40}'))
    driver.clock.ms += MINUTE - 1
    await driver.settle(beating(awakeable_id, b"null"))
    row = await driver.awakeable(awakeable_id)
    assert row.heartbeat is not None
    assert (bytes(row.heartbeat.progress), row.heartbeat.at_ms) == (b'{"epoch":40}', driver.clock.ms)
    assert row.deadline_ms == driver.clock.ms + MINUTE


async def test_what_is_waited_for_has_the_last_heartbeat_without_its_progress(
    driver: Driver,
) -> None:
    invocation_id, awakeable_id = await watched(driver, heartbeat_ms=MINUTE)
    [wait] = await driver.store.waits_of(invocation_id, 9)
    assert (wait.id, wait.heartbeat) == (awakeable_id, None)
    driver.clock.ms += 1000
    await driver.settle(beating(awakeable_id, b'{"epoch": 7}'))
    [wait] = await driver.store.waits_of(invocation_id, 9)
    assert wait.heartbeat is not None
    assert (wait.heartbeat.at_ms, bytes(wait.heartbeat.progress)) == (START_MS + 1000, b"null")


async def test_an_answered_awakeable_is_not_revoked_and_neither_is_an_unwatched_one(driver: Driver) -> None:
    _, answered = await watched(driver, heartbeat_ms=MINUTE)
    await driver.settle(resolved(answered))
    _, unwatched = await driver.waiting(timeout_ms=MINUTE)
    driver.clock.ms += 90 * MINUTE
    assert await expire(driver) == [unwatched]
    assert await revoked(driver) == []


async def test_a_late_answer_begins_its_handler_once(driver: Driver) -> None:
    invocation_id, awakeable_id = await watched(driver, on_late="orders/refund", revoke_to=None)
    driver.clock.ms += 60 * MINUTE
    await expire(driver)
    await driver.settle(replace(rejected(awakeable_id), source="t:0:1"))
    driver.clock.ms += 5
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    completion = resolved(awakeable_id, b'{"a": 1.10}', source="t:0:2")
    answer = await driver.settle(replace(completion, worker="w", trace=trace))
    (verdict,), (begun,) = answer.verdicts, answer.begun
    assert verdict is not None
    assert verdict.kind == "late"
    row = await driver.invocation(begun)
    assert (row.service, row.handler, row.status, row.key) == ("orders", "refund", "pending", None)
    (given,) = (await driver.store.history([begun]))[begun]
    assert isinstance(given, Input)
    assert msgspec.json.decode(bytes(given.value)) == {  # type: ignore[arg-type]
        "value": {"a": 1.10},
        "awakeable_id": awakeable_id,
        "invocation_id": invocation_id,
        "state": "timed-out",
        "worker": "w",
        "at": rfc3339(driver.clock.ms),
    }
    assert given.headers == {"traceparent": trace}
    assert (await driver.awakeable(awakeable_id)).watch.late_id == begun
    for source in ("t:0:2", "t:0:3"):  # a repeat, and another answer
        again = await driver.settle(resolved(awakeable_id, b'{"a": 2}', source=source))
        assert (again.begun, again.verdicts[0] and again.verdicts[0].kind) == ((), "late")


async def test_the_answer_that_finds_the_deadline_passed_is_late_and_begins_the_handler(
    driver: Driver,
) -> None:
    _, awakeable_id = await watched(driver, on_late="orders/refund")
    driver.clock.ms += 61 * MINUTE
    answer = await driver.settle(resolved(awakeable_id))
    assert len(answer.begun) == 1
    assert [wake.awakeable_id for wake in answer.wakes] == [awakeable_id]
    (said,) = await revoked(driver)
    assert said["state"] == "timed-out"


async def test_two_late_answers_in_one_commit_begin_the_handler_once(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, on_late="orders/refund")
    driver.clock.ms += 61 * MINUTE
    await expire(driver)
    answer = await driver.settle(
        resolved(awakeable_id, b"1", source="t:0:1"), resolved(awakeable_id, b"2", source="t:0:2")
    )
    assert len(answer.begun) == 1


async def test_a_late_answer_of_another_type_is_invalid_and_begins_nothing(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, on_late="orders/refund")
    driver.clock.ms += 61 * MINUTE
    await expire(driver)
    misfit = Completion(awakeable_id=awakeable_id, body=Resolution.of_bytes(b"x"), source="t:0:1")
    refused = replace(resolved(awakeable_id, source="t:0:2"), refusal="the value does not fit")
    answer = await driver.settle(misfit, refused)
    assert [verdict and verdict.kind for verdict in answer.verdicts] == ["invalid", "invalid"]
    assert answer.begun == ()


async def test_a_late_answer_is_checked_like_any_other(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, on_late="orders/refund", schema_hash="h")
    driver.clock.ms += 61 * MINUTE
    await expire(driver)
    completions = (resolved(awakeable_id),)
    assert await driver.do(Unchecked, Settle(completions=completions))
    checked = (replace(completions[0], checked="h"),)
    assert len((await driver.do(SettledAll, Settle(completions=checked))).begun) == 1


async def test_late_answers_that_are_kept_become_dead_letters(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, on_late=LATE_LETTER)
    found = await driver.store.expectations([awakeable_id])
    assert found[awakeable_id].keeps_late
    original = driver.a_letter(offset=3)
    early = await driver.do(
        SettledAll,
        Settle(completions=(beating(awakeable_id),), originals={0: original}, relay_to="shop.dlq"),
    )
    assert early.dead_letters == ()
    driver.clock.ms += 61 * MINUTE
    await expire(driver)
    late = await driver.do(
        SettledAll,
        Settle(completions=(resolved(awakeable_id),), originals={0: original}, relay_to="shop.dlq"),
    )
    (letter,) = late.dead_letters
    assert (letter.code, letter.reason, late.begun) == (LATE, "the awakeable is timed-out", ())


async def test_an_unwatched_awakeable_expects_no_late_answers(driver: Driver) -> None:
    _, awakeable_id = await driver.waiting(timeout_ms=MINUTE)
    driver.clock.ms += 2 * MINUTE
    await expire(driver)
    answer = await driver.settle(resolved(awakeable_id))
    assert answer.begun == ()
    assert not (await driver.store.expectations([awakeable_id]))[awakeable_id].keeps_late


async def test_a_late_answer_begins_the_version_that_was_asked_for(driver: Driver) -> None:
    _, awakeable_id = await watched(driver, on_late="orders/refund@2")
    driver.clock.ms += 61 * MINUTE
    (begun,) = (await driver.settle(resolved(awakeable_id))).begun
    (given,) = (await driver.store.history([begun]))[begun]
    assert isinstance(given, Input)
    row = await driver.invocation(begun)
    assert (given.handler, given.version, row.handler, row.versions.handler) == ("refund", 2, "refund", 2)
