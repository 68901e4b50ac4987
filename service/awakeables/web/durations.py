"""Durations as people write them: 10s, 500ms, 1h30m, and ISO 8601's PT10S."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST = timedelta(days=3653)

_SHORT = re.compile(
    r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,12})ms)?", re.A
)
_ISO = re.compile(
    r"P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?()", re.A
)


def parse_duration(text: str) -> timedelta:
    """Read a duration.

    Raises:
        ValueError: It is none, or longer than ten years.
    """
    match = (_ISO if text.startswith("P") else _SHORT).fullmatch(text)
    parts = match.groups() if match else ()
    if not any(parts):
        raise ValueError(f"{text[:40]!r} is no duration; write it as 500ms, 10s, 2m, 1h, 1h30m, 7d or PT10S")
    days, hours, minutes, seconds, millis = (float(part or 0) for part in parts)
    duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=millis)
    if duration > LONGEST:
        raise ValueError(f"{text[:40]!r} is longer than {LONGEST.days} days")
    return duration
