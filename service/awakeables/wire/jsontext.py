"""JSON in records: what keeps a reader from it."""

from __future__ import annotations

from awakeables.core.bounds import has_more_json_values
from awakeables.core.jsontext import decode_json

MOST_VALUES = 1_000_000
"""How many values a record may hold, twice what fits 1 MiB: 100 MB and 0.4 s while they are built."""

TOO_MANY_VALUES = f"it holds more than {MOST_VALUES:,} values"


def has_too_many_values(text: bytes) -> bool:
    """Would it take too much to build the values of this?"""
    return has_more_json_values(text, MOST_VALUES)


def json_fault(text: bytes) -> str | None:
    """What keeps some reader from decoding this: bad UTF-8, NaN, nested too deep, too many values."""
    # Each value but the first takes a byte at least.
    if len(text) >= MOST_VALUES and has_too_many_values(text):
        return TOO_MANY_VALUES
    try:
        decode_json(text)
    except ValueError as error:
        return f"not JSON: {error}"
    return None
