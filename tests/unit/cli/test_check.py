"""`check`: what it prints, and when it exits with 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.console import console
from unit.cli.conftest import Run

BAD = """
import time
from awakeables import App, Context, Service

clocks = Service("clocks")

@clocks.handler()
async def read(ctx: Context) -> float:
    return time.time()

app = App("clocks", services=[clocks])
"""
BUILT = """
exec("async def built(ctx): ...")
clocks.handler()(built)
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "checked_clocks", raising=False)
    path = tmp_path / "checked_clocks.py"
    path.write_text(BAD)
    return path


def test_warnings_are_listed_by_file_and_line(run: Run, bad: Path) -> None:
    told = run("check", "checked_clocks:app")
    assert told.exit_code == 1
    warning = "checked_clocks.py:9: clock: time.time gives another time in each replay; use ctx.now()"
    assert told.stdout.splitlines() == [warning, "1 handler checked, 1 warning"]


def test_warnings_as_json_have_the_whole_path(run: Run, bad: Path) -> None:
    told = run("check", "checked_clocks:app", "--json")
    assert told.exit_code == 1
    text = "time.time gives another time in each replay; use ctx.now()"
    warning = {"file": str(bad), "line": 9, "rule": "clock", "text": text}
    assert json.loads(told.stdout) == {"handlers": 1, "warnings": [warning], "without_source": []}


def test_an_app_without_warnings_passes() -> None:
    told = console("check", "fulfilment:app")
    assert (told.returncode, told.stdout) == (0, "6 handlers checked, nothing found\n")


def test_a_handler_whose_source_is_not_found_is_named(run: Run, bad: Path) -> None:
    bad.write_text(BAD.replace("time.time()", "0.0") + BUILT)
    told = run("check", "checked_clocks:app")
    assert told.exit_code == 0
    assert told.stdout == "1 handler checked, nothing found\n"
    assert told.stderr == "note: clocks/built was not checked: its source was not found\n"


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (("shop:ap",), "'shop' has no App called 'ap'; it has: app", 1),
        (("shpo:app",), "no module 'shpo'", 1),
        (("shop",), "is not of the form MODULE:NAME", 1),
        ((), "Missing argument", 2),
        (("shop:app", "--jsn"), "No such option", 2),
    ],
)
def test_what_can_not_be_checked_is_an_error(words: tuple[str, ...], told: str, code: int) -> None:
    result = console("check", *words)
    assert result.returncode == code
    assert told in result.stderr
