"""The authored contract: the source tree's folder `schemas/`, which is part of the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

Json = dict[str, Any]


def contract_text(name: str) -> str:
    """The text of a file of `schemas/`."""
    return (files("awakeables") / "schemas" / name).read_text(encoding="utf-8")


def contract(name: str) -> Json:
    """A file of `schemas/`, decoded; the caller may change its copy."""
    decoded: Json = json.loads(contract_text(name))
    return decoded
