"""The pytest plugin, as a project that has only installed the package sees it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

APP = """
from datetime import timedelta
import pytest
from awakeables import App, Context, Service

shop = Service("shop")

@shop.handler()
async def approve(ctx: Context, order: str) -> str:
    answer = ctx.awakeable(str, timeout=timedelta(days=3))
    ctx.publish("approvals", {"order": order}, awakeable=answer)
    return await answer

@pytest.fixture
def app() -> App:
    return App("shop", services=[shop])
"""

RUN = ("-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore")


def test_the_fixtures_serve_the_app_of_the_fixture_app(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APP
        + """
ids = []

@pytest.mark.parametrize("n", [1, 2])
def test_each_test_has_a_fresh_service(harness, n):
    running = harness.send(approve, "o-1")
    ids.append(running.id)
    assert len(harness.invocations()) == 1
    harness.next_task("approvals").resolve("yes")
    assert running.result() == "yes"

@pytest.mark.awakeables(seed=7, thorough=True)
def test_the_marker_says_how(harness):
    assert harness.send(approve, "o-1").id not in ids

@pytest.mark.asyncio
async def test_async(async_harness):
    running = await async_harness.send(approve, "o-1")
    await async_harness.next_task("approvals").resolve("yes")
    assert await running.result() == "yes"
"""
    )
    pytester.runpytest(*RUN, "--strict-markers").assert_outcomes(passed=4)


def test_the_most_specific_marker_wins(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APP
        + """
pytestmark = pytest.mark.awakeables(seed=1)
first = pytest.mark.parametrize("n", [pytest.param(0, marks=pytest.mark.awakeables(seed=4)), 1])
ids = {}

@pytest.fixture
def begun(harness):
    return harness.send(approve, "o-1").id

def test_module(begun): ids[1] = begun

@pytest.mark.awakeables(seed=2)
class TestOfAClass:
    def test_class(self, begun): ids[2] = begun

    @pytest.mark.awakeables(seed=3)
    def test_function(self, begun): ids[3] = begun

    @pytest.mark.awakeables(seed=3)
    @first
    def test_parameter(self, begun, n): ids[4 if n == 0 else 5] = begun

def test_end(harness):
    from awakeables.testing import Harness
    for number in (1, 2, 3, 4, 5):
        with Harness(App("shop", services=[shop]), seed={5: 3}.get(number, number)) as other:
            assert other.send(approve, "o-1").id == ids[number]
"""
    )
    pytester.runpytest(*RUN, "--strict-markers").assert_outcomes(passed=6)


def test_an_async_test_that_gives_up_a_call_ends_in_order(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APP
        + """
import asyncio, threading, time

@shop.handler()
async def pay(ctx: Context) -> int:
    return await ctx.run("pay", lambda: time.sleep(0.3) or 1)

@pytest.mark.asyncio
async def test_it(async_harness):
    await asyncio.wait_for(async_harness.call(pay), 0.05)

@pytest.mark.asyncio
async def test_closed(async_harness):
    await async_harness.close()

def test_no_thread_is_left():
    for each in threading.enumerate():
        if "awakeables" in each.name:
            each.join(timeout=10)
            assert not each.is_alive()
"""
    )
    result = pytester.runpytest(*RUN)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*TimeoutError*"])


def test_a_name_that_nothing_has_fails_a_test_that_did_not_fail_otherwise(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        APP
        + """
def test_it(harness):
    harness.replace("pay", int)

@pytest.mark.asyncio
async def test_async(async_harness):
    async_harness.on_task("aprovals", "yes")

def test_that_fails(harness):
    harness.replace("pay", int)
    assert False

def test_that_is_skipped(harness):
    harness.replace("pay", int)
    pytest.skip("today")
"""
    )
    result = pytester.runpytest(*RUN)
    result.assert_outcomes(passed=2, errors=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*was called for 'pay'*", "*for the answers to 'aprovals'*"])


def test_a_failure_shows_the_journal_and_what_has_happened(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APP
        + """
def test_it(harness):
    harness.send(approve, "o-1")
    assert False
"""
    )
    result = pytester.runpytest(*RUN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "* awakeables *",
            "2026-01-01T00:00:00*begun: shop/approve inv_*",
            "2026-01-01T00:00:00*published to 'approvals'*o-1*",
            "<shop/approve inv_*: suspended>",
            "*0  input of shop/approve",
            "*1  awakeable prom_*",
            "shop/approve waits for prom_*published to 'approvals'",
        ]
    )


def test_a_test_that_fails_before_or_after_itself_shows_it_too_and_only_once(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        APP
        + """
@pytest.fixture
def approved(harness):
    harness.send(approve, "o-1")
    raise LookupError

def test_before(approved): ...

def test_after(harness):
    harness.send(approve, "o-2")
    harness.replace("pay", int)

@pytest.mark.asyncio
async def test_awaited(async_harness):
    await async_harness.send(approve, "o-3")
    async_harness.replace("pay", int)

@pytest.fixture
def undone():
    yield
    raise LookupError

def test_both(harness, undone):
    harness.send(approve, "o-4")
    assert False

def test_that_passes(harness):
    harness.send(approve, "o-5")
"""
    )
    result = pytester.runpytest(*RUN)
    result.assert_outcomes(passed=3, errors=4, failed=1)
    published = [line for line in result.stdout.lines if "published to 'approvals': " in line]
    assert [line[-5:-2] for line in published] == ["o-1", "o-2", "o-3", "o-4"]
    assert result.stdout.str().count("- awakeables -") == 4


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def test_it(harness): ...", "*fixture 'app' not found*"),
        (
            "import pytest\n@pytest.fixture\ndef app(): return 5\ndef test_it(harness): ...",
            "*the fixture `app` returns builtins.int, not an awakeables.App*awakeables_app*",
        ),
        (
            APP + "@pytest.mark.awakeables(sed=7)\ndef test_it(harness): ...",
            "*awakeables takes suspend=, thorough=, retry=, seed=, functions=, not sed*",
        ),
        (APP + "@pytest.mark.awakeables(7)\ndef test_it(async_harness): ...", "*not 7*"),
    ],
)
def test_what_is_wrong_is_said(pytester: pytest.Pytester, code: str, message: str) -> None:
    pytester.makepyfile(code)
    result = pytester.runpytest(*RUN)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_another_fixture_may_give_the_app(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APP.replace("def app()", "def awakeables_app()")
        + "def test_it(harness): assert harness.send(approve, 'o-1').status == 'suspended'"
    )
    pytester.runpytest(*RUN).assert_outcomes(passed=1)


def test_a_run_that_does_not_use_it_does_not_import_the_package(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\ndef test_it():\n    assert 'awakeables_pytest' in sys.modules\n"
        "    assert 'awakeables' not in sys.modules\n"
    )
    pytester.runpytest_subprocess(*RUN).assert_outcomes(passed=1)
