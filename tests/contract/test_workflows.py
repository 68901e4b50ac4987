"""Workflows in every store: a run once per key, its promises, and what ends with it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from awakeables.core.awakeables import PROMISE, Completion
from awakeables.core.commands import (
    Begin,
    BeginBatch,
    Cancel,
    Ended,
    Idempotency,
    Kill,
    NewAwakeable,
    NewCall,
    OfWorkflow,
    PartitionFence,
    Purge,
    Queue,
    Restart,
    Settle,
    TakePartitions,
)
from awakeables.core.ids import promise_id
from awakeables.core.invocations import Continue, End, Invocation, Suspend
from awakeables.core.journal import AttachRequested, Input, PromiseCreated, encode_chunk
from awakeables.core.objects import RUN, StateWrite
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replies import (
    Advanced,
    BatchBegun,
    Begun,
    CancelMarked,
    KeyConflict,
    Killed,
    NotBegun,
    PartitionsTaken,
    Purged,
    Restarted,
    SettledAll,
)
from contract.driver import DLQ, TOPIC, Driver

SCOPE = "run of signups"
RUN_ENDED = Rejection(reason="the run ended and had not settled this promise", code=410)
TRUE = Resolution.of_json(b"true")


def promise_of(key: str = "k", name: str = "verified") -> str:
    return promise_id("signups", key, name)


def a_run(driver: Driver, key: str = "k", fingerprint: str = "f") -> Begin:
    promises = tuple(NewAwakeable(id=promise_of(key, name)) for name in ("verified", "note"))
    given = Input(service="signups", handler="run", seed="5eed", at_ms=1, key=key)
    created = [PromiseCreated(id=each.id, name="p") for each in promises]
    return Begin(
        id=driver.id("inv"),
        service="signups",
        handler="run",
        chunk=encode_chunk([given, *created]),
        key=key,
        idempotency=Idempotency(scope=SCOPE, key=key, fingerprint=fingerprint),
        workflow=OfWorkflow(is_run=True, scope=SCOPE, promises=promises),
    )


def a_signal(driver: Driver, key: str = "k") -> Begin:
    given = Input(service="signups", handler="clicked", seed="5eed", at_ms=1, key=key)
    return Begin(
        id=driver.id("inv"),
        service="signups",
        handler="clicked",
        chunk=encode_chunk([given]),
        key=key,
        workflow=OfWorkflow(is_run=False, scope=SCOPE),
    )


async def running(driver: Driver, begin: Begin) -> Invocation:
    await driver.do(Begun, begin)
    rows = await driver.claim(limit=100)
    return next(row for row in rows if row.id == begin.id)


async def waits(
    driver: Driver, row: Invocation, promise: str | None = None, *, suspends: bool = True
) -> tuple[Invocation, str, Advanced]:
    """It waits for a promise: its row after that, the wait, and the reply."""
    wait, promise = driver.id("prom"), promise or promise_of()
    command = driver.an_advance(row, Suspend(wake=row.wake) if suspends else Continue())
    chunk = encode_chunk([AttachRequested(id=promise, wait=wait)])
    new = (NewAwakeable(id=wait, source=promise),)
    advanced = await driver.do(
        Advanced, replace(command, chunk=chunk, awakeables=new, effects=(), schemas=())
    )
    return advanced.invocation, wait, advanced


async def settle(driver: Driver, body: Any = TRUE, source: str = "handler:inv:1") -> SettledAll:
    completion = Completion(awakeable_id=promise_of(), body=body, source=source, of_promise=True)
    return await driver.do(SettledAll, Settle(completions=(completion,)))


async def test_a_run_is_begun_with_its_promises_once_per_key(driver: Driver) -> None:
    run = a_run(driver)
    assert await driver.do(Begun, run) == Begun(id=run.id, created=True)
    row = await driver.invocation(run.id)
    assert (row.status, row.ticket, row.key) == ("pending", RUN, "k")
    promise = await driver.awakeable(promise_of())
    assert (promise.state, promise.invocation_id, promise.source_utf8) == ("pending", run.id, PROMISE)
    assert await driver.do(Begun, a_run(driver)) == Begun(id=run.id, created=False)
    assert await driver.do(KeyConflict, a_run(driver, fingerprint="other")) == KeyConflict(id=run.id)
    assert (await driver.do(Begun, a_run(driver, "other"))).created
    # Sent again after a lost acknowledgement.
    assert await driver.do(Begun, run) == Begun(id=run.id, created=True)


async def test_records_of_a_key_that_has_a_run_are_counted_and_begin_nothing(driver: Driver) -> None:
    """Whatever they say: one of the run that was there, and one of a run of the same batch."""
    await driver.do(Begun, a_run(driver))
    await driver.do(
        PartitionsTaken, TakePartitions(owner="me", topic=TOPIC, partitions=(0,), subscription="new")
    )
    first = a_run(driver, "new")
    begins = (a_run(driver, fingerprint="other"), first, a_run(driver, "new"))
    fence = PartitionFence(topic=TOPIC, partition=0, epoch=1, first=4, next=7, owner="me", subscription="new")
    batch = BeginBatch(fence=fence, begins=begins, offsets=(4, 5, 6), relay_to=DLQ)
    assert await driver.do(BatchBegun, batch) == BatchBegun(ids=(first.id,), next=7, joined=2)


async def test_other_handlers_need_a_run(driver: Driver) -> None:
    signal = a_signal(driver)
    await driver.do(NotBegun, signal)
    assert await driver.store.invocation(signal.id) is None
    await driver.do(Begun, a_run(driver))
    assert (await driver.do(Begun, signal)).created
    assert (await driver.invocation(signal.id)).ticket is None


async def test_settling_a_promise_wakes_all_that_wait_for_it_at_once(driver: Driver) -> None:
    run = await running(driver, a_run(driver))
    signal = await running(driver, a_signal(driver))
    run, first, _ = await waits(driver, run)
    signal, second, _ = await waits(driver, signal)
    settled = await settle(driver)
    assert [verdict and verdict.kind for verdict in settled.verdicts] == ["accepted"]
    woken = sorted((wake.invocation_id, wake.awakeable_id) for wake in settled.wakes)
    assert woken == sorted([(run.id, first), (signal.id, second)])
    assert [wake.outcome for wake in settled.wakes] == [TRUE, TRUE]
    assert {(await driver.invocation(key)).status for key in (run.id, signal.id)} == {"pending"}
    assert [(await driver.awakeable(key)).outcome for key in (promise_of(), first, second)] == [TRUE] * 3


async def test_the_first_one_settles_it(driver: Driver) -> None:
    await driver.do(Begun, a_run(driver))
    rejected = Rejection(reason="no", code=409)
    kinds = []
    for body, source in ((TRUE, "a"), (TRUE, "a"), (TRUE, "b"), (rejected, "c")):
        (verdict,) = (await settle(driver, body, source)).verdicts
        assert verdict is not None
        kinds.append(verdict.kind)
    assert kinds == ["accepted", "accepted", "duplicate", "conflict"]


async def test_who_comes_later_gets_the_outcome_with_the_commit(driver: Driver) -> None:
    await driver.do(Begun, a_run(driver))
    await settle(driver)
    signal = await running(driver, a_signal(driver))
    row, wait, advanced = await waits(driver, signal, suspends=False)
    assert advanced.settled == ((wait, TRUE),)
    assert (await driver.awakeable(wait)).state == "resolved"
    assert row.id == signal.id


async def test_what_comes_from_outside_settles_no_promise(driver: Driver) -> None:
    await driver.do(Begun, a_run(driver))
    completion = Completion(awakeable_id=promise_of(), body=TRUE, source="http:1")
    (verdict,) = (await driver.settle(completion)).verdicts
    assert verdict is not None
    assert verdict.kind == "unknown"
    assert (await driver.awakeable(promise_of())).state == "pending"


async def test_a_promise_that_the_run_does_not_have_is_refused(driver: Driver) -> None:
    await driver.do(Begun, a_run(driver))
    signal = await running(driver, a_signal(driver))
    _, wait, advanced = await waits(driver, signal, promise_of(name="later"), suspends=False)
    ((key, outcome),) = advanced.settled
    assert key == wait
    assert isinstance(outcome, Rejection)
    assert outcome.code == 404


@pytest.mark.parametrize("how", ["end", "kill"])
async def test_the_end_of_a_run_cancels_its_promises_and_tells_who_waits(driver: Driver, how: str) -> None:
    begin = a_run(driver)
    run = await running(driver, begin)
    signal = await running(driver, a_signal(driver))
    signal, wait, _ = await waits(driver, signal)
    match how:
        case "end":
            command = driver.an_advance(run, End(result=Resolution.of_json(b"1")))
            ended: Any = await driver.do(Advanced, command)
        case _:
            ended = await driver.do(Killed, Kill(invocation_id=begin.id))
    assert [(wake.invocation_id, wake.awakeable_id) for wake in ended.wakes] == [(signal.id, wait)]
    assert (await driver.awakeable(wait)).outcome == RUN_ENDED
    assert (await driver.awakeable(promise_of())).state == "cancelled"
    (verdict,) = (await settle(driver)).verdicts
    assert verdict is not None
    assert verdict.kind == "late"
    again = await running(driver, a_signal(driver))
    _, later, advanced = await waits(driver, again, suspends=False)
    assert advanced.settled == ((later, RUN_ENDED),)


async def test_a_circle_through_a_run_is_found_whatever_promises_it_has(driver: Driver) -> None:
    """The run waits for the key of an object, whose holder would wait for the run."""
    outside = await driver.begin(owner="outside")
    call = driver.a_call(outside, object_key="p-0", queue=Queue())
    await driver.do(Advanced, driver.an_advance(outside, chunk=None, calls=[call]))
    run = a_run(driver)
    await driver.do(Begun, run)
    rows = {row.id: row for row in await driver.claim(limit=100)}
    behind = driver.a_call(rows[run.id], object_key="p-0", queue=Queue(callers=(run.id,)))
    waits = [driver.a_wait(behind.id)]
    advanced = await driver.do(Advanced, driver.an_advance(rows[run.id], awakeables=waits, calls=[behind]))
    assert advanced.settled == ()
    back = driver.a_wait(run.id, owned=False)
    advanced = await driver.do(Advanced, driver.an_advance(rows[call.id], awakeables=[back]))
    refusal = Rejection(reason="deadlock: parcels/p-0 would wait for itself", code=409)
    assert advanced.settled == ((back.id, refusal),)


async def test_a_run_that_was_never_claimed_ends_its_promises_when_it_is_cancelled(driver: Driver) -> None:
    begin = a_run(driver)
    await driver.do(Begun, begin)
    await driver.do(CancelMarked, Cancel(invocation_id=begin.id))
    assert (await driver.invocation(begin.id)).status == "completed"
    assert (await driver.awakeable(promise_of())).state == "cancelled"


async def test_a_run_is_not_restarted(driver: Driver) -> None:
    begin = a_run(driver)
    await driver.do(Begun, begin)
    await driver.do(Killed, Kill(invocation_id=begin.id))
    row = await driver.invocation(begin.id)
    command = Restart(
        invocation_id=row.id, id=driver.id("inv"), chunk=begin.chunk, version=row.version, build="b1"
    )
    assert not (await driver.do(Restarted, command)).done


async def test_purging_a_run_frees_its_key(driver: Driver) -> None:
    run = await running(driver, a_run(driver))
    write = StateWrite(name="step", value=b'{"status":"resolved","value":1}')
    command = replace(driver.an_advance(run, Continue()), writes=(write,), awakeables=(), effects=())
    row = (await driver.do(Advanced, command)).invocation
    assert await driver.store.state(("signups", b"k"), "step") is not None
    await driver.do(Advanced, driver.an_advance(row, End(result=Resolution.of_json(b"1"))))
    driver.clock.ms += 10
    ids = (promise_of(), promise_of(name="note"))
    purge = Purge(ended=(Ended(id=run.id, awakeables=ids),), before_ms=driver.clock.ms)
    assert (await driver.do(Purged, purge)).count == 1
    assert await driver.store.state(("signups", b"k"), "step") is None
    assert await driver.store.awakeable(promise_of()) is None
    await driver.do(NotBegun, a_signal(driver))
    assert (await driver.do(Begun, a_run(driver, fingerprint="other"))).created


async def test_a_handler_begins_a_run_and_signals_it_in_one_commit(driver: Driver) -> None:
    caller = await driver.begin(owner="me")
    run, signal, early = a_run(driver), a_signal(driver), a_signal(driver, "other")

    def called(begin: Begin) -> NewCall:
        return NewCall(
            id=begin.id,
            service=begin.service,
            handler=begin.handler,
            chunk=begin.chunk,
            key=begin.key,
            idempotency=begin.idempotency,
            workflow=begin.workflow,
        )

    command = replace(
        driver.an_advance(caller, Continue()),
        awakeables=(),
        effects=(),
        schemas=(),
        calls=(called(run), called(signal), called(early)),
    )
    await driver.do(Advanced, command)
    assert (await driver.invocation(run.id)).ticket == RUN
    assert (await driver.invocation(signal.id)).status == "pending"
    refused = await driver.invocation(early.id)
    assert refused.status == "completed"
    assert isinstance(refused.result, Rejection)
    assert (refused.result.code, refused.result.reason) == (
        404,
        "signups/other has not begun: call its run first",
    )
    assert (await driver.awakeable(promise_of())).invocation_id == run.id


async def test_a_call_that_is_sent_again_gets_its_answer_though_its_run_is_purged(driver: Driver) -> None:
    row = await running(driver, a_run(driver))
    signal = a_signal(driver)
    begun = await driver.do(Begun, signal)
    await driver.end(row)
    ended = (Ended(id=row.id, awakeables=(promise_of(), promise_of(name="note"))),)
    await driver.do(Purged, Purge(ended=ended, before_ms=driver.clock.ms))
    assert await driver.do(Begun, signal) == begun
    await driver.do(NotBegun, a_signal(driver))
