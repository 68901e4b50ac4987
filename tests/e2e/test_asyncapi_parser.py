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


AUTHORED = ROOT / "schemas/asyncapi.json"
SERVED = {verdicts: asyncapi(app, version="1", verdicts=verdicts) for verdicts in (True, False)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the parser says of each document; it takes seconds to load, and so reads them all at once."""
    missing = "" if shutil.which("node") else "node is not installed"
    if not missing and not (PARSER / "node_modules").is_dir():
        missing = "the parser is not installed: `npm ci --prefix tests/asyncapi`"
    if missing and os.environ.get("REQUIRE_ASYNCAPI_PARSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("served")
    for verdicts, document in SERVED.items():
        (folder / f"{verdicts}.json").write_text(json.dumps(document))
    files = [AUTHORED, *(folder / f"{verdicts}.json" for verdicts in SERVED)]
    command = ["node", str(PARSER / "parse.js"), *map(str, files)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return {Path(file).stem: said for file, said in json.loads(answer.stdout).items()}


@pytest.mark.parametrize("verdicts", [True, False])
def test_case_w5_what_is_served_is_read_by_the_parser_of_asyncapi(
    verdicts: bool, told: dict[str, Any]
) -> None:
    read = told[str(verdicts)]
    assert (read["parsed"], read["said"]) == (True, [])
    messages = SERVED[verdicts]["components"]["messages"]
    assert sorted(read["messages"]) == sorted(name for name in messages if verdicts or name != "verdict")


def test_case_w5_what_is_authored_is_read_by_the_parser_of_asyncapi(told: dict[str, Any]) -> None:
    read = told[AUTHORED.stem]
    assert (read["parsed"], read["said"]) == (True, [])
