"""Beginning an invocation and becoming its owner."""

from __future__ import annotations

from awakeables.core.commands import Claim, Idempotency, Release, Resume, TakeOver
from awakeables.core.invocations import (
    CRASHED,
    MAX_STARTS,
    SUSPECT_STARTS,
    BackOff,
    Continue,
    Failure,
    Pause,
    Suspend,
    at_once,
)
from awakeables.core.journal import Input
from awakeables.core.replies import Begun, Claimed, KeyConflict, Released, Resumed
from contract.driver import START_MS, Driver, resolved

KEY = Idempotency(scope="orders/fulfil", key="k\x00ey", fingerprint="f1")


async def test_what_begins_is_pending_until_it_is_claimed(driver: Driver) -> None:
    row = await driver.begin()
    assert (row.status, row.owner, row.due_ms, row.created_ms) == (
        "pending",
        None,
        at_once(START_MS),
        START_MS,
    )
    (claimed,) = await driver.claim("me")
    assert (claimed.status, claimed.owner, claimed.epoch, claimed.starts) == ("running", "me", 1, 1)
    assert await driver.invocation(row.id) == claimed


async def test_what_begins_with_an_owner_runs_at_once(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    assert (row.status, row.owner, row.epoch, row.starts, row.due_ms) == ("running", "me", 1, 1, None)
    assert await driver.claim("other") == []


async def test_the_first_chunk_of_the_journal_is_the_input(driver: Driver) -> None:
    row = await driver.begin()
    (entry,) = (await driver.store.history([row.id]))[row.id]
    assert isinstance(entry, Input)
    assert row.version == 1


async def test_beginning_the_same_invocation_again_changes_nothing(driver: Driver) -> None:
    order = driver.a_begin(owner="me")
    first = await driver.do(Begun, order)
    row = await driver.advance(await driver.invocation(order.id))
    assert await driver.do(Begun, order) == first == Begun(id=order.id, created=True)
    assert await driver.invocation(order.id) == row


async def test_beginning_the_same_invocation_twice_in_one_commit_makes_one(driver: Driver) -> None:
    order = driver.a_begin()
    answers = await driver.store.commit([order, order])
    assert answers == [Begun(id=order.id, created=True)] * 2
    assert len(await driver.claim()) == 1


async def test_the_same_idempotency_key_attaches_to_the_first_invocation(driver: Driver) -> None:
    first = driver.a_begin(idempotency=KEY)
    await driver.do(Begun, first)
    again = driver.a_begin(idempotency=KEY)
    assert await driver.do(Begun, again) == Begun(id=first.id, created=False)
    assert await driver.do(Begun, again) == Begun(id=first.id, created=False)
    assert await driver.store.invocation(again.id) is None


async def test_the_same_idempotency_key_in_one_commit_makes_one_invocation(driver: Driver) -> None:
    first, again = driver.a_begin(idempotency=KEY), driver.a_begin(idempotency=KEY)
    answers = await driver.store.commit([first, again])
    assert answers == [Begun(id=first.id, created=True), Begun(id=first.id, created=False)]


async def test_the_same_key_for_another_request_is_a_conflict(driver: Driver) -> None:
    first = driver.a_begin(idempotency=KEY)
    await driver.do(Begun, first)
    other = driver.a_begin(idempotency=Idempotency(scope=KEY.scope, key=KEY.key, fingerprint="f2"))
    assert await driver.do(KeyConflict, other) == KeyConflict(id=first.id)
    assert await driver.store.invocation(other.id) is None


async def test_the_same_key_in_another_scope_is_another_key(driver: Driver) -> None:
    await driver.do(Begun, driver.a_begin(idempotency=KEY))
    elsewhere = driver.a_begin(idempotency=Idempotency(scope="a", key=KEY.key, fingerprint="f2"))
    assert (await driver.do(Begun, elsewhere)).created


async def test_a_repeated_begin_with_its_own_key_gets_created_again(driver: Driver) -> None:
    order = driver.a_begin(idempotency=KEY)
    assert await driver.do(Begun, order) == await driver.do(Begun, order) == Begun(id=order.id, created=True)


async def test_a_delayed_invocation_is_not_claimed_before_its_time(driver: Driver) -> None:
    row = await driver.begin(delay_ms=1000)
    driver.clock.ms += 999
    assert await driver.claim() == []
    driver.clock.ms += 1
    assert [claimed.id for claimed in await driver.claim()] == [row.id]


async def test_a_claim_takes_the_longest_due_first_and_no_more_than_its_limit(driver: Driver) -> None:
    late, early, middle = [await driver.begin(delay_ms=delay_ms) for delay_ms in (30, 10, 20)]
    driver.clock.ms += 100
    assert [row.id for row in await driver.claim(limit=2)] == [early.id, middle.id]
    assert [row.id for row in await driver.claim(limit=2)] == [late.id]
    assert await driver.claim() == []


async def test_a_claim_sees_what_began_in_the_same_commit(driver: Driver) -> None:
    order = driver.a_begin()
    _, claimed = await driver.store.commit([order, Claim(owner="me", limit=1)])
    assert isinstance(claimed, Claimed)
    assert [row.id for row in claimed.invocations] == [order.id]


async def test_an_invocation_that_keeps_killing_its_owners_is_parked(driver: Driver) -> None:
    row = await driver.begin()
    for start in range(MAX_STARTS):
        (row,) = await driver.claim(f"owner-{start}")
        assert row.status == "running"
        await driver.do(Released, TakeOver(owner="sweeper"))
    (parked,) = await driver.claim("last")
    assert (parked.status, parked.owner, parked.due_ms) == ("paused", None, None)
    assert parked.failure is not None
    assert parked.failure.kind == CRASHED
    assert await driver.invocation(row.id) == parked
    assert await driver.claim("last") == []


async def test_of_those_that_were_there_at_each_crash_only_one_runs_at_a_time(driver: Driver) -> None:
    """Hard case 11: who only shared the process with a killer is not parked with it."""
    rows = [await driver.begin() for _ in range(3)]
    for start in range(SUSPECT_STARTS):
        assert len(await driver.claim(f"owner-{start}")) == 3
        await driver.do(Released, TakeOver(owner="sweeper"))
    fresh = await driver.begin()
    assert [row.id for row in await driver.claim(suspect=False)] == [fresh.id]
    (suspect,) = await driver.claim()
    assert suspect.id in {row.id for row in rows}
    (second,) = await driver.claim()
    assert second.id != suspect.id
    assert (await driver.advance(suspect, Continue())).starts == 0


async def test_a_commit_of_the_owner_forgives_its_starts(driver: Driver) -> None:
    await driver.begin()
    (row,) = await driver.claim()
    assert (await driver.advance(row, Continue())).starts == 0


async def test_what_others_hold_is_released_and_can_be_claimed_again(driver: Driver) -> None:
    mine, theirs = await driver.begin(owner="me"), await driver.begin(owner="dead")
    assert await driver.do(Released, TakeOver(owner="me")) == Released(count=1)
    assert (await driver.invocation(theirs.id)).status == "pending"
    assert (await driver.invocation(mine.id)).status == "running"
    (claimed,) = await driver.claim("me")
    assert (claimed.id, claimed.epoch) == (theirs.id, 2)


async def test_an_owner_releases_only_what_it_names_and_holds(driver: Driver) -> None:
    kept, let_go, theirs = [await driver.begin(owner=owner) for owner in ("me", "me", "you")]
    names = (let_go.id, theirs.id, driver.id("inv"))
    assert await driver.do(Released, Release(owner="me", ids=names)) == Released(count=1)
    assert await driver.store.held_by("me") == [kept.id]
    assert await driver.store.held_by("you") == [theirs.id]
    assert await driver.do(Released, Release(owner="me", ids=names)) == Released(count=0)


async def test_a_release_sees_what_was_claimed_in_the_same_commit(driver: Driver) -> None:
    _, answer = await driver.store.commit([driver.a_begin(owner="dead"), TakeOver(owner="me")])
    assert answer == Released(count=1)


async def test_a_paused_invocation_is_resumed(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    failure = Failure(kind="mismatch", message="x", at_ms=1)
    paused = await driver.advance(row, Pause(failure=failure))
    assert (paused.status, paused.failure) == ("paused", failure)
    assert await driver.claim() == []
    answer = await driver.do(Resumed, Resume(invocation_id=row.id))
    assert answer.accepted
    assert answer.invocation == await driver.invocation(row.id)
    assert [claimed.id for claimed in await driver.claim()] == [row.id]


async def test_resuming_again_before_it_runs_gets_the_same_reply_and_changes_nothing(driver: Driver) -> None:
    row = await driver.advance(
        await driver.begin(owner="me"), Pause(failure=Failure(kind="mismatch", message="x", at_ms=1))
    )
    first = await driver.do(Resumed, Resume(invocation_id=row.id))
    driver.clock.ms += 5
    assert await driver.do(Resumed, Resume(invocation_id=row.id)) == first
    assert await driver.invocation(row.id) == first.invocation
    later = await driver.begin(delay_ms=10**6)
    assert not (await driver.do(Resumed, Resume(invocation_id=later.id))).accepted


async def test_resuming_what_is_not_paused_changes_nothing(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    assert await driver.do(Resumed, Resume(invocation_id=row.id)) == Resumed(invocation=row, accepted=False)
    nobody = Resume(invocation_id=driver.id("inv"))
    assert await driver.do(Resumed, nobody) == Resumed(invocation=None, accepted=False)


async def test_backing_off_waits_for_its_time_or_for_resume(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    failure = Failure(kind="ValueError", message="once", at_ms=START_MS)
    row = await driver.advance(row, BackOff(due_ms=START_MS + 50, failure=failure))
    assert (row.status, row.failure) == ("backing-off", failure)
    assert await driver.claim() == []
    driver.clock.ms += 50
    (row,) = await driver.claim()
    row = await driver.advance(row, BackOff(due_ms=START_MS + 10**6, failure=failure))
    assert (await driver.do(Resumed, Resume(invocation_id=row.id))).accepted
    assert len(await driver.claim()) == 1


async def test_case_r7_what_can_run_at_once_is_claimed_whatever_the_clock_is_set_to(driver: Driver) -> None:
    failure = Failure(kind="ValueError", message="once", at_ms=START_MS)
    woken, awakeable_id = await driver.waiting()
    paused, released = [await driver.begin(owner="me") for _ in range(2)]
    begun = await driver.begin()
    await driver.settle(resolved(awakeable_id))
    await driver.advance(paused, Pause(failure=failure))
    await driver.do(Resumed, Resume(invocation_id=paused.id))
    await driver.do(Released, TakeOver(owner="you"))
    driver.clock.ms -= 25_000
    claimed = {row.id for row in await driver.claim()}
    assert claimed == {woken.id, paused.id, released.id, begun.id}


async def test_case_r7_the_invocation_that_has_waited_longest_is_claimed_first(driver: Driver) -> None:
    failure = Failure(kind="ValueError", message="once", at_ms=START_MS)
    timed = [await driver.begin(owner="me") for _ in range(2)]
    for row, due_ms in zip(timed, (START_MS + 20, START_MS + 40), strict=True):
        await driver.advance(row, BackOff(due_ms=due_ms, failure=failure))
    begun = []
    for _ in range(3):
        driver.clock.ms += 15
        begun.append(await driver.begin())
    order = [begun[0], timed[0], begun[1], timed[1], begun[2]]
    claimed = [row.id for _ in order for row in await driver.claim(limit=1)]
    assert claimed == [row.id for row in order]


async def test_a_sleeping_invocation_is_due_at_its_time(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    await driver.advance(row, Suspend(wake=0, due_ms=START_MS + 10))
    assert await driver.claim() == []
    driver.clock.ms += 10
    assert [claimed.id for claimed in await driver.claim()] == [row.id]
