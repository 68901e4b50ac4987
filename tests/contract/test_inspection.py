"""Lists, counts and single rows; and values kept to the letter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from msgspec import Raw

from awakeables.core.awakeables import STATES, Completion, Heartbeat
from awakeables.core.brief import brief_invocation
from awakeables.core.commands import (
    Begin,
    Expire,
    Idempotency,
    MarkPublished,
    MarkRefused,
    NewAwakeable,
    Queue,
    Settle,
)
from awakeables.core.invocations import STATUSES, BackOff, End, Failure, Invocation, Pause, Status, Suspend
from awakeables.core.journal import ClockRead, Input, OutcomeDelivered, encode_chunk
from awakeables.core.outcomes import Outcome, Rejection, Resolution
from awakeables.core.replies import Acknowledged, Advanced, Begun, Expired, SettledAll
from awakeables.ports import InvocationFilter, ListedStatus, Page
from contract.driver import DLQ, Driver, rejected, resolved

FAILURE = Failure(kind="ValueError", message="\x00 ö", at_ms=1)


async def in_every_status(driver: Driver, subscription: str | None = None) -> dict[Status, Invocation]:
    async def queue() -> Invocation:
        return await driver.begin(key="c-7", queue=Queue(), subscription=subscription)

    async def run() -> Invocation:
        return await driver.begin(owner="me", subscription=subscription)

    return {
        "pending": await queue(),
        "queued": await queue(),
        "running": await run(),
        "suspended": await driver.advance(await run(), Suspend(wake=0)),
        "backing-off": await driver.advance(await run(), BackOff(due_ms=2**40, failure=FAILURE)),
        "paused": await driver.advance(await run(), Pause(failure=FAILURE)),
        "completed": await driver.end(await run()),
    }


async def a_completed(driver: Driver) -> Invocation:
    return await driver.end(await driver.begin(owner="me"))


async def a_paused(driver: Driver) -> Invocation:
    return await driver.advance(await driver.begin(owner="me"), Pause(failure=FAILURE))


@pytest.mark.impossible_rows
async def test_invocations_are_found_by_status(driver: Driver) -> None:
    rows = await in_every_status(driver)
    for status in STATUSES:
        assert await driver.store.invocations(Page(), InvocationFilter(status=status)) == [
            brief_invocation(rows[status])
        ]
        assert await driver.store.invocations(Page(), InvocationFilter(status=status, service="other")) == []
    assert await driver.store.invocations(Page()) == [brief_invocation(r) for r in reversed(rows.values())]
    for row in rows.values():
        assert await driver.store.invocation(row.id) == row


@pytest.mark.parametrize("status", [None, "pending", "running", "paused", "completed"])
async def test_invocations_are_listed_newest_first_in_pages(driver: Driver, status: Status | None) -> None:
    make: dict[Status | None, Callable[[], Awaitable[Invocation]]] = {
        "running": lambda: driver.begin(owner="me"),
        "completed": lambda: a_completed(driver),
        "paused": lambda: a_paused(driver),
    }
    rows = [await make.get(status, driver.begin)() for _ in range(4)]
    newest = [brief_invocation(row) for row in reversed(rows)]
    list_ = driver.store.invocations
    assert await list_(Page(limit=2), InvocationFilter(status=status)) == newest[:2]
    assert await list_(Page(limit=2, before=newest[1].id), InvocationFilter(status=status)) == newest[2:]
    assert await list_(Page(limit=2, before=newest[3].id), InvocationFilter(status=status)) == []


async def test_invocations_are_found_by_service(driver: Driver) -> None:
    mine = await driver.begin(service="billing")
    await driver.begin()
    assert await driver.store.invocations(Page(), InvocationFilter(service="billing")) == [mine]


async def test_invocations_are_found_by_handler(driver: Driver) -> None:
    shipped, billed = await driver.begin(handler="ship"), await driver.begin(service="billing")
    await driver.begin()
    assert await driver.store.invocations(Page(), InvocationFilter(handler="ship")) == [shipped]
    by_both = InvocationFilter(service="billing", handler="fulfil")
    assert await driver.store.invocations(Page(), by_both) == [billed]
    assert await driver.store.invocations(Page(), InvocationFilter(service="billing", handler="ship")) == []


@pytest.mark.parametrize("status", ["pending", "running", "paused", "completed", "open"])
async def test_a_handler_is_looked_for_within_a_status(driver: Driver, status: ListedStatus) -> None:
    await a_completed(driver)
    await a_paused(driver)
    await driver.begin(owner="me")
    await driver.begin()
    list_ = driver.store.invocations
    found = await list_(Page(), InvocationFilter(status=status, service="orders", handler="fulfil"))
    assert len(found) == (3 if status == "open" else 1)
    assert await list_(Page(), InvocationFilter(status=status, service="orders", handler="ship")) == []
    assert await list_(Page(), InvocationFilter(status=status, service="billing", handler="fulfil")) == []


@pytest.mark.impossible_rows
async def test_open_invocations_are_those_that_have_not_ended(driver: Driver) -> None:
    rows = await in_every_status(driver)
    found = await driver.store.invocations(Page(), InvocationFilter(status="open"))
    assert found == [row for row in reversed(rows.values()) if row.status != "completed"]


@pytest.mark.impossible_rows
async def test_invocations_are_found_by_subscription_and_status(driver: Driver) -> None:
    rows = await in_every_status(driver, "orders.fulfil")
    await driver.end(await driver.begin(owner="me", subscription="another"))
    await driver.begin(subscription="another")
    await driver.advance(await driver.begin(owner="me"), Pause(failure=FAILURE))
    await driver.end(await driver.begin(owner="me"))
    await driver.begin()

    async def found(status: ListedStatus | None, **more: str) -> list[Invocation]:
        which = InvocationFilter(status=status, subscription="orders.fulfil", **more)
        return await driver.store.invocations(Page(), which)

    newest = [brief_invocation(row) for row in reversed(rows.values())]
    assert await found(None) == newest
    assert await found("open") == [row for row in newest if row.status != "completed"]
    for status in STATUSES:
        assert await found(status) == [brief_invocation(rows[status])]
        assert await found(status, service="orders", handler="fulfil") == [brief_invocation(rows[status])]
        assert await found(status, handler="ship") == await found(status, service="billing") == []
    nobodys = InvocationFilter(status="open", subscription="orders.ship")
    assert await driver.store.invocations(Page(), nobodys) == []


@pytest.mark.parametrize("status", [None, "open", "pending"])
async def test_those_of_a_subscription_are_listed_newest_first_in_pages(
    driver: Driver, status: ListedStatus | None
) -> None:
    rows = []
    for _ in range(4):
        rows.append(await driver.begin(subscription="orders.fulfil"))
        await driver.begin(subscription="another")
    newest = list(reversed(rows))
    list_, which = driver.store.invocations, InvocationFilter(status=status, subscription="orders.fulfil")
    assert await list_(Page(limit=2), which) == newest[:2]
    assert await list_(Page(limit=2, before=newest[1].id), which) == newest[2:]
    assert await list_(Page(limit=2, before=newest[3].id), which) == []


async def test_awakeables_are_found_by_state(driver: Driver) -> None:
    row, (settled, refused, cancelled) = await driver.running_with(
        *(NewAwakeable(id=driver.id("prom")) for _ in range(3))
    )
    _, late = await driver.waiting(timeout_ms=1)
    _, pending = await driver.waiting()
    driver.clock.ms += 1
    await driver.settle(resolved(settled), rejected(refused))
    await driver.do(Expired, Expire(limit=1))
    await driver.end(row, cancelled)
    found = {state: [a.id for a in await driver.store.awakeables(Page(), state=state)] for state in STATES}
    assert found == {
        "pending": [pending],
        "resolved": [settled],
        "rejected": [refused],
        "timed-out": [late],
        "cancelled": [cancelled],
    }


@pytest.mark.parametrize("state", [None, "pending"])
async def test_awakeables_are_listed_newest_first_in_pages(driver: Driver, state: None) -> None:
    _, ids = await driver.running_with(*(NewAwakeable(id=driver.id("prom")) for _ in range(4)))
    newest = list(reversed(ids))
    first = await driver.store.awakeables(Page(limit=3), state=state)
    assert [row.id for row in first] == newest[:3]
    rest = await driver.store.awakeables(Page(limit=3, before=newest[2]), state=state)
    assert [row.id for row in rest] == newest[3:]


async def test_what_is_not_there_is_none(driver: Driver) -> None:
    assert await driver.store.invocation(driver.id("inv")) is None
    assert await driver.store.awakeable(driver.id("prom")) is None
    assert await driver.store.history([driver.id("inv")]) == {}
    assert await driver.store.outcomes([]) == {}


@pytest.mark.impossible_rows
async def test_counts_say_how_many_rows_there_are(driver: Driver) -> None:
    assert set((await driver.store.counts()).values()) == {0}
    await in_every_status(driver)
    row, (pending, settled) = await driver.running_with(
        *(NewAwakeable(id=driver.id("prom")) for _ in range(2))
    )
    await driver.settle(resolved(settled))
    bad, good = driver.an_effect(row.id), driver.an_effect(row.id)
    await driver.do(Advanced, driver.an_advance(row, effects=[bad, good]))
    await driver.do(Acknowledged, MarkRefused(event_id=bad.event_id, reason="x"))
    letters = tuple(driver.a_letter(offset=offset) for offset in range(2))
    await driver.do(SettledAll, Settle(completions=(), dead_letters=letters, relay_to=DLQ))
    assert await driver.store.counts() == {
        "awakeables_pending": 1,
        "awakeables_oldest_ms": driver.clock.ms,
        "invocations_open": 7,
        "invocations_queued": 1,
        "queued_oldest_ms:orders": driver.clock.ms,
        "invocations_pending": 1,
        "invocations_running": 2,
        "invocations_suspended": 1,
        "invocations_backing-off": 1,
        "invocations_paused": 1,
        "effects_unsent": 3,
        "effects_oldest_ms": driver.clock.ms,
        "effects_failed": 1,
        "dead_letters": 2,
    }
    assert [row.id for row in await driver.store.awakeables(Page(), state="pending")] == [pending]


async def test_counts_say_when_the_oldest_pending_and_unsent_were_created(driver: Driver) -> None:
    row, (first, second) = await driver.running_with(*(NewAwakeable(id=driver.id("prom")) for _ in range(2)))
    effects = [driver.an_effect(row.id), driver.an_effect(row.id)]
    for effect in effects:
        row = (await driver.do(Advanced, driver.an_advance(row, effects=[effect]))).invocation
    made_ms = driver.clock.ms
    driver.clock.ms += 5000
    letter = driver.a_letter(offset=1)
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    await driver.running_with(NewAwakeable(id=driver.id("prom")))
    counts = await driver.store.counts()
    assert counts["awakeables_oldest_ms"] == counts["effects_oldest_ms"] == made_ms
    await driver.settle(resolved(first), resolved(second))
    await driver.do(Acknowledged, MarkPublished(event_ids=tuple(effect.event_id for effect in effects)))
    counts = await driver.store.counts()
    assert counts["awakeables_oldest_ms"] == counts["effects_oldest_ms"] == made_ms + 5000


@pytest.mark.impossible_rows
async def test_those_held_by_an_owner_are_those_that_run_under_it(driver: Driver) -> None:
    mine = [await driver.begin(owner="me") for _ in range(3)]
    await driver.begin(owner="you")
    await driver.begin()
    await driver.advance(mine[1], Suspend(wake=0))
    assert sorted(await driver.store.held_by("me")) == [mine[0].id, mine[2].id]


# ── to the letter ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        b"18446744073709551616",
        b"0.1000",
        b"1E400",
        b'{ "b" :1, "a":[ ]}',
        b'"\\u0000 \\ud83c\\udf81 \xc3\xb6"',
        b"null",
        b'{"a":1,"a":2}',
    ],
)
async def test_json_is_kept_as_it_was_written(driver: Driver, text: bytes) -> None:
    row, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom")))
    await driver.settle(resolved(awakeable_id, text))
    outcome = (await driver.store.outcomes([awakeable_id]))[awakeable_id]
    assert isinstance(outcome, Resolution)
    assert outcome.content == text
    delivered = OutcomeDelivered(of=1, outcome=outcome)
    await driver.do(Advanced, driver.an_advance(row, chunk=encode_chunk([delivered])))
    assert (await driver.store.history([row.id]))[row.id][-1] == delivered


@pytest.mark.parametrize(
    "outcome",
    [
        Resolution.of_bytes(b""),
        Resolution.of_bytes(bytes(range(256))),
        Rejection(reason="\x00 ö 🎁", code=-1),
        Rejection(reason="", details=Raw(b'{"x": 0.10}')),
    ],
)
async def test_bytes_and_rejections_are_kept_as_they_were_sent(
    driver: Driver, outcome: Resolution | Rejection
) -> None:
    _, (awakeable_id,) = await driver.running_with(NewAwakeable(id=driver.id("prom"), codec="bytes"))
    await driver.settle(Completion(awakeable_id=awakeable_id, body=outcome, source="t:0:1"))
    found: Outcome | None = (await driver.awakeable(awakeable_id)).outcome
    assert found == outcome


async def test_an_effects_bytes_are_kept(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    nothing, everything = (
        driver.an_effect(row.id, value=None),
        driver.an_effect(row.id, value=bytes(range(256))),
    )
    await driver.do(Advanced, driver.an_advance(row, effects=[nothing, everything]))
    assert await driver.effects("unsent", 10) == [nothing, everything]


async def test_an_objects_key_may_be_any_text(driver: Driver) -> None:
    key = "a\x00b ö \ud800"
    chunk = encode_chunk([Input(service="s", handler="h", seed="", at_ms=0)])
    order = Begin(id=driver.id("inv"), service="s", handler="h", chunk=chunk, key=key)
    await driver.do(Begun, order)
    assert (await driver.invocation(order.id)).key == key


async def test_case_u7_the_invocation_of_an_idempotency_key_is_found_in_every_scope(driver: Driver) -> None:
    keys = [("orders/pay", "k"), ("orders/send", "k"), ("orders/pay", "other"), ("orders/pay", "\ud800 é")]
    ids = []
    for scope, key in keys:
        order = driver.a_begin(idempotency=Idempotency(scope=scope, key=key, fingerprint="f"))
        await driver.store.commit([order])
        ids.append(order.id)
    alone = await driver.begin()

    async def found(scopes: list[str], key: str) -> list[str]:
        return [row.id for row in await driver.store.keyed(scopes, key)]

    assert await found(["orders/send", "orders/pay", "orders/none"], "k") == [ids[1], ids[0]]
    assert await found(["orders/pay"], "k") == [ids[0]]
    assert await found(["orders/pay"], "\ud800 é") == [ids[3]]
    assert await found([], "k") == await found(["orders/send"], "other") == []
    assert [await driver.store.idempotency_key(id_) for id_ in ids] == [key for _, key in keys]
    assert await driver.store.idempotency_key(alone.id) is None


@pytest.mark.impossible_rows
async def test_case_o3_rows_of_lists_are_brief_whatever_they_are_about(driver: Driver) -> None:
    row, (awakeable_id, other) = await driver.running_with(
        NewAwakeable(id=driver.id("prom")), NewAwakeable(id=driver.id("prom"))
    )
    beat = Heartbeat(progress=Raw(b'"much"'))
    await driver.settle(Completion(awakeable_id=other, body=beat, source="t:0:1"))
    await driver.settle(resolved(awakeable_id, b'"much"'))
    result = Rejection(reason="no", details=Raw(b'"much"'))
    effect = driver.an_effect(row.id, value=b"much")
    await driver.do(Advanced, driver.an_advance(row, End(result=result), effects=[effect]))
    letter = driver.a_letter(offset=1)
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,), relay_to=DLQ))
    key = Idempotency(scope="orders/pay", key="k", fingerprint="f")
    keyed = driver.a_begin(idempotency=key)
    await driver.store.commit([keyed])

    store = driver.store
    lists = (
        await store.invocations(Page()),
        await store.invocations(Page(), InvocationFilter(status="completed")),
        await store.keyed(["orders/pay"], "k"),
        await store.awakeables(Page()),
        await store.dead_letters(Page()),
        await store.queued_effects(Page(), state="unsent"),
    )
    assert all(lists)
    assert "much" not in str(lists)
    assert str(letter.value) not in str(lists)
    [ended] = await store.invocations(Page(), InvocationFilter(status="completed"))
    assert ended.result == Rejection(reason="no")
    assert (await driver.invocation(row.id)).result == result


async def test_case_o3_a_long_journal_is_read_to_a_bound(driver: Driver) -> None:
    row = await driver.begin(owner="me")
    for _ in range(3):
        row = (
            await driver.do(Advanced, driver.an_advance(row, chunk=encode_chunk([ClockRead(at_ms=1)])))
        ).invocation
    whole = (await driver.store.history([row.id]))[row.id]
    assert await driver.store.journal(row.id, 10_000) == (whole, True)
    assert await driver.store.journal(row.id, len(encode_chunk(whole[:1])) + 1) == (whole[:2], False)
    assert await driver.store.journal(row.id, 1) == (whole[:1], False)
    assert await driver.store.journal(driver.id("inv"), 1) == ([], True)
    assert await driver.store.journal(driver.id("inv"), 1) == ([], True)


async def test_how_invocations_ended_is_read_for_many_at_once(driver: Driver) -> None:
    running, ended = [await driver.begin(owner="me") for _ in range(2)]
    ended = await driver.end(ended)
    paused = await driver.advance(
        await driver.begin(owner="me"), Pause(failure=Failure(kind="mismatch", message="x", at_ms=1))
    )
    asked = [running.id, ended.id, paused.id, driver.id("inv")]
    assert await driver.store.ends(asked) == {ended.id: ended.result, paused.id: None}
    assert await driver.store.ends([]) == {}
