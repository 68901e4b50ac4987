"""How a sealed value looks in a row, and one that can't be opened.

MAGIC | length of the key's ID, one byte | the key's ID | what the codec made of the value
MAGIC | 0                                | a clear value that happens to begin with MAGIC
"""

from __future__ import annotations

from typing import Final

from awakeables.core.outcomes import Rejection
from awakeables.core.records import text_from
from awakeables.errors import ValueSealed

MAGIC: Final = b"\x00awk\x93\x0d\x0a\x01"
"""No JSON text begins so, and no text: other clear values that do are marked as clear."""

MAX_KEY_ID_BYTES: Final = 255


class Unopened(bytes):
    """A stored value that can't be opened; it is written back as it is.

    Attributes:
        error: Why not.
    """

    error: ValueSealed


def unopened(stored: bytes, error: ValueSealed) -> Unopened:
    """Mark a stored value."""
    value = Unopened(stored)
    value.error = error
    return value


def wrapped(key_id: str, sealed: bytes) -> bytes:
    """A sealed value as it is stored.

    Raises:
        ValueError: The key's ID is empty or too long.
    """
    named = key_id.encode()
    if not 0 < len(named) <= MAX_KEY_ID_BYTES:
        raise ValueError(f"the ID of a key has 1 to {MAX_KEY_ID_BYTES} bytes, not {len(named)}")
    return b"%b%c%b%b" % (MAGIC, len(named), named, sealed)


def is_sealed(stored: bytes) -> bool:
    """Whether it has the form of a sealed value, or of a clear one that is marked."""
    return stored.startswith(MAGIC)


def unwrapped(stored: bytes) -> tuple[str, bytes]:
    """The key's ID, empty for a clear value, and the value of what begins with `MAGIC`."""
    start = len(MAGIC) + 1
    end = start + stored[start - 1]
    return stored[start:end].decode("utf-8", "replace"), stored[end:]


def marked_clear(value: bytes) -> bytes:
    """A clear value that begins with `MAGIC`, as it is stored."""
    return MAGIC + b"\0" + value


def raise_if_unopened(content: bytes | None) -> None:
    """Refuse to go on with a value that can't be opened.

    Raises:
        ValueSealed: It can't.
    """
    if isinstance(content, Unopened):
        raise content.error


def text_or_problem(content: bytes) -> str:
    """The text of a column, or why it can't be read."""
    return f"it can't be read: {content.error}" if isinstance(content, Unopened) else text_from(content)


def rejection_of(value: Unopened) -> Rejection:
    """What stands for an outcome that can't be read where it is only shown."""
    return Rejection(reason=f"it can't be read: {value.error}", code=500)
