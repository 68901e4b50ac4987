"""AsyncAPI's own parser reads what is served and what is authored (tests/asyncapi has it, locked)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from examples.shop import app

from awakeables.web.describing.asyncapi import asyncapi

ROOT = Path(__file__).parents[2]
PARSER = ROOT / "tests/asyncapi"


def parse(document: str, source: Path | None = None) -> Any:
    missing = "" if shutil.which("node") else "node is not installed"
    if not missing and not (PARSER / "node_modules").is_dir():
        missing = "the parser is not installed: `npm ci --prefix tests/asyncapi`"
    if missing and os.environ.get("REQUIRE_ASYNCAPI_PARSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    command = ["node", str(PARSER / "parse.js"), *([] if source is None else [str(source)])]
    told = subprocess.run(command, input=document, capture_output=True, text=True, check=True, timeout=100)
    return json.loads(told.stdout)


@pytest.mark.parametrize("verdicts", [True, False])
def test_case_w5_what_is_served_is_read_by_the_parser_of_asyncapi(verdicts: bool) -> None:
    served = asyncapi(app, version="1", verdicts=verdicts)
    told = parse(json.dumps(served))
    assert (told["parsed"], told["said"]) == (True, [])
    expected = [name for name in served["components"]["messages"] if verdicts or name != "verdict"]
    assert sorted(told["messages"]) == sorted(expected)


def test_case_w5_what_is_authored_is_read_by_the_parser_of_asyncapi() -> None:
    file = ROOT / "schemas/asyncapi.json"
    told = parse(file.read_text(), file)
    assert (told["parsed"], told["said"]) == (True, [])
