"""The store's queries, by name; in their texts `@name` stands for the text of that name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from awakeables.store.queries import load

_INCLUDED = re.compile(r"@([a-z_]+)")


def _included(queries: Mapping[str, str]) -> Mapping[str, str]:
    """The queries with the column lists that they name; `@after` is left for `writing.py`."""
    return MappingProxyType(
        {
            name: _INCLUDED.sub(lambda found: queries.get(found[1], found[0]), text)
            for name, text in queries.items()
        }
    )


QUERIES: Mapping[str, str] = _included(load(__package__))


def renumbered(text: str, by: int) -> str:
    """A fragment whose parameters `$1`, `$2`, … follow after `by` others."""
    return re.sub(r"\$(\d+)", lambda found: f"${int(found[1]) + by}", text)
