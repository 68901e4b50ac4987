"""The code of docs/handlers.md is one module; it does what the page says."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from awakeables import Reject, TerminalError
from awakeables.testing import run
from support.ids import new_id

PAGE = Path(__file__).parents[3] / "docs/handlers.md"


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
    assert len(tests) == 6
    for test in tests:
        if inspect.iscoroutinefunction(test):
            asyncio.run(test())
        else:
            test()


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
