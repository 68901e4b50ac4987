"""Limits batches of items that differ in size."""

from __future__ import annotations

from collections.abc import Iterable


def beginning_of(chunks: Iterable[bytes], most_bytes: int) -> tuple[list[bytes], bool]:
    """The first chunks, up to the one that reaches `most_bytes`; and whether these are all."""
    taken: list[bytes] = []
    left = most_bytes
    for chunk in chunks:
        if left <= 0:
            return taken, False
        taken.append(chunk)
        left -= len(chunk)
    return taken, True


def first_of(sized: Iterable[tuple[str, int]], limit: int) -> list[str]:
    """The first keys whose sizes add up to at most `limit`; always at least one."""
    taken: list[str] = []
    total = 0
    for key, size in sized:
        total += size
        if taken and total > limit:
            break
        taken.append(key)
    return taken
