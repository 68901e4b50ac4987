"""How long ago something was, or is still to come, for people: `3 h 12 min`."""

from __future__ import annotations

from datetime import datetime
from typing import Final

UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Since:
    """Measures instants, as the service writes them, from one moment on."""

    def __init__(self, now_ms: int) -> None:
        self._now_s = now_ms / 1000

    def past(self, instant: str) -> str:
        """How long ago it was; `0 s` if it is still to come."""
        return spoken(-self._left_s(instant))

    def left(self, instant: str) -> str | None:
        """How long it is still to come; None: it has passed."""
        left_s = self._left_s(instant)
        return spoken(left_s) if left_s > 0 else None

    def _left_s(self, instant: str) -> float:
        return datetime.fromisoformat(instant).timestamp() - self._now_s


def spoken(seconds: float) -> str:
    """A time in its two largest units, without those that are 0; seconds only below a minute."""
    left = max(0, int(seconds))
    for place, (size, name) in enumerate(UNITS[:-1]):
        if left >= size:
            smaller, smaller_name = UNITS[place + 1]
            rest = left % size // smaller
            return f"{left // size} {name}" + (f" {rest} {smaller_name}" if rest and size > 60 else "")
    return f"{left} s"
