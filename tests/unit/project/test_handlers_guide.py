"""The code of docs/handlers.md is one module; it does what the page says."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from awakeables import App, Context, KafkaRecord, Reject, Service, TerminalError
from awakeables.errors import InvalidInput
from awakeables.testing import Answer, Harness, run
from support.ids import new_id

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[3] / "docs/handlers.md"
EXAMPLES = PAGE.parents[1] / "examples"


@pytest.fixture(scope="module")
def guide() -> Iterator[Any]:
    module = ModuleType("handlers_guide")
    sys.modules[module.__name__] = module
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def test_its_tests_pass(guide: Any) -> None:
    tests = [value for name, value in vars(guide).items() if name.startswith("test_")]
    assert len(tests) == 16
    for test in tests:
        if inspect.iscoroutinefunction(test):
            asyncio.run(test())
        else:
            test()


def test_its_test_with_a_marker_passes(pytester: pytest.Pytester) -> None:
    """It is a file of its own, beside the module of the app."""
    (block,) = [
        each for each in re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL) if "mark." in each
    ]
    pytester.makepyfile(shop=(EXAMPLES / "shop.py").read_text(), test_shop=block)
    options = ("-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore", "--strict-markers")
    pytester.runpytest(*options).assert_outcomes(passed=1)


def test_the_table_of_the_harness_has_all_that_it_can_do() -> None:
    _, _, section = PAGE.read_text().partition("\n### A whole app, step by step\n")
    cells = re.findall(r"^\| (`.*?) \| ", section.partition("\n## ")[0], re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)[(`]", cell)}
    assert [name for name in dir(Harness) if not name.startswith("_") and name not in named] == []


def test_a_refused_claim_fails_as_it_says(guide: Any) -> None:
    told = run(
        guide.settle,
        guide.Claim(order="o-1", cents=1),
        answers={"approvals": lambda _: guide.Decision(verdict="refuse", by="Ann")},
    )
    with pytest.raises(TerminalError, match="Ann has refused") as caught:
        _ = told.value
    assert (caught.value.code, caught.value.details) == (409, {"order": "o-1"})


def test_an_undecided_claim_fails_after_three_days(guide: Any) -> None:
    told = run(guide.settle, guide.Claim(order="o-1", cents=1))
    with pytest.raises(TerminalError, match="nobody has decided within three days") as caught:
        _ = told.value
    assert caught.value.code == 408
    assert timedelta(days=3) <= told.duration < timedelta(days=3, hours=1)


def test_two_opinions_are_asked_for_at_once(guide: Any) -> None:
    def no(_: Any) -> str:
        raise Reject("no opinion")

    answers = {"finance-opinions": no, "support-opinions": lambda _: "pay"}
    told = run(guide.ask_both, guide.Claim(order="o-1", cents=1), answers=answers)
    assert told.value == ["none: no opinion", "pay"]
    assert run(guide.ask_both, guide.Claim(order="o-1", cents=1)).duration < timedelta(hours=9)


def test_what_is_held_is_released(guide: Any) -> None:
    told = run(guide.hold, guide.Claim(order="o-1", cents=1), answers={"holds": lambda _: "released"})
    assert told.value == "released"


def test_a_decision_for_an_awakeable_that_there_is_not_is_unknown(guide: Any) -> None:
    nobody_s = new_id("prom", at_ms=2_000_000_000_000, entropy=bytes(10))
    assert run(guide.decide, {"id": nobody_s, "by": "Ann"}).value == "unknown"


def test_calls_and_combinations_do_what_the_page_says(guide: Any) -> None:
    claims = [guide.Claim(order=f"o-{n}", cents=n) for n in (900, 2_000, 100)]
    decision = guide.Decision(verdict="pay", by="Ann")
    told = run(guide.settle_all, claims, answers={"approve": decision})
    assert [transfer[:14] for transfer in told.value] == ["transfer-o-900", "transfer-o-100"]
    refused = guide.Decision(verdict="refuse", by="Ann")
    told = run(guide.settle_all, claims[:1], answers={"approve": refused})
    assert told.value == []
    assert any("send refunds/tell_support" in line for line in told.journal)
    assert run(guide.pay_all, claims).value == 2


def test_claims_are_decided_beside_each_other(guide: Any) -> None:
    claims = [guide.Claim(order=f"o-{n}", cents=n) for n in range(12)]

    def approve(task: Any) -> Answer:
        verdict = "refuse" if task.payload["order"] == "o-3" else "pay"
        return Answer(guide.Decision(verdict=verdict, by="Ann"), after=timedelta(hours=1))

    told = run(guide.decide_all, claims, answers={"approve": approve})
    assert told.value[3] == "refused"
    assert all(decided.startswith(f"transfer-o-{n}-") for n, decided in enumerate(told.value) if n != 3)
    assert told.duration < timedelta(hours=2, seconds=1)


def test_a_reminder_goes_out_each_day_until_somebody_answers(guide: Any) -> None:
    claim = guide.Claim(order="o-1", cents=1)
    late = Answer(guide.Decision(verdict="pay", by="Ann"), after=timedelta(days=3, hours=1))
    told = run(guide.remind, claim, answers={"approve": late})
    assert told.value == "pay"
    assert [record.topic for record in told.published].count("reminders") == 3
    withdrawn = Answer("changed my mind", after=timedelta(hours=1))
    told = run(guide.remind, claim, answers={"withdraw": withdrawn})
    assert told.value == "withdrawn: changed my mind"


def play(scene: Any) -> Any:
    """Run a handler that calls those of the page, and return its result."""
    return run(Service("scenes").handler()(scene)).value


def test_a_cart_keeps_what_was_added_and_a_coupon_is_redeemed_once(guide: Any) -> None:
    async def shop(ctx: Context) -> list[Any]:
        items = [guide.Item(sku=f"s-{n}", cents=1_000) for n in range(3)]
        total = await ctx.call(guide.order_again, guide.Order(cart="c-7", items=items))
        await ctx.call(guide.redeem, "spring", key="c-7")
        try:
            await ctx.call(guide.redeem, "spring", key="c-7")
        except TerminalError as error:
            refused = error.reason
        other = await ctx.call(guide.total, key="c-8")
        return [total, refused, await ctx.call(guide.total, key="c-7"), other]

    assert play(shop) == [3_000, "spring was redeemed for cart c-7 before", 2_500, 0]


def test_a_cart_is_checked_out_while_a_shared_handler_answers(guide: Any) -> None:
    async def shop(ctx: Context) -> list[Any]:
        await ctx.call(guide.add, guide.Item(sku="s", cents=1_000), key="c-7")
        transfer = ctx.call(guide.check_out, key="c-7")
        added = ctx.call(guide.add, guide.Item(sku="t", cents=1), key="c-7")  # queued behind it
        await ctx.sleep(timedelta(minutes=1))
        during = await ctx.call(guide.total, key="c-7")
        kind = await ctx.call(guide.paid, "t-1", key="c-7")
        return [during, kind, await transfer, await added]

    assert play(shop) == [1_000, "accepted", "t-1", 1]


def test_a_returned_parcel_is_paid_once_however_often_it_is_reported(guide: Any) -> None:
    record = KafkaRecord(topic="returned-parcels", value=b'{"order": "o-1", "cents": 1}', offset=7)
    result = run(guide.returned, record=record, answers={"approve": guide.Decision(verdict="pay", by="Ann")})
    assert result.value is None
    assert any("send refunds/settle" in line for line in result.journal)


def test_a_scan_goes_to_the_cart_that_its_header_names(guide: Any) -> None:
    content = b'{"sku": "book", "cents": 900}'
    record = KafkaRecord(topic="scans", value=content, headers=[("cart", b"c-7")])
    assert run(guide.scan, record=record).state == {"items": [{"sku": "book", "cents": 900}]}
    with pytest.raises(InvalidInput, match="key function raised KeyError: 'cart'"):
        run(guide.scan, record=KafkaRecord(topic="scans", value=content))
    subscribed = guide.app.subscribed()
    assert subscribed.keys() == {"refunds.returned", "scans", "addresses"}
    assert subscribed["scans"].subscription.max_open == 1_000


def test_a_trip_that_nobody_confirms_is_undone_from_its_end(
    guide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("book_flight", "cancel_flight", "book_hotel", "cancel_hotel"):
        monkeypatch.setattr(guide, name, partial(_note, done, name))
    told = run(guide.book, guide.Trip(id="t-1", flight="f", hotel="h"))
    with pytest.raises(TerminalError) as caught:
        _ = told.value
    assert caught.value.code == 408
    assert done == ["book_flight", "book_hotel", "cancel_hotel", "cancel_flight"]


def _note(done: list[str], name: str, _trip: Any) -> None:
    done.append(name)


def test_a_check_out_that_nobody_pays_keeps_the_cart(guide: Any) -> None:
    async def shop(ctx: Context) -> list[Any]:
        await ctx.call(guide.add, guide.Item(sku="s", cents=1_000), key="c-7")
        [unpaid] = await ctx.gather(ctx.call(guide.check_out, key="c-7"), return_exceptions=True)
        [late] = await ctx.gather(ctx.call(guide.paid, "t-1", key="c-7"), return_exceptions=True)
        return [unpaid.code, late.reason, await ctx.call(guide.total, key="c-7")]

    assert play(shop) == [408, "cart c-7 is not being checked out", 1_000]


def test_carts_are_merged_unless_they_wait_for_each_other(guide: Any) -> None:
    async def shop(ctx: Context) -> list[Any]:
        for key in ("a", "b"):
            await ctx.call(guide.add, guide.Item(sku=key, cents=1), key=key)
        both = [ctx.call(guide.merge, "b", key="a"), ctx.call(guide.merge, "a", key="b")]
        ends = await ctx.gather(*both, return_exceptions=True)
        [itself] = await ctx.gather(ctx.call(guide.merge, "a", key="a"), return_exceptions=True)
        return [sorted(end if isinstance(end, int) else end.code for end in ends), itself.reason]

    assert play(shop) == [[2, 409], "deadlock: carts/a would wait for itself"]


def test_a_sign_up_is_signalled_and_asked_while_it_waits_and_afterwards(guide: Any) -> None:
    async def sign_up(ctx: Context) -> list[Any]:
        too_early = await ctx.gather(ctx.call(guide.clicked, key="ann"), return_exceptions=True)
        run_ = ctx.send(guide.signup, "ann@example.com", key="ann")
        await ctx.sleep(timedelta(hours=1))
        seen = [await ctx.call(guide.progress, key="ann")]
        joined, other = (ctx.call(guide.signup, f"{name}@example.com", key="ann") for name in ("ann", "bob"))
        kinds = [
            await ctx.call(handler, key="ann") for handler in (guide.clicked, guide.clicked, guide.disowned)
        ]
        seen.append(await ctx.call(guide.progress, key="ann"))
        [refused] = await ctx.gather(other, return_exceptions=True)
        return [too_early[0].code, seen, kinds, await run_, await joined, refused.code]

    verdicts = ["accepted", "duplicate", "conflict"]
    assert play(sign_up) == [404, ["mailed", "verified"], verdicts, True, True, 422]


def test_a_sign_up_that_is_disowned_fails_and_one_that_is_given_up_takes_no_click(guide: Any) -> None:
    async def sign_up(ctx: Context) -> list[Any]:
        disowned = ctx.send(guide.signup, "ann@example.com", key="ann")
        await ctx.call(guide.disowned, key="ann")
        [failed] = await ctx.gather(disowned, return_exceptions=True)
        given_up = await ctx.call(guide.signup, "bob@example.com", key="bob")
        return [failed.code, given_up, await ctx.call(guide.clicked, key="bob")]

    assert play(sign_up) == [403, False, "late"]


def test_a_report_is_of_the_day_before_its_tick(guide: Any) -> None:
    tick = datetime(2026, 11, 30, 5, tzinfo=UTC)
    assert run(guide.daily, guide.Scope(region="EU"), scheduled_at=tick).value == "EU-2026-11-29.pdf"


def test_schedules_begin_their_handlers_at_their_ticks(guide: Any) -> None:
    app = App("guide", services=[guide.reports, guide.ledgers])
    assert list(app.scheduled()) == [
        "reports.daily",
        "reports.usage",
        "reports.usage-nightly",
        "ledgers.close_up",
    ]
    with Harness(app) as harness:
        harness.advance_to(datetime(2026, 1, 5, 6, 30, tzinfo=UTC))  # a Monday
        reports = [each.result() for each in harness.invocations(guide.daily)]
        assert reports == [f"EU-{day}.pdf" for day in ("2025-12-31", "2026-01-01", "2026-01-04")]
        begun = len(harness.invocations(guide.close_up))
        harness.advance(timedelta(hours=1))
        assert len(harness.invocations(guide.close_up)) == begun + 6
        (_, *_) = harness.tasks("usage-counts")


def test_a_changed_handler_publishes_before_its_wait(guide: Any) -> None:
    decision = guide.Decision(verdict="pay", by="Ann")
    told = run(guide.announce, "o-1", on_wait=lambda wait: wait.resolve(decision))
    assert told.value == "pay"
    assert told.journal[1] == "version of 'wording': 2"
    assert [record.payload for record in told.published] == ["Order o-1 is being refunded."]


def test_both_versions_of_a_rewritten_handler_close_an_order(guide: Any) -> None:
    assert run(guide.close_at_first, "o-1").value == "o-1 is closed"
    told = run(guide.close, "o-1", answers={"objections": "no"})
    assert told.value == "o-1 stays open: no"
    handlers = guide.refunds.versions["close"]
    assert [handlers[version].function for version in (1, 2)] == [guide.close_at_first, guide.close]
