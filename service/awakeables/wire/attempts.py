"""Which try of a task a record tells of."""

from __future__ import annotations

from typing import Final

from awakeables.core.texts import excerpt

MAX_ATTEMPTS: Final = 999_999_999


def attempt_from(text: str) -> int:
    """The number that an attribute or header has.

    Raises:
        ValueError: It is none, or a larger one than any task was tried.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"the attempt {excerpt(text)} is not a number")
    return int(text)
