"""Equality of two answers: numbers as written, keys in any order.

A repeated answer gets the verdict *duplicate*, a different one *conflict*. So the comparison must ignore
white space and the order of keys, must not take 1 for 1.0, and must not round 2⁶⁴ + 1. Of duplicate
keys the last one counts, as for every reader of the value.

It runs inside the transaction, which all writers wait for, so its cost is bounded: long values are
compared byte for byte.
"""

from __future__ import annotations

import json
from typing import Any

from awakeables.core.outcomes import Outcome, Rejection, Resolution

MAX_PARSED_BYTES = 64 * 1024
"""Longer JSON is not parsed to be compared; this much takes tens of milliseconds if it is all numbers."""


class _Number:
    """A JSON number, compared by its text; not equal to a string or to another spelling."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def same_answer(one: Outcome, other: Outcome) -> bool:
    """Have both the same status and the same value, or the same reason, code and details?"""
    match one, other:
        case Resolution(), Resolution():
            if one.is_json != other.is_json:
                return False
            return _same_json(one.content, other.content) if one.is_json else one.content == other.content
        case Rejection(), Rejection():
            return (
                one.reason == other.reason
                and one.code == other.code
                and _same_json(_text(one.details), _text(other.details))
            )
        case _:
            return False


def _text(details: Any) -> bytes:
    return b"null" if details is None or not details else bytes(details)


def _same_json(one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    return max(len(one), len(other)) <= MAX_PARSED_BYTES and _parse(one) == _parse(other)


def _parse(text: bytes) -> Any:
    return json.loads(text, parse_int=_Number, parse_float=_Number)
