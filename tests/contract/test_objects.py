"""The queues of objects' keys, and their state: one head at a time, first come first served (O1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from awakeables.core.commands import (
    Cancel,
    Claim,
    EditState,
    ExpireState,
    Kill,
    PauseKey,
    Queue,
    ResumeKey,
    TakeTickets,
)
from awakeables.core.invocations import CANCELLED_OUTCOME, End, Failure, Invocation, Pause, Suspend
from awakeables.core.objects import DELAYED, ObjectRow, StateEntry, StateWrite
from awakeables.core.outcomes import Rejection, Resolution, encode_outcome
from awakeables.core.replies import (
    Acknowledged,
    Advanced,
    Begun,
    CancelMarked,
    Claimed,
    Fenced,
    KeyChanged,
    Killed,
    QueueFull,
    StateExpired,
)
from contract.driver import Driver

CART = ("orders", b"c-7")
ONE = Resolution.of_json(b"1")
VALUE = encode_outcome(ONE)


async def enter(driver: Driver, key: str = "c-7", **options: Any) -> Invocation:
    return await driver.begin(key=key, queue=Queue(), **options)


async def run(driver: Driver, expected: Invocation, owner: str = "me") -> Invocation:
    """Claim all that may run, which is one."""
    [row] = await driver.claim(owner)
    assert row.id == expected.id
    return row


async def statuses(driver: Driver, rows: Sequence[Invocation]) -> list[str]:
    return [(await driver.invocation(row.id)).status for row in rows]


async def queue(driver: Driver, key: tuple[str, bytes] = CART) -> ObjectRow | None:
    return await driver.store.queue(key)


async def test_the_first_of_a_key_runs_and_the_others_wait_in_the_order_in_which_they_came(
    driver: Driver,
) -> None:
    rows = [await enter(driver) for _ in range(4)]
    other = await enter(driver, "c-8")
    assert [row.ticket for row in rows] == [1, 2, 3, 4]
    assert await statuses(driver, rows) == ["pending", "queued", "queued", "queued"]
    assert (await driver.invocation(rows[1].id)).due_ms is None
    assert [row.id for row in await driver.store.in_line(CART, 2)] == [rows[1].id, rows[2].id]
    claimed = {row.id: row for row in await driver.claim()}
    assert claimed.keys() == {rows[0].id, other.id}
    await driver.end(claimed[other.id])
    head = claimed[rows[0].id]
    for n, row in enumerate(rows):
        held = await queue(driver)
        assert held == ObjectRow(*CART, row.id, 4, 4 - n, driver.clock.ms)
        assert await statuses(driver, rows[n:]) == ["running", *["queued"] * (3 - n)]
        driver.clock.ms += 10
        await driver.end(head)
        if n < 3:
            head = await run(driver, rows[n + 1])
    assert await queue(driver) is None
    assert await queue(driver, ("orders", b"c-8")) is None
    assert await driver.store.in_line(CART, 9) == []


@pytest.mark.parametrize(
    "step", [Suspend(wake=0, due_ms=2**42), Pause(failure=Failure(kind="k", message="m", at_ms=1))]
)
async def test_one_that_waits_or_is_paused_keeps_its_key(driver: Driver, step: Any) -> None:
    rows = [await enter(driver) for _ in range(2)]
    await driver.advance(await run(driver, rows[0]), step)
    assert await driver.claim("other") == []
    assert (await driver.invocation(rows[1].id)).status == "queued"


async def test_keys_may_be_any_text(driver: Driver) -> None:
    for key in ("a/b", "\x00", "ß" * 500, "\U0001f600"):
        rows = [await enter(driver, key) for _ in range(2)]
        assert (await driver.invocation(rows[1].id)).key == key
        await driver.end(await run(driver, rows[0]))
        await driver.end(await run(driver, rows[1]))


async def test_a_begin_that_is_sent_again_takes_one_place(driver: Driver) -> None:
    begin = driver.a_begin(key="c-7", queue=Queue())
    assert await driver.do(Begun, begin) == await driver.do(Begun, begin)
    held = await queue(driver)
    assert held is not None
    assert (held.length, held.tail) == (1, 1)


async def test_in_one_group_a_key_is_passed_on_more_than_once(driver: Driver) -> None:
    """Each decision sees what those before it have changed and not written yet."""
    rows = [await enter(driver) for _ in range(3)]
    late = driver.a_begin(key="c-7", queue=Queue())
    replies = await driver.store.commit(
        [
            Kill(invocation_id=rows[1].id),
            Kill(invocation_id=rows[0].id),
            late,
            Cancel(invocation_id=rows[2].id),
            driver.a_begin(key="c-7", queue=Queue()),
        ]
    )
    assert [type(reply) for reply in replies] == [Killed, Killed, Begun, CancelMarked, Begun]
    assert await statuses(driver, rows) == ["completed"] * 3
    await driver.end(await run(driver, await driver.invocation(late.id)))
    held = await queue(driver)
    assert held is not None
    assert (held.length, held.tail) == (1, 5)


async def test_a_whole_queue_that_comes_and_goes_in_one_group_leaves_no_row(driver: Driver) -> None:
    begins = [driver.a_begin(key="c-7", queue=Queue()) for _ in range(3)]
    await driver.store.commit([*begins, *(Kill(invocation_id=each.id) for each in begins)])
    assert await queue(driver) is None
    assert await statuses(driver, [await driver.invocation(each.id) for each in begins]) == ["completed"] * 3


async def test_a_kill_frees_the_key_at_once_and_the_owner_is_fenced(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(2)]
    row = await run(driver, rows[0])
    await driver.do(Killed, Kill(invocation_id=row.id))
    await driver.do(Fenced, driver.an_advance(row, End(result=ONE), chunk=None))
    assert (await run(driver, rows[1])).id == rows[1].id


async def test_a_queued_one_that_is_cancelled_ends_at_once(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(3)]
    marked = await driver.do(CancelMarked, Cancel(invocation_id=rows[1].id))
    assert marked.invocation is not None
    assert marked.invocation.result == CANCELLED_OUTCOME
    await driver.end(await run(driver, rows[0]))
    assert (await run(driver, rows[2])).id == rows[2].id


async def test_a_repeated_end_passes_the_key_on_once(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(3)]
    row = await run(driver, rows[0])
    end = driver.an_advance(row, End(result=ONE), chunk=None)
    await driver.do(Advanced, end)
    await driver.do(Advanced, end)
    assert await statuses(driver, rows) == ["completed", "pending", "queued"]


async def test_a_full_queue_refuses_a_begin_and_makes_nothing(driver: Driver) -> None:
    [await enter(driver) for _ in range(2)]
    begin = driver.a_begin(key="c-7", queue=Queue(most=2))
    assert await driver.do(QueueFull, begin) == QueueFull(length=2)
    assert await driver.store.invocation(begin.id) is None
    await driver.do(Begun, driver.a_begin(key="c-7", queue=Queue(most=3)))


# ── calls ───────────────────────────────────────────────────────────────────────────────────


async def test_calls_and_sends_take_their_places_in_the_order_in_which_they_were_made(driver: Driver) -> None:
    caller = await driver.begin(owner="me")
    calls = [driver.a_call(caller, object_key="p-1", queue=Queue()) for _ in range(3)]
    await driver.do(Advanced, driver.an_advance(caller, chunk=None, calls=calls))
    rows = [await driver.invocation(call.id) for call in calls]
    assert [(row.ticket, row.status, row.key) for row in rows] == [
        (1, "pending", "p-1"),
        (2, "queued", "p-1"),
        (3, "queued", "p-1"),
    ]


async def test_a_call_of_a_full_key_is_born_rejected_and_its_caller_goes_on(driver: Driver) -> None:
    caller = await driver.begin(owner="me")
    full = [driver.a_call(caller, object_key="p-1", queue=Queue()) for _ in range(2)]
    call = driver.a_call(caller, object_key="p-1", queue=Queue(most=2))
    wait = driver.a_wait(call.id)
    step = driver.an_advance(caller, awakeables=[wait], calls=[*full, call])
    settled = ((wait.id, Rejection(reason="parcels/p-1 has 2 calls in its queue already", code=429)),)
    assert (await driver.do(Advanced, step)).settled == settled
    assert (await driver.do(Advanced, step)).settled == settled
    assert await driver.store.invocation(call.id) is None
    assert (await driver.awakeable(wait.id)).state == "rejected"


async def a_caller(driver: Driver, key: str) -> Invocation:
    """The running head of a key of `parcels`, begun by a call."""
    outside = await driver.begin(owner="outside")
    call = driver.a_call(outside, object_key=key, queue=Queue())
    await driver.do(Advanced, driver.an_advance(outside, chunk=None, calls=[call]))
    return await run(driver, await driver.invocation(call.id))


@pytest.mark.parametrize("length", [2, 3])
async def test_the_call_that_would_close_a_circle_is_refused(driver: Driver, length: int) -> None:
    keys = [f"p-{n}" for n in range(length)]
    heads = [await a_caller(driver, key) for key in keys]
    for n, head in enumerate(heads):
        call = driver.a_call(head, object_key=keys[(n + 1) % length], queue=Queue(callers=(head.id,)))
        wait = driver.a_wait(call.id)
        advanced = await driver.do(Advanced, driver.an_advance(head, awakeables=[wait], calls=[call]))
        if n < length - 1:
            assert advanced.settled == ()
            continue
        [(_, outcome)] = advanced.settled
        assert isinstance(outcome, Rejection)
        chain = " → ".join(f"parcels/{key}" for key in keys)
        assert (outcome.code, outcome.reason) == (409, f"deadlock: {chain} would wait for itself")


async def test_a_circle_through_a_handler_of_a_service_is_found(driver: Driver) -> None:
    """p-0 calls a service, which calls p-1, whose head has called p-0."""
    first, second = [await a_caller(driver, key) for key in ("p-0", "p-1")]
    plain = driver.a_call(first)
    await driver.do(Advanced, driver.an_advance(first, awakeables=[driver.a_wait(plain.id)], calls=[plain]))
    service = await run(driver, await driver.invocation(plain.id))
    back = driver.a_call(second, object_key="p-0", queue=Queue(callers=(second.id,)))
    await driver.do(Advanced, driver.an_advance(second, awakeables=[driver.a_wait(back.id)], calls=[back]))
    last = driver.a_call(service, object_key="p-1", queue=Queue(callers=(service.id,)))
    wait = driver.a_wait(last.id)
    advanced = await driver.do(Advanced, driver.an_advance(service, awakeables=[wait], calls=[last]))
    [(_, outcome)] = advanced.settled
    assert isinstance(outcome, Rejection)
    assert outcome.code == 409


async def test_one_that_attaches_to_what_is_queued_behind_it_is_refused(driver: Driver) -> None:
    """In the commit that sends it, or later."""
    head = await a_caller(driver, "p-0")
    sent = [driver.a_call(head, object_key="p-0", queue=Queue()) for _ in range(2)]
    wait = driver.a_wait(sent[0].id, owned=False)
    advanced = await driver.do(Advanced, driver.an_advance(head, awakeables=[wait], calls=sent))
    later = driver.a_wait(sent[1].id, owned=False)
    again = await driver.do(Advanced, driver.an_advance(advanced.invocation, awakeables=[later]))
    for wait_id, outcome in (*advanced.settled, *again.settled):
        assert wait_id in (wait.id, later.id)
        assert isinstance(outcome, Rejection)
        assert (outcome.code, outcome.reason) == (409, "deadlock: parcels/p-0 would wait for itself")
    assert len(advanced.settled) == len(again.settled) == 1
    await driver.end(again.invocation)
    assert await statuses(driver, [await driver.invocation(each.id) for each in sent]) == [
        "pending",
        "queued",
    ]


async def test_one_that_waits_for_something_else_as_well_is_no_circle(driver: Driver) -> None:
    first, second = [await a_caller(driver, key) for key in ("p-0", "p-1")]
    call = driver.a_call(first, object_key="p-1", queue=Queue(callers=(first.id,)))
    both = [driver.a_wait(call.id), driver.a_wait(second.id, owned=False)]
    await driver.do(Advanced, driver.an_advance(first, awakeables=both, calls=[call]))
    back = driver.a_call(second, object_key="p-0", queue=Queue(callers=(second.id,)))
    wait = driver.a_wait(back.id)
    advanced = await driver.do(Advanced, driver.an_advance(second, awakeables=[wait], calls=[back]))
    assert advanced.settled == ()


async def test_a_call_of_a_key_that_a_caller_of_its_caller_holds_is_refused(driver: Driver) -> None:
    """Whatever else that one waits for; not once it has let go."""
    first = await a_caller(driver, "p-0")
    plain, other = driver.a_call(first), driver.a_call(first)
    waits = [driver.a_wait(plain.id), driver.a_wait(other.id)]
    advanced = await driver.do(Advanced, driver.an_advance(first, awakeables=waits, calls=[plain, other]))
    for service, is_held in zip(await driver.claim("me"), (True, False), strict=True):
        if not is_held:
            await driver.end(advanced.invocation, *[each.id for each in waits])
        back = driver.a_call(service, object_key="p-0", queue=Queue(callers=(first.id,)))
        wait = driver.a_wait(back.id)
        step = await driver.do(Advanced, driver.an_advance(service, awakeables=[wait], calls=[back]))
        refused = [(each, outcome.reason) for each, outcome in step.settled if isinstance(outcome, Rejection)]
        assert refused == ([(wait.id, "deadlock: parcels/p-0 would wait for itself")] if is_held else [])
        assert (await driver.store.invocation(back.id) is None) == is_held


async def test_one_that_attaches_to_a_delayed_one_behind_it_is_refused(driver: Driver) -> None:
    head = await a_caller(driver, "p-0")
    late = replace(driver.a_call(head, object_key="p-0", queue=Queue()), delay_ms=5000)
    wait = driver.a_wait(late.id, owned=False)
    advanced = await driver.do(Advanced, driver.an_advance(head, awakeables=[wait], calls=[late]))
    [(_, outcome)] = advanced.settled
    assert isinstance(outcome, Rejection)
    assert (outcome.code, outcome.reason) == (409, "deadlock: parcels/p-0 would wait for itself")


# ── delays ──────────────────────────────────────────────────────────────────────────────────


async def test_a_delayed_one_takes_its_place_when_its_time_has_come(driver: Driver) -> None:
    late = await enter(driver, delay_ms=5000)
    assert (late.ticket, late.status) == (DELAYED, "pending")
    assert await queue(driver) is None
    head = await enter(driver)
    driver.clock.ms += 5000
    claimed = await driver.do(Claimed, Claim(owner="me", limit=10))
    assert [row.id for row in claimed.invocations] == [head.id]
    assert claimed.arrived == (late.id,)
    for _ in range(2):
        await driver.do(Acknowledged, TakeTickets(ids=claimed.arrived))
        assert (await driver.invocation(late.id)).status == "queued"
    again = await driver.do(Claimed, Claim(owner="me", limit=10))
    assert again == Claimed(invocations=())
    await driver.end(claimed.invocations[0])
    await driver.end(await run(driver, await driver.invocation(late.id)))
    assert await queue(driver) is None


async def test_a_delayed_one_whose_key_is_free_runs_when_its_time_has_come(driver: Driver) -> None:
    late = await enter(driver, delay_ms=5000)
    driver.clock.ms += 5000
    claimed = await driver.do(Claimed, Claim(owner="me", limit=10))
    await driver.do(Acknowledged, TakeTickets(ids=claimed.arrived))
    await driver.end(await run(driver, await driver.invocation(late.id)))


async def test_a_delayed_one_can_be_cancelled_before_its_time(driver: Driver) -> None:
    late = await enter(driver, delay_ms=5000)
    await driver.do(CancelMarked, Cancel(invocation_id=late.id))
    driver.clock.ms += 5000
    assert await driver.do(Claimed, Claim(owner="me", limit=10)) == Claimed(invocations=())
    await driver.do(Acknowledged, TakeTickets(ids=(late.id,)))
    assert await queue(driver) is None


# ── pausing, and state ──────────────────────────────────────────────────────────────────────


PAUSE = PauseKey(service="orders", key="c-7", by="ann")
RESUME = ResumeKey(service="orders", key="c-7", by="bob")


async def test_a_paused_key_begins_nothing_and_a_head_that_has_begun_goes_on(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(2)]
    row = await run(driver, rows[0])
    held = (await driver.do(KeyChanged, PAUSE)).queue
    assert held is not None
    assert (held.head, held.paused_ms) == (row.id, driver.clock.ms)
    assert (await driver.do(KeyChanged, PAUSE)).queue == held
    rows.append(await enter(driver))
    await driver.end(row)
    assert await driver.claim() == []
    assert await statuses(driver, rows[1:]) == ["queued", "queued"]
    resumed = (await driver.do(KeyChanged, RESUME)).queue
    assert resumed is not None
    assert (resumed.head, resumed.paused_ms) == (rows[1].id, None)
    assert [(act.act, act.by) for act in resumed.acts] == [("pause", "ann"), ("resume", "bob")]
    for each in rows[1:]:
        await driver.end(await run(driver, each))
    assert await queue(driver) is None


async def test_a_head_that_has_not_begun_goes_back_into_the_line_where_it_was(driver: Driver) -> None:
    rows = [await enter(driver) for _ in range(2)]
    await driver.store.commit([PAUSE, RESUME, PAUSE])
    assert await statuses(driver, rows) == ["queued", "queued"]
    await driver.do(KeyChanged, RESUME)
    for row in rows:
        await driver.end(await run(driver, row))


async def test_an_idle_key_can_be_paused_and_resumed(driver: Driver) -> None:
    assert (await driver.do(KeyChanged, PAUSE)).queue is not None
    row = await enter(driver)
    assert row.status == "queued"
    await driver.do(Killed, Kill(invocation_id=row.id))
    assert await queue(driver) is not None
    assert (await driver.do(KeyChanged, RESUME)).queue is None
    assert (await driver.do(KeyChanged, RESUME)).queue is None
    assert await queue(driver) is None


def writes(**values: bytes | None) -> tuple[StateWrite, ...]:
    return tuple(StateWrite(name=name, value=value) for name, value in values.items())


async def states(driver: Driver) -> dict[str, bytes]:
    return {entry.name: entry.value for entry in await driver.store.states(CART, 99)}


async def test_state_is_written_with_the_owner_s_commit(driver: Driver) -> None:
    row = await run(driver, await enter(driver))
    step = driver.an_advance(row, chunk=None, writes=writes(a=VALUE, b=VALUE, c=VALUE))
    await driver.do(Advanced, step)
    assert await driver.store.state(CART, "a") == VALUE
    assert await driver.store.state(CART, "x") is None
    assert await driver.store.state(("orders", b"c-8"), "a") is None
    await driver.do(Advanced, driver.an_advance(row, chunk=None, writes=writes(a=b"{}", b=None, d=None)))
    assert await states(driver) == {"a": b"{}", "c": VALUE}
    assert await driver.store.state_names(CART) == ["a", "c"]
    assert await driver.store.states(CART, 1, "a") == [
        StateEntry(name="c", value=VALUE, updated_ms=driver.clock.ms)
    ]
    # All of it, and then some again, in one commit.
    clear = (*writes(e=VALUE), StateWrite(), *writes(c=b"2", f=VALUE))
    await driver.do(Advanced, driver.an_advance(row, End(result=ONE), chunk=None, writes=clear))
    assert await states(driver) == {"c": b"2", "f": VALUE}
    await driver.do(Fenced, driver.an_advance(row, chunk=None, writes=writes(z=VALUE)))
    assert await driver.store.state(CART, "z") is None


async def test_names_of_state_may_be_any_text(driver: Driver) -> None:
    row = await run(driver, await enter(driver))
    names = ["seen/\x00", "ß", "\U0001f600", "a" * 255]
    step = driver.an_advance(row, chunk=None, writes=[StateWrite(name=n, value=VALUE) for n in names])
    await driver.do(Advanced, step)
    assert await driver.store.state_names(CART) == sorted(names, key=str.encode)
    for name in names:
        assert await driver.store.state(CART, name) == VALUE


async def test_state_is_edited_only_while_the_key_is_paused_and_nobody_holds_it(driver: Driver) -> None:
    edit = EditState(service="orders", key="c-7", writes=writes(a=VALUE), by="ann")
    assert not (await driver.do(KeyChanged, edit)).accepted
    row = await run(driver, await enter(driver))
    assert not (await driver.do(KeyChanged, edit)).accepted
    await driver.do(KeyChanged, PAUSE)
    assert not (await driver.do(KeyChanged, edit)).accepted
    await driver.end(row)
    await driver.do(KeyChanged, edit)
    assert await states(driver) == {"a": VALUE}
    cleared = await driver.do(KeyChanged, EditState(service="orders", key="c-7", writes=(StateWrite(),)))
    assert cleared.accepted
    assert await states(driver) == {}


async def test_state_expires_by_keys_in_batches_and_not_while_they_have_a_queue(driver: Driver) -> None:
    for key in ("a", "b", "c", "d"):
        row = await run(driver, await enter(driver, key))
        await driver.do(Advanced, driver.an_advance(row, chunk=None, writes=writes(x=VALUE)))
        await driver.end(row)
        driver.clock.ms += 1000
    row = await run(driver, await enter(driver, "a"))
    await driver.do(Advanced, driver.an_advance(row, chunk=None, writes=writes(y=VALUE)))
    await driver.end(row)
    await enter(driver, "b")
    before_ms = driver.clock.ms - 1500
    expire = ExpireState(service="orders", before_ms=before_ms, limit=3)
    first = await driver.do(StateExpired, expire)
    assert first == StateExpired(count=1, last=b"c")
    second = ExpireState(service="orders", before_ms=before_ms, limit=3, after=b"c")
    assert await driver.do(StateExpired, second) == StateExpired(count=0, last=None)
    assert await driver.store.keys_with_state("orders", 9) == [b"a", b"b", b"d"]
    assert await driver.store.keys_with_state("orders", 1, b"a") == [b"b"]
    assert await driver.store.keys_with_state("other", 9) == []
    assert [row.key for row in await driver.store.queues("orders", 9)] == ["b"]
    assert await driver.store.queues("orders", 9, b"b") == []


async def test_state_that_is_written_in_the_group_of_its_expiry_is_kept(driver: Driver) -> None:
    row = await run(driver, await enter(driver))
    await driver.do(Advanced, driver.an_advance(row, chunk=None, writes=writes(x=VALUE)))
    driver.clock.ms += 1000
    end = driver.an_advance(row, End(result=ONE), chunk=None, writes=writes(x=b"2", y=VALUE))
    expire = ExpireState(service="orders", before_ms=driver.clock.ms - 500, limit=3)
    *_, expired = await driver.store.commit([end, expire])
    assert expired == StateExpired(count=0, last=None)
    assert await states(driver) == {"x": b"2", "y": VALUE}


async def test_what_an_invocation_waits_for_is_listed(driver: Driver) -> None:
    row, awakeable_id = await driver.waiting()
    assert [wait.id for wait in await driver.store.waits_of(row.id, 9)] == [awakeable_id]
    assert await driver.store.waits_of(driver.id("inv"), 9) == []
