"""How much goes into one batch, when what it is made of is not equally large."""

from __future__ import annotations

from collections.abc import Iterable


def beginning_of(chunks: Iterable[bytes], most_bytes: int) -> tuple[list[bytes], bool]:
    """Chunks until they have `most_bytes` together; and are these all?"""
    taken: list[bytes] = []
    left = most_bytes
    for chunk in chunks:
        if left <= 0:
            return taken, False
        taken.append(chunk)
        left -= len(chunk)
    return taken, True


def first_of(sized: Iterable[tuple[str, int]], limit: int) -> list[str]:
    """The first of these whose sizes come to `limit` at most; the very first in any case."""
    taken: list[str] = []
    total = 0
    for key, size in sized:
        total += size
        if taken and total > limit:
            break
        taken.append(key)
    return taken
