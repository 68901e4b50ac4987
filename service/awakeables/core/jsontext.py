"""Strict JSON decoding: accepts only what every reader in this project can decode."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import from_json

from awakeables.core.bounds import has_more_json_values
from awakeables.core.texts import excerpt

MOST_VALUES = 1_000_000
"""Maximum number of values in a record, twice what fits 1 MiB: parsed, they take 100 MB and 0.4 s."""

TOO_MANY_VALUES = f"it holds more than {MOST_VALUES:,} values"

MAX_NESTING = 200
"""Maximum nesting of JSON: pydantic's own limit, so that validation by type agrees."""

_SHAPES = bytes.maketrans(b"123456789E", b"000000000e")
_EXPONENT, _MANTISSA = b"e000", b"0" * 200
"""A number too large for a double has an exponent of three digits, or a very long mantissa."""


def decode_json(text: bytes) -> Any:
    """Decode JSON to Python values; integers of any size are exact.

    Raises:
        ValueError: It is not JSON (NaN, invalid UTF-8 and lone surrogates are not), is nested deeper than
            `MAX_NESTING`, or has a number too large for a double, which readers would turn into
            infinity and could not write again.
    """
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        if str(error).startswith("recursion limit"):
            raise ValueError(f"nested deeper than {MAX_NESTING} levels") from None
        raise
    shapes = text.translate(_SHAPES, b"+")
    if _EXPONENT in shapes or _MANTISSA in shapes:
        json.loads(text, parse_float=_finite, parse_int=str)
    return value


def has_too_many_values(text: bytes) -> bool:
    """Whether this JSON has too many values to be parsed."""
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


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"the number {excerpt(number)} is too large for a double")
    return value
