"""What a generator of clients makes of `/openapi.json`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from awakeables.web.describing.openapi import openapi
from unit.web.test_openapi_types import APP


def generated(document: Any, folder: Path) -> ModuleType:
    """The module that datamodel-code-generator makes; it fails on a reference that it can't follow."""
    given, made = folder / "openapi.json", folder / "generated_models.py"
    given.write_text(json.dumps(document))
    command = [sys.executable, "-W", "ignore", "-m", "datamodel_code_generator", "--input", str(given)]
    command += ["--input-file-type", "openapi", "--output", str(made), "--disable-timestamp"]
    command += ["--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin"]
    subprocess.run(command, check=True, timeout=100)
    spec = importlib.util.spec_from_file_location("generated_models", made)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["generated_models"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_case_u8_a_generator_of_clients_makes_every_type_of_the_handlers(tmp_path: Path) -> None:
    models = generated(openapi(APP, version="1"), tmp_path)
    line = {"sku": "s-1", "unit": "kilo"}
    ours, theirs = {"id": "o-1", "lines": [line]}, {"lines": [{"bytes_read": 1}]}
    assert models.Both.model_validate({"ours": ours, "theirs": theirs}).ours.lines[0].unit.value == "kilo"
    with pytest.raises(ValidationError):
        models.Both.model_validate({"ours": theirs, "theirs": ours})
    card = models.Payment.model_validate({"means": {"kind": "card", "number": "1"}}).means
    assert card.number == "1"
    tree = models.Tree.model_validate({"left": {}, "branches": [{"tree": {"left": {}}}]})
    assert tree.branches[0].tree.left.left is None
    assert models.PageOrder.model_validate({"items": [ours]}).items[0].id == "o-1"
