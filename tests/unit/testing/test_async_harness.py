"""`AsyncHarness`: as `Harness`, awaited; the loop of the test goes on."""

from __future__ import annotations

import asyncio
import sys
import time
from contextvars import ContextVar
from datetime import timedelta

import pytest

from awakeables import Cancelled, TerminalError
from awakeables.errors import InvalidInput
from awakeables.testing import (
    AsyncHarness,
    AsyncRunning,
    AsyncSentTask,
    Harness,
    Running,
    SentTask,
    WrongAnswer,
)

from .test_harness import ITEMS, Bill, Payment, add, app, ask, carts, check_out, forever, nap, order, pay


async def test_each_of_its_methods() -> None:
    async with AsyncHarness(app, seed=3) as harness:
        assert await harness.call(add, "book", key="c-7") == 1
        harness.set_state(ITEMS, "c-7", ["book"])
        checkout = await harness.send(check_out, key="c-7")
        assert [each.id for each in harness.queue(carts, "c-7")] == [checkout.id]
        assert len(harness.tasks("payments")) == 1
        task = harness.next_task("payments")
        assert (task.topic, task.name, task.key, task.headers["tenant"]) == ("payments", "pay", b"c-7", "t-1")
        assert task.payload == task.payload_as(Bill).model_dump() == {"cart": "c-7", "cents": 100}
        began = harness.now
        await harness.advance(timedelta(hours=3))
        await harness.advance_to(began + timedelta(hours=4))
        await harness.crash()
        with pytest.raises(WrongAnswer):
            await task.resolve("yes")
        assert (await task.resolve(Payment(ok=True))).kind == "accepted"
        assert (await task.reject("too late")).kind == "conflict"
        assert await checkout.result() is True
        assert checkout.status == "completed"
        assert len(await checkout.journal()) > 3
        assert harness.state(ITEMS, "c-7") == ["book"]

        harness.on_task("pay", {"ok": False})
        assert await harness.call(check_out, key="c-8") is False
        harness.fail("charge", ConnectionError("once"))
        harness.replace("charge", lambda cents: f"pretended-{cents}")
        assert await harness.call(pay, 4) == "pretended-4"

        asked = await harness.send(ask)
        assert asked.waits == harness.waiting()
        await harness.reject(harness.waiting()[0].id, "no", code=403)
        with pytest.raises(TerminalError, match="no"):
            await asked.result()
        again = await harness.send(ask)
        await harness.resolve(again.waits[0].id, "ann")
        assert await again.result() == "ann"

        await harness.produce("orders", Bill(cart="c-1", cents=5), key="k")
        await harness.produce("orders", b"{")
        assert [await each.result() for each in harness.invocations(order)] == ["c-1"]
        assert [letter.code for letter in harness.dead_letters] == ["invalid"]
        assert harness.published[-1].topic == "audit"

        waiting, killed = await harness.send(forever), await harness.send(forever)
        await waiting.pause()
        await waiting.resume()
        await waiting.cancel()
        await killed.kill()
        with pytest.raises(Cancelled):
            await waiting.result()
        with pytest.raises(InvalidInput):
            await harness.send(nap, "soon")  # type: ignore[arg-type]
        assert harness.blocking.call(pay, 5) == "pretended-5"
        assert harness.describe() == harness.blocking.describe()


@pytest.mark.parametrize(
    ("awaited", "of"), [(AsyncHarness, Harness), (AsyncRunning, Running), (AsyncSentTask, SentTask)]
)
def test_both_forms_have_the_same_names(awaited: type, of: type) -> None:
    def public(names: type) -> set[str]:
        return {name for name in dir(names) if not name.startswith("_")}

    assert public(awaited) - {"blocking"} == public(of)


async def test_closing_waits_for_a_call_that_was_given_up_and_can_be_repeated() -> None:
    ended: list[int] = []

    def slow(cents: int) -> str:
        time.sleep(0.3)
        ended.append(cents)
        return "slow"

    harness = AsyncHarness(app)
    harness.replace("charge", slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(harness.call(pay, 5), 0.05)
    await harness.close()
    assert ended == [5]
    await harness.close()
    with pytest.raises(RuntimeError):
        await harness.call(pay, 6)
    harness = AsyncHarness(app)
    harness.blocking.close()
    await harness.close()


async def test_what_a_test_looks_at_does_not_change_while_it_is_read() -> None:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with AsyncHarness(app) as harness:
            sending = asyncio.gather(*(harness.send(forever) for _ in range(100)))
            while not sending.done():
                for running in harness.invocations():
                    assert running.status in ("pending", "running", "suspended")
                harness.waiting(), harness.tasks(), harness.queue(carts, "k"), harness.state(ITEMS, "k")
                harness.dead_letters, harness.published, harness.describe()
                await asyncio.sleep(0.001)
            assert len(harness.waiting()) == len(await sending) == 100
    finally:
        sys.setswitchinterval(interval_s)


caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_the_loop_of_the_test_goes_on_and_its_variables_are_seen() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    async def slow(cents: int) -> str:
        for _ in range(20):
            await asyncio.to_thread(lambda: None)
        return caller.get()

    beating = asyncio.ensure_future(beat())
    async with AsyncHarness(app) as harness:
        caller.set("ann")
        harness.replace("charge", slow)
        running = [await harness.send(pay, cents) for cents in range(20)]
        assert {await each.result() for each in running} == {"ann"}
    assert beats > 0
    beating.cancel()
