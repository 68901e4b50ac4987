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
            "*awakeables takes suspend=, thorough=, retry=, seed=, not sed*",
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
