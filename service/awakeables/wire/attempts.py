"""The attempt number in a record of a task or completion."""

from __future__ import annotations

from typing import Final

from awakeables.core.texts import excerpt

MAX_ATTEMPTS: Final = 999_999_999


def attempt_from(text: str) -> int:
    """Parse the attempt number in an attribute or header.

    Raises:
        ValueError: It is not a number, or it is too large.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"the attempt {excerpt(text)} is not a number")
    return int(text)
