"""Text from outside that is looked for, and that PostgreSQL can't even compare with a column of text."""

from __future__ import annotations


def storable(text: str) -> str | None:
    """The text as a parameter; None if no row can have it, because of a NUL or half a surrogate pair.

    Nothing equals NULL, so the same statement finds nothing.
    """
    if "\0" in text:
        return None
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return None
    return text
