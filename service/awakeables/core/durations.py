"""The durations that people write: in settings, over HTTP and on the command line."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

MAX_DURATION: Final = timedelta(days=365_250)
"""A thousand years: enough for "never", and still a valid date when it is added to the current time."""

FORMS: Final = "write it as 30 (seconds), 500ms, 10s, 2m, 1h30m, 7d or PT15M"

_N = r"(\d{1,20}(?:\.\d{1,9})?)"
_SECONDS = re.compile(_N, re.A)
_UNITS = re.compile(rf"(?:{_N}w)?(?:{_N}d)?(?:{_N}h)?(?:{_N}m(?!s))?(?:{_N}s)?(?:{_N}ms)?", re.A)
_ISO_8601 = re.compile(rf"P(?:{_N}W)?(?:{_N}D)?(?:T(?=\d)(?:{_N}H)?(?:{_N}M)?(?:{_N}S)?)?", re.A)
_PARTS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds")


def parse_duration(text: str) -> timedelta:
    """Read a duration: seconds, numbers with units, or ISO 8601 without years and months.

    Raises:
        ValueError: It has none of these forms, or is longer than `MAX_DURATION`. The message says how to
            write one, but does not show the text, which may be a misplaced secret.
    """
    if _SECONDS.fullmatch(text):
        text += "s"
    match = (_ISO_8601 if text.startswith("P") else _UNITS).fullmatch(text)
    parts = {
        unit: float(number)
        for unit, number in zip(_PARTS, match.groups() if match else (), strict=False)
        if number is not None
    }
    if not parts:
        raise ValueError(f"not a duration; {FORMS}")
    try:
        duration = timedelta(**parts)
    except OverflowError:
        duration = timedelta.max
    if duration > MAX_DURATION:
        raise ValueError(f"longer than {MAX_DURATION.days} days")
    return duration
