"""What operators do, in a harness: restart and purge, pause and resume, move and trigger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from awakeables import (
    App,
    Context,
    ObjectContext,
    Schedule,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
    Workflow,
)
from awakeables.errors import InvalidInput, NotFound, NotPossible
from awakeables.testing import AsyncHarness, Harness, Paused, WrongAnswer

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

shop = Service("shop")
other = Service("other")
carts = VirtualObject("carts")
ITEMS = carts.state("items", list[str], default=list)
strangers = VirtualObject("strangers")
signups = Workflow("signups")
CLICKED = signups.promise("clicked", str)
LIVE = ("suspended", "running")
"""A handler that waits is in memory for a while, as in production, if it is not suspended at every await."""


@shop.handler()
async def pay(ctx: Context, cents: int) -> str:
    charge = await ctx.run("charge", lambda: f"charge-{cents}")
    receipt = ctx.awakeable(str)
    ctx.publish("receipts", charge, awakeable=receipt)
    return f"{charge} {await receipt}"


@shop.handler()
async def nap(ctx: Context) -> str:
    await ctx.sleep(HOUR)
    return "awake"


@shop.handler()
async def naps_first(ctx: Context) -> str:
    return await ctx.call(nap)


@shop.handler(topic="orders")
async def order(ctx: Context, number: int) -> int:
    if number < 0:
        raise TerminalError("a negative number")
    return number


@other.handler()
async def echo(ctx: Context, text: str) -> str:
    return text


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> list[str]:
    items = [*await ctx.get(ITEMS), item]
    ctx.set(ITEMS, items)
    return items


@carts.shared()
async def size(ctx: SharedContext) -> int:
    return len(await ctx.get(ITEMS))


@carts.handler()
async def check_out(ctx: ObjectContext) -> str:
    paid = ctx.awakeable(str)
    ctx.publish("payments", ctx.key, awakeable=paid)
    return await paid


@signups.run()
async def sign_up(ctx: ObjectContext) -> str:
    return await ctx.promise(CLICKED)


@signups.handler()
async def click(ctx: SharedContext, who: str) -> None:
    await ctx.promise(CLICKED).resolve(who)


@shop.handler(schedule=Schedule.every(DAY, name="daily", overlap="queue"))
async def report(ctx: Context) -> None:
    ctx.publish("reports", None, awakeable=(done := ctx.awakeable(str)))
    await done


@other.handler(schedule=Schedule.every(DAY, overlap="skip"))
async def sweep(ctx: Context) -> None:
    await ctx.awakeable(str)


app = App("shop", services=[shop, other, carts, signups])


@pytest.fixture(params=[{}, {"thorough": True}, {"suspend": False}], ids=str)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with Harness(app, **request.param) as opened:
        yield opened


# ── Invocations ─────────────────────────────────────────────────────────────────────────────────────


def test_a_restart_begins_another_invocation_with_the_same_input(harness: Harness) -> None:
    first = harness.send(pay, 5)
    with pytest.raises(NotPossible, match="pause, cancel or kill it first"):
        first.restart()
    harness.next_task("receipts").reject("no paper")
    assert first.status == "completed"
    again = first.restart()
    assert (again.id != first.id, again.status in LIVE) == (True, True)
    harness.next_task("receipts").resolve("r-2")
    assert again.result() == "charge-5 r-2"
    assert [each.id for each in harness.invocations(pay)] == [first.id, again.id]


def test_a_restart_keeps_the_journal_up_to_an_entry(harness: Harness) -> None:
    charges: list[str] = []

    def charge() -> str:
        charges.append(f"charge-{len(charges)}")
        return charges[-1]

    harness.replace("charge", charge)
    first = harness.send(pay, 5)
    kept = first.journal.index("outcome of entry 1")
    harness.next_task("receipts").reject("no paper")
    executed = len(charges)
    again = first.restart(from_entry=kept)
    assert again.journal[1 : kept + 1] == first.journal[1 : kept + 1]
    harness.next_task("receipts").resolve("r-2")
    assert again.result() == f"{charges[-1]} r-2"
    assert len(charges) == executed
    with pytest.raises(NotPossible, match=f"the last entry that is possible is {kept}"):
        first.restart(from_entry=kept + 1)


def test_a_restart_kills_what_is_paused(harness: Harness) -> None:
    first = harness.send(check_out, key="c-7")
    behind = harness.send(add, "pen", key="c-7")
    first.pause()
    again = first.restart()
    assert behind.result() == ["pen"]
    with pytest.raises(TerminalError, match="killed"):
        first.result()
    harness.tasks("payments")[-1].resolve("t-1")
    assert again.result() == "t-1"


def test_a_purge_deletes_what_has_ended(harness: Harness) -> None:
    running = harness.send(nap, idempotency_key="n-1")
    with pytest.raises(NotPossible, match="cancel or kill it first"):
        running.purge()
    assert running.result() == "awake"
    running.purge()
    assert harness.invocations() == []
    assert repr(running) == f"<shop/nap {running.id}: purged>"
    assert (running.waits, running.journal) == ([], [])
    for refused in (lambda: running.status, running.result, running.purge, running.restart):
        with pytest.raises(NotFound, match=running.id):
            refused()
    assert harness.send(nap, idempotency_key="n-1").id != running.id


def test_a_purge_of_a_run_frees_its_key(harness: Harness) -> None:
    first = harness.send(sign_up, key="ann")
    harness.call(click, "ann", key="ann")
    assert first.result() == "ann"
    with pytest.raises(NotPossible, match="which is begun once"):
        first.restart()
    first.purge()
    assert harness.send(sign_up, key="ann").status in LIVE


# ── Handlers and services ───────────────────────────────────────────────────────────────────────────


def test_calls_of_a_paused_handler_wait_until_it_is_resumed(harness: Harness) -> None:
    harness.pause(nap)
    waits = harness.send(nap)
    harness.crash()
    harness.advance(DAY)
    assert waits.status == "pending"
    assert harness.call(echo, "hello") == "hello"
    harness.resume(nap)
    assert waits.status in LIVE
    assert waits.result() == "awake"
    harness.resume(nap)


def test_a_service_is_paused_with_all_its_handlers_and_resumed_with_them(harness: Harness) -> None:
    harness.pause(nap)
    harness.pause(shop)
    running, scheduled = harness.send(pay, 5), harness.send(nap)
    assert {running.status, scheduled.status} == {"pending"}
    with pytest.raises(NotPossible, match="the whole service shop is paused"):
        harness.resume(nap)
    harness.resume(shop)
    harness.next_task("receipts").resolve("r-1")
    assert (running.result(), scheduled.result()) == ("charge-5 r-1", "awake")


def test_what_is_suspended_stays_so_while_its_handler_is_paused(harness: Harness) -> None:
    running = harness.send(naps_first)
    harness.pause(nap)
    harness.advance(DAY)
    assert running.status in LIVE
    with pytest.raises(Paused, match="naps_first waits for shop/nap, which is paused: it goes on when that"):
        running.result()
    harness.resume(nap)
    assert running.status == "completed"


def test_only_what_the_app_has_can_be_paused(harness: Harness) -> None:
    async def foreign(ctx: Context) -> None: ...

    with pytest.raises(NotFound, match="is not a handler of app 'shop'"):
        harness.pause(foreign)
    with pytest.raises(InvalidInput, match="is not of app 'shop'"):
        harness.pause(Service("shop"))
    with pytest.raises(InvalidInput, match="is not of app 'shop'"):
        harness.resume(strangers, "c-7")
    with pytest.raises(InvalidInput, match="it has no keys that can be paused"):
        harness.pause(signups, "ann")  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="it has no keys that can be paused"):
        harness.resume(nap, "c-7")  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="a key has 1 to 1,024 bytes"):
        harness.pause(carts, "")


# ── Keys ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_calls_of_a_paused_key_wait_in_their_order(harness: Harness) -> None:
    checkout = harness.send(check_out, key="c-7")
    harness.pause(carts, "c-7")
    waiting = [harness.send(add, each, key="c-7") for each in ("book", "pen")]
    assert harness.call(add, "mug", key="c-8") == ["mug"]
    assert harness.call(size, key="c-7") == 0
    harness.next_task("payments").resolve("t-1")
    assert checkout.result() == "t-1"
    assert [each.status for each in waiting] == ["queued", "queued"]
    with pytest.raises(Paused, match="add waits for carts/c-7, which is paused"):
        waiting[1].result()
    harness.crash()
    harness.resume(carts, key="c-7")
    assert [each.result() for each in waiting] == [["book"], ["book", "pen"]]
    harness.resume(carts, "c-7")


# ── Subscriptions ───────────────────────────────────────────────────────────────────────────────────


def handled(harness: Harness) -> list[Any]:
    return [each.result() for each in harness.invocations(order)]


def test_the_records_of_a_paused_subscription_wait(harness: Harness) -> None:
    harness.pause_subscription("shop.order")
    harness.produce("orders", 1)
    harness.crash()
    harness.produce("orders", 2)
    harness.advance(DAY)
    assert handled(harness) == []
    harness.resume_subscription("shop.order")
    assert handled(harness) == [1, 2]
    harness.produce("orders", 3)
    assert handled(harness) == [1, 2, 3]
    with pytest.raises(NotFound, match=r"no subscription 'orders'; there are: shop\.order"):
        harness.pause_subscription("orders")


def test_a_subscription_is_paused_and_resumed_at_once(harness: Harness) -> None:
    harness.produce("orders", 1)
    harness.pause_subscription("shop.order")
    harness.produce("orders", 2)
    assert handled(harness) == [1]
    harness.resume_subscription("shop.order")
    assert handled(harness) == [1, 2]
    assert harness.now.hour == 0


def test_records_are_read_again_after_a_seek_or_never(harness: Harness) -> None:
    for number in (1, 2):
        harness.produce("orders", number)
        harness.advance(HOUR)
    began = harness.now - 2 * HOUR
    with pytest.raises(NotPossible, match="is not paused"):
        harness.seek("shop.order", "earliest")

    def moved(to: Any) -> list[Any]:
        before = len(handled(harness))
        harness.pause_subscription("shop.order")
        harness.advance(HOUR)
        harness.produce("orders", 9)
        harness.seek("shop.order", to)
        harness.resume_subscription("shop.order")
        return handled(harness)[before:]

    assert moved("earliest") == [1, 2, 9]
    assert moved("latest") == []
    assert moved(3) == [9, 9]
    assert moved(began + HOUR) == [2, 9, 9, 9, 9]
    assert moved(harness.now + DAY) == []
    assert [letter.code for letter in harness.dead_letters] == ["skipped"] * 5
    harness.pause_subscription("shop.order")
    with pytest.raises(InvalidInput, match="has the offsets 0 to 7, not 8"):
        harness.seek("shop.order", 8)


# ── Schedules ───────────────────────────────────────────────────────────────────────────────────────


def test_the_ticks_of_a_paused_schedule_are_skipped(harness: Harness) -> None:
    harness.on_task("reports", "done")
    harness.pause_schedule("daily")
    harness.advance(3 * DAY)
    assert harness.invocations(report) == []
    harness.resume_schedule("daily")
    assert harness.invocations(report) == []
    harness.advance(2 * DAY)
    assert len(harness.invocations(report)) == 2
    with pytest.raises(NotFound, match=r"no schedule 'report'; there are: daily, other\.sweep"):
        harness.pause_schedule("report")


def test_a_schedule_is_triggered_out_of_turn(harness: Harness) -> None:
    harness.pause_schedule("daily")
    first = harness.trigger_schedule("daily")
    assert first is not None
    assert [each.id for each in harness.invocations(report)] == [first.id]
    assert harness.trigger_schedule("daily") is None
    harness.next_task("reports").resolve("done")
    assert first.status == "completed"
    assert len(harness.invocations(report)) == 1
    harness.resume_schedule("daily")
    harness.next_task("reports").resolve("done")
    assert len(harness.invocations(report)) == 2
    assert harness.trigger_schedule("other.sweep") is not None
    with pytest.raises(NotPossible, match="is open, and overlap is 'skip'"):
        harness.trigger_schedule("other.sweep")


# ── Delayed answers ─────────────────────────────────────────────────────────────────────────────────


def test_an_answer_comes_when_its_time_has_come(harness: Harness) -> None:
    first, second = harness.send(check_out, key="c-1"), harness.send(check_out, key="c-2")
    one, two = harness.next_task("payments"), harness.next_task("payments")
    assert two.reject("no money", code=402, after=2 * HOUR) is None
    assert one.resolve("t-1", after=3 * HOUR) is None
    harness.advance(2 * HOUR - timedelta(milliseconds=1))
    harness.crash()
    assert (first.status in LIVE, second.status in LIVE) == (True, True)
    harness.advance(timedelta(milliseconds=1))
    assert (first.status in LIVE, second.status) == (True, "completed")
    began = harness.now
    assert first.result() == "t-1"
    assert harness.now - began == HOUR
    with pytest.raises(TerminalError, match="no money"):
        second.result()


def test_answers_on_their_way_come_in_order(harness: Harness) -> None:
    running = [harness.send(check_out, key=key) for key in ("c-1", "c-2", "c-3")]
    keys = {task.payload: task for task in harness.tasks("payments")}
    for key, hours in (("c-1", 3), ("c-2", 1), ("c-3", 2)):
        keys[key].resolve(str(hours), after=hours * HOUR)
    harness.advance(DAY)
    assert [each.result() for each in running] == ["3", "1", "2"]
    answers = [line for line in harness.describe().splitlines() if "the answer to awakeable" in line]
    assert [line.partition("  ")[::2] for line in answers] == [
        (
            f"2026-01-01T0{hour}:00:00+00:00",
            f"the answer to awakeable {keys[key].awakeable_id} is accepted",
        )
        for hour, key in ((1, "c-2"), (2, "c-3"), (3, "c-1"))
    ]


def test_what_waits_may_be_answered_by_its_id_later_or_at_once(harness: Harness) -> None:
    running = harness.send(check_out, key="c-1")
    (wait,) = harness.waiting()
    assert harness.resolve(wait.id, "t-1", after=timedelta(0)) is None
    assert running.status == "completed"
    assert harness.reject(wait.id, "too late").kind == "conflict"
    again = harness.send(check_out, key="c-1")
    harness.reject(harness.waiting()[0].id, "no money", code=402, after=HOUR)
    with pytest.raises(TerminalError, match="no money"):
        again.result()


def test_a_delayed_answer_that_is_wrong_fails_what_lets_the_time_pass(harness: Harness) -> None:
    harness.send(check_out, key="c-1")
    running = harness.send(check_out, key="c-2")
    one, two = harness.tasks("payments")
    with pytest.raises(ValueError, match="after can't be negative"):
        one.resolve("t-1", after=-HOUR)
    with pytest.raises(WrongAnswer, match="can't be expressed as JSON"):
        one.resolve(float("nan"), after=HOUR)
    one.resolve(5, after=HOUR)
    two.resolve("t-2", after=HOUR)
    with pytest.raises(WrongAnswer, match=f"{one.awakeable_id} is invalid"):
        harness.advance(HOUR)
    harness.advance(timedelta(0))
    assert running.status == "completed"
    two.resolve("t-3", after=HOUR)
    with pytest.raises(WrongAnswer, match=f"{two.awakeable_id} is conflict"):
        harness.advance(HOUR)
    two.resolve("t-2", after=HOUR)
    harness.advance(HOUR)
    assert running.result() == "t-2"


# ── Awaited ─────────────────────────────────────────────────────────────────────────────────────────


async def test_an_async_harness_does_the_same() -> None:
    async with AsyncHarness(app) as harness:
        first = await harness.send(check_out, key="c-7")
        await first.pause()
        again = await first.restart()
        await first.purge()
        await harness.tasks("payments")[-1].resolve("t-1", after=HOUR)
        assert await again.result() == "t-1"
        with pytest.raises(NotPossible, match="the last entry that is possible is 0"):
            await again.restart(from_entry=1)
        last = await again.restart()
        await harness.next_task("payments").reject("no", code=402, details=1, after=HOUR)
        await harness.advance(HOUR)
        assert last.status == "completed"

        await harness.pause(nap)
        await harness.pause(carts, "c-7")
        napping, adding = await harness.send(nap), await harness.send(add, "pen", key="c-7")
        assert (napping.status, adding.status) == ("pending", "queued")
        await harness.resume(nap)
        await harness.resume(carts, key="c-7")
        assert (await napping.result(), await adding.result()) == ("awake", ["pen"])

        await harness.pause_subscription("shop.order")
        await harness.produce("orders", 1)
        assert harness.invocations(order) == []
        await harness.seek("shop.order", "latest")
        await harness.resume_subscription("shop.order")
        assert harness.invocations(order) == []

        await harness.pause_schedule("daily")
        await harness.advance(2 * DAY)
        assert harness.invocations(report) == []
        await harness.resume_schedule("daily")
        triggered = await harness.trigger_schedule("daily")
        assert triggered is not None
        assert harness.waiting()[-1].invocation_id == triggered.id
        assert await harness.trigger_schedule("daily") is None
        await harness.resolve(triggered.waits[0].id, "done", after=HOUR)
        await harness.reject(harness.waiting()[0].id, "no", after=HOUR)
        await triggered.result()
