"""Calls: begun with the caller's commit, waited for by a row, settled by the end of the callee."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import (
    Advance,
    Begin,
    Cancel,
    Idempotency,
    Kill,
    NewAwakeable,
    NewCall,
    Purge,
    Settle,
)
from awakeables.core.invocations import (
    CALLED_OFF,
    CANCELLED_OUTCOME,
    KILLED,
    End,
    Failure,
    Invocation,
    Pause,
    Suspend,
)
from awakeables.core.outcomes import Outcome, Rejection, Resolution
from awakeables.core.replies import (
    Advanced,
    Begun,
    CancelMarked,
    Fenced,
    KeyConflict,
    Killed,
    Purged,
    SettledAll,
)
from awakeables.ports import Page
from contract.driver import RETENTION_MS, Driver, resolved

DONE = Resolution.of_json(b'{"parcel":9}')
ALL = Page(limit=1000)


async def a_caller(
    driver: Driver, *, owner: str = "me", key: str | None = None, calls: int = 1
) -> tuple[Invocation, list[NewCall], list[NewAwakeable]]:
    """A running invocation that has called others, which it waits for."""
    row = await driver.begin(owner=owner)
    made = [driver.a_call(row, key=key) for _ in range(calls)]
    waits = [driver.a_wait(each.id, owned=key is None) for each in made]
    order = driver.an_advance(row, awakeables=waits, calls=made)
    return (await driver.do(Advanced, order)).invocation, made, waits


async def run(driver: Driver, invocation_id: str) -> Invocation:
    """A callee that is claimed, and running."""
    [row] = [each for each in await driver.claim("callee") if each.id == invocation_id]
    return row


async def ended(driver: Driver, row: Invocation, result: Outcome = DONE, *abandoned: str) -> Advanced:
    return await driver.do(
        Advanced, driver.an_advance(row, End(result=result, abandoned=abandoned), chunk=None)
    )


async def wait_of(driver: Driver, wait: NewAwakeable) -> AwakeableRow:
    return await driver.awakeable(wait.id)


async def test_a_call_is_created_with_its_caller_s_commit_and_claimed_like_any_other(driver: Driver) -> None:
    caller, [call], [wait] = await a_caller(driver)
    row = await driver.invocation(call.id)
    assert (row.status, row.service, row.handler, row.build, row.awaited) == (
        "pending",
        "parcels",
        "pack",
        "b2",
        True,
    )
    assert (await driver.store.history([call.id]))[call.id][0].caller == caller.id  # type: ignore[union-attr]
    assert [each.id for each in await driver.claim("callee")] == [call.id]
    found = await wait_of(driver, wait)
    assert (found.state, found.source, found.invocation_id, bool(found.owned)) == (
        "pending",
        call.id,
        caller.id,
        True,
    )


async def test_a_call_with_a_delay_waits_for_its_time(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    call = driver.a_call(row, delay_ms=5000)
    await driver.do(Advanced, driver.an_advance(row, chunk=None, calls=[call]))
    assert (await driver.invocation(call.id)).due_ms == driver.clock.ms + 5000
    assert await driver.claim("callee") == []
    driver.clock.ms += 5000
    assert [each.id for each in await driver.claim("callee")] == [call.id]


async def test_a_call_in_the_first_step_is_created_with_it(driver: Driver) -> None:
    begin = driver.a_begin(owner="me", first=True)
    assert begin.first is not None
    caller = Invocation(begin.id, "orders", "fulfil", 1, 1)
    call = driver.a_call(caller)
    wait = driver.a_wait(call.id)
    first = replace(begin.first, awakeables=(*begin.first.awakeables, wait), calls=(call,))
    chunk = begin.chunk[:-1] + b"," + _journaled(call, wait) + b"]"
    begin = replace(begin, chunk=chunk, first=first)
    begun = await driver.do(Begun, begin)
    assert begun.settled == ()
    assert await driver.do(Begun, begin) == begun
    assert (await driver.invocation(call.id)).status == "pending"
    assert (await ended(driver, await run(driver, call.id))).wakes[0].invocation_id == begin.id
    # Sent again after a lost acknowledgement, when the call has ended.
    assert (await driver.do(Begun, begin)).settled == ((wait.id, DONE),)


def _journaled(call: NewCall, wait: NewAwakeable) -> bytes:
    return b'{"k":"attach","id":"%b","wait":"%b"}' % (call.id.encode(), wait.id.encode())


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (DONE, "resolved"),
        (Resolution.of_bytes(b"\x00\xff"), "resolved"),
        (Rejection(reason="sold out", code=418), "rejected"),
        (CANCELLED_OUTCOME, "cancelled"),
    ],
)
async def test_the_end_of_a_call_settles_the_wait_and_wakes_the_caller(
    driver: Driver, result: Outcome, state: str
) -> None:
    caller, [call], [wait] = await a_caller(driver)
    caller = await driver.advance(caller, Suspend(wake=caller.wake))
    reply = await ended(driver, await run(driver, call.id), result)
    found = await wait_of(driver, wait)
    assert (found.state, found.outcome, found.settled_ms, found.settled_by) == (
        state,
        result,
        driver.clock.ms,
        None,
    )
    woken = await driver.invocation(caller.id)
    assert (woken.status, woken.wake) == ("pending", caller.wake + 1)
    [wake] = reply.wakes
    assert (wake.invocation_id, wake.awakeable_id, wake.outcome, wake.wake, wake.owner) == (
        caller.id,
        wait.id,
        result,
        caller.wake + 1,
        None,
    )
    assert (await driver.store.outcomes([wait.id])) == {wait.id: result}


async def test_a_caller_that_runs_is_told_through_its_owner(driver: Driver) -> None:
    caller, [call], _ = await a_caller(driver)
    [wake] = (await ended(driver, await run(driver, call.id))).wakes
    assert (wake.owner, wake.wake) == ("me", 1)
    # It had not seen that when it asked to be suspended.
    assert (await driver.advance(caller, Suspend(wake=0))).status == "pending"


async def test_a_pause_of_a_call_settles_nothing(driver: Driver) -> None:
    _, [call], [wait] = await a_caller(driver)
    await driver.advance(await run(driver, call.id), Pause(failure=Failure(kind="k", message="m", at_ms=1)))
    assert (await wait_of(driver, wait)).state == "pending"


async def test_a_call_and_its_end_in_one_group(driver: Driver) -> None:
    """What a store has of one group is not in the database yet when the next command is decided."""
    caller = await driver.begin(owner="me")
    callee = await driver.begin(owner="callee")
    wait = driver.a_wait(callee.id, owned=False)
    attach = driver.an_advance(caller, awakeables=[wait])
    end = driver.an_advance(callee, End(result=DONE), chunk=None)
    [attached, reply] = await driver.store.commit([attach, end])
    assert isinstance(attached, Advanced)
    assert isinstance(reply, Advanced)
    assert (attached.settled, [wake.awakeable_id for wake in reply.wakes]) == ((), [wait.id])
    assert (await wait_of(driver, wait)).outcome == DONE


async def test_many_wait_for_one(driver: Driver) -> None:
    callee = await driver.begin(owner="callee")
    waits = []
    for _ in range(5):
        caller = await driver.begin(owner="me")
        wait = driver.a_wait(callee.id, owned=False)
        await driver.do(Advanced, driver.an_advance(caller, awakeables=[wait]))
        waits.append(wait)
    reply = await ended(driver, await driver.invocation(callee.id))
    assert sorted(wake.awakeable_id for wake in reply.wakes) == sorted(wait.id for wait in waits)
    assert {(await wait_of(driver, wait)).state for wait in waits} == {"resolved"}


# ── waits that are born settled ─────────────────────────────────────────────────────────────


async def born(driver: Driver, source: str) -> tuple[Invocation, Outcome | None]:
    """Attach to an invocation; the caller, and the outcome that it is told at once."""
    caller = await driver.begin(owner="me")
    wait = driver.a_wait(source, owned=False)
    order = driver.an_advance(caller, awakeables=[wait])
    reply = await driver.do(Advanced, order)
    assert (await driver.do(Advanced, order)).settled == reply.settled
    outcome = dict(reply.settled).get(wait.id)
    found = await wait_of(driver, wait)
    assert found.outcome == outcome
    assert (found.state == "pending") == (outcome is None)
    return caller, outcome


async def test_a_wait_for_a_call_that_has_ended_is_settled_when_it_is_made(driver: Driver) -> None:
    callee = await driver.begin(owner="callee")
    await ended(driver, callee)
    caller, outcome = await born(driver, callee.id)
    assert outcome == DONE
    assert (await driver.invocation(caller.id)).wake == 0


async def test_a_wait_for_nothing_is_rejected(driver: Driver) -> None:
    _, unknown = await born(driver, driver.id("inv"))
    assert isinstance(unknown, Rejection)
    assert unknown.code == 404
    _, purged = await born(driver, driver.id("inv", at_ms=driver.clock.ms - RETENTION_MS - 1))
    assert isinstance(purged, Rejection)
    assert purged.code == 410


async def test_nobody_waits_for_itself(driver: Driver) -> None:
    caller = await driver.begin(owner="me")
    wait = driver.a_wait(caller.id, owned=False)
    [[_, outcome]] = (await driver.do(Advanced, driver.an_advance(caller, awakeables=[wait]))).settled
    assert isinstance(outcome, Rejection)
    assert outcome.code == 409


# ── idempotency keys ────────────────────────────────────────────────────────────────────────


async def test_a_key_that_is_known_joins_the_older_invocation(driver: Driver) -> None:
    _, [first], [wait] = await a_caller(driver, key="k")
    _, [second], [other] = await a_caller(driver, key="k")
    assert await driver.store.invocation(second.id) is None
    assert [row.id for row in await driver.store.keyed(["alias"], second.id)] == [first.id]
    assert await driver.store.idempotency_key(first.id) == "k"
    reply = await ended(driver, await run(driver, first.id))
    assert {wake.awakeable_id for wake in reply.wakes} == {wait.id, other.id}
    # By either ID, from now on too.
    assert (await born(driver, second.id))[1] == DONE


async def test_two_calls_with_one_key_in_one_commit_are_one(driver: Driver) -> None:
    _, [first, second], waits = await a_caller(driver, key="k", calls=2)
    assert await driver.store.invocation(second.id) is None
    reply = await ended(driver, await run(driver, first.id))
    assert sorted(wake.awakeable_id for wake in reply.wakes) == sorted(wait.id for wait in waits)


async def test_a_key_of_another_request_is_refused_and_stays_so(driver: Driver) -> None:
    _, [first], _ = await a_caller(driver, key="k")
    caller = await driver.begin(owner="me")
    call = driver.a_call(caller, key="k")
    assert call.idempotency is not None
    call = replace(call, idempotency=replace(call.idempotency, fingerprint="other"))
    alike, apart = driver.a_call(caller, key="k"), driver.a_call(caller, key="l")
    order = driver.an_advance(caller, chunk=None, calls=[call, alike, apart])
    assert (await driver.do(Advanced, order)).conflicts == (call.id,)
    # Sent again after a lost acknowledgement.
    assert (await driver.do(Advanced, order)).conflicts == (call.id,)
    assert await driver.store.invocation(call.id) is None
    assert await driver.store.keyed(["alias"], call.id) == []
    _, outcome = await born(driver, call.id)
    assert isinstance(outcome, Rejection)
    assert outcome.code == 422
    assert (await driver.invocation(first.id)).status == "pending"


async def test_a_key_of_another_request_is_refused_in_the_first_step_as_well(driver: Driver) -> None:
    await a_caller(driver, key="k")
    begin = driver.a_begin(owner="me", first=True)
    assert begin.first is not None
    call = driver.a_call(Invocation(begin.id, "orders", "fulfil", 1, 1), key="k")
    assert call.idempotency is not None
    call = replace(call, idempotency=replace(call.idempotency, fingerprint="other"))
    begin = replace(begin, first=replace(begin.first, calls=(call,)))
    for _ in range(2):  # the second time after a lost acknowledgement
        assert (await driver.do(Begun, begin)).conflicts == (call.id,)
    assert await driver.store.invocation(call.id) is None


async def test_calls_and_callers_from_outside_share_their_keys(driver: Driver) -> None:
    idempotency = Idempotency(scope="parcels/pack", key="k", fingerprint="f")
    begin = driver.a_begin(idempotency=idempotency)
    await driver.do(Begun, begin)
    _, [call], _ = await a_caller(driver, key="k")
    assert [row.id for row in await driver.store.keyed(["alias"], call.id)] == [begin.id]
    other = driver.a_begin(idempotency=idempotency)
    assert await driver.do(Begun, other) == Begun(id=begin.id, created=False)
    await driver.do(KeyConflict, replace(other, idempotency=replace(idempotency, fingerprint="g")))


async def test_a_purge_takes_the_aliases_along(driver: Driver) -> None:
    _, [first], _ = await a_caller(driver, key="k")
    _, [second], _ = await a_caller(driver, key="k")
    await ended(driver, await run(driver, first.id))
    purge = Purge(ended=tuple(await driver.store.ended(driver.clock.ms, 100)), before_ms=driver.clock.ms)
    assert (await driver.do(Purged, purge)).count == 1
    assert await driver.store.keyed(["alias"], second.id) == []


# ── cancelling and killing ──────────────────────────────────────────────────────────────────


async def cancel(driver: Driver, invocation_id: str) -> CancelMarked:
    return await driver.do(CancelMarked, Cancel(invocation_id=invocation_id))


def raising(driver: Driver, caller: Invocation, waits: Sequence[NewAwakeable]) -> Advance:
    """The commit in which the handler gets its cancellation."""
    order = driver.an_advance(caller, chunk=b'[{"k":"cancel","reason":"r"}]')
    return replace(order, cancels=tuple(wait.id for wait in waits))


async def test_a_cancelled_caller_cancels_its_calls_and_may_wait_for_their_end(driver: Driver) -> None:
    caller, [call], waits = await a_caller(driver)
    callee = await run(driver, call.id)
    await cancel(driver, caller.id)
    reply = await driver.do(Advanced, raising(driver, await driver.invocation(caller.id), waits))
    assert ([row.id for row in reply.stopped], reply.settled, reply.wakes) == ([call.id], (), ())
    marked = await driver.invocation(call.id)
    assert (marked.status, marked.cancelled_ms) == ("running", driver.clock.ms)
    assert (await wait_of(driver, waits[0])).state == "pending"
    await ended(driver, marked, CANCELLED_OUTCOME)
    assert (await wait_of(driver, waits[0])).state == "cancelled"
    assert callee.epoch == marked.epoch


async def test_a_call_that_never_ran_ends_with_the_cancellation(driver: Driver) -> None:
    caller, [call], [wait] = await a_caller(driver)
    await cancel(driver, caller.id)
    before = await driver.invocation(caller.id)
    reply = await driver.do(Advanced, raising(driver, before, [wait]))
    assert (await driver.invocation(call.id)).result == CANCELLED_OUTCOME
    [wake] = reply.wakes
    assert (wake.invocation_id, wake.outcome) == (caller.id, CANCELLED_OUTCOME)
    assert reply.invocation.wake == wake.wake == (await driver.invocation(caller.id)).wake == before.wake + 1


async def test_joined_and_attached_calls_are_left_alone(driver: Driver) -> None:
    caller, [call], [wait] = await a_caller(driver, key="k")
    await cancel(driver, caller.id)
    reply = await driver.do(Advanced, raising(driver, await driver.invocation(caller.id), [wait]))
    assert (reply.settled, reply.stopped) == (((wait.id, CANCELLED_OUTCOME),), ())
    assert (await driver.invocation(call.id)).cancelled_ms is None
    assert (await ended(driver, await run(driver, call.id))).wakes == ()


async def test_a_caller_that_ends_cancels_the_calls_that_it_leaves(driver: Driver) -> None:
    caller, [call, other], waits = await a_caller(driver, calls=2)
    running = await run(driver, call.id)
    await driver.advance(await driver.invocation(other.id), Suspend(wake=0))
    reply = await ended(driver, await driver.invocation(caller.id), DONE, *(wait.id for wait in waits))
    assert sorted(row.id for row in reply.stopped) == sorted([call.id, other.id])
    assert [row.state for row in [await wait_of(driver, wait) for wait in waits]] == ["cancelled"] * 2
    assert (await driver.invocation(other.id)).status == "pending"
    # Its end wakes nobody: the caller is gone.
    assert (await ended(driver, await driver.invocation(running.id), CANCELLED_OUTCOME)).wakes == ()


async def test_a_kill_goes_down_the_tree(driver: Driver) -> None:
    top, [call], _ = await a_caller(driver)
    middle = await run(driver, call.id)
    below = driver.a_call(middle)
    sent = driver.a_call(middle)
    wait = driver.a_wait(below.id)
    callback = NewAwakeable(id=driver.id("prom"))
    order = driver.an_advance(middle, awakeables=[wait, callback], calls=[below, sent])
    middle = (await driver.do(Advanced, order)).invocation
    onlooker = await driver.begin(owner="onlooker")
    looks = driver.a_wait(below.id, owned=False)
    await driver.do(Advanced, driver.an_advance(onlooker, awakeables=[looks]))
    killed = await driver.do(Killed, Kill(invocation_id=top.id))
    assert killed.done
    assert sorted(row.id for row in killed.stopped) == sorted([middle.id, below.id])
    for invocation_id in (top.id, middle.id, below.id):
        assert (await driver.invocation(invocation_id)).result == KILLED
    assert (await driver.invocation(sent.id)).status == "pending"
    assert (await driver.awakeable(callback.id)).state == "cancelled"
    [wake] = killed.wakes
    assert (wake.invocation_id, wake.awakeable_id, wake.outcome) == (onlooker.id, looks.id, KILLED)
    # Whoever runs them is fenced.
    await driver.do(Fenced, driver.an_advance(middle, chunk=None))
    again = await driver.do(Killed, Kill(invocation_id=top.id))
    assert (again.done, again.stopped) == (True, ())


async def test_a_kill_and_what_comes_before_it_in_one_group(driver: Driver) -> None:
    caller = await driver.begin(owner="me")
    call = driver.a_call(caller)
    wait, callback = driver.a_wait(call.id), NewAwakeable(id=driver.id("prom"))
    order = driver.an_advance(caller, awakeables=[wait, callback], calls=[call])
    begin = driver.a_begin(owner="me", first=True)
    *_, one, other = await driver.store.commit(
        [order, begin, Kill(invocation_id=caller.id), Kill(invocation_id=begin.id)]
    )
    assert isinstance(one, Killed)
    assert isinstance(other, Killed)
    assert ([row.id for row in one.stopped], other.done) == ([call.id], True)
    assert (await driver.awakeable(callback.id)).state == "cancelled"


async def test_a_cancelled_call_that_never_ran_tells_its_caller(driver: Driver) -> None:
    caller, [call], [wait] = await a_caller(driver)
    marked = await cancel(driver, call.id)
    assert [wake.awakeable_id for wake in marked.wakes] == [wait.id]
    assert marked.invocation is not None
    assert marked.invocation.result == CANCELLED_OUTCOME
    assert (await driver.invocation(caller.id)).wake == 1


# ── what others see ─────────────────────────────────────────────────────────────────────────


async def test_no_completion_settles_a_wait_for_a_call(driver: Driver) -> None:
    _, _, [wait] = await a_caller(driver)
    [verdict] = (await driver.do(SettledAll, Settle(completions=(resolved(wait.id),)))).verdicts
    assert verdict is not None
    assert verdict.kind == "unknown"
    assert (await wait_of(driver, wait)).state == "pending"


async def test_waits_for_calls_are_no_awakeables_to_people(driver: Driver) -> None:
    caller, [call], [wait] = await a_caller(driver)
    assert await driver.store.awakeables(ALL) == []
    assert await driver.store.awakeables(ALL, state="pending") == []
    assert (await driver.store.counts())["awakeables_pending"] == 0
    await ended(driver, await run(driver, call.id))
    assert await driver.store.awakeables(ALL, state="resolved") == []
    assert (await driver.store.counts())["awakeables_pending"] == 0
    await ended(driver, await driver.invocation(caller.id))
    purge = Purge(ended=tuple(await driver.store.ended(driver.clock.ms, 100)), before_ms=driver.clock.ms)
    assert (await driver.do(Purged, purge)).count == 2
    assert await driver.store.awakeable(wait.id) is None
    assert (await driver.store.counts())["awakeables_pending"] == 0


async def test_a_stale_caller_calls_nobody(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    order = driver.an_advance(row, chunk=None, calls=[call := driver.a_call(row)])
    await driver.do(Fenced, replace(order, epoch=row.epoch + 1))
    assert await driver.store.invocation(call.id) is None


async def test_a_commit_that_is_sent_again_calls_once(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    call = driver.a_call(row, key="k")
    wait = driver.a_wait(call.id, owned=False)
    order = driver.an_advance(row, awakeables=[wait], calls=[call])
    first = await driver.do(Advanced, order)
    assert await driver.do(Advanced, order) == first
    await ended(driver, await run(driver, call.id))
    assert (await driver.do(Advanced, order)).settled == ((wait.id, DONE),)
    assert len(await driver.store.invocations(ALL)) == 2


async def test_begin_and_call_of_one_key_in_one_group(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    call = driver.a_call(row, key="k")
    begin: Begin = driver.a_begin(idempotency=call.idempotency)
    _, begun = await driver.store.commit([driver.an_advance(row, chunk=None, calls=[call]), begin])
    assert begun == Begun(id=call.id, created=False)


async def test_a_call_that_is_made_and_cancelled_in_one_commit_tells_its_caller(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    await cancel(driver, row.id)
    row = await driver.invocation(row.id)
    call = driver.a_call(row)
    wait = driver.a_wait(call.id)
    order = replace(driver.an_advance(row, awakeables=[wait], calls=[call]), cancels=(wait.id,))
    reply = await driver.do(Advanced, order)
    assert (await driver.invocation(call.id)).result == CANCELLED_OUTCOME
    assert (await wait_of(driver, wait)).state == "cancelled"
    assert [wake.awakeable_id for wake in reply.wakes] == [wait.id]


# ── called off by the handler ───────────────────────────────────────────────────────────────


async def called_off(driver: Driver, row: Invocation, *ids: str) -> Advanced:
    order = replace(driver.an_advance(row, chunk=b"[]"), called_off=ids)
    reply = await driver.do(Advanced, order)
    assert (await driver.do(Advanced, order)).settled == reply.settled
    return reply


async def test_an_awakeable_that_is_called_off_is_cancelled_and_told_with_the_reply(driver: Driver) -> None:
    row, [first, second] = await driver.running_with(
        NewAwakeable(id=driver.id("prom")), NewAwakeable(id=driver.id("prom"))
    )
    await driver.settle(resolved(second))
    reply = await called_off(driver, row, first, second)
    assert reply.settled == ((first, CALLED_OFF),)
    assert (await driver.awakeable(first)).outcome == CALLED_OFF
    assert (await driver.awakeable(second)).state == "resolved"


async def test_an_invocation_that_is_called_off_is_cancelled_whoever_began_it(driver: Driver) -> None:
    caller, [call], [wait] = await a_caller(driver, key="k")
    _, [alias], _ = await a_caller(driver, key="k")
    running = await driver.begin(owner="callee")
    reply = await called_off(driver, caller, alias.id, running.id, driver.id("inv"))
    assert sorted(row.id for row in reply.stopped) == sorted([call.id, running.id])
    assert (await driver.invocation(call.id)).result == CANCELLED_OUTCOME
    assert (await wait_of(driver, wait)).state == "cancelled"
    assert (await driver.invocation(running.id)).cancelled_ms is not None
