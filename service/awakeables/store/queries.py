"""Named queries from the `.sql` files of a store, with a line `-- name --` before each statement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load(package: str) -> Mapping[str, str]:
    """Load all queries in a package's `sql/`, by name; a name that is used twice is an error."""
    found: dict[str, str] = {}
    for file in sorted(files(package).joinpath("sql").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            for name, query in named(file.read_text(encoding="utf-8")).items():
                if name in found:
                    raise ValueError(f"{file.name}: there are two queries named {name!r}")
                found[name] = query
    return MappingProxyType(found)


def named(text: str) -> dict[str, str]:
    """Split the text of one file into named queries."""
    _, *parts = _NAME.split(text)
    return {name: query.strip() for name, query in zip(parts[::2], parts[1::2], strict=True)}


def migrations(package: str) -> list[str]:
    """The texts of a store's migrations; the first one makes schema version 1."""
    folder = files(package).joinpath("migrations")
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    return [file.read_text(encoding="utf-8") for file in found]
