"""`Harness`: an app in memory, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from awakeables import (
    App,
    Cancelled,
    Context,
    ObjectContext,
    Service,
    SharedContext,
    Subscription,
    Task,
    TerminalError,
    TimedOut,
    VirtualObject,
    Worker,
    Workflow,
)
from awakeables.errors import IdempotencyConflict, InvalidInput, NotFound, NotPossible
from awakeables.testing import Answer, Harness, Paused, Stuck, WrongAnswer


class Payment(BaseModel):
    ok: bool


class Bill(BaseModel):
    cart: str
    cents: int


carts = VirtualObject("carts")
ITEMS = carts.state("items", list[str], default=list)
shop = Service("shop")
signups = Workflow("signups")
CLICKED = signups.promise("clicked", str)
calls: list[str] = []
LIVE = ("suspended", "running")
"""A handler that waits is in memory for a while, as in production, if it is not suspended at every await."""


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> int:
    items = [*await ctx.get(ITEMS), item]
    ctx.set(ITEMS, items)
    return len(items)


@carts.handler()
async def check_out(ctx: ObjectContext) -> bool:
    paid = ctx.awakeable(Payment, timeout=timedelta(days=1))
    bill = Bill(cart=ctx.key, cents=100 * len(await ctx.get(ITEMS)))
    ctx.publish("payments", bill, awakeable=paid, task="pay", headers={"tenant": "t-1"}, key=ctx.key)
    return (await paid).ok


@carts.shared()
async def count(ctx: SharedContext) -> int:
    return len(await ctx.get(ITEMS))


def charge(cents: int) -> str:
    calls.append(f"charge {cents}")
    return f"charge-{cents}"


@shop.handler()
async def pay(ctx: Context, cents: int) -> str:
    return await ctx.run("charge", charge, cents)


@shop.handler()
async def ask(ctx: Context) -> str:
    link = ctx.awakeable(str, timeout=timedelta(days=2))
    await ctx.run("mail", calls.append, link.id)
    try:
        return await link
    except TimedOut:
        return "nobody"


@shop.handler()
async def nap(ctx: Context, hours: float) -> datetime:
    await ctx.sleep(timedelta(hours=hours))
    return ctx.now()


@shop.handler()
async def forever(ctx: Context) -> str:
    return await ctx.awakeable(str)


@shop.handler()
async def fail(ctx: Context) -> None:
    raise LookupError("no such account")


@shop.handler()
async def calls_fail(ctx: Context) -> None:
    await ctx.call(fail)


@shop.handler(topic=Subscription("orders", name="orders"))
async def order(ctx: Context, bill: Bill) -> str:
    record = ctx.request.record
    assert record is not None
    ctx.publish("audit", {"offset": record.offset, "cart": bill.cart})
    if bill.cents < 0:
        raise TerminalError("a negative bill")
    return bill.cart


@shop.handler(topic="audit")
async def audit(ctx: Context, entry: dict[str, Any]) -> None:
    calls.append(f"audit {entry['cart']}")


@signups.run()
async def sign_up(ctx: ObjectContext) -> str:
    return await ctx.promise(CLICKED)


@signups.handler()
async def click(ctx: SharedContext, who: str) -> None:
    await ctx.promise(CLICKED).resolve(who)


app = App("shop", services=[carts, shop, signups])


@pytest.fixture(params=["suspending", "live", "thorough"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    calls.clear()
    mode = request.param
    with Harness(app, suspend=mode != "live", thorough=mode == "thorough") as harness:
        yield harness


def test_a_cart_is_blocked_by_its_checkout(harness: Harness) -> None:
    assert harness.call(add, "book", key="c-7") == 1
    checkout = harness.send(check_out, key="c-7")
    task = harness.next_task("payments")
    behind = harness.send(add, "pen", key="c-7")
    assert [each.id for each in harness.queue(carts, "c-7")] == [checkout.id, behind.id]
    assert (checkout.status in LIVE, behind.status) == (True, "queued")
    assert harness.call(count, key="c-7") == 1
    assert harness.call(add, "mug", key="c-8") == 1
    harness.advance(timedelta(hours=3))
    assert task.resolve(Payment(ok=True)).kind == "accepted"
    assert (checkout.result(), behind.result()) == (True, 2)
    assert harness.queue(carts, "c-7") == []
    assert harness.state(ITEMS, "c-7") == ["book", "pen"]
    harness.crash()
    assert harness.call(count, key="c-7") == 2


def test_a_task_tells_what_was_published(harness: Harness) -> None:
    harness.set_state(ITEMS, "c-7", ["book", "pen"])
    running = harness.send(check_out, key="c-7")
    (task,) = harness.tasks()
    assert (task.topic, task.name, task.key) == ("payments", "pay", b"c-7")
    assert task.payload == {"cart": "c-7", "cents": 200}
    assert task.payload_as(Bill) == Bill(cart="c-7", cents=200)
    assert task.headers["tenant"] == "t-1"
    with pytest.raises(InvalidInput, match="does not fit"):
        task.payload_as(Payment)
    with pytest.raises(NotPossible, match="has an open invocation"):
        harness.set_state(ITEMS, "c-7", [])
    assert harness.tasks("elsewhere") == []
    assert task.reject("no money", code=402).kind == "accepted"
    assert task.resolve({"ok": True}).kind == "conflict"
    assert task.reject("no money", code=402).kind == "duplicate"
    with pytest.raises(TerminalError, match="no money") as caught:
        running.result()
    assert caught.value.code == 402
    assert harness.tasks() == []


def test_a_missing_task_is_a_failure_that_says_what_was_published(harness: Harness) -> None:
    with pytest.raises(AssertionError, match=r"no task waits on 'payments'; published so far to: nothing"):
        harness.next_task("payments")
    harness.send(check_out, key="c-7")
    harness.next_task("payments")
    with pytest.raises(AssertionError, match=r"no further task waits .* 'payments' \(task 'pay'\)"):
        harness.next_task("payments")


def test_an_answer_that_does_not_fit_fails_at_once_and_nothing_is_settled(harness: Harness) -> None:
    running = harness.send(check_out, key="c-7")
    task = harness.next_task("payments")
    with pytest.raises(WrongAnswer, match="is invalid"):
        task.resolve("yes")
    with pytest.raises(WrongAnswer, match="is not an awakeable ID: its checksum is wrong"):
        harness.resolve(task.awakeable_id[:-1] + ("1" if task.awakeable_id[-1] == "0" else "0"))
    with Harness(app, seed=5) as other:
        other.send(check_out, key="c-7")
        with pytest.raises(WrongAnswer, match="is unknown"):
            harness.resolve(other.next_task("payments").awakeable_id)
    task.resolve({"ok": False})
    assert running.result() is False
    assert task.resolve({"ok": False}).kind == "duplicate"


def test_answers_and_workers_do_tasks_by_themselves(harness: Harness) -> None:
    harness.on_task("pay", Answer(Payment(ok=True), after=timedelta(hours=5)))
    before = harness.now
    assert harness.call(check_out, key="c-1") is True
    assert harness.now - before == timedelta(hours=5)
    worker = Worker("bank")

    @worker.task("payments", name="pay")
    async def do(task: Task[Bill]) -> Payment:
        return Payment(ok=task.payload.cart == "c-2")

    harness.on_task("pay", lambda task: {"ok": False})
    assert harness.call(check_out, key="c-2") is False

    with Harness(app) as other:
        other.add_worker(worker)
        assert other.call(check_out, key="c-2") is True
        assert other.call(check_out, key="c-3") is False


def test_an_id_that_left_by_mail_is_found_and_answered(harness: Harness) -> None:
    running = harness.send(ask)
    harness.advance(timedelta(hours=1))
    (wait,) = harness.waiting()
    assert calls[-1] == wait.id
    assert (wait.handler, wait.invocation_id, wait.topic) == ("shop/ask", running.id, None)
    assert (wait.age, wait.type) == (timedelta(hours=1), "str")
    assert wait.deadline == harness.now + timedelta(hours=47)
    assert running.waits == [wait]
    harness.resolve(wait.id, "ann")
    assert running.result() == "ann"
    assert harness.waiting() == []


def test_time_passes_only_when_the_test_says_so(harness: Harness) -> None:
    began = harness.now
    assert began == datetime(2026, 1, 1, tzinfo=UTC)
    long, short = harness.send(nap, 5), harness.send(nap, 2)
    asked = harness.send(ask)
    later = harness.send(nap, 1, delay=timedelta(hours=3))
    assert harness.now == began
    harness.advance(timedelta(hours=3, minutes=30))
    assert (short.status, long.status, later.status) == ("completed", "suspended", "suspended")
    assert short.result() == began + timedelta(hours=2)
    harness.advance_to(datetime(2026, 1, 1, 4, tzinfo=UTC))
    assert later.result() == began + timedelta(hours=4)
    assert harness.now == began + timedelta(hours=4)
    assert asked.result() == "nobody"
    assert harness.now == began + timedelta(days=2)
    assert long.result() == began + timedelta(hours=5)
    assert harness.now == began + timedelta(days=2)


def test_time_only_goes_forward(harness: Harness) -> None:
    with pytest.raises(ValueError, match="time only goes forward"):
        harness.advance(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="has no time zone"):
        harness.advance_to(datetime(2027, 1, 1))  # noqa: DTZ001


def test_actions_fail_and_are_replaced_by_name(harness: Harness) -> None:
    harness.fail("charge", ConnectionError("the bank is closed"), times=2)
    assert harness.call(pay, 5) == "charge-5"
    assert set(calls) == {"charge 5"}
    harness.replace("charge", lambda cents: f"pretended-{cents}")
    assert harness.call(pay, 6) == "pretended-6"
    harness.fail("charge", ConnectionError("the bank is closed"))
    assert harness.call(pay, 7) == "pretended-7"

    async def slowly(cents: int) -> str:
        await asyncio.sleep(1)
        return f"slow-{cents}"

    harness.replace("charge", slowly)
    assert harness.call(pay, 8) == "slow-8"
    assert set(calls) == {"charge 5"}


def test_an_action_that_keeps_failing_pauses_and_goes_on_after_a_resume() -> None:
    with Harness(app) as harness:
        harness.fail("charge", ConnectionError("the bank is closed"), times=3)
        running = harness.send(pay, 5)
        assert running.status == "paused"
        with pytest.raises(Paused, match="the bank is closed") as caught:
            running.result()
        assert isinstance(caught.value.__cause__, ConnectionError)
        running.resume()
        assert running.result() == "charge-5"
        with pytest.raises(NotPossible):
            running.resume()


def test_what_was_committed_survives_a_crash(harness: Harness) -> None:
    running = harness.send(check_out, key="c-7")
    harness.crash()
    task = harness.next_task("payments")
    harness.crash()
    task.resolve({"ok": True})
    assert running.result() is True
    assert len(harness.published) == 1


def test_cancel_kill_and_pause(harness: Harness) -> None:
    first, second, third = harness.send(forever), harness.send(forever), harness.send(forever)
    first.cancel()
    with pytest.raises(Cancelled):
        first.result()
    second.kill()
    with pytest.raises(TerminalError, match="killed"):
        second.result()
    third.pause()
    assert third.status == "paused"
    third.resume()
    assert third.status in LIVE
    with pytest.raises(NotPossible, match="has ended"):
        first.cancel()


def test_a_wait_that_nobody_answers_is_stuck_and_says_what_to_do(harness: Harness) -> None:
    running = harness.send(forever)
    with pytest.raises(Stuck, match=r"forever waits for prom_1\w+ and nobody answers: .*`waiting`"):
        running.result()
    harness.resolve(harness.waiting()[0].id, "at last")
    assert running.result() == "at last"


def test_the_error_of_the_callee_is_the_cause() -> None:
    with Harness(app) as harness, pytest.raises(Paused, match="shop/fail, which is paused") as caught:
        harness.call(calls_fail)
    assert isinstance(caught.value.__cause__, LookupError)


def test_records_begin_invocations_and_may_publish_to_other_subscriptions(harness: Harness) -> None:
    harness.produce("orders", Bill(cart="c-1", cents=5), key="k", headers={"h": "1"})
    harness.produce("orders", b'{"cart": "c-2", "cents": 6}')
    assert [each.result() for each in harness.invocations(order)] == ["c-1", "c-2"]
    assert [record.payload for record in harness.published] == [
        {"offset": 0, "cart": "c-1"},
        {"offset": 1, "cart": "c-2"},
    ]
    assert set(calls) == {"audit c-1", "audit c-2"}
    assert len(harness.invocations()) == 4
    harness.crash()
    harness.produce("orders", {"cart": "c-3", "cents": 7})
    assert [each.result() for each in harness.invocations(order)] == ["c-1", "c-2", "c-3"]


def test_a_record_that_can_not_be_used_is_a_dead_letter(harness: Harness) -> None:
    harness.produce("orders", b"{")
    harness.produce("orders", {"cart": "c-2", "cents": -1})
    harness.produce("orders", None)
    assert [(letter.code, letter.value) for letter in harness.dead_letters] == [
        ("invalid", b"{"),
        ("failed", b'{"cart":"c-2","cents":-1}'),
        ("invalid", None),
    ]
    with pytest.raises(InvalidInput, match="does not read the topic 'payments'"):
        harness.produce("payments", 1)


def test_a_completion_may_come_from_the_topic_as_another_language_writes_it(harness: Harness) -> None:
    running = harness.send(check_out, key="c-7")
    task = harness.next_task("payments")
    completion = {"awakeable_id": task.awakeable_id, "status": "resolved", "value": {"ok": True}}
    harness.produce(task.headers["awakeable-reply-to"], completion)
    assert running.result() is True


def test_a_workflow_runs_once_per_key(harness: Harness) -> None:
    run = harness.send(sign_up, key="ann")
    harness.call(click, "ann", key="ann")
    assert run.result() == "ann"
    assert harness.send(sign_up, key="ann").id == run.id
    with pytest.raises(NotFound, match="has not begun"):
        harness.call(click, "bob", key="bob")


def test_an_idempotency_key_gives_the_same_invocation(harness: Harness) -> None:
    first = harness.send(nap, 1, idempotency_key="n-1")
    assert harness.send(nap, 1, idempotency_key="n-1").id == first.id
    with pytest.raises(IdempotencyConflict):
        harness.send(nap, 2, idempotency_key="n-1")


def test_what_does_not_fit_is_refused_as_a_call_would_be(harness: Harness) -> None:
    with pytest.raises(InvalidInput, match="does not fit"):
        harness.send(nap, "soon")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="key"):
        harness.send(check_out, key="")

    async def foreign(ctx: Context) -> None: ...

    with pytest.raises(NotFound):
        harness.send(foreign)
    assert harness.invocations() == []


def test_an_error_in_an_answer_fails_the_method_in_whose_course_it_is_raised(harness: Harness) -> None:
    def answer(task: Task[Any]) -> None:
        raise ZeroDivisionError("a mistake in the test")

    harness.on_task("pay", answer)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        harness.call(check_out, key="c-7")
    harness.on_task("pay", {"ok": True})
    assert harness.call(check_out, key="c-8") is True


async def test_it_works_within_a_running_loop(harness: Harness) -> None:
    running = harness.send(check_out, key="c-7")
    harness.next_task("payments").resolve({"ok": True})
    assert running.result() is True


def test_a_thirty_day_wait_and_a_thousand_calls_take_no_time() -> None:
    with Harness(app) as harness:
        assert harness.call(nap, 24 * 30) == datetime(2026, 1, 31, tzinfo=UTC)
        running = [harness.send(nap, hours) for hours in range(100)]
        harness.advance(timedelta(days=10))
        assert {each.status for each in running} == {"completed"}


def test_a_closed_harness_says_so_and_shows_what_was() -> None:
    with Harness(app) as harness:
        harness.send(check_out, key="c-7")
    assert len(harness.published) == 1
    with pytest.raises(RuntimeError, match="closed"):
        harness.call(pay, 1)


def test_the_journal_is_shown(harness: Harness) -> None:
    running = harness.send(pay, 3)
    assert running.journal == ["input of shop/pay", "run 'charge'", "outcome of entry 1"]
    assert "completed" in repr(running)


def test_its_seed_decides_ids() -> None:
    def ids(seed: int) -> str:
        with Harness(app, seed=seed) as harness:
            return harness.send(forever).id

    assert ids(1) == ids(1) != ids(2)
