"""Checks of JSON in records, before it is decoded."""

from __future__ import annotations

from awakeables.core.bounds import has_more_json_values
from awakeables.core.jsontext import decode_json

MOST_VALUES = 1_000_000
"""Maximum number of values in a record, twice what fits 1 MiB: parsed, they take 100 MB and 0.4 s."""

TOO_MANY_VALUES = f"it holds more than {MOST_VALUES:,} values"


def has_too_many_values(text: bytes) -> bool:
    """Does this JSON have too many values to be parsed?"""
    return has_more_json_values(text, MOST_VALUES)


def json_fault(text: bytes) -> str | None:
    """Why some reader could not decode this: invalid UTF-8, NaN, nesting too deep, too many values."""
    # Each value but the first takes at least one byte.
    if len(text) >= MOST_VALUES and has_too_many_values(text):
        return TOO_MANY_VALUES
    try:
        decode_json(text)
    except ValueError as error:
        return f"not JSON: {error}"
    return None
