"""Pyright sees the types of handlers as mypy does: what must check, and what it must refuse."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
PYRIGHT = TESTS / "pyright/node_modules/.bin/pyright"


@pytest.fixture(scope="module")
def errors() -> dict[str, set[int]]:
    """The lines with an error, by file."""
    if not PYRIGHT.exists():
        if os.environ.get("REQUIRE_PYRIGHT"):
            pytest.fail("pyright is not installed: `npm ci --prefix tests/pyright`")
        pytest.skip("pyright is not installed: `npm ci --prefix tests/pyright`")
    command = [str(PYRIGHT), "--outputjson", "-p", str(TESTS / "pyright")]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    found: dict[str, set[int]] = {}
    report: dict[str, Any] = json.loads(told.stdout)
    assert report["summary"]["filesAnalyzed"] == 2, told.stdout
    for each in report["generalDiagnostics"]:
        found.setdefault(Path(each["file"]).name, set()).add(each["range"]["start"]["line"])
    return found


def test_what_must_check_does(errors: dict[str, set[int]]) -> None:
    assert errors.get("handler_types.py", set()) == set()


def test_planted_mistakes_are_refused(errors: dict[str, set[int]]) -> None:
    lines = (TESTS / "typing/refused.py").read_text().splitlines()
    planted = {number for number, line in enumerate(lines) if "# type: ignore" in line}
    assert len(planted) > 10
    assert errors["refused.py"] == planted
