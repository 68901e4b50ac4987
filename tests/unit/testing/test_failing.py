"""A handler that fails: few tries, no noise, and the error itself."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from awakeables import Context, RetryPolicy, TerminalError
from awakeables.errors import HandlerMisuse
from awakeables.telemetry import events
from awakeables.testing import Paused, Run, Stuck, run


def paused(told: Run) -> Paused:
    assert told.status == "paused"
    with pytest.raises(Paused) as caught:
        _ = told.value
    return caught.value


def test_case_u5_a_handler_that_raises_is_tried_three_times_at_once() -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> None:
        calls.append(ctx.request.attempt)
        raise ValueError("no such order")

    told = run(handler)
    assert (calls, told.duration) == ([1, 2, 3], timedelta(0))
    error = paused(told)
    assert str(error) == "ValueError: no such order"
    assert isinstance(error.__cause__, ValueError)


def test_case_u5_what_the_test_gets_has_one_stack_which_begins_in_the_handler() -> None:
    def deeper() -> None:
        raise ValueError("no such order")

    async def handler(ctx: Context) -> None:
        deeper()

    error = paused(run(handler))
    assert [frame.name for frame in traceback.extract_tb(_cause(error).__traceback__)] == [
        "handler",
        "deeper",
    ]
    assert "".join(traceback.format_exception(error)).count("Traceback (most recent call last)") == 2


def test_case_u5_an_error_of_an_action_is_the_cause_too() -> None:
    def pay() -> None:
        raise ConnectionError("the bank is closed")

    async def handler(ctx: Context) -> None:
        await ctx.run("pay", pay)

    error = paused(run(handler))
    assert isinstance(error.__cause__, ConnectionError)
    assert traceback.extract_tb(error.__cause__.__traceback__)[-1].name == "pay"


def test_case_u5_a_misuse_is_reported_with_its_line() -> None:
    async def handler(ctx: Context) -> None:
        await ctx.sleep(5)  # type: ignore[arg-type]

    error = paused(run(handler))
    assert isinstance(error.__cause__, HandlerMisuse)
    assert traceback.extract_tb(error.__cause__.__traceback__)[0].name == "handler"


def test_case_u5_the_retries_of_the_service_are_a_parameter() -> None:
    calls: list[int] = []

    async def handler(ctx: Context) -> str:
        calls.append(1)
        if len(calls) < 10:
            raise ConnectionError("down")
        return "up"

    told = run(handler, retry=RetryPolicy())
    assert told.value == "up"
    assert told.duration > timedelta(minutes=1)


@pytest.fixture
def loud() -> Iterator[list[dict[str, Any]]]:
    """The log of a user who has configured structlog to keep everything."""
    kept: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        kept.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    yield kept
    structlog.configure(**before)


def test_case_u5_the_service_s_own_log_is_for_pytest_and_the_handler_s_for_its_author(
    loud: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ctx: Context) -> None:
        ctx.log.info(events.ATTEMPT_FAILED, mine=True)
        raise ValueError("no")

    with caplog.at_level(logging.INFO, logger="awakeables.testing"):
        run(handler)
    assert [line["mine"] for line in loud] == [True] * 3
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in told] == [*[events.ATTEMPT_FAILED] * 3, events.INVOCATION_PAUSED]
    assert "error=ValueError" in told[0]
    assert all("\n" not in line for line in told)


def test_nothing_of_the_log_s_configuration_is_changed(loud: list[dict[str, Any]]) -> None:
    before = list(structlog.get_config()["processors"])

    async def handler(ctx: Context) -> None:
        raise ValueError("no")

    run(handler)
    assert structlog.get_config()["processors"] == before
    with capture_logs() as captured:
        run(handler)
    assert captured == []


def test_a_handler_that_waits_for_asyncio_forever_is_stuck() -> None:
    async def handler(ctx: Context) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match="awaits something of asyncio's that never comes"):
        _ = run(handler).value


def test_a_handler_whose_name_is_taken_by_the_service_runs() -> None:
    async def send(ctx: Context) -> str:
        return "sent"

    assert run(send).value == "sent"


def test_a_terminal_error_is_not_a_failed_attempt() -> None:
    async def handler(ctx: Context) -> None:
        raise TerminalError("no", code=409)

    told = run(handler)
    assert told.status == "completed"


def _cause(error: BaseException) -> BaseException:
    assert error.__cause__ is not None
    return error.__cause__
