"""JSON text as every reader of ours can decode it, and as it was written."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import from_json

from awakeables.core.texts import excerpt

MAX_NESTING = 200
"""How deep JSON may be nested: pydantic's own bound, so that its readers of types agree."""

_SHAPES = bytes.maketrans(b"123456789E", b"000000000e")
_EXPONENT, _MANTISSA = b"e000", b"0" * 200
"""A number that is beyond every double has an exponent of three digits, or a very long mantissa."""


def decode_json(text: bytes) -> Any:
    """JSON as Python values; integers of any size are kept exactly.

    Raises:
        ValueError: No JSON text (NaN, bad UTF-8 and lone surrogates are none), nested deeper than
            `MAX_NESTING`, or with a number that is beyond every double: readers make infinity of
            it, which can't be written again.
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


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"the number {excerpt(number)} is too large for a double")
    return value
