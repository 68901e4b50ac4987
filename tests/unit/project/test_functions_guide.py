"""The code of docs/functions.md works, and its tables are complete."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from awakeables.remote.functions import FAILURES, Functions
from awakeables.testing import Answer, run
from support.functions import PUBLIC, client_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/functions.md").read_text()


@pytest.fixture
def guide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    (tmp_path / "public.pem").write_text(PUBLIC)
    monkeypatch.setenv("ORDERS_KEY", str(tmp_path / "public.pem"))
    module = ModuleType("functions_guide")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile("\n".join(blocks), "docs/functions.md", "exec"), module.__dict__)
    return module


async def test_the_service_reads_what_the_function_has(guide: Any) -> None:
    functions = Functions(guide.app, client_of(guide.function))
    await functions.learn_all()
    await functions.close()
    assert guide.app.handler("orders", "fulfil").function is guide.remote_fulfil
    assert asyncio.iscoroutinefunction(guide.buy)


def test_the_handler_does_what_it_says(guide: Any) -> None:
    told = run(guide.fulfil, "o-1", answers={"approvals": Answer(value=True)})
    assert told.value == "o-1: approved"


def test_the_test_of_the_guide_passes(guide: Any) -> None:
    guide.test_all_of_a_basket_is_ordered()


def test_the_lambda_handler_asks_for_a_signature(guide: Any) -> None:
    event = {"requestContext": {"http": {"method": "GET"}}, "headers": {}}
    assert guide.handler(event, None)["statusCode"] == 401


def test_the_kinds_of_failures_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "service/awakeables/remote").glob("*.py"))
    kinds = set(re.findall(r'(?:kind=|FunctionFailed\(\s*)"(\w+)"', code))
    assert kinds
    assert kinds <= set(re.findall(r"`(\w+)`", PAGE)), kinds


def test_five_failures_are_what_the_page_says() -> None:
    assert FAILURES == 5
    assert "After five in a row" in PAGE


def test_the_example_of_both_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_text(PUBLIC)
    monkeypatch.setenv("QUOTES_KEY", str(tmp_path / "public.pem"))
    from examples.elsewhere import function

    quote = function.Quote(id="q-1", customer="Ada", value=20_000)
    told = run(function.offer, quote, on_wait=lambda waits: waits.resolve(True))
    assert told.value == {"quote": "q-1", "premium": 205, "state": "signed"}
    assert run(function.offer, quote).value["state"] == "expired"
