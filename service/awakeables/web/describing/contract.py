"""The authored contract, which is part of the package: the folder `schemas/` of the source tree."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

Json = dict[str, Any]


def contract_text(name: str) -> str:
    """The text of a file of `schemas/`."""
    return (files("awakeables") / "schemas" / name).read_text(encoding="utf-8")


def contract(name: str) -> Json:
    """A file of `schemas/`, decoded: a copy that the caller may change."""
    decoded: Json = json.loads(contract_text(name))
    return decoded
