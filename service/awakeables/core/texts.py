"""What others have written, made fit to be kept and told in one line."""

from __future__ import annotations

MOST_CHARACTERS = 200


def writable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 can't say (file names have them)."""
    return text.encode("utf-8", "replace").decode()


def shortened(text: str) -> str:
    """The text, or its beginning and `…` if it is a long one."""
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
